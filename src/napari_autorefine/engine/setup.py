"""What stays fixed during a refinement: half-sets, scale groups, symmetry, solvent mask, image geometry."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from napari_autorefine.engine.context import (
    GroupGeometry,
    SearchGrid,
    frequency_matrix,
    image_correction,
    reference_shells,
)
from napari_autorefine.engine.images import coefficient_count
from napari_autorefine.engine.masking import circular_background, spherical_background, spherical_mask
from napari_autorefine.engine.mtf import mtf_deviation
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.randomness import random_halves
from napari_autorefine.engine.resident_images import ResidentImages
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.engine.shifts import shift_basis, tilt_basis
from napari_autorefine.engine.tilt_stacks import TiltGeometry, tilt_geometry
from napari_autorefine.errors import InputError
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.symmetry import PointGroup, point_group

_BLOCK_SIZE, _BLOCK_PIXELS = 16, 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Setup:
    """Constants of a refinement.

    Attributes
    ----------
    order : (n,) particle indices sorted by micrograph name, stable: the order random halves are drawn in
    half : (n,) int8, 1 or 2
    scale_group : (n,) int64 index into ``group_names``
    solvent : (N, N, N) float32 within [0, 1], 1 inside the particle
    tilts : how tilt stacks see their particles; None for images and volumes
    resident : images that stay on GPUs
    """

    problem: RefinementProblem
    options: RefineOptions
    group: PointGroup
    order: np.ndarray
    half: np.ndarray
    scale_group: np.ndarray
    group_names: tuple[str, ...]
    solvent: np.ndarray
    tilts: TiltGeometry | None = None
    resident: ResidentImages = field(default_factory=ResidentImages)

    @property
    def is_of_tomograms(self) -> bool:
        """Whether particles are volumes or tilt stacks, whose offsets have three coordinates."""
        return self.problem.particles.form != "image"

    @property
    def data_dim(self) -> int:
        """2 for images and tilt stacks, 3 for volumes: what is compared with slices, or with the map as a whole."""
        return 3 if self.problem.particles.form == "volume" else 2

    @property
    def offset_dim(self) -> int:
        """Coordinates of an offset."""
        return 3 if self.is_of_tomograms else 2

    @property
    def optics(self) -> tuple[OpticsGroup, ...]:
        """Optics groups of the particles."""
        return self.problem.particles.optics

    @property
    def block_size(self) -> int:
        """Particles that are worked on together: as many as profit from each other, and fewer when they are large."""
        if not self.is_of_tomograms:
            return _BLOCK_SIZE
        n_pixel = max(group.box_size for group in self.optics) ** self.data_dim
        n_pixel *= 1 if self.tilts is None else self.tilts.most_tilts
        return int(np.clip(_BLOCK_PIXELS // n_pixel, 1, _BLOCK_SIZE))

    @property
    def box_size(self) -> int:
        """Box of the reference."""
        return int(self.solvent.shape[0])

    @property
    def voxel_size_A(self) -> float:
        """Voxel size of the reference."""
        return self.problem.voxel_size_A

    @property
    def n_shell(self) -> int:
        """Shells of the reference grid."""
        return self.box_size // 2 + 1

    def members(self, half: int) -> np.ndarray:
        """Particles of a half-set, in sorted order."""
        return self.order[self.half[self.order] == half]


def prepare_setup(problem: RefinementProblem, options: RefineOptions) -> Setup:
    """Work out half-sets, groups and masks of a problem.

    Images are not normalised again when they come from tomograms, as tilts and volumes of one differ in what they show.
    """
    particles = problem.particles
    if particles.form != "image":
        options = replace(options, norm=False)
    first = problem.reference if isinstance(problem.reference, np.ndarray) else problem.reference[0]
    box_size = first.shape[0]
    order = np.argsort(particles.micrograph_name.astype(str), kind="stable")
    group_names, scale_group = np.unique(particles.group_name.astype(str), return_inverse=True)
    radius_px = options.particle_diameter_A / (2.0 * problem.voxel_size_A)
    solvent = problem.mask
    if solvent is None:
        solvent = spherical_mask(box_size, radius_px, options.mask_edge_px)
    return Setup(
        problem=problem,
        options=options,
        group=point_group(options.symmetry),
        order=order,
        half=_halves(particles.half, order, options.random_seed),
        scale_group=scale_group.astype(np.int64),
        group_names=tuple(group_names),
        solvent=np.asarray(solvent, dtype=np.float32),
        tilts=tilt_geometry(problem) if particles.form == "tilt_stack" else None,
    )


def _halves(given: np.ndarray, order: np.ndarray, seed: int) -> np.ndarray:
    """Half-sets as given, or drawn in sorted order when none is assigned."""
    if not np.any(given):
        half = np.empty(len(given), dtype=np.int8)
        half[order] = random_halves(len(given), seed)
    elif np.all(given):
        half = given.astype(np.int8)
    else:
        row = int(np.flatnonzero(given == 0)[0])
        raise InputError(
            f"rlnRandomSubset is 0 in row {row + 1} and set in others; give every particle a half-set or none."
        )
    for number in (1, 2):
        if not np.any(half == number):
            raise InputError(
                f"half-set {number} has no particles (rlnRandomSubset); assign both halves or remove the column."
            )
    return half


def group_geometry(setup: Setup, index: int, grid: SearchGrid, sizes: tuple[int, int, int]) -> GroupGeometry:
    """Work out the samples of an optics group at its working sizes (screening, first pass, all), masks and shifts."""
    optics = setup.optics[index]
    samples = fourier_samples(optics.box_size, sizes[2], sizes[1], sizes[0], dim=setup.data_dim)
    n_shell_image = optics.box_size // 2 + 1
    shells = reference_shells(n_shell_image, optics, setup.box_size, setup.voxel_size_A)
    frequencies = samples.frequencies(optics.pixel_size_A)
    correction = None  # volumes and tilt stacks were corrected when they were cut
    if not setup.is_of_tomograms:
        correction = image_correction(optics, frequencies, relative_mtf(setup, index, frequencies))
    pixel, screen, coarse = optics.pixel_size_A, slice(samples.n_screen), slice(samples.n_coarse)
    ring = slice(samples.n_screen, samples.n_coarse)
    basis = shift_basis if setup.tilts is None else tilt_basis
    trial_px, fine_px = grid.trial_shifts_A / pixel, grid.fine_shifts_A.reshape(-1, grid.shifts_A.shape[1]) / pixel
    coarse_shifts = basis(samples, trial_px, coarse)
    return GroupGeometry(
        index=index,
        optics=optics,
        samples=samples,
        frequency_matrix=_frequency_matrix(setup, optics),
        model_shell=shells[np.minimum(samples.shell, n_shell_image - 1)],
        outer_shell=shells,
        frequencies=frequencies,
        correction=correction,
        background=particle_background(setup, optics),
        coarse_shifts=coarse_shifts,
        screen_shifts=coarse_shifts if screen == coarse else basis(samples, trial_px, screen),
        ring_shifts=None if ring.start == ring.stop else basis(samples, trial_px, ring),
        fine_shifts=basis(samples, fine_px, slice(samples.n_sample)),
        count=np.bincount(shells, weights=coefficient_count(optics.box_size, setup.data_dim), minlength=setup.n_shell),
    )


def particle_background(setup: Setup, optics: OpticsGroup) -> np.ndarray:
    """Weight of the background of a group's images (N, N) or volumes (N, N, N), 1 outside the particle."""
    radius_px = setup.options.particle_diameter_A / (2.0 * optics.pixel_size_A)
    make = circular_background if setup.data_dim == 2 else spherical_background
    return make(optics.box_size, radius_px, setup.options.mask_edge_px)


def _frequency_matrix(setup: Setup, optics: OpticsGroup) -> np.ndarray:
    """See ``frequency_matrix``; the magnification of images has gone into volumes when they were made."""
    if setup.data_dim == 2:
        return frequency_matrix(optics, setup.box_size, setup.voxel_size_A, setup.options.pad)
    ratio = (setup.box_size * setup.voxel_size_A) / (optics.box_size * optics.pixel_size_A)
    return setup.options.pad * ratio * np.eye(3)


def relative_mtf(setup: Setup, index: int, frequencies: np.ndarray) -> np.ndarray | None:
    """MTF of a group over the mean of all groups at (n, 2) frequencies; None when there is nothing to correct.

    Only the deviation from the mean matters during refinement; the common fall-off is left for post-processing.
    """
    return mtf_deviation(setup.optics, setup.problem.mtf, index, frequencies)
