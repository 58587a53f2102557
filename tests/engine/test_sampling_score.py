"""The sampling compensation factor against distributions of views whose sampling is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from napari_autorefine.engine.sampling_score import hemisphere, relative_sampling, sampling_score
from napari_autorefine.model.symmetry import point_group

C1 = point_group("C1").operators


def ring(tilt_deg: float, n: int) -> np.ndarray:
    """Views evenly spread on a cone around z, as in a conical tilt series."""
    turn = 2 * np.pi * (np.arange(n) + 0.5) / n
    tilt = np.full(n, np.deg2rad(tilt_deg))
    return np.stack([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)], axis=-1)


def random_views(n: int) -> np.ndarray:
    views = np.random.default_rng(3).standard_normal((n, 3))
    return views / np.linalg.norm(views, axis=1, keepdims=True)


def test_evenly_spread_views_score_one() -> None:
    score = sampling_score(hemisphere(20_000), C1)
    assert score.scf == pytest.approx(1.0, abs=0.02)
    assert score.unsampled == 0
    assert score.radius == 50


def test_random_views_score_nearly_one_whether_few_or_many() -> None:
    assert sampling_score(random_views(30_000), C1).scf > 0.98
    few = sampling_score(random_views(1_000), C1)
    assert few.scf > 0.95
    assert few.radius == 10


def test_side_views_around_one_axis_score_eight_over_pi_squared() -> None:
    assert sampling_score(ring(90, 50_000), C1).scf == pytest.approx(8 / np.pi**2, abs=0.01)


def test_a_single_view_leaves_nearly_everything_unsampled() -> None:
    top = np.tile([0.0, 0.0, 1.0], (20_000, 1))
    score = sampling_score(top, C1)
    assert score.scf == pytest.approx(0.01, rel=0.05)
    assert score.unsampled == pytest.approx(0.99, abs=0.002)


@pytest.mark.parametrize("tilt_deg", [30.0, 45.0, 60.0])
def test_a_conical_tilt_leaves_its_missing_cone_unsampled(tilt_deg: float) -> None:
    score = sampling_score(ring(tilt_deg, 40_000), C1)
    assert score.unsampled == pytest.approx(1 - np.sin(np.deg2rad(tilt_deg)), abs=0.02)
    assert score.scf < 0.1


def test_cyclic_symmetry_turns_a_sector_of_side_views_into_all() -> None:
    sector = ring(90, 90_000)[:1_000]  # 4 degrees
    assert sampling_score(sector, C1).scf < 0.03
    assert sampling_score(sector, point_group("C90").operators).scf == pytest.approx(8 / np.pi**2, abs=0.01)


def test_symmetry_never_lowers_the_score_and_octahedral_evens_out() -> None:
    views = ring(25, 5_000)
    scores = [sampling_score(views, point_group(name).operators).scf for name in ("C1", "D2", "O")]
    assert scores[0] < scores[1] < scores[2]


def test_weights_count_as_repeated_views() -> None:
    views = random_views(400)
    times = np.random.default_rng(4).integers(1, 5, 400)
    repeated = relative_sampling(hemisphere(100), np.repeat(views, times, axis=0), C1, half_width=0.05)
    weighted = relative_sampling(hemisphere(100), views, C1, half_width=0.05, weight=times.astype(float))
    np.testing.assert_allclose(weighted, repeated, atol=1e-12)


def test_sampling_by_side_views_follows_one_over_sine() -> None:
    tilt = np.deg2rad([20.0, 40.0, 60.0, 90.0])
    directions = np.stack([np.sin(tilt), np.zeros(4), np.cos(tilt)], axis=-1)
    found = relative_sampling(directions, ring(90, 200_000), C1, half_width=0.005)
    np.testing.assert_allclose(found, 2 / (np.pi * np.sin(tilt)), rtol=0.01)


def test_no_views_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no views"):
        sampling_score(np.empty((0, 3)), C1)
