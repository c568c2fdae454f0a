"""TensorBoard and Weights & Biases, behind two calls: `scalars` and `picture`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from lgvi_core.errors import InputError

from ..config import TrainConfig


class TensorBoard:
    """Event files in `output/tensorboard`; what a resumed run does again is hidden."""

    def __init__(self, output: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(output / "tensorboard"), purge_step=start or None)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """picture: (H, W, 3) uint8."""
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of the project `config.watch.wandb`; a resumed run goes on with the same one, kept in `wandb-run.txt`."""

    def __init__(self, output: Path, config: dict, project: str):
        import wandb

        kept = output / "wandb-run.txt"
        name = kept.read_text("utf-8").strip() if kept.exists() else None
        self.module = wandb
        self.run = wandb.init(project=project, dir=str(output), id=name, resume="allow", config=config)
        self.run.define_metric("*", step_metric="step")
        kept.write_text(self.run.id + "\n", encoding="utf-8")

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.run.log({"step": step, **values})

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        self.run.log({"step": step, name: self.module.Image(picture)})

    def close(self) -> None:
        self.run.finish()


def check(config: TrainConfig) -> None:
    """Raises `InputError` where a tracker is asked for whose package is not installed."""
    wanted = {"tensorboard": config.watch.tensorboard, "wandb": config.watch.wandb}
    off = {"tensorboard": "watch.tensorboard=false", "wandb": "watch.wandb=null"}
    for package, asked in wanted.items():
        if asked and importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed: run `pip install {package}`, or set {off[package]}")


def open_all(config: TrainConfig, plain: dict, output: Path, start: int) -> list:
    """The trackers that the config asks for; `plain` is the config as a dict."""
    trackers = []
    if config.watch.tensorboard:
        trackers.append(TensorBoard(output, start))
    if config.watch.wandb:
        trackers.append(WeightsAndBiases(output, plain, config.watch.wandb))
    return trackers
