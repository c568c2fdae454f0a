"""LoRA files: which layers each changes, and by how much.

    lora = open_lora("style.safetensors")                 # names and shapes only
    layers, unknown = fit(lora, names)                    # by the model's own names
    layers["unet", "conv_in.weight"].delta()              # float64, alpha / rank included

Read are kohya's names, diffusers' and peft's, ComfyUI's (`diffusion_model.`), and LyCORIS' LoCon with and without a
middle factor; layers that give their whole change (`diff`) too. (Hu et al., LoRA, https://arxiv.org/abs/2106.09685.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .checkpoints.families import Family
from .checkpoints.files import listing, read_json
from .checkpoints.fitting import finite
from .checkpoints.weights import Weight, Weights, open_weights, read_metadata
from .errors import InputError

# What a tensor is to its layer, by the end of its name. The adapter's name in peft's may be any.
ROLES = {
    "up": r"\.lora_up\.weight|\.lora_B(\.(?!bias)\w+)*|(\.|_)lora\.up\.weight|\.lora_linear_layer\.up\.weight",
    "down": r"\.lora_down\.weight|\.lora_A(\.\w+)*|(\.|_)lora\.down\.weight|\.lora_linear_layer\.down\.weight",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "diff": r"\.diff|\.w_norm",
    "diff_b": r"\.diff_b|\.b_norm",
}
# Adapters that are no sum of products of two factors, by what only they have.
OTHER_ADAPTERS = {
    "LoHa": r"\.hada_",
    "LoKr": r"\.lokr_",
    "OFT": r"\.oft_|\.oft_blocks",
    "DoRA": r"\.dora_scale$|\.lora_magnitude_vector",
    "GLoRA": r"\.[ab][12]\.weight$",
    "IA3": r"\.on_input$",
}
FILE_NAMES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors", "adapter_model.bin")

# What may stand before a layer's name, dots as underscores, and the part of the model it says.
PREFIXES = (
    ("base_model_model_", None),
    ("lora_unet_", "unet"),
    ("lora_te1_", "text"),
    ("lora_te_", "text"),
    ("lora_vae_", "vae"),
    ("lycoris_", "unet"),
    ("model_diffusion_model_", "unet"),
    ("diffusion_model_", "unet"),
    ("unet_", "unet"),
    ("text_encoder_", "text"),
    ("text_model_", "text"),
    ("vae_", "vae"),
)

HINT = "take a LoRA made for Stable Diffusion 1.5"
FOREIGN = (
    Family("Flux", HINT, (r"double_blocks|single_blocks|single_transformer_blocks",)),
    Family("Stable Diffusion 3", HINT, (r"joint_blocks|\.attn\.add_[kqv]_proj|_attn_add_[kqv]_proj",)),
    Family(
        "a diffusion transformer",
        HINT,
        (r"^(transformer\.|lora_transformer_|lora_unet_+(blocks|layers)_\d|(diffusion_model\.)?(blocks|layers)\.\d)",),
    ),
    Family(
        "Stable Diffusion XL",
        HINT,
        (r"^lora_te2_|text_encoder_2\.|^context_width=(2048|1280)$|transformer_blocks[._][1-9]",),
    ),
    Family("Stable Diffusion 2", HINT, (r"^context_width=1024$",)),
)


@dataclass(frozen=True)
class Layer:
    """The change of one tensor: `scale` * up @ down, up @ mid @ down, or a whole `diff`."""

    factors: dict[str, Weight]
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the change: (out, in) or (out, in, height, width)."""
        if "diff" in self.factors:
            return self.factors["diff"].shape
        up, down = self.factors["up"].shape, self.factors["down"].shape
        return (up[0], down[1], *self.factors.get("mid", self.factors["down"]).shape[2:])

    def read(self) -> dict[str, Tensor]:
        """The factors as stored; `InputError` names one with NaN or infinite values."""
        return {role: read_finite(weight, f"its {role} factor") for role, weight in self.factors.items()}

    def delta(self) -> Tensor:
        """The change in float64, of `shape`."""
        factors = {role: value.double() for role, value in self.read().items()}
        if "diff" in factors:
            return factors["diff"]
        up, down = factors["up"].flatten(1), factors["down"]
        if "mid" in factors:  # up and down are 1x1: the kernel is the middle one's
            product = torch.einsum("or,rs...,si->oi...", up, factors["mid"], down.flatten(1))
        else:
            product = up @ down.flatten(1)
        return product.reshape(self.shape).mul_(self.scale)


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file whose header is read. layers: by the file's own layer name and "weight" or "bias"."""

    path: Path
    layers: dict[tuple[str, str], Layer]
    unknown: tuple[str, ...]


def is_lora(weights: Iterable[str]) -> bool:
    """Whether tensors of these names are a LoRA's, or an adapter's of another kind."""
    signs = "|".join([f"({ROLES['up']})$", *OTHER_ADAPTERS.values(), r"\.diff$"])
    return any(re.search(signs, name) for name in weights)


def open_lora(path: Path, weights: Weights | None = None) -> LoraFile:
    """The layers of a LoRA file, or of a folder as diffusers or peft saves one; `weights` are its tensors if known.

    Raises `InputError` for a file that holds none, another kind of adapter, or factors that do not go together.
    """
    if path.is_dir():
        files = [path / name for name in FILE_NAMES if (path / name).is_file()]
        if not files:
            raise InputError(f"{path} is a folder without a LoRA in it; it needs {' or '.join(FILE_NAMES[:2])}")
        path, weights = files[0], None
    weights = open_weights(path) if weights is None else weights
    for kind, sign in OTHER_ADAPTERS.items():
        found = [name for name in weights if re.search(sign, name)]
        if found:
            raise InputError(
                f"{path} holds {kind} layers ({listing(found, 2)}); task vectors are read from LoRA and LoCon, with "
                "lora_up and lora_down: convert it with the program that made it"
            )
    parts, unknown = _by_layer(weights)
    scales = _Scales(path)
    layers = {}
    for name, roles in parts.items():
        if "up" in roles and "down" in roles:
            layers[name, "weight"] = _product(path, name, roles, scales)
        elif "up" in roles or "down" in roles:
            has = "up" if "up" in roles else "down"
            raise InputError(f"{path}: the layer {name} has only its {has} factor; the file is damaged, get it again")
        if "diff" in roles:
            layers[name, "weight"] = Layer({"diff": roles["diff"]})
        if "diff_b" in roles:
            layers[name, "bias"] = Layer({"diff": roles["diff_b"]})
        if not roles.keys() & {"up", "diff", "diff_b"}:
            unknown += [name + "." + role for role in roles]
    if not layers:
        raise InputError(f"{path} holds no LoRA layers: its tensors are {listing(sorted(weights), 4) or 'none'}")
    return LoraFile(path, layers, tuple(unknown))


def fit(
    lora: LoraFile, names: Mapping[str, Mapping[str, str]]
) -> tuple[dict[tuple[str, str], Layer], list[str], set[str]]:
    """The LoRA's layers by part and tensor of a model, the names that the model does not have, and parts it does not.

    names: for each part ("unet", "text", "vae") the model's tensors: what each may be called, and what it is called.
    Raises `ForeignLora` where what does not fit says that the file was made for another family.
    """
    table = {(part, name.replace(".", "_")): own for part, one in names.items() for name, own in one.items()}
    found, unknown, absent = {}, list(lora.unknown), set()
    for (name, kind), layer in lora.layers.items():
        part, squeezed = _place(name)
        endings = (kind, f"0_{kind}")  # some write to_out for to_out.0
        own = next((table[part, n] for n in (f"{squeezed}_{end}" for end in endings) if (part, n) in table), None)
        if part not in names:
            absent.add(part)
        elif own is None:
            unknown.append(name)
        elif (part, own) in found:
            raise InputError(f"{lora.path} changes {own} twice, once as {name}; the file is damaged")
        else:
            found[part, own] = layer
    if unknown:
        refuse_foreign(lora)
    return found, unknown, absent


class ForeignLora(InputError):
    """A LoRA for another family of models; `family` says which."""

    def __init__(self, path: Path, family: Family):
        super().__init__(f"{path} is a LoRA for {family.name}, not for Stable Diffusion 1.5: {family.hint}")
        self.family = family.name


def refuse_foreign(lora: LoraFile) -> None:
    """Raises `ForeignLora` if names and widths are those of another family."""
    facts = [name for name, _ in lora.layers] + list(lora.unknown)
    for (name, _), layer in lora.layers.items():
        if re.search(r"attn2[._](processor\.)?to_[kv]", name):
            facts.append(f"context_width={layer.shape[1]}")
    for family in FOREIGN:
        if family.fits(facts):
            raise ForeignLora(lora.path, family)


def read_finite(weight: Weight, what: str) -> Tensor:
    """The value of a weight; `InputError` if any of it is NaN or infinite."""
    value = weight.read()
    if not finite(value):
        raise InputError(f"{weight.file} has NaN or infinite values in {what}; get the file again or leave it out")
    return value


def _by_layer(weights: Weights) -> tuple[dict[str, dict[str, Weight]], list[str]]:
    """Tensors by the layer's name and their role, and the names that have none."""
    parts, unknown = {}, []
    for name, weight in weights.items():
        for role, ending in ROLES.items():
            found = re.fullmatch(rf"(?P<layer>.+?)({ending})", name)
            if found:
                parts.setdefault(found["layer"], {})[role] = weight
                break
        else:
            unknown.append(name)
    return parts, unknown


def _product(path: Path, name: str, roles: dict[str, Weight], scales: _Scales) -> Layer:
    factors = {role: roles[role] for role in ("up", "mid", "down") if role in roles}
    shapes = {role: weight.shape for role, weight in factors.items()}
    up, down, mid = shapes["up"], shapes["down"], shapes.get("mid")
    flat = [role for role, shape in shapes.items() if len(shape) not in (2, 4)]
    inner = (up[1:2], down[:1]) if mid is None else (up[1:2] + mid[1:2], mid[:1] + down[:1])
    pointwise = [up] if mid is None else [up, down]
    if flat or inner[0] != inner[1] or any(set(shape[2:]) > {1} for shape in pointwise):
        listed = ", ".join(f"{role} {shape}" for role, shape in shapes.items())
        raise InputError(f"{path}: the factors of {name} do not go together ({listed}); the file is damaged")
    rank = down[0]
    if "alpha" in roles:
        alpha = read_finite(roles["alpha"], f"{name}.alpha")
        if alpha.numel() != 1:
            raise InputError(f"{path}: {name}.alpha has {alpha.numel()} values; expected one")
        return Layer(factors, float(alpha) / rank)
    return Layer(factors, scales.of(name, rank))


class _Scales:
    """The scales of layers without an alpha of their own: from peft's settings, in the metadata or beside the file."""

    def __init__(self, path: Path):
        config = path.with_name("adapter_config.json")
        self.settings = read_json(config) if path.name.startswith("adapter_model") and config.is_file() else {}
        if "lora_adapter_metadata" in (metadata := read_metadata(path)):
            try:
                self.settings = json.loads(metadata["lora_adapter_metadata"])
            except ValueError as error:
                raise InputError(f"{path}: lora_adapter_metadata in its metadata is not JSON ({error})") from error

    def of(self, layer: str, rank: int) -> float:
        part = "text_encoder" if _place(layer)[0] == "text" else "unet"
        settings = {key.removeprefix(f"{part}."): value for key, value in self.settings.items()}
        alpha = settings.get("lora_alpha") or rank
        for pattern, value in (settings.get("alpha_pattern") or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", layer):
                alpha = value
        return alpha / (rank**0.5 if settings.get("use_rslora") else rank)


def _place(layer: str) -> tuple[str, str]:
    """A layer's part of the model, and its name there with underscores for dots."""
    name, part = layer.replace(".", "_").replace("_processor_", "_"), None
    found = True
    while found:
        found = next((one for one in PREFIXES if name.startswith(one[0])), None)
        if found:
            name, part = name.removeprefix(found[0]), found[1] or part
    return part or ("text" if name.startswith("encoder_layers_") else "unet"), name
