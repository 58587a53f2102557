"""Outputs of post-processing: maps, RELION's STAR file, curves and plots, all complete or none there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.engine.half_map_fsc import particle_curve
from napari_autorefine.io.files import FileSet
from napari_autorefine.io.fsc_xml import write_fsc_columns, write_fsc_xml
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.tables import ListTable, Table, write_star
from napari_autorefine.jobs.plots import save_figure
from napari_autorefine.jobs.postprocess_inputs import PostprocessInputs
from napari_autorefine.jobs.postprocess_plots import guinier_figure, half_map_figure
from napari_autorefine.jobs.postprocess_result import PostprocessResult

_NO_RESOLUTION_A = 999.0
_FSC = "rlnFourierShellCorrelation"
_GUINIER = {
    "original": "rlnLogAmplitudesOriginal",
    "mtf": "rlnLogAmplitudesMTFCorrected",
    "weighted": "rlnLogAmplitudesWeighted",
    "sharpened": "rlnLogAmplitudesSharpened",
}


def write_outputs(
    inputs: PostprocessInputs,
    result: PostprocessResult,
    maps: Mapping[str, np.ndarray],
    outputs: Mapping[str, str],
) -> None:
    """Write every output.

    Parameters
    ----------
    inputs : checked inputs
    result : what was found
    maps : (N, N, N) sharpened maps by the kind of their output
    outputs : names by kind
    """
    frequency = np.sqrt(result.frequency2)
    frequency[0] = 1.0 / _NO_RESOLUTION_A
    curve = result.curves.corrected
    kind = "unmasked" if inputs.mask is None else "masked-corrected"
    Path(outputs["map"]).parent.mkdir(parents=True, exist_ok=True)
    with FileSet() as files:
        for name, data in maps.items():
            write_volume(files.new(outputs[name]), data, inputs.voxel_size_A)
            masked = {"map": "masked_map"}.get(name, name.replace("sharpened", "masked"))
            if inputs.mask is not None:
                write_volume(files.new(outputs[masked]), data * inputs.mask, inputs.voxel_size_A)
        if "mask" in outputs and inputs.mask is not None:
            write_volume(files.new(outputs["mask"]), inputs.mask, inputs.voxel_size_A)
        write_fsc_xml(files.new(outputs["fsc_xml"]), frequency, curve, title=f"RELION {kind} FSC")
        write_fsc_columns(files.new(outputs["fsc_columns"]), frequency, curve)
        save_figure(half_map_figure(result.curves, frequency, result.resolution_A), files.new(outputs["fsc_plot"]))
        save_figure(guinier_figure(result, inputs.params), files.new(outputs["guinier_plot"]))
        write_star(files.new(outputs["star"]), star_tables(inputs, result, outputs))


def star_tables(inputs: PostprocessInputs, result: PostprocessResult, outputs: Mapping[str, str]) -> dict[str, Table]:
    """Return RELION's tables: general, fsc, guinier."""
    return {
        "general": _general(inputs, result, outputs),
        "fsc": _fsc_table(result),
        "guinier": _guinier_table(result),
    }


def _general(inputs: PostprocessInputs, result: PostprocessResult, outputs: Mapping[str, str]) -> ListTable:
    table: ListTable = {
        "rlnFinalResolution": result.resolution_A,
        "rlnBfactorUsedForSharpening": result.b_factor_A2,
        "rlnUnfilteredMapHalf1": inputs.halves[0].path,
        "rlnUnfilteredMapHalf2": inputs.halves[1].path,
        "rlnPostprocessedMap": outputs["map"],
    }
    if "masked_map" in outputs:
        table["rlnPostprocessedMapMasked"] = outputs["masked_map"]
    if result.fraction_of_mass is not None and inputs.params.molweight_kDa is not None:
        table["rlnMolecularWeight"] = inputs.params.molweight_kDa
        table["rlnParticleBoxFractionMolecularWeight"] = result.fraction_of_mass
    if result.fraction_of_mask is not None:
        table["rlnParticleBoxFractionSolventMask"] = result.fraction_of_mask
        table["rlnMaskName"] = outputs.get("mask", inputs.params.mask)
    if result.curves.randomize_from is not None:
        size_A = inputs.box_size * inputs.voxel_size_A
        table["rlnRandomiseFrom"] = size_A / result.curves.randomize_from
    if result.fit is not None:
        table["rlnFittedSlopeGuinierPlot"] = result.fit.slope
        table["rlnFittedInterceptGuinierPlot"] = result.fit.intercept
        table["rlnCorrelationFitGuinierPlot"] = result.fit.correlation
    return table


def _fsc_table(result: PostprocessResult) -> pd.DataFrame:
    curves, n_shell = result.curves, len(result.frequency2)
    frequency = np.sqrt(result.frequency2)
    frequency[0] = 1.0 / _NO_RESOLUTION_A
    columns = {
        "rlnSpectralIndex": np.arange(n_shell),
        "rlnResolution": frequency,
        "rlnAngstromResolution": 1.0 / frequency,
        f"{_FSC}Corrected": curves.corrected,
    }
    if result.fraction_of_mask is not None:
        columns[f"{_FSC}ParticleMaskFraction"] = particle_curve(curves.unmasked, result.fraction_of_mask)
    if result.fraction_of_mass is not None:
        columns[f"{_FSC}ParticleMolWeight"] = particle_curve(curves.unmasked, result.fraction_of_mass)
    columns[f"{_FSC}UnmaskedMaps"] = curves.unmasked
    if curves.masked is not None:
        columns[f"{_FSC}MaskedMaps"] = curves.masked
    if curves.randomized is not None:
        columns["rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps"] = curves.randomized
    return pd.DataFrame(columns)


def _guinier_table(result: PostprocessResult) -> pd.DataFrame:
    columns = {"rlnResolutionSquared": result.frequency2}
    columns |= {label: result.guinier[name] for name, label in _GUINIER.items() if name in result.guinier}
    if result.fit is not None:
        columns["rlnLogAmplitudesIntercept"] = np.full(len(result.frequency2), result.fit.intercept)
    return pd.DataFrame(columns)
