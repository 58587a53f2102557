"""Simulated particles of tomograms: files of both forms agree with each other and with the truth, and with RELION's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.tomo import average, shell_correlation

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished
from napari_autorefine.io.mrc import read_data, read_volume
from napari_autorefine.io.optimisation_set import read_optimisation_set
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.io.tomo_inputs import TomoInputs, gather_files, read_tomo_inputs
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.simulate_tomo_scene import draw_scene, tilt_scheme
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.geometry import euler_to_matrix, rotation_difference_deg
from napari_autorefine.model.tomography import positions_px, subtomogram_matrices

BOX, PIXEL = 24, 6.0


@pytest.fixture(scope="module")
def atoms() -> Atoms:
    rng = np.random.default_rng(3)
    return Atoms(xyz_A=rng.normal(0, 16.0, (60, 3)), element=np.array(["C", "N", "O", "P", "S"] * 12)).centered()


def params(prefix: Path, **changes: object) -> SimulateParams:
    values = {
        "output": str(prefix), "n_particle": 12, "box_size": BOX, "pixel_size_A": PIXEL, "threads": 2, "tomo": "2d",
        "tilt_step_deg": 10.0, "snr": 0.0, "bfactor_A2": 300.0, "offset_sigma_A": 5.0, "scale_sigma": 0.0,
        "particle_diameter_A": 90.0,
    }  # fmt: skip
    return SimulateParams(**(values | changes))


def made(atoms: Atoms, options: SimulateParams) -> TomoInputs:
    events: list[Event] = list(simulate_atoms(atoms, options))
    assert isinstance(events[-1], Finished)
    return read_tomo_inputs(gather_files(events[-1].outputs["optimisation_set"], {}))


def map_at_truth(inputs: TomoInputs, prefix: Path) -> np.ndarray:
    truth = read_particles(f"{prefix}_truth.star")
    return average(inputs, truth.euler_deg, truth.origin_A, np.arange(len(truth)))


@pytest.mark.parametrize(("form", "binning", "version"), [("2d", 1.0, "5"), ("3d", 1.0, "5"), ("3d", 1.5, "4")])
def test_average_at_true_poses_is_the_true_map(
    tmp_path: Path, atoms: Atoms, form: str, binning: float, version: str
) -> None:
    options = params(
        tmp_path / "set", tomo=form, binning=binning, relion_version=version, pixel_size_A=PIXEL / binning,
        float16=False, tilt_dose_e_A2=0.5,
    )  # fmt: skip
    inputs = made(atoms, options)
    truth = read_volume(tmp_path / "set_truth.mrc").data
    found = map_at_truth(inputs, tmp_path / "set")
    assert shell_correlation(found, truth)[3:8].min() > 0.9
    assert 0.5 < (found * truth).sum() / (truth**2).sum() < 1.1  # less than 1: interpolated without correction
    wrong = read_particles(tmp_path / "set_truth.star").euler_deg * [1, 1, -1]
    turned = average(inputs, wrong, np.zeros((12, 3)), np.arange(12))
    assert shell_correlation(turned, truth)[4:8].mean() < 0.6


def test_files_of_both_forms_and_versions(tmp_path: Path, atoms: Atoms) -> None:
    stacks = made(atoms, params(tmp_path / "a" / "p", max_dose_e_A2=20.0, optics_groups=2))
    volumes = made(atoms, params(tmp_path / "b" / "p", tomo="3d", relion_version="4", max_dose_e_A2=20.0))
    assert (stacks.particles.version, volumes.particles.version) == ("5.0", "3.1")
    assert stacks.particles.subtomograms is not None and volumes.particles.subtomograms is not None
    assert stacks.particles.subtomograms.coordinate_unit == "A_from_center"
    assert volumes.particles.subtomograms.coordinate_unit == "px_from_1"
    assert [group.voltage_kV for group in stacks.particles.optics] == [300.0, 200.0]
    assert all(group.is_premultiplied for group in stacks.particles.optics)
    assert {tomogram.hand for tomogram in stacks.tomograms.values()} == {-1.0}
    assert stacks.images.n_images.tolist() == [7] * 12  # type: ignore[union-attr] # doses 0, 3, .. 18
    assert np.allclose(*(tomo.projection for tomo in (stacks.tomograms["TS_1"], volumes.tomograms["TS_1"])), atol=1e-8)
    places = [positions_px(one.particles.subtomograms, one.tomograms) for one in (stacks, volumes)]  # type: ignore[arg-type]
    assert np.allclose(*places, atol=1e-6)


def test_the_wedge_that_no_tilt_reaches_is_missing(tmp_path: Path, atoms: Atoms) -> None:
    inputs = made(atoms, params(tmp_path / "p", tomo="3d", n_particle=4))
    weights = inputs.images.read_weights([0])  # type: ignore[union-attr]
    assert weights.multiplicity is not None
    rows = inputs.particles.subtomograms
    assert rows is not None
    axis = np.fft.fftfreq(BOX) * BOX
    z, y, x = np.meshgrid(axis, axis, np.arange(BOX // 2 + 1), indexing="ij")
    beam = subtomogram_matrices(rows)[0].T @ inputs.tomograms[str(rows.tomogram_name[0])].rotations[6][2]
    length = np.sqrt(x**2 + y**2 + z**2)
    along = np.abs(x * beam[0] + y * beam[1] + z * beam[2]) / np.maximum(length, 1)
    shell = (length > 6) & (length < 9)
    assert weights.multiplicity[0][shell & (along > np.cos(np.radians(10)))].max() == 0
    assert weights.multiplicity[0][shell & (along < 0.1)].min() > 0


def test_same_seed_same_files_for_any_number_of_threads(tmp_path: Path, atoms: Atoms) -> None:
    for name, threads in (("a", 1), ("b", 3)):
        made(atoms, params(tmp_path / name / "p", threads=threads, snr=0.2, n_particle=4))
    one, three = (sorted((tmp_path / name).rglob("*.mrc*")) for name in "ab")
    assert len(one) == 4 + 2 + 2
    for first, second in zip(one, three, strict=True):
        assert np.array_equal(read_data(first)[0], read_data(second)[0]), first


def test_noise_has_the_wanted_strength(tmp_path: Path, atoms: Atoms) -> None:
    made(atoms, params(tmp_path / "p", snr=0.1, n_particle=4))
    frames, _ = read_data(tmp_path / "p_tilt_series" / "TS_1.mrcs")
    corners = frames[:, :16, :16]
    assert 0.9 < corners.std() < 1.1
    middle = frames[len(frames) // 2]
    assert middle.min() < -3.5 or middle.mean() < 0  # protein is dark


def test_particles_on_a_sphere_point_outwards_within_their_prior() -> None:
    options = SimulateParams(
        output="x", n_particle=60, tomo="2d", arrangement="sphere", box_size=BOX, pixel_size_A=PIXEL
    )
    scene = draw_scene(options, 90.0)
    frame = euler_to_matrix(scene.subtomogram_deg)
    assert rotation_difference_deg(scene.pose, frame @ euler_to_matrix(scene.euler_deg)).max() < 1e-6
    for index, tomogram in enumerate(scene.tomograms):
        chosen = scene.tomogram == index
        outward = scene.position_px[chosen] - tomogram.center_px
        outward /= np.linalg.norm(outward, axis=1)[:, None]
        assert ((scene.pose[chosen] @ [0, 0, 1]) * outward).sum(axis=1).min() > np.cos(np.radians(25))
        distance = np.linalg.norm(scene.position_px[chosen][:, None] - scene.position_px[chosen], axis=2) * PIXEL
        assert np.sort(distance, axis=1)[:, 1].min() > 0.75 * 90
    assert np.abs(scene.euler_deg[:, 1] - 90).max() < 25
    assert 2 < np.abs(scene.euler_deg[:, 1] - 90).mean() < 8


def test_tilts_are_dose_symmetric() -> None:
    tilt, dose = tilt_scheme(SimulateParams(output="x", tomo="2d", tilt_max_deg=6, tilt_step_deg=3, tilt_dose_e_A2=2))
    assert tilt.tolist() == [-6, -3, 0, 3, 6]
    assert dose.tolist() == [8, 4, 0, 2, 6]


def test_truth_lies_where_coordinates_and_origins_say(tmp_path: Path, atoms: Atoms) -> None:
    options = params(tmp_path / "p")
    made(atoms, options)
    truth, scene = read_particles(tmp_path / "p_truth.star"), draw_scene(options, 90.0)
    assert truth.subtomograms is not None
    found = positions_px(truth.subtomograms, read_tomograms(tmp_path / "p_tomograms.star"), truth.origin_A)
    assert np.allclose(found, scene.position_px, atol=1e-6)
    assert truth.half.tolist() == [1, 2] * 6


def test_reference_is_low_passed_and_moved(tmp_path: Path, atoms: Atoms) -> None:
    made(atoms, params(tmp_path / "p", reference_shift_px=2.75, reference_low_pass_A=40.0, n_particle=4))
    truth, reference = (read_volume(tmp_path / f"p_{kind}.mrc").data for kind in ("truth", "reference"))
    z = np.arange(BOX) - BOX // 2
    moved = [(np.abs(one).sum(axis=(1, 2)) * z).sum() / np.abs(one).sum() for one in (truth, reference)]
    assert moved[1] - moved[0] == pytest.approx(2.75, abs=0.5)


def test_labels_are_those_of_relion(tmp_path: Path, atoms: Atoms, shared_data: Path) -> None:
    """Every label of the tables that RELION's extraction wrote is there, and the optics group says the same."""
    for form, kind in (("2d", "stack2d"), ("3d", "sub3d")):
        made(atoms, params(tmp_path / form / "p", tomo=form, n_particle=4))
        ours, theirs = (
            read_star(path)
            for path in (tmp_path / form / "p.star", shared_data / "sta_sim" / "Extract" / kind / "particles.star")
        )
        assert list(ours.tables) == list(theirs.tables)
        assert (ours.version, ours.tables["general"]) == (theirs.version, theirs.tables["general"])
        for name in ("optics", "particles"):
            assert set(theirs.tables[name]) <= set(ours.tables[name])
        for label in ("rlnCtfDataAreCtfPremultiplied", "rlnImageDimensionality"):
            assert ours.tables["optics"][label][0] == theirs.tables["optics"][label][0]  # type: ignore[index]
    keys = read_star(shared_data / "sta_sim" / "Refine3D" / "sub3d" / "run_optimisation_set.star").tables[""]
    assert list(read_star(tmp_path / "2d" / "p_optimisation_set.star").tables[""]) == list(keys)
    assert read_optimisation_set(tmp_path / "2d" / "p_optimisation_set.star")["particles"] == f"{tmp_path}/2d/p.star"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tomo": "none", "tilt_step_deg": 3.0, "max_dose_e_A2": 30.0}, "max_dose is for particles of tomograms"),
        ({"micrographs": 2}, "micrographs and tomo exclude each other"),
        ({"groups": 3}, "with --tomo give --tilt_series"),
        ({"tilt_series": 20}, "12 particles are too few for 20 tilt series"),
        ({"relion_version": "4"}, "relion_version 4 is for --tomo 3d"),
        ({"cut_box_size": 20}, "cut_box must be even and not below the box of 24"),
    ],
)
def test_options_that_exclude_each_other_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        params(tmp_path / "p", **changes)


def test_an_earlier_set_is_not_replaced(tmp_path: Path, atoms: Atoms) -> None:
    (tmp_path / "p.star").write_text("")
    with pytest.raises(InputError, match="exists"):
        list(simulate_atoms(atoms, params(tmp_path / "p")))
