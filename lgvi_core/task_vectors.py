"""An inpainting model in the style of personal models, by adding task vectors: no training.

    merge("sd-inpainting.safetensors", [Personal("style.safetensors", Strength.of(1.2))], "mine.safetensors")

theta = theta_base + alpha * (theta_inpaint - theta_base) + sum of beta * (theta_personal - theta_base), for U-Net, text
encoder and autoencoder (CoCoCo, https://arxiv.org/abs/2403.12035, equations 3 to 5; Ilharco et al.,
https://arxiv.org/abs/2212.04089). A LoRA's change is its task vector, so LoRA files need no base model.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .checkpoints.files import listing
from .checkpoints.fitting import finite
from .checkpoints.weights import Weight, open_weights
from .errors import InputError
from .lora_files import Layer, LoraFile, fit, is_lora, open_lora, read_finite, refuse_foreign
from .model_parts import ModelFile, open_model, write_model
from .strength import ONE, Strength

log = logging.getLogger(__name__)

TITLES = {"unet": "U-Net", "text": "text encoder", "vae": "autoencoder"}
# What video inpainting has beside the networks of an image model: task vectors leave it as it is.
OWN = r"(^|\.)(motion_modules|attn_temp|norm_temp|mask_decoder|condition_conv_in|coordinate_conv_in)\."

# What whole checkpoints have beside the weights: the noise schedule's tables, and what CLIP does not encode with.
NO_WEIGHTS = r"^(alphas|betas|sqrt_|log_|posterior_|lvlb_|logvar|ddim_)|(position_ids|text_projection.*|logit_scale)$"
CHUNK = 1 << 22  # values that are rounded at a time


@dataclass(frozen=True)
class Personal:
    """A personal model: a checkpoint or LoRA file (or folder of diffusers), and its beta."""

    path: str | os.PathLike
    beta: Strength = ONE


@dataclass(frozen=True)
class Inpainting:
    """The inpainting model's own task vector of one tensor."""

    def of(self, stored: Tensor, base: Tensor) -> Tensor:
        return stored.double().sub_(base)


@dataclass(frozen=True)
class Difference:
    """The task vector of one tensor of a personal checkpoint."""

    weight: Weight
    what: str
    key: str  # its name in the file

    def of(self, stored: Tensor, base: Tensor) -> Tensor:
        return fitted(read_finite(self.weight, self.what).double(), stored.shape).sub_(base)


@dataclass(frozen=True)
class Change:
    """The task vector of one tensor from a LoRA file."""

    layer: Layer

    def of(self, stored: Tensor, base: Tensor | None) -> Tensor:
        return fitted(self.layer.delta(), stored.shape)


Vector = Inpainting | Difference | Change


@dataclass
class Plan:
    """What a merge will do: for each tensor that changes, task vectors and their factors, in an order that does not
    depend on the one they were given in. notes: what a person should know."""

    model: ModelFile
    base: ModelFile | None
    vectors: dict[tuple[str, str], list[tuple[float, Vector]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, part: str, name: str, factor: float, vector: Vector) -> None:
        self.vectors.setdefault((part, name), []).append((factor, vector))

    def value(self, part: str, name: str) -> Tensor:
        """The merged tensor in the stored type: summed in float64, rounded once. `InputError` names NaN or overflow."""
        what = f"{name} of the {TITLES[part]}"
        stored, base = read_finite(self.model.parts[part][name], what), None
        if self.base is not None and name in self.base.parts.get(part, {}):
            base = fitted(read_finite(self.base.parts[part][name], what).double(), stored.shape)
        total = stored.double()
        for factor, vector in self.vectors[part, name]:
            total.add_(vector.of(stored, base), alpha=factor)
        merged = rounded(total, stored.dtype)
        if not finite(merged):
            raise InputError(f"{what} comes out larger than {stored.dtype} can hold: take smaller alpha and beta")
        return merged


def merge(
    inpaint: str | os.PathLike,
    personals: list[Personal],
    output: str | os.PathLike,
    base: str | os.PathLike | None = None,
    alpha: Strength = ONE,
    ignore_unknown: bool = False,
    callback: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes the merged model to `output`, one safetensors file; returns notes on what was left out or has no effect.

    The file has the layout of `inpaint`, LDM names where that is a folder, and its types. With alpha 1 and beta 0 its
    tensors are those of `inpaint` bit for bit; the order of `personals` changes nothing. `base` may be None where alpha
    is 1 and every personal model is a LoRA. `callback(done, total)` counts tensors. One tensor is in memory at a time.
    Raises `InputError` for what does not fit, before weights are read, and for values that are not finite.
    """
    output = Path(output).expanduser()
    paths = [Path(path).expanduser() for path in (inpaint, base, *(one.path for one in personals)) if path is not None]
    if output.exists() and any(path.exists() and path.samefile(output) for path in paths):
        raise InputError(f"{output} is one of the files to merge; give another file to write")
    plan = make_plan(open_model(inpaint), personals, base, alpha, ignore_unknown)
    record = {
        "alpha": str(alpha),
        "base": None if base is None else Path(base).name,
        "inpaint": Path(inpaint).name,
        "personal": [[Path(one.path).name, str(one.beta)] for one in _sorted(personals)],
    }
    changed = {key: partial(plan.value, *key) for key in plan.vectors}
    write_model(plan.model, output, changed, {"task_vectors": record}, callback)
    return plan.notes


def make_plan(
    model: ModelFile,
    personals: list[Personal],
    base: str | os.PathLike | None,
    alpha: Strength,
    ignore_unknown: bool = False,
) -> Plan:
    """What a merge will do, from headers alone; `InputError` names what does not fit."""
    plan = Plan(model, None if base is None else open_model(base))
    if plan.base is not None:
        _check_base(plan)
    for part in model.parts:
        factor = getattr(alpha, part) - 1
        if factor:
            _needs_base(plan, part, f"alpha is {alpha}")
            for name in plan.base.parts[part]:
                plan.add(part, name, factor, Inpainting())
    for personal in _sorted(personals):
        _add(plan, personal, ignore_unknown)
    for note in plan.notes:
        log.warning("%s", note)
    return plan


def fits(shape: tuple[int, ...], wanted: tuple[int, ...], name: str) -> bool:
    """As `same`, and whether the first convolution has fewer channels going in."""
    if name == "conv_in.weight" and len(shape) == len(wanted) == 4:
        return shape[0] == wanted[0] and shape[2:] == wanted[2:] and shape[1] <= wanted[1]
    return same(shape, wanted, name)


def same(shape: tuple[int, ...], wanted: tuple[int, ...], name: str) -> bool:
    """Whether a tensor can stand for one of shape `wanted`: as a 1x1 convolution for a linear layer, or the reverse."""
    return _plain(shape) == _plain(wanted)


def fitted(value: Tensor, wanted: tuple[int, ...]) -> Tensor:
    """A tensor that fits in the shape `wanted`: the channels that it does not have are zero."""
    if math.prod(wanted) == value.numel():
        return value.reshape(wanted)
    padded = value.new_zeros(wanted)
    padded[:, : value.shape[1]] = value
    return padded


def rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    """float64 values in another type, each rounded once to the nearest: not by way of float32."""
    if dtype not in (torch.float16, torch.bfloat16):
        return value.to(dtype)
    if value.numel() > CHUNK:
        return torch.cat([rounded(part, dtype) for part in value.flatten().split(CHUNK)]).reshape(value.shape)
    single = value.float()
    beyond = single.double().abs() > value.abs()
    toward_zero = torch.where(beyond, torch.nextafter(single, torch.zeros_like(single)), single)
    inexact = (toward_zero.double() != value) & single.isfinite()
    # A last bit that says "there was more" (rounding to odd) makes the second rounding right.
    odd = torch.where(inexact, toward_zero.view(torch.int32) | 1, toward_zero.view(torch.int32))
    return torch.where(single.isfinite(), odd.view(torch.float32), single).to(dtype)


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:2] if shape[2:] == (1, 1) else tuple(shape)


def _sorted(personals: list[Personal]) -> list[Personal]:
    """In an order that does not depend on the one they were given in."""
    return sorted(personals, key=lambda one: (str(Path(one.path).expanduser().resolve()), str(one.beta)))


def _needs_base(plan: Plan, part: str, why: str) -> None:
    if plan.base is None:
        raise InputError(f"{why}, so the base model is needed: give Stable Diffusion 1.5 as base")
    if part not in plan.base.parts:
        raise InputError(f"{why}, but the base {plan.base.path} has no {TITLES[part]}; give a whole checkpoint")


def _check_base(plan: Plan) -> None:
    """Raises `InputError` unless the base has what the inpainting model has, but for what is a video model's own."""
    model, base = plan.model, plan.base
    for part, weights in model.parts.items():
        if part in base.parts:
            wanted = {name: weight for name, weight in weights.items() if not re.search(OWN, name)}
            problems = differences(base.parts[part], wanted, fits)
            if problems:
                raise InputError(f"the base {base.path} does not fit {model.path}: {'; '.join(problems)}")
    sizes = [one.parts.get("unet", {}).get("conv_in.weight") for one in (model, base)]
    if all(sizes) and sizes[0].shape[1] == 9 == sizes[1].shape[1]:
        raise InputError(f"the base {base.path} is an inpainting model itself (9 channels go in): give the one with 4")


def _add(plan: Plan, personal: Personal, ignore_unknown: bool) -> None:
    path = Path(personal.path).expanduser()
    if not any(getattr(personal.beta, part) for part in plan.model.parts):
        plan.notes.append(f"{path}: beta is 0, so it has no effect")
    if path.is_file() and is_lora(weights := open_weights(path)):
        _add_lora(plan, open_lora(path, weights), personal.beta, ignore_unknown)
    elif path.is_dir() and not (path / "unet").is_dir():
        _add_lora(plan, open_lora(path), personal.beta, ignore_unknown)
    else:
        _add_checkpoint(plan, open_model(path), personal.beta, ignore_unknown)


def _add_lora(plan: Plan, lora: LoraFile, beta: Strength, ignore_unknown: bool) -> None:
    parts = plan.model.parts
    layers, unknown, absent = fit(lora, {part: plan.model.callings(part) for part in parts})
    _note_absent(plan, lora.path, absent, beta)
    wrong = [
        f"{name} changes {layer.shape}, the {TITLES[part]} has {parts[part][name].shape}"
        for (part, name), layer in layers.items()
        if not fits(layer.shape, parts[part][name].shape, name)
    ]
    if wrong:
        refuse_foreign(lora)
    _report(plan, lora.path, [("layers that this model does not have", unknown), ("of another shape", wrong)],
            ignore_unknown)  # fmt: skip
    for (part, name), layer in layers.items():
        factor = getattr(beta, part)
        if factor and fits(layer.shape, parts[part][name].shape, name):
            plan.add(part, name, factor, Change(layer))


def _add_checkpoint(plan: Plan, personal: ModelFile, beta: Strength, ignore_unknown: bool) -> None:
    _note_absent(plan, personal.path, personal.parts.keys() - plan.model.parts.keys(), beta)
    loose = [key for key in personal.rest if not re.search(NO_WEIGHTS, key)]
    if loose:
        plan.notes.append(f"{personal.path}: left out, of no part of the model: {listing(loose)}")
    for part in plan.model.parts:
        factor = getattr(beta, part)
        if not factor:
            continue
        if part not in personal.parts:
            plan.notes.append(f"{personal.path} has no {TITLES[part]}: nothing is added there")
            continue
        _needs_base(plan, part, f"{personal.path} is a whole checkpoint")
        weights, base = personal.parts[part], plan.base.parts[part]
        problems = differences(weights, base, same)
        _report(plan, personal.path, [(f"in the {TITLES[part]}", problems)], ignore_unknown)
        for name, weight in weights.items():
            if name in base and same(weight.shape, base[name].shape, name):
                what = f"{name} of the {TITLES[part]}"
                plan.add(part, name, factor, Difference(weight, what, personal.keys[part, name]))


def _note_absent(plan: Plan, path: Path, parts: set[str], beta: Strength) -> None:
    for part in sorted(parts):
        if getattr(beta, part):
            plan.notes.append(f"{path} changes the {TITLES[part]}, which {plan.model.path} does not have: left out")


def differences(weights: Mapping[str, Weight], wanted: Mapping[str, Weight], agree: Callable[..., bool]) -> list[str]:
    """In what names and shapes differ, in words; `agree` (`fits` or `same`) tells which shapes do not."""
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    shapes = [
        f"{name} is {weight.shape}, expected {wanted[name].shape}"
        for name, weight in weights.items()
        if name in wanted and not agree(weight.shape, wanted[name].shape, name)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [f"{len(names)} {kind}: {listing(names)}" for kind, names in kinds if names]


def _report(plan: Plan, path: Path, found: list[tuple[str, list[str]]], ignore_unknown: bool) -> None:
    """What does not fit as an error, or as a note where that is wanted."""
    problems = [f"{kind}: {listing(names)}" for kind, names in found if names]
    if not problems:
        return
    if not ignore_unknown:
        raise InputError(
            f"{path} does not fit {plan.model.path}; {'; '.join(problems)}. To merge the rest, "
            "set ignore-unknown"
        )
    plan.notes.append(f"{path}: left out, {'; '.join(problems)}")
