"""Maps straight from tilt series, against the truth of simulated ones and RELION's maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_autorefine.cli import main, parse
from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.registration import correlation_peak
from napari_autorefine.engine.tilt_series_reconstruction import tapered
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.optimisation_set import read_optimisation_set
from napari_autorefine.io.star import read_star, write_star
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.reconstruct_particle import ReconstructParticleParams
from napari_autorefine.jobs.record import output_of
from napari_autorefine.jobs.saved_params import load_parameters
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.resize import window

BOX, PIXEL_A = 24, 6.0


def simulated(folder: Path, binning: float) -> Path:
    """Write noise-free particles at the binning and return the prefix of their files."""
    rng = np.random.default_rng(3)
    atoms = Atoms(xyz_A=rng.normal(0, 14.0, (60, 3)), element=np.array(["C", "N", "O", "P", "S"] * 12)).centered()
    options = SimulateParams(
        output=str(folder / "p"), n_particle=24, box_size=BOX, pixel_size_A=PIXEL_A / binning, binning=binning,
        threads=2, tomo="2d", tilt_step_deg=10.0, snr=0.0, bfactor_A2=300.0, offset_sigma_A=5.0, scale_sigma=0.0,
        particle_diameter_A=80.0, tilt_dose_e_A2=0.5,
    )  # fmt: skip
    list(simulate_atoms(atoms, options))
    return folder / "p"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulated(tmp_path_factory.mktemp("set"), 1.0)


def line(prefix: Path, target: Path, *more: str) -> list[str]:
    words = ["--i", f"{prefix}_optimisation_set.star", "--p", f"{prefix}_truth.star", "--o", str(target)]
    return ["reconstruct_particle", *words, "--b", "36", "--crop", str(BOX), "--taper", "4", "--j", "2", *more]


def data(path: Path) -> np.ndarray:
    return read_volume(path).data


def peak(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    return correlation_peak(np.fft.rfftn(found) * np.conj(np.fft.rfftn(wanted)), len(found))[1]


def without(star: Path, label: str, target: Path, **columns: object) -> Path:
    found = read_star(star)
    table = found.tables["particles"]
    assert isinstance(table, pd.DataFrame)
    changed = table.drop(columns=label).assign(**columns)
    write_star(target, {**found.tables, "particles": changed}, version=found.version)
    return target


@pytest.mark.parametrize("binning", [1.0, 1.5])
def test_the_map_is_that_of_the_particles(binning: float, prefix: Path, tmp_path: Path) -> None:
    source = prefix if binning == 1 else simulated(tmp_path, binning)
    assert main(line(source, tmp_path / "out", "--bin", str(binning))) == 0
    made, truth = read_volume(tmp_path / "out" / "merged.mrc"), data(Path(f"{source}_truth.mrc"))
    assert made.voxel_size_A == pytest.approx(PIXEL_A)
    curve = fsc(made.data, tapered(truth, BOX, 4.0))
    assert curve[1:11].min() > 0.95
    assert curve[1:9].mean() > 0.98


def test_half_maps_come_with_a_set_for_the_next_refinement(
    prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert main(line(prefix, folder)) == 0
    assert "half-maps agree to" in capsys.readouterr().out
    names = {f"{name}{end}.mrc" for name in ("half1", "half2", "merged") for end in ("", "_full")}
    assert {path.name for path in folder.iterdir()} == names | {"optimisation_set.star", "merged_params.json"}
    made = read_optimisation_set(folder / "optimisation_set.star")
    assert [made["map1"], made["map2"]] == [str(folder / f"half{half}.mrc") for half in (1, 2)]
    assert made["particles"] == f"{prefix}_truth.star"
    assert output_of(folder, "map") == str(folder / "merged.mrc")
    full = data(folder / "merged_full.mrc")
    assert full.shape == (36, 36, 36)
    np.testing.assert_allclose(data(folder / "merged.mrc"), tapered(full, BOX, 4.0), atol=1e-5 * np.abs(full).max())


def test_without_half_sets_there_is_one_map(prefix: Path, tmp_path: Path) -> None:
    star = without(Path(f"{prefix}_truth.star"), "rlnRandomSubset", tmp_path / "p.star")
    assert main(line(prefix, tmp_path / "all")) == 0
    words = line(prefix, tmp_path / "one", "--p", str(star), "--crop", "-1")
    assert main(words) == 0
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"merged.mrc", "merged_params.json"}
    plain, other = data(tmp_path / "one" / "merged.mrc"), tapered(data(tmp_path / "all" / "merged_full.mrc"), 36, 4.0)
    np.testing.assert_allclose(plain, other, atol=1e-3 * np.abs(other).max())


def test_threads_change_no_bit_and_symmetry_is_that_of_the_map(prefix: Path, tmp_path: Path) -> None:
    for threads in ("1", "3"):
        assert main([*line(prefix, tmp_path / threads, "--sym", "C2"), "--j", threads]) == 0
    made = data(tmp_path / "1" / "merged.mrc")
    np.testing.assert_array_equal(made, data(tmp_path / "3" / "merged.mrc"))
    turned = np.roll(made[:, ::-1, ::-1], 1, axis=(1, 2))
    np.testing.assert_allclose(turned[1:, 1:, 1:], made[1:, 1:, 1:], atol=3e-3 * made.max())


def test_a_signal_to_noise_ratio_damps_the_map(prefix: Path, tmp_path: Path) -> None:
    assert main(line(prefix, tmp_path / "plain")) == 0
    assert main(line(prefix, tmp_path / "damped", "--SNR", "0.1")) == 0
    plain, damped = (np.abs(np.fft.rfftn(data(tmp_path / name / "merged.mrc"))) for name in ("plain", "damped"))
    assert 0.05 < damped.sum() / plain.sum() < 0.9


def test_recentred_particles_move_the_map_by_minus_the_centre(prefix: Path, tmp_path: Path) -> None:
    moved = tmp_path / "centered.star"
    center = ["--center_X", "1.5", "--center_Y", "-2", "--center_Z", "2.75"]
    assert main(["recenter", "--i", f"{prefix}_truth.star", "--o", str(moved), *center]) == 0
    assert main(line(prefix, tmp_path / "before")) == 0
    assert main([*line(prefix, tmp_path / "after"), "--p", str(moved)]) == 0
    before, after = (window(data(tmp_path / name / "merged_full.mrc"), BOX) for name in ("before", "after"))
    np.testing.assert_allclose(peak(after, before), [-1.5, 2.0, -2.75], atol=0.12)


BAD = [
    (["--b", "35"], "box sizes must be even"),
    (["--crop", "40"], "larger than the box"),
    (["--b", "300", "--crop", "24"], "No tilt image shows a particle"),
    (["--t", "none.star"], "none.star does not exist"),
    (["--sym", "D0"], "Symmetry 'D0' is not known"),
    (["--no_ctf"], "Leaving out the CTF is not supported"),
    (["--mot", "motion.star"], "Motion of single particles"),
]


@pytest.mark.parametrize(("words", "text"), BAD)
def test_what_cannot_be_done_is_said_in_one_sentence(
    words: list[str], text: str, prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line(prefix, tmp_path / "out", *words)) == 2
    error = capsys.readouterr().err.splitlines()
    assert text in error[-1]
    assert not list(tmp_path.iterdir())


def test_missing_angles_and_an_empty_half_are_named(
    prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = Path(f"{prefix}_truth.star")
    star = without(truth, "rlnAngleTilt", tmp_path / "a.star")
    assert main(line(prefix, tmp_path / "out", "--p", str(star))) == 2
    assert "the column rlnAngleTilt is missing" in capsys.readouterr().err
    star = without(truth, "rlnRandomSubset", tmp_path / "b.star", rlnRandomSubset=2)
    assert main(line(prefix, tmp_path / "out", "--p", str(star))) == 2
    assert "rlnRandomSubset must be 1 or 2, and both must occur" in capsys.readouterr().err


def test_an_earlier_result_is_kept(prefix: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "half2.mrc").write_text("old")
    assert main(line(prefix, tmp_path)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(line(prefix, tmp_path, "--overwrite")) == 0


def test_a_line_and_a_job_of_relion_are_understood(tmp_path: Path) -> None:
    words = (
        "--p truth.star --t tomograms.star --b 64 --crop 48 --bin 1 --sym C6 --theme classic --o Reconstruct/truth/"
        " --j 1 --j_out 1 --j_in 1 --SNR -1 --mem 50 --pipeline_control x/"
    )
    params, _ = parse(JOBS["reconstruct_particle"], words.split())
    assert isinstance(params, ReconstructParticleParams)
    assert (params.box_size_px, params.map_size_px, params.snr, params.symmetry) == (64, 48, None, "C6")
    job = tmp_path / "job.star"
    job.write_text(
        "data_job\n\n_rlnJobTypeLabel relion.reconstructparticletomo\n\ndata_joboptions_values\n\nloop_\n"
        "_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\nin_optimisation set.star\nbox_size 192\ncrop_size 128\n"
        "binning 2\nsym_name C6\nsnr 0\n"
    )
    found = load_parameters(job)
    assert found.job == "reconstruct_particle"
    assert found.values["optimisation_set"] == "set.star"
    assert (found.values["box_size_px"], found.values["crop_size_px"], found.values["binning"]) == (192, 128, 2.0)


@pytest.mark.parametrize(
    ("particles", "recorded"),
    [("truth.star", "truth"), ("Refine3D/stack2d/run_data_centered.star", "centered")],
)
def test_recorded_maps_of_relion(particles: str, recorded: str, shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "sta_sim"
    words = ["--p", str(folder / particles), "--t", str(folder / "tomograms.star"), "--o", str(tmp_path / "out")]
    assert main(["reconstruct_particle", *words, "--b", "64", "--crop", "48", "--sym", "C6", "--j", "2"]) == 0
    for name in ("half1", "half2", "merged"):
        made, wanted = data(tmp_path / "out" / f"{name}.mrc"), data(folder / "Reconstruct" / recorded / f"{name}.mrc")
        curve = fsc(made, wanted)
        assert curve[:23].min() > 0.9999
        assert curve.min() > 0.99
        assert (made * wanted).sum() / (wanted * wanted).sum() == pytest.approx(1.0, abs=2e-3)
    if recorded == "centered":
        assert peak(made, data(folder / "truth.mrc"))[2] == pytest.approx(-0.15, abs=0.1)
