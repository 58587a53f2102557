"""Maps from volumes and tilt stacks with known poses, against the densities that they were made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles import imaging
from oracles.phantoms import ASYMMETRIC, Phantom, optics_group, particles
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.averaged_weights import with_averaged_weights
from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.direct_reconstruction import InsertedSums, InsertionOptions, close_sums, map_of_sums
from napari_autorefine.engine.tomo_reconstruction import (
    PosedTiltStacks,
    PosedVolumes,
    cube_samples,
    insert_subtomograms,
)
from napari_autorefine.model.particles import Particles, SubtomogramRows
from napari_autorefine.model.tomography import Tomogram, projection_matrices, tilt_ctfs

BOX, PIXEL_A = 24, 4.0
PHANTOM = replace(ASYMMETRIC, width_A=5.0)
TILTS = np.arange(-60.0, 61.0, 15.0)


def options(**changes: object) -> InsertionOptions:
    fields = {"box_size": BOX, "voxel_size_A": PIXEL_A, "r_max": BOX // 2}
    return InsertionOptions(**{**fields, **changes})  # type: ignore[arg-type]


def inserted(images: PosedVolumes | PosedTiltStacks, settings: InsertionOptions) -> InsertedSums:
    steps = insert_subtomograms(images, np.arange(len(images.particles)), settings)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: InsertedSums = end.value
            return result


def reconstructed(images: PosedVolumes | PosedTiltStacks, **changes: object) -> np.ndarray:
    sums = inserted(images, options(**changes)).sums
    close_sums(sums, "C1")
    return map_of_sums(with_averaged_weights(sums) if isinstance(images, PosedTiltStacks) else sums)


def poses(n: int, *, is_stack: bool, is_premultiplied: bool = True) -> Particles:
    """Random angles, subtomogram angles and offsets in three dimensions."""
    rng = np.random.default_rng(5)
    turns = [-Rotation.random(n, random_state=s).inv().as_euler("ZYZ", degrees=True)[:, ::-1] for s in (1, 2)]
    group = optics_group(box_size=BOX, pixel_size_A=PIXEL_A, is_premultiplied=is_premultiplied)
    rows = SubtomogramRows(
        is_tilt_stack=is_stack,
        tomogram_name=np.full(n, "TS", object),
        rotation_deg=turns[1],
        coordinate=rng.uniform(-300, 300, (n, 3)),
    )
    return particles((group,), np.zeros(n), euler_deg=turns[0], origin_A=rng.normal(0, 4.0, (n, 3)), subtomograms=rows)


def seen(found: Particles, row: int) -> Phantom:
    """The phantom in the frame of a subtomogram: turned, and drawn at minus its origin."""
    turned = PHANTOM.rotated(imaging.rotation(found.euler_deg[row]))
    return replace(turned, centers_A=turned.centers_A - found.origin_A[row])


def half_radius() -> tuple[np.ndarray, np.ndarray]:
    """Frequencies z and y, wrapped, and x of a half transform; and their lengths."""
    axis = np.fft.fftfreq(BOX) * BOX
    grid = np.stack(np.meshgrid(axis, axis, np.arange(BOX // 2 + 1), indexing="ij"))
    return grid, np.sqrt((grid**2).sum(axis=0))


def transfer(row: int) -> np.ndarray:
    """An even function with a wedge of zeros about an axis in the plane x y, different for every particle."""
    grid, length = half_radius()
    beam = np.array([0.0, np.sin(row), np.cos(row)])
    along = np.abs(np.tensordot(beam, grid, axes=1)) / np.maximum(length, 1)
    return np.where(along > 0.85, 0.0, np.cos(0.4 * length + row) * 0.8 + 0.1)


def volumes(n: int, *, is_premultiplied: bool = True, noise_in_wedge: float = 0.0) -> PosedVolumes:
    found = poses(n, is_stack=False, is_premultiplied=is_premultiplied)

    def read(row: int) -> np.ndarray:
        spectrum = np.fft.rfftn(np.fft.ifftshift(seen(found, row).map(BOX, PIXEL_A)))
        spectrum *= transfer(row) ** (2 if is_premultiplied else 1)
        if noise_in_wedge:
            rng = np.random.default_rng(row)
            noise = np.fft.rfftn(rng.standard_normal((BOX,) * 3)) * noise_in_wedge
            spectrum += np.where(transfer(row) == 0, noise, 0)
        return np.fft.fftshift(np.fft.irfftn(spectrum, s=(BOX,) * 3, axes=(0, 1, 2))).astype(np.float32)

    def weights(row: int) -> tuple[np.ndarray, np.ndarray]:
        ctf = transfer(row)
        return (ctf**2 if is_premultiplied else ctf).astype(np.float32), np.full(ctf.shape, 2.0, np.float32)

    return PosedVolumes(particles=found, read_volume=read, read_weights=weights)


def tilt_series() -> Tomogram:
    n = len(TILTS)
    angles = np.stack([np.full(n, 2.0), TILTS, np.full(n, 85.0)], axis=1)
    return Tomogram(
        name="TS", pixel_size_A=PIXEL_A, size_px=(300, 300, 100), image_size_px=(300, 300), hand=-1.0,
        projection=projection_matrices(angles, np.zeros((n, 2)), size_px=(300, 300, 100), image_size_px=(300, 300)),
        dose_e_A2=np.arange(n) * 1.0, defocus_A=np.linspace(5e3, 9e3, n)[:, None] + np.array([200.0, -200.0]),
        defocus_angle_deg=np.full(n, 30.0), phase_shift_deg=np.zeros(n), ctf_bfactor_A2=np.zeros(n),
        ctf_scale=np.ones(n), bfactor_per_dose_A2=np.zeros(n),
    )  # fmt: skip


def stacks(n: int, *, is_premultiplied: bool = True) -> PosedTiltStacks:
    found, series = poses(n, is_stack=True, is_premultiplied=is_premultiplied), tilt_series()
    place = found.subtomograms
    assert place is not None and place.coordinate is not None
    tilts = [np.flatnonzero(np.arange(len(TILTS)) != row % 5) for row in range(n)]
    points = np.stack(np.meshgrid(np.fft.rfftfreq(BOX, PIXEL_A), np.fft.fftfreq(BOX, PIXEL_A)), axis=-1).reshape(-1, 2)

    def read(row: int) -> np.ndarray:
        frame = imaging.rotation(place.rotation_deg[row])
        position = place.coordinate[row] / PIXEL_A + series.center_px
        ctfs = tilt_ctfs(series, position, found.optics[0], points, tilts=tilts[row])
        images = []
        for tilt, ctf in zip(tilts[row], ctfs, strict=True):
            view = series.rotations[tilt] @ frame
            image = seen(found, row).image(view, np.zeros(2), BOX, PIXEL_A)
            power = 2 if is_premultiplied else 1
            images.append(np.fft.irfft2(np.fft.rfft2(image) * ctf.reshape(BOX, -1) ** power, s=(BOX, BOX)))
        return np.array(images, np.float32)

    return PosedTiltStacks(particles=found, tomograms={"TS": series}, tilts=tilts, read_stack=read)


@pytest.mark.parametrize(("box", "radius"), [(8, 4.0), (8, 5.5), (12, 3.2), (6, 6.0)])
def test_every_coefficient_of_a_cube_is_there_once(box: int, radius: float) -> None:
    found = cube_samples(box, radius)
    points = np.stack([found.z, found.y, found.x], axis=1)
    assert not points[0].any()
    half = box // 2
    axis = np.arange(-half + 1, half + 1)
    wanted = {
        (z, y, x)
        for z in axis
        for y in axis
        for x in range(half + 1)
        if z * z + y * y + x * x <= radius**2 and (x > 0 or y > 0 or (y == 0 and z >= 0))
    }
    assert {tuple(point) for point in points.tolist()} == wanted
    assert len(points) == len(wanted)
    rows = [(z, y, x + i) for z, y, x, n, _ in found.rows.tolist() for i in range(n)]
    assert rows == [tuple(point) for point in points.tolist()]
    assert found.rows[:, 4].tolist() == [0, *np.cumsum(found.rows[:-1, 3]).tolist()]
    values = np.random.default_rng(1).standard_normal((box,) * 3)
    picked = np.fft.rfftn(values).reshape(-1)[found.flat]
    direct = np.fft.fftn(values)[found.z % box, found.y % box, found.x]
    np.testing.assert_allclose(picked, direct, atol=1e-9)


@pytest.mark.parametrize("is_premultiplied", [True, False])
def test_volumes_give_their_density_on_its_grey_scale(is_premultiplied: bool) -> None:
    made, truth = reconstructed(volumes(60, is_premultiplied=is_premultiplied)), PHANTOM.map(BOX, PIXEL_A)
    assert fsc(made, truth)[: int(0.9 * BOX / 2) + 1].min() > 0.99
    inside = truth > 0.2 * truth.max()
    assert np.polyfit(truth[inside], made[inside], 1)[0] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("is_premultiplied", [True, False])
def test_tilt_stacks_give_their_density_on_its_grey_scale(is_premultiplied: bool) -> None:
    made, truth = reconstructed(stacks(80, is_premultiplied=is_premultiplied)), PHANTOM.map(BOX, PIXEL_A)
    assert fsc(made, truth)[: int(0.8 * BOX / 2) + 1].min() > 0.99
    inside = truth > 0.2 * truth.max()
    assert np.polyfit(truth[inside], made[inside], 1)[0] == pytest.approx(1.0, abs=0.05)


def test_the_missing_wedge_adds_nothing_whatever_files_hold_there() -> None:
    clean, noisy = (reconstructed(volumes(3, noise_in_wedge=noise)) for noise in (0.0, 30.0))
    np.testing.assert_allclose(noisy, clean, atol=2e-3 * clean.max())


def test_normalized_volumes_weigh_by_their_multiplicity() -> None:
    plain = volumes(6)
    assert plain.read_weights is not None

    def halved(row: int) -> tuple[np.ndarray, np.ndarray | None]:
        assert plain.read_weights is not None
        ctf2, multiplicity = plain.read_weights(row)
        return ctf2 / 2, multiplicity

    divided = replace(
        plain, read_volume=lambda row: plain.read_volume(row) / 2, read_weights=halved, is_normalised=True
    )
    sums, other = (inserted(images, options()).sums for images in (plain, divided))
    np.testing.assert_allclose(other.data, sums.data, atol=1e-5 * np.abs(sums.data).max())
    np.testing.assert_allclose(other.weight, sums.weight, atol=1e-5 * sums.weight.max())
    assert other.dc_weight == pytest.approx(sums.dc_weight)


def test_files_with_the_ctf_itself_are_squared() -> None:
    plain = volumes(4)

    def roots(row: int) -> tuple[np.ndarray, None]:
        assert plain.read_weights is not None
        return np.sqrt(plain.read_weights(row)[0]), None

    sums = inserted(plain, options()).sums
    other = inserted(replace(plain, read_weights=roots, holds_ctf=True), options()).sums
    np.testing.assert_allclose(other.weight, sums.weight, atol=1e-5 * sums.weight.max())


@pytest.mark.parametrize("make", [volumes, stacks])
def test_threads_change_no_bit_and_damaged_particles_are_left_out(make: object) -> None:
    images = make(6)  # type: ignore[operator]
    one, three = (inserted(images, options(threads=n)).sums for n in (1, 3))
    assert np.array_equal(one.data, three.data)
    assert np.array_equal(one.weight, three.weight)
    name = "read_volume" if isinstance(images, PosedVolumes) else "read_stack"
    read = getattr(images, name)
    broken = replace(images, **{name: lambda row: read(row) * (np.nan if row == 4 else 1.0)})
    found = inserted(broken, options())
    assert found.left_out.tolist() == [4]
    weighted = inserted(replace(images, weights=np.array([1, 1, 1, 1, 0, 1.0])), options()).sums
    np.testing.assert_allclose(found.sums.data, weighted.data, atol=1e-6 * np.abs(weighted.data).max())
    np.testing.assert_allclose(found.sums.weight, weighted.weight, atol=1e-6 * weighted.weight.max())
