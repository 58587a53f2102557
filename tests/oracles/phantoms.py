"""Molecules of Gaussian blobs, their exact projections, and particle sets with known poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from oracles import imaging
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.problem import RefinementProblem
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles

# An asymmetric body.
CENTERS_A = np.array(
    [[22, 4, -8], [-16, 14, 10], [2, -24, 4], [8, 12, 22], [-10, -6, -18], [-20, -10, 12]], dtype=float
)
HEIGHTS = np.array([1.0, 1.4, 0.8, 1.2, 1.0, 0.6])
WIDTH_A = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """Blobs of one width at ``centers_A`` (n, 3)."""

    centers_A: np.ndarray
    heights: np.ndarray
    width_A: float = WIDTH_A

    def rotated(self, matrix: np.ndarray) -> Phantom:
        return Phantom(centers_A=self.centers_A @ matrix.T, heights=self.heights, width_A=self.width_A)

    def symmetrized(self, operators: np.ndarray) -> Phantom:
        centers = np.concatenate([self.centers_A @ operator.T for operator in operators])
        return Phantom(centers_A=centers, heights=np.tile(self.heights, len(operators)), width_A=self.width_A)

    def map(self, box_size: int, voxel_size_A: float) -> np.ndarray:
        """Density (N, N, N), whose sum along z is the projection for angles 0."""
        gaussians = self._gaussians(self.centers_A, box_size, voxel_size_A)
        norm = voxel_size_A / (np.sqrt(2 * np.pi) * self.width_A)
        return (norm * np.einsum("b,bz,by,bx->zyx", self.heights, *gaussians[::-1])).astype(np.float32)

    def image(self, rotation: np.ndarray, origin_A: np.ndarray, box_size: int, pixel_size_A: float) -> np.ndarray:
        """Projection (N, N) float64; the particle is drawn at minus its origin."""
        seen = self.centers_A @ rotation.T
        seen[:, :2] -= origin_A
        x, y, _ = self._gaussians(seen, box_size, pixel_size_A)
        return np.einsum("b,by,bx->yx", self.heights, y, x)

    def _gaussians(self, centers_A: np.ndarray, box_size: int, pixel_size_A: float) -> list[np.ndarray]:
        axis = (np.arange(box_size) - box_size // 2) * pixel_size_A
        return [np.exp(-((axis - c[:, None]) ** 2) / (2 * self.width_A**2)) for c in centers_A.T]


ASYMMETRIC = Phantom(centers_A=CENTERS_A, heights=HEIGHTS)


def optics_group(number: int = 1, **changes: object) -> OpticsGroup:
    fields = {"number": number, "name": f"group{number}", "pixel_size_A": 4.0, "box_size": 24, "voltage_kV": 300.0}
    return OpticsGroup(**{**fields, **changes})  # type: ignore[arg-type]


def particles(optics: tuple[OpticsGroup, ...], optics_index: np.ndarray, **changes: object) -> Particles:
    """Particle set without a file: poses 0, defocus about 1 um, halves alternating, one scale group."""
    n = len(optics_index)
    rng = np.random.default_rng(n)
    defocus = rng.uniform(6000, 14000, n)
    fields = {
        "image_name": np.array([f"{i + 1:06d}@s.mrcs" for i in range(n)], dtype=object),
        "micrograph_name": np.full(n, "m.mrc", dtype=object),
        "group_name": np.full(n, "m.mrc", dtype=object),
        "optics_index": np.asarray(optics_index, dtype=np.int64),
        "euler_deg": np.zeros((n, 3)),
        "origin_A": np.zeros((n, 2)),
        "defocus_A": np.stack([defocus + 400, defocus - 400], axis=1),
        "defocus_angle_deg": rng.uniform(0, 180, n),
        "phase_shift_deg": np.zeros(n),
        "ctf_bfactor_A2": np.zeros(n),
        "ctf_scale": np.ones(n),
        "half": (np.arange(n) % 2 + 1).astype(np.int8),
        "norm_correction": np.ones(n),
        "optics": optics,
        "table": pd.DataFrame(index=range(n)),
        "optics_table": pd.DataFrame(),
    }
    return Particles(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSet:
    """Images of a phantom and the poses they were made with."""

    problem: RefinementProblem
    images: np.ndarray
    euler_deg: np.ndarray
    origin_A: np.ndarray


def simulate(  # a set in one optics group, white noise of deviation 1
    phantom: Phantom,
    n: int,
    *,
    snr: float,
    seed: int = 1,
    box_size: int = 24,
    pixel_size_A: float = 4.0,
    strengths: np.ndarray | None = None,
    gains: np.ndarray | None = None,
    group_name: np.ndarray | None = None,
    reference: np.ndarray | None = None,
) -> SimulatedSet:
    """Projections with CTF. ``snr`` is the variance of the signal over that of the noise, over the whole image."""
    rng = np.random.default_rng(seed)
    euler_deg = Rotation.random(n, random_state=seed).inv().as_euler("ZYZ", degrees=True)
    euler_deg = -euler_deg[:, ::-1]
    origin_A = rng.normal(0, 0.6 * pixel_size_A, (n, 2))
    optics = (optics_group(box_size=box_size, pixel_size_A=pixel_size_A),)
    found = particles(optics, np.zeros(n), **({} if group_name is None else {"group_name": group_name}))
    strengths = np.ones(n) if strengths is None else strengths
    images = np.stack(
        [
            strengths[i] * imaging.with_ctf(phantom.image(imaging.rotation(e), o, box_size, pixel_size_A), found, i)
            for i, (e, o) in enumerate(zip(euler_deg, origin_A, strict=True))
        ]
    )
    amplitude = np.sqrt(snr / np.mean(images.var(axis=(1, 2))))
    images = amplitude * images + rng.standard_normal(images.shape)
    if gains is not None:
        images *= gains[:, None, None]
    images = images.astype(np.float32)
    truth = amplitude * phantom.map(box_size, pixel_size_A)
    problem = RefinementProblem(
        particles=found,
        read_images=lambda index: images[index],
        reference=truth if reference is None else reference,
        voxel_size_A=pixel_size_A,
    )
    return SimulatedSet(problem=problem, images=images, euler_deg=euler_deg, origin_A=origin_A)
