"""Windows over a clip of any length, their blend, and noise by frame number."""

import itertools

import pytest
import torch

from lgvi_core.errors import InputError
from lgvi_core.sampling.windows import crossfade, frame_noise, sliding

SIZES = [(window, overlap) for window in range(1, 7) for overlap in range(window)]


@pytest.mark.parametrize("window, overlap", SIZES)
def test_windows_cover_every_frame_of_any_clip(window, overlap):
    for n in range(20):
        windows = list(sliding(range(n), window, overlap))
        assert sorted({frame for _, items in windows for frame in items}) == list(range(n))
        for start, items in windows:
            assert items == list(range(start, start + min(window, n)))
        starts = [start for start, _ in windows]
        assert starts[:-1] == [i * (window - overlap) for i in range(len(starts) - 1)]
        if n:
            assert starts[-1] == max(0, n - window) and starts == sorted(set(starts))


@pytest.mark.parametrize("window, overlap", SIZES)
def test_blending_gives_every_frame_once_in_order(window, overlap):
    for n in range(20):
        windows = sliding(range(n), window, overlap)
        blocks = list(crossfade((start, torch.tensor(items, dtype=torch.float64)) for start, items in windows))
        out = torch.cat(blocks) if blocks else torch.empty(0)
        assert len(out) == n and all(len(block) for block in blocks)
        torch.testing.assert_close(out, torch.arange(n, dtype=out.dtype), atol=1e-12, rtol=0)  # weights sum to 1


def test_a_window_never_waits_for_more_frames_than_it_has():
    taken = []

    def frames():
        for i in range(100):
            taken.append(i)
            yield i

    for start, items in itertools.islice(sliding(frames(), 8, 3), 5):
        assert len(taken) == start + len(items)


def test_blocks_come_as_soon_as_no_later_window_can_touch_them():
    taken = []

    def windows():
        for start, items in sliding(range(30), 8, 3):
            taken.append(start)
            yield start, torch.tensor(items)

    done = 0
    for block in crossfade((start, x.float()) for start, x in windows()):
        done += len(block)
        assert done == (taken[-1] if done < 30 else 30)


def test_frames_outside_overlaps_pass_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    clips = [(start, torch.randn(len(items), 3, generator=generator)) for start, items in sliding(range(18), 8, 3)]
    out = torch.cat(list(crossfade(iter(clips))))
    assert [start for start, _ in clips] == [0, 5, 10]
    for frames, (start, clip) in zip([(0, 5), (8, 10), (13, 18)], clips):
        for frame in range(*frames):
            assert torch.equal(out[frame], clip[frame - start])


def test_the_blend_is_a_smooth_ramp_from_the_old_window_to_the_new():
    old, new = torch.zeros(8, 1), torch.ones(8, 1)
    out = torch.cat(list(crossfade(iter([(0, old), (4, new)])))).flatten()
    assert (out[:4] == 0).all() and (out[8:] == 1).all()
    steps = out[3:9].diff()
    assert (steps > 0).all() and torch.allclose(steps, steps.flip(0), atol=1e-6)
    assert steps[0] < steps[2]  # slow at the ends


def test_several_tensors_are_blended_alike():
    values = [(0, (torch.zeros(4, 2), torch.zeros(4, 1, 3, 3))), (2, (torch.ones(4, 2), torch.ones(4, 1, 3, 3)))]
    blocks = list(crossfade(iter(values)))
    a, b = (torch.cat(part) for part in zip(*blocks))
    assert a.shape == (6, 2) and b.shape == (6, 1, 3, 3)
    assert torch.equal(a[:, 0], b[:, 0, 0, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_blending_keeps_the_dtype(dtype):
    windows = [(0, torch.ones(4, 2, dtype=dtype)), (2, torch.ones(4, 2, dtype=dtype))]
    out = torch.cat(list(crossfade(iter(windows))))
    assert out.dtype == dtype and (out == 1).all()


@pytest.mark.parametrize("window, overlap", [(0, 0), (-1, 0), (4, 4), (4, 9), (4, -1)])
def test_a_window_shorter_than_its_overlap_is_refused_at_once(window, overlap):
    with pytest.raises(InputError, match=f"window is {window} and overlap {overlap}"):
        sliding([], window, overlap)


@pytest.mark.parametrize("starts", [(0, 5), (4, 3), (0, -1)])
def test_windows_with_a_gap_or_out_of_order_are_refused(starts):
    with pytest.raises(InputError, match="must come in order and leave no gap"):
        list(crossfade((start, torch.zeros(4, 1)) for start in starts))


def test_noise_depends_on_the_seed_and_the_frame_alone():
    whole = frame_noise(0, 40, (4, 5, 6), seed=7)
    assert whole.shape == (4, 40, 5, 6) and whole.dtype == torch.float32
    for start, count in [(0, 8), (5, 8), (39, 1), (20, 20)]:
        assert torch.equal(frame_noise(start, count, (4, 5, 6), seed=7), whole[:, start : start + count])
    assert not torch.equal(frame_noise(0, 40, (4, 5, 6), seed=8), whole)
    assert len({tuple(frame.flatten().tolist()) for frame in whole.unbind(1)}) == 40


def test_noise_is_gaussian_and_frames_and_seeds_are_independent():
    noise = torch.stack([frame_noise(0, 64, (4, 16, 16), seed).flatten() for seed in (0, 1, -1)])
    assert noise.mean(1).abs().max() < 0.02 and (noise.std(1) - 1).abs().max() < 0.02
    assert (torch.corrcoef(noise) - torch.eye(3)).abs().max() < 0.02
    by_frame = noise[0].reshape(4, 64, -1).transpose(0, 1).flatten(1)
    assert (torch.corrcoef(by_frame) - torch.eye(64)).abs().max() < 0.2
