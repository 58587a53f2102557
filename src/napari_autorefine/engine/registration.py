"""Where a map lies relative to a mask: the shift at which the shape of its density and the mask agree best.

Density inside a mask is a poor measure: masks are wider than what they are for, so that it hardly changes over a few
voxels, and it follows whatever else the map holds. Here the mask is compared with masks made from the map itself: the
low-passed map is thresholded, extended, and given the very profile of the mask, so that volume and soft edge are equal.
Threshold and low-pass are those for which the normalised cross-correlation is largest. It is maximised over shifts by
Fourier transforms and refined below a voxel on the exact trigonometric interpolation of its peak (Guizar-Sicairos,
Thurman & Fienup 2008, Opt. Lett. 33, 156-158, doi:10.1364/OL.33.000156).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import distance_transform_edt

from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.model.resize import fourier_resize

_SEARCH_BOX, _LARGEST_BOX = 64, 160
_LOW_PASSES = (0.0, 3.0, 4.5, 7.0)
_FRACTIONS = tuple(np.geomspace(0.03, 0.95, 8))
_WINDOW = 5.0
_POLISHED, _HALVINGS, _ROUNDS = 3, 5, 5
_SETTLED = 5e-3
_OVERLAP_BOX = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskOffset:
    """Result of a registration.

    Attributes
    ----------
    shift_px : (3,) float64, x y z: the point of the map that belongs at its centre; content has to move by minus this
    score : normalised correlation of the mask and the mask made from the shifted map, 1 when they are the same
    """

    shift_px: np.ndarray
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """How a mask is made from a map: low-pass in voxels (0: none), thresholded part in volumes of the mask."""

    low_pass: float
    fraction: float


def mask_offset(map_: np.ndarray, mask: np.ndarray) -> MaskOffset:
    """Find by how much the density of a map is displaced from a mask.

    Parameters
    ----------
    map_ : (N, N, N), density positive
    mask : (N, N, N) within [0, 1], neither empty nor constant

    Returns
    -------
    offset in voxels; for masks made from a map accurate to 0.1 voxel or better
    """
    n = len(map_)
    map_, mask = map_.astype(np.float32), mask.astype(np.float32)
    coarse = min(n - n % 2, _SEARCH_BOX)
    small = _Target(_resized(mask, coarse, is_mask=True))
    shift, shape = _search(_resized(map_, coarse), small)
    fine = min(n, _LARGEST_BOX)
    shape = _Shape(low_pass=shape.low_pass * fine / coarse, fraction=shape.fraction)
    target, resized = _Target(_resized(mask, fine, is_mask=True)), _resized(map_, fine)
    shift *= fine / coarse
    score = 0.0
    for _ in range(_ROUNDS):
        density = filtered(moved(resized, -shift), shape.low_pass)
        score, step = target.align(density, shape.fraction, is_near=True)
        shift += step
        if np.abs(step).max() < _SETTLED:
            break
    return MaskOffset(shift_px=shift * (n / fine), score=score)


class MaskOverlap:
    """Score of a map against a mask at any shift, by the measure that ``mask_offset`` makes as large as possible.

    How a mask is made from the map is looked for once, when the object is made, which takes about a second; a score
    takes a few hundredths. Both are computed in a box of 40 voxels at most.

    Parameters
    ----------
    map_ : (N, N, N), density positive
    mask : (N, N, N) within [0, 1], neither empty nor constant
    """

    def __init__(self, map_: np.ndarray, mask: np.ndarray) -> None:
        n = len(map_)
        coarse = min(n - n % 2, _OVERLAP_BOX)
        self._scale = coarse / n
        self._map = _resized(map_.astype(np.float32), coarse)
        self._target = _Target(_resized(mask.astype(np.float32), coarse, is_mask=True))
        _, self._shape = _search(self._map, self._target)

    def score(self, center_px: np.ndarray) -> float:
        """Return the normalised correlation, 1 at best, when the point (3,) x y z of the map lies at its centre."""
        centred = moved(self._map, -self._scale * np.asarray(center_px, dtype=np.float64))
        return self._target.overlap(filtered(centred, self._shape.low_pass), self._shape.fraction)


def _search(map_: np.ndarray, target: _Target) -> tuple[np.ndarray, _Shape]:
    """Find shift and shape on a coarse grid: first anywhere, then with nothing but what lies near the mask."""
    shift, shape = np.zeros(3), _Shape(low_pass=0.0, fraction=_FRACTIONS[0])
    for is_near in (False, True):
        centred = moved(map_, -shift)
        best = []
        for low_pass in _LOW_PASSES:
            density = filtered(centred, low_pass)
            scores = [target.score(density, fraction, is_near=is_near) for fraction in _FRACTIONS]
            at = int(np.argmax(scores))
            best.append((scores[at], _Shape(low_pass=low_pass, fraction=_FRACTIONS[at])))
        best.sort(key=lambda pair: -pair[0])
        if is_near:
            best = [_polished(centred, target, one, score) for score, one in best[:_POLISHED]]
        shape = max(best, key=lambda pair: pair[0])[1]
        shift = shift + target.align(filtered(centred, shape.low_pass), shape.fraction, is_near=is_near)[1]
    return shift, shape


def _polished(map_: np.ndarray, target: _Target, shape: _Shape, best: float) -> tuple[float, _Shape]:
    """Improve threshold and low-pass in turn, in steps that get finer."""
    step = (_FRACTIONS[1] / _FRACTIONS[0]) ** 0.5
    for _ in range(_HALVINGS):
        trials = [_Shape(low_pass=shape.low_pass, fraction=shape.fraction * f) for f in (1 / step, step)]
        if shape.low_pass > 0:
            trials += [_Shape(low_pass=shape.low_pass * f, fraction=shape.fraction) for f in (step**-0.5, step**0.5)]
        for trial in trials:
            if trial.fraction < 1.0:
                score = target.score(filtered(map_, trial.low_pass), trial.fraction, is_near=True)
                if score > best:
                    shape, best = trial, score
        step **= 0.5
    return best, shape


class _Target:
    """A mask that masks made from maps are compared with."""

    def __init__(self, mask: np.ndarray) -> None:
        self._profile = np.sort(mask, axis=None)[::-1].astype(np.float64)
        self._volume = float(self._profile.sum())
        centred = mask - mask.mean()
        self._norm = float(np.sqrt(np.square(centred, dtype=np.float64).sum()))
        self._transform = np.conj(scipy.fft.rfftn(centred))
        self._near = distance_transform_edt(mask < 0.5 * mask.max()) <= _WINDOW

    def score(self, density: np.ndarray, fraction: float, *, is_near: bool) -> float:
        """Return the largest correlation over whole-voxel shifts with the mask made from a density.

        Only what lies near the mask counts with ``is_near``.
        """
        spectrum, norm = self._correlation(density, fraction, is_near)
        return float(scipy.fft.irfftn(spectrum, s=density.shape).max()) / norm if norm > 0 else -np.inf

    def align(self, density: np.ndarray, fraction: float, *, is_near: bool) -> tuple[float, np.ndarray]:
        """Return the largest correlation over all shifts, and the shift x y z in voxels."""
        spectrum, norm = self._correlation(density, fraction, is_near)
        value, shift = correlation_peak(spectrum, len(density))
        return (value / norm if norm > 0 else 0.0), shift

    def overlap(self, density: np.ndarray, fraction: float) -> float:
        """Return the correlation with the mask made from what of a density lies near the mask, as it lies."""
        spectrum, norm = self._correlation(density, fraction, is_near=True)
        return float(scipy.fft.irfftn(spectrum, s=density.shape)[0, 0, 0]) / norm if norm > 0 else 0.0

    def _correlation(self, density: np.ndarray, fraction: float, is_near: bool) -> tuple[np.ndarray, float]:
        own = self._own_mask(np.where(self._near, density, density.min()) if is_near else density, fraction)
        own -= own.mean()
        norm = self._norm * float(np.sqrt(np.square(own, dtype=np.float64).sum()))
        return scipy.fft.rfftn(own) * self._transform, norm

    def _own_mask(self, density: np.ndarray, fraction: float) -> np.ndarray:
        """Threshold so that ``fraction`` of the mask's volume is left, extend, and give it the mask's profile."""
        n_core = max(int(fraction * self._volume), 1)
        threshold = np.partition(density, -n_core, axis=None)[-n_core]
        distance = distance_transform_edt(density < threshold).ravel()
        order = np.argsort(distance, kind="stable")
        ordered = distance[order]
        starts = np.flatnonzero(np.concatenate([[True], np.diff(ordered) > 1e-9]))
        counts = np.diff(np.append(starts, len(ordered)))
        own = np.empty(len(distance), dtype=np.float32)
        own[order] = np.repeat(np.add.reduceat(self._profile, starts) / counts, counts)  # equal distance, equal value
        return own.reshape(density.shape)


def correlation_peak(spectrum: np.ndarray, box_size: int) -> tuple[float, np.ndarray]:
    """Largest value of a correlation and where it is, below a voxel.

    Parameters
    ----------
    spectrum : (N, N, N // 2 + 1) complex, half transform of a real (N, N, N) correlation, origin at voxel 0
    box_size : N

    Returns
    -------
    value, and (3,) float64 shift x y z within N / 2 of 0
    """
    correlation = scipy.fft.irfftn(spectrum, s=(box_size,) * 3)
    index = np.array(np.unravel_index(int(np.argmax(correlation)), correlation.shape), dtype=np.float64)
    at = np.mod(index + box_size // 2, box_size) - box_size // 2
    value = float(correlation.max())
    for step in (0.25, 0.05):
        axes = [centre + step * np.arange(-5, 6) for centre in at]
        values = _interpolated(spectrum, axes, box_size)
        place = np.unravel_index(int(np.argmax(values)), values.shape)
        value = float(values[place])
        at = np.array([axis[i] for axis, i in zip(axes, place, strict=True)])
    for k, i in enumerate(place):  # vertex of the parabola through the best point and its neighbours
        if 0 < i < values.shape[k] - 1:
            low, high = (values[(*place[:k], i + side, *place[k + 1 :])] for side in (-1, 1))
            curvature = low - 2.0 * value + high
            at[k] += step * 0.5 * (low - high) / curvature if curvature < 0 else 0.0
    return value, at[::-1]


def _interpolated(spectrum: np.ndarray, axes: list[np.ndarray], box_size: int) -> np.ndarray:
    """Values of the trigonometric interpolation on a grid of positions (z, y, x)."""
    full = np.rint(scipy.fft.fftfreq(box_size) * box_size)
    half = np.arange(spectrum.shape[2])
    twice = np.where((half == 0) | (2 * half == box_size), 1.0, 2.0)
    along_z, along_y = (np.exp(2j * np.pi / box_size * np.outer(axis, full)) for axis in axes[:2])
    along_x = np.exp(2j * np.pi / box_size * np.outer(axes[2], half)) * twice
    partial = np.tensordot(along_z, spectrum, (1, 0))
    partial = np.tensordot(along_y, partial, (1, 1))
    values: np.ndarray = np.tensordot(partial, along_x, (2, 1)).real.transpose(1, 0, 2) / box_size**3
    return values


def moved(map_: np.ndarray, shift_px: np.ndarray) -> np.ndarray:
    """Move the content of a cubic map by (3,) voxels x y z, exactly and periodically; (N, N, N) float32."""
    n = len(map_)
    transform = scipy.fft.rfftn(map_)
    x, y, z = (np.asarray(shift_px, dtype=np.float64) * (-2j * np.pi)).tolist()
    transform *= np.exp(z * scipy.fft.fftfreq(n)).astype(np.complex64)[:, None, None]
    transform *= np.exp(y * scipy.fft.fftfreq(n)).astype(np.complex64)[:, None]
    transform *= np.exp(x * scipy.fft.rfftfreq(n)).astype(np.complex64)
    back: np.ndarray = scipy.fft.irfftn(transform, s=map_.shape)
    return back.astype(np.float32, copy=False)


def filtered(map_: np.ndarray, low_pass: float) -> np.ndarray:
    """Low-pass a map at ``low_pass`` voxels; 0 leaves it alone."""
    return low_pass_map(map_, low_pass, 1.0) if low_pass > 0 else map_


def _resized(map_: np.ndarray, size: int, *, is_mask: bool = False) -> np.ndarray:
    """Resample to ``size`` voxels in the same field of view."""
    if size == len(map_):
        return map_
    small = fourier_resize(map_, size)
    return np.clip(small, 0.0, 1.0) if is_mask else small
