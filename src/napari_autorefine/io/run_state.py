"""What the run files need to know of a refinement's state: the attributes they read, as protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from napari_autorefine.io.optimisation_set import OptimisationSet


class PoseValues(Protocol):
    """Hidden variables of n particles."""

    @property
    def euler_deg(self) -> np.ndarray:
        """Rot, tilt, psi: (n, 3)."""

    @property
    def origin_A(self) -> np.ndarray:
        """Shift that brings the particle to the box centre: (n, 2 or 3)."""

    @property
    def p_max(self) -> np.ndarray:
        """Largest posterior weight: (n,)."""

    @property
    def log_likelihood(self) -> np.ndarray:
        """Log-likelihood: (n,) of poses, the sum of a model."""

    @property
    def n_significant(self) -> np.ndarray:
        """Coarse samples kept by the first pass: (n,)."""

    @property
    def norm_correction(self) -> np.ndarray:
        """Norm correction: (n,)."""

    @property
    def intensities(self) -> np.ndarray:
        """Intensity relative to the scale group: (n,)."""


class ModelValues(Protocol):
    """A half-set's, or the joined, model; shell arrays have box_size // 2 + 1 entries."""

    @property
    def map(self) -> np.ndarray:
        """Regularised map: (N, N, N)."""

    @property
    def unfiltered_map(self) -> np.ndarray | None:
        """Map without prior and mask: (N, N, N), or None."""

    @property
    def tau2(self) -> np.ndarray:
        """Signal power: (n_shell,)."""

    @property
    def ssnr(self) -> np.ndarray:
        """Data-versus-prior ratio: (n_shell,)."""

    @property
    def sigma2_map(self) -> np.ndarray:
        """Noise of the map: (n_shell,)."""

    @property
    def completeness(self) -> np.ndarray:
        """Fourier completeness: (n_shell,)."""

    @property
    def orientability(self) -> np.ndarray:
        """Share of each shell in the angular accuracy: (n_shell,)."""

    @property
    def sigma2_noise(self) -> np.ndarray:
        """Noise of the images: (n_optics, n_shell)."""

    @property
    def scale(self) -> np.ndarray:
        """Intensity scale: (n_group,)."""

    @property
    def pdf_direction(self) -> np.ndarray:
        """Share of the particles: (n_direction,)."""

    @property
    def norm_average(self) -> float:
        """Mean norm correction."""

    @property
    def sigma_offset_A(self) -> float:
        """Width of the offset prior."""

    @property
    def mean_p_max(self) -> float:
        """Mean of the largest posterior weights."""

    @property
    def log_likelihood(self) -> float:
        """Log-likelihood: (n,) of poses, the sum of a model."""

    @property
    def accuracy_rot_deg(self) -> float:
        """Expected accuracy of the angles."""

    @property
    def accuracy_trans_A(self) -> float:
        """Expected accuracy of the offsets."""


class SamplingValues(Protocol):
    """The search grid; steps before oversampling."""

    @property
    def symmetry(self) -> str:
        """Point group."""

    @property
    def healpix_order(self) -> int:
        """HEALPix order."""

    @property
    def psi_step_deg(self) -> float:
        """In-plane step."""

    @property
    def offset_range_A(self) -> float:
        """Radius of the offset search."""

    @property
    def offset_step_A(self) -> float:
        """Step of the offset search."""

    @property
    def perturbation(self) -> float:
        """Random perturbation of this iteration."""

    @property
    def perturbation_factor(self) -> float:
        """Largest perturbation."""

    @property
    def is_local(self) -> bool:
        """Whether searches are local."""

    @property
    def sigma_angle_deg(self) -> float:
        """Width of the angular prior of local searches."""

    @property
    def healpix_order_original(self) -> int:
        """Order at the start."""

    @property
    def psi_step_original_deg(self) -> float:
        """In-plane step at the start."""

    @property
    def offset_range_original_A(self) -> float:
        """Offset range at the start."""

    @property
    def offset_step_original_A(self) -> float:
        """Offset step at the start."""

    @property
    def is_3d_translation(self) -> bool:
        """Whether offsets have a z component."""


class ConvergenceValues(Protocol):
    """Counters and flags of the automatic schedule."""

    @property
    def current_resolution_A(self) -> float:
        """Resolution of this iteration."""

    @property
    def current_size(self) -> int:
        """Image size used, in pixels."""

    @property
    def coarse_size(self) -> int:
        """Image size of the first pass, in pixels."""

    @property
    def incr_size(self) -> int:
        """Shells added beyond the resolution."""

    @property
    def n_iter_without_resolution_gain(self) -> int:
        """Iterations without gain in resolution."""

    @property
    def n_iter_without_change(self) -> int:
        """Iterations without large changes of poses."""

    @property
    def best_resolution_A(self) -> float:
        """Best resolution so far."""

    @property
    def change_rot_deg(self) -> float:
        """Mean change of orientations."""

    @property
    def change_trans_A(self) -> float:
        """Change of offsets."""

    @property
    def smallest_change_rot_deg(self) -> float:
        """Smallest change of orientations so far."""

    @property
    def smallest_change_trans_A(self) -> float:
        """Smallest change of offsets so far."""

    @property
    def is_fine_enough(self) -> bool:
        """Whether sampling is finer than the accuracy."""

    @property
    def has_high_fsc(self) -> bool:
        """Whether the FSC is high at the limit of the images."""

    @property
    def has_converged(self) -> bool:
        """Whether the run has converged."""


class RunState(Protocol):
    """A refinement after an iteration."""

    @property
    def iteration(self) -> int:
        """Number of the iteration; 0 before the first."""

    @property
    def box_size(self) -> int:
        """Box of the reference, in pixels."""

    @property
    def voxel_size_A(self) -> float:
        """Voxel size of the reference."""

    @property
    def halves(self) -> Sequence[ModelValues]:
        """Models of the two half-sets."""

    @property
    def joined(self) -> ModelValues | None:
        """Model of all particles, or None before convergence."""

    @property
    def fsc(self) -> np.ndarray:
        """Correlation of the halves: (n_shell,)."""

    @property
    def poses(self) -> PoseValues:
        """Hidden variables of all particles."""

    @property
    def sampling(self) -> SamplingValues:
        """Search grid."""

    @property
    def convergence(self) -> ConvergenceValues:
        """Schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Options of a run that RELION's files record; names and meanings are those of its command line.

    ``files`` is the set that particles of tomograms came with, to be passed on; None for single particles.
    """

    command_line: str = ""
    random_seed: int = 0
    particle_diameter_A: float = 200.0
    mask_edge_px: float = 5.0
    zero_mask: bool = True
    flatten_solvent: bool = True
    solvent_correct_fsc: bool = False
    mask: str | None = None
    low_resol_join_halves_A: float = 40.0
    adaptive_fraction: float = 0.999
    auto_local_healpix_order: int = 4
    max_iterations: int = 999
    max_coarse_size: int = -1
    max_significant: int = -1
    strict_highres_exp_A: float = -1.0
    tau2_fudge: float = 1.0
    pad: int = 2
    ctf: bool = True
    ctf_intact_first_peak: bool = False
    ref_ctf_corrected: bool = True
    norm: bool = True
    scale: bool = True
    files: OptimisationSet | None = None
