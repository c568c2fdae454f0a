"""A training run as a short YAML file that a person reads in one go."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lgvi_core.errors import InputError


@dataclass(frozen=True)
class Batches:
    """One kind of batch: `size` clips of `frames` frames at `pixels` x `pixels`, drawn with weight `share`.

    It is used from step `start` to before step `end` (null: to the last). `kind` asks for one kind of sentence.
    """

    frames: int
    size: int
    share: float = 1.0
    pixels: int = 64
    start: int = 0
    end: int | None = None
    kind: str | None = None

    def covers(self, step: int) -> bool:
        return self.start <= step and (self.end is None or step < self.end)


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objective; see `train.objectives`."""

    diffusion: float = 10.0
    inside: float = 0.0
    mask: float = 1.0
    dice: float = 0.15


@dataclass(frozen=True)
class Dropout:
    """Shares of the samples that lose a condition (InstructPix2Pix): one draw decides among the three."""

    text: float = 0.04
    both: float = 0.02
    video: float = 0.02


@dataclass(frozen=True)
class Recognition:
    """The auxiliary task of `train.recognition`: heads on `blocks`, their loss times `weight`; none without blocks."""

    blocks: tuple[str, ...] = ()
    weight: float = 1.0
    cells: int = 16  # per side of the frame


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. Paths are relative to where the command is given."""

    output: str
    steps: int
    unet: dict
    autoencoder: dict
    text_encoder: dict
    scheduler: dict
    batches: tuple[Batches, ...]
    seed: int = 0
    tokenizer_sentences: int = 20000
    tokenizer_merges: int = 600
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup_steps: int = 200
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    loss: LossWeights = field(default_factory=LossWeights)
    dropout: Dropout = field(default_factory=Dropout)
    recognition: Recognition = field(default_factory=Recognition)
    noisiest: float = 0.5  # share of the samples at the last timestep; the rest is uniform
    precision: str = "fp32"
    workers: int = 2
    log_every: int = 50
    sample_every: int = 1000
    save_minutes: float = 5.0
    max_minutes: float | None = None  # save and leave after this long; the same command goes on from there
    sampling: dict = field(default_factory=dict)
    training_size: dict = field(default_factory=dict)
    licence: str = "Apache-2.0"

    def __post_init__(self):
        if self.precision not in ("fp32", "bf16"):
            raise InputError(f"precision is {self.precision!r}; allowed: 'fp32', 'bf16'")
        if self.tokenizer_merges < 1:
            raise InputError(f"tokenizer_merges is {self.tokenizer_merges}; it must be at least 1")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; it must be at least 1")
        if not self.batches or min(b.share for b in self.batches) <= 0:
            raise InputError("batches must name at least one kind of batch, each with a share above 0")
        edges = {0, *(b.start for b in self.batches), *(b.end for b in self.batches if b.end is not None)}
        for step in sorted(edge for edge in edges if edge < self.steps):
            if not any(b.covers(step) for b in self.batches):
                raise InputError(f"batches: no kind of batch is in use at step {step}; steps are 0 to {self.steps - 1}")
        for block in self.recognition.blocks:
            side, _, level = block.partition(".")
            count = len(self.unet.get("block_out_channels", (0,) * 4))
            if side not in ("down_blocks", "up_blocks") or not level.isdigit() or int(level) >= count:
                raise InputError(f"recognition.blocks names {block!r}; allowed: down_blocks.0 to up_blocks.{count - 1}")
        if not 0 <= self.noisiest <= 1:
            raise InputError(f"noisiest is {self.noisiest}; it is a share between 0 and 1")


def load(path: str | Path, overrides: list[str] = ()) -> TrainConfig:
    """Read a config file; `overrides` are `key=value`, a dot goes one level down (`loss.mask=0.5`).

    Raises `InputError` for a file that is no YAML mapping, a key that does not exist (it names the nearest one that
    does), or a value that does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"config {path} does not exist; shipped configs are in train/configs")
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"config {path} is no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"config {path} must be a mapping of keys to values")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"override {override!r} is not of the form key=value")
        *parents, last = key.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise InputError(f"override {override!r}: {parent} is not a group of keys")
        target[last] = yaml.safe_load(text)
    return _build(TrainConfig, values, "")


def _build(kind, values: dict, where: str):
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            nearest = difflib.get_close_matches(name, fields, n=1)
            hint = f"; did you mean {where}{nearest[0]}?" if nearest else f"; known: {', '.join(sorted(fields))}"
            raise InputError(f"config key {where}{name} does not exist{hint}")
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    absent = [where + name for name in required if name not in values]
    if absent:
        raise InputError(f"config keys are missing: {', '.join(absent)}")
    values = dict(values)
    for name, nested in (("loss", LossWeights), ("dropout", Dropout), ("recognition", Recognition)):
        if name in values and name in fields:
            values[name] = _build(nested, values[name], f"{where}{name}.")
    if isinstance(values.get("blocks"), list):
        values["blocks"] = tuple(values["blocks"])
    if "batches" in values and "batches" in fields:
        values["batches"] = tuple(_build(Batches, b, f"batches[{i}].") for i, b in enumerate(values["batches"]))
    for name, value in values.items():
        expected = {"int": int, "float": (int, float), "bool": bool, "str": str, "dict": dict}.get(fields[name].type)
        if expected and (not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool)):
            raise InputError(f"config key {where}{name} is {value!r}; expected {fields[name].type}")
    return kind(**values)
