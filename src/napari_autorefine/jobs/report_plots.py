"""Figures of a report: the course of a refinement, spectra, and what is known of particles and micrographs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from napari_autorefine.jobs.plots import LEGEND, blank_figure, fsc_axes, new_figure, resolution_axis, style_axes
from napari_autorefine.jobs.report_data import UNKNOWN, Iteration
from napari_autorefine.jobs.report_style import COLORS, GRID, INK, MUTED, PAPER

_HALF = (4.7, 3.1)
_DASHED = (0, (4, 3))


def _steps(iterations: Sequence[Iteration]) -> np.ndarray:
    """Return the place of each iteration on the axis; the final one stands after the last."""
    numbers = [float(one.number) if one.number is not None else np.nan for one in iterations]
    places = np.array(numbers)
    if len(places) and np.isnan(places[-1]):
        places[-1] = places[-2] + 1 if len(places) > 1 else 0
    return places


def _values(iterations: Sequence[Iteration], name: str) -> np.ndarray:
    """Return one number per iteration, NaN where it is unknown or stands for "not determined"."""
    values = np.array([getattr(one, name) for one in iterations], np.float64)
    return np.where((values >= UNKNOWN) | (values < 0), np.nan, values)


def _iteration_axis(axes: Axes, iterations: Sequence[Iteration]) -> None:
    """Shade the iterations with local searches and number the axis."""
    places = _steps(iterations)
    local = [place for place, one in zip(places, iterations, strict=True) if one.is_local]
    if local:
        axes.axvspan(min(local) - 0.5, places[-1] + 0.5, color=GRID, alpha=0.45, linewidth=0, zorder=0)
        axes.annotate("local searches", (min(local) - 0.5, 1), xytext=(4, -2), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=8, color=MUTED, va="top")  # fmt: skip
    axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if iterations[-1].number is None:
        final = float(places[-1])
        axes.xaxis.set_major_formatter(lambda value, _: "final" if value == final else f"{value:g}")


def resolution_figure(iterations: Sequence[Iteration], voxel_size_A: float) -> Figure:
    """Resolution after each iteration, with the limit of the pixel size."""
    figure, (axes,) = new_figure(*_HALF)
    places, values = _steps(iterations), _values(iterations, "resolution_A")
    known = np.isfinite(values)
    axes.plot(places[known], values[known], color=COLORS[0], marker="o", markersize=4, linewidth=1.6)
    if np.isfinite(voxel_size_A):
        axes.axhline(2 * voxel_size_A, color=MUTED, linewidth=0.9, linestyle=_DASHED)
        axes.annotate(f"Nyquist {2 * voxel_size_A:.2f} Å", (0.02, 2 * voxel_size_A), xytext=(0, -3), va="top",
                      xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8,
                      color=MUTED)  # fmt: skip
    title = f"Resolution: {values[known][-1]:.2f} Å" if known.any() else "Resolution"
    style_axes(axes, x_label="Iteration", y_label="Resolution (Å)", title=title)
    _iteration_axis(axes, iterations)
    axes.set_ylim(bottom=0)
    return figure


def search_figure(
    iterations: Sequence[Iteration], names: Mapping[str, str], *, title: str, unit: str, step: str
) -> Figure:
    """Draw steps of a search, expected accuracy and changes of the poses over the iterations, on a logarithmic scale.

    Parameters
    ----------
    names : attribute of an iteration -> its name in the legend; ``step`` is the one drawn as steps
    """
    figure, (axes,) = new_figure(*_HALF)
    places = _steps(iterations)
    lowest, highest = np.inf, 0.0
    for (name, label), color in zip(names.items(), COLORS, strict=False):
        values = _values(iterations, name)
        known = np.isfinite(values) & (values > 0)
        if not known.any():
            continue
        lowest, highest = min(lowest, float(values[known].min())), max(highest, float(values[known].max()))
        if name == step:
            axes.step(places[known], values[known], where="mid", color=color, linewidth=1.6, label=label)
        else:
            marker = "os^"[list(names).index(name) % 3]
            axes.plot(
                places[known], values[known], color=color, marker=marker, markersize=3.8, linewidth=1.3, label=label
            )
    axes.set_yscale("log", base=2)
    if highest > 0:
        ticks = 2.0 ** np.arange(np.floor(np.log2(lowest)), np.ceil(np.log2(highest)) + 1)
        axes.set_ylim(ticks[0] / 1.2, ticks[-1] * 1.3)
        axes.yaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.yaxis.set_minor_locator(NullLocator())
    style_axes(axes, x_label="Iteration", y_label=unit, title=title)
    _iteration_axis(axes, iterations)
    if highest > 0:
        axes.legend(loc="lower left", **LEGEND)
    return figure


def certainty_figure(iterations: Sequence[Iteration]) -> Figure:
    """Mean weight of the best pose after each iteration."""
    figure, (axes,) = new_figure(*_HALF)
    places, values = _steps(iterations), _values(iterations, "p_max")
    known = np.isfinite(values)
    axes.plot(places[known], values[known], color=COLORS[3], marker="o", markersize=4, linewidth=1.6)
    style_axes(axes, x_label="Iteration", y_label="Mean weight of the best pose", title="Certainty of the poses")
    _iteration_axis(axes, iterations)
    axes.set_ylim(0, 1.02)
    return figure


def fsc_history_figure(history: Mapping[int, np.ndarray], voxel_size_A: float) -> Figure:
    """FSC between the half-maps after each iteration, early ones pale."""
    figure, (axes,) = new_figure(4.7, 3.5)
    scale = Normalize(min(history), max(history))
    color_map = ListedColormap(colormaps["viridis"](np.linspace(0.9, 0.3, 256)))
    for iteration, fsc in sorted(history.items()):
        frequency = np.arange(len(fsc)) / (2 * (len(fsc) - 1) * voxel_size_A)
        axes.plot(frequency, fsc, color=color_map(scale(iteration)), linewidth=1.3)
    lowest = min(float(np.nanmin(fsc)) for fsc in history.values())
    fsc_axes(axes, 1 / (2 * voxel_size_A), lowest=lowest, title="FSC after each iteration")
    if len(history) > 1:
        bar = figure.colorbar(ScalarMappable(scale, color_map), ax=axes, pad=0.06)
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        bar.set_label("iteration", fontsize=8.5, color=INK)
        bar.ax.tick_params(labelsize=8, colors=MUTED, labelcolor=INK)
        bar.outline.set_visible(False)
    return figure


def spectra_figure(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], limit: float, *, title: str, y_label: str
) -> Figure:
    """Curves of power over spatial frequency on a logarithmic scale.

    Parameters
    ----------
    curves : name -> frequencies (1/Å) and values; more than six are drawn alike and not named
    limit : last frequency
    """
    figure, (axes,) = new_figure(*_HALF)
    are_many = len(curves) > len(COLORS)
    for number, (name, (frequency, values)) in enumerate(curves.items()):
        shown = (values > 0) & (frequency > 0)
        color = COLORS[0] if are_many else COLORS[number]
        axes.plot(frequency[shown], values[shown], color=color, linewidth=0.7 if are_many else 1.6,
                  alpha=0.5 if are_many else 1.0, label=None if are_many else name)  # fmt: skip
    axes.set_yscale("log")
    style_axes(axes, x_label="", y_label=y_label, title=title)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high > 300 * low else (1.0, 2.0, 5.0), numticks=7))
    axes.yaxis.set_major_formatter(lambda value, _: _with_exponent(value))
    axes.yaxis.set_minor_locator(NullLocator())
    if y_label == "SSNR":
        axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=_DASHED)
    resolution_axis(axes, limit)
    if not are_many and len(curves) > 1:
        axes.legend(loc="best", **LEGEND)
    return figure


def _with_exponent(value: float) -> str:
    """Return 0.00012 as 1.2e-4."""
    exponent = int(np.floor(np.log10(value))) if value > 0 else 0
    return f"{value / 10.0**exponent:.2g}e{exponent}"


def histogram_figure(
    values: np.ndarray, *, title: str, x_label: str, unit: str = "", y_label: str = "Particles"
) -> Figure:
    """Histogram with the median; the outermost 0.5 % are drawn at the border."""
    figure, (axes,) = new_figure(*_HALF)
    low, high = (float(bound) for bound in np.percentile(values, (0.5, 99.5)))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 41)
    is_whole = bool(np.all(values == np.rint(values)) and high - low < len(edges))
    if is_whole:
        edges = np.arange(np.floor(low), np.ceil(high) + 2) - 0.5  # one bar per whole number
    axes.hist(np.clip(values, low, high), bins=edges.tolist(), color=COLORS[0], alpha=0.85)
    median = float(np.median(values))
    text = f"{median:.0f}" if abs(median) >= 1000 else f"{median:.4g}"
    axes.axvline(median, color=COLORS[1], linewidth=1.4, label=f"median {text.replace('-', '−')}{unit}")
    style_axes(axes, x_label=x_label, y_label=y_label, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=is_whole))
    axes.yaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.legend(loc="best", **LEGEND)
    return figure


def offset_figure(origin_A: np.ndarray, sigma_A: float) -> Figure:
    """Offsets of all particles as a two-dimensional histogram, with their mean.

    Parameters
    ----------
    origin_A : (n, 2)
    sigma_A : spread that the refinement estimated per axis, drawn as a circle; NaN: none
    """
    figure = blank_figure(4.7, 3.9)
    axes = figure.add_subplot(111)
    limit = max(float(np.percentile(np.abs(origin_A), 99.5)) * 1.15, 2.5 * sigma_A if np.isfinite(sigma_A) else 0, 1.0)
    inside = np.clip(origin_A, -limit, limit)
    if len(origin_A) > 3000:
        counts, edges = np.histogram2d(inside[:, 0], inside[:, 1], 31, ((-limit, limit),) * 2)[:2]
        image = axes.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), cmap="cividis_r", norm=LogNorm(),
                                rasterized=True)  # fmt: skip
        bar = figure.colorbar(image, ax=axes, pad=0.03, shrink=0.85)
        bar.set_label("particles", fontsize=8.5, color=INK)
        bar.ax.tick_params(which="both", labelsize=8, colors=MUTED, labelcolor=INK)
        bar.outline.set_visible(False)
    else:
        size = float(np.clip(120.0 / np.sqrt(len(origin_A)), 2.6, 8.0))
        axes.plot(*inside.T, ".", color=COLORS[0], markersize=size, alpha=0.55, markeredgewidth=0)
    mean = origin_A.mean(axis=0)
    axes.plot(*mean, "+", color=COLORS[1], markersize=11, markeredgewidth=1.8,
              label=f"mean {_signed(mean[0])}, {_signed(mean[1])} Å")  # fmt: skip
    if np.isfinite(sigma_A):
        axes.add_patch(Circle((0, 0), sigma_A, fill=False, color=COLORS[1], linewidth=1.2, linestyle=_DASHED))
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    style_axes(axes, x_label="x (Å)", y_label="y (Å)", title="Offsets")
    axes.legend(loc="upper left", **LEGEND)
    return figure


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def scales_figure(scale: np.ndarray, count: np.ndarray) -> Figure:
    """Greyscale factor of every group in the order of their names; larger dots for more particles."""
    figure, (axes,) = new_figure(*_HALF)
    axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=_DASHED)
    sizes = 8 + 32 * count / max(float(count.max()), 1.0)
    axes.scatter(np.arange(1, len(scale) + 1), scale, s=sizes, color=COLORS[0], alpha=0.75, linewidth=0,
                 rasterized=len(scale) > 3000)  # fmt: skip
    style_axes(axes, x_label="Group, in the order of names", y_label="Greyscale factor", title="Greyscale factors")
    axes.set_ylim(min(0.0, float(scale.min())), max(1.25, float(scale.max()) * 1.08))
    axes.set_xlim(0.5, len(scale) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    return figure


def counts_figure(counts: np.ndarray) -> Figure:
    """Histogram of the number of particles per micrograph."""
    return histogram_figure(
        counts, title="Particles per micrograph", x_label="Particles in a micrograph", y_label="Micrographs"
    )


def guinier_figure(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], line: tuple[float, float] | None) -> Figure:
    """Logarithm of amplitudes over squared frequency (Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013).

    Parameters
    ----------
    curves : name -> squared frequency (1/Å²) and ln of the amplitude
    line : slope (Å²) and intercept of the straight line that was fitted, or None
    """
    figure, (axes,) = new_figure(*_HALF)
    for (name, (square, log_amplitude)), color in zip(curves.items(), COLORS, strict=False):
        axes.plot(square, log_amplitude, color=color, linewidth=1.4, label=name)
    if line is not None:
        last = max(float(square.max()) for square, _ in curves.values())
        ends = np.array([0.0, last])
        label = f"fit, B = {4 * line[0]:.0f} Å²".replace("-", "−")
        axes.plot(ends, line[1] + line[0] * ends, color=MUTED, linewidth=1.1, linestyle=_DASHED, label=label)
    style_axes(axes, x_label="1 / resolution² (1/Å²)", y_label="ln (amplitude)", title="Guinier plot")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.legend(loc="best", **LEGEND)
    return figure


def montage_figure(images: np.ndarray, columns: int = 8) -> Figure:
    """Particle images side by side, each on its own grey scale.

    Parameters
    ----------
    images : (n, n_y, n_x)
    """
    rows = -(-len(images) // columns)
    n_y, n_x = images.shape[1:]
    canvas = np.full((rows * (n_y + 1) - 1, columns * (n_x + 1) - 1), np.nan)
    for number, image in enumerate(images):
        top, left = (number // columns) * (n_y + 1), (number % columns) * (n_x + 1)
        low, high = np.percentile(image, (0.5, 99.5))
        canvas[top : top + n_y, left : left + n_x] = np.clip((image - low) / max(high - low, 1e-12), 0, 1)
    figure = blank_figure(9.0, 9.0 * canvas.shape[0] / canvas.shape[1])
    figure.patch.set_facecolor(PAPER)
    axes = figure.add_subplot(111)
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, interpolation="bilinear" if n_x < 128 else "antialiased")
    axes.set_axis_off()
    return figure
