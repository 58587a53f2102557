"""Parameters of ``subtomo``, and options of relion_tomo_subtomo without a meaning here."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.params import ForeignOption, JobParams, Param

INPUT, CUT, RUNNING = "I/O", "Reconstruct", "Running"


class SubtomoParams(JobParams):
    """How particles are cut from tilt series."""

    optimisation_set: Annotated[
        str,
        Param(
            "Input optimisation set",
            "Names the particles and tomograms files, unless they are given below.",
            INPUT,
            flags=("i", "ios"),
            file_kind="read",
        ),
    ] = ""
    particles: Annotated[
        str,
        Param("Input particle set", "STAR file with coordinates in tomograms.", INPUT, flags=("p",), file_kind="read"),
    ] = ""
    tomograms: Annotated[
        str,
        Param("Input tomograms", "STAR file of the tilt series.", INPUT, flags=("t",), file_kind="read"),
    ] = ""
    output: Annotated[str, Param("Output", "Folder of the results.", INPUT, flags=("o",), file_kind="write")] = ""
    overwrite: Annotated[bool, Param("Overwrite", "Replace an earlier result.", INPUT)] = False

    binning: Annotated[
        float, Param("Binning factor", "Tilt images are resampled by it.", CUT, flags=("bin",), minimum=1)
    ] = 1.0
    box_size_px: Annotated[
        int,
        Param(
            "Box size",
            "Binned pixels, even, in which the CTF is applied.",
            CUT,
            unit="px",
            flags=("b",),
            minimum=16,
        ),
    ] = 128
    crop_size_px: Annotated[
        int | None,
        Param(
            "Cropped box size",
            "Binned pixels, even, of the result; -1: the box size.",
            CUT,
            unit="px",
            flags=("crop",),
        ),
    ] = None
    max_dose_e_A2: Annotated[
        float | None,
        Param(
            "Maximum dose",
            "Images after this dose are not used; -1: all are.",
            CUT,
            unit="e/A^2",
            flags=("max_dose",),
        ),
    ] = None
    min_frames: Annotated[
        int, Param("Minimum nr. frames", "Particles that fewer images show are left out.", CUT, minimum=1)
    ] = 1
    stack2d: Annotated[
        bool,
        Param("Write output as 2D stacks?", "Stacks of tilt images (RELION 5), else volumes (RELION 4).", CUT),
    ] = True
    float16: Annotated[
        bool, Param("Write output in float16?", "Half-precision particles take half the space.", CUT)
    ] = True
    cutoff_fraction: Annotated[
        float,
        Param(
            "Dose cutoff",
            "Volumes leave out frequencies of which radiation damage leaves less than this.",
            CUT,
            flags=("cutoff_fract",),
            minimum=0,
            maximum=1,
            is_advanced=True,
        ),
    ] = 0.01
    threads: Annotated[int, Param("Threads", "0 is all cores.", RUNNING, flags=("j",), minimum=0, relion_default=1)] = 0

    @field_validator("crop_size_px", "max_dose_e_A2", mode="after")
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        return None if value is None or value <= 0 else value

    @model_validator(mode="after")
    def _check(self) -> SubtomoParams:
        if not self.output:
            raise ValueError("--o is missing")
        if not self.optimisation_set and not (self.particles and self.tomograms):
            raise ValueError("give an optimisation set with --i, or --p and --t")
        crop = self.crop_size_px or self.box_size_px
        if self.box_size_px % 2 or crop % 2:
            raise ValueError(f"box sizes must be even, they are {self.box_size_px} and {crop}")
        if crop > self.box_size_px:
            raise ValueError(f"crop {crop} is larger than the box of {self.box_size_px}")
        return self


def _refuse(what: str, n_value: int = 0, harmless: tuple[str, ...] = ()) -> ForeignOption:
    return ForeignOption(reason=f"{what} is not supported", n_value=n_value, is_refused=True, harmless=harmless)


FOREIGN_OPTIONS = {
    "theme": ForeignOption(reason="messages are written as plain text", n_value=1),
    "pipeline_control": ForeignOption(reason="there is no RELION pipeline to report to", n_value=1),
    "only_do_unfinished": ForeignOption(reason="all particles are cut again"),
    "mot": _refuse("Motion of single particles", 1, ("", "None")),
    "no_ctf": _refuse("Leaving out the CTF"),
    "no_circle_crop": _refuse("Leaving out the soft circle"),
    "no_ic": _refuse("Leaving out the inversion of the contrast"),
    "no_comb": _refuse("Leaving out the CTF volumes"),
    "apply_orientations": _refuse("Turning the subtomograms to the orientations of their particles"),
    "dont_apply_offsets": _refuse("Leaving the origins out"),
    "div": _refuse("Dividing by the CTF"),
    "whiten": _refuse("Whitening"),
    "cone_weight": _refuse("Weighting of a cone of frequencies"),
}
"""Name (without dashes) of each option of relion_tomo_subtomo that is no parameter of ours."""
