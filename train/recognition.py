"""An auxiliary task: blocks of the U-Net name the objects they see, where these stand, and which the sentence means.

What a circle is, and which word means blue, is hard to learn from the masks of requests alone; said outright for every
object of a drawn clip, it is learnt in a tenth of the steps. The text features must tell what the sentence mentions.
The heads are thrown away after training. Not in the papers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lgvi_core.models import InflatedUNet

from .data.labels import LOOKS, MENTIONS, PLACES, UNKNOWN

WIDTH = 128
FLAG_WEIGHT = 3.0  # of what is true or false of an object, beside its looks
MENTION_WEIGHT = 10.0  # with less, the text features keep the words for shapes alone apart


class Head(nn.Module):
    """From a block's output (B * T, C, h, w) to logits (B * T, cells, cells, K)."""

    def __init__(self, channels: int, kinds: int):
        super().__init__()
        self.hidden = nn.Conv2d(channels, WIDTH, 1)
        self.out = nn.Conv2d(WIDTH, kinds, 1)

    def forward(self, x: Tensor, cells: int) -> Tensor:
        x = x.float()
        x = F.adaptive_avg_pool2d(x, cells) if x.shape[-1] > cells else F.interpolate(x, (cells, cells))
        return self.out(F.silu(self.hidden(x))).permute(0, 2, 3, 1)


class Recognition(nn.Module):
    """Heads on the U-Net's blocks that `blocks` names ("down_blocks.1"), and one on the mean of the text features.

    `watch` collects what the heads on blocks need.
    """

    parts = (*map(len, LOOKS.values()), PLACES, len(LOOKS), 1)  # what a head tells, as in `labels.facts`

    def __init__(self, unet: InflatedUNet, blocks: tuple[str, ...]):
        super().__init__()
        channels = unet.config.block_out_channels
        self.blocks = blocks
        kinds = sum(self.parts)
        self.heads = nn.ModuleList()
        for name in blocks:
            side, level = name.split(".")
            width = (channels if side == "down_blocks" else channels[::-1])[int(level)]
            self.heads.append(Head(width, kinds))
        self.mentions = nn.Linear(unet.config.cross_attention_dim, len(MENTIONS))

    @contextlib.contextmanager
    def watch(self, unet: InflatedUNet):
        """A list that a pass of the U-Net fills with the output of each block's last layer."""
        outputs = [None] * len(self.blocks)

        def keep(i):
            return lambda _module, _inputs, output: outputs.__setitem__(i, output)

        hooks = []
        for i, name in enumerate(self.blocks):
            block = unet.get_submodule(name)
            hooks.append((block.attentions or block.resnets)[-1].register_forward_hook(keep(i)))
        try:
            yield outputs
        finally:
            for hook in hooks:
                hook.remove()

    def forward(
        self, outputs: list[Tensor], text: Tensor, owners: Tensor, facts: Tensor, mentions: Tensor
    ) -> Tensor:
        """Mean over clips of the loss of the heads on the blocks, and of the text's; in float32.

        text: (B, N, D). owners: int8 (B, T, cells, cells), facts: int8 (B, N, FACTS), mentions: bool (B, MENTIONS).
        """
        with torch.autocast(text.device.type, enabled=False):
            seen = owners >= 0
            clip, *_ = torch.nonzero(seen, as_tuple=True)
            labels = facts[clip, owners[seen].long()].long()  # one row for each cell in which an object stands
            total = 0.0
            for head, output in zip(self.heads, outputs):
                logits = head(output, owners.shape[-1])[seen.flatten(0, 1)]
                total = sum(told_losses(logits, labels, self.parts, clip, len(owners)), total)
            told = self.mentions(text.float().mean(dim=1))
            mentioned = F.binary_cross_entropy_with_logits(told, mentions.float())
            return total / len(self.heads) + MENTION_WEIGHT * mentioned


def told_losses(logits: Tensor, labels: Tensor, parts: tuple[int, ...], clip: Tensor, clips: int) -> Iterator[Tensor]:
    """Losses of what is told of objects, means over clips: of looks cross-entropy, of flags `FLAG_WEIGHT` times theirs.

    logits: (rows, sum of parts). labels: (rows, FACTS) of `labels.facts`, or the first of them. parts: how many logits
    there are for each of the looks, then for each group of flags. clip: (rows,), of which of the `clips` a row is.
    """
    looks, *flags = labels.split([len(LOOKS), *parts[len(LOOKS) :]], dim=1)
    logits = logits.split(parts, dim=1)
    for i in range(len(LOOKS)):
        wrong = F.cross_entropy(logits[i], looks[:, i], ignore_index=UNKNOWN, reduction="none")
        yield mean_by_clip(wrong[:, None], looks[:, i : i + 1] >= 0, clip, clips)
    for logit, flag in zip(logits[len(LOOKS) :], flags):
        wrong = F.binary_cross_entropy_with_logits(logit, flag.clamp(min=0).float(), reduction="none")
        yield FLAG_WEIGHT * mean_by_clip(wrong, flag >= 0, clip, clips)


def mean_by_clip(losses: Tensor, known: Tensor, clip: Tensor, clips: int) -> Tensor:
    """Mean over clips of the mean of what is known of each; a clip of which nothing is known counts as 0.

    losses, known: (rows, K). clip: (rows,), to which of the `clips` a row belongs.
    """
    sums, counts = losses.new_zeros(2, clips)
    sums = sums.index_add(0, clip, (losses * known).sum(1))
    counts = counts.index_add(0, clip, known.sum(1).to(losses))
    return (sums / counts.clamp(min=1)).mean()
