"""Parameters of solvent masks; the defaults are those of RELION's job."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import field_validator, model_validator

from napari_autorefine.params import ForeignOption, JobParams, Param

INPUT, MASK, LOGIC, SPHERE, RUNNING = "I/O", "Mask", "Logic", "Sphere", "Running"
_NEGATIVE_IS_NONE = ("lowpass_A", "angpix", "molweight_kDa")


class MaskParams(JobParams):
    """Where a soft mask comes from and what is done to it."""

    input: Annotated[
        str,
        Param(
            "Input 3D map",
            "Map to make the mask from, or the folder of the job that made it.",
            INPUT,
            flags=("i",),
            file_kind="read",
        ),
    ] = ""
    output: Annotated[str, Param("Output", "New mask.", INPUT, flags=("o",), file_kind="write")] = "mask.mrc"
    overwrite: Annotated[bool, Param("Overwrite", "Replace an existing mask.", INPUT)] = False

    lowpass_A: Annotated[
        float | None,
        Param("Lowpass filter map", "Filter the map first; 0 or less is none.", MASK, unit="A", relion_default=None),
    ] = 15.0
    ini_threshold: Annotated[
        float | None,
        Param(
            "Initial binarisation threshold",
            "Voxels from this density on belong to the molecule; auto or empty: found from the map.",
            MASK,
            relion_default=0.01,
        ),
    ] = None
    molweight_kDa: Annotated[
        float | None,
        Param(
            "Molecular mass",
            "Mass in kDa; the threshold is found so that the contour holds it.",
            MASK,
            flags=("molweight",),
        ),
    ] = None
    extend_px: Annotated[
        float,
        Param(
            "Extend binary map",
            "Grow the body by this much; negative values shrink it.",
            MASK,
            unit="px",
            flags=("extend_inimask",),
            relion_default=0.0,
        ),
    ] = 3.0
    soft_edge_px: Annotated[
        float,
        Param(
            "Soft edge",
            "Width of the cosine edge around it.",
            MASK,
            unit="px",
            flags=("width_soft_edge",),
            minimum=0,
            relion_default=0.0,
        ),
    ] = 3.0
    largest: Annotated[
        bool, Param("Largest body only", "Keep the largest connected body, before it is extended.", MASK)
    ] = False
    fill_cavities: Annotated[bool, Param("Fill cavities", "Fill what is enclosed on all sides.", MASK)] = False
    invert: Annotated[bool, Param("Invert", "Swap inside and outside at the end.", MASK)] = False
    angpix: Annotated[
        float | None,
        Param("Pixel size", "Overrides the header of the map; -1: the header's.", MASK, unit="A"),
    ] = None

    and_map: Annotated[
        str,
        Param("AND", "A voxel must also be above the threshold in this map.", LOGIC, flags=("and",), file_kind="read"),
    ] = ""
    or_map: Annotated[
        str,
        Param("OR", "Or above the threshold in this map instead.", LOGIC, flags=("or",), file_kind="read"),
    ] = ""
    and_not_map: Annotated[
        str,
        Param("AND NOT", "It must be below the threshold in this map.", LOGIC, flags=("and_not",), file_kind="read"),
    ] = ""
    or_not_map: Annotated[
        str,
        Param("OR NOT", "Or below the threshold in this map.", LOGIC, flags=("or_not",), file_kind="read"),
    ] = ""

    denovo: Annotated[bool, Param("Sphere or shell", "Make a mask from radii instead of a map.", SPHERE)] = False
    box_size: Annotated[
        int | None, Param("Box", "Box of the mask; -1: none given.", SPHERE, unit="px", relion_default=None)
    ] = None
    inner_radius_px: Annotated[
        float, Param("Inner radius", "Hollow inside this radius; 0: solid.", SPHERE, unit="px", minimum=0)
    ] = 0.0
    outer_radius_px: Annotated[float, Param("Outer radius", "Radius of the sphere.", SPHERE, unit="px", minimum=0)] = (
        99999.0
    )
    center_x_px: Annotated[float, Param("Center X", "From the centre of the box.", SPHERE, unit="px")] = 0.0
    center_y_px: Annotated[float, Param("Center Y", "From the centre of the box.", SPHERE, unit="px")] = 0.0
    center_z_px: Annotated[float, Param("Center Z", "From the centre of the box.", SPHERE, unit="px")] = 0.0

    threads: Annotated[
        int, Param("Threads", "Threads; 0: all cores.", RUNNING, flags=("j",), minimum=0, relion_default=1)
    ] = 0

    @field_validator("ini_threshold", mode="before")
    @classmethod
    def _found_if_auto(cls, value: Any) -> Any:
        return None if isinstance(value, str) and value.strip().lower() in {"", "auto", "none"} else value

    @field_validator(*_NEGATIVE_IS_NONE, "box_size", mode="after")
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        return None if value is None or value <= 0 else value

    @model_validator(mode="after")
    def _check_purpose(self) -> MaskParams:
        if self.denovo:
            if self.box_size is None:
                raise ValueError("--denovo needs --box_size")
            if self.inner_radius_px >= self.outer_radius_px:
                raise ValueError("--inner_radius must be smaller than --outer_radius")
        elif not self.input:
            raise ValueError("--i is missing; or give --denovo for a sphere")
        given = [flag for flag, path in self.logic() if path]
        if len(given) > 1:
            raise ValueError(f"--{' and --'.join(given)} exclude each other")
        if given and self.ini_threshold is None:
            raise ValueError(f"--{given[0]} needs a number for --ini_threshold, as it holds for both maps")
        if self.molweight_kDa is not None and self.ini_threshold is not None:
            raise ValueError("--molweight and --ini_threshold exclude each other")
        return self

    def logic(self) -> tuple[tuple[str, str], ...]:
        """Return the four ways to combine a second map with the first, each with its file."""
        return (
            ("and", self.and_map),
            ("or", self.or_map),
            ("and_not", self.and_not_map),
            ("or_not", self.or_not_map),
        )


_HELIX = "Masks of helices are not supported"
FOREIGN_OPTIONS = {
    "helix": ForeignOption(reason=_HELIX, is_refused=True),
    "z_percentage": ForeignOption(reason="it only matters for helices", n_value=1),
    "pipeline_control": ForeignOption(reason="there is no RELION pipeline to report to", n_value=1),
}
"""Options of relion_mask_create that are no parameter here."""
