"""Reading what particles are cut from and where: coordinates, refined particles, headers of micrographs."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message, Progress
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.micrograph_tables import (
    Coordinates,
    MicrographTable,
    by_micrograph,
    found_files,
    gather,
    read_coordinate_file,
    read_coordinate_list,
    read_refined,
)
from napari_autorefine.io.micrographs import MicrographImage, open_micrograph
from napari_autorefine.io.names import find_image_file, search_folders
from napari_autorefine.jobs.extract_params import ExtractParams, even
from napari_autorefine.jobs.extract_tables import Refined, recentered
from napari_autorefine.jobs.record import output_of

MICROGRAPH_FILES = ("micrographs_ctf.star", "micrographs.star", "corrected_micrographs.star")
_COORDINATE_FILES = ("autopick.star", "manualpick.star", "extractpick.star", "coordinates.star")
_FEW = 10
_NAMED = 3


def file_of_job(path: str, names: tuple[str, ...]) -> str:
    """Return the file with one of ``names``, the preferred first, when ``path`` is the folder of a job.

    Raises
    ------
    InputError
        A folder without any of them.
    """
    if not os.path.isdir(path):
        return path
    found = next((name for name in names if os.path.isfile(os.path.join(path, name))), None)
    if found is None:
        raise InputError(f"The folder {path} holds none of {', '.join(names)}; name the file itself.")
    return os.path.join(path, found)


def counted(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def rounded_sizes(params: ExtractParams) -> Iterable[Message]:
    """Say which sizes are made even."""
    for flag, size in (("scale", params.scale_size_px), ("window", params.window_px)):
        if size is not None and size % 2:
            yield Message(text=f"--{flag} {size} is odd; {even(size)} is used instead.", level="warning")


def read_coordinates(params: ExtractParams, micrographs: MicrographTable) -> Generator[Event, None, Coordinates]:
    """Read coordinates, from a list, from one file, or from files named after the micrographs."""
    if params.coord_list is not None:
        listed = read_coordinate_list(file_of_job(params.coord_list, _COORDINATE_FILES), micrographs)
        if isinstance(listed, tuple):
            coordinates, unknown = listed
            yield from _unknown_micrographs(unknown, micrographs)
            _check_origins(coordinates, params)
            return coordinates
        files = listed
    else:
        assert params.coord_suffix is not None
        files = found_files(micrographs, params.coord_dir, params.coord_suffix, micrographs.file)
    tables: dict[int, tuple[str, pd.DataFrame]] = {}
    absent, empty = [str(name) for row, name in enumerate(micrographs.names) if row not in files], []
    for done, (row, file) in enumerate(files.items()):
        yield Progress(stage="coordinates", done=done, total=len(files))
        if not os.path.isfile(file):
            absent.append(str(micrographs.names[row]))
            continue
        table = read_coordinate_file(file)
        if len(table):
            tables[row] = (file, table)
        else:
            empty.append(str(micrographs.names[row]))
    if not tables:
        raise InputError(_no_coordinates(params, files))
    yield from _left_out("no coordinate file", absent)
    yield from _left_out("no coordinates in their file", empty)
    return gather(tables)


def _no_coordinates(params: ExtractParams, files: dict[int, str]) -> str:
    """Return the sentence for coordinates that were found nowhere."""
    if not files:
        return f"{params.coord_list} lists none of the micrographs of {params.micrographs}."
    first = next(iter(files.values()))
    flags = "--coord_list" if params.coord_list is not None else "--coord_dir and --coord_suffix"
    return f"There are no coordinates: the first of {len(files)} files would be {first}; check {flags}."


def _check_origins(coordinates: Coordinates, params: ExtractParams) -> None:
    if "rlnOriginX" in coordinates.table:
        raise InputError(
            f"{params.coord_list} holds refined particles of RELION 3.0; give it with --reextract_data_star."
        )


def _left_out(why: str, names: list[str]) -> Iterable[Message]:
    if names:
        shown = ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
        subject = counted(len(names), "micrograph")
        verb = "is" if len(names) == 1 else "are"
        yield Message(text=f"{subject} {verb} left out, with {why}: {shown}.", level="warning")


def _unknown_micrographs(names: list[str], micrographs: MicrographTable) -> Iterable[Message]:
    if names:
        verb = "is" if len(names) == 1 else "are"
        text = f"{counted(len(names), 'particle')} {verb} left out, as {micrographs.file} lists no such micrographs"
        yield Message(text=f"{text} (the first is {names[0]}).", level="warning")


def read_refined_particles(params: ExtractParams, micrographs: MicrographTable) -> Generator[Event, None, Refined]:
    """Read refined particles, with coordinates and origins as asked for."""
    assert params.refined_particles is not None
    path = output_of(params.refined_particles, "particles")
    columns, optics_index, optics = read_refined(path)
    coordinates, unknown = by_micrograph(columns.table, columns.texts("rlnMicrographName"), micrographs, path)
    if not len(coordinates):
        raise InputError(
            f"None of the micrographs of {path} (the first is {unknown[0]}) is listed in {micrographs.file}."
        )
    yield from _unknown_micrographs(unknown, micrographs)
    refined = Refined(coordinates=coordinates, optics_index=optics_index[coordinates.row - 1], optics=optics, file=path)
    return recentered(refined, micrographs, params)


def enough_merit(
    coordinates: Coordinates, refined: Refined | None, params: ExtractParams
) -> Generator[Event, None, tuple[Coordinates, Refined | None]]:
    """Return the picks with a figure of merit above the smallest one."""
    least = params.minimum_pick_fom
    if least is None:
        return coordinates, refined
    name = "" if refined is None else "particles"
    merit = Columns(table=coordinates.table, file=coordinates.file[0], name=name).numbers("rlnAutopickFigureOfMerit")
    keep = merit > least
    yield Message(text=f"{int(keep.sum())} of {len(keep)} picks have a figure of merit above {least:g}.")
    return coordinates.kept(keep), None if refined is None else refined.kept(keep)


def biased(coordinates: Coordinates, params: ExtractParams) -> Coordinates:
    """Return the coordinates moved by a constant."""
    table = coordinates.table
    if len(table) and (params.extract_bias_x or params.extract_bias_y):
        table = table.assign(
            rlnCoordinateX=table["rlnCoordinateX"] + params.extract_bias_x,
            rlnCoordinateY=table["rlnCoordinateY"] + params.extract_bias_y,
        )
    return replace(coordinates, table=table)


def open_images(
    coordinates: Coordinates, micrographs: MicrographTable, params: ExtractParams
) -> Generator[Event, None, tuple[dict[int, MicrographImage], np.ndarray]]:
    """Read the headers of all micrographs with particles; also tell which particles have a micrograph."""
    wanted = np.unique(coordinates.micrograph)
    folders = search_folders(micrographs.file)
    images: dict[int, MicrographImage] = {}
    lost = []
    with ThreadPoolExecutor(16) as pool:
        results = pool.map(lambda row: _open(str(micrographs.names[row]), folders), wanted.tolist())
        for done, (row, result) in enumerate(zip(wanted.tolist(), results, strict=True)):
            yield Progress(stage="micrographs", done=done, total=len(wanted))
            if isinstance(result, MicrographImage):
                images[row] = result
            elif not params.skip_missing:
                raise InputError(f"{result.removesuffix('.')}; or go on without it with --skip-missing.")
            else:
                yield Message(text=f"Left out: {result}", level="warning")
                lost.append(row)
    found = ~np.isin(coordinates.micrograph, lost)
    if lost:
        n_lost = int((~found).sum())
        text = f"Missing micrographs: {len(lost)}, with {counted(n_lost, 'particle')}."
        yield Message(text=text, level="warning")
    return images, found


def _open(name: str, folders: tuple[Path, ...]) -> MicrographImage | str:
    """Return the micrograph, or what is wrong with it."""
    path = find_image_file(name, folders)
    if path is None:
        tried = " and ".join(dict.fromkeys(str(folder.resolve()) for folder in folders))
        return f"The micrograph {name} does not exist (looked in {tried})."
    try:
        return open_micrograph(path)
    except InputError as error:
        return str(error)


def inside(
    coordinates: Coordinates,
    found: np.ndarray,
    images: dict[int, MicrographImage],
    micrographs: MicrographTable,
    params: ExtractParams,
) -> Generator[Event, None, np.ndarray]:
    """Tell which particles can be cut: their micrograph is there and their box overlaps it.

    Raises
    ------
    InputError
        A box that lies wholly outside, unless what is missing is skipped.
    """
    assert params.box_size_px is not None
    half = params.box_size_px // 2
    sizes = np.ones((len(micrographs), 2))
    for row, image in images.items():
        sizes[row] = image.shape[::-1]
    xy = coordinates.xy()
    first = np.trunc(xy) - half
    outside = ((first + 2 * half - 1 < 0) | (first >= sizes[coordinates.micrograph])).any(axis=1) & found
    if outside.any() and not params.skip_missing:
        index = int(np.flatnonzero(outside)[0])
        row = int(coordinates.micrograph[index])
        n_x, n_y = sizes[row].astype(int)
        raise InputError(
            f"{coordinates.place(index)}: the particle at x = {xy[index, 0]:g}, y = {xy[index, 1]:g} lies wholly"
            f" outside the micrograph {micrographs.names[row]} of {n_x} x {n_y} px ({int(outside.sum())} such in all);"
            " correct the coordinates, or leave such particles out with --skip-missing."
        )
    if outside.any():
        n_outside = int(outside.sum())
        where = "outside its micrograph is" if n_outside == 1 else "outside their micrographs are"
        yield Message(text=f"{counted(n_outside, 'particle')} {where} left out.", level="warning")
    return found & ~outside


def remarks(
    coordinates: Coordinates, micrographs: MicrographTable, images: dict[int, MicrographImage]
) -> Iterable[Message]:
    """Say what a user may not expect of the input."""
    rows, counts = np.unique(coordinates.micrograph, return_counts=True)
    few = [str(micrographs.names[row]) for row, count in zip(rows, counts, strict=True) if count < _FEW]
    if few:
        shown = ", ".join(few[:_NAMED]) + (", …" if len(few) > _NAMED else "")
        yield Message(text=f"Micrographs with fewer than {_FEW} particles, whose scale is hard to tell: {shown}.")
    for row in rows.tolist():
        said, wanted = images[row].pixel_size_A, float(micrographs.pixel_size_A[micrographs.optics_index[row]])
        if said is not None and abs(said / wanted - 1.0) > 0.01:
            yield Message(
                text=f"The header of {micrographs.names[row]} says {said:g} Å per pixel, the STAR file {wanted:g} Å,"
                " which is used.",
                level="warning",
            )
            break
