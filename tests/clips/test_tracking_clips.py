"""A mask tracked through real footage, against its true masks."""

import pytest

from benchmarks.tracking import main, overlap, read
from lgvi_core.scene_cuts import cuts
from lgvi_core.tracking import chained, track


@pytest.mark.parametrize("name, flow_alone", [("bmx-trees", 0.28), ("tennis", 0.38)])
def test_the_first_mask_is_followed_over_24_frames(shared, name, flow_alone):
    frames, truth = read(shared / "clips" / name)
    assert len(frames) == 24 and cuts(frames) == []
    assert overlap(chained(frames, truth[0]), truth).mean() == pytest.approx(flow_alone, abs=0.01)
    found = track(frames, truth[0], 0)
    assert overlap(found.masks, truth).mean() >= 0.55
    assert found.trust[1] > 0.8 > found.trust[-1]


def test_the_benchmark_refuses_a_folder_without_clips(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds no folder with frames/ and masks/" in capsys.readouterr().err
