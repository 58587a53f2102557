from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ParticleSet
from oracles.tomo_files import write_tomo_files

from napari_autorefine.cli import main
from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_stack
from napari_autorefine.jobs.info import describe_file

ENDINGS = (".mrc", ".mrcs", ".map", ".ccp4", ".star", ".gz", ".bz2")


def test_every_shared_file_is_described_or_refused(shared_data: Path) -> None:
    described = 0
    for path in sorted(shared_data.rglob("*")):
        if path.is_file() and path.name.endswith(ENDINGS) and path.parent.name != "models":
            try:
                text = describe_file(str(path))
            except InputError as error:
                text = str(error)
                assert "\n" not in text, path
            else:
                described += 1
            assert str(path) in text, path
    assert described > 500


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("maps/betaGal.mrc", ["map of 100 x 100 x 100 px", "3.54 A", "mode 2"]),
        (
            "particles_bgal/Extract/job009/Movies/20170629_00021_frameImage.mrcs",
            ["242 images of 64 x 64 px", "float16"],
        ),
        ("particles_bgal/particles_picked.star", ["1157 particles", "box 64 px at 3.54 A", "200 kV", "half-sets not"]),
        (
            "particles_bgal/particles_matched_poses.star",
            ["463 particles", "half-sets 206 and 257", "with orientations"],
        ),
        ("particles_other/empiar_10076_7.star", ["7 particles", "RELION 3.0", "1.31"]),
        ("mrc_quirks/mode6_negative_cell_stack.mrc", ["uint16"]),
    ],
)
def test_the_description_tells_what_is_in_the_file(shared_data: Path, name: str, words: list[str]) -> None:
    text = describe_file(str(shared_data / name))
    for word in words:
        assert word in text


def test_bad_values_are_counted(tmp_path: Path) -> None:
    write_stack(tmp_path / "bad.mrcs", np.ones((2, 8, 8), np.float32), 2.0)
    with (tmp_path / "bad.mrcs").open("r+b") as file:
        file.seek(1024)
        file.write(np.float32(np.nan).tobytes())
    assert "1 are NaN or Inf" in describe_file(str(tmp_path / "bad.mrcs"))


def test_status_and_output(particle_set: ParticleSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(particle_set.star), str(particle_set.reference)]) == 0
    assert "12 particles" in capsys.readouterr().out
    assert main(["info", str(particle_set.folder / "none.mrc")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["info", str(particle_set.folder / "none.mrc"), str(particle_set.star)]) == 2
    assert "1 of 2 files" in capsys.readouterr().err


def test_files_of_a_subtomogram_project_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tomo_files(tmp_path, "3d")
    words = describe_file("particles.star")
    assert all(word in words for word in ("4 subtomograms", "in 2 tomograms", "with CTF volumes", "A from the center"))
    assert "no defocus" not in words
    write_tomo_files(tmp_path, "2d")
    words = describe_file("particles.star")
    assert all(word in words for word in ("4 tilt-stack particles", "3 tilt images each", "turned in their"))
    words = describe_file("tomograms.star")
    assert "TS_1: 5 tilts up to 40 deg, 4 A per pixel, 40 x 40 x 20 px, dose up to 12 e/A^2" in words
    (tmp_path / "tomograms.star").unlink()
    words = describe_file("optimisation_set.star")
    assert "optimisation set of a subtomogram project: 2 files" in words
    assert "tomograms.star (does not exist here)" in words
    assert "particles.star\n" in words
