"""Go on from an iteration: of a run of this program or of RELION, whose files were read back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from napari_autorefine.engine.grids import make_orientation_grid
from napari_autorefine.engine.spectra import current_resolution_shell, low_pass_shell
from napari_autorefine.engine.state import Convergence, HalfModel, Poses, RefinementState, Sampling
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.resume import SavedRun, read_run
from napari_autorefine.io.run_integrity import has_whole_iteration_after, iteration_to_go_on, prefix_to_go_on
from napari_autorefine.jobs.recorded_line import RecordedLine, read_line, words_of
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.relion_options import FOREIGN_OPTIONS
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.params import describe, make_params

_ONCE = {name: RefineParams.model_fields[name].default for name in ("overwrite", "force_converge", "max_iterations")}
"""Parameters that hold for one call and not for the next one that goes on."""
_OF_FILES = ("particles", "reference", "output")
_SAME_DIRECTION_DEG = 0.01
_RECORDED = {
    "mask_edge_px": "mask_edge_px",
    "zero_mask": "zero_mask",
    "flatten_solvent": "flatten_solvent",
    "solvent_correct_fsc": "solvent_correct_fsc",
    "mask": "mask",
    "low_resol_join_halves_A": "low_resol_join_halves_A",
    "adaptive_fraction": "adaptive_fraction",
    "auto_local_healpix_order": "auto_local_healpix_order",
    "max_significant": "max_significant",
    "coarse_size_px": "max_coarse_size",
    "strict_highres_exp_A": "strict_highres_exp_A",
    "tau2_fudge": "tau2_fudge",
    "pad": "pad",
    "ctf": "ctf",
    "ctf_intact_first_peak": "ctf_intact_first_peak",
    "norm": "norm",
    "scale": "scale",
    "particle_diameter_A": "particle_diameter_A",
    "random_seed": "random_seed",
}
"""Parameters that an optimiser file records too, with the names they have there."""
_FROM_LINE = (
    "auto_ignore_angles",
    "auto_resol_angles",
    "skip_gridding",
    "firstiter_cc",
    "ini_high_A",
    "dont_check_norm",
    "optimisation_set",
    "ctf3d_not_squared",
    "normalised_subtomo",
    "skip_subtomo_multi",
    "subtomo_multi_thr",
    "sigma_tilt_deg",
)
"""Parameters that RELION records in the command line only, and that still matter for a run that goes on."""


def resumed(params: RefineParams) -> tuple[RefineParams, SavedRun, list[Message]]:
    """Return the parameters of the run to go on with, changed by those given now, its last state, messages.

    Files go on under the old name; RELION's ``_ctNNN`` is appended when later iterations are there already.
    """
    found = iteration_to_go_on(str(params.continue_from))
    messages = [Message(text=f"{text}; goes on from the iteration before.", level="warning") for text in found.damages]
    saved = read_run(found.optimiser)
    values, notes = _values(saved, found.optimiser)
    given = {name: getattr(params, name) for name in params.model_fields_set}
    given = {name: value for name, value in given.items() if value or name not in _OF_FILES}
    given["continue_from"] = str(found.optimiser)
    merged = make_params(RefineParams, {**values, **_ONCE, **given})
    if merged.overwrite or not has_whole_iteration_after(Path(merged.output), saved.iteration):
        text = f"Going on from iteration {saved.iteration} as {merged.output}."
    else:
        output = f"{merged.output}_ct{saved.iteration}"
        text = f"{merged.output} has iterations after {saved.iteration}, so the new ones are named {output}."
        merged = merged.model_copy(update={"output": output})
    return merged, saved, [*messages, Message(text=text), *notes]


def saved_state(saved: SavedRun) -> RefinementState:
    """Return the engine's state of a run that was read from its files."""
    try:
        return RefinementState(
            iteration=saved.iteration,
            box_size=saved.box_size,
            voxel_size_A=saved.voxel_size_A,
            halves=(HalfModel(**saved.halves[0]), HalfModel(**saved.halves[1])),
            fsc=saved.fsc,
            poses=Poses(**saved.poses),
            sampling=Sampling(**saved.sampling),
            convergence=Convergence(**saved.convergence),
        )
    except TypeError as error:
        raise InputError(f"The files of {saved.prefix} are damaged or of another version ({error}).") from error


def usable_state(state: RefinementState, saved: SavedRun, ini_high_A: float | None) -> RefinementState:
    """Return a state of RELION's with what its files leave open: the first resolution, the order of directions.

    RELION writes iteration 0 before it knows the resolution, and version 3.1 has other directions in the asymmetric
    units of O and T; a distribution of views over those is dropped, and learned anew in one iteration.
    """
    convergence = state.convergence
    if not 0 < convergence.current_resolution_A < math.inf:
        box, voxel_A = state.box_size, state.voxel_size_A
        shell = current_resolution_shell(state.halves[0].ssnr).shell
        if ini_high_A is not None:
            shell = low_pass_shell(ini_high_A, box, voxel_A)
        convergence = replace(convergence, current_resolution_A=box * voxel_A / max(shell, 1))
    first, second = state.halves
    if not _has_our_directions(saved):
        first, second = replace(first, pdf_direction=np.zeros(0)), replace(second, pdf_direction=np.zeros(0))
    return replace(state, convergence=convergence, halves=(first, second))


def _has_our_directions(saved: SavedRun) -> bool:
    theirs = saved.directions_deg
    if theirs is None:
        return True
    group = point_group(str(saved.sampling["symmetry"]))
    grid = make_orientation_grid(int(saved.sampling["healpix_order"]), group)
    if len(theirs) != len(grid.rot_deg):
        return False
    ours = np.stack([grid.rot_deg, grid.tilt_deg], axis=-1)
    return bool(np.all(np.abs((theirs - ours + 180.0) % 360.0 - 180.0) < _SAME_DIRECTION_DEG))


def _values(saved: SavedRun, optimiser: Path) -> tuple[dict[str, Any], list[Message]]:
    """Return the parameters of a saved run: from its own record, else from its optimiser file."""
    output = saved.prefix
    beside = prefix_to_go_on(optimiser)
    if Path(output).resolve() != beside.resolve():  # the folder was moved, or the run was started elsewhere
        output = str(beside)
    recorded = saved.params.get("parameters")
    if recorded and not saved.is_relion:
        known = {record.name for record in describe(RefineParams)}
        unknown = sorted(set(recorded) - known)
        notes = [Message(text=f"Not known in this version: {', '.join(unknown)}.", level="warning")] if unknown else []
        return {name: value for name, value in recorded.items() if name in known} | {"output": output}, notes
    data = re.sub(r"optimiser\.star$", "data.star", str(optimiser))
    values = {name: saved.options[key] for name, key in _RECORDED.items() if key in saved.options}
    values |= {
        "particles": data,
        "reference": str(optimiser),
        "symmetry": saved.sampling["symmetry"],
        "perturb": saved.sampling["perturbation_factor"],
        "output": output,
        **saved.project,
    }
    if not saved.is_relion:
        line = read_line(words_of(saved.command_line), RefineParams)
        note = f"{output}_params.json is missing or damaged: parameters are those of the line in {optimiser}."
        return {**values, **line.values, "output": output}, [Message(text=note, level="warning")]
    line = read_line(words_of(saved.command_line), RefineParams, FOREIGN_OPTIONS)
    _check_relion(saved, line, optimiser)
    theirs = {r.name: r.relion_default for r in describe(RefineParams) if r.name in _FROM_LINE}
    if saved.relion_version < (4,):
        theirs["skip_gridding"] = False  # version 4 made it the default
    theirs |= {name: value for name, value in line.values.items() if name in _FROM_LINE}
    if not Path(theirs["optimisation_set"]).is_file():
        theirs["optimisation_set"] = ""  # the optimiser file names all that is needed of it
    return theirs | values, list(_relion_notes(saved, line))


def _check_relion(saved: SavedRun, line: RecordedLine, optimiser: Path) -> None:
    """Raise when going on would be another kind of refinement than RELION's."""
    refused = (*line.refused, *saved.foreign)
    if refused:
        raise InputError(f"{optimiser} cannot be gone on from: {'; '.join(refused)}.")


def _relion_notes(saved: SavedRun, line: RecordedLine) -> Iterator[Message]:
    """Say what of a run of RELION is not taken over, or is done in another way from here on."""
    version = ".".join(map(str, saved.relion_version)) or "of unknown version"
    yield Message(
        text=f"The run is RELION's ({version}): maps, poses, spectra, sampling and counters are taken over; options for"
        " devices, threads, scratch and reading are those given now."
    )
    if saved.is_noise_by_group:
        yield Message(text="Noise per micrograph, as RELION 3.1 has it, becomes one spectrum per optics group.")
    if not _has_our_directions(saved):
        yield Message(text="The distribution of views is on other directions of the asymmetric unit: it starts anew.")
    yield Message(text="Intensities of particles start at 1 (RELION has none); --no_particle_scale goes on without.")
    if "--continue" in words_of(saved.command_line):
        yield Message(
            text="That run was itself continued: --auto_ignore_angles, --auto_resol_angles and --skip_gridding count as"
            " in its last line.",
            level="warning",
        )
    if line.unknown:
        yield Message(text=f"Not known here, not used: {', '.join(line.unknown)}.", level="warning")
