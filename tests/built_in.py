"""The models that workflows name as built in, and small ones of random weights for those that are not there."""

import torch
from host_server import ROOT
from safetensors.torch import save_file
from unit.test_fill import filling

from lgvi_core import checkpoints

DEMO, FILL, STYLE = "demo (built in)", "demo that fills (built in)", "demo style: dark outlines (built in)"
FILES = {DEMO: "lgvi-demo.safetensors", FILL: "fill-demo.safetensors", STYLE: "fill-outline.safetensors"}
ABSENT = {name for name, file in FILES.items() if not (ROOT / "lgvi_core" / "demo" / file).is_file()}


def stand_ins(server) -> dict[str, str]:
    """By the name of a model that is absent: what to choose in its place, put among the server's models."""
    models = server.base / "models"
    for folder in ("lgvi", "loras"):
        (models / folder).mkdir(exist_ok=True)
    fills = filling()
    checkpoints.save(fills, models / "lgvi" / "stand-in.safetensors")
    name = next(name for name in fills.unet.state_dict() if name.endswith("attn1.to_q.weight"))
    width = fills.unet.state_dict()[name].shape[0]
    key, random = "diffusion_model." + name.removesuffix(".weight"), torch.Generator().manual_seed(0)
    style = {f"{key}.lora_up.weight": (width, 4), f"{key}.lora_down.weight": (4, width)}
    style = {name: torch.randn(shape, generator=random) for name, shape in style.items()}
    save_file(style, models / "loras" / "stand-in.safetensors")
    return {name: {FILL: "stand-in.safetensors", STYLE: "loras/stand-in.safetensors"}[name] for name in ABSENT}


def in_place(graph: dict, chosen: dict[str, str]) -> dict:
    """A graph with other models chosen."""
    for node in graph.values():
        node["inputs"] = {
            name: chosen.get(value, value) if isinstance(value, str) else value
            for name, value in node["inputs"].items()
        }
    return graph
