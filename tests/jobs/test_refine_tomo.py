"""Particles of tomograms are refined from their files to their files: both forms find the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.cli import main
from napari_autorefine.engine.correlation import fsc
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.optimisation_set import read_optimisation_set
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.jobs.measures import PoseErrors
from napari_autorefine.jobs.measures_tomo import tomo_pose_errors
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.symmetry import point_group

BOX, PIXEL_A = 20, 7.0
FORMS = ("2d", "3d")


def simulated(folder: Path, form: str, **changes: object) -> Path:
    """Write simulated particles and return the prefix of their files."""
    rng = np.random.default_rng(3)
    atoms = Atoms(xyz_A=rng.normal(0, 16.0, (60, 3)), element=np.array(["C", "N", "O", "P", "S"] * 12)).centered()
    values = {
        "output": str(folder / "p"), "n_particle": 16, "box_size": BOX, "pixel_size_A": PIXEL_A, "threads": 2,
        "tomo": form, "tilt_step_deg": 15.0, "snr": 2.0, "bfactor_A2": 300.0, "offset_sigma_A": 6.0,
        "scale_sigma": 0.0, "particle_diameter_A": 90.0, "tilt_dose_e_A2": 1.0, "reference_low_pass_A": 20.0,
    }  # fmt: skip
    list(simulate_atoms(atoms, SimulateParams(**(values | changes))))
    return folder / "p"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prefixes of the files of particles, by form."""
    folder = tmp_path_factory.mktemp("sets")
    return {form: simulated(folder / form, form) for form in FORMS}


def line(prefix: Path, output: Path, *more: str) -> list[str]:
    words = ["--ios", f"{prefix}_optimisation_set.star", "--ref", f"{prefix}_reference.mrc", "--o", str(output)]
    search = ["--healpix_order", "1", "--auto_local_healpix_order", "2", "--ini_high", "30", "--cpu", "--j", "2"]
    return ["refine", *words, *search, "--particle_diameter", "110", "--random_seed", "1", *more]


def errors(prefix: Path, particles: Path) -> PoseErrors:
    truth, tomograms = read_particles(f"{prefix}_truth.star"), read_tomograms(f"{prefix}_tomograms.star")
    return tomo_pose_errors(read_particles(particles), truth, tomograms, point_group("C1"))


@pytest.fixture(scope="module")
def runs(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prefixes of finished runs, by form."""
    folder = tmp_path_factory.mktemp("runs")
    for form, prefix in sets.items():
        assert main(line(prefix, folder / form / "run")) == 0
    return {form: folder / form / "run" for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
def test_the_truth_is_found(form: str, sets: dict[str, Path], runs: dict[str, Path]) -> None:
    found = errors(sets[form], Path(f"{runs[form]}_data.star"))
    assert np.median(found.angle_deg) < 7  # with eight seeds of so few particles 3.2 to 6.0
    assert np.median(found.offset_A) < 0.5 * PIXEL_A  # 1.6 to 3.1 A
    density, truth = read_volume(f"{runs[form]}_class001.mrc"), read_volume(f"{sets[form]}_truth.mrc")
    assert fsc(density.data, truth.data)[:8].min() > 0.8
    assert density.voxel_size_A == pytest.approx(PIXEL_A)


@pytest.mark.parametrize("form", FORMS)
def test_the_set_of_the_end_starts_the_next_refinement(
    form: str, sets: dict[str, Path], runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = runs[form]
    last = read_optimisation_set(f"{prefix}_optimisation_set.star")
    assert last["particles"] == f"{prefix}_data.star"
    assert last["tomograms"] == f"{sets[form]}_tomograms.star"
    assert [last["map1"], last["map2"]] == [f"{prefix}_half{half}_class001_unfil.mrc" for half in (1, 2)]
    words = ["--o", str(tmp_path / "run"), "--ios", str(prefix.parent), "--no_firstiter_cc", "--ini_high", "25"]
    words += ["--healpix_order", "2", "--auto_local_healpix_order", "2", "--auto_iter_max", "1", "--cpu"]
    assert main(["refine", *words, "--particle_diameter", "110", "--j", "2", "--random_seed", "1"]) == 0
    assert f"from the optimisation set: {prefix}_half1_class001_unfil.mrc" in capsys.readouterr().out
    before, after = read_particles(f"{prefix}_data.star"), read_particles(tmp_path / "run_it001_data.star")
    np.testing.assert_array_equal(before.half, after.half)
    assert np.median(errors(sets[form], tmp_path / "run_it001_data.star").angle_deg) < 8


def poses_are_equal(first: str | Path, second: str | Path) -> bool:
    here, there = (read_star(path).loop("particles") for path in (first, second))
    return here is not None and there is not None and here.equals(there)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_goes_on_as_if_it_had_not_stopped(
    form: str, sets: dict[str, Path], runs: dict[str, Path], tmp_path: Path
) -> None:
    assert main(line(sets[form], tmp_path / "run", "--auto_iter_max", "2")) == 0
    words = ["refine", "--continue", str(tmp_path / "run_it002_optimiser.star"), "--auto_iter_max", "3"]
    assert main(words) == 0
    assert poses_are_equal(tmp_path / "run_it003_data.star", f"{runs[form]}_it003_data.star")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("storage", [["--preread_images"], ["--scratch_dir", "scratch"], ["--j", "1"]])
def test_storage_and_threads_change_nothing(
    form: str,
    storage: list[str],
    sets: dict[str, Path],
    runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(line(sets[form], tmp_path / "run", "--auto_iter_max", "1", *storage)) == 0
    assert poses_are_equal(tmp_path / "run_it001_data.star", f"{runs[form]}_it001_data.star")
    assert not list(Path("scratch").glob("*")) or "scratch" not in storage


@pytest.mark.parametrize("form", FORMS)
def test_rows_and_columns_stay(form: str, sets: dict[str, Path], runs: dict[str, Path]) -> None:
    before, after = (read_star(path).loop("particles") for path in (f"{sets[form]}.star", f"{runs[form]}_data.star"))
    assert before is not None and after is not None
    kept = [label for label in before if label.startswith("rlnTomo") or label in {"rlnImageName", "rlnCtfImage"}]
    assert before[kept].equals(after[kept])
    assert "rlnOriginZAngst" in after
    assert np.ptp(after["rlnOriginZAngst"].astype(float)) > 1


def test_a_prior_on_the_tilt_keeps_particles_upright(tmp_path: Path) -> None:
    prefix = simulated(tmp_path, "2d", arrangement="sphere", snr=0.3, n_particle=12)
    words = ["--sigma_tilt", "5", "--auto_iter_max", "2"]
    assert main(line(prefix, tmp_path / "out" / "run", *words)) == 0
    found = read_particles(tmp_path / "out" / "run_it002_data.star")
    assert np.abs(found.euler_deg[:, 1] - 90.0).max() < 35.0  # three widths and half a step of the grid
    assert np.ptp(found.euler_deg[:, 0]) > 100.0


def test_a_spoiled_subtomogram_is_set_aside_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = simulated(tmp_path, "3d", n_particle=24, float16=False)
    name = str(read_particles(f"{prefix}.star").image_name[5])
    raw = bytearray(Path(name).read_bytes())
    raw[1024 + 4000 : 1024 + 4004] = np.float32(np.nan).tobytes()
    Path(name).write_bytes(bytes(raw))
    assert main(line(prefix, tmp_path / "out" / "run", "--auto_iter_max", "1")) == 0
    assert f"Set aside: row 6, {name}: it holds NaN or Inf." in capsys.readouterr().out
    after = read_particles(tmp_path / "out" / "run_it001_data.star")
    assert len(after) == 23
    assert name not in set(after.image_name)
    excluded = read_star(tmp_path / "out" / "run_excluded.star").loop("excluded")
    assert excluded is not None
    assert excluded["rlnImageName"].tolist() == [name]
