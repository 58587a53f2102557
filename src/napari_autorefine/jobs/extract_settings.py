"""What the parameters of an extraction mean for pixels; options of relion_preprocess without a meaning here."""

from __future__ import annotations

from napari_autorefine.jobs.extract_params import ExtractParams, even
from napari_autorefine.model.extraction import PixelSteps
from napari_autorefine.params import ForeignOption

_DEFAULT_DIAMETER = 0.75


def pixel_steps(params: ExtractParams, micrograph_pixel_A: float) -> PixelSteps:
    """Return what is done to the pixels of micrographs with this pixel size.

    Raises
    ------
    ValueError
        The background circle does not fit the image.
    """
    assert params.box_size_px is not None
    box, scaled = params.box_size_px, even(params.scale_size_px or params.box_size_px)
    size = even(params.window_px or scaled)
    radius = background_radius(params, micrograph_pixel_A) if params.normalise else None
    if radius is not None and 2 * radius > size:
        raise ValueError(
            f"the background circle of radius {radius:g} px is larger than the image of {size} px, so there is no"
            " background; choose a smaller --bg_radius or --bg_diameter"
        )
    filtered = params.premultiply_ctf or params.phase_flip
    return PixelSteps(
        box_size=box,
        ctf_box_size=(params.premultiply_extract_size_px or box) if filtered else box,
        scale_size=scaled,
        window_size=size,
        background_radius_px=radius,
        is_ramp_removed=params.ramp,
        white_dust=params.white_dust,
        black_dust=params.black_dust,
        is_inverted=params.invert_contrast,
    )


def background_radius(params: ExtractParams, micrograph_pixel_A: float) -> float:
    """Return the radius of the background circle in pixels after rescaling, by the rule of RELION's window."""
    assert params.box_size_px is not None
    if params.bg_radius_px is not None:
        return params.bg_radius_px
    box, scaled = params.box_size_px, even(params.scale_size_px or params.box_size_px)
    diameter = float(int(_DEFAULT_DIAMETER * box))
    if params.bg_diameter_px is not None:
        diameter = params.bg_diameter_px
    elif params.bg_diameter_A is not None:
        diameter = params.bg_diameter_A / micrograph_pixel_A
    return float(int(0.5 * diameter * scaled / box))


def _accept(reason: str, n_value: int = 0) -> ForeignOption:
    return ForeignOption(reason=reason, n_value=n_value)


def _refuse(what: str, n_value: int = 0, harmless: tuple[str, ...] = ()) -> ForeignOption:
    return ForeignOption(reason=f"{what} is not supported", n_value=n_value, is_refused=True, harmless=harmless)


_HELIX = "particles are not helical"
FOREIGN_OPTIONS = {
    "extract": _accept("it is what this job does"),
    "pipeline_control": _accept("there is no RELION pipeline to report to", 1),
    "verb": _accept("progress is always shown", 1),
    "helix": _refuse("Helical extraction"),
    "helical_tubes": _refuse("Helical extraction"),
    "helical_cut_into_segments": _refuse("Helical extraction"),
    "helical_bimodal_angular_priors": _accept(_HELIX),
    "helical_outer_diameter": _accept(_HELIX, 1),
    "helical_nr_asu": _accept(_HELIX, 1),
    "helical_rise": _accept(_HELIX, 1),
    "project3d": _refuse("Projection of subtomograms"),
    "operate_on": _refuse("Work on an existing stack", 1, ("",)),
    "operate_out": _accept("no existing stack is worked on", 1),
}
"""Name (without dashes) of each option of relion_preprocess that is no parameter of ours."""
