"""What a chosen file is, in one short line: read from headers and tables, without Qt, fit for a worker thread."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import first_bytes
from napari_autorefine.io.mrc import is_stack_name, read_header
from napari_autorefine.io.tables import StarFile, read_star
from napari_autorefine.jobs.record import Kind, output_of

_LARGE = 20_000_000
_HEAD = 65_536
_PIXEL = ("rlnImagePixelSize", "rlnMicrographPixelSize", "rlnTomoTiltSeriesPixelSize")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One line on a file; box and pixel size where it has them, to compare files with each other."""

    text: str
    is_problem: bool = False
    box_px: int | None = None
    pixel_A: float | None = None


def file_facts(path: Path, kind: Kind | None = None) -> Facts:
    """Return what a file is, or why it cannot be used; of a job's folder its file of this kind."""
    try:
        if path.is_dir():
            if kind is None:
                return Facts(text="A folder.")
            found = Path(output_of(path, kind))
            facts = file_facts(found)
            return Facts(
                text=f"{found.name}: {facts.text}",
                is_problem=facts.is_problem,
                box_px=facts.box_px,
                pixel_A=facts.pixel_A,
            )
        if path.suffix.lower() == ".star":
            return _star_facts(path)
        return _map_facts(path)
    except InputError as error:
        return Facts(text=shortened_to_path(str(error), path), is_problem=True)


def needed_facts(path: Path, kind: Kind | None) -> Facts:
    """Return ``file_facts``; a map where a table of particles is needed, or the other way round, is a problem."""
    facts = file_facts(path, kind)
    if facts.is_problem or path.is_dir() or kind is None:
        return facts
    is_table = path.suffix.lower() == ".star"
    if is_table is (kind == "particles"):
        return facts
    needed, found = ("A STAR file", "a map") if kind == "particles" else ("A map", "a STAR file")
    return Facts(text=f"{needed} is needed here; this is {found}.", is_problem=True)


def place_facts(path: Path, *, is_folder: bool, tell_space: bool = False) -> Facts:
    """Return what speaks against writing to a path: its folder, or the one that it will be made in, must allow it.

    Parameters
    ----------
    path : of the output
    is_folder : the path itself is a folder to write into
    tell_space : say how much space is free
    """
    place = path if is_folder else path.parent
    try:
        while not place.exists():
            if place.is_symlink() or place == place.parent:
                return Facts(text=f"{place} leads nowhere.", is_problem=True)
            place = place.parent
        if not place.is_dir():
            return Facts(text=f"{place.name} is a file, not a folder.", is_problem=True)
        if not os.access(place, os.W_OK | os.X_OK):
            return Facts(text=f"No permission to write in {place}.", is_problem=True)
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Facts(text=f"{place}: {error.strerror}.", is_problem=True)
    return Facts(text=f"{free / 1e9:.0f} GB free" if tell_space else "")


def shortened_to_path(text: str, path: Path) -> str:
    """Return a sentence without the path, which stands in the field already."""
    text = text.replace(str(path), "This").split("; check the name and the folder")[0]
    text = text.replace("This, line ", "Line ").replace("Folder This ", "This folder ")
    return text if text.endswith(".") else f"{text}."


def _map_facts(path: Path) -> Facts:
    header = read_header(path)
    n_z, n_y, n_x = header.shape
    pixel = float(header.voxel_size_A[0])
    size = f", {pixel:.4g} Å/px" if pixel > 0 else ", no pixel size"
    if is_stack_name(path):
        return Facts(text=f"{counted(n_z, 'image')} of {n_x} × {n_y} px{size}", box_px=n_x, pixel_A=pixel or None)
    shape = f"{n_x} px" if n_x == n_y == n_z else f"{n_x} × {n_y} × {n_z} px"
    return Facts(text=f"Map, {shape}{size}", box_px=n_x, pixel_A=pixel or None)


def _star_facts(path: Path) -> Facts:
    first_bytes(path)
    if path.stat().st_size > _LARGE:
        with open(path, "rb") as file:
            n_line = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 22), b""))
        optics = _optics_in_head(path)
        pixel, box = first_number(_PIXEL, optics), first_number(("rlnImageSize",), optics)
        size = (f", {box:.0f} px" if box else "") + (f", {pixel:.4g} Å/px" if pixel else "")
        text = f"Large STAR file, about {n_line:,} rows".replace(",", " ") + size
        return Facts(text=text, box_px=None if box is None else round(box), pixel_A=pixel)
    star = read_star(path)
    optics = star.loop("optics")
    for name in star.tables:
        table = star.loop(name)
        if table is None or name == "optics":
            continue
        if "rlnImageName" in table or "rlnTomoParticleName" in table:
            return _particle_facts(table, optics)
        if "rlnMicrographName" in table:
            return _micrograph_facts(table, optics)
    return _other_facts(star)


def _optics_in_head(path: Path) -> pd.DataFrame | None:
    """Return the first row of the optics table from the beginning of a file that is too large to read for this."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read(_HEAD).splitlines()
    labels: list[str] = []
    is_optics = False
    for line in lines:
        words = line.split()
        if line.startswith("data_"):
            is_optics = line.strip() == "data_optics"
        elif is_optics and line.startswith("_rln"):
            labels.append(words[0][1:])
        elif is_optics and labels and len(words) == len(labels):
            return pd.DataFrame([words], columns=labels)
    return None


def _particle_facts(table: pd.DataFrame, optics: pd.DataFrame | None) -> Facts:
    pixel, box = first_number(_PIXEL, optics, table), first_number(("rlnImageSize",), optics, table)
    parts = [counted(len(table), "particle")]
    for label, what in (("rlnMicrographName", "micrograph"), ("rlnTomoName", "tomogram")):
        if label in table:
            parts.append(counted(table[label].nunique(), what))
    if box:
        parts.append(f"{box:.0f} px")
    if pixel:
        parts.append(f"{pixel:.4g} Å/px")
    return Facts(text=", ".join(parts), box_px=None if box is None else round(box), pixel_A=pixel)


def _micrograph_facts(table: pd.DataFrame, optics: pd.DataFrame | None) -> Facts:
    pixel, voltage = first_number(_PIXEL[::-1], optics, table), first_number(("rlnVoltage",), optics, table)
    parts = [counted(table["rlnMicrographName"].nunique(), "micrograph")]
    if pixel:
        parts.append(f"{pixel:.4g} Å/px")
    if voltage:
        parts.append(f"{voltage:g} kV")
    return Facts(text=", ".join(parts), pixel_A=pixel)


def _other_facts(star: StarFile) -> Facts:
    general = star.pairs("optimiser_general")
    if general is not None:
        number = general.get("rlnCurrentIteration")
        return Facts(text="Refinement" if number is None else f"Refinement after iteration {number}")
    if any("rlnTomoParticlesFile" in (star.pairs(name) or {}) for name in star.tables):
        return Facts(text="Optimisation set")
    names = ", ".join(name or "unnamed" for name in star.tables)
    return Facts(text=f"STAR file with {names}")


def first_number(labels: tuple[str, ...], *tables: pd.DataFrame | None) -> float | None:
    """Return the first positive number under one of these labels in the first row of a table, or None."""
    for label in labels:
        for table in tables:
            if table is not None and label in table and len(table):
                value = pd.to_numeric(table[label], errors="coerce").iloc[0]
                if value > 0:
                    return float(value)
    return None


def counted(number: int, what: str) -> str:
    """Return a number and what is counted."""
    return f"{number:,} {what}{'' if number == 1 else 's'}".replace(",", " ")
