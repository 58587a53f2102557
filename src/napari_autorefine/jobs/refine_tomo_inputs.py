"""What particles of tomograms bring into a refinement: the files of an optimisation set, CTF volumes, tilt series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from napari_autorefine.engine.problem import ReadWeights, TomogramData
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.optimisation_set import Kind
from napari_autorefine.io.particle_images import SubtomogramImages
from napari_autorefine.io.subtomograms import TiltStacks
from napari_autorefine.io.tomo_inputs import TomoInputs, gather_files, read_tomo_inputs
from napari_autorefine.jobs.image_source import ImageSource, SubtomogramsInMemory
from napari_autorefine.jobs.reconstruct_tomo_inputs import check_boxes
from napari_autorefine.jobs.record import output_of
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.model.particles import Particles

_OF_SINGLE_PARTICLES = ("ctf_intact_first_peak",)
_OF_VOLUMES = ("ctf3d_not_squared", "normalised_subtomo", "skip_subtomo_multi")
_OF_TOMOGRAMS = ("optimisation_set", "tomograms", "trajectories", *_OF_VOLUMES, "sigma_tilt_deg")


def with_files_of_set(params: RefineParams) -> tuple[RefineParams, list[Message]]:
    """Return parameters in which the files of the optimisation set stand where none was given, and what to tell.

    As in RELION 4 reference and mask come from the set too; RELION 5 takes only particles, tomograms and trajectories.

    Raises
    ------
    InputError
        A set that cannot be read, that names files that do not exist, or names no particles or no reference.
    """
    if not params.optimisation_set or params.continue_from is not None:
        return params, []
    place = output_of(params.optimisation_set, "optimisation_set")
    files = gather_files(place, _given(params))
    files.require("particles")
    wanted: dict[Kind, str] = {} if params.particles else {"particles": "particles"}
    if not params.reference:
        if files["map1"] is None:
            raise InputError(f"{place} names no rlnTomoReferenceMap1File; give the starting map with --ref.")
        wanted["map1"] = "reference"
    if params.mask is None and files["mask"] is not None:
        wanted["mask"] = "mask"
    if not params.tomograms and files["tomograms"] is not None:
        wanted["tomograms"] = "tomograms"
    found = files.found(wanted)
    update = {name: str(found[kind]) for kind, name in wanted.items()} | {"optimisation_set": place}
    if files["trajectories"] is not None:
        update["trajectories"] = str(files["trajectories"])
    return params.model_copy(update=update), _told(place, update, wanted)


def _given(params: RefineParams) -> dict[Kind, str | None]:
    """Return the files of the project that have options of their own."""
    return {
        "particles": params.particles,
        "tomograms": params.tomograms,
        "trajectories": params.trajectories,
        "map1": params.reference,
        "mask": params.mask,
    }


def _told(place: str, update: dict[str, str], wanted: dict[Kind, str]) -> list[Message]:
    """Say which files the set stands for; reference and mask, which RELION 5 does not take from it, one by one."""
    named = " and ".join(update[name] for kind, name in wanted.items() if kind in ("particles", "tomograms"))
    notes = [Message(text=f"From the optimisation set {place}: {named}.")] if named else []
    if "map1" in wanted:
        text = f"Reference map, as none was given, from the optimisation set: {update['reference']}."
        notes.append(Message(text=text))
    if "mask" in wanted:
        text = f"Reference mask, as none was given, from the optimisation set: {update['mask']}"
        text += "; RELION 5 would use none: to do without, give --i and --tomograms in place of the set."
        notes.append(Message(text=text, level="warning"))
    return notes


def read_tomo(params: RefineParams, particles: Particles) -> TomoInputs | None:
    """Read and check what belongs to particles of tomograms; None for single particles.

    Raises
    ------
    InputError
        Whatever is missing or does not fit, options of the other kind of particles included.
    """
    of_tomograms = [_flag(name) for name in _OF_TOMOGRAMS if getattr(params, name)]
    if particles.subtomograms is None:
        if of_tomograms:
            raise InputError(
                f"{params.particles} holds 2D images of single particles, but {of_tomograms[0]} is for particles of"
                " tomograms; leave it out, or give their particle file."
            )
        return None
    files = gather_files(params.optimisation_set, {**_given(params), "map1": None, "mask": None})
    inputs = read_tomo_inputs(files, has_weights=params.ctf, particles=particles)
    _check_options(inputs, params)
    check_boxes(inputs, params.particles)
    return inputs


def _flag(name: str) -> str:
    return {"optimisation_set": "--ios", "sigma_tilt_deg": "--sigma_tilt"}.get(name, f"--{name}")


def _check_options(inputs: TomoInputs, params: RefineParams) -> None:
    """Check that no option is for the other form of particles, and that CTF correction can be done."""
    is_stack, star = inputs.particles.form == "tilt_stack", params.particles
    wrong = [_flag(name) for name in (_OF_VOLUMES if is_stack else _OF_SINGLE_PARTICLES) if getattr(params, name)]
    if wrong:
        what = "volumes, which tilt stacks do not have" if is_stack else "models, but volumes bring theirs in files"
        verb = "is" if len(wrong) == 1 else "are"
        raise InputError(f"{star}: {' and '.join(wrong)} {verb} about CTF {what}; leave out the option.")
    if is_stack and params.ctf and "rlnAmplitudeContrast" not in inputs.particles.optics_table:
        raise InputError(
            f"{star} lacks the column rlnAmplitudeContrast that CTF correction needs; add it, or switch CTF correction"
            " off with --no-ctf."
        )
    if isinstance(inputs.images, TiltStacks) or not (params.normalised_subtomo and params.ctf):
        return
    if inputs.images.read_weights([0]).multiplicity is None:
        text = "--normalised_subtomo needs multiplicities, but the CTF volumes have none; leave it out"
        raise InputError(f"{star}: {text}.")


def tomo_notes(inputs: TomoInputs, params: RefineParams) -> list[Message]:
    """Return what the user should know about files and options that are not used."""
    notes = [Message(text=text, level="warning") for text in inputs.notes]
    if params.norm:
        notes.append(Message(text="Grey scales of single particles are not estimated, as in RELION for tomograms."))
    return notes


def tomogram_data(
    inputs: TomoInputs | None, params: RefineParams, images: ImageSource, rows: np.ndarray
) -> TomogramData | None:
    """Return the engine's view of what particles of tomograms bring, for some rows of their file.

    Parameters
    ----------
    inputs : of ``read_tomo``; None for single particles
    params : of the refinement
    images : where CTF volumes are read from, by rows of the file
    rows : of the particles that are refined
    """
    if inputs is None:
        return None
    tilts: Sequence[np.ndarray] = ()
    read_weights: ReadWeights | None = None
    if isinstance(inputs.images, TiltStacks):
        tilts = [inputs.images.tilts[row] for row in rows.tolist()]
    elif params.ctf:
        assert isinstance(images, (SubtomogramImages, SubtomogramsInMemory))

        def read_weights(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            return images.read_weights(rows[indices])

    return TomogramData(
        read_weights=read_weights,
        tomograms=inputs.tomograms,
        tilts=tilts,
        holds_ctf=params.ctf3d_not_squared,
        is_normalised=params.normalised_subtomo,
        ignores_multiplicity=params.skip_subtomo_multi,
        least_multiplicity=params.subtomo_multi_thr,
    )
