"""Atoms and their exact projections: the Fourier transform of a molecule summed atom by atom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import finufft
import gemmi
import numpy as np

_TOLERANCE = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Atoms:
    """A molecule in the frame of its map.

    Attributes
    ----------
    xyz_A : (n, 3) float64, Å, relative to the center of the map
    element : (n,) str, chemical symbols
    """

    xyz_A: np.ndarray
    element: np.ndarray

    def __len__(self) -> int:
        return len(self.xyz_A)

    @property
    def radius_A(self) -> float:
        """Distance of the farthest atom from the center."""
        return float(np.sqrt((self.xyz_A**2).sum(axis=1)).max())

    def centered(self) -> Atoms:
        """Return the same molecule with its mean atom position at the center."""
        return self.moved(-self.xyz_A.mean(axis=0))

    def moved(self, shift_A: np.ndarray) -> Atoms:
        """Return the molecule with ``shift_A`` (3,) added to every position."""
        return Atoms(xyz_A=self.xyz_A + shift_A, element=self.element)

    def rotated(self, matrix: np.ndarray) -> Atoms:
        """Return the molecule with every position multiplied from the left by ``matrix`` (3, 3)."""
        return Atoms(xyz_A=self.xyz_A @ np.asarray(matrix, dtype=np.float64).T, element=self.element)


def form_factor(element: str, frequency2: np.ndarray) -> np.ndarray:
    """Electron scattering factor of a neutral atom, f(u) = sum_i a_i exp(-b_i u^2 / 4).

    Parameters
    ----------
    element : chemical symbol
    frequency2 : any shape, squared spatial frequency u^2 in 1/Å^2

    References
    ----------
    International Tables for Crystallography C (2004), table 4.3.2.2, as tabulated in gemmi.
    """
    table = gemmi.Element(element).c4322
    result = np.zeros(np.shape(frequency2))
    for amplitude, width in zip(table.a, table.b, strict=True):
        result += amplitude * np.exp(-0.25 * width * frequency2)
    return result


class AtomProjector:
    """Fourier transforms of projections of a molecule on the grid of one kind of image.

    The structure factors of one element's atoms come from a type-1 non-uniform FFT of their projected positions and
    are multiplied by the element's electron scattering factor and exp(-B u^2 / 4). No density grid is involved, so
    the projection is exact up to the tolerance of the transform (1e-7).

    Parameters
    ----------
    atoms : the molecule
    box_size : pixels, even
    pixel_size_A : Å
    bfactor_A2 : Å^2, additional isotropic blurring of all atoms
    """

    def __init__(self, atoms: Atoms, *, box_size: int, pixel_size_A: float, bfactor_A2: float) -> None:
        self.box_size = box_size
        self.pixel_size_A = pixel_size_A
        index = np.arange(box_size) - box_size // 2
        axis = index / (box_size * pixel_size_A)
        self._axis = axis
        self._bfactor_A2 = bfactor_A2
        self._elements = sorted({str(name) for name in atoms.element})
        self._xyz = [atoms.xyz_A[atoms.element == name] for name in self._elements]
        self._weights_2d = list(self._weights(axis[:, None] ** 2 + axis[None, :] ** 2))

    def _weights(self, frequency2: np.ndarray) -> Iterator[np.ndarray]:
        blur = np.exp(-0.25 * self._bfactor_A2 * frequency2)
        return (form_factor(name, frequency2) * blur for name in self._elements)

    @property
    def frequencies(self) -> np.ndarray:
        """(box * box, 2) float64, (x, y) in 1/Å of the coefficients in the order of ``project(...).ravel()``."""
        y, x = np.meshgrid(self._axis, self._axis, indexing="ij")
        return np.stack([x.ravel(), y.ravel()], axis=-1)

    def project(self, matrix: np.ndarray, origin_A: np.ndarray) -> np.ndarray:
        """Fourier transform of one projection.

        Parameters
        ----------
        matrix : (3, 3), reference to view; the projection runs along z of the view
        origin_A : (2,), x and y in Å: the shift that brings the particle to the image center,
            so the particle is drawn at minus this position

        Returns
        -------
        (box, box) complex128, axes y and x, frequency 0 at index box // 2, position 0 at the image center
        """
        scale = 2.0 * np.pi / (self.box_size * self.pixel_size_A)
        result = np.zeros((self.box_size, self.box_size), dtype=np.complex128)
        for xyz, weight in zip(self._xyz, self._weights_2d, strict=True):
            x = (xyz @ matrix[0] - origin_A[0]) * scale
            y = (xyz @ matrix[1] - origin_A[1]) * scale
            ones = np.ones(len(x), dtype=np.complex128)
            shape = (self.box_size, self.box_size)
            result += weight * finufft.nufft2d1(y, x, ones, shape, eps=_TOLERANCE, isign=-1, nthreads=1)
        return result

    def density(self, *, threads: int = 1) -> np.ndarray:
        """Map of the molecule on the same grid, (box, box, box) float32, z y x, center at box // 2.

        Its sum along z is the projection for angles 0, as made by ``to_image(project(...))``.
        """
        scale = 2.0 * np.pi / (self.box_size * self.pixel_size_A)
        square = self._axis**2
        frequency2 = square[:, None, None] + square[None, :, None] + square[None, None, :]
        shape = (self.box_size,) * 3
        total = np.zeros(shape, dtype=np.complex128)
        for xyz, weight in zip(self._xyz, self._weights(frequency2), strict=True):
            x, y, z = np.ascontiguousarray(xyz.T * scale)
            ones = np.ones(len(x), dtype=np.complex128)
            total += weight * finufft.nufft3d1(z, y, x, ones, shape, eps=_TOLERANCE, isign=-1, nthreads=threads)
        return to_image(total).astype(np.float32)


def to_image(centered_transform: np.ndarray) -> np.ndarray:
    """Real image or map (center at n // 2) of a Fourier transform with frequency 0 at n // 2 on every axis."""
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(centered_transform))).real
