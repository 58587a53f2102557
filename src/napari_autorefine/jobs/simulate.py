"""Make a particle set with known truth from an atomic model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.atoms import read_model
from napari_autorefine.io.mrc import write_stack, write_volume
from napari_autorefine.io.tables import write_star
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import AtomProjector, Atoms, to_image
from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.frames import frame_rotation, symmetry_center
from napari_autorefine.model.geometry import euler_to_matrix, rotation_difference_deg
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.symmetry import point_group

_MICROSCOPES = ((300.0, 2.7), (200.0, 1.4), (300.0, 0.01), (120.0, 2.0))
_N_CALIBRATION = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What the simulation drew for each of n particles.

    Attributes
    ----------
    euler_deg : (n, 3); origin_A : (n, 2), x y; defocus_A : (n, 2), U and V; angle_deg : (n,), of U
    micrograph : (n,), index of the micrograph, ascending; optics : (n,), index of the optics group
    strength : (n,), relative signal strength of its micrograph
    """

    euler_deg: np.ndarray
    origin_A: np.ndarray
    defocus_A: np.ndarray
    angle_deg: np.ndarray
    micrograph: np.ndarray
    optics: np.ndarray
    strength: np.ndarray


def draw_truth(params: SimulateParams) -> Truth:
    """Draw poses uniformly over all rotations, Gaussian offsets, and the optics of each micrograph."""
    rng = np.random.default_rng([params.seed, 0])
    n, n_mic = params.n_particle, min(params.micrographs, params.n_particle)
    euler = np.stack(
        [rng.uniform(-180, 180, n), np.rad2deg(np.arccos(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], axis=1
    )
    micrograph = np.arange(n) * n_mic // n
    mean = rng.uniform(params.defocus_min_A, params.defocus_max_A, n_mic)
    astigmatism = rng.uniform(0, params.astigmatism_A, n_mic)
    angle = rng.uniform(0, 180, n_mic)
    strength = np.clip(rng.normal(1.0, params.scale_sigma, n_mic), 0.4, 1.6)
    height = rng.normal(0, 100.0, n)
    middle = mean[micrograph] + height
    half = 0.5 * astigmatism[micrograph]
    return Truth(
        euler_deg=euler,
        origin_A=rng.normal(0, 1.0, (n, 2)) * params.offset_sigma_A,
        defocus_A=np.stack([middle + half, middle - half], axis=1),
        angle_deg=angle[micrograph],
        micrograph=micrograph,
        optics=(np.arange(n_mic) % params.optics_groups)[micrograph],
        strength=(strength / strength.mean())[micrograph],
    )


def optics_of(params: SimulateParams) -> tuple[OpticsGroup, ...]:
    """Optics groups of the simulation."""
    groups = []
    for index in range(params.optics_groups):
        voltage, cs = _MICROSCOPES[index]
        groups.append(
            OpticsGroup(
                number=index + 1,
                name=f"opticsGroup{index + 1}",
                pixel_size_A=params.group_pixel_size_A[index] if params.group_pixel_size_A else params.pixel_size_A,
                box_size=params.group_box_size[index] if params.group_box_size else params.box_size,
                voltage_kV=voltage,
                cs_mm=cs,
                amplitude_contrast=0.1,
            )
        )
    return tuple(groups)


class ParticleDrawer:
    """Draws noise-free particle images (projection times CTF) of a molecule for drawn truth."""

    def __init__(self, atoms: Atoms, truth: Truth, params: SimulateParams) -> None:
        self.truth = truth
        self.optics = optics_of(params)
        self._matrices = euler_to_matrix(truth.euler_deg)
        self._projectors = [
            AtomProjector(atoms, box_size=g.box_size, pixel_size_A=g.pixel_size_A, bfactor_A2=params.bfactor_A2)
            for g in self.optics
        ]
        self._frequencies = [projector.frequencies for projector in self._projectors]
        reference_area = params.pixel_size_A**2
        self._gain = [reference_area / g.pixel_size_A**2 for g in self.optics]

    def signal(self, index: int) -> np.ndarray:
        """Noise-free image (box, box) float64 of particle ``index``, strength of its micrograph included."""
        truth, group = self.truth, int(self.truth.optics[index])
        projector = self._projectors[group]
        transform = projector.project(self._matrices[index], truth.origin_A[index])
        transfer = ctf(
            self.optics[group],
            truth.defocus_A[index : index + 1],
            truth.angle_deg[index : index + 1],
            np.zeros(1),
            np.zeros(1),
            np.ones(1),
            self._frequencies[group],
        )
        image = to_image(transform * transfer.reshape(transform.shape))
        return image * (self._gain[group] * truth.strength[index])


def _circle(box_size: int, radius_px: float) -> np.ndarray:
    axis = np.arange(box_size) - box_size // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 <= radius_px**2


def _noise(box_size: int, pixel_size_A: float, length_A: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation 1, white or falling with frequency."""
    white = rng.standard_normal((box_size, box_size))
    if length_A == 0:
        return white
    fx = np.fft.rfftfreq(box_size, pixel_size_A)
    fy = np.fft.fftfreq(box_size, pixel_size_A)
    amplitude = 1.0 / np.sqrt(1.0 + length_A**2 * (fy[:, None] ** 2 + fx[None, :] ** 2))
    full = 1.0 / (1.0 + length_A**2 * (fy[:, None] ** 2 + fy[None, :] ** 2))
    return np.fft.irfft2(np.fft.rfft2(white) * amplitude, s=white.shape) / np.sqrt(full.mean())


def signal_gain(drawer: ParticleDrawer, params: SimulateParams, diameter_A: float) -> float:
    """Factor that gives the signal the wanted variance inside the particle circle, on average over particles."""
    if params.snr == 0:
        return 1.0
    chosen = np.unique(np.linspace(0, params.n_particle - 1, _N_CALIBRATION).astype(int))
    variances = []
    for index in chosen:
        group = drawer.optics[int(drawer.truth.optics[index])]
        inside = _circle(group.box_size, diameter_A / (2 * group.pixel_size_A))
        variances.append(drawer.signal(int(index))[inside].var())
    return float(np.sqrt(params.snr / np.mean(variances)))


def _particle(drawer: ParticleDrawer, index: int, gain: float, params: SimulateParams, diameter_A: float) -> np.ndarray:
    """Return the final image (box, box) float32: signal and noise, background of mean 0, deviation 1."""
    image = drawer.signal(index) * gain
    if params.snr == 0:
        return image.astype(np.float32)
    group = drawer.optics[int(drawer.truth.optics[index])]
    rng = np.random.default_rng([params.seed, 1, index])
    image = image + _noise(group.box_size, group.pixel_size_A, params.noise_length_A, rng)
    outside = image[~_circle(group.box_size, diameter_A / (2 * group.pixel_size_A))]
    return ((image - outside.mean()) / outside.std()).astype(np.float32)


def optics_table(optics: tuple[OpticsGroup, ...]) -> pd.DataFrame:
    """Optics table of the particle files."""
    return pd.DataFrame(
        {
            "rlnOpticsGroup": [g.number for g in optics],
            "rlnOpticsGroupName": [g.name for g in optics],
            "rlnVoltage": [g.voltage_kV for g in optics],
            "rlnSphericalAberration": [g.cs_mm for g in optics],
            "rlnAmplitudeContrast": [g.amplitude_contrast for g in optics],
            "rlnImagePixelSize": [g.pixel_size_A for g in optics],
            "rlnImageSize": [g.box_size for g in optics],
            "rlnImageDimensionality": [2 for _ in optics],
        }
    )


def particle_table(truth: Truth, stacks: list[str], micrographs: list[str]) -> pd.DataFrame:
    """Particle table without poses."""
    names, count = [], dict.fromkeys(range(len(stacks)), 0)
    for mic in truth.micrograph:
        count[int(mic)] += 1
        names.append(f"{count[int(mic)]:06d}@{stacks[int(mic)]}")
    return pd.DataFrame(
        {
            "rlnImageName": names,
            "rlnMicrographName": [micrographs[int(mic)] for mic in truth.micrograph],
            "rlnOpticsGroup": truth.optics + 1,
            "rlnDefocusU": truth.defocus_A[:, 0],
            "rlnDefocusV": truth.defocus_A[:, 1],
            "rlnDefocusAngle": truth.angle_deg,
        }
    )


def _with_poses(table: pd.DataFrame, truth: Truth) -> pd.DataFrame:
    poses = dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), truth.euler_deg.T, strict=True))
    poses |= dict(zip(("rlnOriginXAngst", "rlnOriginYAngst"), truth.origin_A.T, strict=True))
    return table.assign(**poses)


def simulate(params: SimulateParams) -> Iterator[Event]:
    """Make particle stacks, ``PREFIX.star``, ``PREFIX_truth.star`` and ``PREFIX_truth.mrc`` from an atomic model."""
    if not params.model:
        raise InputError("The atomic model is missing; give a PDB or mmCIF file.")
    model = read_model(params.model, assembly=params.assembly or None)
    group = point_group(params.symmetry)
    frame = frame_rotation(model.rotations, group)
    angle = float(rotation_difference_deg(frame, np.eye(3)))
    if angle > 0.0:
        yield Message(text=f"Rotated the model by {angle:.2f}° to RELION's axes of {group.name}.")
    center = symmetry_center(model.rotations, model.shifts_A, group, frame)
    yield from simulate_atoms(model.atoms.moved(-center).rotated(frame), params)


def simulate_atoms(atoms: Atoms, params: SimulateParams) -> Iterator[Event]:
    """``simulate`` for a molecule that is in the frame of its symmetry already."""
    if not params.output:
        raise InputError("The output is missing; give the folder and first part of the output names with --o.")
    particles = Path(f"{params.output}.star")
    if particles.exists() and not params.overwrite:
        raise InputError(f"Output {particles} exists; choose another --o or add --overwrite.")
    drawer = ParticleDrawer(atoms, draw_truth(params), params)
    smallest = min(g.box_size * g.pixel_size_A for g in drawer.optics)
    if 2 * atoms.radius_A > smallest:
        text = f"The molecule is {2 * atoms.radius_A:.0f} Å wide and does not fit the box of {smallest:.0f} Å"
        yield Message(text=f"{text}; its ends wrap around the edge.", level="warning")
    diameter = params.particle_diameter_A or min(2 * atoms.radius_A + 10.0, smallest - 4 * params.pixel_size_A)
    gain = signal_gain(drawer, params, diameter)
    yield from _write_stacks(drawer, gain, params, diameter)
    _write_truth_map(atoms, gain, params)
    _write_tables(drawer, params)
    prefix = params.output
    outputs = {"particles": f"{prefix}.star", "truth": f"{prefix}_truth.star", "truth_map": f"{prefix}_truth.mrc"}
    yield Finished(text=f"Made {params.n_particle} particles; circle of {diameter:.0f} Å.", outputs=outputs)


def _write_truth_map(atoms: Atoms, gain: float, params: SimulateParams) -> None:
    """Write the map whose projections are the images before CTF and noise."""
    projector = AtomProjector(
        atoms, box_size=params.box_size, pixel_size_A=params.pixel_size_A, bfactor_A2=params.bfactor_A2
    )
    density = projector.density(threads=params.threads or os.cpu_count() or 1)
    write_volume(f"{params.output}_truth.mrc", density * np.float32(gain), params.pixel_size_A)


def _write_tables(drawer: ParticleDrawer, params: SimulateParams) -> None:
    """Write the particle file without poses last: when it is there, the set is complete."""
    truth, prefix = drawer.truth, Path(params.output)
    stacks = [_stack_path(params.output, mic) for mic in range(int(truth.micrograph.max()) + 1)]
    micrographs = [f"{prefix.name}_mic{mic + 1:03d}.mrc" for mic in range(len(stacks))]
    table, optics = particle_table(truth, stacks, micrographs), optics_table(drawer.optics)
    write_star(f"{prefix}_truth.star", {"optics": optics, "particles": _with_poses(table, truth)})
    write_star(f"{prefix}.star", {"optics": optics, "particles": table})


def _stack_path(prefix: str, micrograph: int) -> str:
    return f"{prefix}_mic{micrograph + 1:03d}.mrcs"


def _write_stacks(drawer: ParticleDrawer, gain: float, params: SimulateParams, diameter_A: float) -> Iterator[Event]:
    """Draw and write one stack per micrograph."""
    truth = drawer.truth
    with ThreadPoolExecutor(params.threads or os.cpu_count() or 1) as pool:
        for mic in range(int(truth.micrograph.max()) + 1):
            indices = np.flatnonzero(truth.micrograph == mic)
            images = list(pool.map(lambda i: _particle(drawer, int(i), gain, params, diameter_A), indices))
            pixel_size = drawer.optics[int(truth.optics[indices[0]])].pixel_size_A
            write_stack(_stack_path(params.output, mic), np.stack(images), pixel_size)
            yield Progress(stage="particles", done=int(indices[-1]) + 1, total=params.n_particle)
