"""What the nodes are given wrongly: an error on the right node, in words that name the value, and the next run works.

A checkpoint that is missing, or deleted while a prompt waits, is in test_load_lgvi.py; stopping in test_workflows.py.
"""

import itertools

import av
import numpy as np
import pytest
import torch
from host_server import ROOT
from safetensors.torch import save_file

CLIP = ROOT / "lgvi_core" / "demo" / "clip.mp4"
SIDE, COUNT = 64, 8
OURS = ("LGVIVideoInpaintSampler", "LGVIMaskDecoderPreview")
fresh = itertools.count(1)  # colours that no other graph has, so that nothing comes from the cache


@pytest.fixture
def graph(server):
    """A graph of Load LGVI ("loader"), frames ("frames") and one of the nodes on whole videos ("node")."""

    def graph(class_type, frames=None, **inputs):
        parts = {"model": ["loader", 0], "clip": ["loader", 1], "vae": ["loader", 2], "video": ["frames", 0]}
        return {
            "loader": server.node("LGVILoader"),
            "frames": frames or plain(server),
            "node": server.node(class_type, **parts | inputs),
        }

    return graph


@pytest.fixture
def fails(client, graph):
    """`fails(graph)` runs what must fail and then what must not; the node and the words of the error."""

    def fails(wrong):
        error = client.run(wrong, expect="error").error
        run = client.run(graph("LGVIVideoInpaintSampler"))
        assert "node" in run.ran
        assert error["exception_type"].endswith("InputError")
        return error["node_id"], error["exception_message"]

    return fails


def plain(server, width=SIDE, height=SIDE, count=COUNT):
    return server.node("EmptyImage", width=width, height=height, batch_size=count, color=next(fresh))


def video_of(path, codec, pixels, width, height, count=COUNT):
    """Write a video of noise."""
    noise = np.random.default_rng(0).integers(0, 255, (count, height, width, 3), np.uint8)
    with av.open(path, "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as file:
        stream = file.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for image in noise:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixels)))
        file.mux(stream.encode(None))


@pytest.mark.parametrize("class_type", OURS)
@pytest.mark.parametrize("prompt", ["", " \n\t"])
def test_an_empty_prompt(fails, graph, class_type, prompt):
    node, message = fails(graph(class_type, prompt=prompt))
    assert node == "node" and "the prompt is empty" in message


def test_a_mask_of_another_length(fails, graph, server):
    wrong = graph("LGVIVideoInpaintSampler", mask=["mask", 0])
    wrong |= {"five": plain(server, count=5), "mask": server.node("ImageToMask", image=["five", 0], channel="red")}
    node, message = fails(wrong)
    assert node == "node" and "the mask has 5 frames but the video has 8" in message


def test_a_mask_of_another_size(fails, graph, server):
    wrong = graph("LGVIVideoInpaintSampler", mask=["mask", 0])
    wrong["mask"] = server.node("SolidMask", width=48, height=32, value=1.0)
    node, message = fails(wrong)
    assert node == "node" and "48x32" in message and "64x64" in message


@pytest.mark.parametrize("class_type", OURS)
def test_a_video_without_frames(fails, graph, server, class_type, tmp_path):
    """As a download that was broken off after the file's head leaves it."""
    whole = tmp_path / "broken off.mp4"
    video_of(whole, "h264", "yuv420p", SIDE, SIDE)
    data = whole.read_bytes()
    whole.write_bytes(data[: data.index(b"mdat") + 4])
    file = server.add_input(whole, f"broken off {class_type}.mp4")
    node, message = fails(graph(class_type, server.node("LoadVideo", file=file)))
    assert node == "node" and "(0, " in message and "at least one frame" in message


@pytest.mark.parametrize("class_type", OURS)
def test_a_model_that_is_not_lgvi(fails, graph, server, class_type):
    """Tensors enough for the host to take them for a very small Wan."""
    weights = {"head.modulation": (1, 2, 128), "head.head.weight": (64, 128), "blocks.0.ffn.0.weight": (128, 128)}
    weights["patch_embedding.weight"] = (128, 16, 1, 2, 2)
    folder = server.base / "models" / "diffusion_models"
    folder.mkdir(exist_ok=True)
    save_file({name: torch.zeros(shape) for name, shape in weights.items()}, folder / "wan.safetensors")
    other = server.node("UNETLoader", unet_name="wan.safetensors")
    node, message = fails(graph(class_type, model=["other", 0]) | {"other": other})
    assert node == "node" and "this MODEL is WAN21, not LGVI: connect the MODEL of Load LGVI" in message


def test_a_vae_of_another_model(fails, graph, server):
    wrong = graph("LGVIVideoInpaintSampler", vae=["other", 0])
    wrong["other"] = server.node("VAELoader", vae_name="pixel_space")
    node, message = fails(wrong)
    assert node == "node" and "this VAE makes" in message


def test_a_latent_with_a_time_axis_of_another_length(fails, graph, server):
    wrong = graph("LGVIVideoInpaintSampler")
    del wrong["node"]
    parts = {"clip": ["loader", 1], "vae": ["loader", 2]}
    conditions = {"positive": ["encode", 0], "negative": ["encode", 1]}
    wrong |= {
        "encode": server.node("LGVIConditionEncode", frames=["frames", 0], **parts),
        "latent": server.node("EmptyHunyuanLatentVideo", width=SIDE, height=SIDE, length=25),
        "ksampler": server.node("KSampler", model=["loader", 0], latent_image=["latent", 0], steps=1, **conditions),
        "look": server.node("PreviewAny", source=["ksampler", 0]),
    }
    node, message = fails(wrong)
    assert node == "ksampler" and "(8, " in message and ", 7, " in message
    assert "LGVI Condition Encode gives both" in message


def test_frames_that_the_autoencoder_cannot_take_whole(fails, graph, server):
    wrong = graph("LGVIVideoInpaintSampler", plain(server, 255, 257))
    wrong["node"] = server.node("LGVIConditionEncode", clip=["loader", 1], vae=["loader", 2], frames=["frames", 0])
    wrong["look"] = server.node("PreviewAny", source=["node", 3])
    node, message = fails(wrong)
    assert node == "node" and "frames are 255x257" in message and "multiples of" in message


@pytest.mark.parametrize("region", ["scribble", '{"box": [0.1, 0.2]}', '{"box": [0, 0, "wide", 1]}'])
def test_a_region_that_is_none(fails, graph, region):
    node, message = fails(graph("LGVIMaskDecoderPreview", region=region))
    assert node == "node" and "region" in message


def test_more_overlap_than_there_is_window(fails, graph):
    node, message = fails(graph("LGVIVideoInpaintSampler", window=4, overlap=4))
    assert node == "node" and "overlap" in message and "4" in message


# What looks wrong and is not


@pytest.mark.parametrize("class_type", OURS)
def test_one_frame_is_a_video(client, graph, server, class_type):
    run = client.run(graph(class_type, plain(server, count=1)))
    (shown,) = run.outputs["node"].popitem()[1]
    assert shown["frames"] == 1


def test_an_alpha_channel_is_left_out_and_that_is_said(client, graph, server):
    run = client.run(
        graph("LGVIVideoInpaintSampler", server.node("JoinImageWithAlpha", image=["opaque", 0], alpha=["alpha", 0]))
        | {"opaque": plain(server), "alpha": server.node("SolidMask", width=SIDE, height=SIDE, value=0.5)}
    )
    assert "alpha channel is left out" in run.outputs["node"]["lgvi_compare"][0]["message"]


def test_a_video_of_odd_size_comes_back_at_its_size(client, graph, server, tmp_path):
    video_of(tmp_path / "odd.mkv", "ffv1", "bgr0", 255, 257)
    file = server.add_input(tmp_path / "odd.mkv")
    mask = server.node("SolidMask", width=255, height=257, value=1.0)
    run = client.run(
        graph("LGVIVideoInpaintSampler", server.node("LoadVideo", file=file), mask=["mask", 0])
        | {"mask": mask, "save": server.node("SaveWEBM", images=["node", 1])}
    )
    (saved,) = run.outputs["save"]["images"]
    with av.open(str(server.base / "output" / saved["subfolder"] / saved["filename"])) as file:
        assert {(frame.width, frame.height) for frame in file.decode(video=0)} == {(255, 257)}


@pytest.mark.parametrize("class_type", OURS)
@pytest.mark.parametrize("words", ["remove ((the red (circle:1.9))", "remove the 🔴, s'il vous plaît {a|b} // \\"])
def test_a_prompt_with_parentheses_and_emoji_is_words(client, graph, class_type, words):
    assert client.run(graph(class_type, prompt=words)).outputs["node"]
