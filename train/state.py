"""What a run must remember to go on as if it had never stopped: folders that are whole or not there."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import pickle
import re
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError, safe_open
from torch import nn

from lgvi_core.errors import InputError

from .config import TrainConfig
from .optimizer import EMA

log = logging.getLogger(__name__)

FACTS = "state.json"  # step, config and the like, beside what accelerate writes
NAME = re.compile(r"step-(\d+)")
NOT_WRITTEN = (OSError, RuntimeError, SafetensorError)
NOT_READ = (*NOT_WRITTEN, KeyError, ValueError, pickle.UnpicklingError)

# Keys of the config that change nothing of what is computed, and those that may be changed with open eyes.
NEUTRAL = re.compile(
    r"(output|version|workers|max_minutes|cache|licence|gradient_checkpointing)$|(watch|saving|sampling|training_size)\b"
)
BY_HAND = re.compile(
    r"(steps|data\.\w+\.root|batches\.\d+\.(micro|end)|optimizer\.(final_)?learning_rate|optimizer\.(schedule|warmup_steps)"
    r"|optimizer\.groups\.\d+\.(learning_rate|schedule))$"
)


class States:
    """The folders `step-NNNNNN` of one run: parameters that train, optimizer, scaler and random numbers as accelerate
    writes them, the average (EMA), and the config. What does not train is made again from the config.

    A state of one process can be gone on from with several and the other way round, but not where parameters are
    sharded (FSDP, DeepSpeed). All processes must see the folder and call `save` and `restore` together.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, model: nn.Module, ema: EMA | None, config: TrainConfig):
        if config.saving.keep_last < 1:
            raise InputError(f"saving.keep_last is {config.saving.keep_last}; at least 1 state must stay")
        self.folder, self.accelerator, self.ema, self.config = folder, accelerator, ema, config
        self.sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        self.best: dict | None = None  # step and loss of the state with the lowest held-out loss
        self.trained = {name for name, p in accelerator.unwrap_model(model).named_parameters() if p.requires_grad}
        accelerator.register_save_state_pre_hook(self._only_what_trains)
        accelerator.register_load_state_pre_hook(self._without_wrappers)

    def steps(self) -> list[int]:
        """Of which steps there are states, in order."""
        names = (NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in names if match)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def save(self, step: int) -> None:
        """Write the state after `step` steps, then remove those that need not stay.

        Raises `InputError` where it cannot be written, as on a full disk; what was there before stays.
        """
        if step in self.steps():
            return
        temporary = self.folder / f".{self.path(step).name}.tmp"
        main, rank = self.accelerator.is_main_process, self.accelerator.process_index
        problem = None
        try:
            self.accelerator.save_state(str(temporary))
            if self.ema is not None and (main or self.sharded):
                torch.save(self.ema.average, temporary / f"ema_{rank}.pt")
        except NOT_WRITTEN as error:
            problem = error
        self._agree(problem, temporary)
        try:
            if main:
                (temporary / FACTS).write_text(json.dumps(self._facts(step), indent=1))
                flush(temporary)
                os.replace(temporary, self.path(step))
                flush(self.folder)
        except OSError as error:
            problem = error
        self._agree(problem, temporary)
        if main:
            self._prune()

    def restore(self) -> int:
        """Load the newest state and return its step; 0 where there is none.

        Raises `InputError` for a state of a run with another config, naming the keys, and for a damaged one.
        """
        if self.accelerator.is_main_process:
            for left in self.folder.glob(".step-*"):
                shutil.rmtree(left)
        self.accelerator.wait_for_everyone()
        if not self.steps():
            return 0
        step = self.steps()[-1]
        path = self.path(step)
        try:
            facts = json.loads((path / FACTS).read_text("utf-8"))
            self._check(path, facts)
            self._load(path)
        except InputError:
            raise
        except NOT_READ as error:
            raise InputError(f"the state {path} cannot be read ({error}): delete it and go on from before") from None
        self.best = facts["best"]
        return step

    def _facts(self, step: int) -> dict:
        return {
            "step": step,
            "processes": self.accelerator.num_processes,
            "kind": self.accelerator.distributed_type.value if self.sharded else "whole",
            "best": self.best,
            "config": plain(self.config),
        }

    def _check(self, path: Path, facts: dict) -> None:
        now = self._facts(facts["step"])
        kinds = [(f["kind"], f["processes"] if self.sharded else 1) for f in (facts, now)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f"the state {path} is of {facts['processes']} processes ({facts['kind']}), this run has "
                f"{now['processes']} ({now['kind']}): sharded states need the same again"
            )
        changed = differences(facts["config"], now["config"])
        refused = [line for name, line in changed.items() if not BY_HAND.match(name)]
        if refused:
            raise InputError(
                f"the state {path} is of a run with another config: {'; '.join(refused)}. "
                f"Set them back, use another output, or delete {self.folder}"
            )
        for line in changed.values():
            log.warning("going on with another config than before: %s", line)

    def _load(self, path: Path) -> None:
        if self.sharded:
            self.accelerator.load_state(str(path))
        else:
            with safe_open(path / "model.safetensors", "pt") as file:
                odd = self.trained ^ set(file.keys())
            if odd:
                raise InputError(f"the state {path} is of another model: {', '.join(sorted(odd)[:5])}")
            self.accelerator.load_state(str(path), strict=False)
        if self.ema is not None:
            file = path / f"ema_{self.accelerator.process_index if self.sharded else 0}.pt"
            for average, saved in zip(self.ema.average, torch.load(file, map_location="cpu"), strict=True):
                average.copy_(saved)

    def _agree(self, problem: Exception | None, temporary: Path) -> None:
        """Every process raises where one has a problem; none waits for another that gave up."""
        failed = torch.tensor(float(problem is not None), device=self.accelerator.device)
        if not self.accelerator.reduce(failed):
            return
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        reason = problem or "another process has the reason"
        last = self.steps()
        left = f"the same command then goes on from {self.path(last[-1])}" if last else "there is none before it"
        raise InputError(f"the state {temporary} cannot be written: {reason}. Make room; {left}") from problem

    def _prune(self) -> None:
        """Renamed before it is removed, so that half a state never has a state's name."""
        kept = {*self.steps()[-self.config.saving.keep_last :], self.best["step"] if self.best else None}
        for step in set(self.steps()) - kept:
            doomed = self.folder / f".{self.path(step).name}.old"
            os.replace(self.path(step), doomed)
            shutil.rmtree(doomed)

    def _only_what_trains(self, models, weights, _folder):
        for i, state in enumerate(weights):
            state = {name.removeprefix("module."): value for name, value in state.items()}  # as DDP calls it
            weights[i] = {name: value for name, value in state.items() if name in self.trained}

    def _without_wrappers(self, models, _folder):
        models[:] = [self.accelerator.unwrap_model(model) for model in models]


def plain(config: TrainConfig) -> dict:
    """A config as JSON gives it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(before: dict, now: dict) -> dict[str, str]:
    """A line for each key whose value differs, by its dotted name; neutral keys are left out."""
    before, now = (dict(leaves(values)) for values in (before, now))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name) and not NEUTRAL.match(name)]
    return {name: f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names}


def leaves(value, name: str = ""):
    """Pairs of dotted name and value of nested mappings and lists."""
    if not isinstance(value, (dict, list)):
        yield name, value
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from leaves(inner, f"{name}.{key}" if name else str(key))


def flush(folder: Path) -> None:
    """Wait until a folder and all files in it are on the disk."""
    for path in (*(p for p in folder.rglob("*") if p.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
