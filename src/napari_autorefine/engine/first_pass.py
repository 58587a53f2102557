"""First pass: which coarse orientations and shifts of a particle deserve a closer look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from napari_autorefine.engine import expectation
from napari_autorefine.engine.expectation import Significant
from napari_autorefine.engine.search import Block, Candidates, Search, SearchSettings, log_shift_prior
from napari_autorefine.engine.slices import SharedSlices
from napari_autorefine.xp import beside, to_host

_PARENT_REACH = 40.0  # a parent whose log weight is this far below the best has no child of consequence; 20 loses a few
_CROWDED = 0.3  # with more than this share of the grid left, one product with all of it is faster
_NEGLIGIBLE = 12.0  # a log weight this far below the best is of no consequence


def first_pass(search: Search) -> Iterator[tuple[Candidates, Significant]]:
    """Coarse search of every particle of a block in turn: what it was compared with, and what is worth refining."""
    return _global_first_pass(search) if search.shared is not None else _local_first_pass(search)


def _global_first_pass(search: Search) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of all particles of the block against the whole grid, one product per chunk of orientations.

    On fine grids the parents of its orientations are compared first, and what comes nowhere near the best is left out.
    """
    block, shared, settings = search.block, search.shared, search.settings
    assert shared is not None
    log_prior = np.repeat(block.half.log_pdf_direction, search.grid.orientations.n_psi)
    alive = _children_of_near_parents(search, shared)
    if alive is not None:
        for i, ids in enumerate(alive):
            candidates = Candidates(dir_idx=shared.dir_idx[ids], psi_idx=shared.psi_idx[ids], log_prior=log_prior[ids])
            yield candidates, _select(_scores_of(search, i, candidates, ids), settings)
        return
    scores = shared.table.scores(block.images, block.model, block.geometry.coarse_shifts, is_cc=settings.is_cc)
    candidates = Candidates(dir_idx=shared.dir_idx, psi_idx=shared.psi_idx, log_prior=log_prior)
    for i in range(len(block.particles)):
        own = scores[:, i, :]
        if not settings.is_cc:
            own = own + beside(log_prior, own)[:, None]
            own += beside(log_shift_prior(search, i), own)[None, :]
        yield candidates, _select(own, settings)


def _children_of_near_parents(search: Search, shared: SharedSlices) -> list[np.ndarray] | None:
    """Orientations worth comparing for each particle; None without parents or when there are too many."""
    block, parents = search.block, shared.parents
    if parents is None:
        return None
    scores = parents.table.scores(block.images, block.model, block.geometry.screen_shifts, is_cc=False)
    alive = []
    for i in range(len(block.particles)):
        best = (scores[:, i, :] + beside(log_shift_prior(search, i), scores)[None, :]).max(axis=1)
        alive.append(parents.children(to_host(best > best.max() - _PARENT_REACH)))
    if sum(len(ids) for ids in alive) > _CROWDED * len(alive) * len(shared.dir_idx):
        return None
    return alive


def _scores_of(search: Search, i: int, candidates: Candidates, ids: np.ndarray) -> Any:
    """Log weights of one particle against some orientations of the grid, (n_rot, n_trans)."""
    block, shared, geometry = search.block, search.shared, search.block.geometry
    assert shared is not None
    n = geometry.samples.n_coarse
    if shared.coarse is not None:
        slices = shared.coarse[beside(ids, shared.coarse)]
    else:
        rotations = search.grid.orientations.coarse_matrices(
            candidates.dir_idx, candidates.psi_idx, search.grid.perturbation
        )
        matrices = geometry.sampling_matrices(rotations)
        slices = expectation.make_slices(
            block.half.reference, matrices, geometry.samples.coarse_rows, n, block.half.r2_max
        )
    trials = geometry.coarse_shifts.of(block.images.masked[i, :n])
    scores = expectation.log_likelihoods(slices, trials, block.images.contrast[i, :n], block.model.score_weight[:n])
    scores += beside(candidates.log_prior, scores)[:, None]
    scores += beside(log_shift_prior(search, i), scores)[None, :]
    return scores


def _local_first_pass(search: Search) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of each particle against the orientations around its previous pose.

    Orientations are screened on the low frequencies, where most of the information lies; only those that the ring of
    higher frequencies could still lift to a significant weight are compared in full.
    """
    block, grid, local = search.block, search.grid, search.local
    assert local is not None
    for i in range(len(block.particles)):
        own = slice(local.offsets[i], local.offsets[i + 1])
        candidates = Candidates(
            dir_idx=local.dir_idx[own],
            psi_idx=local.psi_idx[own],
            log_prior=local.log_prior[own].astype(np.float32),
        )
        rotations = grid.orientations.coarse_matrices(candidates.dir_idx, candidates.psi_idx, grid.perturbation)
        matrices = block.geometry.sampling_matrices(rotations)
        scores = _screening_scores(block, i, matrices)
        scores += beside(candidates.log_prior, scores)[:, None]
        scores += beside(log_shift_prior(search, i), scores)[None, :]
        if block.geometry.ring_shifts is not None:
            alive = np.flatnonzero(to_host(scores.max(axis=1) > scores.max() - _reach_of_ring(block, i)))
            candidates = candidates.only(alive)
            scores = scores[beside(alive, scores)] + _ring_scores(block, i, matrices[alive])
        yield candidates, _select(scores, search.settings)


def _screening_scores(block: Block, i: int, matrices: np.ndarray) -> Any:
    """Log-likelihoods on the screening disc, (n_rot, n_trans)."""
    geometry, samples, n = block.geometry, block.geometry.samples, block.geometry.samples.n_screen
    slices = expectation.make_slices(block.half.reference, matrices, samples.screen_rows, n, block.half.r2_max)
    trials = geometry.screen_shifts.of(block.images.masked[i, :n])
    return expectation.log_likelihoods(slices, trials, block.images.contrast[i, :n], block.model.score_weight[:n])


def _ring_scores(block: Block, i: int, matrices: np.ndarray) -> Any:
    """Log-likelihoods on the ring between the screening disc and the first pass, (n_rot, n_trans)."""
    geometry, samples = block.geometry, block.geometry.samples
    ring = slice(samples.n_screen, samples.n_coarse)
    slices = expectation.make_slices(
        block.half.reference, matrices, samples.ring_rows, samples.n_coarse - samples.n_screen, block.half.r2_max
    )
    assert geometry.ring_shifts is not None
    trials = geometry.ring_shifts.of(block.images.masked[i, ring])
    return expectation.log_likelihoods(slices, trials, block.images.contrast[i, ring], block.model.score_weight[ring])


def _reach_of_ring(block: Block, i: int) -> float:
    """By how much the ring can change the order of two orientations, and a margin of negligible weight.

    With G the expected log-likelihood gain of the right pose over an empty model in the ring, a right pose gains about
    G and a wrong one loses about G there.
    """
    ring = slice(block.geometry.samples.n_screen, block.geometry.samples.n_coarse)
    model = block.model
    gain = 0.5 * block.images.contrast[i, ring] ** 2 * model.score_weight[ring] * model.expected_power[ring]
    return _NEGLIGIBLE + 2.0 * float(gain.sum())


def _select(scores: Any, settings: SearchSettings) -> Significant:
    if settings.is_cc:
        weights, _, _ = expectation.winner(scores)
    else:
        weights, _, _ = expectation.significant_samples(scores, settings.fraction, settings.max_significant)
    return expectation.keep_significant(weights, settings.most_rotations)
