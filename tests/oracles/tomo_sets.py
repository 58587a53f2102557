"""Tiny sets of particles of tomograms, as volumes with weights and as tilt stacks, for ``half_sets``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from oracles import imaging, phantoms

from napari_autorefine.engine.problem import TomogramData
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Form, Particles, SubtomogramRows
from napari_autorefine.model.tomography import Tomogram, projection_matrices

LEAST_MULTIPLICITY, VOLUME_NOISE = 0.01, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What differs between the files of volumes; ``has_holes``: squared CTFs that are (almost) 0 at one place."""

    has_weights: bool = True
    has_multiplicity: bool = True
    holds_ctf: bool = False
    is_normalised: bool = False
    ignores_multiplicity: bool = False
    has_holes: bool = True


def tomograms() -> dict[str, Tomogram]:
    """Two tilt series, of five and of four tilts, with all that a tilt can have."""
    return {"a": _tomogram("a", 5, hand=1.0), "b": _tomogram("b", 4, hand=-1.0)}


def _tomogram(name: str, n: int, hand: float) -> Tomogram:
    rng = np.random.default_rng(n)
    angles = np.column_stack([rng.normal(0, 2, n), np.linspace(-55, 50, n), rng.normal(84, 1, n)])
    return Tomogram(
        name=name,
        pixel_size_A=1.3,
        projection=projection_matrices(angles, rng.normal(0, 9, (n, 2)), size_px=(300, 280, 120)),
        size_px=(300, 280, 120),
        dose_e_A2=3.0 * np.argsort(np.argsort(np.abs(angles[:, 1]))),
        defocus_A=rng.uniform(7000, 12000, (n, 1)) + np.array([300.0, -300.0]),
        defocus_angle_deg=rng.uniform(0, 180, n),
        phase_shift_deg=rng.uniform(0, 40, n),
        ctf_bfactor_A2=rng.uniform(0, 150, n),
        ctf_scale=np.cos(np.radians(angles[:, 1])),
        bfactor_per_dose_A2=np.zeros(n),
        hand=hand,
        defocus_slope=0.9,
    )


def with_subtomograms(particles: Particles, form: Form, *, has_prior: bool) -> Particles:
    """Make particles of tomograms of images: frames, coordinates and visible tilts, drawn at random."""
    n, rng = len(particles), np.random.default_rng(11)
    names = np.array([("a", "b")[i % 2] for i in range(n)], dtype=object)
    return replace(
        particles,
        origin_A=rng.normal(0, 5.0, (n, 3)),
        origin_prior_A=rng.normal(0, 3.0, (n, 3)) if has_prior else None,
        subtomograms=SubtomogramRows(
            is_tilt_stack=form == "tilt_stack",
            tomogram_name=names,
            rotation_deg=rng.uniform([-180, 0, -180], [180, 180, 180], (n, 3)),
            coordinate=rng.uniform(-500, 500, (n, 3)),
        ),
    )


def visible_tilts(particles: Particles) -> list[np.ndarray]:
    """Three to five tilts of each particle, in the order of the series."""
    rows, all_tilts = particles.subtomograms, tomograms()
    assert rows is not None
    rng = np.random.default_rng(12)
    found = []
    for name in rows.tomogram_name:
        n = all_tilts[name].n_tilt
        found.append(np.sort(rng.permutation(n)[: rng.integers(3, n + 1)]))
    return found


def data_of(particles: Particles, files: Files) -> TomogramData:
    """What the particles bring besides their images."""
    if particles.form == "tilt_stack":
        return TomogramData(tomograms=tomograms(), tilts=visible_tilts(particles))
    weights = [_weights(particles.optics[g], i, files) for i, g in enumerate(particles.optics_index)]

    def read(index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        ctf, multiplicity = (np.stack(values) for values in zip(*[weights[i] for i in index], strict=True))
        return ctf, multiplicity if files.has_multiplicity else None

    return TomogramData(
        read_weights=read if files.has_weights else None,
        tomograms=tomograms(),
        holds_ctf=files.holds_ctf,
        is_normalised=files.is_normalised,
        ignores_multiplicity=files.ignores_multiplicity,
        least_multiplicity=LEAST_MULTIPLICITY,
    )


def _weights(optics: OpticsGroup, i: int, files: Files) -> tuple[np.ndarray, np.ndarray]:
    """CTF volume and multiplicity of a particle on the grid of half transforms (N, N, N // 2 + 1)."""
    contrast, multiplicity = contrast_and_multiplicity(optics.box_size, i)
    seen = multiplicity if files.has_multiplicity else (multiplicity >= LEAST_MULTIPLICITY).astype(float)
    ctf = contrast * (1.0 if files.is_normalised else seen)
    if optics.is_premultiplied:
        ctf = ctf * contrast
        if files.has_holes:
            ctf[2, 3, 4], ctf[1, 2, 3] = 0.0, 5e-5
        ctf = np.sqrt(ctf) if files.holds_ctf else ctf
    return ctf.astype(np.float32), seen.astype(np.float32)


def contrast_and_multiplicity(box_size: int, i: int) -> tuple[np.ndarray, np.ndarray]:
    """A mean CTF and a number of tilts with a missing wedge, both even, (N, N, N // 2 + 1)."""
    axis = np.rint(np.fft.fftfreq(box_size) * box_size)
    z, y, x = np.meshgrid(axis, axis, np.arange(box_size // 2 + 1), indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    contrast = np.cos(0.35 * radius + 0.3 * i + 0.02 * x * y) * np.exp(-0.05 * radius)
    multiplicity = (1 + np.cos(0.2 * radius * (1 + 0.1 * i)) ** 2) * 8 / (4 + radius)
    height = np.abs(z) - (0.9 + 0.1 * i) * np.hypot(x, 0.2 * y)
    multiplicity = np.where(height > 0.5, np.where(height > 2, 0.0, 0.004), multiplicity)
    return contrast, multiplicity


def volume(particles: Particles, i: int, data: TomogramData, files: Files, *, signal: float, seed: int) -> np.ndarray:
    """A subtomogram of the phantom with noise of deviation ``VOLUME_NOISE``, weighted as its files say."""
    rng = np.random.default_rng(seed)
    optics = particles.optics[particles.optics_index[i]]
    seen = phantoms.ASYMMETRIC.rotated(imaging.rotation(particles.euler_deg[i]))
    seen = replace(seen, centers_A=seen.centers_A - particles.origin_A[i])
    clean = signal * seen.map(optics.box_size, optics.pixel_size_A)
    noise = VOLUME_NOISE * rng.standard_normal(clean.shape)
    if data.read_weights is None:
        return clean + noise
    contrast, multiplicity = contrast_and_multiplicity(optics.box_size, i)
    multiplicity = multiplicity if files.has_multiplicity else (multiplicity > LEAST_MULTIPLICITY).astype(float)
    amount = multiplicity * contrast * (contrast if optics.is_premultiplied else 1.0)
    deviation = np.sqrt(amount if optics.is_premultiplied else multiplicity)
    transform = np.fft.rfftn(clean) * amount + np.fft.rfftn(noise) * deviation
    if files.is_normalised:
        transform /= np.maximum(multiplicity, LEAST_MULTIPLICITY)
    return np.fft.irfftn(transform, s=clean.shape, axes=(0, 1, 2))


def tilt_stack(particles: Particles, i: int, data: TomogramData, *, signal: float, seed: int) -> np.ndarray:
    """Tilt images of the phantom with noise of deviation 1."""
    rng = np.random.default_rng(seed)
    rows, optics = particles.subtomograms, particles.optics[particles.optics_index[i]]
    assert rows is not None and rows.coordinate is not None
    tomogram, pose = data.tomograms[rows.tomogram_name[i]], imaging.rotation(particles.euler_deg[i])
    line = np.fft.fftfreq(optics.box_size, optics.pixel_size_A)
    points = np.stack([a.ravel() for a in np.meshgrid(line, line)], axis=1)
    stack = []
    for tilt in data.tilts[i]:
        turn = tomogram.rotations[tilt] @ imaging.rotation(rows.rotation_deg[i])
        image = signal * phantoms.ASYMMETRIC.image(
            turn @ pose, (turn @ particles.origin_A[i])[:2], optics.box_size, optics.pixel_size_A
        )
        height_px = rows.coordinate[i] / tomogram.pixel_size_A
        transfer = imaging.tilt_transfer(optics, tomogram, tilt, height_px, points).reshape(image.shape)
        noise = np.fft.fft2(rng.standard_normal(image.shape))
        noise = noise * np.sqrt(transfer) if optics.is_premultiplied else noise
        stack.append(np.fft.ifft2(np.fft.fft2(image) * transfer + noise).real)
    return np.stack(stack)
