"""Parameters of post-processing; the defaults are those of RELION's job."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import field_validator, model_validator

from napari_autorefine.params import ForeignOption, JobParams, Param

INPUT, SHARPEN, FSC, RUNNING = "I/O", "Sharpen", "FSC", "Running"


class PostprocessParams(JobParams):
    """How two half maps become one sharpened map with a resolution."""

    half1: Annotated[
        str,
        Param(
            "One of the 2 unfiltered half-maps",
            "Unfiltered map of half 1, or the folder of the refinement; half 2 is found by its name.",
            INPUT,
            flags=("i",),
            file_kind="read",
        ),
    ]
    half2: Annotated[
        str, Param("Other half-map", "Empty: found by its name.", INPUT, flags=("i2",), file_kind="read")
    ] = ""
    mask: Annotated[
        str,
        Param(
            "Solvent mask", "Soft mask between 0 and 1, or the folder of the job that made it.", INPUT, file_kind="read"
        ),
    ] = ""
    output: Annotated[
        str, Param("Output", "Folder and first part of the output names.", INPUT, flags=("o",), file_kind="write")
    ] = "postprocess"
    angpix: Annotated[
        float | None,
        Param("Calibrated pixel size", "Replaces the header's; -1: the header's.", INPUT, unit="A"),
    ] = None
    overwrite: Annotated[bool, Param("Overwrite", "Replace outputs of an earlier run.", INPUT)] = False
    auto_mask: Annotated[bool, Param("Make a mask", "Make the mask from the average of the half-maps.", INPUT)] = False
    inimask_threshold: Annotated[
        float | None,
        Param("Threshold of that mask", "Density where it begins; auto or empty: found.", INPUT, is_advanced=True),
    ] = None
    extend_inimask_px: Annotated[
        float, Param("Extend that mask", "Grow it by this much.", INPUT, unit="px", is_advanced=True)
    ] = 3.0
    mask_edge_px: Annotated[
        float,
        Param(
            "Soft edge of that mask",
            "Width of its cosine edge.",
            INPUT,
            unit="px",
            flags=("width_mask_edge",),
            minimum=0,
            is_advanced=True,
        ),
    ] = 6.0

    auto_bfac: Annotated[
        bool,
        Param(
            "Estimate B-factor automatically", "Fit a line to the Guinier plot; needs about 10 A or better.", SHARPEN
        ),
    ] = True
    autob_lowres_A: Annotated[
        float,
        Param("Lowest resolution for auto-B fit", "Where the line begins.", SHARPEN, unit="A", minimum=0,
              is_above_minimum=True),
    ] = 10.0  # fmt: skip
    autob_highres_A: Annotated[
        float, Param("Highest resolution for auto-B fit", "Where it ends; 0: Nyquist.", SHARPEN, unit="A", minimum=0)
    ] = 0.0
    adhoc_bfac_A2: Annotated[
        float | None,
        Param(
            "User-provided B-factor",
            "B-factor in square angstrom, below 0 to sharpen; 0: none.",
            SHARPEN,
            flags=("adhoc_bfac",),
        ),
    ] = None
    skip_fsc_weighting: Annotated[
        bool, Param("Skip FSC-weighting", "Do not weigh shells by their signal.", SHARPEN)
    ] = False
    low_pass_A: Annotated[
        float,
        Param("Ad-hoc low-pass filter", "0: none; negative: at the resolution.", SHARPEN, unit="A"),
    ] = 0.0
    filter_edge_width: Annotated[int, Param("Edge of that filter", "Shells.", SHARPEN, minimum=0, is_advanced=True)] = 2
    mtf: Annotated[str, Param("MTF of the detector", "STAR file; empty: none.", SHARPEN, file_kind="read")] = ""
    mtf_angpix: Annotated[
        float | None,
        Param("Original detector pixel size", "Pixel size of the raw micrographs; -1: that of the maps.", SHARPEN,
              unit="A"),
    ] = None  # fmt: skip
    half_maps: Annotated[bool, Param("Write half-maps", "Write the half-maps with the same sharpening.", SHARPEN)] = (
        False
    )

    force_mask: Annotated[bool, Param("Force the mask", "Use it even when the unmasked maps reach further.", FSC)] = (
        False
    )
    randomize_at_fsc: Annotated[
        float,
        Param("Randomise below FSC", "Phases are randomised from where the unmasked FSC falls below this.", FSC,
              minimum=0, maximum=1, is_advanced=True),
    ] = 0.8  # fmt: skip
    randomize_at_A: Annotated[
        float | None,
        Param(
            "Randomise from", "Resolution to randomise from; -1: by the FSC.", FSC, unit="A", flags=("randomize_at_A",)
        ),
    ] = None
    random_seed: Annotated[
        int, Param("Random seed", "Of the random phases; negative: the clock's.", FSC, is_advanced=True)
    ] = 0
    interpolate: Annotated[bool, Param("Interpolate", "Give the resolution between shells.", FSC)] = False
    molweight_kDa: Annotated[
        float | None,
        Param("Molecular mass", "Ordered mass in kDa, for a curve that does not depend on the mask.", FSC,
              flags=("molweight",)),
    ] = None  # fmt: skip
    threads: Annotated[int, Param("Threads", "Threads; 0: all cores.", RUNNING, flags=("j",), minimum=0)] = 0

    @field_validator("inimask_threshold", mode="before")
    @classmethod
    def _found_if_auto(cls, value: Any) -> Any:
        return None if isinstance(value, str) and value.strip().lower() in {"", "auto", "none"} else value

    @field_validator("angpix", "mtf_angpix", "randomize_at_A", "molweight_kDa", mode="after")
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        return None if value is None or value <= 0 else value

    @field_validator("mask", "mtf", "half2", mode="after")
    @classmethod
    def _empty_if_none(cls, value: str) -> str:
        return "" if value == "None" else value

    @model_validator(mode="before")
    @classmethod
    def _one_b_factor(cls, values: Any) -> Any:
        """Let a B-factor that is given replace the fit, unless the fit is asked for too."""
        if isinstance(values, dict) and "auto_bfac" not in values:
            given = [values[name] for name in ("adhoc_bfac_A2", "adhoc_bfac") if values.get(name) is not None]
            return values | {"auto_bfac": False} if given else values
        return values

    @model_validator(mode="after")
    def _check_choices(self) -> PostprocessParams:
        if self.auto_bfac and self.adhoc_bfac_A2:
            raise ValueError("--auto_bfac and --adhoc_bfac exclude each other")
        if self.auto_mask and self.mask:
            raise ValueError("--mask and --auto_mask exclude each other")
        if self.autob_highres_A >= self.autob_lowres_A:
            raise ValueError("--autob_highres must be a smaller number than --autob_lowres")
        return self


_LOCAL = ForeignOption(reason="Local resolution is not supported", is_refused=True)
_LOCAL_VALUE = ForeignOption(reason="it only matters for local resolution", n_value=1)
FOREIGN_OPTIONS = {
    "locres": _LOCAL,
    "ampl_corr": ForeignOption(reason="Amplitude correction is not supported", is_refused=True),
    "verb": ForeignOption(reason="messages are always shown", n_value=1),
    "pipeline_control": ForeignOption(reason="there is no RELION pipeline to report to", n_value=1),
} | {f"locres_{name}": _LOCAL_VALUE for name in ("sampling", "maskrad", "edgwidth", "randomize_at", "minres")}
"""Options of relion_postprocess that are no parameter here."""
