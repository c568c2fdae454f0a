"""Checkpoints of other families: which is it, and what to do with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ..errors import InputError
from .files import listing, read_json
from .weights import Weights, open_weights

ACCEPTED = (
    "accepted are one .safetensors file saved by lgvi, the public LGVI folder (it has unet/config.json), "
    "a folder with an LGVI U-Net alone (config.json beside its weights), and a folder with CoCoCo's shards"
)


class ForeignCheckpoint(InputError):
    """Weights that are recognised, but are no LGVI checkpoint; `family` says what they are, `hint` what to do."""

    def __init__(self, path: Path, family: str, hint: str):
        super().__init__(f"{path} is {family}, not an LGVI checkpoint: {hint}")
        self.path = path
        self.family = family
        self.hint = hint


@dataclass(frozen=True)
class Family:
    """A family and its signs: every pattern of `signs` is found among the facts, none of `without`."""

    name: str
    hint: str
    signs: tuple[str, ...]
    without: str | None = None

    def fits(self, facts: list[str]) -> bool:
        seen = [any(re.search(sign, fact) for fact in facts) for sign in self.signs]
        return all(seen) and not (self.without and any(re.search(self.without, fact) for fact in facts))


ENDINGS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
START = "LGVI starts from weights like these, but has to be trained from them"
PART = "it is one part of a model; give the whole folder that it belongs to"
OTHER = "use it with a program for that model; " + ACCEPTED
SHARDS = "give the folder that holds model_0.pth to model_3.pth and, beside them, Stable Diffusion 1.5 for inpainting"
BASE = "CoCoCo stands on it: put it into the folder of CoCoCo's model_0.pth to model_3.pth, and give that folder"
INFLATED = r"attn_temp\.|^condition_conv_in\.|^mask_decoder\.|^temp_attn=|Block3D"
FLAT = r"^_class_name=(UNet2D|StableDiffusion)|_block_types=.*Block2D|^(down|mid|up)_blocks?\..*\battn1\.to_q\."

# The first that fits is it. A fact is a tensor's name or `setting=value`.
FAMILIES = (
    Family("a LoRA file", "give the LGVI checkpoint it was made for", (r"lora_(up|down|A|B)\b|\.lora\.|^peft_type=",)),
    Family(
        "LGVI-I's language-model part",
        "it goes with an LGVI-I folder; give the folder that holds unet/",
        (r"^transfer_layer\.", r"^language_embedding\."),
    ),
    Family("LLaVA", OTHER, (r"mm_projector|multi_modal_projector|^model_type=llava|^architectures=.*Llava",)),
    Family("a language model", OTHER, (r"^(model\.)?layers\.0\.self_attn\.q_proj|^architectures=.*ForCausalLM",)),
    Family("CoCoCo", SHARDS, (r"motion_modules\..*attention_blocks\.2\.|Temporal_(Light|Text)",)),
    Family("CoCoCo", SHARDS, (r"^use_motion_module=True", r"^in_channels=9$|^conv_in_channels=9$")),
    Family(
        "AnimateDiff",
        OTHER,
        (r"motion_modules\.|^use_motion_module=True|^_class_name=(UNetMotionModel|MotionAdapter|AnimateDiff)",),
    ),
    Family("a ControlNet", OTHER, (r"controlnet_cond_embedding|^control_model\.|^_class_name=ControlNet",)),
    Family(
        "Stable Diffusion XL",
        OTHER,
        (r"^conditioner\.embedders\.|^add_embedding\.|^addition_embed_type=text_time|^_class_name=StableDiffusionXL",),
    ),
    Family("Flux", OTHER, (r"double_blocks\.\d+\.img_|^single_transformer_blocks\.|^_class_name=Flux",)),
    Family("Stable Diffusion 3", OTHER, (r"joint_blocks\.|^_class_name=(SD3|StableDiffusion3)",)),
    Family("a diffusion transformer", OTHER, (r"^_class_name=\w*(Transformer|DiT)",)),
    Family(
        "a text- or image-to-video U-Net (ModelScope, Stable Video Diffusion or alike)",
        OTHER,
        (r"\.temp_convs\.|^transformer_in\.|\.temporal_transformer_blocks\.|^_class_name=(UNetSpatio|StableVideo)",),
    ),
    Family(
        "Stable Diffusion for inpainting with LDM names",
        BASE,
        (r"^model\.diffusion_model\.", r"^conv_in_channels=9$"),
    ),
    Family("a Stable Diffusion checkpoint with LDM names", START, (r"^model\.diffusion_model\.",)),
    Family("InstructPix2Pix", START, (r"^_class_name=StableDiffusionInstructPix2Pix",)),
    Family("InstructPix2Pix", START, (FLAT, r"^in_channels=8$|^conv_in_channels=8$"), INFLATED),
    Family("Stable Diffusion for inpainting", BASE, (FLAT, r"^in_channels=9$|^conv_in_channels=9$"), INFLATED),
    Family("Stable Diffusion", START, (FLAT,), INFLATED),
    Family("an autoencoder", PART, (r"^_class_name=Autoencoder|^(decoder\.up_blocks|first_stage_model)\.",)),
    Family("a CLIP model", PART, (r"^(text_model|vision_model)\.|^model_type=clip",)),
)


def facts_of(config: dict, weights: Weights) -> list[str]:
    """Names of weights, `setting=value` lines of a config, and the first convolution's input channels."""
    shapes = {re.sub(r"^(state_dict\.)?(module\.)?", "", name): weight.shape for name, weight in weights.items()}
    facts = [*shapes, *(f"{name}={value}" for name, value in config.items())]
    for name in ("conv_in.weight", "model.diffusion_model.input_blocks.0.0.weight"):
        if len(shapes.get(name, ())) == 4:
            facts.append(f"conv_in_channels={shapes[name][1]}")
    return facts


def refuse_foreign(path: Path, config: dict, weights: Weights) -> None:
    """Raises `ForeignCheckpoint` if config and weights (either may be empty) are of a family in the table."""
    facts = facts_of(config, weights)
    for family in FAMILIES:
        if family.fits(facts):
            raise ForeignCheckpoint(path, family.name, family.hint)


def refuse_file(path: Path) -> NoReturn:
    """Raises the `InputError` that says what a weight file is that no layout claims."""
    weights = open_weights(path)
    refuse_foreign(path, {}, weights)
    if any(re.search(INFLATED, name) for name in weights):
        beside = (path.parent / "config.json").is_file()
        hint = f"give the folder, {path.parent}" if beside else "put its config.json beside it and give the folder"
        raise ForeignCheckpoint(path, "an LGVI U-Net's weights without their config", hint)
    names = listing(sorted(weights), 4) or "no tensors"
    raise InputError(f"{path} holds weights of an unknown model ({names}); {ACCEPTED}")


def refuse_folder(folder: Path) -> NoReturn:
    """Raises the `InputError` that says what a folder is that no layout claims, by its configs or first weights."""
    for name in ("model_index.json", "config.json", "adapter_config.json", "transformer/config.json"):
        if (folder / name).is_file():
            refuse_foreign(folder, read_json(folder / name), {})
    files = sorted(file for file in folder.iterdir() if file.suffix in ENDINGS)
    if files:
        refuse_file(files[0])
    entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    raise InputError(f"{folder} is no checkpoint: it has {listing(entries) or 'nothing in it'}; {ACCEPTED}")
