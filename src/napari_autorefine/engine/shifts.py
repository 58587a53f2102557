"""Trial shifts as few functions: phase ramps of a disc of shifts span far fewer dimensions than there are shifts.

The ramps e^{-2 pi i k t / N} of all shifts t on all samples k are factorised as sum_r V_r(t) U_r(k) with real V and
complex U, by the singular value decomposition of the ramps seen as real vectors. Products with slices are then made
with the R functions U in place of the T ramps, and a small product with V turns them into scores of shifts, or weights
of shifts into weights of functions (after Rangan, Spivak, Anden & Barnett 2020, Inverse Problems 36, 024001,
doi:10.1088/1361-6420/ab2aec).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.samples import FourierSamples
from napari_autorefine.xp import array_module, beside

TOLERANCE = 1e-6  # share of the ramps' power that may be lost; scores move by less than 1e-3 of the cross term


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftBasis:
    """Phase ramps of trial shifts and their factorisation.

    Attributes
    ----------
    ramps : (n_trans, n_sample) complex64
    functions : (n_function, n_sample) complex64 or None when the ramps themselves are as few
    coefficients : (n_trans, n_function) float32 or None
    """

    ramps: Any
    functions: Any | None
    coefficients: Any | None

    def of(self, image: Any, shifts: np.ndarray | None = None) -> ShiftedImage:
        """Return an image (n_sample,) at some of the shifts (all if None), in the cheaper of the two forms."""
        n_shift = len(self.ramps) if shifts is None else len(shifts)
        if self.functions is None or self.coefficients is None or n_shift <= len(self.functions):
            ramps = self.ramps if shifts is None else self.ramps[beside(shifts, image)]
            return ShiftedImage(samples=image * ramps, coefficients=None)
        coefficients = self.coefficients if shifts is None else self.coefficients[beside(shifts, image)]
        return ShiftedImage(samples=image * self.functions, coefficients=coefficients)


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
        products = as_real(slices) @ as_real(self.times(gain).samples).T
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
    """exp(-2 pi i k t / N) for shifts (n, 2) in pixels on ``part`` of the samples; (n, n_part) complex64."""
    turns = np.outer(shifts_px[:, 0], samples.x[part]) + np.outer(shifts_px[:, 1], samples.y[part])
    return np.exp((-2j * np.pi / samples.box_size) * turns).astype(np.complex64)


def shift_basis(samples: FourierSamples, shifts_px: np.ndarray, part: slice) -> ShiftBasis:
    """Ramps of shifts (n, 2) in pixels on ``part`` of the samples and, where it pays, their factorisation."""
    ramps = phase_ramps(samples, shifts_px, part)
    xp = array_module(ramps)
    real = as_real(ramps)
    gram = real.astype(np.float64) @ real.T.astype(np.float64)
    power, vectors = np.linalg.eigh(gram)
    lost = np.cumsum(np.maximum(power, 0.0)) / power.sum()
    kept = lost > TOLERANCE
    n_function = int(np.count_nonzero(kept))
    if n_function > 0.8 * len(ramps):
        return ShiftBasis(ramps=ramps, functions=None, coefficients=None)
    axes = vectors[:, kept]
    functions = (axes.T @ real).astype(np.float32)
    return ShiftBasis(
        ramps=ramps,
        functions=xp.ascontiguousarray(functions).view(np.complex64),
        coefficients=xp.ascontiguousarray(axes, dtype=np.float32),
    )
