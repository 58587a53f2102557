"""A shaded surface of a map as an image: orthographic depth of an isosurface, lit from above."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

from napari_autorefine.jobs.report_style import INK, PAPER
from napari_autorefine.model.resize import fourier_resize

_LIGHT = np.array([-0.45, 0.55, 0.70]) / np.linalg.norm([-0.45, 0.55, 0.70])
_SURFACE = np.array([0.36, 0.58, 0.74])
_LARGEST, _MOST_FINER = 224, 4


def contour_level(data: np.ndarray) -> float:
    """Density that separates the molecule from the solvent, from the voxels above the mean.

    References
    ----------
    Otsu (1979), IEEE Trans. Syst. Man Cybern. 9, 62-66: the split with the largest variance between both classes.
    """
    counts, edges = np.histogram(data[data > data.mean()], bins=256)
    middle = 0.5 * (edges[1:] + edges[:-1])
    below, moment = np.cumsum(counts), np.cumsum(counts * middle)
    above = below[-1] - below
    apart = moment[:-1] / np.maximum(below[:-1], 1) - (moment[-1] - moment[:-1]) / np.maximum(above[:-1], 1)
    return float(edges[1 + int(np.argmax(below[:-1] * above[:-1] * apart**2))])


def resampled(data: np.ndarray, factor: int) -> np.ndarray:
    """Map on a grid ``factor`` times finer, by padding its Fourier transform; same center and extent."""
    n = len(data)
    fine = n * factor
    transform = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(data.astype(np.float32))))
    padded = np.zeros((fine,) * 3, dtype=np.complex64)
    start = fine // 2 - n // 2
    padded[start : start + n, start : start + n, start : start + n] = transform
    result = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(padded))).real * factor**3
    return np.asarray(result, dtype=np.float32)


def cropped(data: np.ndarray, level: float, *, margin: int) -> np.ndarray:
    """Smallest cube about the center that holds every voxel above ``level`` however it is turned."""
    middle = len(data) // 2
    points = np.argwhere(data > level) - middle
    radius = int(np.sqrt((points**2).sum(axis=1).max())) + margin if len(points) else middle
    radius = min(radius, middle)
    inner = slice(middle - radius, middle + radius)
    return data[inner, inner, inner]


def surface_image(data: np.ndarray, level: float, *, matrix: np.ndarray) -> np.ndarray:
    """Shaded view of an isosurface.

    Parameters
    ----------
    data : (n, n, n), z y x
    level : density of the surface
    matrix : (3, 3), reference to view; the viewer looks from +z of the view down

    Returns
    -------
    (n, n, 4) float RGBA, row 0 at the top; transparent where there is no surface
    """
    n = len(data)
    flip = np.eye(3)[::-1]
    to_data = flip @ matrix.T @ flip
    center = np.full(3, n // 2, dtype=np.float64)
    view = affine_transform(data, to_data, offset=center - to_data @ center, order=1, cval=float(data.min()))
    above = view > level
    is_hit: np.ndarray = np.asarray(above.any(axis=0))
    first = n - 1 - above[::-1].argmax(axis=0)
    rows, columns = np.indices(is_hit.shape)
    inside, outside = view[first, rows, columns], view[np.minimum(first + 1, n - 1), rows, columns]
    depth = first + np.clip((inside - level) / np.maximum(inside - outside, 1e-12), 0, 1)
    normal = _normals(view, depth)
    color = _shade(normal, depth, is_hit)
    edge = gaussian_filter(is_hit.astype(np.float64), 0.8)
    return np.concatenate([color, np.where(is_hit, 1.0, edge)[..., None]], axis=-1)[::-1]


def _normals(view: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return unit vectors (x, y, z) down the density gradient at the depth of each pixel."""
    smooth = gaussian_filter(view, 1.0)
    rows, columns = np.indices(depth.shape)
    points = np.stack([depth, rows, columns]).reshape(3, -1)
    gradient = []
    for axis in (2, 1, 0):
        step = np.zeros((3, 1))
        step[axis] = 1.0
        ahead = map_coordinates(smooth, points + step, order=1, mode="nearest")
        behind = map_coordinates(smooth, points - step, order=1, mode="nearest")
        gradient.append(behind - ahead)
    normal = np.stack(gradient, axis=-1).reshape(*depth.shape, 3)
    return np.asarray(normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12))


def _shade(normal: np.ndarray, depth: np.ndarray, is_hit: np.ndarray) -> np.ndarray:
    """Diffuse and specular light, darker in pockets and slightly paler at depth."""
    diffuse = np.clip(normal @ _LIGHT, 0, 1)
    halfway = _LIGHT + np.array([0.0, 0.0, 1.0])
    specular = np.clip(normal @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 40
    weight = gaussian_filter(is_hit.astype(np.float64), 4.0)
    around = gaussian_filter(np.where(is_hit, depth, 0.0), 4.0) / np.maximum(weight, 1e-6)
    pocket = np.clip(1.0 + (depth - around) / 16.0, 0.62, 1.10)
    near, far = (float(depth[is_hit].max()), float(depth[is_hit].min())) if is_hit.any() else (1.0, 0.0)
    haze = 0.28 * np.clip((near - depth) / max(near - far, 1.0), 0, 1)
    color = _SURFACE * ((0.42 + 0.66 * diffuse) * pocket)[..., None] + 0.22 * specular[..., None]
    color = color * (1 - haze[..., None]) + haze[..., None] * np.array([0.93, 0.95, 0.97])
    return np.asarray(np.clip(color, 0, 1))


_ALONG = {
    "z": np.eye(3),
    "y": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "x": np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]]),
}


def map_figure(data: np.ndarray, *, title: str, level: float | None = None) -> Figure:
    """Surface of a map seen along z, y and x."""
    images = surface_views(data, level=level)
    return _images_figure({f"along {axis}": image for axis, image in images.items()}, title=title, width_in=9.0)


def surface_figure(data: np.ndarray, *, title: str) -> Figure:
    """Surface of a map seen along z."""
    return _images_figure({title: surface_views(data, axes="z")["z"]}, title="", width_in=4.7)


def surface_views(data: np.ndarray, *, level: float | None = None, axes: str = "zyx") -> dict[str, np.ndarray]:
    """Return shaded views of a map along axes of the reference, (n, n, 4) RGBA by axis; large maps are shrunk first."""
    if len(data) > _LARGEST:
        data = fourier_resize(data, _LARGEST)
    threshold = contour_level(data) if level is None else level
    factor = int(np.clip(round(224 / len(data)), 1, _MOST_FINER))
    fine = cropped(resampled(data, factor) if factor > 1 else data, threshold, margin=3 * factor)
    return {axis: _trimmed(surface_image(fine, threshold, matrix=_ALONG[axis])) for axis in axes}


def _images_figure(images: Mapping[str, np.ndarray], *, title: str, width_in: float) -> Figure:
    """Images of one scale side by side."""
    height = max(image.shape[0] for image in images.values())
    widths = [image.shape[1] for image in images.values()]
    size = (width_in, width_in * height / sum(widths) + (0.6 if title else 0.3))
    figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, color=INK)
    grid = figure.add_gridspec(1, len(images), width_ratios=widths)
    for column, (name, image) in enumerate(images.items()):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(image, interpolation="bilinear")
        axes.set_ylim(0.5 * (image.shape[0] + height), 0.5 * (image.shape[0] - height))
        axes.set_title(name, fontsize=9, color=INK)
        axes.axis("off")
    return figure


def _trimmed(image: np.ndarray) -> np.ndarray:
    """Cut transparent margins, all but a few pixels."""
    rows = np.flatnonzero(image[..., 3].max(axis=1) > 0.01)
    columns = np.flatnonzero(image[..., 3].max(axis=0) > 0.01)
    if len(rows) == 0:
        return image
    top, left = max(rows[0] - 4, 0), max(columns[0] - 4, 0)
    return image[top : rows[-1] + 5, left : columns[-1] + 5]
