"""Maps of particles of tomograms, against the truth of simulated ones, plain averages, and RELION's maps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles.tomo import average, shell_correlation

from napari_autorefine.cli import main
from napari_autorefine.engine import tomo_reconstruction
from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.registration import correlation_peak
from napari_autorefine.io.mrc import read_data, read_volume, write_volume
from napari_autorefine.io.optimisation_set import read_optimisation_set
from napari_autorefine.io.star import read_star, write_star
from napari_autorefine.io.tomo_inputs import gather_files, read_tomo_inputs
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.resize import window

BOX, PIXEL_A = 24, 6.0
FORMS = ("2d", "3d")


def simulated(folder: Path, form: str, **changes: object) -> Path:
    """Write simulated particles and return the prefix of their files."""
    rng = np.random.default_rng(3)
    atoms = Atoms(xyz_A=rng.normal(0, 16.0, (60, 3)), element=np.array(["C", "N", "O", "P", "S"] * 12)).centered()
    values = {
        "output": str(folder / "p"), "n_particle": 24, "box_size": BOX, "pixel_size_A": PIXEL_A, "threads": 2,
        "tomo": form, "tilt_step_deg": 10.0, "snr": 0.0, "bfactor_A2": 300.0, "offset_sigma_A": 5.0,
        "scale_sigma": 0.0, "particle_diameter_A": 90.0, "float16": False, "tilt_dose_e_A2": 0.5,
    }  # fmt: skip
    list(simulate_atoms(atoms, SimulateParams(**(values | changes))))
    return folder / "p"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prefixes of the files of noise-free particles, by form."""
    folder = tmp_path_factory.mktemp("sets")
    return {form: simulated(folder / form, form) for form in FORMS}


def line(prefix: Path, target: Path, *more: str) -> list[str]:
    words = ["--ios", f"{prefix}_optimisation_set.star", "--i", f"{prefix}_truth.star", "--o", str(target)]
    return ["reconstruct", *words, "--j", "2", *more]


def data(path: Path) -> np.ndarray:
    return read_volume(path).data


def masked(map_: np.ndarray) -> np.ndarray:
    """Within a soft sphere."""
    axis = np.arange(len(map_)) - len(map_) // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return map_ * np.clip((11 - radius) / 3, 0, 1)


def peak(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where ``wanted`` is in ``found``: x y z in voxels."""
    return correlation_peak(np.fft.rfftn(found) * np.conj(np.fft.rfftn(wanted)), len(found))[1]


@pytest.mark.parametrize("form", FORMS)
def test_the_map_is_at_least_as_good_as_a_plain_average(form: str, sets: dict[str, Path], tmp_path: Path) -> None:
    prefix, target = sets[form], tmp_path / "map.mrc"
    assert main(line(prefix, target)) == 0
    made, truth = data(target), data(Path(f"{prefix}_truth.mrc"))
    inputs = read_tomo_inputs(gather_files(f"{prefix}_optimisation_set.star", {"particles": f"{prefix}_truth.star"}))
    found = inputs.particles
    plain = average(inputs, found.euler_deg, found.origin_A, np.arange(len(found)))
    curve, other = (shell_correlation(masked(one), masked(truth)) for one in (made, plain))
    assert curve[:11].min() > 0.95
    assert (curve[:12] - other[:12]).min() > -0.01
    assert curve[1:12].mean() >= other[1:12].mean()
    assert read_volume(target).voxel_size_A == pytest.approx(PIXEL_A)


@pytest.mark.parametrize("form", FORMS)
def test_noisy_particles_give_a_map_as_good_as_a_plain_average(form: str, tmp_path: Path) -> None:
    prefix = simulated(tmp_path, form, snr=0.1, n_particle=40)
    assert main(line(prefix, tmp_path / "map.mrc")) == 0
    truth = data(Path(f"{prefix}_truth.mrc"))
    inputs = read_tomo_inputs(gather_files(f"{prefix}_optimisation_set.star", {"particles": f"{prefix}_truth.star"}))
    found = inputs.particles
    plain = average(inputs, found.euler_deg, found.origin_A, np.arange(len(found)))
    axis = np.arange(BOX) - BOX // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    tapers = np.sinc(np.minimum(radius / BOX, 1)) ** 2  # what interpolation did to the average
    curve = shell_correlation(masked(data(tmp_path / "map.mrc") * tapers), masked(truth * tapers))
    other = shell_correlation(masked(plain), masked(truth * tapers))
    assert curve[1:10].mean() > other[1:10].mean() - 0.03


@pytest.mark.parametrize("form", FORMS)
def test_half_maps_come_with_a_set_for_the_next_refinement(form: str, sets: dict[str, Path], tmp_path: Path) -> None:
    prefix, target = sets[form], tmp_path / "job" / "run.mrc"
    assert main(line(prefix, target, "--halves", "--sym", "C2")) == 0
    made = read_optimisation_set(tmp_path / "job" / "run_optimisation_set.star")
    halves = [str(tmp_path / "job" / f"run_half{half}_class001_unfil.mrc") for half in (1, 2)]
    assert [made["map1"], made["map2"]] == halves
    assert made["particles"] == f"{prefix}_truth.star"
    assert made["tomograms"] == read_optimisation_set(f"{prefix}_optimisation_set.star")["tomograms"]
    for half, path in enumerate(halves, start=1):
        one = tmp_path / "one.mrc"
        assert main(line(prefix, one, "--subset", str(half), "--sym", "C2", "--overwrite")) == 0
        np.testing.assert_array_equal(data(one), data(Path(path)))
    assert not (tmp_path / "one_optimisation_set.star").exists()


@pytest.mark.parametrize("form", FORMS)
def test_threads_change_no_bit(form: str, sets: dict[str, Path], tmp_path: Path) -> None:
    for threads in ("1", "3"):
        assert main([*line(sets[form], tmp_path / f"{threads}.mrc"), "--j", threads]) == 0
    np.testing.assert_array_equal(data(tmp_path / "1.mrc"), data(tmp_path / "3.mrc"))


@pytest.mark.parametrize("form", FORMS)
def test_recentred_particles_move_the_map_by_minus_the_centre(form: str, sets: dict[str, Path], tmp_path: Path) -> None:
    prefix, moved = sets[form], tmp_path / "centered.star"
    center = ["--center_X", "1.5", "--center_Y", "-2", "--center_Z", "2.75"]
    assert main(["recenter", "--i", f"{prefix}_truth.star", "--o", str(moved), *center]) == 0
    assert main(line(prefix, tmp_path / "before.mrc")) == 0
    assert main([*line(prefix, tmp_path / "after.mrc"), "--i", str(moved)]) == 0
    before, after = (masked(data(tmp_path / f"{name}.mrc")) for name in ("before", "after"))
    np.testing.assert_allclose(peak(after, before), [-1.5, 2.0, -2.75], atol=0.1)


def test_other_boxes_and_pixel_sizes_show_the_same_density(sets: dict[str, Path], tmp_path: Path) -> None:
    for form, limit in zip(FORMS, (0.95, 0.97), strict=True):
        plain = tmp_path / f"{form}.mrc"
        assert main(line(sets[form], plain)) == 0
        for box, voxel_A in ((20, 6.0), (32, 6.0), (18, 8.0)):
            target = tmp_path / "other.mrc"
            words = ["--newbox", str(box), "--angpix", str(voxel_A), "--overwrite"]
            assert main(line(sets[form], target, *words)) == 0
            made = data(target)
            assert made.shape == (box,) * 3
            if voxel_A == PIXEL_A:
                small = min(box, BOX)
                ours, wanted = (masked(window(one, small)) for one in (made, data(plain)))
                assert fsc(ours, wanted)[: small // 2 - 1].min() > limit
                assert (ours * wanted).sum() / (wanted * wanted).sum() == pytest.approx(1.0, abs=0.05)


def test_volumes_need_no_tomograms_and_stacks_do(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "map.mrc"
    assert main(["reconstruct", "--i", f"{sets['3d']}_truth.star", "--o", str(target)]) == 0
    assert "24 volumes" in capsys.readouterr().out
    assert main(["reconstruct", "--i", f"{sets['2d']}_truth.star", "--o", str(tmp_path / "no.mrc")]) == 2
    assert "need their tomograms file" in capsys.readouterr().err
    more = ["--tomograms", f"{sets['2d']}_tomograms.star"]
    assert main(["reconstruct", "--i", f"{sets['2d']}_truth.star", "--o", str(tmp_path / "yes.mrc"), *more]) == 0
    assert "24 tilt stacks" in capsys.readouterr().out


BAD = [
    ("3d", ["--ctf_phase_flipped"], "volumes bring theirs in files"),
    ("2d", ["--normalised_subtomo"], "tilt stacks do not have"),
    ("2d", ["--newbox", "25"], "newbox must be even"),
    ("2d", ["--ios", "none.star"], "none.star"),
    ("2d", ["--tomograms", "none.star"], "rlnTomoTomogramsFile none.star does not exist"),
    ("3d", ["--class", "3"], "rlnClassNumber is missing"),
]


@pytest.mark.parametrize(("form", "words", "text"), BAD)
def test_what_cannot_be_done_is_said_in_one_sentence(
    form: str,
    words: list[str],
    text: str,
    sets: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(line(sets[form], tmp_path / "map.mrc", *words)) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("label", ["rlnAnglePsi", "rlnOriginZAngst"])
def test_missing_poses_are_named(
    label: str, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = read_star(f"{sets['3d']}_truth.star")
    table = star.tables["particles"]
    assert isinstance(table, pd.DataFrame)
    write_star(tmp_path / "p.star", {**star.tables, "particles": table.drop(columns=label)}, version=star.version)
    assert main([*line(sets["3d"], tmp_path / "map.mrc"), "--i", str(tmp_path / "p.star")]) == 2
    assert f"the column {label} is missing" in capsys.readouterr().err


def test_a_set_is_not_its_own_output(sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = sets["2d"]
    words = line(prefix, Path(f"{prefix}.mrc"), "--halves", "--overwrite")
    before = Path(f"{prefix}_optimisation_set.star").read_text()
    assert main(words) == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert Path(f"{prefix}_optimisation_set.star").read_text() == before


def test_particles_or_a_set_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reconstruct", "--o", "map.mrc"]) == 2
    assert "--ios" in capsys.readouterr().err


def as_relion_counts(box_size: int, radius: float) -> tomo_reconstruction.VolumeSamples:
    """Coefficients of a volume with the line x = z = 0 twice, as RELION inserts it."""
    found = cube_samples(box_size, radius)
    line_y = np.arange(1, int(min(radius, box_size // 2 - 1)) + 1)
    n, size = len(line_y), box_size // 2 + 1
    offsets = len(found.x) + np.arange(n)
    rows = np.stack([0 * line_y, -line_y, 0 * line_y, 0 * line_y + 1, offsets], axis=1)
    return tomo_reconstruction.VolumeSamples(
        box_size=box_size,
        z=np.append(found.z, np.zeros(n, np.int32)),
        y=np.append(found.y, -line_y).astype(np.int32),
        x=np.append(found.x, np.zeros(n, np.int32)),
        flat=np.append(found.flat, (box_size - line_y) * size),
        rows=np.concatenate([found.rows, rows]).astype(np.int32),
    )


cube_samples = tomo_reconstruction.cube_samples


def difference(ours: Path, theirs: Path) -> float:
    made, wanted = data(ours), data(theirs)
    return float(np.sqrt(np.mean((made - wanted) ** 2)) / wanted.std())


@pytest.mark.parametrize(
    ("particles", "recorded", "words"),
    [
        ("truth_sub3d.star", "rec3d.mrc", ["--sym", "C6"]),
        ("truth_sub3d.star", "rec3d_half2.mrc", ["--sym", "C6", "--subset", "2"]),
        ("truth_sub3d_centered.star", "rec3d_c.mrc", []),
    ],
)
def test_recorded_maps_of_relion_from_volumes(
    particles: str,
    recorded: str,
    words: list[str],
    shared_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shared_data / "sta_sim"
    start = ["reconstruct", "--i", str(folder / particles), "--ctf", *words]
    wanted = folder / "Reconstruct" / "rec3d" / recorded
    assert main([*start, "--o", str(tmp_path / "ours.mrc")]) == 0
    assert fsc(data(tmp_path / "ours.mrc"), data(wanted)).min() > 0.999
    monkeypatch.setattr(tomo_reconstruction, "cube_samples", as_relion_counts)
    assert main([*start, "--o", str(tmp_path / "same.mrc")]) == 0
    assert difference(tmp_path / "same.mrc", wanted) < 1e-4


def test_tilt_stacks_show_what_relion_reconstructs_from_their_tilt_series(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "sta_sim"
    words = ["--i", str(folder / "truth_stack2d.star"), "--tomograms", str(folder / "tomograms.star"), "--sym", "C6"]
    assert main(["reconstruct", *words, "--o", str(tmp_path / "map.mrc")]) == 0
    truth, theirs = data(folder / "truth.mrc"), data(folder / "Reconstruct" / "truth" / "merged.mrc")
    axis = np.arange(48) - 24
    sphere = np.clip((17 - np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)) / 4, 0, 1)
    made = data(tmp_path / "map.mrc")
    curve, wanted = (fsc(one * sphere, truth * sphere) for one in (made, theirs))
    assert fsc(made * sphere, theirs * sphere)[:11].min() > 0.97
    assert (curve - wanted)[:20].min() > -0.06
    assert (curve - wanted)[:20].mean() > -0.02


def test_recentring_a_refinement_of_relion_moves_its_map(shared_data: Path, tmp_path: Path) -> None:
    """The seed's case: the reference was 2.75 px too high along z."""
    folder = shared_data / "sta_sim"
    moved = tmp_path / "centered.star"
    source = folder / "Refine3D" / "stack2d" / "run_data.star"
    assert main(["recenter", "--i", str(source), "--o", str(moved), "--center_Z", "2.75"]) == 0
    truth = data(folder / "truth.mrc")
    for star, z in ((source, 2.6), (moved, -0.15)):
        words = ["--i", str(star), "--tomograms", str(folder / "tomograms.star"), "--sym", "C6"]
        target = tmp_path / "map.mrc"
        stacks = read_star(star)
        table = stacks.tables["particles"]
        assert isinstance(table, pd.DataFrame)
        names = [str(folder / name) for name in table["rlnImageName"]]
        local = tmp_path / "here.star"
        tables = {**stacks.tables, "particles": table.assign(rlnImageName=np.array(names, object))}
        write_star(local, tables, version=stacks.version)
        words[1] = str(local)
        assert main(["reconstruct", *words, "--o", str(target), "--overwrite"]) == 0
        np.testing.assert_allclose(peak(masked(data(target)), truth), [0, 0, z], atol=0.2)


@pytest.mark.relion
@pytest.mark.parametrize("is_premultiplied", [True, False])
def test_live_relion_makes_the_same_map_from_volumes(
    is_premultiplied: bool, sets: dict[str, Path], relion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELION 3.1 reads the CTF itself, without multiplicities, and files in single precision."""
    star = read_star(f"{sets['3d']}_truth.star")
    optics, table = star.tables["optics"], star.tables["particles"]
    assert isinstance(optics, pd.DataFrame) and isinstance(table, pd.DataFrame)
    names: dict[str, list[str]] = {"rlnImageName": [], "rlnCtfImage": []}
    for row, (volume, ctf) in enumerate(zip(table["rlnImageName"], table["rlnCtfImage"], strict=True)):
        names["rlnImageName"].append(f"{row}.mrc")
        names["rlnCtfImage"].append(f"{row}_ctf.mrc")
        write_volume(tmp_path / f"{row}.mrc", read_data(volume)[0].astype(np.float32), PIXEL_A)
        root = np.sqrt(np.abs(read_data(ctf)[0][:BOX].astype(np.float32)))
        write_volume(tmp_path / f"{row}_ctf.mrc", root, PIXEL_A)
    columns = {label: np.array(values, object) for label, values in names.items()}
    tables = {
        "optics": optics.assign(rlnCtfDataAreCtfPremultiplied=int(is_premultiplied)),
        "particles": table.assign(rlnMicrographName=table["rlnTomoName"], **columns),
    }
    write_star(tmp_path / "p.star", tables)
    words = ["--ctf", "--skip_gridding", "--sym", "C2"]
    subprocess.run([relion / "relion_reconstruct", "--i", "p.star", "--o", "theirs.mrc", *words], cwd=tmp_path,
                   check=True, capture_output=True)  # fmt: skip
    monkeypatch.setattr(tomo_reconstruction, "cube_samples", as_relion_counts)
    start = ["reconstruct", "--i", str(tmp_path / "p.star"), "--o", str(tmp_path / "ours.mrc")]
    assert main([*start, *words, *(["--ctf3d_not_squared"] if is_premultiplied else [])]) == 0
    assert difference(tmp_path / "ours.mrc", tmp_path / "theirs.mrc") < 2e-4
