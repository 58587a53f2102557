"""Read the files of an iteration back: everything that is needed to go on from there."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.run_checks import BOXES, ORDERS, check_half, check_shells, whole
from napari_autorefine.io.run_tables import EXTRA_TABLE, INTENSITY_LABEL
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.tables import ListTable, StarFile, read_star
from napari_autorefine.model.particles import Particles

_PROJECT = {"tomograms": "rlnTomoTomogramsFile", "trajectories": "rlnTomoTrajectoriesFile"}
_WHOLE = re.compile(r"-?\d+$")
_RELION = re.compile(r"RELION optimiser; version (\d+(?:\.\d+)*)")
_FOREIGN = (
    ("rlnAdaptiveOversampleOrder", "1", "another oversampling than one level is not supported"),
    ("rlnBodyStarFile", "None", "multi-body refinement is not supported"),
    ("rlnDoHelicalRefine", "0", "helical refinement is not supported"),
    ("rlnDoExternalReconstruct", "0", "external reconstruction is not supported"),
    ("rlnDoBlush", "0", "Blush regularisation is not supported"),
    ("rlnSolventMask2Name", "None", "a second solvent mask is not supported"),
    ("rlnTauSpectrumName", "None", "a fixed tau2 spectrum is not supported"),
    ("rlnLocalSymmetryFile", "None", "local symmetry is not supported"),
    ("rlnFourierMask", "None", "a Fourier mask is not supported"),
    ("rlnDoSkipAlign", "0", "refinement without alignment is not supported"),
    ("rlnDoSkipRotate", "0", "refinement without rotation is not supported"),
    ("rlnCtfDataArePhaseFlipped", "0", "phase-flipped data are not supported"),
    ("rlnDoOnlyFlipCtfPhases", "0", "phase flipping only is not supported"),
    ("rlnFixSigmaNoiseEstimates", "0", "a fixed noise spectrum is not supported"),
    ("rlnFixSigmaOffsetEstimates", "0", "a fixed deviation of the offsets is not supported"),
)
"""Labels of the optimiser file, their values in refinements that can be gone on from, what other values mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """One iteration as read from its files. The dictionaries hold the keyword arguments of the engine's state classes.

    Attributes
    ----------
    iteration : number of the iteration that is complete
    prefix : output root of the run
    box_size, voxel_size_A : grid of the reference
    halves : one per half-set, by the attribute names of a half model
    fsc : (n_shell,) between the halves
    poses, sampling, convergence : by the attribute names of the state's parts
    particles : the particle set with its half-sets
    group_names : (n_group,) of the scale groups, in the order of ``scale``
    options : optimiser settings, by the names of the run settings
    params : content of ``PREFIX_params.json``; empty without it, or when it is damaged
    command_line : as the optimiser file has it in a comment
    relion_version : of the RELION that wrote the files, () when unknown or when this program did
    is_relion : the files are not this program's
    is_noise_by_group : noise was per scale group, as in RELION 3.1
    directions_deg : (n_dir, 2) rot and tilt of the sampling file, None without
    foreign : what RELION did that this program does not, in words
    project : tomograms and trajectories file of particles of tomograms, by these names
    """

    iteration: int
    prefix: str
    box_size: int
    voxel_size_A: float
    halves: tuple[dict[str, Any], dict[str, Any]]
    fsc: np.ndarray
    poses: dict[str, Any]
    sampling: dict[str, Any]
    convergence: dict[str, Any]
    particles: Particles
    group_names: tuple[str, ...]
    options: dict[str, Any]
    params: dict[str, Any]
    command_line: str = ""
    relion_version: tuple[int, ...] = ()
    is_relion: bool = False
    is_noise_by_group: bool = False
    directions_deg: np.ndarray | None = None
    foreign: tuple[str, ...] = ()
    project: Mapping[str, str] = field(default_factory=dict)


def read_run(optimiser: str | os.PathLike[str]) -> SavedRun:
    """Read a run from the ``_optimiser.star`` of one of its iterations, written here or by RELION 3.1 to 5.

    Raises
    ------
    InputError
        A file that is missing or not of such a run, or the optimiser file of a finished run.
    """
    path = Path(optimiser)
    star = read_star(path)
    general = _Pairs(star, "optimiser_general", path)
    if general.number("rlnDoAutoRefine") == 0:
        raise InputError(f"{path} is not of an auto-refinement; only those can be continued.")
    if general.number("rlnCurrentIteration") < 0 or "rlnModelStarFile2" not in general:
        raise InputError(f"{path} is of a finished run; give the optimiser file of one of its iterations (_itNNN_).")
    models = [general.file(label) for label in ("rlnModelStarFile", "rlnModelStarFile2")]
    first = read_star(models[0])
    model = _Pairs(first, "model_general", models[0])
    sampling_star = read_star(general.file("rlnOrientSamplingStarFile"))
    sampling = _sampling(_Pairs(sampling_star, "sampling_general", general.file("rlnOrientSamplingStarFile")), model)
    sampling |= _extra(star, "sampling")
    particles = read_particles(general.file("rlnExperimentalDataStarFile"))
    second = read_star(models[1])
    _check_complete(particles, (first, second), general.file("rlnExperimentalDataStarFile"))
    command, version = _written_by(star)
    box_size = int(model.number("rlnOriginalImageSize"))
    return SavedRun(
        iteration=int(general.number("rlnCurrentIteration")),
        prefix=general.text("rlnOutputRootName"),
        box_size=box_size,
        voxel_size_A=model.number("rlnPixelSize"),
        halves=(_half(first, models[0], particles), _half(second, models[1], particles)),
        fsc=_columns(first, "model_class_1", models[0]).numbers("rlnGoldStandardFsc", 0.0),
        poses=_poses(particles),
        sampling=sampling,
        convergence=_convergence(general, model) | _extra(star, "convergence"),
        particles=particles,
        group_names=_group_names(first, models[0]),
        options=_options(general, model),
        params=_params(general),
        command_line=command,
        relion_version=version,
        is_relion=EXTRA_TABLE not in star.tables,
        is_noise_by_group="model_optics_group_1" not in first.tables,
        directions_deg=_directions(sampling_star),
        foreign=tuple(text for label, harmless, text in _FOREIGN if general.differs(label, harmless)),
        project={name: general.text(label) for name, label in _PROJECT.items() if general.differs(label, "None")},
    )


def _written_by(star: StarFile) -> tuple[str, tuple[int, ...]]:
    """Return the command line of an optimiser file and the version of the RELION that wrote it."""
    version = _RELION.match(star.comments[0]) if star.comments else None
    command = next((line for line in star.comments if "--" in line), "")
    return command, tuple(int(number) for number in version[1].split(".")) if version else ()


def _directions(star: StarFile) -> np.ndarray | None:
    table = star.loop("sampling_directions")
    labels = ("rlnAngleRot", "rlnAngleTilt")
    if table is None or not set(labels) <= set(table.columns):
        return None
    return Columns(table=table, file="sampling file", name="sampling_directions").stacked(labels)


def _check_complete(particles: Particles, models: tuple[StarFile, StarFile], path: Path) -> None:
    """Raise when rows are missing from a data file: its model files know how many particles there were."""
    groups = [_columns(star, "model_groups", Path(f"the model file of {path}")) for star in models]
    counts = [int(columns.numbers("rlnGroupNrParticles").sum()) for columns in groups]
    if len(particles) not in {sum(counts), counts[0]}:
        raise InputError(
            f"{path} is damaged: it has {len(particles)} particles, the model files beside it count {sum(counts)}."
        )


class _Pairs:
    """A list table with sentences for what is missing."""

    def __init__(self, star: StarFile, name: str, path: Path) -> None:
        self.path, self.name = path, name
        pairs = star.pairs(name)
        if pairs is None:
            raise InputError(f"{path} is not a file of a refinement: it has no table 'data_{name}'.")
        self.pairs: ListTable = pairs

    @classmethod
    def read(cls, path: Path, name: str) -> _Pairs:
        return cls(read_star(path), name, path)

    def __contains__(self, label: str) -> bool:
        return label in self.pairs

    def differs(self, label: str, harmless: str) -> bool:
        """Whether a label has another value than this one or nothing."""
        return label in self and str(self.pairs[label]) not in {harmless, "", "None"}

    def text(self, label: str) -> str:
        if label not in self.pairs:
            raise InputError(f"{self.path}, table 'data_{self.name}': {label} is missing.")
        return str(self.pairs[label])

    def number(self, label: str, default: float | None = None) -> float:
        if label not in self.pairs and default is not None:
            return default
        text = self.text(label)
        try:
            return float(text)
        except ValueError:
            raise InputError(f"{self.path}: the value '{text}' of {label} is not a number.") from None

    def file(self, label: str) -> Path:
        """Return the file a label names: beside this file, so that a run may be moved or copied, else as it stands."""
        return _beside(self.path, self.text(label))


def _beside(path: Path, name: str) -> Path:
    """Return the file of a name in the folder of another file when it is there, else the name."""
    beside = path.with_name(Path(name).name)
    return beside if beside.is_file() else Path(name)


def _columns(star: StarFile, name: str, path: Path) -> Columns:
    table = star.loop(name)
    if table is None:
        raise InputError(f"{path} is not a model file: it has no table 'data_{name}'.")
    return Columns(table=table, file=str(path), name=name)


def _half(star: StarFile, path: Path, particles: Particles) -> dict[str, Any]:
    general = _Pairs(star, "model_general", path)
    spectra = _columns(star, "model_class_1", path)
    classes = _columns(star, "model_classes", path)
    box_size = whole(general.number("rlnOriginalImageSize"), BOXES, f"{path}: rlnOriginalImageSize")
    n_shell = box_size // 2 + 1
    if len(classes) != 1:
        raise classes.error(f"there are {len(classes)} classes; only refinements of one can be continued")
    map_path = _beside(path, str(classes.texts("rlnReferenceImage")[0]))
    half = {
        "map": read_volume(map_path).data,
        "tau2": spectra.numbers("rlnReferenceTau2"),
        "ssnr": spectra.numbers("rlnSsnrMap"),
        "sigma2_map": spectra.numbers("rlnReferenceSigma2", 0.0),
        "completeness": spectra.numbers("rlnFourierCompleteness", 0.0),
        "sigma2_noise": _noise(star, path, particles, n_shell),
        "scale": _columns(star, "model_groups", path).numbers("rlnGroupScaleCorrection", 1.0),
        "norm_average": general.number("rlnNormCorrectionAverage", 1.0),
        "sigma_offset_A": general.number("rlnSigmaOffsetsAngst"),
        "pdf_direction": _columns(star, "model_pdf_orient_class_1", path).numbers("rlnOrientationDistribution"),
        "mean_p_max": general.number("rlnAveragePmax", 0.0),
        "log_likelihood": general.number("rlnLogLikelihood", 0.0),
        "accuracy_rot_deg": float(classes.numbers("rlnAccuracyRotations", 999.0)[0]),
        "accuracy_trans_A": float(classes.numbers("rlnAccuracyTranslationsAngst", 999.0)[0]),
        "orientability": spectra.numbers("rlnSpectralOrientabilityContribution", 0.0),
        **_extra(star, "model"),
    }
    check_half(half, path, box_size)
    return half


def _extra(star: StarFile, part: str) -> dict[str, bool | int | float]:
    """Return the numbers of a state's part that this package wrote beside RELION's own labels."""
    prefix = f"autorefine_{part}_"
    values = {label: str(value) for label, value in (star.pairs(EXTRA_TABLE) or {}).items() if label.startswith(prefix)}
    return {label.removeprefix(prefix): _plain_number(label, text) for label, text in values.items()}


def _plain_number(label: str, text: str) -> bool | int | float:
    truth: dict[str, bool] = {"True": True, "False": False}
    try:
        return truth[text] if text in truth else int(text) if _WHOLE.match(text) else float(text)
    except ValueError:
        raise InputError(f"The value '{text}' of {label} in table 'data_{EXTRA_TABLE}' is not a number.") from None


def _noise(star: StarFile, path: Path, particles: Particles, n_shell: int) -> np.ndarray:
    """Return the noise per optics group: (n_optics, n_shell), 0 in shells that the file leaves out.

    RELION 3.1 kept it per scale group; there an optics group takes the mean over the particles of its scale groups.
    """
    n_optics = len(particles.optics)
    if "model_optics_group_1" in star.tables or "model_group_1" not in star.tables:
        return np.stack([_spectrum(star, path, f"model_optics_group_{g}", n_shell) for g in range(1, n_optics + 1)])
    groups = _columns(star, "model_groups", path)
    spectra = [_spectrum(star, path, f"model_group_{number}", n_shell) for number in groups.integers("rlnGroupNumber")]
    count, names = groups.numbers("rlnGroupNrParticles"), groups.texts("rlnGroupName")
    noise = []
    for optics in range(n_optics):
        weight = count * np.isin(names, particles.group_name[particles.optics_index == optics])
        noise.append(np.average(spectra, axis=0, weights=weight if weight.any() else count))
    return np.stack(noise)


def _spectrum(star: StarFile, path: Path, name: str, n_shell: int) -> np.ndarray:
    columns = _columns(star, name, path)
    sigma2 = np.zeros(n_shell)
    check_shells(columns, n_shell)
    sigma2[columns.integers("rlnSpectralIndex")] = columns.numbers("rlnSigma2Noise")
    return sigma2


def _group_names(star: StarFile, path: Path) -> tuple[str, ...]:
    return tuple(_columns(star, "model_groups", path).texts("rlnGroupName").tolist())


def _sampling(pairs: _Pairs, model: _Pairs) -> dict[str, Any]:
    sigma = model.number("rlnSigmaPriorRotAngle", 0.0)
    return {
        "symmetry": pairs.text("rlnSymmetryGroup"),
        "healpix_order": whole(pairs.number("rlnHealpixOrder"), ORDERS, f"{pairs.path}: rlnHealpixOrder"),
        "psi_step_deg": pairs.number("rlnPsiStep"),
        "offset_range_A": pairs.number("rlnOffsetRange"),
        "offset_step_A": pairs.number("rlnOffsetStep"),
        "perturbation": pairs.number("rlnSamplingPerturbInstance", 0.0),
        "perturbation_factor": pairs.number("rlnSamplingPerturbFactor", 0.5),
        "is_local": model.number("rlnOrientationalPriorMode", 0) != 0 and sigma > 0,
        "sigma_angle_deg": sigma,
        "healpix_order_original": int(pairs.number("rlnHealpixOrderOriginal", pairs.number("rlnHealpixOrder"))),
        "psi_step_original_deg": pairs.number("rlnPsiStepOriginal", pairs.number("rlnPsiStep")),
        "offset_range_original_A": pairs.number("rlnOffsetRangeOriginal", pairs.number("rlnOffsetRange")),
        "offset_step_original_A": pairs.number("rlnOffsetStepOriginal", pairs.number("rlnOffsetStep")),
        "is_3d_translation": pairs.number("rlnIs3DTranslationalSampling", 0) != 0,
    }


def _convergence(general: _Pairs, model: _Pairs) -> dict[str, Any]:
    best = general.number("rlnBestResolutionThusFar", 0.0)
    return {
        "current_resolution_A": model.number("rlnCurrentResolution"),
        "current_size": int(model.number("rlnCurrentImageSize")),
        "incr_size": int(general.number("rlnIncrementImageSize", 10)),
        "n_iter_without_resolution_gain": int(general.number("rlnNumberOfIterWithoutResolutionGain")),
        "n_iter_without_change": int(general.number("rlnNumberOfIterWithoutChangingAssignments")),
        "best_resolution_A": 1.0 / best if best > 0 else math.inf,
        "change_rot_deg": general.number("rlnChangesOptimalOrientations", 999.0),
        "change_trans_A": general.number("rlnChangesOptimalOffsets", 999.0),
        "smallest_change_rot_deg": general.number("rlnSmallestChangesOrientations", 999.0),
        "smallest_change_trans_A": general.number("rlnSmallestChangesOffsets", 999.0),
        "has_high_fsc": general.number("rlnHasHighFscAtResolLimit", 0) != 0,
        "has_converged": general.number("rlnHasConverged", 0) != 0,
    }


def _poses(particles: Particles) -> dict[str, Any]:
    columns = Columns(table=particles.table, file="particles", name="particles")
    return {
        "euler_deg": particles.euler_deg,
        "origin_A": particles.origin_A,
        "p_max": columns.numbers("rlnMaxValueProbDistribution", 0.0),
        "log_likelihood": columns.numbers("rlnLogLikeliContribution", 0.0),
        "n_significant": columns.integers("rlnNrOfSignificantSamples", 0),
        "norm_correction": particles.norm_correction,
        "intensity": columns.numbers(INTENSITY_LABEL, 1.0),
    }


def _options(general: _Pairs, model: _Pairs) -> dict[str, Any]:
    mask = general.text("rlnSolventMaskName") if "rlnSolventMaskName" in general else "None"
    return {
        "random_seed": int(general.number("rlnRandomSeed", 0)),
        "particle_diameter_A": general.number("rlnParticleDiameter"),
        "mask_edge_px": general.number("rlnWidthMaskEdge", 5.0),
        "zero_mask": general.number("rlnDoZeroMask", 1) != 0,
        "flatten_solvent": general.number("rlnDoSolventFlattening", 1) != 0,
        "solvent_correct_fsc": general.number("rlnDoSolventFscCorrection", 0) != 0,
        "mask": None if mask in {"None", ""} else mask,
        "low_resol_join_halves_A": general.number("rlnJoinHalvesUntilThisResolution", -1.0),
        "adaptive_fraction": general.number("rlnAdaptiveOversampleFraction", 0.999),
        "auto_local_healpix_order": int(general.number("rlnAutoLocalSearchesHealpixOrder", 4)),
        "max_iterations": int(general.number("rlnNumberOfIterations", 999)),
        "max_coarse_size": int(general.number("rlnMaximumCoarseImageSize", -1)),
        "max_significant": int(general.number("rlnMaximumSignificantPoses", -1)),
        "strict_highres_exp_A": general.number("rlnHighresLimitExpectation", -1.0),
        "tau2_fudge": model.number("rlnTau2FudgeFactor", 1.0),
        "pad": int(model.number("rlnPaddingFactor", 2.0)),
        "ctf": general.number("rlnDoCorrectCtf", 1) != 0,
        "ctf_intact_first_peak": general.number("rlnDoIgnoreCtfUntilFirstPeak", 0) != 0,
        "ref_ctf_corrected": general.number("rlnRefsAreCtfCorrected", 1) != 0,
        "norm": general.number("rlnDoCorrectNorm", 1) != 0,
        "scale": general.number("rlnDoCorrectScale", 1) != 0,
    }


def _params(general: _Pairs) -> dict[str, Any]:
    """Return what PREFIX_params.json holds, beside the optimiser file or where the output root says; {} if damaged."""
    root = Path(general.text("rlnOutputRootName"))
    for folder in (general.path.parent, root.parent):
        path = folder / f"{root.name}_params.json"
        if path.is_file():
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return {}
            return dict(content) if isinstance(content, dict) else {}
    return {}
