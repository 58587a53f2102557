"""Sums over the particles of a half-set, and the new poses of all particles: what an expectation step leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.intensity import shrunken_intensities
from napari_autorefine.engine.state import Poses


@dataclass(slots=True, kw_only=True)
class HalfStatistics:
    """Double-precision sums of one half-set; blocks are added in their fixed order.

    Attributes
    ----------
    noise, count : (n_optics, n_shell) posterior-weighted residual power, and coefficients or multiplicities behind it
    weight : (n_optics,) posterior weight behind it
    scale_cross, scale_power : (n_group,) numerator and denominator of the group scale
    direction : (n_dir,) posterior weight per coarse direction
    """

    noise: np.ndarray
    count: np.ndarray
    weight: np.ndarray
    scale_cross: np.ndarray
    scale_power: np.ndarray
    direction: np.ndarray
    offset_square: float = 0.0
    norm: float = 0.0
    p_max: float = 0.0
    log_likelihood: float = 0.0
    n_particle: int = 0

    @classmethod
    def zeros(cls, *, n_optics: int, n_shell: int, n_group: int, n_dir: int) -> HalfStatistics:
        """Empty sums."""
        return cls(
            noise=np.zeros((n_optics, n_shell)),
            count=np.zeros((n_optics, n_shell)),
            weight=np.zeros(n_optics),
            scale_cross=np.zeros(n_group),
            scale_power=np.zeros(n_group),
            direction=np.zeros(n_dir),
        )

    def add(self, block: BlockResult, norms: np.ndarray) -> None:
        """Add a block's results; ``norms`` (n,) are the particles' new norm corrections."""
        for result, group, norm in zip(block.results, block.scale_group, norms, strict=True):
            self.noise[block.group] += result.noise
            self.count[block.group] += result.weight * result.count
            self.weight[block.group] += result.weight
            self.scale_cross[group] += result.scale_cross
            self.scale_power[group] += result.scale_power
            np.add.at(self.direction, result.directions, result.direction_weights)
            self.offset_square += result.offset_square
            self.norm += float(norm)
            self.p_max += result.p_max
            self.log_likelihood += result.log_likelihood
            self.n_particle += 1

    @property
    def total_weight(self) -> float:
        """Posterior weight of all particles."""
        return float(self.weight.sum())

    def merged(self, other: HalfStatistics) -> HalfStatistics:
        """Return the sums of both halves."""
        return HalfStatistics(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        )


@dataclass(slots=True, kw_only=True)
class PoseTable:
    """New poses of all particles, filled block by block."""

    euler_deg: np.ndarray
    origin_A: np.ndarray
    p_max: np.ndarray
    log_likelihood: np.ndarray
    n_significant: np.ndarray
    norm_correction: np.ndarray
    intensity: np.ndarray
    intensity_sums: np.ndarray

    @classmethod
    def like(cls, poses: Poses) -> PoseTable:
        """Return a table that starts from old poses."""
        values = {name: np.array(getattr(poses, name)) for name in Poses.__dataclass_fields__ if name != "intensity"}
        sums = np.zeros((len(poses.p_max), 2))
        return cls(intensity=np.array(poses.intensities), intensity_sums=sums, **values)

    def fill(self, block: BlockResult, norms: np.ndarray) -> None:
        """Take over a block's poses."""
        for row, result, norm in zip(block.particles, block.results, norms, strict=True):
            self.euler_deg[row] = result.euler_deg
            self.origin_A[row, : len(result.origin_A)] = result.origin_A
            self.p_max[row] = result.p_max
            self.log_likelihood[row] = result.log_likelihood
            self.n_significant[row] = result.n_significant
            self.norm_correction[row] = norm
            self.intensity_sums[row] = result.intensity_sums

    def level_intensity(self, members: np.ndarray, *, is_estimated: bool) -> None:
        """Work out the intensities of a half-set from its sums; all are 1 when they are not to be estimated."""
        cross, power = self.intensity_sums[members].T
        self.intensity[members] = shrunken_intensities(cross, power) if is_estimated else 1.0

    def frozen(self) -> Poses:
        """Return the finished poses."""
        return Poses(**{name: getattr(self, name) for name in Poses.__dataclass_fields__})


def new_norms(block: BlockResult, norm_average: float, *, is_corrected: bool) -> np.ndarray:
    """Norm corrections (n,) of a block: the standard deviation of each residual image, on the old scale."""
    if not is_corrected:
        return np.ones(len(block.particles))
    power = np.array([result.norm_power for result in block.results])
    return block.norm / norm_average * np.sqrt(2.0 * power)
