"""Options of relion_refine without a meaning here: accepted with a reason, or refused as they change the run."""

from __future__ import annotations

from napari_autorefine.params import ForeignOption

_AUTOMATIC = "every refinement here is an auto-refinement of two half-sets"
_PARALLEL = "work is shared between threads and devices automatically"
_DISC = "nothing is exchanged through the disc or the network"
_MEMORY = "memory is planned automatically"
_STATIC = "it only matters for classification, and this is an auto-refinement"
_GRADIENT = "it only matters for gradient descent, and this is an auto-refinement"
_HELIX = "particles are not helical"
_OF_GRADIENT = (
    "ini_iter fin_iter inbetween_iter ini_resol fin_resol ini_subset fin_subset stepsize write_iter"
    " sigma2fudge_initial sigma2fudge_halflife"
)
_OF_HELIX = (
    "nr_asu rise_initial rise_min rise_max rise_inistep twist_initial twist_min twist_max twist_inistep z_percentage"
    " nstart inner_diameter outer_diameter sigma_distance offset_step exclude_resols"
)


def _accept(reason: str, n_value: int = 0) -> ForeignOption:
    return ForeignOption(reason=reason, n_value=n_value)


def _refuse(what: str, n_value: int = 0, harmless: tuple[str, ...] = ()) -> ForeignOption:
    return ForeignOption(reason=f"{what} is not supported", n_value=n_value, is_refused=True, harmless=harmless)


_ACCEPTED = {
    "auto_refine": _accept(_AUTOMATIC),
    "split_random_halves": _accept(_AUTOMATIC),
    "iter": _accept("the refinement stops by itself when it has converged", 1),
    "pool": _accept(_PARALLEL, 1),
    "dont_combine_weights_via_disc": _accept(_DISC),
    "no_parallel_disc_io": _accept("there are no MPI processes that could disturb each other"),
    "onthefly_shifts": _accept(_MEMORY),
    "reuse_scratch": _accept("stacks are copied anew for every run"),
    "keep_scratch": _accept("the scratch copy is removed at the end"),
    "free_gpu_memory": _accept(_MEMORY, 1),
    "pipeline_control": _accept("there is no RELION pipeline to report to", 1),
    "verb": _accept("progress is always shown", 1),
    "r_min_nn": _accept("interpolation is linear at every radius", 1),
    "failsafe_threshold": _accept("scores are kept as logarithms, so no image can lose all its orientations", 1),
    "allow_coarser_sampling": _accept(_STATIC),
    "psi_step": _accept("the in-plane step follows the angular order in an auto-refinement", 1),
    "print_metadata_labels": _accept("labels are described in RELION's documentation"),
    "ctf_corrected_ref": _accept("a reference is always taken as free of CTF"),
    "pad_ctf": _accept("RELION 5 no longer does it either"),
    "skip_maximize": _accept(_AUTOMATIC),
    "grad": _accept(_AUTOMATIC),
    "maxsig_per_class": _accept(_STATIC, 1),
    "mu": _accept(_GRADIENT, 1),
    "sgd_skip_anneal": _accept(_GRADIENT),
    "ignore_helical_symmetry": _accept(_HELIX),
    "helical_symmetry_search": _accept(_HELIX),
    "helical_keep_tilt_prior_fixed": _accept(_HELIX),
}
_ACCEPTED |= {f"sgd_{name}": _accept(_GRADIENT, 1) for name in _OF_GRADIENT.split()}
_ACCEPTED |= {f"helical_{name}": _accept(_HELIX, 1) for name in _OF_HELIX.split()}

_REFUSED = {
    "oversampling": _refuse("Another oversampling than one level", 1, ("1",)),
    "sigma2_fudge": _refuse("A factor on the noise spectrum", 1, ("1",)),
    "minres_map": _refuse("Another number of shells without a prior", 1, ("5",)),
    "gridding_iter": _refuse("Another number of gridding iterations", 1, ("10",)),
    "fix_sigma_noise": _refuse("A fixed noise spectrum"),
    "fix_sigma_offset": _refuse("A fixed deviation of the offsets"),
    "K": _refuse("More than one class", 1, ("1",)),
    "helix": _refuse("Helical refinement"),
    "solvent_mask2": _refuse("A second solvent mask", 1, ("None", "")),
    "lowpass_mask": _refuse("A low-pass mask", 1, ("None", "")),
    "lowpass": _refuse("A low-pass mask", 1, ("0",)),
    "tau": _refuse("A fixed tau2 spectrum", 1, ("None", "")),
    "local_symmetry": _refuse("Local symmetry", 1, ("None", "")),
    "relax_sym": _refuse("Relaxed symmetry", 1, ("",)),
    "denovo_3dref": _refuse("An initial model from random orientations"),
    "limit_tilt": _refuse("A tilt limit", 1, ("-91",)),
    "sigma_ang": _refuse("A fixed width of angular priors", 1, ("-1",)),
    "sigma_rot": _refuse("A fixed width of angular priors", 1, ("-1",)),
    "sigma_psi": _refuse("A fixed width of angular priors", 1, ("-1",)),
    "skip_align": _refuse("Refinement without alignment"),
    "skip_rotate": _refuse("Refinement without rotation"),
    "bimodal_psi": _refuse("Bimodal psi search"),
    "fourier_mask": _refuse("A Fourier mask", 1, ("None", "")),
    "ctf_phase_flipped": _refuse("Phase-flipped data"),
    "only_flip_phases": _refuse("Phase flipping only"),
    "sgd": _refuse("Stochastic gradient descent"),
    "stochastic_em": _refuse("Stochastic expectation-maximization"),
    "NN": _refuse("Nearest-neighbour interpolation"),
    "strict_lowres_exp": _refuse("A low-resolution limit of the search", 1, ("-1",)),
    "always_cc": _refuse("Cross-correlation in every iteration"),
    "fast_subsets": _refuse("Fast subsets"),
    "external_reconstruct": _refuse("External reconstruction"),
    "blush": _refuse("Blush regularisation"),
}
FOREIGN_OPTIONS = {**_ACCEPTED, **_REFUSED}
"""Name (without dashes) of each option of relion_refine that is no parameter of ours."""
