"""Measures made of a network's features: VFID by I3D, and what CLIP says. The networks are untrained."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from small_networks import small_clip, untrained_i3d

from lgvi_core.errors import InputError
from lgvi_core.metrics import i3d
from lgvi_core.metrics.clip_features import Clip
from lgvi_core.metrics.vfid import can_normalise, features, frechet_distance


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def network():
    return untrained_i3d()


def test_i3d_has_the_public_weights_names_and_shapes(network):
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert sum(np.prod(shape) for name, shape in shapes.items() if name.endswith(("weight", "bias"))) == 12_697_264
    trunk = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("logits"))
    assert trunk == 12_287_264  # the 12.3 M of the paper's table 1, the classifier apart
    assert shapes["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7)
    assert shapes["Conv3d_2c_3x3.bn.running_var"] == (192,)
    assert shapes["Mixed_3b.b2b.conv3d.weight"] == (32, 16, 3, 3, 3)
    assert shapes["Mixed_4f.b3b.conv3d.weight"] == (128, 528, 1, 1, 1)
    assert shapes["Mixed_5c.b1b.conv3d.weight"] == (384, 192, 3, 3, 3)
    assert shapes["logits.conv3d.weight"] == (400, 1024, 1, 1, 1) and shapes["logits.conv3d.bias"] == (400,)
    assert len({name.split(".")[0] for name in shapes}) == 3 + 9 + 1


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 45, 70), (8, 64, 64)])
def test_i3d_gives_1024_features_of_clips_of_any_size(network, shape):
    assert features(network, noise(0, *shape, 3), as_papers=False).shape == (1024,)


@pytest.mark.parametrize("size, stride, expected", [(8, 2, (2, 3)), (9, 2, (3, 3)), (8, 1, (3, 3)), (7, 2, (3, 3))])
def test_padding_is_tensorflows_same(size, stride, expected):
    x = torch.ones(1, 1, size, size, size)
    padded = i3d.pad(x, (7, 7, 7), (stride,) * 3)
    row = padded[0, 0, size // 2, size // 2]
    assert (len(row), row.argmax().item()) == (size + sum(expected), expected[0])


def test_features_as_papers_compute_them_differ_and_leave_the_network_as_it_was(network):
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    clip = noise(0, 8, 48, 48, 3)
    correct, papers = (features(network, clip, as_papers) for as_papers in (False, True))
    assert np.abs(correct - papers).max() > 1e-3
    assert (features(network, clip, as_papers=False) == correct).all()
    assert (features(network, clip, as_papers=True) == papers).all()  # no trace of the clips before
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert not network.training


def test_clips_without_statistics_of_their_own_are_known(network):
    assert not can_normalise(8, 32, 32)
    for shape in ((9, 32, 32), (1, 32, 33)):
        assert can_normalise(*shape)
        features(network, noise(0, *shape, 3), as_papers=True)


def test_weights_are_read_from_the_public_files_kind_and_others_are_refused(network, tmp_path):
    old = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "rgb_imagenet.pt")
    loaded = i3d.load(tmp_path / "rgb_imagenet.pt")
    assert torch.equal(loaded.Mixed_5c.b0.bn.running_mean, network.Mixed_5c.b0.bn.running_mean)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="does not hold I3D's weights; download https"):
        i3d.load(tmp_path / "other.pt")
    with pytest.raises(InputError, match="do not exist; download https"):
        i3d.load(tmp_path / "absent.pt")


def test_frechet_distance_is_the_definitions_for_many_samples():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (40, 6)), rng.normal(1, 2, (50, 6)) @ rng.normal(0, 1, (6, 6))
    s1, s2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(s1 + s2 - 2 * sqrtm(s1 @ s2).real)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_of_gaussians_has_the_closed_form():
    x = np.random.default_rng(0).normal(size=(30, 4))
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T  # mean 0, covariance 1
    deviations, offset = np.array([0.5, 1, 2, 3]), np.array([1, 0, -2, 0.5])
    expected = np.square(offset).sum() + np.square(deviations - 1).sum()
    assert frechet_distance(x, x * deviations + offset) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_fewer_samples_than_dimensions():
    x = np.random.default_rng(0).normal(size=(5, 1024))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(x, x[::-1] + 0.5) == pytest.approx(1024 * 0.25)
    with pytest.raises(InputError, match="two samples"):
        frechet_distance(x[:1], x)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A small untrained CLIP in transformers' layout."""
    folder = tmp_path_factory.mktemp("clip")
    small_clip(folder)
    return folder


def test_a_still_clip_is_fully_consistent_and_a_changing_one_less(clip_folder):
    clip = Clip(clip_folder)
    still = np.repeat(noise(0, 1, 40, 50, 3), 20, axis=0)  # more than one batch of pictures
    assert clip.consistency(still) == pytest.approx(100, abs=1e-4)
    assert clip.consistency(noise(1, 3, 40, 50, 3)) < 99.999
    assert clip.consistency(still[:1]) is None


def test_consistency_is_the_mean_cosine_of_neighbours(clip_folder):
    clip, frames = Clip(clip_folder), noise(2, 3, 32, 32, 3)
    pixels = clip.processor(images=list(frames), return_tensors="pt").pixel_values
    with torch.no_grad():
        found = clip.model.visual_projection(clip.model.vision_model(pixels).pooler_output)
    cosines = F.cosine_similarity(found[:-1], found[1:])
    assert clip.consistency(frames) == pytest.approx(100 * cosines.mean().item(), abs=1e-3)


def test_clip_score_is_the_models_own_on_the_masks_box(clip_folder):
    clip, frames, words = Clip(clip_folder), noise(3, 3, 40, 50, 3), "remove the red circle"
    mask = np.zeros((3, 40, 50), bool)
    mask[0, 5:20, 10:30] = mask[2, 30, 2:40] = True  # one frame has none, another a thin one
    boxes = [frames[0, 5:20, 10:30], frames[2, 30:31, 2:40]]
    inputs = clip.processor(text=[words], images=boxes, return_tensors="pt", input_data_format="channels_last")
    with torch.no_grad():
        logits = clip.model(**inputs).logits_per_image / clip.model.logit_scale.exp()
    assert clip.score(frames, mask, words) == pytest.approx(100 * logits.mean().item(), abs=1e-3)
    assert clip.score(frames, np.zeros_like(mask), words) is None


def test_words_beyond_clips_length_are_not_read(clip_folder):
    clip = Clip(clip_folder)
    assert clip.text("remove the red circle " * 30).shape == (24,)


def test_a_folder_without_clip_says_where_to_get_it(tmp_path):
    with pytest.raises(InputError, match="holds no CLIP model; get the files of https"):
        Clip(tmp_path)
