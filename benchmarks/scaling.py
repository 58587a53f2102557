"""How refinements scale over processes: measured with 1 and 2, simulated for more from what was measured.

    python benchmarks/scaling.py --folder bench --set D2

Makes the benchmark set (see versus_relion.py) unless it is there, and refines it

1. in this process on one thread, the search of every half-set taken apart into what processes of a cluster do: CPU
   seconds of making the reference, of every block, of finishing the volume, and bytes of every message;
2. in 1 and 2 processes of one thread each (dask.distributed on this computer), wall seconds, against this process
   alone.

Then it plays the hand-out of chunks through, with the rules of the program, for up to 64 processes and for sets as
large as asked for, whose blocks take the times that were measured. Assumptions are printed below the table.
"""

from __future__ import annotations

import argparse
import heapq
import os
import pickle
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from math import ceil, log2
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from measure_run import machine
from versus_relion import SETS, BenchmarkSet, prepare

from napari_autorefine.cluster.connect import started
from napari_autorefine.cluster.crew import DaskCrew
from napari_autorefine.cluster.description import ClusterDescription
from napari_autorefine.cluster.half_work import chunk_size
from napari_autorefine.cluster.wire import Chunk, Contract, Step, added, lean_model, lean_setup
from napari_autorefine.cluster.worker import Session
from napari_autorefine.engine.half_search import work_order
from napari_autorefine.engine.iteration import HalfTally
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.search_step import HalfSums, SearchStep
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.source import cut_into_blocks
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.engine.sums import PoseTable
from napari_autorefine.events import IterationDone, Message, Progress
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.io.star import read_particles
from napari_autorefine.model.geometry import angular_distance_deg
from napari_autorefine.model.symmetry import point_group

BYTES_PER_S = 1.25e9  # 10 Gbit/s
MEMORY_BYTES = 2 << 30


@dataclass(slots=True)
class HalfFigures:
    """One half-set of an iteration: seconds of CPU time, and bytes."""

    begin: float = 0.0
    blocks: list[float] = field(default_factory=list)
    finish: float = 0.0
    add: float = 0.0
    model_bytes: int = 0
    result_bytes: int = 0
    volume_bytes: int = 0


@dataclass(slots=True)
class IterationFigures:
    """One iteration; ``head`` is what the process that refines does besides, ``tally`` what it does with results."""

    number: int
    halves: list[HalfFigures]
    n_particle: int
    step_bytes: int
    tally: float = 0.0
    head: float = 0.0

    @property
    def alone(self) -> float:
        """Seconds of one process."""
        return self.head + self.tally + sum(h.begin + sum(h.blocks) + h.finish for h in self.halves)


class Seconds(NamedTuple):
    """Wall time, and CPU time of all processes."""

    wall: float
    cpu: float


class MeasuringCrew:
    """Does in this process what the processes of a cluster would do, and meters it."""

    def __init__(self) -> None:
        self.figures: list[IterationFigures] = []
        self.setup_bytes = 0
        self.inside = 0.0
        self._session: Session | None = None

    def search(
        self, setup: Setup, step: SearchStep, n_dir: int, table: PoseTable
    ) -> Generator[Progress | Message, None, tuple[HalfSums, HalfSums]]:
        """See ``Crew``."""
        begun = time.process_time()
        if self._session is None:
            contract = Contract(
                session="", threads=1, devices=(), cache_bytes=MEMORY_BYTES, memory_bytes=setup.options.memory_bytes
            )
            self._session = Session(lean_setup(setup), contract)
            self.setup_bytes = len(pickle.dumps(replace(setup, problem=replace(setup.problem, read_images=len)), 5))
        own = Step(plan=step.plan, sampling=step.sampling, poses=step.poses)
        figures = IterationFigures(step.plan.iteration, [], len(setup.half), len(pickle.dumps(own, 5)))
        sums = []
        for half in (1, 2):
            tally = HalfTally(setup, step.models[half - 1].norm_average, n_dir=n_dir, table=table)
            sums.append(self._half(self._session, half, step, own, tally, figures))
        for half in (1, 2):
            is_estimated = setup.options.particle_scale and not step.plan.is_cc
            table.level_intensity(setup.members(half), is_estimated=is_estimated)
        self.figures.append(figures)
        self.inside = time.process_time() - begun
        yield from ()
        return sums[0], sums[1]

    def _half(
        self, session: Session, half: int, step: SearchStep, own: Step, tally: HalfTally, figures: IterationFigures
    ) -> HalfSums:
        found, key = HalfFigures(), (step.plan.iteration, half)
        setup, model = session.setup, lean_model(step.models[half - 1])
        found.model_bytes = len(pickle.dumps(model, 5))
        found.begin = _metered(lambda: session.begin(key, own, model))
        order = work_order(setup.members(half), step.poses.euler_deg, is_local=step.sampling.is_local)
        for number, block in enumerate(cut_into_blocks(order, setup.problem.particles.optics_index, setup.block_size)):
            started_at = time.process_time()
            result = session.search(key, Chunk(number=number, particles=block))
            found.blocks.append(time.process_time() - started_at)
            found.result_bytes += len(pickle.dumps(result, 5))
            started_at = time.process_time()
            for one in result.results:
                tally.take(one)
            figures.tally += time.process_time() - started_at
        started_at = time.process_time()
        volume = session.finish(key)
        found.finish = time.process_time() - started_at
        found.volume_bytes = volume.data.nbytes + volume.weight.nbytes
        found.add = _metered(lambda: added(volume, volume))
        figures.tally += _metered(volume.round)
        figures.halves.append(found)
        return tally.statistics, volume


def _metered(action: object) -> float:
    started_at = time.process_time()
    action()  # type: ignore[operator]
    return time.process_time() - started_at


def problem_of(item: BenchmarkSet, folder: Path) -> tuple[RefinementProblem, RefineOptions]:
    """Return a benchmark set as the engine takes it."""
    particles = read_particles(folder / item.particles)
    reference = read_volume(folder / item.reference)
    problem = RefinementProblem(
        particles=particles,
        read_images=ParticleStack(particles, star_path=folder / item.particles).read,
        reference=reference.data,
        voxel_size_A=reference.voxel_size_A,
    )
    return problem, RefineOptions(
        symmetry=item.symmetry, ini_high_A=item.ini_high_A, particle_diameter_A=item.diameter_A, threads=1,
        random_seed=42, healpix_order=item.healpix_order, auto_local_healpix_order=item.local_order,
        memory_bytes=MEMORY_BYTES,
    )  # fmt: skip


def measured(problem: RefinementProblem, options: RefineOptions) -> MeasuringCrew:
    """Refine to the end, and take the searches apart."""
    crew, begun = MeasuringCrew(), time.process_time()
    for event in refine(problem, options, crew=crew):
        if isinstance(event, IterationDone):
            crew.figures[-1].head = max(time.process_time() - begun - crew.inside, 0.0)
            begun = time.process_time()
        elif isinstance(event, RefinementState) and event.iteration == 0:
            begun = time.process_time()
    return crew


def together(
    problem: RefinementProblem, options: RefineOptions, n_process: int
) -> tuple[float, float, RefinementState]:
    """Wall seconds of all iterations, and of one task; the last state. 0 processes: in this one."""
    if n_process == 0:
        last, seconds = _timed(problem, options, None)
        return seconds, 0.0, last
    with started(ClusterDescription(kind="local", n_workers=n_process)) as client:
        crew = DaskCrew(client, n_wanted=n_process)
        list(crew.greet(problem.read_images, len(problem.particles)))
        last, seconds = _timed(problem, options, crew)
        begun = time.perf_counter()
        for number in range(200):
            client.submit(abs, number, pure=False).result()
        task = (time.perf_counter() - begun) / 200
        crew.close()
    return seconds, task, last


def _timed(
    problem: RefinementProblem, options: RefineOptions, crew: DaskCrew | None
) -> tuple[RefinementState, Seconds]:
    begun, last = Seconds(time.perf_counter(), _cpu_of_all()), None
    for event in refine(problem, options, crew=crew):
        if isinstance(event, RefinementState):
            last = event
            if event.iteration == 0:
                begun = Seconds(time.perf_counter(), _cpu_of_all())
    assert last is not None
    return last, Seconds(time.perf_counter() - begun.wall, _cpu_of_all() - begun.cpu)


def _cpu_of_all() -> float:
    """Return the CPU seconds of this process and its children."""
    here = psutil.Process()
    return float(sum(one.cpu_times().user + one.cpu_times().system for one in (here, *here.children(recursive=True))))


def simulated(figures: IterationFigures, n_process: int, times: int, task: float) -> float:
    """Seconds of an iteration with processes of one thread; the set is ``times`` as large as the one measured."""
    first, second = figures.halves
    shares = [[1], [1]] if n_process == 1 else [[1] * ceil(n_process / 2), [1] * (n_process // 2)]
    searched = [
        _played(half.blocks * times, len(share), half.begin, task)
        for half, share in zip((first, second), shares, strict=True)
    ]
    search = sum(searched) if n_process == 1 else max(searched)
    reading = times * (figures.tally + (first.result_bytes + second.result_bytes) / BYTES_PER_S)
    sent = _levels(n_process) * times * figures.step_bytes / BYTES_PER_S
    sent += max(_levels(len(s)) * h.model_bytes for s, h in zip(shares, figures.halves, strict=True)) / BYTES_PER_S
    half = first if first.volume_bytes >= second.volume_bytes else second
    level = half.volume_bytes / BYTES_PER_S + half.add + task
    reduced = half.finish + ceil(log2(len(shares[0]))) * level + 2 * half.volume_bytes / BYTES_PER_S
    return figures.head + sent + max(search, reading) + reduced


def _played(blocks: list[float], n_process: int, begin: float, task: float) -> float:
    """Return when the last of the processes of a half-set ends: chunks go to whichever is free."""
    size = chunk_size(len(blocks), n_process, 1)
    free = [begin] * n_process
    for start in range(0, len(blocks), size):
        heapq.heappush(free, heapq.heappop(free) + sum(blocks[start : start + size]) + task)
    return max(free)


def _levels(n: int) -> int:
    """Return the rounds in which a value reaches n processes when everyone who has it passes it on."""
    return ceil(log2(n + 1))


def table(crew: MeasuringCrew, sizes: list[int], counts: list[int], task: float) -> str:
    """Return the table of speed-ups and efficiencies."""
    n = crew.figures[0].n_particle
    heads = ["particles", "one process alone", *(f"{count} processes" for count in counts)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for size in sizes:
        times = max(1, round(size / n))
        alone = sum(f.head + times * (f.alone - f.head) for f in crew.figures)
        cells = [f"{times * n:,}", f"{alone:,.0f} s"]
        for count in counts:
            seconds = sum(simulated(f, count, times, task) for f in crew.figures)
            cells.append(f"{seconds:,.0f} s, {100 * alone / (count * seconds):.0f} %")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure and simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the benchmark sets")
    parser.add_argument("--set", choices=tuple(SETS), default="D2")
    parser.add_argument("--iterations", type=int, default=99, help="iterations at most")
    parser.add_argument("--particles", type=int, nargs="+", default=[1500, 15_000, 150_000], help="simulated sets")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each kind; the fastest counts")
    arguments = parser.parse_args()
    item, folder = SETS[arguments.set], arguments.folder.resolve() / arguments.set
    prepare(item, folder)
    os.chdir(folder)
    problem, options = problem_of(item, folder)
    options = replace(options, max_iterations=arguments.iterations)
    print(f"{machine()}.\n\n{item.title}\n", flush=True)
    crew = measured(problem, options)
    _print_messages(crew)
    best: dict[int, Seconds] = {}
    task, states = 0.0, {}
    for _ in range(arguments.repeats):
        for count in (0, 1, 2):
            found, one_task, states[count] = together(problem, options, count)
            best[count], task = min(found, best.get(count, found)), one_task or task
            print(
                f"{count} others: {found.wall:.1f} s, CPU {found.cpu:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True
            )
    for count in (1, 2):
        wall, cpu = best[0].wall / best[count].wall, best[0].cpu / best[count].cpu
        share = f"{100 * wall / count:.0f} %; alone it took {100 * cpu:.0f} % of their CPU time"
        print(f"{count} processes: {wall:.2f} times as fast, {share}.")
    two, one = states[2].poses, states[0].poses
    distance = angular_distance_deg(two.euler_deg, one.euler_deg, point_group(item.symmetry).operators)
    moved = f"{np.count_nonzero(distance > 0.01)} views differ by more than 0.01 degrees"
    far = max(
        float((a.map - b.map).std() / b.map.std()) for a, b in zip(states[2].halves, states[0].halves, strict=True)
    )
    print(f"Last iterations {states[0].iteration} and {states[2].iteration}: {moved}, maps by {far:.1e} deviations.\n")
    print(table(crew, arguments.particles, [2, 8, 16, 32, 64], task), flush=True)
    print(
        f"\nAssumed: processes of one thread that are as fast as the one measured; {BYTES_PER_S / 1.25e8:.0f} Gbit/s;"
        f" {1e3 * task:.1f} ms per task (measured); blocks of larger sets take the times of those measured; what the"
        " head does besides takes as long for any number of particles."
    )


def _print_messages(crew: MeasuringCrew) -> None:
    print(f"Sent once to every process: {crew.setup_bytes / 1e6:.1f} MB.\n")
    heads = ["iteration", "head (s)", "reference (s)", "block (ms)", "finish (s)", "step (kB)", "model (MB)"]
    heads += ["results (kB per particle)", "volume (MB)"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    for f in crew.figures:
        blocks = np.concatenate([h.blocks for h in f.halves])
        h = f.halves[0]
        results = sum(one.result_bytes for one in f.halves) / f.n_particle
        cells = [f"{f.number}", f"{f.head:.2f}", f"{h.begin:.2f}", f"{1e3 * blocks.mean():.0f}", f"{h.finish:.2f}"]
        cells += [f"{f.step_bytes / 1e3:.0f}", f"{h.model_bytes / 1e6:.1f}", f"{results / 1e3:.1f}"]
        print("| " + " | ".join([*cells, f"{h.volume_bytes / 1e6:.1f}"]) + " |", flush=True)
    print()


if __name__ == "__main__":
    main()
