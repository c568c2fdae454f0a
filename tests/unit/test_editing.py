"""The engine between frames and a model: windows, what is asked of the model, and the way back into the source."""

import numpy as np
import pytest
import torch

from lgvi_core import masks
from lgvi_core.conditioning import WorkSize, to_bytes, to_pixels, work_size
from lgvi_core.editing import Edge, Windows, edit, find, mask_of, put_into
from lgvi_core.errors import InputError
from lgvi_core.sampling.windows import sliding


class Copying:
    """A model that gives back the clip it gets, halved in brightness, and finds what is bright; it remembers calls."""

    device = torch.device("cpu")

    def __init__(self, has_mask_decoder=True):
        self.has_mask_decoder, self.calls = has_mask_decoder, []

    def encode(self, pixels, generator):
        self.calls.append(("encode", len(pixels)))
        return pixels.transpose(0, 1)[None]

    def denoise(self, number, noise, condition, generator, find_mask, hole=None):
        self.calls.append(("denoise", number, generator.initial_seed(), noise))
        mask = (condition.mean(dim=1, keepdim=True) > 0).float() if self.has_mask_decoder and find_mask else None
        return (condition - 1) / 2, mask

    def decode(self, latents):
        self.calls.append(("decode",))
        return (latents[0].permute(1, 2, 3, 0) + 1) / 2


def clip(count=13, height=10, width=14):
    frames = np.random.default_rng(0).random((count, height, width, 3), dtype=np.float32) * 0.4
    frames[:, 2:5, 3:8] += 0.6
    return frames


SIZE = WorkSize(14, 10, 16, 12)


def test_every_frame_comes_back_in_order_at_the_working_size():
    frames = clip()
    pairs = list(edit(frames, Copying(), SIZE, Windows(6, 2), seed=0, find_mask=True))
    assert len(pairs) == 13
    for frame, (picture, soft) in zip(frames, pairs):
        assert torch.allclose(picture, torch.from_numpy(frame) / 2, atol=1e-6)
        assert torch.equal(soft, torch.from_numpy(frame.mean(-1) > 0.5).float())


def test_without_a_mask_decoder_the_mask_is_the_difference_and_nothing_is_found_unasked():
    model = Copying(has_mask_decoder=False)
    bright = np.full((5, 10, 14, 3), 0.9, np.float32)
    assert all((soft > 0.99).all() for _, soft in edit(bright, model, SIZE, Windows(6, 2), 0, find_mask=True))
    assert all(len(one) == 1 for one in edit(bright, model, SIZE, Windows(6, 2), 0, find_mask=False))


def test_finding_alone_gives_the_same_mask_and_never_decodes():
    frames, editing, finding = clip(), Copying(), Copying()
    edited = edit(frames, editing, SIZE, Windows(6, 2), 3, find_mask=True)
    for (_, expected), (soft,) in zip(edited, find(frames, finding, SIZE, Windows(6, 2), 3), strict=True):
        assert torch.equal(soft, expected)
    assert not any(call[0] == "decode" for call in finding.calls)
    started = [[call[1:3] for call in model.calls if call[0] == "denoise"] for model in (editing, finding)]
    assert started[0] == started[1] == [(0, 3), (1, 7), (2, 10)]


def test_gradients_are_off_in_the_model_and_untouched_outside():
    seen = []

    class Watching(Copying):
        def encode(self, pixels, generator):
            seen.append(torch.is_grad_enabled())
            return super().encode(pixels, generator)

    for _ in edit(clip(), Watching(), SIZE, Windows(6, 2), 0, find_mask=False):
        assert torch.is_grad_enabled()
    assert seen == [False] * 3


@pytest.mark.parametrize("window, overlap", [(24, 8), (6, 2), (5, 4), (3, 0), (1, 0)])
def test_windows_are_counted_as_they_are_cut(window, overlap):
    windows = Windows(window, overlap)
    for frames in range(1, 60):
        starts = [start for start, _ in sliding(range(frames), window, overlap)]
        assert windows.count(frames) == len(starts)
        assert [windows.number(start) for start in starts] == list(range(len(starts)))


def test_windows_and_edges_that_cannot_be_are_refused():
    for arguments in ((0, 0), (4, 4), (4, -1)):
        with pytest.raises(InputError, match="window is"):
            Windows(*arguments)
    for arguments, name in (((-1.0, 0.0), "dilate is -1"), ((1.0, float("nan")), "feather is nan")):
        with pytest.raises(InputError, match=name):
            Edge(*arguments)


def test_an_edge_fits_the_masks_own_pixels_unless_it_is_given():
    assert Edge.fit(7.3, None, None) == Edge(8.0, 4.0, True)
    assert Edge.fit(0.5, None, None) == Edge(2.0, 1.0, True)
    assert Edge.fit(7.3, 3.0, None) == Edge(3.0, 1.5, True)
    assert Edge.fit(7.3, 0.0, 0.0, keep_outside=False) == Edge(0.0, 0.0, False)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_the_edge_does_not_reach_is_the_images_own(dtype):
    image = clip(1)[0] if dtype == np.float32 else to_bytes(clip(1)[0])
    mask = np.zeros((10, 14), bool)
    mask[4:6, 5:9] = True
    picture = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(0))
    out = put_into(image, picture, mask, Edge(2.0, 1.0))
    reach = masks.dilate(mask[None], 2.0)[0]
    assert out.dtype == dtype and np.array_equal(out[~reach], image[~reach])
    assert (out[mask] != image[mask]).any(axis=-1).all()
    everywhere = put_into(image, picture, mask, Edge(2.0, 1.0, keep_outside=False))
    assert (everywhere != image).any(axis=-1).mean() > 0.9
    assert put_into(image, picture, np.zeros_like(mask), Edge(2.0, 1.0)) is image


def test_a_soft_mask_is_resized_before_it_is_cut_off():
    soft = torch.zeros(5, 7)
    soft[2, 3] = 1.0
    mask = mask_of(soft, 20, 28)
    assert mask.shape == (20, 28) and mask[10, 14] and 0 < mask.mean() < 0.1
    assert mask_of(soft, 20, 28, threshold=0.05).sum() > mask.sum()


def test_frames_of_bytes_and_of_floats_are_the_same_pixels():
    frames = [to_bytes(frame) for frame in clip(3)]
    size = work_size(14, 10, {"width": 8, "height": 8}, 4)
    of_bytes = to_pixels(frames, size, "cpu")
    for dtype in (np.float32, np.float64):
        floats = [(frame / 255).astype(dtype) for frame in frames]
        torch.testing.assert_close(to_pixels(floats, size, "cpu"), of_bytes, atol=1e-6, rtol=0)
    assert of_bytes.shape == (3, 3, size.padded_height, size.padded_width) and of_bytes.abs().max() <= 1
    assert torch.equal(to_pixels(frames[1:2], size, "cpu"), of_bytes[1:2])


def test_floats_become_the_nearest_bytes():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert np.array_equal(to_bytes(levels.astype(np.float32) / 255 + 0.001), levels) and to_bytes(levels) is levels
    assert to_bytes(np.array([[[-0.5, 1.5, 0.5]]])).tolist() == [[[0, 255, 128]]]
