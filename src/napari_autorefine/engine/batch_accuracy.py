"""Expected accuracy of many images at once, the counterpart of ``accuracy`` on devices."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_autorefine.engine.accuracy import (
    DECISIVE,
    ROTATION_ERRORS_DEG,
    RUNGS_AT_ONCE,
    SHIFT_ERRORS_PX,
    ParticleOptics,
    first_decisive,
    shift_errors_evidence,
)
from napari_autorefine.engine.context import GroupGeometry, HalfContext
from napari_autorefine.engine.expectation import make_slices
from napari_autorefine.kernels.shells import shell_sums
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.xp import array_module, to_host

_PIECE_BYTES = 1 << 28


def image_accuracies(
    half: HalfContext, geometry: GroupGeometry, euler_deg: np.ndarray, seen: ParticleOptics, seeds: np.ndarray,
    n_shell: int,
) -> list[tuple[float, float, np.ndarray]]:  # fmt: skip
    """Accuracy of n images of one optics group as ``accuracy.particle_accuracy`` gives it of each.

    Parameters
    ----------
    euler_deg : (n, 3) current angles
    seen : how they show the map, one entry per image
    seeds : (n,)
    """
    draws = [np.random.default_rng(int(seed)) for seed in seeds]
    angle, axis = (np.array([rng.integers(n) for rng in draws]) for n in (3, 2))
    size = max(1, _PIECE_BYTES // (32 * RUNGS_AT_ONCE * geometry.samples.n_sample))
    found: list[tuple[float, float, np.ndarray]] = []
    for start in range(0, len(seeds), size):
        rows = slice(start, start + size)
        precision = None if seen.precision is None else seen.precision[rows]
        own = ParticleOptics(model_ctf=seen.model_ctf[rows], precision=precision)
        found += _accuracies(half, geometry, (euler_deg[rows], angle[rows], axis[rows]), own, n_shell)
    return found


def _accuracies(
    half: HalfContext,
    geometry: GroupGeometry,
    tried: tuple[np.ndarray, np.ndarray, np.ndarray],
    seen: ParticleOptics,
    n_shell: int,
) -> list[tuple[float, float, np.ndarray]]:
    euler_deg, angle, axis = tried
    weight = half.models[geometry.index].score_weight[None] * seen.model_ctf**2
    if seen.precision is not None:
        weight = weight * seen.precision
    own = _slices(half, geometry, euler_deg)
    rung, density = _decisive_turns(half, geometry, (euler_deg, angle), own, weight)
    power = weight * (own.real**2 + own.imag**2)
    xp = array_module(power)
    shells = to_host(shell_sums(density, xp.asarray(geometry.model_shell.astype(np.int32)), n_shell))
    samples, found = geometry.samples, []
    n_column = samples.box_size // 2 + 1
    columns = [
        to_host(shell_sums(power, xp.asarray(np.abs(place).astype(np.int32)), n_column))
        for place in (samples.x, samples.y)
    ]
    for i, per_shell in enumerate(shells):
        total = per_shell.sum()
        shift = first_decisive(shift_errors_evidence(columns[axis[i]][i], samples.box_size))
        found.append(
            (
                float(ROTATION_ERRORS_DEG[rung[i]]),
                float(SHIFT_ERRORS_PX[shift] * geometry.optics.pixel_size_A),
                per_shell / total if total > 0 else per_shell,
            )
        )
    return found


def _slices(half: HalfContext, geometry: GroupGeometry, euler_deg: np.ndarray) -> Any:
    """Slices (n, n_sample) at angles (n, 3)."""
    matrices = array_module(half.reference).asarray(geometry.sampling_matrices(euler_to_matrix(euler_deg)))
    return make_slices(half.reference, matrices, geometry.samples.rows, geometry.samples.n_sample, half.r2_max)


def _decisive_turns(
    half: HalfContext, geometry: GroupGeometry, tried: tuple[np.ndarray, np.ndarray], own: Any, weight: Any
) -> tuple[np.ndarray, Any]:
    """First decisive rung (n,) of the ladder of every image, and what its samples say there (n, n_sample)."""
    euler_deg, angle = tried
    xp, n = array_module(own), len(euler_deg)
    rung, left = np.zeros(n, dtype=np.int64), np.arange(n)
    said = xp.zeros(weight.shape, dtype=np.float32)
    for start in range(0, len(ROTATION_ERRORS_DEG), RUNGS_AT_ONCE):
        errors = ROTATION_ERRORS_DEG[start : start + RUNGS_AT_ONCE]
        trials = np.repeat(euler_deg[left][:, None], len(errors), axis=1)
        trials[np.arange(len(left)), :, angle[left]] += errors
        at = xp.asarray(left)
        difference = _slices(half, geometry, trials.reshape(-1, 3)).reshape(len(left), len(errors), -1)
        difference -= own[at][:, None]
        density = 0.5 * weight[at][:, None] * (difference.real**2 + difference.imag**2)
        evidence = to_host(density.sum(axis=2))
        within = np.array([first_decisive(one) for one in evidence])
        rung[left] = start + within
        said[at] = density[xp.arange(len(left)), xp.asarray(within)]
        left = left[evidence[np.arange(len(left)), within] <= DECISIVE]
        if len(left) == 0:
            break
    return rung, said
