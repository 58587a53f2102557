"""What a refinement will need, before it begins: memory, room for its files, time; what cannot fit is refused.

The figures are those of formulas checked against measured runs (within a third for memory, a factor of two or three for
time); after the first blocks of every iteration a forecast from what was measured takes their place.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, pi
from pathlib import Path

import numpy as np

from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.sampling import coarse_image_size, initial_sampling
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message, duration
from napari_autorefine.io.particle_images import SubtomogramImages
from napari_autorefine.jobs.free_space import free_memory
from napari_autorefine.jobs.refine_inputs import RefineInputs
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.model.symmetry import point_group

_BASE_BYTES = 250 << 20  # interpreter, libraries, compiled kernels
_WAITING_BYTES = 96 << 20  # weighted images that wait to be added
_SEARCH, _MAXIMIZATION, _ONE_HALF = 44, 36, 20  # bytes per element of a Fourier volume
_DEVICE_SEARCH = 32  # where sums are of single precision
_THREAD_SLABS = 3 * (32 << 20)
_MAPS = 6
_BLOCK = 16
_SMALLEST_TABLES = 64 << 20
_ROW_BYTES, _NEW_COLUMNS_BYTES, _SHELL_BYTES, _DIRECTION_BYTES = 100, 230, 60, 180
_ITERATIONS = 15
_FINE_PER_PARTICLE, _SAMPLE_S = 150, 7e-9  # slices of a particle in a local search; made, compared and inserted
_READ_S = 1e-7
_PARENT_ORDER, _LESS_BY_PARENTS = 2, 8
_MOST_FUNCTIONS = 100
_PRODUCT = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What is expected of a run.

    Attributes
    ----------
    peak_bytes, least_bytes : memory with all tables that save time, and without them
    memory_bytes : what tables may take
    device_bytes : memory of each GPU in the last iteration with single particles
    iteration_bytes, final_bytes : files of an iteration, and of the end
    first_s, last_s : time of the first and of the last iteration on the host
    """

    peak_bytes: int
    least_bytes: int
    memory_bytes: int
    device_bytes: int
    iteration_bytes: int
    final_bytes: int
    first_s: float
    last_s: float

    def run_bytes(self, keep_iterations: int | None) -> int:
        """Return the room for all files of a run, of which some iterations are kept."""
        kept = _ITERATIONS if keep_iterations is None else min(keep_iterations + 1, _ITERATIONS)
        return kept * self.iteration_bytes + self.final_bytes


def make_plan(params: RefineParams, inputs: RefineInputs, options: RefineOptions) -> RunPlan:
    """Work out what a refinement needs."""
    box = inputs.references[0].shape[0]
    last = _volume_size(box, params.pad)
    maps = 4 * _MAPS * box**3
    planes = 8 * box * (params.pad * box + 1) * (params.pad * box // 2 + 1)
    threads = options.threads * (_BLOCK * 100 * box**2 + _THREAD_SLABS)
    n_symmetric = len(point_group(params.symmetry).operators)
    reconstruction = (_MAXIMIZATION if n_symmetric > 1 else _MAXIMIZATION - 12) * last + planes
    search = _DEVICE_SEARCH if options.devices else _SEARCH
    least = _BASE_BYTES + maps + threads + max(search * last + _WAITING_BYTES, reconstruction)
    free = free_memory()
    room = options.memory_bytes if free is None else max(_SMALLEST_TABLES, min(options.memory_bytes, free - least // 2))
    early = _BASE_BYTES + maps + threads + _WAITING_BYTES + 3 * room // 4 + search * _volume_size(box // 2, params.pad)
    iteration, final = _file_bytes(params, inputs, box)
    first_s, last_s = _seconds(inputs, options)
    return RunPlan(
        peak_bytes=max(least, early),
        least_bytes=least,
        memory_bytes=room,
        device_bytes=_ONE_HALF * last + 48 * _BLOCK * box**2,
        iteration_bytes=iteration,
        final_bytes=final,
        first_s=first_s,
        last_s=last_s,
    )


def check_plan(plan: RunPlan, params: RefineParams, inputs: RefineInputs) -> None:
    """Raise when memory or disc cannot hold the run, whatever is done about it."""
    free = free_memory()
    if free is not None and plan.least_bytes > free:
        box, way = inputs.references[0].shape[0], "use a machine with more, or end other programs"
        if params.pad > 1:
            way = f"give --pad 1 (about {_gb(_with_pad_1(plan, box, params.pad))}), or {way}"
        raise InputError(
            f"The last iteration at {box} px needs about {_gb(plan.least_bytes)} of memory, {_gb(free)} are free;"
            f" {way}."
        )
    folder = Path(params.output).parent
    needed, room = plan.iteration_bytes + plan.final_bytes, _room(folder)
    if room < needed:
        raise InputError(
            f"No space left for the output in {folder}: one iteration needs {needed / 1e6:.0f} MB,"
            f" {room / 1e6:.0f} MB are free; free some or choose another --o."
        )


def plan_messages(plan: RunPlan, params: RefineParams, options: RefineOptions) -> Iterator[Message]:
    """Say what is expected, and what is scarce."""
    free, folder = free_memory(), Path(params.output).parent
    parts = [f"up to {_gb(plan.peak_bytes)} of memory" + (f" ({_gb(free)} free)" if free is not None else "")]
    if options.devices:
        parts.append(f"{_gb(plan.device_bytes)} on each GPU in the last iteration")
    run, room = plan.run_bytes(params.keep_iterations), _room(folder)
    parts.append(f"{_gb(plan.iteration_bytes)} of files per iteration, about {_gb(run)} in all ({_gb(room)} free)")
    if not options.devices and not params.has_crew:
        first, last = (duration(max(1.0, seconds)) for seconds in (plan.first_s, plan.last_s))
        parts.append(f"very roughly {first} for the first iteration, {last} for the last")
    yield Message(text=f"Expected: {'; '.join(parts)}.")
    if plan.memory_bytes < options.memory_bytes:
        text = f"Memory is scarce: tables that save time get {_gb(plan.memory_bytes)} instead of"
        yield Message(text=f"{text} {_gb(options.memory_bytes)}.", level="warning")
    if run > room:
        text = f"{folder} may fill up: about {_gb(run)} are needed for {_ITERATIONS} iterations, {_gb(room)} are free"
        yield Message(text=f"{text}; --keep_iterations 2 needs {_gb(plan.run_bytes(2))}.", level="warning")


def _volume_size(box: int, pad: int) -> int:
    """Return the number of elements of a Fourier volume up to the Nyquist frequency of a box."""
    radius = ceil(pad * box / 2) + 1
    return (2 * radius + 1) ** 2 * (radius + 2)


def _with_pad_1(plan: RunPlan, box: int, pad: int) -> int:
    return plan.least_bytes - _SEARCH * (_volume_size(box, pad) - _volume_size(box, 1))


def _room(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _file_bytes(params: RefineParams, inputs: RefineInputs, box: int) -> tuple[int, int]:
    """Return the bytes of an iteration's files and of those at the end."""
    n, map_bytes = len(inputs.particles), 4 * box**3 + 1024
    try:
        rows = os.path.getsize(params.particles)
    except OSError:
        rows = _ROW_BYTES * n
    data = max(rows, _ROW_BYTES * n) + _NEW_COLUMNS_BYTES * n
    n_group = len(np.unique(inputs.particles.group_name.astype(str))) + len(inputs.particles.optics)
    model = _SHELL_BYTES * (box // 2 + 1) * (n_group + 3)
    directions = _DIRECTION_BYTES * 12 * 4**params.auto_local_healpix_order
    n_map = 4 if params.solvent_correct_fsc else 2
    return n_map * map_bytes + data + 2 * (model + directions), 3 * map_bytes + data + model + directions


def _seconds(inputs: RefineInputs, options: RefineOptions) -> tuple[float, float]:
    """Return the times of the first and of the last iteration on the host."""
    n_image, voxel_A = _n_image(inputs), inputs.voxel_size_A
    box = inputs.references[0].shape[0]
    sampling = initial_sampling(options, voxel_size_A=voxel_A)
    size = coarse_image_size(
        sampling,
        particle_diameter_A=options.particle_diameter_A,
        field_of_view_A=box * voxel_A,
        current_size=box,
        max_coarse_size=options.max_coarse_size,
    )
    is_volume = inputs.particles.form == "volume"
    coarse, all_ = (_n_sample(edge, is_volume=is_volume) for edge in (size, box))
    n_rot = (
        12 * 4**options.healpix_order * (360.0 / sampling.psi_step_deg) / len(point_group(options.symmetry).operators)
    )
    if options.healpix_order > _PARENT_ORDER:  # parents are compared first, and few are left
        n_rot /= _LESS_BY_PARENTS
    reach = options.offset_range_px / options.offset_step_px
    n_shift = pi * reach**2 + 1
    if inputs.particles.form != "image":  # in space; so many, that sums of fewer functions stand for them
        n_shift = min(4 / 3 * pi * reach**3 + 1, _MOST_FUNCTIONS)
    operations = 4.0 * n_rot * coarse * (n_shift + 1)
    reading = _READ_S * n_image * (box**3 if is_volume else box**2)
    first = n_image * operations / (_operations_per_s() * options.threads) + reading
    if inputs.particles.form == "tilt_stack":  # every particle has views, and so slices, of its own
        first += n_image * n_rot * coarse * _SAMPLE_S / options.threads
    last = n_image * _FINE_PER_PARTICLE * all_ * _SAMPLE_S / options.threads + reading
    return first, last


def _n_image(inputs: RefineInputs) -> int:
    """Return how many images, or volumes, are compared: of a tilt stack those of all its visible tilts."""
    return inputs.stack.n_images if isinstance(inputs.stack, SubtomogramImages) else len(inputs.particles)


def _n_sample(edge: int, *, is_volume: bool) -> float:
    """Return how many Fourier coefficients half a disc, or half a ball, of a diameter has."""
    return pi / 12 * edge**3 if is_volume else pi / 8 * edge**2


def _operations_per_s() -> float:
    """Return how many operations per second a product of single-precision matrices does in one thread here."""
    a = np.ones((_PRODUCT, _PRODUCT), np.float32)
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        _ = a @ a
        best = min(best, time.perf_counter() - began)
    return 2.0 * _PRODUCT**3 / best


def _gb(n_byte: float) -> str:
    return f"{n_byte / 1e9:.1f} GB" if n_byte > 1e8 else f"{n_byte / 1e6:.0f} MB"
