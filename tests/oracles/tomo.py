"""Plain averages of particles of tomograms at known poses: one particle and one voxel value at a time, float64."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import map_coordinates

from napari_autorefine.io.subtomograms import SubtomogramVolumes, TiltStacks
from napari_autorefine.io.tomo_inputs import TomoInputs
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.tomography import positions_px, subtomogram_matrices, tilt_ctfs


def frequency_grid(size: int) -> np.ndarray:
    """(size, size, size, 3) x y z in pixels of the transform, zero in the middle."""
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([x, y, z], axis=-1).astype(np.float64)


def centered_transform(image: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(image)))


def full_from_half(half: np.ndarray) -> np.ndarray:
    """Centered cube of a half transform that is real and even."""
    n = half.shape[0]
    index = np.arange(n)
    full = np.empty((n, n, n))
    full[:, :, : n // 2 + 1] = half
    full[:, :, n // 2 + 1 :] = half[np.ix_(-index % n, -index % n, n - np.arange(n // 2 + 1, n))]
    return np.fft.fftshift(full)


def _sample(cube: np.ndarray, points: np.ndarray) -> np.ndarray:
    coordinates = np.moveaxis(points[..., ::-1], -1, 0) + cube.shape[0] // 2
    real = map_coordinates(cube.real, coordinates, order=1)
    return real + 1j * map_coordinates(cube.imag, coordinates, order=1) if np.iscomplexobj(cube) else real


def average(inputs: TomoInputs, euler_deg: np.ndarray, origin_A: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Map of particles at given poses: sum of data over sum of squared CTFs."""
    make = _add_volume if isinstance(inputs.images, SubtomogramVolumes) else _add_stack
    size = int(inputs.images.box_sizes[0])
    grid = frequency_grid(size)
    data, weight = np.zeros((size,) * 3, complex), np.zeros((size,) * 3)
    rotations = euler_to_matrix(euler_deg)
    for row in rows:
        make(inputs, int(row), rotations[row], origin_A[row], (grid, data, weight))
    weight = np.maximum(weight, 1e-2 * weight.max())
    inside = (grid**2).sum(axis=-1) < (size // 2 - 1) ** 2
    quotient = np.where(inside, data / weight, 0)
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(quotient))).real


def _add_volume(
    inputs: TomoInputs, row: int, rotation: np.ndarray, origin_A: np.ndarray, sums: tuple[np.ndarray, ...]
) -> None:
    assert isinstance(inputs.images, SubtomogramVolumes)
    grid, data, weight = sums
    group = inputs.particles.optics[inputs.particles.optics_index[row]]
    size = len(data)
    cube = centered_transform(inputs.images.read([row])[0].astype(float))
    cube *= np.exp(-2j * np.pi * (grid @ (origin_A / group.pixel_size_A)) / size)
    turned = grid @ rotation.T
    data += _sample(cube, turned)
    weight += _sample(full_from_half(inputs.images.read_weights([row]).ctf2[0].astype(float)), turned)


def _add_stack(
    inputs: TomoInputs, row: int, rotation: np.ndarray, origin_A: np.ndarray, sums: tuple[np.ndarray, ...]
) -> None:
    assert isinstance(inputs.images, TiltStacks) and inputs.particles.subtomograms is not None
    grid, data, weight = sums
    particles, size = inputs.particles, len(data)
    group = particles.optics[particles.optics_index[row]]
    tomogram = inputs.tomograms[particles.subtomograms.tomogram_name[row]]
    rows = particles.subtomograms
    position, frame = positions_px(rows, inputs.tomograms)[row], subtomogram_matrices(rows)[row]
    plane = grid[size // 2, :, :, :2]
    tilts = inputs.images.tilts[row]
    transfer = tilt_ctfs(tomogram, position, group, plane.reshape(-1, 2) / (size * group.pixel_size_A), tilts=tilts)
    for image, tilt, ctf in zip(inputs.images.read(row), tilts, transfer, strict=True):
        to_view = tomogram.rotations[tilt] @ frame
        shift = (to_view @ origin_A)[:2] / group.pixel_size_A
        spectrum = centered_transform(image.astype(float)) * np.exp(-2j * np.pi * (plane @ shift) / size)
        seen = grid @ (to_view @ rotation).T
        near = np.clip(1 - np.abs(seen[..., 2]), 0, None)
        chosen = near > 0
        points = seen[chosen][:, 1::-1].T + size // 2
        for target, source in ((data, spectrum), (weight, ctf.reshape(size, size) ** 2 + 0j)):
            value = map_coordinates(source.real, points, order=1) + 1j * map_coordinates(source.imag, points, order=1)
            target[chosen] += near[chosen] * (value if np.iscomplexobj(target) else value.real)


def shell_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """FSC of two maps, shells 0 .. n / 2."""
    a, b = centered_transform(first), centered_transform(second)
    radius = np.rint(np.sqrt((frequency_grid(len(first)) ** 2).sum(axis=-1))).astype(int)
    n = len(first) // 2 + 1
    cross, first2, second2 = (
        np.bincount(radius.ravel(), values.ravel())[:n] for values in ((a * b.conj()).real, abs(a) ** 2, abs(b) ** 2)
    )
    return cross / np.sqrt(first2 * second2 + 1e-30)
