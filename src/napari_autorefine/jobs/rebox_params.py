"""Parameters of changing box and pixel size."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import field_validator, model_validator

from napari_autorefine.params import ForeignOption, JobParams, Param

INPUT, CHANGE = "I/O", "Rebox and rescale"


class ReboxParams(JobParams):
    """What ``rebox`` makes of maps: first another pixel size, then another box."""

    input: Annotated[
        tuple[str, ...] | str,
        Param("Input map", "Maps or masks to change, or folders of jobs.", INPUT, flags=("i",), file_kind="read"),
    ]
    output: Annotated[
        str,
        Param(
            "Output",
            "New map; a folder for several: NAME_reboxed_rescaled.mrc in it.",
            INPUT,
            flags=("o",),
            file_kind="write",
        ),
    ]
    overwrite: Annotated[bool, Param("Overwrite", "Replace existing maps.", INPUT)] = False
    new_box: Annotated[
        int | None, Param("New box size", "Cut or pad to this box; -1: as it is.", CHANGE, unit="px")
    ] = None
    rescale_angpix: Annotated[
        float | None,
        Param("Rescaled pixel size", "Resample to this pixel size; -1: as it is.", CHANGE, unit="A"),
    ] = None
    force_pixel_size: Annotated[
        bool,
        Param(
            "Fix disparities in pixel size precision",
            "Write the pixel size that was asked for, where a whole number of voxels gives a slightly different one.",
            CHANGE,
        ),
    ] = False
    angpix: Annotated[
        float | None,
        Param("Pixel size of the input", "Overrides the header; -1: the header's.", CHANGE, unit="A"),
    ] = None
    force_header_angpix: Annotated[
        float | None,
        Param("Pixel size to write", "Only the header changes; -1: as it is.", CHANGE, unit="A"),
    ] = None

    @field_validator("input", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("new_box", "rescale_angpix", "angpix", "force_header_angpix", mode="after")
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        return None if value is None or value < 0 else value

    @model_validator(mode="after")
    def _check_purpose(self) -> ReboxParams:
        for flag, value in (("rescale_angpix", self.rescale_angpix), ("angpix", self.angpix)):
            if value == 0:
                raise ValueError(f"{flag} must be above 0, it is 0")
        if self.new_box is not None and self.new_box < 2:
            raise ValueError(f"new_box must be at least 2, it is {self.new_box}")
        if self.force_header_angpix == 0:
            raise ValueError("force_header_angpix must be above 0, it is 0")
        if not self.input:
            raise ValueError("--i is missing")
        if self.rescale_angpix is None and self.new_box is None and self.force_header_angpix is None:
            raise ValueError("give --rescale_angpix, --new_box or --force_header_angpix, or there is nothing to do")
        if self.force_pixel_size and self.rescale_angpix is None:
            raise ValueError("--force_pixel_size needs --rescale_angpix")
        if self.force_pixel_size and self.force_header_angpix is not None:
            raise ValueError("--force_pixel_size and --force_header_angpix exclude each other")
        return self

    @property
    def maps(self) -> tuple[str, ...]:
        """Files of all input maps."""
        return (self.input,) if isinstance(self.input, str) else self.input


def _refused(n_value: int = 1, harmless: tuple[str, ...] = ()) -> ForeignOption:
    return ForeignOption(
        reason="only pixel size and box are changed here", n_value=n_value, is_refused=True, harmless=harmless
    )


_WITH_VALUE = (
    "multiply divide add subtract fsc adjust_power fourier_filter optimise_bfactor_subtract mask_optimise_subtract"
    " bfactor lowpass highpass directional LoG shift_x shift_y shift_z correct_avg_ampl minr_ampl_corr replace_nan"
    " phase_randomise sym edge_x0 edge_y0 edge_xF edge_yF avg_bin avg_first avg_last black white sigma_contrast"
)
_SWITCHES = (
    "power optimise_scale_subtract stats com flipX flipY flipZ invert_hand shift_com avg_ampl avg_ampl2 avg_ampl2_ali"
    " average remove_nan flipXY flipmXY add_edge average_all_movie_frames"
)
FOREIGN_OPTIONS = (
    {name: _refused() for name in _WITH_VALUE.split()}
    | {name: _refused(0) for name in _SWITCHES.split()}
    | {
        "multiply_constant": _refused(harmless=("1", "1.0", "1.")),
        "divide_constant": _refused(harmless=("1", "1.0", "1.")),
        "add_constant": _refused(harmless=("0", "0.0", "0.")),
        "subtract_constant": _refused(harmless=("0", "0.0", "0.")),
        "threshold_above": _refused(),
        "threshold_below": _refused(),
        "filter_edge_width": ForeignOption(reason="it only matters for filters", n_value=1),
        "pipeline_control": ForeignOption(reason="there is no RELION pipeline to report to", n_value=1),
    }
)
"""Options of relion_image_handler that are no parameter here."""
