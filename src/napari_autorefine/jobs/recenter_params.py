"""Parameters of ``recenter``, and options of relion_star_handler without a meaning here."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.params import ForeignOption, JobParams, Param

INPUT, CENTER, MASK = "I/O", "Centre", "On a mask"


class RecenterParams(JobParams):
    """Which point of the map becomes the centre of the particles, or which mask the map is to be moved onto."""

    particles: Annotated[
        str,
        Param(
            "Particles STAR file",
            "Particles with angles and origins, or the folder of the job that made them.",
            INPUT,
            flags=("i",),
            file_kind="read",
        ),
    ] = ""
    optimisation_set: Annotated[
        str,
        Param(
            "Optimisation set",
            "For particles of tomograms: names them, unless they are given; a new set is written beside the new file."
            " When it is empty the set is looked for beside the particles.",
            INPUT,
            flags=("ios",),
            file_kind="read",
        ),
    ] = ""
    output: Annotated[
        str,
        Param(
            "Output STAR file",
            "The same particles with new origins; in a folder the name is that of the input with _centered.",
            INPUT,
            flags=("o",),
            file_kind="write",
        ),
    ] = ""
    overwrite: Annotated[bool, Param("Overwrite", "Replace an existing file.", INPUT)] = False

    center_x_px: Annotated[
        float | None,
        Param("Centre X", "From the centre of the map.", CENTER, unit="px", flags=("center_X",), relion_default=0.0),
    ] = None
    center_y_px: Annotated[
        float | None,
        Param("Centre Y", "From the centre of the map.", CENTER, unit="px", flags=("center_Y",), relion_default=0.0),
    ] = None
    center_z_px: Annotated[
        float | None,
        Param("Centre Z", "From the centre of the map.", CENTER, unit="px", flags=("center_Z",), relion_default=0.0),
    ] = None
    center_A: Annotated[
        tuple[float, ...],
        Param("Centre in A", "X, Y and Z from the centre of the map, in place of pixels.", CENTER, flags=("center_A",)),
    ] = ()
    ref_angpix: Annotated[
        float | None,
        Param(
            "Pixel size of the map",
            "Empty or -1: that of the particles, or of the header of the map that is compared with a mask.",
            CENTER,
            unit="A",
        ),
    ] = None

    mask: Annotated[
        str,
        Param("Mask", "Find the centre by moving the map onto this mask.", MASK, flags=("on_mask",), file_kind="read"),
    ] = ""
    map: Annotated[
        str, Param("Map", "Map of these particles, or the folder of its refinement.", MASK, file_kind="read")
    ] = ""
    symmetry: Annotated[
        str,
        Param("Symmetry", "Of the map: a centre that is found stays on the axes of this group.", MASK, flags=("sym",)),
    ] = "C1"
    apply: Annotated[
        bool, Param("Apply", "Recentre the particles on what is found; otherwise it is only shown.", MASK)
    ] = False

    @field_validator("ref_angpix", mode="after")
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        return None if value is None or value <= 0 else value

    @field_validator("mask", "map", "optimisation_set", mode="after")
    @classmethod
    def _empty_if_none(cls, value: str) -> str:
        return "" if value == "None" else value

    @property
    def center_px(self) -> tuple[float, float, float] | None:
        """Centre in pixels, None when no coordinate is given."""
        given = (self.center_x_px, self.center_y_px, self.center_z_px)
        return None if all(value is None for value in given) else (given[0] or 0.0, given[1] or 0.0, given[2] or 0.0)

    @model_validator(mode="after")
    def _check(self) -> RecenterParams:
        has_center = self.center_px is not None or bool(self.center_A)
        if self.center_A and len(self.center_A) != 3:
            raise ValueError(f"center_A needs three numbers, X Y Z, not {len(self.center_A)}")
        if self.center_A and self.center_px is not None:
            raise ValueError("give the centre in pixels or with --center_A, not both")
        if bool(self.mask) != bool(self.map):
            raise ValueError("--on_mask and --map go together")
        if self.mask and has_center:
            raise ValueError("--on_mask finds the centre, so that --center_X, --center_Y and --center_Z are left out")
        if self.apply and not self.mask:
            raise ValueError("--apply goes with --on_mask and --map")
        if not self.mask and not has_center:
            raise ValueError("give --center_X, --center_Y or --center_Z, or --on_mask and --map, or nothing is to do")
        if (not self.mask or self.apply) and not ((self.particles or self.optimisation_set) and self.output):
            raise ValueError("--i and --o are needed to recentre particles")
        return self


def _refuse(what: str, n_value: int = 1) -> ForeignOption:
    return ForeignOption(reason=f"{what} is not what this job does", n_value=n_value, is_refused=True)


_COLUMNS = "Changing columns"
_OF_OTHERS = {
    "Comparing files": "compare label1 label2 label3 max_dist",
    "Selecting particles": "select minval maxval select_by_str select_include select_exclude discard_label"
    " discard_sigma remove_duplicates image_angpix",
    "Combining files": "check_duplicates",
    "Splitting files": "nr_split size_split",
    _COLUMNS: "operate operate2 operate3 set_to multiply_by add_to remove_column add_column add_column_value"
    " copy_column_from",
    "Counting": "hist_column hist_bins hist_min hist_max",
    "Reading a file without its optics groups": "i_tablename",
}
_SWITCHES = {
    "Selecting particles": "discard_on_stats",
    "Combining files": "combine",
    "Splitting files": "split",
    "Counting": "in_percent show_cumulative",
    "Reading a file without its optics groups": "ignore_optics",
}
FOREIGN_OPTIONS = {
    "center": ForeignOption(reason="centring is what this job does anyway"),
    "pipeline_control": ForeignOption(reason="there is no RELION pipeline to report to", n_value=1),
    "angpix": ForeignOption(reason="pixel sizes come from the optics groups", n_value=1),
    "random_order": ForeignOption(reason="no file is split"),
    "random_seed": ForeignOption(reason="nothing is random", n_value=1),
    **{name: _refuse(what) for what, names in _OF_OTHERS.items() for name in names.split()},
    **{name: _refuse(what, 0) for what, names in _SWITCHES.items() for name in names.split()},
}
"""Name (without dashes) of each option of relion_star_handler that is no parameter of ours."""
