"""Orientations that the particles of a batch are compared with, which may be others for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from napari_autorefine.engine.first_pass import own_candidates
from napari_autorefine.engine.search import Search
from napari_autorefine.engine.slices import Parents
from napari_autorefine.kernels.positions import set_positions
from napari_autorefine.xp import array_module, beside, to_host


class BatchCandidates(Protocol):
    """Orientations of n particles."""

    @property
    def sizes(self) -> np.ndarray:
        """How many each has (n,), on the host."""

    def of(self, rows: np.ndarray) -> tuple[Any, Any]:
        """Orientations (m, n_rot) int64 of some particles and their log priors, float32, -inf where one has no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedCandidates:
    """Those of particle i from ``offsets[i]`` to ``offsets[i + 1]``.

    Attributes
    ----------
    orientations : (n_total,) int64 and log_prior : (n_total,) float32, where the batch is
    """

    sizes: np.ndarray
    offsets: np.ndarray
    orientations: Any
    log_prior: Any

    @classmethod
    def of_search(cls, search: Search, like: Any) -> ListedCandidates:
        """Neighborhoods of particles, or what priors leave of the whole grid."""
        n_psi, local = search.grid.orientations.n_psi, search.local
        if local is not None:
            offsets, log_prior = local.offsets, local.log_prior
            numbers = local.dir_idx.astype(np.int64) * n_psi + local.psi_idx
        else:
            own = [own_candidates(search, i) for i in range(len(search.block.particles))]
            offsets = np.cumsum([0, *(len(one.dir_idx) for one in own)])
            numbers = np.concatenate([one.dir_idx.astype(np.int64) * n_psi + one.psi_idx for one in own])
            log_prior = np.concatenate([one.log_prior for one in own])
        weights = np.zeros(len(numbers)) if search.settings.is_cc else log_prior
        return cls(
            sizes=np.diff(offsets),
            offsets=offsets,
            orientations=beside(numbers, like),
            log_prior=beside(weights.astype(np.float32), like),
        )

    def of(self, rows: np.ndarray) -> tuple[Any, Any]:
        """See ``BatchCandidates``."""
        xp, like = array_module(self.orientations), self.orientations
        each = xp.arange(int(self.sizes[rows].max()), dtype=np.int64)[None, :]
        is_own = each < beside(self.sizes[rows], like)[:, None]
        places = is_own * each + beside(self.offsets[rows], like)[:, None]
        return self.orientations[places], xp.where(is_own, self.log_prior[places], np.float32(-np.inf))


@dataclass(frozen=True, slots=True, kw_only=True)
class FlaggedCandidates:
    """Orientations of the whole grid with a flag for every particle.

    Attributes
    ----------
    flags : (n, n_rot) bool
    log_prior : (n_rot,) float32
    """

    sizes: np.ndarray
    flags: Any
    log_prior: Any

    @classmethod
    def children(cls, parents: Parents, alive: Any, log_prior: np.ndarray) -> FlaggedCandidates:
        """Children of the parents that are ``alive`` (n_parent, n)."""
        xp = array_module(alive)
        own = alive.T.reshape(alive.shape[1], parents.n_pixel, -1)
        flags = xp.repeat(own[:, beside(parents.of_direction, alive)], 2, axis=2).reshape(len(own), -1)
        return cls(sizes=to_host(flags.sum(axis=1)), flags=flags, log_prior=beside(log_prior, alive))

    def of(self, rows: np.ndarray) -> tuple[Any, Any]:
        """See ``BatchCandidates``."""
        xp = array_module(self.flags)
        own = self.flags[beside(rows, self.flags)]
        orientations = set_positions(own, int(self.sizes[rows].max()))
        is_own = xp.take_along_axis(own, orientations, axis=1)
        return orientations, xp.where(is_own, self.log_prior[orientations], np.float32(-np.inf))
