"""Maps of particles straight from the tilt series of their tomograms.

As ``relion_tomo_reconstruct_particle`` does it: a particle is cut from every tilt that shows it in a box that is larger
than that of the map, within a soft circle, and its transform multiplied by CTF and dose weight. A coefficient of the
map less than one step from the plane of a tilt takes up the value there, weighted by its distance. Sums are
symmetrised, divided by the sums of squared CTFs, cut to the box of the map and faded out towards its edge. Particles
are cut one by one; memory holds the sums and a few of them.

References
----------
Zivanov et al. (2022), eLife 11, e83724, doi:10.7554/eLife.83724.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numba import njit

from napari_autorefine.engine.reconstruction import Accumulators, symmetrize
from napari_autorefine.engine.shells import slabs
from napari_autorefine.engine.workers import Workers
from napari_autorefine.events import Progress
from napari_autorefine.model.geometry import round_half_away
from napari_autorefine.model.optics import OpticsGroup, aberration_phase
from napari_autorefine.model.resize import window
from napari_autorefine.model.subtomogram_cutting import Cut, cropped_spectrum
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.model.tomography import Tomogram, dose_weights, projected_px, tilt_ctfs

_FALL_OFF_PX = 5.0
_LOWEST_GRIDDING, _LOWEST_WEIGHT = 0.01, 0.001
_WAITING_BYTES = 64 << 20
_SLABS_PER_THREAD = 3
_REACH = 2  # coefficients beyond Nyquist that are added up, for interpolation and for the correction of gridding


@dataclass(frozen=True, slots=True, kw_only=True)
class PosedPicks:
    """n particles with poses in tilt series.

    Attributes
    ----------
    tomogram_name : (n,) object
    position_px : (n, 3), unbinned pixels of the tomogram, origins included
    rotation : (n, 3, 3), reference to tomogram: A_sub A
    optics_index : (n,) 0-based
    optics : groups; voltage and aberrations are taken from them
    tomograms : tilt series by name
    frames : the tilt images of each, protein dark
    """

    tomogram_name: np.ndarray
    position_px: np.ndarray
    rotation: np.ndarray
    optics_index: np.ndarray
    optics: tuple[OpticsGroup, ...]
    tomograms: Mapping[str, Tomogram]
    frames: Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltSlices:
    """What one particle adds to the map.

    Attributes
    ----------
    values : (n, b, b // 2 + 1) complex64, multiplied by CTF and dose weight, origin at the particle
    weights : the same shape, float32: squares of CTF times dose weight
    views : (n, 3, 3) float64, reference to view
    """

    values: np.ndarray
    weights: np.ndarray
    views: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return int(self.values.nbytes + self.weights.nbytes)


def visible_tilts(tomogram: Tomogram, position_px: np.ndarray, box_size: int) -> np.ndarray:
    """Tell which tilts show a particle (n_tilt,) bool: its center is at least half a box, unbinned, from all edges."""
    if tomogram.image_size_px is None:
        raise ValueError(f"the size of the tilt images of {tomogram.name} is unknown")
    place, size = projected_px(tomogram, position_px), np.array(tomogram.image_size_px)
    return np.asarray(((place > box_size / 2) & (place < size - box_size / 2)).all(axis=1))


class TiltCutter:
    """Transforms of particles of one tomogram and one optics group; safe to share between threads.

    Parameters
    ----------
    tomogram : geometry, CTF and dose of the tilts
    optics : of the particles; pixel size and box are replaced by those of ``cut``
    cut : sizes
    """

    def __init__(self, tomogram: Tomogram, optics: OpticsGroup, cut: Cut) -> None:
        box = cut.box_size
        self.tomogram, self.cut = tomogram, cut
        self.optics = replace(optics, pixel_size_A=tomogram.pixel_size_A * cut.binning, box_size=box)
        x, y = np.fft.rfftfreq(box, self.optics.pixel_size_A), np.fft.fftfreq(box, self.optics.pixel_size_A)
        self._points = np.stack([grid.ravel() for grid in np.meshgrid(x, y)], axis=1)
        signs = 1 - 2 * (np.add.outer(np.arange(box), np.arange(box // 2 + 1)) % 2)
        self._factor = signs * np.exp(-1j * aberration_phase(self.optics, self._points)).reshape(signs.shape)
        axis = np.arange(cut.window_size) - cut.window_size // 2
        distance, radius = np.sqrt(axis[:, None] ** 2 + axis**2), cut.window_size / 2
        self._circle = 0.5 - 0.5 * np.cos(np.pi * np.clip((radius - distance) / _FALL_OFF_PX, 0.0, 1.0))
        self._outside = distance > radius

    def slices(self, frames: Sequence[np.ndarray], position_px: np.ndarray, rotation: np.ndarray) -> TiltSlices | None:
        """Cut one particle from all tilts that show it; None when there are none."""
        tomogram, box = self.tomogram, self.cut.box_size
        tilts = np.flatnonzero(visible_tilts(tomogram, position_px, box))
        if not len(tilts):
            return None
        place = projected_px(tomogram, position_px)[tilts]
        whole = round_half_away(place).astype(int)
        transfer = tilt_ctfs(tomogram, position_px, self.optics, self._points, tilts=tilts)
        transfer = transfer.reshape(len(tilts), box, -1) * self._used(tilts)
        values = np.empty(transfer.shape, np.complex64)
        ramp = 2j * np.pi * self._points * tomogram.pixel_size_A
        for n, tilt in enumerate(tilts.tolist()):
            image = self._cut_out(frames[tilt], whole[n])
            moved = cropped_spectrum(image, box) * np.exp(ramp @ (place[n] - whole[n])).reshape(box, -1)
            values[n] = moved * self._factor * -transfer[n]
        return TiltSlices(values=values, weights=transfer**2, views=tomogram.rotations[tilts] @ rotation)

    def _cut_out(self, frame: np.ndarray, center: np.ndarray) -> np.ndarray:
        """Cut a window about a pixel (x, y), edges repeated, within a soft circle, less the mean outside of it."""
        size, (n_y, n_x) = self.cut.window_size, frame.shape
        x, y = (
            np.clip(np.arange(size) + int(c) - size // 2, 0, n - 1) for c, n in zip(center, (n_x, n_y), strict=True)
        )
        image = frame[np.ix_(y, x)].astype(np.float64)
        return np.asarray((image - image[self._outside].mean()) * self._circle)

    def _used(self, tilts: np.ndarray) -> np.ndarray:
        """Tell which coefficients (n, b, b // 2 + 1) are used.

        Those within Nyquist, of each row up to the last that radiation damage leaves.
        """
        length, box = np.hypot(self._points[:, 0], self._points[:, 1]), self.cut.box_size
        weights = dose_weights(self.tomogram.dose_e_A2[tilts], length, self.tomogram.bfactor_per_dose_A2[tilts])
        enough = np.flip(weights.reshape(len(tilts), box, -1) >= self.cut.cutoff_fraction, axis=2)
        inside = (length * 2 * self.optics.pixel_size_A <= 1 + 1e-6).reshape(box, -1)
        return np.asarray(inside & np.flip(np.logical_or.accumulate(enough, axis=2), axis=2))


def insert_particles(
    picks: PosedPicks, rows: np.ndarray, cut: Cut, *, threads: int = 1, stage: str = "particles"
) -> Generator[Progress, None, tuple[Accumulators, np.ndarray]]:
    """Add up particles; returns sums without padding, and the rows that no tilt shows.

    Sums do not depend on the number of threads.
    """
    sums = Accumulators.zeros(cut.box_size, pad=1, r_max=cut.box_size // 2 + _REACH)
    cutters = {
        (name, group): TiltCutter(picks.tomograms[name], picks.optics[group], cut)
        for name, group in dict.fromkeys(zip(picks.tomogram_name.tolist(), picks.optics_index.tolist(), strict=True))
    }

    def prepare(row: int) -> TiltSlices | None:
        name = str(picks.tomogram_name[row])
        cutter = cutters[name, int(picks.optics_index[row])]
        return cutter.slices(picks.frames[name], picks.position_px[row], picks.rotation[row])

    waiting: list[TiltSlices] = []
    unseen: list[int] = []
    began = time.monotonic()
    with Workers(threads) as workers:
        found = workers.ordered(prepare, rows.tolist())
        for done, (row, entry) in enumerate(zip(rows.tolist(), found, strict=True), start=1):
            if entry is None:
                unseen.append(row)
            else:
                waiting.append(entry)
            if done == len(rows) or sum(one.nbytes for one in waiting) > _WAITING_BYTES:
                _add(sums, waiting, workers)
                waiting = []
            left = (time.monotonic() - began) * (len(rows) / done - 1.0)
            yield Progress(stage=stage, done=done, total=len(rows), seconds_left=left)
    return sums, np.array(unseen, np.int64)


def _add(sums: Accumulators, entries: list[TiltSlices], workers: Workers) -> None:
    def add(planes: slice) -> None:
        for entry in entries:
            _gather(sums.data, sums.weight, entry.values, entry.weights, entry.views, (planes.start, planes.stop))

    n = len(sums.weight)
    workers.each(add, slabs(n, -(-n // (_SLABS_PER_THREAD * workers.threads))))


@njit(nogil=True, cache=True)
def _gather(
    data: np.ndarray,
    weight: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    views: np.ndarray,
    planes: tuple[int, int],
) -> None:
    """Add slices to the planes from the first of ``planes`` to before the second of centered sums."""
    center, box = (data.shape[0] - 1) // 2, values.shape[1]
    half = box // 2
    for n in range(values.shape[0]):
        view = views[n]
        for iz in range(planes[0], planes[1]):
            z = iz - center
            for iy in range(data.shape[1]):
                y = iy - center
                room = (half + 1) ** 2 - 1 - z * z - y * y
                if room < 0:
                    continue
                first, last = 0, int(np.sqrt(room))
                depth, slope = view[2, 1] * y + view[2, 2] * z, view[2, 0]
                if abs(slope) > 1e-9:
                    near, far = (-1.0 - depth) / slope, (1.0 - depth) / slope
                    first = max(first, int(np.ceil(min(near, far))))
                    last = min(last, int(np.floor(max(near, far))))
                elif abs(depth) >= 1.0:
                    continue
                for x in range(first, last + 1):
                    share = 1.0 - abs(slope * x + depth)
                    if share <= 0.0:
                        continue
                    px = view[0, 0] * x + view[0, 1] * y + view[0, 2] * z
                    py = view[1, 0] * x + view[1, 1] * y + view[1, 2] * z
                    is_mate = px < 0.0
                    if is_mate:
                        px, py = -px, -py
                    jx, jy = int(np.floor(px)), int(np.floor(py))
                    if jx > half:
                        continue
                    fx, fy = px - jx, py - jy
                    jy, ky, kx = jy % box, (jy + 1) % box, min(jx + 1, half)
                    top = share * (1 - fy) * (1 - fx), share * (1 - fy) * (fx if jx < half else 0.0)
                    low = share * fy * (1 - fx), share * fy * (fx if jx < half else 0.0)
                    value = top[0] * values[n, jy, jx] + top[1] * values[n, jy, kx]
                    value += low[0] * values[n, ky, jx] + low[1] * values[n, ky, kx]
                    mass = top[0] * weights[n, jy, jx] + top[1] * weights[n, jy, kx]
                    mass += low[0] * weights[n, ky, jx] + low[1] * weights[n, ky, kx]
                    data[iz, iy, x] += np.conj(value) if is_mate else value
                    weight[iz, iy, x] += mass


def full_map(sums: Accumulators, *, symmetry: str = "C1", snr: float | None = None, threads: int = 1) -> np.ndarray:
    """Turn sums, which are not changed, into a map (b, b, b) float32.

    Parameters
    ----------
    symmetry : point group
    snr : signal-to-noise ratio that regularises the division; None: weights are kept above a thousandth of their
        radial mean
    threads : worker threads
    """
    acc = replace(sums)
    symmetrize(acc, point_group(symmetry).operators, threads)
    box = acc.box_size
    order = np.fft.ifftshift(np.arange(-(box // 2), box - box // 2)) + acc.radius
    picked = np.ix_(order, order, np.arange(box // 2 + 1))
    spectrum, weight = acc.data[picked], acc.weight[picked]
    del acc
    real = scipy.fft.irfftn(spectrum, s=(box,) * 3, workers=threads, overwrite_x=True)
    for plane, away in zip(real, _distances(box, box), strict=True):
        plane /= np.maximum(np.sinc(away / box) ** 2, _LOWEST_GRIDDING)
    spectrum = scipy.fft.rfftn(real, workers=threads)
    del real
    _divide(spectrum, weight, snr)
    made = scipy.fft.irfftn(spectrum, s=(box,) * 3, workers=threads, overwrite_x=True)
    made *= np.float32(float(box) ** 2.5)
    return np.asarray(np.fft.fftshift(made), np.float32)


def _distances(box: int, n_x: int) -> Iterator[np.ndarray]:
    """Distances (box, n_x) from the origin of each plane of a volume in wrap-around order."""
    axis = np.fft.fftfreq(box) * box
    plane = axis[:, None] ** 2 + axis[:n_x] ** 2
    for z in axis:
        yield np.sqrt(plane + z * z)


def _divide(spectrum: np.ndarray, weight: np.ndarray, snr: float | None) -> None:
    """Divide a half transform by its weights, in place; 0 from Nyquist on."""
    box, n_x = weight.shape[0], weight.shape[2]
    mean = _radial_mean(weight)
    for plane, one, radius in zip(spectrum, weight, _distances(box, n_x), strict=True):
        below = radius.astype(np.int64)
        lowest = _LOWEST_WEIGHT * (mean[below] + (radius - below) * (mean[below + 1] - mean[below]))
        total = np.maximum(one, lowest) if snr is None else one + 1.0 / snr
        keep = (radius < box // 2) & (total > 0)
        plane *= keep / np.where(keep, total, 1.0)


def _radial_mean(weight: np.ndarray) -> np.ndarray:
    """Mean weight by radius; a coefficient between two shells counts in both, by its distance from them."""
    box, n_x = weight.shape[0], weight.shape[2]
    sums = np.zeros((2, box + 2))
    for one, radius in zip(weight, _distances(box, n_x), strict=True):
        below = radius.astype(np.int64).ravel()
        share = radius.ravel() - below
        for total, values in zip(sums, (one.ravel(), np.ones(one.size)), strict=True):
            total += np.bincount(below, (1 - share) * values, minlength=box + 2)
            total += np.bincount(below + 1, share * values, minlength=box + 2)
    mean: np.ndarray = sums[0] / np.maximum(sums[1], 1e-12)
    return mean


def tapered(map_: np.ndarray, crop_size: int, taper_px: float) -> np.ndarray:
    """Cut a map to ``crop_size`` and fade it out towards the sphere in that box, less its mean within."""
    made = window(map_, crop_size).astype(np.float64)
    axis = np.arange(crop_size) - crop_size // 2
    away = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    inside = np.clip((crop_size / 2 - away) / max(taper_px, 1e-6), 0.0, 1.0)
    share = 0.5 - 0.5 * np.cos(np.pi * inside)
    mean = (share * made).sum() / share.sum()
    return np.asarray(share * (made - mean), np.float32)
