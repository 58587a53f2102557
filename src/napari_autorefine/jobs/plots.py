"""Figures of reports and benchmarks: matplotlib without a display; curves, sections and spheres."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from napari_autorefine.engine.sampling_score import relative_sampling
from napari_autorefine.io.files import replacing
from napari_autorefine.jobs.report_page import Picture, Width
from napari_autorefine.jobs.report_style import COLORS, GRID, INK, MUTED, PAPER, VARIABLES
from napari_autorefine.model.geometry import euler_to_matrix

LEGEND: dict[str, Any] = {
    "frameon": True,
    "facecolor": PAPER,
    "edgecolor": "none",
    "framealpha": 0.8,
    "fontsize": 8.5,
    "labelcolor": INK,
}
"""Style of legends; add ``loc``."""
_DPI = 150
_SVG_DPI = 160


def new_figure(width_in: float, height_in: float, *, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a white figure with a row of plain axes."""
    figure = blank_figure(width_in, height_in)
    return figure, [figure.add_subplot(1, columns, column + 1) for column in range(columns)]


def blank_figure(width_in: float, height_in: float) -> Figure:
    """Return a white figure without axes."""
    figure = Figure(figsize=(width_in, height_in), dpi=_DPI, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | Path) -> str:
    """Write a PNG under a temporary name, rename it, and return its path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return str(path)


def picture(figure: Figure, *, alt: str, caption: str = "", width: Width = "full") -> Picture:
    """Return a figure as a picture of a page: an SVG that takes colours and font of the page it stands in."""
    return Picture(image=svg_text(figure), alt=alt, caption=caption, width=width)


def svg_text(figure: Figure) -> str:
    """Return a figure as SVG without a background, the house's colours as variables of the page."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "autorefine"}):
        figure.savefig(buffer, format="svg", dpi=_SVG_DPI, transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for color, name in VARIABLES.items():
        text = text.replace(f": {color}", f": var({name})")
    return re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)


def style_axes(axes: Axes, *, x_label: str, y_label: str, title: str = "") -> None:
    """Label axes and draw them in the house's style."""
    axes.set_xlabel(x_label, color=INK, fontsize=9)
    axes.set_ylabel(y_label, color=INK, fontsize=9)
    axes.set_title(title, color=INK, fontsize=10.5, loc="left", pad=8)
    axes.tick_params(which="both", colors=MUTED, labelcolor=INK, labelsize=8.5)
    axes.grid(visible=True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)


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


def shell_resolution_A(fsc: np.ndarray, voxel_size_A: float, *, threshold: float = 0.143) -> float:
    """Resolution of the last shell before a curve first falls below a threshold, as RELION reports it.

    Parameters
    ----------
    fsc : (n_shell,), shell k is at k / (2 (n_shell - 1) voxel_size_A)
    """
    below = np.flatnonzero(fsc[1:] < threshold)
    shell = int(below[0]) if len(below) else len(fsc) - 1
    return 2 * (len(fsc) - 1) * voxel_size_A / max(shell, 1)


def fsc_figure(
    curves: Mapping[str, np.ndarray], voxel_size_A: float, *, title: str = "", size_in: tuple[float, float] = (6.4, 4.2)
) -> Figure:
    """Fourier shell correlations over spatial frequency with the lines at 0.5 and 0.143.

    Parameters
    ----------
    curves : name of each curve -> (n_shell,) values, all on the same shells; those with "random" in their name are
        grey and without a resolution, those with "truth" are read at 0.5
    """
    figure, (axes,) = new_figure(*size_in)
    n_shell = len(next(iter(curves.values())))
    frequency = np.arange(n_shell) / (2 * (n_shell - 1) * voxel_size_A)
    colors = iter(COLORS)
    for name, fsc in curves.items():
        if "random" in name:
            axes.plot(frequency, fsc, color=COLORS[5], linewidth=1.2, linestyle=(0, (4, 2)), label=name)
            continue
        threshold = 0.5 if "truth" in name else 0.143
        resolution = shell_resolution_A(fsc, voxel_size_A, threshold=threshold)
        axes.plot(frequency, fsc, color=next(colors), linewidth=1.7, label=f"{name}: {resolution:.2f} Å")
    lowest = min(float(np.nanmin(fsc)) for fsc in curves.values())
    fsc_axes(axes, 1 / (2 * voxel_size_A), lowest=lowest, title=title)
    columns = 1 if len(curves) < 3 else 2
    figure.legend(loc="outside lower center", ncols=columns, **LEGEND)
    return figure


def fsc_axes(axes: Axes, limit: float, *, lowest: float = 0.0, title: str = "") -> None:
    """Draw the lines of an FSC plot up to the frequency ``limit`` in 1/Å, labelled in Å."""
    for level in (0.5, 0.143):
        axes.axhline(level, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(f"{level:g}", (limit, level), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8,
                      color=MUTED, annotation_clip=False)  # fmt: skip
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_ylim(min(-0.05, lowest) - 0.02, 1.03)
    style_axes(axes, x_label="Resolution (Å)", y_label="Fourier shell correlation", title=title)
    resolution_axis(axes, limit)


def resolution_axis(axes: Axes, limit: float) -> None:
    """Label an axis of spatial frequencies from 0 to ``limit`` (1/Å) with resolutions in Å."""
    ticks = _resolution_ticks(limit)
    axes.set_xticks([1 / value for value in ticks], [f"{value:g}" for value in ticks])
    axes.set_xlim(0, limit)
    axes.set_xlabel("Resolution (Å)", color=INK, fontsize=9)


def _resolution_ticks(limit: float) -> list[float]:
    """Round resolutions in Å whose frequencies are well apart up to ``limit``."""
    coarse = (200, 150, 100, 50, 40, 30, 25, 20, 18, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5.5, 5, 4.5, 4)
    fine = (3.5, 3.2, 3, 2.8, 2.6, 2.4, 2.2, 2, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1)
    kept: list[float] = []
    for value in (*coarse, *fine):
        if 1 / value <= limit * 1.001 and 1 / value - (1 / kept[-1] if kept else 0) > limit / 8:
            kept.append(value)
    return kept


def slices_figure(maps: Mapping[str, np.ndarray], voxel_size_A: float, *, title: str = "") -> Figure:
    """Central sections perpendicular to z, y and x of each map, one row per map, on a common grey scale per row."""
    figure = blank_figure(7.2, 2.5 * len(maps) + (0.35 if title else 0.0))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, color=INK)
    for row, (name, data) in enumerate(maps.items()):
        middle = len(data) // 2
        low, high = np.percentile(data[middle], (1, 99.8))
        sections = (data[middle], data[:, middle], data[:, :, middle])
        for column, (section, plane) in enumerate(zip(sections, ("xy", "xz", "yz"), strict=True)):
            axes = figure.add_subplot(len(maps), 3, 3 * row + column + 1)
            axes.imshow(section, cmap="gray", vmin=low, vmax=high, origin="lower", interpolation="bicubic")
            axes.set_axis_off()
            axes.set_title(f"{name}, {plane}", fontsize=8.5, color=INK, loc="left", pad=4)
            if row == len(maps) - 1 and column == 0:
                _scale_bar(axes, len(data), voxel_size_A)
    return figure


def _scale_bar(axes: Axes, box_size: int, voxel_size_A: float) -> None:
    lengths = (1000, 500, 200, 100, 50, 20, 10, 5, 2, 1)
    length = next((value for value in lengths if value < 0.4 * box_size * voxel_size_A), 1)
    left, bottom = 0.06 * box_size, 0.07 * box_size
    axes.plot([left, left + length / voxel_size_A], [bottom, bottom], color="white", linewidth=2.5)
    axes.text(left, bottom + 0.03 * box_size, f"{length} Å", color="white", fontsize=8, va="bottom")


def direction_density(
    euler_deg: np.ndarray, operators: np.ndarray, grid: np.ndarray, *, weight: np.ndarray | None = None
) -> np.ndarray:
    """Density of viewing directions relative to uniform, smoothed over about 8 degrees.

    Parameters
    ----------
    euler_deg : (n, 3), rot tilt psi
    operators : (n_operator, 3, 3), point group; every symmetry mate counts
    grid : (n_grid, 3), unit vectors where the density is wanted
    weight : (n,), share of each view

    Returns
    -------
    (n_grid,), 1 on average over the sphere (von Mises-Fisher kernel)
    """
    concentration = 1.0 / np.deg2rad(8.0) ** 2
    cells, share = _binned_views(euler_deg, operators, weight)
    used = share > 0
    exponent = (grid.astype(np.float32) @ cells[used].T.astype(np.float32) - np.float32(1.0)) * np.float32(
        concentration
    )
    return np.asarray(np.exp(exponent) @ (share[used] * 2.0 * concentration))


def _binned_views(
    euler_deg: np.ndarray, operators: np.ndarray, weight: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles (n_cell, 3) of cells of 3 degrees in rot and tilt, and the share of views in each."""
    views = euler_to_matrix(euler_deg)[:, 2]
    share = np.full(len(views), 1.0 / len(views)) if weight is None else weight / weight.sum()
    edges = (np.linspace(-np.pi, np.pi, 121), np.linspace(0, np.pi, 61))
    counts = np.zeros((120, 60))
    for operator in operators:
        mates = views @ operator
        rot, tilt = np.arctan2(mates[:, 1], mates[:, 0]), np.arccos(np.clip(mates[:, 2], -1, 1))
        counts += np.histogram2d(rot, tilt, edges, weights=share)[0]
    rot, tilt = (0.5 * (edge[1:] + edge[:-1]) for edge in edges)
    rot, tilt = rot[:, None], tilt[None, :]
    cells = np.stack(np.broadcast_arrays(np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)), -1)
    return cells.reshape(-1, 3), counts.ravel() / len(operators)


def direction_figure(
    euler_deg: np.ndarray, *, operators: np.ndarray, title: str = "", weight: np.ndarray | None = None
) -> Figure:
    """Draw viewing directions and their symmetry mates as an equal-area map of the sphere.

    Parameters
    ----------
    euler_deg : (n, 3), rot tilt psi
    operators : (n_operator, 3, 3), point group
    weight : (n,), share of each view
    """
    grid = _sphere_grid()
    density = direction_density(euler_deg, operators, grid.reshape(-1, 3), weight=weight).reshape(grid.shape[:2])
    return _sphere_figure(density, label="views relative to uniform", title=title)


def sampling_figure(
    euler_deg: np.ndarray, *, operators: np.ndarray, title: str = "", weight: np.ndarray | None = None
) -> Figure:
    """Draw how often Fourier space is sampled in each direction, smoothed over about 3 degrees, as a map of the sphere.

    Parameters as for ``direction_figure``.
    """
    grid = _sphere_grid()
    cells, share = _binned_views(euler_deg, operators, weight)
    used = share > 0
    values = relative_sampling(
        grid.reshape(-1, 3), cells[used], np.eye(3)[None], half_width=float(np.sin(np.deg2rad(3.0))), weight=share[used]
    )
    return _sphere_figure(values.reshape(grid.shape[:2]), label="sampling relative to even", title=title)


_LONGITUDE, _LATITUDE = np.linspace(-np.pi, np.pi, 121), np.linspace(-np.pi / 2, np.pi / 2, 61)


def _sphere_grid() -> np.ndarray:
    """Return unit vectors (n_latitude, n_longitude, 3)."""
    lon, lat = np.meshgrid(_LONGITUDE, _LATITUDE)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def _sphere_figure(values: np.ndarray, *, label: str, title: str) -> Figure:
    figure = blank_figure(4.7, 2.75)
    axes = figure.add_subplot(111, projection="mollweide")
    lon, lat = np.meshgrid(_LONGITUDE, _LATITUDE)
    top = max(2.0, float(values.max()))
    image = axes.pcolormesh(lon, lat, values, cmap="viridis", vmin=0, vmax=top, shading="gouraud", rasterized=True)
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", pad=10)
    axes.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]), ["−120°", "−60°", "rot 0°", "60°", "120°"])
    axes.set_yticks(np.deg2rad([-60, -30, 0, 30, 60]), ["tilt 150°", "120°", "90°", "60°", "30°"])
    axes.tick_params(labelsize=7.5, colors=MUTED, labelcolor=INK)
    for tick in axes.get_xticklabels():
        tick.set_color("#ffffff")
    axes.spines["geo"].set_color(MUTED)
    axes.grid(visible=True, color="#ffffff", alpha=0.25, linewidth=0.6)
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.6, pad=0.06, aspect=32)
    bar.ax.xaxis.set_major_locator(MaxNLocator(5))
    bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    bar.set_label(label, fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8, colors=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)
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
        axes.hist(np.clip(values, 0, limit), bins=40, range=(0, limit), color=COLORS[0], alpha=0.85)
        for value, label, style in ((median, "median", "-"), (upper, "90 %", (0, (4, 3)))):
            axes.axvline(value, color=COLORS[1], linewidth=1.4, linestyle=style, label=f"{label} {value:.2f}{unit}")
        axes.set_xlim(0, limit)
        unit_name = "degrees" if unit == "°" else "Å"
        heading = title if name == "Angular" else ""
        style_axes(axes, x_label=f"{name} error ({unit_name})", y_label="Particles", title=heading)
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure
