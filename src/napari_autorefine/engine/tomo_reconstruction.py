"""Maps from particles of tomograms whose poses are known: volumes, or stacks of tilt images.

The steps are those of ``direct_reconstruction``. The transform of a volume is turned as a whole and inserted with the
sums of squared CTFs that come with it, which are 0 in the missing wedge. Every image of a tilt stack is inserted as the
slice that its tilt shows, with the CTF of the particle's height and the dose. Either way one particle is in memory at a
time and thread.

Particles were cut with the aberrations of their optics group taken out, so that these are not corrected again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy.fft

from napari_autorefine.engine.context import frequency_matrix
from napari_autorefine.engine.direct_reconstruction import (
    GroupSampling,
    InsertedSums,
    InsertionOptions,
    Prepared,
    gain_and_weight,
    insert_blocks,
    phase_ramps,
    sample_radius,
    square_samples,
)
from napari_autorefine.engine.images import half_transforms, samples_of
from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.source import cut_into_blocks
from napari_autorefine.events import Progress
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.tomography import Tomogram, positions_px, subtomogram_matrices, tilt_ctfs

ReadWeights = Callable[[int], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedVolumes:
    """Volumes of particles with poses.

    Attributes
    ----------
    particles : poses, optics groups with boxes
    read_volume : row -> (N, N, N) float32; called from threads
    read_weights : row -> CTF and multiplicity volumes (N, N, N // 2 + 1), the latter may be None; None = no CTF volumes
    weights : (n,) factor on every particle; None = 1
    holds_ctf : CTF volumes hold the CTF, not its square
    is_normalised : data and squared CTFs were divided by the multiplicity
    """

    particles: Particles
    read_volume: Callable[[int], np.ndarray]
    read_weights: ReadWeights | None = None
    weights: np.ndarray | None = None
    holds_ctf: bool = False
    is_normalised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedTiltStacks:
    """Tilt stacks of particles with poses.

    Attributes
    ----------
    particles : poses, coordinates, optics groups with boxes
    tomograms : their tilt series by name
    tilts : for every particle the rows (n_visible,) of its tilt series that its stack holds
    read_stack : row -> (n_visible, N, N) float32; called from threads
    weights : (n,) factor on every particle; None = 1
    """

    particles: Particles
    tomograms: Mapping[str, Tomogram]
    tilts: Sequence[np.ndarray]
    read_stack: Callable[[int], np.ndarray]
    weights: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSamples:
    """Independent coefficients of a real volume, the origin first; see ``FourierSamples``.

    Attributes
    ----------
    z, y, x : (n_sample,) int32
    flat : (n_sample,) int64, places in a half transform (N, N, N // 2 + 1)
    rows : (n_row, 5) int32, ``z, y, x_start, n, offset``
    """

    box_size: int
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    flat: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSampling:
    """How volumes of one optics group enter the map; ``frequency_matrix`` as in ``GroupSampling``."""

    samples: VolumeSamples
    frequency_matrix: np.ndarray
    pixel_size_A: float
    is_premultiplied: bool


def cube_samples(box_size: int, radius: float) -> VolumeSamples:
    """Return all independent coefficients of a volume with |k| <= ``radius``; Nyquist counts as positive.

    Of the plane x = 0 the half with y > 0 is kept, and of its line y = 0 the half with z > 0.
    """
    half = box_size // 2
    axis = np.arange(-(half - 1), half + 1)
    z, y = (grid.ravel() for grid in np.meshgrid(axis, axis, indexing="ij"))
    room = radius**2 - z**2 - y**2
    last = np.minimum(np.floor(np.sqrt(np.maximum(room, 0)) + 1e-9), half).astype(np.int64)
    first = np.where((y > 0) | ((y == 0) & (z > 0)), 0, 1)
    used = (room >= 0) & (last >= first)
    z, y, first, n = (np.append(0, a[used]) for a in (z, y, first, last - first + 1))
    n[0] = 1
    offset = np.concatenate([[0], np.cumsum(n)[:-1]])
    at_z, at_y = np.repeat(z, n), np.repeat(y, n)
    at_x = np.repeat(first - offset, n) + np.arange(n.sum())
    return VolumeSamples(
        box_size=box_size,
        z=at_z.astype(np.int32),
        y=at_y.astype(np.int32),
        x=at_x.astype(np.int32),
        flat=((at_z % box_size) * box_size + at_y % box_size) * (half + 1) + at_x,
        rows=np.stack([z, y, first, n, offset], axis=1).astype(np.int32),
    )


def insert_subtomograms(
    images: PosedVolumes | PosedTiltStacks,
    rows: np.ndarray,
    options: InsertionOptions,
    *,
    stage: str = "inserting particles",
) -> Generator[Progress, None, InsertedSums]:
    """Add up the particles of ``rows``; see ``direct_reconstruction.insert_images``."""
    blocks = cut_into_blocks(rows, images.particles.optics_index, 1)
    groups = np.unique(images.particles.optics_index[rows]).tolist()
    if isinstance(images, PosedVolumes):
        volume_samplings = {group: _volume_sampling(images.particles, group, options) for group in groups}
        prepare: Callable[[np.ndarray], Prepared] = partial(_prepare_volume, images, volume_samplings, options)
        return (yield from insert_blocks(blocks, prepare, options, stage=stage, data_dim=3))
    samplings = {group: _slice_sampling(images.particles, group, options) for group in groups}
    prepare = partial(_prepare_stack, images, samplings, options)
    return (yield from insert_blocks(blocks, prepare, options, stage=stage))


def _volume_sampling(particles: Particles, group: int, options: InsertionOptions) -> VolumeSampling:
    optics = particles.optics[group]
    ratio = (options.box_size * options.voxel_size_A) / (optics.box_size * optics.pixel_size_A)
    matrix = options.pad * ratio * np.eye(3)  # magnification is of images, and went into the volume
    return VolumeSampling(
        samples=cube_samples(optics.box_size, min(sample_radius(matrix, options), optics.box_size)),
        frequency_matrix=matrix,
        pixel_size_A=optics.pixel_size_A,
        is_premultiplied=optics.is_premultiplied,
    )


def _prepare_volume(
    images: PosedVolumes, samplings: Mapping[int, VolumeSampling], options: InsertionOptions, block: np.ndarray
) -> Prepared:
    """Read, transform, move and weigh one volume."""
    row, particles = int(block[0]), images.particles
    sampling = samplings[int(particles.optics_index[row])]
    volume = images.read_volume(row)
    gain, weight = _volume_weights(images, sampling, options, row)
    if not (np.isfinite(volume).all() and np.isfinite(weight).all()):
        return _nothing(sampling.samples.rows, len(sampling.samples.x)), block
    spectrum = scipy.fft.rfftn(np.asarray(volume, np.float32))
    values = spectrum.reshape(-1)[sampling.samples.flat].astype(np.complex64, copy=False)
    values *= _volume_ramp(sampling.samples, particles.origin_A[row] / sampling.pixel_size_A)
    amount = 1.0 if images.weights is None else float(images.weights[row])
    values *= np.float32(amount) if gain is None else gain * np.float32(amount)
    values[weight <= 0] = 0  # the missing wedge, where files hold rounding errors
    turned = euler_to_matrix(particles.euler_deg[row]).T @ sampling.frequency_matrix
    entry = Insertion(
        orientations=block,
        matrices=np.ascontiguousarray(turned[None], dtype=np.float32),
        values=values[None],
        amounts=np.array([amount], np.float32),
        sample_weight=weight,
        rows=sampling.samples.rows,
        origin_value=0.0,  # as for images
        origin_weight=float(weight[0]) * amount,
    )
    return entry, np.empty(0, np.int64)


def _volume_weights(
    images: PosedVolumes, sampling: VolumeSampling, options: InsertionOptions, row: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """Factor on the data, None for 1, and weight of each coefficient; (n_sample,) float32."""
    if not options.ctf or images.read_weights is None:
        return None, np.ones(len(sampling.samples.x), np.float32)
    ctf, multiplicity = (
        None if one is None else one.reshape(-1)[sampling.samples.flat].astype(np.float32)
        for one in images.read_weights(row)
    )
    assert ctf is not None
    if not sampling.is_premultiplied:
        return ctf, ctf * ctf
    weight = ctf * ctf if images.holds_ctf else np.abs(ctf)
    if images.is_normalised and multiplicity is not None:
        return multiplicity, weight * multiplicity
    return None, weight


def _volume_ramp(samples: VolumeSamples, shift_px: np.ndarray) -> np.ndarray:
    """Factor (n_sample,) complex64 that moves a volume by x y z and its origin to the box center, with 1 / N^3."""
    n = samples.box_size
    axis = np.arange(-(n // 2), n // 2 + 1)
    turns = (n // 2 - np.asarray(shift_px, dtype=np.float64)) / n
    along = [np.exp(2j * np.pi * turn * axis).astype(np.complex64) for turn in turns]
    along[0] = along[0] / np.float32(float(n) ** 3)
    ramp: np.ndarray = along[0][samples.x + n // 2]
    ramp *= along[1][samples.y + n // 2]
    ramp *= along[2][samples.z + n // 2]
    return ramp


def _slice_sampling(particles: Particles, group: int, options: InsertionOptions) -> GroupSampling:
    optics = particles.optics[group]
    matrix = frequency_matrix(optics, options.box_size, options.voxel_size_A, options.pad)
    samples = square_samples(optics.box_size, min(sample_radius(matrix, options), optics.box_size))
    return GroupSampling(
        optics=optics,
        samples=samples,
        frequency_matrix=matrix,
        frequencies=samples.frequencies(optics.pixel_size_A),
        correction=None,
    )


def _prepare_stack(
    images: PosedTiltStacks, samplings: Mapping[int, GroupSampling], options: InsertionOptions, block: np.ndarray
) -> Prepared:
    """Read, transform, move and weigh the tilt images of one particle."""
    row, particles = int(block[0]), images.particles
    sampling = samplings[int(particles.optics_index[row])]
    raw = np.asarray(images.read_stack(row), dtype=np.float32)
    if not np.isfinite(raw).all():
        return _nothing(sampling.samples.rows, sampling.samples.n_sample), block
    assert particles.subtomograms is not None
    place = particles.subtomograms.selected(block)
    tomogram, tilts = images.tomograms[str(place.tomogram_name[0])], images.tilts[row]
    views = tomogram.rotations[tilts] @ subtomogram_matrices(place)[0]
    values = samples_of(half_transforms(raw), sampling.samples)
    shifts_A = views[:, :2] @ particles.origin_A[row]
    values *= phase_ramps(sampling.samples, shifts_A / sampling.optics.pixel_size_A)
    gain = weight = np.ones(values.shape, np.float32)
    if options.ctf:
        transfer = tilt_ctfs(
            tomogram,
            positions_px(place, images.tomograms)[0],  # where it was cut, which its images were multiplied for
            sampling.optics,
            sampling.frequencies,
            tilts=tilts,
            intact_first_peak=options.ctf_intact_first_peak,
        )
        gain, weight = gain_and_weight(transfer, sampling.optics, options)
    amount = np.float32(1.0 if images.weights is None else images.weights[row])
    values *= gain * amount
    turned = np.swapaxes(views @ euler_to_matrix(particles.euler_deg[row]), -1, -2) @ sampling.frequency_matrix
    entry = Insertion(
        orientations=tilts,
        matrices=np.ascontiguousarray(turned, dtype=np.float32),
        values=values,
        amounts=np.full(len(tilts), amount),
        sample_weight=weight,
        rows=sampling.samples.rows,
        origin_value=0.0,
        origin_weight=float(weight[:, 0].sum() * amount),
    )
    return entry, np.empty(0, np.int64)


def _nothing(rows: np.ndarray, n_sample: int) -> Insertion:
    """Return what a particle adds that cannot be used."""
    return Insertion(
        orientations=np.empty(0, np.int64),
        matrices=np.empty((0, 3, 3), np.float32),
        values=np.empty((0, n_sample), np.complex64),
        amounts=np.empty(0, np.float32),
        sample_weight=np.empty((0, n_sample), np.float32),
        rows=rows,
        origin_value=0.0,
        origin_weight=0.0,
    )
