"""Particles cut from tilt series into files, with the tables that RELION writes beside them."""

from __future__ import annotations

import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message, Progress
from napari_autorefine.io.mrc import map_sections, read_header, write_stack, write_volume
from napari_autorefine.io.names import find_image_file, search_folders, split_image_name
from napari_autorefine.io.subtomogram_columns import CENTERED, PIXELS, SUBTOMOGRAM_EULER, TWO_D_STACKS, VISIBLE
from napari_autorefine.io.tables import VERSION_3_1, VERSION_5_0, Table
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.geometry import matrix_to_euler
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.subtomogram_cutting import Cut, ParticleCutter, visible_tilts
from napari_autorefine.model.tomography import Tomogram

_ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """n particles to be cut.

    Attributes
    ----------
    table : their columns, without those of images, coordinates and origins
    tomogram_name : (n,) object
    position_px : (n, 3), unbinned pixels of the tomogram
    rotation : (n, 3, 3), A_sub
    optics_index : (n,) 0-based
    optics : groups; pixel size and box are those of the result
    """

    table: pd.DataFrame
    tomogram_name: np.ndarray
    position_px: np.ndarray
    rotation: np.ndarray
    optics_index: np.ndarray
    optics: tuple[OpticsGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutParticles:
    """Tables of what was cut, in the order of the tomograms; ``rows`` (m,) of the picks that are left."""

    tables: dict[str, Table]
    version: int
    rows: np.ndarray


def cut_of(params: SimulateParams, box_size: int) -> Cut:
    """Return the sizes of a cut."""
    larger = params.cut_box_size or 2 * int(np.ceil(box_size * 2 / 3))
    return Cut(box_size=larger, crop_size=box_size, binning=params.binning)


def cut_particles(
    picks: Picks, tomograms: dict[str, Tomogram], params: SimulateParams, *, folder_of: Path | None = None
) -> Generator[Event, None, CutParticles]:
    """Cut all particles and write a file, or two, for each.

    Parameters
    ----------
    picks : particles
    tomograms : their tilt series by name, in the order of the result
    params : form, sizes, limit of the dose, prefix of the names
    folder_of : file beside which tilt images are also looked for

    Returns
    -------
    tables that name the files

    Raises
    ------
    InputError
        Tilt images that are missing or smaller than a particle needs.
    """
    frames = {name: _frames(tomogram, folder_of) for name, tomogram in tomograms.items()}
    rows, names, visible = [], [], []
    with ThreadPoolExecutor(params.threads or os.cpu_count() or 1) as pool:
        for done, (name, tomogram) in enumerate(tomograms.items()):
            chosen = np.flatnonzero(picks.tomogram_name == name)
            tasks = [_Task(picks, tomogram, frames[name], params, int(row), n + 1) for n, row in enumerate(chosen)]
            for task, flags in zip(tasks, pool.map(_Task.run, tasks), strict=True):
                if flags.any():
                    rows.append(task.row)
                    names.append(task.names)
                    visible.append("[" + ",".join("1" if flag else "0" for flag in flags) + "]")
            yield Progress(stage="particles", done=done + 1, total=len(tomograms))
    n_lost = len(picks.tomogram_name) - len(rows)
    if not rows:
        raise InputError("No tilt image shows a whole particle; give a smaller --box or a larger --max_dose.")
    if n_lost:
        yield Message(text=f"{n_lost} particles are not seen whole in any tilt image and left out.", level="warning")
    kept = np.array(rows)
    table = _particle_table(picks, kept, tomograms, params)
    images = {"rlnImageName": [one[0] for one in names]}
    if params.tomo == "3d":
        images["rlnCtfImage"] = [one[1] for one in names]
    else:
        images[VISIBLE] = visible
    tables: dict[str, Table] = {"optics": _optics_table(picks, tomograms, params)}
    tables["particles"] = table.assign(**images, **dict.fromkeys(_ORIGINS, 0.0))
    if params.relion_version == "5":
        tables = {"general": {TWO_D_STACKS: int(params.tomo == "2d")}, **tables}
    return CutParticles(tables=tables, version=VERSION_5_0 if params.relion_version == "5" else VERSION_3_1, rows=kept)


@dataclass(frozen=True, slots=True)
class _Task:
    """One particle; ``number`` counts from 1 in its tomogram."""

    picks: Picks
    tomogram: Tomogram
    frames: list[np.ndarray]
    params: SimulateParams
    row: int
    number: int

    @property
    def names(self) -> tuple[str, ...]:
        """Files of the particle: stack, or data and weights."""
        stem = f"{self.params.output}_subtomograms/{self.tomogram.name}/{self.number}"
        return (f"{stem}_stack2d.mrcs",) if self.params.tomo == "2d" else (f"{stem}_data.mrc", f"{stem}_weights.mrc")

    def run(self) -> np.ndarray:
        """Cut and write; return which tilts show the particle."""
        optics = self.picks.optics[int(self.picks.optics_index[self.row])]
        position = self.picks.position_px[self.row]
        cutter = ParticleCutter(self.tomogram, optics, cut_of(self.params, optics.box_size))
        flags = visible_tilts(self.tomogram, position, cutter.cut, max_dose_e_A2=self.params.max_dose_e_A2)
        tilts = np.flatnonzero(flags)
        if not len(tilts):
            return flags
        images, pixel = [self.frames[tilt] for tilt in tilts], cutter.optics.pixel_size_A
        if self.params.tomo == "2d":
            stack = cutter.stack(images, tilts, position)
            write_stack(self.names[0], stack, pixel, half_precision=self.params.float16)
            return flags
        sums = cutter.volume(images, tilts, position, self.picks.rotation[self.row])
        dtype = np.float16 if self.params.float16 else np.float32
        weights = np.concatenate([sums.ctf2, sums.multiplicity])
        write_volume(self.names[0], np.clip(sums.data, -65504, 65504).astype(dtype), pixel)
        write_volume(self.names[1], np.clip(weights, -65504, 65504).astype(dtype), 1.0 / pixel)
        return flags


def _frames(tomogram: Tomogram, folder_of: Path | None) -> list[np.ndarray]:
    """Return the tilt images of a tomogram as views of memory-mapped stacks."""
    if tomogram.image_name is None:
        raise InputError(f"The table of the tilt series {tomogram.name} names no images.")
    folders, known, frames = search_folders(folder_of), {}, []
    for name in tomogram.image_name.tolist():
        number, path = split_image_name(str(name))
        if path not in known:
            found = find_image_file(path, folders)
            if found is None:
                raise InputError(f"The tilt image {path} of {tomogram.name} does not exist; cut where its images are.")
            known[path] = map_sections(read_header(found))
        if (number or 1) > len(known[path]):
            raise InputError(f"The tilt image {name} of {tomogram.name} is beyond the end of its stack.")
        frames.append(known[path][(number or 1) - 1])
    return frames


def _particle_table(
    picks: Picks, rows: np.ndarray, tomograms: dict[str, Tomogram], params: SimulateParams
) -> pd.DataFrame:
    """Return the rows that were cut, with coordinates in the layout of the wanted version."""
    table, names = picks.table.iloc[rows].reset_index(drop=True), picks.tomogram_name[rows]
    middle = np.stack([tomograms[str(name)].center_px for name in names])
    pixel = np.array([tomograms[str(name)].pixel_size_A for name in names])[:, None]
    if params.relion_version == "5":
        columns = dict(zip(CENTERED, ((picks.position_px[rows] - middle) * pixel).T, strict=True))
    else:
        columns = dict(zip(PIXELS, (picks.position_px[rows] - 1.0).T, strict=True))
    columns |= dict(zip(SUBTOMOGRAM_EULER, matrix_to_euler(picks.rotation[rows]).T, strict=True))
    return pd.DataFrame({"rlnTomoName": names, **columns}).join(table)


def _optics_table(picks: Picks, tomograms: dict[str, Tomogram], params: SimulateParams) -> pd.DataFrame:
    unbinned = {
        index: tomograms[str(name)] for index, name in zip(picks.optics_index, picks.tomogram_name, strict=True)
    }
    groups = [replace(group, number=number + 1) for number, group in enumerate(picks.optics)]
    sizes = [unbinned[n].pixel_size_A if n in unbinned else group.pixel_size_A for n, group in enumerate(groups)]
    return pd.DataFrame(
        {
            "rlnOpticsGroup": [group.number for group in groups],
            "rlnOpticsGroupName": [group.name for group in groups],
            "rlnSphericalAberration": [group.cs_mm for group in groups],
            "rlnVoltage": [group.voltage_kV for group in groups],
            "rlnAmplitudeContrast": [group.amplitude_contrast for group in groups],
            "rlnTomoTiltSeriesPixelSize": sizes,
            "rlnCtfDataAreCtfPremultiplied": [1 for _ in groups],
            "rlnImageDimensionality": [2 if params.tomo == "2d" else 3 for _ in groups],
            "rlnTomoSubtomogramBinning": [float(params.binning) for _ in groups],
            "rlnImagePixelSize": [size * params.binning for size in sizes],
            "rlnImageSize": [group.box_size for group in groups],
        }
    )
