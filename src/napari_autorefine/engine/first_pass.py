"""First pass: which coarse orientations and shifts of a particle deserve a closer look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from napari_autorefine.engine import expectation
from napari_autorefine.engine.context import SamplePart
from napari_autorefine.engine.expectation import Significant
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.neighborhoods import LocalOrientations, tilt_limited
from napari_autorefine.engine.search import Block, Candidates, Measured, Search, log_shift_prior
from napari_autorefine.engine.slices import SharedSlices
from napari_autorefine.xp import array_module, beside, to_host

# Slices of a particle's candidates, some of them in order: on the screening disc, or on the ring around it.
Slices = Callable[[SamplePart, np.ndarray], Any]

PARENT_REACH = 40.0  # a parent whose log weight is this far below the best has no child of consequence; 25 loses a few
CROWDED = 0.3  # with more than this share of the grid left, a product with all of it is faster
NEGLIGIBLE = 12.0  # a log weight this far below the best is of no consequence
_HELD_SAMPLES = 4 << 20  # Fourier samples of one particle's slices that are held at a time


def first_pass(search: Search) -> Iterator[tuple[Candidates, Significant]]:
    """Coarse search of every particle of a block in turn: what it was compared with, and what is worth refining."""
    if search.shared is not None:
        return global_first_pass(search, partial(_among_children, search))
    return _particle_first_pass(search)


def global_first_pass(
    search: Search, among: Callable[[int, np.ndarray, Candidates], tuple[Candidates, Significant]]
) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of all particles of the block against the whole grid, one product per chunk of orientations.

    On fine grids the parents of its orientations are compared first, and what comes nowhere near the best is left out,
    unless that is too little to save anything. ``among`` compares a particle with what is left: orientations ``ids`` of
    the grid.
    """
    block, shared, settings = search.block, search.shared, search.settings
    assert shared is not None
    assert block.images is not None
    log_prior = np.repeat(block.half.log_pdf_direction, search.grid.orientations.n_psi)
    everything = Candidates(dir_idx=shared.dir_idx, psi_idx=shared.psi_idx, log_prior=log_prior)
    alive = _children_of_near_parents(search, shared)
    crowded = [i for i in range(len(block.particles)) if len(alive.get(i, log_prior)) > CROWDED * len(log_prior)]
    if crowded:
        images, shifts = _some_images(block.images, crowded), block.geometry.coarse_shifts
        scores = shared.table.scores(images, block.model, shifts, is_cc=settings.is_cc)
    for i in range(len(block.particles)):
        if i not in crowded:
            yield among(i, alive[i], everything.only(alive[i]))
            continue
        own = scores[:, crowded.index(i), :]
        if not settings.is_cc:
            own = expectation.with_priors(scores, crowded.index(i), log_prior, log_shift_prior(search, i))
        yield everything, _select(own, search, i, everything)


def _some_images(images: PreparedImages, rows: list[int]) -> PreparedImages:
    """Return some of the images as far as they are compared."""
    if len(rows) == len(images.masked):
        return images
    precision = None if images.precision is None else images.precision[rows]
    return replace(images, masked=images.masked[rows], contrast=images.contrast[rows], precision=precision)


def _children_of_near_parents(search: Search, shared: SharedSlices) -> dict[int, np.ndarray]:
    """Orientations worth comparing for each particle of the block; none for any without parents."""
    block, parents = search.block, shared.parents
    if parents is None or block.images is None:
        return {}
    scores = parents.table.scores(block.images, block.model, block.geometry.screen_shifts, is_cc=False)
    alive = {}
    for i in range(len(block.particles)):
        best = (scores[:, i, :] + beside(log_shift_prior(search, i), scores)[None, :]).max(axis=1)
        alive[i] = parents.children(to_host(best > best.max() - PARENT_REACH))
    return alive


def _among_children(search: Search, i: int, ids: np.ndarray, candidates: Candidates) -> tuple[Candidates, Significant]:
    """Compare a particle with orientations ``ids`` of the grid."""
    reach = min(_reach_of_ring(search.block, i), PARENT_REACH)
    return _screened(search, i, candidates, _slices_of_grid(search, i, ids, candidates), reach)


def _slices_of_grid(search: Search, i: int, ids: np.ndarray, candidates: Candidates) -> Slices:
    """Where slices of orientations ``ids`` of the grid come from: the shared table, or the reference."""
    assert search.shared is not None
    table = search.shared.coarse
    if table is None:
        return _slices_of(search, i, candidates)

    def take(part: SamplePart, chosen: np.ndarray) -> Any:
        return table[:, part.where][beside(ids[chosen], table)]

    return take


def _slices_of(search: Search, i: int, candidates: Candidates) -> Slices:
    """Slices of a particle's candidates, sampled from the reference."""
    particle = search.block.particle(i)
    rotations = search.grid.orientations.coarse_matrices(
        candidates.dir_idx, candidates.psi_idx, search.grid.perturbation
    )
    matrices = particle.matrices(rotations)

    def make(part: SamplePart, chosen: np.ndarray) -> Any:
        return particle.slices(matrices[chosen], part)

    return make


def _particle_first_pass(search: Search) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of each particle against orientations of its own: around its previous pose, or of the whole grid."""
    for i in range(len(search.block.particles)):
        candidates = own_candidates(search, i)
        slices = _slices_of(search, i, candidates)
        reach = _reach_of_ring(search.block, i)
        if search.local is None:
            reach = min(reach, PARENT_REACH)
        yield _screened(search, i, candidates, slices, reach)


def own_candidates(search: Search, i: int) -> Candidates:
    """Orientations of one particle's own: around its previous pose, or of the whole grid."""
    return _whole_grid(search, i) if search.local is None else _neighborhood(search.local, i)


def _neighborhood(local: LocalOrientations, i: int) -> Candidates:
    own = slice(local.offsets[i], local.offsets[i + 1])
    return Candidates(
        dir_idx=local.dir_idx[own].astype(np.int64),
        psi_idx=local.psi_idx[own].astype(np.int64),
        log_prior=local.log_prior[own].astype(np.float32),
    )


def _whole_grid(search: Search, i: int) -> Candidates:
    """All orientations of the grid, or those whose tilt angle the particle's prior allows."""
    orientations, block = search.grid.orientations, search.block
    directions, log_prior = np.arange(orientations.n_dir), block.half.log_pdf_direction
    if block.tilt_prior_deg is not None:
        directions, log_prior = tilt_limited(orientations, block.tilt_prior_deg[i], search.settings.sigma_tilt_deg)
    n_psi = orientations.n_psi
    return Candidates(
        dir_idx=np.repeat(directions, n_psi),
        psi_idx=np.tile(np.arange(n_psi), len(directions)),
        log_prior=np.repeat(log_prior, n_psi).astype(np.float32),
    )


def _screened(
    search: Search, i: int, candidates: Candidates, slices: Slices, reach: float
) -> tuple[Candidates, Significant]:
    """Compare one particle with its candidates, on the low frequencies first, where most of the information lies.

    Only those within ``reach`` of the best, which the ring of higher frequencies could still lift to a significant
    weight, are compared in full.
    """
    geometry, particle, is_cc = search.block.geometry, search.block.particle(i), search.settings.is_cc
    everything = np.arange(len(candidates.dir_idx))
    scores = _scores(particle, geometry.screen, slices, everything, is_cc=is_cc)
    if is_cc:
        return candidates, _select(scores, search, i, candidates)
    scores = expectation.with_priors(scores[:, None], 0, candidates.log_prior, log_shift_prior(search, i))
    if geometry.ring is not None:
        best = scores.max(axis=1)
        alive = np.flatnonzero(to_host(best > best.max() - reach))
        candidates = candidates.only(alive)
        scores = scores[beside(alive, scores)] + _scores(particle, geometry.ring, slices, alive)
    return candidates, _select(scores, search, i, candidates)


def _scores(particle: Measured, part: SamplePart, slices: Slices, chosen: np.ndarray, *, is_cc: bool = False) -> Any:
    """Log-likelihoods, or correlations, of one particle with slices on part of the samples; (n_rot, n_trans)."""
    masked, contrast = particle.of(particle.images.masked, part), particle.of(particle.images.contrast, part)
    weight = particle.correlation_weight(part) if is_cc else particle.score_weight(part)
    trials = particle.shifts(part).of(masked)
    size = max(_HELD_SAMPLES // len(masked), 1)
    scores = []
    for start in range(0, len(chosen), size):
        own = slices(part, chosen[start : start + size])
        if is_cc:
            scores.append(expectation.correlations(own, trials, masked, contrast, weight))
        else:
            scores.append(expectation.log_likelihoods(own, trials, contrast, weight))
    return scores[0] if len(scores) == 1 else array_module(scores[0]).concatenate(scores)


def _reach_of_ring(block: Block, i: int) -> float:
    """How far below the best on the screening disc an orientation of image ``i`` may lie; see ``reach_of``."""
    ring, particle = block.geometry.ring, block.particle(i)
    if ring is None:
        return NEGLIGIBLE
    power = particle.repeated(block.model.expected_power, ring)
    gain = 0.5 * particle.of(particle.images.contrast, ring) ** 2 * particle.score_weight(ring) * power
    return float(reach_of(float(gain.sum())))


def reach_of(gain: Any) -> Any:
    """By how much a ring of frequencies can change the order of two orientations, and a margin of negligible weight.

    With ``gain`` the expected log-likelihood gain of the right pose over an empty model in the ring, a right pose gains
    about that much and a wrong one loses about as much there.
    """
    return NEGLIGIBLE + 2.0 * gain


def _select(scores: Any, search: Search, i: int, candidates: Candidates) -> Significant:
    settings, numbers = search.settings, candidates.dir_idx * search.grid.orientations.n_psi + candidates.psi_idx
    return expectation.significant(
        scores,
        winner_takes_all=settings.is_cc,
        fraction=settings.fraction,
        max_count=settings.max_significant,
        most=settings.most_rotations,
        identity=(numbers, int(search.block.particles[i])),
    )
