"""Read and check everything that a reconstruction starts from, before any work is done."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from napari_autorefine.engine.direct_reconstruction import (
    InsertionOptions,
    PosedImages,
    resolution_index,
    with_box_sizes,
    working_box,
)
from napari_autorefine.engine.mtf import Mtf
from napari_autorefine.engine.tomo_reconstruction import PosedTiltStacks, PosedVolumes
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.mtf import read_mtf
from napari_autorefine.io.names import find_image_file, search_folders
from napari_autorefine.io.optimisation_set import OptimisationSet
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.io.star import missing_ctf_columns, read_particles, read_star
from napari_autorefine.jobs.free_space import free_memory
from napari_autorefine.jobs.reconstruct_params import ReconstructParams
from napari_autorefine.jobs.reconstruct_tomo_inputs import read_subtomograms, with_particles
from napari_autorefine.jobs.record import output_of
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.symmetry import point_group

_POSE = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")
_FSC_LABELS = (
    "rlnGoldStandardFsc",
    "rlnFourierShellCorrelationCorrected",
    "rlnFourierShellCorrelation",
    "rlnFourierShellCorrelationUnmaskedMaps",
)
_BYTES_PER_VOXEL, _GRIDDING_BYTES_PER_VOXEL, _AVERAGING_BYTES_PER_VOXEL, _VOLUME_BYTES_PER_VOXEL = 12, 20, 20, 28
_NARROWER = 0.97


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructInputs:
    """Checked inputs.

    Attributes
    ----------
    params : with the files that folders and sets stand for
    images : of single particles or of particles of tomograms
    rows : (n,) particles that take part, in the order of the file
    halves : (n,) their half-sets, 0 where there are none
    options : grid in which maps are made, which may be wider than that of the result
    box_size, image_box : of the result; of the images of the first optics group
    fsc : correlation on the shells of ``options``, or None
    files : set of a subtomogram project; None for single particles
    """

    params: ReconstructParams
    images: PosedImages | PosedVolumes | PosedTiltStacks
    rows: np.ndarray
    halves: np.ndarray
    options: InsertionOptions
    box_size: int
    image_box: int
    fsc: np.ndarray | None
    files: OptimisationSet | None
    notes: tuple[Message, ...]


def load_inputs(params: ReconstructParams) -> ReconstructInputs:
    """Read the particle file and the headers of its stacks, and check that they suffice.

    Raises
    ------
    InputError
        Whatever is missing or does not fit.
    """
    point_group(params.symmetry)
    if params.particles:
        params = params.model_copy(update={"particles": output_of(params.particles, "particles")})
    params, files = with_particles(params)
    particles = read_particles(params.particles)
    notes: list[Message] = []
    images: PosedImages | PosedVolumes | PosedTiltStacks
    if particles.subtomograms is not None or params.optimisation_set or params.tomograms:
        found = read_subtomograms(params, files)
        images, what = found.images, f"{particles.form.replace('_', ' ')}s"
        notes += found.notes
    else:
        images, n_file = _single_particles(particles, params, notes)
        what = f"particles in {n_file} stack{'s' if n_file > 1 else ''}"
    particles = images.particles
    _require_poses(particles, params)
    rows = _chosen(particles, params)
    options, box_size = _grid(particles, rows, params, notes)
    _check_memory(options, params, images)
    first = Message(
        text=f"{len(rows)} {what}, {point_group(params.symmetry).name}; map of {box_size} px at"
        f" {options.voxel_size_A:.6g} A."
    )
    return ReconstructInputs(
        params=params,
        images=replace(images, weights=_weights(particles, params)),
        rows=rows,
        halves=particles.half[rows],
        options=options,
        box_size=box_size,
        image_box=particles.optics[int(particles.optics_index[rows].min())].box_size,
        fsc=None if params.fsc is None else _fsc(params.fsc, options, box_size),
        files=None if isinstance(images, PosedImages) else files,
        notes=(first, *notes),
    )


def _single_particles(particles: Particles, params: ReconstructParams, notes: list[Message]) -> tuple[PosedImages, int]:
    """Return images of single particles, checked, and the number of their files."""
    if params.ctf:
        missing = missing_ctf_columns(particles)
        if missing:
            word = "column" if len(missing) == 1 else "columns"
            raise InputError(
                f"{params.particles} lacks the {word} {', '.join(missing)} that CTF correction needs; add them, or"
                " switch CTF correction off with --no_ctf."
            )
    stack = ParticleStack(particles, star_path=params.particles)
    images = PosedImages(
        particles=with_box_sizes(particles, stack.box_sizes),
        read_images=stack.read,
        mtf=_mtf_tables(particles, params, notes) if params.ctf else None,
    )
    return images, len(stack.files)


def _require_poses(particles: Particles, params: ReconstructParams) -> None:
    labels = _POSE if particles.form == "image" else (*_POSE, "rlnOriginZAngst")
    Columns(table=particles.table, file=params.particles, name="particles").require(*labels)


def _chosen(particles: Particles, params: ReconstructParams) -> np.ndarray:
    """Return the rows of the wanted half-set and class."""
    keep = np.ones(len(particles), dtype=bool)
    columns = Columns(table=particles.table, file=params.particles, name="particles")
    if params.class_number is not None:
        columns.require("rlnClassNumber")
        keep &= columns.integers("rlnClassNumber") == params.class_number
        if not keep.any():
            raise InputError(f"{params.particles} has no particle in class {params.class_number}; correct --class.")
    for half in (1, 2) if params.halves else (params.subset,) if params.subset is not None else ():
        columns.require("rlnRandomSubset")
        if not np.any(keep & (particles.half == half)):
            inside = "" if params.class_number is None else f" of class {params.class_number}"
            raise InputError(f"{params.particles}: rlnRandomSubset leaves half-set {half}{inside} without particles.")
    if params.subset is not None:
        keep &= particles.half == params.subset
    return np.flatnonzero(keep)


def _grid(
    particles: Particles, rows: np.ndarray, params: ReconstructParams, notes: list[Message]
) -> tuple[InsertionOptions, int]:
    """Return the grid in which maps are made, and the box of the result: without options those of the first group."""
    group = particles.optics[int(particles.optics_index[rows].min())]
    voxel_size_A = params.voxel_size_A or group.pixel_size_A
    box_size, extent_A = params.box_size_px or group.box_size, group.box_size * group.pixel_size_A
    if box_size * voxel_size_A < _NARROWER * extent_A:
        notes.append(
            Message(
                text=f"The map is {box_size * voxel_size_A:.4g} A wide, the images {extent_A:.4g} A: edges are cut."
            )
        )
    work = working_box(box_size, voxel_size_A, extent_A, params.pad)
    if params.maxres_A is not None and params.maxres_A < 2 * voxel_size_A:
        notes.append(
            Message(text=f"--maxres {params.maxres_A:g} is beyond the pixel size, so all frequencies are used.")
        )
    if not params.ctf and group.is_premultiplied:
        notes.append(
            Message(
                text="The images were multiplied by their CTF, which is not corrected with --no_ctf.", level="warning"
            )
        )
    return (
        InsertionOptions(
            box_size=work,
            voxel_size_A=voxel_size_A,
            pad=params.pad,
            r_max=resolution_index(work, voxel_size_A, params.maxres_A),
            ctf=params.ctf,
            ctf_intact_first_peak=params.ctf_intact_first_peak,
            ctf_phase_flipped=params.ctf_phase_flipped,
            only_flip_phases=params.only_flip_phases,
            threads=params.threads or _cores(),
        ),
        box_size,
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _check_memory(
    options: InsertionOptions, params: ReconstructParams, images: PosedImages | PosedVolumes | PosedTiltStacks
) -> None:
    """Check that the Fourier volumes fit: sums, a copy for symmetry, the other half's; and volumes in the works."""
    radius = ceil(options.pad * options.r_max) + 1
    n_voxel = (2 * radius + 1) ** 2 * (radius + 2)
    needed = (3 if params.halves else 2) * _BYTES_PER_VOXEL * n_voxel
    if isinstance(images, PosedTiltStacks) and options.pad > 1:
        needed += _AVERAGING_BYTES_PER_VOXEL * n_voxel
    if isinstance(images, PosedVolumes):
        largest = max(group.box_size for group in images.particles.optics)
        needed += (options.threads + 4) * _VOLUME_BYTES_PER_VOXEL * largest**3
    if not params.skip_gridding:
        needed += _GRIDDING_BYTES_PER_VOXEL * (options.pad * options.box_size) ** 3
    free = free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"The reconstruction needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; give --pad 1,"
            " a resolution limit with --maxres, or a larger pixel size with --angpix."
        )


def _weights(particles: Particles, params: ReconstructParams) -> np.ndarray | None:
    if not params.fom_weighting:
        return None
    label = "rlnParticleFigureOfMerit"
    columns = Columns(table=particles.table, file=params.particles, name="particles")
    columns.require(label)
    weights = columns.numbers(label)
    if (weights < 0).any() or not weights.any():
        raise columns.error(f"{label} must be 0 or more, and above 0 in some row, for --fom_weighting")
    return weights


def _mtf_tables(particles: Particles, params: ReconstructParams, notes: list[Message]) -> tuple[Mtf | None, ...] | None:
    """Return the detector transfer per group; None when all groups share one, so that nothing is to be corrected."""
    if len({group.mtf_path for group in particles.optics}) < 2:
        return None
    tables: list[Mtf | None] = []
    for group in particles.optics:
        if group.mtf_path is None or group.original_pixel_size_A is None:
            label = "rlnMtfFileName" if group.mtf_path is None else "rlnMicrographOriginalPixelSize"
            text = f"Detectors are not corrected for: optics group '{group.name}' has no {label}."
            notes.append(Message(text=text, level="warning"))
            return None
        found = find_image_file(group.mtf_path, search_folders(params.particles))
        if found is None:
            raise InputError(
                f"{params.particles}: the MTF file {group.mtf_path} of optics group '{group.name}' does not exist;"
                " correct rlnMtfFileName or remove the column."
            )
        tables.append(read_mtf(found))
    return tuple(tables)


def _fsc(path: str, options: InsertionOptions, box_size: int) -> np.ndarray:
    """Return the first FSC of a STAR file on the shells of the working grid, 0 beyond its end."""
    for table in read_star(path).tables.values():
        label = None if isinstance(table, dict) else next((one for one in _FSC_LABELS if one in table), None)
        if label is None or isinstance(table, dict):
            continue
        columns = Columns(table=table, file=path, name="fsc")
        values = columns.numbers(label)
        shells = np.arange(len(values)) / (box_size * options.voxel_size_A)
        if len(values) != box_size // 2 + 1:
            columns.require("rlnResolution")
            shells = columns.numbers("rlnResolution")
        wanted = np.arange(options.box_size // 2 + 1) / (options.box_size * options.voxel_size_A)
        return np.interp(wanted, shells, values, left=1.0, right=0.0)
    raise InputError(f"{path} holds no FSC: no table has the column {' or '.join(_FSC_LABELS[:3])}.")
