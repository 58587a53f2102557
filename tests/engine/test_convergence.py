"""Counters and the stop rule, over whole histories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_autorefine.engine.convergence import (
    PoseChanges,
    check_convergence,
    pose_changes,
    with_changes,
    with_resolution,
)
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.sampling import Accuracy, initial_sampling, next_sampling
from napari_autorefine.engine.state import Convergence, Poses, Sampling
from napari_autorefine.model.symmetry import point_group

FASTER = RefineOptions(particle_diameter_A=200.0)
SLOWER = replace(FASTER, auto_ignore_angles=False, auto_resol_angles=False)
STILL = PoseChanges(rot_deg=0.1, trans_A=0.1)


def poses(euler: list[list[float]], origin: list[list[float]]) -> Poses:
    n = len(euler)
    return Poses(
        euler_deg=np.array(euler),
        origin_A=np.array(origin),
        p_max=np.zeros(n),
        log_likelihood=np.zeros(n),
        n_significant=np.zeros(n),
        norm_correction=np.ones(n),
    )


def test_changes_are_measured_up_to_symmetry() -> None:
    before = poses([[10.0, 30.0, 5.0], [0.0, 90.0, 0.0]], [[1.0, 2.0], [0.0, 0.0]])
    after = poses([[190.0, 30.0, 5.0], [0.0, 90.0, 0.0]], [[1.0, 4.0], [0.0, 0.0]])
    assert pose_changes(before, after, point_group("C1").operators).rot_deg > 10
    changes = pose_changes(before, after, point_group("C2").operators)
    assert changes.rot_deg == pytest.approx(0.0, abs=1e-5)
    assert changes.trans_A == pytest.approx(1.0)


def test_resolution_counts() -> None:
    convergence = Convergence(current_resolution_A=float("inf"))
    counts = []
    for resolution in (50.0, 50.0, 20.0, 20.0, 22.0, 20.0):
        convergence = with_resolution(convergence, resolution)
        counts.append(convergence.n_iter_without_resolution_gain)
    assert counts == [0, 1, 0, 1, 2, 0]
    assert convergence.best_resolution_A == 20.0


def test_small_or_steady_changes_count() -> None:
    sampling = initial_sampling(FASTER, 1.0)  # fine steps 7.5 degrees, 1 A
    convergence = Convergence(current_resolution_A=20.0)
    counts = []
    for rot, trans in ((20.0, 3.0), (10.0, 2.0), (10.0, 2.0), (5.0, 0.3), (2.0, 0.3), (4.0, 0.3)):
        convergence = with_changes(convergence, sampling, PoseChanges(rot_deg=rot, trans_A=trans))
        counts.append(convergence.n_iter_without_change)
    assert counts == [0, 0, 1, 0, 1, 2]
    assert convergence.smallest_change_rot_deg == 2.0


def run(
    resolutions: list[float], accuracies: list[float], options: RefineOptions, healpix_order: int = 2
) -> tuple[list[Sampling], list[str], bool]:
    """Play a schedule: iteration i reaches ``resolutions[i]`` and expects errors of ``accuracies[i]`` degrees."""
    sampling = initial_sampling(replace(options, healpix_order=healpix_order), 3.54)
    convergence = Convergence(current_resolution_A=50.0)
    used, reasons, accuracy = [], [], Accuracy(rot_deg=999.0, trans_A=10.0)
    for iteration, (resolution, error) in enumerate(zip(resolutions, accuracies, strict=True), start=1):
        decision = check_convergence(convergence, sampling, accuracy, options)
        reasons.append(decision.reason)
        convergence, accuracy = decision.convergence, Accuracy(rot_deg=error, trans_A=2.0)
        if iteration > 1:
            refined = next_sampling(sampling, convergence, accuracy, options)
            sampling, convergence = refined.sampling, refined.convergence
            reasons[-1] += f"; {refined.reason}"
        used.append(sampling)
        if convergence.has_converged:
            return used, reasons, True
        convergence = with_resolution(with_changes(convergence, sampling, STILL), resolution)
    return used, reasons, False


def test_picks_that_stall_early_still_reach_local_searches() -> None:
    """RELION ends here in iteration 5 with global searches: 0.75 x 11.3 > 7.5 degrees."""
    resolutions = [50.0, 20.0, 16.2, 16.2, 16.2, 16.2, 16.2, 12.0, 9.0, 7.5, 7.1, 7.1, 7.1, 7.1]
    accuracies = [999.0, 14.0, 12.0, 11.3, 11.3, 11.3, 11.0, 8.0, 4.0, 3.0, 2.7, 2.6, 2.6, 2.6]
    used, reasons, has_converged = run(resolutions, accuracies, FASTER)
    assert has_converged
    assert used[-1].is_local
    assert "local search" in reasons[-1]
    assert len(used) > 10


def test_data_without_orientations_end_in_local_searches() -> None:
    used, _, has_converged = run([50.0, 45.0] + [45.0] * 20, [999.0] + [30.0] * 21, FASTER)
    assert has_converged
    assert used[-1].is_local
    assert len(used) <= 11


def test_resolution_that_swings_does_not_go_on_for_ever() -> None:
    used, _, has_converged = run([50.0, 16.2] + [15.1, 16.2] * 10, [999.0] + [11.3] * 21, FASTER)
    assert has_converged
    assert len(used) <= 14


def test_fine_enough_is_asked_again_before_the_end() -> None:
    """Expected error 12 degrees when the step of 7.5 was judged, 1.3 degrees when the resolution stalls."""
    sampling = initial_sampling(replace(FASTER, healpix_order=4), 1.0)
    convergence = Convergence(
        current_resolution_A=16.6, n_iter_without_resolution_gain=1, n_iter_without_change=1, is_fine_enough=True
    )
    decision = check_convergence(convergence, sampling, Accuracy(rot_deg=1.3, trans_A=1.0), FASTER)
    assert not decision.convergence.has_converged
    assert not decision.convergence.is_fine_enough
    assert "1.3 deg" in decision.reason
    stays = check_convergence(convergence, sampling, Accuracy(rot_deg=3.0, trans_A=1.0), FASTER)
    assert stays.convergence.has_converged
    assert stays.reason.startswith("converged: 1 iteration without gain at 16.60 A")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_fine_enough": False}, "finer sampling"),
        ({"n_iter_without_resolution_gain": 0}, "resolution still improves"),
        ({"n_iter_without_change": 0}, "poses still change"),
    ],
)
@pytest.mark.parametrize("options", [FASTER, SLOWER])
def test_every_condition_is_needed(change: dict[str, int | bool], reason: str, options: RefineOptions) -> None:
    ready = Convergence(
        current_resolution_A=8.0, n_iter_without_resolution_gain=1, n_iter_without_change=1, is_fine_enough=True
    )
    sampling = initial_sampling(replace(options, healpix_order=4), 1.0)
    accuracy = Accuracy(rot_deg=3.0, trans_A=1.0)
    assert check_convergence(ready, sampling, accuracy, options).convergence.has_converged
    decision = check_convergence(replace(ready, **change), sampling, accuracy, options)
    assert not decision.convergence.has_converged
    assert reason in decision.reason


def test_the_end_can_be_forced() -> None:
    options = replace(FASTER, force_converge=True)
    sampling = initial_sampling(options, 1.0)
    decision = check_convergence(
        Convergence(current_resolution_A=20.0), sampling, Accuracy(rot_deg=9, trans_A=1), options
    )
    assert decision.convergence.has_converged


def test_slow_schedule_reaches_local_searches_and_stops() -> None:
    resolutions = [50.0, 20.0, 12.0, 12.0, 10.0, 10.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    accuracies = [999.0, 6.0, 3.0, 3.0, 2.5, 2.5, 2.6, 2.6, 2.6, 2.6, 2.6, 2.6]
    used, reasons, has_converged = run(resolutions, accuracies, SLOWER)
    assert has_converged, reasons
    assert used[-1].fine_angular_step_deg == 1.875
