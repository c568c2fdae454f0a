"""The shipped configs: each says its command, and what it would do is found without its data, weights and GPU."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from small_llava import small_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, LlavaConfig, LlavaForConditionalGeneration

from lgvi_core import checkpoints
from lgvi_core.checkpoints.cococo import MOTION
from lgvi_core.errors import InputError
from lgvi_core.mask_shapes import SHAPES
from lgvi_core.models import InflatedUNet, UNetConfig
from train import check, footprint, model
from train import config as configs
from train.cococo import motion_blocks_alone
from train.data import mixing
from train.objectives import Objective
from train.tokenizer import train_clip_tokenizer

FOLDER = Path(configs.__file__).parent / "configs"
SHIPPED = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))
ABLATIONS = [name for name in SHIPPED if name.startswith("ablations/") and name != "ablations/images.yaml"]
FILLS = [name for name in SHIPPED if name.startswith(("fill-", "cococo", "vivid"))]
FILL_ABLATIONS = [name for name in FILLS if name.startswith("cococo-ablations/")]
PAPER = ["lgvi-rovi.yaml", "lgvi-rovi-24gb.yaml"]
SMALL = [
    "unet.block_out_channels=[16, 16, 16, 16]",
    "unet.norm_num_groups=4",
    "unet.mask_channels=8",
    "unet.mask_norm_groups=4",
    "text_encoder.hidden_size=16",
    "text_encoder.intermediate_size=16",
    "text_encoder.num_hidden_layers=1",
    "tokenizer_sentences=50",
    "tokenizer_merges=20",
    "workers=0",
]
SD_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
SD_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def test_every_config_is_among_these():
    assert {"demo.yaml", "lgvi-rovi.yaml", "lgvi-rovi-24gb.yaml", "lgvi-lora.yaml"} <= set(SHIPPED)
    assert {"fill-base.yaml", "fill-demo.yaml", "cococo.yaml", "cococo-24gb.yaml", "vivid.yaml"} <= set(FILLS)
    assert len(ABLATIONS) == len(FILL_ABLATIONS) == 5


@pytest.mark.parametrize("name", SHIPPED)
def test_every_config_opens_with_its_command_and_loads(name):
    text = (FOLDER / name).read_text("utf-8")
    recipe = "cococo" if name in FILLS else "lgvi"
    assert text.startswith(f"# python -m train.{recipe} --config train/configs/{name}\n")
    config = configs.load(FOLDER / name)
    assert config.output.startswith("out/") and sum(check.expected_steps(config)) == pytest.approx(config.steps)


def test_a_config_extends_another_key_by_key(tmp_path):
    base = {"output": "a", "steps": 3, "batches": [{"frames": 1, "size": 1}], "loss": {"mask": 0.5, "dice": 0.5}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "sub").mkdir()
    child = tmp_path / "sub" / "child.yaml"
    child.write_text("extends: ../base.yaml\nsteps: 4\nloss: {dice: 0.25}\nbatches: [{frames: 2, size: 6}]\n")
    config = configs.load(child, ["loss.inside=1.0"])
    assert (config.output, config.steps) == ("a", 4) and [b.size for b in config.batches] == [6]
    assert (config.loss.mask, config.loss.dice, config.loss.inside) == (0.5, 0.25, 1.0)
    (tmp_path / "base.yaml").write_text("extends: sub/child.yaml\n")
    with pytest.raises(InputError, match="extends itself"):
        configs.load(child)
    child.write_text("extends: nowhere.yaml\n")
    with pytest.raises(InputError, match="nowhere.yaml does not exist"):
        configs.load(child)


def write_part(folder, config, values, stem="diffusion_pytorch_model"):
    """A part in diffusers' layout; its weights as of `write_hole`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_hole(folder / f"{stem}.safetensors", values)


def write_hole(path, values):
    """A file whose weights are all hole: a header, and a length that takes no room on the disk."""
    header, end = {}, 0
    for name, value in values.items():
        start, end = end, end + 2 * value.numel()
        header[name] = {"dtype": "F16", "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """Folders of the size of MagicBrush ("magicbrush"), the public LGVI ("lgvi") and Stable Diffusion for inpainting
    ("inpainting"), and AnimateDiff's motion modules ("motion.safetensors"), all without values."""
    root = tmp_path_factory.mktemp("full")
    files = train_clip_tokenizer(["Remove the red circle, please"] * 3, 20)
    text_config = CLIPTextConfig(**SD_TEXT, vocab_size=49408)
    with torch.device("meta"):
        flat = UNet2DConditionModel(in_channels=8, cross_attention_dim=768, sample_size=64)
        inflated = InflatedUNet(UNetConfig(in_channels=8))
        inpainting = UNet2DConditionModel(in_channels=9, cross_attention_dim=768, sample_size=64)
        motion = InflatedUNet(UNetConfig(motion_attention=("temporal", "temporal"))).state_dict()
        vae, text = AutoencoderKL(**SD_VAE), CLIPTextModel(text_config)
    write_hole(root / "motion.safetensors", {name: value for name, value in motion.items() if "motion_modules" in name})
    unets = {"magicbrush": (dict(flat.config), flat), "lgvi": (inflated.config.to_dict(), inflated)}
    unets["inpainting"] = (dict(inpainting.config), inpainting)
    for name, (config, unet) in unets.items():
        write_part(root / name / "unet", config, unet.state_dict())
        write_part(root / name / "vae", SD_VAE, vae.state_dict())
        names = (key for key in text.state_dict() if "position_ids" not in key)
        weights = {key: text.state_dict()[key] for key in names}
        write_part(root / name / "text_encoder", text_config.to_dict(), weights, "model")
        (root / name / "tokenizer").mkdir()
        for file, content in files.items():
            (root / name / "tokenizer" / file).write_text(content)
    return root


@pytest.fixture(scope="module")
def triplets(tmp_path_factory):
    """A folder of two clips of 24 frames."""
    root = tmp_path_factory.mktemp("triplets")
    lines = []
    for clip in ("one", "two"):
        for t in range(24):
            for part, value in (("video", 90), ("mask", 255), ("clean", 120)):
                (root / clip / part).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / clip / part / f"{t:03d}.png"), np.full((20, 32, 3), value, np.uint8))
        places = {part: f"{clip}/{part}" for part in ("video", "mask", "clean")}
        lines.append(json.dumps({**places, "caption": "remove the bird"}))
    (root / "captions.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture
def large_machine(monkeypatch):
    monkeypatch.setattr(check.psutil, "virtual_memory", lambda: SimpleNamespace(available=80e9))
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=500e9))


def dry_run(name, start, triplets, *more):
    config = configs.load(FOLDER / name)
    data = ", ".join(f"{source}: {{kind: triplets, root: '{triplets}'}}" for source in config.data)
    overrides = [f"initialise={start}", f"data={{{data}}}", "optimizer.kind=adamw", *more]
    return "\n".join(check.run(configs.load(FOLDER / name, overrides), "cpu"))


def test_the_papers_run_is_the_papers(full_size, triplets, large_machine):
    found = dry_run("lgvi-rovi.yaml", full_size / "magicbrush", triplets)
    config = configs.load(FOLDER / "lgvi-rovi.yaml")
    videos, images = config.batches
    steps, image_steps = check.expected_steps(config)
    assert (videos.frames, videos.width, videos.height, videos.size, images.size) == (24, 512, 320, 32, 768)
    assert steps == pytest.approx(50 * (9091 - 758) / 32, abs=1) and steps == pytest.approx(3 * image_steps)
    assert "933.6" in found.replace(",", "")  # all of the U-Net trains
    assert "at 3e-05, constant" in found and "'mask_decoder': 24.49 M" in found and "at 0.0001, cosine" in found
    assert "InstructPix2Pix" in found and "new: attn_temp (16 times), norm_temp (16 times), mask_decoder" in found
    assert "A100" in found


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """A folder of the size of LLaVA-1.5-7B without values, and a tokenizer of few words."""
    folder = tmp_path_factory.mktemp("llava")
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096},
        vision_config={"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **vision},
    )
    with torch.device("meta"):
        write_hole(folder / "model.safetensors", LlavaForConditionalGeneration(config).state_dict())
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (folder / "tokenizer.model").write_bytes(small_tokenizer())
    return folder


def test_lgvi_is_run_trains_what_the_papers_did(full_size, llava, triplets, large_machine):
    found = dry_run("lgvi-i.yaml", full_size / "lgvi", triplets, f"request_encoder.base={llava}")
    config = configs.load(FOLDER / "lgvi-i.yaml")
    assert (config.loss.diffusion, config.loss.mask, config.request_encoder.language) == (1.0, 0.001, 0.1)
    assert [batch.size for batch in config.batches] == [32, 768] and config.optimizer.learning_rate == 3e-5
    parts = 32064 * 4096 + (1024 + 4096 + 2) * 4096 + 4096 * (4096 + 1) + 4096 * 768  # embedding, projector, head
    assert f"'request_encoder': {parts / 1e6:,.2f} M at 0.0001, constant" in found
    assert "request encoder: LLaVA of" in found and "M of U-Net and language model are frozen" in found


def test_24_gb_are_enough_for_the_config_that_says_so(full_size, large_machine):
    path, start = FOLDER / "lgvi-rovi-24gb.yaml", f"initialise={full_size / 'magicbrush'}"
    config = configs.load(path, [start])
    parts = model.build(config, weights=False)
    kinds = check.kinds_of(config, parts, 1)

    def gigabytes(*changes):
        run = check.Run(configs.load(path, [start, *changes]), parts, torch.device("cpu"), 1, kinds)
        return float(next(check.memory(run)).split()[2])

    assert 15 < gigabytes() < 18  # as the config's comment says
    assert gigabytes() + 3.6 < gigabytes("ema_decay=0.999") < gigabytes("optimizer.kind=adamw") < 24


@pytest.fixture(scope="module")
def instances(tmp_path_factory):
    """Two videos of 64 frames with boxes, and one more that is held out."""
    root = tmp_path_factory.mktemp("instances")
    lines = []
    for number, split in enumerate(("train", "train", "test")):
        (root / f"video{number}").mkdir()
        for t in range(64):
            cv2.imwrite(str(root / f"video{number}" / f"{t:03d}.png"), np.full((16, 24, 3), 90, np.uint8))
        boxes = {t: [[4, 4, 8, 8, "dog", 0.9]] for t in range(64)}
        (root / f"video{number}.json").write_text(json.dumps(boxes))
        lines.append(json.dumps({"video": f"video{number}", "detections": f"video{number}.json", "split": split}))
    (root / "instances.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture(scope="module")
def cococo_shards(full_size, tmp_path_factory):
    """CoCoCo's four shards, without values, in one folder with what they stand on."""
    root = tmp_path_factory.mktemp("shards")
    with torch.device("meta"):
        config = UNetConfig(in_channels=9, motion_attention=MOTION, temp_attn=False, mask_decoder_type=None)
        values = InflatedUNet(config).state_dict()
    for number in range(4):
        write_hole(root / f"model_{number}.safetensors", dict(list(values.items())[number::4]))
    (root / "base").symlink_to(full_size / "inpainting")
    return root


def test_vivids_run_is_the_papers(cococo_shards, instances, large_machine):
    start = [f"initialise={cococo_shards}", *(f"data.{name}.root={instances}" for name in ("images", "videos"))]
    start += [f"data.held-out={{kind: instances, root: '{instances}', split: test}}", "optimizer.kind=adamw"]
    config = motion_blocks_alone(configs.load(FOLDER / "vivid.yaml", start))
    found = "\n".join(check.run(config, "cpu"))
    images, videos = config.batches
    assert (images.frames, images.share) == (1, 10 * videos.share) and videos.frames == 16
    assert all((batch.width, batch.height) == (720, 480) for batch in config.batches)
    assert config.keyframes.probability == 0.5 and not config.keyframes.anywhere
    assert config.lora.rank == 32 and config.trainable == ""
    for name in ("images", "videos"):
        assert config.data[name]["deletion"] == 0.25 and set(config.data[name]["shapes"]) == set(SHAPES)
    assert "data.images: 3 samples" in found and "CoCoCo's shards over base" in found
    trained = float(found.split("parameters: ")[1].split(" M")[0])
    assert 5 < trained < 80
    needed = float(found.split("memory, estimated: ")[1].split()[0])
    assert 14 < needed < 16  # as the config's comment says


def fill_config(name, full_size, root, *more):
    config = configs.load(FOLDER / name)
    data = [f"data.{source}.root={root}" for source in config.data]
    start = [f"initialise={full_size / 'inpainting'}", f"initialise_motion={full_size / 'motion.safetensors'}"]
    return motion_blocks_alone(configs.load(FOLDER / name, [*start, *data, "optimizer.kind=adamw", *more]))


def test_cococos_run_is_the_papers(full_size, instances, large_machine):
    config = fill_config("cococo.yaml", full_size, instances)
    found = "\n".join(check.run(config, "cpu"))
    assert {(b.frames, b.width, b.height, b.size, b.stride) for b in config.batches} == {(16, 384, 256, 256, 4)}
    assert [b.share for b in config.batches] == [0.7, 0.2] and config.dropout.text == 0.1
    assert "new: motion_modules (21 times), 605.82 M values" in found
    assert "859.54 M of the U-Net are frozen" in found and "at 0.0001, constant, adamw" in found
    assert "U-Net: motion_attention is ['temporal', 'temporal', 'global', 'text'], not []" in found
    assert "motion.safetensors: " in found and "new, with no counterpart in the file: " in found


def test_24_gb_are_enough_for_the_fill_config_that_says_so(full_size, instances):
    config = fill_config("cococo-24gb.yaml", full_size, instances, "optimizer.kind=adamw8bit")
    parts = model.build(config, weights=False)
    kinds = check.kinds_of(config, parts, 1)
    run = check.Run(config, parts, torch.device("meta"), 1, kinds)
    needed = float(next(check.memory(run)).split()[2])
    assert 16 < needed < 18.5  # as the config's comment says


def test_a_lora_run_trains_little(full_size, triplets, large_machine):
    found = dry_run("lgvi-lora.yaml", full_size / "lgvi", triplets)
    trained = float(found.split("parameters: ")[1].split(" M")[0])
    assert 1 < trained < 20 and "933.62 M of the U-Net are frozen" in found


def test_what_is_absent_is_named_with_where_to_get_it(large_machine):
    with pytest.raises(InputError) as problem:
        check.run(configs.load(FOLDER / "lgvi-rovi.yaml"), "cpu")
    text = str(problem.value)
    assert "about 13,020 steps of 32 from rovi" in text
    assert "data/rovi: get the dataset from huggingface.co/datasets/jianzongwu/rovi" in text
    assert "nothing at data/gqa-inpaint" in text
    assert "models/magicbrush" in text and "vinesmsuic/magicbrush-jul7" in text


def test_too_little_memory_or_disk_is_said_before_the_run(monkeypatch):
    monkeypatch.setattr(check.psutil, "virtual_memory", lambda: SimpleNamespace(available=1e6))
    monkeypatch.setattr(check.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e5))
    config = configs.load(FOLDER / "demo.yaml", [*SMALL, "batches=[{frames: 1, size: 2, width: 32, height: 32}]"])
    with pytest.raises(InputError) as problem:
        check.run(config, "cpu")
    text = str(problem.value)
    assert "- memory: the run needs" in text and "cpu has 0.0 GB free" in text and "batches.micro" in text
    assert "- disk: " in text and "keep_last" in text and "optimizer: all" in text


def test_a_small_model_is_timed(tmp_path):
    few = [f"output={tmp_path / 'run'}", "batches=[{frames: 1, size: 2}]"]
    config = configs.load(FOLDER / "demo.yaml", [*SMALL, *few])
    found = "\n".join(check.run(config, "cpu"))
    assert "time, from timed passes on cpu: about" in found and "U-Net: new" in found
    assert not (tmp_path / "run").exists()


def test_activations_are_those_that_autograd_keeps():
    """On the meta device as on the CPU with values; less with checkpointing, and with what is frozen."""
    config = UNetConfig(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=8,
        mask_channels=16,
        mask_norm_groups=4,
    )
    unet = InflatedUNet(config, attention=lambda q, k, v, heads: footprint.SavedAttention.apply(q, k, v))
    ledger = footprint.Ledger(unet)
    with torch.autograd.graph.saved_tensors_hooks(ledger.pack, lambda tensor: tensor):
        noisy, text = torch.zeros(2, 4, 3, 16, 16), torch.zeros(2, 5, 12)
        outputs = unet(noisy, torch.tensor([1, 2]), text, noisy, return_mask=True)
    assert outputs[0].shape == noisy.shape
    names = {name for name, _ in unet.named_parameters()}

    def bytes_for(precision="fp32", checkpointing=False, trained=names):
        return footprint.cost(config, (2, 3, 16, 16), 5, precision, checkpointing, True, trained).activations

    assert bytes_for() == pytest.approx(ledger.total, rel=0.01)
    assert bytes_for(checkpointing=True) < 0.7 * bytes_for()
    assert 0.4 * bytes_for() < bytes_for("bf16") < 0.9 * bytes_for()
    assert bytes_for(trained={name for name in names if name.startswith("mask_decoder")}) < 0.7 * bytes_for()


def test_stable_diffusions_arithmetic_is_as_published():
    """About 0.8 TFLOP for a pass at 64x64 latents."""
    config = UNetConfig(temp_attn=False, mask_decoder_type=None)
    found = footprint.cost(config, (1, 1, 64, 64), 77, "fp32", False, False, set())
    assert found.operations == pytest.approx(0.803e12, rel=0.02)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The ablations' common start, small and untrained."""
    path = tmp_path_factory.mktemp("images") / "checkpoint.safetensors"
    config = configs.load(FOLDER / "ablations" / "images.yaml", [*SMALL, "initialise=null"])
    parts = model.build(config)
    checkpoints.save(model.checkpoint_of(parts.model, parts.autoencoder, config), path)
    return path


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_starts_from_the_images_and_takes_a_step(name, images):
    config = configs.load(FOLDER / name, [*SMALL, f"initialise={images}"])
    parts = model.build(config)
    batches = [{"frames": b.frames, "size": 1, "width": 32, "height": 32} for b in config.batches[:1]]
    small = configs.load(FOLDER / name, [*SMALL, f"initialise={images}", f"batches={json.dumps(batches)}"])
    losses = Objective(small, parts, torch.device("cpu"))(parts.model, next(iter(mixing.loader(small, 0))), 1, 0)
    losses.total.backward()
    unet = parts.model.unet
    touched = {key for key, p in unet.named_parameters() if p.grad is not None and p.requires_grad}
    has = {part: any(part in key for key in touched) for part in ("attn_temp", "mask_decoder", "conv_in")}
    gone = {
        "no-whole-unet": "conv_in",
        "no-mask-supervision": "mask_decoder",
        "no-temporal-attention": "attn_temp",
    }.get(Path(name).stem)
    assert has == {part: part != gone for part in has}
    assert {b.frames for b in config.batches} == ({8} if "image-joint" in name else {1, 8})
    assert not unet.config.gate


@pytest.fixture(scope="module")
def fill_images(tmp_path_factory):
    """What the fill ablations start from, small and untrained."""
    path = tmp_path_factory.mktemp("fill") / "checkpoint.safetensors"
    config = configs.load(FOLDER / "fill-base.yaml", SMALL)
    parts = model.build(config)
    checkpoints.save(model.checkpoint_of(parts.model, parts.autoencoder, config), path)
    return path


@pytest.mark.parametrize("name", ["fill-demo.yaml", *FILL_ABLATIONS])
def test_every_fill_ablation_trains_its_motion_blocks(name, fill_images):
    attention = {
        "two-temporal": ("temporal",) * 2,
        "random-regions": ("temporal",) * 2,
        "four-temporal": ("temporal",) * 4,
        "no-global": ("temporal", "temporal", "temporal", "text"),
    }.get(Path(name).stem, ("temporal", "temporal", "global", "text"))
    small = [*SMALL, f"initialise={fill_images}", "batches=[{data: fill, frames: 2, size: 2, width: 32, height: 32}]"]
    config = motion_blocks_alone(configs.load(FOLDER / name, small))
    parts = model.build(config)
    unet = parts.model.unet
    assert unet.config.motion_attention == attention and unet.config.gate
    batch = next(iter(mixing.loader(config, 0)))
    Objective(config, parts, torch.device("cpu"))(parts.model, batch, 1, 0).total.backward()
    touched = {key for key, p in unet.named_parameters() if p.grad is not None}
    trains = ("motion_modules.", "reuse.", "up_blocks.3.resnets.", "conv_out.")
    trains = trains if name == "fill-demo.yaml" else trains[:1]
    assert touched == {key for key in unet.state_dict() if any(part in key for part in trains)}
    drawn = {kind for kind, weight in config.data["fill"]["kinds"].items() if weight}
    assert drawn == ({"random"} if "random" in name else {"instance", "random", "no_text"})
    assert config.keyframes.probability == (0.5 if name == "fill-demo.yaml" else 0.0)
    assert config.dropout.text == (0.1 if "random" in name else 0.0)
    assert config.data["held_out"]["kinds"] == {"instance": 1}
