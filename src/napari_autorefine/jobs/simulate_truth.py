"""What a simulation draws for every particle, and the noise-free images that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import AtomProjector, Atoms, to_image
from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.optics import OpticsGroup

_MICROSCOPES = ((300.0, 2.7), (200.0, 1.4), (300.0, 0.01), (120.0, 2.0))
_HEIGHT_SIGMA_A = 100.0
_N_CALIBRATION = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographOptics:
    """Defocus (n_mic, 2), U and V in Å, angle (n_mic,) of U in degrees, and optics group index (n_mic,)."""

    defocus_A: np.ndarray
    angle_deg: np.ndarray
    optics: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What the simulation drew for each of n particles.

    Attributes
    ----------
    euler_deg : (n, 3); origin_A : (n, 2), x y; defocus_A : (n, 2), U and V; angle_deg : (n,), of U
    micrograph : (n,), index of the micrograph, ascending; optics : (n,), index of the optics group
    strength : (n,), relative signal strength of its micrograph
    micrographs : what the particles of one micrograph share; their defocus differs from it by their height
    """

    euler_deg: np.ndarray
    origin_A: np.ndarray
    defocus_A: np.ndarray
    angle_deg: np.ndarray
    micrograph: np.ndarray
    optics: np.ndarray
    strength: np.ndarray
    micrographs: MicrographOptics


def draw_truth(params: SimulateParams) -> Truth:
    """Draw poses uniformly over all rotations, Gaussian offsets, and the optics of each micrograph."""
    rng = np.random.default_rng([params.seed, 0])
    n, n_mic = params.n_particle, params.micrographs or min(params.groups, params.n_particle)
    euler = np.stack(
        [rng.uniform(-180, 180, n), np.rad2deg(np.arccos(rng.uniform(-1, 1, n))), rng.uniform(-180, 180, n)], axis=1
    )
    micrograph = np.arange(n) * n_mic // n
    mean = rng.uniform(params.defocus_min_A, params.defocus_max_A, n_mic)
    astigmatism = rng.uniform(0, params.astigmatism_A, n_mic)
    angle = rng.uniform(0, 180, n_mic)
    strength = np.clip(rng.normal(1.0, params.scale_sigma, n_mic), 0.4, 1.6)
    height = rng.normal(0, _HEIGHT_SIGMA_A, n)
    half = 0.5 * astigmatism
    defocus = np.stack([mean + half, mean - half], axis=1)
    optics = np.arange(n_mic) % params.optics_groups
    return Truth(
        euler_deg=euler,
        origin_A=rng.normal(0, 1.0, (n, 2)) * params.offset_sigma_A,
        defocus_A=defocus[micrograph] + height[:, None],
        angle_deg=angle[micrograph],
        micrograph=micrograph,
        optics=optics[micrograph],
        strength=(strength / strength.mean())[micrograph],
        micrographs=MicrographOptics(defocus_A=defocus, angle_deg=angle, optics=optics),
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
    """Draws noise-free particle images (projection times CTF) of a molecule for drawn truth.

    ``box_sizes`` replaces the boxes of the optics groups.
    """

    def __init__(
        self, atoms: Atoms, truth: Truth, params: SimulateParams, *, box_sizes: tuple[int, ...] | None = None
    ) -> None:
        self.truth = truth
        optics = optics_of(params)
        sizes = box_sizes or tuple(group.box_size for group in optics)
        self.optics = tuple(replace(group, box_size=size) for group, size in zip(optics, sizes, strict=True))
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


def circle(box_size: int, radius_px: float) -> np.ndarray:
    """Pixels (box, box) bool within ``radius_px`` of the image center."""
    axis = np.arange(box_size) - box_size // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2 <= radius_px**2


def signal_gain(drawer: ParticleDrawer, params: SimulateParams, diameter_A: float) -> float:
    """Factor that gives the signal the wanted variance inside the particle circle, on average over particles."""
    if params.snr == 0:
        return 1.0
    chosen = np.unique(np.linspace(0, params.n_particle - 1, _N_CALIBRATION).astype(int))
    variances = []
    for index in chosen:
        group = drawer.optics[int(drawer.truth.optics[index])]
        inside = circle(group.box_size, diameter_A / (2 * group.pixel_size_A))
        variances.append(drawer.signal(int(index))[inside].var())
    return float(np.sqrt(params.snr / np.mean(variances)))
