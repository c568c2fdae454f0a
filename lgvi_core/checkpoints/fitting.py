"""From a source to a checkpoint: empty modules, a check of names and shapes, and only then the weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models import InflatedUNet
from ..models.autoencoder import autoencoder_from_config
from ..models.text_encoder import TextEncoder
from .checkpoint import Checkpoint, Source
from .files import listing
from .weights import DTYPES, Weights, place

MASK_DECODER = "mask_decoder."


def load_source(source: Source, device: torch.device, dtype: torch.dtype | None) -> Checkpoint:
    """Reads the weights of a source, after everything that can be checked without them has been.

    Holds one copy of the weights: modules start on the meta device and take over the tensors as they are read.
    """
    unet, missing = empty_unet(source)
    vae = empty_autoencoder(source)
    text_encoder = empty_text_encoder(source)
    shared = ("scheduler_config", "training", "sampling", "family", "licence", "path", "notes")
    checkpoint = Checkpoint(
        unet.config, unet, vae, text_encoder, missing=missing, **{name: getattr(source, name) for name in shared}
    )
    checkpoint.check(str(source.path))
    fill(unet, source.unet, device, dtype)
    if source.vae:
        fill(vae.vae, source.vae, device, dtype)
    if text_encoder is not None:
        fill(text_encoder.model, named_as(text_encoder.model, source.text_encoder), device, dtype)
    for part in (unet, vae, text_encoder):
        if part is not None:
            part.eval()
    return checkpoint


def empty_unet(source: Source) -> tuple[InflatedUNet, tuple[str, ...]]:
    """The U-Net on the meta device, and the names of the mask decoder's weights if the source has none of them.

    Raises `InputError` if the source's names or shapes do not fit. A U-Net with a gate needs its mask decoder.
    """
    config, weights = source.unet_config, source.unet
    unet = empty_module(source, "U-Net", lambda: InflatedUNet(config))
    missing = ()
    if config.has_mask_decoder and not config.gate and not any(name.startswith(MASK_DECODER) for name in weights):
        missing = tuple(name for name in unet.state_dict() if name.startswith(MASK_DECODER))
        config = dataclasses.replace(config, mask_decoder_type=None)
        unet = empty_module(source, "U-Net", lambda: InflatedUNet(config))
    check_fit(unet.state_dict(), weights, source, "U-Net")
    return unet, missing


def empty_autoencoder(source: Source) -> nn.Module | None:
    if source.vae_config is None:
        return None
    vae = empty_module(source, "autoencoder", lambda: autoencoder_from_config(source.vae_config))
    expected = vae.vae.state_dict() if hasattr(vae, "vae") else {}
    check_fit(expected, source.vae, source, "autoencoder")
    return vae


def empty_text_encoder(source: Source) -> TextEncoder | None:
    if source.text_config is None:
        return None
    if not source.tokenizer_files:
        raise InputError(
            f"{source.path} has a text encoder and no tokenizer: put the folder tokenizer of Stable Diffusion 1.5 "
            "(vocab.json and merges.txt) into it or beside its base"
        )
    text_encoder = empty_module(source, "text encoder", lambda: TextEncoder(source.text_config, source.tokenizer_files))
    expected = bare_text_names(text_encoder.model.state_dict())
    check_fit(expected, source.text_encoder, source, "text encoder")
    return text_encoder


def bare_text_names(values: Mapping[str, object]) -> dict:
    """CLIP text weights without the `text_model.` level (which not every transformers has) and without position ids."""
    values = {name.removeprefix("text_model."): value for name, value in values.items()}
    return {name: value for name, value in values.items() if not name.endswith("position_ids")}


def named_as(model: nn.Module, weights: Weights) -> Weights:
    """Bare text weights under the names that the installed transformers gives them."""
    names = {name.removeprefix("text_model."): name for name in model.state_dict()}
    return {names[name]: weight for name, weight in weights.items()}


def check_fit(expected: Mapping[str, Tensor], weights: Weights, source: Source, part: str) -> None:
    """Raises one `InputError` with every way in which names, shapes and types differ from what is expected."""
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    both = [name for name in expected if name in weights]
    shapes = [
        f"{name} is {weights[name].shape}, expected {tuple(expected[name].shape)}"
        for name in both
        if weights[name].shape != tuple(expected[name].shape)
    ]
    types = [f"{name} is {weights[name].dtype}" for name in both if weights[name].dtype not in DTYPES.values()]
    problems = [
        f"{len(names)} {what}: {listing(names)}"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of a type that is not float64, float32, float16 or bfloat16", types),
        )
        if names
    ]
    if problems:
        where = place(weights) if weights else str(source.path)
        raise InputError(
            f"{where} does not fit the {part} that its config describes; {'; '.join(problems)}. "
            "Check that config and weights belong together, or download both again"
        )


def fill(module: nn.Module, weights: Weights, device: torch.device, dtype: torch.dtype | None) -> None:
    """Reads weights into a module on the meta device; `InputError` names those that are not finite."""
    tensors = read_values(weights, device, stored_dtype(weights, device) if dtype is None else dtype)
    module.load_state_dict(tensors, strict=False, assign=True)  # names are checked; position ids come from nowhere
    for name, buffer in list(module.named_buffers()):
        if buffer.is_meta:  # CLIP's position ids
            owner, _, name = name.rpartition(".")
            ids = torch.arange(buffer.shape[-1], device=device).expand(buffer.shape)
            setattr(module.get_submodule(owner), name, ids)


def read_values(
    weights: Weights, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The values of weights by name, each of its own type without a `dtype`; `InputError` names those not finite."""
    tensors, broken = {}, []
    for name, weight in weights.items():
        tensors[name] = weight.read().to(device, dtype)
        if not finite(tensors[name]):
            broken.append(name)
    if broken:
        raise InputError(
            f"{place(weights)} has NaN or infinite values as {dtype or 'stored'}, in {len(broken)} of {len(weights)} "
            f"tensors: {listing(broken)}. The file is damaged or was saved from a training run that diverged"
        )
    return tensors


def stored_dtype(weights: Weights, device: torch.device) -> torch.dtype:
    """The widest type among the weights; float32 for float16 on a CPU, which computes in it slowly or not at all."""
    dtype = reduce(torch.promote_types, {weight.dtype for weight in weights.values()})
    return torch.float32 if dtype == torch.float16 and device.type == "cpu" else dtype


def usable_device(device: torch.device | str) -> torch.device:
    """The device with its index; `InputError` if this computer does not have it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {str(device)!r} cannot be used on this computer: {error}") from error


def finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite, without a copy of the tensor."""
    return tensor.numel() == 0 or all(bound.isfinite().item() for bound in tensor.aminmax())


def empty_module(source: Source, part: str, build):
    """What `build` makes, on the meta device; an `InputError` that names the source's `part` if it cannot."""
    try:
        with torch.device("meta"):
            return build()
    except ImportError as error:
        raise InputError(f"{source.path}: its {part} needs pip install 'lgvi[standalone]' ({error})") from error
    except Exception as error:  # diffusers, transformers and tokenizers have errors of every kind for a bad config
        raise InputError(f"{source.path}: no {part} can be made from its config: {error}") from error
