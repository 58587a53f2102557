"""Read and check particles of tomograms for a reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from napari_autorefine.engine.direct_reconstruction import with_box_sizes
from napari_autorefine.engine.tomo_reconstruction import PosedTiltStacks, PosedVolumes
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.optimisation_set import OptimisationSet
from napari_autorefine.io.subtomograms import SubtomogramVolumes, TiltStacks
from napari_autorefine.io.tomo_inputs import TomoInputs, gather_files, read_tomo_inputs
from napari_autorefine.jobs.reconstruct_params import ReconstructParams

_OF_IMAGES = ("ctf_intact_first_peak", "ctf_phase_flipped", "only_flip_phases")
_OF_VOLUMES = ("ctf3d_not_squared", "normalised_subtomo")


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedSubtomograms:
    """Particles of tomograms, the set of files they belong to, and what to tell the user."""

    images: PosedVolumes | PosedTiltStacks
    files: OptimisationSet
    notes: tuple[Message, ...]


def with_particles(params: ReconstructParams) -> tuple[ReconstructParams, OptimisationSet]:
    """Return parameters that name the particle file, and all files of the project.

    Raises
    ------
    InputError
        A set that cannot be read, or that names no particles.
    """
    files = gather_files(params.optimisation_set, {"particles": params.particles, "tomograms": params.tomograms})
    files.require("particles")
    place = params.particles or str(files.found(("particles",))["particles"])
    return params.model_copy(update={"particles": place}), files


def read_subtomograms(params: ReconstructParams, files: OptimisationSet) -> PosedSubtomograms:
    """Read volumes or tilt stacks, with everything but poses checked.

    Raises
    ------
    InputError
        Whatever is missing or does not fit.
    """
    inputs = read_tomo_inputs(files, has_weights=params.ctf, needs_halves=params.halves)
    _check_options(inputs, params)
    check_boxes(inputs, params.particles)
    particles = with_box_sizes(inputs.particles, inputs.images.box_sizes)
    images: PosedVolumes | PosedTiltStacks
    if isinstance(inputs.images, TiltStacks):
        images = PosedTiltStacks(
            particles=particles,
            tomograms=inputs.tomograms,
            tilts=inputs.images.tilts,
            read_stack=inputs.images.read,
        )
    else:
        images = PosedVolumes(
            particles=particles,
            read_volume=partial(_volume, inputs.images),
            read_weights=partial(_weights, inputs.images) if params.ctf else None,
            holds_ctf=params.ctf3d_not_squared,
            is_normalised=params.normalised_subtomo,
        )
    notes = tuple(Message(text=text, level="warning") for text in inputs.notes)
    return PosedSubtomograms(images=images, files=files, notes=notes)


def _volume(images: SubtomogramVolumes, row: int) -> np.ndarray:
    volume: np.ndarray = images.read([row])[0]
    return volume


def _weights(images: SubtomogramVolumes, row: int) -> tuple[np.ndarray, np.ndarray | None]:
    read = images.read_weights([row])
    return read.ctf2[0], None if read.multiplicity is None else read.multiplicity[0]


def _check_options(inputs: TomoInputs, params: ReconstructParams) -> None:
    """Check that no option is given that the other form of particles would need."""
    is_stack = inputs.particles.form == "tilt_stack"
    wrong = [f"--{name}" for name in (_OF_VOLUMES if is_stack else _OF_IMAGES) if getattr(params, name)]
    if wrong:
        what = "which tilt stacks do not have" if is_stack else "but volumes bring theirs in files"
        raise InputError(
            f"{params.particles}: {' and '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} about CTF"
            f" {'volumes' if is_stack else 'models'}, {what}; leave out the option."
        )
    if not (params.normalised_subtomo and params.ctf) or isinstance(inputs.images, TiltStacks):
        return
    if inputs.images.read_weights([0]).multiplicity is None:
        raise InputError(
            f"{params.particles}: --normalised_subtomo needs multiplicities, but the CTF volumes have none; leave out"
            " the option."
        )


def check_boxes(inputs: TomoInputs, star: str) -> None:
    """Check that the particles of every optics group have one box size."""
    sizes, groups = inputs.images.box_sizes, inputs.particles.optics_index
    for index in np.unique(groups):
        own = sizes[groups == index]
        if len(set(own.tolist())) > 1:
            row = int(np.flatnonzero((groups == index) & (sizes != own[0]))[0])
            raise InputError(
                f"{star}, row {row + 1}: the box is {sizes[row]} px, that of other particles of the optics group"
                f" '{inputs.particles.optics[int(index)].name}' {own[0]} px; extract them with one box size."
            )
