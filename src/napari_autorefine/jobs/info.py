"""Describe MRC and STAR files, or say in one sentence why they cannot be read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.files import first_bytes
from napari_autorefine.io.mrc import MrcHeader, is_stack_name, map_sections, read_data, read_header
from napari_autorefine.io.optimisation_set import optimisation_set_pairs
from napari_autorefine.io.star import StarFile, read_particles, read_star
from napari_autorefine.jobs.info_tomo import particle_lines, set_lines, tomogram_lines
from napari_autorefine.model.particles import Particles
from napari_autorefine.params import JobParams, Param

_MODES = {0: "int8", 1: "int16", 2: "float32", 4: "complex64", 6: "uint16", 12: "float16", 101: "4 bit"}
_MRC_ENDINGS = (".mrc", ".mrcs", ".map", ".ccp4", ".st", ".rec")
_MOST_VOXELS = 512**3
_SAMPLED_SECTIONS = 64
_COLUMNS_SHOWN = 60


class InfoParams(JobParams):
    """Files to describe."""

    files: Annotated[tuple[str, ...], Param("Files", "MRC, MRCS, MAP, CCP4 or STAR files.", file_kind="read")]


def info(params: InfoParams) -> Iterator[Event]:
    """Describe every file; those that cannot be read are named at the end."""
    refused = []
    for done, path in enumerate(params.files):
        yield Progress(stage="reading", done=done, total=len(params.files))
        try:
            yield Message(text=describe_file(path))
        except InputError as error:
            refused.append(str(error))
            if len(params.files) > 1:
                yield Message(text=str(error), level="error")
    if len(params.files) == 1 and refused:
        raise InputError(refused[0])
    if refused:
        raise InputError(f"{len(refused)} of {len(params.files)} files cannot be read.")
    yield Finished(text="")


def describe_file(path: str) -> str:
    """Return a few lines on an MRC or STAR file.

    Raises
    ------
    InputError
        The file is neither, or is damaged.
    """
    head = first_bytes(path)
    if path.endswith(".star") or (_is_text(head) and not path.endswith(_MRC_ENDINGS)):
        return _describe_star(path)
    return _describe_mrc(path)


def _is_text(head: bytes) -> bool:
    """Tell a STAR file from an MRC file where the name does not: text has no zero bytes."""
    return b"\0" not in head and not head.startswith((b"\x1f\x8b", b"BZh"))


def _describe_mrc(path: str) -> str:
    header = read_header(path)
    n_z, n_y, n_x = header.shape
    is_stack = is_stack_name(path) or (n_z != n_y and n_y == n_x and header.axes == (1, 2, 3))
    kind = (
        f"{n_z} image{'s' if n_z > 1 else ''} of {n_x} x {n_y} px" if is_stack else f"map of {n_x} x {n_y} x {n_z} px"
    )
    lines = [
        f"{path}: MRC, {kind}, mode {header.mode} ({_MODES.get(header.mode, '?')}"
        f"{', big endian' if header.dtype.byteorder == '>' else ''})",
        f"  pixel size   {_pixel_size(header, is_stack=is_stack)}",
        *_statistics(path, header),
    ]
    if header.axes != (1, 2, 3):
        lines.append(
            f"  axes         {'xyz'[header.axes[0] - 1]}, {'xyz'[header.axes[1] - 1]}, {'xyz'[header.axes[2] - 1]}"
            " along columns, rows, sections"
        )
    if any(header.start):
        lines.append(f"  start        {', '.join(str(n) for n in header.start)}")
    if any(header.origin_A):
        lines.append(f"  origin       {', '.join(f'{x:.6g}' for x in header.origin_A)} A")
    lines += [f"  label        {label}" for label in header.labels]
    return "\n".join(lines)


def _pixel_size(header: MrcHeader, *, is_stack: bool) -> str:
    x, y, z = header.voxel_size_A
    sizes = (x, y) if is_stack else (x, y, z)
    if max(sizes) <= 0:
        return "none in the header"
    if max(sizes) - min(sizes) < 1e-3 * max(sizes):
        return f"{x:.6g} A"
    return " x ".join(f"{size:.6g}" for size in sizes) + " A"


def _statistics(path: str, header: MrcHeader) -> list[str]:
    """Return the range of the values; of large stacks only some sections are read."""
    n_z, n_y, n_x = header.shape
    note = ""
    if header.mode == 4:
        read_data(path)
        return ["  values       complex, a Fourier transform"]
    if n_z * n_y * n_x > _MOST_VOXELS and header.path.suffix not in {".gz", ".bz2"} and header.mode != 101:
        chosen = np.unique(np.linspace(0, n_z - 1, _SAMPLED_SECTIONS).astype(int))
        data = np.asarray(map_sections(header)[chosen], np.float32)
        note = f" (from {len(chosen)} of {n_z} sections)"
    else:
        data, _ = read_data(path)
    finite = np.isfinite(data)
    n_bad = data.size - int(np.count_nonzero(finite))
    values = data[finite]
    lines = [f"  values       none is a finite number{note}"]
    if values.size:
        lines = [
            f"  values       {values.min():.6g} to {values.max():.6g}, mean {values.mean(dtype=np.float64):.6g},"
            f" deviation {values.std(dtype=np.float64):.6g}{note}"
        ]
    return lines + ([f"  bad values   {n_bad} are NaN or Inf"] if n_bad else [])


def _describe_star(path: str) -> str:
    star = read_star(path)
    lines = [f"{path}: STAR, {len(star.tables)} table{'' if len(star.tables) == 1 else 's'}"]
    for name, table in star.tables.items():
        title = f"data_{name}"
        if isinstance(table, pd.DataFrame):
            labels = [str(label) for label in table.columns]
            lines.append(f"  {title:<12} {len(table)} row{'' if len(table) == 1 else 's'}: {_shortened(labels)}")
        else:
            lines.append(f"  {title:<12} {len(table)} pairs: {_shortened(list(table))}")
    return "\n".join(lines + _particle_lines(path, star.tables) + _project_lines(path, star))


def _shortened(labels: list[str]) -> str:
    shown = ", ".join(label.removeprefix("rln") for label in labels[:_COLUMNS_SHOWN])
    return shown + (f", and {len(labels) - _COLUMNS_SHOWN} more" if len(labels) > _COLUMNS_SHOWN else "")


def _project_lines(path: str, star: StarFile) -> list[str]:
    """Return what the files of a subtomogram project mean; nothing for other STAR files."""
    if optimisation_set_pairs(star) is not None:
        return set_lines(path)
    table = star.loop("global")
    return tomogram_lines(path) if table is not None and "rlnTomoName" in table else []


def _particle_lines(path: str, tables: object) -> list[str]:
    """Return what a particle file means, or why it is no complete one; nothing for other STAR files."""
    assert isinstance(tables, dict)
    if not any(isinstance(table, pd.DataFrame) and "rlnImageName" in table for table in tables.values()):
        return []
    try:
        particles = read_particles(path, project_dir=os.path.dirname(path) or None)
    except InputError as error:
        return [f"  not refinable as it is: {error}"]
    return _describe_particles(particles)


def _describe_particles(particles: Particles) -> list[str]:
    kind = {"image": "particles", "volume": "subtomograms", "tilt_stack": "tilt-stack particles"}[particles.form]
    micrographs = f", {len(set(particles.micrograph_name))} micrographs" if particles.form == "image" else ""
    lines = [f"  {len(particles)} {kind}, RELION {particles.version}{micrographs}", *particle_lines(particles)]
    for index, group in enumerate(particles.optics):
        n = int((particles.optics_index == index).sum())
        lines.append(
            f"  optics {group.number} ({group.name}): {n} particles, box {group.box_size} px at"
            f" {group.pixel_size_A:.6g} A, {group.voltage_kV:g} kV, Cs {group.cs_mm:g} mm,"
            f" amplitude contrast {group.amplitude_contrast:g}"
            f"{', CTF-premultiplied' if group.is_premultiplied else ''}"
        )
    defocus = particles.defocus_A[np.isfinite(particles.defocus_A)]
    if defocus.size or particles.form == "image":
        lines.append(f"  defocus {defocus.min():.0f} to {defocus.max():.0f} A" if defocus.size else "  no defocus")
    halves = Counter(particles.half.tolist())
    lines.append(f"  half-sets {halves[1]} and {halves[2]}" if halves[1] + halves[2] else "  half-sets not assigned")
    lines.append("  with orientations" if np.any(particles.euler_deg) else "  without orientations")
    return lines
