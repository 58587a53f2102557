"""From weighted Fourier sums to half maps: symmetry, statistics of the halves, regularised inversion.

Follows the maximum-a-posteriori reconstruction of Scheres (2012), J. Mol. Biol. 415, 406-418,
doi:10.1016/j.jmb.2011.11.010, with the conventions of RELION's backprojector.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, isfinite

import numpy as np
import scipy.fft

from napari_autorefine.engine.cosets import coset_factors
from napari_autorefine.engine.density import density_compensation
from napari_autorefine.engine.inversion import map_of_planes
from napari_autorefine.engine.projector import (
    array_radius,
    centering_phase,
    kept_radius,
    padded_size,
    transform_rows_at_once,
)
from napari_autorefine.engine.shells import (
    counts_by_radius2,
    plane_radius2,
    round_half_up,
    run_slabs,
    shell_of_radius2,
    slabs,
)
from napari_autorefine.engine.sphere_loops import divide_sphere, reach_of_rows, shell_products, sphere_hits, sphere_sums
from napari_autorefine.kernels._symmetrize import symmetrize_planes

_PLANES_AT_ONCE = 8


@dataclass(slots=True, kw_only=True, eq=False)
class Accumulators:
    """Weighted sums of inserted slices; the one mutable value of the engine.

    Attributes
    ----------
    data : (2 R + 1, 2 R + 1, R + 2) complex64, element [z + R, y + R, x], layout of ``PaddedReference``; complex128
        until ``round`` where the order of additions must not matter
    weight : the same shape, float32; float64 with complex128
    pad, r_max, box_size : as in ``PaddedReference``
    data_dim : 2 for images, 3 for subtomograms
    dc_data, dc_weight : sums of the origin sample, kept in double precision until ``complete_hermitian``
    """

    data: np.ndarray
    weight: np.ndarray
    pad: int
    r_max: float
    box_size: int
    data_dim: int = 2
    dc_data: float = 0.0
    dc_weight: float = 0.0

    @classmethod
    def zeros(
        cls, box_size: int, *, pad: int, r_max: float, data_dim: int = 2, is_double: bool = False
    ) -> Accumulators:
        """Return empty sums for a map of ``box_size`` up to frequency index ``r_max``."""
        radius = array_radius(pad, r_max)
        shape = (2 * radius + 1, 2 * radius + 1, radius + 2)
        return cls(
            data=np.zeros(shape, dtype=np.complex128 if is_double else np.complex64),
            weight=np.zeros(shape, dtype=np.float64 if is_double else np.float32),
            pad=pad,
            r_max=r_max,
            box_size=box_size,
            data_dim=data_dim,
        )

    @property
    def radius(self) -> int:
        """R: index of the origin along z and y."""
        return (self.weight.shape[0] - 1) // 2

    @property
    def keep(self) -> int:
        """Radius of the sphere that holds data, in padded units."""
        return kept_radius(self.pad, self.r_max)

    @property
    def r2_max(self) -> float:
        """Squared radius in padded units beyond which nothing is inserted."""
        return float(self.keep**2)

    @property
    def n_shell(self) -> int:
        """Shells of the map, 0 to N / 2."""
        return self.box_size // 2 + 1

    def add(self, other: Accumulators) -> None:
        """Add the sums of ``other`` to these, in place."""
        self.data += other.data
        self.weight += other.weight
        self.dc_data += other.dc_data
        self.dc_weight += other.dc_weight

    def round(self) -> None:
        """Round the sums to single precision: from then on they are only read as a whole."""
        self.weight = self.weight.astype(np.float32, copy=False)
        self.data = self.data.astype(np.complex64, copy=False)

    def copy(self) -> Accumulators:
        """Return independent sums with the same values."""
        return Accumulators(
            data=self.data.copy(),
            weight=self.weight.copy(),
            pad=self.pad,
            r_max=self.r_max,
            box_size=self.box_size,
            data_dim=self.data_dim,
            dc_data=self.dc_data,
            dc_weight=self.dc_weight,
        )


def complete_hermitian(acc: Accumulators) -> None:
    """Put the origin sample in its place and add the Friedel mates on the plane x = 0, in place.

    The origin is its own mate and is not doubled.
    """
    origin = (acc.radius, acc.radius)
    for array in (acc.data, acc.weight):
        plane = array[:, :, 0]
        before = plane[origin]
        plane += np.conj(plane[::-1, ::-1])
        plane[origin] = before.real
    acc.data[*origin, 0] += acc.dc_data
    acc.weight[*origin, 0] += acc.dc_weight
    acc.dc_data = acc.dc_weight = 0.0


def symmetrize(acc: Accumulators, operators: np.ndarray, threads: int = 1) -> None:
    """Replace the sums by their sums over all rotations of a point group, in place.

    Parameters
    ----------
    acc : completed sums
    operators : (n, 3, 3), rotations of (x, y, z), the identity included
    threads : worker threads
    """
    spare: list[tuple[np.ndarray, np.ndarray]] = []  # never the arrays that came in: others may hold them
    for done, factor in enumerate(coset_factors(operators)):
        rotations = np.ascontiguousarray(factor, dtype=np.float32)
        data, weight = spare.pop() if spare else (np.empty_like(acc.data), np.empty_like(acc.weight))

        def sum_planes(planes: slice) -> None:
            symmetrize_planes(acc.data, acc.weight, rotations, acc.r2_max, planes, data, weight)  # noqa: B023

        run_slabs(sum_planes, slabs(len(weight), ceil(len(weight) / (8 * threads))), threads, is_repeatable=True)
        if done:
            spare.append((acc.data, acc.weight))
        acc.data, acc.weight = data, weight


def join_radius(box_size: int, voxel_size_A: float, resolution_A: float, join_A: float) -> int:
    """Shells that the halves share: CEIL(N a / L) with L the coarser of ``join_A`` and the current resolution.

    The quotient is taken in single precision, as RELION's default build does; when the resolution is coarser than
    ``join_A`` it is a whole number and rounding decides. Nothing is shared when ``join_A`` is 0 or less.
    """
    extent_A = np.float32(box_size) * np.float32(voxel_size_A)
    shell = round_half_up(float(extent_A) / resolution_A) if isfinite(resolution_A) and join_A > 0 else 0
    if shell == 0:
        return 0
    reached_A = np.float32(1.0) / (np.float32(shell) / extent_A)
    return ceil(float(extent_A / max(np.float32(join_A), reached_A)))


def join_low_resolution(first: Accumulators, second: Accumulators, shells: int) -> None:
    """Replace the sums of both halves within ``shells`` by their average, in place, so that they cannot drift apart."""
    keep = min(round_half_up(first.pad * shells), first.radius)
    rows = slice(first.radius - keep, first.radius + keep + 1)
    plane = plane_radius2(keep, keep + 1)
    inside = np.arange(-keep, keep + 1)[:, None, None] ** 2 + plane <= keep * keep
    for a, b in ((first.data, second.data), (first.weight, second.weight)):
        block_a, block_b = a[rows, rows, : keep + 1], b[rows, rows, : keep + 1]
        mean = (block_a + block_b) * np.float32(0.5)
        block_a[inside] = mean[inside]
        block_b[inside] = mean[inside]


def fsc_of_halves(first: Accumulators, second: Accumulators, threads: int = 1) -> np.ndarray:
    """Fourier shell correlation of two halves from their sums, unregularised, unmasked, on the unpadded grid.

    Padded voxels are added up into the nearest unpadded one; a coefficient is the quotient of data and weight.

    Returns
    -------
    (N // 2 + 1,) float64; 1 at the origin, 0 beyond ``r_max``
    """
    reach = min(int(first.r_max), first.box_size // 2)
    bins = _unpadded_bins(first, reach)
    shells = shell_of_radius2(reach * (reach + 1))
    sums = np.zeros((2 * reach + 1, 3, first.n_shell))

    def add_planes(z: slice) -> None:
        shell_products(first.data, first.weight, second.data, second.weight, bins, z.start, z.stop, shells, sums)

    run_slabs(add_planes, slabs(len(sums), _PLANES_AT_ONCE), threads)
    sums = sums.sum(axis=0)
    power = np.sqrt(sums[1] * sums[2])
    fsc = np.divide(sums[0], power, out=np.zeros_like(power), where=power > 0)
    fsc[0] = 1.0
    return fsc


def _unpadded_bins(acc: Accumulators, reach: int) -> np.ndarray:
    """First array index of each bin -reach ... reach + 1: padded index i belongs to ROUND(i / pad)."""
    index = np.arange(-acc.radius, acc.radius + 1)
    target = np.sign(index) * np.floor(np.abs(index) / acc.pad + 0.5)
    return np.searchsorted(target, np.arange(-reach, reach + 2))


def shell_sigma2(acc: Accumulators) -> np.ndarray:
    """Noise variance of the unregularised map per shell, count / sum(pad^3 weight); 0 beyond ``r_max``.

    Returns
    -------
    (N // 2 + 1,) float64, variance per real or imaginary component
    """
    last = int(acc.r2_max) - 1
    shells = np.minimum(shell_of_radius2(last, acc.pad), acc.n_shell)
    weights = np.bincount(shells, weights=_sums_by_radius2(acc, last), minlength=acc.n_shell)[: acc.n_shell]
    counts = np.bincount(shells, weights=counts_by_radius2(last), minlength=acc.n_shell)[: acc.n_shell]
    total = weights * acc.pad**3
    return np.divide(counts, total, out=np.zeros_like(counts), where=total > 1e-10)


def fourier_completeness(acc: Accumulators, tau2: np.ndarray, tau2_fudge: float = 1.0) -> np.ndarray:
    """Fraction of voxels per shell where the data outweigh the prior, weight pad^3 T tau2 >= 1; (N // 2 + 1,)."""
    last = int(acc.r2_max) - 1
    shells = np.minimum(shell_of_radius2(last, acc.pad), acc.n_shell)
    prior = _inverse_prior(acc, tau2, tau2_fudge, minres_map=0)[: last + 1]
    threshold = np.where(prior < 0, np.inf, prior).astype(np.float32)
    hits = np.zeros(last + 1, dtype=np.int64)
    sphere_hits(acc.weight, threshold, last, hits)
    counts = np.bincount(shells, weights=counts_by_radius2(last), minlength=acc.n_shell)[: acc.n_shell]
    hits = np.bincount(shells, weights=hits, minlength=acc.n_shell)[: acc.n_shell]
    return np.divide(hits, counts, out=np.zeros_like(counts), where=counts > 0)


def reconstruct(
    acc: Accumulators,
    *,
    tau2: np.ndarray | None = None,
    tau2_fudge: float = 1.0,
    minres_map: int = 5,
    skip_gridding: bool = True,
    threads: int = 1,
) -> np.ndarray:
    """Invert completed and symmetrised sums to a map on the absolute grey scale of the data.

    ``V = data / max(W, radial mean of W / 1000)``, ``W = weight + 1 / (pad^3 T tau2)``. With a prior the outermost
    sphere |k| = r_max, which RELION leaves unregularised, is left out.

    Parameters
    ----------
    acc : sums, not changed
    tau2 : (N // 2 + 1,) signal power per shell; None = no prior
    tau2_fudge : T
    minres_map : first shell that the prior acts on
    skip_gridding : without, weights are iterated to compensate for uneven sampling (Pipe & Menon 1999)
    threads : worker threads

    Returns
    -------
    (N, N, N) float32
    """
    limit = int(acc.r2_max) - (tau2 is not None or not skip_gridding)
    prior = np.zeros(limit + 1, dtype=np.float32)
    if tau2 is not None:
        prior = _inverse_prior(acc, tau2, tau2_fudge, minres_map)[: limit + 1]
    floor = _weight_floor(acc, prior)
    density = None if skip_gridding else density_compensation(acc.weight, prior, floor, acc.pad, acc.box_size, threads)
    planes = _invert_z(acc, prior, floor, density, threads)
    return map_of_planes(planes, box_size=acc.box_size, pad=acc.pad, threads=threads)


def _inverse_prior(acc: Accumulators, tau2: np.ndarray, tau2_fudge: float, minres_map: int) -> np.ndarray:
    """1 / (pad^3 T tau2) by squared padded radius, float32; -1 where tau2 is 0, 0 below ``minres_map``."""
    shells = np.minimum(shell_of_radius2(int(acc.r2_max), acc.pad), len(tau2) - 1)
    power = acc.pad**3 * tau2_fudge * np.asarray(tau2, dtype=np.float64)
    inverse = np.divide(1.0, power, out=np.full(len(power), -1.0), where=power > 1e-20)
    inverse[:minres_map] = 0.0
    table: np.ndarray = inverse[shells].astype(np.float32)
    return table


def _sums_by_radius2(acc: Accumulators, max_radius2: int, prior: np.ndarray | None = None) -> np.ndarray:
    """Sum weights, with their prior if one is given, by squared padded radius; (max_radius2 + 1,) float64."""
    sums = np.zeros(max_radius2 + 1)
    if prior is None:
        prior = np.zeros(max_radius2 + 1, dtype=np.float32)
    sphere_sums(acc.weight, prior, max_radius2, sums)
    return sums + counts_by_radius2(max_radius2) * np.maximum(prior[: max_radius2 + 1], 0)


def _weight_floor(acc: Accumulators, prior: np.ndarray) -> np.ndarray:
    """Tabulate a thousandth of the radial mean of the regularised weight, by squared padded radius; float32."""
    last = int(acc.r2_max)
    shells = np.minimum((np.sqrt(np.arange(last)) / acc.pad).astype(np.int64), max(ceil(acc.r_max) - 1, 0))
    sums = _sums_by_radius2(acc, last - 1, prior)
    total = np.bincount(shells, weights=sums)
    counts = np.bincount(shells, weights=counts_by_radius2(last - 1))
    floor = total / np.maximum(counts, 1) / 1000.0
    table: np.ndarray = floor[np.append(shells, shells[-1])][: len(prior)].astype(np.float32)
    return table


def _invert_z(
    acc: Accumulators, prior: np.ndarray, floor: np.ndarray, density: np.ndarray | None, threads: int
) -> np.ndarray:
    """Divide, scale, shift and transform along z; returns (N, 2 keep + 1, keep + 1) complex64, x, y frequencies."""
    padded, keep, limit = padded_size(acc.box_size, acc.pad), acc.keep, len(prior) - 1
    phase = np.conj(centering_phase(np.arange(-keep, keep + 1), acc.box_size, padded))
    scaled = phase / np.float32(acc.pad**3 * (acc.box_size if acc.data_dim == 2 else 1))
    planes = np.zeros((acc.box_size, 2 * keep + 1, keep + 1), dtype=np.complex64)
    density = np.empty((0, 0, 0), dtype=np.float32) if density is None else density

    def divide_and_transform(rows: slice) -> None:
        n_x = reach_of_rows(limit, np.arange(rows.start, rows.stop) - keep)
        full = np.zeros((padded, rows.stop - rows.start, n_x), dtype=np.complex64)
        divide_sphere(
            acc.data, acc.weight, density, prior, floor, rows.start, keep, scaled, phase, phase[keep:], full
        )  # fmt: skip
        planes[:, rows, :n_x] = scipy.fft.ifft(full, axis=0, norm="forward", overwrite_x=True)[: acc.box_size]

    run_slabs(
        divide_and_transform, slabs(2 * keep + 1, transform_rows_at_once(padded, keep)), threads, is_repeatable=True
    )
    return planes
