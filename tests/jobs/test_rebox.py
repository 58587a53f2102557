from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.cli import main
from napari_autorefine.io.mrc import read_volume, write_volume


def test_rescale_and_box_as_relion_does(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "relion_jobs" / "map"
    new = tmp_path / "new.mrc"
    words = ["--rescale_angpix", "3.57", "--new_box", "40", "--force_header_angpix", "3.57"]
    assert main(["rebox", "--i", str(folder / "even36.mrc"), "--o", str(new), *words]) == 0
    made, recorded = read_volume(new), read_volume(folder / "rescale_3.57_box40_header.mrc")
    np.testing.assert_allclose(made.data, recorded.data, atol=2e-6)
    assert made.voxel_size_A == pytest.approx(recorded.voxel_size_A, rel=1e-6)


def test_the_true_pixel_size_is_written_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "old.mrc", np.ones((64, 64, 64), np.float32), 3.54)
    line = ["rebox", "--i", str(tmp_path / "old.mrc"), "--o", str(tmp_path / "new.mrc"), "--rescale-angpix", "1.24"]
    assert main(line) == 0
    assert read_volume(tmp_path / "new.mrc").voxel_size_A == pytest.approx(64 * 3.54 / 182, rel=1e-6)
    assert "instead of 1.24" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "nothing to do"),
        (["--new_box", "1"], "new_box must be at least 2"),
        (["--rescale_angpix", "500"], "no voxel"),
        (["--i", "missing.mrc", "--new_box", "8"], "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(tmp_path / "old.mrc", np.ones((12, 12, 12), np.float32), 3.0)
    assert main(["rebox", "--i", str(tmp_path / "old.mrc"), "--o", str(tmp_path / "new.mrc"), *words]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "new.mrc").exists()


def test_an_existing_map_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "map.mrc")
    write_volume(path, np.ones((12, 12, 12), np.float32), 3.0)
    assert main(["rebox", "--i", path, "--o", path, "--new_box", "8"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["rebox", "--i", path, "--o", path, "--new_box", "8", "--overwrite"]) == 0
    assert read_volume(path).data.shape == (8, 8, 8)


def test_only_cubic_maps_are_rescaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "flat.mrc", np.ones((6, 12, 12), np.float32), 3.0)
    line = ["rebox", "--i", str(tmp_path / "flat.mrc"), "--o", str(tmp_path / "n.mrc"), "--rescale_angpix", "4"]
    assert main(line) == 2
    assert "only cubic maps" in capsys.readouterr().err
