"""Latents and text features: encoded, or read back from a cache that knows what it was made from."""

import pytest
import small_datasets as datasets
import torch
from torch import nn

from lgvi_core.errors import InputError
from lgvi_core.models.autoencoder import autoencoder_from_config
from train import config as configs
from train.data import mixing
from train.data.cache import Cache

KL = {
    "kind": "autoencoder_kl", "block_out_channels": [8, 8], "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 4, "latent_channels": 2, "scaling_factor": 0.5,
}  # fmt: skip


class Words(nn.Module):
    """Stands for a text encoder: features that depend on its weights and the letters; counts what it encodes."""

    config = {"kind": "letters"}

    def __init__(self):
        super().__init__()
        self.letters = nn.Embedding(128, 4)
        self.encoded = []

    def encode(self, sentences):
        self.encoded += sentences
        return torch.stack([self.letters(torch.tensor([ord(c) for c in f"{s:20.20}"])) for s in sentences])


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return autoencoder_from_config(KL).eval(), Words()


@pytest.fixture
def folder(tmp_path):
    return datasets.triplets(tmp_path / "data", clips=2)


def config(folder, cache, steps=3, **more):
    values = {
        "output": "unused", "steps": steps, "workers": 0, "cache": cache and str(cache), "watch": {"data": "mine"},
        "data": {"mine": {"kind": "triplets", "root": str(folder), "flip": True}},
        "batches": [{"data": "mine", "frames": 5, "size": 2, "width": 32, "height": 32}], **more,
    }  # fmt: skip
    return configs.build(configs.TrainConfig, values)


def run(settings, parts):
    """All latents of a run, the batches, and the cache."""
    cache = Cache(settings.cache, *parts, settings)
    found, batches = [], []
    for batch in mixing.loader(settings, 0):
        generators = [torch.Generator().manual_seed(100 * batch["step"] + int(p)) for p in batch["positions"]]
        found.append(cache.latents(batch, generators))
        batches.append(batch)
    return found, batches, cache


def test_latents_are_what_the_autoencoder_draws(folder, parts):
    settings = config(folder, None, steps=1)
    ((condition, clean),), (batch,), _ = run(settings, parts)
    assert condition.shape == clean.shape == (2, 2, 5, 16, 16)
    pixels = batch["clean"][1].permute(0, 3, 1, 2) / 127.5 - 1
    mean, deviation = parts[0].moments(pixels)
    noise = torch.randn(2, 5, 2, 16, 16, generator=torch.Generator().manual_seed(int(batch["positions"][1])))
    torch.testing.assert_close(clean[1].transpose(0, 1), mean + deviation * noise[1], rtol=1e-4, atol=1e-5)


def test_moments_agree_with_encode(parts):
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    for autoencoder in (parts[0], autoencoder_from_config({"kind": "space_to_depth", "factor": 4})):
        mean, deviation = autoencoder.moments(pixels)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
        drawn = autoencoder.encode(pixels, torch.Generator().manual_seed(1))
        torch.testing.assert_close(mean + deviation * noise, drawn)


def test_a_lossless_autoencoder_gives_latents_without_draws(folder):
    autoencoder = autoencoder_from_config({"kind": "space_to_depth", "factor": 4})
    ((condition, _),), (batch,), _ = run(config(folder, None, steps=1), (autoencoder, Words()))
    wanted = autoencoder.encode(batch["frames"][0].permute(0, 3, 1, 2) / 127.5 - 1)
    torch.testing.assert_close(condition[0].transpose(0, 1), wanted)


def test_cached_latents_are_the_same_again_and_no_pixels_are_decoded_for_them(folder, parts, tmp_path):
    settings = config(folder, tmp_path / "cache", steps=4)
    first, _, _ = run(settings, parts)
    again, batches, _ = run(settings, parts)
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other))
    assert "frames" in batches[0] and "moments" not in batches[0]  # the first step is shown as pictures
    assert all("frames" not in batch and "mask" in batch for batch in batches[1:])
    fresh, _, _ = run(config(folder, None, steps=4), parts)
    for one, other in zip(first, fresh, strict=True):
        for a, b in zip(one, other):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_a_changed_picture_is_noticed_and_encoded_again(folder, parts, tmp_path, caplog):
    settings = config(folder, tmp_path / "cache")
    run(settings, parts)
    datasets.pictures(folder / "0/frames", datasets.clip(1).frames)
    changed, _, _ = run(settings, parts)
    assert "0/frames/00000.png 32x32" in caplog.text and "has changed" in caplog.text
    fresh, _, _ = run(config(folder, tmp_path / "other"), parts)
    for one, other in zip(changed, fresh, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other))


def test_a_cache_of_another_autoencoder_or_text_encoder_is_refused_by_name(folder, parts, tmp_path):
    settings = config(folder, tmp_path / "cache")
    run(settings, parts)
    autoencoder, words = parts
    with pytest.raises(InputError, match="made with another text encoder"):
        Cache(settings.cache, autoencoder, Words(), settings)
    Cache(settings.cache, autoencoder, Words(), config(folder, tmp_path / "cache", train_text_encoder=True))
    nn.init.zeros_(autoencoder.vae.encoder.conv_in.bias)
    with pytest.raises(InputError, match=f"the cache {tmp_path / 'cache'} was made with another autoencoder"):
        Cache(settings.cache, autoencoder, words, settings)


def test_a_damaged_file_of_the_cache_is_named(folder, parts, tmp_path):
    settings = config(folder, tmp_path / "cache")
    run(settings, parts)
    for path in (tmp_path / "cache" / "latents").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="is damaged: delete it"):
        run(settings, parts)


def test_sentences_are_encoded_once(folder, parts, tmp_path):
    settings = config(folder, tmp_path / "cache")
    batch = {"sentence": ["remove it", "remove it", "erase it"]}
    first = Cache(settings.cache, *parts, settings).text(batch)
    assert parts[1].encoded == ["remove it", "erase it"] and not first.requires_grad
    assert torch.equal(Cache(settings.cache, *parts, settings).text(batch), first)
    assert len(parts[1].encoded) == 2
    torch.testing.assert_close(first, Cache(None, *parts, settings).text(batch), rtol=1e-3, atol=1e-3)
    trained = config(folder, None, train_text_encoder=True)
    assert Cache(None, *parts, trained).text(batch) is None
