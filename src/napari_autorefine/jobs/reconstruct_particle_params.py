"""Parameters of ``reconstruct_particle``, and options of relion_tomo_reconstruct_particle without a meaning here."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.params import ForeignOption, JobParams, Param

INPUT, MAP, RUNNING = "I/O", "Average", "Running"


class ReconstructParticleParams(JobParams):
    """How particles with poses in tilt series become a map."""

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
        Param(
            "Input particle set",
            "STAR file with coordinates, angles and origins, or the folder of the job that made it.",
            INPUT,
            flags=("p",),
            file_kind="read",
        ),
    ] = ""
    tomograms: Annotated[
        str, Param("Input tomograms", "STAR file of the tilt series.", INPUT, flags=("t",), file_kind="read")
    ] = ""
    output: Annotated[str, Param("Output", "Folder of the maps.", INPUT, flags=("o",), file_kind="write")] = ""
    overwrite: Annotated[bool, Param("Overwrite", "Replace an earlier result.", INPUT)] = False

    box_size_px: Annotated[
        int,
        Param(
            "Box size",
            "Binned pixels, even, in which particles are cut and added up; larger than the map, as the CTF spreads.",
            MAP,
            unit="px",
            flags=("b",),
            minimum=16,
        ),
    ] = 128
    crop_size_px: Annotated[
        int | None,
        Param(
            "Cropped box size", "Binned pixels, even, of the map; -1: the box size.", MAP, unit="px", flags=("crop",)
        ),
    ] = None
    binning: Annotated[
        float, Param("Binning factor", "Tilt images are resampled by it.", MAP, flags=("bin",), minimum=1)
    ] = 1.0
    symmetry: Annotated[str, Param("Symmetry", "Point group, on RELION's axes.", MAP, flags=("sym",))] = "C1"
    snr: Annotated[
        float | None,
        Param(
            "Wiener SNR constant",
            "Regularises the map as if signal and noise had this ratio; -1: only what has hardly been seen is damped.",
            MAP,
            flags=("SNR",),
        ),
    ] = None
    taper_px: Annotated[
        float,
        Param(
            "Taper",
            "The map fades out over this width, to a sphere in its box.",
            MAP,
            unit="px",
            flags=("taper",),
            minimum=0,
            is_advanced=True,
        ),
    ] = 10.0
    threads: Annotated[int, Param("Threads", "0 is all cores.", RUNNING, flags=("j",), minimum=0, relion_default=1)] = 0

    @field_validator("crop_size_px", "snr", mode="after")
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        return None if value is None or value <= 0 else value

    @model_validator(mode="after")
    def _check(self) -> ReconstructParticleParams:
        if not self.output:
            raise ValueError("--o is missing")
        if not self.optimisation_set and not (self.particles and self.tomograms):
            raise ValueError("give an optimisation set with --i, or --p and --t")
        if self.box_size_px % 2 or self.map_size_px % 2:
            raise ValueError(f"box sizes must be even, they are {self.box_size_px} and {self.map_size_px}")
        if self.map_size_px > self.box_size_px:
            raise ValueError(f"crop {self.map_size_px} is larger than the box of {self.box_size_px}")
        return self

    @property
    def map_size_px(self) -> int:
        """Box of the map."""
        return self.crop_size_px or self.box_size_px


def _accept(reason: str, n_value: int = 0) -> ForeignOption:
    return ForeignOption(reason=reason, n_value=n_value)


def _refuse(what: str, n_value: int = 0, harmless: tuple[str, ...] = ()) -> ForeignOption:
    return ForeignOption(reason=f"{what} is not supported", n_value=n_value, is_refused=True, harmless=harmless)


_ONE_POOL = "all threads of --j share the work"
FOREIGN_OPTIONS = {
    "theme": _accept("messages are written as plain text", 1),
    "pipeline_control": _accept("there is no RELION pipeline to report to", 1),
    "j_out": _accept(_ONE_POOL, 1),
    "j_in": _accept(_ONE_POOL, 1),
    "mem": _accept("memory does not depend on the number of particles or threads", 1),
    "only_do_unfinished": _accept("the map is made again"),
    "mot": _refuse("Motion of single particles", 1, ("", "None")),
    "no_ctf": _refuse("Leaving out the CTF"),
    "no_circle_crop": _refuse("Leaving out the soft circle"),
    "whiten": _refuse("Whitening"),
    "no_backup": _accept("there are no partial results"),
    "backup": _accept("there are no partial results", 1),
}
"""Name (without dashes) of each option of relion_tomo_reconstruct_particle that is no parameter of ours."""
