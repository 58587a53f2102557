"""Parameters of ``reconstruct``, and options of relion_reconstruct without a meaning here."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.params import ForeignOption, JobParams, Param

INPUT, MAP, CTF, RUNNING = "I/O", "Map", "CTF", "Running"


class ReconstructParams(JobParams):
    """How particles with poses become a map."""

    particles: Annotated[
        str,
        Param(
            "Input images STAR file",
            "Particles with angles and origins, or the folder of the job that made them.",
            INPUT,
            flags=("i",),
            file_kind="read",
        ),
    ] = ""
    optimisation_set: Annotated[
        str,
        Param(
            "Input optimisation set",
            "Particles of tomograms: names the particles and tomograms files, unless they are given one by one.",
            INPUT,
            flags=("ios",),
            file_kind="read",
        ),
    ] = ""
    tomograms: Annotated[
        str,
        Param(
            "Input tomograms",
            "STAR file of the tilt series; tilt stacks need it.",
            INPUT,
            flags=("tomograms",),
            file_kind="read",
        ),
    ] = ""
    output: Annotated[
        str,
        Param("Output map", "Name of the map; half-maps get names from it.", INPUT, flags=("o",), file_kind="write"),
    ] = "relion.mrc"
    halves: Annotated[
        bool,
        Param(
            "Make half-maps too?",
            "Also write a map of each half-set (rlnRandomSubset) and say at which resolution they agree.",
            INPUT,
            flags=("halves", "half_maps"),
        ),
    ] = False
    subset: Annotated[
        int | None,
        Param("Only this half-set", "1 or 2; -1: all particles.", INPUT, flags=("subset",), is_advanced=True),
    ] = None
    class_number: Annotated[
        int | None,
        Param("Only this class", "Number in rlnClassNumber; -1: all.", INPUT, flags=("class",), is_advanced=True),
    ] = None
    overwrite: Annotated[bool, Param("Overwrite", "Replace existing maps.", INPUT)] = False

    symmetry: Annotated[str, Param("Symmetry", "Point group, on RELION's axes.", MAP, flags=("sym",))] = "C1"
    voxel_size_A: Annotated[
        float | None,
        Param("Pixel size", "Of the map; empty or -1: that of the images.", MAP, unit="A", flags=("angpix",)),
    ] = None
    box_size_px: Annotated[
        int | None,
        Param("Box size", "Of the map, even; empty or -1: that of the images.", MAP, unit="px", flags=("newbox",)),
    ] = None
    maxres_A: Annotated[
        float | None,
        Param("Resolution limit", "Use no frequencies beyond it; empty or -1: all.", MAP, unit="A", flags=("maxres",)),
    ] = None
    fsc: Annotated[
        str | None,
        Param(
            "FSC to filter by",
            "STAR file with an FSC (model or post-processing): the map is filtered by the signal that it implies.",
            MAP,
            file_kind="read",
            is_advanced=True,
        ),
    ] = None
    fom_weighting: Annotated[
        bool,
        Param(
            "Weigh by figure of merit", "Weigh each particle by its rlnParticleFigureOfMerit.", MAP, is_advanced=True
        ),
    ] = False
    pad: Annotated[
        int,
        Param("Padding factor", "1 takes an eighth of the memory.", MAP, minimum=1, maximum=4, is_advanced=True),
    ] = 2
    skip_gridding: Annotated[
        bool,
        Param(
            "Skip gridding",
            "Divide by the weights as they are, without iterations that compensate for uneven sampling.",
            MAP,
            off_flags=("dont_skip_gridding",),
            relion_default=True,
            is_advanced=True,
        ),
    ] = True

    ctf: Annotated[bool, Param("Do CTF correction?", "Correct for the CTF and for aberrations.", CTF)] = True
    ctf_intact_first_peak: Annotated[
        bool, Param("Ignore CTFs until first peak?", "The CTF is 1 up to its first peak.", CTF)
    ] = False
    ctf_phase_flipped: Annotated[
        bool, Param("Images were phase-flipped", "Their CTF is positive everywhere.", CTF, is_advanced=True)
    ] = False
    only_flip_phases: Annotated[
        bool, Param("Only flip phases", "Correct signs, not amplitudes.", CTF, is_advanced=True)
    ] = False
    ctf3d_not_squared: Annotated[
        bool,
        Param(
            "CTF volumes are not squared",
            "CTF volumes of subtomograms hold the CTF, not its square.",
            CTF,
            is_advanced=True,
        ),
    ] = False
    normalised_subtomo: Annotated[
        bool,
        Param(
            "Subtomograms are normalised",
            "Subtomograms and their CTF volumes were divided by the multiplicity.",
            CTF,
            is_advanced=True,
        ),
    ] = False
    threads: Annotated[int, Param("Threads", "Threads; 0 is all cores.", RUNNING, flags=("j",), minimum=0)] = 0

    @field_validator("voxel_size_A", "box_size_px", "maxres_A", "subset", "class_number", mode="after")
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        """Return None for RELION's ways to say off: zero and below."""
        return None if value is None or value <= 0 else value

    @field_validator("fsc", mode="after")
    @classmethod
    def _none_if_empty(cls, value: str | None) -> str | None:
        return None if value in (None, "", "None") else value

    @model_validator(mode="after")
    def _check(self) -> ReconstructParams:
        if not self.particles and not self.optimisation_set:
            raise ValueError("give particles with --i, or an optimisation set with --ios")
        if self.box_size_px is not None and self.box_size_px % 2:
            raise ValueError(f"newbox must be even, {self.box_size_px} is odd; take {self.box_size_px + 1}")
        if self.subset is not None and self.subset > 2:
            raise ValueError(f"subset must be 1 or 2, it is {self.subset}")
        if self.subset is not None and self.halves:
            raise ValueError("--halves uses both half-sets, so that --subset must be left out")
        if self.ctf_phase_flipped and self.only_flip_phases:
            raise ValueError("--ctf_phase_flipped and --only_flip_phases exclude each other")
        return self


def _accept(reason: str, n_value: int = 0) -> ForeignOption:
    return ForeignOption(reason=reason, n_value=n_value)


def _refuse(what: str, n_value: int = 0, harmless: tuple[str, ...] = ()) -> ForeignOption:
    return ForeignOption(reason=f"{what} is not supported", n_value=n_value, is_refused=True, harmless=harmless)


_EWALD = "it only matters for the curvature of the Ewald sphere"
_HELIX = "it only matters for helices"
_BLOB = "Another blob of the gridding iterations"
_DEBUG = "only maps are written"
_OFF = ("0", "0.", "0.0")
FOREIGN_OPTIONS = {
    "pipeline_control": _accept("there is no RELION pipeline to report to", 1),
    "verb": _accept("progress is always shown", 1),
    "img": _refuse("A prefix of image paths", 1, ("", "None")),
    "ewald": _refuse("Correction of the curvature of the Ewald sphere"),
    "mask_diameter": _accept(_EWALD, 1),
    "width_mask_edge": _accept(_EWALD, 1),
    "reverse_curvature": _accept(_EWALD),
    "sectors": _accept(_EWALD, 1),
    "skip_mask": _accept(_EWALD),
    "skip_weighting": _accept(_EWALD),
    "nr_helical_asu": _refuse("Helical symmetry", 1, ("1",)),
    "helical_rise": _accept(_HELIX, 1),
    "helical_twist": _accept(_HELIX, 1),
    "subtract": _refuse("Subtracting a map from the images", 1, ("", "None")),
    "NN": _refuse("Nearest-neighbour interpolation"),
    "blob_r": _refuse(_BLOB, 1, ("1.9",)),
    "blob_m": _refuse(_BLOB, 1, ("0",)),
    "blob_a": _refuse(_BLOB, 1, ("15",)),
    "iter": _refuse("Another number of gridding iterations", 1, ("10",)),
    "refdim": _refuse("A reconstruction in two dimensions", 1, ("3",)),
    "angular_error": _refuse("Adding errors to the angles", 1, _OFF),
    "shift_error": _refuse("Adding errors to the offsets", 1, _OFF),
    "3d_rot": _accept("subtomograms are known by their files"),
    "skip_subtomo_multi": _accept("multiplicities count with --normalised_subtomo only"),
    "reconstruct_ctf": _refuse("Reconstructing the CTF", 1, ("-1",)),
    "ctf2": _accept("it only matters when the CTF is reconstructed"),
    "reconstruct_noise": _refuse("Reconstructing noise", 1, ("", "None")),
    "read_weights": _refuse("Reading weights of frequencies"),
    "debug": _refuse("Debugging output", 1, ("",)),
    "debug_ori_size": _accept(_DEBUG, 1),
    "debug_size": _accept(_DEBUG, 1),
    "write_debug_output": _accept(_DEBUG),
    "external_reconstruct": _refuse("External reconstruction"),
}
"""Name (without dashes) of each option of relion_reconstruct that is no parameter of ours."""
