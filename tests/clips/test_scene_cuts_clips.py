"""Cuts between real clips are found, and what else changes in footage is not taken for one."""

from benchmarks.scene_cuts import cases, main, read
from lgvi_core.scene_cuts import cuts


def test_cuts_are_found_in_real_footage_and_few_that_are_none(shared):
    clips = {folder.parent.name: read(folder) for folder in sorted((shared / "clips").glob("*/frames"))}
    hits, false = [], []
    for what, clip, truth in cases(clips):
        found = set(cuts(clip))
        hits += [found >= truth] * len(truth)
        false += [what] * len(found - truth)
    assert len(hits) == 40 and sum(hits) >= 38
    assert len(false) <= 1


def test_the_benchmark_refuses_a_folder_without_clips(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "give at least two clips" in capsys.readouterr().err
