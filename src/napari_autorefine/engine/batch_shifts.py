"""Many particles at trial shifts at once, the counterpart of ``ShiftedImage`` on devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.shifts import ShiftBasis
from napari_autorefine.kernels.moments import weighted_power
from napari_autorefine.xp import array_module, product


@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """Images of n particles at n_t shifts each: ``coefficients @ samples``, or ``samples`` without coefficients.

    Attributes
    ----------
    samples : (n, n_function or n_t, n_sample) complex64
    coefficients : (n_t, n_function) float32 for all, (n, n_t, n_function) for each, or None
    """

    samples: Any
    coefficients: Any | None

    @classmethod
    def at(cls, basis: ShiftBasis, images: Any, shifts: Any | None = None) -> Trials:
        """Put images (n, n_sample) at shifts (n, n_t), all of the basis if None, in the cheaper of the two forms."""
        n_shift = basis.n_shift if shifts is None else shifts.shape[1]
        functions, coefficients = basis.functions, basis.coefficients
        if functions is not None and coefficients is not None and (n_shift > len(functions) or basis.ramps is None):
            own = coefficients if shifts is None else coefficients[shifts]
            return cls(samples=images[:, None, :] * functions[None], coefficients=own)
        ramps = basis.ramps_of(None, images)
        return cls(samples=images[:, None, :] * (ramps[None] if shifts is None else ramps[shifts]), coefficients=None)

    def products(self, slices: Any, gain: Any) -> Any:
        """Re sum_k conj(P_o) gain X_t for slices (n, n_rot, n_sample) and gain (n, n_sample); (n, n_rot, n_t)."""
        own = flat_real(self.samples * gain[:, None, :])
        return self._mixed(array_module(slices).matmul(flat_real(slices), own.transpose(0, 2, 1)), is_back=False)

    def mixture(self, weights: Any) -> Any:
        """Weights of shifts (n, n_rot, n_t) as weights of functions (n, n_rot, n_function)."""
        return self._mixed(weights, is_back=True)

    def averaged(self, weights: Any, gain: Any) -> Any:
        """Weighted sums over shifts times gain (n, n_sample), one image per slice; (n, n_rot, n_sample) complex64."""
        own = flat_real(self.samples * gain[:, None, :])
        return array_module(weights).matmul(self.mixture(weights), own).view(np.complex64)

    def correlation(self, slices: Any, weights: Any) -> Any:
        """sum_{o,t} w_ot Re(conj(P_o) X_t) per sample, (n, n_sample) float32."""
        blended = array_module(weights).matmul(self.mixture(weights).transpose(0, 2, 1), flat_real(slices))
        blended *= flat_real(self.samples)
        return blended.sum(axis=1).reshape(len(blended), -1, 2).sum(axis=2)

    def _mixed(self, values: Any, *, is_back: bool) -> Any:
        """Functions to shifts, or back."""
        if self.coefficients is None:
            return values
        if self.coefficients.ndim == 3:
            own = self.coefficients if is_back else self.coefficients.transpose(0, 2, 1)
            return array_module(values).matmul(values, own)
        shared = self.coefficients if is_back else self.coefficients.T
        return product(values.reshape(-1, values.shape[-1]), shared).reshape(*values.shape[:-1], -1)


def flat_real(values: Any) -> Any:
    """View (n, m, K) complex64 as (n, m, 2K) float32."""
    return array_module(values).ascontiguousarray(values).view(np.float32)


def log_likelihoods(slices: Any, trials: Trials, contrast: Any, weight: Any) -> Any:
    """-D(o, t) without its constant; slices (n, n_rot, K), contrast and weight (n, K); (n, n_rot, n_t) float32."""
    weighted = contrast * weight
    scores = trials.products(slices, weighted)
    scores -= _power(slices, 0.5 * contrast * weighted)
    return scores


def correlations(slices: Any, trials: Trials, images: Any, contrast: Any, weight: Any) -> Any:
    """Normalised cross-correlations; as ``log_likelihoods``, images (n, K) are those that were shifted."""
    xp = array_module(slices)
    weighted = contrast * weight
    norm = xp.sqrt((weight * (images.real**2 + images.imag**2)).sum(axis=1))
    scale = xp.sqrt(_power(slices, contrast * weighted)) * norm[:, None, None]
    scores = trials.products(slices, weighted)
    scores /= xp.maximum(scale, np.float32(1e-30))
    return scores


def _power(slices: Any, weights: Any) -> Any:
    """sum_k weights |P_o|^2 for weights (n, K); (n, n_rot, 1)."""
    n, n_rot, n_sample = slices.shape
    return weighted_power(slices.reshape(n * n_rot, n_sample), weights).reshape(n, n_rot, 1)
