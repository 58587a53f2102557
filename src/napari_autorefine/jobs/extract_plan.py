"""Everything about an extraction that is decided and checked before anything is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message
from napari_autorefine.io.micrograph_tables import Coordinates, MicrographTable, read_micrographs, without_job
from napari_autorefine.io.micrographs import MicrographImage
from napari_autorefine.io.names import check_inner, inner_path
from napari_autorefine.jobs.extract_inputs import (
    MICROGRAPH_FILES,
    biased,
    enough_merit,
    file_of_job,
    inside,
    open_images,
    read_coordinates,
    read_refined_particles,
    remarks,
    rounded_sizes,
)
from napari_autorefine.jobs.extract_params import ExtractParams
from napari_autorefine.jobs.extract_settings import pixel_steps
from napari_autorefine.jobs.extract_tables import (
    CtfSource,
    Refined,
    ctf_source,
    fresh_tables,
    refined_tables,
)
from napari_autorefine.model.extraction import PixelSteps


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographTask:
    """One micrograph that particles are cut from.

    Attributes
    ----------
    name : as in the STAR file
    first, count : rows of the plan's table
    steps : what is done to the pixels
    pixel_size_A : of the images that are written
    stack, star : files to write
    digest : tells whether an earlier run did the same
    """

    name: str
    image: MicrographImage
    first: int
    count: int
    steps: PixelSteps
    pixel_size_A: float
    stack: Path
    star: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionPlan:
    """What is cut and what is written.

    Attributes
    ----------
    table, optics : final tables, (n rows) sorted by micrograph
    centers : (n, 2) int64, x and y
    transfer : what the transfer functions are made of, None without
    n_lost : particles that are left out because something is missing
    """

    table: pd.DataFrame
    optics: pd.DataFrame
    centers: np.ndarray
    tasks: tuple[MicrographTask, ...]
    transfer: CtfSource | None
    n_lost: int = 0


def make_plan(params: ExtractParams) -> Generator[Event, None, ExtractionPlan]:
    """Read all tables and headers, check them, and return what is to be done.

    Raises
    ------
    InputError
        Whatever is wrong with the input.
    """
    source = file_of_job(params.micrographs, MICROGRAPH_FILES)
    micrographs = read_micrographs(source, pixel_size_A=params.pixel_size_A)
    yield from rounded_sizes(params)
    refined: Refined | None = None
    if params.refined_particles is not None:
        refined = yield from read_refined_particles(params, micrographs)
        coordinates = refined.coordinates
    else:
        coordinates = yield from read_coordinates(params, micrographs)
    coordinates, refined = yield from enough_merit(coordinates, refined, params)
    coordinates = biased(coordinates, params)
    images, found = yield from open_images(coordinates, micrographs, params)
    usable = yield from inside(coordinates, found, images, micrographs, params)
    n_lost = int((~usable).sum())
    coordinates = coordinates.kept(usable)
    if not len(coordinates):
        raise InputError(f"No particle is left to extract from the micrographs of {params.micrographs}.")
    yield from remarks(coordinates, micrographs, images)
    if refined is None:
        table, optics = fresh_tables(coordinates, micrographs, params)
    else:
        table, optics = refined_tables(replace(refined.kept(usable), coordinates=coordinates), micrographs, params)
    if "rlnDefocusU" not in table:
        yield Message(text="The micrographs have no CTF, so the particles have none either.", level="warning")
    transfer = ctf_source(table, optics, micrographs, coordinates, params)
    centers = np.trunc(coordinates.xy()).astype(np.int64)
    tasks = _tasks(coordinates, micrographs, images, params, (centers, transfer))
    table["rlnImageName"] = _image_names(tasks)
    return ExtractionPlan(table=table, optics=optics, centers=centers, tasks=tasks, transfer=transfer, n_lost=n_lost)


def _tasks(
    coordinates: Coordinates,
    micrographs: MicrographTable,
    images: dict[int, MicrographImage],
    params: ExtractParams,
    content: tuple[np.ndarray, CtfSource | None],
) -> tuple[MicrographTask, ...]:
    """Return one task per micrograph; no two of them write the same file."""
    rows, firsts, counts = np.unique(coordinates.micrograph, return_index=True, return_counts=True)
    tasks: dict[str, MicrographTask] = {}
    for row, first, count in zip(rows.tolist(), firsts.tolist(), counts.tolist(), strict=True):
        name, pixel_A = str(micrographs.names[row]), float(micrographs.pixel_size_A[micrographs.optics_index[row]])
        root = check_inner(inner_path(os.path.splitext(without_job(name))[0]), f"{micrographs.file}: {name} as")
        stack = os.path.join(params.folder, f"{root}.mrcs")
        if stack in tasks:
            raise InputError(
                f"{micrographs.file}: {tasks[stack].name} and {name} would both be extracted to {stack}; extract them"
                " into two folders."
            )
        try:
            steps = pixel_steps(params, pixel_A)
        except ValueError as error:
            text = str(error)
            raise InputError(f"{text[0].upper()}{text[1:]}.") from error
        tasks[stack] = MicrographTask(
            name=name,
            image=images[row],
            first=first,
            count=count,
            steps=steps,
            pixel_size_A=pixel_A * steps.box_size / steps.scale_size,
            stack=Path(stack),
            star=Path(params.folder, f"{root}_extract.star"),
            digest=_digest(params, steps, slice(first, first + count), content),
        )
    return tuple(tasks.values())


def _digest(params: ExtractParams, steps: PixelSteps, rows: slice, content: tuple[np.ndarray, CtfSource | None]) -> str:
    """Return a number for everything that decides the pixels of one stack, besides its micrograph."""
    centers, transfer = content
    total = hashlib.sha256(repr((steps, params.float16, params.phase_flip, params.ctf_intact_first_peak)).encode())
    total.update(np.ascontiguousarray(centers[rows]).tobytes())
    if transfer is not None:
        total.update(np.ascontiguousarray(transfer.parameters[rows]).tobytes())
    return total.hexdigest()[:16]


def _image_names(tasks: tuple[MicrographTask, ...]) -> np.ndarray:
    names = [f"{number:06d}@{task.stack}" for task in tasks for number in range(1, task.count + 1)]
    texts = np.empty(len(names), object)
    texts[:] = names
    return texts
