"""The recorded particles of relion_reconstruct, inserted by plain formulas."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import starfile

from napari_autorefine.engine.images import half_transforms, samples_of
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.kernels.backproject import backproject_cpu
from napari_autorefine.model.geometry import euler_to_matrix


def read_map(path: Path) -> np.ndarray:
    """Voxels of a map."""
    return np.array(mrcfile.read(path))


def transfer(row, optics, frequencies: np.ndarray) -> np.ndarray:
    """The CTF of one particle, written out in float64."""
    volts = optics.rlnVoltage * 1e3
    wavelength = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    angle = np.radians(row.rlnDefocusAngle)
    x = frequencies[:, 0] * np.cos(angle) + frequencies[:, 1] * np.sin(angle)
    y = -frequencies[:, 0] * np.sin(angle) + frequencies[:, 1] * np.cos(angle)
    defocus = np.pi * wavelength * (-row.rlnDefocusU * x * x - row.rlnDefocusV * y * y)
    aberration = np.pi / 2 * optics.rlnSphericalAberration * 1e7 * wavelength**3 * (x * x + y * y) ** 2
    contrast = optics.rlnAmplitudeContrast
    return -np.sin(defocus + aberration - np.arctan(contrast / np.sqrt(1 - contrast**2)))


def insert_particles(folder: Path, half: int | None, *, voxel_size_A: float) -> Accumulators:
    """Sums of CTF-corrected particles of one half (None = all), not yet completed."""
    tables = starfile.read(folder / "truth.star")
    images = mrcfile.read(folder / "particles.mrcs")
    size, pixel_size_A, pad = images.shape[-1], 3.6, 2
    samples = fourier_samples(size, size, size)
    acc = Accumulators.zeros(size, pad=pad, r_max=size // 2)
    optics = {row.rlnOpticsGroup: row for row in tables["optics"].itertuples()}
    for row in tables["particles"].itertuples():
        if half not in (None, row.rlnRandomSubset):
            continue
        image = images[int(row.rlnImageName.split("@")[0]) - 1][None]
        values = samples_of(half_transforms(image), samples)[0].astype(complex)
        turns = (samples.x * row.rlnOriginXAngst + samples.y * row.rlnOriginYAngst) / (pixel_size_A * size)
        contrast = transfer(row, optics[row.rlnOpticsGroup], samples.frequencies(pixel_size_A))
        values = (values * np.exp(-2j * np.pi * turns) * contrast)[None].astype(np.complex64)
        matrix = euler_to_matrix([row.rlnAngleRot, row.rlnAngleTilt, row.rlnAnglePsi]).T
        matrix = (pad * voxel_size_A / pixel_size_A * matrix)[None].astype(np.float32)
        amount, weight = np.ones(1, dtype=np.float32), (contrast**2).astype(np.float32)
        backproject_cpu(
            acc.data, acc.weight, matrix, values, amount, weight, samples.rows, acc.r2_max, 0, len(acc.data)
        )
        acc.dc_weight += contrast[0] ** 2
    return acc
