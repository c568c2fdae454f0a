"""The U-Net gives the numbers of the papers' public code."""

import json

import pytest
import torch

from lgvi_core.models import InflatedUNet, UNetConfig

CASES = ["additive_condition", "concat_condition", "language_cross_attention", "no_temporal_no_mask"]


@pytest.fixture(scope="module", params=CASES)
def case(request, golden):
    name = f"lgvi_unet_{request.param}"
    manifest = json.loads((golden.folder / f"{name}.json").read_text())
    config = UNetConfig.from_public(manifest["config"])
    unet = InflatedUNet(config).eval()
    unet.load_state_dict(golden.weights(manifest["state_dict"]), strict=True)
    return unet, golden.tensors(f"{name}.safetensors")[0]


@pytest.mark.parametrize("inputs", ["clip5", "image", "odd_size"])
def test_outputs_equal_the_public_code(case, inputs):
    unet, tensors = case
    given = {key.removeprefix(f"{inputs}."): value for key, value in tensors.items() if key.startswith(f"{inputs}.")}
    arguments = (given["sample"], given["timestep"], given["encoder_hidden_states"], given["img_condition"])
    with torch.no_grad():
        if unet.config.has_mask_decoder:
            sample, mask = unet(*arguments, return_mask=True)
            torch.testing.assert_close(mask, given["out.mask"], atol=1e-4, rtol=0)
        else:
            sample = unet(*arguments)
    torch.testing.assert_close(sample, given["out.sample"], atol=1e-4, rtol=0)


def test_a_cache_changes_nothing(case):
    unet, given = case
    arguments = (given["clip5.encoder_hidden_states"], given["clip5.img_condition"])
    cache = {}
    with torch.no_grad():
        unet(given["clip5.sample"], 3, *arguments, cache=cache)
        assert cache or unet.config.lan_cross_attn
        cached = unet(given["clip5.sample"], given["clip5.timestep"], *arguments, cache=cache)
    torch.testing.assert_close(cached, given["clip5.out.sample"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("variant", ["additive", "concat"])
def test_names_and_shapes_equal_the_public_checkpoint(golden, variant):
    manifest = json.loads((golden.folder / f"lgvi_unet_sd15_{variant}_manifest.json").read_text())
    with torch.device("meta"):
        unet = InflatedUNet(UNetConfig.from_public(manifest["config"]))
    ours = {name: list(value.shape) for name, value in unet.state_dict().items()}
    assert ours == manifest["state_dict"]
