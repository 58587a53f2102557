"""Contrast transfer function on a list of frequencies: CPU twin of ``ctf.cu``.

    phase = p0 x^2 + p1 x y + p2 y^2 + p3 u^4 + p4 + extra(x, y)         u^2 = x^2 + y^2, radians, float64
    value = -sin(phase), or 1 where |phase| < pi/2 and the first peak is kept intact
    ctf   = value * p6 * exp(-p5 u^2),  moved to +-1e-8 where smaller

The phase reaches thousands of radians, so it is kept in float64 and reduced to [-pi/2, pi/2] before the sine, which is
an odd polynomial there (error below 1e-9); the result is float32. One thread of the CUDA twin makes one output value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from napari_autorefine.kernels._cuda import launch_ctf
from napari_autorefine.xp import array_module

N_PARAMETER = 7
SMALLEST = np.float32(1e-8)
_HALF_PI = 0.5 * np.pi
_INVERSE_PI = 1.0 / np.pi
# Taylor coefficients of sin(pi t) / t in t^2, enough for |t| <= 1/2 to 6e-10.
_S1, _S3, _S5, _S7, _S9, _S11 = (
    3.141592653589793,
    -5.16771278004997,
    2.550164039877345,
    -0.5992645293207921,
    0.08214588661112823,
    -0.00737043094571435,
)
_S13 = 0.00046630280576761


@njit(nogil=True, cache=True, error_model="numpy")
def _row(p: np.ndarray, xs: np.ndarray, ys: np.ndarray, extra_phase: np.ndarray, intact: bool, out: np.ndarray) -> None:
    xx, xy, yy, quartic, offset, scale = p[0], p[1], p[2], p[3], p[4], p[6]
    for k in range(out.shape[0]):
        x, y = xs[k], ys[k]
        u2 = x * x + y * y
        phase = xx * x * x + xy * x * y + yy * y * y + quartic * u2 * u2 + offset + extra_phase[k]
        turns = phase * _INVERSE_PI
        nearest = np.floor(turns + 0.5)
        t = turns - nearest
        sign = 1.0 - 2.0 * (nearest - 2.0 * np.floor(0.5 * nearest))
        t2 = t * t
        series = _S9 + t2 * (_S11 + t2 * _S13)
        sine = sign * t * (_S1 + t2 * (_S3 + t2 * (_S5 + t2 * (_S7 + t2 * series))))
        value = -sine
        if intact and abs(phase) < _HALF_PI:
            value = 1.0
        out[k] = scale * value


@njit(nogil=True, cache=True, error_model="numpy")
def _damp(decay: float, xs: np.ndarray, ys: np.ndarray, out: np.ndarray) -> None:
    for k in range(out.shape[0]):
        out[k] *= np.exp(-decay * (xs[k] * xs[k] + ys[k] * ys[k]))


def ctf(parameters: Any, frequencies: Any, extra_phase: Any, is_first_peak_intact: bool) -> Any:
    """Transfer function of n particles at n_frequency points.

    Parameters
    ----------
    parameters : (n, 7) float64
        x^2, xy, y^2 coefficients of the phase (rad A^2), u^4 coefficient (rad A^4), constant
        phase (rad), exponential decay (A^2; a quarter of the B-factor), amplitude scale
    frequencies : (n_frequency, 2) float64
        x and y in 1/A
    extra_phase : (n_frequency,) float64
        radians, added for all particles
    is_first_peak_intact
        keep the function at its scale up to the first peak

    Returns
    -------
    (n, n_frequency) float32
    """
    compute = _ctf if array_module(parameters) is np else launch_ctf
    return compute(parameters, frequencies, extra_phase, is_first_peak_intact)


@njit(nogil=True, cache=True, error_model="numpy")
def _ctf(
    parameters: np.ndarray, frequencies: np.ndarray, extra_phase: np.ndarray, is_first_peak_intact: bool
) -> np.ndarray:
    out = np.empty((parameters.shape[0], frequencies.shape[0]), dtype=np.float32)
    xs, ys = frequencies[:, 0].copy(), frequencies[:, 1].copy()  # contiguous, for vector instructions
    for i in range(parameters.shape[0]):
        _row(parameters[i], xs, ys, extra_phase, is_first_peak_intact, out[i])
        if parameters[i, 5] != 0.0:
            _damp(parameters[i, 5], xs, ys, out[i])
        for k in range(out.shape[1]):
            if abs(out[i, k]) < SMALLEST:
                out[i, k] = -SMALLEST if out[i, k] < 0.0 else SMALLEST
    return out
