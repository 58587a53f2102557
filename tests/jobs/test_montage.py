from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from napari_autorefine.io.mrc import write_stack
from napari_autorefine.jobs.montage import write_montage


def test_the_first_particles_of_all_stacks_are_shown_from_left_to_right(tmp_path: Path) -> None:
    stacks = [tmp_path / "a.mrcs", tmp_path / "b.mrcs"]
    for stack, count in zip(stacks, (6, 40), strict=True):
        images = np.random.default_rng(count).normal(0, 0.1, (count, 64, 64)).astype(np.float32)
        images[:, :32] += 1.0  # the first rows are those with small y: at the bottom
        write_stack(stack, images, 2.0)
    picture = imread(write_montage(tmp_path / "m.png", stacks, 2.0))
    assert picture.shape == (4 * 134 + 6, 8 * 134 + 6)
    assert (picture[:6] == 1.0).all()
    for top, left in ((6, 6), (408, 944)):
        upper, lower = picture[top : top + 64, left : left + 128], picture[top + 64 : top + 128, left : left + 128]
        assert upper.mean() < 0.3 < 0.7 < lower.mean() < 1.0


def test_few_and_large_particles_make_a_small_sheet(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(0, 1, (3, 200, 200)).astype(np.float32)
    write_stack(tmp_path / "a.mrcs", images, 2.0)
    assert imread(write_montage(tmp_path / "m.png", [tmp_path / "a.mrcs"], 2.0)).shape == (140, 3 * 134 + 6)


def test_flat_particles_are_shown_too(tmp_path: Path) -> None:
    write_stack(tmp_path / "a.mrcs", np.ones((1, 16, 16), np.float32), 2.0)
    assert imread(write_montage(tmp_path / "m.png", [tmp_path / "a.mrcs"], 2.0)).shape == (140, 140)
