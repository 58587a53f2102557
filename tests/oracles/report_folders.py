"""Folders of jobs as RELION leaves them, small, and a reader of the pages made from them."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.tables import Table, write_star

BOX, VOXEL_A, N_PARTICLE = 16, 3.0, 40
N_SHELL = BOX // 2 + 1


class PageReader(HTMLParser):
    """Takes a page apart.

    Attributes
    ----------
    headings : texts of h2
    tables : title -> rows of texts, the head first; several tables without a title are numbered
    links : values of src, href and the like that point out of the page or to a place in it
    identifiers : values of id
    text : all text but styles
    """

    _VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self.identifiers: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self._title = ""
        self._rows: list[list[str]] = []
        self.feed(page)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href", "srcset"}]
        if "id" in values:
            self.identifiers.append(str(values["id"]))
        if tag not in self._VOID:
            self._open.append(tag)
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in {"td", "th"}:
            self._rows[-1].append("")
        if tag == "h2":
            self.headings.append("")
        if tag in {"summary", "caption"}:
            self._title = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self._VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "table":
            self.tables[self._title or str(len(self.tables))] = self._rows
            self._title = ""

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if "h2" in self._open:
            self.headings[-1] += data
        if "summary" in self._open or "caption" in self._open:
            self._title += data
        if self._open and self._open[-1] in {"td", "th"}:
            self._rows[-1][-1] += data

    def column(self, title: str, name: str) -> list[str]:
        """Return one column of a table by the name in its head."""
        head, *rows = self.tables[title]
        return [row[head.index(name)] for row in rows]


def numbers(texts: list[str]) -> np.ndarray:
    """Return texts of a page as numbers, NaN for dashes."""
    return np.array([np.nan if text == "–" else float(text.replace("−", "-")) for text in texts])


def ball(radius: float, seed: int = 0) -> np.ndarray:
    """A smooth density with a little noise, (BOX, BOX, BOX)."""
    axis = np.arange(BOX) - BOX // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    noise = np.random.default_rng(seed).standard_normal((BOX,) * 3) * 0.02
    return (np.exp(-((distance / radius) ** 2)) + noise).astype(np.float32)


def random_euler(n: int = N_PARTICLE, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    tilt = np.rad2deg(np.arccos(rng.uniform(-1, 1, n)))
    return np.stack([rng.uniform(-180, 180, n), tilt, rng.uniform(-180, 180, n)], axis=1)


def particle_tables(euler_deg: np.ndarray, origin_A: np.ndarray) -> dict[str, Table]:
    rng, n = np.random.default_rng(2), len(euler_deg)
    optics = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnImagePixelSize": [VOXEL_A],
        "rlnImageSize": [BOX],
        "rlnVoltage": [300.0],
    }
    particles = {
        "rlnImageName": [f"{row + 1:06d}@Extract/job002/mic{row % 4}.mrcs" for row in range(n)],
        "rlnMicrographName": [f"mic{row % 4}.mrc" for row in range(n)],
        "rlnOpticsGroup": np.ones(n, int),
        "rlnDefocusU": rng.uniform(9000, 15000, n),
        "rlnDefocusV": rng.uniform(9000, 15000, n),
        "rlnAngleRot": euler_deg[:, 0],
        "rlnAngleTilt": euler_deg[:, 1],
        "rlnAnglePsi": euler_deg[:, 2],
        "rlnOriginXAngst": origin_A[:, 0],
        "rlnOriginYAngst": origin_A[:, 1],
        "rlnRandomSubset": np.arange(n) % 2 + 1,
        "rlnNormCorrection": rng.uniform(0.8, 1.2, n),
        "rlnMaxValueProbDistribution": rng.uniform(0.1, 1, n),
        "rlnNrOfSignificantSamples": rng.integers(1, 30, n),
    }
    return {"optics": pd.DataFrame(optics), "particles": pd.DataFrame(particles)}


def fsc_curve(resolution_A: float) -> np.ndarray:
    frequency = np.arange(N_SHELL) / (BOX * VOXEL_A)
    return np.round(1 / (1 + np.exp((frequency - 1 / resolution_A) * 120)), 6)


def model(resolution_A: float, iteration: int, *, is_local: bool, relion5: bool) -> dict[str, Table]:
    shells = np.arange(N_SHELL)
    frequency = shells / (BOX * VOXEL_A)
    sigma2 = pd.DataFrame(
        {"rlnSpectralIndex": shells, "rlnResolution": frequency, "rlnSigma2Noise": 1e-4 * (1 + frequency)}
    )
    groups = {
        "rlnGroupNumber": [1, 2, 3, 4],
        "rlnGroupName": [f"mic{n}" for n in range(4)],
        "rlnGroupNrParticles": [10] * 4,
        "rlnGroupScaleCorrection": [0.9, 1.0, 1.1, 2.5],
    }
    noise = ["model_optics_group_1"] if relion5 else [f"model_group_{n}" for n in range(1, 5)]
    return {
        "model_general": {
            "rlnDataDimensionality": 2,
            "rlnOriginalImageSize": BOX,
            "rlnCurrentResolution": resolution_A,
            "rlnCurrentImageSize": 8 + iteration,
            "rlnPixelSize": VOXEL_A,
            "rlnNrClasses": 1,
            "rlnNormCorrectionAverage": 1.0,
            "rlnSigmaOffsetsAngst": 2.5,
            "rlnOrientationalPriorMode": int(is_local),
            "rlnSigmaPriorRotAngle": 2.0 if is_local else 0.0,
            "rlnLogLikelihood": 1e4 * iteration,
            "rlnAveragePmax": 0.1 * iteration,
        },
        "model_classes": pd.DataFrame(
            {
                "rlnReferenceImage": ["run_class001.mrc"],
                "rlnAccuracyRotations": [8.0 / (iteration + 1)],
                "rlnAccuracyTranslationsAngst": [4.0 / (iteration + 1)],
            }
        ),
        "model_class_1": pd.DataFrame(
            {
                "rlnSpectralIndex": shells,
                "rlnResolution": frequency,
                "rlnSsnrMap": 100.0 / (1 + shells**2),
                "rlnGoldStandardFsc": fsc_curve(resolution_A),
                "rlnReferenceSigma2": np.full(N_SHELL, 1e-6),
                "rlnReferenceTau2": 1e-4 / (1 + shells**2),
            }
        ),
        "model_groups": pd.DataFrame(groups),
        **dict.fromkeys(noise, sigma2),
        "model_pdf_orient_class_1": pd.DataFrame({"rlnOrientationDistribution": np.full(12, 1 / 12)}),
    }


def sampling(order: int, symmetry: str) -> dict[str, Table]:
    rng = np.random.default_rng(3)
    return {
        "sampling_general": {
            "rlnHealpixOrder": order,
            "rlnSymmetryGroup": symmetry,
            "rlnPsiStep": 360 / (6 * 2**order),
            "rlnOffsetRange": 15.0 - order,
            "rlnOffsetStep": 6.0 / order,
        },
        "sampling_directions": pd.DataFrame(
            {"rlnAngleRot": rng.uniform(-180, 180, 12), "rlnAngleTilt": rng.uniform(0, 180, 12)}
        ),
    }


def optimiser(iteration: int, **values: object) -> dict[str, Table]:
    general: dict[str, object] = {
        "rlnOutputRootName": "Refine3D/job007/run",
        "rlnCurrentIteration": iteration,
        "rlnDoAutoRefine": 1,
        "rlnJoinHalvesUntilThisResolution": 40.0,
        "rlnNumberOfIterWithoutResolutionGain": 1,
        "rlnNumberOfIterWithoutChangingAssignments": 2,
        "rlnChangesOptimalOrientations": 999.0 if iteration == 0 else 10.0 / iteration,
        "rlnChangesOptimalOffsets": 999.0 if iteration == 0 else 5.0 / iteration,
        "rlnHasConverged": 0,
        "rlnSolventMaskName": "None",
        **values,
    }
    return {"optimiser_general": general}  # type: ignore[dict-item]


def relion_refinement(
    folder: Path, *, n: int = 3, name: str = "run", relion5: bool = True, is_final: bool = True, symmetry: str = "C1"
) -> Path:
    """Write a Refine3D folder of n iterations in the layout of RELION 5, or of 3.1, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    program = "5.0.1" if relion5 else "3.1.3"
    comments = (f"RELION optimiser; version {program}", "--i particles.star --ref ref.mrc --o Refine3D/job007/run")
    for iteration in range(n + 1):
        begin = f"{folder}/{name}_it{iteration:03d}"
        for half in (1, 2):
            tables = model(20.0 - 3 * iteration, iteration, is_local=iteration > 1, relion5=relion5)
            write_star(f"{begin}_half{half}_model.star", tables)
        write_star(f"{begin}_sampling.star", sampling(2 + iteration, symmetry))
        write_star(f"{begin}_optimiser.star", optimiser(iteration), comments=comments)
    euler, origin = random_euler(), np.random.default_rng(5).normal(0, 2, (N_PARTICLE, 2))
    data = particle_tables(euler, origin)
    if not is_final:
        write_star(f"{folder}/{name}_it{n:03d}_data.star", data)
        return folder
    write_star(f"{folder}/{name}_data.star", data)
    write_star(f"{folder}/{name}_model.star", model(9.0, n + 1, is_local=True, relion5=relion5))
    write_star(f"{folder}/{name}_sampling.star", sampling(2 + n, symmetry))
    if relion5:
        write_star(f"{folder}/{name}_optimiser.star", optimiser(-1, rlnHasConverged=1), comments=comments)
    write_volume(folder / f"{name}_class001.mrc", ball(3.0), VOXEL_A)
    for half in (1, 2):
        write_volume(folder / f"{name}_half{half}_class001_unfil.mrc", ball(3.0, seed=half), VOXEL_A)
    return folder


def postprocessing(folder: Path) -> Path:
    """Write a PostProcess folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    shells = np.arange(N_SHELL)
    frequency = shells / (BOX * VOXEL_A)
    general: Mapping[str, object] = {
        "rlnFinalResolution": 8.0,
        "rlnBfactorUsedForSharpening": -87.5,
        "rlnMaskName": "MaskCreate/job010/mask.mrc",
        "rlnFittedSlopeGuinierPlot": -21.875,
        "rlnFittedInterceptGuinierPlot": -9.5,
    }
    fsc = {
        "rlnSpectralIndex": shells,
        "rlnResolution": frequency,
        "rlnFourierShellCorrelationCorrected": fsc_curve(7.0),
        "rlnFourierShellCorrelationUnmaskedMaps": fsc_curve(12.0),
        "rlnFourierShellCorrelationMaskedMaps": fsc_curve(6.8),
        "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps": fsc_curve(20.0),
    }
    guinier = {
        "rlnResolutionSquared": frequency**2,
        "rlnLogAmplitudesOriginal": -9.5 - 20 * frequency**2,
        "rlnLogAmplitudesSharpened": np.where(shells > 6, -99.0, -9.5),
    }
    tables: dict[str, Table] = {
        "general": dict(general),  # type: ignore[dict-item]
        "fsc": pd.DataFrame(fsc),
        "guinier": pd.DataFrame(guinier),
    }
    write_star(folder / "postprocess.star", tables, comments=("RELION postprocess; version 3.1.3", "--i half1.mrc"))
    return folder
