"""Measures of whole frames and of motion, each against another way to compute it or a property it must have."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.metrics import peak_signal_noise_ratio

from lgvi_core.errors import InputError
from lgvi_core.metrics.background import background_change
from lgvi_core.metrics.flow import dis_flow, raft_flow
from lgvi_core.metrics.psnr import frame_psnr
from lgvi_core.metrics.ssim import frame_ssim, window_for
from lgvi_core.metrics.warping import Motion, motions, occluded, warp, warping_error


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def texture(frames, height, width, step, seed=0):
    """A smooth texture that moves `step` pixels to the left each frame."""
    wide = np.random.default_rng(seed).random((height, width + frames * step, 3))
    wide = gaussian_filter(wide, (3, 3, 0))
    wide = np.uint8(255 * (wide - wide.min()) / np.ptp(wide))
    return np.stack([wide[:, t * step : t * step + width] for t in range(frames)])


def test_psnr_of_each_frame_is_that_of_scikit_image():
    output, truth = noise(0, 3, 20, 30, 3), noise(1, 3, 20, 30, 3)
    truth[1] = output[1] ^ 1  # an error of one everywhere
    expected = [peak_signal_noise_ratio(b, a, data_range=255) for a, b in zip(output, truth)]
    assert frame_psnr(output, truth) == pytest.approx(expected, rel=1e-12)
    assert frame_psnr(output, truth)[1] == pytest.approx(48.1308, abs=1e-4)


def test_psnr_of_an_identical_frame_is_infinite_and_that_of_others_is_not():
    output = noise(0, 2, 8, 8, 3)
    truth = output.copy()
    truth[1, 0, 0] ^= 1
    first, second = frame_psnr(output, truth)
    assert first == math.inf and second < 100


def ssim_by_hand(a, b, window):
    """Wang et al. 2004, equation 13, over every window that fits, with unbiased variances; mean over colours."""
    values = []
    for colour in range(3):
        x, y = (
            np.lib.stride_tricks.sliding_window_view(v[..., colour].astype(float), (window, window)).reshape(
                -1, window**2
            )
            for v in (a, b)
        )
        mean_x, mean_y = x.mean(1), y.mean(1)
        covariance = ((x - mean_x[:, None]) * (y - mean_y[:, None])).sum(1) / (window**2 - 1)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        values.append(top / ((mean_x**2 + mean_y**2 + c1) * (x.var(1, ddof=1) + y.var(1, ddof=1) + c2)))
    return np.mean(values)


@pytest.mark.parametrize("size, window", [((70, 68), 65), ((40, 33), 33), ((64, 64), 63)])
def test_ssim_is_the_definitions_with_a_uniform_window_of_65_or_what_fits(size, window):
    truth = texture(1, *size, 0)
    output = np.uint8(np.clip(truth.astype(int) + noise(1, *truth.shape) // 4 - 20, 0, 255))
    assert window_for(*size) == window
    assert frame_ssim(output, truth)[0] == pytest.approx(ssim_by_hand(output[0], truth[0], window), abs=1e-6)
    assert frame_ssim(truth, truth) == [1.0]


@pytest.mark.parametrize("offset", [0, 1, 17])
def test_background_change_of_an_offset_outside_the_mask_is_the_offset(offset):
    source = noise(0, 2, 8, 9, 3) // 2
    mask = np.zeros((2, 8, 9), bool)
    mask[:, 2:5, 3:6] = True
    output = np.where(mask[..., None], 255, source + np.uint8(offset))
    assert background_change(output, source, mask) == pytest.approx(offset)
    assert background_change(source, output, mask) == pytest.approx(offset)  # bytes do not wrap around


def test_background_change_where_the_mask_covers_everything_is_not_there():
    frames = noise(0, 1, 4, 4, 3)
    assert background_change(frames, frames, np.ones((1, 4, 4), bool)) is None


def test_dis_flow_finds_a_shift():
    first, second = texture(2, 64, 80, 3)
    assert np.median(dis_flow(first, second), axis=(0, 1)) == pytest.approx([-3, 0], abs=0.1)


def test_warp_reads_where_the_flow_points_and_repeats_the_border():
    image = noise(0, 12, 15, 3).astype(np.float32)
    flow = np.random.default_rng(1).normal(0, 4, (12, 15, 2)).astype(np.float32)
    rows, columns = np.indices((12, 15), float)
    places = [rows + flow[..., 1], columns + flow[..., 0]]
    expected = np.stack([map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(3)], axis=-1)
    assert warp(image, flow) == pytest.approx(expected, abs=1e-2)


def test_occlusion_is_the_papers_rule_pixel_by_pixel():
    rng = np.random.default_rng(0)
    smooth = [gaussian_filter(rng.normal(0, 1, (16, 18, 2)), (2, 2, 0)).astype(np.float32) for _ in "fb"]
    forward = 2 + 2 * smooth[0]
    backward = -forward + 4 * smooth[1]
    back = warp(backward, forward)
    expected = np.zeros((16, 18), bool)
    for y in range(16):
        for x in range(18):
            f, b = forward[y, x], back[y, x]
            right = forward[y, x + 1] - f if x < 17 else np.zeros(2)
            down = forward[y + 1, x] - f if y < 15 else np.zeros(2)
            disagree = sum((f + b) ** 2) > 0.01 * (sum(f**2) + sum(b**2)) + 0.5
            expected[y, x] = disagree or sum(right**2) + sum(down**2) > 0.01 * sum(f**2) + 0.002
    assert 0.1 < expected.mean() < 0.9
    assert (occluded(forward, backward) == expected).all()


def test_a_square_that_moves_hides_what_it_moves_over():
    forward, backward = np.zeros((2, 20, 20, 2), np.float32)
    forward[5:10, 5:10, 0], backward[5:10, 9:14, 0] = 4, -4
    hidden = occluded(forward, backward)
    assert hidden[6:9, 10:13].all()  # covered by it in the next frame
    assert not hidden[6:8, 6:8].any() and not hidden[12:].any()


def test_warping_error_of_a_moving_texture_is_nearly_nothing_and_that_of_noise_is_not():
    moving = texture(4, 64, 80, 2)
    found = motions(moving, dis_flow)
    assert np.mean([motion.seen for motion in found]) > 0.8
    assert warping_error(moving, found) < 0.01
    assert warping_error(noise(0, *moving.shape), found) > 5


def test_a_still_clip_has_no_warping_error_and_flicker_has_its_square():
    still = np.repeat(texture(1, 40, 48, 0) // 2, 3, axis=0)
    found = motions(still)
    assert warping_error(still, found) == pytest.approx(0, abs=1e-9)
    flicker = still.copy()
    flicker[1] += 51  # 0.2 of the range, in both pairs
    assert warping_error(flicker, found) == pytest.approx(100 * 0.2**2, rel=1e-4)


def test_warping_error_is_the_mean_over_pairs_of_what_is_seen():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[1, 0] = 255  # a row that comes and goes: only one of the pairs sees it
    seen = np.ones((4, 4), bool)
    hidden = seen.copy()
    hidden[0] = False
    flow = np.zeros((4, 4, 2), np.float32)
    assert warping_error(frames, [Motion(flow, seen), Motion(flow, hidden)]) == pytest.approx(100 * 0.25 / 2)
    assert warping_error(frames, [Motion(flow, ~seen), Motion(flow, ~seen)]) == 0


def test_a_single_frame_has_no_warping_error():
    frame = noise(0, 1, 20, 20, 3)
    assert warping_error(frame, motions(frame)) is None


def test_raft_takes_any_size_and_its_weights_come_from_a_file(tmp_path):
    from torchvision.models.optical_flow import raft_large

    torch.manual_seed(0)
    torch.save(raft_large().state_dict(), tmp_path / "raft.pth")
    flow = raft_flow(tmp_path / "raft.pth")
    first, second = texture(2, 50, 61, 2)
    assert flow(first, second).shape == (50, 61, 2)
    assert np.isfinite(flow(first, second)).all()


def test_raft_weights_that_are_absent_or_others_say_where_to_get_them(tmp_path):
    with pytest.raises(InputError, match=r"absent\.pth do not exist; download https://.*raft_large"):
        raft_flow(tmp_path / "absent.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="raft_large; download https"):
        raft_flow(tmp_path / "other.pth")
