"""Where the time of an iteration goes, stage by stage, beside the least that the arithmetic and the memory would take.

    python benchmarks/stages.py --folder bench --set C6 --iterations 2 7 11

Runs a benchmark set (see versus_relion.py, which makes it) on one thread and prints a table for each of the iterations.
Floors: slices read 8 voxels of 8 bytes and write 8 bytes per sample, insertion reads and writes 8 voxels of 12 bytes
per sample, both at the rate at which this machine copies an array of 256 KiB; products at the rate of a large
single-precision matrix product. Times are CPU times, in milliseconds per particle.

Stages of a compiled search cannot be watched from outside, so the search goes step by step here; the last line is that
of another run, compiled as always.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measure_run import machine
from threadpoolctl import threadpool_limits
from versus_relion import SETS, BenchmarkSet, prepare

from napari_autorefine import kernels
from napari_autorefine.engine import block, expectation, half_job, insertion, loop, maximization
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.shifts import ShiftedImage
from napari_autorefine.engine.slices import SliceTable
from napari_autorefine.events import IterationDone
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.io.star import read_particles

Work = Callable[..., float]  # samples or operations of a call, from its result and arguments


def _no_work(*_: Any, **__: Any) -> float:
    return 0.0


def _samples(result: Any, *_: Any, **__: Any) -> float:
    return float(result.size)


def _inserted(_: Any, *args: Any, **__: Any) -> float:
    return float(args[3].size)


def _table_operations(result: Any, table: Any, images: Any, model: Any, shifts: Any, **_: Any) -> float:
    n_function = shifts.n_shift if shifts.functions is None else len(shifts.functions)
    return 2.0 * 2 * table.n_sample * (table.n_rot / table.n_mate) * len(images.masked) * n_function


def _operations(_: Any, image: Any, slices: Any, *__: Any) -> float:
    return 4.0 * slices.size * len(image.samples)


def _mixed(result: Any, image: Any, *_: Any) -> float:
    return 4.0 * result.size * len(image.samples)


class Stages:
    """Exclusive CPU time and work of functions, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.work: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def watch(self, owner: Any, name: str, stage: str, work: Work = _no_work) -> None:
        """Replace a function of a module or class by one that is timed."""
        function = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            started = time.thread_time()
            result = function(*args, **kwargs)
            spent = time.thread_time() - started
            self.seconds[stage] += spent - self._inner.pop()
            self._inner[-1] += spent
            self.work[stage] += work(result, *args, **kwargs)
            return result

        setattr(owner, name, timed)

    def take(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return times and work since the last call."""
        found = dict(self.seconds), dict(self.work)
        self.seconds.clear()
        self.work.clear()
        return found


def watched() -> Stages:
    """Watch every stage of an iteration."""
    stages = Stages()
    stages.watch(kernels, "project_cpu", "slices", _samples)
    stages.watch(kernels, "backproject_cpu", "insertion", _inserted)
    stages.watch(SliceTable, "scores", "scores of the whole grid", _table_operations)
    stages.watch(ShiftedImage, "products", "scores of chosen orientations", _operations)
    stages.watch(ShiftedImage, "averaged", "images of the posterior", _mixed)
    stages.watch(ShiftedImage, "correlation", "moments", _operations)
    stages.watch(expectation, "weighted_power", "scores of chosen orientations")
    stages.watch(maximization, "mean_power", "moments")
    stages.watch(expectation, "largest_weights", "selection")
    stages.watch(expectation, "with_priors", "selection")
    stages.watch(expectation, "with_parents_priors", "selection")
    stages.watch(insertion, "add_rows", "sums per orientation")
    stages.watch(half_job, "prepare_block", "images")
    stages.watch(half_job, "share_slices", "tables")
    stages.watch(loop, "expected_accuracy", "expected accuracy")
    stages.watch(loop, "finish_sums", "symmetry")
    stages.watch(loop, "iterate_maps", "maps")
    stages.watch(loop, "final_maps", "maps")
    return stages


class InTurn:
    """Stands in for the threads: everything in the caller's, one thing after the other."""

    threads = 1

    def __init__(self, _: int) -> None:
        pass

    def __enter__(self) -> InTurn:
        self._limits = threadpool_limits(limits=1)
        return self

    def __exit__(self, *_: object) -> None:
        self._limits.restore_original_limits()

    def each(self, function: Callable[[Any], Any], items: Any) -> None:
        """Call a function on every item."""
        for item in items:
            function(item)

    def ordered(self, function: Callable[[Any], Any], items: Any) -> Iterator[Any]:
        """Return the results in order."""
        yield from map(function, items)


def floors() -> dict[str, float]:
    """Least seconds per unit of work: samples of slices and insertion, operations of everything else."""
    source = np.ones(1 << 16, dtype=np.float32)
    target = np.empty_like(source)
    copied = 2 * source.nbytes / _cpu_seconds(lambda: np.copyto(target, source), 200)
    first, second = (np.ones((1536, 1536), dtype=np.float32) for _ in range(2))
    with threadpool_limits(limits=1):
        rate = 2 * 1536.0**3 / _cpu_seconds(lambda: first @ second, 5)
    print(f"Copies in cache: {1e-9 * copied:.0f} GB/s; matrix product: {1e-9 * rate:.0f} GFLOP/s.")
    return {"slices": 72 / copied, "insertion": 192 / copied, "": 1 / rate}


def _cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Shortest CPU time of several repeats."""
    times = []
    for _ in range(repeats):
        started = time.thread_time()
        work()
        times.append(time.thread_time() - started)
    return min(times)


def table(
    times: dict[str, float], work: dict[str, float], total: float, compiled: float, per_unit: dict[str, float]
) -> str:
    """One iteration as Markdown; times and work are those of one particle, ``compiled`` that of the compiled search."""
    least = {stage: amount * per_unit.get(stage, per_unit[""]) for stage, amount in work.items() if amount}
    lines = ["| stage | ms per particle | floor | work |", "|---|---|---|---|"]
    for stage in sorted(times, key=lambda name: -times[name]):
        amount, floor = "", ""
        if stage in least:
            kind = "samples" if stage in ("slices", "insertion") else "operations"
            amount, floor = f"{work[stage] / 1e6:.3g} M {kind}", f"{1e3 * least[stage]:.2f}"
        lines.append(f"| {stage} | {1e3 * times[stage]:.2f} | {floor} | {amount} |")
    lines.append(f"| everything else | {1e3 * (total - sum(times.values())):.2f} | | |")
    lines.append(f"| together, step by step | {1e3 * total:.2f} | {1e3 * sum(least.values()):.2f} | |")
    lines.append(f"| together, compiled | {1e3 * compiled:.2f} | | |")
    return "\n".join(lines)


def totals(problem: RefinementProblem, options: RefineOptions) -> Iterator[tuple[int, float]]:
    """Yield the number and the CPU time of every iteration."""
    started = time.process_time()
    for event in loop.refine(problem, options):
        if isinstance(event, IterationDone):
            yield event.iteration, time.process_time() - started
            started = time.process_time()


def run(item: BenchmarkSet, folder: Path, wanted: list[int]) -> None:
    """Refine a set and print the tables of the wanted iterations."""
    os.chdir(folder)
    particles = read_particles(item.particles)
    stack = ParticleStack(particles, star_path=folder / item.particles)
    reference = read_volume(folder / item.reference)
    problem = RefinementProblem(
        particles=particles, read_images=stack.read, reference=reference.data, voxel_size_A=reference.voxel_size_A
    )
    options = RefineOptions(
        symmetry=item.symmetry, ini_high_A=item.ini_high_A, particle_diameter_A=item.diameter_A, threads=1,
        random_seed=42, healpix_order=item.healpix_order, auto_local_healpix_order=item.local_order,
        max_iterations=max(wanted),
    )  # fmt: skip
    loop.Workers = InTurn  # type: ignore[assignment, misc]
    per_unit, n = floors(), len(particles.image_name)
    compiled = dict(totals(problem, options))
    block.can_be_compiled = lambda search: False
    stages, started = watched(), time.process_time()
    for event in loop.refine(problem, options):
        if isinstance(event, IterationDone):
            total = time.process_time() - started
            times, work = ({k: v / n for k, v in found.items()} for found in stages.take())
            if event.iteration in wanted:
                step, size = event.angular_step_deg, event.current_size
                kind = "local" if event.is_local else "global"
                print(f"\nIteration {event.iteration}: {kind}, fine step {step:.2f}°, working size {size}\n")
                print(table(times, work, total / n, compiled[event.iteration] / n, per_unit), flush=True)
            started = time.process_time()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--set", dest="name", choices=tuple(SETS), default="C6")
    parser.add_argument("--iterations", type=int, nargs="+", default=[2, 7, 11])
    arguments = parser.parse_args()
    item, folder = SETS[arguments.name], arguments.folder.resolve() / arguments.name
    prepare(item, folder)
    print(f"{machine()}; {item.title}.")
    run(item, folder, sorted(arguments.iterations))


if __name__ == "__main__":
    main()
