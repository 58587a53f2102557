"""Auto-refinement of a particle set: files in, events and files out."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from napari_autorefine import xp
from napari_autorefine.cluster.crew import DaskCrew
from napari_autorefine.engine import loop
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.runs import RunFolder, SavedRun
from napari_autorefine.io.screening import Screening, check_images
from napari_autorefine.jobs.compilation import compilation_notes
from napari_autorefine.jobs.continuing import resumed, saved_state, usable_state
from napari_autorefine.jobs.crew_source import crew_of, gpu_groups, not_used
from napari_autorefine.jobs.failures import failure_text
from napari_autorefine.jobs.image_source import ImageSource, memory_notes, open_images
from napari_autorefine.jobs.image_states import Noted, compare_images, note_images
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.record import output_of
from napari_autorefine.jobs.refine_inputs import RefineInputs, check_output, load_inputs, messages
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.refine_plan import check_plan, make_plan, plan_messages
from napari_autorefine.jobs.refine_tomo_inputs import tomogram_data, with_files_of_set
from napari_autorefine.jobs.relion_options import FOREIGN_OPTIONS
from napari_autorefine.jobs.run_files import RunFiles, assign_halves
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.volume import Volume

__all__ = ["FOREIGN_OPTIONS", "RefineParams", "refine"]

_MOST_BAD = 0.05
_NAMED = 10


@one_at_a_time
def refine(params: RefineParams) -> Iterator[Event]:
    """Refine to convergence; yields progress, messages and every iteration, and writes RELION's files.

    Raises
    ------
    InputError
        Whatever is wrong with files or parameters, before anything is written.
    """
    saved: SavedRun | None = None
    if params.continue_from is not None:
        params, saved, going_on = resumed(params)
        yield from going_on
    params, told = with_files_of_set(with_files_of_folders(with_seed(params)))
    yield from told
    check_output(params)
    inputs = load_inputs(params, saved)
    options, notes = engine_options(params, inputs)
    with ExitStack() as resources:
        crew = resources.enter_context(crew_of(params, None if params.cpu else gpu_groups(params.gpu)))
        if crew is not None:
            params = yield from _met(crew, inputs, params)
        RunFolder(params.output).prepare()
        plan = make_plan(params, inputs, options)
        check_plan(plan, params, inputs)
        yield from (
            *messages(inputs),
            *notes,
            *memory_notes(inputs.stack, params),
            *plan_messages(plan, params, options),
        )
        options = replace(options, memory_bytes=plan.memory_bytes)
        yield from compilation_notes(options.devices)
        good, screening = yield from _screened(inputs, params, is_new=saved is None)
        noted = yield from _noted_images(inputs, params, saved)
        images = yield from open_images(inputs.stack, params, resources)
        problem = make_problem(inputs, good, images, params)
        first = 0 if saved is None else saved.iteration + 1
        files = RunFiles(
            params,
            problem.particles,
            particle_diameter_A=inputs.particle_diameter_A,
            first=first,
            project=None if inputs.tomo is None else inputs.tomo.files,
        )
        files.write_start(screening, inputs.particles, resampled_mask=_resampled_mask(inputs), images=noted)
        last: RefinementState | None = None
        try:
            for item in loop.refine(problem, options, _state(saved, params), crew=crew):
                if isinstance(item, RefinementState):
                    last = item
                    yield Progress(stage="writing files", done=0, total=1, iteration=item.iteration)
                    files.write(item)
                else:
                    yield item
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(*_how_to_go_on(files)) from stop
        except InputError as error:
            if last is None:
                files.withdraw()
            raise InputError(" ".join((str(error), *_how_to_go_on(files)))) from error
        except (MemoryError, OSError) as error:
            raise InputError(" ".join((failure_text(error), *_how_to_go_on(files)))) from error
        yield _finished(last, files, screening)


def _met(crew: DaskCrew, inputs: RefineInputs, params: RefineParams) -> Generator[Message, None, RefineParams]:
    """Wait for the processes that search; return parameters without what these do in their own way."""
    yield from not_used(params, preread=params.preread_images, scratch=params.scratch_dir is not None)
    yield from crew.greet(inputs.stack.read, len(inputs.particles))
    return params.model_copy(update={"preread_images": False, "scratch_dir": None})


def _noted_images(inputs: RefineInputs, params: RefineParams, saved: SavedRun | None) -> Generator[Event, None, Noted]:
    """Compare image files with what was noted of them when the run began; return what is noted of them now."""
    before = {} if saved is None else saved.params.get("images", {})
    yield from compare_images(before, inputs.stack.files)
    if before and ("sha256" in next(iter(before.values()))) == params.checksum_images:
        return dict(before)
    return (yield from note_images(inputs.stack.files, has_checksums=params.checksum_images))


def _state(saved: SavedRun | None, params: RefineParams) -> RefinementState | None:
    """Return the state to go on from, None for a new run."""
    if saved is None:
        return None
    return usable_state(saved_state(saved), saved, params.ini_high_A) if saved.is_relion else saved_state(saved)


def _resampled_mask(inputs: RefineInputs) -> Volume | None:
    """Return the mask when it is not the one of its file."""
    if inputs.mask is None or not inputs.is_mask_resampled:
        return None
    return Volume(data=inputs.mask, voxel_size_A=inputs.voxel_size_A)


def with_seed(params: RefineParams) -> RefineParams:
    """Return parameters whose random seed is a number: the clock's when none was given."""
    if params.random_seed is not None and params.random_seed >= 0:
        return params
    return params.model_copy(update={"random_seed": int(time.time()) % 2**31})


def with_files_of_folders(params: RefineParams) -> RefineParams:
    """Return parameters in which folders of finished jobs have become the files that they hold."""
    if params.continue_from is not None:
        return params
    update = {"particles": output_of(params.particles, "particles")} if params.particles else {}
    if params.reference and Path(params.reference).is_dir():
        update["reference"] = output_of(params.reference, "map")
    if params.mask is not None:
        update["mask"] = output_of(params.mask, "mask")
    return params.model_copy(update=update)


def _screened(
    inputs: RefineInputs, params: RefineParams, *, is_new: bool
) -> Generator[Event, None, tuple[np.ndarray, Screening]]:
    """Look at every image of a new run; return the rows that can be used, and what was found."""
    everything = np.arange(len(inputs.particles))
    if not is_new:  # the particles of a run that is continued were looked at when it began
        return everything, Screening(bad=(), warnings=(), n_image=len(everything))
    screening = yield from check_images(inputs.stack, inputs.particles, particle_diameter_A=inputs.particle_diameter_A)
    if screening.bad_fraction > _MOST_BAD:
        raise InputError(
            f"{len(screening.bad)} of {screening.n_image} images cannot be used, more than {_MOST_BAD:.0%};"
            f" the first is {screening.bad[0].text}; extract the particles again."
        )
    for image in screening.bad[:_NAMED]:
        yield Message(text=f"Set aside: {image.text}.", level="warning")
    if len(screening.bad) > _NAMED:
        yield Message(
            text=f"Set aside: {len(screening.bad) - _NAMED} more images, listed in the output.", level="warning"
        )
    for text in () if params.dont_check_norm else screening.warnings:
        yield Message(text=text, level="warning")
    good = np.setdiff1d(everything, screening.bad_rows)
    halves = np.unique(inputs.particles.half[good])
    if halves.max() > 0 and len(halves) < 2:
        raise InputError("All images of one half-set had to be set aside; correct rlnRandomSubset or extract again.")
    return good, screening


def make_problem(
    inputs: RefineInputs, rows: np.ndarray, images: ImageSource, params: RefineParams
) -> RefinementProblem:
    """Return the engine's problem for the given rows of the particle file; half-sets are drawn from all rows."""
    particles = select(assign_halves(inputs.particles, params.random_seed or 0), rows)
    is_all = len(rows) == len(inputs.particles)
    return RefinementProblem(
        particles=particles,
        read_images=images.read if is_all else (lambda indices: images.read(rows[indices])),
        reference=inputs.references[0] if len(inputs.references) == 1 else (inputs.references[0], inputs.references[1]),
        voxel_size_A=inputs.voxel_size_A,
        mask=inputs.mask,
        mtf=inputs.mtf,
        tomogram_data=tomogram_data(inputs.tomo, params, images, rows),
    )


def select(particles: Particles, rows: np.ndarray) -> Particles:
    """Return the given rows of a particle set."""
    if len(rows) == len(particles):
        return particles
    return particles.selected(rows)


def engine_options(params: RefineParams, inputs: RefineInputs) -> tuple[RefineOptions, list[Message]]:
    """Return the engine's options, and what the user should know about devices."""
    devices, notes = choose_devices(params)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    off = -1.0
    options = RefineOptions(
        symmetry=params.symmetry,
        particle_diameter_A=inputs.particle_diameter_A,
        ini_high_A=params.ini_high_A or off,
        firstiter_cc=params.firstiter_cc,
        ctf=params.ctf,
        ctf_intact_first_peak=params.ctf_intact_first_peak,
        zero_mask=params.zero_mask,
        flatten_solvent=params.flatten_solvent,
        solvent_correct_fsc=params.solvent_correct_fsc,
        healpix_order=params.healpix_order,
        auto_local_healpix_order=params.auto_local_healpix_order,
        offset_range_px=params.offset_range_px,
        offset_step_px=params.offset_step_px,
        auto_ignore_angles=params.auto_ignore_angles,
        auto_resol_angles=params.auto_resol_angles,
        low_resol_join_halves_A=params.low_resol_join_halves_A or off,
        pad=params.pad,
        skip_gridding=params.skip_gridding,
        norm=params.norm and inputs.tomo is None,
        scale=params.scale,
        particle_scale=params.particle_scale,
        tau2_fudge=params.tau2_fudge,
        adaptive_fraction=params.adaptive_fraction,
        max_significant=params.max_significant or -1,
        perturb=params.perturb,
        random_seed=params.random_seed or 0,
        mask_edge_px=params.mask_edge_px,
        sigma_offset_A=params.sigma_offset_A,
        sigma_tilt_deg=params.sigma_tilt_deg or off,
        incr_size=params.incr_size,
        max_coarse_size=params.coarse_size_px or -1,
        strict_highres_exp_A=params.strict_highres_exp_A or off,
        max_iterations=params.max_iterations,
        force_converge=params.force_converge,
        threads=params.threads or cores,
        devices=devices,
        tf32=params.tf32,
    )
    return options, notes


def choose_devices(params: RefineParams) -> tuple[tuple[int, ...], list[Message]]:
    """Return the GPUs to use, () for the CPU, and a message that says so."""
    if params.cpu:
        return (), [Message(text="Uses the CPU, as asked for.")]
    asked = tuple(dict.fromkeys(number for group in gpu_groups(params.gpu) for number in group))
    if params.has_crew:
        return (), []  # dealt to the processes
    count = xp.gpu_count()
    if count == 0:
        if asked:
            raise InputError(f"--gpu {params.gpu}: {_no_gpu()}; leave the option out to use the CPU.")
        is_surprise = params.gpu is not None or xp.has_cupy()
        return (), [Message(text=f"Uses the CPU: {_no_gpu()}.", level="warning" if is_surprise else "info")]
    chosen = asked or tuple(range(count))
    if max(chosen) >= count:
        available = "GPU 0 only" if count == 1 else f"the GPUs 0 to {count - 1}"
        raise InputError(f"--gpu {params.gpu}: this machine has {available}.")
    names = ", ".join(f"GPU {number} ({xp.gpu_name(number)})" for number in chosen)
    return chosen, [Message(text=f"Uses {names}.")]


def _no_gpu() -> str:
    """Say why there is no GPU."""
    if xp.has_cupy():
        return "CuPy finds no GPU that it can use (no device, or the driver is missing or too old)"
    return "no GPU can be used without CuPy (pip install napari-autorefine[cuda12], or cuda13)"


def _how_to_go_on(files: RunFiles) -> tuple[str, ...]:
    """Return a sentence for whoever interrupts a run, or nothing before its first files."""
    optimiser = files.outputs().get("optimiser")
    return () if optimiser is None else (f"Go on with: autorefine refine --continue {optimiser}",)


def _finished(last: RefinementState | None, files: RunFiles, screening: Screening) -> Finished:
    if last is None:
        raise InputError("There is nothing left to do: the run that was continued had come to its end.")
    outputs = files.outputs()
    if last.is_final:
        text = f"Converged after {last.iteration} iterations at {last.convergence.current_resolution_A:.2f} A."
    else:
        text = (
            f"Stopped after {last.iteration} iteration{'' if last.iteration == 1 else 's'} without having converged, at"
            f" {last.convergence.current_resolution_A:.2f} A; go on with --continue {outputs['optimiser']}."
        )
    if screening.bad:
        text += f" {len(screening.bad)} images were set aside, see {outputs['set aside']}."
    return Finished(text=text, outputs=outputs)
