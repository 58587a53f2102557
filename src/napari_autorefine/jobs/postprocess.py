"""Resolution and sharpening of two half maps, as ``relion_postprocess`` does."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np

from napari_autorefine.engine.filters import half_transform, low_pass_table, map_of, radii, scale
from napari_autorefine.engine.half_map_fsc import (
    HalfMapCurves,
    Randomization,
    fraction_of_mask,
    fraction_of_mass,
    resolution_shell,
    solvent_corrected_curves,
    unmasked_curves,
)
from napari_autorefine.engine.sharpening import (
    Amplitudes,
    LineFit,
    amplitudes_of_average,
    b_factor_table,
    fit_guinier,
    fsc_weight_table,
    inverse_mtf_table,
    log_amplitudes,
)
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.jobs.map_inputs import InputMap
from napari_autorefine.jobs.mask import mask_of_map
from napari_autorefine.jobs.mask_params import MaskParams
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.postprocess_files import write_outputs
from napari_autorefine.jobs.postprocess_inputs import PostprocessInputs, check_outputs, load_inputs, output_files
from napari_autorefine.jobs.postprocess_params import FOREIGN_OPTIONS, PostprocessParams
from napari_autorefine.jobs.postprocess_result import PostprocessResult, Sharpening
from napari_autorefine.jobs.record import write_record

__all__ = ["FOREIGN_OPTIONS", "PostprocessParams", "postprocess"]

_NOISE_FSC, _NO_RESOLUTION_A = 0.10, 999.0
_STEPS = ("reading", "correlation", "sharpening", "writing")


@one_at_a_time
def postprocess(params: PostprocessParams) -> Iterator[Event]:
    """Correlate, sharpen and write; yields resolution, B-factor and what looks wrong.

    Raises
    ------
    InputError
        Whatever is wrong with maps or parameters, before anything is written.
    """
    check_outputs(params)
    yield _step(0)
    inputs = load_inputs(params)
    if params.random_seed < 0:
        seed = int(time.time()) % 2**31
        inputs = replace(inputs, params=inputs.params.model_copy(update={"random_seed": seed}))
    yield _step(1)
    halves = inputs.halves[0].data, inputs.halves[1].data
    threads = params.threads or os.cpu_count() or 1
    transforms = half_transform(halves[0], threads), half_transform(halves[1], threads)
    if params.auto_mask:
        inputs = yield from _with_mask(inputs)
    curves = yield from _curves(inputs, transforms, threads)
    yield _step(2)
    plan = plan_sharpening(inputs, curves, amplitudes_of_average(*transforms))
    yield from _resolution_messages(inputs, plan)
    maps = _sharpened(transforms, plan.table, threads, with_halves=params.half_maps)
    yield _step(3)
    outputs = output_files(params)
    write_outputs(inputs, plan.result, maps, outputs)
    write_record(params.output, "postprocess", inputs.params, outputs)
    result = plan.result
    figures = {"resolution_A": result.resolution_A, "b_factor_A2": result.b_factor_A2, "curves": result.curves}
    text = f"Final resolution {_resolution_text(result.resolution_A)}."
    yield Finished(text=text, outputs=outputs, figures=figures)


def _resolution_text(resolution_A: float) -> str:
    return f"{resolution_A:.2f} A" if resolution_A < _NO_RESOLUTION_A else "none"


def _step(number: int) -> Progress:
    return Progress(stage=_STEPS[number], done=number, total=len(_STEPS))


def _sharpened(
    transforms: tuple[np.ndarray, np.ndarray], table: np.ndarray, threads: int, *, with_halves: bool
) -> dict[str, np.ndarray]:
    """Return the sharpened average, and halves if wanted, by the kind of their output; the transforms are used up."""
    maps: dict[str, np.ndarray] = {}
    for transform in transforms:
        scale(transform, table, threads)
    if with_halves:
        maps = {f"sharpened_half{half}": map_of(transforms[half - 1], threads) for half in (1, 2)}
    average = transforms[0]
    average += transforms[1]
    average *= 0.5
    return {"map": map_of(average, threads, is_temporary=True), **maps}


def _with_mask(inputs: PostprocessInputs) -> Generator[Event, None, PostprocessInputs]:
    """Return inputs with a mask made from the average of the halves."""
    params = inputs.params
    average = 0.5 * (inputs.halves[0].data + inputs.halves[1].data)
    source = InputMap(path="the average map", data=average, voxel_size_A=inputs.voxel_size_A)
    how = MaskParams(
        input=inputs.halves[0].path,
        ini_threshold=params.inimask_threshold,
        extend_px=params.extend_inimask_px,
        soft_edge_px=params.mask_edge_px,
        threads=params.threads,
    )
    mask = yield from mask_of_map(source, inputs.voxel_size_A, how)
    return replace(inputs, mask=mask)


def _curves(
    inputs: PostprocessInputs, transforms: tuple[np.ndarray, np.ndarray], threads: int
) -> Generator[Event, None, HalfMapCurves]:
    """Return the correlation curves, and say when they mean nothing or the mask is not used."""
    params = inputs.params
    if inputs.are_identical:
        text = "Both half-maps are the same map: the FSC is 1 everywhere and says nothing about resolution."
        yield Message(text=text, level="warning")
    if inputs.mask is None:
        return unmasked_curves(transforms)
    shell: int | None = None
    if params.randomize_at_A is not None:
        shell = int(inputs.box_size * inputs.voxel_size_A / params.randomize_at_A)
        if not 1 <= shell <= inputs.box_size // 2:
            limits = f"{2 * inputs.voxel_size_A:.4g} and {inputs.box_size * inputs.voxel_size_A:.4g} A"
            raise InputError(f"--randomize_at_A {params.randomize_at_A:g} must lie between {limits}.")
    curves = solvent_corrected_curves(
        (inputs.halves[0].data, inputs.halves[1].data),
        transforms,
        inputs.mask,
        randomization=Randomization(shell=shell, below_fsc=params.randomize_at_fsc, seed=params.random_seed),
        threads=threads,
    )
    if curves.randomize_from is None:
        text = f"The unmasked FSC never falls below {params.randomize_at_fsc:g}, so that the effect of the mask cannot"
        hint = "be measured: the unmasked curve is used; --randomize_at_A gives a resolution to begin from."
        yield Message(text=f"{text} {hint}", level="warning")
        return curves
    if not params.force_mask and resolution_shell(curves.unmasked) > resolution_shell(curves.corrected):
        text = "The unmasked FSC reaches further than the corrected one, so that the unmasked curve is used;"
        yield Message(text=f"{text} make a better mask, or give --force_mask.", level="warning")
        return replace(curves, corrected=curves.unmasked, is_mask_used=False)
    return curves


def plan_sharpening(inputs: PostprocessInputs, curves: HalfMapCurves, amplitudes: Amplitudes) -> Sharpening:
    """Return the factors of all steps: detector, weight, B-factor, low-pass."""
    params, box_size, voxel_size_A = inputs.params, inputs.box_size, inputs.voxel_size_A
    table = np.ones(len(radii(box_size)))
    guinier = {"original": log_amplitudes(amplitudes)}
    if inputs.mtf is not None:
        table = table * inverse_mtf_table(box_size, voxel_size_A, inputs.mtf, params.mtf_angpix or voxel_size_A)
        guinier["mtf"] = log_amplitudes(amplitudes, table)
    if not params.skip_fsc_weighting:
        table = table * fsc_weight_table(curves.corrected, box_size)
        guinier["weighted"] = log_amplitudes(amplitudes, table)
    frequency2 = np.square(np.arange(box_size // 2 + 1) / (box_size * voxel_size_A))
    fit: LineFit | None = None
    b_factor_A2 = params.adhoc_bfac_A2 or 0.0
    if params.auto_bfac:
        lowest, highest = params.autob_lowres_A, params.autob_highres_A
        fit = fit_guinier(frequency2, log_amplitudes(amplitudes, table), lowest_A=lowest, highest_A=highest)
        b_factor_A2 = 4.0 * fit.slope if fit is not None else 0.0
    if b_factor_A2 != 0.0:
        table = table * b_factor_table(box_size, voxel_size_A, b_factor_A2)
        guinier["sharpened"] = log_amplitudes(amplitudes, table)
    shell = resolution_shell(curves.corrected, is_interpolated=params.interpolate)
    resolution_A = box_size * voxel_size_A / shell if shell > 0 else _NO_RESOLUTION_A
    if params.low_pass_A != 0:
        limit = params.low_pass_A if params.low_pass_A > 0 else resolution_A
        table = table * low_pass_table(box_size, voxel_size_A, limit, edge_shells=params.filter_edge_width)
    has_mass = params.molweight_kDa is not None
    result = PostprocessResult(
        curves=curves,
        resolution_A=resolution_A,
        b_factor_A2=b_factor_A2,
        fit=fit,
        frequency2=frequency2,
        guinier=guinier,
        fraction_of_mask=None if inputs.mask is None else fraction_of_mask(inputs.mask),
        fraction_of_mass=fraction_of_mass(box_size, voxel_size_A, params.molweight_kDa or 1.0) if has_mass else None,
    )
    return Sharpening(table=table, result=result)


def _resolution_messages(inputs: PostprocessInputs, plan: Sharpening) -> Iterator[Message]:
    params, result, curves = inputs.params, plan.result, plan.result.curves
    size_A = inputs.box_size * inputs.voxel_size_A
    unmasked = resolution_shell(curves.unmasked, is_interpolated=params.interpolate)
    kind = "without mask"
    if curves.is_mask_used:
        kind = f"in the mask, corrected; unmasked {_resolution_text(size_A / max(unmasked, 1e-9))}"
    if result.resolution_A >= _NO_RESOLUTION_A:
        text = (
            f"The half-maps do not agree: their FSC {kind} is below 0.143 from the first shell on, so that there is no"
        )
        yield Message(text=f"{text} resolution; check that both are of the same refinement.", level="warning")
        yield from _b_factor_messages(params, result)
        return
    yield Message(text=f"Resolution {result.resolution_A:.2f} A at FSC 0.143 {kind}.")
    shell = round(size_A / result.resolution_A)
    if shell == inputs.box_size // 2:
        text = "The FSC stays above 0.143 up to Nyquist: smaller pixels may give a better resolution."
        yield Message(text=text, level="warning")
    if curves.is_mask_used and curves.randomized is not None:
        noise = float(curves.randomized[min(shell, len(curves.randomized) - 1)])
        if noise > _NOISE_FSC:
            text = f"The FSC of phase-randomised maps is {noise:.2f} at the resolution, more than {_NOISE_FSC:g}:"
            yield Message(text=f"{text} the mask is too tight; widen it or its soft edge.", level="warning")
    yield from _b_factor_messages(params, result)


def _b_factor_messages(params: PostprocessParams, result: PostprocessResult) -> Iterator[Message]:
    if not params.auto_bfac:
        text = f"B-factor {result.b_factor_A2:g} A^2 as given." if params.adhoc_bfac_A2 else "No B-factor is applied."
        yield Message(text=text)
        return
    if result.fit is None:
        text = f"No B-factor: fewer than two shells beyond {params.autob_lowres_A:g} A hold signal for a fit;"
        yield Message(text=f"{text} give --autob_lowres a larger number, or --adhoc_bfac.", level="warning")
        return
    text = f"B-factor {result.b_factor_A2:.1f} A^2, fitted from {params.autob_lowres_A:g} A;"
    yield Message(text=f"{text} squared correlation {result.fit.correlation:.2f}.")
    if result.b_factor_A2 > 0:
        text = "The fitted B-factor is positive and blurs the map; the range of the fit holds too little signal:"
        yield Message(text=f"{text} give --autob_lowres a larger number, or --adhoc_bfac.", level="warning")
