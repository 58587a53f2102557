"""Blocks of particles: how a half-set is cut up, and how a block's images become Fourier samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine import images as image_steps
from napari_autorefine.engine.context import GroupGeometry, HalfContext
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.problem import ReadImages, RefineOptions
from napari_autorefine.engine.search import Block
from napari_autorefine.engine.state import Poses
from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.geometry import round_half_away
from napari_autorefine.model.particles import Particles
from napari_autorefine.xp import REAL, array_module, beside

# Poses are searched for as if no particle were weaker than this: what is weaker adds little to the map anyway, but its
# flat posterior would take as long as hundreds of good particles.
LOWEST_SEARCHED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSource:
    """Everything blocks are made from; the same for the whole iteration."""

    particles: Particles
    poses: Poses
    read_images: ReadImages
    options: RefineOptions
    scale_group: np.ndarray


def cut_into_blocks(order: np.ndarray, optics_index: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut particle indices, in the given order, into blocks of one optics group and at most ``size`` particles.

    The cut depends on the order alone, never on the number of threads.
    """
    blocks = []
    for group in np.unique(optics_index[order]):
        own = order[optics_index[order] == group]
        blocks += [own[start : start + size] for start in range(0, len(own), size)]
    return blocks


def transfer(source: BlockSource, geometry: GroupGeometry, indices: np.ndarray) -> Any:
    """Return what slices are multiplied by before the group scale: the CTF, or its square; (n, n_sample)."""
    particles, options = source.particles, source.options
    if not options.ctf:
        return beside(np.ones((len(indices), geometry.samples.n_sample), dtype=REAL), geometry.background)
    values = ctf(
        geometry.optics,
        particles.defocus_A[indices],
        particles.defocus_angle_deg[indices],
        particles.phase_shift_deg[indices],
        particles.ctf_bfactor_A2[indices],
        particles.ctf_scale[indices],
        geometry.frequencies,
        intact_first_peak=options.ctf_intact_first_peak,
        like=geometry.background,
    )
    return values * values if geometry.optics.is_premultiplied else values


def prepare_block(source: BlockSource, half: HalfContext, geometry: GroupGeometry, indices: np.ndarray) -> Block:
    """Read, normalise, move, mask and transform the images of a block."""
    options, poses = source.options, source.poses
    pixel = geometry.optics.pixel_size_A
    old_px = round_half_away(poses.origin_A[indices] / pixel)
    norm = poses.norm_correction[indices]
    gains = half.norm_average / norm if options.norm else np.ones(len(indices))
    raw = beside(np.asarray(source.read_images(indices), dtype=REAL), geometry.background)
    fill = None
    if not options.zero_mask:
        sigma2 = _noise_on_image_grid(half, geometry)
        noise = image_steps.noise_images(sigma2, geometry.samples.box_size, options.random_seed + indices)
        fill = beside(noise, raw)
    masked, moved = image_steps.move_and_mask(raw, old_px[:, :2], gains, geometry.background, fill=fill)
    prior = source.particles.origin_prior_A
    scale_group = source.scale_group[indices]
    intensity = poses.intensities[indices]
    searched = np.maximum(intensity, LOWEST_SEARCHED)
    model_ctf = transfer(source, geometry, indices)
    images = _prepared(masked, moved, geometry, model_ctf, (half.scale[scale_group], searched, intensity / searched))
    return Block(
        half=half,
        geometry=geometry,
        particles=indices,
        images=images,
        old_origin_A=old_px * pixel,
        origin_prior_A=np.zeros((len(indices), 2)) if prior is None else prior[indices, :2],
        scale_group=scale_group,
        norm=norm,
        intensity=searched,
    )


def _prepared(
    masked: Any, moved: Any, geometry: GroupGeometry, model_ctf: Any, scales: tuple[np.ndarray, ...]
) -> PreparedImages:
    """Transform masked and unmasked images (n, N, N) and put their transfer functions beside them.

    ``scales`` are (n,) each: of the group, the particle's as searched, and by how much it is weaker in the map.
    """
    spectra = image_steps.half_transforms(masked)
    samples = image_steps.samples_of(spectra, geometry.samples)
    moved_samples = image_steps.samples_of(image_steps.half_transforms(moved), geometry.samples)
    if geometry.correction is not None:
        samples, moved_samples = samples * geometry.correction, moved_samples * geometry.correction
    group, searched, weaker = (beside(scale.astype(REAL), model_ctf)[:, None] for scale in scales)
    contrast = model_ctf * (group * searched)
    gain, weight = contrast, contrast * contrast
    if geometry.optics.is_premultiplied:
        gain, weight = searched * array_module(contrast).ones_like(contrast), contrast * searched
    return PreparedImages(
        masked=samples,
        unmasked=moved_samples,
        model_ctf=model_ctf,
        contrast=contrast,
        gain=gain * weaker,
        weight=weight * (weaker * weaker),
        outer_power=image_steps.outer_power(spectra, geometry.samples),
    )


def _noise_on_image_grid(half: HalfContext, geometry: GroupGeometry) -> np.ndarray:
    return half.sigma2_noise[geometry.index][geometry.outer_shell]
