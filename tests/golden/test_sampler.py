"""Six steps of each scheduler, and the decoded video, equal the public pipeline's."""

import json

import pytest
import torch

from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.models.autoencoder import StableDiffusionAutoencoder
from lgvi_core.sampling import denoise, make_scheduler


@pytest.fixture(scope="module")
def run(golden):
    tensors, metadata = golden.tensors("lgvi_sampler.safetensors")
    shapes = json.loads((golden.folder / "lgvi_unet_additive_condition.json").read_text())["state_dict"]
    unet = InflatedUNet(UNetConfig.from_public(json.loads(metadata["unet_config"]))).eval()
    unet.load_state_dict(golden.weights(shapes))

    def run(name, **options):
        denoised = denoise(
            unet,
            tensors["latents"],
            tensors["prompt_embeds"],
            torch.zeros_like(tensors["prompt_embeds"]),
            tensors["img_condition"],
            make_scheduler(name, json.loads(metadata["scheduler_config"])),
            int(metadata["steps"]),
            float(metadata["guidance_scale"]),
            float(metadata["image_guidance_scale"]),
            **options,
        )
        return denoised.latents, tensors[f"{name}.out.latents"]

    return run


@pytest.fixture(scope="module")
def vae(golden):
    vae = StableDiffusionAutoencoder(json.loads(golden.tensors("lgvi_sampler.safetensors")[1]["vae_config"])).eval()
    vae.vae.load_state_dict(golden.weights({name: value.shape for name, value in vae.vae.state_dict().items()}))
    return vae


def error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("name", ["ddim", "pndm", "euler"])
def test_latents_and_video_equal_the_public_pipeline(run, vae, golden, name):
    latents, theirs = run(name, batch_passes=True)
    assert error(latents, theirs) < 1e-3
    with torch.no_grad():
        pixels = vae.decode(latents.transpose(1, 2).flatten(0, 1))
    video = (pixels / 2 + 0.5).clamp(0, 1).unflatten(0, (1, -1)).transpose(1, 2)
    assert error(video, golden.tensors("lgvi_sampler.safetensors")[0][f"{name}.out.video"]) < 1e-3


def test_passes_one_by_one_give_the_same(run):
    ours, theirs = run("ddim", batch_passes=False)
    assert error(ours, theirs) < 1e-3
