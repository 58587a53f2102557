"""Simulated particle sets: exact projections, RELION's conventions, noise and files as promised."""

from __future__ import annotations

from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, Message
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.simulate import simulate, simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.simulate_truth import ParticleDrawer, draw_truth
from napari_autorefine.model.atoms import AtomProjector, Atoms, form_factor, to_image
from napari_autorefine.model.geometry import euler_to_matrix

BOX, PIXEL = 16, 2.5


@pytest.fixture
def atoms() -> Atoms:
    rng = np.random.default_rng(3)
    return Atoms(xyz_A=rng.normal(0, 5.0, (40, 3)), element=np.array(["C", "N", "O", "P"] * 10))


def direct_sum(atoms: Atoms, matrix: np.ndarray, origin_A: np.ndarray, bfactor: float) -> np.ndarray:
    """Fourier transform of a projection, one atom and one frequency at a time in float64."""
    axis = (np.arange(BOX) - BOX // 2) / (BOX * PIXEL)
    ky, kx = np.meshgrid(axis, axis, indexing="ij")
    result = np.zeros((BOX, BOX), dtype=complex)
    for xyz, element in zip(atoms.xyz_A, atoms.element, strict=True):
        table = gemmi.Element(str(element)).c4322
        u2 = kx**2 + ky**2
        factor = sum(a * np.exp(-b * u2 / 4) for a, b in zip(table.a, table.b, strict=True))
        seen = matrix @ xyz
        phase = kx * (seen[0] - origin_A[0]) + ky * (seen[1] - origin_A[1])
        result += factor * np.exp(-bfactor * u2 / 4) * np.exp(-2j * np.pi * phase)
    return result


def test_projection_equals_direct_sum(atoms: Atoms) -> None:
    matrix, origin = euler_to_matrix([31.0, 47.0, -112.0]), np.array([1.7, -3.1])
    projector = AtomProjector(atoms, box_size=BOX, pixel_size_A=PIXEL, bfactor_A2=40.0)
    expected = direct_sum(atoms, matrix, origin, 40.0)
    assert np.abs(projector.project(matrix, origin) - expected).max() < 1e-6 * np.abs(expected).max()


def test_form_factor_is_blurred_with_frequency() -> None:
    values = form_factor("C", np.array([0.0, 0.01, 0.25]))
    assert values[0] == pytest.approx(sum(gemmi.Element("C").c4322.a))
    assert values[0] > values[1] > values[2] > 0


def test_sum_of_map_along_view_is_projection(atoms: Atoms) -> None:
    projector = AtomProjector(atoms, box_size=BOX, pixel_size_A=PIXEL, bfactor_A2=60.0)
    image = to_image(projector.project(np.eye(3), np.zeros(2)))
    summed = projector.density().sum(axis=0)
    assert np.abs(summed - image).max() < 1e-5 * np.abs(image).max()


def test_one_atom_lies_where_conventions_say() -> None:
    """View x is right, y is down the rows; the origin moves the particle back to the center."""
    atom = Atoms(xyz_A=np.array([[10.0, 5.0, -2.5]]), element=np.array(["C"]))
    projector = AtomProjector(atom, box_size=BOX, pixel_size_A=PIXEL, bfactor_A2=60.0)
    image = to_image(projector.project(np.eye(3), np.zeros(2)))
    assert np.unravel_index(image.argmax(), image.shape) == (8 + 2, 8 + 4)
    moved = to_image(projector.project(np.eye(3), np.array([10.0, 5.0])))
    assert np.unravel_index(moved.argmax(), moved.shape) == (8, 8)
    volume = projector.density()
    assert np.unravel_index(volume.argmax(), volume.shape) == (8 - 1, 8 + 2, 8 + 4)


def _params(tmp_path: Path, **changes: object) -> SimulateParams:
    values = {
        "output": str(tmp_path / "set" / "p"), "n_particle": 12, "box_size": 32, "pixel_size_A": PIXEL, "threads": 1,
        "groups": 3, "optics_groups": 2, "particle_diameter_A": 50.0,
    }  # fmt: skip
    return SimulateParams(**(values | changes))


def test_files_agree_with_each_other(tmp_path: Path, atoms: Atoms) -> None:
    events = list(simulate_atoms(atoms, _params(tmp_path)))
    assert isinstance(events[-1], Finished)
    particles = read_particles(events[-1].outputs["particles"])
    truth = read_particles(events[-1].outputs["truth"])
    assert len(particles) == len(truth) == 12
    assert [group.voltage_kV for group in particles.optics] == [300.0, 200.0]
    assert not particles.euler_deg.any()
    assert truth.euler_deg.any()
    assert len(set(particles.micrograph_name)) == 3
    for mic in range(3):
        with mrcfile.open(tmp_path / "set" / f"p_mic{mic + 1:03d}.mrcs") as stack:
            assert stack.data.shape == (4, 32, 32)
            assert float(stack.voxel_size.x) == pytest.approx(PIXEL)


def test_background_is_normalized_and_signal_has_the_wanted_variance(tmp_path: Path, atoms: Atoms) -> None:
    params = _params(tmp_path, snr=2.0, scale_sigma=0.0, n_particle=40, noise_length_A=20.0)
    list(simulate_atoms(atoms, params))
    with mrcfile.open(tmp_path / "set" / "p_mic001.mrcs") as stack:
        images = stack.data.copy()
    axis = np.arange(32) - 16
    inside = axis[:, None] ** 2 + axis[None, :] ** 2 <= 10.0**2
    assert np.abs(images[:, ~inside].mean(axis=1)).max() < 1e-5
    assert np.abs(images[:, ~inside].std(axis=1) - 1).max() < 1e-5
    assert 2.0 < images[:, inside].var(axis=1).mean() < 4.0


def test_same_seed_same_particles_for_any_number_of_threads(tmp_path: Path, atoms: Atoms) -> None:
    one, two = _params(tmp_path / "a", threads=1), _params(tmp_path / "b", threads=2)
    list(simulate_atoms(atoms, one))
    list(simulate_atoms(atoms, two))
    first, second = (mrcfile.read(f"{p.output}_mic002.mrcs") for p in (one, two))
    assert np.array_equal(first, second)


def test_optics_groups_of_different_pixel_size_show_the_same_density(tmp_path: Path, atoms: Atoms) -> None:
    params = _params(tmp_path, group_pixel_size_A=(2.5, 2.0), group_box_size=(32, 40), snr=0.0, scale_sigma=0.0)
    drawer = ParticleDrawer(atoms, draw_truth(params), params)
    shapes = {drawer.signal(index).shape for index in range(12)}
    assert shapes == {(32, 32), (40, 40)}
    list(simulate_atoms(atoms, params))
    assert {group.box_size for group in read_particles(f"{params.output}.star").optics} == {32, 40}


def test_refuses_bad_input_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        list(simulate(_params(tmp_path, model=str(tmp_path / "none.pdb"))))
    broken = tmp_path / "broken.cif"
    broken.write_text("this is not a model")
    with pytest.raises(InputError, match="Atomic model"):
        list(simulate(_params(tmp_path, model=str(broken))))


@pytest.mark.parametrize(
    ("name", "assembly", "symmetry", "operators", "is_turned"),
    [
        ("2buk_STNV_I_asu.pdb", "1", "I1", 60, True),
        ("1gyt_PepA_D3.pdb.gz", "", "D3", 6, True),
        ("5a1a_betagal_D2.cif.gz", "", "D2", 4, False),
    ],
)
def test_model_is_brought_to_the_axes_of_its_group(
    shared_data: Path, tmp_path: Path, *, name: str, assembly: str, symmetry: str, operators: int, is_turned: bool
) -> None:
    from napari_autorefine.io.atoms import read_model
    from napari_autorefine.model.frames import frame_rotation
    from napari_autorefine.model.geometry import rotation_difference_deg
    from napari_autorefine.model.symmetry import point_group

    model = read_model(shared_data / "models" / name, assembly=assembly or None)
    group = point_group(symmetry)
    assert len(group) == operators
    frame = frame_rotation(model.rotations, group)
    assert (rotation_difference_deg(frame, np.eye(3)) > 1) == is_turned
    turned = frame @ model.rotations @ frame.T
    assert all(rotation_difference_deg(turned, operator).min() < 1.0 for operator in group.operators)


def test_center_lies_on_the_axes_though_copies_differ() -> None:
    from napari_autorefine.model.frames import symmetry_center
    from napari_autorefine.model.symmetry import point_group

    group, axis_point = point_group("C4"), np.array([1.0, -2.0, 5.0])
    shifts = np.array([axis_point - operator @ axis_point for operator in group.operators])
    center = symmetry_center(group.operators, shifts, group, np.eye(3))
    assert np.allclose(center, [1.0, -2.0, 0.0])
    assert np.allclose(symmetry_center(group.operators, shifts, point_group("C1"), np.eye(3)), 0)


def test_wrong_symmetry_is_refused(shared_data: Path, tmp_path: Path) -> None:
    model = str(shared_data / "models" / "5a1a_betagal_D2.cif.gz")
    with pytest.raises(InputError, match="does not have the symmetry C4"):
        list(simulate(_params(tmp_path, model=model, symmetry="C4")))


def test_rotated_model_is_announced(shared_data: Path, tmp_path: Path) -> None:
    model = str(shared_data / "models" / "1gyt_PepA_D3.pdb.gz")
    events = list(simulate(_params(tmp_path, model=model, symmetry="D3", n_particle=3, box_size=16, pixel_size_A=12.0)))
    assert any(isinstance(event, Message) and "D3" in event.text for event in events)


def test_shipped_molecule_is_the_entry(shared_data: Path) -> None:
    from scipy.spatial import cKDTree

    from napari_autorefine.io.atoms import demo_molecule, read_model

    shipped = demo_molecule()
    entry = read_model(shared_data / "models" / "5a1a_betagal_D2.cif.gz").atoms
    assert len(shipped) == len(entry)
    distance, nearest = cKDTree(entry.xyz_A).query(shipped.xyz_A)
    assert distance.max() < 0.02
    assert (entry.element[nearest] == shipped.element).all()
