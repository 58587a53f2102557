"""What slices are multiplied by before they are compared with the images of particles, and how noise varies with it.

Images that were multiplied by their CTF show C^2 P, and their noise was multiplied by C, too: it varies as C^2, and

    |C X - C^2 P|^2 / (2 C^2 s2) = |X - C P|^2 / (2 s2)

is what the images themselves would say, s2 being the noise before they were multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.accuracy import ParticleOptics
from napari_autorefine.engine.context import GroupGeometry
from napari_autorefine.engine.images import coefficient_count
from napari_autorefine.engine.source import BlockSource, RawParticles, read_weights
from napari_autorefine.engine.volumes import volume_weights
from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.xp import REAL, array_module, beside, to_host

_LEAST_TRANSFER = np.float32(1e-4)
_N_ANGLE, _N_RADIUS = 8, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How n images, volumes, or the tilts of a particle show the map.

    Attributes
    ----------
    model_ctf : (n, n_sample) float32, what slices are multiplied by before the group scale: the CTF, its square for
        premultiplied images, the sum of squares for volumes
    precision, count : see ``PreparedImages``
    factor : on the grid of half transforms, what they are multiplied by: 0 in the missing wedge of volumes; None = 1
    """

    model_ctf: Any
    precision: Any | None = None
    count: np.ndarray | None = None
    factor: Any | None = None

    def mean_spread(self, box_size: int, dim: int) -> np.ndarray:
        """By how much noise varies more than its spectrum says, on average over the images; (n_shell,)."""
        if self.count is None:
            return np.ones(box_size // 2 + 1)
        spread: np.ndarray = self.count.mean(axis=0) / np.maximum(coefficient_count(box_size, dim), 1)
        return spread


def block_transfer(source: BlockSource, geometry: GroupGeometry, indices: np.ndarray, raw: RawParticles) -> Transfer:
    """Transfer of a block of images or volumes."""
    if geometry.samples.dim == 2:
        return _with_noise(image_ctfs(source, geometry, indices), source, geometry, indices)
    if raw.ctf is None or source.tomogram_data is None:
        return Transfer(model_ctf=_ones(len(indices), geometry))
    ctf_volumes = beside(raw.ctf, geometry.background)
    multiplicity = None if raw.multiplicity is None else beside(raw.multiplicity, ctf_volumes)
    weights = volume_weights(ctf_volumes, multiplicity, geometry, source.tomogram_data)
    return Transfer(model_ctf=weights.transfer, precision=weights.precision, count=weights.count, factor=weights.factor)


def stack_transfer(source: BlockSource, geometry: GroupGeometry, particle: int) -> Transfer:
    """Transfer of the tilts of a particle."""
    if source.tilts is None:
        raise ValueError("not tilt stacks")
    options = source.options
    values = source.tilts.transfer(particle, geometry, ctf=options.ctf, intact_first_peak=options.ctf_intact_first_peak)
    return _with_noise(values, source, geometry, np.array([particle]))


def _with_noise(model_ctf: Any, source: BlockSource, geometry: GroupGeometry, indices: np.ndarray) -> Transfer:
    """Put beside the transfer of images how their noise varies with it, when they are premultiplied."""
    if not geometry.optics.is_premultiplied or not source.options.ctf:
        return Transfer(model_ctf=model_ctf)
    means = shell_transfers(source, geometry.optics, indices, beyond=geometry.samples.size / 2)
    return Transfer(
        model_ctf=model_ctf,
        precision=1.0 / array_module(model_ctf).maximum(model_ctf, _LEAST_TRANSFER),
        count=premultiplied_count(model_ctf, geometry, means),
    )


def image_ctfs(source: BlockSource, geometry: GroupGeometry, indices: np.ndarray) -> Any:
    """Return what slices are multiplied by before the group scale: the CTF, or its square; (n, n_sample)."""
    particles, options = source.particles, source.options
    if not options.ctf:
        return _ones(len(indices), geometry)
    values = ctf(
        geometry.optics,
        particles.defocus_A[indices],
        particles.defocus_angle_deg[indices],
        particles.phase_shift_deg[indices],
        particles.ctf_bfactor_A2[indices],
        particles.ctf_scale[indices],
        geometry.frequencies,
        intact_first_peak=options.ctf_intact_first_peak,
        like=geometry.background,
    )
    return values * values if geometry.optics.is_premultiplied else values


def particle_optics(source: BlockSource, geometry: GroupGeometry, particle: int) -> ParticleOptics:
    """Return how one particle shows the map, without its image."""
    if source.tilts is None:
        return block_optics(source, geometry, np.array([particle]))
    found = stack_transfer(source, geometry, particle)
    return ParticleOptics(model_ctf=found.model_ctf, precision=found.precision, views=source.tilts.views(particle))


def block_optics(source: BlockSource, geometry: GroupGeometry, indices: np.ndarray) -> ParticleOptics:
    """Return how images or volumes show the map, without them."""
    ctf_volumes, multiplicity = read_weights(source, indices)
    found = block_transfer(source, geometry, indices, RawParticles(ctf=ctf_volumes, multiplicity=multiplicity))
    return ParticleOptics(model_ctf=found.model_ctf, precision=found.precision)


def _ones(n: int, geometry: GroupGeometry) -> Any:
    return beside(np.ones((n, geometry.samples.n_sample), dtype=REAL), geometry.background)


def shell_transfers(
    source: BlockSource, optics: OpticsGroup, indices: np.ndarray, *, beyond: float = 0.0
) -> np.ndarray:
    """Mean squared CTF of every image of some particles per shell, from a few points of each; (n_image, N // 2 + 1).

    Of shells that the radius ``beyond`` cuts only what is outside counts.
    """
    options, particles = source.options, source.particles
    points = _shell_points(optics.box_size, beyond) / (optics.box_size * optics.pixel_size_A)
    if not options.ctf:
        values = np.ones((len(indices), points[..., 0].size), dtype=REAL)
    elif source.tilts is not None:
        values = np.concatenate(
            [
                source.tilts.ctfs(
                    int(i), optics, points.reshape(-1, 2), intact_first_peak=options.ctf_intact_first_peak
                )
                for i in indices
            ]
        )
    else:
        values = ctf(
            optics,
            particles.defocus_A[indices],
            particles.defocus_angle_deg[indices],
            particles.phase_shift_deg[indices],
            particles.ctf_bfactor_A2[indices],
            particles.ctf_scale[indices],
            points.reshape(-1, 2),
            intact_first_peak=options.ctf_intact_first_peak,
        )
    means: np.ndarray = np.square(values).reshape(len(values), len(points), -1).mean(axis=2)
    return means


def _shell_points(box_size: int, beyond: float) -> np.ndarray:
    """Frequency indices (N // 2 + 1, n, 2) spread over the width of every shell, in which a CTF can turn around."""
    shell = np.arange(box_size // 2 + 1)[:, None]
    first, last = np.clip(beyond, shell - 0.5, shell + 0.5), shell + 0.5
    radius = first + (last - first) * (np.arange(_N_RADIUS) + 0.5) / _N_RADIUS
    radius[0] = 0.0
    angles = np.arange(_N_ANGLE) * (np.pi / _N_ANGLE)
    points = np.multiply.outer(radius, np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return points.reshape(len(radius), -1, 2)


def premultiplied_count(transfer: Any, geometry: GroupGeometry, shell_transfer: np.ndarray) -> np.ndarray:
    """Squared CTFs of premultiplied images summed per image shell, which their noise is proportional to.

    Parameters
    ----------
    transfer : (n, n_sample) squared CTFs on the samples
    shell_transfer : (n, n_shell) their mean per shell, used beyond the samples
    """
    samples, n_shell = geometry.samples, geometry.samples.box_size // 2 + 1
    inside = np.array([np.bincount(samples.shell, weights=row, minlength=n_shell) for row in to_host(transfer)])
    n_inside = np.bincount(samples.shell, minlength=n_shell)
    beyond = np.maximum(coefficient_count(samples.box_size) - n_inside[:n_shell], 0)
    count: np.ndarray = inside[:, :n_shell] + beyond * shell_transfer
    return count
