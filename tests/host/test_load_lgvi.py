"""Load LGVI and the small nodes behind it, on the real server."""

import json
import os
import shutil

import pytest
import torch
from host_server import ROOT
from safetensors.torch import save_file

from lgvi_core.models import InflatedUNet, UNetConfig

DEMO = ROOT / "lgvi_core" / "demo" / "lgvi-demo.safetensors"
CLEAR = "there is no LGVI checkpoint"


@pytest.fixture
def checkpoint(server):
    """Puts the demo checkpoint into models/lgvi under a name; what was put there goes again."""
    folder = server.base / "models" / "lgvi"
    folder.mkdir(exist_ok=True)
    put = []

    def place(name):
        put.append(folder / name)
        put[-1].parent.mkdir(exist_ok=True)
        return shutil.copy(DEMO, put[-1])

    yield place
    for file in put:
        file.unlink(missing_ok=True)


def load(name, weight_dtype="default"):
    return {"class_type": "LGVILoader", "inputs": {"checkpoint": name, "weight_dtype": weight_dtype}}


def encoded(name="demo (built in)", prompt="remove the red circle", seed=0):
    """A graph up to LGVI Condition Encode (node 3), on grey frames."""
    frames = {"width": 64, "height": 64, "batch_size": 3, "color": 8421504 + seed}
    return {
        "1": load(name),
        "2": {"class_type": "EmptyImage", "inputs": frames},
        "3": {
            "class_type": "LGVIConditionEncode",
            "inputs": {"clip": ["1", 1], "vae": ["1", 2], "frames": ["2", 0], "prompt": prompt},
        },
    }


def sampled(**options):
    """A whole graph: KSampler and SaveImage."""
    sampler = {"seed": 1, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    conditions = {"positive": ["3", 0], "negative": ["3", 1], "latent_image": ["3", 3]}
    return encoded(**options) | {
        "4": {"class_type": "KSampler", "inputs": {"model": ["1", 0], **conditions, **sampler}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "loaded"}},
    }


def test_a_ksampler_graph_gives_as_many_images_as_frames(client):
    run = client.run(sampled(seed=1))
    assert len(run.outputs["6"]["images"]) == 3
    assert client.previews


def test_a_graph_of_the_small_nodes_runs_in_sampler_custom_advanced(client):
    conditions = {"text_and_video": ["3", 0], "video": ["3", 1], "neither": ["3", 2]}
    scales = {"guidance": 3.0, "image_guidance": 1.5}
    advanced = {"noise": ["12", 0], "guider": ["10", 0], "sampler": ["11", 0], "sigmas": ["11", 1]}
    run = client.run(
        encoded(seed=2)
        | {
            "10": {"class_type": "LGVIGuider", "inputs": {"model": ["1", 0], **conditions, **scales}},
            "11": {"class_type": "LGVISampler", "inputs": {"model": ["1", 0], "steps": 0}},
            "12": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}},
            "13": {"class_type": "SamplerCustomAdvanced", "inputs": {**advanced, "latent_image": ["3", 3]}},
            "14": {"class_type": "VAEDecode", "inputs": {"samples": ["13", 1], "vae": ["1", 2]}},
            "15": {"class_type": "PreviewImage", "inputs": {"images": ["14", 0]}},
        }
    )
    assert len(run.outputs["15"]["images"]) == 3


def test_parentheses_and_emoji_are_words(client):
    assert client.run(sampled(prompt="remove ((the (red:1.9)) \U0001f534 circle", seed=3)).outputs["6"]["images"]


def test_an_empty_prompt_is_an_error_on_its_node(client):
    run = client.run(sampled(prompt=" ", seed=4), expect="error")
    assert run.error["node_id"] == "3"
    assert "the prompt is empty" in run.error["exception_message"]


def test_a_missing_checkpoint_is_refused_with_what_there_is(client):
    answer = client.refusal(sampled(name="gone.safetensors"))
    assert list(answer["node_errors"]) == ["1"]
    assert CLEAR in json.dumps(answer) and "demo (built in)" in json.dumps(answer)


def test_a_checkpoint_is_listed_and_either_slash_finds_it(client, server, checkpoint):
    checkpoint("sub/mine.safetensors")
    (options,) = server.get("/object_info/LGVILoader").json()["LGVILoader"]["input"]["required"]["checkpoint"][1:]
    assert "sub/mine.safetensors" in options["options"]
    for name in ("sub/mine.safetensors", "sub\\mine.safetensors"):
        client.run({"1": load(name), "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}})


def test_a_checkpoint_deleted_while_queued_is_an_error_on_its_node_and_the_next_run_works(client, checkpoint):
    file = checkpoint("doomed.safetensors")
    running = client.queue(sampled(seed=5))
    queued = client.queue(sampled(name="doomed.safetensors", seed=6))
    file.unlink()
    assert client.wait(running).status == "success"
    run = client.wait(queued)
    assert (run.status, run.error["node_id"]) == ("error", "1")
    assert CLEAR in run.error["exception_message"]
    client.run(sampled(seed=7))


def test_a_replaced_file_is_loaded_again(client, checkpoint):
    file = checkpoint("replaced.safetensors")
    graph = {"1": load("replaced.safetensors"), "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
    assert "1" in client.run(graph).ran
    assert "1" in client.run(graph).cached
    os.utime(file, ns=(1, 1))
    assert "1" in client.run(graph).ran


def test_a_unet_alone_says_at_use_which_parts_it_lacks(client, server):
    config = UNetConfig(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=1,
        cross_attention_dim=32,
        mask_channels=32,
    )
    torch.manual_seed(0)
    folder = server.base / "models" / "diffusion_models" / "unet alone"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    save_file(InflatedUNet(config).state_dict(), folder / "diffusion_pytorch_model.safetensors")
    client.run({"1": load("unet alone"), "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}})
    run = client.run(
        encoded("unet alone") | {"4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 3]}}}, "error"
    )
    assert run.error["node_id"] == "3"
    assert "no autoencoder: use the VAE of Load VAE" in run.error["exception_message"]
    words = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "words"}}
    graph = {"1": load("unet alone"), "2": words, "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}}}
    run = client.run(graph, "error")
    assert run.error["node_id"] == "2"
    assert "no text encoder: use the CLIP of Load CLIP" in run.error["exception_message"]
