from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_header
from napari_autorefine.io.stack_writer import StackWriter


def statistics(images: np.ndarray) -> np.ndarray:
    axes = (1, 2)
    return np.stack([images.min(axes), images.max(axes), images.mean(axes), images.var(axes)], axis=1)


@pytest.mark.parametrize("is_half", [False, True])
def test_pieces_of_several_threads_make_one_stack(is_half: bool, tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(2, 3, (23, 12, 12)).astype(np.float16 if is_half else np.float32)
    path = tmp_path / "new" / "s.mrcs"
    writer = StackWriter(path, 23, 12, pixel_size_A=1.7, is_half=is_half)
    with ThreadPoolExecutor(4) as pool:
        for first in (20, 0, 15, 5, 10):
            part = images[first : first + 5]
            pool.submit(writer.write, first, part, statistics(part.astype(float)))
    assert not path.exists()
    writer.finish()
    assert [found.name for found in path.parent.iterdir()] == ["s.mrcs"]
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, images)
        assert file.is_image_stack()
        assert file.voxel_size.x == pytest.approx(1.7)
        assert file.header.dmean == pytest.approx(images.astype(float).mean(), rel=1e-6)
        assert file.header.dmin == images.min()
        assert file.header.rms == pytest.approx(np.sqrt(images.astype(float).var(axis=(1, 2)).mean()), rel=1e-6)
    assert read_header(path).mode == (12 if is_half else 2)


def test_an_abandoned_stack_leaves_nothing(tmp_path: Path) -> None:
    writer = StackWriter(tmp_path / "s.mrcs", 2, 4, pixel_size_A=1.0, is_half=False)
    writer.write(0, np.zeros((1, 4, 4), np.float32), np.zeros((1, 4)))
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        StackWriter(tmp_path / "file" / "s.mrcs", 2, 4, pixel_size_A=1.0, is_half=False)
