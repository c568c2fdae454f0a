"""A language model that reads requests end to end (LGVI-I), for MLLM Request→Prompt."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..lgvi_core.checkpoints import llava
from ..lgvi_core.checkpoints.files import listing
from ..lgvi_core.errors import InputError
from .host_reader import load_reader
from .loader import DEMO_FILE, KEY, is_llava, is_request_file, state_of

DEMO = "demo reader (built in)"
DEMO_READER_FILE = DEMO_FILE.with_name("talk-demo.safetensors")
BESIDE = "in or beside its folder"
FOLDERS = (KEY, "text_encoders", "diffusion_models")

Reader = io.Custom("LGVI_REQUEST_READER")  # a `host_reader.RequestReader`


class LoadRequestReader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LGVIRequestReaderLoader",
            display_name="Load Request Reader",
            category="lgvi",
            description="Loads a language model that was trained for LGVI: it looks at the video, answers a "
            "request, and its words, or LGVI-I's own hidden states, tell what to remove. For MLLM Request→Prompt.",
            search_aliases=["lgvi-i", "llava", "mllm", "vlm", "chat", "conversation", "language model", "end to end"],
            inputs=[
                io.Combo.Input(
                    "reader",
                    options=list(choices()),
                    tooltip="A request encoder that lgvi's training saved (.safetensors), or the public LGVI-I folder, "
                    "with llava/llava_weights.pth and system_prompt.txt beside that; put it in models/lgvi or "
                    "models/text_encoders.",
                ),
                io.Combo.Input(
                    "base",
                    options=[BESIDE, *bases()],
                    default=BESIDE,
                    optional=True,
                    tooltip="For LGVI-I's folder alone: the folder of LLaVA-1.5-7B, in models/lgvi or "
                    "models/text_encoders.",
                ),
            ],
            outputs=[Reader.Output(display_name="reader", tooltip="For clip of MLLM Request→Prompt.")],
        )

    @classmethod
    def validate_inputs(cls, reader=None, base=None):
        try:
            for given, known in ((reader, choices), (base, bases)):
                if given not in (None, BESIDE):  # None: it comes from another node
                    resolve(given, known())
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, reader=None, base=BESIDE):
        if reader is None or base is None:  # comes from another node, so the file is not known yet
            return float("nan")  # equal to nothing
        return state_of(resolve(reader, choices()), None if base == BESIDE else resolve(base, bases()))

    @classmethod
    def execute(cls, reader, base=BESIDE) -> io.NodeOutput:
        folder = None if base == BESIDE else resolve(base, bases())
        return io.NodeOutput(load_reader(resolve(reader, choices()), folder))


def choices() -> dict[str, Path]:
    """What reads requests, by the name that workflows keep: forward slashes, relative to its model folder."""
    found = {DEMO: DEMO_READER_FILE} if DEMO_READER_FILE.is_file() else {}
    for file, name in _files():
        if is_request_file(file):
            found.setdefault(name.as_posix(), file)
        elif file.name == llava.FILE.name:
            whole = file.parts[-2:] == llava.FILE.parts and len(name.parts) > 2  # else the folder has no name
            path, relative = (file.parents[1], name.parents[1]) if whole else (file, name)
            found.setdefault(relative.as_posix(), path)
    return found


def bases() -> dict[str, Path]:
    """LLaVA's folders, by name as `choices`."""
    folders = {name.parent.as_posix(): file.parent for file, name in reversed(_files()) if len(name.parts) > 1}
    return {name: folder for name, folder in sorted(folders.items()) if is_llava(folder)}


def resolve(name: str, known: dict[str, Path]) -> Path:
    """The path of a choice among those known; `InputError` that says what there is if it is not there."""
    path = known.get(name.replace("\\", "/"))
    if path is None or not path.exists():
        raise InputError(
            f"there is no {name!r} to read requests with: put it in {folder_paths.get_folder_paths(KEY)[0]} and press "
            f"R, or choose another. There are: {listing(list(known)) or 'none'}"
        )
    return path


def _files() -> list[tuple[Path, Path]]:
    """The weight files in the model folders that readers may be in, with their names there."""
    names = [(key, name) for key in FOLDERS for name in folder_paths.get_filename_list(key)]
    files = [(folder_paths.get_full_path(key, name), name) for key, name in names]
    return [(Path(file), Path(name)) for file, name in files if file is not None]  # None: deleted since it was listed
