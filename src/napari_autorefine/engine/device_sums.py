"""The Fourier volume that one half-set's images are added to on one GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from napari_autorefine.engine.batch_pose import kernel_matrices
from napari_autorefine.engine.insertion import OrientationTable
from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.kernels import backproject
from napari_autorefine.kernels.table import add_rows
from napari_autorefine.xp import to_host

_PIECE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """Weighted images of a group of particles on a device, one per orientation, those of a particle together.

    Attributes
    ----------
    orientations : (n,) int64, numbers of fine orientations on the grid
    rotations : (n, 3, 3) float64, reference -> view
    frequency_matrix : of the optics group
    values : (n, n_sample) complex64
    amounts : (n,) float32, 0 for what is to be left out
    sample_weight : (n_particle, n_sample) float32; orientation o of a particle weighs ``amounts[o] * sample_weight``
    rows : row table of the samples
    origin_value, origin_weight : sums for the origin of Fourier space, in double precision
    """

    orientations: Any
    rotations: Any
    frequency_matrix: np.ndarray
    values: Any
    amounts: Any
    sample_weight: Any
    rows: np.ndarray
    origin_value: float
    origin_weight: float


@dataclass(slots=True)
class DeviceSums:
    """The growing Fourier volume of one half-set on one device.

    Attributes
    ----------
    data, weight : as in ``Accumulators``, on the device
    r2_max : squared radius inserted, padded units
    tables : optics group -> table of sums per orientation; groups without one are inserted directly
    """

    data: Any
    weight: Any
    r2_max: float
    tables: dict[int, OrientationTable] = field(default_factory=dict)
    dc_data: float = 0.0
    dc_weight: float = 0.0

    def add(self, group: int, entry: Insertion) -> None:
        """Take one particle's insertion; when memory does not suffice nothing has been added."""
        self._take(group, entry, lambda: entry.matrices)

    def add_group(self, group: int, entry: Weighted) -> None:
        """Take the images of a group of particles; when memory does not suffice nothing has been added."""
        self._take(group, entry, lambda: kernel_matrices(entry.rotations, entry.frequency_matrix))

    def _take(self, group: int, entry: Insertion | Weighted, matrices: Callable[[], Any]) -> None:
        """Add images to the group's table, or with kernel ``matrices``, made when asked for, to the volume."""
        table = self.tables.get(group)
        if table is None:
            backproject(
                self.data, self.weight, matrices(), entry.values, entry.amounts,
                entry.sample_weight, entry.rows, self.r2_max, 0, len(self.data),
            )  # fmt: skip
        else:
            add_rows(
                table.values.view(np.float32), table.weights, table.touched, entry.orientations,
                entry.values.view(np.float32), entry.amounts, entry.sample_weight, 0, len(table.touched),
            )  # fmt: skip
        self.dc_data += entry.origin_value
        self.dc_weight += entry.origin_weight

    def insert_tables(self, sampling_matrices: dict[int, Callable[[np.ndarray], Any]]) -> None:
        """Insert the tables; ``sampling_matrices`` maps fine orientations to kernel matrices."""
        for group, table in self.tables.items():
            touched = to_host(table.touched)
            size = max(1, _PIECE_BYTES // OrientationTable.nbytes(1, table.weights.shape[1]))
            for start in range(0, len(touched), size):
                # Rows of the table are passed as they are, without a copy; untouched ones are zero.
                piece = slice(start, min(start + size, len(touched)))
                if touched[piece].any():
                    matrices = sampling_matrices[group](np.arange(piece.start, piece.stop))
                    backproject(
                        self.data, self.weight, matrices, table.values[piece], touched[piece].astype(np.float32),
                        table.weights[piece], table.rows, self.r2_max, 0, len(self.data),
                    )  # fmt: skip
        self.tables = {}

    def add_to(self, accumulators: Accumulators) -> None:
        """Add these sums to the host's, a few planes at a time."""
        planes = max(1, _PIECE_BYTES // max(1, self.data[0].nbytes))
        for start in range(0, len(self.data), planes):
            piece = slice(start, start + planes)
            accumulators.data[piece] += to_host(self.data[piece])
            accumulators.weight[piece] += to_host(self.weight[piece])
        accumulators.dc_data += self.dc_data
        accumulators.dc_weight += self.dc_weight
