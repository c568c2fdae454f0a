"""The demo's config made tiny, for tests that train."""

import json
from pathlib import Path

import torch

from train import config as configs

DEMO = Path(configs.__file__).parent / "configs" / "demo.yaml"
TINY = [
    "unet.block_out_channels=[8, 8, 8, 8]",
    "unet.norm_num_groups=2",
    "unet.mask_channels=8",
    "unet.attention_head_dim=2",
    "text_encoder.hidden_size=16",
    "text_encoder.intermediate_size=16",
    "text_encoder.num_hidden_layers=1",
    "text_encoder.num_attention_heads=2",
    "text_encoder.projection_dim=16",
    "tokenizer_sentences=50",
    "tokenizer_merges=20",
    "recognition.blocks=[down_blocks.1]",
    "recognition.cells=8",
    "batches=[{frames: 1, size: 4, width: 32, height: 32, end: 2}, "
    "{frames: 2, size: 4, width: 32, height: 32, start: 1, micro: 2}]",
    "workers=0",
    "precision=fp32",
    "optimizer.warmup_steps=2",
    "watch.samples=0",
    "watch.tensorboard=false",
    "watch.log_every=1",
    "steps=4",
]


def overrides(folder, *more: str) -> list[str]:
    return [*TINY, f"output={folder}", *more]


def tiny(folder, *more: str) -> configs.TrainConfig:
    return configs.load(DEMO, overrides(folder, *more))


def assert_same_step(one: Path, other: Path) -> None:
    """Two runs have taken one step with the same losses and gradients, to rounding.

    Gradients are seen in the optimizer's first moments: parameters follow only the sign of a very small one.
    """
    losses, moments = [], []
    for folder in (one, other):
        records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        losses.append(next(record for record in records if "total" in record))
        optimizer = torch.load(folder / "states" / "step-000001" / "optimizer.bin", weights_only=True)["state"]
        moments.append({name: value["exp_avg"] for name, value in optimizer.items()})
    for name in ("total", "diffusion", "mask", "recognition"):
        torch.testing.assert_close(losses[0][name], losses[1][name], rtol=1e-4, atol=1e-6)
    scale = max(float(moment.abs().max()) for moment in moments[0].values())
    torch.testing.assert_close(*moments, rtol=1e-3, atol=3e-4 * scale)
