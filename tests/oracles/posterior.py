"""The expectation step of one half-set by explicit sums over every orientation, shift and coefficient, in float64.

Nothing is shared, pruned or factorised: each particle is compared with each candidate by the formula

    D(o, t) = sum_k |C s P_o - e^{-2 pi i k t / N} X|^2 / (2 sigma2),   0 < |k| <= size / 2

and every sum runs over all candidates. Images that were multiplied by their CTF show C^2 s P, and their noise was
multiplied, too, so that each term is divided by C^2. Only the list of candidates and the reference's Fourier volume are
given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from oracles import imaging, slices

from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles


@dataclass(kw_only=True)
class Model:
    """What a half-set believes before the iteration, and how it searches; arrays as in the engine's states."""

    volume: np.ndarray
    pad: int
    r2_max: float
    box_size: int
    voxel_size_A: float
    sigma2_noise: np.ndarray
    scale: np.ndarray
    norm_average: float
    sigma_offset_A: float
    use_for_scale: np.ndarray
    diameter_A: float
    mask_edge_px: float
    has_ctf: bool
    has_norm: bool


@dataclass(kw_only=True)
class Candidates:
    """Orientations and shifts of one particle: fine ones, and the coarse quantities that priors belong to.

    ``rotations`` (n_o, 3, 3), ``directions`` (n_o,) and ``log_prior`` (n_o,); ``shifts_A`` (n_t, 2) and
    ``prior_shifts_A`` (n_t, 2), the unperturbed coarse shift of each.
    """

    rotations: np.ndarray
    directions: np.ndarray
    log_prior: np.ndarray
    shifts_A: np.ndarray
    prior_shifts_A: np.ndarray


@dataclass(kw_only=True)
class View:
    """One particle's coefficients inside the disc of ``size``, and everything they are compared through."""

    index: np.ndarray
    masked: np.ndarray
    unmasked: np.ndarray
    transfer: np.ndarray
    sigma2: np.ndarray
    spread: np.ndarray
    shell: np.ndarray
    outer_noise: np.ndarray
    old_origin_A: np.ndarray
    optics: OpticsGroup
    volume_index: float


@dataclass(kw_only=True)
class Outcome:
    """Everything one particle leaves behind, over all candidates."""

    weights: np.ndarray
    best: tuple[int, int]
    log_evidence: float
    noise: np.ndarray
    norm_power: float
    scale_cross: float
    scale_power: float
    offset_square: float
    total_origin_A: np.ndarray
    values: np.ndarray = field(repr=False)
    sample_weights: np.ndarray = field(repr=False)


def reference_shell(shell: np.ndarray, optics: OpticsGroup, model: Model) -> np.ndarray:
    ratio = model.box_size * model.voxel_size_A / (optics.box_size * optics.pixel_size_A)
    return np.minimum(np.floor(shell * ratio + 0.5).astype(int), model.box_size // 2)


def view(image: np.ndarray, particles: Particles, i: int, model: Model, size: float) -> View:
    """Prepare particle ``i``: norm, whole-pixel move, mask, transform."""
    group = int(particles.optics_index[i])
    optics = particles.optics[group]
    pixel = optics.pixel_size_A
    old_px = np.sign(particles.origin_A[i]) * np.floor(np.abs(particles.origin_A[i]) / pixel + 0.5)
    gain = model.norm_average / particles.norm_correction[i] if model.has_norm else 1.0
    unmasked = imaging.moved(gain * image, old_px.astype(int))
    outside = imaging.background(optics.box_size, model.diameter_A / (2 * pixel), model.mask_edge_px)
    masked = imaging.masked(unmasked, outside)
    index, counts = imaging.plane(optics.box_size)
    index = index[counts]
    inside = np.hypot(*index.T) <= size / 2
    beyond = index[~inside & (imaging.shells(index) <= optics.box_size // 2)]
    outer = np.bincount(
        reference_shell(imaging.shells(beyond), optics, model),
        weights=np.abs(imaging.coefficients(masked, beyond)) ** 2,
        minlength=model.box_size // 2 + 1,
    )
    index = index[inside]
    shell = reference_shell(imaging.shells(index), optics, model)
    frequencies = imaging.magnified(optics, index) / (optics.box_size * pixel)
    correction = np.exp(-1j * imaging.coma(optics, frequencies))
    transfer = imaging.transfer(optics, particles, i, frequencies) if model.has_ctf else np.ones(len(index))
    return View(
        index=index,
        masked=imaging.coefficients(masked, index) * correction,
        unmasked=imaging.coefficients(unmasked, index) * correction,
        transfer=transfer,
        spread=np.maximum(transfer, 1e-4) if optics.is_premultiplied else np.ones(len(index)),
        sigma2=model.sigma2_noise[group][shell],
        shell=shell,
        outer_noise=outer,
        old_origin_A=old_px * pixel,
        optics=optics,
        volume_index=model.pad * model.box_size * model.voxel_size_A / (optics.box_size * pixel),
    )


def matrices(seen: View, rotations: np.ndarray) -> np.ndarray:
    """Image frequency index to padded reference index."""
    return seen.volume_index * np.swapaxes(rotations, 1, 2)


def slices_of(seen: View, model: Model, rotations: np.ndarray) -> np.ndarray:
    return slices.project(model.volume, matrices(seen, rotations), samples(seen), model.r2_max)


def samples(seen: View) -> np.ndarray:
    """Frequency indices (n_sample, 3) at which the reference is looked up, magnification included."""
    return np.column_stack([imaging.magnified(seen.optics, seen.index), np.zeros(len(seen.index))])


def ramps(seen: View, shifts_A: np.ndarray) -> np.ndarray:
    """Factors (n_t, n_sample) that move an image by shifts in A."""
    field_of_view_A = seen.optics.box_size * seen.optics.pixel_size_A
    return np.exp(-2j * np.pi * (shifts_A @ seen.index.T) / field_of_view_A)


def correlation(seen: View, projections: np.ndarray, shifts_A: np.ndarray, size: float) -> np.ndarray:
    """Normalised correlation (n_o, n_t) over 0 < |k| <= size / 2, group scale without effect."""
    radius = np.hypot(*seen.index.T)
    chosen = (radius > 0) & (radius <= size / 2)
    deviation = np.sqrt(seen.spread)
    model = (seen.transfer * projections / deviation)[:, chosen]
    trials = (ramps(seen, shifts_A) * seen.masked / deviation)[:, chosen]
    cross = (model @ trials.conj().T).real
    return cross / np.linalg.norm(model, axis=1)[:, None] / np.linalg.norm(trials, axis=1)


def posterior(
    seen: View, projections: np.ndarray, candidates: Candidates, model: Model, scale: float, prior_A: np.ndarray
) -> tuple[np.ndarray, float]:
    """Weights (n_o, n_t) of sum 1, and the log of their sum before division."""
    far = np.hypot(*seen.index.T) > 0
    predicted = (scale * seen.transfer * projections)[:, None, far]
    trials = (ramps(seen, candidates.shifts_A) * seen.masked)[None, :, far]
    difference = (np.abs(predicted - trials) ** 2 / (2 * (seen.sigma2 * seen.spread)[far])).sum(axis=2)
    deviation = seen.old_origin_A + candidates.prior_shifts_A - prior_A
    log_prior = candidates.log_prior[:, None] - (deviation**2).sum(axis=1) / (2 * model.sigma_offset_A**2)
    scores = log_prior - difference
    total = np.logaddexp.reduce(scores, axis=None)
    noise_terms = np.log(2 * np.pi * seen.sigma2[far]).sum()
    return np.exp(scores - total), float(total - noise_terms)


def outcome(
    seen: View,
    projections: np.ndarray,
    candidates: Candidates,
    model: Model,
    weights: np.ndarray,
    *,
    scale: float,
    prior_A: np.ndarray,
    log_evidence: float,
) -> Outcome:
    """All sums of one particle for given weights (n_o, n_t)."""
    move = ramps(seen, candidates.shifts_A)
    predicted = (scale * seen.transfer * projections)[:, None]
    residual = np.einsum("ot,otk->k", weights, np.abs(predicted - (move * seen.masked)[None]) ** 2)
    noise = np.bincount(seen.shell, weights=residual, minlength=model.box_size // 2 + 1) + seen.outer_noise
    contrast = seen.transfer * projections
    use = model.use_for_scale[seen.shell]
    cross = np.einsum("ot,ok,tk->k", weights, contrast.conj(), move * seen.masked).real
    power = np.einsum("ot,ok->k", weights, np.abs(contrast) ** 2)
    total_origin = seen.old_origin_A + candidates.shifts_A
    gain, weight = scale * seen.transfer / seen.sigma2, (scale * seen.transfer) ** 2 / seen.sigma2
    if seen.optics.is_premultiplied:
        gain, weight = 1 / seen.sigma2, scale * seen.transfer / seen.sigma2
    best = np.unravel_index(np.argmax(weights), weights.shape)
    return Outcome(
        weights=weights,
        best=(int(best[0]), int(best[1])),
        log_evidence=log_evidence,
        noise=noise,
        norm_power=float(noise.sum()),
        scale_cross=float((use * cross).sum()),
        scale_power=float((use * power).sum()),
        offset_square=float((weights.sum(axis=0) * ((total_origin - prior_A) ** 2).sum(axis=1)).sum()),
        total_origin_A=total_origin,
        values=weights @ (move * seen.unmasked) * gain,
        sample_weights=weights.sum(axis=1)[:, None] * weight,
    )
