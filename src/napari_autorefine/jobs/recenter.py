"""Move the centre of particles to a point of their map, as ``relion_star_handler --center`` does, or onto a mask.

A point c of the map, from its centre, becomes the centre of the next reconstruction: the map's content moves by -c. The
origin of a particle with rotation A (reference to view) becomes origin - A c.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_autorefine.engine.registration import mask_offset
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.files import FileSet
from napari_autorefine.io.names import search_folders
from napari_autorefine.io.optics import complete_optics, optics_groups, renumber_optics
from napari_autorefine.io.optimisation_set import write_optimisation_set
from napari_autorefine.io.relion30 import upgrade_relion_3_0
from napari_autorefine.io.star import StarFile, read_star, write_star
from napari_autorefine.jobs.map_inputs import InputMap, check_cubic, check_mask, check_same_grid, read_map
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.recenter_params import FOREIGN_OPTIONS, RecenterParams
from napari_autorefine.jobs.recenter_set import SetBeside, particles_of_set, set_beside
from napari_autorefine.jobs.record import check_free, check_not_input, output_of, write_record
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.symmetry import point_group

__all__ = ["FOREIGN_OPTIONS", "RecenterParams", "recenter"]

_EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
_PRIORS = ("rlnOriginXPriorAngst", "rlnOriginYPriorAngst", "rlnOriginZPriorAngst")
_TOMO_COLUMNS = {"rlnTomoName", "rlnTomoParticleName", "rlnCtfImage"}
_DIMENSION = "rlnImageDimensionality"
_DECIMALS, _SHOWN = 9, 3
_LOW_SCORE = 0.7
_SAME_PIXEL = 1e-3
_ENDING = "_centered.star"


@one_at_a_time
def recenter(params: RecenterParams) -> Iterator[Event]:
    """Recentre particles, or find the centre that puts their map on a mask; yields what was found.

    Raises
    ------
    InputError
        Whatever is wrong with files or parameters, before anything is written.
    """
    source: ParticleTable | None = None
    beside: SetBeside | None = None
    if params.apply or not params.mask:
        params = _with_files(params)
        source = read_particle_table(params.particles)
        beside = _new_set(source, params)
        yield from source.notes
    figures: dict[str, Any] = {}
    if params.mask:
        figures = yield from _find_center(params)
    if source is None:
        yield Finished(text="Nothing was written; add --apply, --i and --o to recentre particles.", figures=figures)
        return
    yield from _notes(source, params)
    moved = source.moved(figures["offset_A"] if params.mask else _center_A(source, params))
    outputs = _written(moved, params.output, beside)
    write_record(Path(params.output).with_suffix(""), "recenter", params, outputs)
    if beside is not None:
        yield from beside.notes
    yield Finished(text=f"{len(source.table)} particles recentred.", outputs=outputs, figures=figures)


def _new_set(source: ParticleTable, params: RecenterParams) -> SetBeside | None:
    """Return the optimisation set that particles of tomograms get, None without one; check that its place is free."""
    if not source.is_3d:
        if params.optimisation_set:
            raise InputError(
                f"{params.particles} holds single particles, which have no optimisation set; leave out --ios."
            )
        return None
    mask = params.mask if params.apply else ""
    beside = set_beside(params.particles, params.output, given=params.optimisation_set, mask=mask)
    if beside is not None:
        check_free(beside.path, params.overwrite)
        check_not_input(beside.path, (beside.files.path,))
    return beside


def _written(moved: ParticleTable, path: str, beside: SetBeside | None) -> dict[str, str]:
    """Write particles and their set at once; return the files by kind."""
    outputs = {"particles": path}
    with FileSet() as files:
        write_star(files.new(path), moved.star.tables, version=moved.star.version, comments=moved.star.comments)
        if beside is not None:
            write_optimisation_set(files.new(beside.path), beside.files)
            outputs["optimisation_set"] = beside.path
    return outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleTable:
    """A particle file as it is, with what recentring needs to know.

    Attributes
    ----------
    star : all tables, nothing changed
    path : of the file
    is_3d : particles are subtomograms or tilt stacks, so that their origins have three components
    """

    star: StarFile
    path: str
    is_3d: bool
    notes: tuple[Message, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        """The particles."""
        table = self.star.loop("particles")
        assert table is not None
        return table

    @property
    def columns(self) -> Columns:
        """The particles, with errors that name the place."""
        return Columns(table=self.table, file=self.path, name="particles")

    @property
    def adds_z(self) -> bool:
        """Tell whether a column for the third component is missing."""
        return self.is_3d and _ORIGIN[2] not in self.table

    def pixel_sizes_A(self) -> np.ndarray:
        """Return the pixel size of every particle, that of its optics group; (n,)."""
        optics = self.star.loop("optics")
        if optics is None:
            raise InputError(
                f"{self.path} has no optics groups, so that its pixel size is not known; give --ref_angpix."
            )
        index, ordered = renumber_optics(self.columns, optics, self.path)
        sizes = np.array([group.pixel_size_A for group in optics_groups(ordered, self.path)])
        return np.asarray(sizes[index])

    def moved(self, center_A: np.ndarray) -> ParticleTable:
        """Return the particles with new origins; ``center_A`` is (3,), or (n, 3) with one point per particle.

        Origins are rounded to 1e-9 A, so that the opposite shift brings back what was printed.
        """
        columns = self.columns
        matrices = euler_to_matrix(columns.stacked(_EULER))
        steps = np.einsum("nij,nj->ni", matrices, np.broadcast_to(center_A, (len(columns), 3)))
        labels = [label for label in _ORIGIN if label in columns or self.is_3d]
        new = {}
        for label, step in zip(_ORIGIN, steps.T, strict=True):
            if label in labels:
                new[label] = np.round(columns.numbers(label, 0.0) - step, _DECIMALS) + 0.0
        tables = {**self.star.tables, "particles": self.table.assign(**new)}
        star = StarFile(tables=tables, version=self.star.version, comments=self.star.comments)
        return ParticleTable(star=star, path=self.path, is_3d=self.is_3d)


def read_particle_table(path: str) -> ParticleTable:
    """Read a particle file of RELION 3.0 to 5 for recentring.

    Raises
    ------
    InputError
        No particles, or no angles or origins.
    """
    star, notes = read_star(path), []
    table = star.loop("particles")
    if "optics" not in star.tables and (table is None or _ORIGIN[0] not in table):
        star = _upgraded(star, path)
        text = f"{path} is of RELION 3.0: it is written in the layout of 3.1, with optics groups and offsets in A."
        notes.append(Message(text=text))
    if star.loop("particles") is None:
        raise InputError(f"{path} holds no particles: it has no table 'data_particles'.")
    table = star.loop("particles")
    assert table is not None
    columns = Columns(table=table, file=path, name="particles")
    if not len(columns):
        raise columns.error("there is no particle")
    columns.require(*_EULER, *_ORIGIN[:2])
    return ParticleTable(star=star, path=path, is_3d=_are_3d(star), notes=tuple(notes))


def _upgraded(star: StarFile, path: str) -> StarFile:
    """Return a file of RELION 3.0 in the layout of 3.1, with the box sizes of its images where these are found."""
    new = upgrade_relion_3_0(star, path)
    particles, optics = new.loop("particles"), new.loop("optics")
    assert particles is not None
    assert optics is not None
    columns = Columns(table=particles, file=path, name="particles")
    index, optics = renumber_optics(columns, optics, path)
    completed = complete_optics(optics, columns.texts("rlnImageName"), index, search_folders(path))
    if (completed["rlnImageSize"] > 0).all():
        optics = completed
    tables = {**new.tables, "optics": optics}
    return StarFile(tables=tables, version=new.version, comments=new.comments)


def _are_3d(star: StarFile) -> bool:
    """Tell whether particles are subtomograms, tilt stacks or their positions in tomograms."""
    optics, particles, general = star.loop("optics"), star.loop("particles"), star.pairs("general")
    labels: set[str] = set() if particles is None else set(particles.columns)
    if (general is not None and "rlnTomoSubTomosAre2DStacks" in general) or labels & _TOMO_COLUMNS:
        return True
    dimensions = () if optics is None or _DIMENSION not in optics else optics[_DIMENSION]
    return any(str(value) in {"3", "3.0"} for value in dimensions)


def _with_files(params: RecenterParams) -> RecenterParams:
    """Return parameters with files in place of folders; check that the output is free and not the input."""
    of_set = "" if params.particles else particles_of_set(params.optimisation_set)
    source = of_set or output_of(params.particles, "particles")
    target = params.output
    if Path(target).is_dir() or target.endswith(("/", os.sep)):
        if params.particles and Path(params.particles).is_dir() and source.endswith(_ENDING):
            raise InputError(
                f"{params.particles} already holds recentred particles, {source}; name the file to be recentred."
            )
        target = str(Path(target) / (Path(source).stem + _ENDING))
    elif not target.endswith(".star"):
        raise InputError(f"--o {target} is not the name of a STAR file; it should end in .star.")
    if Path(target).resolve() == Path(source).resolve():
        raise InputError(f"--o {target} is the input itself; give another name, so that the old origins are kept.")
    check_free(target, params.overwrite)
    return params.model_copy(update={"particles": source, "output": target})


def _find_center(params: RecenterParams) -> Generator[Event, None, dict[str, Any]]:
    """Find the centre that puts a map on a mask; return it in px and, where the pixel size is known, in A."""
    map_, mask = _checked_maps(params)
    voxel_size_A = params.ref_angpix or map_.voxel_size_A
    if params.apply and voxel_size_A is None:
        raise InputError(f"{map_.path} has no pixel size in its header; give it with --ref_angpix.")
    group = point_group(params.symmetry)
    if params.symmetry[0].upper() != "C":
        raise InputError(
            f"A map of symmetry {group.name} has only one possible centre; it cannot be moved onto a mask."
        )
    yield Progress(stage="comparing map and mask", done=0, total=1)
    found = mask_offset(map_.data, mask.data)
    shift_px = np.round(group.operators.mean(axis=0) @ found.shift_px, _SHOWN) + 0.0
    x, y, z = (f"{value:.{_SHOWN}f}" for value in shift_px)
    in_A, option = "", ""
    figures: dict[str, Any] = {"offset_px": shift_px, "score": found.score}
    if voxel_size_A is not None:
        in_A = f", that is {', '.join(f'{value * voxel_size_A:.2f}' for value in shift_px)} A"
        option = f" --ref_angpix {voxel_size_A:.6g}"
        figures["offset_A"] = shift_px * voxel_size_A
    yield Message(
        text=f"Offset of the map from the mask, X Y Z: {x}, {y}, {z} px{in_A} (correlation {found.score:.3f})."
    )
    yield Message(text=f"To recentre particles: --center_X {x} --center_Y {y} --center_Z {z}{option}")
    yield from _doubts(found.shift_px, shift_px, found.score, group.name)
    return figures


def _checked_maps(params: RecenterParams) -> tuple[InputMap, InputMap]:
    map_, mask = read_map(params.map), read_map(params.mask, "mask")
    check_cubic(map_, "comparing it with a mask")
    if params.ref_angpix is None or mask.voxel_size_A is None:
        check_same_grid(mask, map_)
    else:
        check_same_grid(mask, InputMap(path=map_.path, data=map_.data, voxel_size_A=params.ref_angpix))
    check_mask(mask)
    for one, what in ((map_, "map"), (mask, "mask")):
        if not np.any(one.data != one.data.flat[0]):
            raise InputError(f"{one.path} is {one.data.flat[0]:g} everywhere; give another {what}.")
    return map_, mask


def _doubts(found_px: np.ndarray, kept_px: np.ndarray, score: float, symmetry: str) -> Iterator[Message]:
    """Warn when map and mask have little in common, or when symmetry forbids part of what was found."""
    if score < _LOW_SCORE:
        text = f"Map and mask differ in shape (correlation {score:.2f} of 1): look at both before you use this offset."
        yield Message(text=text, level="warning")
    lost = float(np.linalg.norm(found_px - kept_px))
    if lost > 1.0:
        text = f"The mask also lies {lost:.1f} px off the axis of {symmetry}, where the map cannot be moved."
        yield Message(text=text, level="warning")


def _notes(source: ParticleTable, params: RecenterParams) -> Iterator[Message]:
    """Say what the user should know before the file is written."""
    if source.adds_z:
        text = "The file has no rlnOriginZAngst, which these three-dimensional particles need: it is added."
        yield Message(text=text)
    priors = [label for label in _PRIORS if label in source.table]
    if priors:
        text = f"{', '.join(priors)} stay as they are and will hold searches to the old centre; remove the columns."
        yield Message(text=text, level="warning")
    if not params.mask:
        yield from _far_centre(source, params)
    if params.mask or params.center_A or params.ref_angpix is not None:
        return
    sizes = source.pixel_sizes_A()
    if sizes.max() > sizes.min() * (1.0 + _SAME_PIXEL):
        text = (
            f"Pixel sizes range from {sizes.min():g} to {sizes.max():g} A, and as in RELION the centre is in pixels of"
            " each particle, so that it is not one point of the map; give --ref_angpix or --center_A."
        )
        yield Message(text=text, level="warning")


def _far_centre(source: ParticleTable, params: RecenterParams) -> Iterator[Message]:
    """Warn of a point outside the box of the particles, which is hardly meant."""
    optics = source.star.loop("optics")
    if optics is None or "rlnImageSize" not in optics:
        return
    extent_A = float(Columns(table=optics, file=source.path, name="optics").numbers("rlnImageSize").max())
    extent_A *= float(source.pixel_sizes_A().max())
    if np.abs(_center_A(source, params)).max() > 0.5 * extent_A:
        text = f"The new centre lies outside the map, which is {extent_A:.4g} A wide, that is {0.5 * extent_A:.4g} A to"
        yield Message(text=f"{text} each side of its centre: check the numbers and their unit.", level="warning")


def _center_A(source: ParticleTable, params: RecenterParams) -> np.ndarray:
    """Return the new centre in A: (3,), or (n, 3) when it is given in pixels of the particles."""
    if params.center_A:
        return np.array(params.center_A)
    center_px = np.array(params.center_px)
    return center_px * (source.pixel_sizes_A()[:, None] if params.ref_angpix is None else params.ref_angpix)
