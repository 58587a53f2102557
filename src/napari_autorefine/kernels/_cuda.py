"""Launch side of the CUDA kernels: one function per kernel, same arguments in the same order as its numba twin.

The first argument lives on a device, which is the caller's current one; small tables may come from the host.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from napari_autorefine.kernels._load import load_kernel
from napari_autorefine.xp import array_module, device_of, to_host

THREADS = 128  # per block: a small multiple of the warp, no kernel needs more registers than this leaves
_MAX_GRID_Y = 65535
_ROW_THREADS = 256  # of kernels in which a block does a whole row; WIDTH in their sources


def expand_rows(rows: np.ndarray) -> np.ndarray:
    """Return the frequency of every sample of a row table.

    Parameters
    ----------
    rows : (n_row, 5) int, ``z, y, x_start, n, offset``

    Returns
    -------
    (n_sample, 3) int32, order x, y, z; the kernels take it in place of the table
    """
    rows = np.asarray(rows, dtype=np.int64)
    z, y, x_start, n, offset = rows.T
    within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    coordinates = np.empty((int(n.sum()), 3), dtype=np.int32)
    index = np.repeat(offset, n) + within
    coordinates[index, 0] = np.repeat(x_start, n) + within
    coordinates[index, 1] = np.repeat(y, n)
    coordinates[index, 2] = np.repeat(z, n)
    return coordinates


def _coordinates(rows: Any, like: Any) -> Any:
    """Sample frequencies on the device of ``like``, from a row table (5 columns) or from :func:`expand_rows`."""
    xp = array_module(like)
    if rows.shape[1] == 3:
        return xp.asarray(rows, dtype=xp.int32, order="C")
    table = np.ascontiguousarray(to_host(rows), dtype=np.int32)
    return _expanded(table.tobytes(), xp, device_of(like))


@functools.lru_cache(maxsize=64)
def _expanded(table: bytes, xp: Any, device: int | None) -> Any:
    """Frequencies of a row table, kept per device: an iteration uses few tables, each many times."""
    return xp.asarray(expand_rows(np.frombuffer(table, dtype=np.int32).reshape(-1, 5)))


def _slice_grid(n_rot: int, n_sample: int) -> tuple[int, int]:
    return n_rot, min(-(-n_sample // THREADS), _MAX_GRID_Y)


def _rows_per_weight(n_row: int, weight: Any) -> int:
    """Return how many rows one row of ``weight`` (n_sample,) or (n_group, n_sample) is for."""
    n_group = 1 if weight.ndim == 1 else len(weight)
    if n_row % n_group:
        raise ValueError(f"{n_row} rows cannot be shared evenly between {n_group} rows of weights")
    return n_row // n_group


def _shape(array: Any) -> tuple[np.int32, ...]:
    return tuple(np.int32(n) for n in array.shape)


def launch_project(volume: Any, matrices: Any, rows: Any, n_sample: int, r2_max: float) -> Any:
    """Twin of :func:`napari_autorefine.kernels.project.project_cpu`.

    ``rows`` may be :func:`expand_rows` of the table.
    """
    xp = array_module(volume)
    n_rot = len(matrices)
    slices = xp.empty((n_rot, n_sample), dtype=xp.complex64)
    if slices.size:
        arguments = (
            xp.asarray(volume, dtype=xp.complex64, order="C"),
            *_shape(volume),
            xp.asarray(matrices, dtype=xp.float32, order="C"),
            np.int32(n_rot),
            _coordinates(rows, volume),
            np.int32(n_sample),
            np.float32(r2_max),
            slices,
        )
        load_kernel("project", volume)(_slice_grid(n_rot, n_sample), (THREADS,), arguments)
    return slices


def launch_backproject(
    data: Any,
    weight: Any,
    matrices: Any,
    values: Any,
    amounts: Any,
    sample_weight: Any,
    rows: Any,
    r2_max: float,
    z_begin: int,
    z_end: int,
) -> None:
    """Twin of :func:`napari_autorefine.kernels.backproject.backproject_cpu`; adds to ``data`` and ``weight``.

    ``rows`` may be :func:`expand_rows` of the table.
    """
    xp = array_module(data)
    n_rot, n_sample = values.shape
    if not values.size:
        return
    arguments = (
        _writable(data, xp.complex64),
        _writable(weight, xp.float32),
        *_shape(data),
        xp.asarray(matrices, dtype=xp.float32, order="C"),
        np.int32(n_rot),
        xp.asarray(values, dtype=xp.complex64, order="C"),
        xp.asarray(amounts, dtype=xp.float32, order="C"),
        xp.asarray(sample_weight, dtype=xp.float32, order="C"),
        np.int32(_rows_per_weight(n_rot, sample_weight)),
        _coordinates(rows, data),
        np.int32(n_sample),
        np.float32(r2_max),
        np.int32(z_begin),
        np.int32(z_end),
    )
    load_kernel("backproject", data)(_slice_grid(n_rot, n_sample), (THREADS,), arguments)


def _writable(array: Any, dtype: Any) -> Any:
    """Return ``array``, which a kernel writes to, after checking that it needs no copy."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"a kernel writes to a C-contiguous {np.dtype(dtype)} array, got {array.dtype} or strides")
    return array


def launch_ctf(parameters: Any, frequencies: Any, extra_phase: Any, is_first_peak_intact: bool) -> Any:
    """Twin of :func:`napari_autorefine.kernels.ctf.ctf`."""
    xp = array_module(parameters)
    values = xp.empty((len(parameters), len(frequencies)), dtype=xp.float32)
    if values.size:
        arguments = (
            xp.asarray(parameters, dtype=xp.float64, order="C"),
            np.int32(len(parameters)),
            xp.asarray(frequencies, dtype=xp.float64, order="C"),
            np.int32(len(frequencies)),
            xp.asarray(extra_phase, dtype=xp.float64, order="C"),
            np.int32(is_first_peak_intact),
            values,
        )
        load_kernel("ctf", parameters)(_slice_grid(*values.shape), (THREADS,), arguments)
    return values


def launch_weighted_power(slices: Any, weights: Any) -> Any:
    """Twin of :func:`napari_autorefine.kernels.moments.weighted_power`."""
    xp = array_module(slices)
    n_rot, n_sample = slices.shape
    out = xp.zeros(n_rot, dtype=xp.float32)
    if slices.size:
        arguments = (
            xp.asarray(slices, dtype=xp.complex64, order="C"),
            np.int32(n_rot),
            np.int32(n_sample),
            xp.asarray(weights, dtype=xp.float32, order="C"),
            np.int32(_rows_per_weight(n_rot, weights)),
            out,
        )
        load_kernel("moments", slices, name="weighted_power")((n_rot,), (THREADS,), arguments)
    return out


def launch_mean_power(slices: Any, amounts: Any) -> Any:
    """Twin of :func:`napari_autorefine.kernels.moments.mean_power`."""
    xp = array_module(slices)
    n_group, n_rot = amounts.shape if amounts.ndim == 2 else (1, len(amounts))
    n_sample = slices.shape[1]
    power = xp.zeros((n_group, n_sample), dtype=xp.float32)
    if slices.size:
        arguments = (
            xp.asarray(slices, dtype=xp.complex64, order="C"),
            np.int32(n_group),
            np.int32(n_rot),
            np.int32(n_sample),
            xp.asarray(amounts, dtype=xp.float32, order="C"),
            power,
        )
        grid = (-(-n_sample // THREADS), min(-(-n_rot // 32), _MAX_GRID_Y), min(n_group, _MAX_GRID_Y))
        load_kernel("moments", slices, name="mean_power")(grid, (THREADS,), arguments)
    return power if amounts.ndim == 2 else power[0]


def launch_significant_weights(scores: Any, fraction: float, max_count: int, is_normalised: bool) -> tuple[Any, Any]:
    """Twin of :func:`napari_autorefine.kernels.significance.significant_weights`; writes to ``scores``."""
    xp = array_module(scores)
    n_row, n = scores.shape
    top, total = xp.empty(n_row, dtype=xp.float32), xp.empty(n_row, dtype=xp.float64)
    if scores.size:
        arguments = (
            _writable(scores, xp.float32),
            np.int32(n_row),
            np.int64(n),
            np.float64(fraction),
            np.int64(max_count),
            np.int32(is_normalised),
            top,
            total,
        )
        load_kernel("significance", scores, name="significant_weights")((n_row,), (_ROW_THREADS,), arguments)
    return top, total


def launch_set_positions(flags: Any, width: int) -> Any:
    """Twin of :func:`napari_autorefine.kernels.positions.set_positions`."""
    xp = array_module(flags)
    n_row, n = flags.shape
    positions = xp.empty((n_row, width), dtype=xp.int64)
    if positions.size:
        arguments = (
            xp.asarray(flags, dtype=xp.bool_, order="C"),
            np.int32(n_row),
            np.int64(n),
            np.int64(width),
            positions,
        )
        load_kernel("positions", flags, name="set_positions")((n_row,), (_ROW_THREADS,), arguments)
    return positions


def launch_grid_rotations(
    orientations: Any, directions: Any, angles: Any, n_angle: int, n_child: tuple[int, int]
) -> Any:
    """Twin of :func:`napari_autorefine.kernels.rotations.grid_rotations`."""
    xp = array_module(orientations)
    n = len(orientations)
    rotations = xp.empty((n, 3, 3), dtype=xp.float64)
    if n:
        arguments = (
            xp.asarray(orientations, dtype=xp.int64, order="C"),
            np.int32(n),
            xp.asarray(directions, dtype=xp.float64, order="C"),
            xp.asarray(angles, dtype=xp.float64, order="C"),
            np.int32(n_angle),
            np.int32(n_child[0]),
            np.int32(n_child[1]),
            rotations,
        )
        load_kernel("rotations", orientations, name="grid_rotations")((-(-n // THREADS),), (THREADS,), arguments)
    return rotations


def launch_sampling_matrices(rotations: Any, frequency_matrix: np.ndarray) -> Any:
    """Twin of :func:`napari_autorefine.kernels.rotations.sampling_matrices`."""
    xp = array_module(rotations)
    n = len(rotations)
    matrices = xp.empty((n, 3, 3), dtype=xp.float32)
    if n:
        factors = (np.float64(factor) for factor in np.ravel(frequency_matrix))
        arguments = (xp.asarray(rotations, dtype=xp.float64, order="C"), np.int32(n), *factors, matrices)
        load_kernel("rotations", rotations, name="sampling_matrices")((-(-n // THREADS),), (THREADS,), arguments)
    return matrices


def launch_mean_poses(
    rotations: Any, shifts_A: Any, weights: Any, operators: Any, limits: tuple[float, float]
) -> tuple[Any, Any]:
    """Twin of :func:`napari_autorefine.kernels.mean_poses.mean_poses`."""
    xp = array_module(weights)
    n, dim = len(weights), shifts_A.shape[2]
    turns, means = xp.empty((n, 3, 3), dtype=xp.float64), xp.empty((n, dim), dtype=xp.float64)
    if weights.size:
        arguments = (
            xp.asarray(rotations, dtype=xp.float64, order="C"),
            xp.asarray(shifts_A, dtype=xp.float64, order="C"),
            xp.asarray(weights, dtype=xp.float32, order="C"),
            *_shape(weights),
            np.int32(dim),
            xp.asarray(operators, dtype=xp.float64, order="C"),
            np.int32(len(operators)),
            np.float64(limits[0]),
            np.float64(limits[1]),
            turns,
            means,
        )
        load_kernel("mean_poses", weights)((n,), (THREADS,), arguments)
    return turns, means


def launch_residual_sums(
    compared: Any, at: Any, moments: tuple[Any, Any], total: Any, intensity: Any
) -> tuple[Any, Any]:
    """Twin of :func:`napari_autorefine.kernels.residuals.residual_sums`."""
    xp = array_module(total)
    n, n_sample, n_shell = len(at), len(compared.shell), len(compared.use_for_scale)
    noise, sums = xp.zeros((n, n_shell), dtype=xp.float64), xp.zeros((n, 5), dtype=xp.float64)
    if n:
        single = [compared.contrast, compared.ctf, compared.score_weight]
        single.append(compared.contrast if compared.precision is None else compared.precision)
        arguments = (
            xp.asarray(at, dtype=xp.int64, order="C"),
            np.int32(n),
            np.int32(n_sample),
            xp.asarray(compared.masked, dtype=xp.complex64, order="C"),
            *(xp.asarray(one, dtype=xp.float32, order="C") for one in single),
            np.int32(compared.precision is not None),
            *(xp.asarray(one, dtype=xp.float32, order="C") for one in (*moments, total)),
            xp.asarray(intensity, dtype=xp.float64, order="C"),
            xp.asarray(compared.shell, dtype=xp.int32, order="C"),
            xp.asarray(compared.use_for_scale, dtype=xp.float32, order="C"),
            xp.asarray(compared.use_for_intensity, dtype=xp.float32, order="C"),
            np.int32(n_shell),
            noise,
            sums,
        )
        load_kernel("residuals", total, name="residual_sums")((n,), (THREADS,), arguments)
    return noise, sums


def launch_shell_sums(values: Any, shell: Any, n_shell: int) -> Any:
    """Twin of :func:`napari_autorefine.kernels.shells.shell_sums`."""
    xp = array_module(values)
    n_row, n = values.shape
    sums = xp.zeros((n_row, n_shell), dtype=xp.float64)
    if values.size:
        arguments = (
            xp.asarray(values, dtype=xp.float32, order="C"),
            np.int32(n_row),
            np.int64(n),
            xp.asarray(shell, dtype=xp.int32, order="C"),
            np.int32(n_shell),
            sums,
        )
        load_kernel("shells", values, name="shell_sums")(
            (-(-n // THREADS), min(n_row, _MAX_GRID_Y)), (THREADS,), arguments
        )
    return sums


def launch_symmetrize(
    data: Any, weight: Any, operators: Any, r2_max: float, planes: slice, summed_data: Any, summed_weight: Any
) -> None:
    """Twin of ``symmetrize_planes``; writes to ``summed_data`` and ``summed_weight``."""
    xp = array_module(data)
    n_element = (planes.stop - planes.start) * data.shape[1] * data.shape[2]
    if n_element <= 0:
        return
    arguments = (
        xp.asarray(data, dtype=xp.complex64, order="C"),
        xp.asarray(weight, dtype=xp.float32, order="C"),
        *_shape(data),
        xp.asarray(operators, dtype=xp.float32, order="C"),
        np.int32(len(operators)),
        np.float32(r2_max),
        np.int32(planes.start),
        np.int32(planes.stop),
        _writable(summed_data, xp.complex64),
        _writable(summed_weight, xp.float32),
    )
    load_kernel("symmetrize", data)((-(-n_element // THREADS),), (THREADS,), arguments)


def launch_add_rows(
    table: Any,
    weights: Any,
    touched: Any,
    rows: Any,
    values: Any,
    amounts: Any,
    sample_weight: Any,
    begin: int,
    end: int,
) -> None:
    """Twin of :func:`napari_autorefine.kernels.table.add_rows`; adds to ``table`` and ``weights``, sets ``touched``."""
    xp = array_module(table)
    n_o, n_sample = len(rows), sample_weight.shape[-1]
    if n_o == 0 or n_sample == 0:
        return
    arguments = (
        _writable(table, xp.float32),
        _writable(weights, xp.float32),
        _writable(touched, xp.bool_),
        xp.asarray(rows, dtype=xp.int64, order="C"),
        np.int32(n_o),
        xp.asarray(values, dtype=xp.float32, order="C"),
        xp.asarray(amounts, dtype=xp.float32, order="C"),
        xp.asarray(sample_weight, dtype=xp.float32, order="C"),
        np.int32(_rows_per_weight(n_o, sample_weight)),
        np.int32(n_sample),
        np.int64(begin),
        np.int64(end),
    )
    load_kernel("table", table, name="add_rows")(_slice_grid(n_o, n_sample), (THREADS,), arguments)
