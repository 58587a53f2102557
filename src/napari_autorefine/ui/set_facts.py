"""What an optimisation set holds, in one short line, and which files it names; without Qt, fit for a thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.optimisation_set import LABELS, Kind, OptimisationSet, read_optimisation_set
from napari_autorefine.io.subtomogram_columns import are_marked_tilt_stacks
from napari_autorefine.io.tables import StarFile, read_star
from napari_autorefine.jobs.record import output_of
from napari_autorefine.ui.facts import Facts, counted, file_facts, first_number, shortened_to_path
from napari_autorefine.ui.found_files import project_folder

_LARGE = 20_000_000
_TOLD: Mapping[Kind, str] = {"map1": "half-maps", "mask": "mask", "trajectories": "trajectories"}
_USED: tuple[Kind, ...] = ("particles", "tomograms", "map1", "map2", "mask")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFacts(Facts):
    """One line on an optimisation set, where its files are (those that are there), and how its particles are binned."""

    path: Path
    files: Mapping[Kind, Path] = field(default_factory=dict)
    binning: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParticleFacts(Facts):
    """One line on a particle file, and how its particles are binned."""

    binning: float | None = None


def set_facts(path: Path, project: Path) -> Facts:
    """Return what an optimisation set, or that of a job's folder, holds, or why it cannot be used.

    Parameters
    ----------
    path : file or folder
    project : folder that its names are relative to
    """
    try:
        place = Path(output_of(path, "optimisation_set"))
        files = read_optimisation_set(place)
        dead = files.dead(_USED, project_dir=project)
        if "particles" in dead:
            return Facts(text=_lost(files, place, project), is_problem=True)
        found = {kind: one for kind in _USED if kind not in dead and (one := _place(files, kind, project))}
        known = _of_particles(found["particles"]) if "particles" in found else Facts(text="no particles")
    except InputError as error:
        return Facts(text=shortened_to_path(str(error), path), is_problem=True)
    names = [word for kind, word in _TOLD.items() if kind in files.files and kind not in dead]
    binning = known.binning if isinstance(known, _ParticleFacts) else None
    text = known.text + (f"; with {' and '.join(names)}" if names else "")
    if dead:
        text += f"; not there: {', '.join(str(files[kind]) for kind in dead)}"
    if path.is_dir():
        text = f"{place.name}: {text}"
    return SetFacts(text=text, box_px=known.box_px, pixel_A=known.pixel_A, path=place, files=found, binning=binning)


def project_of_set(path: Path) -> Path | None:
    """Return the folder that the names of a set are relative to, None when it cannot be read or nothing is found."""
    try:
        files = read_optimisation_set(path)
    except InputError:
        return None
    named = files["particles"] or files["tomograms"]
    folder = None if named is None or Path(named).is_absolute() else project_folder(path, [named])
    return None if folder is None else folder.resolve()


def _place(files: OptimisationSet, kind: Kind, project: Path) -> Path | None:
    return files.found((kind,), project_dir=project).get(kind)


def _lost(files: OptimisationSet, place: Path, project: Path) -> str:
    """Return the sentence on particles that are not there, with the project that has them where there is one."""
    text = f"{files['particles']}, which this set names in {LABELS['particles']}, is not in the project {project}"
    folder = project_of_set(place)
    return f"{text}; make {folder} the project." if folder is not None else f"{text}; correct the set."


def _of_particles(path: Path) -> Facts:
    """Return number, form, tomograms, box, pixel size and binning of a particle file."""
    if path.stat().st_size > _LARGE:
        return file_facts(path)
    star = read_star(path)
    table = _particles(star)
    if table is None:
        return Facts(text=f"{path.name} holds no particles", is_problem=False)
    optics = star.loop("optics")
    pixel, box = first_number(("rlnImagePixelSize",), optics), first_number(("rlnImageSize",), optics)
    parts = [_counted_form(star, table, optics)]
    if "rlnTomoName" in table:
        parts.append(counted(table["rlnTomoName"].nunique(), "tomogram"))
    parts += [f"{box:.0f} px"] if box else []
    parts += [f"{pixel:.4g} Å/px"] if pixel else []
    binning = _binning(optics, pixel)
    parts += [f"binning {binning:.4g}"] if binning else []
    box_px = None if box is None else round(box)
    return _ParticleFacts(text=", ".join(parts), box_px=box_px, pixel_A=pixel, binning=binning)


def _particles(star: StarFile) -> pd.DataFrame | None:
    for name in star.tables:
        table = star.loop(name)
        if table is not None and ("rlnTomoName" in table or "rlnTomoParticleName" in table):
            return table
    return star.loop("particles")


def _counted_form(star: StarFile, table: pd.DataFrame, optics: pd.DataFrame | None) -> str:
    """Return how many particles of which form there are."""
    if "rlnImageName" not in table:
        return f"{counted(len(table), 'coordinate')} without images"
    if are_marked_tilt_stacks(star.tables.get("general")):
        return counted(len(table), "tilt stack")
    is_3d = first_number(("rlnImageDimensionality",), optics) == 3
    return counted(len(table), "subtomogram" if is_3d else "particle") + (" (volumes)" if is_3d else "")


def _binning(optics: pd.DataFrame | None, pixel_A: float | None) -> float | None:
    given = first_number(("rlnTomoSubtomogramBinning",), optics)
    unbinned = first_number(("rlnTomoTiltSeriesPixelSize",), optics)
    return given or (pixel_A / unbinned if pixel_A and unbinned else None)
