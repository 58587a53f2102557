"""Small tomography files: two tilt series of five tilts and four particles, in both forms, without tilt images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_autorefine.io.mrc import write_stack, write_volume

BOX, PIXEL = 8, 4.0
VISIBLE = "[0,1,1,1,0]"


@dataclass(frozen=True, slots=True, kw_only=True)
class TomoFiles:
    folder: Path
    star: Path
    tomograms: Path
    optimisation_set: Path

    def change(self, path: Path, old: str, new: str) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def _loop(name: str, rows: list[str], labels: list[str]) -> str:
    head = "".join(f"_{label} #{number}\n" for number, label in enumerate(labels, start=1))
    return f"\n# version 50001\n\ndata_{name}\n\nloop_\n{head}" + "\n".join(rows) + "\n\n"


def write_tomograms(folder: Path) -> Path:
    tilts = []
    for name in ("TS_1", "TS_2"):
        rows = [
            f"000001@{name}.mrcs {3 * n} {2e4 + n} {1.9e4 + n} 30 0 {tilt} 85 4 -8"
            for n, tilt in enumerate(range(-40, 41, 20))
        ]
        labels = [
            "rlnMicrographName",
            "rlnMicrographPreExposure",
            "rlnDefocusU",
            "rlnDefocusV",
            "rlnDefocusAngle",
            "rlnTomoXTilt",
            "rlnTomoYTilt",
            "rlnTomoZRot",
            "rlnTomoXShiftAngst",
            "rlnTomoYShiftAngst",
        ]
        path = folder / "tilts" / f"{name}.star"
        path.parent.mkdir(exist_ok=True)
        path.write_text(_loop(name, rows, labels))
        tilts.append(f"{name} 300 2.7 0.1 -1 optics1 {PIXEL} tilts/{name}.star 40 40 20")
    labels = ["rlnTomoName", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast", "rlnTomoHand",
              "rlnOpticsGroupName", "rlnTomoTiltSeriesPixelSize", "rlnTomoTiltSeriesStarFile", "rlnTomoSizeX",
              "rlnTomoSizeY", "rlnTomoSizeZ"]  # fmt: skip
    path = folder / "tomograms.star"
    path.write_text(_loop("global", tilts, labels))
    return path


def write_tomo_files(folder: Path, form: str) -> TomoFiles:
    """Write a set of the form ``2d`` or ``3d``."""
    rng = np.random.default_rng(7)
    tomograms = write_tomograms(folder)
    rows = []
    for number in range(4):
        name = f"TS_{1 + number // 2}"
        if form == "2d":
            write_stack(folder / f"{number}.mrcs", rng.standard_normal((3, BOX, BOX)).astype(np.float32), PIXEL)
            files = f"{number}.mrcs {VISIBLE}"
        else:
            write_volume(folder / f"{number}.mrc", rng.standard_normal((BOX,) * 3).astype(np.float32), PIXEL)
            weights = rng.random((2 * BOX, BOX, BOX // 2 + 1)).astype(np.float32)
            write_volume(folder / f"{number}_w.mrc", weights, 1.0)
            files = f"{number}.mrc {number}_w.mrc"
        rows.append(f"{name} {name}/{number} {8 * number} -4 2 10 20 30 40 50 60 1.5 0 -1 {1 + number % 2} 1 {files}")
    labels = ["rlnTomoName", "rlnTomoParticleName", "rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst",
              "rlnCenteredCoordinateZAngst", "rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi",
              "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst",
              "rlnRandomSubset", "rlnOpticsGroup", "rlnImageName",
              "rlnTomoVisibleFrames" if form == "2d" else "rlnCtfImage"]  # fmt: skip
    optics_labels = ["rlnOpticsGroup", "rlnOpticsGroupName", "rlnVoltage", "rlnSphericalAberration",
                     "rlnAmplitudeContrast", "rlnTomoTiltSeriesPixelSize", "rlnImagePixelSize", "rlnImageSize",
                     "rlnImageDimensionality", "rlnCtfDataAreCtfPremultiplied"]  # fmt: skip
    optics = [f"1 optics1 300 2.7 0.1 {PIXEL} {PIXEL} {BOX} {2 if form == '2d' else 3} 1"]
    star = folder / "particles.star"
    general = f"\n# version 50001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks {int(form == '2d')}\n\n"
    star.write_text(general + _loop("optics", optics, optics_labels) + _loop("particles", rows, labels))
    optimisation_set = folder / "optimisation_set.star"
    optimisation_set.write_text(
        "\n# version 50001\n\ndata_\n\n_rlnTomoParticlesFile particles.star\n_rlnTomoTomogramsFile tomograms.star\n\n"
    )
    return TomoFiles(folder=folder, star=star, tomograms=tomograms, optimisation_set=optimisation_set)
