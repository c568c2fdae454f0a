"""The training loop, on accelerate: any model, any objective."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    broadcast,
    gather_object,
)
from torch import Tensor, nn

from lgvi_core.errors import InputError

from . import optimizer as optimizers
from .config import TrainConfig
from .data.dialogues import plain
from .objectives import Losses, mixed
from .state import States

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
PATIENCE = timedelta(hours=2)  # of the other processes while the first looks at held-out clips


@contextlib.contextmanager
def accelerated(config: TrainConfig, device: str | None) -> Iterator[Accelerator]:
    """An `Accelerator` as its launcher and the config say, taken down again at the end.

    Precision is the config's. Raises `InputError` for a device that is not there, fp16 on a CPU, DeepSpeed's stage 3,
    and a port that another run has.
    """
    if device not in (None, "cpu"):
        try:
            torch.cuda.set_device(device)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise InputError(f"device {device!r} cannot be used on this computer: {error}") from None
    if config.precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise InputError("precision is 'fp16', which needs a GPU; on a CPU use 'fp32' or 'bf16'")
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False),
        InitProcessGroupKwargs(timeout=PATIENCE),
    ]
    try:
        accelerator = Accelerator(
            mixed_precision=PRECISIONS[config.precision], cpu=device == "cpu", kwargs_handlers=handlers
        )
    except RuntimeError as error:
        if "EADDRINUSE" not in str(error) and "already in use" not in str(error):
            raise
        raise InputError(
            f"the port of this distributed run is in use, perhaps by another run; choose another with "
            f"`accelerate launch --main_process_port PORT` ({str(error).splitlines()[0]})"
        ) from None
    try:
        yield accelerator
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


class Trainer:
    """A model with its optimizer, average and states; `step` says how many steps are done.

    model: whose `forward` the objective calls; parameters with `requires_grad` train. folder: where states lie; the
    newest there is restored. Raises `InputError` as `States.restore` and `optimizer.make_optimizer` do.
    """

    def __init__(self, config: TrainConfig, model: nn.Module, accelerator: Accelerator, folder: Path):
        self.config, self.accelerator = config, accelerator
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            plugin = accelerator.state.deepspeed_plugin
            if plugin.zero_stage > 2:
                raise InputError("DeepSpeed's stage 3 is not supported: use stage 2, or FSDP")
            clip = config.optimizer.gradient_clip
            plugin.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": clip}
        groups = optimizers.parameter_groups(model, config.optimizer)
        fused = accelerator.device.type in ("cuda", "cpu")
        optimizer = optimizers.make_optimizer(groups, config.optimizer, fused)
        self.bare = model.train()
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        decay = config.ema_decay
        self.ema = None if decay is None else optimizers.EMA(self.model.parameters(), decay)
        self.states = States(folder, accelerator, self.model, self.ema, config)
        self.step = self.states.restore()

    def train(self, batches: Iterable[dict], objective, watcher, autoencoder, export: Callable[[str], None]) -> bool:
        """Take the steps that are left and say whether all are done; False when time was up before.

        batches: passes as `train.data.mixing.loader` gives them, from `step` on. objective(model, pass, seed, step)
        gives `train.objectives.Losses`, `names` its parts. watcher: `train.watch.Watcher`. export("best") is called
        where a held-out loss is the lowest so far and `saving.keep_best` is set.

        Raises `KeyboardInterrupt` when asked to stop (Ctrl-C, SIGTERM), between two steps and after saving;
        `FloatingPointError` naming samples when the loss is not finite; `InputError` where no sample of a step can be
        read, or a state cannot be written.
        """
        began = saved = time.monotonic()
        minutes, saving = self.config.max_minutes, self.config.saving
        seen, shown = Seen(), False
        with signals() as asked:
            for batch in batches:
                if not shown:
                    watcher.first_batch(batch)
                    shown = True
                self._one_pass(batch, objective, seen)
                if not batch["last"]:
                    continue
                now = time.monotonic()
                late = minutes is not None and now - began > 60 * minutes
                due = saving.minutes is not None and now - saved > 60 * saving.minutes
                flags = [bool(asked), late, due and self.accelerator.is_main_process]
                stop, late, due = self._one_step(seen, objective.names, flags, watcher)
                seen = Seen()
                best = self._hold_out(objective, watcher, autoencoder, export)
                leaving = stop or late or self.step == self.config.steps
                if leaving or due or best or (saving.steps and self.step % saving.steps == 0):
                    self.states.save(self.step)
                    saved = time.monotonic()
                if stop:
                    raise KeyboardInterrupt
                if leaving:
                    break
        return self.step == self.config.steps

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts, the model has the average of its parameters, if the run keeps one."""
        if self.ema is not None:
            self.ema.swap()
        try:
            yield
        finally:
            if self.ema is not None:
                self.ema.swap()

    def _one_pass(self, batch: dict, objective, seen: Seen) -> None:
        """Forward and backward; the gradients of a step's passes add up, and are exchanged with the last."""
        if batch["step"] != self.step:
            raise RuntimeError(f"the loader is at step {batch['step']}, the run at step {self.step}")
        optimizers.set_rates(self.optimizer.param_groups, optimizers.rates(self.config, self.step))
        seen.broken += batch["broken"]
        readable = len(batch["positions"]) > 0
        if not readable:
            batch = placeholder(batch)
        torch.manual_seed(mixed(self.config.seed, self.step, int(batch["positions"][0])))  # for dropout in the model
        self.accelerator.sync_gradients = batch["last"]
        with contextlib.nullcontext() if batch["last"] else self.accelerator.no_sync(self.model):
            losses = objective(self.model, batch, self.config.seed, self.step)
            self.accelerator.backward(losses.total * batch["share"])
        if readable:
            seen.passes.append((batch["share"], batch["name"], losses.detach()))

    def _one_step(self, seen: Seen, names: tuple[str, ...], flags: list[bool], watcher) -> list[bool]:
        """The optimizer's step; returns which `flags` any process has raised."""
        highest = self.config.optimizer.gradient_clip or math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), highest)
        if norm is None or self.accelerator.scaler is not None:
            norm = 0.0  # DeepSpeed and the scaler of fp16 look after gradients that are not finite
        counts = [seen.samples, len(seen.broken), *map(float, flags)]
        mine = torch.tensor([*counts, 0.0], device=self.accelerator.device)
        mine[-1] = norm
        mine = torch.cat([mine, seen.sums(names).to(mine)])
        samples, broken, *rest = self.accelerator.reduce(mine).tolist()  # the one wait for the device in a step
        flags, (norm, share, *sums) = [value > 0 for value in rest[: len(flags)]], rest[len(flags) :]
        broken = gather_object(seen.broken) if broken else []
        if not samples:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in broken[:3])
            raise InputError(f"no sample of step {self.step} can be read: {reasons}")
        losses = dict(zip(("total", *names), (value / share for value in sums)))
        if not math.isfinite(losses["total"] + norm):
            self._not_finite(seen, losses, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        at, self.step = self.step, self.step + 1
        if self.ema is not None:
            self.ema.update(self.step)
        timesteps, per_sample = (torch.cat(values) for values in seen.by_sample())
        rates = optimizers.rates(self.config, at)
        watcher.step(at, losses, rates, timesteps, per_sample, int(samples), broken)
        return flags

    def _not_finite(self, seen: Seen, losses: dict, norm: float) -> None:
        """Save what is still good and stop, naming the samples."""
        samples = ", ".join(gather_object(seen.suspects()))
        values = ", ".join(f"{name} {value:.4g}" for name, value in {**losses, "gradient norm": norm}.items())
        where = f"not finite at step {self.step}: {values}; samples: {samples}"
        good = all(bool(p.isfinite().all()) for p in self.model.parameters() if p.requires_grad)
        if self.accelerator.reduce(torch.tensor(float(not good), device=self.accelerator.device)):
            raise FloatingPointError(f"{where}. The parameters are not finite either: lower the rate")
        self.states.save(self.step)
        raise FloatingPointError(f"{where}. The parameters are finite and saved: look at these samples")

    def _hold_out(self, objective, watcher, autoencoder, export) -> bool:
        """Look at held-out clips where it is time; whether the state is to be kept as the best so far."""
        if self.accelerator.distributed_type == DistributedType.FSDP:
            return False  # a forward pass there needs all processes, and the watcher is on one
        loss = math.inf
        if watcher.due(self.step):
            with self.averaged():
                loss = watcher.hold_out(self.step, self.bare, objective, autoencoder)
        if not self.config.saving.keep_best or self.step % self.config.watch.sample_every:
            return False
        loss = broadcast(torch.tensor(loss, device=self.accelerator.device)).item()
        if self.states.best is not None and loss >= self.states.best["loss"]:
            return False
        self.states.best = {"step": self.step, "loss": loss}
        export("best")
        return True


@dataclass
class Seen:
    """What the passes of one step gave: share, names and losses of each, and the samples that could not be read."""

    passes: list[tuple[float, list[str], Losses]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return sum(len(names) for _, names, _ in self.passes)

    def sums(self, names: tuple[str, ...]) -> Tensor:
        """Sums over passes of their share, and of it times `total` and the parts `names`; 0 for what is not there."""
        rows = [torch.zeros(2 + len(names))]
        for share, _, losses in self.passes:
            zero = torch.zeros_like(losses.total)
            parts = [losses.parts.get(name, zero) for name in names]
            rows.append(share * torch.stack([zero + 1, losses.total, *parts]))
        return sum(row.to(rows[-1].device) for row in rows)

    def by_sample(self) -> tuple[list[Tensor], list[Tensor]]:
        """Timesteps and diffusion losses of the samples, by pass."""
        losses = [losses for _, _, losses in self.passes]
        none = [torch.zeros(0)]
        return [each.timesteps for each in losses] or none, [each.per_sample for each in losses] or none

    def suspects(self) -> list[str]:
        """Names of the samples whose own loss is not finite; else of the passes whose is not; else of all."""
        passes = [(names, losses) for _, names, losses in self.passes]
        single = [name for names, losses in passes for name, ok in zip(names, losses.per_sample.isfinite()) if not ok]
        of_passes = [name for names, losses in passes if not losses.total.isfinite() for name in names]
        return single or of_passes or [name for names, _ in passes for name in names]


def placeholder(batch: dict) -> dict:
    """A pass of one black sample that counts for nothing, so that this process does what the others do."""
    tensors = {name: batch[name] for name in ("frames", "clean", "mask")}
    blank = {name: tensor.new_zeros((1, *tensor.shape[1:])) for name, tensor in tensors.items()}
    blank |= {"positions": torch.zeros(1, dtype=torch.int64), "sentence": [""], "name": ["nothing"], "share": 0.0}
    blank["dialogue"] = [plain("nothing")]
    return {name: batch[name] for name in ("step", "kind", "last", "broken", "only") if name in batch} | blank


@contextlib.contextmanager
def signals() -> Iterator[list]:
    """A list that fills when the process is asked to stop (Ctrl-C, SIGTERM), so that a step is never cut in two.

    Asked a second time by Ctrl-C it stops at once.
    """
    asked = []

    def note(number, _frame):
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, note) for kind in kinds]
    try:
        yield asked
    finally:
        for kind, handler in zip(kinds, before):
            signal.signal(kind, handler)
