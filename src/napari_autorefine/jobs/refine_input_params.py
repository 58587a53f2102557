"""Parameters of the auto-refinement that say what goes in and out: files, reference, CTF."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.params import JobParams, Param

INPUT, REFERENCE, CTF = "I/O", "Reference", "CTF"


class RefineInputParams(JobParams):
    """Files, reference and CTF of an auto-refinement."""

    particles: Annotated[
        str,
        Param(
            "Input images STAR file",
            "STAR file of the particles (RELION 3.0 to 5), single ones or of tomograms.",
            INPUT,
            flags=("i",),
            file_kind="read",
        ),
    ] = ""
    optimisation_set: Annotated[
        str,
        Param(
            "Input optimisation set",
            "For particles of tomograms: names particles, tomograms, reference and mask, unless they are given here.",
            INPUT,
            flags=("ios",),
            file_kind="read",
        ),
    ] = ""
    tomograms: Annotated[
        str,
        Param(
            "Input tomogram set",
            "STAR file of the tilt series, in place of that of the set; stacks of tilt images need it.",
            INPUT,
            file_kind="read",
            is_advanced=True,
        ),
    ] = ""
    trajectories: Annotated[
        str,
        Param(
            "Input trajectory set",
            "Motion of particles, in place of that of the set; passed on, not used.",
            INPUT,
            file_kind="read",
            is_advanced=True,
        ),
    ] = ""
    reference: Annotated[
        str,
        Param(
            "Reference map",
            "Starting map; with half1 or half2 in its name each half-set starts from its own file.",
            INPUT,
            flags=("ref",),
            file_kind="read",
        ),
    ] = ""
    mask: Annotated[
        str | None,
        Param(
            "Reference mask (optional)",
            "Solvent mask between 0 and 1; without it a sphere of the mask diameter.",
            INPUT,
            flags=("solvent_mask",),
            file_kind="read",
        ),
    ] = None
    continue_from: Annotated[
        str | None,
        Param(
            "Continue from here",
            "Optimiser STAR file of the iteration to go on from.",
            INPUT,
            flags=("continue",),
            file_kind="read",
        ),
    ] = None
    output: Annotated[
        str, Param("Output", "Folder and first part of the output names.", INPUT, flags=("o",), file_kind="write")
    ] = ""
    overwrite: Annotated[bool, Param("Replace an earlier run", "Replace outputs of an earlier run.", INPUT)] = False

    firstiter_cc: Annotated[
        bool,
        Param(
            "First iteration by correlation",
            "The map is not on absolute grey scale: the first iteration compares by cross-correlation.",
            REFERENCE,
        ),
    ] = True
    trust_ref_size: Annotated[
        bool,
        Param(
            "Resize reference if needed?",
            "A map of another box or pixel size is resampled to the particles' grid.",
            REFERENCE,
        ),
    ] = False
    ini_high_A: Annotated[
        float | None,
        Param(
            "Initial low-pass filter",
            "Low-pass filter of the starting map; 0 or less is none.",
            REFERENCE,
            unit="A",
            relion_default=None,
        ),
    ] = 60.0
    symmetry: Annotated[
        str, Param("Symmetry", "Point group: C1, Cn, Dn, T, O, I1 to I4.", REFERENCE, flags=("sym",))
    ] = "C1"
    reference_voxel_size_A: Annotated[
        float | None,
        Param(
            "Pixel size of the map",
            "Overrides the header of the map.",
            REFERENCE,
            unit="A",
            flags=("ref_angpix",),
            is_advanced=True,
        ),
    ] = None

    ctf: Annotated[bool, Param("Do CTF correction?", "Correct for the CTF.", CTF)] = True
    ctf_intact_first_peak: Annotated[
        bool, Param("Ignore CTFs until first peak?", "The CTF is 1 up to its first peak.", CTF)
    ] = False

    @field_validator("ini_high_A", "reference_voxel_size_A", mode="after")
    @classmethod
    def _no_filter_if_off(cls, value: float | None) -> float | None:
        return none_if_off(value)

    @field_validator("optimisation_set", "tomograms", "trajectories", mode="after")
    @classmethod
    def _empty_if_none(cls, value: str) -> str:
        return none_if_empty(value) or ""

    @field_validator("mask", "continue_from", mode="after")
    @classmethod
    def _no_file_if_empty(cls, value: str | None) -> str | None:
        return none_if_empty(value)

    @model_validator(mode="after")
    def _check_complete(self) -> RefineInputParams:
        if self.continue_from is None:
            of_set = bool(self.optimisation_set)
            given = (("--i", self.particles or of_set), ("--ref", self.reference or of_set), ("--o", self.output))
            missing = [flag for flag, value in given if not value]
            if missing:
                raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        return self


def none_if_off(value: float | None) -> float | None:
    """Return None for RELION's ways to say off: zero and below."""
    return None if value is None or value <= 0 else value


def none_if_empty(value: str | None) -> str | None:
    """Return None for RELION's ways to name no file."""
    return None if value in (None, "", "None") else value
