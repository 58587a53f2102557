"""Read and check everything a refinement starts from; whatever is wrong is one InputError before any work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from napari_autorefine.engine.mtf import Mtf
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.mtf import read_mtf
from napari_autorefine.io.names import find_image_file, search_folders
from napari_autorefine.io.particle_images import SubtomogramImages
from napari_autorefine.io.runs import RunFolder, SavedRun
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.io.star import missing_ctf_columns, read_particles
from napari_autorefine.io.tomo_inputs import TomoInputs
from napari_autorefine.jobs.map_inputs import rebox_line
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.refine_tomo_inputs import read_tomo, tomo_notes
from napari_autorefine.jobs.run_files import files_of_run
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.resize import even_size, fourier_resize, window
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.model.volume import Volume

_SAME_PIXEL_A = 1e-3
_MASK_ROUNDING = 1e-5
_CTF_NEEDS = "add them, or switch CTF correction off with --no-ctf"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineInputs:
    """Checked inputs of a refinement, all on the grid of the first optics group.

    Attributes
    ----------
    references : one (N, N, N) map for both halves, or one per half
    mask : (N, N, N) within [0, 1], or None
    is_mask_resampled : the mask differs from that of its file
    mtf : one table (frequency in 1/px, value) or None per optics group; None when there is nothing to correct
    tomo : files of particles of tomograms; None for single particles
    """

    particles: Particles
    stack: ParticleStack | SubtomogramImages
    references: tuple[np.ndarray, ...]
    voxel_size_A: float
    mask: np.ndarray | None
    is_mask_resampled: bool
    mtf: tuple[Mtf | None, ...] | None
    particle_diameter_A: float
    notes: tuple[Message, ...]
    tomo: TomoInputs | None = None


def load_inputs(params: RefineParams, saved: SavedRun | None = None) -> RefineInputs:
    """Read particles, map and mask, and check that they fit each other and the options.

    Particles and maps of a run that is continued come from its files.
    """
    point_group(params.symmetry)
    particles = read_particles(params.particles) if saved is None else saved.particles
    tomo = read_tomo(params, particles)
    _check_particles(particles, params)
    stack = _images(params, particles, tomo)
    first = int(particles.optics_index.min())  # a group may have lost all its particles
    group = particles.optics[first]
    group = replace(group, box_size=int(stack.box_sizes[np.flatnonzero(particles.optics_index == first)[0]]))
    diameter = _diameter(params, particles, stack.box_sizes)
    notes: list[Message] = [] if tomo is None else tomo_notes(tomo, params)
    if saved is None:
        references = tuple(_reference(path, group, params, notes) for path in _reference_paths(params.reference))
    else:
        references = tuple(half["map"] for half in saved.halves)
    mask, is_mask_resampled = (None, False) if params.mask is None else _mask(params, group, notes)
    if mask is not None and not params.flatten_solvent:
        use = "only for the FSC" if params.solvent_correct_fsc else "not at all"
        notes.append(Message(text=f"Without --flatten_solvent the mask is used {use}.", level="warning"))
    if params.solvent_correct_fsc and mask is None:
        raise InputError("--solvent_correct_fsc needs a mask; give one with --solvent_mask.")
    return RefineInputs(
        particles=particles,
        stack=stack,
        references=references,
        voxel_size_A=group.pixel_size_A if saved is None else saved.voxel_size_A,
        mask=mask,
        is_mask_resampled=is_mask_resampled,
        mtf=_mtf_tables(particles, params.particles, notes),
        particle_diameter_A=diameter,
        notes=tuple(notes),
        tomo=tomo,
    )


def _images(params: RefineParams, particles: Particles, tomo: TomoInputs | None) -> ParticleStack | SubtomogramImages:
    if tomo is None:
        return ParticleStack(particles, star_path=params.particles)
    return SubtomogramImages(source=tomo.images)


def check_output(params: RefineParams) -> None:
    """Check that the output is a name for files, and that no earlier run has it."""
    prefix = Path(params.output)
    if params.output.endswith("/") or prefix.is_dir():
        raise InputError(f"--o {params.output} is a folder; give the first part of file names too, as {prefix}/run.")
    if params.continue_from:
        return
    if not params.overwrite:
        RunFolder(prefix).check_free()
    own = {path.resolve() for path in files_of_run(prefix)}
    for path in (params.particles, *_reference_paths(params.reference), params.mask):
        if path is not None and Path(path).resolve() in own:
            raise InputError(f"{path} has the name of a file that the run itself writes; choose another --o.")


def _check_particles(particles: Particles, params: RefineParams) -> None:
    name = params.particles
    if params.ctf and particles.form == "image":
        missing = missing_ctf_columns(particles)
        if missing:
            word = "column" if len(missing) == 1 else "columns"
            raise InputError(f"{name} lacks the {word} {', '.join(missing)} that CTF correction needs; {_CTF_NEEDS}.")
    if len(particles) < 2:
        raise InputError(f"{name} holds one particle; each half-set needs at least one.")
    assigned = np.unique(particles.half)
    for half in (1, 2):
        if assigned.max() > 0 and half not in assigned:
            raise InputError(f"{name}: rlnRandomSubset leaves half-set {half} empty; remove the column or correct it.")


def _diameter(params: RefineParams, particles: Particles, box_sizes: np.ndarray) -> float:
    """Return the mask diameter, which must fit into every box."""
    sizes = [
        float(box_sizes[np.flatnonzero(particles.optics_index == index)[0]]) * group.pixel_size_A
        for index, group in enumerate(particles.optics)
        if (particles.optics_index == index).any()
    ]
    if params.particle_diameter_A is None:
        return sizes[0] - params.mask_edge_px * particles.optics[int(particles.optics_index.min())].pixel_size_A
    if params.particle_diameter_A > min(sizes):
        raise InputError(
            f"--particle_diameter {params.particle_diameter_A:g} A is larger than the box of {min(sizes):g} A;"
            " give a smaller one, or extract the particles in a larger box."
        )
    return params.particle_diameter_A


def _reference_paths(path: str) -> tuple[str, ...]:
    """Return one path, or one per half-set when the name holds half1 or half2, as RELION does."""
    folder, name = os.path.split(path)
    for word in ("half1", "half2"):
        if word in name:
            return tuple(os.path.join(folder, name.replace(word, other)) for other in ("half1", "half2"))
    return (path,)


def _reference(path: str, group: OpticsGroup, params: RefineParams, notes: list[Message]) -> np.ndarray:
    volume = read_volume(path)
    if params.reference_voxel_size_A is not None:
        volume = Volume(data=volume.data, voxel_size_A=params.reference_voxel_size_A)
    shape = volume.data.shape
    if len(set(shape)) != 1:
        size = " x ".join(str(n) for n in reversed(shape))
        raise InputError(
            f"{path} is {size} px, not cubic; make it so with autorefine rebox --i {path} --o NEW.mrc"
            f" --new_box {group.box_size}."
        )
    if not np.any(volume.data):
        raise InputError(f"{path} is zero everywhere; give another reference map.")
    same_pixel = abs(volume.voxel_size_A - group.pixel_size_A) <= _SAME_PIXEL_A
    if same_pixel and shape[0] == group.box_size:
        return volume.data
    has = f"{path} has {shape[0]} px at {volume.voxel_size_A:.6g} A"
    want = f"the particles {group.box_size} px at {group.pixel_size_A:.6g} A"
    if not params.trust_ref_size:
        line = rebox_line(path, box_size=group.box_size, voxel_size_A=None if same_pixel else group.pixel_size_A)
        raise InputError(
            f"{has} but {want}: run {line},"
            " or give --trust_ref_size to have it done, or --ref_angpix if the header is wrong."
        )
    notes.append(Message(text=f"{has}, {want}: the map is resampled.{_misfit(volume, group)}"))
    return resampled(volume, group)


def resampled(volume: Volume, group: OpticsGroup) -> np.ndarray:
    """Return a cubic map on the grid of an optics group: pixel size by Fourier cropping, box by a window."""
    data = volume.data
    if data.shape[0] % 2:  # an odd box would lose its centre when rescaled
        data = window(data, data.shape[0] + 1)
    if abs(volume.voxel_size_A - group.pixel_size_A) > _SAME_PIXEL_A:
        data = fourier_resize(data, even_size(data.shape[0], volume.voxel_size_A, group.pixel_size_A))
    return window(data, group.box_size)


def _misfit(volume: Volume, group: OpticsGroup) -> str:
    """Return a sentence on the pixel size that a whole, even number of voxels really gives; nothing if it is exact."""
    n = volume.data.shape[0] + volume.data.shape[0] % 2
    size = even_size(n, volume.voxel_size_A, group.pixel_size_A)
    true_A = n * volume.voxel_size_A / max(size, 1)
    if abs(volume.voxel_size_A - group.pixel_size_A) <= _SAME_PIXEL_A or abs(true_A / group.pixel_size_A - 1) < 1e-4:
        return ""
    return f" Rounding to {size} px leaves it {100 * (true_A / group.pixel_size_A - 1):+.2f} % off scale."


def _mask(params: RefineParams, group: OpticsGroup, notes: list[Message]) -> tuple[np.ndarray, bool]:
    """Return the mask on the grid of an optics group, and whether it had to be resampled.

    As in relion_refine a mask of another pixel size is resampled; one of the same pixel size must have the same box.
    """
    path = str(params.mask)
    volume = read_volume(path)
    low, high = float(volume.data.min()), float(volume.data.max())
    if low < -_MASK_ROUNDING or high > 1.0 + _MASK_ROUNDING:
        raise InputError(f"{path} has values from {low:g} to {high:g}; a mask must lie between 0 and 1.")
    if high <= 0.0:
        raise InputError(f"{path} is zero everywhere; a mask must be above 0 somewhere.")
    shape = volume.data.shape
    if len(set(shape)) != 1:
        size = " x ".join(str(n) for n in reversed(shape))
        raise InputError(f"{path} is {size} px, not cubic; a mask must have the particles' box of {group.box_size} px.")
    same_pixel = abs(volume.voxel_size_A - group.pixel_size_A) <= _SAME_PIXEL_A
    if same_pixel and shape[0] != group.box_size and not params.trust_ref_size:
        raise InputError(
            f"{path} has a box of {shape[0]} px but the particles {group.box_size} px: run autorefine rebox --i {path}"
            f" --o NEW.mrc --new_box {group.box_size}, or give --trust_ref_size to have it done."
        )
    if same_pixel and shape[0] == group.box_size:
        return np.clip(volume.data, 0.0, 1.0), False
    has = f"{path} has {shape[0]} px at {volume.voxel_size_A:.6g} A"
    want = f"the particles {group.box_size} px at {group.pixel_size_A:.6g} A"
    notes.append(Message(text=f"{has}, {want}: the mask is resampled.{_misfit(volume, group)}"))
    return np.clip(resampled(volume, group), 0.0, 1.0), True


def _mtf_tables(particles: Particles, star_path: str, notes: list[Message]) -> tuple[Mtf | None, ...] | None:
    """Return the detector transfer per group; None when all groups share one, so that nothing is to be corrected."""
    paths = [group.mtf_path for group in particles.optics]
    if len(set(paths)) < 2:
        return None
    for group in particles.optics:
        if group.mtf_path is None or group.original_pixel_size_A is None:
            label = "rlnMtfFileName" if group.mtf_path is None else "rlnMicrographOriginalPixelSize"
            text = f"Detectors are not corrected for: optics group '{group.name}' of {star_path} has no {label}."
            notes.append(Message(text=text, level="warning"))
            return None
    tables: list[Mtf | None] = []
    for group in particles.optics:
        found = find_image_file(str(group.mtf_path), search_folders(star_path))
        if found is None:
            raise InputError(
                f"{star_path}: the MTF file {group.mtf_path} of optics group '{group.name}' does not exist;"
                " correct rlnMtfFileName or remove the column."
            )
        tables.append(read_mtf(found))
    return tuple(tables)


def messages(inputs: RefineInputs) -> Iterator[Message]:
    """Say what was read, and what was done to make it fit."""
    groups = len(inputs.particles.optics)
    yield Message(
        text=f"{_count(inputs)}, {groups} optics"
        f" group{'' if groups == 1 else 's'}; box {inputs.references[0].shape[0]} px at {inputs.voxel_size_A:.4g} A."
    )
    yield from inputs.notes


def _count(inputs: RefineInputs) -> str:
    """Say how many particles there are, and in what."""
    n, form = len(inputs.particles), inputs.particles.form
    if inputs.particles.subtomograms is None:
        return f"{n} particles in {len(inputs.stack.files)} stacks"
    n_tomogram = len(np.unique(inputs.particles.subtomograms.tomogram_name.astype(str)))
    word = "subtomograms" if form == "volume" else "tilt stacks"
    return f"{n} {word} of {n_tomogram} tomogram{'' if n_tomogram == 1 else 's'}"
