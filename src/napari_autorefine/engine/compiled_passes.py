"""Both passes of one image or volume in compiled code, the counterpart of ``first_pass`` and ``second_pass``.

What these do with dozens of small arrays per image takes Python longer than the arithmetic, and keeps other threads
waiting for the interpreter lock. Here an image takes two calls that release the lock. Arguments are flat tuples:

part : ``rows, start, ramps, functions, coefficients``: row table, first sample, and trial shifts, see ``ShiftBasis``;
    ramps (n_trans, 2 n) and functions (n_function, 2 n) are float32, one of them empty where there are none
reference : ``volume, r2_max``: padded Fourier volume (n_z, n_y, 2 n_x) float32 and its squared radius
image : ``masked, contrast, weight``: (n_sample,) coefficients, factors of slices, and inverse noise variances as scored
"""

from __future__ import annotations

import numpy as np
from numba import njit

from napari_autorefine.engine.compiled_scores import kernel_matrices, scores_of, slices_again, times, trials_of
from napari_autorefine.engine.grids import N_CHILD, fill_matrices
from napari_autorefine.engine.priors import add_parents_priors
from napari_autorefine.engine.selection import drawn, find_largest, lots_of
from napari_autorefine.kernels.mean_poses import mean_pose_within
from napari_autorefine.kernels.residuals import add_residuals
from napari_autorefine.model.geometry import GIMBAL_SINE

# Compiled code is kept for as long as this file stays the same; these are the marks of what goes into it.
_MARKS = ("68638b85efda", "35caeadd48da", "6d61c59dc311", "e97288bb759e", "cbe5959889a1", "5e4c4a245dc2")
_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}


@njit(nogil=True, cache=True, error_model="numpy")
def first_pass_of_image(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - flat arguments of a compiled function
    candidates, grid, reference, parts, table, image, log_shift, reach, choice
):
    """Compare an image with orientations of its own, on the low frequencies first; see ``first_pass``.

    Parameters
    ----------
    candidates : ``dir_idx, psi_idx, log_prior``, (n_rot,) each
    grid : ``rot_deg, tilt_deg, psi_deg, turn, frequency_matrix``; angles (n, 1)
    parts : screening disc, and ring around it; a ring without rows is none
    table : (n_orientation, 2 n) float32 slices of the coarse grid, or none
    log_shift : (n_trans,) float32 log priors of shifts
    reach : ``most, negligible, expected_power``: how far below the best an orientation may lie on the screening disc
        at most, and what else ``first_pass.reach_of`` is made of; power (n_sample,)
    choice : ``fraction, max_count, most, particle``, see ``expectation.significant``

    Returns
    -------
    positions among the candidates, shifts, pairs, count, log_factor; see ``Significant``
    """
    dir_idx, psi_idx, log_prior = candidates
    rot_deg, tilt_deg, psi_deg, turn, frequency = grid
    rotations = np.empty((0 if len(table) else len(dir_idx), 1, 3, 3))
    if len(rotations):
        fill_matrices(dir_idx, psi_idx, rot_deg, tilt_deg, psi_deg, turn, rotations)
    matrices, orientations = kernel_matrices(rotations, frequency), dir_idx * len(psi_deg) + psi_idx
    screen, ring = parts
    shifts = np.arange(len(log_shift))
    scores, _ = scores_of(matrices, orientations, shifts, reference, screen, table, image, 0)
    for rot in range(scores.shape[0]):
        for trans in range(scores.shape[1]):
            scores[rot, trans] = scores[rot, trans] + log_prior[rot] + log_shift[trans]
    alive = np.arange(len(scores))
    if len(ring[0]):
        alive = _near_best(scores, min(reach[0], reach[1] + _twice_gain(ring, image, reach[2])))
        own_matrices = matrices if len(table) else matrices[alive]
        of_ring, _ = scores_of(own_matrices, orientations[alive], shifts, reference, ring, table, image, 0)
        for place in range(len(alive)):
            for trans in range(scores.shape[1]):
                of_ring[place, trans] += scores[alive[place], trans]
        scores = of_ring
    fraction, max_count, most, particle = choice
    weights, rows, columns, share, _, _, _ = find_largest(scores, fraction, max_count)
    count = 0
    for row in range(weights.shape[0]):
        for column in range(weights.shape[1]):
            count += weights[row, column] > 0
    chosen, chance = drawn(share, most, lots_of(orientations[alive[rows]], particle))
    pairs = weights[chosen] > 0
    used = np.zeros(len(columns), dtype=np.bool_)
    for row in range(pairs.shape[0]):
        used |= pairs[row]
    own = np.flatnonzero(used)
    return alive[rows[chosen]], columns[own], pairs[:, own], count, (-np.log(chance)).astype(np.float32)


@njit(nogil=True, cache=True, error_model="numpy")
def second_pass_of_image(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - flat arguments of a compiled function
    kept, grid, reference, whole, table, image, sums, offsets, settings
):
    """Posterior of an image on the children of what was kept, and its sums; see ``second_pass``.

    Parameters
    ----------
    kept : ``dir_idx, psi_idx, log_rotation, shifts, log_shift, pairs`` of what the first pass kept
    grid : ``child_rot_deg, child_tilt_deg, child_psi_deg, turn, frequency_matrix, operators``
    whole : part of all samples
    table : (n_orientation, 2 n) float32 slices of the fine grid, or none
    sums : ``unmasked, model_ctf, gain, sample_weight, inverse_sigma2, model_shell, uses, outer``: what sums need
        besides the image; ``outer`` are shells and power of the image outside the samples
    offsets : ``fine_shifts_A, old_origin_A, origin_prior_A``
    settings : ``fraction, most_representatives, intensity, limits, held_bytes``: limits as ``mean_pose_within`` has
        them; slices of one image that take more than so many bytes are made again for its sums

    Returns
    -------
    pose : Euler angles and origin, of posterior : p_max, log_evidence, sum, offset_square
    directions, direction_weights, noise, noise in all and residual sums, insertion
    """
    dir_idx, psi_idx, log_rotation, coarse_shifts, log_shift, pairs = kept
    child_rot, child_tilt, child_psi, turn, frequency, operators = grid
    fraction, most, intensity, limits, held_bytes = settings
    rotations = np.empty((len(dir_idx), N_CHILD, 3, 3))
    fill_matrices(dir_idx, psi_idx, child_rot, child_tilt, child_psi, turn, rotations)
    matrices = kernel_matrices(rotations, frequency)
    orientations = _children(dir_idx * len(child_psi) + psi_idx, N_CHILD)
    shifts = _children(coarse_shifts, offsets[0].shape[1])
    scores, slices = scores_of(matrices, orientations, shifts, reference, whole, table, image, held_bytes)
    add_parents_priors(scores, log_rotation, log_shift, pairs)
    weights, rows, columns, of_rows, of_columns, total, top = find_largest(scores, fraction, -1)
    scale = np.float32(1.0 / total)
    for row in range(weights.shape[0]):
        for column in range(weights.shape[1]):
            weights[row, column] *= scale
    of_rows, of_columns = of_rows / total, of_columns / total
    total_A, offset_square = _origins(shifts[columns], of_columns, offsets)
    flat = rotations.reshape(-1, 3, 3)
    rotation, origin_A = mean_pose_within(flat[rows], total_A, weights, operators, limits)

    chosen, factor = _representatives(of_rows, most)
    own_weights, amounts = _taken(weights, chosen, factor)
    own_rows = rows[chosen]
    own_matrices = matrices[own_rows]
    own_slices = slices_again(own_rows, orientations, own_matrices, reference, whole, table, slices)
    unmasked, model_ctf, gain, sample_weight, inverse_sigma2, model_shell, uses, outer = sums
    masked, contrast, score_weight = image
    trials, coefficients = trials_of(whole, shifts[columns])
    mixture = own_weights if coefficients.shape[1] == 0 else np.dot(own_weights, coefficients)
    cross, power = _moments(own_slices, mixture, trials, masked, amounts)
    values, of_map = _insertion(mixture, trials, unmasked, gain, sample_weight, inverse_sigma2)
    in_all, at_origin = 0.0, 0.0
    for j in range(len(amounts)):
        in_all += np.float64(amounts[j])
        at_origin += np.float64(values[j, 0])
    noise = np.zeros(len(uses[0]))
    residuals = add_residuals(
        noise, model_shell, uses, (masked, contrast, model_ctf, score_weight), (cross, power), (in_all, intensity)
    )
    for j in range(len(outer[0])):
        noise[outer[0][j]] += outer[1][j]
    return (
        (_euler_deg(rotation), origin_A),
        (1.0 / total, float(top) + np.log(total), of_columns.sum(), offset_square),
        dir_idx[rows // N_CHILD],
        of_rows,
        noise,
        (noise.sum(), *residuals),
        (orientations[own_rows], own_matrices, values, amounts, of_map, at_origin, in_all * of_map[0]),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _euler_deg(m):  # type: ignore[no-untyped-def]
    """Euler angles (3,) of a rotation, as ``model.geometry.matrix_to_euler``."""
    sine = np.hypot(m[0, 2], m[1, 2])
    if sine > GIMBAL_SINE:
        angles = (np.arctan2(m[2, 1], m[2, 0]), np.arctan2(sine, m[2, 2]), np.arctan2(m[1, 2], -m[0, 2]))
    elif m[2, 2] > 0.0:
        angles = (0.0, 0.0, np.arctan2(-m[1, 0], m[0, 0]))
    else:
        angles = (0.0, np.pi, np.arctan2(m[1, 0], -m[0, 0]))
    return np.degrees(np.array(angles))


@njit(nogil=True, cache=True, error_model="numpy")
def _children(numbers, n_child):  # type: ignore[no-untyped-def]
    """Numbers (n * n_child,) int64 of the children of (n,)."""
    out = np.empty(len(numbers) * n_child, dtype=np.int64)
    for i in range(len(numbers)):
        for child in range(n_child):
            out[i * n_child + child] = np.int64(numbers[i]) * n_child + child
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _near_best(scores, reach):  # type: ignore[no-untyped-def]
    """Orientations whose best score is within ``reach`` of the best of all."""
    best = np.empty(len(scores), dtype=np.float32)
    for rot in range(len(scores)):
        best[rot] = scores[rot].max()
    return np.flatnonzero(best > best.max() - np.float32(reach))


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _twice_gain(ring, image, power):  # type: ignore[no-untyped-def]
    """Twice the expected log-likelihood gain of the right pose in the ring."""
    start, n = ring[1], ring[2].shape[1] // 2
    _, contrast, weight = image
    gain = 0.0
    for k in range(start, start + n):
        gain += contrast[k] * contrast[k] * weight[k] * power[k]
    return gain


@njit(nogil=True, cache=True, error_model="numpy")
def _origins(shifts, of_shifts, offsets):  # type: ignore[no-untyped-def]
    """Offsets (n, dim) in A of fine shifts, and the mean of their squared deviations from the prior's center."""
    fine_shifts_A, old_origin_A, origin_prior_A = offsets
    n_child, dim = fine_shifts_A.shape[1], len(old_origin_A)
    total_A, square = np.empty((len(shifts), dim)), 0.0
    for j in range(len(shifts)):
        for axis in range(dim):
            total_A[j, axis] = old_origin_A[axis] + fine_shifts_A[shifts[j] // n_child, shifts[j] % n_child, axis]
            square += of_shifts[j] * (total_A[j, axis] - origin_prior_A[axis]) ** 2
    return total_A, square


@njit(nogil=True, cache=True, error_model="numpy")
def _taken(weights, rows, factor):  # type: ignore[no-untyped-def]
    """Return some rows of weights times their factors, and the sums over each, float32."""
    own, amounts = weights[rows], np.zeros(len(rows), dtype=np.float32)
    for j in range(len(rows)):
        for column in range(own.shape[1]):
            own[j, column] *= factor[j]
            amounts[j] += own[j, column]
    return own, amounts


@njit(nogil=True, cache=True, error_model="numpy")
def _representatives(share, most):  # type: ignore[no-untyped-def]
    """Rows that stand for all, ascending, and factors of their weights; see ``second_pass``."""
    n = len(share)
    if n <= most:
        return np.arange(n), np.ones(n, dtype=np.float32)
    chosen, factor = np.empty(most, dtype=np.int64), np.empty(most, dtype=np.float32)
    step = share.sum() / most
    count, reached, mark = 0, 0.0, 0
    for row in range(n):
        reached += share[row]
        marks = 0
        while mark < most and (reached >= (mark + 0.5) * step or row == n - 1):
            mark += 1
            marks += 1
        if marks:
            chosen[count] = row
            factor[count] = marks * step / share[row]
            count += 1
    return chosen[:count], factor[:count]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _moments(slices, mixture, trials, masked, amounts):  # type: ignore[no-untyped-def]
    """Sum w Re(conj(P) X_t) and w |P|^2 over orientations and shifts, (n_sample,) float32 each."""
    n = len(masked)
    blended = np.dot(mixture.T, slices)
    cross, power = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
    for f in range(trials.shape[0]):
        for k in range(n):
            re, im = masked[k].real, masked[k].imag
            a, b = trials[f, 2 * k], trials[f, 2 * k + 1]
            cross[k] += blended[f, 2 * k] * (re * a - im * b) + blended[f, 2 * k + 1] * (re * b + im * a)
    for row in range(slices.shape[0]):
        amount = amounts[row]
        for k in range(n):
            re, im = slices[row, 2 * k], slices[row, 2 * k + 1]
            power[k] += amount * (re * re + im * im)
    return cross, power


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _insertion(mixture, trials, unmasked, gain, sample_weight, inverse_sigma2):  # type: ignore[no-untyped-def]
    """Weighted images (n, 2 n_sample) that go into the map, and what a unit of them weighs there (n_sample,)."""
    n = len(unmasked)
    samples, of_map = np.empty(n, dtype=np.complex64), np.empty(n, dtype=np.float32)
    for k in range(n):
        samples[k] = unmasked[k] * (gain[k] * inverse_sigma2[k])
        of_map[k] = sample_weight[k] * inverse_sigma2[k]
    return np.dot(mixture, times(trials, samples)), of_map
