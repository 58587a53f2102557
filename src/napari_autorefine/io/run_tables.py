"""The tables of RELION's model, sampling and optimiser files, made from the state of a refinement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pandas as pd

from napari_autorefine.io.run_state import (
    ConvergenceValues,
    ModelValues,
    PoseValues,
    RunSettings,
    RunState,
    SamplingValues,
)
from napari_autorefine.io.tables import ListTable, Table
from napari_autorefine.model.particles import Particles

EXTRA_TABLE = "autorefine"
INTENSITY_LABEL = "autorefineIntensity"  # RELION has no column for it and passes unknown ones through


def _texts(values: list[str]) -> pd.Series:
    return pd.Series(values, dtype=object)


def group_table(particles: Particles, half: int | None, scale: np.ndarray) -> pd.DataFrame:
    """Return the table of scale groups, which are numbered in the order of their names.

    Parameters
    ----------
    particles : n particles
        With half-sets assigned.
    half : int or None
        Half-set whose particles are counted; None counts all.
    scale : (n_group,)
        Intensity scale per group.
    """
    names, index = np.unique(particles.group_name.astype(str), return_inverse=True)
    if len(names) != len(scale):
        raise ValueError(f"{len(scale)} scales for {len(names)} groups")
    members = index if half is None else index[particles.half == half]
    return pd.DataFrame(
        {
            "rlnGroupNumber": np.arange(1, len(names) + 1),
            "rlnGroupName": _texts(names.tolist()),
            "rlnGroupNrParticles": np.bincount(members, minlength=len(names)),
            "rlnGroupScaleCorrection": scale,
        }
    )


def group_noise(particles: Particles, sigma2_noise: np.ndarray) -> np.ndarray:
    """Return the noise per scale group as RELION 3.1 keeps it: the mean of its particles' optics groups.

    Parameters
    ----------
    particles : n particles
        In the scale groups of ``group_table``.
    sigma2_noise : (n_optics, n_shell)
        Variance per optics group.

    Returns
    -------
    (n_group, n_shell)
    """
    names, index = np.unique(particles.group_name.astype(str), return_inverse=True)
    count = np.zeros((len(names), len(sigma2_noise)))
    np.add.at(count, (index, particles.optics_index), 1.0)
    return np.asarray((count / count.sum(axis=1, keepdims=True)) @ sigma2_noise)


def pose_columns(poses: PoseValues, particles: Particles) -> dict[str, np.ndarray]:
    """Return the columns of ``_data.star`` that change from iteration to iteration, without the poses themselves."""
    groups = np.unique(particles.group_name.astype(str), return_inverse=True)[1]
    return {
        "rlnGroupNumber": groups + 1,
        "rlnClassNumber": np.ones(len(particles), np.int64),
        "rlnNormCorrection": poses.norm_correction,
        INTENSITY_LABEL: poses.intensities,
        "rlnLogLikeliContribution": poses.log_likelihood,
        "rlnMaxValueProbDistribution": poses.p_max,
        "rlnNrOfSignificantSamples": poses.n_significant.astype(np.int64),
        "rlnRandomSubset": particles.half.astype(np.int64),
    }


def _shells(n_shell: int, box_size: int, voxel_size_A: float) -> dict[str, np.ndarray]:
    index = np.arange(n_shell)
    return {"rlnSpectralIndex": index, "rlnResolution": index / (box_size * voxel_size_A)}


def model_tables(
    state: RunState, model: ModelValues, particles: Particles, *, half: int | None, map_path: str, settings: RunSettings
) -> dict[str, Table]:
    """Return the tables of a ``_model.star``, of the model of a half-set or (None) of all particles.

    Noise is written per optics group as RELION 4 and 5 do, and for RELION 3.1 per scale group too; except beside
    particles in the form of RELION 5, which 3.1 does not read.
    """
    groups = group_table(particles, half, model.scale)
    n_shell = len(model.tau2)
    shells = _shells(n_shell, state.box_size, state.voxel_size_A)
    frequency = shells["rlnResolution"]
    angstrom = np.divide(1.0, frequency, out=np.full(n_shell, 999.0), where=frequency > 0)
    spectra = {
        **shells,
        "rlnAngstromResolution": angstrom,
        "rlnSsnrMap": model.ssnr,
        "rlnGoldStandardFsc": state.fsc[:n_shell],
        "rlnFourierCompleteness": model.completeness,
        "rlnReferenceSigma2": model.sigma2_map,
        "rlnReferenceTau2": model.tau2,
        "rlnSpectralOrientabilityContribution": model.orientability,
    }
    tables: dict[str, Table] = {
        "model_general": {
            "rlnReferenceDimensionality": 3,
            "rlnDataDimensionality": 3 if particles.form == "volume" else 2,
            **_model_general(state, model, len(groups), settings),
        },
        "model_classes": pd.DataFrame([_class_row(state, model, map_path)]).astype({"rlnReferenceImage": object}),
        "model_class_1": pd.DataFrame(spectra),
        "model_groups": groups,
    }
    tables |= _noise_tables(state, "model_optics_group", model.sigma2_noise)
    if particles.version != "5.0":
        tables |= _noise_tables(state, "model_group", group_noise(particles, model.sigma2_noise))
    tables["model_pdf_orient_class_1"] = pd.DataFrame({"rlnOrientationDistribution": model.pdf_direction})
    tables[EXTRA_TABLE] = scalar_fields(model, "model")
    return tables


def _noise_tables(state: RunState, name: str, sigma2_noise: np.ndarray) -> dict[str, Table]:
    """Return one table per row of ``sigma2_noise``, without the shells that are 0."""
    shells = _shells(sigma2_noise.shape[1], state.box_size, state.voxel_size_A)
    spectra = (pd.DataFrame({**shells, "rlnSigma2Noise": sigma2})[sigma2 > 0] for sigma2 in sigma2_noise)
    return {f"{name}_{number}": spectrum for number, spectrum in enumerate(spectra, start=1)}


def _class_row(state: RunState, model: ModelValues, map_path: str) -> ListTable:
    shells = np.arange(len(model.completeness))
    inside = shells * state.convergence.current_resolution_A <= state.box_size * state.voxel_size_A
    weight = (shells**2 + 1.0) * inside
    return {
        "rlnReferenceImage": map_path,
        "rlnClassDistribution": 1.0,
        "rlnAccuracyRotations": model.accuracy_rot_deg,
        "rlnAccuracyTranslationsAngst": model.accuracy_trans_A,
        "rlnEstimatedResolution": state.convergence.current_resolution_A,
        "rlnOverallFourierCompleteness": float((weight * model.completeness).sum() / max(weight.sum(), 1.0)),
    }


def _model_general(state: RunState, model: ModelValues, n_group: int, settings: RunSettings) -> ListTable:
    sampling = state.sampling
    sigma = sampling.sigma_angle_deg if sampling.is_local else 0.0
    return {
        "rlnOriginalImageSize": state.box_size,
        "rlnCurrentResolution": state.convergence.current_resolution_A,
        "rlnCurrentImageSize": state.convergence.current_size,
        "rlnPaddingFactor": float(settings.pad),
        "rlnIsHelix": 0,
        "rlnFourierSpaceInterpolator": 1,
        "rlnMinRadiusNnInterpolation": 10,
        "rlnPixelSize": state.voxel_size_A,
        "rlnNrClasses": 1,
        "rlnNrBodies": 1,
        "rlnNrGroups": n_group,
        "rlnNrOpticsGroups": len(model.sigma2_noise),
        "rlnTau2FudgeFactor": settings.tau2_fudge,
        "rlnNormCorrectionAverage": model.norm_average,
        "rlnSigmaOffsetsAngst": model.sigma_offset_A,
        "rlnOrientationalPriorMode": int(sampling.is_local),
        "rlnSigmaPriorRotAngle": sigma,
        "rlnSigmaPriorTiltAngle": sigma,
        "rlnSigmaPriorPsiAngle": sigma,
        "rlnLogLikelihood": model.log_likelihood,
        "rlnAveragePmax": model.mean_p_max,
    }


def sampling_tables(sampling: SamplingValues, directions_deg: np.ndarray) -> dict[str, Table]:
    """Return the tables of a ``_sampling.star``; ``directions_deg`` is (n_dir, 2), rot and tilt."""
    general: ListTable = {
        "rlnIs3DSampling": 1,
        "rlnIs3DTranslationalSampling": int(sampling.is_3d_translation),
        "rlnHealpixOrder": sampling.healpix_order,
        "rlnSymmetryGroup": sampling.symmetry,
        "rlnTiltAngleLimit": -91.0,
        "rlnPsiStep": sampling.psi_step_deg,
        "rlnOffsetRange": sampling.offset_range_A,
        "rlnOffsetStep": sampling.offset_step_A,
        "rlnHelicalOffsetStep": -1.0,
        "rlnSamplingPerturbInstance": sampling.perturbation,
        "rlnSamplingPerturbFactor": sampling.perturbation_factor,
        "rlnHealpixOrderOriginal": sampling.healpix_order_original,
        "rlnPsiStepOriginal": sampling.psi_step_original_deg,
        "rlnOffsetRangeOriginal": sampling.offset_range_original_A,
        "rlnOffsetStepOriginal": sampling.offset_step_original_A,
    }
    directions = pd.DataFrame({"rlnAngleRot": directions_deg[:, 0], "rlnAngleTilt": directions_deg[:, 1]})
    return {"sampling_general": general, "sampling_directions": directions}


def optimiser_tables(state: RunState, files: Mapping[str, str], settings: RunSettings) -> dict[str, Table]:
    """Return the tables of an ``_optimiser.star``.

    Parameters
    ----------
    state : state after the iteration
        Final when it holds a joined model.
    files : label to path
        Names of the other files of the iteration, and the output root.
    settings : options of the run
        Recorded as RELION does.
    """
    is_final = state.joined is not None
    general: ListTable = {
        **files,
        "rlnCurrentIteration": -1 if is_final else state.iteration,
        "rlnNumberOfIterations": settings.max_iterations,
        "rlnDoSplitRandomHalves": int(not is_final),
        **_options(settings, state.convergence.incr_size),
        **_progress(state.convergence, state.joined or state.halves[0], settings),
        **_unused(),
        **_flags(state.convergence, settings),
    }
    extra = scalar_fields(state.convergence, "convergence") | scalar_fields(state.sampling, "sampling")
    return {"optimiser_general": general, EXTRA_TABLE: extra}


def _options(settings: RunSettings, incr_size: int) -> ListTable:
    return {
        "rlnJoinHalvesUntilThisResolution": settings.low_resol_join_halves_A,
        "rlnAdaptiveOversampleOrder": 1,
        "rlnAdaptiveOversampleFraction": settings.adaptive_fraction,
        "rlnRandomSeed": settings.random_seed,
        "rlnParticleDiameter": settings.particle_diameter_A,
        "rlnWidthMaskEdge": round(settings.mask_edge_px),
        "rlnDoZeroMask": int(settings.zero_mask),
        "rlnDoSolventFlattening": int(settings.flatten_solvent),
        "rlnDoSolventFscCorrection": int(settings.solvent_correct_fsc),
        "rlnSolventMaskName": settings.mask or "None",
        "rlnSolventMask2Name": "None",
        "rlnBodyStarFile": "None",
        "rlnTauSpectrumName": "None",
        "rlnMaximumCoarseImageSize": settings.max_coarse_size,
        "rlnHighresLimitExpectation": settings.strict_highres_exp_A,
        "rlnLowresLimitExpectation": -1.0,
        "rlnIncrementImageSize": incr_size,
        "rlnDoMapEstimation": 1,
        "rlnDoFastSubsetOptimisation": 0,
        "rlnDoExternalReconstruct": 0,
        "rlnDoGradientRefine": 0,
        "rlnDoStochasticGradientDescent": 0,
        "rlnDoStochasticEM": 0,
        "rlnMaximumSignificantPoses": settings.max_significant,
    }


def _frequency(resolution_A: float) -> float:
    return 1.0 / resolution_A if math.isfinite(resolution_A) and resolution_A > 0 else 0.0


def _progress(convergence: ConvergenceValues, model: ModelValues, settings: RunSettings) -> ListTable:
    return {
        "rlnDoAutoRefine": 1,
        "rlnDoAutoSampling": 1,
        "rlnAutoLocalSearchesHealpixOrder": settings.auto_local_healpix_order,
        "rlnNumberOfIterWithoutResolutionGain": convergence.n_iter_without_resolution_gain,
        "rlnBestResolutionThusFar": _frequency(convergence.best_resolution_A),
        "rlnNumberOfIterWithoutChangingAssignments": convergence.n_iter_without_change,
        "rlnDoSkipAlign": 0,
        "rlnDoSkipRotate": 0,
        "rlnOverallAccuracyRotations": model.accuracy_rot_deg,
        "rlnOverallAccuracyTranslationsAngst": model.accuracy_trans_A,
        "rlnChangesOptimalOrientations": convergence.change_rot_deg,
        "rlnChangesOptimalOffsets": convergence.change_trans_A,
        "rlnChangesOptimalClasses": 0.0,
        "rlnSmallestChangesOrientations": convergence.smallest_change_rot_deg,
        "rlnSmallestChangesOffsets": convergence.smallest_change_trans_A,
        "rlnSmallestChangesClasses": 0,
    }


def _unused() -> ListTable:
    """Helical and local symmetry, which RELION's reader expects to find."""
    return {
        "rlnLocalSymmetryFile": "None",
        "rlnDoHelicalRefine": 0,
        "rlnIgnoreHelicalSymmetry": 0,
        "rlnFourierMask": "None",
        "rlnHelicalTwistInitial": 0.0,
        "rlnHelicalRiseInitial": 0.0,
        "rlnHelicalCentralProportion": 0.3,
        "rlnNrHelicalNStart": 1,
        "rlnHelicalMaskTubeInnerDiameter": -1.0,
        "rlnHelicalMaskTubeOuterDiameter": -1.0,
        "rlnHelicalSymmetryLocalRefinement": 0,
        "rlnHelicalSigmaDistance": -1.0,
        "rlnHelicalKeepTiltPriorFixed": 0,
    }


def _flags(convergence: ConvergenceValues, settings: RunSettings) -> ListTable:
    return {
        "rlnHasConverged": int(convergence.has_converged),
        "rlnHasHighFscAtResolLimit": int(convergence.has_high_fsc),
        "rlnHasLargeSizeIncreaseIterationsAgo": 0,
        "rlnDoCorrectNorm": int(settings.norm),
        "rlnDoCorrectScale": int(settings.scale),
        "rlnDoCorrectCtf": int(settings.ctf),
        "rlnDoIgnoreCtfUntilFirstPeak": int(settings.ctf_intact_first_peak),
        "rlnCtfDataArePhaseFlipped": 0,
        "rlnDoOnlyFlipCtfPhases": 0,
        "rlnRefsAreCtfCorrected": int(settings.ref_ctf_corrected),
        "rlnFixSigmaNoiseEstimates": 0,
        "rlnFixSigmaOffsetEstimates": 0,
        "rlnMaxNumberOfPooledParticles": 1,
    }


def scalar_fields(part: object, prefix: str) -> ListTable:
    """Return all plain numbers of a dataclass: what an exact continuation needs and RELION has no label for."""
    if not is_dataclass(part):
        return {}
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {
        f"autorefine_{prefix}_{name}": repr(value) if isinstance(value, (bool, int)) else repr(float(value))
        for name, value in values.items()
        if isinstance(value, (bool, int, float, np.floating))
    }


def software_version() -> str:
    """Return the version of this package."""
    try:
        return version("napari-autorefine")
    except PackageNotFoundError:
        return "unknown"
