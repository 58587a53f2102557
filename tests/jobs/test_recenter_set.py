from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_autorefine.cli import main
from napari_autorefine.io.optimisation_set import read_optimisation_set
from napari_autorefine.io.star import read_star, write_star
from napari_autorefine.io.tables import write_star as write_tables
from napari_autorefine.jobs.recenter_set import set_path

OPTICS = {
    "rlnOpticsGroup": [1],
    "rlnImagePixelSize": [5.0],
    "rlnVoltage": [300.0],
    "rlnSphericalAberration": [2.7],
}
HALVES = {f"rlnTomoReferenceMap{half}File": f"Refine3D/job009/run_half{half}_class001_unfil.mrc" for half in (1, 2)}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a finished refinement of four subtomograms, and the working directory in it."""
    folder = tmp_path / "Refine3D/job009"
    folder.mkdir(parents=True)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnImagePixelSize": [5.0],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnImageDimensionality": [3],
        }
    )
    zeros = {f"rln{name}": np.zeros(4) for name in ("AngleRot", "OriginXAngst", "OriginYAngst", "OriginZAngst")}
    names = {"rlnTomoName": pd.Series(["TS_1"] * 4, dtype=object), "rlnOpticsGroup": [1] * 4}
    angles = {"rlnAngleTilt": [0.0, 90.0, 180.0, 0.0], "rlnAnglePsi": np.zeros(4)}
    write_star(folder / "run_data.star", {"optics": optics, "particles": pd.DataFrame({**names, **zeros, **angles})})
    entries = {"rlnTomoParticlesFile": "Refine3D/job009/run_data.star", "rlnTomoTomogramsFile": "tomograms.star"}
    others = {"rlnTomoReferenceMaskFile": "masks/old.mrc", "rlnMine": "kept"}
    write_tables(folder / "run_optimisation_set.star", {"": {**entries, **HALVES, **others}})
    write_tables(folder / "run_it003_optimisation_set.star", {"": {**entries, "rlnTomoParticlesFile": "it003.star"}})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_set_with_the_new_particles_is_written_beside_them(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "recenter --i Refine3D/job009/run_data.star --o Recenter/job010/particles.star --center_Z 2.75"
    assert main(line.split()) == 0
    new = read_optimisation_set("Recenter/job010/optimisation_set.star")
    assert new.files == {"particles": "Recenter/job010/particles.star", "tomograms": "tomograms.star"}
    assert new.others == {"rlnMine": "kept"}
    told = " ".join(capsys.readouterr().out.split())
    assert "leaves out half-maps and mask of the old one: they have the old centre" in told
    table = read_star("Recenter/job010/particles.star").tables["particles"]
    assert isinstance(table, pd.DataFrame)
    np.testing.assert_allclose(table["rlnOriginZAngst"], [-13.75, 0.0, 13.75, -13.75], atol=1e-9)


def test_the_set_alone_is_enough(project: Path) -> None:
    assert main(["recenter", "--ios", "Refine3D/job009", "--o", "Recenter/job010/", "--center_Z", "2.75"]) == 0
    new = read_optimisation_set("Recenter/job010/run_data_centered_optimisation_set.star")
    assert new["particles"] == "Recenter/job010/run_data_centered.star"


def test_the_set_of_the_refinement_stays_and_nothing_is_replaced_unasked(project: Path) -> None:
    before = Path("Refine3D/job009/run_optimisation_set.star").read_bytes()
    line = ["recenter", "--i", "Refine3D/job009/", "--o", "Refine3D/job009/", "--center_Z", "1"]
    assert main(line) == 0
    assert Path("Refine3D/job009/run_optimisation_set.star").read_bytes() == before
    Path("Refine3D/job009/run_data_centered.star").unlink()
    assert main(line) == 2  # the set of the first time is there


def test_without_a_set_there_is_none(project: Path) -> None:
    Path("alone").mkdir()
    Path("Refine3D/job009/run_data.star").rename("alone/run_data.star")
    assert main(["recenter", "--i", "alone/run_data.star", "--o", "alone/new.star", "--center_Z", "1"]) == 0
    assert not list(Path("alone").glob("*optimisation_set.star"))


def test_single_particles_have_no_set(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    particles = read_star("Refine3D/job009/run_data.star").tables["particles"]
    assert isinstance(particles, pd.DataFrame)
    tables = {"optics": pd.DataFrame(OPTICS), "particles": particles.drop(columns="rlnTomoName")}
    write_star("flat.star", tables)
    assert main(["recenter", "--i", "flat.star", "--ios", "Refine3D/job009", "--o", "new.star", "--center_Z", "1"]) == 2
    assert "holds single particles" in capsys.readouterr().err


def test_the_set_is_named_after_the_particles() -> None:
    assert set_path("Recenter/job010/particles.star") == "Recenter/job010/optimisation_set.star"
    assert set_path("a/run_data_centered.star") == "a/run_data_centered_optimisation_set.star"
