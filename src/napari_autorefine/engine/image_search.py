"""Search of images, and of volumes, on the host by compiled passes: what they need of a block, what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from napari_autorefine.engine.compiled_passes import first_pass_of_image, second_pass_of_image
from napari_autorefine.engine.context import SamplePart
from napari_autorefine.engine.expectation import Significant
from napari_autorefine.engine.first_pass import NEGLIGIBLE, PARENT_REACH, global_first_pass, own_candidates
from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.mean_pose import limits
from napari_autorefine.engine.search import Candidates, Search, log_shift_priors
from napari_autorefine.engine.second_pass import ParticleResult
from napari_autorefine.engine.shifts import ShiftBasis, as_real
from napari_autorefine.kernels._simd import MOST_VOXELS

_HELD_BYTES = 32 << 20
_NO_TABLE = np.empty((0, 0), dtype=np.float32)


def can_be_compiled(search: Search) -> bool:
    """Tell whether a block is of images or volumes on the host, compared by likelihood, with tables of shifts."""
    block = search.block
    if block.images is None or search.settings.is_cc or not isinstance(block.images.masked, np.ndarray):
        return False
    if block.half.reference.size >= MOST_VOXELS:  # which ``project`` says, in words
        return False
    parts = [part for part in (block.geometry.screen, block.geometry.ring, block.geometry.whole) if part is not None]
    return all(part.shifts.ramps is not None or part.shifts.functions is not None for part in parts)


def search_images(search: Search) -> Iterator[ParticleResult]:
    """Search the images or volumes of a block one after the other; see ``can_be_compiled``."""
    passes = ImagePasses(search)
    found = passes.first() if search.shared is None else global_first_pass(search, passes.among)
    for i, (candidates, kept) in enumerate(found):
        yield passes.second(i, candidates, kept)


class ImagePasses:
    """Passes of a block's images; what they share is put together once."""

    def __init__(self, search: Search) -> None:
        block, grid = search.block, search.grid
        orientations, geometry = grid.orientations, block.geometry
        turn, frequency = orientations.turn(grid.perturbation), np.ascontiguousarray(geometry.frequency_matrix)
        self._search = search
        self._images = block.images
        coarse = orientations.rot_deg[:, None], orientations.tilt_deg[:, None], orientations.psi_deg[:, None]
        self._coarse_grid = *coarse, turn, frequency
        children = orientations.child_rot_deg, orientations.child_tilt_deg, orientations.child_psi_deg
        self._fine_grid = *children, turn, frequency, np.ascontiguousarray(orientations.group.operators)
        reference = np.ascontiguousarray(block.half.reference)
        self._reference = reference.view(np.float32), np.float32(block.half.r2_max)
        self._whole = _part(geometry.whole)
        fine = None if search.shared is None else search.shared.fine
        self._table = _NO_TABLE if fine is None else as_real(fine)
        self._shells = geometry.model_shell, (block.half.use_for_scale, block.half.use_for_intensity)
        self._limits = limits((0.5 * orientations.step_deg, grid.fine_step_A))
        self._log_shift = log_shift_priors(search)
        self._rows = geometry.samples.rows

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        geometry = self._search.block.geometry
        screen, ring = geometry.screen, geometry.ring
        rows, *others = _part(screen)
        return (rows, *others), ((rows[:0], *others) if ring is None else _part(ring))

    def first(self) -> Iterator[tuple[Candidates, Significant]]:
        """First pass of each image against orientations of its own."""
        most = PARENT_REACH if self._search.local is None else np.inf
        for i in range(len(self._search.block.particles)):
            yield self._first(i, own_candidates(self._search, i), _NO_TABLE, most)

    def among(self, i: int, ids: np.ndarray, candidates: Candidates) -> tuple[Candidates, Significant]:
        """First pass of an image against orientations ``ids`` of the grid; see ``global_first_pass``."""
        shared = self._search.shared
        assert shared is not None
        return self._first(i, candidates, _NO_TABLE if shared.coarse is None else as_real(shared.coarse), PARENT_REACH)

    def _first(self, i: int, candidates: Candidates, table: np.ndarray, most: float) -> tuple[Candidates, Significant]:
        settings, particle = self._search.settings, int(self._search.block.particles[i])
        rotations, shifts, pairs, count, log_factor = first_pass_of_image(
            (candidates.dir_idx, candidates.psi_idx, candidates.log_prior),
            self._coarse_grid,
            self._reference,
            self._parts,
            table,
            self._image(i),
            self._log_shift[i],
            (most, NEGLIGIBLE, self._search.block.model.expected_power),
            (settings.fraction, settings.max_significant, settings.most_rotations, particle),
        )
        return candidates, Significant(
            rotations=rotations, shifts=shifts, pairs=pairs, count=count, log_factor=log_factor
        )

    def second(self, i: int, candidates: Candidates, kept: Significant) -> ParticleResult:
        """Posterior of an image on the children of the significant coarse samples, and its sums."""
        search, block, images = self._search, self._search.block, self._images
        assert images is not None
        model, settings = block.model, search.settings
        pose, posterior, directions, direction_weights, noise, residuals, inserted = second_pass_of_image(
            (
                candidates.dir_idx[kept.rotations],
                candidates.psi_idx[kept.rotations],
                candidates.log_prior[kept.rotations] + kept.log_factor,
                kept.shifts,
                self._log_shift[i][kept.shifts],
                kept.pairs,
            ),
            self._fine_grid,
            self._reference,
            self._whole,
            self._table,
            self._image(i),
            (
                images.unmasked[i],
                images.model_ctf[i],
                images.gain[i],
                images.weight[i],
                model.inverse_sigma2,
                *self._shells,
                (block.geometry.outer_shell, images.outer_power[i]),
            ),
            (search.grid.fine_shifts_A, block.old_origin_A[i], block.origin_prior_A[i]),
            (settings.fraction, settings.most_representatives, float(block.intensity[i]), self._limits, _HELD_BYTES),
        )
        p_max, log_evidence, weight, offset_square = posterior
        norm_power, power, *others = residuals
        orientations, matrices, values, amounts, sample_weight, at_origin, weight_at_origin = inserted
        insertion = Insertion(
            orientations=orientations,
            matrices=matrices,
            values=values.view(np.complex64),
            amounts=amounts,
            sample_weight=sample_weight,
            rows=self._rows,
            origin_value=at_origin,
            origin_weight=weight_at_origin,
        )
        return ParticleResult(
            euler_deg=pose[0],
            origin_A=pose[1],
            p_max=p_max,
            log_likelihood=log_evidence - 0.5 * power - model.log_noise,
            n_significant=kept.count,
            norm_power=norm_power,
            noise=noise,
            count=self._noise_count(i),
            scale_cross=others[0],
            scale_power=others[1],
            intensity_sums=(others[2], others[3]),
            offset_square=offset_square,
            weight=weight,
            directions=directions,
            direction_weights=direction_weights,
            insertions=[insertion],
        )

    def _noise_count(self, i: int) -> np.ndarray:
        """Return what the residual power per shell is divided by."""
        geometry, images = self._search.block.geometry, self._images
        assert images is not None
        if images.count is None:
            return geometry.count
        return np.bincount(geometry.outer_shell, weights=images.count[i], minlength=self._search.settings.n_shell)

    def _image(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what is compared with slices; see ``compiled_passes``."""
        images, weight = self._images, self._search.block.model.score_weight
        assert images is not None
        if images.precision is not None:
            weight = weight * images.precision[i]
        return images.masked[i], images.contrast[i], weight


def _part(part: SamplePart) -> tuple[Any, ...]:
    """Return a part of the samples as ``compiled_passes`` takes it."""
    shifts: ShiftBasis = part.shifts
    ramps, functions, coefficients = shifts.ramps, shifts.functions, shifts.coefficients
    none = np.empty((0, part.n_sample), dtype=np.complex64)
    ramps, functions = (none if values is None else values for values in (ramps, functions))
    if coefficients is None:
        coefficients = np.empty((0, 0), dtype=np.float32)
    return part.rows, part.where.start or 0, as_real(ramps), as_real(functions), coefficients
