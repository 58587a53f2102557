"""Maps from images whose poses are known, without refinement: every image is inserted once, whole and as it is.

As in ``relion_reconstruct`` an image is moved by its exact offset, multiplied by its CTF and inserted with weight
CTF^2. It is neither masked nor scaled, and all images weigh the same unless told otherwise. Images are read a block at
a time: memory holds the Fourier volume and a few blocks, however many particles there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

import numpy as np

from napari_autorefine.engine.context import frequency_matrix, image_correction
from napari_autorefine.engine.images import half_transforms, samples_of
from napari_autorefine.engine.insertion import HalfSum
from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.mtf import Mtf, mtf_deviation
from napari_autorefine.engine.problem import ReadImages
from napari_autorefine.engine.reconstruction import (
    Accumulators,
    complete_hermitian,
    reconstruct,
    shell_sigma2,
    symmetrize,
)
from napari_autorefine.engine.samples import FourierSamples
from napari_autorefine.engine.source import cut_into_blocks
from napari_autorefine.engine.spectra import ssnr_from_fsc
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Progress
from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.symmetry import point_group

_EDGE = 1.0 + 1e-5  # samples on the sphere |q| = r_max itself are inside, whatever their rounding
_BLOCK_BYTES = 8 << 20
_WAITING_BYTES = 64 << 20
_SLABS_PER_THREAD = 3  # slices are densest in the middle of the volume: smaller slabs share the work better
_WIDER, _FOLDED = 1.05, 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedImages:
    """Images with poses.

    Attributes
    ----------
    particles : poses, defocus, optics groups; boxes of the groups must be given
    read_images : indices (n,) of particles of one optics group -> (n, N, N) float32 images; called from threads
    weights : (n,) factor on every particle, on data and weight alike; None = 1
    mtf : per optics group, detector transfer as (frequency in 1/pixel, value) of its original pixel size, or None
    """

    particles: Particles
    read_images: ReadImages
    weights: np.ndarray | None = None
    mtf: tuple[Mtf | None, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertionOptions:
    """Grid of the map and treatment of the CTF; names and meanings are those of ``relion_reconstruct``.

    Attributes
    ----------
    box_size, voxel_size_A : of the map
    pad : padding factor
    r_max : largest frequency index that is used
    ctf : correct for it; without it aberrations are left alone as well
    ctf_intact_first_peak : 1 up to the first peak
    ctf_phase_flipped : images have been phase-flipped, so that their CTF is positive
    only_flip_phases : correct signs, not amplitudes
    """

    box_size: int
    voxel_size_A: float
    pad: int = 2
    r_max: int
    ctf: bool = True
    ctf_intact_first_peak: bool = False
    ctf_phase_flipped: bool = False
    only_flip_phases: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSampling:
    """How images of one optics group enter the volume.

    Attributes
    ----------
    samples : Fourier samples that are inserted, corners of the transform included
    frequency_matrix : (3, 3) image index -> padded index, before rotation
    frequencies : (n_sample, 2) in 1/A
    correction : (n_sample,) complex64 factor against odd aberrations and the deviation of the MTF, or None
    """

    optics: OpticsGroup
    samples: FourierSamples
    frequency_matrix: np.ndarray
    frequencies: np.ndarray
    correction: np.ndarray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertedSums:
    """Weighted sums of images, and the particles that were left out because their pixels are not all finite."""

    sums: Accumulators
    left_out: np.ndarray


def working_box(box_size: int, voxel_size_A: float, extent_A: float, pad: int) -> int:
    """Box in which a map of ``box_size`` is made from images that are ``extent_A`` wide; even, in voxels.

    Coefficients of an image are 1 / extent apart. In a much wider map they would leave gaps between them, and what lies
    beyond a much narrower one, padding included, would be folded back: such maps are made as wide as the images and
    padded or cut afterwards.
    """
    needed = extent_A / voxel_size_A
    if box_size <= _WIDER * needed and needed <= _FOLDED * pad * box_size:
        return box_size
    return max(2 * ceil(needed / 2.0 - 1e-6), 2)


def resolution_index(box_size: int, voxel_size_A: float, maxres_A: float | None) -> int:
    """Largest frequency index for a resolution limit, CEIL(N a / limit), at most N / 2."""
    half = box_size // 2
    return half if maxres_A is None else max(1, min(half, ceil(box_size * voxel_size_A / maxres_A)))


def square_samples(box_size: int, radius: float) -> FourierSamples:
    """Return all independent coefficients with |k| <= ``radius``, those in the corners beyond Nyquist included.

    Nyquist counts as the positive frequency; of the column x = 0 only y > 0 is kept; sample 0 is the origin.
    """
    half = box_size // 2
    runs = [(0, 0, 1)]
    for y in range(-(half - 1), half + 1):
        if abs(y) > radius:
            continue
        first, last = (1 if y <= 0 else 0), min(half, int(np.sqrt(radius**2 - y**2) + 1e-9))
        if last >= first:
            runs.append((y, first, last - first + 1))
    lengths = np.array([n for _, _, n in runs])
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rows = np.array([(0, y, x, n, o) for (y, x, n), o in zip(runs, offsets, strict=True)], dtype=np.int32)
    at_y = np.repeat(rows[:, 1], lengths)
    at_x = np.repeat(rows[:, 2], lengths) + np.arange(lengths.sum()) - np.repeat(offsets, lengths)
    n_sample, n_row, size = int(lengths.sum()), len(rows), ceil(2 * radius)
    return FourierSamples(
        box_size=box_size,
        sizes=(size, size, size),
        x=at_x.astype(np.int32),
        y=at_y.astype(np.int32),
        z=np.zeros(len(at_x), dtype=np.int32),
        shell=np.floor(np.hypot(at_x, at_y) + 0.5).astype(np.int32),
        rows=rows,
        counts=(n_sample, n_sample, n_sample),
        row_counts=(n_row, n_row, n_row),
    )


def group_samplings(images: PosedImages, options: InsertionOptions) -> dict[int, GroupSampling]:
    """Work out the samples of every optics group that has particles, by 0-based group."""
    groups = images.particles.optics
    return {
        int(index): _group_sampling(images, int(index), groups[index], options)
        for index in np.unique(images.particles.optics_index)
    }


def _group_sampling(images: PosedImages, index: int, optics: OpticsGroup, options: InsertionOptions) -> GroupSampling:
    matrix = frequency_matrix(optics, options.box_size, options.voxel_size_A, options.pad)
    samples = square_samples(optics.box_size, min(sample_radius(matrix, options), optics.box_size))
    frequencies = samples.frequencies(optics.pixel_size_A)
    correction = None
    if options.ctf:
        deviation = mtf_deviation(images.particles.optics, images.mtf, index, frequencies)
        correction = image_correction(optics, frequencies, deviation)
    return GroupSampling(
        optics=optics, samples=samples, frequency_matrix=matrix, frequencies=frequencies, correction=correction
    )


def sample_radius(matrix: np.ndarray, options: InsertionOptions) -> float:
    """Largest |k| of an image that ``matrix``, see ``GroupSampling``, takes into the volume."""
    smallest = float(np.linalg.svd(matrix[:2, :2], compute_uv=False)[-1])
    return (options.pad * options.r_max + 1) / smallest


def insert_images(
    images: PosedImages, rows: np.ndarray, options: InsertionOptions, *, stage: str = "inserting images"
) -> Generator[Progress, None, InsertedSums]:
    """Add up the images of ``rows``; yields progress and returns the sums, not yet completed.

    Sums do not depend on the number of threads.

    Parameters
    ----------
    images : with poses
    rows : particles that take part; read in this order within their optics group
    options : grid, CTF, threads
    stage : name in the progress
    """
    samplings = group_samplings(images, options)
    largest = max(sampling.samples.n_sample for sampling in samplings.values())
    size = max(1, min(64, _BLOCK_BYTES // (20 * largest)))
    blocks = cut_into_blocks(rows, images.particles.optics_index, size)
    return (yield from insert_blocks(blocks, partial(_prepare, images, samplings, options), options, stage=stage))


Prepared = tuple[Insertion, np.ndarray]


def insert_blocks(
    blocks: list[np.ndarray],
    prepare: Callable[[np.ndarray], Prepared],
    options: InsertionOptions,
    *,
    stage: str,
    data_dim: int = 2,
) -> Generator[Progress, None, InsertedSums]:
    """Add up blocks of particles; ``prepare`` returns what a block adds and the particles that it left out."""
    total = sum(map(len, blocks))
    sums = Accumulators.zeros(options.box_size, pad=options.pad, r_max=options.r_max, data_dim=data_dim)
    left_out: list[np.ndarray] = []
    began, done = time.monotonic(), 0
    with Workers(options.threads) as workers:
        growing = HalfSum(
            accumulators=sums,
            r2_max=sums.r2_max * _EDGE,
            run=workers.each,
            n_slabs=1 if workers.threads == 1 else _SLABS_PER_THREAD * workers.threads,
            limit_bytes=_WAITING_BYTES,
        )
        for block, (entry, bad) in _prepared_in_order(workers.ordered, blocks, prepare):
            growing.add(0, entry)
            left_out.append(bad)
            done += len(block)
            elapsed = time.monotonic() - began
            yield Progress(stage=stage, done=done, total=total, seconds_left=elapsed * (total / done - 1.0))
        growing.flush()
    return InsertedSums(sums=sums, left_out=np.concatenate(left_out) if left_out else np.empty(0, np.int64))


def _prepared_in_order(
    ordered: Callable[..., Iterable[Prepared]], blocks: list[np.ndarray], prepare: Callable[[np.ndarray], Prepared]
) -> Iterable[tuple[np.ndarray, Prepared]]:
    return zip(blocks, ordered(prepare, blocks), strict=True)


def _prepare(
    images: PosedImages, samplings: dict[int, GroupSampling], options: InsertionOptions, block: np.ndarray
) -> Prepared:
    """Read, transform, move and weigh the images of a block; also return the particles that cannot be used."""
    particles = images.particles
    sampling = samplings[int(particles.optics_index[block[0]])]
    raw = np.asarray(images.read_images(block), dtype=np.float32)
    good = np.isfinite(raw).all(axis=(1, 2))
    bad, block, raw = block[~good], block[good], raw[good]
    values = samples_of(half_transforms(raw), sampling.samples)
    if sampling.correction is not None:
        values *= sampling.correction
    values *= phase_ramps(sampling.samples, particles.origin_A[block, :2] / sampling.optics.pixel_size_A)
    gain, weight = _contrast(particles, sampling, options, block)
    amounts = np.ones(len(block)) if images.weights is None else images.weights[block]
    values *= gain * amounts[:, None].astype(np.float32)
    rotations = euler_to_matrix(particles.euler_deg[block])
    matrices = np.swapaxes(rotations, -1, -2) @ sampling.frequency_matrix
    entry = Insertion(
        orientations=block,
        matrices=np.ascontiguousarray(matrices, dtype=np.float32),
        values=values,
        amounts=amounts.astype(np.float32),
        sample_weight=weight,
        rows=sampling.samples.rows,
        origin_value=0.0,  # the mean grey value of a box says nothing about the particle
        origin_weight=float(weight[:, 0] @ amounts),
    )
    return entry, bad


def phase_ramps(samples: FourierSamples, shifts_px: np.ndarray) -> np.ndarray:
    """Factors that move images by (n, 2) shifts x, y in pixels, exactly; (n, n_sample) complex64."""
    half = samples.box_size // 2
    turns = -2j * np.pi / samples.box_size * np.asarray(shifts_px, dtype=np.float64)
    along_x = np.exp(turns[:, :1] * np.arange(half + 1)).astype(np.complex64)
    along_y = np.exp(turns[:, 1:] * np.arange(-half, half + 1)).astype(np.complex64)
    ramps: np.ndarray = along_x[:, samples.x] * along_y[:, samples.y + half]
    return ramps


def _contrast(
    particles: Particles, sampling: GroupSampling, options: InsertionOptions, block: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factor on the images and weight of each coefficient; both (n, n_sample) float32."""
    if not options.ctf:
        ones = np.ones((len(block), sampling.samples.n_sample), dtype=np.float32)
        return ones, ones
    values: np.ndarray = ctf(
        sampling.optics,
        particles.defocus_A[block],
        particles.defocus_angle_deg[block],
        particles.phase_shift_deg[block],
        particles.ctf_bfactor_A2[block],
        particles.ctf_scale[block],
        sampling.frequencies,
        intact_first_peak=options.ctf_intact_first_peak,
    )
    return gain_and_weight(values, sampling.optics, options)


def gain_and_weight(
    values: np.ndarray, optics: OpticsGroup, options: InsertionOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Turn CTFs (n, n_sample) into factors on images and weights of coefficients, of the same shape."""
    if options.ctf_phase_flipped:
        values = np.abs(values)
    elif options.only_flip_phases:
        values = np.sign(values)
    weight = values * values
    return (np.ones_like(values) if optics.is_premultiplied else values), weight


def close_sums(sums: Accumulators, symmetry: str, threads: int = 1) -> None:
    """Add Friedel mates and sum over the point group, in place: nothing can be inserted afterwards."""
    complete_hermitian(sums)
    symmetrize(sums, point_group(symmetry).operators, threads)


def map_of_sums(
    sums: Accumulators, *, skip_gridding: bool = True, fsc: np.ndarray | None = None, threads: int = 1
) -> np.ndarray:
    """Invert closed sums.

    Parameters
    ----------
    sums : closed, not changed
    skip_gridding : without, weights are iterated to compensate for uneven sampling
    fsc : (N // 2 + 1,) correlation of half-maps; the map is then filtered by the signal power that it implies
    threads : worker threads

    Returns
    -------
    (N, N, N) float32, on the absolute grey scale of the images
    """
    tau2 = None if fsc is None else ssnr_from_fsc(fsc, is_joint=True) * shell_sigma2(sums)
    return reconstruct(sums, tau2=tau2, skip_gridding=skip_gridding, threads=threads)


def with_box_sizes(particles: Particles, box_sizes: np.ndarray) -> Particles:
    """Return particles whose optics groups have the boxes (n,) of their images."""
    groups = list(particles.optics)
    for index in np.unique(particles.optics_index):
        first = np.flatnonzero(particles.optics_index == index)[0]
        groups[index] = replace(groups[index], box_size=int(box_sizes[first]))
    return replace(particles, optics=tuple(groups))
