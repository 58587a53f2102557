"""What every particle of a half-set shares during one iteration: grid, reference, spectra, phase ramps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.grids import OrientationGrid, child_translations, translations
from napari_autorefine.engine.samples import FourierSamples
from napari_autorefine.engine.shifts import ShiftBasis
from napari_autorefine.engine.state import Sampling
from napari_autorefine.model.geometry import round_half_away
from napari_autorefine.model.optics import OpticsGroup, aberration_phase, magnification_matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchGrid:
    """Orientations and shifts searched in one iteration; shifts of particles of tomograms have three coordinates.

    Attributes
    ----------
    shifts_A : (n_trans, 2) coarse shifts, unperturbed: priors are evaluated here
    trial_shifts_A : (n_trans, 2) the same, perturbed: what the first pass tries
    fine_shifts_A : (n_trans, n_child, 2) perturbed children
    """

    orientations: OrientationGrid
    perturbation: float
    shifts_A: np.ndarray
    trial_shifts_A: np.ndarray
    fine_shifts_A: np.ndarray

    @property
    def fine_step_A(self) -> float:
        """Distance of neighboring fine shifts along an axis."""
        return float(self.fine_shifts_A[0, 1, 0] - self.fine_shifts_A[0, 0, 0])

    @classmethod
    def from_sampling(cls, sampling: Sampling, orientations: OrientationGrid) -> SearchGrid:
        """Grid of a sampling state."""
        dim = 3 if sampling.is_3d_translation else 2
        shifts = translations(sampling.offset_range_A, sampling.offset_step_A, dim)
        moved = shifts + sampling.perturbation * sampling.offset_step_A
        return cls(
            orientations=orientations,
            perturbation=sampling.perturbation,
            shifts_A=shifts,
            trial_shifts_A=moved,
            fine_shifts_A=child_translations(moved, sampling.offset_step_A),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePart:
    """Part of the samples: which, how many, the rows a kernel walks along, and trial shifts on them."""

    where: slice
    n_sample: int
    rows: np.ndarray
    shifts: ShiftBasis


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGeometry:
    """How images of one optics group relate to the reference; fixed while image sizes stay.

    Attributes
    ----------
    index : 0-based optics group
    samples : Fourier samples compared in this iteration
    frequency_matrix : (3, 3) padded reference index = R^T-part @ this @ image index
    model_shell : (n_sample,) int64, reference shell of every sample
    outer_shell : (n_image_shell,) int64, reference shell of every image shell
    frequencies : (n_sample, 2) in 1/A, of images
    correction : (n_sample,) complex64 odd-aberration and MTF factor of the images, or None
    background : (N, N) or (N, N, N) float32, 1 outside the particle
    coarse_shifts : trial shifts of the first pass on its samples
    screen_shifts, ring_shifts : the same on the screening disc and on the ring around it; None without such a ring
    fine_shifts : trial shifts of the second pass on all samples
    count : (n_shell,) coefficients per reference shell that noise is summed over
    """

    index: int
    optics: OpticsGroup
    samples: FourierSamples
    frequency_matrix: np.ndarray
    model_shell: np.ndarray
    outer_shell: np.ndarray
    frequencies: np.ndarray
    correction: Any | None
    background: Any
    coarse_shifts: ShiftBasis
    screen_shifts: ShiftBasis
    ring_shifts: ShiftBasis | None
    fine_shifts: ShiftBasis
    count: np.ndarray

    @property
    def screen(self) -> SamplePart:
        """The screening disc."""
        samples = self.samples
        return SamplePart(
            where=slice(samples.n_screen),
            n_sample=samples.n_screen,
            rows=samples.screen_rows,
            shifts=self.screen_shifts,
        )

    @property
    def ring(self) -> SamplePart | None:
        """What the first pass uses beyond the screening disc, if anything."""
        samples = self.samples
        if self.ring_shifts is None:
            return None
        return SamplePart(
            where=slice(samples.n_screen, samples.n_coarse),
            n_sample=samples.n_coarse - samples.n_screen,
            rows=samples.ring_rows,
            shifts=self.ring_shifts,
        )

    @property
    def whole(self) -> SamplePart:
        """All samples, as in the second pass."""
        samples = self.samples
        return SamplePart(
            where=slice(samples.n_sample), n_sample=samples.n_sample, rows=samples.rows, shifts=self.fine_shifts
        )

    def sampling_matrices(self, rotations: np.ndarray) -> np.ndarray:
        """Kernel matrices (n, 3, 3) float32 of reference -> view rotations (n, 3, 3)."""
        turned = np.swapaxes(rotations, -1, -2) @ self.frequency_matrix
        return np.ascontiguousarray(turned, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupModel:
    """Noise model of one optics group in one half-set, on its samples.

    Attributes
    ----------
    inverse_sigma2 : (n_sample,) float32, 1 / sigma2 of the sample's shell
    score_weight : (n_sample,) float32, the same over the likelihood's sigma2 fudge, and 0 at the origin
    expected_power : (n_sample,) float32, mean |P|^2 of slices that the spectra promise
    log_noise : sum over samples of log(2 pi sigma2)
    """

    inverse_sigma2: Any
    score_weight: Any
    expected_power: Any
    log_noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfContext:
    """One half-set's reference and model in one iteration.

    Attributes
    ----------
    half : 1 or 2
    reference : (n_z, n_y, n_x) complex64 padded Fourier volume
    r2_max : squared radius of the reference in padded units
    log_pdf_direction : (n_dir,) float32
    use_for_scale : (n_shell,) float32, 1 for shells that take part in the scale correction
    use_for_intensity : (n_shell,) float32, the same for the intensity of single particles
    sigma2_noise : (n_optics, n_shell) float64
    """

    half: int
    reference: Any
    r2_max: float
    models: tuple[GroupModel, ...]
    log_pdf_direction: np.ndarray
    use_for_scale: np.ndarray
    use_for_intensity: np.ndarray
    sigma2_noise: np.ndarray
    norm_average: float
    scale: np.ndarray
    sigma_offset_A: float


def frequency_matrix(optics: OpticsGroup, box_size: int, voxel_size_A: float, pad: int) -> np.ndarray:
    """(3, 3) matrix from image frequency index to padded reference index, before rotation.

    Image index n means n / (N_img a_img) in 1/A, that is reference index n (N_ref a_ref) / (N_img a_img).
    """
    ratio = (box_size * voxel_size_A) / (optics.box_size * optics.pixel_size_A)
    return pad * ratio * np.linalg.inv(magnification_matrix(optics))


def image_correction(
    optics: OpticsGroup, frequencies: np.ndarray, relative_mtf: np.ndarray | None
) -> np.ndarray | None:
    """Factor that takes odd aberrations and the deviation of the MTF from the mean out of an image, or None."""
    phase = aberration_phase(optics, frequencies)
    if relative_mtf is None and not np.any(phase):
        return None
    factor = np.exp(-1j * phase)
    if relative_mtf is not None:
        factor = factor / relative_mtf
    return factor.astype(np.complex64)


def reference_shells(n_shell_image: int, optics: OpticsGroup, box_size: int, voxel_size_A: float) -> np.ndarray:
    """Return the reference shell of every image shell, ROUND(i N_ref a_ref / (N_img a_img)), at most N_ref / 2."""
    ratio = (box_size * voxel_size_A) / (optics.box_size * optics.pixel_size_A)
    shells = round_half_away(np.arange(n_shell_image) * ratio).astype(np.int64)
    return np.minimum(shells, box_size // 2)
