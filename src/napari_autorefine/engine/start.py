"""The state before the first iteration: filtered reference, noise from the images, first grid."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np

from napari_autorefine.engine.context import reference_shells
from napari_autorefine.engine.handedness import hand_warning, mirror_similarity
from napari_autorefine.engine.images import move_and_mask, noise_images
from napari_autorefine.engine.masking import circular_background, low_pass_map
from napari_autorefine.engine.randomness import next_perturbation
from napari_autorefine.engine.sampling import initial_sampling
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.spectra import (
    current_resolution_shell,
    image_power_spectrum,
    initial_sigma2_noise,
    initial_ssnr,
    initial_tau2,
    low_pass_shell,
)
from napari_autorefine.engine.state import Convergence, HalfModel, Poses, RefinementState
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Message, Progress
from napari_autorefine.model.geometry import round_half_away

_N_NOISE_PARTICLES, _CHUNK = 1000, 32


def initial_poses(setup: Setup) -> Poses:
    """Poses of the file."""
    particles = setup.problem.particles
    n = len(particles)
    return Poses(
        euler_deg=np.array(particles.euler_deg, dtype=np.float64),
        origin_A=np.array(particles.origin_A[:, :2], dtype=np.float64),
        p_max=np.zeros(n),
        log_likelihood=np.zeros(n),
        n_significant=np.zeros(n, dtype=np.int64),
        norm_correction=np.where(particles.norm_correction > 0, particles.norm_correction, 1.0),
    )


def initial_state(setup: Setup, workers: Workers) -> Generator[Progress | Message, None, RefinementState]:
    """Estimate the noise, filter the reference and choose the first grid; yields progress."""
    options = setup.options
    warning = _hand_warning(setup)
    if warning is not None:
        yield warning
    poses = initial_poses(setup)
    sigma2 = yield from initial_noise(setup, poses, workers)
    given = setup.problem.reference
    references = (given, given) if isinstance(given, np.ndarray) else given
    sampling = initial_sampling(options, voxel_size_A=setup.voxel_size_A)
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
    tau2 = initial_tau2(filtered, tau2_fudge=options.tau2_fudge, threads=options.threads)
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

    Half the difference between the mean of the spectra and the spectrum of the mean image, per group.
    """
    order = np.concatenate([setup.members(1), setup.members(2)])
    optics_index = setup.problem.particles.optics_index
    sigma2 = np.empty((len(setup.optics), setup.n_shell))
    for index, optics in enumerate(setup.optics):
        chosen = order[optics_index[order] == index][:_N_NOISE_PARTICLES]
        if len(chosen) == 0:
            sigma2[index] = np.nan
            continue
        background = circular_background(
            optics.box_size, setup.options.particle_diameter_A / (2 * optics.pixel_size_A), setup.options.mask_edge_px
        )

        def measure(part: np.ndarray, background: np.ndarray = background) -> tuple[np.ndarray, np.ndarray]:
            return _measure(setup, poses, part, background)

        chunks = [chosen[start : start + _CHUNK] for start in range(0, len(chosen), _CHUNK)]
        spectrum, done = np.zeros(optics.box_size // 2 + 1), 0
        mean_image = np.zeros((optics.box_size, optics.box_size))
        for chunk, (power, image) in zip(chunks, workers.ordered(measure, chunks), strict=True):
            spectrum += power
            mean_image = mean_image + image
            done += len(chunk)
            yield Progress(stage="noise spectra", done=done, total=len(chosen), iteration=0)
        mean_power = image_power_spectrum((mean_image / len(chosen))[None])[0]
        sigma2[index] = _on_reference_grid(setup, index, initial_sigma2_noise(spectrum / len(chosen), mean_power))
    without_images = np.isnan(sigma2[:, 0])
    sigma2[without_images] = np.nanmean(sigma2, axis=0)
    return sigma2


def _measure(setup: Setup, poses: Poses, part: np.ndarray, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the summed spectrum and the summed image of some particles."""
    raw = np.asarray(setup.problem.read_images(part), dtype=np.float32)
    optics = setup.optics[int(setup.problem.particles.optics_index[part[0]])]
    shifts = round_half_away(poses.origin_A[part] / optics.pixel_size_A)
    fill = None
    if not setup.options.zero_mask:
        flat = np.full(optics.box_size // 2 + 1, 0.5 / optics.box_size**2)
        fill = noise_images(flat, optics.box_size, setup.options.random_seed + part)
    masked, _ = move_and_mask(raw, shifts, np.ones(len(part)), background, fill=fill)
    summed = masked.sum(axis=0, dtype=np.float64)
    return image_power_spectrum(masked).sum(axis=0), summed


def _on_reference_grid(setup: Setup, index: int, spectrum: np.ndarray) -> np.ndarray:
    """Mean of an image-grid spectrum per reference shell; shells without samples take the nearest lower one."""
    shells = reference_shells(len(spectrum), setup.optics[index], setup.box_size, setup.voxel_size_A)
    counts = np.bincount(shells, minlength=setup.n_shell)
    sums = np.bincount(shells, weights=spectrum, minlength=setup.n_shell)
    present = np.flatnonzero(counts)
    nearest = present[np.maximum(np.searchsorted(present, np.arange(setup.n_shell), side="right") - 1, 0)]
    return sums[nearest] / counts[nearest]
