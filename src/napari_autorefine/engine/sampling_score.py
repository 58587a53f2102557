"""How evenly a set of views samples Fourier space: the sampling compensation factor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_autorefine.engine.shells import slabs

_RADIUS = 50.0
_SMALLEST_RADIUS = 5.0
_VIEWS_PER_DIRECTION = 50.0
_FLOOR = 0.01
_N_DIRECTION, _LEAST_DIRECTIONS = 2048, 256
_MOST_VIEWS = 100_000
_CHUNK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingScore:
    """How evenly Fourier space is sampled.

    Attributes
    ----------
    scf : sampling compensation factor, 1 for even sampling, 8/pi^2 = 0.81 for side views around one axis, near 0 for
        a single view; the signal-to-noise ratio of shells is multiplied by it
    unsampled : fraction of directions that no view samples, as in a missing cone
    radius : Fourier radius in voxels at which slices one voxel thick were counted
    """

    scf: float
    unsampled: float
    radius: float


def sampling_score(views: np.ndarray, operators: np.ndarray, *, weight: np.ndarray | None = None) -> SamplingScore:
    """Return the sampling compensation factor of views and all their symmetry mates.

    The reciprocal of the factor is the mean over directions k of the reciprocal sampling, ``1 / SCF = <1 / S(k)>``,
    where S is the number of slices through k relative to evenly spread views. A slice passes through k when
    ``|k . view| < 1 / (2 R)``: it is one voxel thick at the Fourier radius R, 50 voxels as in the authors' program,
    less for few views, so that evenly spread ones would cross each direction 50 times. Directions sampled less than
    1 % of the mean count as sampled by that much, which keeps the factor finite beside missing cones. (The authors'
    amended factor SCF* counts unsampled directions as seen once or twice, so it depends on the number of particles.)

    Parameters
    ----------
    views : (n, 3) unit vectors, the third row of the rotation matrices
    operators : (n_operator, 3, 3), point group
    weight : (n,), share of each view; all alike without it

    References
    ----------
    Baldwin & Lyumkis (2020), Prog. Biophys. Mol. Biol. 150, 160-183, doi:10.1016/j.pbiomolbio.2019.09.002;
    Baldwin & Lyumkis (2021), Prog. Biophys. Mol. Biol. 160, 53-65, doi:10.1016/j.pbiomolbio.2020.06.003 (SCF*).
    """
    if len(views) == 0:
        raise ValueError("no views")
    step = -(-len(views) // _MOST_VIEWS)
    chosen = views[::step]
    share = None if weight is None else weight[::step]
    radius = float(np.clip(len(chosen) * len(operators) / (2 * _VIEWS_PER_DIRECTION), _SMALLEST_RADIUS, _RADIUS))
    directions = hemisphere(max(_LEAST_DIRECTIONS, _N_DIRECTION // len(operators)))
    sampling = relative_sampling(directions, chosen, operators, half_width=0.5 / radius, weight=share)
    return SamplingScore(
        scf=float(1.0 / np.mean(1.0 / np.maximum(sampling, _FLOOR))),
        unsampled=float(np.mean(sampling == 0)),
        radius=radius,
    )


def relative_sampling(
    directions: np.ndarray,
    views: np.ndarray,
    operators: np.ndarray,
    *,
    half_width: float,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """Return how often slices pass through directions of Fourier space, 1 where views are spread evenly.

    Parameters
    ----------
    directions : (n_direction, 3) unit vectors
    views : (n, 3) unit vectors
    operators : (n_operator, 3, 3), point group
    half_width : largest ``|direction . view|`` that counts as passing through
    weight : (n,), share of each view

    Returns
    -------
    (n_direction,)
    """
    share = np.full(len(views), 1.0 / len(views)) if weight is None else weight / weight.sum()
    mates = np.concatenate([directions @ operator for operator in operators]).astype(np.float32)
    total = np.zeros(len(mates))
    for part in slabs(len(views), _CHUNK):
        crossed = np.abs(mates @ views[part].T.astype(np.float32)) < half_width
        total += crossed @ share[part]
    mean: np.ndarray = total.reshape(len(operators), -1).mean(axis=0) / half_width
    return mean


def hemisphere(n: int) -> np.ndarray:
    """Return n unit vectors spread evenly over z > 0, (n, 3): a spiral with golden steps (Swinbank & Purser 2006)."""
    index = np.arange(n)
    height = 1.0 - (index + 0.5) / n
    turn = index * np.pi * (3.0 - np.sqrt(5.0))
    radius = np.sqrt(1.0 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=-1)
