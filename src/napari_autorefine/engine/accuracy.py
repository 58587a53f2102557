"""Expected accuracy of orientations and offsets: how far a pose can be off before the data tell the difference.

For a rotation or shift error e, Q(e) = 1/2 sum_k C^2 |P - P_e|^2 / s2 is the log-odds in favour of the right pose; the
accuracy is the first error on a fixed ladder at which Q exceeds -ln 0.01, averaged over particles
(Scheres 2012, J. Struct. Biol. 180, 519-530, section 2.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.context import GroupGeometry, HalfContext
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.search import Measured
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.xp import to_host

DECISIVE = -np.log(0.01)
RUNGS_AT_ONCE, _FRACTION = 8, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Mean expected errors and the share of each shell in the angular information, (n_shell,)."""

    rot_deg: float
    trans_A: float
    orientability: np.ndarray


def error_ladder(steps: tuple[tuple[float, float], ...], last: float) -> np.ndarray:
    """Growing errors: ``(limit, step)`` pairs say by how much an error below ``limit`` grows."""
    errors = [0.0]
    while errors[-1] <= last:
        errors.append(errors[-1] + next(step for limit, step in steps if errors[-1] < limit - 1e-9))
    return np.array(errors[1:])


ROTATION_ERRORS_DEG = error_ladder(
    ((0.2, 0.05), (1, 0.1), (2, 0.2), (5, 0.5), (10, 1), (20, 2), (np.inf, 5)), last=30.0
)
SHIFT_ERRORS_PX = error_ladder(((1, 0.1), (2, 0.2), (5, 0.5), (10, 1), (np.inf, 2)), last=10.0)


def particle_accuracy(
    half: HalfContext, geometry: GroupGeometry, euler_deg: np.ndarray, seen: ParticleOptics, seed: int, n_shell: int
) -> tuple[float, float, np.ndarray]:
    """Angular (deg) and translational (A) accuracy of one particle, and its angular information per shell.

    Parameters
    ----------
    euler_deg : (3,) current angles
    seen : how the particle shows the map
    seed : chooses which angle and which axis is tried
    """
    rng = np.random.default_rng(seed)
    angle = int(rng.integers(3))
    particle = seen.measured(half, geometry)
    weight = particle.score_weight(geometry.whole) * seen.model_ctf.reshape(-1) ** 2

    def slices_of(trials: np.ndarray) -> Any:
        return particle.slices(particle.matrices(euler_to_matrix(trials)), geometry.whole)

    own = slices_of(np.array(euler_deg)[None])[0]
    rung, density = 0, None
    for start in range(0, len(ROTATION_ERRORS_DEG), RUNGS_AT_ONCE):
        errors = ROTATION_ERRORS_DEG[start : start + RUNGS_AT_ONCE]
        trials = np.tile(euler_deg, (len(errors), 1))
        trials[:, angle] += errors
        difference = slices_of(trials) - own
        density = 0.5 * weight * (difference.real**2 + difference.imag**2)
        evidence = to_host(density.sum(axis=1))
        within = first_decisive(evidence)
        rung, density = start + within, density[within]
        if evidence[within] > DECISIVE:
            break
    shell = particle.repeated(geometry.model_shell, geometry.whole)
    per_shell = np.bincount(shell, weights=to_host(density), minlength=n_shell)
    axis = int(rng.integers(2 if geometry.samples.dim == 2 and seen.views is None else 3))
    power = to_host(weight * (own.real**2 + own.imag**2))
    shift_rung = first_decisive(_shift_evidence(power, seen.coordinates(geometry, axis), geometry.samples.box_size))
    total = per_shell.sum()
    return (
        float(ROTATION_ERRORS_DEG[rung]),
        float(SHIFT_ERRORS_PX[shift_rung] * geometry.optics.pixel_size_A),
        per_shell / total if total > 0 else per_shell,
    )


def _shift_evidence(power: np.ndarray, coordinates: np.ndarray, box_size: int) -> np.ndarray:
    """Evidence against the shift errors of the ladder along an axis.

    What a shift changes depends on one coordinate: the power is summed along the others, in eighths of an index where
    coordinates are not whole.
    """
    fraction = 1 if np.issubdtype(coordinates.dtype, np.integer) else _FRACTION
    columns = np.bincount(np.rint(np.abs(coordinates) * fraction).astype(np.int64), weights=power)
    return shift_errors_evidence(columns, fraction * box_size)


def shift_errors_evidence(columns: np.ndarray, period: int) -> np.ndarray:
    """Evidence (n_error,) against the shift errors of the ladder, by the power (n,) at columns of a ``period``."""
    turns = np.outer(SHIFT_ERRORS_PX, np.arange(len(columns))) * (2 * np.pi / period)
    evidence: np.ndarray = (1.0 - np.cos(turns)) @ columns
    return evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleOptics:
    """How one particle shows the map.

    Attributes
    ----------
    model_ctf : (n_image, n_sample) what slices are multiplied by
    precision : (n_image, n_sample) see ``PreparedImages``, or None
    views : (n_tilt, 3, 3) views of a tilt stack, or None
    """

    model_ctf: Any
    precision: Any | None = None
    views: np.ndarray | None = None

    def measured(self, half: HalfContext, geometry: GroupGeometry) -> Measured:
        """Return the particle without its images."""
        ctf = self.model_ctf
        images = PreparedImages(
            masked=ctf, unmasked=ctf, model_ctf=ctf, contrast=ctf, gain=ctf, weight=ctf,
            outer_power=np.zeros((len(ctf), 1)), precision=self.precision,
        )  # fmt: skip
        return Measured(half=half, geometry=geometry, images=images, rows=slice(None), views=self.views)

    def coordinates(self, geometry: GroupGeometry, axis: int) -> np.ndarray:
        """Frequency indices (n_image * n_sample,) along an axis of the frame that offsets are in."""
        samples = geometry.samples
        if self.views is None:
            return (samples.x, samples.y, samples.z)[axis]
        along_x, along_y = self.views[:, 0, axis, None], self.views[:, 1, axis, None]
        return np.ravel(along_x * samples.x + along_y * samples.y)


def first_decisive(evidence: np.ndarray) -> int:
    """Position of the first decisive evidence (n_rung,), the last if none is."""
    decisive = np.flatnonzero(evidence > DECISIVE)
    return int(decisive[0]) if len(decisive) else len(evidence) - 1
