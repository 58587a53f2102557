"""What a refinement needs: the data, and how to treat them. Plain values; files and widgets live elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from napari_autorefine.model.particles import Particles
from napari_autorefine.model.tomography import Tomogram

# Indices (n,) of particles of one optics group -> float32 images (n, N, N), volumes (n, N, N, N), or n tilt stacks
# (n_visible, N, N), as many images in each as the particle has visible tilts.
ReadImages = Callable[[np.ndarray], np.ndarray | Sequence[np.ndarray]]
# Indices (n,) -> sums of squared CTFs and, unless files have none, multiplicities; (n, N, N, N // 2 + 1) each.
ReadWeights = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TomogramData:
    """What particles of tomograms bring besides their images.

    Attributes
    ----------
    read_weights : CTF and multiplicity volumes of volumes; called from threads. None: refined without CTF, or stacks
    tomograms : tilt series by name; needed for tilt stacks
    tilts : per particle the rows (n_visible,) of its tilt series that its stack holds; empty for volumes
    holds_ctf : CTF volumes hold the CTF, not its square
    is_normalised : volumes and squared CTFs were divided by the multiplicity
    ignores_multiplicity : noise is taken to be as strong however many tilts meet in a coefficient
    least_multiplicity : coefficients with less are left out
    """

    read_weights: ReadWeights | None = None
    tomograms: Mapping[str, Tomogram]
    tilts: Sequence[np.ndarray] = ()
    holds_ctf: bool = False
    is_normalised: bool = False
    ignores_multiplicity: bool = False
    least_multiplicity: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RefinementProblem:
    """The data of a refinement.

    Attributes
    ----------
    particles : rows to refine; ``half`` may still be unassigned
    read_images : indices (n,) of particles of one optics group -> their images; called from threads
    reference : (N, N, N) map for both halves, or one per half
    voxel_size_A : of the reference; every model quantity lives on its grid
    mask : (N, N, N) solvent mask within [0, 1]; None = sphere of the particle diameter
    mtf : per optics group, detector transfer as (frequency in 1/pixel, value) of its original pixel size, or None
    tomogram_data : what only particles of tomograms have; None for single particles
    """

    particles: Particles
    read_images: ReadImages
    reference: np.ndarray | tuple[np.ndarray, np.ndarray]
    voxel_size_A: float
    mask: np.ndarray | None = None
    mtf: tuple[tuple[np.ndarray, np.ndarray] | None, ...] | None = None
    tomogram_data: TomogramData | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineOptions:
    """How to refine. Names and meanings are those of ``relion_refine``; defaults are the tutorials'."""

    symmetry: str = "C1"
    particle_diameter_A: float = 200.0
    ini_high_A: float = 60.0
    firstiter_cc: bool = True
    ctf: bool = True
    ctf_intact_first_peak: bool = False
    zero_mask: bool = True
    flatten_solvent: bool = True
    solvent_correct_fsc: bool = False
    healpix_order: int = 2
    auto_local_healpix_order: int = 4
    offset_range_px: float = 5.0
    offset_step_px: float = 2.0
    auto_ignore_angles: bool = True
    auto_resol_angles: bool = True
    low_resol_join_halves_A: float = 40.0
    pad: int = 2
    skip_gridding: bool = True
    norm: bool = True
    scale: bool = True
    particle_scale: bool = True
    tau2_fudge: float = 1.0
    adaptive_fraction: float = 0.999
    max_significant: int = -1
    perturb: float = 0.5
    random_seed: int = 0
    mask_edge_px: float = 5.0
    sigma_offset_A: float = 10.0
    sigma_tilt_deg: float = -1.0
    min_sigma2_offset_A2: float = 2.0
    sigma2_fudge: float = 1.0
    incr_size: int = 10
    max_coarse_size: int = -1
    strict_highres_exp_A: float = -1.0
    minres_map: int = 5
    max_iterations: int = 999
    force_converge: bool = False
    threads: int = 1
    devices: tuple[int, ...] = ()
    tf32: bool = False
    memory_bytes: int = 2 << 30
