"""Parameters of particle extraction; the defaults are those of RELION's tutorials."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.params import JobParams, Param

INPUT, EXTRACT, AGAIN = "I/O", "Extraction options", "Re-extraction options"
CTF, RUN = "CTF", "Running options"


class ExtractParams(JobParams):
    """Everything that decides what extracted particles look like."""

    micrographs: Annotated[
        str,
        Param("Micrograph STAR file", "Micrographs with their optics and CTF.", INPUT, flags=("i",), file_kind="read"),
    ] = ""
    refined_particles: Annotated[
        str | None,
        Param(
            "Re-extract refined particles from a STAR file",
            "Particles that were refined or classified before, instead of coordinates.",
            INPUT,
            flags=("reextract_data_star",),
            file_kind="read",
        ),
    ] = None
    coord_list: Annotated[
        str | None,
        Param(
            "Input coordinates",
            "STAR file that lists coordinate files (rlnMicrographCoordinates), or that holds the coordinates of all"
            " micrographs itself.",
            INPUT,
            file_kind="read",
        ),
    ] = None
    coord_dir: Annotated[
        str | None,
        Param(
            "Coordinate folder",
            "Where the coordinate files are; without it beside the micrographs.",
            INPUT,
            file_kind="folder",
            is_advanced=True,
        ),
    ] = None
    coord_suffix: Annotated[
        str | None,
        Param(
            "Coordinate suffix",
            "What follows the micrograph's name in that of its coordinate file, such as _autopick.star.",
            INPUT,
            is_advanced=True,
        ),
    ] = None
    output: Annotated[
        str,
        Param("Output folder", "Folder of the stacks and of particles.star.", INPUT, flags=("o",), file_kind="folder"),
    ] = ""
    part_dir: Annotated[
        str | None,
        Param(
            "Folder of the stacks",
            "When it is not the output folder.",
            INPUT,
            file_kind="folder",
            relion_default="Particles/",
            is_advanced=True,
        ),
    ] = None
    part_star: Annotated[
        str | None,
        Param("Particle STAR file", "If it is not OUTPUT/particles.star.", INPUT, file_kind="write", is_advanced=True),
    ] = None
    pick_star: Annotated[
        str | None,
        Param(
            "List of coordinate files",
            "Coordinate files to write a list of.",
            INPUT,
            file_kind="write",
            is_advanced=True,
        ),
    ] = None
    overwrite: Annotated[bool, Param("Overwrite", "Replace particles of an earlier run.", INPUT)] = False

    box_size_px: Annotated[
        int | None,
        Param(
            "Particle box size (pix)",
            "Box in the micrograph, even.",
            EXTRACT,
            unit="px",
            flags=("extract_size",),
            relion_default=None,
        ),
    ] = 128
    invert_contrast: Annotated[
        bool, Param("Invert contrast?", "Make dark particles white, as refinement needs them.", EXTRACT)
    ] = True
    normalise: Annotated[
        bool,
        Param(
            "Normalize particles?",
            "Give the background of each particle mean 0 and standard deviation 1.",
            EXTRACT,
            flags=("norm",),
        ),
    ] = True
    scale_size_px: Annotated[
        int | None,
        Param(
            "Re-scaled size (pixels)",
            "Resample the box to this many pixels, even; empty or -1: do not.",
            EXTRACT,
            unit="px",
            flags=("scale",),
        ),
    ] = None
    float16: Annotated[
        bool, Param("Write output in float16?", "Half-precision images take half the space.", EXTRACT)
    ] = True
    bg_diameter_px: Annotated[
        float | None,
        Param(
            "Diameter background circle (pix)",
            "Particles lie inside this circle, in pixels before rescaling; empty or -1: 75 % of the box.",
            EXTRACT,
            unit="px",
            flags=("bg_diameter",),
        ),
    ] = None
    bg_diameter_A: Annotated[
        float | None,
        Param(
            "Diameter background circle (Å)",
            "The same in Angstrom.",
            EXTRACT,
            unit="A",
            flags=("bg_diameter_angst",),
            is_advanced=True,
        ),
    ] = None
    bg_radius_px: Annotated[
        float | None,
        Param(
            "Radius of the background circle",
            "The same as a radius in pixels after rescaling, as RELION's program takes it.",
            EXTRACT,
            unit="px",
            flags=("bg_radius",),
            is_advanced=True,
        ),
    ] = None
    ramp: Annotated[
        bool,
        Param(
            "Remove ramp",
            "Subtract a plane fitted to the background, not only its mean.",
            EXTRACT,
            off_flags=("no_ramp",),
            relion_default=True,
            is_advanced=True,
        ),
    ] = True
    white_dust: Annotated[
        float | None,
        Param(
            "Stddev for white dust removal", "Replace brighter pixels by noise; -1: none.", EXTRACT, is_advanced=True
        ),
    ] = None
    black_dust: Annotated[
        float | None,
        Param("Stddev for black dust removal", "Replace darker pixels by noise; -1: none.", EXTRACT, is_advanced=True),
    ] = None
    window_px: Annotated[
        int | None,
        Param(
            "Window",
            "Crop the images to this size after rescaling.",
            EXTRACT,
            unit="px",
            flags=("window",),
            is_advanced=True,
        ),
    ] = None
    minimum_pick_fom: Annotated[
        float | None,
        Param(
            "Minimum autopick FOM",
            "Only picks whose figure of merit (rlnAutopickFigureOfMerit) is larger.",
            EXTRACT,
            is_advanced=True,
        ),
    ] = None
    extract_bias_x: Annotated[
        int, Param("Bias in X", "Added to all X coordinates.", EXTRACT, unit="px", is_advanced=True)
    ] = 0
    extract_bias_y: Annotated[
        int, Param("Bias in Y", "Added to all Y coordinates.", EXTRACT, unit="px", is_advanced=True)
    ] = 0
    pixel_size_A: Annotated[
        float | None,
        Param(
            "Pixel size of the micrographs",
            "Overrides the STAR file.",
            EXTRACT,
            unit="A",
            flags=("angpix",),
            is_advanced=True,
        ),
    ] = None

    reset_offsets: Annotated[
        bool, Param("Reset the refined offsets to zero?", "Discard the offsets of the earlier refinement.", AGAIN)
    ] = False
    recenter: Annotated[
        bool,
        Param("Re-center refined coordinates?", "Move the coordinates by the refined offsets, in whole pixels.", AGAIN),
    ] = False
    recenter_x: Annotated[
        float, Param("Re-center on X-coordinate (in pix)", "Point of the reference, from its center.", AGAIN, unit="px")
    ] = 0.0
    recenter_y: Annotated[
        float, Param("Re-center on Y-coordinate (in pix)", "Point of the reference, from its center.", AGAIN, unit="px")
    ] = 0.0
    recenter_z: Annotated[
        float, Param("Re-center on Z-coordinate (in pix)", "Point of the reference, from its center.", AGAIN, unit="px")
    ] = 0.0
    ref_pixel_size_A: Annotated[
        float | None,
        Param(
            "Pixel size of the reference",
            "Of the pixels that the point is given in; -1: that of the particles.",
            AGAIN,
            unit="A",
            flags=("ref_angpix",),
            is_advanced=True,
        ),
    ] = None
    keep_ctfs_micrographs: Annotated[
        bool,
        Param(
            "CTF of the micrographs",
            "Take optics and CTF from the micrographs instead of from the particles.",
            AGAIN,
            is_advanced=True,
        ),
    ] = False

    premultiply_ctf: Annotated[
        bool, Param("Premultiply by CTF", "Multiply the images by their CTF.", CTF, is_advanced=True)
    ] = False
    premultiply_extract_size_px: Annotated[
        int | None,
        Param(
            "Box of the CTF",
            "Box that is multiplied by the CTF before it is cropped; -1: the particle box.",
            CTF,
            unit="px",
            flags=("premultiply_extract_size",),
            is_advanced=True,
        ),
    ] = None
    phase_flip: Annotated[
        bool, Param("Flip phases", "Multiply the images by the sign of their CTF.", CTF, is_advanced=True)
    ] = False
    ctf_intact_first_peak: Annotated[
        bool, Param("Ignore CTF until first peak", "The CTF is 1 up to its first peak.", CTF, is_advanced=True)
    ] = False

    skip_missing: Annotated[
        bool,
        Param(
            "Skip what is missing",
            "Leave out micrographs that cannot be read and particles outside, and count them.",
            RUN,
        ),
    ] = False
    only_do_unfinished: Annotated[
        bool, Param("Only do unfinished", "Keep micrographs that an interrupted run has finished.", RUN)
    ] = False
    threads: Annotated[int, Param("Threads", "Threads; 0 is all cores.", RUN, flags=("j",), minimum=0)] = 0

    @field_validator(
        "scale_size_px",
        "window_px",
        "bg_diameter_px",
        "bg_diameter_A",
        "white_dust",
        "black_dust",
        "ref_pixel_size_A",
        "pixel_size_A",
        "premultiply_extract_size_px",
        mode="after",
    )
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        """Return None for RELION's ways to say off: zero and below."""
        return None if value is None or value <= 0 else value

    @field_validator("bg_radius_px", mode="after")
    @classmethod
    def _none_if_negative(cls, value: float | None) -> float | None:
        return None if value is None or value < 0 else value

    @field_validator(
        "refined_particles",
        "coord_list",
        "coord_dir",
        "coord_suffix",
        "part_dir",
        "part_star",
        "pick_star",
        mode="after",
    )
    @classmethod
    def _none_if_empty(cls, value: str | None) -> str | None:
        return None if value in (None, "", "None", "ASINPUT") else value

    @model_validator(mode="after")
    def _check_complete(self) -> ExtractParams:
        if not self.micrographs:
            raise ValueError("--i, the micrograph STAR file, is missing")
        if not (self.output or self.part_dir or self.part_star):
            raise ValueError("--o, the output folder, is missing")
        sources = {
            "--reextract_data_star": self.refined_particles,
            "--coord_list": self.coord_list,
            "--coord_suffix": self.coord_suffix,
        }
        given = [name for name, value in sources.items() if value]
        if not given:
            raise ValueError("the particles are missing: give --coord_list, --coord_suffix or --reextract_data_star")
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        return self

    @model_validator(mode="after")
    def _check_sizes(self) -> ExtractParams:
        box = self.box_size_px
        if box is None or box == -1:
            raise ValueError("--extract_size, the box, is missing")
        if box < 2:
            raise ValueError(f"the box must be an even number of pixels, 2 or more, but --extract_size is {box}")
        if box % 2:
            raise ValueError(f"the box must be even, but --extract_size is {box}; take {box + 1} or {box - 1}")
        if even(self.scale_size_px or box) > box:
            raise ValueError(
                f"--scale {self.scale_size_px} is larger than the box of {box} px; it can only make it smaller"
            )
        scaled = even(self.scale_size_px or box)
        if self.window_px is not None and even(self.window_px) > scaled:
            raise ValueError(f"--window {self.window_px} is larger than the image of {scaled} px")
        larger = self.premultiply_extract_size_px
        if larger is not None and (larger < box or larger % 2):
            raise ValueError(f"--premultiply_extract_size {larger} must be even and at least the box of {box} px")
        return self

    @model_validator(mode="after")
    def _check_choices(self) -> ExtractParams:
        if self.reset_offsets and self.recenter:
            raise ValueError("--reset_offsets and --recenter exclude each other")
        for name in ("reset_offsets", "recenter", "keep_ctfs_micrographs"):
            if getattr(self, name) and self.refined_particles is None:
                raise ValueError(f"--{name} needs refined particles (--reextract_data_star)")
        if self.premultiply_ctf and self.phase_flip:
            raise ValueError("--premultiply_ctf and --phase_flip exclude each other")
        diameters = (self.bg_radius_px, self.bg_diameter_px, self.bg_diameter_A)
        if sum(value is not None for value in diameters) > 1:
            raise ValueError("give one of --bg_radius, --bg_diameter and --bg_diameter_angst")
        return self

    @property
    def folder(self) -> str:
        """Folder of the stacks."""
        return self.part_dir or self.output or os.path.dirname(self.part_star or "") or "."

    @property
    def star(self) -> str:
        """Particle STAR file to write."""
        return self.part_star or os.path.join(self.output or self.folder, "particles.star")

    @property
    def point_px(self) -> tuple[float, float, float]:
        """Point of the reference that becomes the center."""
        return (self.recenter_x, self.recenter_y, self.recenter_z)


def even(size: int) -> int:
    """Return the size, or the next one when it is odd, as RELION does."""
    return size + size % 2
