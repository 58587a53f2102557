"""Parameters of the auto-refinement that only matter for particles of tomograms."""

from __future__ import annotations

from typing import Annotated

from napari_autorefine.jobs.refine_input_params import RefineInputParams
from napari_autorefine.params import Param

CTF, SAMPLING = "CTF", "Auto-sampling"


class RefineTomoParams(RefineInputParams):
    """How CTF volumes of subtomograms are to be understood, and what is known of their tilt."""

    ctf3d_not_squared: Annotated[
        bool,
        Param(
            "CTF volumes hold the CTF?",
            "CTF volumes of subtomograms hold the CTF, not its square.",
            CTF,
            is_advanced=True,
        ),
    ] = False
    normalised_subtomo: Annotated[
        bool,
        Param(
            "Subtomograms are normalised?",
            "Volumes and squared CTFs were divided by the multiplicity when they were made.",
            CTF,
            is_advanced=True,
        ),
    ] = False
    skip_subtomo_multi: Annotated[
        bool,
        Param(
            "Ignore the multiplicity?",
            "Take the noise to be as strong however many tilts meet in a coefficient of a subtomogram.",
            CTF,
            is_advanced=True,
        ),
    ] = False
    subtomo_multi_thr: Annotated[
        float,
        Param(
            "Least multiplicity",
            "Coefficients of subtomograms with less are left out: the missing wedge.",
            CTF,
            minimum=0,
            is_advanced=True,
        ),
    ] = 0.01
    sigma_tilt_deg: Annotated[
        float | None,
        Param(
            "Prior width on tilt angle",
            "Search only within three times this of the tilt prior of each particle of a tomogram; 0 or less is off.",
            SAMPLING,
            unit="deg",
            flags=("sigma_tilt",),
            maximum=90,
        ),
    ] = None
