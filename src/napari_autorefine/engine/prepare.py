"""How a block's images become Fourier samples: normalise, move by whole pixels, mask, transform, correct, pick."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_autorefine.engine import images as image_steps
from napari_autorefine.engine.context import GroupGeometry, HalfContext
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.search import Block, TiltStack
from napari_autorefine.engine.shifts import separable_ramps
from napari_autorefine.engine.source import BlockSource, RawParticles, read_raw
from napari_autorefine.engine.tilt_stacks import tilt_offsets
from napari_autorefine.engine.transfers import Transfer, block_transfer, stack_transfer
from napari_autorefine.model.geometry import round_half_away
from napari_autorefine.xp import REAL, array_module, beside

# Poses are searched for as if no particle were weaker than this: what is weaker adds little to the map anyway, but its
# flat posterior would take as long as hundreds of good particles.
LOWEST_SEARCHED = 0.5


def prepare_block(
    source: BlockSource,
    half: HalfContext,
    geometry: GroupGeometry,
    indices: np.ndarray,
    raw: RawParticles | None = None,
) -> Block:
    """Normalise, move, mask and transform the images of a block, which are read if they are not given."""
    options, poses = source.options, source.poses
    raw = read_raw(source, indices) if raw is None else raw
    pixel = geometry.optics.pixel_size_A
    old_px = round_half_away(poses.origin_A[indices] / pixel)
    prior, tilt_prior = source.particles.origin_prior_A, source.particles.euler_prior_deg
    scale_group = source.scale_group[indices]
    intensity = poses.intensities[indices]
    searched = np.maximum(intensity, LOWEST_SEARCHED)
    scales = half.scale[scale_group], searched, intensity / searched
    images: PreparedImages | None = None
    stacks: tuple[TiltStack, ...] = ()
    if source.tilts is None:
        images = _prepared_images(source, half, geometry, indices, raw, (old_px, scales))
    else:
        stacks = tuple(
            _prepared_stack(source, half, geometry, (int(row), raw.images[i]), (old_px[i], [s[i] for s in scales]))
            for i, row in enumerate(indices)
        )
    return Block(
        half=half,
        geometry=geometry,
        particles=indices,
        images=images,
        stacks=stacks,
        old_origin_A=old_px * pixel,
        origin_prior_A=np.zeros(old_px.shape) if prior is None else prior[indices, : old_px.shape[1]],
        tilt_prior_deg=_tilt_priors(poses.euler_deg[indices, 1], None if tilt_prior is None else tilt_prior[indices, 1])
        if options.sigma_tilt_deg > 0
        else None,
        scale_group=scale_group,
        norm=poses.norm_correction[indices],
        intensity=searched,
    )


def _tilt_priors(current_deg: np.ndarray, given_deg: np.ndarray | None) -> np.ndarray:
    """Centres of the prior on tilt angles: those of the file, or the present angles where it has none."""
    return current_deg if given_deg is None else np.where(np.isnan(given_deg), current_deg, given_deg)


def _prepared_images(
    source: BlockSource,
    half: HalfContext,
    geometry: GroupGeometry,
    indices: np.ndarray,
    raw: RawParticles,
    moves_and_scales: tuple[np.ndarray, tuple[np.ndarray, ...]],
) -> PreparedImages:
    """Prepare a block of images or volumes."""
    options = source.options
    old_px, scales = moves_and_scales
    norm = source.poses.norm_correction[indices]
    gains = half.norm_average / norm if options.norm else np.ones(len(indices))
    pixels = beside(raw.images, geometry.background)
    transfer = block_transfer(source, geometry, indices, raw)
    fill = _noise_fill(source, half, geometry, transfer, (options.random_seed + indices, pixels))
    pair = image_steps.move_and_mask(pixels, old_px, gains, geometry.background, fill=fill)
    return _prepared(pair, geometry, transfer, scales)


def _prepared_stack(
    source: BlockSource,
    half: HalfContext,
    geometry: GroupGeometry,
    particle: tuple[int, np.ndarray],
    move_and_scales: tuple[np.ndarray, list[float]],
) -> TiltStack:
    """Prepare the tilts of a particle."""
    assert source.tilts is not None
    (row, raw), (old_px, scales) = particle, move_and_scales
    views = source.tilts.views(row)
    whole, leftover = tilt_offsets(views, old_px)
    pixels = beside(raw, geometry.background)
    transfer = stack_transfer(source, geometry, row)
    seeds = source.options.random_seed + row * len(raw) + np.arange(len(raw))
    fill = _noise_fill(source, half, geometry, transfer, (seeds, pixels))
    pair = image_steps.move_and_mask(pixels, whole, np.ones(len(raw)), geometry.background, fill=fill)
    ramps = separable_ramps(geometry.samples, leftover, slice(None), pixels)
    own = tuple(np.full(len(raw), scale) for scale in scales)
    return TiltStack(images=_prepared(pair, geometry, transfer, own, ramps=ramps), views=views)


def _noise_fill(
    source: BlockSource,
    half: HalfContext,
    geometry: GroupGeometry,
    transfer: Transfer,
    seeds_and_like: tuple[np.ndarray, Any],
) -> Any | None:
    """Noise to be put behind the mask, or None."""
    if source.options.zero_mask:
        return None
    seeds, like = seeds_and_like
    sigma2 = half.sigma2_noise[geometry.index][geometry.outer_shell]
    sigma2 = sigma2 * transfer.mean_spread(geometry.samples.box_size, geometry.samples.dim)
    return beside(image_steps.noise_images(sigma2, like.shape[1:], seeds), like)


def _prepared(
    pair: tuple[Any, Any],
    geometry: GroupGeometry,
    transfer: Transfer,
    scales: tuple[np.ndarray, ...],
    *,
    ramps: Any | None = None,
) -> PreparedImages:
    """Transform masked and unmasked images or volumes and put their transfer functions beside them.

    ``scales`` are (n,) each: of the group, the particle's as searched, and by how much it is weaker in the map;
    ``ramps`` (n, n_sample) finish moves.
    """
    spectra, whole = (image_steps.half_transforms(pixels) for pixels in pair)
    if transfer.factor is not None:
        spectra, whole = spectra * transfer.factor, whole * transfer.factor
    samples = image_steps.samples_of(spectra, geometry.samples)
    moved_samples = image_steps.samples_of(whole, geometry.samples)
    for factor in (geometry.correction, ramps):
        if factor is not None:
            samples, moved_samples = samples * factor, moved_samples * factor
    model_ctf = transfer.model_ctf
    group, searched, weaker = (beside(scale.astype(REAL), model_ctf)[:, None] for scale in scales)
    contrast = model_ctf * (group * searched)
    gain, weight = contrast, contrast * contrast
    if geometry.optics.is_premultiplied:
        gain, weight = searched * array_module(contrast).ones_like(contrast), contrast * searched
    elif transfer.precision is not None:
        gain, weight = gain * transfer.precision, weight * transfer.precision
    return PreparedImages(
        masked=samples,
        unmasked=moved_samples,
        model_ctf=model_ctf,
        contrast=contrast,
        gain=gain * weaker,
        weight=weight * (weaker * weaker),
        outer_power=image_steps.outer_power(spectra, geometry.samples),
        precision=transfer.precision,
        count=transfer.count,
    )
