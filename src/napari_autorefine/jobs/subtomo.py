"""Cut particles of tomograms from tilt series, as ``relion_tomo_subtomo`` does: at their centers, in both forms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.optics import optics_groups, renumber_optics
from napari_autorefine.io.optimisation_set import OptimisationSet
from napari_autorefine.io.subtomogram_columns import CENTERED, PIXELS, SUBTOMOGRAM_EULER, VISIBLE, coordinates
from napari_autorefine.io.tables import VERSION_5_0, StarFile, read_star
from napari_autorefine.io.tomo_inputs import gather_files
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.record import check_free, write_record
from napari_autorefine.jobs.subtomo_cut import CutPlan, Picks, cut_particles, write_cut
from napari_autorefine.jobs.subtomo_params import FOREIGN_OPTIONS, SubtomoParams
from napari_autorefine.model.particles import SubtomogramRows
from napari_autorefine.model.subtomogram_cutting import Cut
from napari_autorefine.model.tomography import Tomogram, positions_px

__all__ = ["FOREIGN_OPTIONS", "SubtomoParams", "subtomo"]

_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
_REPLACED = ("rlnTomoName", "rlnImageName", "rlnCtfImage", VISIBLE, *CENTERED, *PIXELS, *SUBTOMOGRAM_EULER, *_ORIGIN)


@one_at_a_time
def subtomo(params: SubtomoParams) -> Iterator[Event]:
    """Cut particles and write them with ``particles.star`` and ``optimisation_set.star`` in the output folder.

    Raises
    ------
    InputError
        Whatever is missing or does not fit, before anything is written.
    """
    outputs = {kind: f"{params.output.rstrip('/')}/{kind}.star" for kind in ("particles", "optimisation_set")}
    check_free(outputs["particles"], params.overwrite)
    inputs = load_inputs(params)
    if inputs.files["trajectories"] is not None:
        text = f"Motion trajectories ({inputs.files['trajectories']}) are not applied; they are passed on."
        yield Message(text=text, level="warning")
    n, n_tomogram = len(inputs.picks.tomogram_name), len(inputs.tomograms)
    yield Message(text=f"{n} particles in {n_tomogram} tilt series.")
    plan = _plan(inputs, params)
    cut = yield from cut_particles(inputs.picks, inputs.tomograms, plan, folder_of=inputs.tomograms_path)
    write_cut(cut, outputs, inputs.files)
    write_record(f"{params.output.rstrip('/')}/particles", "subtomo", params, outputs)
    form = "tilt stacks" if params.stack2d else "volumes"
    size = plan.cuts[0].crop_size
    yield Finished(text=f"Cut {len(cut.rows)} {form} of {size} px, binning {params.binning:g}.", outputs=outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtomoInputs:
    """Checked inputs; ``is_relion_4`` tells the layout of the particle file."""

    files: OptimisationSet
    tomograms_path: Path
    picks: Picks
    tomograms: dict[str, Tomogram]
    is_relion_4: bool


def load_inputs(params: SubtomoParams) -> SubtomoInputs:
    """Read particles with coordinates, and their tilt series."""
    files = gather_files(params.optimisation_set, {"particles": params.particles, "tomograms": params.tomograms})
    files.require("particles", "tomograms")
    places = files.found(("particles", "tomograms"))
    star = read_star(places["particles"])
    table = star.loop("particles")
    if table is None or not len(table):
        raise InputError(f"{places['particles']} holds no particles: it has no rows in a table 'data_particles'.")
    columns = Columns(table=table, file=str(places["particles"]), name="particles")
    columns.require("rlnTomoName")
    names = columns.texts("rlnTomoName")
    tomograms = read_tomograms(places["tomograms"], names=names.tolist())
    unseen = [tomogram for tomogram in tomograms.values() if tomogram.image_size_px is None]
    if unseen:
        image = "none" if unseen[0].image_name is None else unseen[0].image_name[0]
        raise InputError(
            f"{places['tomograms']}: the tilt images of {unseen[0].name} do not exist, the first is {image}; start in"
            " the project's folder."
        )
    return SubtomoInputs(
        files=files,
        tomograms_path=places["tomograms"],
        picks=_picks(columns, star, tomograms),
        tomograms=tomograms,
        is_relion_4=star.version < VERSION_5_0 and not all(label in columns for label in CENTERED),
    )


def _picks(columns: Columns, star: StarFile, tomograms: dict[str, Tomogram]) -> Picks:
    names = columns.texts("rlnTomoName")
    coordinate, unit = coordinates(columns, star.version)
    if coordinate is None:
        raise columns.error("there are no coordinates: neither rlnCenteredCoordinateXAngst nor rlnCoordinateX, Y and Z")
    rows = SubtomogramRows(
        is_tilt_stack=False,
        tomogram_name=names,
        rotation_deg=columns.stacked(SUBTOMOGRAM_EULER),
        coordinate=coordinate,
        coordinate_unit=unit,
    )
    table, optics = columns.table, star.loop("optics")
    if optics is None:
        optics, numbers = _optics_of(tomograms, names)
        table = table.assign(rlnOpticsGroup=numbers)
        columns = Columns(table=table, file=columns.file, name=columns.name)
    index, optics = renumber_optics(columns, optics, columns.file)
    if "rlnTomoParticleName" not in table:
        table = table.assign(rlnTomoParticleName=_particle_names(names))
    kept = table.drop(columns=[label for label in _REPLACED if label in table])
    return Picks(
        table=kept.assign(rlnOpticsGroup=index + 1),
        tomogram_name=names,
        position_px=positions_px(rows, tomograms, columns.stacked(_ORIGIN)),
        subtomogram_deg=rows.rotation_deg,
        optics_index=index,
        optics=optics_groups(optics, columns.file),
    )


def _optics_of(tomograms: dict[str, Tomogram], names: np.ndarray) -> tuple[pd.DataFrame, np.ndarray]:
    """Return an optics table with one group per name that the tomograms give, and the group of every particle."""
    listed = list(dict.fromkeys(tomogram.optics_name for tomogram in tomograms.values()))
    first = [next(t for t in tomograms.values() if t.optics_name == name) for name in listed]
    table = pd.DataFrame(
        {
            "rlnOpticsGroup": np.arange(1, len(listed) + 1),
            "rlnOpticsGroupName": listed,
            "rlnSphericalAberration": [2.7 if t.cs_mm is None else t.cs_mm for t in first],
            "rlnVoltage": [300.0 if t.voltage_kV is None else t.voltage_kV for t in first],
            "rlnAmplitudeContrast": [0.1 if t.amplitude_contrast is None else t.amplitude_contrast for t in first],
            "rlnTomoTiltSeriesPixelSize": [t.pixel_size_A for t in first],
        }
    )
    return table, np.array([listed.index(tomograms[str(name)].optics_name) + 1 for name in names])


def _particle_names(names: np.ndarray) -> list[str]:
    count = dict.fromkeys(names, 0)
    result = []
    for name in names:
        count[name] += 1
        result.append(f"{name}/{count[name]}")
    return result


def _plan(inputs: SubtomoInputs, params: SubtomoParams) -> CutPlan:
    cut = Cut(
        box_size=params.box_size_px,
        crop_size=params.crop_size_px or params.box_size_px,
        binning=params.binning,
        cutoff_fraction=params.cutoff_fraction,
    )
    return CutPlan(
        cuts=(cut,) * len(inputs.picks.optics),
        is_stack=params.stack2d,
        folder=f"{params.output.rstrip('/')}/Subtomograms",
        max_dose_e_A2=params.max_dose_e_A2,
        min_tilts=params.min_frames,
        is_half_precision=params.float16,
        is_relion_4=inputs.is_relion_4 and not params.stack2d,
        threads=params.threads or os.cpu_count() or 1,
    )
