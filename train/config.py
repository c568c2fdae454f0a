"""A training run as a short YAML file that a person reads in one go."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lgvi_core.errors import InputError

VERSION = 2  # of the config's keys; a file that states a higher one is refused


@dataclass(frozen=True)
class Batches:
    """One kind of batch: `size` clips of `frames` frames at `width` x `height`, drawn with weight `share`.

    `size` counts over all processes and accumulated passes: it is what one step of the optimiser sees. One pass of one
    process takes `micro` clips of it (null: all that fall to the process). It is used from step `start` to before step
    `end` (null: to the last).
    """

    frames: int
    size: int
    share: float = 1.0
    micro: int | None = None
    data: str = "synthetic"  # a name under `data`
    width: int = 64
    height: int = 64
    sampling: str = "random"  # which frames of a longer video: "first", "random", "stride", "whole"
    stride: int = 1  # source frames from one frame to the next, for "stride"
    buckets: bool = False  # keep each source's shape: about width x height pixels, one shape per batch
    start: int = 0
    end: int | None = None
    kind: str | None = None  # one kind of sentence of a drawn domain
    only: str | None = None  # of a request encoder, what alone trains: "language", or "sight"; the U-Net does not run

    def __post_init__(self):
        for name in ("frames", "size", "width", "height", "stride"):
            if getattr(self, name) < 1:
                raise InputError(f"batches: {name} is {getattr(self, name)}; it must be at least 1")
        if self.share <= 0:
            raise InputError(f"batches: share is {self.share}; it must be above 0")
        if self.micro is not None and (self.micro < 1 or self.size % self.micro):
            raise InputError(f"batches: micro is {self.micro}; it must divide size, which is {self.size}")
        if self.sampling not in SAMPLING:
            raise InputError(f"batches: sampling is {self.sampling!r}; allowed: {', '.join(SAMPLING)}")
        if self.only not in (None, "language", "sight"):
            raise InputError(f"batches: only is {self.only!r}; allowed: 'language', 'sight', or null for all")

    def covers(self, step: int) -> bool:
        return self.start <= step and (self.end is None or step < self.end)


SAMPLING = ("first", "random", "stride", "whole")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the objective; see `train.objectives`."""

    diffusion: float = 1.0
    inside: float = 0.0
    decibel: float = 0.0
    mask: float = 0.001
    dice: float = 0.0
    mask_weighting: str = "uniform"  # "middle": 4 t (T - t) / T^2, as in the authors' helpers
    min_snr: float | None = None  # gamma of Min-SNR (arXiv 2303.09556)

    def __post_init__(self):
        if self.mask_weighting not in ("uniform", "middle"):
            raise InputError(f"loss.mask_weighting is {self.mask_weighting!r}; allowed: 'uniform', 'middle'")
        if self.min_snr is not None and self.min_snr <= 0:
            raise InputError(f"loss.min_snr is {self.min_snr}; it must be above 0, or null for none")


@dataclass(frozen=True)
class Dropout:
    """Shares of the samples that lose a condition (InstructPix2Pix): one draw decides among the three."""

    text: float = 0.05
    both: float = 0.05
    video: float = 0.05

    def __post_init__(self):
        if min(self.text, self.both, self.video) < 0 or self.text + self.both + self.video > 1:
            raise InputError(f"dropout is {self}; the shares must not be negative and sum to at most 1")


@dataclass(frozen=True)
class Keyframes:
    """Which clips of a model that fills are given frames as they should become, with nothing to fill there.

    With `probability` a clip of several frames is: its first (VIVID, arXiv 2411.15260, section 4.3), or with `anywhere`
    one to `most` of its frames, never all.
    """

    probability: float = 0.0
    anywhere: bool = False
    most: int = 2

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise InputError(f"keyframes.probability is {self.probability}; it is a share between 0 and 1")
        if self.most < 1:
            raise InputError(f"keyframes.most is {self.most}; it must be at least 1")


@dataclass(frozen=True)
class Recognition:
    """The auxiliary task of `train.recognition`: heads on `blocks`, their loss times `weight`; none without blocks."""

    blocks: tuple[str, ...] = ()
    weight: float = 1.0
    cells: int = 16  # per side of the frame


@dataclass(frozen=True)
class Group:
    """Parameters whose name matches the regular expression `match` train at their own rate and schedule."""

    match: str
    learning_rate: float | None = None  # null: the optimizer's
    schedule: str | None = None
    weight_decay: float | None = None

    def __post_init__(self):
        _expression("optimizer.groups.match", self.match)
        if self.schedule not in (None, *SCHEDULES):
            raise InputError(f"optimizer.groups.schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")


SCHEDULES = ("constant", "cosine", "linear")


@dataclass(frozen=True)
class Optimizer:
    """AdamW, its rate over the run, and the groups that differ: the first that matches a name has it."""

    kind: str = "adamw"  # or "adamw8bit", where bitsandbytes is installed
    learning_rate: float = 3e-5
    schedule: str = "constant"
    final_learning_rate: float = 1e-6  # what cosine and linear end at
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01  # of matrices; vectors have none
    gradient_clip: float = 1.0
    groups: tuple[Group, ...] = ()

    def __post_init__(self):
        if self.kind not in ("adamw", "adamw8bit"):
            raise InputError(f"optimizer.kind is {self.kind!r}; allowed: 'adamw', 'adamw8bit'")
        if self.schedule not in SCHEDULES:
            raise InputError(f"optimizer.schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")
        if not self.learning_rate > 0:
            raise InputError(f"optimizer.learning_rate is {self.learning_rate}; it must be above 0")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters by peft on the linear layers whose name matches `targets`; the rest of the U-Net is frozen."""

    rank: int = 16
    alpha: float = 16.0
    targets: str = r"attn1|attn2|attn_temp"
    dropout: float = 0.0

    def __post_init__(self):
        _expression("lora.targets", self.targets)
        if self.rank < 1:
            raise InputError(f"lora.rank is {self.rank}; it must be at least 1")


@dataclass(frozen=True)
class Language:
    """LGVI-I's reader of requests (arXiv 2401.10226, section 4.2), which trains with the U-Net; see `train.talk_start`.

    It starts from a request encoder that was trained before (`initialise`: the public LGVI-I folder over `base`, or one
    whole file), from LLaVA with a new head (`base`), or from nothing (`vision` and `text`).

    trainable: a regular expression, only its parameters whose name matches train; null: what LGVI-I trains of LLaVA,
    and all of one from nothing. language, sight: weights of the loss on the answers' words, and of an auxiliary task of
    drawn clips: the vision tower's patches tell what stands there (`train.talk_model.Sight`). tower_steps: after so
    many steps the vision tower stays as it is; null: it trains to the end where it is trainable.
    """

    initialise: str | None = None
    base: str | None = None  # LLaVA-1.5-7B's folder
    vision_tower: str | None = None  # CLIP's folder, where LLaVA's has none of its own
    vision: dict = field(default_factory=dict)  # a CLIPVisionConfig, or with `model_type: swin` a SwinConfig
    text: dict = field(default_factory=dict)  # a LlamaConfig
    tokenizer_sentences: int = 8000  # conversations that a new tokenizer learns from
    tokenizer_size: int = 640
    system_prompt: str | None = None  # null: that of `initialise`, or `train.talk_start.SYSTEM_PROMPT`
    trainable: str | None = None
    lora: Lora | None = None  # adapters on layers of the language model, beside what is trainable
    unet: bool = True  # the U-Net trains too
    language: float = 0.1
    sight: float = 0.0
    sight_cells: int = 8  # per side of the frame
    tower_steps: int | None = None

    def __post_init__(self):
        _expression("request_encoder.trainable", self.trainable or "")
        new = bool(self.vision) and bool(self.text)
        if bool(self.vision) != bool(self.text) or new == bool(self.initialise or self.base):
            raise InputError(
                "request_encoder: give initialise (a request encoder), base (LLaVA's folder), or both; or else vision "
                "and text, the sizes of a new one"
            )
        if self.tokenizer_size < 320:
            raise InputError(f"request_encoder.tokenizer_size is {self.tokenizer_size}; it must be at least 320")
        if self.tower_steps is not None and self.tower_steps < 0:
            raise InputError(f"request_encoder.tower_steps is {self.tower_steps}; it must be at least 0, or null")
        if self.sight_cells < 1:
            raise InputError(f"request_encoder.sight_cells is {self.sight_cells}; it must be at least 1")


@dataclass(frozen=True)
class Watch:
    """What a person sees of a run, see `train.watch`; steps are the optimiser's."""

    log_every: int = 50
    sample_every: int = 1000  # held-out loss, sample strips
    samples: int = 96  # held-out clips
    data: str = "synthetic"  # a name under `data`: where the held-out clips come from
    tensorboard: bool = True
    wandb: str | None = None  # a project's name


@dataclass(frozen=True)
class Saving:
    """When a run's state is written, and what of it stays."""

    minutes: float | None = 5.0
    steps: int | None = None
    keep_last: int = 1
    keep_best: bool = False  # by the held-out loss


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. Paths are relative to where the command is given.

    `initialise` is a checkpoint to start from: ours, LGVI's, CoCoCo's shards beside their base, or MagicBrush,
    InstructPix2Pix, Stable Diffusion 1.5 or the same for inpainting, as a folder or one file. Without it everything is
    made new from `unet`, `autoencoder` and `text_encoder`; with it, `unet` holds what differs from the checkpoint's
    config.
    """

    output: str
    steps: int
    batches: tuple[Batches, ...]
    version: int = VERSION
    seed: int = 0
    initialise: str | None = None
    initialise_motion: str | None = None  # a file of AnimateDiff's, the first weights of motion blocks that are new
    unet: dict = field(default_factory=dict)
    autoencoder: dict = field(default_factory=dict)
    text_encoder: dict = field(default_factory=dict)
    scheduler: dict = field(default_factory=dict)
    tokenizer_sentences: int = 20000
    tokenizer_merges: int = 600
    data: dict = field(default_factory=lambda: {"synthetic": {"kind": "synthetic"}})  # name: {kind, root, ...}
    cache: str | None = None  # folder for latents and text features of what is not trained
    train_text_encoder: bool = False
    trainable: str = ""  # regular expression: only the U-Net's parameters whose name matches train; empty: all
    lora: Lora | None = None
    optimizer: Optimizer = field(default_factory=Optimizer)
    ema_decay: float | None = 0.999
    loss: LossWeights = field(default_factory=LossWeights)
    dropout: Dropout = field(default_factory=Dropout)
    keyframes: Keyframes = field(default_factory=Keyframes)
    recognition: Recognition = field(default_factory=Recognition)
    request_encoder: Language | None = None
    noisiest: float = 0.0  # share of the samples at the last timestep; the rest is uniform
    precision: str = "fp32"  # or "bf16", "fp16"
    gradient_checkpointing: bool = False
    workers: int = 2
    watch: Watch = field(default_factory=Watch)
    saving: Saving = field(default_factory=Saving)
    max_minutes: float | None = None  # save and leave after this long; the same command goes on from there
    sampling: dict = field(default_factory=dict)  # what the checkpoint recommends
    training_size: dict = field(default_factory=dict)  # width, height, frames that the checkpoint states
    licence: str = "Apache-2.0"

    def __post_init__(self):
        if self.version > VERSION:
            raise InputError(f"the config is of version {self.version}, this code knows up to {VERSION}: update lgvi")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise InputError(f"precision is {self.precision!r}; allowed: 'fp32', 'bf16', 'fp16'")
        if self.tokenizer_merges < 1:
            raise InputError(f"tokenizer_merges is {self.tokenizer_merges}; it must be at least 1")
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; it must be at least 1")
        if self.initialise_motion is not None and self.initialise is None:
            raise InputError("initialise_motion gives motion blocks their first weights; initialise must give the rest")
        _expression("trainable", self.trainable)
        self._check_batches()
        for block in self.recognition.blocks:
            side, _, level = block.partition(".")
            count = len(self.unet.get("block_out_channels", (0,) * 4))
            if side not in ("down_blocks", "up_blocks") or not level.isdigit() or int(level) >= count:
                raise InputError(f"recognition.blocks names {block!r}; allowed: down_blocks.0 to up_blocks.{count - 1}")
        self._check_language()
        if not 0 <= self.noisiest <= 1:
            raise InputError(f"noisiest is {self.noisiest}; it is a share between 0 and 1")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay is {self.ema_decay}; it is from 0 to below 1, or null for none")

    def _check_language(self):
        language = self.request_encoder
        for i, batch in enumerate(self.batches):
            if batch.only and (language is None or not getattr(language, batch.only)):
                raise InputError(
                    f"batches[{i}].only is {batch.only!r}; that needs a request_encoder whose {batch.only} is not 0"
                )
        if language is None:
            return
        if self.train_text_encoder or self.recognition.blocks or self.cache:
            raise InputError(
                "a request_encoder takes the text encoder's place: leave out train_text_encoder, recognition and cache"
            )
        if not language.unet and (self.trainable or self.lora):
            raise InputError("request_encoder.unet is false, so nothing of the U-Net trains: leave out trainable, lora")

    def _check_batches(self):
        if not self.batches:
            raise InputError("batches must name at least one kind of batch")
        for name in (*(batch.data for batch in self.batches), self.watch.data):
            if name not in self.data:
                raise InputError(f"batches: data {name!r} is not among those under `data`: {', '.join(self.data)}")
        edges = {0, *(b.start for b in self.batches), *(b.end for b in self.batches if b.end is not None)}
        for step in sorted(edge for edge in edges if edge < self.steps):
            if not any(b.covers(step) for b in self.batches):
                raise InputError(f"batches: no kind of batch is in use at step {step}; steps are 0 to {self.steps - 1}")


def load(path: str | Path, overrides: list[str] = ()) -> TrainConfig:
    """Read a config file; `overrides` are `key=value`, a dot goes one level down (`loss.mask=0.5`).

    A file may say `extends: OTHER.yaml`, a file beside it: then it holds what differs, groups of keys key by key.

    Raises `InputError` for a file that is no YAML mapping, a key that does not exist (it names the nearest one that
    does), or a value that does not fit.
    """
    values = read(Path(path))
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
    return build(TrainConfig, values)


def read(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """The values of a config file and of those it extends."""
    if not path.is_file():
        raise InputError(f"config {path} does not exist; shipped configs are in train/configs")
    if path.resolve() in seen:
        raise InputError(f"config {path} extends itself")
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"config {path} is no valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"config {path} must be a mapping of keys to values")
    base = values.pop("extends", None)
    if base is None:
        return values
    return _merged(read(path.parent / str(base), (*seen, path.resolve())), values)


def _merged(base: dict, changes: dict) -> dict:
    both = {name for name, value in changes.items() if isinstance(value, dict) and isinstance(base.get(name), dict)}
    return {**base, **changes, **{name: _merged(base[name], changes[name]) for name in both}}


def build(kind, values: dict, where: str = ""):
    """The dataclass `kind` from plain values, dataclasses and tuples of them inside included; `where` names the place.

    Raises `InputError` for keys that do not exist or are missing, and for values of another type.
    """
    if not isinstance(values, dict):
        raise InputError(f"config key {where.rstrip('.')} is {values!r}; expected a group of keys")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            nearest = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"; did you mean {where}{nearest[0]}?" if nearest else f"; known: {', '.join(sorted(fields))}"
            raise InputError(f"config key {where}{name} does not exist{hint}")
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    absent = [where + name for name in required if name not in values]
    if absent:
        raise InputError(f"config keys are missing: {', '.join(absent)}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _fit(value, hints[name], where + name) for name, value in values.items()})


def _fit(value, hint, where: str):
    """`value` as the type `hint` wants it."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where + ".")
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"config key {where} is {value!r}; expected a list")
        item = typing.get_args(hint)[0]
        return tuple(_fit(part, item, f"{where}[{i}]") for i, part in enumerate(value))
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        note = "; YAML reads 1e-3 as text: write 1.0e-3" if hint is float and isinstance(value, str) else ""
        raise InputError(f"config key {where} is {value!r}; expected {hint.__name__}{note}")
    return value


def _expression(name: str, text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise InputError(f"{name} is {text!r}, no valid regular expression: {error}") from None
