"""Maps from images with known poses, against the densities that the images were made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles import imaging
from oracles.phantoms import ASYMMETRIC, optics_group, particles, simulate
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.direct_reconstruction import (
    InsertedSums,
    InsertionOptions,
    PosedImages,
    close_sums,
    insert_images,
    map_of_sums,
    phase_ramps,
    resolution_index,
    square_samples,
    with_box_sizes,
    working_box,
)
from napari_autorefine.engine.mtf import mtf_deviation
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.symmetry import point_group

BOX, PIXEL_A = 24, 4.0


def options(**changes: object) -> InsertionOptions:
    fields = {"box_size": BOX, "voxel_size_A": PIXEL_A, "r_max": BOX // 2}
    return InsertionOptions(**{**fields, **changes})  # type: ignore[arg-type]


def inserted(images: PosedImages, settings: InsertionOptions, rows: np.ndarray | None = None) -> InsertedSums:
    """Run the insertion to its end."""
    steps = insert_images(images, np.arange(len(images.particles)) if rows is None else rows, settings)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: InsertedSums = end.value
            return result


def reconstructed(images: PosedImages, settings: InsertionOptions, symmetry: str = "C1") -> np.ndarray:
    found = inserted(images, settings)
    close_sums(found.sums, symmetry)
    return map_of_sums(found.sums)


def posed(n: int = 150, seed: int = 1, snr: float = 1e10) -> tuple[PosedImages, np.ndarray]:
    """Images with CTF and offsets that are no whole pixels, by default without noise, and their density."""
    made = simulate(replace(ASYMMETRIC, width_A=4.0), n, snr=snr, seed=seed)
    found = replace(made.problem.particles, euler_deg=made.euler_deg, origin_A=made.origin_A)
    reference = made.problem.reference
    assert isinstance(reference, np.ndarray)
    return PosedImages(particles=found, read_images=lambda rows: made.images[rows]), reference


def test_noise_free_images_give_their_density_on_its_grey_scale() -> None:
    images, truth = posed(400)
    made = reconstructed(images, options())
    assert fsc(made, truth)[: int(0.9 * BOX / 2) + 1].min() > 0.99
    inside = truth > 0.2 * truth.max()
    slope = np.polyfit(truth[inside], made[inside], 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)


def test_threads_change_no_bit() -> None:
    images, _ = posed(60)
    one, four = (inserted(images, options(threads=n)).sums for n in (1, 4))
    assert np.array_equal(one.data, four.data)
    assert np.array_equal(one.weight, four.weight)
    assert one.dc_weight == four.dc_weight


def test_sums_of_the_halves_are_those_of_all() -> None:
    images, _ = posed(40)
    even, odd, everything = (
        inserted(images, options(), rows).sums for rows in (np.arange(0, 40, 2), np.arange(1, 40, 2), np.arange(40))
    )
    even.add(odd)
    np.testing.assert_allclose(even.data, everything.data, atol=2e-6 * np.abs(everything.data).max())
    np.testing.assert_allclose(even.weight, everything.weight, atol=2e-6 * everything.weight.max())


def test_progress_counts_every_image_and_estimates_the_time_left() -> None:
    images, _ = posed(150)
    steps = list(insert_images(images, np.arange(150), options()))
    assert steps[-1].done == steps[-1].total == 150
    assert steps[-1].seconds_left == pytest.approx(0.0)


def test_images_that_are_not_numbers_are_left_out_and_named() -> None:
    images, _ = posed(30)
    read = images.read_images

    def damaged(rows: np.ndarray) -> np.ndarray:
        found = read(rows).copy()
        found[rows == 7, 3, 4] = np.nan
        return found

    found = inserted(replace(images, read_images=damaged), options())
    assert found.left_out.tolist() == [7]
    others = inserted(images, options(), np.delete(np.arange(30), 7)).sums
    np.testing.assert_allclose(found.sums.data, others.data, atol=1e-6 * np.abs(others.data).max())


def test_a_particle_of_weight_two_counts_like_two() -> None:
    images, _ = posed(20)
    weights = np.ones(20)
    weights[3] = 2.0
    weighted = inserted(replace(images, weights=weights), options()).sums
    twice = inserted(images, options(), np.append(np.arange(20), 3)).sums
    np.testing.assert_allclose(weighted.data, twice.data, atol=2e-6 * np.abs(twice.data).max())
    np.testing.assert_allclose(weighted.weight, twice.weight, atol=2e-6 * twice.weight.max())
    assert weighted.dc_weight == pytest.approx(twice.dc_weight)


def two_groups(second: OpticsGroup, n: int = 240) -> tuple[PosedImages, np.ndarray]:
    """Noise-free projections of one density, every other one on the grid of another optics group, without CTF."""
    rng = np.random.default_rng(2)
    index = np.arange(n) % 2
    groups = (optics_group(), second)
    euler_deg = -Rotation.random(n, random_state=3).inv().as_euler("ZYZ", degrees=True)[:, ::-1]
    origin_A = rng.normal(0, 3.0, (n, 2))
    found = particles(groups, index, euler_deg=euler_deg, origin_A=origin_A)

    def read(rows: np.ndarray) -> np.ndarray:
        group = groups[index[rows[0]]]
        size, pixel = group.box_size, group.pixel_size_A
        drawn = [ASYMMETRIC.image(imaging.rotation(euler_deg[i]), origin_A[i], size, pixel) for i in rows]
        # the same coefficients on every grid: an image's transform is divided by the number of its pixels
        scale = (size * pixel / (BOX * PIXEL_A)) ** 2 * (PIXEL_A / pixel) ** 2 * (pixel / PIXEL_A) ** 2
        return np.array(drawn, np.float32) * np.float32(scale)

    return PosedImages(particles=found, read_images=read), ASYMMETRIC.map(BOX, PIXEL_A)


@pytest.mark.parametrize(
    "second", [optics_group(2, box_size=30, pixel_size_A=3.2), optics_group(2, box_size=20, pixel_size_A=5.0)]
)
def test_groups_of_other_pixel_sizes_and_boxes_agree(second: OpticsGroup) -> None:
    images, truth = two_groups(second)
    made = reconstructed(images, options(ctf=False))
    assert fsc(made, truth)[:9].min() > 0.99


def test_symmetry_makes_up_for_missing_views() -> None:
    group = point_group("D2")
    phantom = ASYMMETRIC.symmetrized(group.operators)
    euler_deg = -Rotation.random(60, random_state=5).inv().as_euler("ZYZ", degrees=True)[:, ::-1]
    found = particles((optics_group(),), np.zeros(60), euler_deg=euler_deg)
    drawn = np.array([phantom.image(imaging.rotation(e), np.zeros(2), BOX, PIXEL_A) for e in euler_deg], np.float32)
    images = PosedImages(particles=found, read_images=lambda rows: drawn[rows])
    truth = phantom.map(BOX, PIXEL_A)
    plain, symmetric = (fsc(reconstructed(images, options(ctf=False), name), truth) for name in ("C1", "D2"))
    assert symmetric[4:10].mean() > plain[4:10].mean()
    assert symmetric[:10].min() > 0.98


@pytest.mark.parametrize(
    ("change", "of_image"),
    [
        ({"ctf_phase_flipped": True}, np.abs),
        ({"only_flip_phases": True}, np.sign),
    ],
)
def test_ctf_options_change_what_images_are_multiplied_by(change: dict[str, bool], of_image: object) -> None:
    images, _ = posed(1)
    normal, changed = (inserted(images, options(**kwargs)).sums for kwargs in ({}, change))
    origin = normal.dc_weight
    assert changed.dc_weight == pytest.approx(1.0 if of_image is np.sign else origin)
    assert not np.allclose(normal.data, changed.data)


def test_premultiplied_images_are_not_multiplied_again() -> None:
    images, truth = posed(300)
    group = replace(images.particles.optics[0], is_premultiplied=True)
    read, found = images.read_images, images.particles

    def multiplied(rows: np.ndarray) -> np.ndarray:
        return np.stack(
            [imaging.with_ctf(image, found, int(i)) for i, image in zip(rows, read(rows), strict=True)]
        ).astype(np.float32)

    same = PosedImages(particles=replace(found, optics=(group,)), read_images=multiplied)
    made, normal = (reconstructed(one, options()) for one in (same, images))
    assert fsc(made, normal)[:11].min() > 0.999
    assert fsc(made, truth)[:11].min() > 0.98


def test_an_fsc_filters_the_map() -> None:
    images, _ = posed(60, snr=0.05)
    sums = inserted(images, options()).sums
    close_sums(sums, "C1")
    curve = np.where(np.arange(13) < 7, 0.99, 0.0)
    plain, filtered = (np.abs(np.fft.rfftn(one)) for one in (map_of_sums(sums), map_of_sums(sums, fsc=curve)))
    assert filtered[:, 10:14, :].mean() < 0.1 * plain[:, 10:14, :].mean()
    assert filtered[:3, :3, 1:3].mean() == pytest.approx(plain[:3, :3, 1:3].mean(), rel=0.1)


def test_every_coefficient_of_an_image_is_taken_once() -> None:
    samples = square_samples(8, 100.0)
    pairs = set(zip(samples.x.tolist(), samples.y.tolist(), strict=True))
    assert len(pairs) == samples.n_sample == 8 // 2 * 8 + 4 + 1
    assert (samples.x[0], samples.y[0]) == (0, 0)
    assert all(y > 0 for x, y in pairs if x == 0 and y != 0)
    assert max(samples.y) == max(samples.x) == 4
    assert min(samples.y) == -3
    np.testing.assert_array_equal(np.cumsum(samples.rows[:, 3])[:-1], samples.rows[1:, 4])
    assert square_samples(8, 2.0).shell.max() == 2


def test_ramps_move_images_by_any_shift() -> None:
    samples = square_samples(16, 8.0)
    shifts = np.array([[0.3, -4.7], [11.0, 2.0]])
    turns = (samples.x[None] * shifts[:, :1] + samples.y[None] * shifts[:, 1:]) / 16
    np.testing.assert_allclose(phase_ramps(samples, shifts), np.exp(-2j * np.pi * turns), atol=1e-6)


@pytest.mark.parametrize(
    ("box", "voxel_A", "extent_A", "pad", "expected"),
    [
        (48, 3.601, 48 * 3.6, 2, 48),
        (64, 3.6, 288.0, 2, 64),  # narrower than the images: padding holds the rest
        (32, 4.5, 288.0, 2, 64),  # half as wide: it would be folded back
        (64, 3.6, 288.0, 1, 80),
        (128, 4.5, 288.0, 2, 64),  # wider than the images
        (64, 9.0, 288.0, 2, 32),
    ],
)
def test_box_that_a_map_is_made_in(box: int, voxel_A: float, extent_A: float, pad: int, expected: int) -> None:
    assert working_box(box, voxel_A, extent_A, pad) == expected


def test_resolution_limit_as_a_frequency_index() -> None:
    assert resolution_index(48, 3.6, None) == 24
    assert resolution_index(48, 3.6, 9.0) == 20
    assert resolution_index(48, 3.6, 1.0) == 24
    assert resolution_index(48, 3.6, 1e5) == 1


def test_detectors_are_corrected_for_their_deviation_from_the_mean() -> None:
    groups = tuple(
        optics_group(n, mtf_path=f"{n}.star", original_pixel_size_A=pixel) for n, pixel in ((1, 1.0), (2, 0.5))
    )
    falling = (np.array([0.0, 0.5]), np.array([1.0, 0.5]))
    frequencies = np.array([[0.0, 0.0], [0.3, 0.4]])
    first, second = (mtf_deviation(groups, (falling, falling), i, frequencies) for i in (0, 1))
    assert first is not None and second is not None
    np.testing.assert_allclose(first, [1.0, 0.5 / 0.625])
    np.testing.assert_allclose(second, [1.0, 0.75 / 0.625])
    assert mtf_deviation(groups[:1] * 2, (falling, falling), 0, frequencies) is None
    assert mtf_deviation(groups, None, 0, frequencies) is None


def test_boxes_of_images_go_into_their_groups() -> None:
    found: Particles = particles((optics_group(1, box_size=0), optics_group(2, box_size=0)), np.array([0, 1, 1]))
    assert [g.box_size for g in with_box_sizes(found, np.array([32, 48, 48])).optics] == [32, 48]
