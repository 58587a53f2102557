"""The schedule of grids and image sizes: RELION's own figures, and where this package deviates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.sampling import (
    Accuracy,
    coarse_image_size,
    current_image_size,
    finer_sampling,
    initial_sampling,
    is_fine_enough,
    next_sampling,
    optics_image_size,
    required_angular_step_deg,
    strict_image_size,
    with_fsc,
)
from napari_autorefine.engine.state import Convergence

FASTER = RefineOptions(particle_diameter_A=200.0)
SLOWER = replace(FASTER, auto_ignore_angles=False, auto_resol_angles=False)


def test_the_first_grid_is_in_angstrom() -> None:
    sampling = initial_sampling(FASTER, 1.6)
    assert (sampling.angular_step_deg, sampling.fine_angular_step_deg, sampling.psi_step_deg) == (15.0, 7.5, 15.0)
    assert (sampling.offset_range_A, sampling.offset_step_A) == (8.0, 3.2)
    assert sampling.offset_range_original_A == 8.0
    assert not sampling.is_local


def test_a_first_grid_as_fine_as_local_is_local() -> None:
    sampling = initial_sampling(replace(FASTER, healpix_order=4), 1.0)
    assert sampling.is_local
    assert sampling.sigma_angle_deg == 3.75


def test_sizes_of_the_tutorial() -> None:
    """256 px of 1.244531 A, mask 200 A, order 2, low-pass 50 A."""
    convergence = Convergence(current_resolution_A=53.1)
    size = current_image_size(6, box_size=256, convergence=convergence, mean_p_max=0.0)
    assert size == 32
    sampling = initial_sampling(FASTER, 1.244531)
    field = 256 * 1.244531
    sizes = [
        coarse_image_size(sampling, particle_diameter_A=200, field_of_view_A=field, current_size=s, max_coarse_size=m)
        for s, m in ((32, -1), (28, -1), (32, 20))
    ]
    assert sizes == [30, 28, 20]
    high = replace(convergence, has_high_fsc=True)
    assert current_image_size(20, box_size=256, convergence=high, mean_p_max=0.2) == 2 * (20 + 32)
    assert current_image_size(20, box_size=256, convergence=high, mean_p_max=0.1) == 2 * (20 + 10)
    assert current_image_size(120, box_size=256, convergence=high, mean_p_max=0.9) == 256
    assert current_image_size(20, box_size=256, convergence=high, mean_p_max=0.9, is_final=True) == 256


@pytest.mark.parametrize(
    ("size", "box", "remap", "found"),
    [(64, 128, 1.0, 64), (64, 128, 1.25, 80), (65, 128, 1.0, 66), (120, 100, 1.0, 100)],
)
def test_sizes_on_another_grid(size: int, box: int, remap: float, found: int) -> None:
    assert optics_image_size(size, box_size=box, remap=remap) == found


def test_strict_size() -> None:
    assert strict_image_size(10.0, 318.6) == 64


def test_growth_follows_the_curve_and_never_shrinks() -> None:
    before = Convergence(current_resolution_A=20.0, current_size=20, incr_size=10)
    curve = np.linspace(1.0, 0.0, 33)
    after = with_fsc(before, curve)
    assert after.incr_size == (28 - 17) + 5
    assert after.has_high_fsc
    steep = np.where(np.arange(33) < 8, 1.0, 0.0)
    assert with_fsc(after, steep) == after
    assert with_fsc(before, steep) == replace(before, has_high_fsc=False)


@pytest.mark.parametrize(("resolution", "step"), [(20.0, 360 / 32), (float("inf"), 360.0)])
def test_required_step(resolution: float, step: float) -> None:
    assert required_angular_step_deg(resolution, 200.0) == pytest.approx(step)


def test_nothing_happens_while_the_resolution_grows() -> None:
    sampling = initial_sampling(SLOWER, 1.6)
    convergence = Convergence(current_resolution_A=10.0, n_iter_without_change=1)
    decision = next_sampling(sampling, convergence, Accuracy(rot_deg=2.0, trans_A=1.0), SLOWER)
    assert not decision.is_refined
    assert decision.sampling == sampling
    assert decision.convergence == convergence


def test_poses_must_settle_unless_ignored() -> None:
    sampling = initial_sampling(FASTER, 1.6)
    convergence = Convergence(current_resolution_A=20.0, n_iter_without_resolution_gain=1)
    accuracy = Accuracy(rot_deg=2.0, trans_A=1.0)
    assert not next_sampling(sampling, convergence, accuracy, SLOWER).is_refined
    assert next_sampling(sampling, convergence, accuracy, FASTER).is_refined
    settled = replace(convergence, n_iter_without_change=1)
    assert next_sampling(sampling, settled, accuracy, SLOWER).is_refined


def test_resolution_alone_refines_but_not_into_local_searches() -> None:
    growing = Convergence(current_resolution_A=5.0)
    accuracy = Accuracy(rot_deg=1.0, trans_A=1.0)
    second, third = (initial_sampling(replace(FASTER, healpix_order=o), 1.6) for o in (2, 3))
    assert next_sampling(second, growing, accuracy, FASTER).is_refined
    assert not next_sampling(third, growing, accuracy, FASTER).is_refined
    assert not next_sampling(second, growing, accuracy, SLOWER).is_refined


def test_offsets_of_the_next_grid() -> None:
    """Tilt stacks of 5.4 A per pixel: old range 27 A, step 10.8 A."""
    sampling = initial_sampling(FASTER, 5.4, is_3d_translation=True)
    convergence = Convergence(current_resolution_A=20.0, change_trans_A=12.0)
    finer = finer_sampling(sampling, convergence, Accuracy(rot_deg=2.0, trans_A=1.5), FASTER)
    assert (finer.healpix_order, finer.psi_step_deg) == (3, 7.5)
    assert finer.offset_step_A == pytest.approx(5.4)
    assert finer.offset_range_A == pytest.approx(17.55)


@pytest.mark.parametrize(
    ("change", "accuracy", "step", "reach"),
    [
        (0.1, 0.64, 0.96, 1.44),  # small changes: one and a half steps
        (10.0, 0.4, 1.3, 5.2),  # the range is halved, then the step follows the range
        (1.0, 5.0, 3.0, 5.0),  # at most 1.5 A of fine step
    ],
)
def test_offset_rules(change: float, accuracy: float, step: float, reach: float) -> None:
    sampling = initial_sampling(FASTER, 1.6)
    convergence = Convergence(current_resolution_A=20.0, change_trans_A=change)
    finer = finer_sampling(sampling, convergence, Accuracy(rot_deg=2.0, trans_A=accuracy), FASTER)
    assert (finer.offset_step_A, finer.offset_range_A) == pytest.approx((step, reach))


def test_a_coarser_offset_step_is_not_taken() -> None:
    sampling = initial_sampling(FASTER, 1.0)
    convergence = Convergence(current_resolution_A=20.0, change_trans_A=0.1)
    finer = finer_sampling(sampling, convergence, Accuracy(rot_deg=2.0, trans_A=9.0), FASTER)
    assert (finer.offset_step_A, finer.offset_range_A) == (2.0, 5.0)


def test_local_searches_begin_at_their_order_and_counters_restart() -> None:
    sampling = initial_sampling(replace(FASTER, healpix_order=3), 1.6)
    convergence = Convergence(
        current_resolution_A=10.0,
        n_iter_without_resolution_gain=1,
        n_iter_without_change=2,
        smallest_change_rot_deg=1.0,
        smallest_change_trans_A=1.0,
        best_resolution_A=9.0,
    )
    decision = next_sampling(sampling, convergence, Accuracy(rot_deg=2.0, trans_A=1.0), FASTER)
    assert decision.sampling.is_local
    assert decision.sampling.sigma_angle_deg == 3.75
    assert decision.sampling.fine_angular_step_deg == 1.875
    assert decision.convergence == replace(
        convergence,
        n_iter_without_resolution_gain=0,
        n_iter_without_change=0,
        smallest_change_rot_deg=999.0,
        smallest_change_trans_A=999.0,
    )


def test_fine_enough_is_three_quarters_of_the_accuracy() -> None:
    sampling = initial_sampling(FASTER, 1.6)
    assert is_fine_enough(sampling, Accuracy(rot_deg=10.1, trans_A=1.0))
    assert not is_fine_enough(sampling, Accuracy(rot_deg=10.0, trans_A=1.0))


def test_a_local_search_can_be_fine_enough() -> None:
    sampling = initial_sampling(replace(FASTER, healpix_order=4), 1.6)
    convergence = Convergence(current_resolution_A=7.0, n_iter_without_resolution_gain=1)
    decision = next_sampling(sampling, convergence, Accuracy(rot_deg=3.0, trans_A=1.0), FASTER)
    assert decision.convergence.is_fine_enough
    assert decision.sampling == sampling
    assert "fine enough" in decision.reason


def test_a_global_search_waits_for_two_stalls_and_then_goes_on() -> None:
    """Real beta-galactosidase picks: expected error 11.3 degrees at a step of 7.5, resolution stalled at 16.2 A."""
    sampling = initial_sampling(FASTER, 3.54)
    accuracy = Accuracy(rot_deg=11.3, trans_A=5.6)
    once = Convergence(current_resolution_A=16.2, best_resolution_A=16.2, n_iter_without_resolution_gain=1)
    waiting = next_sampling(sampling, once, accuracy, FASTER)
    assert not waiting.is_refined
    assert not waiting.convergence.is_fine_enough
    twice = replace(once, n_iter_without_resolution_gain=2)
    assert next_sampling(sampling, twice, accuracy, FASTER).is_refined


def test_a_step_back_counts_as_the_second_stall() -> None:
    """Otherwise a resolution that goes up and down by one shell would hold the search for ever."""
    sampling = initial_sampling(FASTER, 3.54)
    back = Convergence(current_resolution_A=17.4, best_resolution_A=16.2, n_iter_without_resolution_gain=1)
    assert next_sampling(sampling, back, Accuracy(rot_deg=11.3, trans_A=5.6), FASTER).is_refined


def test_global_searches_without_end_are_bounded() -> None:
    """With local searches put off, a global grid far finer than the expected error is fine enough."""
    options = replace(FASTER, auto_local_healpix_order=20, healpix_order=4)
    sampling = initial_sampling(options, 1.6)
    stalled = Convergence(current_resolution_A=16.2, best_resolution_A=16.2, n_iter_without_resolution_gain=2)
    assert next_sampling(sampling, stalled, Accuracy(rot_deg=10.0, trans_A=2.0), options).is_refined
    assert next_sampling(sampling, stalled, Accuracy(rot_deg=16.0, trans_A=2.0), options).convergence.is_fine_enough
