"""Adding weighted images to a half-map's Fourier volume, in an order that does not depend on the number of threads.

Blocks hand over their insertions in block order. They wait until enough memory is used, then threads add them at once,
each to planes (or orientations) of its own, so that every voxel sees the same additions in the same order. In global
searches images are first summed per grid orientation, and each orientation is inserted once at the end. Sums are of
double precision, so that they are the same, once they are rounded, when several processes have a part of them each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.kernels import backproject
from napari_autorefine.kernels.table import add_rows

_ROWS_AT_ONCE = 1 << 14  # of a table, whose matrices are made
_ROWS_TOGETHER = 64  # that are added together

Run = Callable[[Callable[[slice], None], Sequence[slice]], None]


@dataclass(slots=True)
class OrientationTable:
    """Weighted sums of images per fine orientation of the grid.

    Attributes
    ----------
    values : (n_orientation, n_sample) complex128; complex64 on devices
    weights : (n_orientation, n_sample) float64; float32 on devices
    touched : (n_orientation,) bool
    """

    values: np.ndarray
    weights: np.ndarray
    touched: np.ndarray
    rows: np.ndarray

    @classmethod
    def zeros(cls, n_orientation: int, n_sample: int, rows: np.ndarray) -> OrientationTable:
        """Empty table."""
        return cls(
            values=np.zeros((n_orientation, n_sample), dtype=np.complex128),
            weights=np.zeros((n_orientation, n_sample), dtype=np.float64),
            touched=np.zeros(n_orientation, dtype=bool),
            rows=rows,
        )

    @staticmethod
    def nbytes(n_orientation: int, n_sample: int) -> int:
        """Memory of such a table in single precision."""
        return 12 * n_orientation * n_sample


@dataclass(slots=True)
class HalfSum:
    """The growing Fourier volume of one half-set.

    Attributes
    ----------
    accumulators : data and weights
    r2_max : squared radius inserted, padded units
    tables : optics group -> table of sums per orientation; groups without one are inserted directly
    run : runs a function over slabs, in parallel where there are threads
    n_slabs : slabs a flush is cut into
    limit_bytes : memory of waiting insertions that triggers a flush
    """

    accumulators: Accumulators
    r2_max: float
    run: Run
    n_slabs: int
    limit_bytes: int
    tables: dict[int, OrientationTable] = field(default_factory=dict)
    _waiting: list[tuple[int, Insertion]] = field(default_factory=list)
    _waiting_bytes: int = 0

    def add(self, group: int, entry: Insertion) -> None:
        """Take one particle's insertion; particles must come in their fixed order."""
        self.accumulators.dc_data += entry.origin_value
        self.accumulators.dc_weight += entry.origin_weight
        self._waiting.append((group, entry))
        self._waiting_bytes += entry.nbytes
        if self._waiting_bytes > self.limit_bytes:
            self.flush()

    def flush(self) -> None:
        """Add everything that waits."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        direct = [entry for group, entry in waiting if group not in self.tables]
        if direct:
            self.run(partial(self._insert, direct), _slabs(self._n_planes, self.n_slabs))
        for group, table in self.tables.items():
            own = [entry for g, entry in waiting if g == group]
            if own:
                self.run(partial(_add_to_table, table, own), _slabs(len(table.touched), self.n_slabs))

    def finish(self, sampling_matrices: dict[int, Callable[[np.ndarray], np.ndarray]]) -> Accumulators:
        """Insert what waits and the tables; ``sampling_matrices`` maps fine orientations to kernel matrices."""
        self.flush()
        for group, table in self.tables.items():
            touched = np.flatnonzero(table.touched)
            for start in range(0, len(touched), _ROWS_AT_ONCE):
                used = touched[start : start + _ROWS_AT_ONCE]
                insert = partial(self._insert_rows, table, used, sampling_matrices[group](used))
                self.run(insert, _slabs(self._n_planes, self.n_slabs))
        self.tables = {}
        return self.accumulators

    @property
    def _n_planes(self) -> int:
        return int(self.accumulators.data.shape[0])

    def _insert(self, entries: list[Insertion], slab: slice) -> None:
        for entry in entries:
            backproject(
                self.accumulators.data, self.accumulators.weight, entry.matrices, entry.values, entry.amounts,
                entry.sample_weight, entry.rows, self.r2_max, slab.start, slab.stop,
            )  # fmt: skip

    def _insert_rows(self, table: OrientationTable, used: np.ndarray, matrices: np.ndarray, slab: slice) -> None:
        """Insert some rows of a table, as many together as the kernel takes at once."""
        ones = np.ones(_ROWS_TOGETHER, dtype=np.float32)
        values, weights = (np.empty((_ROWS_TOGETHER, t.shape[1]), t.dtype) for t in (table.values, table.weights))
        for start in range(0, len(used), _ROWS_TOGETHER):
            rows = used[start : start + _ROWS_TOGETHER]
            n = len(rows)
            np.take(table.values, rows, axis=0, out=values[:n], mode="clip")
            np.take(table.weights, rows, axis=0, out=weights[:n], mode="clip")
            backproject(
                self.accumulators.data, self.accumulators.weight, matrices[start : start + n], values[:n], ones[:n],
                weights[:n], table.rows, self.r2_max, slab.start, slab.stop,
            )  # fmt: skip


def _add_to_table(table: OrientationTable, entries: list[Insertion], part: slice) -> None:
    for entry in entries:
        add_rows(
            table.values.view(table.weights.dtype), table.weights, table.touched, entry.orientations,
            entry.values.view(np.float32), entry.amounts, entry.sample_weight, part.start, part.stop,
        )  # fmt: skip


def _slabs(n: int, n_slabs: int) -> list[slice]:
    edges = np.linspace(0, n, n_slabs + 1).round().astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges) if b > a]
