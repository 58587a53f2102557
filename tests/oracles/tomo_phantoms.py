"""Sets of particles of tomograms with known poses, as premultiplied volumes and as premultiplied tilt stacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from oracles import imaging, phantoms
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.problem import RefinementProblem, TomogramData
from napari_autorefine.model.geometry import matrix_to_euler
from napari_autorefine.model.particles import Form, Particles, SubtomogramRows
from napari_autorefine.model.tomography import Tomogram, projection_matrices

BOX, PIXEL_A = 18, 4.5
TILTS_DEG = np.linspace(-54, 54, 7)


def simulate(form: Form, n: int, *, noise: float, seed: int = 1) -> phantoms.SimulatedSet:
    """Particles of one tilt series; ``noise`` is the deviation in one tilt image, in which the phantom's is 1."""
    rng = np.random.default_rng(seed)
    tomogram, optics = _series(), phantoms.optics_group(box_size=BOX, pixel_size_A=PIXEL_A, is_premultiplied=True)
    euler_deg = matrix_to_euler(Rotation.random(n, random_state=seed).as_matrix())
    origin_A = rng.normal(0, 0.6 * PIXEL_A, (n, 3))
    frames_deg = rng.uniform([-180, 0, -180], [180, 180, 180], (n, 3)) if form == "tilt_stack" else np.zeros((n, 3))
    rows = SubtomogramRows(
        is_tilt_stack=form == "tilt_stack",
        tomogram_name=np.full(n, "ts", dtype=object),
        rotation_deg=frames_deg,
        coordinate=rng.uniform(-300, 300, (n, 3)),
    )
    particles = phantoms.particles((optics,), np.zeros(n), origin_A=np.zeros((n, 3)), subtomograms=rows)
    clean = phantoms.ASYMMETRIC.image(np.eye(3), np.zeros(2), BOX, PIXEL_A)
    amplitude = 1.0 / clean.std()
    truth = replace(particles, euler_deg=euler_deg, origin_A=origin_A)
    if form == "tilt_stack":
        tilts = [np.sort(rng.permutation(7)[: 7 - i % 2]) for i in range(n)]
        stacks = [_stack(truth, i, tomogram, tilts[i], (amplitude, noise), rng) for i in range(n)]
        data = TomogramData(tomograms={"ts": tomogram}, tilts=tilts)
        images: list[np.ndarray] = stacks
    else:
        pairs = [_volume(truth, i, (amplitude, noise), rng) for i in range(n)]
        images = [volume for volume, _, _ in pairs]
        weights = [pair[1:] for pair in pairs]

        def read_weights(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.stack([weights[i][0] for i in index]), np.stack([weights[i][1] for i in index])

        data = TomogramData(read_weights=read_weights, tomograms={})
    reference = (amplitude * phantoms.ASYMMETRIC.map(BOX, PIXEL_A)).astype(np.float32)
    problem = problem_of(particles, images, data, reference)
    return phantoms.SimulatedSet(problem=problem, images=images, euler_deg=euler_deg, origin_A=origin_A)  # type: ignore[arg-type]


def problem_of(
    particles: Particles, images: list[np.ndarray], data: TomogramData, reference: np.ndarray
) -> RefinementProblem:
    """A refinement of these images."""

    def read(index: np.ndarray) -> np.ndarray | list[np.ndarray]:
        own = [images[i] for i in index]
        return own if particles.form == "tilt_stack" else np.stack(own)

    return RefinementProblem(
        particles=particles, read_images=read, reference=reference, voxel_size_A=PIXEL_A, tomogram_data=data
    )


def _series() -> Tomogram:
    n = len(TILTS_DEG)
    angles = np.column_stack([np.zeros(n), TILTS_DEG, np.full(n, 85.0)])
    return Tomogram(
        name="ts",
        pixel_size_A=1.5,
        projection=projection_matrices(angles, np.zeros((n, 2)), size_px=(400, 400, 200)),
        size_px=(400, 400, 200),
        dose_e_A2=np.argsort(np.argsort(np.abs(TILTS_DEG))).astype(float),
        defocus_A=np.column_stack([np.linspace(8000, 11000, n), np.linspace(7800, 10700, n)]),
        defocus_angle_deg=np.full(n, 20.0),
        phase_shift_deg=np.zeros(n),
        ctf_bfactor_A2=np.zeros(n),
        ctf_scale=np.ones(n),
        bfactor_per_dose_A2=np.zeros(n),
    )


def _stack(
    truth: Particles,
    i: int,
    tomogram: Tomogram,
    tilts: np.ndarray,
    scales: tuple[float, float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Tilt images (n_tilt, N, N), multiplied by their CTF."""
    rows, pose = truth.subtomograms, imaging.rotation(truth.euler_deg[i])
    assert rows is not None and rows.coordinate is not None
    line = np.fft.fftfreq(BOX, PIXEL_A)
    points = np.stack([a.ravel() for a in np.meshgrid(line, line)], axis=1)
    stack = []
    for tilt in tilts:
        turn = tomogram.rotations[tilt] @ imaging.rotation(rows.rotation_deg[i])
        image = scales[0] * phantoms.ASYMMETRIC.image(turn @ pose, (turn @ truth.origin_A[i])[:2], BOX, PIXEL_A)
        height_px = rows.coordinate[i] / tomogram.pixel_size_A
        transfer = imaging.tilt_transfer(truth.optics[0], tomogram, tilt, height_px, points).reshape(image.shape)
        noise = scales[1] * rng.standard_normal(image.shape)
        spectrum = np.fft.fft2(image) * transfer + np.fft.fft2(noise) * np.sqrt(transfer)
        stack.append(np.fft.ifft2(spectrum).real)
    return np.stack(stack).astype(np.float32)


def _volume(
    truth: Particles, i: int, scales: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A volume (N, N, N) with its sum of squared CTFs and its multiplicity on the grid of half transforms."""
    seen = phantoms.ASYMMETRIC.rotated(imaging.rotation(truth.euler_deg[i]))
    seen = replace(seen, centers_A=seen.centers_A - truth.origin_A[i])
    axis = np.rint(np.fft.fftfreq(BOX) * BOX)
    z, y, x = np.meshgrid(axis, axis, np.arange(BOX // 2 + 1), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    seen_at = (np.abs(z) <= np.tan(np.radians(54)) * x + 0.5) | (radius < 1)
    multiplicity = np.where(seen_at, 7.0 / (1.0 + np.hypot(x, z)) + 0.3, 0.0)
    squared = multiplicity * np.sin(0.5 + 0.02 * (40 + i) * (radius / BOX * 4) ** 2) ** 2
    # As seen by images: noise of one tilt, per voxel of its slice.
    noise = scales[1] / np.sqrt(BOX) * rng.standard_normal((BOX,) * 3)
    clean = scales[0] * seen.map(BOX, PIXEL_A)
    spectrum = np.fft.rfftn(clean) * squared + np.fft.rfftn(noise) * np.sqrt(squared)
    volume = np.fft.irfftn(spectrum, s=clean.shape, axes=(0, 1, 2))
    return volume.astype(np.float32), squared.astype(np.float32), multiplicity.astype(np.float32)
