"""Keyframe Propagate given what does not fit, on the real server without OpenCV: what it says and makes of it."""

import io
import itertools

import av
import numpy as np
import pytest
from PIL import Image

SIDE, COUNT = 64, 16
NODE = "LGVIKeyframePropagate"
INSIDE = (slice(16, 48), slice(16, 48))
fresh = itertools.count(1)  # colours that no other graph has, so that nothing comes from the cache


@pytest.fixture(scope="module")
def clip():
    """Two scenes of 8 frames, uint8 (T, H, W, 3): smooth colours that drift."""
    y, x = np.mgrid[:SIDE, :SIDE]
    one = np.stack([np.stack([2 * x + i, 2 * y, 90 + x - y], axis=-1) for i in range(COUNT // 2)])
    return np.concatenate([one, 255 - one[:, ::-1]]).astype(np.uint8)


@pytest.fixture(scope="module")
def graph(server, clip, tmp_path_factory):
    """`graph(masked=range(16), size=64, **inputs)`: an edit from one plain keyframe within a square, in some frames."""
    folder = tmp_path_factory.mktemp("clips")

    def file(name, frames):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("ffv1", rate=24)
            stream.width = stream.height = SIDE
            stream.pix_fmt = "bgr0"
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="bgr0")))
            container.mux(stream.encode(None))
        return server.node("LoadVideo", file=server.add_input(folder / name))

    video = file("scenes.mkv", clip)

    def graph(masked=range(COUNT), size=SIDE, **inputs):
        holes = np.zeros_like(clip)
        for frame in masked:
            holes[frame][INSIDE] = 255
        given = {"model": ["loader", 0], "clip": ["loader", 1], "vae": ["loader", 2], "video": ["video", 0]}
        given |= {"mask": ["mask", 0], "keyframes": ["key", 0], "prompt": "", "window": 8, "overlap": 2}
        given |= {"dilation": 0.0, "feather": 0.0}
        return {
            "loader": server.node("LGVILoader", checkpoint="demo that fills (built in)"),
            "video": video,
            "masks": file(f"masks {len(masked)}.mkv", holes),
            "parts": server.node("GetVideoComponents", video=["masks", 0]),
            "mask": server.node("ImageToMask", image=["parts", 0], channel="red"),
            "key": server.node("EmptyImage", width=size, height=size, batch_size=1, color=next(fresh)),
            "node": server.node(NODE, **given | inputs),
            "look": server.node("PreviewImage", images=["node", 1]),
            "opened": server.node("GetVideoComponents", video=["video", 0]),
            "source": server.node("PreviewImage", images=["opened", 0]),
        }

    return graph


@pytest.fixture
def result(server, client):
    """`result(graph)` runs it: the frames and those of the clip (T, H, W, 3), and what is said, a line each."""

    def result(graph):
        run = client.run(graph)

        def pictures(node):
            files = (Image.open(io.BytesIO(server.view(file))) for file in run.outputs[node]["images"])
            return np.stack([np.array(file.convert("RGB")) for file in files]).astype(int)

        said = run.outputs["node"]["lgvi_compare"][0]["message"].split("\n")
        return pictures("look"), pictures("source"), [line for line in said if "colours were off" not in line]

    return result


def changed(frames, clip):
    return [i for i in range(COUNT) if (frames[i] != clip[i])[INSIDE].any(axis=-1).mean() > 0.5]


def test_a_cut_is_found_and_the_edit_does_not_cross_it(graph, result):
    frames, clip, said = result(graph())
    assert changed(frames, clip) == [*range(8)]
    assert said[0].startswith("the clip is cut at frame 8: the edit does not cross that")
    assert "frames 8 to 15 have no keyframe and are left as they are: give a keyframe there, or a prompt" in said[0]
    frames, clip, said = result(graph(cross_cuts=True))
    assert changed(frames, clip) == [*range(16)] and not any("cut" in line for line in said)


def test_a_scene_with_an_empty_mask_needs_no_keyframe(graph, result):
    frames, clip, said = result(graph(masked=range(8)))
    assert changed(frames, clip) == [*range(8)] and "no keyframe" not in said[0]


def test_masks_vanish_and_come_back(graph, result):
    there = [0, 1, 2, 6, 7]
    frames, clip, _ = result(graph(masked=there))
    assert changed(frames, clip) == there
    others = np.setdiff1d(np.arange(COUNT), there)
    assert np.array_equal(frames[others], clip[others])


def test_a_keyframe_of_another_size_is_resized_and_that_is_said(graph, result):
    frames, _, said = result(graph(size=40))
    assert "the keyframes are 40x40: they are resized to the video's 64x64" in said
    assert np.ptp(frames[0][INSIDE].reshape(-1, 3), axis=0).max() <= 1  # plain, as it was given


def test_what_a_keyframe_has_outside_of_the_mask_is_dropped_or_taken_over(graph, result):
    outside = np.ones((SIDE, SIDE), bool)
    outside[INSIDE] = False
    frames, clip, said = result(graph())
    assert any("dropped for the video's own" in line for line in said)
    assert np.array_equal(frames[:, outside], clip[:, outside])
    frames, clip, said = result(graph(outside_mask="take over the keyframes'"))
    assert any("taken over, fading within 8 frames" in line for line in said)
    far = np.abs(frames - clip)[:, outside].mean(axis=(1, 2)).tolist()
    assert far[:8] == sorted(far[:8], reverse=True) and far[0] > 50 and not any(far[8:])


REFUSED = {
    "16": "there is no frame 16: the video has 16 frames, 0 to 15",
    "0, -16": "frame 0 is named twice",
    "0, 8": "the indices name 2 frames",
    "first": "expected whole numbers",
}


@pytest.mark.parametrize("indices", REFUSED)
def test_indices_that_do_not_fit_are_refused_on_the_node(graph, client, indices):
    error = client.run(graph(indices=indices), expect="error").error
    assert error["node_id"] == "node" and REFUSED[indices] in error["exception_message"]


def test_without_a_mask_nothing_is_queued(graph, client):
    wrong = {name: node for name, node in graph().items() if name not in ("opened", "source")}
    del wrong["node"]["inputs"]["mask"]
    (told,) = client.refusal(wrong)["node_errors"]["node"]["errors"]
    assert told["type"] == "required_input_missing" and told["extra_info"]["input_name"] == "mask"
