"""Where particles were seen from: an equal-area map of the sphere, each direction with its symmetry mates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import QRectF

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.subtomogram_columns import SUBTOMOGRAM_EULER
from napari_autorefine.jobs.plots import direction_density
from napari_autorefine.jobs.report_read import read_particle_tables
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.ui.plots_base import Plot

_ROWS, _COLUMNS = 60, 120
_HALF_WIDTH, _HALF_HEIGHT = 2 * np.sqrt(2), np.sqrt(2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Directions:
    """Density of views on the pixels of the map.

    Attributes
    ----------
    title : iteration that they are of
    density : (60, 120), 1 where views are spread evenly, NaN outside of the sphere; row 0 at the bottom
    n_particle : how many there are
    is_of_tomograms : directions are those of the untilted beam, the z axis of the tomogram
    """

    title: str
    density: np.ndarray
    n_particle: int
    is_of_tomograms: bool = False


def read_directions(path: Path, *, title: str, symmetry: str) -> Directions:
    """Read the orientations of a particle table and map them.

    Particles of tomograms have many views; the one of the untilted beam stands for them, of ``A_sub A``.

    Raises
    ------
    InputError
        The table has no orientations.
    """
    particles, _ = read_particle_tables(path)
    if "rlnAngleRot" not in particles or "rlnAngleTilt" not in particles:
        raise InputError(f"{path.name} holds no orientations.")
    is_tilted = all(label in particles for label in SUBTOMOGRAM_EULER)
    euler = _in_tomograms(particles) if is_tilted else _of_images(particles)
    lon, lat, is_inside = mollweide_grid()
    to_sphere = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    density = np.full(is_inside.shape, np.nan)
    density[is_inside] = direction_density(euler, point_group(symmetry).operators, to_sphere[is_inside])
    return Directions(title=title, density=density, n_particle=len(euler), is_of_tomograms=is_tilted)


def _of_images(particles: Columns) -> np.ndarray:
    """Return Euler angles (n, 3) of the direction of view of images."""
    rot, tilt = particles.numbers("rlnAngleRot"), particles.numbers("rlnAngleTilt")
    return np.stack([rot, tilt, np.zeros_like(rot)], axis=1)


def _in_tomograms(particles: Columns) -> np.ndarray:
    """Return Euler angles (n, 3) of A_sub A: the particle as the untilted image of its tomogram shows it."""
    own = [particles.numbers(label, 0.0) for label in ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")]
    turned = euler_to_matrix(particles.stacked(SUBTOMOGRAM_EULER)) @ euler_to_matrix(np.stack(own, axis=1))
    return np.asarray(matrix_to_euler(turned))


def mollweide_grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return longitude and latitude in radians of the pixels of a Mollweide map, and which are on the sphere.

    References
    ----------
    Snyder (1987), USGS Professional Paper 1395, 249-252.
    """
    y = (np.arange(_ROWS) + 0.5) / _ROWS * 2 * _HALF_HEIGHT - _HALF_HEIGHT
    x = (np.arange(_COLUMNS) + 0.5) / _COLUMNS * 2 * _HALF_WIDTH - _HALF_WIDTH
    return from_mollweide(*np.meshgrid(x, y))


def from_mollweide(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return longitude and latitude in radians of points of the map, and which are on the sphere."""
    angle = np.arcsin(np.clip(y / _HALF_HEIGHT, -1, 1))
    is_inside = (x / _HALF_WIDTH) ** 2 + (y / _HALF_HEIGHT) ** 2 < 1
    lon = np.pi * x / (_HALF_WIDTH * np.maximum(np.cos(angle), 1e-9))
    lat = np.arcsin(np.clip((2 * angle + np.sin(2 * angle)) / np.pi, -1, 1))
    return np.clip(lon, -np.pi, np.pi), lat, is_inside


def to_mollweide(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return points of the map of longitudes and latitudes in radians."""
    angle = np.asarray(lat, np.float64)
    for _ in range(30):  # Newton's method
        slope = np.maximum(2 + 2 * np.cos(2 * angle), 1e-9)
        angle = angle - (2 * angle + np.sin(2 * angle) - np.pi * np.sin(lat)) / slope
    return _HALF_WIDTH / np.pi * lon * np.cos(angle), _HALF_HEIGHT * np.sin(angle)


class OrientationPlot(Plot):
    """Density of views over rot (across) and tilt (up and down), 1 where they are spread evenly."""

    title = "orientations of particles"

    def __init__(self) -> None:
        self._directions: Directions | None = None
        super().__init__(x_label="", y_label="")
        for side in ("left", "bottom"):
            self.plot.hideAxis(side)
        box = self.plot.vb
        box.setAspectLocked(True)
        box.setMouseEnabled(x=False, y=False)
        box.setRange(QRectF(-_HALF_WIDTH, -_HALF_HEIGHT, 2 * _HALF_WIDTH, 2 * _HALF_HEIGHT), padding=0.02)
        self.image = pg.ImageItem(axisOrder="row-major")
        self.image.setColorMap(pg.colormap.get("viridis"))
        self.plot.addItem(self.image)
        self._graticule: list[pg.PlotDataItem] = []
        self.redraw()

    def show_directions(self, directions: Directions | None) -> None:
        """Draw a map, or none."""
        self._directions = directions
        self.redraw()

    def redraw(self) -> None:
        """Draw map and graticule."""
        if not hasattr(self, "image"):
            return
        self._draw_graticule()
        if self._directions is None:
            self.image.clear()
            return
        density = self._directions.density
        top = max(2.0, float(np.nanmax(density)))
        self.image.setImage(density, levels=(0.0, top), autoLevels=False)
        self.image.setRect(QRectF(-_HALF_WIDTH, -_HALF_HEIGHT, 2 * _HALF_WIDTH, 2 * _HALF_HEIGHT))
        what = "untilted views" if self._directions.is_of_tomograms else "views"
        text = f"{self._directions.n_particle} {what}, up to {np.nanmax(density):.1f} × even"
        self.plot.setTitle(text, color=self.look.ink, size="8pt")

    def describe_at(self, x: float, y: float) -> tuple[str, float, float] | None:
        """Return the direction under the mouse and how often it was seen."""
        lon, lat, is_inside = from_mollweide(np.array([x]), np.array([y]))
        if not is_inside[0] or self._directions is None:
            return None
        row = int(np.clip((y + _HALF_HEIGHT) / (2 * _HALF_HEIGHT) * _ROWS, 0, _ROWS - 1))
        column = int(np.clip((x + _HALF_WIDTH) / (2 * _HALF_WIDTH) * _COLUMNS, 0, _COLUMNS - 1))
        value = self._directions.density[row, column]
        rot, tilt = np.rad2deg(lon[0]), 90 - np.rad2deg(lat[0])
        return f"rot {rot:.0f}°, tilt {tilt:.0f}°\n{value:.2f} × even", x, y

    def rows(self) -> tuple[Sequence[str], list[Sequence[object]]]:
        """Return one row per pixel of the map."""
        if self._directions is None:
            return (), []
        lon, lat, is_inside = mollweide_grid()
        values = np.stack([np.rad2deg(lon), 90 - np.rad2deg(lat), self._directions.density], axis=-1)[is_inside]
        return ("rot_deg", "tilt_deg", "views_relative_to_even"), [tuple(map(float, row)) for row in values]

    def _draw_graticule(self) -> None:
        for item in self._graticule:
            self.plot.removeItem(item)
        every = np.deg2rad(np.linspace(-180, 180, 91))
        lines = [(np.full(46, np.deg2rad(rot)), every[23:69]) for rot in range(-180, 181, 60)]
        lines += [(every, np.full(91, np.deg2rad(90.0 - tilt))) for tilt in (30, 60, 90, 120, 150)]
        pen = pg.mkPen((*self.look.ink.getRgb()[:3], 70), width=0.8)
        self._graticule = [self.plot.plot(*to_mollweide(lon, lat), pen=pen, antialias=True) for lon, lat in lines]
