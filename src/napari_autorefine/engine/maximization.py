"""Maximization sums of one particle: what its posterior adds to the map, the noise, the scale and the offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.shifts import ShiftedImage
from napari_autorefine.kernels.moments import mean_power
from napari_autorefine.xp import array_module


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """Weighted images to be added to a half-map's Fourier volume, one per orientation.

    Attributes
    ----------
    orientations : (n_o,) int64, number of the fine orientation on the grid
    matrices : (n_o, 3, 3) float32 sampling matrices
    values : (n_o, n_sample) complex64
    amounts : (n_o,) float32
    sample_weight : (n_sample,) float32; orientation o weighs ``amounts[o] * sample_weight``
    rows : row table of the samples
    origin_value, origin_weight : sums for the origin of Fourier space, in double precision
    """

    orientations: np.ndarray
    matrices: np.ndarray
    values: Any
    amounts: Any
    sample_weight: Any
    rows: np.ndarray
    origin_value: float
    origin_weight: float

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self.values.nbytes + self.sample_weight.nbytes + self.matrices.nbytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """How a particle enters the map.

    Attributes
    ----------
    orientations : of the posterior's rows, see ``Insertion``
    matrices : (n_o, n_image, 3, 3) float32 sampling matrices, those of every tilt of a stack
    gain : (n_image * K,) float32, contrast over noise variance (1 over it for premultiplied data)
    weight : (n_image * K,) float32, squared contrast over noise variance
    rows : row table of the samples
    """

    orientations: np.ndarray
    matrices: np.ndarray
    gain: Any
    weight: Any
    rows: np.ndarray


def slice_moments(slices: Any, trials: ShiftedImage, weights: Any) -> tuple[Any, Any]:
    """Sum w Re(conj(P) X_t) and w |P|^2 over orientations and shifts, (K,) each.

    Parameters
    ----------
    slices : (n_o, K) complex64
    trials : the masked image at n_t shifts
    weights : (n_o, n_t) posterior
    """
    return trials.correlation(slices, weights), mean_power(slices, weights.sum(axis=1))


def insertions(weights: Any, trials: ShiftedImage, contribution: Contribution) -> list[Insertion]:
    """Weighted unmasked images of one particle: one insertion, or one per tilt of a stack.

    Parameters
    ----------
    weights : (n_o, n_t) posterior
    trials : the unmasked image at the n_t shifts
    contribution : what the images are multiplied by and where they go
    """
    n_o, n_image = contribution.matrices.shape[:2]
    values = trials.times(contribution.gain).averaged(weights).reshape(n_o, n_image, -1)
    amounts = weights.sum(axis=1)
    weight = contribution.weight.reshape(n_image, -1)
    total = float(amounts.sum(dtype=np.float64))
    return [
        Insertion(
            orientations=contribution.orientations,
            matrices=contribution.matrices[:, j],
            values=array_module(values).ascontiguousarray(values[:, j]),
            amounts=amounts,
            sample_weight=weight[j],
            rows=contribution.rows,
            origin_value=float(values[:, j, 0].real.sum(dtype=np.float64)),
            origin_weight=total * float(weight[j, 0]),
        )
        for j in range(n_image)
    ]
