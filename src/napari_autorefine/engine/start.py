"""The state before the first iteration: filtered reference, noise from the images, first grid."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np

from napari_autorefine.engine.context import reference_shells
from napari_autorefine.engine.handedness import hand_warning, mirror_similarity
from napari_autorefine.engine.images import half_transforms, move_and_mask, noise_images, shell_means
from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.engine.problem import TomogramData
from napari_autorefine.engine.randomness import next_perturbation
from napari_autorefine.engine.sampling import initial_sampling
from napari_autorefine.engine.setup import Setup, particle_background
from napari_autorefine.engine.source import BlockSource, RawParticles, read_raw
from napari_autorefine.engine.spectra import (
    current_resolution_shell,
    image_power_spectrum,
    initial_sigma2_noise,
    initial_ssnr,
    initial_tau2,
    low_pass_shell,
)
from napari_autorefine.engine.state import Convergence, HalfModel, Poses, RefinementState
from napari_autorefine.engine.tilt_stacks import tilt_offsets
from napari_autorefine.engine.transfers import shell_transfers
from napari_autorefine.engine.volumes import weight_grids
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Message, Progress
from napari_autorefine.model.geometry import round_half_away

_N_NOISE_PARTICLES, _N_NOISE_VOLUMES, _CHUNK = 1000, 10, 32
_LEAST_SHARE = 1e-4  # of noise in shells that images hardly show, as the origin without amplitude contrast


def initial_poses(setup: Setup) -> Poses:
    """Poses of the file."""
    particles = setup.problem.particles
    n = len(particles)
    return Poses(
        euler_deg=np.array(particles.euler_deg, dtype=np.float64),
        origin_A=np.array(particles.origin_A[:, : setup.offset_dim], dtype=np.float64),
        p_max=np.zeros(n),
        log_likelihood=np.zeros(n),
        n_significant=np.zeros(n, dtype=np.int64),
        norm_correction=np.where(particles.norm_correction > 0, particles.norm_correction, 1.0),
    )


def initial_state(setup: Setup, workers: Workers) -> Generator[Progress | Message, None, RefinementState]:
    """Estimate the noise, filter the reference and choose the first grid; yields progress."""
    options = setup.options
    yield Progress(stage="hand of the reference", done=0, total=1, iteration=0)
    warning = _hand_warning(setup)
    if warning is not None:
        yield warning
    poses = initial_poses(setup)
    sigma2 = yield from initial_noise(setup, poses, workers)
    yield Progress(stage="filtering the reference", done=0, total=2, iteration=0)
    given = setup.problem.reference
    references = (given, given) if isinstance(given, np.ndarray) else given
    sampling = initial_sampling(options, voxel_size_A=setup.voxel_size_A, is_3d_translation=setup.is_of_tomograms)
    perturbation = next_perturbation(0.0, options.perturb, options.random_seed, 0)
    halves = tuple(
        _initial_half(setup, map_, sigma2, int(np.count_nonzero(setup.half == half)))
        for half, map_ in zip((1, 2), references, strict=True)
    )
    shell = current_resolution_shell(halves[0].ssnr).shell
    if options.ini_high_A > 0:
        shell = low_pass_shell(options.ini_high_A, setup.box_size, setup.voxel_size_A)
    return RefinementState(
        iteration=0,
        box_size=setup.box_size,
        voxel_size_A=setup.voxel_size_A,
        halves=(halves[0], halves[1]),
        fsc=np.zeros(setup.n_shell),
        poses=poses,
        sampling=replace(sampling, perturbation=perturbation),
        convergence=Convergence(
            current_resolution_A=setup.box_size * setup.voxel_size_A / max(shell, 1), incr_size=options.incr_size
        ),
    )


def _hand_warning(setup: Setup) -> Message | None:
    """Warn when the filtered reference looks like its mirror image."""
    given = setup.problem.reference
    similarity = mirror_similarity(
        given if isinstance(given, np.ndarray) else given[0],
        resolution_A=setup.options.ini_high_A,
        voxel_size_A=setup.voxel_size_A,
        particle_diameter_A=setup.options.particle_diameter_A,
        threads=setup.options.threads,
    )
    return hand_warning(similarity)


def _initial_half(setup: Setup, map_: np.ndarray, sigma2: np.ndarray, n_particles: int) -> HalfModel:
    options = setup.options
    filtered = np.asarray(map_, dtype=np.float32)
    if options.ini_high_A > 0:
        filtered = low_pass_map(filtered, options.ini_high_A, setup.voxel_size_A)
    tau2 = initial_tau2(filtered, tau2_fudge=options.tau2_fudge, data_dim=setup.data_dim, threads=options.threads)
    zeros = np.zeros(setup.n_shell)
    return HalfModel(
        map=filtered,
        tau2=tau2,
        ssnr=initial_ssnr(tau2, sigma2, n_particles),
        sigma2_map=zeros,
        completeness=zeros,
        sigma2_noise=sigma2,
        scale=np.ones(len(setup.group_names)),
        norm_average=1.0,
        sigma_offset_A=options.sigma_offset_A,
        pdf_direction=np.zeros(0),
        mean_p_max=0.0,
        log_likelihood=0.0,
        accuracy_rot_deg=999.0,
        accuracy_trans_A=999.0,
        orientability=zeros,
    )


def initial_noise(setup: Setup, poses: Poses, workers: Workers) -> Generator[Progress | Message, None, np.ndarray]:
    """Noise spectra of every optics group from at most 1000 masked images each; (n_optics, n_shell).

    Half the difference between the mean of the spectra and the spectrum of the mean image, per group. Of tilt stacks
    all tilts count; ten volumes are enough, whose power is divided by the multiplicity.
    """
    order = np.concatenate([setup.members(1), setup.members(2)])
    optics_index = setup.problem.particles.optics_index
    sigma2 = np.empty((len(setup.optics), setup.n_shell))
    source = BlockSource.of(setup, poses)
    for index, optics in enumerate(setup.optics):
        chosen = _noise_particles(setup, order[optics_index[order] == index])
        if len(chosen) == 0:
            sigma2[index] = np.nan
            continue
        background = particle_background(setup, optics)

        def measure(part: np.ndarray, background: np.ndarray = background) -> NoiseSums:
            return _measure(setup, source, part, background)

        size = _CHUNK if setup.data_dim == 2 else 1
        chunks = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        total, done = NoiseSums(), 0
        for chunk, found in zip(chunks, workers.ordered(measure, chunks), strict=True):
            total = total.plus(found)
            done += len(chunk)
            yield Progress(stage="noise spectra", done=done, total=len(chosen), iteration=0)
        sigma2[index] = _on_reference_grid(setup, index, total.sigma2())
    without_images = np.isnan(sigma2[:, 0])
    sigma2[without_images] = np.nanmean(sigma2, axis=0)
    return sigma2


def _noise_particles(setup: Setup, own: np.ndarray) -> np.ndarray:
    """Return the particles of a group whose images tell the noise."""
    if setup.data_dim == 3:
        return own[:_N_NOISE_VOLUMES]
    if setup.tilts is None:
        return own[:_N_NOISE_PARTICLES]
    upto = np.cumsum([len(setup.tilts.tilts[row]) for row in own])
    return own[: max(int(np.searchsorted(upto, _N_NOISE_PARTICLES)), 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSums:
    """Spectra and images of some particles, summed.

    Attributes
    ----------
    spectrum : (n_image_shell,) mean power per shell of every image
    image : sum of the images; 0 for volumes, in whose wedges a mean has no meaning
    n_image : number of images; of volumes the mean multiplicity per shell, summed, of premultiplied images the squared
        CTF
    n_total : number of images
    """

    spectrum: np.ndarray | float = 0.0
    image: np.ndarray | float = 0.0
    n_image: np.ndarray | float = 0.0
    n_total: int = 0

    def plus(self, other: NoiseSums) -> NoiseSums:
        """Return the sums of both."""
        return NoiseSums(
            spectrum=self.spectrum + other.spectrum,
            image=self.image + other.image,
            n_image=self.n_image + other.n_image,
            n_total=self.n_total + other.n_total,
        )

    def sigma2(self) -> np.ndarray:
        """Noise variance per component and shell (n_image_shell,)."""
        spectrum = np.asarray(self.spectrum)
        n = np.broadcast_to(np.asarray(self.n_image, dtype=np.float64), spectrum.shape)
        share = np.divide(1.0, n, out=np.zeros(n.shape), where=n > _LEAST_SHARE * self.n_total)
        if isinstance(self.image, float):
            return initial_sigma2_noise(spectrum * share, np.zeros(1))
        mean_power = image_power_spectrum((self.image / self.n_total)[None])[0]
        return initial_sigma2_noise(spectrum * share, mean_power * (self.n_total * share))


def _measure(setup: Setup, source: BlockSource, part: np.ndarray, background: np.ndarray) -> NoiseSums:
    """Return the summed spectrum and the summed image of some particles."""
    raw = read_raw(source, part)
    optics = setup.optics[int(setup.problem.particles.optics_index[part[0]])]
    shifts = round_half_away(source.poses.origin_A[part] / optics.pixel_size_A)
    seeds = setup.options.random_seed + part
    pixels = raw.images
    if setup.tilts is not None:
        moves = [tilt_offsets(setup.tilts.views(int(row)), shift)[0] for row, shift in zip(part, shifts, strict=True)]
        pixels, shifts = np.concatenate(pixels), np.concatenate(moves)
        seeds = seeds[0] * len(pixels) + np.arange(len(pixels))
    fill = None
    if not setup.options.zero_mask:
        flat = np.full(optics.box_size // 2 + 1, 0.5 / float(optics.box_size) ** setup.data_dim)
        fill = noise_images(flat, pixels.shape[1:], seeds)
    masked, _ = move_and_mask(pixels, shifts, np.ones(len(pixels)), background, fill=fill)
    if setup.data_dim == 3:
        return _volume_noise(raw, masked, setup.problem.tomogram_data, is_premultiplied=optics.is_premultiplied)
    return NoiseSums(
        spectrum=image_power_spectrum(masked).sum(axis=0),
        image=masked.sum(axis=0, dtype=np.float64),
        n_image=shell_transfers(source, optics, part).sum(axis=0) if optics.is_premultiplied else float(len(masked)),
        n_total=len(masked),
    )


def _volume_noise(
    raw: RawParticles, masked: np.ndarray, data: TomogramData | None, *, is_premultiplied: bool
) -> NoiseSums:
    """Power of volumes where they hold data, and by how much their noise varies."""
    grids = None
    if raw.ctf is not None and data is not None:
        grids = weight_grids(raw.ctf, raw.multiplicity, data, is_premultiplied=is_premultiplied)
    total = NoiseSums()
    for i, volume in enumerate(masked):
        transform = half_transforms(volume[None])[0]
        factor, seen = (1.0, np.ones(transform.shape)) if grids is None else (grids.factor[i], grids.spread[i])
        power, counts = shell_means(np.abs(transform * factor) ** 2), shell_means(seen)
        total = total.plus(NoiseSums(spectrum=power, n_image=counts))
    return total


def _on_reference_grid(setup: Setup, index: int, spectrum: np.ndarray) -> np.ndarray:
    """Mean of an image-grid spectrum per reference shell; shells without samples take the nearest lower one."""
    shells = reference_shells(len(spectrum), setup.optics[index], setup.box_size, setup.voxel_size_A)
    counts = np.bincount(shells, minlength=setup.n_shell)
    sums = np.bincount(shells, weights=spectrum, minlength=setup.n_shell)
    present = np.flatnonzero(counts)
    nearest = present[np.maximum(np.searchsorted(present, np.arange(setup.n_shell), side="right") - 1, 0)]
    return sums[nearest] / counts[nearest]
