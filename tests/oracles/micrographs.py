"""Particle extraction in plain float64 steps, and a small set of micrographs to try it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import numpy as np


def window(micrograph: np.ndarray, x: float, y: float, size: int) -> np.ndarray:
    """Box about a particle, pixels beyond the edge repeated, by numpy's own padding."""
    far = size + 200
    padded = np.pad(micrograph.astype(np.float64), far, mode="edge")
    left, top = int(x) - size // 2 + far, int(y) - size // 2 + far
    return padded[top : top + size, left : left + size]


def filtered_window(micrograph: np.ndarray, x: float, y: float, sizes: tuple[int, int], factor: np.ndarray):
    """Box times a transfer function, in a larger box filled with the mean, edges repeated afterwards."""
    size, large = sizes
    mean = micrograph.mean(dtype=np.float64)
    padded = np.pad(micrograph.astype(np.float64), large, constant_values=mean)
    left, top = int(x) - large // 2 + large, int(y) - large // 2 + large
    box = np.fft.irfft2(np.fft.rfft2(padded[top : top + large, left : left + large]) * factor, (large, large))
    cut = large // 2 - size // 2
    box = box[cut : cut + size, cut : cut + size]
    columns = np.clip(np.arange(size) + int(x) - size // 2, 0, micrograph.shape[1] - 1) - (int(x) - size // 2)
    rows = np.clip(np.arange(size) + int(y) - size // 2, 0, micrograph.shape[0] - 1) - (int(y) - size // 2)
    return box[np.ix_(rows, columns)]


def rescaled(image: np.ndarray, size: int) -> np.ndarray:
    """Fourier crop: one coefficient after the other."""
    box = len(image)
    source = np.fft.rfft2(image) / box**2
    target = np.zeros((size, size // 2 + 1), complex)
    for ky in range(-(size // 2) + 1, size // 2 + 1):
        for kx in range(size // 2 + 1):
            target[ky % size, kx] = source[ky % box, kx]
    return np.fft.irfft2(target, (size, size)) * size**2


def normalised(image: np.ndarray, radius: float, *, ramp: bool = True) -> np.ndarray:
    """Background mean 0 and deviation 1, the plane by numpy's least squares."""
    y, x = np.mgrid[: len(image), : len(image)] - len(image) // 2
    outside = x**2 + y**2 > radius**2
    if ramp:
        design = np.stack([x[outside], y[outside], np.ones(outside.sum())], axis=1)
        a, b, c = np.linalg.lstsq(design, image[outside], rcond=None)[0]
        image = image - (a * x + b * y + c)
    return (image - image[outside].mean()) / image[outside].std()


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographSet:
    """Two micrographs of two optics groups with coordinates, and refined particles numbered the other way round."""

    folder: Path
    shape: tuple[int, int] = (90, 120)
    images: dict[str, np.ndarray] = field(default_factory=dict)
    coordinates: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def star(self) -> str:
        return str(self.folder / "mics.star")

    @property
    def refined(self) -> str:
        return str(self.folder / "run_data.star")

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def picks(self) -> list[str]:
        """Options for a first extraction."""
        return ["--coord_dir", str(self.folder / "picks"), "--coord_suffix", "_pick.star"]

    def line(self, *more: str) -> list[str]:
        """Words of a command line: a first extraction into ``output``."""
        return ["extract", "--i", self.star, *self.picks(), "--o", str(self.output), "--extract_size", "32", *more]

    def again(self, *more: str) -> list[str]:
        """Words of a command line: a re-extraction into ``output``."""
        words = ["extract", "--i", self.star, "--reextract_data_star", self.refined, "--o", str(self.output)]
        return [*words, "--extract_size", "32", *more]


PIXEL_A = {"a": 1.5, "b": 2.0}
_OPTICS = """
# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
"""


def write_table(path: Path, name: str, labels: str, rows: list[str], *, head: str = "") -> None:
    """One loop table; ``labels`` without ``rln``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = "\n".join(f"_rln{label} #{number}" for number, label in enumerate(labels.split(), start=1))
    path.write_text(f"{head}\n\ndata_{name}\n\nloop_\n{columns}\n" + "\n".join(rows) + "\n\n")


def make_micrographs(folder: Path) -> MicrographSet:
    """Write the set."""
    rng = np.random.default_rng(8)
    made = MicrographSet(folder=folder)
    head = _OPTICS + "_rlnMicrographPixelSize #6\n1 ga 300 2.7 0.1 1.5\n2 gb 200 2.0 0.07 2.0\n\n\n# version 30001\n"
    rows = []
    for number, name in enumerate("ab", start=1):
        gradient = np.linspace(0, 12, made.shape[1])
        image = (rng.normal(400, 5, made.shape) + gradient).astype(np.float32)
        made.images[name] = image
        path = folder / "Motion" / "job002" / "Movies" / f"{name}.mrc"
        path.parent.mkdir(parents=True, exist_ok=True)
        with mrcfile.new(path) as file:
            file.set_data(image)
            file.voxel_size = PIXEL_A[name]
        xy = np.concatenate([rng.uniform([5, 5], [115, 85], (4, 2)), [[-15.9, 40], [135.2, 105.9], [60, 45]]])
        made.coordinates[name] = xy.round(3)
        picks = [f"{x:.3f} {y:.3f} {0.1 * row:.6f}" for row, (x, y) in enumerate(made.coordinates[name])]
        labels = "CoordinateX CoordinateY AutopickFigureOfMerit"
        write_table(folder / "picks" / "Movies" / f"{name}_pick.star", "", labels, picks)
        rows.append(f"Motion/job002/Movies/{name}.mrc {number} {9000 * number} {8500 * number} {20 * number} 5.5")
    labels = "MicrographName OpticsGroup DefocusU DefocusV DefocusAngle CtfMaxResolution"
    write_table(folder / "mics.star", "micrographs", labels, rows, head=head)
    _write_refined(made, rng)
    return made


def _write_refined(made: MicrographSet, rng: np.random.Generator) -> None:
    """Refined particles of another job, groups numbered the other way round, micrographs mixed."""
    head = _OPTICS + "_rlnImagePixelSize #6\n_rlnImageSize #7\n_rlnImageDimensionality #8\n"
    head += "_rlnCtfDataAreCtfPremultiplied #9\n"
    head += "1 gb 200 2.0 0.07 4.0 16 2 1\n2 ga 300 2.7 0.1 3.0 16 2 1\n3 unused 300 2.7 0.1 3.0 16 2 1\n\n"
    rows = []
    for number, name in ((2, "a"), (1, "b")):
        for x, y in made.coordinates[name][:4]:
            rot, tilt, psi = rng.uniform([-180, 0, -180], [180, 180, 180]).round(3)
            ox, oy = rng.uniform(-8, 8, 2).round(3)
            place = f"{len(rows) + 1:06d}@Extract/job007/old.mrcs Polish/job004/Movies/{name}.mrc {x:.3f} {y:.3f}"
            rows.append(
                f"{place} {number} {rot} {tilt} {psi} {ox} {oy} {10000 + 10 * len(rows)} 9900 12 {len(rows) % 2 + 1}"
            )
    order = [0, 4, 1, 5, 6, 2, 3, 7]
    labels = "ImageName MicrographName CoordinateX CoordinateY OpticsGroup AngleRot AngleTilt AnglePsi OriginXAngst"
    labels += " OriginYAngst DefocusU DefocusV DefocusAngle RandomSubset"
    write_table(Path(made.refined), "particles", labels, [rows[row] for row in order], head=head)
