"""First pass: which coarse orientations and shifts of a particle deserve a closer look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from napari_autorefine.engine import expectation
from napari_autorefine.engine.expectation import Significant
from napari_autorefine.engine.search import Block, Candidates, Search, SearchSettings, log_shift_prior
from napari_autorefine.engine.shifts import ShiftBasis
from napari_autorefine.engine.slices import SharedSlices
from napari_autorefine.xp import beside, to_host

# Slices of a particle's candidates: of all on the screening disc (None), or of some on the ring around it.
Slices = Callable[[np.ndarray | None], Any]

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
            reach = min(_reach_of_ring(block, i), _PARENT_REACH)
            yield _screened(search, i, candidates, _slices_of_grid(search, shared, ids, candidates), reach)
        return
    scores = shared.table.scores(block.images, block.model, block.geometry.coarse_shifts, is_cc=settings.is_cc)
    candidates = Candidates(dir_idx=shared.dir_idx, psi_idx=shared.psi_idx, log_prior=log_prior)
    for i in range(len(block.particles)):
        if settings.is_cc:
            own = scores[:, i, :]
        else:
            own = expectation.with_priors(scores, i, log_prior, log_shift_prior(search, i))
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


def _slices_of_grid(search: Search, shared: SharedSlices, ids: np.ndarray, candidates: Candidates) -> Slices:
    """Where slices of orientations ``ids`` of the grid come from: the shared table, or the reference."""
    table = shared.coarse
    if table is None:
        return _slices_of(search, candidates)
    n_screen = search.block.geometry.samples.n_screen

    def take(chosen: np.ndarray | None) -> Any:
        if chosen is None:
            return table[:, :n_screen][beside(ids, table)]
        return table[:, n_screen:][beside(ids[chosen], table)]

    return take


def _slices_of(search: Search, candidates: Candidates) -> Slices:
    """Slices of a particle's candidates, sampled from the reference."""
    half, geometry, samples = search.block.half, search.block.geometry, search.block.geometry.samples
    rotations = search.grid.orientations.coarse_matrices(
        candidates.dir_idx, candidates.psi_idx, search.grid.perturbation
    )
    matrices = geometry.sampling_matrices(rotations)

    def make(chosen: np.ndarray | None) -> Any:
        rows, n, own = samples.screen_rows, samples.n_screen, matrices
        if chosen is not None:
            rows, n, own = samples.ring_rows, samples.n_coarse - samples.n_screen, matrices[chosen]
        return expectation.make_slices(half.reference, own, rows, n, half.r2_max)

    return make


def _local_first_pass(search: Search) -> Iterator[tuple[Candidates, Significant]]:
    """First pass of each particle against the orientations around its previous pose."""
    local = search.local
    assert local is not None
    for i in range(len(search.block.particles)):
        own = slice(local.offsets[i], local.offsets[i + 1])
        candidates = Candidates(
            dir_idx=local.dir_idx[own],
            psi_idx=local.psi_idx[own],
            log_prior=local.log_prior[own].astype(np.float32),
        )
        yield _screened(search, i, candidates, _slices_of(search, candidates), _reach_of_ring(search.block, i))


def _screened(
    search: Search, i: int, candidates: Candidates, slices: Slices, reach: float
) -> tuple[Candidates, Significant]:
    """Compare one particle with its candidates, on the low frequencies first, where most of the information lies.

    Only those within ``reach`` of the best, which the ring of higher frequencies could still lift to a significant
    weight, are compared in full.
    """
    geometry, samples = search.block.geometry, search.block.geometry.samples
    scores = _scores(search.block, i, slices(None), geometry.screen_shifts, slice(samples.n_screen))
    scores = expectation.with_priors(scores[:, None], 0, candidates.log_prior, log_shift_prior(search, i))
    if geometry.ring_shifts is not None:
        best = scores.max(axis=1)
        alive = np.flatnonzero(to_host(best > best.max() - reach))
        candidates = candidates.only(alive)
        ring = slice(samples.n_screen, samples.n_coarse)
        scores = scores[beside(alive, scores)] + _scores(search.block, i, slices(alive), geometry.ring_shifts, ring)
    return candidates, _select(scores, search.settings)


def _scores(block: Block, i: int, slices: Any, shifts: ShiftBasis, part: slice) -> Any:
    """Log-likelihoods of one particle on part of the samples, (n_rot, n_trans)."""
    trials = shifts.of(block.images.masked[i, part])
    return expectation.log_likelihoods(slices, trials, block.images.contrast[i, part], block.model.score_weight[part])


def _reach_of_ring(block: Block, i: int) -> float:
    """How far below the best on the screening disc an orientation of image ``i`` may lie; see ``reach_of``."""
    ring = slice(block.geometry.samples.n_screen, block.geometry.samples.n_coarse)
    model = block.model
    gain = 0.5 * block.images.contrast[i, ring] ** 2 * model.score_weight[ring] * model.expected_power[ring]
    return float(reach_of(float(gain.sum())))


def reach_of(gain: Any) -> Any:
    """By how much a ring of frequencies can change the order of two orientations, and a margin of negligible weight.

    With ``gain`` the expected log-likelihood gain of the right pose over an empty model in the ring, a right pose gains
    about that much and a wrong one loses about as much there.
    """
    return _NEGLIGIBLE + 2.0 * gain


def _select(scores: Any, settings: SearchSettings) -> Significant:
    if settings.is_cc:
        weights, _, _ = expectation.winner(scores)
    else:
        weights, _, _ = expectation.significant_samples(scores, settings.fraction, settings.max_significant)
    return expectation.keep_significant(weights, settings.most_rotations)
