"""When a refinement is done: counters after every iteration, the stop rule before the next one.

The rules are those of ``relion_refine --auto_refine`` (Scheres 2012, J. Struct. Biol. 180, 519-530,
doi:10.1016/j.jsb.2012.09.006) with four deviations, all against stopping too early:

1. A global search never counts as fine enough. RELION stops when the expected angular error exceeds the step and the
   resolution stalls once; but the error is estimated from the map at its present resolution, so that a poor map
   confirms itself. Here, after two iterations without gain, the sampling is refined all the same, down to local
   searches (``sampling.next_sampling``). If that helps, the resolution grows and the ordinary rules go on; if not, the
   refinement ends there, and a few iterations were lost.
2. "Fine enough" is tested again with the latest expected error when everything else says stop. RELION keeps the
   answer of the last time it asked, which can be many iterations and several degrees ago.
3. Poses must have settled before the end even when changes of poses do not hold back finer sampling
   (``auto_ignore_angles``, which lets RELION stop regardless): the FSC crosses its limit shell by shell, and poses and
   map go on improving while it stays on one. On real beta-galactosidase picks this costs one or two local iterations.
4. Changes of poses are compared with the present steps, not with those of the first iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.sampling import Accuracy, is_fine_enough
from napari_autorefine.engine.state import Convergence, Poses, Sampling
from napari_autorefine.model.geometry import angular_distance_deg

_SMALLEST_GAIN = 1e-4
_SMALL_CHANGE, _STEADY_CHANGE = 0.40, 1.03


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseChanges:
    """Mean angular distance (degrees) and root mean square offset per axis (A) between two iterations."""

    rot_deg: float
    trans_A: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvergenceDecision:
    """Flags for the coming iteration, and why, in words for the log."""

    convergence: Convergence
    reason: str


def pose_changes(previous: Poses, current: Poses, operators: np.ndarray) -> PoseChanges:
    """Measure how far poses have moved.

    Parameters
    ----------
    previous, current : poses of the same particles
    operators : (n, 3, 3), point group with the identity
    """
    moved = current.origin_A - previous.origin_A
    distance = angular_distance_deg(previous.euler_deg, current.euler_deg, operators)
    return PoseChanges(rot_deg=float(np.mean(distance)), trans_A=float(np.sqrt(np.mean(moved**2))))


def with_resolution(convergence: Convergence, resolution_A: float) -> Convergence:
    """Record the resolution of an iteration and count those that brought none."""
    gained = 1.0 / resolution_A > 1.0 / convergence.current_resolution_A + _SMALLEST_GAIN
    return replace(
        convergence,
        current_resolution_A=resolution_A,
        best_resolution_A=min(convergence.best_resolution_A, resolution_A),
        n_iter_without_resolution_gain=0 if gained else convergence.n_iter_without_resolution_gain + 1,
    )


def with_changes(convergence: Convergence, sampling: Sampling, changes: PoseChanges) -> Convergence:
    """Record how far poses moved and count iterations in which they moved little, or no less than before."""
    offsets_settled = (
        changes.trans_A < _SMALL_CHANGE * sampling.fine_offset_step_A
        or _STEADY_CHANGE * changes.trans_A >= convergence.smallest_change_trans_A
    )
    angles_settled = (
        changes.rot_deg < _SMALL_CHANGE * sampling.fine_angular_step_deg
        or _STEADY_CHANGE * changes.rot_deg >= convergence.smallest_change_rot_deg
    )
    return replace(
        convergence,
        change_rot_deg=changes.rot_deg,
        change_trans_A=changes.trans_A,
        smallest_change_rot_deg=min(convergence.smallest_change_rot_deg, changes.rot_deg),
        smallest_change_trans_A=min(convergence.smallest_change_trans_A, changes.trans_A),
        n_iter_without_change=convergence.n_iter_without_change + 1 if offsets_settled and angles_settled else 0,
    )


def check_convergence(
    convergence: Convergence, sampling: Sampling, accuracy: Accuracy, options: RefineOptions
) -> ConvergenceDecision:
    """Decide before an iteration whether it is the last one.

    Parameters
    ----------
    convergence, sampling : state after the previous iteration
    accuracy : latest estimate
    options : whether the end is asked for
    """
    if options.force_converge or convergence.has_converged:
        why = "asked for" if options.force_converge else "has converged before"
        return ConvergenceDecision(convergence=replace(convergence, has_converged=True), reason=why)
    waiting_for = _unmet(convergence)
    if waiting_for:
        return ConvergenceDecision(convergence=convergence, reason=f"goes on: {waiting_for}")
    step, error = sampling.fine_angular_step_deg, accuracy.rot_deg
    if not is_fine_enough(sampling, accuracy):
        return ConvergenceDecision(
            convergence=replace(convergence, is_fine_enough=False),
            reason=f"goes on: the expected error is now {error:.3g} deg, too small for the step of {step:.3g} deg",
        )
    search = "local" if sampling.is_local else "global"
    stalled = convergence.n_iter_without_resolution_gain
    return ConvergenceDecision(
        convergence=replace(convergence, has_converged=True),
        reason=(
            f"converged: {stalled} iteration{'s' if stalled > 1 else ''} without gain at "
            f"{convergence.current_resolution_A:.2f} A, and the {search} search with a step of {step:.3g} deg is finer "
            f"than the expected error of {error:.3g} deg"
        ),
    )


def _unmet(convergence: Convergence) -> str:
    """Return the first condition that does not hold, or nothing."""
    if not convergence.is_fine_enough:
        return "finer sampling may still help"
    if convergence.n_iter_without_resolution_gain < 1:
        return "the resolution still improves"
    if convergence.n_iter_without_change < 1:
        return "poses still change"
    return ""
