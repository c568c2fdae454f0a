"""LoRA: adapters add nothing at first, train alone, and their file is the difference that they make."""

import copy
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from lgvi_core.errors import InputError
from lgvi_core.models import InflatedUNet, UNetConfig
from train import config as configs
from train import lora
from train.config import Lora

SMALL = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
    up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    layers_per_block=1,
    cross_attention_dim=12,
    attention_head_dim=2,
    norm_num_groups=8,
    mask_channels=16,
    mask_norm_groups=4,
)
EVERYTHING = r"attn1|attn2|attn_temp|proj_in|resnets|mask_decoder.*conv"


def unet():
    torch.manual_seed(0)
    return InflatedUNet(SMALL).eval()


def config(settings):
    values = {"output": "unused", "steps": 1, "batches": [{"frames": 1, "size": 1}], "initialise": "models/lgvi"}
    return configs.build(configs.TrainConfig, {**values, "lora": settings})


def output(model):
    generator = torch.Generator().manual_seed(1)
    noisy, condition = torch.randn(2, 1, 4, 3, 8, 8, generator=generator)
    return model(noisy, 300, torch.randn(1, 5, 12, generator=generator), condition, return_mask=True)


def trained(settings):
    """A U-Net whose adapters are as after training: none of them zero."""
    model = unet()
    lora.add(model, settings)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2, generator=generator)
    return model


def test_adapters_add_nothing_at_first_and_train_alone():
    model, plain = unet(), unet()
    lora.add(model, Lora(rank=4))
    with torch.no_grad():
        for found, wanted in zip(output(model), output(plain)):
            torch.testing.assert_close(found, wanted)
    prediction, mask = output(model.train())
    (prediction.square().mean() + mask.mean()).backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert touched and all(re.search(r"attn(1|2|_temp)\..*lora_[AB]", name) for name in touched)


@pytest.mark.parametrize("settings", [Lora(rank=2, alpha=4.0), Lora(rank=3, alpha=1.5, targets=EVERYTHING)])
def test_the_file_merged_by_hand_is_the_model_with_its_adapters(settings, tmp_path):
    model, merged = trained(settings), unet()
    lora.save(model, tmp_path / "lora.safetensors", config({"rank": settings.rank, "alpha": settings.alpha}))
    content = load_file(tmp_path / "lora.safetensors")
    layers = {name.rpartition(".alpha")[0] for name in content if name.endswith(".alpha")}
    assert len(content) == 3 * len(layers) and all(name.startswith("diffusion_model.") for name in layers)
    for layer in layers:
        weight = merged.get_parameter(layer.removeprefix("diffusion_model.") + ".weight")
        up, down = (content[f"{layer}.lora_{side}.weight"] for side in ("up", "down"))
        scale = content[f"{layer}.alpha"] / down.shape[0]
        weight.data += scale * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    with torch.no_grad():
        for found, wanted, before in zip(output(merged), output(model), output(unet())):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
            assert (found - before).abs().max() > 1e-3


def test_the_file_says_what_it_is_for(tmp_path):
    lora.save(trained(Lora(rank=2)), tmp_path / "lora.safetensors", config({"rank": 2}))
    with safe_open(tmp_path / "lora.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["lgvi.base"] == "lgvi" and metadata["lgvi.rank"] == "2"


def test_a_copy_of_the_model_keeps_its_adapters(tmp_path):
    """The moving average is a copy."""
    model = trained(Lora(rank=2))
    for name, twin in (("one", model), ("two", copy.deepcopy(model))):
        lora.save(twin, tmp_path / name, config({"rank": 2}))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_targets_that_match_no_layer_are_refused():
    with pytest.raises(InputError, match="lora.targets is 'attention9'.*Names look like"):
        lora.add(unet(), Lora(targets="attention9"))
