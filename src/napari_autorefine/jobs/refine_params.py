"""Parameters of the auto-refinement; the defaults are those of RELION's tutorials."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.params import JobParams, Param

INPUT, REFERENCE, CTF, MASK = "Input and output", "Reference", "CTF", "Mask and spectra"
SAMPLING, COMPUTE, EXPERT = "Sampling", "Compute", "Expert"


class RefineParams(JobParams):
    """Everything that decides what an auto-refinement does."""

    particles: Annotated[
        str, Param("Particles", "STAR file of the particles (RELION 3.0 to 5).", INPUT, flags=("i",), file_kind="read")
    ] = ""
    reference: Annotated[
        str,
        Param(
            "Reference map",
            "Starting map; with half1 or half2 in its name each half-set starts from its own file.",
            INPUT,
            flags=("ref",),
            file_kind="read",
        ),
    ] = ""
    output: Annotated[
        str, Param("Output", "Folder and first part of the output names.", INPUT, flags=("o",), file_kind="write")
    ] = ""
    mask: Annotated[
        str | None,
        Param(
            "Reference mask",
            "Solvent mask between 0 and 1; without it a sphere of the mask diameter.",
            INPUT,
            flags=("solvent_mask",),
            file_kind="read",
        ),
    ] = None
    continue_from: Annotated[
        str | None,
        Param(
            "Continue from",
            "Optimiser STAR file of the iteration to go on from.",
            INPUT,
            flags=("continue",),
            file_kind="read",
        ),
    ] = None
    overwrite: Annotated[bool, Param("Overwrite", "Replace outputs of an earlier run.", INPUT)] = False

    symmetry: Annotated[
        str, Param("Symmetry", "Point group: C1, Cn, Dn, T, O, I1 to I4.", REFERENCE, flags=("sym",))
    ] = "C1"
    ini_high_A: Annotated[
        float | None,
        Param(
            "Initial low-pass",
            "Low-pass filter of the starting map; 0 or less is none.",
            REFERENCE,
            unit="A",
            relion_default=None,
        ),
    ] = 60.0
    firstiter_cc: Annotated[
        bool,
        Param(
            "First iteration by correlation",
            "The map is not on absolute grey scale: the first iteration compares by cross-correlation.",
            REFERENCE,
        ),
    ] = True
    reference_voxel_size_A: Annotated[
        float | None,
        Param(
            "Pixel size of the map",
            "Overrides the header of the map.",
            REFERENCE,
            unit="A",
            flags=("ref_angpix",),
            is_advanced=True,
        ),
    ] = None
    trust_ref_size: Annotated[
        bool,
        Param(
            "Resize the map if needed",
            "A map of another box or pixel size is resampled to the particles' grid.",
            REFERENCE,
        ),
    ] = False

    ctf: Annotated[bool, Param("CTF correction", "Correct for the CTF.", CTF)] = True
    ctf_intact_first_peak: Annotated[
        bool, Param("Ignore CTF until first peak", "The CTF is 1 up to its first peak.", CTF)
    ] = False

    particle_diameter_A: Annotated[
        float | None,
        Param(
            "Mask diameter",
            "Diameter of the circular mask of the images; 0 or less is the box less the mask edge.",
            MASK,
            unit="A",
            relion_default=None,
        ),
    ] = 200.0
    zero_mask: Annotated[
        bool,
        Param(
            "Mask particles with zeros",
            "Outside the mask images are set to their background mean, otherwise to noise.",
            MASK,
        ),
    ] = True
    flatten_solvent: Annotated[
        bool, Param("Flatten the solvent", "Multiply the maps by the mask between iterations.", MASK)
    ] = True
    solvent_correct_fsc: Annotated[
        bool,
        Param(
            "Solvent-corrected FSC",
            "FSC within the reference mask, corrected for the mask by phase randomisation.",
            MASK,
        ),
    ] = False
    mask_edge_px: Annotated[
        float,
        Param(
            "Mask edge", "Width of soft mask edges.", MASK, unit="px", flags=("maskedge",), minimum=0, is_advanced=True
        ),
    ] = 5.0
    low_resol_join_halves_A: Annotated[
        float | None,
        Param(
            "Join halves up to",
            "The halves share all that is coarser than this, so that they cannot drift apart; 0 or less is never.",
            MASK,
            unit="A",
            relion_default=None,
            is_advanced=True,
        ),
    ] = 40.0
    tau2_fudge: Annotated[
        float,
        Param(
            "Regularisation (tau2 fudge)",
            "Above 1 the data weigh more against the prior.",
            MASK,
            minimum=0,
            is_above_minimum=True,
            is_advanced=True,
        ),
    ] = 1.0
    norm: Annotated[
        bool,
        Param(
            "Correct normalisation",
            "Estimate a grey-scale factor of each image.",
            MASK,
            off_flags=("no_norm",),
            is_advanced=True,
        ),
    ] = True
    scale: Annotated[
        bool,
        Param(
            "Correct intensity scale",
            "Estimate a signal scale of each micrograph or group.",
            MASK,
            off_flags=("no_scale",),
            is_advanced=True,
        ),
    ] = True
    particle_scale: Annotated[
        bool,
        Param(
            "Weigh particles by intensity",
            "Estimate how strongly each particle shows the signal; poor and empty images then count for little."
            " Not in RELION.",
            MASK,
            flags=("particle_scale",),
            is_advanced=True,
            relion_default=True,
        ),
    ] = True

    healpix_order: Annotated[
        int,
        Param(
            "Initial angular order",
            "HEALPix order of the first search: 1, 2, 3 are 15, 7.5, 3.7 degrees after oversampling.",
            SAMPLING,
            minimum=0,
            maximum=8,
        ),
    ] = 2
    auto_local_healpix_order: Annotated[
        int,
        Param(
            "Local searches from order",
            "HEALPix order from which only neighbours are searched; 4 is 1.8 degrees after oversampling.",
            SAMPLING,
            minimum=0,
            maximum=9,
        ),
    ] = 4
    offset_range_px: Annotated[
        float,
        Param(
            "Offset range",
            "Search range of the image offsets.",
            SAMPLING,
            unit="px",
            minimum=0,
            is_above_minimum=True,
            relion_default=6.0,
        ),
    ] = 5.0
    offset_step_px: Annotated[
        float,
        Param(
            "Offset step",
            "Step of the offset search before oversampling.",
            SAMPLING,
            unit="px",
            minimum=0,
            is_above_minimum=True,
        ),
    ] = 2.0
    auto_ignore_angles: Annotated[
        bool,
        Param(
            "Finer sampling faster: ignore angles", "Go to finer sampling while orientations still change.", SAMPLING
        ),
    ] = True
    auto_resol_angles: Annotated[
        bool,
        Param("Finer sampling faster: by resolution", "Go to finer sampling when the resolution needs it.", SAMPLING),
    ] = True

    threads: Annotated[
        int | None, Param("Threads", "CPU threads; by default all cores.", COMPUTE, flags=("j",), minimum=1)
    ] = None
    gpu: Annotated[
        str | None,
        Param(
            "GPUs",
            "Which GPUs, as in 0:1; without a value, or without the option, all there are.",
            COMPUTE,
            bare_value="",
        ),
    ] = None
    cpu: Annotated[bool, Param("No GPU", "Do not use a GPU.", COMPUTE)] = False
    preread_images: Annotated[bool, Param("Pre-read images", "Keep all images in memory.", COMPUTE)] = False
    scratch_dir: Annotated[
        str | None,
        Param(
            "Scratch folder",
            "Copy the stacks to this fast local folder first.",
            COMPUTE,
            file_kind="folder",
            is_advanced=True,
        ),
    ] = None
    random_seed: Annotated[
        int | None,
        Param(
            "Random seed", "Decides half-sets and perturbations; by default, or below 0, taken from the clock.", COMPUTE
        ),
    ] = None
    pad: Annotated[
        int,
        Param(
            "Padding",
            "Oversampling of the reference's Fourier transform; 1 saves memory.",
            COMPUTE,
            minimum=1,
            maximum=2,
        ),
    ] = 2
    skip_gridding: Annotated[
        bool,
        Param(
            "Skip gridding",
            "Reconstruct without gridding iterations.",
            COMPUTE,
            off_flags=("dont_skip_gridding",),
            relion_default=True,
        ),
    ] = True

    perturb: Annotated[
        float,
        Param("Perturbation", "Random displacement of the angular grid, as a factor of its step.", EXPERT, minimum=0),
    ] = 0.5
    adaptive_fraction: Annotated[
        float,
        Param(
            "Adaptive fraction",
            "Posterior weight that the first pass keeps.",
            EXPERT,
            minimum=0,
            is_above_minimum=True,
            maximum=1,
        ),
    ] = 0.999
    max_significant: Annotated[
        int | None,
        Param(
            "Most poses kept",
            "Upper limit of poses kept by the first pass; 0 or less is none.",
            EXPERT,
            flags=("maxsig",),
        ),
    ] = None
    sigma_offset_A: Annotated[
        float,
        Param(
            "Offset deviation",
            "First estimate of the standard deviation of the offsets.",
            EXPERT,
            unit="A",
            flags=("offset",),
            minimum=0,
            is_above_minimum=True,
        ),
    ] = 10.0
    strict_highres_exp_A: Annotated[
        float | None,
        Param("Limit of the search", "Finest resolution used for scoring; 0 or less is no limit.", EXPERT, unit="A"),
    ] = None
    coarse_size_px: Annotated[
        int | None,
        Param("First-pass size", "Largest image size in the first pass; 0 or less is automatic.", EXPERT, unit="px"),
    ] = None
    incr_size: Annotated[
        int, Param("Shells beyond", "Fourier shells beyond the current resolution that take part.", EXPERT, minimum=0)
    ] = 10
    force_converge: Annotated[
        bool, Param("Converge at once", "Run only the last iteration, with all data and both halves joined.", EXPERT)
    ] = False
    max_iterations: Annotated[
        int,
        Param("Most iterations", "Stop at this iteration at the latest.", EXPERT, flags=("auto_iter_max",), minimum=1),
    ] = 999
    dont_check_norm: Annotated[
        bool, Param("No background test", "Do not warn of images whose background is not normalised.", EXPERT)
    ] = False

    @field_validator(
        "ini_high_A",
        "reference_voxel_size_A",
        "particle_diameter_A",
        "low_resol_join_halves_A",
        "max_significant",
        "strict_highres_exp_A",
        "coarse_size_px",
        mode="after",
    )
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        """Return None for RELION's ways to say off: zero and below."""
        return None if value is None or value <= 0 else value

    @field_validator("mask", "continue_from", "scratch_dir", mode="after")
    @classmethod
    def _none_if_empty(cls, value: str | None) -> str | None:
        return None if value in (None, "", "None") else value

    @model_validator(mode="after")
    def _check_complete(self) -> RefineParams:
        if self.continue_from is None:
            missing = [flag for flag, value in self._inputs() if not value]
            if missing:
                raise ValueError(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
        if self.cpu and self.gpu is not None:
            raise ValueError("--gpu and --cpu exclude each other")
        return self

    def _inputs(self) -> tuple[tuple[str, str], ...]:
        return (("--i", self.particles), ("--ref", self.reference), ("--o", self.output))
