"""What a simulated tomogram is before its first pixel: tilts, optics, and where its particles lie and how."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from napari_autorefine.errors import InputError
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.simulate_truth import optics_of
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler
from napari_autorefine.model.tomography import Tomogram, projected_px, projection_matrices

_TRIES_PER_PARTICLE = 2000
_FILLING = 0.25  # particles per cube of their spacing
_LAYERS = 4.0  # thickness of the specimen in spacings
_SHIFT_SIGMA_A, _DEFOCUS_SIGMA_A, _WOBBLE_DEG = 15.0, 100.0, 5.0
_HEXAGON = np.sqrt(3) / 2  # area of a particle on a hexagonal lattice in squares of the spacing
_GOLDEN_TURN = np.pi * (3 - np.sqrt(5))
_FIRST_PIXEL = 16
_EDGE_PX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TomoScene:
    """Everything that is drawn before the first pixel; n particles in the order of their tomograms.

    Attributes
    ----------
    tomograms : tilt series
    angles_deg, shift_A : for each tomogram (n_tilt, 3) XTilt, YTilt, ZRot and (n_tilt, 2), as RELION 5 writes them
    strength : (n_tomogram,) relative signal
    tomogram : (n,) index of the tomogram
    position_px : (n, 3) true centers, unbinned pixels of the tomogram
    pick_px : (n, 3) where particles are cut: they miss the centers by the origin
    pose : (n, 3, 3) reference to tomogram
    subtomogram_deg : (n, 3) Euler angles of A_sub
    euler_deg, origin_A : (n, 3) what a refinement should find
    """

    tomograms: tuple[Tomogram, ...]
    angles_deg: tuple[np.ndarray, ...]
    shift_A: tuple[np.ndarray, ...]
    strength: np.ndarray
    tomogram: np.ndarray
    position_px: np.ndarray
    pick_px: np.ndarray
    pose: np.ndarray
    subtomogram_deg: np.ndarray
    euler_deg: np.ndarray
    origin_A: np.ndarray


def draw_scene(params: SimulateParams, diameter_A: float) -> TomoScene:
    """Draw tilt series and particles.

    Raises
    ------
    InputError
        When the particles do not fit.
    """
    counts = np.bincount(np.arange(params.n_particle) * params.tilt_series // params.n_particle)
    parts = [_draw_tomogram(params, index, int(n), diameter_A) for index, n in enumerate(counts)]
    tomogram = np.repeat(np.arange(len(counts)), counts)
    position, normal = (np.concatenate([part[key] for part in parts]) for key in (3, 4))
    rng = np.random.default_rng([params.seed, 5])
    pose, subtomogram = _poses(params, normal, rng)
    origin = rng.normal(0, 1.0, (len(tomogram), 3)) * params.offset_sigma_A
    pixel = np.array([part[0].pixel_size_A for part in parts])[tomogram][:, None]
    strength = np.clip(rng.normal(1.0, params.scale_sigma, len(counts)), 0.4, 1.6)
    return TomoScene(
        tomograms=tuple(part[0] for part in parts),
        angles_deg=tuple(part[1] for part in parts),
        shift_A=tuple(part[2] for part in parts),
        strength=strength / strength.mean(),
        tomogram=tomogram,
        position_px=position,
        pick_px=position + np.einsum("nij,nj->ni", subtomogram, origin) / pixel,
        pose=pose,
        subtomogram_deg=matrix_to_euler(subtomogram),
        euler_deg=matrix_to_euler(subtomogram.transpose(0, 2, 1) @ pose),
        origin_A=origin,
    )


def tilt_scheme(params: SimulateParams) -> tuple[np.ndarray, np.ndarray]:
    """Return the tilt angles in ascending order (degrees), and the dose before each image (e/A^2).

    Images are taken in dose-symmetric order: 0, one step up, one step down, two up, ...
    """
    n_side = int(np.floor(params.tilt_max_deg / params.tilt_step_deg + 1e-6))
    steps = np.arange(-n_side, n_side + 1)
    taken = np.where(steps > 0, 2 * steps - 1, -2 * steps)
    return steps * params.tilt_step_deg, taken * params.tilt_dose_e_A2


def _draw_tomogram(
    params: SimulateParams, index: int, n: int, diameter_A: float
) -> tuple[Tomogram, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a tomogram, its angles and shifts, and positions (px) and normals of its particles."""
    rng = np.random.default_rng([params.seed, 4, index])
    groups = optics_of(params)
    group = groups[index % len(groups)]
    pixel, spacing = group.pixel_size_A, params.spacing_A or diameter_A
    place = _on_sphere if params.arrangement == "sphere" else _at_random
    place_A, normal = place(n, spacing, rng)
    tilt, dose = tilt_scheme(params)
    angles = np.stack([np.full(len(tilt), rng.normal(0, 1.0)), tilt, np.full(len(tilt), rng.uniform(80, 90))], axis=1)
    shift = rng.normal(0, _SHIFT_SIGMA_A, (len(tilt), 2))
    astigmatism = rng.uniform(0, params.astigmatism_A, len(tilt)) / 2
    mean = rng.uniform(params.defocus_min_A, params.defocus_max_A) + rng.normal(0, _DEFOCUS_SIGMA_A, len(tilt))
    zeros = np.zeros(len(tilt))
    tomogram = Tomogram(
        name=f"TS_{index + 1}",
        optics_name=group.name,
        pixel_size_A=pixel,
        size_px=(0, 0, 0),
        image_size_px=(0, 0),
        hand=-1.0,
        voltage_kV=group.voltage_kV,
        cs_mm=group.cs_mm,
        amplitude_contrast=group.amplitude_contrast,
        projection=projection_matrices(angles, shift / pixel, size_px=(0, 0, 0), image_size_px=(0, 0)),
        dose_e_A2=dose,
        defocus_A=np.stack([mean + astigmatism, mean - astigmatism], axis=1),
        defocus_angle_deg=rng.uniform(-90, 90, len(tilt)),
        phase_shift_deg=zeros,
        ctf_bfactor_A2=zeros,
        ctf_scale=np.cos(np.radians(tilt)),
        bfactor_per_dose_A2=zeros,
    )
    half_crop = 0.5 * group.box_size * params.binning
    tomogram = _with_size(
        tomogram, place_A / pixel, angles, shift, margin_px=half_crop + 3 * params.offset_sigma_A / pixel
    )
    return tomogram, angles, shift, place_A / pixel + tomogram.center_px, normal


def _with_size(
    tomogram: Tomogram, place_px: np.ndarray, angles: np.ndarray, shift_A: np.ndarray, *, margin_px: float
) -> Tomogram:
    """Return a tomogram whose images show every particle at every tilt, and whose volume holds them."""
    farthest = max(np.abs(projected_px(tomogram, place)).max() for place in place_px)
    side = int(np.ceil((farthest + margin_px + _EDGE_PX) * 2 / _FIRST_PIXEL)) * _FIRST_PIXEL
    depth = int(np.ceil((np.abs(place_px[:, 2]).max() + margin_px) * 2 / _FIRST_PIXEL)) * _FIRST_PIXEL
    size = (side, side, depth)
    projection = projection_matrices(angles, shift_A / tomogram.pixel_size_A, size_px=size, image_size_px=(side, side))
    return replace(tomogram, size_px=size, image_size_px=(side, side), projection=projection)


def _at_random(n: int, spacing_A: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (n, 3) in Å about the center, no two nearer than the spacing, and no normals (zeros)."""
    thickness = _LAYERS * spacing_A
    side = np.sqrt(max(n, 2) * spacing_A**3 / _FILLING / thickness)
    half = np.array([side, side, thickness]) / 2
    found = np.empty((n, 3))
    n_found = 0
    for _ in range(_TRIES_PER_PARTICLE * n):
        if n_found == n:
            break
        candidate = rng.uniform(-half, half)
        if (np.sum((found[:n_found] - candidate) ** 2, axis=1) >= spacing_A**2).all():
            found[n_found] = candidate
            n_found += 1
    if n_found < n:
        raise InputError(f"A tomogram holds {n_found} of the {n} particles meant for it; give more --tilt_series.")
    return found, np.zeros((n, 3))


def _on_sphere(n: int, spacing_A: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return positions (n, 3) in Å on a spiral that covers a sphere evenly, and the outward normals (n, 3)."""
    radius = spacing_A * np.sqrt(max(n, 4) * _HEXAGON / (4 * np.pi))
    z = 1 - (2 * np.arange(n) + 1) / n
    turn = np.arange(n) * _GOLDEN_TURN
    points = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], axis=1)
    normal = points @ Rotation.random(rng=rng).as_matrix().T
    return radius * normal, normal


def _poses(params: SimulateParams, normal: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return poses (reference to tomogram) and A_sub, both (n, 3, 3).

    Without normals both are independent and uniform. With them A_sub has minus x along the normal, so that angles
    (any, 90, 0) bring the z axis of the reference there, as RELION 5's picks do; true poses wobble about it.
    """
    n = len(normal)
    if params.arrangement == "random":
        return Rotation.random(n, rng=rng).as_matrix(), Rotation.random(n, rng=rng).as_matrix()
    helper = np.where(np.abs(normal[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    y = np.cross(normal, helper)
    y /= np.linalg.norm(y, axis=1)[:, None]
    frame = np.stack([-normal, y, np.cross(-normal, y)], axis=2)
    in_plane = np.stack([rng.uniform(-180, 180, n), np.full(n, 90.0), np.zeros(n)], axis=1)
    wobble = Rotation.from_rotvec(rng.normal(0, _WOBBLE_DEG, (n, 3)), degrees=True).as_matrix()
    return wobble @ frame @ euler_to_matrix(in_plane), frame
