"""Auto-refinement: iterate expectation and maximization on two independent halves until nothing is gained.

One iteration: decide whether it is the last; choose image sizes; transform the reference; estimate how accurate poses
can be; refine the search grid if that helps; search all particles; rebuild the maps; judge what was gained.
(Scheres 2012, J. Struct. Biol. 180, 519-530; Scheres & Chen 2012, Nat. Methods 9, 853-854.)
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np

from napari_autorefine.engine.accuracy import Accuracy as MeasuredAccuracy
from napari_autorefine.engine.context import GroupGeometry
from napari_autorefine.engine.convergence import check_convergence, pose_changes, with_changes, with_resolution
from napari_autorefine.engine.forecast import Forecast, n_step, told
from napari_autorefine.engine.grids import OrientationGrid, make_orientation_grid
from napari_autorefine.engine.half_job import IterationPlan
from napari_autorefine.engine.halfmaps import Halves, final_maps, finish_sums, iterate_maps, update_parameters
from napari_autorefine.engine.iteration import (
    expected_accuracy,
    half_context,
    run_half,
)
from napari_autorefine.engine.planning import plan_iteration, with_screening
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.randomness import next_perturbation
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.sampling import (
    OFFSET_REACH,
    VOLUME_OFFSET_REACH,
    Accuracy,
    SamplingDecision,
    next_sampling,
    with_fsc,
)
from napari_autorefine.engine.search_step import (
    Crew,
    HalfSums,
    SearchStep,
    StepGeometry,
    block_source,
    half_job,
)
from napari_autorefine.engine.setup import Setup, prepare_setup
from napari_autorefine.engine.source import BlockSource
from napari_autorefine.engine.spectra import current_resolution_shell, low_pass_shell
from napari_autorefine.engine.start import initial_state
from napari_autorefine.engine.state import HalfModel, RefinementState
from napari_autorefine.engine.sums import HalfStatistics, PoseTable
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Event, IterationDone, Message, Progress

Step = Generator[Event | RefinementState, None, RefinementState]


def refine(
    problem: RefinementProblem,
    options: RefineOptions,
    resume: RefinementState | None = None,
    *,
    crew: Crew | None = None,
) -> Iterator[Event | RefinementState]:
    """Refine until convergence.

    Yields
    ------
    ``Progress`` and ``Message`` at any time; after every iteration, and before the first, the ``RefinementState``,
    followed by ``IterationDone`` for iterations that were carried out. The last state has ``is_final``.

    Parameters
    ----------
    problem : particles, images, reference
    options : how to refine
    resume : go on from this state instead of from the reference
    crew : processes that search the particles instead of this one
    """
    yield from Forecast(options=options, state=resume).follow(_refine(problem, options, resume, crew))


def _refine(
    problem: RefinementProblem, options: RefineOptions, resume: RefinementState | None, crew: Crew | None
) -> Generator[Event | RefinementState, None, None]:
    setup = prepare_setup(problem, options)
    with Workers(options.threads) as workers, setup.resident:
        state = resume
        if state is None:
            state = yield from initial_state(setup, workers)
            yield state
        while not state.is_final and state.iteration < options.max_iterations:
            state = yield from _iterate(setup, state, workers, crew)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Searched:
    """What the expectation step of an iteration leaves."""

    state: RefinementState
    statistics: tuple[HalfStatistics, HalfStatistics]
    sums: tuple[Accumulators, Accumulators]
    geometries: tuple[GroupGeometry, ...]
    table: PoseTable


def _iterate(setup: Setup, state: RefinementState, workers: Workers, crew: Crew | None) -> Step:
    started = time.perf_counter()
    options = setup.options
    accuracy = Accuracy(rot_deg=state.halves[0].accuracy_rot_deg, trans_A=state.halves[0].accuracy_trans_A)
    decision = check_convergence(state.convergence, state.sampling, accuracy, options)
    state = replace(state, convergence=decision.convergence)
    is_final = decision.convergence.has_converged
    if is_final:
        yield Message(text=f"Last iteration, with all data to Nyquist: {decision.reason}.")
    plan = plan_iteration(setup, state, is_final=is_final)
    searched = yield from _expectation(setup, state, plan, workers, crew)
    count = n_step(is_final=is_final, is_masked=options.solvent_correct_fsc)
    state, messages = yield from told(maximize(setup, searched, plan), plan.iteration, count)
    yield from messages
    yield state
    yield _report(state, time.perf_counter() - started, decision.reason if is_final else "")
    return state


def _expectation(
    setup: Setup, state: RefinementState, plan: IterationPlan, workers: Workers, crew: Crew | None
) -> Generator[Event | RefinementState, None, _Searched]:
    """Choose the grid and search all particles."""
    source = block_source(setup, state.poses)
    table = PoseTable.like(state.poses)
    state = _with_perturbation(setup, state, plan)
    if plan.iteration > 1 or not plan.is_cc:
        yield Progress(stage="expected accuracy", done=0, total=1, iteration=plan.iteration)
        accuracy = _accuracy(setup, state, plan, source, workers)
        state = replace(state, halves=_with_accuracy(state.halves, accuracy))
        yield Message(
            text=f"Expected accuracy: angles {accuracy.rot_deg:.3g} degrees, offsets {accuracy.trans_A:.3g} A."
        )
        if plan.iteration > 1:
            decision = _sampling_decision(setup, state)
            state = replace(state, sampling=decision.sampling, convergence=decision.convergence)
            if decision.is_refined:
                yield Message(text=f"Search: {decision.reason}.")
    plan = with_screening(setup, state, plan)
    state, orientations = _with_directions(setup, state)
    geometry = StepGeometry.of(setup, state.sampling, plan, orientations)
    step = SearchStep(plan=plan, sampling=state.sampling, poses=state.poses, models=state.halves)
    if crew is None:
        first, second = yield from _search(setup, step, geometry, table, workers)
    else:
        first, second = yield from crew.search(setup, step, orientations.n_dir, table)
    return _Searched(
        state=state,
        statistics=(first[0], second[0]),
        sums=(first[1], second[1]),
        geometries=geometry.groups,
        table=table,
    )


def _search(
    setup: Setup, step: SearchStep, geometry: StepGeometry, table: PoseTable, workers: Workers
) -> Generator[Progress | Message, None, tuple[HalfSums, HalfSums]]:
    """Search all particles in this process, one half after the other."""
    source, threads = block_source(setup, step.poses), setup.options.threads
    yield Progress(stage="reference of half-set 1", done=0, total=2, iteration=step.plan.iteration)
    first = yield from run_half(
        half_job(setup, step, 1, geometry=geometry, source=source, threads=threads), table, workers, 0
    )
    done = first[0].n_particle
    yield Progress(stage="reference of half-set 2", done=1, total=2, iteration=step.plan.iteration)
    second = yield from run_half(
        half_job(setup, step, 2, geometry=geometry, source=source, threads=threads), table, workers, done
    )
    return first, second


def _with_perturbation(setup: Setup, state: RefinementState, plan: IterationPlan) -> RefinementState:
    options, sampling = setup.options, state.sampling
    perturbation = next_perturbation(sampling.perturbation, options.perturb, options.random_seed, plan.iteration)
    return replace(state, sampling=replace(sampling, perturbation=perturbation))


def _accuracy(
    setup: Setup, state: RefinementState, plan: IterationPlan, source: BlockSource, workers: Workers
) -> MeasuredAccuracy:
    still = replace(state.sampling, offset_range_A=0.0)  # no offsets are searched
    groups = StepGeometry.of(setup, still, plan, make_orientation_grid(0, setup.group)).groups
    context = half_context(setup, state.halves[0], 1, plan, groups, setup.options.threads)
    return expected_accuracy(setup, source, context, groups, workers)


def _with_accuracy(halves: tuple[HalfModel, HalfModel], accuracy: MeasuredAccuracy) -> tuple[HalfModel, HalfModel]:
    first, second = (
        replace(
            half,
            accuracy_rot_deg=accuracy.rot_deg,
            accuracy_trans_A=accuracy.trans_A,
            orientability=accuracy.orientability,
        )
        for half in halves
    )
    return first, second


def _sampling_decision(setup: Setup, state: RefinementState) -> SamplingDecision:
    accuracy = Accuracy(rot_deg=state.halves[0].accuracy_rot_deg, trans_A=state.halves[0].accuracy_trans_A)
    reach = OFFSET_REACH if setup.data_dim == 2 else VOLUME_OFFSET_REACH
    return next_sampling(state.sampling, state.convergence, accuracy, setup.options, offset_reach=reach)


def _with_directions(setup: Setup, state: RefinementState) -> tuple[RefinementState, OrientationGrid]:
    """Orientation grid of the state; learned direction weights start anew when it has changed."""
    orientations = make_orientation_grid(state.sampling.healpix_order, setup.group)
    uniform = np.full(orientations.n_dir, 1.0 / orientations.n_dir)
    halves = tuple(
        half if len(half.pdf_direction) == orientations.n_dir else replace(half, pdf_direction=uniform)
        for half in state.halves
    )
    return replace(state, halves=(halves[0], halves[1])), orientations


def maximize(
    setup: Setup, searched: _Searched, plan: IterationPlan
) -> Generator[str, None, tuple[RefinementState, tuple[Message, ...]]]:
    """Make maps, spectra, parameters and counters from the sums of an expectation step; yields what is made."""
    state = searched.state
    for half, sums in enumerate(searched.sums, start=1):
        yield f"sums of half-set {half}"
        finish_sums(setup, sums)
    updates = [
        update_parameters(setup, model, statistics, searched.geometries, is_cc=plan.is_cc)
        for model, statistics in zip(state.halves, searched.statistics, strict=True)
    ]
    models, messages = (updates[0][0], updates[1][0]), updates[0][1] + updates[1][1]
    resolution_A = state.convergence.current_resolution_A
    if plan.is_final:
        merged = searched.statistics[0].merged(searched.statistics[1])
        joint, _ = update_parameters(setup, models[0], merged, searched.geometries, is_cc=plan.is_cc)
        found = yield from final_maps(setup, models, joint, searched.sums, resolution_A=resolution_A)
    else:
        found = yield from iterate_maps(setup, models, searched.sums, is_cc=plan.is_cc, resolution_A=resolution_A)
    return _next_state(setup, searched, plan, found), messages + found.messages


def _next_state(setup: Setup, searched: _Searched, plan: IterationPlan, found: Halves) -> RefinementState:
    state, options = searched.state, setup.options
    poses = searched.table.frozen()
    convergence = replace(
        state.convergence, current_size=plan.current_size, coarse_size=max(coarse for _, coarse, _ in plan.sizes)
    )
    convergence = with_fsc(convergence, found.fsc)
    changes = pose_changes(state.poses, poses, setup.group.operators)
    convergence = with_changes(convergence, state.sampling, changes)
    # After a correlation iteration the maps are filtered again: the resolution stays that of the filter.
    if plan.is_cc and options.ini_high_A > 0:
        shell = low_pass_shell(options.ini_high_A, setup.box_size, setup.voxel_size_A)
    else:
        ssnr = found.joined.ssnr if found.joined is not None else found.halves[0].ssnr
        shell = current_resolution_shell(ssnr).shell
    convergence = with_resolution(convergence, setup.box_size * setup.voxel_size_A / max(shell, 1))
    first, second = found.halves
    if not plan.is_final:
        second = replace(second, mean_p_max=first.mean_p_max, ssnr=first.ssnr)
    return RefinementState(
        iteration=plan.iteration,
        box_size=setup.box_size,
        voxel_size_A=setup.voxel_size_A,
        halves=(first, second),
        fsc=found.fsc,
        poses=poses,
        sampling=state.sampling,
        convergence=convergence,
        is_final=plan.is_final,
        joined=found.joined,
    )


def _report(state: RefinementState, seconds: float, summary: str) -> IterationDone:
    sampling, convergence, model = state.sampling, state.convergence, state.halves[0]
    return IterationDone(
        iteration=state.iteration,
        is_final=state.is_final,
        half_maps=(state.halves[0].map, state.halves[1].map),
        joined_map=state.joined.map if state.joined is not None else None,
        voxel_size_A=state.voxel_size_A,
        fsc=state.fsc,
        resolution_A=convergence.current_resolution_A,
        accuracy_rot_deg=model.accuracy_rot_deg,
        accuracy_trans_A=model.accuracy_trans_A,
        angular_step_deg=sampling.fine_angular_step_deg,
        offset_step_A=sampling.fine_offset_step_A,
        offset_range_A=sampling.offset_range_A,
        healpix_order=sampling.healpix_order,
        is_local=sampling.is_local,
        change_rot_deg=convergence.change_rot_deg,
        change_trans_A=convergence.change_trans_A,
        mean_p_max=model.mean_p_max,
        current_size=convergence.current_size,
        seconds=seconds,
        summary=summary,
    )
