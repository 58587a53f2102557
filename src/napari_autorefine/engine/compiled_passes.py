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
import scipy.linalg.cython_blas  # noqa: F401 - compiled products need it, and threads are limited when it is loaded
from numba import njit

from napari_autorefine.engine.grids import N_CHILD, fill_matrices
from napari_autorefine.engine.priors import add_parents_priors
from napari_autorefine.engine.selection import drawn, find_largest, lots_of
from napari_autorefine.kernels.mean_poses import mean_pose_within
from napari_autorefine.kernels.project import fill_slices
from napari_autorefine.kernels.residuals import add_residuals
from napari_autorefine.model.geometry import GIMBAL_SINE

# Compiled code is kept for as long as this file stays the same; these are the marks of what goes into it.
_MARKS = ("35caeadd48da", "6d61c59dc311", "e97288bb759e", "cbe5959889a1", "40c242860139", "5e4c4a245dc2")
_FAST = {"nsz", "arcp", "contract", "afn", "reassoc"}
_CHUNK_BYTES, _LEAST_ROWS = 1 << 20, 64  # of slices that are made and compared while they are in the cache


@njit(nogil=True, cache=True, error_model="numpy")
def first_pass_of_image(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - flat arguments of a compiled function
    candidates, grid, reference, parts, table, image, log_shift, reach, choice
):
    """Compare an image with orientations of its own, on the low frequencies first; see ``first_pass``.

    Parameters
    ----------
    candidates : ``dir_idx, psi_idx, log_prior``, (n_rot,) each
    table : (n_orientation, 2 n) float32 slices of the coarse grid, or none
    grid : ``rot_deg, tilt_deg, psi_deg, turn, frequency_matrix``; angles (n, 1)
    parts : screening disc, and ring around it; a ring without rows is none
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
    matrices, orientations = _kernel_matrices(rotations, frequency), dir_idx * len(psi_deg) + psi_idx
    screen, ring = parts
    scores = _scores(matrices, orientations, reference, screen, table, image)
    for rot in range(scores.shape[0]):
        for trans in range(scores.shape[1]):
            scores[rot, trans] = scores[rot, trans] + log_prior[rot] + log_shift[trans]
    alive = np.arange(len(scores))
    if len(ring[0]):
        alive = _near_best(scores, min(reach[0], reach[1] + _twice_gain(ring, image, reach[2])))
        own_matrices = matrices if len(table) else matrices[alive]
        of_ring = _scores(own_matrices, orientations[alive], reference, ring, table, image)
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
    fine_shifts_A, old_origin_A, origin_prior_A = offsets
    fraction, most, intensity, limits, held_bytes = settings
    rotations = np.empty((len(dir_idx), N_CHILD, 3, 3))
    fill_matrices(dir_idx, psi_idx, child_rot, child_tilt, child_psi, turn, rotations)
    matrices = _kernel_matrices(rotations, frequency)
    orientations = _children(dir_idx * len(child_psi) + psi_idx, N_CHILD)
    shifts = _children(coarse_shifts, fine_shifts_A.shape[1])
    scores, slices = _fine_scores(matrices, orientations, shifts, reference, whole, table, image, held_bytes)
    add_parents_priors(scores, log_rotation, log_shift, pairs)
    weights, rows, columns, of_rows, of_columns, total, top = find_largest(scores, fraction, -1)
    scale = np.float32(1.0 / total)
    for row in range(weights.shape[0]):
        for column in range(weights.shape[1]):
            weights[row, column] *= scale
    of_rows, of_columns = of_rows / total, of_columns / total

    dim = len(old_origin_A)
    total_A, offset_square = np.empty((len(columns), dim)), 0.0
    for j in range(len(columns)):
        own = shifts[columns[j]]
        for axis in range(dim):
            at = old_origin_A[axis] + fine_shifts_A[own // fine_shifts_A.shape[1], own % fine_shifts_A.shape[1], axis]
            total_A[j, axis] = at
            offset_square += of_columns[j] * (at - origin_prior_A[axis]) ** 2
    flat = rotations.reshape(-1, 3, 3)
    rotation, origin_A = mean_pose_within(flat[rows], total_A, weights, operators, limits)

    chosen, factor = _representatives(of_rows, most)
    own_weights = weights[chosen]
    for j in range(len(chosen)):
        for column in range(weights.shape[1]):
            own_weights[j, column] *= factor[j]
    own_rows = rows[chosen]
    own_matrices = matrices[own_rows]
    own_slices = _slices_again(own_rows, orientations, own_matrices, reference, whole, table, slices)
    unmasked, model_ctf, gain, sample_weight, inverse_sigma2, model_shell, uses, outer = sums
    masked, contrast, score_weight = image
    trials, coefficients = _trials(whole, shifts[columns])
    mixture = own_weights if coefficients.shape[1] == 0 else np.dot(own_weights, coefficients)
    amounts = np.zeros(len(chosen), dtype=np.float32)
    for j in range(len(chosen)):
        for column in range(weights.shape[1]):
            amounts[j] += own_weights[j, column]
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
def _kernel_matrices(rotations, frequency):  # type: ignore[no-untyped-def]
    """Kernel matrices (n, 3, 3) float32 of reference -> view rotations (n_1, n_2, 3, 3), transposed times frequency."""
    flat = rotations.reshape(-1, 3, 3)
    out = np.empty(flat.shape, dtype=np.float32)
    for n in range(len(flat)):
        for i in range(3):
            for j in range(3):
                out[n, i, j] = (
                    flat[n, 0, i] * frequency[0, j] + flat[n, 1, i] * frequency[1, j] + flat[n, 2, i] * frequency[2, j]
                )
    return out


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
def _trials(part, shifts):  # type: ignore[no-untyped-def]
    """Ramps of shifts, or functions and coefficients where these are fewer; see ``ShiftBasis.of``."""
    _, _, ramps, functions, coefficients = part
    if len(functions) == 0 or (len(ramps) > 0 and len(shifts) <= len(functions)):
        return ramps[shifts], np.empty((len(shifts), 0), dtype=np.float32)
    return functions, coefficients[shifts]


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _times(trials, image, start):  # type: ignore[no-untyped-def]
    """Ramps or functions (n_f, 2 n) times the samples of an image (K,) complex64 from ``start`` on."""
    out = np.empty_like(trials)
    n = trials.shape[1] // 2
    for f in range(trials.shape[0]):
        for k in range(n):
            re, im = image[start + k].real, image[start + k].imag
            a, b = trials[f, 2 * k], trials[f, 2 * k + 1]
            out[f, 2 * k] = re * a - im * b
            out[f, 2 * k + 1] = re * b + im * a
    return out


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _weighted(image, start, n):  # type: ignore[no-untyped-def]
    """Return the image times what scalar products with slices want, and half the weight of their power; n samples."""
    masked, contrast, weight = image
    samples, half_power = np.empty(n, dtype=np.complex64), np.empty(n, dtype=np.float32)
    for k in range(n):
        gain = contrast[start + k] * weight[start + k]
        samples[k] = masked[start + k] * gain
        half_power[k] = np.float32(0.5) * contrast[start + k] * gain
    return samples, half_power


@njit(nogil=True, cache=True, error_model="numpy")
def _rows_at_once(n_sample):  # type: ignore[no-untyped-def]
    return max(_CHUNK_BYTES // (8 * n_sample * _LEAST_ROWS), 1) * _LEAST_ROWS


@njit(nogil=True, cache=True, error_model="numpy")
def _scores(matrices, orientations, reference, part, table, image):  # type: ignore[no-untyped-def]
    """Log-likelihoods (n_rot, n_trans) float32 of an image with slices on a part, all its shifts."""
    rows, start, ramps, functions, coefficients = part
    trials = ramps if len(functions) == 0 else functions
    n = trials.shape[1] // 2
    samples, half_power = _weighted(image, start, n)
    trials = _times(trials, samples, 0)
    n_rot, size = len(orientations), _rows_at_once(n)
    out = np.empty((n_rot, max(len(ramps), len(coefficients))), dtype=np.float32)
    slices = np.empty((min(size, n_rot), 2 * n), dtype=np.float32)
    for first in range(0, n_rot, size):
        last = min(first + size, n_rot)
        own = slices[: last - first]
        if len(table):
            for row in range(first, last):
                own[row - first] = table[orientations[row], 2 * start : 2 * (start + n)]
        else:
            fill_slices(reference[0], matrices[first:last], rows, reference[1], own)
        _compare(own, trials, coefficients, half_power, out[first:last])
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _fine_scores(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - flat arguments of a compiled function
    matrices, orientations, shifts, reference, whole, table, image, held_bytes
):
    """Log-likelihoods (n_o, n_t) of children, and their slices where they are few enough to be kept."""
    functions, coefficients = _trials(whole, shifts)
    n = functions.shape[1] // 2
    samples, half_power = _weighted(image, 0, n)
    trials = _times(functions, samples, 0)
    out = np.empty((len(matrices), len(shifts)), dtype=np.float32)
    size = _rows_at_once(n)
    is_kept = len(table) == 0 and 8 * n * len(matrices) <= held_bytes
    held = np.empty((len(matrices) if is_kept else min(size, len(matrices)), 2 * n), dtype=np.float32)
    for first in range(0, len(matrices), size):
        last = min(first + size, len(matrices))
        own = held[first:last] if is_kept else held[: last - first]
        if len(table):
            for row in range(first, last):
                own[row - first] = table[orientations[row]]
        else:
            fill_slices(reference[0], matrices[first:last], whole[0], reference[1], own)
        _compare(own, trials, coefficients, half_power, out[first:last])
    return out, held if is_kept else held[:0]


@njit(nogil=True, cache=True, error_model="numpy")
def _compare(slices, trials, coefficients, half_power, out):  # type: ignore[no-untyped-def]
    """Write log-likelihoods of slices (n, 2 n_sample) into ``out``; see ``ShiftedImage`` and ``log_likelihoods``."""
    products = np.dot(slices, trials.T)
    if coefficients.shape[1]:
        products = np.dot(products, coefficients.T)
    for row in range(len(slices)):
        power = _power(slices[row], half_power)
        for trans in range(products.shape[1]):
            out[row, trans] = products[row, trans] - power


@njit(nogil=True, cache=True, fastmath=_FAST, error_model="numpy")
def _power(samples, weights):  # type: ignore[no-untyped-def]
    """Sum of weights (n,) times the squared modulus of samples (2 n,)."""
    total = np.float32(0)
    for k in range(len(weights)):
        re, im = samples[2 * k], samples[2 * k + 1]
        total += weights[k] * (re * re + im * im)
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _slices_again(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - flat arguments of a compiled function
    rows, orientations, matrices, reference, whole, table, held
):
    """Slices (n, 2 n_sample) of some rows: those that were held, from the table, or made again."""
    if len(held):
        return held[rows]
    out = np.empty((len(rows), whole[2].shape[1]), dtype=np.float32)
    if len(table):
        for j in range(len(rows)):
            out[j] = table[orientations[rows[j]]]
    else:
        fill_slices(reference[0], matrices, whole[0], reference[1], out)
    return out


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
    return np.dot(mixture, _times(trials, samples, 0)), of_map
