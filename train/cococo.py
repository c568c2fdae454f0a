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

from . import initialise, lgvi
from .config import TrainConfig

MOTION = r"motion_modules\."


def motion_blocks_alone(config: TrainConfig) -> TrainConfig:
    """The config with CoCoCo's choice of what trains, where it makes none and starts from a checkpoint.

    Raises `InputError` for a checkpoint that removes.
    """
    if config.initialise is None:
        return config
    path = Path(config.initialise).expanduser()
    if path.exists() and not initialise.fills(path):
        raise InputError(
            f"initialise: {path} takes no mask, and cannot be trained to fill one: start from Stable Diffusion 1.5 for "
            "inpainting, or train it to remove with python -m train.lgvi"
        )
    return config if config.trainable or config.lora is not None else replace(config, trainable=MOTION)


def main(arguments: list[str] | None = None) -> int:
    return lgvi.main(arguments, "python -m train.cococo", motion_blocks_alone)


if __name__ == "__main__":
    sys.exit(main())
