"""Particles cut from tilt series into files, with the tables that RELION writes beside them."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message, Progress
from napari_autorefine.io.mrc import map_sections, read_header, write_stack, write_volume
from napari_autorefine.io.names import check_inner, find_image_file, search_folders, split_image_name
from napari_autorefine.io.optimisation_set import OptimisationSet, write_optimisation_set
from napari_autorefine.io.subtomogram_columns import CENTERED, PIXELS, SUBTOMOGRAM_EULER, TWO_D_STACKS, VISIBLE
from napari_autorefine.io.tables import VERSION_3_1, VERSION_5_0, Table, write_star
from napari_autorefine.model.geometry import euler_to_matrix
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
    subtomogram_deg : (n, 3), Euler angles of A_sub
    optics_index : (n,) 0-based
    optics : groups; voltage, aberrations and names are taken from them
    """

    table: pd.DataFrame
    tomogram_name: np.ndarray
    position_px: np.ndarray
    subtomogram_deg: np.ndarray
    optics_index: np.ndarray
    optics: tuple[OpticsGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CutPlan:
    """How particles are cut and written.

    Attributes
    ----------
    cuts : sizes for each optics group
    is_stack : stacks of tilt images, else volumes with CTF and multiplicity
    folder : files of particles lie in a folder of their tomogram there
    max_dose_e_A2 : images after this dose are not used; None: all are
    min_tilts : particles that fewer tilts show are left out
    is_half_precision : float16 values
    is_relion_4 : tables in the layout of RELION 4, else 5
    threads : particles cut at a time
    """

    cuts: tuple[Cut, ...]
    is_stack: bool
    folder: str
    max_dose_e_A2: float | None = None
    min_tilts: int = 1
    is_half_precision: bool = True
    is_relion_4: bool = False
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CutParticles:
    """Tables of what was cut, in the order of the tomograms; ``rows`` (m,) of the picks that are left."""

    tables: dict[str, Table]
    version: int
    rows: np.ndarray


def cut_particles(
    picks: Picks, tomograms: dict[str, Tomogram], plan: CutPlan, *, folder_of: Path | None = None
) -> Generator[Event, None, CutParticles]:
    """Cut all particles and write a file, or two, for each.

    Parameters
    ----------
    picks : particles
    tomograms : their tilt series by name, in the order of the result
    plan : form, sizes, limits, names
    folder_of : file beside which tilt images are also looked for

    Returns
    -------
    tables that name the files

    Raises
    ------
    InputError
        Tilt images that are missing or smaller than a particle needs; names that lead out of the output folder.
    """
    frames = {name: tilt_images(tomogram, folder_of) for name, tomogram in tomograms.items()}
    numbers = _numbers(picks)
    for name in tomograms:
        check_inner(name, "The tomogram name")
    for number in numbers:
        check_inner(number, "The particle name")
    rows, names, visible = [], [], []
    with ThreadPoolExecutor(plan.threads) as pool:
        for done, (name, tomogram) in enumerate(tomograms.items()):
            chosen = np.flatnonzero(picks.tomogram_name == name)
            cutters = {
                group: ParticleCutter(tomogram, picks.optics[group], plan.cuts[group])
                for group in np.unique(picks.optics_index[chosen]).tolist()
            }
            tasks = [
                _Task(picks, cutters[int(picks.optics_index[row])], frames[name], plan, int(row), numbers[row])
                for row in chosen
            ]
            for task, flags in zip(tasks, pool.map(_Task.run, tasks), strict=True):
                if flags is not None:
                    rows.append(task.row)
                    names.append(task.names)
                    visible.append("[" + ",".join("1" if flag else "0" for flag in flags) + "]")
            yield Progress(stage="particles", done=done + 1, total=len(tomograms))
    n_lost = len(picks.tomogram_name) - len(rows)
    if not rows:
        raise InputError("No tilt image shows a whole particle; give a smaller --crop or a larger --max_dose.")
    if n_lost:
        yield Message(text=f"{n_lost} particles are whole in too few tilt images and left out.", level="warning")
    kept = np.array(rows)
    table = _particle_table(picks, kept, tomograms, plan)
    images = {"rlnImageName": [one[0] for one in names]}
    images |= {VISIBLE: visible} if plan.is_stack else {"rlnCtfImage": [one[1] for one in names]}
    columns = {label: pd.Series(texts, dtype=object) for label, texts in images.items()}
    tables: dict[str, Table] = {"optics": _optics_table(picks, tomograms, plan)}
    tables["particles"] = table.assign(**columns, **dict.fromkeys(_ORIGINS, 0.0))
    if not plan.is_relion_4:
        tables = {"general": {TWO_D_STACKS: int(plan.is_stack)}, **tables}
    return CutParticles(tables=tables, version=VERSION_3_1 if plan.is_relion_4 else VERSION_5_0, rows=kept)


def write_cut(cut: CutParticles, outputs: Mapping[str, str], files: OptimisationSet) -> None:
    """Write the particle file and then the optimisation set around it; ``files`` are its other entries."""
    write_star(outputs["particles"], cut.tables, version=cut.version)
    files = replace(files, version=cut.version).with_files({"particles": outputs["particles"]})
    write_optimisation_set(outputs["optimisation_set"], files)


def _numbers(picks: Picks) -> list[str]:
    """Return the name of every particle within its tomogram: what follows the slash, if that tells them apart."""
    texts = [str(name).rpartition("/")[2] for name in picks.table["rlnTomoParticleName"]]
    places = set(zip(picks.tomogram_name.tolist(), texts, strict=True))
    return texts if len(places) == len(texts) else [str(row + 1) for row in range(len(texts))]


@dataclass(frozen=True, slots=True)
class _Task:
    """One particle; ``number`` names it within its tomogram."""

    picks: Picks
    cutter: ParticleCutter
    frames: list[np.ndarray]
    plan: CutPlan
    row: int
    number: str

    @property
    def names(self) -> tuple[str, ...]:
        """Files of the particle: stack, or data and weights."""
        stem = f"{self.plan.folder}/{self.cutter.tomogram.name}/{self.number}"
        return (f"{stem}_stack2d.mrcs",) if self.plan.is_stack else (f"{stem}_data.mrc", f"{stem}_weights.mrc")

    def run(self) -> np.ndarray | None:
        """Cut and write; return which tilts show the particle, None for one that too few do."""
        plan, cutter, position = self.plan, self.cutter, self.picks.position_px[self.row]
        flags = visible_tilts(cutter.tomogram, position, cutter.cut, max_dose_e_A2=plan.max_dose_e_A2)
        tilts = np.flatnonzero(flags)
        if len(tilts) < max(plan.min_tilts, 1):
            return None
        images, pixel = [self.frames[tilt] for tilt in tilts], cutter.optics.pixel_size_A
        if plan.is_stack:
            stack = cutter.stack(images, tilts, position)
            write_stack(self.names[0], stack, pixel, half_precision=plan.is_half_precision)
            return flags
        sums = cutter.volume(images, tilts, position, euler_to_matrix(self.picks.subtomogram_deg[self.row]))
        for path, values, size in (
            (self.names[0], sums.data, pixel),
            (self.names[1], np.concatenate([sums.ctf2, sums.multiplicity]), 1.0 / pixel),
        ):
            stored = np.clip(values, -65504, 65504).astype(np.float16) if plan.is_half_precision else values
            write_volume(path, stored, size)
        return flags


def tilt_images(tomogram: Tomogram, folder_of: Path | None) -> list[np.ndarray]:
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


def _particle_table(picks: Picks, rows: np.ndarray, tomograms: dict[str, Tomogram], plan: CutPlan) -> pd.DataFrame:
    """Return the rows that were cut, with coordinates in the layout of the wanted version."""
    table, names = picks.table.iloc[rows].reset_index(drop=True), picks.tomogram_name[rows]
    middle = np.stack([tomograms[str(name)].center_px for name in names])
    pixel = np.array([tomograms[str(name)].pixel_size_A for name in names])[:, None]
    if not plan.is_relion_4:
        columns = dict(zip(CENTERED, _tidy((picks.position_px[rows] - middle) * pixel).T, strict=True))
    else:
        columns = dict(zip(PIXELS, _tidy(picks.position_px[rows] - 1.0).T, strict=True))
    columns |= dict(zip(SUBTOMOGRAM_EULER, picks.subtomogram_deg[rows].T, strict=True))
    return pd.DataFrame({"rlnTomoName": names, **columns}).join(table)


def _tidy(values: np.ndarray) -> np.ndarray:
    """Round what arithmetic left behind the 9th decimal."""
    return np.round(values, 9) + 0.0


def _optics_table(picks: Picks, tomograms: dict[str, Tomogram], plan: CutPlan) -> pd.DataFrame:
    unbinned = {
        index: tomograms[str(name)] for index, name in zip(picks.optics_index, picks.tomogram_name, strict=True)
    }
    groups = [replace(group, number=number + 1) for number, group in enumerate(picks.optics)]
    sizes = [unbinned[n].pixel_size_A if n in unbinned else group.pixel_size_A for n, group in enumerate(groups)]
    return pd.DataFrame(
        {
            "rlnOpticsGroup": [group.number for group in groups],
            "rlnOpticsGroupName": pd.Series([group.name for group in groups], dtype=object),
            "rlnSphericalAberration": [group.cs_mm for group in groups],
            "rlnVoltage": [group.voltage_kV for group in groups],
            "rlnAmplitudeContrast": [group.amplitude_contrast for group in groups],
            "rlnTomoTiltSeriesPixelSize": sizes,
            "rlnCtfDataAreCtfPremultiplied": [1 for _ in groups],
            "rlnImageDimensionality": [2 if plan.is_stack else 3 for _ in groups],
            "rlnTomoSubtomogramBinning": [float(cut.binning) for cut in plan.cuts],
            "rlnImagePixelSize": [size * cut.binning for size, cut in zip(sizes, plan.cuts, strict=True)],
            "rlnImageSize": [cut.crop_size for cut in plan.cuts],
        }
    )
