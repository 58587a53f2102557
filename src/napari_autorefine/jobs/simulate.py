"""Make particle stacks or micrographs with known truth from an atomic model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.atoms import read_model
from napari_autorefine.io.mrc import write_stack, write_volume
from napari_autorefine.io.tables import write_star
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.record import check_free, write_record
from napari_autorefine.jobs.simulate_earlier import write_earlier
from napari_autorefine.jobs.simulate_micrographs import (
    Scene,
    drawing_boxes,
    make_scene,
    micrograph_path,
    write_coordinates,
    write_micrographs,
)
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.simulate_tomo import simulate_tomo
from napari_autorefine.jobs.simulate_truth import ParticleDrawer, Truth, circle, draw_truth, optics_of, signal_gain
from napari_autorefine.model.atoms import AtomProjector, Atoms
from napari_autorefine.model.frames import frame_rotation, symmetry_center
from napari_autorefine.model.geometry import rotation_difference_deg
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.model.volume import Volume


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


def _particle(drawer: ParticleDrawer, index: int, gain: float, params: SimulateParams, diameter_A: float) -> np.ndarray:
    """Return the final image (box, box) float32: signal and noise, background of mean 0, deviation 1."""
    image = drawer.signal(index) * gain
    if params.snr == 0:
        return image.astype(np.float32)
    group = drawer.optics[int(drawer.truth.optics[index])]
    rng = np.random.default_rng([params.seed, 1, index])
    image = image + _noise(group.box_size, group.pixel_size_A, params.noise_length_A, rng)
    outside = image[~circle(group.box_size, diameter_A / (2 * group.pixel_size_A))]
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


@one_at_a_time
def simulate(params: SimulateParams) -> Iterator[Event]:
    """Make particle stacks or micrographs with ``PREFIX_truth.star`` and ``PREFIX_truth.mrc`` from an atomic model."""
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
    check_free(f"{params.output}_micrographs.star" if params.micrographs else f"{params.output}.star", params.overwrite)
    if params.tomo != "none":
        yield from _tomograms(atoms, params)
        return
    smallest = min(g.box_size * g.pixel_size_A for g in optics_of(params))
    if 2 * atoms.radius_A > smallest:
        text = f"The molecule is {2 * atoms.radius_A:.0f} Å wide and does not fit the box of {smallest:.0f} Å"
        yield Message(text=f"{text}; its ends wrap around the edge.", level="warning")
    diameter = params.particle_diameter_A or min(2 * atoms.radius_A + 10.0, smallest - 4 * params.pixel_size_A)
    make = _micrographs if params.micrographs else _stacks
    yield from make(atoms, draw_truth(params), params, diameter)


def _tomograms(atoms: Atoms, params: SimulateParams) -> Iterator[Event]:
    """Make tilt series and particles cut from them."""
    smallest = min(g.box_size * g.pixel_size_A for g in optics_of(params)) * params.binning
    if 2 * atoms.radius_A > smallest:
        text = f"The molecule is {2 * atoms.radius_A:.0f} Å wide, the box of the particles {smallest:.0f} Å"
        yield Message(text=f"{text}: its ends are cut off.", level="warning")
    yield from simulate_tomo(atoms, params, params.particle_diameter_A or 2 * atoms.radius_A + 10.0)


def _stacks(atoms: Atoms, truth: Truth, params: SimulateParams, diameter_A: float) -> Iterator[Event]:
    """Make particle stacks."""
    drawer = ParticleDrawer(atoms, truth, params)
    gain = signal_gain(drawer, params, diameter_A)
    yield from _write_stacks(drawer, gain, params, diameter_A)
    _write_truth_map(atoms, gain, params)
    _write_tables(drawer, params)
    prefix = params.output
    outputs = {"particles": f"{prefix}.star", "truth": f"{prefix}_truth.star", "truth_map": f"{prefix}_truth.mrc"}
    write_record(prefix, "simulate", params, outputs)
    yield Finished(text=f"Made {params.n_particle} particles; circle of {diameter_A:.0f} Å.", outputs=outputs)


def _micrographs(atoms: Atoms, truth: Truth, params: SimulateParams, diameter_A: float) -> Iterator[Event]:
    """Make whole micrographs with coordinates of their particles."""
    scene = make_scene(truth, params, diameter_A)
    drawer = ParticleDrawer(atoms, scene.truth, params, box_sizes=drawing_boxes(atoms, scene.truth, params))
    gain = signal_gain(drawer, params, diameter_A)
    yield from write_micrographs(drawer, scene, gain, params)
    outputs = {"truth": f"{params.output}_truth.star", "truth_map": f"{params.output}_truth.mrc"}
    true_map = _write_truth_map(atoms, gain, params)
    table = truth_table(scene, params)
    optics = optics_table(optics_of(params))
    write_star(outputs["truth"], {"optics": optics, "particles": table})
    if params.earlier_binning:
        outputs |= write_earlier(table, optics, true_map, params)
    outputs |= write_coordinates(scene, params)
    write_record(params.output, "simulate", params, outputs)
    rows, columns = scene.fields[0].shape
    what = "micrograph" if params.micrographs == 1 else "micrographs"
    text = f"Made {params.micrographs} {what} of {columns} x {rows} px with {params.n_particle} particles"
    yield Finished(text=f"{text}; circle of {diameter_A:.0f} Å.", outputs=outputs)


def truth_table(scene: Scene, params: SimulateParams) -> pd.DataFrame:
    """Particle table of micrographs with true poses, and the image names that an extraction in this order gives."""
    micrographs = [micrograph_path(params.output, index) for index in range(len(scene.fields))]
    stacks = [str(Path(path).with_suffix(".mrcs")) for path in micrographs]
    table = particle_table(scene.truth, stacks, micrographs)
    table.insert(0, "rlnCoordinateX", scene.pick_px[:, 0])
    table.insert(1, "rlnCoordinateY", scene.pick_px[:, 1])
    return _with_poses(table, scene.truth)


def _write_truth_map(atoms: Atoms, gain: float, params: SimulateParams) -> Volume:
    """Write the map whose projections are the images before CTF and noise, in units of the noise."""
    projector = AtomProjector(
        atoms, box_size=params.box_size, pixel_size_A=params.pixel_size_A, bfactor_A2=params.bfactor_A2
    )
    density = projector.density(threads=params.threads or os.cpu_count() or 1) * np.float32(gain)
    write_volume(f"{params.output}_truth.mrc", density, params.pixel_size_A)
    return Volume(data=density, voxel_size_A=params.pixel_size_A)


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
