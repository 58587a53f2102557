"""What a group of particles contributes under their posteriors, the counterpart of ``second_pass`` on devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.batch_fine import Fine, Posteriors
from napari_autorefine.engine.batch_first import Batch
from napari_autorefine.engine.batch_shifts import Trials
from napari_autorefine.engine.batch_weights import representatives
from napari_autorefine.engine.device_sums import Weighted
from napari_autorefine.engine.grids import N_CHILD
from napari_autorefine.engine.mean_pose import limits
from napari_autorefine.engine.second_pass import ParticleResult
from napari_autorefine.kernels.mean_poses import mean_poses
from napari_autorefine.kernels.moments import mean_power
from napari_autorefine.kernels.residuals import residual_sums
from napari_autorefine.model.geometry import matrix_to_euler
from napari_autorefine.xp import array_module, to_host


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What comes back of n particles, on the host, float64.

    Attributes
    ----------
    scalars : (n_scalar, n), see ``_SCALARS``
    noise : (n, n_shell) residual power inside the samples
    rotations : (n, 3, 3); origins_A : (n, dim)
    directions : (n, n_r) int64 of the coarse orientations; direction_weights : (n, n_r)
    origin : (2, n) value and weight at the origin of Fourier space
    """

    scalars: np.ndarray
    noise: np.ndarray
    rotations: np.ndarray
    origins_A: np.ndarray
    directions: np.ndarray
    direction_weights: np.ndarray
    origin: np.ndarray

    def results(self, batch: Batch, fine: Fine, count: np.ndarray) -> dict[int, ParticleResult]:
        """Return the results by row of the batch."""
        block, images, rows = batch.search.block, batch.images, fine.rows
        n_shell, geometry = batch.search.settings.n_shell, batch.search.block.geometry
        to_reference = np.zeros((len(geometry.outer_shell), n_shell))
        to_reference[np.arange(len(to_reference)), geometry.outer_shell] = 1.0
        noise = self.noise + images.outer_power[rows] @ to_reference
        counts = np.repeat(geometry.count[None], len(rows), axis=0)
        if images.count is not None:
            counts = images.count[rows] @ to_reference
        euler, values = matrix_to_euler(self.rotations), {n: self.scalars[k] for k, n in enumerate(_SCALARS)}
        evidence = values["log_evidence"]
        if not batch.search.settings.is_cc:
            evidence = evidence - 0.5 * values["power"] - block.model.log_noise
        found = {}
        for i, row in enumerate(rows.tolist()):
            own = self.direction_weights[i] > 0
            found[row] = ParticleResult(
                euler_deg=euler[i],
                origin_A=self.origins_A[i],
                p_max=float(values["p_max"][i]),
                log_likelihood=float(evidence[i]),
                n_significant=int(count[i]),
                norm_power=float(noise[i].sum()),
                noise=noise[i],
                count=counts[i],
                scale_cross=float(values["scale_cross"][i]),
                scale_power=float(values["scale_power"][i]),
                intensity_sums=(float(values["intensity_cross"][i]), float(values["intensity_power"][i])),
                offset_square=float(values["offset_square"][i]),
                weight=float(values["weight"][i]),
                directions=self.directions[i][own],
                direction_weights=self.direction_weights[i][own],
                insertions=[],
            )
        return found


_SCALARS = (
    "p_max",
    "log_evidence",
    "power",
    "scale_cross",
    "scale_power",
    "intensity_cross",
    "intensity_power",
    "offset_square",
    "weight",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """Orientations that stand for all of n posteriors.

    Attributes
    ----------
    orientations : (n, m) int64, numbers on the fine grid
    rotations : (n, m, 3, 3) float64
    slices : (n, m, n_sample) complex64
    weights : (n, m, n_t) float32
    amounts : (n, m) float32, their sums
    """

    orientations: Any
    rotations: Any
    slices: Any
    weights: Any
    amounts: Any


def sums_of_group(batch: Batch, fine: Fine, found: Posteriors) -> tuple[Numbers, Weighted]:
    """Work out what particles contribute under their posteriors."""
    search, xp, grid, at = batch.search, batch.xp, batch.grid, fine.at
    block, weights, n = search.block, found.weights, len(fine.rows)
    old_A, prior_A = (xp.asarray(values[fine.rows]) for values in (block.old_origin_A, block.origin_prior_A))
    total_A = old_A[:, None] + grid.fine_shifts_A[fine.shifts]
    steps = (0.5 * search.grid.orientations.step_deg, search.grid.fine_step_A)
    rotations, origins_A = mean_poses(fine.rotations, total_A, weights, grid.operators, limits(steps))
    of_rotation, of_shift = weights.sum(axis=2, dtype=np.float64), weights.sum(axis=1, dtype=np.float64)
    drawn = _drawn(fine, weights, search.settings.most_representatives)
    statistics, noise = _statistics(batch, fine, drawn)
    values = _inserted(batch, fine, drawn)
    weight = batch.images.weight[at] * block.model.inverse_sigma2[None, :]
    offset_square = (of_shift * ((total_A - prior_A[:, None]) ** 2).sum(axis=2)).sum(axis=1)
    origin_weight = drawn.amounts.sum(axis=1, dtype=np.float64) * weight[:, 0]
    origin = [values[:, :, 0].real.sum(axis=1, dtype=np.float64), origin_weight]
    of_direction = of_rotation.reshape(n, -1, N_CHILD).sum(axis=2)
    scalars = [xp.stack([found.p_max, found.log_evidence], axis=1), statistics]
    scalars.append(xp.stack([offset_square, of_rotation.sum(axis=1), *origin], axis=1))
    columns = [*scalars, origins_A, rotations.reshape(n, 9), noise, of_direction]
    sizes = np.cumsum([part.shape[1] for part in columns])[:-1]
    host = [np.ascontiguousarray(part) for part in np.split(to_host(xp.concatenate(columns, axis=1)), sizes, axis=1)]
    numbers = Numbers(
        scalars=np.concatenate([host[0].T, host[1].T, host[2].T[:2]]),
        origin=host[2].T[2:],
        origins_A=host[3],
        rotations=host[4].reshape(n, 3, 3),
        noise=host[5],
        directions=to_host(fine.coarse) // grid.n_psi,
        direction_weights=host[6],
    )
    return numbers, Weighted(
        orientations=drawn.orientations.reshape(-1),
        rotations=drawn.rotations.reshape(-1, 3, 3),
        frequency_matrix=block.geometry.frequency_matrix,
        values=values.reshape(-1, values.shape[2]),
        amounts=drawn.amounts.reshape(-1),
        sample_weight=weight,
        rows=block.geometry.whole.rows,
        origin_value=float(numbers.origin[0].sum()),
        origin_weight=float(numbers.origin[1].sum()),
    )


def _drawn(fine: Fine, weights: Any, most: int) -> _Drawn:
    """Draw at most so many orientations of every particle."""
    orientations, rotations, slices = fine.orientations, fine.rotations, fine.slices
    if weights.shape[1] > most:
        chosen, weights = representatives(weights, most)
        each = array_module(chosen).arange(len(chosen))[:, None]
        orientations, rotations, slices = orientations[each, chosen], rotations[each, chosen], slices[each, chosen]
    return _Drawn(
        orientations=orientations, rotations=rotations, slices=slices, weights=weights, amounts=weights.sum(axis=2)
    )


def _inserted(batch: Batch, fine: Fine, drawn: _Drawn) -> Any:
    """Weighted unmasked images (n, m, n_sample), one per orientation."""
    images, block, at = batch.images, batch.search.block, fine.at
    trials = Trials.at(block.geometry.whole.shifts, images.unmasked[at], fine.shifts)
    return trials.averaged(drawn.weights, images.gain[at] * block.model.inverse_sigma2[None, :])


def _statistics(batch: Batch, fine: Fine, drawn: _Drawn) -> tuple[Any, Any]:
    """Scalars from "power" to "intensity_power", (n, 5), and the residual power per shell, (n, n_shell); float64."""
    cross = fine.trials.correlation(drawn.slices, drawn.weights)
    power = mean_power(drawn.slices.reshape(-1, drawn.slices.shape[2]), drawn.amounts)
    intensity = batch.xp.asarray(batch.search.block.intensity[fine.rows])
    noise, scalars = residual_sums(batch.compared, fine.at, (cross, power), drawn.amounts.sum(axis=1), intensity)
    return scalars, noise
