"""Correlation curves of a report: of the half-maps of a run, with a mask where there is one, and of post-processing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.engine.correlation import fsc, solvent_corrected_fsc
from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.tables import ListTable, read_star
from napari_autorefine.jobs.record import output_of
from napari_autorefine.jobs.report_data import Run, values_of

_FROM_FILES = "From the unfiltered half-maps; the curve that the refinement itself went by is among the values."


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """FSC curves on the shells of a box.

    Attributes
    ----------
    curves : name -> (n_shell,)
    voxel_size_A : of the box
    mask : file of the mask, None without one
    note : what to know about the curves
    """

    curves: Mapping[str, np.ndarray]
    voxel_size_A: float
    mask: Path | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostProcess:
    """A post-processing: curves, Guinier plot and the table ``general`` of its STAR file."""

    path: Path
    general: ListTable
    curves: Curves
    guinier: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    comments: tuple[str, ...] = ()


def run_curves(run: Run, mask: str | None, postprocess: PostProcess | None) -> Curves | None:
    """Return the FSC of the unfiltered half-maps, else the one that the model file holds; None without either.

    Raises
    ------
    InputError
        When ``mask``, which the user named, does not fit the half-maps, or there are none.
    """
    if not {"half1", "half2"} <= set(run.maps):
        if mask is not None:
            raise InputError(
                f"{run.prefix.parent} holds no unfiltered half-maps yet; --mask needs them, so leave it out."
            )
        return _model_curves(run)
    first, second = read_volume(run.maps["half1"]), read_volume(run.maps["half2"])
    if first.data.shape != second.data.shape:
        raise InputError(f"{run.maps['half1']} and {run.maps['half2']} have different boxes; they are not of one run.")
    path, note = _mask_of(run, mask, postprocess)
    weight = None if path is None else read_volume(path)
    if weight is not None and path is not None:
        fits = weight.data.shape == first.data.shape
        if not fits and mask is not None:
            raise InputError(
                f"Mask {path} has a box of {len(weight.data)} px, the half-maps one of {len(first.data)} px; "
                "change it with autorefine rebox."
            )
        if not fits:
            weight, path, note = None, None, f"The mask {path} has another box and was not used."
    if weight is None:
        plain = {"half-maps": fsc(first.data, second.data)}
        return Curves(curves=plain, voxel_size_A=first.voxel_size_A, note=f"{_FROM_FILES} {note}".strip())
    found = solvent_corrected_fsc(first.data, second.data, weight.data)
    curves = {
        "half-maps, unmasked": found.unmasked,
        "masked": found.masked,
        "masked, corrected": found.corrected,
        "masked, phases randomised": found.randomized,
    }
    return Curves(curves=curves, voxel_size_A=first.voxel_size_A, mask=path, note=note)


def _model_curves(run: Run) -> Curves | None:
    curve = run.models[0].spectrum("rlnGoldStandardFsc") if run.models else None
    if curve is None or not np.isfinite(run.voxel_size_A):
        return None
    note = "From the model file; half-maps are joined at low resolution there, so that the first shells are 1."
    return Curves(curves={"half-maps": np.nan_to_num(curve)}, voxel_size_A=run.voxel_size_A, note=note)


def _mask_of(run: Run, mask: str | None, postprocess: PostProcess | None) -> tuple[Path | None, str]:
    """Return the mask that was given, that of the run, or that of the post-processing, and a note."""
    if mask is not None:
        return Path(output_of(mask, "mask")), ""
    own = str(run.optimiser.get("rlnSolventMaskName", "None"))
    theirs = str(postprocess.general.get("rlnMaskName", "None")) if postprocess is not None else "None"
    note = ""
    for name in (own, theirs):
        if name in {"None", "", "none"}:
            continue
        found = find_beside(name, run.prefix.parent)
        if found is not None:
            return found, ""
        note = f"The mask {name} was not found, so that curves within a mask are missing; give it with --mask."
    return None, note


def find_beside(name: str, folder: Path) -> Path | None:
    """Return a file that a job names: as it stands, else relative to the job's folder or one above it."""
    path = Path(name)
    for base in (Path(), folder, *folder.resolve().parents[:3]):
        if (base / path).is_file():
            return base / path
    return folder / path.name if (folder / path.name).is_file() else None


_FSC_LABELS = {
    "half-maps, unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
    "masked": "rlnFourierShellCorrelationMaskedMaps",
    "masked, corrected": "rlnFourierShellCorrelationCorrected",
    "masked, phases randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
}
_GUINIER_LABELS = {
    "original": "rlnLogAmplitudesOriginal",
    "MTF-corrected": "rlnLogAmplitudesMTFCorrected",
    "weighted by the FSC": "rlnLogAmplitudesWeighted",
    "sharpened": "rlnLogAmplitudesSharpened",
}
_NO_AMPLITUDE = -50.0


def postprocess_file(folder: Path) -> Path | None:
    """Return the STAR file of a post-processing in a folder, or None."""
    found = sorted(folder.glob("*postprocess.star")) if folder.is_dir() else []
    return found[0] if found else None


def read_postprocess(path: Path) -> PostProcess:
    """Read a ``postprocess.star``, ours or RELION's.

    Raises
    ------
    InputError
        When it holds no FSC.
    """
    star = read_star(path)
    table, general = star.loop("fsc"), star.pairs("general") or {}
    if table is None:
        raise InputError(f"{path} is not the result of a post-processing: it has no table 'data_fsc'.")
    columns = Columns(table=table, file=str(path), name="fsc")
    curves = {name: np.nan_to_num(values_of(columns, label)) for name, label in _FSC_LABELS.items() if label in columns}
    if not curves:
        raise InputError(f"{path}, table 'data_fsc': no column with an FSC was found.")
    frequency = columns.numbers("rlnResolution")
    voxel_size_A = 0.5 / float(frequency[-1]) if len(frequency) > 1 and frequency[-1] > 0 else 1.0
    return PostProcess(
        path=path,
        general=general,
        curves=Curves(curves=curves, voxel_size_A=voxel_size_A),
        guinier=_guinier(star.loop("guinier"), path),
        comments=star.comments,
    )


def _guinier(table: pd.DataFrame | None, path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if table is None or "rlnResolutionSquared" not in table:
        return {}
    columns = Columns(table=table, file=str(path), name="guinier")
    square = columns.numbers("rlnResolutionSquared")
    found = {}
    for name, label in _GUINIER_LABELS.items():
        if label in columns:
            values = values_of(columns, label)
            shown = values > _NO_AMPLITUDE
            if shown.any():
                found[name] = (square[shown], values[shown])
    return found


def sharpened_map(post: PostProcess) -> Path | None:
    """Return the map that a post-processing made, the masked one if it is there."""
    stem = post.path.with_suffix("")
    return next((path for path in (Path(f"{stem}_masked.mrc"), Path(f"{stem}.mrc")) if path.is_file()), None)


def program_of(comments: tuple[str, ...]) -> tuple[str, str]:
    """Return program with its version, and command line, from the comments of an optimiser or post-processing file."""
    first = comments[0] if comments else ""
    command = comments[1] if len(comments) > 1 else ""
    match = re.search(r"version\s+(\S+)", first)
    if "napari-autorefine" in first:
        found = re.search(r"napari-autorefine ([^\s;]+)", first)
        return f"napari-autorefine {found[1] if found else ''}".strip(), command
    return f"RELION {match[1]}" if match else first, command
