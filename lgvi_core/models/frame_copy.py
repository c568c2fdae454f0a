"""What is covered in one frame often shows in another: a blend of the prediction with the other frames of the input."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KEY_CHANNELS = 16
HIDDEN = 8
SURROUNDINGS = 9  # latents per side that tell whether two frames show the same place
PREFERENCE = 4.0  # logit of the prediction at the start of training; another frame's is about 0


class FrameCopy(nn.Module):
    """Attention over time on the latents themselves: each latent is chosen among the prediction and the input's other
    frames at the same place. What speaks for a frame: features that match, no mask there, and surroundings that look
    alike, as they do where the camera stands still. Not in the papers.
    """

    def __init__(self, channels: int, operations, factory):
        super().__init__()
        self.to_q = operations.Conv2d(channels, KEY_CHANNELS, 1, **factory)
        self.to_k = operations.Conv2d(channels, KEY_CHANNELS, 1, **factory)
        self.own = operations.Conv2d(channels, 1, 1, **factory)
        self.hidden = operations.Linear(4, HIDDEN, **factory)
        self.score = operations.Linear(HIDDEN, 1, **factory)

    def forward(self, h: Tensor, prediction: Tensor, source: Tensor, mask: Tensor, frames: int) -> Tensor:
        """The prediction blended with the source's other frames, (B * T, C, H, W).

        h: features (B * T, C', H, W); prediction, source: latents (B * T, C, H, W); mask: (B * T, 1, H, W) in [0, 1].
        """
        if frames == 1:
            return prediction
        q, k, own = (layer(h).unflatten(0, (-1, frames)) for layer in (self.to_q, self.to_k, self.own))
        own = own + PREFERENCE
        prediction, source, mask = (x.unflatten(0, (-1, frames)) for x in (prediction, source, mask))
        blended = [
            self._blend(t, q[:, t], k, own[:, t], prediction[:, t], source, mask.float()) for t in range(frames)
        ]
        return torch.stack(blended, dim=1).flatten(0, 1)

    def _blend(self, t, q, k, own, prediction, source, mask):
        """Frame t of all clips. q, own, prediction: (B, C, H, W); k, source, mask: (B, T, C, H, W)."""
        match = (q[:, None] * k).sum(2) * k.shape[2] ** -0.5  # (B, T, H, W)
        unlikeness, shared = surroundings(source[:, t : t + 1].float(), source.float(), mask[:, t : t + 1], mask)
        facts = torch.stack([match.float(), mask[:, :, 0], unlikeness, shared], dim=-1).to(match)
        logits = self.score(F.silu(self.hidden(facts)))[..., 0].float() + match - 10 * mask[:, :, 0]
        others = torch.cat([logits[:, :t], logits[:, t + 1 :]], dim=1)
        weights = torch.softmax(torch.cat([own.float(), others], dim=1), dim=1).to(prediction)  # (B, T, H, W)
        seen = torch.cat([source[:, :t], source[:, t + 1 :]], dim=1)
        return weights[:, :1] * prediction + (weights[:, 1:, None] * seen).sum(1)


@torch.no_grad()
def surroundings(one: Tensor, others: Tensor, one_mask: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """How unlike frames look around each place where neither is masked (log scale), and how much of it that is.

    one: (B, 1, C, H, W), others: (B, T, C, H, W), masks likewise with one channel. Returns two (B, T, H, W).
    """
    visible = ((1 - one_mask) * (1 - masks))[:, :, 0]
    pool = {"kernel_size": SURROUNDINGS, "stride": 1, "padding": SURROUNDINGS // 2}
    shared = F.avg_pool2d(visible, **pool)
    unlike = F.avg_pool2d(((one - others) ** 2).mean(2) * visible, **pool)
    return torch.log(unlike / (shared + 1e-3) + 1e-3) + 3, shared
