"""What is decided before the search of an iteration: working image sizes, and those of the screening before it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_autorefine.engine.accuracy import DECISIVE
from napari_autorefine.engine.context import reference_shells
from napari_autorefine.engine.first_pass import reach_of
from napari_autorefine.engine.half_job import IterationPlan
from napari_autorefine.engine.images import coefficient_count
from napari_autorefine.engine.iteration import slice_power
from napari_autorefine.engine.neighborhoods import N_SIGMA
from napari_autorefine.engine.sampling import (
    coarse_image_size,
    current_image_size,
    optics_image_size,
    strict_image_size,
)
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.spectra import low_pass_shell
from napari_autorefine.engine.state import RefinementState

_ROUGHEST_PARENT_ORDER = 2


def plan_iteration(setup: Setup, state: RefinementState, *, is_final: bool) -> IterationPlan:
    """Choose working image sizes of the coming iteration from the resolution and sampling so far."""
    options = setup.options
    shell = low_pass_shell(state.convergence.current_resolution_A, setup.box_size, setup.voxel_size_A)
    size = current_image_size(
        shell,
        box_size=setup.box_size,
        convergence=state.convergence,
        mean_p_max=state.halves[0].mean_p_max,
        is_final=is_final,
    )
    sizes: list[tuple[int, int, int]] = []
    for optics in setup.optics:
        field = optics.box_size * optics.pixel_size_A
        remap = field / (setup.box_size * setup.voxel_size_A)
        image_size = optics_image_size(size, box_size=optics.box_size, remap=remap)
        coarse = coarse_image_size(
            state.sampling,
            particle_diameter_A=options.particle_diameter_A,
            field_of_view_A=field,
            current_size=image_size,
            max_coarse_size=options.max_coarse_size,
        )
        if options.strict_highres_exp_A > 0:
            coarse = min(strict_image_size(options.strict_highres_exp_A, field), image_size)
        sizes.append((coarse, coarse, image_size))
    return IterationPlan(
        iteration=state.iteration + 1,
        is_cc=options.firstiter_cc and state.iteration == 0,
        is_final=is_final,
        current_size=size,
        sizes=tuple(sizes),
    )


def with_screening(setup: Setup, state: RefinementState, plan: IterationPlan) -> IterationPlan:
    """Choose the sizes of the screening before the first pass, once the search grid is known."""
    sizes = tuple(
        (screening_size(setup, state, i, coarse), coarse, size) for i, (_, coarse, size) in enumerate(plan.sizes)
    )
    return plan if plan.is_cc else replace(plan, sizes=sizes)


def screening_size(setup: Setup, state: RefinementState, index: int, coarse_size: int) -> int:
    """Working size of the screening before the first pass, of an optics group's images.

    In global searches it is what orientations one order coarser resolve, or all when these would be too few.
    """
    optics, sampling = setup.optics[index], state.sampling
    if sampling.is_local:
        return _local_screening_size(setup, state, index, coarse_size)
    if sampling.healpix_order <= _ROUGHEST_PARENT_ORDER:
        return coarse_size
    return coarse_image_size(
        replace(sampling, healpix_order=sampling.healpix_order - 1),
        particle_diameter_A=setup.options.particle_diameter_A,
        field_of_view_A=optics.box_size * optics.pixel_size_A,
        current_size=coarse_size,
    )


def _local_screening_size(setup: Setup, state: RefinementState, index: int, coarse_size: int) -> int:
    """Choose the screening disc of local searches that leaves the fewest samples to compare.

    The expected information of a particle per shell is 1/4 n_k P_k / sigma2_k (mean squared CTF 1/2, n_k coefficients);
    ``reach_of`` what a disc leaves out is how far below the best an orientation may lie on it. The evidence against one
    at distance d grows as d^2, is decisive at the expected error, and shells have their share in it; so the disc and
    the reach tell which part of the searched ball is left for the ring.
    """
    optics, model, sampling = setup.optics[index], state.halves[0], state.sampling
    n_shell = optics.box_size // 2 + 1
    shells = reference_shells(n_shell, optics, setup.box_size, setup.voxel_size_A)
    ratio = slice_power(model)[shells] / model.sigma2_noise[index][shells]
    count = coefficient_count(optics.box_size, setup.data_dim) * _images_per_particle(setup)
    last = coarse_size // 2
    left_out = np.cumsum((0.25 * count * ratio)[: last + 1][::-1])[::-1]
    left_out = np.append(left_out[1:], 0.0)
    share = np.cumsum(model.orientability[shells][: last + 1])
    share = np.maximum(share / max(share[-1], 1e-12), 1e-3)
    distance_deg = model.accuracy_rot_deg * np.sqrt(reach_of(left_out) / (DECISIVE * share))
    alive = np.minimum(distance_deg / (N_SIGMA * sampling.sigma_angle_deg), 1.0) ** 3
    inside = np.cumsum(count[: last + 1])
    cost = inside + alive * (inside[-1] - inside)
    return min(2 * max(int(np.argmin(cost)), coarse_size // 8), coarse_size)


def _images_per_particle(setup: Setup) -> float:
    """Mean number of images that a particle consists of."""
    return 1.0 if setup.tilts is None else float(np.mean([len(tilts) for tilts in setup.tilts.tilts]))
