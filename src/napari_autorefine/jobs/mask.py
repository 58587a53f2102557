"""Make a soft solvent mask, as ``relion_mask_create`` does, with a threshold that is given or found."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from napari_autorefine.engine.filters import low_passed
from napari_autorefine.engine.solvent_mask import extended, soft_mask, spherical_shell
from napari_autorefine.engine.threshold import connected_bodies, found_level, level_of_mass, without_cavities
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.jobs.map_inputs import InputMap, check_cubic, check_same_grid, read_map, voxel_size_of
from napari_autorefine.jobs.mask_params import FOREIGN_OPTIONS, MaskParams
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.record import check_free, check_not_input, write_record

__all__ = ["FOREIGN_OPTIONS", "MaskParams", "mask"]

_LARGE, _STRAY = 0.5, 0.98
_STEPS = ("reading", "filtering", "growing")


@one_at_a_time
def mask(params: MaskParams) -> Iterator[Event]:
    """Make one mask; yields what was found and what looks wrong.

    Raises
    ------
    InputError
        Whatever is wrong with map or parameters, an empty mask included, before anything is written.
    """
    check_free(params.output, params.overwrite)
    check_not_input(params.output, (params.input, *(path for _, path in params.logic())))
    if params.denovo:
        data, voxel_size_A = _sphere(params), params.angpix or 1.0
    else:
        yield _step(0)
        source = read_map(params.input)
        check_not_input(params.output, [source.path])
        params = params.model_copy(update={"input": source.path})
        voxel_size_A = _voxel_size(source, params)
        data = yield from mask_of_map(source, voxel_size_A, params)
    if params.invert:
        data = 1.0 - data
    write_volume(params.output, data, voxel_size_A)
    outputs = {"mask": params.output}
    write_record(Path(params.output).with_suffix(""), "mask", params, outputs)
    size = " x ".join(str(n) for n in reversed(data.shape))
    text = f"New mask: {size} px at {voxel_size_A:.6g} A, {np.mean(data > 0.5):.1%} of the box above 0.5."
    yield Finished(text=text, outputs=outputs)


def _step(number: int) -> Progress:
    return Progress(stage=_STEPS[number], done=number, total=len(_STEPS))


def _sphere(params: MaskParams) -> np.ndarray:
    assert params.box_size is not None
    data = spherical_shell(
        params.box_size,
        params.inner_radius_px,
        params.outer_radius_px,
        center_px=(params.center_x_px, params.center_y_px, params.center_z_px),
        edge_px=params.soft_edge_px,
    )
    if not data.any():
        raise InputError(
            f"The mask is empty: no voxel of the box of {params.box_size} px lies between the radii"
            f" {params.inner_radius_px:g} and {params.outer_radius_px:g} px about that centre."
        )
    return data


def _voxel_size(source: InputMap, params: MaskParams) -> float:
    """Return the pixel size; only a filter or a mass needs to know it."""
    if params.lowpass_A is None and params.molweight_kDa is None:
        return params.angpix or source.voxel_size_A or 1.0
    return voxel_size_of(source, params.angpix)


def mask_of_map(source: InputMap, voxel_size_A: float, params: MaskParams) -> Generator[Event, None, np.ndarray]:
    """Filter, binarise, extend and soften; (n_z, n_y, n_x) float32 within 0 and 1."""
    threads = params.threads or os.cpu_count() or 1
    other = _second_map(source, params)
    data = source.data
    if params.lowpass_A is not None:
        check_cubic(source, "a low-pass filter")
        yield _step(1)
        data = low_passed(data, voxel_size_A, params.lowpass_A, threads=threads)
    body = yield from _body(data, other, source, voxel_size_A, params)
    yield _step(2)
    if params.fill_cavities:
        body = without_cavities(body)
    grown = extended(body, params.extend_px, threads)
    if not grown.any():
        raise InputError(f"The mask is empty: shrinking it by {-params.extend_px:g} px leaves nothing; shrink it less.")
    result = soft_mask(grown, params.soft_edge_px, threads)
    yield from _looks(result, params)
    return result


def _second_map(source: InputMap, params: MaskParams) -> np.ndarray | None:
    path = next((path for _, path in params.logic() if path), "")
    if not path:
        return None
    other = read_map(path)
    check_same_grid(other, source)
    return other.data


def _body(
    data: np.ndarray, other: np.ndarray | None, source: InputMap, voxel_size_A: float, params: MaskParams
) -> Generator[Event, None, np.ndarray]:
    """Return the voxels of the molecule, before they are extended."""
    low, high = float(data.min()), float(data.max())
    if not low < high:
        raise InputError(f"{source.path} has the value {high:g} everywhere; give a map of a molecule.")
    threshold = params.ini_threshold
    if threshold is None:
        threshold, text = _found(data, voxel_size_A, params)
        yield Message(text=text)
    body = _binary(data, other, np.array([threshold]), params)
    if not body.any():
        filtered = "" if params.lowpass_A is None else f" after the low-pass to {params.lowpass_A:g} A"
        raise InputError(
            f"The mask is empty: no voxel is above --ini_threshold {threshold:g}, as {source.path} has values from"
            f" {low:.4g} to {high:.4g}{filtered}; give a lower one, or --ini_threshold auto."
        )
    if not params.largest and params.ini_threshold is not None:
        return body
    bodies = connected_bodies(body)
    if params.largest:
        if bodies.n > 1:
            left = f"{bodies.n - 1} smaller bodies with {1 - bodies.largest_share:.1%} of the volume are left out"
            yield Message(text=f"The largest connected body is kept; {left}.")
        return bodies.largest
    if bodies.n > 1 and bodies.largest_share < _STRAY:
        text = f"The mask has {bodies.n} separate bodies, the largest with {bodies.largest_share:.1%} of the volume;"
        yield Message(text=f"{text} --largest keeps that one alone.", level="warning")
    return body


def _found(data: np.ndarray, voxel_size_A: float, params: MaskParams) -> tuple[float, str]:
    """Return a threshold and the sentence that tells where it comes from."""
    if params.molweight_kDa is not None:
        threshold = level_of_mass(data, voxel_size_A, params.molweight_kDa)
        if threshold <= float(data.min()):
            raise InputError(
                f"--molweight {params.molweight_kDa:g} kDa takes more room than the whole box of the map; give the mass"
                " of the molecule in kDa."
            )
        return threshold, f"Threshold {threshold:.4g}, whose contour holds {params.molweight_kDa:g} kDa of protein."
    level = found_level(data)
    reason = f"five times the deviation of the solvent, {level.noise:.3g}"
    if not level.is_noise_limited:
        reason = f"30 % of the way from the solvent, {level.solvent:.3g}, to the molecule, {level.molecule:.3g}"
    return level.threshold, f"Threshold {level.threshold:.4g} found: {reason}."


def _binary(data: np.ndarray, other: np.ndarray | None, threshold: np.ndarray, params: MaskParams) -> np.ndarray:
    """Compare in double precision, as RELION: one map by >=, two by > and <."""
    if other is None:
        return data >= threshold
    if params.and_map:
        return (data > threshold) & (other > threshold)
    if params.or_map:
        return (data > threshold) | (other > threshold)
    if params.and_not_map:
        return (data > threshold) & (other < threshold)
    return (data > threshold) | (other < threshold)


def _looks(result: np.ndarray, params: MaskParams) -> Iterator[Message]:
    """Warn of masks that are hardly meant so."""
    share = float(np.mean(result > 0.5))
    if share > _LARGE:
        text = f"The mask fills {share:.0%} of the box; the threshold is probably too low."
        yield Message(text=text, level="warning")
    ends = [result.take(side, axis) for axis in range(3) for side in (0, -1)]
    if any(float(end.max()) > 0.5 for end in ends):
        yield Message(
            text="The mask reaches the edge of the box; take a larger box or a higher threshold.", level="warning"
        )
