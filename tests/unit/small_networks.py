"""Networks small enough to make on the spot, in the layouts of the public ones."""

from pathlib import Path

import torch
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from lgvi_core.metrics.i3d import I3D
from train.tokenizer import train_clip_tokenizer


def small_clip(folder: Path) -> None:
    """Write an untrained CLIP as transformers lays it out."""
    files = train_clip_tokenizer(["remove the red circle", "remove the green circle"] * 5, 40)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config=layers | ends | {"vocab_size": len(tokenizer), "max_position_embeddings": 16},
        vision_config=layers | {"image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)


def untrained_i3d() -> I3D:
    """I3D whose features are of the size of one, and whose stored statistics are not those of any clip."""
    torch.manual_seed(0)
    network = I3D().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network
