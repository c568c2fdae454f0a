"""Training: configs, batches, objective, and a run that is interrupted and goes on as if it had not been."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from train import config as configs
from train import lgvi, state
from train.config import Batches, LossWeights
from train.data import labels, mixing
from train.data.synthetic import draw
from train.objectives import add_noise, draw_timesteps, losses, target
from train.tokenizer import train_clip_tokenizer

SHIPPED = sorted((Path(lgvi.__file__).parent / "configs").glob("*.yaml"))
TINY = [
    "unet.block_out_channels=[16, 16, 16, 16]",
    "unet.norm_num_groups=4",
    "unet.mask_channels=8",
    "unet.attention_head_dim=2",
    "text_encoder.hidden_size=16",
    "text_encoder.intermediate_size=16",
    "text_encoder.num_hidden_layers=1",
    "text_encoder.num_attention_heads=2",
    "text_encoder.projection_dim=16",
    "tokenizer_sentences=50",
    "tokenizer_merges=20",
    "recognition.cells=8",
    "batches=[{frames: 1, size: 4, pixels: 32, end: 2}, {frames: 2, size: 2, pixels: 32, start: 1}]",
    "workers=0",
    "precision=fp32",
    "warmup_steps=2",
    "log_every=1",
    "sample_every=1000",
    "steps=4",
]


def tiny(folder: Path, *more: str) -> configs.TrainConfig:
    return configs.load(SHIPPED[0], [*TINY, f"output={folder}", *more])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_builds_and_takes_a_step(path, tmp_path):
    assert path.read_text().startswith(f"# python -m train.lgvi --config train/configs/{path.name}\n")
    small = [f"output={tmp_path}", "tokenizer_sentences=100", "workers=0", "precision=fp32"]
    config = configs.load(path, [*small, "batches=[{frames: 2, size: 1, share: 1.0, pixels: 32}]"])
    model, autoencoder = lgvi.build(config)
    alphas = lgvi.noise_schedule(config.scheduler)
    batch = next(iter(mixing.loader(1, config.batches, 0, 1, 0, False, config.recognition.cells)))
    parts = lgvi.training_step(0, batch, model, autoencoder, alphas, config, torch.device("cpu"))
    parts["total"].backward()
    assert all(torch.isfinite(value) for value in parts.values())
    assert model.unet.conv_out.weight.grad.abs().sum() > 0
    assert model.text_encoder.model.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "override, complaint",
    [
        ("learning_rat=1", "did you mean learning_rate"),
        ("loss.masks=1", "did you mean loss.mask"),
        ("steps=soon", "steps is 'soon'"),
        ("steps=0", "steps is 0"),
        ("precision=int8", "'int8'"),
        ("batches=[]", "batches"),
        ("batches=[{frames: 1, size: 1, start: 3}]", "no kind of batch is in use at step 0"),
        ("batches=[{frames: 1, size: 1, end: 3}]", "no kind of batch is in use at step 3"),
        ("batches=[{frame: 1, size: 1, share: 1}]", "did you mean batches\\[0\\].frames"),
        ("noisiest=2", "noisiest is 2"),
        ("steps", "key=value"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(override, complaint):
    with pytest.raises(InputError, match=complaint):
        configs.load(SHIPPED[0], [override])


def test_a_config_that_is_not_there_or_no_yaml_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        configs.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match="no valid YAML"):
        configs.load(tmp_path / "bad.yaml")


def test_batches_depend_on_seed_and_step_alone():
    kinds = (Batches(1, 2, pixels=32), Batches(3, 2, pixels=32, start=4))
    whole = list(mixing.Schedule(3, kinds, 0, 12))
    assert list(mixing.Schedule(3, kinds, 7, 12)) == whole[7:]
    assert {kind for step in whole[:4] for kind, _ in step} == {0}  # images first
    assert {kind for step in whole for kind, _ in step} == {0, 1}
    assert len({key for step in whole for key in step}) == 24
    batch = next(iter(mixing.loader(3, kinds, 0, 1, 0, False)))
    assert batch["frames"].dtype == torch.uint8 and batch["mask"].dtype == torch.bool
    assert batch["frames"].shape == batch["clean"].shape and len(batch["sentence"]) == 2


def test_noise_and_targets_invert():
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 3, 1, 4, 4), torch.randn(2, 3, 1, 4, 4)
    alphas = torch.tensor([0.9, 0.5, 0.0])
    steps = torch.tensor([1, 2])
    noisy = add_noise(clean, noise, steps, alphas)
    torch.testing.assert_close(noisy[1], noise[1])  # zero terminal SNR: nothing of the clip is left
    velocity = target("v_prediction", clean, noise, steps, alphas)
    torch.testing.assert_close(0.5**0.5 * noisy[0] - 0.5**0.5 * velocity[0], clean[0])
    drawn = draw_timesteps(4000, 10, 0.5, generator)
    assert abs((drawn == 9).float().mean() - 0.55) < 0.03 and drawn.min() == 0


def test_the_loss_has_its_parts():
    mask = torch.zeros(1, 1, 1, 8, 8)
    mask[..., :4, :4] = 1
    wanted = torch.zeros(1, 12, 1, 4, 4)
    prediction = wanted.clone()
    prediction[..., :2, :2] = 1  # wrong inside the mask alone
    weights = LossWeights(diffusion=1, inside=1, mask=1, dice=1)
    found = losses(prediction, wanted, mask.clone(), mask, weights)
    assert found["diffusion"] == pytest.approx(0.25) and found["inside"] == pytest.approx(0.25)
    assert found["mask"] < 1e-5 and found["dice"] < 1e-5
    missed = losses(prediction, wanted, torch.zeros_like(mask), mask, weights)
    assert missed["inside"] == 0 and missed["mask"] > 1 and missed["dice"] > 0.9
    assert missed["total"] == pytest.approx(float(sum(missed[n] for n in ("diffusion", "inside", "mask", "dice"))))


def test_a_run_ends_in_a_checkpoint_and_a_log(tmp_path):
    path = lgvi.train(tiny(tmp_path / "run", "sample_every=4"), torch.device("cpu"))
    loaded = checkpoints.load(path)
    assert loaded.config.gate and loaded.training == {"width": 64, "height": 64, "frames": 8}
    assert loaded.scheduler_config["prediction_type"] == "sample" and loaded.licence == "Apache-2.0"
    records = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "total" in record] == [0, 1, 2, 3]
    assert "correct" in records[-1]["validation"]
    assert (path.parent / "log.png").stat().st_size and (path.parent / "samples-000004.png").stat().st_size


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    whole = lgvi.train(tiny(tmp_path / "whole"), torch.device("cpu"))
    step = lgvi.training_step

    def interrupted(number, *arguments):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(number, *arguments)

    monkeypatch.setattr(lgvi, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lgvi.train(tiny(tmp_path / "parts"), torch.device("cpu"))
    monkeypatch.setattr(lgvi, "training_step", step)
    parts = lgvi.train(tiny(tmp_path / "parts"), torch.device("cpu"))
    assert parts.read_bytes() == whole.read_bytes()


def test_time_up_saves_and_the_same_command_goes_on(tmp_path):
    assert lgvi.train(tiny(tmp_path, "max_minutes=0.0"), torch.device("cpu")) is None
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 1
    assert lgvi.train(tiny(tmp_path), torch.device("cpu")) is not None


def test_a_failed_save_leaves_the_state_before_it(tmp_path, monkeypatch):
    lgvi.train(tiny(tmp_path, "max_minutes=0.0"), torch.device("cpu"))
    before = (tmp_path / "state.pt").read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.torch, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        lgvi.train(tiny(tmp_path), torch.device("cpu"))
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_state_of_another_config_is_refused(tmp_path):
    lgvi.train(tiny(tmp_path, "max_minutes=0.0"), torch.device("cpu"))
    with pytest.raises(InputError, match="another config"):
        lgvi.train(tiny(tmp_path, "unet.block_out_channels=[16, 16, 16, 32]"), torch.device("cpu"))


def test_labels_say_what_each_object_is_and_where_it_stands():
    clip = draw(3, 1, 4, augment=True, kind="position")
    owners, facts = labels.owners(clip, 16), labels.facts(clip)
    assert owners.shape == (4, 16, 16) and set(np.unique(owners)) == {labels.UNKNOWN, *range(len(clip.objects))}
    for i, drawn in enumerate(clip.objects):
        shape, color, size = facts[i, :3]
        assert facts[i, -1] == (i in clip.targets)
        named = labels.SHAPES[shape], labels.COLORS[color], labels.SIZES[size]
        assert named == (drawn.shape, drawn.color, drawn.size)
        for t in range(4):
            x, y = (drawn.centers(4)[t] / 4).astype(int)
            assert owners[t, y, x] == i
    centers = np.stack([drawn.centers(4) for drawn in clip.objects])
    places = facts[: len(clip.objects), 3 : 3 + labels.PLACES]
    among_all = places.reshape(-1, len(labels.SHARED), 4)[:, 0]  # rivals share nothing
    for i, sides in enumerate(among_all):
        others = np.delete(centers, i, axis=0)
        for side, (axis, sign) in enumerate(((0, -1), (0, 1), (1, -1), (1, 1))):
            lead = sign * (centers[i] - others)[..., axis]
            behind = (-lead).min(1).max() > 5
            expected = 1 if lead.min() > 5 else 0 if behind else labels.UNKNOWN
            assert sides[side] == expected
    assert (facts[len(clip.objects) :] == labels.UNKNOWN).all()


@pytest.mark.parametrize(
    "sentence, named",
    [
        ("Please remove the tiny violet ball on the left side.", {"small", "purple", "circle", "left"}),
        ("get rid of all diamond-shaped ones and the big white box", {"diamond", "large", "white", "square"}),
        ("erase everything but the topmost plus signs", {"top", "cross"}),
        ("", set()),
    ],
)
def test_labels_say_what_a_sentence_mentions(sentence, named):
    assert {name for name, there in zip(labels.MENTIONS, labels.mentions(sentence)) if there} == named


def test_labels_say_which_looks_of_an_object_the_sentence_names():
    clip = draw(3, 2, 1, kind="attributes")
    said = labels.mentions(clip.sentence)
    named = dict(zip(labels.MENTIONS, said))
    flags = labels.facts(clip)[: len(clip.objects), -4:-1]
    for drawn, row in zip(clip.objects, flags):
        for flag, (name, values) in zip(row, labels.LOOKS.items()):
            known = any(named[value] for value in values)
            assert flag == (named[getattr(drawn, name)] if known else labels.UNKNOWN)


def test_recognition_teaches_the_blocks_it_watches_and_no_others():
    config = tiny(Path("unused"), "recognition.blocks=[down_blocks.1]")
    model, autoencoder = lgvi.build(config)
    batch = next(iter(mixing.loader(1, config.batches, 0, 1, 0, False, config.recognition.cells)))
    step = (model, autoencoder, lgvi.noise_schedule(config.scheduler), config, torch.device("cpu"))
    lgvi.training_step(0, batch, *step)["recognition"].backward()
    assert model.unet.down_blocks[0].resnets[0].conv1.weight.grad.abs().sum() > 0
    assert model.unet.down_blocks[2].resnets[0].conv1.weight.grad is None
    assert not any(module._forward_hooks for module in model.unet.modules())


@pytest.mark.parametrize("block", ["down_blocks", "mid_block.0", "up_blocks.4"])
def test_recognition_refuses_a_block_that_is_not_there(block):
    with pytest.raises(InputError, match="recognition.blocks names"):
        tiny(Path("unused"), f"recognition.blocks=[{block}]")


def test_a_loss_that_is_nan_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match="at step"):
        lgvi.train(tiny(tmp_path, "learning_rate=1.0e+30", "warmup_steps=0"), torch.device("cpu"))


def test_the_command_line_reports_a_mistake_with_exit_code_2(tmp_path):
    assert lgvi.main(["--config", str(SHIPPED[0]), "stepz=3"]) == 2
    assert lgvi.main(["--config", str(tmp_path / "none.yaml")]) == 2


def test_the_tokenizer_knows_its_words_and_takes_any_text():
    from lgvi_core.models.text_encoder import TextEncoder

    files = train_clip_tokenizer(["Remove the red circle, please", "erase the blue square"] * 3, 60)
    size = len(json.loads(files["vocab.json"]))
    special = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = TextEncoder(
        {"vocab_size": size, "max_position_embeddings": 20, "projection_dim": 16, **shape, **special}, files
    )
    assert encoder.length("REMOVE the red circle") == 6  # four words between start and end
    for text in ("", "übermäßig 猫 🙂", "x" * 300):
        ids = encoder.tokenize([text])
        assert ids.shape == (1, 20) and ids.max() < size and encoder(ids).isfinite().all()


def test_validation_counts_what_is_right(tmp_path):
    from train.samples import Validation

    validation = Validation(0, torch.device("cpu"), clips=6, frames=2)
    assert validation.clips[0].sentence == draw(1, 0, 2, held_out=True).sentence
    perfect = validation._measure([clip.clean for clip in validation.clips], [clip.mask for clip in validation.clips])
    assert perfect["correct"] == 1 and perfect["mask_iou"] == 1 and perfect["damaged"] == 0
    nothing = validation._measure(
        [clip.frames for clip in validation.clips], [clip.mask & False for clip in validation.clips]
    )
    assert nothing["correct"] == 0 and nothing["mask_iou"] == 0
