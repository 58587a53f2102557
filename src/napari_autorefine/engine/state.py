"""State of a refinement between two iterations: frozen values, replaced and never changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Poses:
    """Per-particle hidden variables, in the order of the particle set.

    Attributes
    ----------
    euler_deg : (n, 3) float64, rot tilt psi (ZYZ)
    origin_A : (n, 2) or (n, 3) float64, shift that brings the particle to the box centre
    p_max : (n,) largest posterior weight
    log_likelihood : (n,) log-likelihood contribution (cross-correlation in a CC iteration)
    n_significant : (n,) coarse samples kept by the first pass
    norm_correction : (n,)
    intensity : (n,) intensity of each particle relative to its scale group, mean 1; None = 1 for all
    """

    euler_deg: np.ndarray
    origin_A: np.ndarray
    p_max: np.ndarray
    log_likelihood: np.ndarray
    n_significant: np.ndarray
    norm_correction: np.ndarray
    intensity: np.ndarray | None = None

    @property
    def intensities(self) -> np.ndarray:
        """Intensities (n,), 1 where none were estimated."""
        return np.ones(len(self.p_max)) if self.intensity is None else self.intensity


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfModel:
    """Everything estimated from one half-set. Shell arrays have box_size // 2 + 1 entries on the reference grid.

    Attributes
    ----------
    map : (N, N, N) float32, regularised reference (solvent-flattened between iterations)
    unfiltered_map : (N, N, N) float32 or None; only in the last iteration or with solvent-corrected FSC
    tau2, ssnr, sigma2_map, completeness : (n_shell,) float64; ssnr is the data-versus-prior ratio
    sigma2_noise : (n_optics, n_shell) float64, variance per real or imaginary component
    scale : (n_group,) intensity scale of each scale group
    pdf_direction : (n_direction,) learned distribution over the coarse directions of the sampling grid
    orientability : (n_shell,) contribution of each shell to the angular accuracy
    """

    map: np.ndarray
    tau2: np.ndarray
    ssnr: np.ndarray
    sigma2_map: np.ndarray
    completeness: np.ndarray
    sigma2_noise: np.ndarray
    scale: np.ndarray
    norm_average: float
    sigma_offset_A: float
    pdf_direction: np.ndarray
    mean_p_max: float
    log_likelihood: float
    accuracy_rot_deg: float
    accuracy_trans_A: float
    orientability: np.ndarray
    unfiltered_map: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Search grid. Steps are the coarse ones (before one level of oversampling)."""

    symmetry: str
    healpix_order: int
    psi_step_deg: float
    offset_range_A: float
    offset_step_A: float
    perturbation: float = 0.0
    perturbation_factor: float = 0.5
    is_local: bool = False
    sigma_angle_deg: float = 0.0
    healpix_order_original: int = 2
    psi_step_original_deg: float = 15.0
    offset_range_original_A: float = 0.0
    offset_step_original_A: float = 0.0
    is_3d_translation: bool = False

    @property
    def angular_step_deg(self) -> float:
        """Nominal coarse angular step of the HEALPix order."""
        return 360.0 / (6.0 * 2.0**self.healpix_order)

    @property
    def fine_angular_step_deg(self) -> float:
        """Angular step after one level of oversampling: the one users quote."""
        return self.angular_step_deg / 2.0

    @property
    def fine_offset_step_A(self) -> float:
        """Offset step after one level of oversampling."""
        return self.offset_step_A / 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Convergence:
    """Counters and flags of the automatic schedule (Scheres 2012, J. Struct. Biol. 180, 519-530)."""

    current_resolution_A: float
    current_size: int = 0
    coarse_size: int = 0
    incr_size: int = 10
    n_iter_without_resolution_gain: int = 0
    n_iter_without_change: int = 0
    best_resolution_A: float = float("inf")
    change_rot_deg: float = 999.0
    change_trans_A: float = 999.0
    smallest_change_rot_deg: float = 999.0
    smallest_change_trans_A: float = 999.0
    is_fine_enough: bool = False
    has_high_fsc: bool = False
    has_converged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementState:
    """A complete, resumable refinement after iteration ``iteration`` (0 = before the first)."""

    iteration: int
    box_size: int
    voxel_size_A: float
    halves: tuple[HalfModel, HalfModel]
    fsc: np.ndarray
    poses: Poses
    sampling: Sampling
    convergence: Convergence
    is_final: bool = False
    joined: HalfModel | None = None
