"""Every workflow of workflows/ as it is shipped, executed on the real server; what running again and stopping do."""

import functools
import io
import json
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from host_server import ROOT, Client
from PIL import Image

from lgvi_core import masks
from train.data.demo_clip import demo_clip

CLIP = ROOT / "lgvi_core" / "demo" / "clip.mp4"
REQUEST = "remove the red circle on the left"
FRAMES, SIDE, RATE = 72, 256, Fraction(24)
LEAST_IOU_WITH_COMMAND_LINE = 0.95
LEAST_IOU_WITH_TRUTH = 0.8

FILES = {path.stem: path for path in sorted((ROOT / "workflows").glob("*.json"))}
WANT_A_DOWNLOAD = {"sam3-mask": "sam3.1_multiplex_fp16.safetensors"}
RUNNABLE = sorted(FILES.keys() - WANT_A_DOWNLOAD.keys())
OF_CORES_SAMPLERS = "ksampler"  # what comes out is the model's own picture, at its size
OF_TURNS = "conversation"  # what comes out is without what two turns took away
OF_KEYFRAMES = ["edit-a-frame", "long-clip", "two-keyframes"]
OF_A_THING_FOUND = ["personal-fill", "replace-by-words", *OF_KEYFRAMES]  # and its place filled
THAT_FILL = ["fill-by-prompt", *OF_A_THING_FOUND]
THAT_REMOVE = [name for name in RUNNABLE if name not in (OF_CORES_SAMPLERS, OF_TURNS, *THAT_FILL)]
LAST = dict.fromkeys(OF_KEYFRAMES, "LGVIKeyframePropagate")  # where the result comes from, if not from our sampler
MODEL_SIDE = 64
ACTIVE = 0  # a node's mode; others are muted or bypassed
LOADERS = {"CheckpointLoaderSimple": "checkpoints", "CLIPLoader": "text_encoders"}  # and the folders they load from


def workflow(name):
    return json.loads(FILES[name].read_text("utf-8"))


def nodes_of(graph, class_type):
    return [node for node, what in graph.items() if what["class_type"] == class_type]


def the_node(graph, class_type):
    """The id of the one node of its kind."""
    (found,) = nodes_of(graph, class_type)
    return found


@pytest.fixture(scope="module", autouse=True)
def clip(server):
    return server.add_input(CLIP)


@pytest.fixture(scope="module")
def graph_of(server):
    """A workflow's graph, that of its nodes' results which no file shows saved as pictures too."""

    def graph_of(name):
        graph = server.graph_of(workflow(name))
        saved = {}
        if name in OF_KEYFRAMES:
            saved["keyframes"] = graph[the_node(graph, LAST[name])]["inputs"]["keyframes"]
        if name != OF_CORES_SAMPLERS:
            *before, sampler = nodes_of(graph, LAST.get(name, "LGVIVideoInpaintSampler"))
            assert bool(before) == (name == OF_TURNS)
            for node in before:
                graph["first mask image"] = server.node("MaskToImage", mask=[node, 2])
                saved["first mask"] = ["first mask image", 0]
            saved |= {"result": [sampler, 1], "mask": ["mask image", 0], "source": ["parts", 0]}
            graph["mask image"] = server.node("MaskToImage", mask=[sampler, 2])
            graph["parts"] = server.node("GetVideoComponents", video=[the_node(graph, "LoadVideo"), 0])
        return graph | {key: server.node("SaveImage", images=images) for key, images in saved.items()}

    return graph_of


@pytest.fixture(scope="module")
def shipped(server, graph_of):
    """`shipped(name)`: the graph of a workflow and its Run, each run once."""
    client = Client(server)

    @functools.cache
    def run(name):
        graph = graph_of(name)
        return graph, client.run(graph)

    yield run
    client.close()


@pytest.fixture(scope="module")
def pictures(server):
    """The saved pictures of a node, uint8 (T, H, W, 3)."""

    def pictures(run, node):
        files = [io.BytesIO(server.view(file)) for file in run.outputs[node]["images"]]
        return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])

    return pictures


@pytest.fixture(scope="module")
def command_line(tmp_path_factory):
    """The mask that the command line finds, bool (T, H, W)."""
    folder = tmp_path_factory.mktemp("command line")
    options = ["-o", str(folder / "out.mp4"), "--mask-output", str(folder / "mask"), "--seed", "0", "--quiet"]
    subprocess.run([sys.executable, "-m", "lgvi_core", "remove", str(CLIP), REQUEST, *options], cwd=ROOT, check=True)
    return np.stack([np.asarray(Image.open(file).convert("L")) > 127 for file in sorted((folder / "mask").iterdir())])


@pytest.fixture(scope="module")
def truth():
    return demo_clip().mask


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def steps_taken(run, node):
    return [data["value"] for data in run.of("progress") if data["node"] == node]


def slow(graph, seed):
    """The graph with many steps, for what must come in the middle of them."""
    node = graph[the_node(graph, "LGVIVideoInpaintSampler")]
    many = {"preset": "custom", "preset.steps": 1000, "preset.guidance": 1.0, "preset.image_guidance": 1.0}
    node["inputs"] |= {**many, "seed": seed}
    return graph


# What is shipped


def test_the_workflows_of_the_specification_are_there():
    removing = {"remove-by-words", "interactive-request", "preview-edit-remove", "sam3-mask", "ksampler"}
    filling = {"fill-by-prompt", "replace-by-words", "personal-fill"}
    removing |= {OF_TURNS}
    assert FILES.keys() == removing | filling | {"edit-a-frame", "two-keyframes", "long-clip"}


@pytest.mark.parametrize("name", FILES)
def test_a_workflow_is_as_the_page_saves_it_and_says_what_to_do(name):
    saved = workflow(name)
    assert saved["version"] == 0.4 and saved["extra"]["frontendVersion"] and saved["groups"]
    assert saved["last_node_id"] == max(node["id"] for node in saved["nodes"])
    notes = [node["widgets_values"][0] for node in saved["nodes"] if node["type"] == "MarkdownNote"]
    assert notes and all(len(note) > 200 for note in notes)
    assert any("lgvi_core/demo/clip.mp4" in note for note in notes)  # where to find the clip that Load Video asks for


@pytest.mark.parametrize("name", FILES)
def test_a_workflow_starts_with_the_demo_and_offers_what_it_needs_beyond_it(name):
    needed = set()
    for node in workflow(name)["nodes"]:
        values, models = node.get("widgets_values", []), node["properties"].get("models", [])
        if node["type"] == "LGVILoader":
            assert values[0] in ("demo (built in)", "demo that fills (built in)") and not models
        if node["type"] == "LGVIRequestReaderLoader":
            assert values[0] == "demo reader (built in)"
        if node["type"] == "LGVITaskVectorMerge":
            assert values[0] == "demo style: dark outlines (built in)"
        if node["type"] == "LoadVideo":
            assert values[0] == CLIP.name
        if node["type"] in LOADERS:
            (model,) = models  # what the page offers for download
            assert (model["name"], model["directory"]) == (values[0], LOADERS[node["type"]])
            assert model["url"].startswith("https://") and model["url"].endswith(f"/{values[0]}")
            if node["mode"] == ACTIVE:
                needed.add(values[0])
    assert needed == ({WANT_A_DOWNLOAD[name]} if name in WANT_A_DOWNLOAD else set())


@pytest.mark.parametrize("name", FILES)
def test_a_workflow_has_a_small_thumbnail(name):
    file = FILES[name].with_suffix(".jpg")
    with Image.open(file) as picture:
        assert picture.format == "JPEG" and picture.width == 512
    assert file.stat().st_size < 60_000


# What comes out


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_workflow_gives_the_whole_video_with_rate_and_sound(shipped, server, name):
    graph, run = shipped(name)
    side = MODEL_SIDE if name == OF_CORES_SAMPLERS else SIDE
    saves = nodes_of(graph, "SaveVideo")
    assert saves
    for node in saves:
        (file,) = run.outputs[node]["images"]
        with av.open(io.BytesIO(server.view(file))) as video:
            frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
            assert len(frames) == FRAMES and video.streams.video[0].average_rate == RATE
            assert frames[0].shape == (side, side, 3)
        with av.open(io.BytesIO(server.view(file))) as video:
            sound = np.concatenate([frame.to_ndarray()[0] for frame in video.decode(audio=0)])
            assert abs(len(sound) / video.streams.audio[0].rate - FRAMES / RATE) < 0.1
            assert np.abs(sound).max() > 0.05


@pytest.mark.parametrize("name", [*THAT_REMOVE, *THAT_FILL])
def test_every_pixel_beyond_the_grown_mask_is_the_videos_own(shipped, pictures, name):
    graph, run = shipped(name)
    result, source = pictures(run, "result"), pictures(run, "source")
    mask = pictures(run, "mask")[..., 0] > 127
    assert result.shape == source.shape == (FRAMES, SIDE, SIDE, 3)
    changed = (result != source).any(axis=-1)
    assert (changed & mask).sum() > 0.9 * mask.sum() > 0
    grown = masks.dilate(mask, SIDE // (16 if name in THAT_REMOVE else 8))  # further than the mask grows by itself
    assert not (changed & ~grown).any()


@pytest.mark.parametrize("name", ["remove-by-words", "interactive-request"])
def test_the_mask_is_the_one_that_the_command_line_finds(shipped, pictures, command_line, name):
    mask = pictures(shipped(name)[1], "mask")[..., 0] > 127
    assert iou(mask, command_line) > LEAST_IOU_WITH_COMMAND_LINE


@pytest.mark.parametrize("name", THAT_REMOVE)
def test_the_mask_is_on_what_the_words_name(shipped, pictures, truth, name):
    mask = pictures(shipped(name)[1], "mask")[..., 0] > 127
    assert iou(mask, truth) > LEAST_IOU_WITH_TRUTH


@pytest.mark.parametrize("name", OF_A_THING_FOUND)
def test_a_loosened_mask_covers_what_the_words_name_and_little_more(shipped, pictures, truth, name):
    mask = pictures(shipped(name)[1], "mask")[..., 0] > 127
    assert (mask & truth).sum() > 0.97 * truth.sum() and mask.sum() < 3 * truth.sum()


@pytest.mark.parametrize("name, indices", [("edit-a-frame", [0]), ("long-clip", [36]), ("two-keyframes", [0, -1])])
def test_keyframes_come_back_as_they_were_edited(shipped, pictures, name, indices):
    run = shipped(name)[1]
    keyframes, result, source = (pictures(run, node) for node in ("keyframes", "result", "source"))
    mask = pictures(run, "mask")[..., 0] > 127
    assert len(keyframes) == len(indices)
    for index, keyframe in zip(indices, keyframes):
        assert np.array_equal(result[index][mask[index]], keyframe[mask[index]])
        assert (keyframe != source[index])[mask[index]].any()


def test_a_frame_is_tried_four_times(shipped, pictures):
    graph, run = shipped("edit-a-frame")
    tries = pictures(run, the_node(graph, "PreviewImage")).astype(int)
    mask, source = pictures(run, "mask")[0, ..., 0] > 127, pictures(run, "source")[0].astype(int)
    assert len(tries) == 4 and all(np.abs(one - source)[mask].mean() > 10 for one in tries)


def test_beta_is_how_much_of_the_style_is_seen(shipped, pictures, client):
    graph, run = shipped("personal-fill")
    merge = the_node(graph, "LGVITaskVectorMerge")
    without = graph | {merge: {**graph[merge], "inputs": graph[merge]["inputs"] | {"beta": 0.0}}}
    assert not np.array_equal(pictures(client.run(without), "result"), pictures(run, "result"))


def test_without_opencv_a_mask_is_not_tracked_and_that_is_said(shipped, graph_of, client):
    graph, run = shipped("long-clip")
    node = the_node(graph, "LGVIKeyframePropagate")
    (shown,) = run.outputs[node]["lgvi_compare"]
    assert "OpenCV" not in shown["message"] and "is cut at" not in shown["message"]
    graph = graph_of("long-clip")
    picked = graph[node]["inputs"]["indices"][0]
    tracked = {"mask": [picked, 1], "one_mask": "tracked from the first keyframe"}
    error = client.run(graph | {node: {**graph[node], "inputs": graph[node]["inputs"] | tracked}}, expect="error").error
    assert error["node_id"] == node and "tracking a mask needs OpenCV" in error["exception_message"]


def test_the_request_becomes_the_prompt_and_so_the_same_video(shipped, pictures):
    _, words = shipped("remove-by-words")
    graph, asked = shipped("interactive-request")
    (chat,) = asked.outputs[the_node(graph, "LGVIRequestToPrompt")]["lgvi_chat"]
    assert chat["met"] and chat["prompt"] == REQUEST
    assert np.array_equal(pictures(asked, "result"), pictures(words, "result"))


def test_the_second_turn_of_a_conversation_goes_on_from_the_first(shipped, pictures, truth):
    graph, run = shipped(OF_TURNS)
    first, second = (run.outputs[node]["lgvi_chat"][0] for node in nodes_of(graph, "LGVIRequestToPrompt"))
    assert first["met"] and second["met"] and first["prompt"] != second["prompt"]
    assert second["turns"][:2] == first["turns"] and len(second["turns"]) == 4
    masks_of = [pictures(run, node)[..., 0] > 127 for node in ("first mask", "mask")]
    assert iou(masks_of[1], truth) > LEAST_IOU_WITH_TRUTH
    assert masks_of[0].any() and iou(*masks_of) < 0.05
    changed = (pictures(run, "result") != pictures(run, "source")).any(axis=-1)
    both = masks_of[0] | masks_of[1]
    assert (changed & both).sum() > 0.9 * both.sum()
    assert not (changed & ~masks.dilate(both, SIDE // 16)).any()


def test_the_edited_mask_is_the_one_that_is_removed(shipped, pictures, server, client):
    graph, run = shipped("preview-edit-remove")
    used = pictures(run, "mask")[..., 0] > 127
    preview, grow = the_node(graph, "LGVIMaskDecoderPreview"), the_node(graph, "GrowMask")
    graph = graph | {
        "found image": server.node("MaskToImage", mask=[preview, 0]),
        "edited image": server.node("MaskToImage", mask=[grow, 0]),
        "found": server.node("SaveImage", images=["found image", 0]),
        "edited": server.node("SaveImage", images=["edited image", 0]),
    }
    again = client.run(graph)
    found, edited = (pictures(again, node)[..., 0] > 127 for node in ("found", "edited"))
    assert np.array_equal(used, edited)
    assert not (found & ~edited).any() and edited.sum() > found.sum() > 0


def test_both_ways_through_cores_samplers_take_away_what_the_words_name(shipped, server, truth):
    graph, run = shipped(OF_CORES_SAMPLERS)
    small = slice(2, None, SIDE // MODEL_SIDE)
    before, named = demo_clip().frames[:, small, small].astype(float), truth[:, small, small]
    kept = ~masks.dilate(truth, 8)[:, small, small]
    for node in nodes_of(graph, "SaveVideo"):
        with av.open(io.BytesIO(server.view(run.outputs[node]["images"][0]))) as video:
            after = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
        difference = np.abs(after - before).mean(axis=-1)
        assert difference[named].mean() > 2 * difference[kept].mean()


# What cannot be had here: SAM 3's checkpoint


def test_sam3_is_asked_for_by_name_on_its_loader_and_nothing_else_is_wrong(server, client):
    graph = server.graph_of(workflow("sam3-mask"))
    refused = client.refusal(graph)["node_errors"]
    loader = the_node(graph, "CheckpointLoaderSimple")
    assert refused.keys() == {loader}
    (error,) = refused[loader]["errors"]
    assert error["type"] == "value_not_in_list" and WANT_A_DOWNLOAD["sam3-mask"] in error["details"]


def test_a_mask_in_sam3s_place_goes_through_the_rest_of_its_workflow(graph_of, server, client, truth, tmp_path):
    graph = graph_of("sam3-mask")
    anywhere = truth.any(axis=0).astype(np.uint8) * 255
    Image.fromarray(anywhere).convert("RGB").save(tmp_path / "anywhere.png")
    name = server.add_input(tmp_path / "anywhere.png")
    sam3 = ("CheckpointLoaderSimple", "CLIPTextEncode", "SAM3_VideoTrack", "SAM3_TrackToMask")
    *others, last = (the_node(graph, class_type) for class_type in sam3)
    for node in others:
        del graph[node]
    graph[last] = server.node("LoadImageMask", image=name, channel="red")
    run = client.run(graph)
    (file,) = run.outputs[the_node(graph, "SaveVideo")]["images"]
    assert server.view(file)
    assert {len(run.outputs[node]["images"]) for node in ("result", "mask", "source")} == {FRAMES}


# Running again, stopping, two at once


def test_a_second_identical_run_executes_nothing(graph_of, client):
    graph = graph_of("remove-by-words")
    graph[the_node(graph, "LGVIVideoInpaintSampler")]["inputs"]["seed"] = 11
    assert client.run(graph).ran
    again = client.run(graph)
    assert again.ran == [] and again.cached == graph.keys()


def test_the_edge_of_the_mask_changes_without_sampling_again(graph_of, client, pictures):
    graph = graph_of("remove-by-words")
    sampler = the_node(graph, "LGVIVideoInpaintSampler")
    graph[sampler]["inputs"] |= {"seed": 12, "dilation": 8.0, "feather": 4.0}
    first = client.run(graph)
    assert steps_taken(first, sampler)
    graph[sampler]["inputs"]["feather"] = 0.0
    second = client.run(graph)
    assert sampler in second.ran and not steps_taken(second, sampler)
    soft, hard = pictures(first, "result"), pictures(second, "result")
    mask = pictures(second, "mask")[..., 0] > 127
    different = (soft != hard).any(axis=-1)
    assert different.any() and not (different & ~masks.dilate(mask, 8)).any() and not (different & mask).any()


def test_progress_counts_all_steps_and_shows_the_video_on_its_way(graph_of, client):
    graph = graph_of("remove-by-words")
    sampler = the_node(graph, "LGVIVideoInpaintSampler")
    custom = {"preset": "custom", "preset.steps": 3, "preset.guidance": 1.0, "preset.image_guidance": 1.0}
    graph[sampler]["inputs"] |= {**custom, "window": 24, "overlap": 0, "seed": 13}
    run = client.run(graph)
    assert steps_taken(run, sampler) == list(range(1, 1 + 3 * (FRAMES // 24)))
    assert client.previews


def test_an_interrupt_in_the_middle_stops_the_sampler_and_the_next_run_works(graph_of, client, server):
    graph = slow(graph_of("remove-by-words"), seed=14)
    sampler = the_node(graph, "LGVIVideoInpaintSampler")

    def stop(kind, data):
        if kind == "progress" and data["node"] == sampler and data["value"] == 3:
            server.post("/interrupt", {}).raise_for_status()

    run = client.run(graph, expect="interrupted", on_event=stop)
    assert run.events[-1][1]["node_id"] == sampler
    assert 3 <= max(steps_taken(run, sampler)) < 1000
    client.run(graph_of("remove-by-words"))


def test_two_workflows_queued_at_once_both_finish(graph_of, client, server, pictures):
    other, graphs = Client(server), [graph_of("remove-by-words"), graph_of("interactive-request")]
    for seed, graph in enumerate(graphs, 15):
        graph[the_node(graph, "LGVIVideoInpaintSampler")]["inputs"]["seed"] = seed
    queued = [one.queue(graph) for one, graph in zip((client, other), graphs)]
    runs = [one.wait(prompt) for one, prompt in zip((client, other), queued)]
    other.close()
    assert [run.status for run in runs] == ["success", "success"]
    (first,), (second,) = (run.outputs[the_node(graph, "SaveVideo")]["images"] for run, graph in zip(runs, graphs))
    assert first["filename"] != second["filename"]
