from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from napari_autorefine.engine.filters import low_pass_table, low_passed, radii
from napari_autorefine.engine.solvent_mask import extended, soft_mask, spherical_shell, squared_distance
from napari_autorefine.engine.threshold import connected_bodies, found_level, level_of_mass, without_cavities


def one_voxel(size: int = 21) -> np.ndarray:
    body = np.zeros((size,) * 3, bool)
    body[size // 2, size // 2, size // 2] = True
    return body


def sphere(size: int, radius: float, center: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    z, y, x = (np.arange(size) - size // 2 - c for c in center)
    return z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < radius**2


@pytest.mark.parametrize("shape", [(17, 12, 23), (8, 30, 9)])
def test_distances_are_exact(shape: tuple[int, int, int]) -> None:
    body = np.random.default_rng(1).random(shape) > 0.99
    exact = np.rint(ndimage.distance_transform_edt(~body) ** 2).astype(int)
    found = squared_distance(body, 6)
    near = exact <= 36
    np.testing.assert_array_equal(found[near], exact[near])
    assert (found[~near] > 36).all()


def test_threads_change_nothing() -> None:
    body = np.random.default_rng(2).random((20, 20, 20)) > 0.98
    np.testing.assert_array_equal(squared_distance(body, 5, 1), squared_distance(body, 5, 4))


@pytest.mark.parametrize(("distance", "n"), [(2.5, 81), (3.0, 93), (0.0, 1)])
def test_one_voxel_grows_to_all_nearer_ones(distance: float, n: int) -> None:
    assert extended(one_voxel(), distance).sum() == n


def test_the_soft_edge_of_one_voxel_has_relions_sum() -> None:
    assert soft_mask(one_voxel(), 4.0).sum(dtype=float) == pytest.approx(52.62417, abs=1e-5)


def test_shrinking_is_growing_of_the_background_inside_the_box() -> None:
    body = sphere(24, 8.0)
    grown_background = extended(~body, 2.5)
    np.testing.assert_array_equal(extended(body, -2.5), ~grown_background)
    assert extended(np.ones((9, 9, 9), bool), -2.0).all()  # nothing outside the box counts


def test_bodies_at_the_edge_stay_in_the_box() -> None:
    body = np.zeros((10, 10, 10), bool)
    body[0, 0, 0] = True
    exact = ndimage.distance_transform_edt(~body)
    np.testing.assert_array_equal(extended(body, 3.0), exact < 3)
    wanted = np.where(exact < 2.5, 0.5 + 0.5 * np.cos(np.pi * exact / 2.5), 0)
    np.testing.assert_allclose(soft_mask(body, 2.5), wanted, atol=1e-7)


def test_a_shell_has_cosine_edges_on_both_sides() -> None:
    mask = spherical_shell(40, 5.0, 12.0, center_px=(0, 0, 0), edge_px=4.0)
    line = mask[20, 20, 20:]
    assert line[5:12].tolist() == [1.0] * 7
    np.testing.assert_allclose(line[[14, 3]], 0.5, atol=1e-6)
    assert line[16] == pytest.approx(0.0, abs=1e-6) and line[1] == pytest.approx(0.0, abs=1e-6)


def test_an_empty_body_makes_an_empty_mask() -> None:
    assert not soft_mask(np.zeros((5, 5, 5), bool), 3.0).any()


def blurred_molecule(size: int = 48, noise: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    body = sphere(size, 8, (0, -4, 0)) | sphere(size, 6, (0, 7, 3))
    noisy = body + noise * np.random.default_rng(3).standard_normal(body.shape)
    return body, ndimage.gaussian_filter(noisy, 1.5)


def test_the_found_threshold_takes_in_the_molecule_and_no_noise() -> None:
    body, density = blurred_molecule()
    level = found_level(density)
    found = density >= level.threshold
    assert (found & body).sum() > 0.99 * body.sum()
    assert found.sum() < 1.6 * body.sum()
    assert connected_bodies(found).n == 1
    assert not level.is_noise_limited


def test_strong_noise_raises_the_found_threshold() -> None:
    _, density = blurred_molecule(noise=1.5)
    level = found_level(density)
    assert level.is_noise_limited
    assert level.threshold == pytest.approx(level.solvent + 5 * level.noise)


def test_grey_scale_does_not_matter_to_the_found_threshold() -> None:
    _, density = blurred_molecule()
    first, second = found_level(density), found_level(1000 * density - 7)
    np.testing.assert_array_equal(density >= first.threshold, 1000 * density - 7 >= second.threshold)


def test_the_contour_of_a_mass_holds_it() -> None:
    _, density = blurred_molecule()
    threshold = level_of_mass(density, 3.0, 40.0)
    volume = (density >= threshold).sum() * 3.0**3
    assert volume == pytest.approx(1.25 * 40e3 / 0.81, rel=0.01)


def test_bodies_are_counted_and_cavities_filled() -> None:
    body = sphere(30, 6, (0, 0, -7)) | sphere(30, 3, (0, 0, 9))
    bodies = connected_bodies(body)
    assert bodies.n == 2
    np.testing.assert_array_equal(bodies.largest, sphere(30, 6, (0, 0, -7)))
    hollow = sphere(30, 9) & ~sphere(30, 5)
    np.testing.assert_array_equal(without_cavities(hollow), sphere(30, 9))
    np.testing.assert_array_equal(without_cavities(~sphere(30, 9)), np.ones((30,) * 3, bool))


def test_the_low_pass_is_one_inside_half_at_its_shell_and_zero_outside() -> None:
    table, radius = low_pass_table(32, 2.0, 8.0), radii(32)
    assert (table[radius <= 7] == 1).all()
    assert table[64] == pytest.approx(0.5)
    assert (table[radius >= 9] < 1e-12).all()


def test_a_low_pass_keeps_the_mean_and_what_it_lets_through() -> None:
    axis = np.arange(16)
    slow = np.cos(2 * np.pi * 2 * axis / 16)[:, None, None] * np.ones((16, 16, 16))
    fast = np.cos(2 * np.pi * 6 * axis / 16) * np.ones((16, 16, 16))
    np.testing.assert_allclose(low_passed(slow + fast + 3, 1.0, 16 / 4), slow + 3, atol=1e-12)
