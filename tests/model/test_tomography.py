"""Geometry, defocus and dose of tilt series, and cutting, against plain arithmetic and RELION's own particles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_autorefine.io.mrc import map_sections, read_data, read_header
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import SubtomogramRows
from napari_autorefine.model.subtomogram_cutting import Cut, ParticleCutter, visible_tilts
from napari_autorefine.model.tomography import (
    Tomogram,
    depth_defocus_A,
    dose_weights,
    positions_px,
    projected_px,
    projection_matrices,
    subtomogram_matrices,
    tilt_ctfs,
)

OPTICS = OpticsGroup(number=1, name="o", pixel_size_A=4.0, box_size=16)
ANGLES = np.array([[0.9, -40.0, 85.3], [0.9, 0.0, 85.3], [0.9, 40.0, 85.3]])
SHIFT = np.array([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]])


def series(**changes: object) -> Tomogram:
    sizes = {"size_px": (61, 40, 20), "image_size_px": (45, 50)}
    fields = {
        "name": "TS_1",
        "pixel_size_A": 2.0,
        "hand": -1.0,
        "projection": projection_matrices(ANGLES, SHIFT, **sizes),  # type: ignore[arg-type]
        "dose_e_A2": np.array([6.0, 0.0, 3.0]),
        "defocus_A": np.array([[21e3, 20e3], [22e3, 21e3], [23e3, 22e3]]),
        "defocus_angle_deg": np.array([10.0, 20.0, 30.0]),
        "phase_shift_deg": np.zeros(3),
        "ctf_bfactor_A2": np.zeros(3),
        "ctf_scale": np.array([0.8, 1.0, 0.7]),
        "bfactor_per_dose_A2": np.zeros(3),
        **sizes,
    }
    return Tomogram(**{**fields, **changes})  # type: ignore[arg-type]


def test_projection_is_the_product_of_its_steps() -> None:
    """Shift back from the floored middle, tilt about x, y and z, move to the floored middle of the image, shift."""

    def moved(x: float, y: float, z: float) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, 3] = x, y, z
        return matrix

    def turned(axis: str, angle: float) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3] = Rotation.from_euler(axis, angle, degrees=True).as_matrix()
        return matrix

    for matrix, (x, y, z), (dx, dy) in zip(series().projection, ANGLES, SHIFT, strict=True):
        expected = (
            moved(dx, dy, 0)
            @ moved(22, 25, 0)
            @ turned("z", z)
            @ turned("y", y)
            @ turned("x", x)
            @ moved(-30, -20, -10)
        )
        assert np.allclose(matrix, expected, atol=1e-12)


def test_unknown_sizes_stand_for_minus_999() -> None:
    """RELION 5 takes -999: -499 in the projection, -499.5 for coordinates."""
    one = series(size_px=None, projection=projection_matrices(np.zeros((1, 3)), np.zeros((1, 2))))
    assert one.center_px.tolist() == [-499.5] * 3
    assert projected_px(one, np.array([-499, -499, -499])).tolist() == [[0, 0]]


def test_positions_follow_coordinates_and_origins() -> None:
    rows = SubtomogramRows(
        is_tilt_stack=False,
        tomogram_name=np.array(["TS_1", "TS_1"], object),
        rotation_deg=np.array([[10.0, 20, 30], [40, 50, 60]]),
        coordinate=np.array([[4.0, -2, 6], [0, 0, 0]]),
    )
    origin = np.array([[3.0, 1, -2], [0, 5, 0]])
    found = positions_px(rows, {"TS_1": series()}, origin)
    for n in range(2):
        turned = euler_to_matrix(rows.rotation_deg[n]) @ origin[n]
        assert rows.coordinate is not None
        assert np.allclose(found[n], rows.coordinate[n] / 2 + [30.5, 20, 10] - turned / 2)


@pytest.mark.parametrize(("unit", "added"), [("px_from_0", 0.0), ("px_from_1", 1.0)])
def test_coordinates_in_pixels(unit: str, added: float) -> None:
    rows = SubtomogramRows(
        is_tilt_stack=False,
        tomogram_name=np.array(["TS_1"], object),
        rotation_deg=np.zeros((1, 3)),
        coordinate=np.array([[7.0, 8, 9]]),
        coordinate_unit=unit,  # type: ignore[arg-type]
    )
    assert positions_px(rows, {"TS_1": series()}).tolist() == [[7 + added, 8 + added, 9 + added]]


def test_defocus_changes_with_height_and_hand() -> None:
    one, position = series(), np.array([40.0, 25.0, 14.0])
    expected = []
    for matrix in one.projection:
        height = (matrix @ [*position, 1.0])[2] - (matrix @ [*one.center_px, 1.0])[2]
        expected.append(-1 * 2.0 * height)
    assert np.allclose(depth_defocus_A(one, position), expected)
    assert np.allclose(depth_defocus_A(series(hand=1.0, defocus_slope=0.5), position), -0.5 * np.array(expected))
    assert np.allclose(depth_defocus_A(one, one.center_px), 0)


def test_dose_weights() -> None:
    """Critical dose 0.245 u^-1.665 + 2.81, or a B-factor per dose."""
    weights = dose_weights([0.0, 10.0, 10.0], [0.0, 0.1], [0.0, 0.0, 5.0])
    critical = 0.245 * 0.1**-1.665 + 2.81
    assert np.allclose(weights, [[1, 1], [1, np.exp(-5 / critical)], [1, np.exp(-0.25 * 5 * 10 * 0.01)]])
    assert weights[1, 1] == pytest.approx(0.7021, abs=1e-4)


def test_ctf_of_a_tilt_has_depth_scale_and_dose() -> None:
    one, position = series(), np.array([40.0, 25.0, 14.0])
    points = np.array([[0.0, 0.0], [0.03, -0.05], [0.1, 0.02]])
    values = tilt_ctfs(one, position, OPTICS, points, tilts=np.array([2, 0]))
    assert values.shape == (2, 3)
    for row, tilt in enumerate((2, 0)):
        defocus = one.defocus_A[tilt] + depth_defocus_A(one, position)[tilt]
        plain = ctf(OPTICS, defocus[None], one.defocus_angle_deg[tilt], 0.0, 0.0, one.ctf_scale[tilt], points)[0]
        weight = dose_weights([one.dose_e_A2[tilt]], np.hypot(*points.T))[0]
        assert np.allclose(values[row], plain * weight, atol=1e-6)
    assert values[0, 0] == pytest.approx(0.07, abs=1e-6)


def test_a_shift_of_the_particle_is_its_projection() -> None:
    """The image of a displaced particle moves by the first two rows of P A_sub."""
    one, position = series(), np.array([30.0, 20.0, 10.0])
    frame, step = euler_to_matrix([20.0, 50.0, -70.0]), np.array([1.0, -2.0, 0.5])
    moved = projected_px(one, position + frame @ step) - projected_px(one, position)
    assert np.allclose(moved, (one.rotations @ frame @ step)[:, :2])


def test_visible_tilts_keep_off_the_edge_and_below_the_dose() -> None:
    one = series(projection=projection_matrices(np.zeros((3, 3)), np.array([[0.0, 0], [14.5, 0], [15.5, 0]])))
    cut = Cut(box_size=10, crop_size=8, binning=2.0)
    position = np.array([-499.0 + 14.5, -499.0 + 25, -499.0])  # x at 14.5, 29, 30 of 45 px: margin 8
    assert visible_tilts(one, position, cut).tolist() == [True, True, True]
    assert visible_tilts(one, position + np.array([7, 0, 0]), cut).tolist() == [True, True, False]
    assert visible_tilts(one, position, cut, max_dose_e_A2=3.0).tolist() == [False, True, True]


def test_sums_of_a_volume_hold_what_was_inserted() -> None:
    """One untilted slice: its CTF^2 and weight land on the plane z = 0 and nowhere else, its data are its image."""
    rng = np.random.default_rng(1)
    sizes = {"size_px": (40, 40, 20), "image_size_px": (40, 40)}
    flat = series(
        projection=projection_matrices(np.zeros((1, 3)), np.zeros((1, 2)), **sizes), **sizes,  # type: ignore[arg-type]
        dose_e_A2=np.zeros(1), defocus_A=np.array([[9e3, 9e3]]),
        defocus_angle_deg=np.zeros(1), phase_shift_deg=np.zeros(1), ctf_bfactor_A2=np.zeros(1), ctf_scale=np.ones(1),
        bfactor_per_dose_A2=np.zeros(1),
    )  # fmt: skip
    cutter = ParticleCutter(flat, OPTICS, Cut(box_size=16, crop_size=16))
    image, tilts = rng.standard_normal((40, 40)), np.array([0])
    sums = cutter.volume([image], tilts, np.array([20.0, 20.0, 10.0]), np.eye(3))
    slices, transfer = cutter.slices([image], tilts, np.array([20.0, 20.0, 10.0]))
    assert sums.multiplicity[1:].max() == 0
    inside = np.hypot(*np.meshgrid(np.fft.fftfreq(16) * 16, np.arange(9), indexing="ij")) < 8
    inside[1:, 0] = False  # the plane x = 0 gets both mates
    assert np.allclose(sums.multiplicity[0][inside][1:], 1)
    assert np.allclose(sums.ctf2[0][inside][1:], (transfer[0] ** 2)[inside][1:], atol=1e-6)
    spectrum = np.fft.rfftn(np.fft.ifftshift(sums.data))[0]
    expected = np.fft.rfft2(np.fft.ifftshift(slices[0])) * 16 ** (1.5 - 1)
    assert np.allclose(spectrum[inside][1:], expected[inside][1:], atol=1e-3)


@pytest.mark.parametrize("row", [0, 41, 79])
def test_tilt_stacks_are_those_of_relion(shared_data: Path, row: int) -> None:
    folder = shared_data / "sta_sim"
    particles = read_particles(folder / "Extract/stack2d/particles.star")
    rows = particles.subtomograms
    assert rows is not None and rows.visible is not None
    tomograms = read_tomograms(folder / "tomograms.star", project_dir=folder)
    one, position = tomograms[rows.tomogram_name[row]], positions_px(rows, tomograms)[row]
    cut = Cut(box_size=64, crop_size=48)
    flags = visible_tilts(one, position, cut, max_dose_e_A2=48.0)
    assert np.array_equal(flags, rows.visible[row])
    images = map_sections(read_header(folder / f"frames/{one.name}.mrcs"))
    tilts = np.flatnonzero(flags)
    stack = ParticleCutter(one, particles.optics[0], cut).stack([images[t] for t in tilts], tilts, position)
    recorded, _ = read_data(folder / particles.image_name[row])
    assert np.abs(stack - recorded).max() < 0.003 * recorded.std()


@pytest.mark.parametrize("row", [0, 40])
def test_volumes_are_those_of_relion(shared_data: Path, row: int) -> None:
    folder = shared_data / "sta_sim"
    particles = read_particles(folder / "Extract/sub3d/particles.star")
    rows = particles.subtomograms
    assert rows is not None and rows.weights_name is not None
    tomograms = read_tomograms(folder / "tomograms.star", project_dir=folder)
    one, position = tomograms[rows.tomogram_name[row]], positions_px(rows, tomograms)[row]
    cutter = ParticleCutter(one, particles.optics[0], Cut(box_size=64, crop_size=40))
    tilts = np.flatnonzero(visible_tilts(one, position, cutter.cut, max_dose_e_A2=48.0))
    images = map_sections(read_header(folder / f"frames/{one.name}.mrcs"))
    sums = cutter.volume([images[t] for t in tilts], tilts, position, subtomogram_matrices(rows)[row])
    data, _ = read_data(folder / particles.image_name[row])
    weights, _ = read_data(folder / rows.weights_name[row])
    assert np.abs(sums.data - data).max() < 0.005 * data.std()
    assert np.abs(sums.ctf2 - weights[:40]).max() < 1e-3 * weights[:40].max()
    assert np.abs(sums.multiplicity - weights[40:]).max() < 1e-3 * weights[40:].max()
