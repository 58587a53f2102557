"""Optimisation sets: every way in which RELION and its helpers write them, single inputs, what a refinement leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.io.optimisation_set import OptimisationSet, read_optimisation_set, write_optimisation_set
from napari_autorefine.io.tables import read_star

LIST = """
# version 50001

data_

_rlnTomoParticlesFile            Extract/particles.star
_rlnTomoTomogramsFile            tomograms.star
_rlnTomoTrajectoriesFile         ""
_rlnTomoManifoldsFile            manifolds.star
_rlnTomoReferenceFscFile         old_fsc.star
_somethingNew                    kept
"""


def write(path: Path, text: str = LIST) -> Path:
    path.write_text(text)
    return path


def test_empty_and_missing_entries_are_absent(tmp_path: Path) -> None:
    files = read_optimisation_set(write(tmp_path / "set.star"))
    assert files["particles"] == "Extract/particles.star"
    assert files["tomograms"] == "tomograms.star"
    assert files["trajectories"] is None
    assert files["map1"] is None


def test_a_loop_of_one_row_under_another_name_is_read(tmp_path: Path) -> None:
    text = "data_optimisation_set\n\nloop_\n_rlnTomoParticlesFile #1\n_rlnTomoTomogramsFile #2\np.star\tt.star\n"
    files = read_optimisation_set(write(tmp_path / "set.star", text))
    assert (files["particles"], files["tomograms"]) == ("p.star", "t.star")
    with pytest.raises(InputError, match="has one row, the table 'data_optimisation_set' has 2"):
        read_optimisation_set(write(tmp_path / "two.star", text + "q.star u.star\n"))


def test_single_inputs_come_first_and_nothing_else_changes(tmp_path: Path) -> None:
    files = read_optimisation_set(write(tmp_path / "set.star"))
    new = files.with_files({"particles": "other.star", "mask": None, "tomograms": ""})
    assert new["particles"] == "other.star"
    assert (new["tomograms"], new["mask"]) == ("tomograms.star", None)
    assert files["particles"] == "Extract/particles.star"


def test_after_a_refinement_maps_are_new_and_other_entries_kept(tmp_path: Path) -> None:
    files = read_optimisation_set(write(tmp_path / "set.star"))
    halves = ("run_half1_class001_unfil.mrc", "run_half2_class001_unfil.mrc")
    write_optimisation_set(
        tmp_path / "new.star", files.after_refinement("run_data.star", half_maps=halves, mask="mask.mrc")
    )
    new = read_optimisation_set(tmp_path / "new.star")
    assert (new["particles"], new["map1"], new["map2"], new["mask"]) == ("run_data.star", *halves, "mask.mrc")
    assert (new["tomograms"], new["manifolds"], new["fsc"]) == ("tomograms.star", "manifolds.star", None)
    star = read_star(tmp_path / "new.star")
    assert star.version == 50001
    assert list(star.tables) == [""]
    assert star.tables[""]["rlnTomoTrajectoriesFile"] == ""
    assert star.tables[""]["somethingNew"] == "kept"


def test_in_between_maps_and_fsc_stay(tmp_path: Path) -> None:
    files = read_optimisation_set(write(tmp_path / "set.star")).after_refinement("run_it001_data.star")
    assert (files["particles"], files["fsc"], files["map1"]) == ("run_it001_data.star", "old_fsc.star", None)


def test_paths_are_relative_to_the_project_then_to_the_set(tmp_path: Path) -> None:
    project, job = tmp_path / "project", tmp_path / "project" / "job"
    job.mkdir(parents=True)
    files = read_optimisation_set(write(job / "set.star"))
    (job / "tomograms.star").write_text("")
    (project / "Extract").mkdir()
    (project / "Extract" / "particles.star").write_text("")
    found = files.found(("particles", "tomograms"), project_dir=project)
    assert found == {"particles": project / "Extract" / "particles.star", "tomograms": job / "tomograms.star"}


def test_dead_paths_are_named_in_one_sentence(tmp_path: Path) -> None:
    files = read_optimisation_set(write(tmp_path / "set.star"))
    with pytest.raises(InputError) as caught:
        files.found(("particles", "tomograms", "map1"), project_dir=tmp_path)
    sentence = str(caught.value)
    assert (
        "rlnTomoParticlesFile Extract/particles.star and rlnTomoTomogramsFile tomograms.star do not exist" in sentence
    )
    assert "\n" not in sentence
    assert files.dead(("manifolds", "map1"), project_dir=tmp_path) == ["manifolds"]


def test_other_star_files_and_missing_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no optimisation set: no table names"):
        read_optimisation_set(write(tmp_path / "other.star", "data_optics\n\n_rlnVoltage 300\n"))
    with pytest.raises(InputError, match="names no rlnTomoTomogramsFile"):
        OptimisationSet(files={"particles": "p.star"}).require("particles", "tomograms")


@pytest.mark.parametrize("kind", ["stack2d", "sub3d"])
def test_recorded_sets_of_relion(shared_data: Path, tmp_path: Path, kind: str) -> None:
    """What RELION's refinement wrote, from the set that it was given and its new data file."""
    folder = shared_data / "sta_sim"
    given = read_optimisation_set(folder / "Extract" / kind / "optimisation_set.star")
    recorded = read_star(folder / "Refine3D" / kind / "run_optimisation_set.star")
    write_optimisation_set(tmp_path / "new.star", given.after_refinement(f"Refine3D/{kind}/run_data.star"))
    new = read_star(tmp_path / "new.star")
    assert new.tables == recorded.tables
    assert new.version == recorded.version
    assert set(given.found(("particles", "tomograms"), project_dir=folder)) == {"particles", "tomograms"}


def test_every_recorded_set_is_read(shared_data: Path) -> None:
    paths = sorted(shared_data.rglob("*optimisation_set.star"))
    assert len(paths) >= 10
    for path in paths:
        files = read_optimisation_set(path)
        files.require("particles", "tomograms")
