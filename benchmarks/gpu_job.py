"""A refinement of the size of RELION's tutorial on a GPU, from files to final maps, and a small one on GPU and CPU.

Used by ``benchmarks/gpu.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gpu_load import Load, measuring
from gpu_rates import Counter, counting

from napari_autorefine.engine.loop import refine as refine_arrays
from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.events import Event, Finished, IterationDone, Message, Progress
from napari_autorefine.io.mrc import read_volume, write_volume
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.measures import pose_errors
from napari_autorefine.jobs.refine import refine
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.symmetry import point_group

_SYMMETRY, _START_A = "D2", 40.0
_ELEMENTS, _SHARES = ("C", "N", "O", "S"), (0.63, 0.17, 0.195, 0.005)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSize:
    """Particles of a job: their number, box and pixel size, the molecule's atoms and radii (A); iterations at most."""

    n_particle: int
    box: int
    pixel_A: float
    n_atom: int = 32_000
    radii_A: tuple[float, float, float] = (85.0, 62.0, 42.0)
    max_iterations: int = 999

    @property
    def diameter_A(self) -> float:
        """Diameter of the mask."""
        return 2.0 * max(self.radii_A) + 20.0


TUTORIAL = JobSize(n_particle=5000, box=256, pixel_A=1.244)
QUICK = JobSize(n_particle=1000, box=128, pixel_A=2.488)
TWIN = JobSize(n_particle=128, box=64, pixel_A=4.0)


def molecule(size: JobSize) -> Atoms:
    """Return a D2 molecule with lobes and cavities, its atoms about as dense as those of proteins."""
    rng, radii = np.random.default_rng(7), np.array(size.radii_A)
    points = rng.uniform(-1, 1, (40 * size.n_atom, 3))
    lobes = np.sin(5.1 * points + (0.3, 1.1, 2.0)).sum(axis=1) + 0.8 * np.sin(9.0 * points @ (0.7, -0.4, 0.6))
    inside = ((points**2).sum(axis=1) < 1) & (lobes > 0.2)
    unit = points[inside][: size.n_atom // 4] * radii
    xyz = np.concatenate([unit @ operator.T for operator in point_group(_SYMMETRY).operators])
    return Atoms(xyz_A=xyz, element=rng.choice(_ELEMENTS, len(xyz), p=_SHARES))


def make_set(folder: Path, size: JobSize, *, snr: float = 0.06) -> Iterator[Event]:
    """Simulate the particles of a job unless they are there already; the reference is the truth at 40 A."""
    if (folder / "reference.mrc").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    params = SimulateParams(
        output=str(folder / "particles"), symmetry=_SYMMETRY, n_particle=size.n_particle, box_size=size.box,
        pixel_size_A=size.pixel_A, particle_diameter_A=size.diameter_A - 10.0, groups=24, snr=snr, overwrite=True,
    )  # fmt: skip
    yield from simulate_atoms(molecule(size), params)
    truth = read_volume(folder / "particles_truth.mrc")
    start = low_pass_map(truth.data, _START_A, truth.voxel_size_A)
    write_volume(folder / "reference.mrc", start, truth.voxel_size_A)


@dataclass(slots=True, kw_only=True)
class IterationTime:
    """Seconds of an iteration's expectation step and of the rest, what the step carried out, and the GPU's load."""

    iteration: int
    search_s: float
    other_s: float
    operations: float
    step_deg: float
    size_px: int
    is_local: bool
    busy_s: float
    waited_s: float
    n_block: int


@dataclass(slots=True, kw_only=True)
class JobResult:
    """What a job took and how good it is."""

    seconds: float = 0.0
    before_s: float = 0.0
    iterations: list[IterationTime] = field(default_factory=list)
    resolution_A: float = float("nan")
    angle_deg: float = float("nan")
    warnings: list[str] = field(default_factory=list)
    is_finished: bool = False

    @property
    def search_rate(self) -> float:
        """Operations per second of all expectation steps."""
        seconds = sum(one.search_s for one in self.iterations)
        return sum(one.operations for one in self.iterations) / seconds if seconds else 0.0


class _Clock:
    """Sorts the time between events: expectation step or anything else."""

    def __init__(self, counter: Counter, load: Load, device: int) -> None:
        self.began = self.last = time.perf_counter()
        self.load, self.device = load, device
        self.counter, self.search_s, self.other_s, self.before_s = counter, 0.0, 0.0, 0.0
        self.is_searching = False

    def see(self, event: Event) -> IterationTime | None:
        """Take note of an event; returns an iteration that it ends."""
        now = time.perf_counter()
        spent, self.last = now - self.last, now
        if self.is_searching:
            self.search_s += spent
        else:
            self.other_s += spent
        if isinstance(event, Progress):
            is_searching = event.stage == "expectation" or " of half-set" in event.stage
            if is_searching and not self.is_searching and not self.before_s:
                self.before_s = now - self.began
            self.is_searching = is_searching
        if not isinstance(event, IterationDone):
            return None
        busy_s, waited_s, n_block = self.load.take(self.device)
        found = IterationTime(
            iteration=event.iteration, search_s=self.search_s, other_s=self.other_s, operations=self.counter.take(),
            step_deg=event.angular_step_deg, size_px=event.current_size, is_local=event.is_local,
            busy_s=busy_s, waited_s=waited_s, n_block=n_block,
        )  # fmt: skip
        self.search_s = self.other_s = 0.0
        return found


def run_job(folder: Path, size: JobSize, device: int, *, threads: int, limit_s: float, tf32: bool) -> JobResult:
    """Refine a set from its files to final maps; a job that takes too long is left."""
    params = RefineParams(
        particles=str(folder / "particles.star"), reference=str(folder / "reference.mrc"),
        output=str(folder / "run" / "run"), symmetry=_SYMMETRY, ini_high_A=_START_A, overwrite=True,
        particle_diameter_A=size.diameter_A, healpix_order=2, auto_local_healpix_order=4, offset_range_px=5.0,
        offset_step_px=2.0, random_seed=1, gpu=str(device), threads=threads, tf32=tf32,
        max_iterations=size.max_iterations,
    )  # fmt: skip
    result, counter, load, refined = JobResult(), Counter(), Load(), ""
    with counting(counter, device), measuring(load, device):
        clock, events = _Clock(counter, load, device), refine(params)
        for event in events:
            done = clock.see(event)
            if done is not None:
                result.iterations.append(done)
                result.resolution_A = event.resolution_A if isinstance(event, IterationDone) else result.resolution_A
            if isinstance(event, Message) and event.level == "warning":
                result.warnings.append(event.text)
            if isinstance(event, Finished):
                result.is_finished = "map" in event.outputs
                refined = event.outputs["optimiser"].replace("optimiser", "data")
            if time.perf_counter() - clock.began > limit_s:
                result.warnings.append(f"Left after {limit_s:.0f} s.")
                break
        close = getattr(events, "close", None)
        if close is not None:
            close()
    result.seconds, result.before_s = time.perf_counter() - clock.began, clock.before_s
    if refined:
        found, truth = (read_particles(path) for path in (refined, folder / "particles_truth.star"))
        result.angle_deg = float(np.median(pose_errors(found, truth, point_group(_SYMMETRY)).angle_deg))
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinResult:
    """How far an iteration on the GPU is from the same one on the CPU; ``map_`` in standard deviations of the map."""

    name: str
    angle_deg: float
    offset_A: float
    map_: float


def compare_with_host(folder: Path, size: JobSize, device: int, *, threads: int) -> list[TwinResult]:
    """Carry out a global and a local iteration of a small set on GPU and CPU from the same state."""
    particles = read_particles(folder / "particles.star")
    stack = ParticleStack(particles, star_path=folder / "particles.star")
    reference = read_volume(folder / "reference.mrc")
    problem = RefinementProblem(
        particles=particles, read_images=stack.read, reference=reference.data, voxel_size_A=reference.voxel_size_A
    )
    options = RefineOptions(
        symmetry=_SYMMETRY, particle_diameter_A=size.diameter_A, ini_high_A=_START_A, healpix_order=2,
        firstiter_cc=False, threads=threads, max_iterations=1, random_seed=1,
    )  # fmt: skip
    first = _last(problem, options, None)
    local = replace(first, sampling=replace(first.sampling, is_local=True, sigma_angle_deg=10.0))
    further = replace(options, max_iterations=2)
    on_device = {"devices": (device,)}
    return [
        _difference("global", first, _last(problem, replace(options, **on_device), None)),
        _difference("local", _last(problem, further, local), _last(problem, replace(further, **on_device), local)),
    ]


def _last(problem: RefinementProblem, options: RefineOptions, start: RefinementState | None) -> RefinementState:
    return [item for item in refine_arrays(problem, options, start) if isinstance(item, RefinementState)][-1]


def _difference(name: str, expected: RefinementState, found: RefinementState) -> TwinResult:
    turns = [euler_to_matrix(state.poses.euler_deg) for state in (expected, found)]
    cosine = 0.5 * (np.einsum("nij,nij->n", *turns) - 1.0)
    maps: Any = [np.array([half.map for half in state.halves]) for state in (expected, found)]
    return TwinResult(
        name=name,
        angle_deg=float(np.degrees(np.arccos(np.clip(cosine, -1, 1))).max()),
        offset_A=float(np.abs(expected.poses.origin_A - found.poses.origin_A).max()),
        map_=float(np.abs(maps[0] - maps[1]).max() / maps[0].std()),
    )
