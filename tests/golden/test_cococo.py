"""The U-Net and six sampler steps give the numbers of CoCoCo's public code."""

import json

import pytest
import torch

from lgvi_core.models import InflatedUNet, UNetConfig
from lgvi_core.sampling import denoise, make_scheduler


@pytest.fixture(scope="module")
def unet(golden):
    manifest = json.loads((golden.folder / "cococo_unet.json").read_text())
    unet = InflatedUNet(UNetConfig.from_public(manifest["config"])).eval()
    unet.load_state_dict(golden.weights(manifest["state_dict"]), strict=True)
    return unet


@pytest.mark.parametrize("inputs", ["clip5", "image", "wide"])
def test_outputs_equal_the_public_code(unet, golden, inputs):
    tensors, _ = golden.tensors("cococo_unet.safetensors")
    given = {key.removeprefix(f"{inputs}."): value for key, value in tensors.items() if key.startswith(f"{inputs}.")}
    with torch.no_grad():
        sample = unet(
            given["sample"],
            given["timestep"],
            given["encoder_hidden_states"],
            mask=given["mask"],
            masked_video=given["masked_latents"],
        )
    torch.testing.assert_close(sample, given["out.sample"], atol=1e-4, rtol=0)


def test_names_and_shapes_equal_the_public_checkpoint(golden):
    manifest = json.loads((golden.folder / "cococo_unet_sd15_manifest.json").read_text())
    with torch.device("meta"):
        unet = InflatedUNet(UNetConfig.from_public(manifest["config"]))
    ours = {name: list(value.shape) for name, value in unet.state_dict().items()}
    assert ours == {name: shape for name, shape in manifest["state_dict"].items() if not name.endswith(".pe")}


@pytest.mark.parametrize("batch_passes", [True, False])
def test_six_steps_equal_the_public_pipeline(unet, golden, batch_passes):
    tensors, metadata = golden.tensors("cococo_sampler.safetensors")
    denoised = denoise(
        unet,
        tensors["latents"],
        tensors["prompt_embeds"],
        tensors["negative_prompt_embeds"],
        None,
        make_scheduler("ddim", json.loads(metadata["scheduler_config"])),
        int(metadata["steps"]),
        float(metadata["guidance_scale"]),
        mask=tensors["mask"],
        masked_video=tensors["masked_latents"],
        batch_passes=batch_passes,
    )
    theirs = tensors["ddim.out.latents"]
    assert (denoised.latents - theirs).norm() / theirs.norm() < 1e-3
