"""Personal checkpoints and LoRA files into an inpainting MODEL and CLIP by task vectors, without a copy of them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from comfy_api.latest import io

from ..lgvi_core.checkpoints import ldm
from ..lgvi_core.checkpoints.weights import Weight, open_weights
from ..lgvi_core.errors import InputError
from ..lgvi_core.lora_files import Layer, read_finite
from ..lgvi_core.model_parts import EMA, ModelFile, place_of
from ..lgvi_core.task_vectors import Change, Inpainting, Personal, Plan, Strength, fitted, make_plan
from .loader import DEMO_FILE

DEMO_STYLE = "demo style: dark outlines (built in)"  # for the demo that fills
DEMO_STYLE_FILE = DEMO_FILE.with_name("fill-outline.safetensors")
NO_BASE = "none"
FOLDERS = ("loras", "checkpoints")
CLIP_L = "clip_l.transformer.text_model."


class TaskVectorMerge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVITaskVectorMerge",
            display_name="Task-Vector LoRA Merge",
            category="lgvi",
            description="Gives an inpainting model the style of a personal Stable Diffusion 1.5 checkpoint or LoRA: "
            "base + alpha * (inpainting - base) + beta * (personal - base). Nothing is copied, so alpha and beta can "
            "be moved and run again at once. Chain several for several styles.",
            search_aliases=["lora", "personal", "style", "dreambooth", "model merge", "task arithmetic", "cococo"],
            inputs=[
                io.Model.Input("model", tooltip="The inpainting model. LoRA loaders may come before or after."),
                io.Clip.Input("clip", optional=True, tooltip="Its text encoder, to be changed too."),
                io.Combo.Input(
                    "personal",
                    options=choices(),
                    tooltip="A LoRA of models/loras, or a whole checkpoint of models/checkpoints; made for or from "
                    "Stable Diffusion 1.5.",
                ),
                io.Combo.Input(
                    "base",
                    options=[NO_BASE, *folder_paths.get_filename_list("checkpoints")],
                    default=NO_BASE,
                    tooltip="Stable Diffusion 1.5 (not for inpainting), of models/checkpoints. A LoRA needs none while "
                    "alpha is 1.",
                ),
                _slider("alpha", 1.0, "How much inpainting; the paper recommends 0.5 to 1.5. 1 leaves it as it is."),
                _slider("beta", 1.0, "How much of the personal model; the paper recommends 1 to 2. 0 is none."),
                _slider("alpha_clip", 1.0, "As alpha, for the CLIP.", advanced=True),
                _slider("beta_clip", 1.0, "As beta, for the CLIP.", advanced=True),
                io.Boolean.Input(
                    "ignore_unknown",
                    default=False,
                    advanced=True,
                    tooltip="Merge what fits of a file that has more; the log says what does not. Off: it is an error.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The MODEL with the task vectors on it; the one that came in is as it was."),
                io.Clip.Output(tooltip="The CLIP with the task vectors on it; nothing if none came in."),
            ],
        )

    @classmethod
    def validate_inputs(cls, personal=None, base=None):
        try:
            for name in (personal, base and base != NO_BASE and f"checkpoints/{base}"):
                if name:  # else it comes from another node
                    resolve(name)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, personal=None, base=None, **_):
        if personal is None or base is None:  # comes from another node, so the file is not known yet: equal to nothing
            return float("nan")
        return [_state(resolve(personal)), None if base == NO_BASE else _state(resolve(f"checkpoints/{base}"))]

    @classmethod
    def execute(
        cls, model, personal, base, alpha, beta, alpha_clip, beta_clip, ignore_unknown, clip=None
    ) -> io.NodeOutput:
        path, base_path = resolve(personal), None if base == NO_BASE else resolve(f"checkpoints/{base}")
        one = Personal(path, Strength(beta, beta_clip, 0.0))
        plan = make_plan(parts_of(model, clip), [one], base_path, Strength(alpha, alpha_clip, 1.0), ignore_unknown)
        model, clip = model.clone(), None if clip is None else clip.clone()
        _patch(model, plan, path, "unet", alpha)
        if clip is not None:
            _patch(clip.patcher, plan, path, "text", alpha_clip)
        return io.NodeOutput(model, clip)


class TaskVector(WeightAdapterBase):
    """personal - base, as the host's patches keep it: two tensors that stay in their files until they are needed."""

    name = "task_vector"

    def __init__(self, loaded_keys, weights):
        self.loaded_keys = loaded_keys
        self.weights = weights

    def calculate_weight(
        self, weight, key, strength, strength_model, offset, function, intermediate_dtype=None, original_weight=None
    ):
        cast = comfy.model_management.cast_to_device
        personal, base = (cast(value, weight.device, torch.float32) for value in self.weights)
        weight += function((strength * fitted(personal - base, weight.shape)).to(weight.dtype))
        return weight


def choices() -> list[str]:
    """LoRA files and checkpoints, by folder and name as workflows keep them: with forward slashes."""
    names = [f"{folder}/{name}" for folder in FOLDERS for name in folder_paths.get_filename_list(folder)]
    demo = [DEMO_STYLE] if DEMO_STYLE_FILE.is_file() else []
    return [name.replace("\\", "/") for name in names] + demo


def resolve(name: str) -> Path:
    """The path of a choice, "loras/...", "checkpoints/..." or the demo's; `InputError` if it is not there."""
    if name == DEMO_STYLE and DEMO_STYLE_FILE.is_file():
        return DEMO_STYLE_FILE
    folder, _, file = name.replace("\\", "/").partition("/")
    path = folder_paths.get_full_path(folder, file) if folder in FOLDERS else None
    if path is None:
        raise InputError(f"there is no {name!r} in the folder models: put it there and press R, or choose another")
    return Path(path)


def parts_of(model, clip) -> ModelFile:
    """The host's MODEL and CLIP (or None) as the parts of a model, their names in the host as keys.

    Raises `InputError` for a CLIP of another family than Stable Diffusion 1.x.
    """
    parts = ModelFile(Path("the MODEL"))
    for key, value in model.model_state_dict("diffusion_model.").items():
        _, name = place_of("model." + key)
        parts.add("unet", name, Weight(parts.path, tuple(value.shape), value.dtype, value.detach), key, value.shape)
    if clip is None:
        return parts
    for key, value in clip.patcher.model_state_dict(CLIP_L).items():
        name = key.removeprefix(CLIP_L)
        parts.add("text", name, Weight(parts.path, tuple(value.shape), value.dtype, value.detach), key, value.shape)
    others = {key.partition(".")[0] for key in clip.patcher.model_state_dict()} - {"clip_l"}
    if "text" not in parts.parts or others:
        raise InputError("the CLIP is not Stable Diffusion 1.5's: connect the CLIP that belongs to the MODEL")
    return parts


def _patch(patcher, plan: Plan, path: Path, part: str, alpha: float) -> None:
    """The task vectors of one part as patches of the host; `path` is the personal model's."""
    first, later = {}, {}
    for (owner, name), vectors in plan.vectors.items():
        if owner != part:
            continue
        key, shape = plan.model.keys[part, name], plan.model.shapes[part, name]
        for factor, vector in vectors:
            if isinstance(vector, Change):
                later.setdefault(factor, {})[key] = _lora_patch(vector.layer, shape)
                continue
            base = fitted(_tensors(plan.base.path, *_state(plan.base.path))[plan.base.keys[part, name]], shape)
            if isinstance(vector, Inpainting):
                first[key] = "diff", (base,)
            else:
                personal = fitted(_tensors(path, *_state(path))[vector.key], shape)
                later.setdefault(factor, {})[key] = TaskVector(set(), (personal, base))
    patcher.add_patches(first, 1 - alpha, alpha)
    for key in first:  # alpha * weight + (1 - alpha) * base is of the weight that has no other patches yet
        patcher.patches[key].insert(0, patcher.patches[key].pop())
    for factor, patches in later.items():
        patcher.add_patches(patches, factor)


def _lora_patch(layer: Layer, shape: tuple[int, ...]):
    values = layer.read()
    whole = torch.Size(layer.shape).numel() == torch.Size(shape).numel()
    if "diff" in values or not whole:
        return "diff", (fitted(layer.delta(), shape).float(),)
    alpha = layer.scale * values["down"].shape[0]
    return LoRAAdapter(set(), (values["up"], values["down"], alpha, values.get("mid"), None, None))


@lru_cache(maxsize=4)
def _tensors(path: Path, *state) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file, mapped from the disk; `state` renews them when the file changes.

    Raises `InputError` that names one with NaN or infinite values.
    """
    for name, weight in open_weights(path).items():
        unused = name.removeprefix("state_dict.").startswith((ldm.VAE, EMA))
        if isinstance(weight.dtype, torch.dtype) and not unused:
            read_finite(weight, name)
    return comfy.utils.load_torch_file(str(path), safe_load=True)


def _state(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path), stat.st_mtime_ns, stat.st_size


def _slider(name: str, default: float, tooltip: str, advanced: bool = False) -> io.Float.Input:
    return io.Float.Input(
        name,
        default=default,
        min=-2.0,
        max=2.0,
        step=0.05,
        round=0.001,
        display_mode=io.NumberDisplay.slider,
        tooltip=tooltip,
        advanced=advanced,
    )
