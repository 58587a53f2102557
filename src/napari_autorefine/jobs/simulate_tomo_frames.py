"""Tilt images of simulated tomograms: every particle drawn exactly, with CTF, damage and noise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import fft

from napari_autorefine.events import Event, Progress
from napari_autorefine.io.stack_writer import StackWriter
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.simulate_tomo_scene import TomoScene
from napari_autorefine.jobs.simulate_truth import circle, optics_of
from napari_autorefine.model.atoms import AtomProjector, Atoms, to_image
from napari_autorefine.model.geometry import round_half_away
from napari_autorefine.model.tomography import Tomogram, projected_px, tilt_ctfs

_NEGLIGIBLE = 4.0  # frequencies beyond which a B-factor leaves less than exp(-4) of the amplitude
_N_CALIBRATION = 32


class TiltDrawer:
    """Draws the tilt images of a scene; may be shared between threads."""

    def __init__(self, atoms: Atoms, scene: TomoScene, params: SimulateParams) -> None:
        self.scene, self._params = scene, params
        groups = {group.name: group for group in optics_of(params)}
        self.optics = [groups[tomogram.optics_name] for tomogram in scene.tomograms]
        known: dict[tuple[int, float], AtomProjector] = {}
        self._projectors = []
        for tomogram in scene.tomograms:
            key = (_drawing_box(atoms, tomogram, params), tomogram.pixel_size_A)
            if key not in known:
                known[key] = AtomProjector(atoms, box_size=key[0], pixel_size_A=key[1], bfactor_A2=params.bfactor_A2)
            self._projectors.append(known[key])

    def particle(self, row: int, tilt: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one particle in one tilt image: (box, box) float64, protein white, and its middle pixel (x, y).

        Grey values are those of the first optics group's pixel size, the strength of the tomogram included.
        """
        index = int(self.scene.tomogram[row])
        tomogram, projector = self.scene.tomograms[index], self._projectors[index]
        position = self.scene.position_px[row]
        place = projected_px(tomogram, position)[tilt]
        whole = round_half_away(place)
        transform = projector.project(
            tomogram.rotations[tilt] @ self.scene.pose[row], (whole - place) * tomogram.pixel_size_A
        )
        transfer = tilt_ctfs(tomogram, position, self.optics[index], projector.frequencies, tilts=np.array([tilt]))
        image = to_image(transform * transfer.reshape(transform.shape))
        scale = self._params.pixel_size_A**2 / tomogram.pixel_size_A**2 * self.scene.strength[index]
        return image * scale, whole.astype(int)

    def image(self, index: int, tilt: int, gain: float) -> np.ndarray:
        """Return one tilt image (h, w) float32 of tomogram ``index``, protein dark, noise of variance 1."""
        size = self.scene.tomograms[index].image_size_px
        assert size is not None
        total = np.zeros(size[::-1])
        for row in np.flatnonzero(self.scene.tomogram == index):
            _add(total, *self.particle(int(row), tilt))
        total *= -gain
        if self._params.snr > 0:
            rng = np.random.default_rng([self._params.seed, 6, index, tilt])
            total += _noise(total.shape, self.scene.tomograms[index].pixel_size_A, self._params.noise_length_A, rng)
        return total.astype(np.float32)

    def write(self, writer: StackWriter, index: int, tilt: int, gain: float) -> None:
        """Draw one tilt image and write it."""
        image = self.image(index, tilt, gain)
        writer.write(tilt, image[None], np.array([[image.min(), image.max(), image.mean(), image.var()]]))

    def gain(self, diameter_A: float) -> float:
        """Return the factor that gives untilted particles the wanted variance within the circle, on average."""
        if self._params.snr == 0:
            return 1.0
        rows = np.unique(np.linspace(0, len(self.scene.tomogram) - 1, _N_CALIBRATION).astype(int))
        variances = []
        for row in rows.tolist():
            tomogram = self.scene.tomograms[int(self.scene.tomogram[row])]
            image, _ = self.particle(row, tomogram.n_tilt // 2)
            variances.append(image[circle(len(image), diameter_A / (2 * tomogram.pixel_size_A))].var())
        return float(np.sqrt(self._params.snr / np.mean(variances)))


def _drawing_box(atoms: Atoms, tomogram: Tomogram, params: SimulateParams) -> int:
    """Return the box that holds a particle with all that the CTF spreads around it."""
    optics = next(group for group in optics_of(params) if group.name == tomogram.optics_name)
    highest = 0.5 / tomogram.pixel_size_A
    if params.bfactor_A2 > 0:
        highest = min(highest, np.sqrt(4 * _NEGLIGIBLE / params.bfactor_A2))
    spread = optics.wavelength_A * tomogram.defocus_A.max() * highest
    half = (atoms.radius_A + spread) / tomogram.pixel_size_A
    return 2 * int(fft.next_fast_len(int(np.ceil(half)) + 2, real=True))


def _add(total: np.ndarray, image: np.ndarray, middle: np.ndarray) -> None:
    """Add an image about a middle pixel (x, y), as far as it lies inside."""
    left, top = (middle - len(image) // 2).tolist()
    first_x, first_y = max(left, 0), max(top, 0)
    part = image[first_y - top :, first_x - left :][: total.shape[0] - first_y, : total.shape[1] - first_x]
    total[first_y : first_y + part.shape[0], first_x : first_x + part.shape[1]] += part


def _noise(shape: tuple[int, ...], pixel_size_A: float, length_A: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of variance 1, white or falling with frequency."""
    white = rng.standard_normal(shape)
    if length_A == 0:
        return white
    y, x = np.fft.fftfreq(shape[0], pixel_size_A), np.fft.rfftfreq(shape[1], pixel_size_A)
    power = 1.0 / (1.0 + length_A**2 * (y[:, None] ** 2 + x[None, :] ** 2))
    full = 1.0 / (1.0 + length_A**2 * (y[:, None] ** 2 + np.fft.fftfreq(shape[1], pixel_size_A) ** 2))
    return np.asarray(fft.irfft2(fft.rfft2(white) * np.sqrt(power), s=shape)) / np.sqrt(full.mean())


def series_path(prefix: str, name: str) -> str:
    """Name of the stack of a tilt series."""
    return f"{prefix}_tilt_series/{name}.mrcs"


def write_series(drawer: TiltDrawer, gain: float, params: SimulateParams) -> Iterator[Event]:
    """Draw and write one tilt series after another; as many images as threads are in memory at a time."""
    tomograms = drawer.scene.tomograms
    with ThreadPoolExecutor(params.threads or os.cpu_count() or 1) as pool:
        for index, tomogram in enumerate(tomograms):
            assert tomogram.image_size_px is not None
            path, size = Path(series_path(params.output, tomogram.name)), tomogram.image_size_px[0]
            pixel = tomogram.pixel_size_A
            writer = StackWriter(path, tomogram.n_tilt, size, pixel_size_A=pixel, is_half=False)
            try:
                list(
                    pool.map(lambda tilt, i=index, out=writer: drawer.write(out, i, tilt, gain), range(tomogram.n_tilt))
                )
                writer.finish()
            finally:
                writer.abandon()
            yield Progress(stage="tilt series", done=index + 1, total=len(tomograms))
