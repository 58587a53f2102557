"""Maximization of one iteration: Fourier sums of both halves become maps, spectra and model parameters."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np

from napari_autorefine.engine.averaged_weights import with_averaged_weights
from napari_autorefine.engine.context import GroupGeometry
from napari_autorefine.engine.correlation import solvent_corrected_fsc
from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.engine.reconstruction import (
    Accumulators,
    complete_hermitian,
    fourier_completeness,
    fsc_of_halves,
    join_low_resolution,
    join_radius,
    reconstruct,
    shell_sigma2,
    symmetrize,
)
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.spectra import ssnr_from_fsc, tau2_from_fsc, update_scales, update_sigma2_noise
from napari_autorefine.engine.state import HalfModel
from napari_autorefine.engine.sums import HalfStatistics
from napari_autorefine.events import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """Maps and models of both halves after an iteration, and of all data in the last one."""

    halves: tuple[HalfModel, HalfModel]
    fsc: np.ndarray
    joined: HalfModel | None
    messages: tuple[Message, ...]


def finish_sums(setup: Setup, accumulators: Accumulators) -> None:
    """Complete and symmetrise the Fourier sums of a half, in place; weights of tilt stacks are averaged."""
    complete_hermitian(accumulators)
    symmetrize(accumulators, setup.group.operators, setup.options.threads)
    if setup.tilts is not None and setup.options.skip_gridding:
        accumulators.weight = with_averaged_weights(accumulators, setup.options.threads).weight


def update_parameters(
    setup: Setup,
    model: HalfModel,
    statistics: HalfStatistics,
    geometries: tuple[GroupGeometry, ...],
    *,
    is_cc: bool,
) -> tuple[HalfModel, tuple[Message, ...]]:
    """Update noise, scales, norm average, offset spread and direction weights of a half (or of both)."""
    options = setup.options
    messages: list[Message] = []
    sigma2, scale = model.sigma2_noise, model.scale
    if not is_cc:
        premultiplied = np.array([g.optics.is_premultiplied for g in geometries])
        sigma2 = update_sigma2_noise(statistics.noise, statistics.count, sigma2, is_premultiplied=premultiplied)
        if options.scale and len(setup.group_names) > 1:
            scales = update_scales(statistics.scale_cross, statistics.scale_power, _group_sizes(setup, statistics))
            scale = scales.scale
            if scales.n_vanishing:
                messages.append(
                    Message(
                        level="warning",
                        text=f"{scales.n_vanishing} groups have an intensity scale near 0; look at their micrographs.",
                    )
                )
    offset_square = statistics.offset_square / (setup.offset_dim * statistics.total_weight)
    updated = replace(
        model,
        sigma2_noise=sigma2,
        scale=scale,
        norm_average=statistics.norm / statistics.n_particle if options.norm else 1.0,
        sigma_offset_A=float(np.sqrt(max(offset_square, options.min_sigma2_offset_A2))),
        pdf_direction=statistics.direction / statistics.total_weight,
        mean_p_max=statistics.p_max / statistics.n_particle,
        log_likelihood=statistics.log_likelihood / (statistics.n_particle if is_cc else 1),
    )
    return updated, tuple(messages)


def _group_sizes(setup: Setup, statistics: HalfStatistics) -> np.ndarray:
    """Particles of each scale group that gave it a scale."""
    sizes = np.bincount(setup.scale_group, minlength=len(setup.group_names))
    return np.where(statistics.scale_power > 0, sizes, 0)


Making = Generator[str, None, Halves]
"""Yields in words what is made next, and returns the result."""


def iterate_maps(
    setup: Setup,
    models: tuple[HalfModel, HalfModel],
    sums: tuple[Accumulators, Accumulators],
    *,
    is_cc: bool,
    resolution_A: float,
) -> Making:
    """Regularised, solvent-flattened half maps of an ordinary iteration; the sums are used up."""
    options, messages = setup.options, []
    yield "comparing the halves"
    _join(setup, sums, resolution_A)
    fsc = fsc_of_halves(*sums, options.threads)
    unfiltered: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if options.solvent_correct_fsc:
        yield "unfiltered maps"
        maps = _plain_map(setup, sums[0]), _plain_map(setup, sums[1])
        yield "correlation inside the mask"
        fsc, message = _solvent_fsc(setup, maps, fsc)
        messages += message
        unfiltered = maps
    halves = []
    for half, (model, acc, plain) in enumerate(zip(models, sums, unfiltered, strict=True), start=1):
        yield f"map of half-set {half}"
        halves.append(_regularised(setup, model, acc, fsc, is_cc=is_cc, unfiltered=plain))
    # The halves share one curve, so the second takes over the first's ratio (as RELION's second half does).
    return Halves(halves=(halves[0], halves[1]), fsc=fsc, joined=None, messages=tuple(messages))


def final_maps(
    setup: Setup,
    models: tuple[HalfModel, HalfModel],
    joint_model: HalfModel,
    sums: tuple[Accumulators, Accumulators],
    *,
    resolution_A: float,
) -> Making:
    """Unfiltered half maps and the regularised map of all data; the sums are used up."""
    first, second = sums
    messages: list[Message] = []
    yield "map of half-set 1"
    plain_1 = _plain_map(setup, first)
    yield "map of half-set 2"
    plain = plain_1, _plain_map(setup, second)
    yield "comparing the halves"
    sigma2_maps = shell_sigma2(first), shell_sigma2(second)
    _join(setup, sums, resolution_A)
    fsc = fsc_of_halves(first, second, setup.options.threads)
    if setup.options.solvent_correct_fsc:
        yield "correlation inside the mask"
        fsc, message = _solvent_fsc(setup, plain, fsc)
        messages += message
    yield "map of all particles"
    first.add(second)  # twice the average where the halves were joined, which is their sum again
    second.data = second.weight = np.zeros((1, 1, 1), dtype=np.float32)
    halves = tuple(
        replace(
            model,
            map=map_,
            unfiltered_map=map_,
            ssnr=ssnr_from_fsc(fsc, tau2_fudge=setup.options.tau2_fudge),
            tau2=tau2_from_fsc(fsc, sigma2_map, tau2_fudge=setup.options.tau2_fudge),
            sigma2_map=sigma2_map,
        )
        for model, map_, sigma2_map in zip(models, plain, sigma2_maps, strict=True)
    )
    joined = _joint(setup, joint_model, first, fsc)
    return Halves(halves=(halves[0], halves[1]), fsc=fsc, joined=joined, messages=tuple(messages))


def _join(setup: Setup, sums: tuple[Accumulators, Accumulators], resolution_A: float) -> None:
    """Average the low frequencies of both halves, unless that is switched off: then not even the origin is shared."""
    join_A = setup.options.low_resol_join_halves_A
    if join_A > 0:
        join_low_resolution(*sums, join_radius(setup.box_size, setup.voxel_size_A, resolution_A, join_A))


def _plain_map(setup: Setup, acc: Accumulators) -> np.ndarray:
    return reconstruct(acc, skip_gridding=setup.options.skip_gridding, threads=setup.options.threads)


def _solvent_fsc(
    setup: Setup, maps: tuple[np.ndarray, np.ndarray], unmasked: np.ndarray
) -> tuple[np.ndarray, list[Message]]:
    options = setup.options
    found = solvent_corrected_fsc(*maps, setup.solvent, seed=options.random_seed, threads=options.threads)
    curve = np.where(unmasked != 0.0, found.corrected, 0.0)
    if found.randomize_from is None:
        text = "the unmasked FSC never falls below 0.8, so the FSC is not corrected for the solvent mask."
        return curve, [Message(level="warning", text=text)]
    return curve, []


def _regularised(
    setup: Setup,
    model: HalfModel,
    acc: Accumulators,
    fsc: np.ndarray,
    *,
    is_cc: bool,
    unfiltered: np.ndarray | None,
) -> HalfModel:
    options = setup.options
    sigma2_map = shell_sigma2(acc)
    tau2 = tau2_from_fsc(fsc, sigma2_map, tau2_fudge=options.tau2_fudge)
    map_ = reconstruct(
        acc,
        tau2=tau2,
        tau2_fudge=options.tau2_fudge,
        minres_map=options.minres_map,
        skip_gridding=options.skip_gridding,
        threads=options.threads,
    )
    completeness = fourier_completeness(acc, tau2, options.tau2_fudge)
    if is_cc and options.ini_high_A > 0:
        map_ = low_pass_map(map_, options.ini_high_A, setup.voxel_size_A)
    if options.flatten_solvent:
        map_ = map_ * setup.solvent
    return replace(
        model,
        map=map_,
        unfiltered_map=unfiltered,
        tau2=tau2,
        ssnr=ssnr_from_fsc(fsc, tau2_fudge=options.tau2_fudge),
        sigma2_map=sigma2_map,
        completeness=completeness,
    )


def _joint(setup: Setup, model: HalfModel, acc: Accumulators, fsc: np.ndarray) -> HalfModel:
    options = setup.options
    sigma2_map = shell_sigma2(acc)
    tau2 = tau2_from_fsc(fsc, sigma2_map, tau2_fudge=options.tau2_fudge, is_joint=True)
    completeness = fourier_completeness(acc, tau2, options.tau2_fudge)
    map_ = reconstruct(
        acc,
        tau2=tau2,
        tau2_fudge=options.tau2_fudge,
        minres_map=options.minres_map,
        skip_gridding=options.skip_gridding,
        threads=options.threads,
    )
    return replace(
        model,
        map=map_,
        tau2=tau2,
        ssnr=ssnr_from_fsc(fsc, tau2_fudge=options.tau2_fudge, is_joint=True),
        sigma2_map=sigma2_map,
        completeness=completeness,
    )
