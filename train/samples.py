"""Pictures and numbers of a running training: held-out samples, and the log as curves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from lgvi_core.metrics import removal

from .data.synthetic import draw


class Validation:
    """One-step removal on the same held-out clips every time; cheap, for watching a run. `train.evaluate` judges."""

    def __init__(self, seed: int, device: torch.device, clips: int = 96, frames: int = 8):
        self.device = device
        self.clips = [draw(seed + 1, i, frames, held_out=True) for i in range(clips)]
        self.noise_seed = seed

    @torch.no_grad()
    def run(self, model: nn.Module, autoencoder: nn.Module, picture: Path, batch: int = 16) -> dict:
        """Measures over the clips; writes a strip `input | found | result | truth` of some of them."""
        outputs, masks = [], []
        for start in range(0, len(self.clips), batch):
            clips = self.clips[start : start + batch]
            frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).to(self.device)
            pixels = frames.permute(0, 1, 4, 2, 3).flatten(0, 1).float() / 127.5 - 1
            condition = autoencoder.encode(pixels).unflatten(0, frames.shape[:2]).transpose(1, 2)
            generator = torch.Generator(self.device).manual_seed(self.noise_seed + start)
            noise = torch.randn(condition.shape, generator=generator, device=self.device)
            tokens = model.text_encoder.tokenize([clip.sentence for clip in clips]).to(self.device)
            timesteps = torch.full((len(clips),), 999, device=self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                prediction, probability, _ = model(noise, timesteps, tokens, condition)
            result = autoencoder.decode(prediction.float().transpose(1, 2).flatten(0, 1)).unflatten(0, frames.shape[:2])
            result = ((result.permute(0, 1, 3, 4, 2) + 1) * 127.5).round().clamp(0, 255).byte()
            outputs += list(result.cpu().numpy())
            masks += list((probability[:, 0] >= 0.5).cpu().numpy())
        self._draw(outputs, masks, picture)
        return self._measure(outputs, masks)

    def _measure(self, outputs, masks) -> dict:
        rows = []
        untouched = []
        for clip, output, mask in zip(self.clips, outputs, masks):
            if not clip.targets:
                untouched.append(not mask.any())
                continue
            others = [m for i, m in enumerate(clip.object_masks) if i not in clip.targets and m.any()]
            damaged = any(removal.damaged(output, clip.frames, clip.background, m) for m in others)
            removed = removal.removed(output, clip.frames, clip.clean, clip.mask)
            iou = removal.mask_iou(mask, clip.mask)
            inside = removal.psnr(output, clip.clean, clip.mask)
            rows.append((removed and not damaged, damaged, iou, inside, removal.psnr(output, clip.clean)))
        names = ("correct", "damaged", "mask_iou", "psnr_inside", "psnr_frame")
        means = {name: round(float(np.mean(column)), 4) for name, column in zip(names, zip(*rows))}
        return means | {"empty_where_nothing_matches": round(float(np.mean(untouched)), 4)}

    def _draw(self, outputs, masks, picture: Path, rows: int = 12):
        strips = []
        for clip, output, mask in list(zip(self.clips, outputs, masks))[:rows]:
            middle = len(output) // 2
            found = clip.frames[middle].copy()
            found[mask[middle]] = (255, 0, 255)
            strips.append(np.concatenate([clip.frames[middle], found, output[middle], clip.clean[middle]], axis=1))
        sheet = Image.fromarray(np.concatenate(strips))
        sheet.resize((sheet.width * 2, sheet.height * 2), Image.NEAREST).save(picture)


def plot_log(journal: Path, picture: Path):
    """Draw the losses and the validation of a `log.jsonl` as curves."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [json.loads(line) for line in journal.read_text().splitlines()]
    steps = [r for r in records if "total" in r]
    checks = [r for r in records if "validation" in r]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4))
    for name in ("total", "diffusion", "mask", "dice", "inside"):
        left.plot([r["step"] for r in steps], [r[name] for r in steps], label=name, linewidth=0.7)
    left.set(yscale="log", xlabel="step", title="losses")
    left.legend()
    for name in ("correct", "mask_iou", "damaged", "empty_where_nothing_matches"):
        right.plot([r["step"] for r in checks], [r["validation"][name] for r in checks], label=name)
    right.set(xlabel="step", title="held-out clips, one step", ylim=(0, 1))
    right.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)
