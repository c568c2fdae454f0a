"""What is covered here shows elsewhere: the prediction blended with what the input has of other places and frames."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import start_at_zero

KEY_CHANNELS = 16
HIDDEN = 8
NEIGHBOURHOOD = 9  # latents per side that tell whether two frames show the same place
FLATNESS = 5  # latents per side over which what is smooth does not change
PREFERENCE = 4.0  # logit of the prediction at the start of training; another frame's is about 0


class Reuse(nn.Module):
    """Attention over what is known: each latent is chosen among the prediction, a smooth continuation of what surrounds
    the mask, and the input's other frames at the same place. What speaks for the continuation: surroundings that are
    smooth. What speaks for a frame: features that match, no mask there, and a neighbourhood that looks alike, as it
    does where the camera stands still. Not in the papers.
    """

    def __init__(self, channels: int, operations, factory):
        super().__init__()
        self.to_q = operations.Conv2d(channels, KEY_CHANNELS, 1, **factory)
        self.to_k = operations.Conv2d(channels, KEY_CHANNELS, 1, **factory)
        self.own = operations.Conv2d(channels, 1, 1, **factory)
        self.smooth = operations.Conv2d(channels, 1, 1, **factory)
        self.rough_hidden = operations.Conv2d(1, HIDDEN, 1, **factory)
        self.rough_score = operations.Conv2d(HIDDEN, 1, 1, **factory)
        start_at_zero(self.rough_score)
        self.hidden = operations.Linear(4, HIDDEN, **factory)
        self.score = operations.Linear(HIDDEN, 1, **factory)

    def forward(self, h: Tensor, prediction: Tensor, source: Tensor, mask: Tensor, frames: int) -> Tensor:
        """The blend, (B * T, C, H, W).

        h: features (B * T, C', H, W); prediction, source: latents (B * T, C, H, W); mask: (B * T, 1, H, W) in [0, 1].
        """
        with torch.no_grad():
            known = 1 - mask.float()
            smooth = continued(source.float(), known).to(prediction)
            rough = roughness(source.float(), known).to(h)
        favour = self.smooth(h) + self.rough_score(F.silu(self.rough_hidden(rough)))
        logits = torch.cat([self.own(h) + PREFERENCE, favour], dim=1)
        parts = (self.to_q(h), self.to_k(h), logits, prediction, smooth, source, mask.float())
        q, k, logits, prediction, smooth, source, mask = (x.unflatten(0, (-1, frames)) for x in parts)
        blended = [
            self._blend(t, q[:, t], k, logits[:, t], prediction[:, t], smooth[:, t], source, mask)
            for t in range(frames)
        ]
        return torch.stack(blended, dim=1).flatten(0, 1)

    def _blend(self, t, q, k, here, prediction, smooth, source, mask):
        """Frame t of all clips. q, here, prediction, smooth: (B, C, H, W); k, source, mask: (B, T, C, H, W)."""
        match = (q[:, None] * k).sum(2) * k.shape[2] ** -0.5  # (B, T, H, W)
        unlikeness, shared = neighbourhood(source[:, t : t + 1].float(), source.float(), mask[:, t : t + 1], mask)
        facts = torch.stack([match.float(), mask[:, :, 0], unlikeness, shared], dim=-1).to(match)
        logits = self.score(F.silu(self.hidden(facts)))[..., 0].float() + match - 10 * mask[:, :, 0]
        others = torch.cat([logits[:, :t], logits[:, t + 1 :]], dim=1)
        weights = torch.softmax(torch.cat([here.float(), others], dim=1), dim=1).to(prediction)  # (B, T + 1, H, W)
        seen = torch.cat([source[:, :t], source[:, t + 1 :]], dim=1)
        return weights[:, :1] * prediction + weights[:, 1:2] * smooth + (weights[:, 2:, None] * seen).sum(1)


@torch.no_grad()
def neighbourhood(one: Tensor, others: Tensor, one_mask: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """How unlike frames look around each place where neither is masked (log scale), and how much of it that is.

    one: (B, 1, C, H, W), others: (B, T, C, H, W), masks likewise with one channel. Returns two (B, T, H, W).
    """
    visible = ((1 - one_mask) * (1 - masks))[:, :, 0]
    pool = {"kernel_size": NEIGHBOURHOOD, "stride": 1, "padding": NEIGHBOURHOOD // 2}
    shared = F.avg_pool2d(visible, **pool)
    unlike = F.avg_pool2d(((one - others) ** 2).mean(2) * visible, **pool)
    return torch.log(unlike / (shared + 1e-3) + 1e-3) + 3, shared


def roughness(x: Tensor, known: Tensor) -> Tensor:
    """How far what surrounds each place is from its own mean over a few latents, on a log scale; (N, 1, H, W).

    x: (N, C, H, W), known: (N, 1, H, W); where nothing is known the value goes on from what surrounds it.
    """
    pool = {"kernel_size": FLATNESS, "stride": 1, "padding": FLATNESS // 2}
    share = F.avg_pool2d(known, **pool)
    mean = F.avg_pool2d(x * known, **pool) / (share + 1e-6)
    variance = ((x - mean) ** 2).mean(1, keepdim=True)
    return torch.log(continued(variance, known) + 1e-3) + 3


def continued(x: Tensor, known: Tensor) -> Tensor:
    """x (N, C, H, W) where `known` (N, 1, H, W) is 1, and its smooth continuation where it is 0.

    Pull-push (Gortler et al., The Lumigraph, 1996, section 3.4): averages of what is known at halved sizes fill what is
    not.
    """
    if max(x.shape[-2:]) == 1:
        return x
    share = F.avg_pool2d(known, 2, ceil_mode=True)
    mean = F.avg_pool2d(x * known, 2, ceil_mode=True) / (share + 1e-6)
    coarse = continued(mean, (4 * share).clamp(max=1))
    return known * x + (1 - known) * F.interpolate(coarse, size=x.shape[-2:], mode="bilinear")
