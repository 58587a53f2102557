"""Pseudo-subtomograms: particles cut from tilt images, as stacks of images or as volumes of Fourier sums.

The steps and their conventions are those of RELION's ``relion_tomo_subtomo`` (5.0.1). A particle is cut out of every
tilt that shows it, in a box larger than the final one, inverted, multiplied by CTF and dose weight, and weighted by a
soft circle about its center. Tilt stacks (RELION 5) hold these images. Volumes (RELION 4) hold the sum of all slices in
the frame of the subtomogram, with the sums of the squared CTFs and of the interpolation weights (multiplicity) beside
them; nothing is divided, so the missing wedge is where the multiplicity is 0.

Images are (y, x), volumes (z, y, x), centers at n // 2. Half transforms (z, y, x) have x = 0 .. n / 2 and y and z in
wrap-around order (0, 1, .. n / 2 - 1, -n / 2, .. -1).

References
----------
Zivanov et al. (2022), eLife 11, e83724, doi:10.7554/eLife.83724.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from scipy import fft

from napari_autorefine.model.geometry import round_half_away
from napari_autorefine.model.optics import OpticsGroup, aberration_phase
from napari_autorefine.model.resize import window
from napari_autorefine.model.tomography import Tomogram, dose_weights, projected_px, tilt_ctfs

_FALL_OFF_PX = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How particles are cut.

    Attributes
    ----------
    box_size : binned pixels, even: of the window in which the CTF is applied
    crop_size : binned pixels, even, at most ``box_size``: of the result
    binning : tilt images are resampled by this factor, 1 or more
    cutoff_fraction : volumes only: frequencies of which less is left by radiation damage are not used
    """

    box_size: int
    crop_size: int
    binning: float = 1.0
    cutoff_fraction: float = 0.01

    @property
    def window_size(self) -> int:
        """Unbinned pixels of the window, even."""
        size = int(round_half_away(self.box_size * self.binning))
        return size + size % 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtomogramSums:
    """One pseudo-subtomogram of size n.

    Attributes
    ----------
    data : (n, n, n) float32, real space
    ctf2, multiplicity : (n, n, n // 2 + 1) float32, half transforms: sums of squared CTFs, and of weights
    """

    data: np.ndarray
    ctf2: np.ndarray
    multiplicity: np.ndarray


def visible_tilts(
    tomogram: Tomogram, position_px: np.ndarray, cut: Cut, *, max_dose_e_A2: float | None = None
) -> np.ndarray:
    """Tell which tilts show a particle: (n_tilt,) bool.

    Its projected center must be more than half the final box away from every edge, the dose not above the limit.
    """
    if tomogram.image_size_px is None:
        raise ValueError(f"the size of the tilt images of {tomogram.name} is unknown")
    margin = 0.5 * cut.crop_size * cut.binning
    place, size = projected_px(tomogram, position_px), np.array(tomogram.image_size_px)
    inside = np.asarray(((place > margin) & (place < size - margin)).all(axis=1))
    return inside if max_dose_e_A2 is None else inside & (tomogram.dose_e_A2 <= max_dose_e_A2)


class ParticleCutter:
    """Cuts particles of one tomogram and one optics group; holds no image and is safe to share between threads.

    Parameters
    ----------
    tomogram : geometry, CTF and dose of the tilts
    optics : of the particles; pixel size and box are replaced by those of ``cut``
    cut : sizes
    """

    def __init__(self, tomogram: Tomogram, optics: OpticsGroup, cut: Cut) -> None:
        self.tomogram, self.cut = tomogram, cut
        self.optics = replace(optics, pixel_size_A=tomogram.pixel_size_A * cut.binning, box_size=cut.crop_size)
        self._points = _frequencies(cut.box_size, self.optics.pixel_size_A)
        self._aberration = np.exp(-1j * aberration_phase(self.optics, self._points)).reshape(cut.box_size, -1)
        self._circle = _soft_circle(cut.box_size, cut.crop_size / 2)
        self._outside = _squared_radius(cut.box_size) > (cut.crop_size / 2) ** 2

    def slices(
        self, images: Sequence[np.ndarray], tilts: np.ndarray, position_px: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut one particle from tilt images.

        Parameters
        ----------
        images : n arrays (h, w), the tilt images, protein dark
        tilts : (n,) int, which tilts these are
        position_px : (3,), of the particle in the tomogram

        Returns
        -------
        slices : (n, box, box) float64, protein white, multiplied by the CTF, circle applied; grey values as in images
        transfer : (n, box, box // 2 + 1) float32, CTF times dose weight
        """
        size, box = self.cut.window_size, self.cut.box_size
        place = projected_px(self.tomogram, position_px)[tilts]
        whole = round_half_away(place).astype(int)
        shift = (place - whole) / self.cut.binning
        transfer = tilt_ctfs(self.tomogram, position_px, self.optics, self._points, tilts=tilts)
        transfer = transfer.reshape(len(tilts), box, box // 2 + 1)
        slices = np.empty((len(tilts), box, box))
        ramp = 2j * np.pi * self._points * self.optics.pixel_size_A
        for n, image in enumerate(images):
            spectrum = cropped_spectrum(_window(image, whole[n], size), box)
            spectrum *= (-transfer[n] * np.exp(ramp @ shift[n]).reshape(box, -1)) * self._aberration
            slices[n] = fft.irfft2(spectrum, (box, box), norm="forward")
        mean = slices[:, self._outside].mean(axis=1)
        return (slices - mean[:, None, None]) * self._circle, transfer

    def stack(self, images: Sequence[np.ndarray], tilts: np.ndarray, position_px: np.ndarray) -> np.ndarray:
        """Return the tilt stack (n, crop, crop) float32 of one particle; see ``slices``."""
        slices, _ = self.slices(images, tilts, position_px)
        return np.stack([window(one, self.cut.crop_size) for one in slices]).astype(np.float32) / self.cut.binning

    def volume(
        self, images: Sequence[np.ndarray], tilts: np.ndarray, position_px: np.ndarray, rotation: np.ndarray
    ) -> SubtomogramSums:
        """Return the pseudo-subtomogram of one particle in the frame of ``rotation`` (3, 3), A_sub; see ``slices``."""
        slices, transfer = self.slices(images, tilts, position_px)
        box, crop = self.cut.box_size, self.cut.crop_size
        data = np.zeros((crop, crop, crop // 2 + 1), np.complex128)
        sums = np.zeros((2, *data.shape))
        views = self.tomogram.rotations[tilts] @ rotation * (crop / box)
        last = self._last_columns(tilts)
        for n, one in enumerate(slices):
            spectrum = fft.rfft2(fft.ifftshift(one), norm="ortho")
            _scatter(spectrum, transfer[n].astype(np.float64) ** 2, views[n], last[n], data, sums)
        real = fft.fftshift(fft.irfftn(data, (crop,) * 3, norm="ortho"))
        scale = box / (crop * np.sqrt(self.cut.binning))
        return SubtomogramSums(
            data=(real * scale).astype(np.float32),
            ctf2=sums[0].astype(np.float32),
            multiplicity=sums[1].astype(np.float32),
        )

    def _last_columns(self, tilts: np.ndarray) -> np.ndarray:
        """Last column of every row (n, box) of a slice up to which radiation damage leaves enough; -1 for none."""
        tomogram = self.tomogram
        weights = dose_weights(
            tomogram.dose_e_A2[tilts],
            np.hypot(self._points[:, 0], self._points[:, 1]),
            tomogram.bfactor_per_dose_A2[tilts],
        ).reshape(len(tilts), self.cut.box_size, -1)
        enough = weights >= self.cut.cutoff_fraction
        reach = enough.shape[2] - 1 - np.argmax(enough[:, :, ::-1], axis=2)
        return np.where(enough.any(axis=2), reach, -1)


def _frequencies(size: int, pixel_size_A: float) -> np.ndarray:
    """Frequencies (size * (size // 2 + 1), 2), x and y in 1/Å, of a half transform; the Nyquist row is negative."""
    x, y = np.fft.rfftfreq(size, pixel_size_A), np.fft.fftfreq(size, pixel_size_A)
    return np.stack([grid.ravel() for grid in np.meshgrid(x, y)], axis=1)


def cropped_spectrum(image: np.ndarray, size: int) -> np.ndarray:
    """Return the half transform (size, size // 2 + 1) of an image resampled to ``size`` pixels, divided by its area."""
    spectrum = fft.rfft2(image.astype(np.float64), norm="forward")
    n = image.shape[0]
    if n == size:
        return spectrum
    rows = np.concatenate([np.arange(size // 2 + 1), np.arange(n - (size - size // 2 - 1), n)])
    cropped: np.ndarray = spectrum[rows, : size // 2 + 1]
    return cropped


def _window(image: np.ndarray, center: np.ndarray, size: int) -> np.ndarray:
    """Cut ``size`` pixels about a center (x, y); the outermost pixels are repeated beyond the edges."""
    first, (n_y, n_x) = center - size // 2, image.shape
    x = np.clip(np.arange(size) + int(first[0]), 0, n_x - 1)
    y = np.clip(np.arange(size) + int(first[1]), 0, n_y - 1)
    return image[np.ix_(y, x)]


def _squared_radius(size: int) -> np.ndarray:
    axis = np.arange(size) - size // 2
    return axis[:, None] ** 2 + axis[None, :] ** 2


def _soft_circle(size: int, radius: float) -> np.ndarray:
    """1 within ``radius`` less 5 pixels, falling to 0 at the radius as a cosine."""
    distance = np.sqrt(_squared_radius(size))
    fall = np.clip((radius - distance) / _FALL_OFF_PX, 0.0, 1.0)
    return 0.5 - 0.5 * np.cos(np.pi * fall)


@njit(nogil=True, cache=True)
def _scatter(
    spectrum: np.ndarray, ctf2: np.ndarray, view: np.ndarray, last: np.ndarray, data: np.ndarray, sums: np.ndarray
) -> None:
    """Add one slice to the half transform of a volume, trilinear, times the area of its step.

    ``view`` (3, 3) has the axes of the slice as its first two rows, in pixels of the volume per pixel of the slice.
    """
    size, n, half = spectrum.shape[0], data.shape[0], data.shape[0] // 2
    radius2 = size * size / 4.0
    area = np.sqrt((view[0] ** 2).sum()) * np.sqrt((view[1] ** 2).sum())
    for j in range(size):
        y = j if j < size - size // 2 else j - size
        for x in range(1 if y < 0 else 0, last[j] + 1):
            if x * x + y * y > radius2:
                continue
            px = x * view[0, 0] + y * view[1, 0]
            py = x * view[0, 1] + y * view[1, 1]
            pz = x * view[0, 2] + y * view[1, 2]
            value = spectrum[j, x]
            if px < 0.0:
                px, py, pz, value = -px, -py, -pz, np.conj(value)
            ix, iy, iz = int(np.floor(px)), int(np.floor(py)), int(np.floor(pz))
            fx, fy, fz = px - ix, py - iy, pz - iz
            for corner in range(8):
                dx, dy, dz = corner & 1, (corner >> 1) & 1, corner >> 2
                cx, cy, cz = ix + dx, iy + dy, iz + dz
                if cx > half or not -half <= cy < half or not -half <= cz < half:
                    continue
                weight = area * (fx if dx else 1.0 - fx) * (fy if dy else 1.0 - fy) * (fz if dz else 1.0 - fz)
                data[cz % n, cy % n, cx] += weight * value
                sums[0, cz % n, cy % n, cx] += weight * ctf2[j, x]
                sums[1, cz % n, cy % n, cx] += weight
                if cx == 0:
                    data[-cz % n, -cy % n, 0] += weight * np.conj(value)
                    sums[0, -cz % n, -cy % n, 0] += weight * ctf2[j, x]
                    sums[1, -cz % n, -cy % n, 0] += weight
