"""Trial shifts as few functions: phase ramps of a disc of shifts span far fewer dimensions than there are shifts.

The ramps e^{-2 pi i k t / N} of all shifts t on all samples k are factorised as sum_r V_r(t) U_r(k) with real V and
complex U, by the singular value decomposition of the ramps seen as real vectors. Products with slices are then made
with the R functions U in place of the T ramps, and a small product with V turns them into scores of shifts, or weights
of shifts into weights of functions (after Rangan, Spivak, Anden & Barnett 2020, Inverse Problems 36, 024001,
doi:10.1088/1361-6420/ab2aec).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.engine.samples import FourierSamples
from napari_autorefine.xp import array_module, beside

TOLERANCE = 1e-6  # share of the ramps' power that may be lost; scores move by less than 1e-3 of the cross term
_KEPT_BYTES = 128 << 20  # larger tables of ramps, or of functions, are not kept
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShiftBasis:
    """Trial shifts on part of the samples: their phase ramps and the factorisation of these.

    Attributes
    ----------
    samples, part : the Fourier samples, and which of them
    shifts_px : (n_trans, 2) float64, or (n_trans, 3) for volumes and tilt stacks
    ramps : (n_trans, n_sample) complex64, or None when they are made as they are needed
    functions : (n_function, n_sample) complex64, or None when the ramps themselves are as few or they are not kept
    coefficients : (n_trans, n_function) float32 or None
    """

    samples: FourierSamples
    part: slice
    shifts_px: np.ndarray
    ramps: Any | None = None
    functions: Any | None = None
    coefficients: Any | None = None

    @property
    def n_shift(self) -> int:
        """Number of trial shifts."""
        return len(self.shifts_px)

    def of(self, image: Any, shifts: np.ndarray | None = None) -> ShiftedImage:
        """Return an image (n_sample,) at some of the shifts (all if None), in the cheaper of the two forms."""
        n_shift = self.n_shift if shifts is None else len(shifts)
        if self.functions is None or self.coefficients is None or n_shift <= len(self.functions):
            return ShiftedImage(samples=image * self.ramps_of(shifts, image), coefficients=None)
        coefficients = self.coefficients if shifts is None else self.coefficients[beside(shifts, image)]
        return ShiftedImage(samples=image * self.functions, coefficients=coefficients)

    def basis(self, like: Any) -> Any:
        """Return the functions, or the ramps of all shifts where these are as few; where ``like`` is."""
        return self.ramps_of(None, like) if self.functions is None else self.functions

    def ramps_of(self, shifts: np.ndarray | None, like: Any) -> Any:
        """Ramps (n, n_sample) of some of the shifts, all if None."""
        if self.ramps is not None:
            return self.ramps if shifts is None else self.ramps[beside(shifts, like)]
        chosen = self.shifts_px if shifts is None else self.shifts_px[shifts]
        return beside(phase_ramps(self.samples, chosen, self.part), like)


class TiltedShifts:
    """Trial shifts of a tilt stack: a shift in space moves every image by what its tilt shows of it.

    Attributes
    ----------
    shifts : in space, with the coefficients that all particles share
    views : (n_tilt, 2, 3) float64, what each image shows of a shift
    """

    def __init__(self, shifts: ShiftBasis, views: np.ndarray) -> None:
        self.shifts = shifts
        self.views = views
        self._functions: Any = None

    def of(self, image: Any, shifts: np.ndarray | None = None) -> ShiftedImage:
        """Return the images (n_tilt * n_sample,) of a particle at some of the shifts (all if None)."""
        own = self.shifts
        n_shift = own.n_shift if shifts is None else len(shifts)
        if own.coefficients is None or n_shift <= own.coefficients.shape[1]:
            return ShiftedImage(samples=image * self.ramps_of(shifts, image), coefficients=None)
        if self._functions is None:
            self._functions = _functions_of(self.ramps_of, own.n_shift, len(image), own.coefficients)
        coefficients = own.coefficients if shifts is None else own.coefficients[beside(shifts, image)]
        return ShiftedImage(samples=image * self._functions, coefficients=coefficients)

    def ramps_of(self, shifts: np.ndarray | None, like: Any) -> Any:
        """Ramps (n, n_tilt * n_sample) of some of the shifts, all if None."""
        own = self.shifts
        chosen = own.shifts_px if shifts is None else own.shifts_px[shifts]
        seen = np.einsum("tij,nj->nti", self.views, chosen)
        ramps = separable_ramps(own.samples, seen.reshape(-1, 2), own.part, like)
        return ramps.reshape(len(chosen), -1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedImage:
    """An image at n_t shifts: ``coefficients @ samples``, or ``samples`` themselves without coefficients.

    Attributes
    ----------
    samples : (n_function or n_t, n_sample) complex64
    coefficients : (n_t, n_function) float32 or None
    """

    samples: Any
    coefficients: Any | None

    def scores(self, slices: Any, gain: Any) -> Any:
        """Re sum_k conj(P_o) gain X_t of every slice and shift, (n_rot, n_t) float32."""
        return self.times(gain).products(slices)

    @property
    def n_shift(self) -> int:
        """Number of shifts."""
        return len(self.samples if self.coefficients is None else self.coefficients)

    def products(self, slices: Any) -> Any:
        """Re sum_k conj(P_o) X_t of every slice and shift, (n_rot, n_t) float32."""
        products = as_real(slices) @ as_real(self.samples).T
        return products if self.coefficients is None else products @ self.coefficients.T

    def times(self, gain: Any) -> ShiftedImage:
        """Return the image with every sample multiplied by ``gain`` (n_sample,)."""
        return ShiftedImage(samples=self.samples * gain, coefficients=self.coefficients)

    def mixture(self, weights: Any) -> Any:
        """Weights of shifts (n_rot, n_t) as weights of functions (n_rot, n_function)."""
        return weights if self.coefficients is None else weights @ self.coefficients

    def averaged(self, weights: Any) -> Any:
        """Weighted sums over shifts, one image per slice: (n_rot, n_sample) complex64."""
        return (self.mixture(weights) @ as_real(self.samples)).view(np.complex64)

    def correlation(self, slices: Any, weights: Any) -> Any:
        """sum_{o,t} w_ot Re(conj(P_o) X_t) per sample, (n_sample,) float32."""
        blended = self.mixture(weights).T @ as_real(slices)
        blended *= as_real(self.samples)
        return blended.sum(axis=0).reshape(-1, 2).sum(axis=1)

    def only(self, shifts: np.ndarray) -> ShiftedImage:
        """Return the same image at some of its shifts."""
        shifts = beside(shifts, self.samples)
        if self.coefficients is None:
            return ShiftedImage(samples=self.samples[shifts], coefficients=None)
        return ShiftedImage(samples=self.samples, coefficients=self.coefficients[shifts])


def as_real(values: Any) -> Any:
    """View (n, K) complex64 as (n, 2K) float32 without a copy."""
    return values.view(np.float32)


def phase_ramps(samples: FourierSamples, shifts_px: np.ndarray, part: slice) -> np.ndarray:
    """exp(-2 pi i k t / N) for shifts (n, 2) or (n, 3) in pixels on ``part`` of the samples; (n, n_part) complex64."""
    if samples.dim == 3:
        ramps: np.ndarray = separable_ramps(samples, shifts_px, part, shifts_px)
        return ramps
    turns = np.outer(shifts_px[:, 0], samples.x[part]) + np.outer(shifts_px[:, 1], samples.y[part])
    return np.exp((-2j * np.pi / samples.box_size) * turns).astype(np.complex64)


def separable_ramps(samples: FourierSamples, shifts_px: np.ndarray, part: slice, like: Any) -> Any:
    """Phase ramps as products of those along the axes: fast, and made where ``like`` is; see ``phase_ramps``."""
    indices, tables = [], []
    for axis, index in enumerate((samples.x, samples.y, samples.z)[: samples.dim]):
        own = index[part]
        first, last = int(own.min()), int(own.max())
        turns = np.multiply.outer(shifts_px[:, axis], np.arange(first, last + 1))
        indices.append(own - first)
        tables.append(np.exp((-2j * np.pi / samples.box_size) * turns).astype(np.complex64))
    if array_module(like) is np:
        ramps: np.ndarray = _products(tables[0], indices[0], tables[1], indices[1])
        return ramps if samples.dim == 2 else _multiplied(ramps, tables[2], indices[2])
    xp = array_module(like)
    factors = [xp.take(beside(t, like), beside(i, like), axis=1) for t, i in zip(tables, indices, strict=True)]
    return factors[0] * factors[1] if samples.dim == 2 else factors[0] * factors[1] * factors[2]


@njit(nogil=True, cache=True, error_model="numpy")
def _products(first, first_index, second, second_index):  # type: ignore[no-untyped-def]
    """Return ``first[:, first_index] * second[:, second_index]``."""
    out = np.empty((first.shape[0], first_index.shape[0]), dtype=np.complex64)
    for row in range(first.shape[0]):
        for k in range(first_index.shape[0]):
            out[row, k] = first[row, first_index[k]] * second[row, second_index[k]]
    return out


@njit(nogil=True, cache=True, error_model="numpy")
def _multiplied(values, table, index):  # type: ignore[no-untyped-def]
    for row in range(values.shape[0]):
        for k in range(values.shape[1]):
            values[row, k] *= table[row, index[k]]
    return values


def shift_basis(samples: FourierSamples, shifts_px: np.ndarray, part: slice) -> ShiftBasis:
    """Ramps of shifts (n, 2) in pixels on ``part`` of the samples and, where it pays, their factorisation.

    Shifts (n, 3) of volumes may be too many for tables; what does not fit is made when it is needed.
    """
    if shifts_px.shape[1] == 3:
        return _volume_basis(samples, shifts_px, part)
    ramps = phase_ramps(samples, shifts_px, part)
    xp = array_module(ramps)
    real = as_real(ramps)
    axes = _principal_axes(real.astype(np.float64) @ real.T.astype(np.float64))
    if axes is None:
        return ShiftBasis(samples=samples, part=part, shifts_px=shifts_px, ramps=ramps)
    functions = (axes.T @ real).astype(np.float32)
    return ShiftBasis(
        samples=samples,
        part=part,
        shifts_px=shifts_px,
        ramps=ramps,
        functions=xp.ascontiguousarray(functions).view(np.complex64),
        coefficients=xp.ascontiguousarray(axes, dtype=np.float32),
    )


def tilt_basis(samples: FourierSamples, shifts_px: np.ndarray, part: slice) -> ShiftBasis:
    """Shifts in space (n, 3) of tilt stacks, to be seen by a ``TiltedShifts`` of every particle.

    The coefficients are those for planes through the origin that lie evenly in space, up to the samples' radius.
    """
    distance = _distances(shifts_px) * (2.0 * np.pi * _radius(samples, part) / samples.box_size)
    half = np.sinc(distance / (2.0 * np.pi))
    axes = _principal_axes(half**2)
    coefficients = None if axes is None else np.ascontiguousarray(axes, dtype=np.float32)
    return ShiftBasis(samples=samples, part=part, shifts_px=shifts_px, coefficients=coefficients)


def _volume_basis(samples: FourierSamples, shifts_px: np.ndarray, part: slice) -> ShiftBasis:
    """Shifts of volumes; the products of ramps over the ball are known in closed form."""
    basis = ShiftBasis(samples=samples, part=part, shifts_px=shifts_px)
    n_sample = len(samples.x[part])
    distance = _distances(shifts_px) * (2.0 * np.pi * _radius(samples, part) / samples.box_size)
    small = distance < 1e-2
    d = np.where(small, 1.0, distance)
    axes = _principal_axes(np.where(small, 1.0 - distance**2 / 10.0, 3.0 * (np.sin(d) - d * np.cos(d)) / d**3))
    if axes is not None and 8 * axes.shape[1] * n_sample <= _KEPT_BYTES:
        coefficients = np.ascontiguousarray(axes, dtype=np.float32)
        functions = _functions_of(basis.ramps_of, len(shifts_px), n_sample, coefficients)
        basis = replace(basis, functions=functions, coefficients=coefficients)
    if 8 * len(shifts_px) * n_sample <= _KEPT_BYTES:
        basis = replace(basis, ramps=phase_ramps(samples, shifts_px, part))
    return basis


def _functions_of(ramps_of: Callable[..., Any], n_shift: int, n_sample: int, coefficients: Any) -> Any:
    """Return sums (n_function, n_sample) of ramps with the columns of ``coefficients``, some ramps at a time."""
    xp = array_module(coefficients)
    total = xp.zeros((coefficients.shape[1], 2 * n_sample), dtype=np.float32)
    size = max(_CHUNK_BYTES // (8 * n_sample), 1)
    for start in range(0, n_shift, size):
        chosen = np.arange(start, min(start + size, n_shift))
        ramps = ramps_of(chosen, coefficients)
        total += coefficients[beside(chosen, coefficients)].T @ as_real(xp.ascontiguousarray(ramps))
    return total.view(np.complex64)


def _principal_axes(gram: np.ndarray) -> np.ndarray | None:
    """Eigenvectors (n, n_function) of products of ramps that hold their power; None when these are not far fewer."""
    power, vectors = np.linalg.eigh(gram)
    kept = np.cumsum(np.maximum(power, 0.0)) / power.sum() > TOLERANCE
    return None if np.count_nonzero(kept) > 0.8 * len(gram) else vectors[:, kept]


def _distances(points: np.ndarray) -> np.ndarray:
    difference = points[:, None] - points[None]
    distances: np.ndarray = np.sqrt((difference**2).sum(axis=-1))
    return distances


def _radius(samples: FourierSamples, part: slice) -> float:
    return float(np.sqrt(max((samples.x[part] ** 2.0 + samples.y[part] ** 2.0 + samples.z[part] ** 2.0).max(), 1.0)))
