"""LGVI-I's language model: llava/llava_weights.pth of the public folder over LLaVA-1.5-7B in either of its layouts.

    encoder = load_request_encoder("lgvi-i/", base="llava-1.5-7b-hf/", device="cuda", dtype=torch.bfloat16, bits=4)

The public file has the token embedding and the projector in place of LLaVA's, and the head. Everything is checked by
names and shapes before any weights are read.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..models.request_encoder import RequestEncoder
from . import request_file
from .files import first_bytes, half_downloaded, listing, read_json
from .fitting import check_fit, empty_module, fill, stored_dtype, usable_device
from .llava_names import EMBEDDING, HEAD, PARTS, TEXT, VISION, public_name, todays_name
from .quantised import check_bits, quantise
from .weights import Weight, Weights, open_folder, open_weights

log = logging.getLogger(__name__)

FILE = Path("llava", "llava_weights.pth")  # in the public folder
TRAINED = (
    "language_embedding.weight",
    *(f"vision_embedding.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")),
    *("transfer_layer.0.weight", "transfer_layer.0.bias", "transfer_layer.2.weight"),
)
PROMPT_FILE = "system_prompt.txt"
PROMPT_HASH = "6d948f8c151ac5e8f30855ef25822343770db1fd71ca1712243f91a40ec1a0f4"  # sha256 of the authors' v1_inpaint
LAYERS = TEXT + "layers."
STEMS = ("model", "pytorch_model")
TEXT_SETTINGS = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_theta", "rope_scaling", "hidden_act"),
)
BASE = "the folder of LLaVA-1.5-7B (liuhaotian/llava-v1.5-7b or llava-hf/llava-1.5-7b-hf on huggingface.co)"


@dataclass
class LlavaSource:
    """LGVI-I's language model on disk, its configs and headers read. Names are those of today's transformers."""

    path: Path
    config: dict
    weights: Weights
    head: Weights
    tokenizer_model: bytes
    system_prompt: str


def load_request_encoder(
    path: str | os.PathLike,
    base: str | os.PathLike | None = None,
    vision: str | os.PathLike | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    bits: int | None = None,
    system_prompt: str | None = None,
) -> RequestEncoder:
    """LGVI-I's language model in eval mode; where it is found, and what is raised: see `read_request_encoder`.

    dtype: of weights and arithmetic (None: as LLaVA's layers are stored, but float32 for float16 on a CPU). bits: 8 or
    4 to have the language model's layers quantised by bitsandbytes; all else keeps `dtype`.
    """
    if bits is not None:
        check_bits(bits)
    device = usable_device(device)
    source = read_request_encoder(path, base, vision, system_prompt)
    layers = {name: weight for name, weight in source.weights.items() if name.startswith(LAYERS)}
    dtype = dtype or stored_dtype(layers, device)
    encoder = empty_request_encoder(source)
    llava, names = encoder.llava, _own_names(encoder)
    _compute_tables(encoder, device)
    weights = {names[name]: weight for name, weight in source.weights.items()}
    if bits is not None:
        weights = quantise(llava, LAYERS, weights, device, dtype, bits)
    fill(llava, weights, device, dtype)
    fill(encoder.head, source.head, device, dtype)
    return encoder.eval()


def read_request_encoder(
    path: str | os.PathLike,
    base: str | os.PathLike | None = None,
    vision: str | os.PathLike | None = None,
    system_prompt: str | None = None,
) -> LlavaSource:
    """LGVI-I's language model on disk, checked.

    path: the public LGVI-I folder, its llava_weights.pth, or a file of `request_file`, which is whole. base:
    LLaVA-1.5-7B's folder, in its own layout or that of transformers; searched in and beside `path` if None. vision: the
    folder of CLIP ViT-L/14-336, needed by LLaVA's own layout; searched in and beside `base` if None. system_prompt: in
    place of system_prompt.txt beside the weights.
    Raises `InputError`, which names files and weights, for what is absent, damaged or does not fit.
    """
    if request_file.matches(Path(path).expanduser()):
        return _read_whole(Path(path).expanduser(), base or vision, system_prompt)
    file = weights_file(Path(path).expanduser())
    trained = open_weights(file)
    differences = (sorted(set(TRAINED) - set(trained)), sorted(set(trained) - set(TRAINED)))
    problems = [f"{word} {listing(names)}" for word, names in zip(("lacks", "has"), differences, strict=True) if names]
    if problems:
        raise InputError(
            f"{file} {' and '.join(problems)}; expected are LGVI-I's three parts language_embedding, vision_embedding "
            "and transfer_layer. Download llava_weights.pth again"
        )
    trained = {todays_name(name, PARTS): weight for name, weight in trained.items()}
    head = {name.removeprefix(HEAD): trained.pop(name) for name in list(trained) if name.startswith(HEAD)}

    folder = _find_base(file) if base is None else Path(base).expanduser()
    config, weights = _read_base(folder, None if vision is None else Path(vision).expanduser())
    trained[EMBEDDING] = _with_last_rows(trained[EMBEDDING], weights.get(EMBEDDING))
    tokenizer = folder / "tokenizer.model"
    if not tokenizer.is_file():
        raise half_downloaded(folder, "it has no tokenizer.model")
    prompt = system_prompt if system_prompt is not None else _read_prompt(file.parent / PROMPT_FILE)
    source = LlavaSource(folder, config, weights | trained, head, tokenizer.read_bytes(), prompt)

    encoder = empty_request_encoder(source)
    values = encoder.llava.state_dict()
    expected = {today: values[name] for today, name in _own_names(encoder).items()}
    check_fit({name: expected.pop(name) for name in trained}, trained, source, "language model")
    rest = {name: weight for name, weight in weights.items() if name not in trained}
    check_fit(expected, rest, source, "language model")
    check_fit(encoder.head.state_dict(), head, source, "language model's head")
    return source


def _read_whole(path: Path, base, system_prompt: str | None) -> LlavaSource:
    """A file of `request_file`, checked."""
    if base is not None:
        raise InputError(f"{path} is whole, it takes no LLaVA folder as base and no vision tower")
    source = LlavaSource(**request_file.read(path))
    if system_prompt is not None:
        source.system_prompt = system_prompt
    encoder = empty_request_encoder(source)
    values = encoder.llava.state_dict()
    expected = {today: values[name] for today, name in _own_names(encoder).items()}
    check_fit(expected, source.weights, source, "language model")
    check_fit(encoder.head.state_dict(), source.head, source, "language model's head")
    return source


def new_request_encoder(
    base: str | os.PathLike,
    width: int,
    system_prompt: str,
    vision: str | os.PathLike | None = None,
    weights: bool = True,
) -> RequestEncoder:
    """LLaVA with a head that is new, to train LGVI-I from; without `weights`, on the meta device.

    base, vision: as of `read_request_encoder`. width: of the U-Net's text features. Weights keep the type they are
    stored as. Raises as `read_request_encoder`.
    """
    folder = Path(base).expanduser()
    config, stored = _read_base(folder, None if vision is None else Path(vision).expanduser())
    tokenizer = folder / "tokenizer.model"
    if not tokenizer.is_file():
        raise half_downloaded(folder, "it has no tokenizer.model")
    head = {"2.weight": Weight(folder, (width, 0), torch.float32, lambda: None)}
    source = LlavaSource(folder, config, stored, head, tokenizer.read_bytes(), system_prompt)
    encoder = empty_request_encoder(source)
    values, names = encoder.llava.state_dict(), _own_names(encoder)
    check_fit({today: values[name] for today, name in names.items()}, stored, source, "language model")
    if weights:
        _compute_tables(encoder, torch.device("cpu"))
        fill(encoder.llava, {names[name]: weight for name, weight in stored.items()}, torch.device("cpu"), None)
        encoder.head.to_empty(device="cpu")
        for layer in (encoder.head[0], encoder.head[2]):
            layer.reset_parameters()
    return encoder


def public_parts(encoder: RequestEncoder) -> dict[str, dict[str, Tensor]]:
    """What LGVI-I trains of its language model, as `torch.save` would write it to llava_weights.pth.

    Of the token embedding it has the rows of the tokenizer's tokens, without those that pad the vocabulary.
    """
    values = encoder.llava.state_dict()
    values = {today: values[name] for today, name in _own_names(encoder).items()}
    values[EMBEDDING] = values[EMBEDDING][: len(encoder.tokenizer)].clone()
    values |= {HEAD + name: value for name, value in encoder.head.state_dict().items()}
    parts = {}
    for name, value in values.items():
        part, _, inside = (public_name(name, PARTS) or "").partition(".")
        if part:
            parts.setdefault(part, {})[inside] = value
    return parts


def weights_file(path: Path) -> Path:
    """The llava_weights.pth at `path`, which is that file or the public folder; `InputError` if there is none."""
    for file in (path, path / FILE, path / FILE.name):
        if file.is_file():
            return file
    raise InputError(f"there is no {FILE} in {path}; give the public LGVI-I folder, or llava_weights.pth itself")


def is_trained_part(path: Path) -> bool:
    """Whether `path` is LGVI-I's public folder, or the file or folder of what is trained of its language model.

    A file of `request_file` is one too: it has all of it.
    """
    if path.is_file():
        return path.name == FILE.name or request_file.matches(path)
    return any((path / file).is_file() for file in (FILE, FILE.name))


def _read_base(folder: Path, vision: Path | None) -> tuple[dict, Weights]:
    """LLaVA's config, as transformers has it, and its weights under today's names."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give {BASE} as base")
    if not (folder / "config.json").is_file():
        raise half_downloaded(folder, "it has no config.json")
    config = read_json(folder / "config.json")
    if "mm_vision_tower" not in config and not (config.get("model_type") == "llava" and config.get("vision_config")):
        kind = config.get("model_type")
        raise InputError(f"{folder} holds a model of type {kind!r}, not LLaVA with its vision tower; give {BASE}")
    weights = _named_as_today(open_folder(folder, STEMS))
    if "mm_vision_tower" not in config:
        return config, weights
    clip = vision or _find_vision(folder, str(config["mm_vision_tower"]))
    clip_config = read_json(clip / "config.json")
    vision_config = clip_config.get("vision_config", clip_config)
    if not any(name.startswith(VISION) for name in weights):
        seen = _named_as_today(open_folder(clip, STEMS))
        weights |= {name: weight for name, weight in seen.items() if name.startswith(VISION)}
    return _todays_config(config, vision_config, folder), weights


def _todays_config(config: dict, vision_config: dict, folder: Path) -> dict:
    """A LlavaConfig from the config.json of LLaVA's own layout and CLIP's."""
    required = {"mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False, "mm_vision_select_feature": "patch"}
    for name, value in required.items():
        if config.get(name, value) != value:
            where = folder / "config.json"
            raise InputError(f"{where}: {name} is {config[name]!r}, LLaVA-1.5's is {value!r}; give {BASE}")
    return {
        "text_config": {name: config[name] for name in TEXT_SETTINGS if config.get(name) is not None},
        "vision_config": {name: value for name, value in vision_config.items() if name != "model_type"},
        "vision_feature_layer": config.get("mm_vision_select_layer", -2),
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": False,
    }


def _find_base(file: Path) -> Path:
    """The one LLaVA folder in or beside the folder that the weights belong to."""
    roots = file.absolute().parents[:3] if file.parent.name == FILE.parent.name else file.absolute().parents[:2]
    found = sorted({entry for root in roots for entry in root.iterdir() if is_base(entry)})
    if len(found) != 1:
        what = f"several LLaVA folders ({listing([str(path) for path in found])})" if found else "no LLaVA folder"
        raise InputError(f"in and beside {file.parent} there is {what}; give {BASE} as base")
    return found[0]


def is_base(folder: Path) -> bool:
    """Whether a folder's config says that it is LLaVA, in either of its layouts."""
    try:
        config = read_json(folder / "config.json")
    except (InputError, OSError):
        return False
    return "mm_vision_tower" in config or config.get("model_type") == "llava"


def _find_vision(folder: Path, name: str) -> Path:
    places = [root / part for root in (folder, folder.parent) for part in dict.fromkeys((Path(name).name, name))]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise InputError(
        f"{folder} sees with {name}, a model of its own that is not there; put its folder at {places[0]}, or give it "
        "as vision"
    )


def _read_prompt(file: Path) -> str:
    """The instruction that the weights were trained with; a warning if it is another text."""
    if not file.is_file():
        raise InputError(
            f"there is no {file}: it holds the instruction that the weights were trained with, the text of the "
            "template v1_inpaint in the authors' repository. Put it there, or give a system_prompt"
        )
    first_bytes(file, 1)
    text = file.read_text("utf-8").removesuffix("\n")  # reads any line ends as \n
    if hashlib.sha256(text.encode()).hexdigest() != PROMPT_HASH:
        log.warning("%s is not the instruction that the public weights were trained with: answers may be worse", file)
    return text


def _with_last_rows(embedding: Weight, base: Weight | None) -> Weight:
    """A token embedding with the rows that only the base has, which pad the vocabulary, after its own."""
    rows = embedding.shape[0]
    if base is None or rows >= base.shape[0] or embedding.shape[1:] != base.shape[1:]:
        return embedding

    def read() -> Tensor:
        own = embedding.read()
        return torch.cat([own, base.read()[rows:].to(own.dtype)])

    return Weight(embedding.file, base.shape, embedding.dtype, read)


def _named_as_today(weights: Weights) -> Weights:
    return {today: weight for name, weight in weights.items() if (today := todays_name(name)) is not None}


def _own_names(encoder: RequestEncoder) -> dict[str, str]:
    """The names that the installed transformers gives LLaVA's weights, by today's."""
    return {todays_name(name): name for name in encoder.llava.state_dict() if todays_name(name) is not None}


def _compute_tables(encoder: RequestEncoder, device: torch.device) -> None:
    """Makes what is computed, not stored, of an encoder on the meta device."""
    for name, module in list(encoder.llava.named_modules()):
        if "inv_freq" in module._buffers:
            encoder.llava.set_submodule(name, type(module)(config=module.config).to(device))
    tower = encoder.llava.model.vision_tower
    names = [name for name, buffer in tower.named_buffers() if buffer.is_meta and not name.endswith("position_ids")]
    made = type(tower)(tower.config) if names else None  # where windows have tables, as Swin's, the tower is small
    for name in names:
        owner, _, table = name.rpartition(".")
        tower.get_submodule(owner)._buffers[table] = made.get_buffer(name).to(device)


def empty_request_encoder(source: LlavaSource) -> RequestEncoder:
    """The encoder of a source, on the meta device."""
    width = source.head["2.weight"].shape[0]
    return empty_module(
        source,
        "language model",
        lambda: RequestEncoder(source.config, source.tokenizer_model, source.system_prompt, width),
    )
