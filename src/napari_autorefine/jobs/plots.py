"""Figures of reports and benchmarks: matplotlib without a display and without global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from napari_autorefine.io.files import replacing
from napari_autorefine.model.geometry import euler_to_matrix

_INK, _MUTED, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
_COLORS = ("#1f6f9f", "#d9702b", "#3f8f4f", "#8a4f9e", "#b03a48")
_DPI = 150


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationSummary:
    """One point of the curves over iterations: resolution, and the angular step searched (``is_local``: neighbors)."""

    iteration: int
    resolution_A: float
    angular_step_deg: float
    accuracy_rot_deg: float
    is_local: bool


def new_figure(width_in: float, height_in: float, *, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a white figure with a row of plain axes."""
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def save_figure(figure: Figure, path: str | Path) -> str:
    """Write a PNG under a temporary name, rename it, and return its path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return str(path)


def _style(axes: Axes, *, x_label: str, y_label: str, title: str = "") -> None:
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    axes.set_title(title, color=_INK, fontsize=11, loc="left", pad=8)
    axes.tick_params(colors=_MUTED, labelcolor=_INK, labelsize=9)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_MUTED)


def crossing_A(fsc: np.ndarray, voxel_size_A: float, *, threshold: float) -> float:
    """Resolution where a curve first falls below a threshold, interpolated between shells.

    Parameters
    ----------
    fsc : (n_shell,), shell k is at k / (2 (n_shell - 1) voxel_size_A)
    """
    box_A = 2 * (len(fsc) - 1) * voxel_size_A
    below = np.flatnonzero(fsc[1:] < threshold) + 1
    if len(below) == 0:
        return 2 * voxel_size_A
    shell = int(below[0])
    before, after = float(fsc[shell - 1]), float(fsc[shell])
    position = shell - 1 + (before - threshold) / (before - after) if shell > 1 else 1.0
    return box_A / max(position, 1.0)


def fsc_figure(curves: Mapping[str, np.ndarray], voxel_size_A: float, *, title: str) -> Figure:
    """Fourier shell correlations over spatial frequency with the lines at 0.5 and 0.143.

    Parameters
    ----------
    curves : name of each curve -> (n_shell,) values, all on the same shells
    """
    figure, (axes,) = new_figure(6.4, 4.2)
    box_A = 2 * (len(next(iter(curves.values()))) - 1) * voxel_size_A
    for (name, fsc), color in zip(curves.items(), _COLORS, strict=False):
        threshold = 0.5 if "truth" in name else 0.143
        resolution = crossing_A(fsc, voxel_size_A, threshold=threshold)
        axes.plot(np.arange(len(fsc)) / box_A, fsc, color=color, linewidth=1.8, label=f"{name}: {resolution:.2f} Å")
    limit = 1 / (2 * voxel_size_A)
    for level in (0.5, 0.143):
        axes.axhline(level, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(f"{level:g}", (limit, level), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8,
                      color=_MUTED, annotation_clip=False)  # fmt: skip
    axes.axhline(0, color=_MUTED, linewidth=0.8)
    ticks = _resolution_ticks(limit)
    axes.set_xticks([1 / value for value in ticks], [f"{value:g}" for value in ticks])
    axes.set_xlim(0, limit)
    axes.set_ylim(min(-0.05, *(float(np.nanmin(fsc)) for fsc in curves.values())) - 0.02, 1.03)
    _style(axes, x_label="Resolution (Å)", y_label="Fourier shell correlation", title=title)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0.01, 0.22), labelcolor=_INK)
    return figure


def _resolution_ticks(limit: float) -> list[float]:
    """Round resolutions in Å whose frequencies are well apart up to ``limit``."""
    choices = (
        100,
        50,
        30,
        20,
        15,
        12,
        10,
        9,
        8,
        7,
        6,
        5.5,
        5,
        4.5,
        4,
        3.5,
        3.2,
        3,
        2.8,
        2.6,
        2.4,
        2.2,
        2,
        1.8,
        1.6,
        1.4,
    )
    kept: list[float] = []
    for value in choices:
        if 1 / value <= limit * 1.001 and 1 / value - (1 / kept[-1] if kept else 0) > limit / 9:
            kept.append(value)
    return kept


def slices_figure(maps: Mapping[str, np.ndarray], voxel_size_A: float, *, title: str) -> Figure:
    """Central sections perpendicular to z, y and x of each map, one row per map, on a common grey scale per row."""
    figure = Figure(figsize=(7.2, 2.55 * len(maps) + 0.35), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    for row, (name, data) in enumerate(maps.items()):
        middle = len(data) // 2
        low, high = np.percentile(data[middle], (1, 99.8))
        sections = (data[middle], data[:, middle], data[:, :, middle])
        for column, (section, plane) in enumerate(zip(sections, ("xy", "xz", "yz"), strict=True)):
            axes = figure.add_subplot(len(maps), 3, 3 * row + column + 1)
            axes.imshow(section, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bicubic")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{name}, {plane}", fontsize=9, color=_INK, loc="left")
            if row == len(maps) - 1 and column == 0:
                _scale_bar(axes, len(data), voxel_size_A)
    return figure


def _scale_bar(axes: Axes, box_size: int, voxel_size_A: float) -> None:
    length = next(value for value in (100, 50, 20, 10, 5) if value < 0.4 * box_size * voxel_size_A)
    left, bottom = 0.06 * box_size, 0.07 * box_size
    axes.plot([left, left + length / voxel_size_A], [bottom, bottom], color="white", linewidth=2.5)
    axes.text(left, bottom + 0.03 * box_size, f"{length} Å", color="white", fontsize=8, va="bottom")


def direction_density(euler_deg: np.ndarray, operators: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Density of viewing directions relative to uniform, smoothed over about 8 degrees.

    Parameters
    ----------
    euler_deg : (n, 3), rot tilt psi
    operators : (n_operator, 3, 3), point group; every symmetry mate counts
    grid : (n_grid, 3), unit vectors where the density is wanted

    Returns
    -------
    (n_grid,), 1 on average over the sphere (von Mises-Fisher kernel)
    """
    concentration = 1.0 / np.deg2rad(8.0) ** 2
    views = euler_to_matrix(euler_deg)[:, 2]
    mates = np.concatenate([views @ operator for operator in operators])
    rot, height = np.arctan2(mates[:, 1], mates[:, 0]), mates[:, 2]
    counts, rot_edges, height_edges = np.histogram2d(rot, height, (120, 60), ((-np.pi, np.pi), (-1, 1)))
    middle_rot = 0.5 * (rot_edges[1:] + rot_edges[:-1])[:, None]
    middle_height = 0.5 * (height_edges[1:] + height_edges[:-1])[None, :]
    radius = np.sqrt(1 - middle_height**2)
    cells = np.stack(np.broadcast_arrays(radius * np.cos(middle_rot), radius * np.sin(middle_rot), middle_height), -1)
    kernel = np.exp(concentration * (grid @ cells.reshape(-1, 3).T - 1.0)) * (2.0 * concentration)
    return np.asarray(kernel @ counts.ravel() / len(mates))


def direction_figure(euler_deg: np.ndarray, *, operators: np.ndarray, title: str) -> Figure:
    """Draw viewing directions and their symmetry mates as an equal-area map of the sphere.

    Parameters
    ----------
    euler_deg : (n, 3), rot tilt psi
    operators : (n_operator, 3, 3), point group
    """
    figure = Figure(figsize=(6.4, 3.5), dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(111, projection="mollweide")
    longitude, latitude = np.linspace(-np.pi, np.pi, 121), np.linspace(-np.pi / 2, np.pi / 2, 61)
    lon, lat = np.meshgrid(longitude, latitude)
    grid = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    density = direction_density(euler_deg, operators, grid.reshape(-1, 3)).reshape(lon.shape)
    top = max(2.0, float(density.max()))
    image = axes.pcolormesh(lon, lat, density, cmap="cividis", vmin=0, vmax=top, shading="gouraud", rasterized=True)
    axes.set_title(title, fontsize=11, color=_INK, loc="left", pad=10)
    axes.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]), ["−120°", "−60°", "rot 0°", "60°", "120°"])
    axes.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]), ["tilt 150°", "120°", "90°", "60°", "30°"])
    axes.tick_params(labelsize=8, colors=_MUTED, labelcolor=_INK)
    for label in axes.get_xticklabels():
        label.set_color("white")
    axes.grid(visible=True, color="white", alpha=0.25, linewidth=0.6)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.03)
    bar.set_label("density relative to uniform", fontsize=9, color=_INK)
    bar.ax.tick_params(labelsize=8, colors=_MUTED, labelcolor=_INK)
    return figure


def iterations_figure(points: Sequence[IterationSummary], *, title: str) -> Figure:
    """Resolution, and angular step with the expected accuracy, over the iterations of a run."""
    figure, (left, right) = new_figure(8.6, 3.5, columns=2)
    iterations = [point.iteration for point in points]
    left.plot(iterations, [point.resolution_A for point in points], color=_COLORS[0], marker="o", markersize=4.5)
    left.annotate(f"{points[-1].resolution_A:.2f} Å", (iterations[-1], points[-1].resolution_A), xytext=(-7, -4),
                  textcoords="offset points", fontsize=9, color=_COLORS[0], ha="right")  # fmt: skip
    left.set_ylim(bottom=0)
    _style(left, x_label="Iteration", y_label="Resolution (Å)", title=title)
    steps = np.array([point.angular_step_deg for point in points])
    accuracy = np.array([point.accuracy_rot_deg for point in points])
    known = np.isfinite(accuracy) & (accuracy > 0) & (accuracy < 900)
    right.step(iterations, steps, where="mid", color=_COLORS[0], linewidth=1.8, label="angular step")
    right.plot(np.array(iterations)[known], accuracy[known], color=_COLORS[1], marker="o", markersize=4,
               label="expected accuracy")  # fmt: skip
    local = next((point.iteration for point in points if point.is_local), None)
    if local is not None:
        right.axvline(local - 0.5, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        right.annotate("local searches", (local - 0.5, 1), xytext=(4, -2), xycoords=("data", "axes fraction"),
                       textcoords="offset points", fontsize=8, color=_MUTED, va="top")  # fmt: skip
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _style(right, x_label="Iteration", y_label="Degrees", title="Search")
    right.legend(frameon=False, fontsize=9, labelcolor=_INK, loc="lower left")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def error_figure(angle_deg: np.ndarray, offset_A: np.ndarray, *, title: str) -> Figure:
    """Histograms of pose errors against known truth, with median and 90th percentile.

    Parameters
    ----------
    angle_deg : (n,), symmetry-aware angular errors
    offset_A : (n,), lengths of the offset errors
    """
    figure, pair = new_figure(8.6, 3.2, columns=2)
    for axes, values, name, unit in zip(pair, (angle_deg, offset_A), ("Angular", "Offset"), ("°", " Å"), strict=True):
        median, upper = np.percentile(values, (50, 90))
        limit = max(float(np.percentile(values, 98)) * 1.1, 1e-3)
        axes.hist(np.clip(values, 0, limit), bins=40, range=(0, limit), color=_COLORS[0], alpha=0.85)
        for value, label, style in ((median, "median", "-"), (upper, "90 %", (0, (4, 3)))):
            axes.axvline(value, color=_COLORS[1], linewidth=1.4, linestyle=style, label=f"{label} {value:.2f}{unit}")
        axes.set_xlim(0, limit)
        unit_name = "degrees" if unit == "°" else "Å"
        heading = title if name == "Angular" else ""
        _style(axes, x_label=f"{name} error ({unit_name})", y_label="Particles", title=heading)
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
    return figure
