"""Maps and their transforms the slow way, in float64, without pruning; boxes of a dozen voxels."""

from __future__ import annotations

import numpy as np

from napari_autorefine.engine.reconstruction import Accumulators


def phantom(size: int, seed: int = 0) -> np.ndarray:
    """A few Gaussian blobs inside the inscribed sphere; (size, size, size) float64."""
    rng = np.random.default_rng(seed)
    axis = np.arange(size) - size // 2
    density = np.zeros((size,) * 3)
    for _ in range(8):
        z, y, x = rng.uniform(-size / 5, size / 5, 3)
        width = rng.uniform(1.2, 2.0)
        blobs = (np.exp(-((axis - c) ** 2) / (2 * width**2)) for c in (z, y, x))
        density += rng.uniform(0.5, 1.5) * np.einsum("z,y,x->zyx", *blobs)
    return density


def sinc2(size: int, pad: int) -> np.ndarray:
    """sinc^2(r / (N pad)) on the grid of a map."""
    return np.sinc(np.sqrt(radius2(size)) / (size * pad)) ** 2


def radius2(size: int) -> np.ndarray:
    """Squared distance from the centre voxel."""
    axis = np.arange(size) - size // 2
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).astype(float)


def transform(density: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Direct sum of exp(-2 pi i k x / N) over all voxels at frequency indices ``points`` (..., 3), order x, y, z."""
    size = len(density)
    axis = np.arange(size) - size // 2
    waves = [np.exp(-2j * np.pi * points[..., i, None] * axis / size) for i in range(3)]
    return np.einsum("...x,...y,...z,zyx->...", *waves, density, optimize=True)


def padded_frequencies(radius: int) -> np.ndarray:
    """Frequencies (2 R + 1, 2 R + 1, R + 2, 3), order x, y, z, of the centred half layout."""
    axis = np.arange(-radius, radius + 1)
    z, y, x = np.meshgrid(axis, axis, np.arange(radius + 2), indexing="ij")
    return np.stack([x, y, z], axis=-1).astype(float)


def full_sphere(half: np.ndarray, limit: float) -> np.ndarray:
    """Fill x < 0 of a centred half array with the conjugate mates; zero beyond radius^2 > limit; cubic, centred."""
    radius = (half.shape[0] - 1) // 2
    full = np.zeros((2 * radius + 1,) * 3, dtype=complex)
    full[:, :, radius:] = half[:, :, : radius + 1]
    full[:, :, :radius] = np.conj(half[::-1, ::-1, radius:0:-1])
    axis = np.arange(-radius, radius + 1)
    full[axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 > limit] = 0
    return full


def reconstruct(acc: Accumulators, tau2: np.ndarray | None, tau2_fudge: float = 1.0) -> np.ndarray:
    """The Wiener filter voxel by voxel, the inverse transform as a sum over all frequencies, mask and correction."""
    size, pad, radius = acc.box_size, acc.pad, acc.radius
    points = padded_frequencies(radius)
    norm = np.sqrt((points**2).sum(axis=-1))
    limit = acc.r2_max - (tau2 is not None)
    weight = acc.weight.astype(float)
    if tau2 is not None:
        for voxel in np.argwhere(norm**2 <= limit):
            shell = min(int(np.floor(norm[*voxel] / pad + 0.5)), len(tau2) - 1)
            if shell >= 5 and tau2[shell] > 0:
                weight[*voxel] += 1 / (pad**3 * tau2_fudge * tau2[shell])
            elif shell >= 5 and weight[*voxel] > 0:
                weight[*voxel] += 1 / (0.001 * weight[*voxel])
    floors = np.minimum((norm / pad).astype(int), int(np.ceil(acc.r_max)) - 1)
    inside = norm**2 < acc.r2_max
    stored = inside & (points[..., 0] <= radius)
    for floor in range(floors.max() + 1):
        mean = weight[stored & (floors == floor)].mean()
        weight[floors == floor] = np.maximum(weight[floors == floor], mean / 1000)
    quotient = np.where(weight > 0, acc.data / np.where(weight > 0, weight, 1), 0)
    full = full_sphere(quotient, limit)
    if radius > size * pad // 2:  # the frequency of half a turn per voxel exists once
        full[radius - size * pad // 2] = full[:, radius - size * pad // 2] = full[:, :, radius - size * pad // 2] = 0
    axis = np.arange(size) - size // 2
    waves = np.exp(2j * np.pi * np.outer(np.arange(-radius, radius + 1), axis) / (size * pad))
    density = np.einsum("zc,yb,xa,zyx->cba", waves, waves, waves, full, optimize=True).real
    density /= pad**3 * (size if acc.data_dim == 2 else 1)
    distance = np.sqrt(radius2(size))
    outside = np.where(
        distance < size / 2,
        0,
        np.where(distance > size / 2 + 3, 1, 0.5 + 0.5 * np.cos(np.pi * (size / 2 + 3 - distance) / 3)),
    )
    mean = (outside * density).sum() / outside.sum()
    return ((1 - outside) * density + outside * mean) / sinc2(size, pad)


def symmetrize(acc: Accumulators, operators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over operators, one voxel and one corner at a time."""
    radius = acc.radius
    data, weight = np.zeros(acc.data.shape, dtype=complex), np.zeros(acc.weight.shape)
    for iz, iy, ix in np.ndindex(*acc.weight.shape):
        point = np.array([ix, iy - radius, iz - radius], dtype=float)
        if point @ point > acc.r2_max:
            continue
        for operator in operators:
            x, y, z = operator @ point
            flip = x < -1e-12
            x, y, z = (-x, -y, -z) if flip else (x, y, z)
            low = np.floor(np.round([x, y, z], 9)).astype(int)
            value = mass = 0
            for corner in np.ndindex(2, 2, 2):
                share = np.prod(1 - np.abs(np.array([x, y, z]) - low - corner))
                cx, cy, cz = low + corner
                value += share * acc.data[cz + radius, cy + radius, cx]
                mass += share * acc.weight[cz + radius, cy + radius, cx]
            data[iz, iy, ix] += np.conj(value) if flip else value
            weight[iz, iy, ix] += mass
    return data, weight


def fsc_of_halves(first: Accumulators, second: Accumulators) -> np.ndarray:
    """Correlation of the quotients on the unpadded grid, one padded voxel at a time."""
    curves = np.zeros((first.box_size // 2 + 1, 3))
    reach = int(first.r_max)
    maps = []
    for acc in (first, second):
        data, weight = np.zeros((2 * reach + 1, 2 * reach + 1, reach + 1), dtype=complex), None
        weight = np.zeros(data.shape)
        for iz, iy, ix in np.ndindex(*acc.weight.shape):
            point = np.array([iz - acc.radius, iy - acc.radius, ix])
            z, y, x = (np.sign(point) * np.floor(np.abs(point) / acc.pad + 0.5)).astype(int)
            if max(abs(z), abs(y), abs(x)) <= reach:
                data[z + reach, y + reach, x] += acc.data[iz, iy, ix]
                weight[z + reach, y + reach, x] += acc.weight[iz, iy, ix]
        maps.append(np.where(weight > 0, data / np.where(weight > 0, weight, 1), 0))
    for z, y, x in np.ndindex(*maps[0].shape):
        shell = int(np.floor(np.sqrt((z - reach) ** 2 + (y - reach) ** 2 + x**2) + 0.5))
        if shell <= reach:
            a, b = maps[0][z, y, x], maps[1][z, y, x]
            curves[shell] += (a * np.conj(b)).real, abs(a) ** 2, abs(b) ** 2
    norm = np.sqrt(curves[:, 1] * curves[:, 2])
    fsc = np.divide(curves[:, 0], norm, out=np.zeros(len(norm)), where=norm > 0)
    fsc[0] = 1
    return fsc
