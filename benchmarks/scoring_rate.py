"""How far the scoring of poses runs from the machine's own rate of single-precision matrix products.

    python benchmarks/scoring_rate.py

The useful work of scoring n_rot slices against n_trans shifts of an image of K complex samples is one matrix product
of 4 n_rot n_trans K operations. Shifts are scored through a basis of fewer functions, so that the useful rate can
exceed the machine's; the rate of the operations that are carried out is given beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from measure_run import machine
from threadpoolctl import threadpool_limits

from napari_autorefine.engine.expectation import log_likelihoods
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.engine.shifts import shift_basis

N_PIXEL, N_ROT = 128, 1152


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Return the shortest time of several repeats."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def sgemm_rate(rows: int, inner: int, columns: int) -> float:
    """Return the rate of a plain matrix product of these sizes in 10^9 operations per second."""
    rng = np.random.default_rng(1)
    first, second = (rng.standard_normal(shape, dtype=np.float32) for shape in ((rows, inner), (inner, columns)))
    return 2e-9 * rows * inner * columns / seconds(lambda: first @ second)


def disc(radius: float) -> np.ndarray:
    """Return shifts (n, 2) in pixels on a grid of one pixel within a radius."""
    axis = np.arange(-int(radius), int(radius) + 1)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(np.float64)
    return grid[(grid**2).sum(axis=1) <= radius**2]


def row(size: int, radius: float) -> str:
    """Measure one working size and search radius; return a row of the table."""
    samples = fourier_samples(N_PIXEL, size, size)
    shifts = disc(radius)
    basis = shift_basis(samples, shifts, slice(None))
    rng = np.random.default_rng(2)
    slices = rng.standard_normal((N_ROT, 2 * samples.n_sample), dtype=np.float32).view(np.complex64)
    image = rng.standard_normal(2 * samples.n_sample, dtype=np.float32).view(np.complex64)
    contrast = np.ones(samples.n_sample, dtype=np.float32)
    trials = basis.of(image)
    taken = seconds(lambda: log_likelihoods(slices, trials, contrast, contrast))
    useful = 4e-9 * N_ROT * len(shifts) * samples.n_sample
    n_function = len(trials.samples)
    carried_out = 4e-9 * N_ROT * n_function * samples.n_sample
    if trials.coefficients is not None:
        carried_out += 2e-9 * N_ROT * n_function * len(shifts)
    ceiling = sgemm_rate(N_ROT, 2 * samples.n_sample, n_function)
    return (
        f"| {size} | {samples.n_sample} | {len(shifts)} | {n_function} | {useful / taken:.0f} |"
        f" {carried_out / taken:.0f} | {ceiling:.0f} | {carried_out / taken / ceiling:.0%} |"
    )


def main() -> None:
    """Print the table for one thread, as one worker of a refinement runs it."""
    with threadpool_limits(limits=1):
        print(f"{machine()}; one thread; large square product {sgemm_rate(1536, 1536, 1536):.0f} GFLOP/s.\n")
        print("| size (px) | samples | shifts | functions | useful GFLOP/s | carried out | sgemm, same sizes | share |")
        print("|---|---|---|---|---|---|---|---|")
        for size, radius in ((32, 5.0), (48, 5.0), (64, 3.0), (96, 3.0), (128, 2.0)):
            print(row(size, radius), flush=True)


if __name__ == "__main__":
    main()
