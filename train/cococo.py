"""Train a model that fills by prompt: `python -m train.cococo --config FILE [key=value ...]`.

All that `train.lgvi` does, it does the same way: the config's U-Net says which family is trained. This recipe asks for
one that takes a mask and a masked video, and trains what CoCoCo (arXiv 2403.12035) does, its motion blocks alone,
unless the config says what is `trainable`.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from . import lgvi
from .config import TrainConfig

MOTION = r"motion_modules\."


def motion_blocks_alone(config: TrainConfig) -> TrainConfig:
    """The config with CoCoCo's choice of what trains, where it makes none and starts from a checkpoint."""
    if config.trainable or config.lora is not None or config.initialise is None:
        return config
    return replace(config, trainable=MOTION)


def main(arguments: list[str] | None = None) -> int:
    return lgvi.main(arguments, "python -m train.cococo", motion_blocks_alone)


if __name__ == "__main__":
    sys.exit(main())
