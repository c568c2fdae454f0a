"""Train a model that fills by prompt: `python -m train.cococo --config FILE [key=value ...]`.

All that `train.lgvi` does, it does the same way: the config's U-Net says which family is trained. This recipe asks for
one that takes a mask and a masked video, and trains what CoCoCo (arXiv 2403.12035) does, its motion blocks alone,
unless the config says what is `trainable`. It starts from Stable Diffusion 1.5 for inpainting, as a folder or one file,
from CoCoCo's shards beside it, or from a checkpoint of ours; `initialise_motion` gives new motion blocks AnimateDiff's
motion modules. Regions and captions are the data's: `data/instances.py`, `data/synthetic_fill.py`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lgvi_core.errors import InputError
from lgvi_core.models import UNetConfig

from . import initialise, lgvi
from .config import TrainConfig

MOTION = r"motion_modules\."


def motion_blocks_alone(config: TrainConfig) -> TrainConfig:
    """The config with CoCoCo's choice of what trains, where it makes none and starts from a checkpoint.

    Raises `InputError` for a model that removes.
    """
    path = config.initialise and Path(config.initialise).expanduser()
    if path is None:
        fills = UNetConfig.from_public(config.unet).is_inpainting
    else:
        fills = not path.exists() or initialise.fills(path)  # what is absent is told later, with all else that is
    if not fills:
        raise InputError(
            f"{path or 'the U-Net of the config'} takes no mask, and cannot be trained to fill one: start from Stable "
            "Diffusion 1.5 for inpainting, or train it to remove with python -m train.lgvi"
        )
    if path is None or config.trainable or config.lora is not None:
        return config
    return replace(config, trainable=MOTION)


def main(arguments: list[str] | None = None) -> int:
    return lgvi.main(arguments, "python -m train.cococo", motion_blocks_alone)


if __name__ == "__main__":
    sys.exit(main())
