"""Rates of a GPU: matrix products, copies, every kernel beside the least its memory would take, scoring of poses.

Used by ``benchmarks/gpu.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from napari_autorefine import xp
from napari_autorefine.engine import batch_shifts, slices
from napari_autorefine.engine.batch_weights import ranking
from napari_autorefine.engine.context import GroupModel
from napari_autorefine.engine.device import resident_shifts
from napari_autorefine.engine.grids import make_orientation_grid, translations
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.engine.shifts import shift_basis
from napari_autorefine.engine.slices import HalfTurn, SliceTable
from napari_autorefine.kernels import _cuda, backproject, moments, positions, project, significance, table
from napari_autorefine.kernels.ctf import ctf
from napari_autorefine.kernels.shells import shell_sums
from napari_autorefine.model.symmetry import point_group

# Operations per sample of the kernels that are no matrix products: interpolation between eight voxels.
OPERATIONS = {"project": 60.0, "backproject": 80.0, "weighted_power": 4.0, "mean_power": 4.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the measured problems are: those of a 256 px refinement, or small ones for a test."""

    matrix: int = 8192
    copy_bytes: int = 1 << 30
    box: int = 256
    coarse_size: int = 70
    n_rot: int = 2048
    n_image: int = 128
    healpix_order: int = 3
    repeats: int = 5


@dataclass(slots=True)
class Counter:
    """Floating-point operations since the last call of ``take``."""

    operations: float = 0.0
    by_kind: dict[str, float] = field(default_factory=dict)

    def add(self, kind: str, n: float) -> None:
        """Count operations."""
        self.operations += n
        self.by_kind[kind] = self.by_kind.get(kind, 0.0) + n

    def take(self) -> float:
        """Return what has been counted and begin again."""
        found, self.operations = self.operations, 0.0
        return found


def best_s(work: Callable[[], object], device: int, repeats: int) -> float:
    """Return the shortest time of several calls, each waited for, after one that does not count."""
    cupy = module(device)
    times = []
    for _ in range(repeats + 1):
        cupy.cuda.Device(device).synchronize()
        began = time.perf_counter()
        work()
        cupy.cuda.Device(device).synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def module(device: int) -> Any:
    """Return CuPy."""
    return xp.array_module(xp.zeros_on_device((1,), np.float32, device))


def matrix_rate(device: int, sizes: Sizes, *, fast: bool = False) -> float:
    """Return operations per second of a large product in single precision, or in TF32."""
    rng, cupy = np.random.default_rng(1), module(device)
    shape = (sizes.matrix, sizes.matrix)
    first, second = (cupy.asarray(rng.standard_normal(shape, dtype=np.float32)) for _ in range(2))
    return 2.0 * sizes.matrix**3 / best_s(lambda: xp.product(first, second, fast=fast), device, sizes.repeats)


def copy_rates(device: int, sizes: Sizes) -> dict[str, float]:
    """Return bytes per second: read and written on the device, to it and from it."""
    cupy, n = module(device), sizes.copy_bytes // 4
    host, near, far = np.ones(n, np.float32), cupy.ones(n, np.float32), cupy.empty(n, np.float32)
    return {
        "within": 2.0 * 4 * n / best_s(lambda: cupy.copyto(far, near), device, sizes.repeats),
        "to the GPU": 4.0 * n / best_s(lambda: cupy.asarray(host), device, 2),
        "from the GPU": 4.0 * n / best_s(near.get, device, 2),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """Seconds of a kernel, and those in which its data pass through memory once."""

    name: str
    seconds: float
    floor_s: float


def kernel_times(device: int, sizes: Sizes, copied: float) -> list[KernelTime]:
    """Time every kernel at the sizes of a refinement; ``copied`` is the rate of copies within the device."""
    cupy, rng = module(device), np.random.default_rng(2)
    samples = fourier_samples(sizes.box, sizes.box // 2, sizes.coarse_size)
    n_rot, k, radius = sizes.n_rot, samples.n_sample, sizes.box // 2 + 2
    grid = make_orientation_grid(2, point_group("D2"))
    chosen = np.sort(rng.integers(0, grid.n_orientation, n_rot))
    rotations = grid.coarse_matrices(*np.divmod(chosen, grid.n_psi), 0.3)
    turns = cupy.asarray(np.ascontiguousarray(2.0 * np.swapaxes(rotations, 1, 2), dtype=np.float32))
    shape = (2 * radius + 1, 2 * radius + 1, radius + 2)

    def real(*n: int) -> Any:
        return cupy.asarray(rng.random(n, dtype=np.float32))

    def complex_(*n: int) -> Any:
        return real(*n[:-1], 2 * n[-1]).view(np.complex64)

    volume, weight, slices_, r2 = complex_(*shape), real(*shape), complex_(n_rot, k), float((radius - 2) ** 2)
    ones, of_sample, n_shell = real(n_rot), real(k), sizes.box // 2 + 1
    sums, sum_weights = complex_(4 * n_rot, k), real(4 * n_rot, k)
    touched, places = cupy.zeros(4 * n_rot, np.bool_), cupy.asarray(rng.integers(0, 4 * n_rot, n_rot))
    shell = cupy.asarray(samples.shell.astype(np.int32))
    scores = real(sizes.n_image, 37 * n_rot)
    flags = scores > 0.99
    parameters = cupy.asarray(np.tile([-1300.0, 3.0, -1290.0, 4000.0, 0.1, 10.0, 1.0], (sizes.n_image, 1)))
    frequencies = cupy.asarray(samples.frequencies(1.244))
    none, n = np.zeros(k), n_rot * k
    work: dict[str, tuple[Callable[[], object], float]] = {
        "project": (lambda: project(volume, turns, samples.rows, k, r2), 8.0 * n + 8.0 * volume.size),
        "backproject": (
            lambda: backproject(volume, weight, turns, slices_, ones, of_sample, samples.rows, r2, 0, len(volume)),
            8.0 * n + 24.0 * volume.size,
        ),
        "ctf": (lambda: ctf(parameters, frequencies, none, False), 4.0 * sizes.n_image * k),
        "weighted_power": (lambda: moments.weighted_power(slices_, of_sample), 8.0 * n),
        "mean_power": (lambda: moments.mean_power(slices_, ones), 8.0 * n),
        "add_rows": (
            lambda: table.add_rows(
                sums.view(np.float32), sum_weights, touched, places, slices_.view(np.float32), ones, of_sample, 0,
                4 * n_rot,
            ),
            8.0 * n + 24.0 * n,
        ),
        "significant_weights": (lambda: significance.significant_weights(scores, 0.999), 8.0 * scores.size),
        "set_positions": (lambda: positions.set_positions(flags, n_rot), 1.0 * flags.size),
        "shell_sums": (lambda: shell_sums(sum_weights[: sizes.n_image], shell, n_shell), 4.0 * sizes.n_image * k),
    }  # fmt: skip
    return [
        KernelTime(name=name, seconds=best_s(run, device, sizes.repeats), floor_s=n_byte / copied)
        for name, (run, n_byte) in work.items()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRate:
    """Operations per second of scoring a batch against a grid, and how far TF32 keeps the ranking of poses.

    ``kept`` is the smallest share, over images, of the weight of exact scores that lies on the samples which scores in
    TF32 would keep; ``same_best`` the share of images with the same best sample.
    """

    rate: float
    fast_rate: float
    kept: float
    same_best: float


def scoring_rate(device: int, sizes: Sizes) -> ScoringRate:
    """Measure the scores of a block of images against the whole grid of a 7.5 degree search."""
    cupy, rng = module(device), np.random.default_rng(3)
    samples = fourier_samples(sizes.box, sizes.coarse_size, sizes.coarse_size)
    basis = resident_shifts(shift_basis(samples, translations(6.0, 2.0), slice(samples.n_coarse)), device)
    grid = make_orientation_grid(sizes.healpix_order, point_group("D2"))
    n_half = grid.n_dir * (grid.n_psi // 2)

    def normal(n: int) -> Any:
        return cupy.asarray(rng.standard_normal((n, 2 * samples.n_sample), dtype=np.float32)).view(np.complex64)

    # Images are slices under twice as much noise, as far as their low frequencies go.
    own = normal(n_half)
    images = own[cupy.asarray(rng.integers(0, n_half, sizes.n_image))] + 8.0 * normal(sizes.n_image)
    ones = cupy.ones((sizes.n_image, samples.n_sample), np.float32)
    weight = cupy.full(samples.n_sample, 1.0 / 64.0, np.float32)
    block: Any = SimpleNamespace(masked=images, contrast=ones, precision=None)
    model = GroupModel(inverse_sigma2=weight, score_weight=weight, expected_power=weight, log_noise=0.0)
    scored: Any = SimpleNamespace(reference=own)
    table_: Any = SliceTable(
        half=scored, geometry=scored, n_dir=grid.n_dir, n_psi=grid.n_psi, rotations=lambda numbers: numbers,
        rows=samples.rows, n_sample=samples.n_sample, half_turn=HalfTurn.of(own),
    )  # fmt: skip
    counter = Counter()
    with counting(counter, device):
        exact = table_.scores(block, model, basis, is_cc=False)
    operations = counter.take()
    fast = table_.scores(block, model, basis, is_cc=False, fast=True)
    kept, same_best = ranking(exact.transpose(1, 0, 2), fast.transpose(1, 0, 2), 0.999)
    del exact, fast
    seconds, fast_seconds = (
        best_s(lambda fast=fast: table_.scores(block, model, basis, is_cc=False, fast=fast), device, sizes.repeats)
        for fast in (False, True)
    )
    return ScoringRate(rate=operations / seconds, fast_rate=operations / fast_seconds, kept=kept, same_best=same_best)


@contextmanager
def counting(counter: Counter, device: int) -> Iterator[None]:
    """Count the operations of matrix products and kernels while the context is open."""
    cupy = module(device)
    multiply, matmul = xp.product, cupy.matmul

    def product(a: Any, b: Any, **keywords: Any) -> Any:
        counter.add("products", 2.0 * a.shape[0] * a.shape[1] * (b.shape[1] if b.ndim > 1 else 1))
        return multiply(a, b, **keywords)

    def products(a: Any, b: Any, **keywords: Any) -> Any:
        found = matmul(a, b, **keywords)
        counter.add("products", 2.0 * found.size * a.shape[-1])
        return found

    def watched(name: str, launch: Callable[..., Any], array: int) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            found = launch(*arguments)
            size = found.size if name == "project" else arguments[array].size
            counter.add(name, OPERATIONS[name] * size)
            return found

        return run

    changed: list[tuple[Any, str, Any]] = [(batch_shifts, "product", product), (slices, "product", product)]
    changed.append((cupy, "matmul", products))
    for owner, name, array in ((_cuda, "project", 0), (_cuda, "backproject", 3), (moments, "weighted_power", 0)):
        changed.append((owner, f"launch_{name}", watched(name, getattr(owner, f"launch_{name}"), array)))
    changed.append((moments, "launch_mean_power", watched("mean_power", moments.launch_mean_power, 0)))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changed]
    try:
        for owner, name, value in changed:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
