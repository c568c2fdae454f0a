"""Training to fill: motion blocks alone, over what the mask leaves to see; exact resume; what cannot be is refused."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pytest
import torch
from small_networks import small_clip
from test_cococo_checkpoints import CONFIG, write_diffusers
from test_ldm import small_parts
from test_train_resume import assert_same, content
from tiny_training import DEMO

from lgvi_core import checkpoints
from lgvi_core.errors import InputError
from lgvi_core.inpaint import DEMO as LGVI_DEMO
from lgvi_core.models import InflatedUNet
from train import cococo, evaluate, model
from train import config as configs
from train.data import mixing
from train.objectives import Objective

CONFIGS = DEMO.parent
CPU = torch.device("cpu")
TINY = [
    "unet.block_out_channels=[8, 8, 8, 8]",
    "unet.norm_num_groups=2",
    "unet.attention_head_dim=2",
    "text_encoder.hidden_size=16",
    "text_encoder.intermediate_size=16",
    "text_encoder.num_hidden_layers=1",
    "text_encoder.num_attention_heads=2",
    "text_encoder.projection_dim=16",
    "tokenizer_sentences=50",
    "tokenizer_merges=20",
    "workers=0",
    "precision=fp32",
    "optimizer.warmup_steps=0",
    "watch.samples=2",
    "watch.tensorboard=false",
    "watch.log_every=1",
    "training_size={width: 32, height: 32, frames: 4}",
    "data.held_out={kind: synthetic_fill, held_out: true, width: 32, height: 32}",
    "batches=[{data: fill, frames: 4, size: 2, width: 32, height: 32}]",
    "steps=4",
    "trainable=''",
    "optimizer.groups=[]",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The base of images that the motion blocks stand on, untrained."""
    path = tmp_path_factory.mktemp("base") / "checkpoint.safetensors"
    config = configs.load(CONFIGS / "fill-base.yaml", TINY)
    parts = model.build(config)
    checkpoints.save(model.checkpoint_of(parts.model, parts.autoencoder, config), path, dtype=torch.float16)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A dataset of kind `instances`: two videos of eight frames with a detector's boxes."""
    root = tmp_path_factory.mktemp("videos")
    lines = []
    for name, colour in (("one", (200, 40, 40)), ("two", (40, 40, 200))):
        (root / name).mkdir()
        for t in range(8):
            frame = np.full((32, 32, 3), 90, np.uint8)
            frame[10:18, 4 + t : 12 + t] = colour
            cv2.imwrite(str(root / name / f"{t}.png"), frame)
        boxes = {t: [[4 + t, 10, 8, 8, "box", 0.9]] for t in range(8)}
        (root / f"{name}.json").write_text(json.dumps(boxes))
        lines.append(json.dumps({"video": name, "detections": f"{name}.json", "caption": "a box that moves"}))
    (root / "instances.jsonl").write_text("\n".join(lines))
    return root


def overrides(images, folder, *more):
    return [*TINY, f"initialise={images}", f"output={folder}", *more]


def load(images, *more):
    config = configs.load(CONFIGS / "fill-demo.yaml", overrides(images, "unused", *more))
    return cococo.motion_blocks_alone(config)


def train(*options):
    return cococo.main(["--config", str(CONFIGS / "fill-demo.yaml"), "--device", "cpu", *options])


def test_only_motion_blocks_learn_from_videos_of_ones_own(images, videos, tmp_path):
    kind = f"kind: instances, root: '{videos}', cut_threshold: 0.0"
    shape = "frames: 4, size: 2, width: 32, height: 32, sampling: stride, stride: 2"
    own = [
        f"data={{own: {{{kind}}}, random: {{{kind}, regions: random}}}}",
        f"batches=[{{data: own, share: 0.7, {shape}}}, {{data: random, share: 0.2, {shape}}}]",
        "watch.data=own",
        "watch.sample_every=4",
        "dropout.text=0.1",
        "ema_decay=null",
    ]
    assert train(*overrides(images, tmp_path, *own)) == 0
    before, after = checkpoints.load(images), checkpoints.load(tmp_path / "checkpoint.safetensors")
    assert after.family == "cococo" and after.config.motion_attention == ("temporal", "temporal", "global", "text")
    old, new = before.unet.state_dict(), after.unet.state_dict()
    assert all(torch.equal(new[name], value) for name, value in old.items())
    added = {name for name in new if name not in old}
    assert added and all("motion_modules." in name for name in added)
    learnt = [name for name in added if name.endswith("proj_out.weight")]
    assert learnt and all(new[name].any() for name in learnt)
    text = before.text_encoder.model.state_dict()
    assert all(torch.equal(value, text[name]) for name, value in after.text_encoder.model.state_dict().items())
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (held,) = (line["held_out"] for line in lines if "held_out" in line)
    assert "psnr_inside" in held and "mask_iou" not in held


def test_the_papers_config_runs_on_small_parts(videos, tmp_path):
    base, motion = write_diffusers(tmp_path / "base", small_parts()), tmp_path / "motion.ckpt"
    shape = dataclasses.replace(CONFIG, motion_attention=("temporal", "temporal"))
    torch.save({name: 0.1 * value for name, value in InflatedUNet(shape).state_dict().items()}, motion)
    shape = "frames: 2, size: 2, micro: 1, width: 32, height: 32, sampling: stride, stride: 4"
    options = [
        *(f"data.{name}.root={videos}" for name in ("instances", "random", "held-out")),
        *(f"data.{name}.cut_threshold=0.0" for name in ("instances", "random", "held-out")),
        "data.held-out.split=train",
        f"batches=[{{data: instances, share: 0.7, {shape}}}, {{data: random, share: 0.2, {shape}}}]",
        "training_size={width: 32, height: 32, frames: 2}",
        "sampling.steps=1",
        "watch={data: held-out, samples: 1, sample_every: 2, tensorboard: false}",
    ]
    small = [f"initialise={base}", f"initialise_motion={motion}", f"output={tmp_path / 'run'}", "steps=2", "workers=0"]
    assert cococo.main(["--config", str(CONFIGS / "cococo.yaml"), "--device", "cpu", *small, *options]) == 0
    made = checkpoints.load(tmp_path / "run" / "checkpoint.safetensors")
    assert made.scheduler_config["beta_schedule"] == "linear" and made.sampling["guidance_scale"] == 14.0
    assert made.config == CONFIG


def test_a_run_that_broke_off_goes_on_bit_for_bit(images, tmp_path, monkeypatch):
    each_step = ["steps=3", "saving.steps=1", "saving.keep_last=2", "watch.samples=0"]
    assert train(*overrides(images, tmp_path / "whole", *each_step)) == 0
    broken = overrides(images, tmp_path / "broken", *each_step)
    call = Objective.__call__

    def failing(self, model, batch, seed, step):
        if step == 2:
            raise OSError("the disk is gone")
        return call(self, model, batch, seed, step)

    monkeypatch.setattr(Objective, "__call__", failing)
    assert train(*broken) == 1
    monkeypatch.undo()
    assert train(*broken) == 0
    assert_same(content(tmp_path / "broken"), content(tmp_path / "whole"))


class Ear(torch.nn.Module):
    """In a model's place: keeps what it is given, predicts zeros."""

    def forward(self, noisy, timesteps, text, inputs, labels, with_mask):
        self.inputs, self.with_mask = inputs, with_mask
        return torch.zeros_like(noisy), None, None


def heard(config, batch):
    ear = Ear()
    losses = Objective(config, model.build(config), CPU)(ear, batch, config.seed, 0)
    return ear, losses


def first(config):
    return next(iter(mixing.loader(config, 0)))


def test_under_the_mask_the_masked_video_is_grey(images):
    config = load(images)
    batch = first(config)
    one, _ = heard(config, dict(batch))
    frames = torch.where(batch["mask"][..., None], 255 - batch["frames"], batch["frames"])
    other, _ = heard(config, {**batch, "frames": frames})
    assert torch.equal(one.inputs["masked_video"], other.inputs["masked_video"])
    video = torch.nn.functional.pixel_shuffle(one.inputs["masked_video"].transpose(1, 2), 2).permute(0, 1, 3, 4, 2)
    assert batch["mask"].any() and not video[batch["mask"]].any()
    assert (video[~batch["mask"]] != 0).float().mean() > 0.9
    mask = one.inputs["mask"]
    assert mask.shape == (2, 1, 4, 16, 16) and set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(mask[:, 0].bool(), batch["mask"][:, :, ::2, ::2]) and not one.with_mask


def test_the_losses_inside_are_of_the_mask_that_is_given(images):
    config = load(images, "loss={diffusion: 1.0, inside: 1.0, mask: 0.0, decibel: 1.0}")
    batch = first(config)
    batch["mask"] = torch.zeros_like(batch["mask"])
    batch["mask"][:, :, 8:16, 4:12] = True
    batch["clean"] = torch.full_like(batch["clean"], 128)  # nearly zero: predicted right
    _, right = heard(config, batch)
    batch["clean"][:, :, 8:16, 4:12] = 255
    _, wrong = heard(config, batch)
    scale = (2.0 * 1.0) ** 2  # the latents' scale times white
    assert right.parts["inside"] < 1e-3 and wrong.parts["inside"].item() == pytest.approx(scale * 64 / 1024, rel=1e-3)
    assert wrong.parts["decibel"].item() == pytest.approx(np.log(scale + 3e-3), rel=1e-3)
    batch["mask"] = torch.roll(batch["mask"], 16, dims=3)
    _, elsewhere = heard(config, batch)
    assert elsewhere.parts["inside"] < 1e-3 and elsewhere.parts["diffusion"] == wrong.parts["diffusion"]


def test_dropped_words_are_the_empty_prompt_and_the_video_stays(images):
    config = load(images, "dropout={text: 1.0, both: 0.0, video: 0.0}")
    ear, _ = heard(config, first(config))
    assert ear.inputs["masked_video"].any()


@pytest.mark.parametrize(
    "change, complaint",
    [
        ("cache=here", "another masked video each time: set cache=null"),
        ("dropout.video=0.1", "dropout.video=0"),
        ("loss.mask=0.1", "loss.mask is not 0, but this U-Net has no mask decoder"),
        ("unet.motion_attention=[temporal, everywhere]", "motion_attention is"),
        ("trainable=nothing", "matches none"),
    ],
)
def test_a_config_that_cannot_train_this_family_is_refused(images, tmp_path, change, complaint, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--check"]):
        assert train(*overrides(images, tmp_path, change), *more) == 2
        assert complaint in caplog.text
        caplog.clear()
    assert not (tmp_path / "here").exists()


def test_the_recipe_trains_motion_blocks_unless_the_config_says_otherwise(images):
    assert load(images).trainable == cococo.MOTION
    assert load(images, "trainable=conv_in").trainable == "conv_in"
    assert load(images, "lora={rank: 2}").trainable == ""
    config = configs.load(CONFIGS / "fill-base.yaml", TINY)
    assert cococo.motion_blocks_alone(config) is config
    with pytest.raises(InputError, match=r"takes no mask.*train\.lgvi"):
        load(LGVI_DEMO)
    with pytest.raises(InputError, match="the U-Net of the config takes no mask"):
        cococo.motion_blocks_alone(configs.load(DEMO))
    assert load("nowhere").trainable == cococo.MOTION  # said with all else that is absent, later


def test_a_check_says_what_such_a_run_takes(images, tmp_path, capsys):
    assert train("--check", *overrides(images, tmp_path / "run")) == 0
    said = capsys.readouterr().out
    assert "new: motion_modules" in said and "time, from timed passes" in said
    trained, frozen = (float(number) for number in re.search(r"parameters: (.+) M train, (.+) M of", said).groups())
    assert 0 < trained < frozen
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_fills_is_judged_with_the_mask_it_is_given(images, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip").mkdir()
    small_clip(tmp_path / "clip")
    data = ["--data", str(videos), "cut_threshold=0.0", "--frames", "2", "--clip", "clip"]
    assert evaluate.main(["--checkpoint", str(images), "--method", "telea", *data, "--steps", "1"]) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    given, raw, telea = report["rows"]
    assert [given["composited"], raw["composited"]] == ["the given mask", "no"] and report["samples"] == 2
    for row in (given, raw):
        assert {"psnr_mask", "bp", "tc", "clip_score"} <= row.keys()
        assert not {"mask_iou", "removed", "psnr_mask_input"} & row.keys()
    assert "removed" not in telea
    assert given["bp"] <= raw["bp"] and given["psnr"] > 10
    assert "asked for: it rises" in (tmp_path / "evaluation.md").read_text()
