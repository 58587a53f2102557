"""Slices of the whole orientation grid, made once per iteration and shared by all particles of a half-set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.context import GroupGeometry, GroupModel, HalfContext, SearchGrid
from napari_autorefine.engine.expectation import make_slices
from napari_autorefine.engine.images import PreparedImages
from napari_autorefine.engine.shifts import as_real
from napari_autorefine.xp import array_module

Map = Callable[[Callable[[int], None], range], Any]
_CHUNK = 2048
N_CHILD_ROT = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedSlices:
    """Coarse slices of every orientation and, where they fit, the slices of all their children.

    Attributes
    ----------
    dir_idx, psi_idx : (n_rot,) int64, coarse orientation = direction and in-plane angle
    coarse : (n_rot, n_coarse) complex64, or None when made again for every block
    coarse_power : (n_rot, n_coarse) float32, their squared modulus, or None
    fine : (8 n_rot, n_sample) complex64 or None
    """

    half: HalfContext
    geometry: GroupGeometry
    grid: SearchGrid
    dir_idx: np.ndarray
    psi_idx: np.ndarray
    coarse: Any | None
    coarse_power: Any | None
    fine: Any | None

    def scores(self, images: PreparedImages, model: GroupModel, geometry: GroupGeometry, *, is_cc: bool) -> Any:
        """First-pass scores of a block, (n_rot, n_img, n_trans) float32: log-likelihoods or correlations."""
        n = geometry.samples.n_coarse
        xp = array_module(images.masked)
        masked, contrast = images.masked[:, :n], images.contrast[:, :n]
        weight = (model.score_weight[:n] > 0).astype(np.float32) if is_cc else model.score_weight[:n]
        folded = masked * (contrast * weight)
        trials = (folded[:, None, :] * geometry.screen_shifts.ramps[None, :, :]).reshape(-1, n)
        squared = contrast**2 * weight
        out = xp.empty((len(self.dir_idx), len(masked), len(geometry.screen_shifts.ramps)), dtype=np.float32)
        norm = xp.sqrt(((masked.real**2 + masked.imag**2) * weight).sum(axis=1))
        for start, slices, power in self._chunks(n):
            part = out[start : start + len(slices)]
            xp.matmul(as_real(slices), as_real(trials).T, out=part.reshape(len(slices), -1))
            energy = power @ squared.T
            if is_cc:
                part /= xp.maximum(xp.sqrt(energy) * norm[None, :], np.float32(1e-30))[:, :, None]
            else:
                part -= 0.5 * energy[:, :, None]
        return out

    def _chunks(self, n_coarse: int) -> Iterator[tuple[int, Any, Any]]:
        for start in range(0, len(self.dir_idx), _CHUNK):
            if self.coarse is not None and self.coarse_power is not None:
                stop = start + _CHUNK
                yield start, self.coarse[start:stop], self.coarse_power[start:stop]
            else:
                slices = _coarse_slices(self, slice(start, start + _CHUNK))
                yield start, slices, slices.real**2 + slices.imag**2


def _coarse_slices(shared: SharedSlices, part: slice) -> Any:
    samples = shared.geometry.samples
    rotations = shared.grid.orientations.coarse_matrices(
        shared.dir_idx[part], shared.psi_idx[part], shared.grid.perturbation
    )
    matrices = shared.geometry.sampling_matrices(rotations)
    return make_slices(shared.half.reference, matrices, samples.coarse_rows, samples.n_coarse, shared.half.r2_max)


def _fine_slices(shared: SharedSlices, part: slice) -> Any:
    samples = shared.geometry.samples
    rotations = shared.grid.orientations.child_matrices(
        shared.dir_idx[part], shared.psi_idx[part], shared.grid.perturbation
    )
    matrices = shared.geometry.sampling_matrices(rotations.reshape(-1, 3, 3))
    return make_slices(shared.half.reference, matrices, samples.rows, samples.n_sample, shared.half.r2_max)


def share_slices(
    half: HalfContext, geometry: GroupGeometry, grid: SearchGrid, *, memory_bytes: int, run: Map
) -> SharedSlices:
    """Slices of the whole grid within a memory budget; what does not fit is made when it is needed.

    Parameters
    ----------
    memory_bytes : budget for the tables of this half-set and optics group
    run : ``map`` over chunk numbers, in parallel where the caller has threads
    """
    xp = array_module(half.reference)
    orientations, samples = grid.orientations, geometry.samples
    n_rot = orientations.n_orientation
    dir_idx, psi_idx = np.divmod(np.arange(n_rot), orientations.n_psi)
    bare = SharedSlices(
        half=half, geometry=geometry, grid=grid, dir_idx=dir_idx, psi_idx=psi_idx,
        coarse=None, coarse_power=None, fine=None,
    )  # fmt: skip
    coarse_bytes, fine_bytes = 12 * n_rot * samples.n_coarse, 8 * N_CHILD_ROT * n_rot * samples.n_sample
    if coarse_bytes > memory_bytes:
        return bare
    coarse = xp.empty((n_rot, samples.n_coarse), dtype=np.complex64)
    power = xp.empty((n_rot, samples.n_coarse), dtype=np.float32)
    fits = coarse_bytes + fine_bytes <= memory_bytes
    fine = xp.empty((N_CHILD_ROT * n_rot, samples.n_sample), dtype=np.complex64) if fits else None

    def fill(chunk: int) -> None:
        part = slice(chunk * _CHUNK // N_CHILD_ROT, min((chunk + 1) * _CHUNK // N_CHILD_ROT, n_rot))
        coarse[part] = _coarse_slices(bare, part)
        power[part] = coarse[part].real ** 2 + coarse[part].imag ** 2
        if fine is not None:
            fine[part.start * N_CHILD_ROT : part.stop * N_CHILD_ROT] = _fine_slices(bare, part)

    run(fill, range(-(-n_rot * N_CHILD_ROT // _CHUNK)))
    return SharedSlices(
        half=half, geometry=geometry, grid=grid, dir_idx=dir_idx, psi_idx=psi_idx,
        coarse=coarse, coarse_power=power, fine=fine,
    )  # fmt: skip
