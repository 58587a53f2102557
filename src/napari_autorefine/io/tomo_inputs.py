"""All files of a subtomogram project behind one call: particles, tilt series, images, from a set or one by one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.optimisation_set import Kind, OptimisationSet, read_optimisation_set
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.subtomograms import SubtomogramVolumes, TiltStacks
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.tomography import Tomogram

_AGREEMENT = 1e-3
_UNBINNED = "rlnTomoTiltSeriesPixelSize"
_NOT_READ: tuple[Kind, ...] = ("trajectories", "manifolds", "fsc")

Place = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TomoInputs:
    """Checked inputs of a job on particles of tomograms.

    Attributes
    ----------
    files : the set, with single inputs in place of its own entries
    particles : of the form ``volume`` or ``tilt_stack``
    tomograms : by name; empty for volumes without a tomograms file, which do not need it
    images : reader that fits the form
    notes : sentences on what is not used
    """

    files: OptimisationSet
    particles: Particles
    tomograms: Mapping[str, Tomogram]
    images: SubtomogramVolumes | TiltStacks
    notes: tuple[str, ...] = ()


def gather_files(
    set_path: Place | None,
    single: Mapping[Kind, Place | None],
) -> OptimisationSet:
    """Return the files of a project: those of the optimisation set, if there is one, less those given one by one."""
    files = OptimisationSet() if not set_path else read_optimisation_set(set_path)
    return files.with_files(single)


def read_tomo_inputs(
    files: OptimisationSet,
    *,
    project_dir: Place | None = None,
    has_weights: bool = True,
    needs_halves: bool = True,
    particles: Particles | None = None,
) -> TomoInputs:
    """Read and check particles, tilt series and the headers of all images.

    Parameters
    ----------
    files : OptimisationSet
        As ``gather_files`` returns them.
    project_dir : str, path or None
        Folder that names are relative to; the working directory if None.
    has_weights : bool
        Volumes need their CTF volumes.
    needs_halves : bool
        Both half-sets need a particle, when the file assigns them.
    particles : Particles or None
        In place of those of the file, as they stand there after an iteration.

    Raises
    ------
    InputError
        Whatever is missing or does not fit; all of it before any image is read.
    """
    files.require("particles")
    places = files.found(("particles", "tomograms"), project_dir=project_dir)
    star = places["particles"]
    if particles is None:
        particles = read_particles(star, project_dir=project_dir)
    rows = particles.subtomograms
    if rows is None:
        raise InputError(
            f"{star} holds 2D images of single particles, not particles of tomograms; give them with --i alone."
        )
    if needs_halves:
        check_halves(particles, star)
    tomograms: dict[str, Tomogram] = {}
    if "tomograms" in places:
        tomograms = read_tomograms(places["tomograms"], names=rows.tomogram_name.tolist(), project_dir=project_dir)
        _check_optics(particles, tomograms, str(star), str(places["tomograms"]))
    elif rows.is_tilt_stack:
        raise InputError(f"{star} holds tilt stacks, which need their tomograms file; give it with --tomograms.")
    images = (
        TiltStacks(particles, tomograms, star_path=star, project_dir=project_dir)
        if rows.is_tilt_stack
        else SubtomogramVolumes(particles, star_path=star, project_dir=project_dir, has_weights=has_weights)
    )
    return TomoInputs(
        files=files, particles=particles, tomograms=tomograms, images=images, notes=_notes(files, project_dir)
    )


def check_halves(particles: Particles, star: Place) -> None:
    """Raise when the file assigns half-sets and leaves one of them empty."""
    for half in (1, 2):
        if particles.half.any() and not (particles.half == half).any():
            raise InputError(f"{star}: rlnRandomSubset leaves half-set {half} empty; remove the column or correct it.")


def _check_optics(particles: Particles, tomograms: Mapping[str, Tomogram], star: str, tomograms_file: str) -> None:
    """Check that particles and tilt series agree on pixel size, voltage, Cs and amplitude contrast."""
    rows = particles.subtomograms
    assert rows is not None
    pairs = {(str(name), int(group)) for name, group in zip(rows.tomogram_name, particles.optics_index, strict=True)}
    table = particles.optics_table
    for name, index in sorted(pairs):
        tomogram, group = tomograms[name], particles.optics[index]
        optics = Columns(table=table, file=star, name="optics")
        unbinned = optics.numbers(_UNBINNED)[index] if _UNBINNED in table else None
        contrast = group.amplitude_contrast if "rlnAmplitudeContrast" in table else None
        compared = (
            ("pixel size (A)", unbinned, tomogram.pixel_size_A),
            ("voltage (kV)", group.voltage_kV, tomogram.voltage_kV),
            ("spherical aberration (mm)", group.cs_mm, tomogram.cs_mm),
            ("amplitude contrast", contrast, tomogram.amplitude_contrast),
        )
        for what, ours, theirs in compared:
            if ours is not None and theirs is not None and abs(float(ours) - float(theirs)) > _AGREEMENT:
                raise InputError(
                    f"{star} and {tomograms_file} disagree on the {what} of the tilt series {name}: {float(ours):g} in"
                    f" optics group '{group.name}', {float(theirs):g} there; correct one of them."
                )


def _notes(files: OptimisationSet, project_dir: Place | None) -> tuple[str, ...]:
    """Return sentences on entries that are only passed on."""
    notes = []
    if files["trajectories"] is not None:
        notes.append(f"Motion trajectories ({files['trajectories']}) are not used; they are passed on.")
    dead = files.dead(_NOT_READ, project_dir=project_dir)
    notes += [f"The {kind} file {files[kind]} of the set does not exist; its entry is passed on." for kind in dead]
    return tuple(notes)
