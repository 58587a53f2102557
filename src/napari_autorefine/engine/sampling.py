"""The automatic schedule of search grids and working image sizes.

Rules of ``relion_refine --auto_refine`` (Scheres 2012, J. Struct. Biol. 180, 519-530, doi:10.1016/j.jsb.2012.09.006),
with one deviation: a global search never counts as fine enough (see ``convergence``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, isfinite, pi

import numpy as np

from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.shells import round_half_up
from napari_autorefine.engine.state import Convergence, Sampling

ACCURACY_SHARE = 0.75
LARGEST_FINE_STEP_A = 1.5
OFFSET_REACH, VOLUME_OFFSET_REACH = 5.0, 3.0  # range of offsets, in units of their latest change
_EDGE_STEPS_PER_RESOLUTION = 1.2
_HIGH_FSC, _HIGH_P_MAX, _GROWTH = 0.2, 0.1, 0.25
# A global grid this many times finer than the accuracy cannot gain any more; only met when local searches are put off.
_HOPELESS_SHARE = 0.125


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Expected errors of the angles (degrees) and of the offsets (A), as estimated from the current map."""

    rot_deg: float
    trans_A: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDecision:
    """Sampling and counters for the coming iteration, and why, in words for the log."""

    sampling: Sampling
    convergence: Convergence
    is_refined: bool
    reason: str


def initial_sampling(options: RefineOptions, voxel_size_A: float, *, is_3d_translation: bool = False) -> Sampling:
    """Return the search grid of the first iteration; offsets of the options are in pixels of the reference."""
    order = options.healpix_order
    step = Sampling(
        symmetry=options.symmetry, healpix_order=order, psi_step_deg=0.0, offset_range_A=0.0, offset_step_A=0.0
    ).angular_step_deg
    is_local = order >= options.auto_local_healpix_order
    offset_range_A, offset_step_A = options.offset_range_px * voxel_size_A, options.offset_step_px * voxel_size_A
    return Sampling(
        symmetry=options.symmetry,
        healpix_order=order,
        psi_step_deg=step,
        offset_range_A=offset_range_A,
        offset_step_A=offset_step_A,
        perturbation_factor=options.perturb,
        is_local=is_local,
        sigma_angle_deg=step if is_local else 0.0,
        healpix_order_original=order,
        psi_step_original_deg=step,
        offset_range_original_A=offset_range_A,
        offset_step_original_A=offset_step_A,
        is_3d_translation=is_3d_translation,
    )


def is_fine_enough(sampling: Sampling, accuracy: Accuracy) -> bool:
    """Whether the fine angular step lies below 75 % of the expected angular error."""
    return sampling.fine_angular_step_deg < ACCURACY_SHARE * accuracy.rot_deg


def required_angular_step_deg(resolution_A: float, particle_diameter_A: float) -> float:
    """Angular step that moves the edge of the particle by the resolution."""
    if not isfinite(resolution_A):
        return 360.0
    return 360.0 / max(ceil(pi * particle_diameter_A / resolution_A), 1)


def next_sampling(
    sampling: Sampling,
    convergence: Convergence,
    accuracy: Accuracy,
    options: RefineOptions,
    *,
    offset_reach: float = OFFSET_REACH,
) -> SamplingDecision:
    """Decide on the search grid of the coming iteration (from the second on).

    Parameters
    ----------
    sampling, convergence : state after the previous iteration
    accuracy : estimated for the coming iteration
    options : schedule options and particle diameter
    offset_reach : range of offsets in units of their latest change
    """
    if not _may_refine(sampling, convergence, options):
        return SamplingDecision(
            sampling=sampling,
            convergence=convergence,
            is_refined=False,
            reason="the resolution still improves at this sampling",
        )
    text = f"step {sampling.fine_angular_step_deg:.3g} deg, expected error {accuracy.rot_deg:.3g} deg"
    if is_fine_enough(sampling, accuracy):
        if sampling.is_local or _is_hopeless(sampling, accuracy, options):
            return SamplingDecision(
                sampling=sampling,
                convergence=replace(convergence, is_fine_enough=True),
                is_refined=False,
                reason=f"the sampling is fine enough: {text}",
            )
        if not has_stalled_twice(convergence) or convergence.has_converged:
            return SamplingDecision(
                sampling=sampling,
                convergence=replace(convergence, is_fine_enough=False),
                is_refined=False,
                reason=f"fine enough for now ({text}), but global: waits for two iterations without gain",
            )
        text = f"no gain in two iterations; a global search is not left without trying a finer one ({text})"
    return SamplingDecision(
        sampling=finer_sampling(sampling, convergence, accuracy, options, offset_reach=offset_reach),
        convergence=_restarted(convergence),
        is_refined=True,
        reason=f"finer sampling: {text}",
    )


def has_stalled_twice(convergence: Convergence) -> bool:
    """Whether two iterations in a row brought no resolution, or one fell behind the best so far."""
    behind = 1.0 / convergence.current_resolution_A < 1.0 / convergence.best_resolution_A - 1e-4
    stalled = convergence.n_iter_without_resolution_gain
    return stalled >= 2 or (stalled >= 1 and behind)


def finer_sampling(
    sampling: Sampling,
    convergence: Convergence,
    accuracy: Accuracy,
    options: RefineOptions,
    *,
    offset_reach: float = OFFSET_REACH,
) -> Sampling:
    """Return the next finer grid: angular step halved, offsets by accuracy and recent changes."""
    floor = sampling.offset_step_A / 2.0 if sampling.is_3d_translation else 0.0
    step = max(2.0 * min(LARGEST_FINE_STEP_A, ACCURACY_SHARE * accuracy.trans_A), floor)
    reach = min(offset_reach * convergence.change_trans_A, 1.3 * sampling.offset_range_A)
    reach = max(reach, 1.5 * step)
    if reach > 4.0 * step:
        reach /= 2.0
        if reach > 4.0 * step:
            step = reach / 4.0
    if step > sampling.offset_step_A:
        step, reach = sampling.offset_step_A, sampling.offset_range_A
    finer = replace(
        sampling,
        healpix_order=sampling.healpix_order + 1,
        psi_step_deg=sampling.psi_step_deg / 2.0,
        offset_range_A=reach,
        offset_step_A=step,
    )
    if finer.healpix_order >= options.auto_local_healpix_order:
        finer = replace(finer, is_local=True, sigma_angle_deg=2.0 * finer.fine_angular_step_deg)
    return finer


def current_image_size(
    resolution_shell: int, *, box_size: int, convergence: Convergence, mean_p_max: float, is_final: bool = False
) -> int:
    """Working size on the reference grid: the current resolution and room to grow."""
    if is_final:
        return box_size
    if convergence.has_high_fsc and mean_p_max > _HIGH_P_MAX:
        growth = round_half_up(_GROWTH * box_size / 2)
    else:
        growth = convergence.incr_size
    return min(2 * (resolution_shell + growth), box_size)


def optics_image_size(current_size: int, *, box_size: int, remap: float) -> int:
    """Working size on an optics group's own grid.

    Parameters
    ----------
    current_size : working size on the reference grid
    box_size : box of the group's images
    remap : (N_img a_img) / (N_ref a_ref)
    """
    return min(2 * ceil(0.5 * remap * current_size - 1e-9), box_size)


def coarse_image_size(
    sampling: Sampling,
    *,
    particle_diameter_A: float,
    field_of_view_A: float,
    current_size: int,
    max_coarse_size: int = -1,
) -> int:
    """Working size of the first pass: what one coarse angular step moves at the particle's edge, over 1.2.

    Parameters
    ----------
    sampling : grid before this iteration's update
    particle_diameter_A : mask diameter
    field_of_view_A : N_img a_img of the optics group
    current_size : working size of the optics group, which caps the result
    max_coarse_size : another cap when positive
    """
    moved_A = sampling.angular_step_deg / 360.0 * pi * particle_diameter_A
    size = min(2 * ceil(field_of_view_A * _EDGE_STEPS_PER_RESOLUTION / moved_A), current_size)
    return min(size, max_coarse_size) if max_coarse_size > 0 else size


def strict_image_size(resolution_A: float, field_of_view_A: float) -> int:
    """Working size when the expectation is limited to a resolution, 2 ROUND(N a / L)."""
    return 2 * round_half_up(field_of_view_A / resolution_A)


def with_fsc(convergence: Convergence, fsc: np.ndarray) -> Convergence:
    """Update the growth of the working size from the curve of the halves; the growth never shrinks."""
    last = len(fsc) - 1
    below_half, below_143 = (_first_below(fsc, limit, last) for limit in (0.5, 0.143))
    at_limit = fsc[min(max(convergence.current_size // 2 - 1, 0), last)]
    return replace(
        convergence,
        incr_size=max(convergence.incr_size, below_143 - below_half + 5),
        has_high_fsc=convergence.has_high_fsc or bool(at_limit > _HIGH_FSC),
    )


def _first_below(curve: np.ndarray, limit: float, otherwise: int) -> int:
    below = np.flatnonzero(curve < limit)
    return int(below[0]) if len(below) else otherwise


def _may_refine(sampling: Sampling, convergence: Convergence, options: RefineOptions) -> bool:
    """Whether resolution and assignments allow the question of finer sampling to be asked."""
    required = required_angular_step_deg(convergence.current_resolution_A, options.particle_diameter_A)
    by_resolution = (
        options.auto_resol_angles
        and required < sampling.fine_angular_step_deg
        and sampling.healpix_order + 1 != options.auto_local_healpix_order
    )
    assignments_settled = options.auto_ignore_angles or convergence.n_iter_without_change >= 1
    return assignments_settled and (by_resolution or convergence.n_iter_without_resolution_gain >= 1)


def _is_hopeless(sampling: Sampling, accuracy: Accuracy, options: RefineOptions) -> bool:
    """Whether a finer global grid, not yet local, would lie far below the accuracy."""
    stays_global = sampling.healpix_order + 1 < options.auto_local_healpix_order
    return stays_global and sampling.fine_angular_step_deg < _HOPELESS_SHARE * accuracy.rot_deg


def _restarted(convergence: Convergence) -> Convergence:
    """Counters after a change of sampling."""
    return replace(
        convergence,
        n_iter_without_resolution_gain=0,
        n_iter_without_change=0,
        smallest_change_rot_deg=999.0,
        smallest_change_trans_A=999.0,
        is_fine_enough=False,
    )
