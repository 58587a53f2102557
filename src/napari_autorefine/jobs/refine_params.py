"""Parameters of the auto-refinement; the defaults are those of RELION's tutorials."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.jobs.refine_cluster_params import RefineClusterParams
from napari_autorefine.jobs.refine_input_params import none_if_empty, none_if_off
from napari_autorefine.params import Param

OPTIMISATION, SAMPLING, COMPUTE, RUNNING = "Optimisation", "Auto-sampling", "Compute", "Running"


class RefineParams(RefineClusterParams):
    """Everything that decides what an auto-refinement does."""

    particle_diameter_A: Annotated[
        float | None,
        Param(
            "Mask diameter",
            "Diameter of the circular mask of the images; 0 or less is the box less the mask edge.",
            OPTIMISATION,
            unit="A",
            relion_default=None,
        ),
    ] = 200.0
    zero_mask: Annotated[
        bool,
        Param(
            "Mask individual particles with zeros?",
            "Outside the mask images are set to their background mean, otherwise to noise.",
            OPTIMISATION,
        ),
    ] = True
    flatten_solvent: Annotated[
        bool,
        Param(
            "Flatten the solvent?",
            "Multiply the maps by the mask between iterations.",
            OPTIMISATION,
            is_advanced=True,
        ),
    ] = True
    solvent_correct_fsc: Annotated[
        bool,
        Param(
            "Use solvent-flattened FSCs?",
            "FSC within the reference mask, corrected for the mask by phase randomisation.",
            OPTIMISATION,
        ),
    ] = False
    mask_edge_px: Annotated[
        float,
        Param(
            "Mask edge",
            "Width of soft mask edges.",
            OPTIMISATION,
            unit="px",
            flags=("maskedge",),
            minimum=0,
            is_advanced=True,
        ),
    ] = 5.0
    low_resol_join_halves_A: Annotated[
        float | None,
        Param(
            "Join halves up to",
            "The halves share all that is coarser than this, so that they cannot drift apart; 0 or less is never.",
            OPTIMISATION,
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
            OPTIMISATION,
            minimum=0,
            is_above_minimum=True,
            is_advanced=True,
        ),
    ] = 1.0
    norm: Annotated[
        bool,
        Param(
            "Correct normalisation?",
            "Estimate a grey-scale factor of each image.",
            OPTIMISATION,
            off_flags=("no_norm",),
            is_advanced=True,
        ),
    ] = True
    scale: Annotated[
        bool,
        Param(
            "Correct intensity scale?",
            "Estimate a signal scale of each micrograph or group.",
            OPTIMISATION,
            off_flags=("no_scale",),
            is_advanced=True,
        ),
    ] = True
    particle_scale: Annotated[
        bool,
        Param(
            "Weigh particles by intensity?",
            "Estimate how strongly each particle shows the signal; poor and empty images then count for little."
            " Not in RELION.",
            OPTIMISATION,
            flags=("particle_scale",),
            is_advanced=True,
            relion_default=True,
        ),
    ] = True

    healpix_order: Annotated[
        int,
        Param(
            "Initial angular sampling (order)",
            "HEALPix order of the first search: 1, 2, 3 are 15, 7.5, 3.7 degrees after oversampling.",
            SAMPLING,
            minimum=0,
            maximum=8,
        ),
    ] = 2
    auto_local_healpix_order: Annotated[
        int,
        Param(
            "Local searches from auto-sampling (order)",
            "HEALPix order from which only neighbours are searched; 4 is 1.8 degrees after oversampling.",
            SAMPLING,
            minimum=0,
            maximum=9,
        ),
    ] = 4
    offset_range_px: Annotated[
        float,
        Param(
            "Offset search range",
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
            "Offset search step",
            "Step of the offset search before oversampling.",
            SAMPLING,
            unit="px",
            minimum=0,
            is_above_minimum=True,
        ),
    ] = 2.0
    auto_ignore_angles: Annotated[
        bool,
        Param("Use finer angular sampling faster?", "Go to finer sampling while orientations still change.", SAMPLING),
    ] = True
    auto_resol_angles: Annotated[
        bool,
        Param(
            "Finer sampling by resolution?",
            "Go to finer sampling when the resolution needs it.",
            SAMPLING,
            is_advanced=True,
        ),
    ] = True

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
            "Skip gridding?",
            "Reconstruct without gridding iterations.",
            COMPUTE,
            off_flags=("dont_skip_gridding",),
            relion_default=True,
        ),
    ] = True
    preread_images: Annotated[
        bool, Param("Pre-read all particles into RAM?", "Keep all images in memory.", COMPUTE)
    ] = False
    scratch_dir: Annotated[
        str | None,
        Param(
            "Copy particles to scratch directory",
            "Copy the stacks to this fast local folder first.",
            COMPUTE,
            file_kind="folder",
        ),
    ] = None
    keep_free_scratch_GB: Annotated[
        float,
        Param(
            "Keep free on scratch",
            "Room that copies leave on the scratch disc; stacks that do not fit are read where they are.",
            COMPUTE,
            unit="GB",
            flags=("keep_free_scratch",),
            minimum=0,
            is_advanced=True,
        ),
    ] = 10.0
    checksum_images: Annotated[
        bool,
        Param(
            "Checksums of the images?",
            "Read all stacks once more at the start and note their checksums; a run that goes on compares them."
            " Not in RELION.",
            COMPUTE,
            is_advanced=True,
        ),
    ] = False
    cpu: Annotated[bool, Param("Do without a GPU?", "Do not use a GPU.", COMPUTE)] = False
    gpu: Annotated[
        str | None,
        Param(
            "Which GPUs to use",
            "Which GPUs, as in 0:1; without a value, or without the option, all there are. Several processes take one"
            " part between colons each, as in 0,1:2,3.",
            COMPUTE,
            bare_value="",
        ),
    ] = None
    tf32: Annotated[
        bool,
        Param(
            "Scores of low precision?",
            "GPUs make the scores of the first pass of global searches in TF32, which is faster. Of every half-set the"
            " first particles are scored in both ways; where TF32 would refine other poses it is not used.",
            COMPUTE,
            is_advanced=True,
        ),
    ] = False
    threads: Annotated[
        int | None, Param("Number of threads", "CPU threads; by default all cores.", RUNNING, flags=("j",), minimum=1)
    ] = None
    random_seed: Annotated[
        int | None,
        Param(
            "Random seed",
            "Decides half-sets and perturbations; by default, or below 0, taken from the clock.",
            RUNNING,
            is_advanced=True,
        ),
    ] = None

    perturb: Annotated[
        float,
        Param(
            "Perturbation",
            "Random displacement of the angular grid, as a factor of its step.",
            SAMPLING,
            minimum=0,
            is_advanced=True,
        ),
    ] = 0.5
    adaptive_fraction: Annotated[
        float,
        Param(
            "Adaptive fraction",
            "Posterior weight that the first pass keeps.",
            SAMPLING,
            minimum=0,
            is_above_minimum=True,
            maximum=1,
            is_advanced=True,
        ),
    ] = 0.999
    max_significant: Annotated[
        int | None,
        Param(
            "Most poses kept",
            "Upper limit of poses kept by the first pass; 0 or less is none.",
            SAMPLING,
            flags=("maxsig",),
            is_advanced=True,
        ),
    ] = None
    sigma_offset_A: Annotated[
        float,
        Param(
            "Offset deviation",
            "First estimate of the standard deviation of the offsets.",
            SAMPLING,
            unit="A",
            flags=("offset",),
            minimum=0,
            is_above_minimum=True,
            is_advanced=True,
        ),
    ] = 10.0
    strict_highres_exp_A: Annotated[
        float | None,
        Param(
            "Limit resolution of the search",
            "Finest resolution used for scoring; 0 or less is no limit.",
            OPTIMISATION,
            unit="A",
            is_advanced=True,
        ),
    ] = None
    coarse_size_px: Annotated[
        int | None,
        Param(
            "First-pass size",
            "Largest image size in the first pass; 0 or less is automatic.",
            SAMPLING,
            unit="px",
            is_advanced=True,
        ),
    ] = None
    incr_size: Annotated[
        int,
        Param(
            "Shells beyond the resolution",
            "Fourier shells beyond the current resolution that take part.",
            OPTIMISATION,
            minimum=0,
            is_advanced=True,
        ),
    ] = 10
    force_converge: Annotated[
        bool,
        Param(
            "Converge at once?",
            "Run only the last iteration, with all data and both halves joined.",
            RUNNING,
            is_advanced=True,
        ),
    ] = False
    keep_iterations: Annotated[
        int | None,
        Param(
            "Iterations to keep",
            "Maps and particles of older iterations are removed, spectra and settings stay; 0 or less keeps all."
            " Not in RELION.",
            RUNNING,
            is_advanced=True,
        ),
    ] = None
    max_iterations: Annotated[
        int,
        Param(
            "Most iterations",
            "Stop at this iteration at the latest.",
            RUNNING,
            flags=("auto_iter_max",),
            minimum=1,
            is_advanced=True,
        ),
    ] = 999
    dont_check_norm: Annotated[
        bool,
        Param(
            "Skip the background test?",
            "Do not warn of images whose background is not normalised.",
            RUNNING,
            is_advanced=True,
        ),
    ] = False

    @field_validator(
        "particle_diameter_A",
        "low_resol_join_halves_A",
        "max_significant",
        "strict_highres_exp_A",
        "coarse_size_px",
        "sigma_tilt_deg",
        mode="after",
    )
    @classmethod
    def _none_if_off(cls, value: float | None) -> float | None:
        return none_if_off(value)

    @field_validator("scratch_dir", mode="after")
    @classmethod
    def _none_if_empty(cls, value: str | None) -> str | None:
        return none_if_empty(value)

    @model_validator(mode="after")
    def _check_devices(self) -> RefineParams:
        if self.cpu and self.gpu is not None:
            raise ValueError("--gpu and --cpu exclude each other")
        return self
