"""Plots of post-processing: correlation curves of the half maps and the Guinier plot."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from napari_autorefine.engine.half_map_fsc import RESOLUTION_FSC, HalfMapCurves
from napari_autorefine.engine.sharpening import EMPTY
from napari_autorefine.jobs.plots import new_figure
from napari_autorefine.jobs.postprocess_params import PostprocessParams
from napari_autorefine.jobs.postprocess_result import PostprocessResult

_INK, _MUTED, _GRID = "#1f2933", "#7b8794", "#e4e7eb"
# The steep beginning of a Guinier plot, as a part of the horizontal axis, that may leave the plot at the top.
_HIDDEN = 0.02
_BLUE, _ORANGE, _GREEN, _RED = "#1f6f9f", "#d9702b", "#3f8f4f", "#b03a48"
_ROUND_A = (100, 50, 30, 20, 15, 12, 10, 9, 8, 7, 6, 5.5, 5, 4.5, 4, 3.5, 3.2, 3, 2.8, 2.6, 2.4, 2.2, 2, 1.8, 1.6, 1.4)


def _style(axes: Axes, *, x_label: str, y_label: str, title: str) -> None:
    axes.set_xlabel(x_label, color=_INK)
    axes.set_ylabel(y_label, color=_INK)
    axes.set_title(title, color=_INK, fontsize=11, loc="left", pad=28)
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=5, labelcolor=_INK,
                columnspacing=1.3, handlelength=1.6, handletextpad=0.5, borderaxespad=0.3)  # fmt: skip
    axes.tick_params(colors=_MUTED, labelcolor=_INK, labelsize=9)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_MUTED)


def _resolution_ticks(limit: float, *, power: int = 1) -> tuple[list[float], list[str]]:
    """Round resolutions that are well apart, as positions 1 / d^power up to ``limit`` and their texts in Å."""
    kept: list[float] = []
    for value in _ROUND_A:
        position = 1 / value**power
        if position <= limit * 1.001 and position - (1 / kept[-1] ** power if kept else 0) > limit / 10:
            kept.append(value)
    return [1 / value**power for value in kept], [f"{value:g}" for value in kept]


def half_map_figure(curves: HalfMapCurves, frequency: np.ndarray, resolution_A: float) -> Figure:
    """Correlation curves over spatial frequency with the line at 0.143 and the resolution.

    Parameters
    ----------
    curves : (n_shell,) each
    frequency : (n_shell,) 1 / A
    resolution_A : of the corrected curve
    """
    figure, (axes,) = new_figure(6.4, 4.2)
    shown = [("unmasked", curves.unmasked, _BLUE, 1.6)]
    if curves.masked is not None:
        shown.append(("masked", curves.masked, _ORANGE, 1.6))
    if curves.randomized is not None:
        shown.append(("phases randomised", curves.randomized, _RED, 1.3))
    if curves.is_mask_used:
        shown.append(("corrected", curves.corrected, _INK, 2.4))
    for name, curve, color, width in shown:
        axes.plot(frequency, curve, color=color, linewidth=width, label=name)
    limit = float(frequency[-1])
    axes.axhline(0, color=_MUTED, linewidth=0.8)
    axes.axhline(RESOLUTION_FSC, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(f"{RESOLUTION_FSC}", (limit, RESOLUTION_FSC), xytext=(3, 0), textcoords="offset points", va="center",
                  fontsize=8, color=_MUTED, annotation_clip=False)  # fmt: skip
    if resolution_A < 1 / float(frequency[0]):
        axes.plot([1 / resolution_A], [RESOLUTION_FSC], marker="o", markersize=5, color=_INK, zorder=5, clip_on=False)
        on_left = 1 / resolution_A > 0.7 * limit
        axes.annotate(f"{resolution_A:.2f} Å", (1 / resolution_A, RESOLUTION_FSC), fontsize=10, color=_INK,
                      xytext=(-7 if on_left else 7, 7), textcoords="offset points",
                      ha="right" if on_left else "left", weight="bold")  # fmt: skip
    axes.set_xticks(*_resolution_ticks(limit))
    axes.set_xlim(0, limit)
    lowest = min(float(np.nanmin(curve)) for _, curve, _, _ in shown)
    axes.set_ylim(max(min(-0.05, lowest) - 0.02, -1.02), 1.03)
    kind = "in the mask" if curves.is_mask_used else "without mask"
    title = f"Half-map correlation: {resolution_A:.2f} Å at 0.143, {kind}"
    _style(axes, x_label="Resolution (Å)", y_label="Fourier shell correlation", title=title)
    return figure


def guinier_figure(result: PostprocessResult, params: PostprocessParams) -> Figure:
    """Logarithm of amplitudes over squared frequency after each step, with the fitted line."""
    figure, (axes,) = new_figure(6.4, 4.2)
    x = result.frequency2
    names = {"original": "average", "mtf": "after MTF", "weighted": "FSC weighted", "sharpened": "sharpened"}
    colors = {"original": _BLUE, "mtf": _GREEN, "weighted": _ORANGE, "sharpened": _INK}
    seen: list[float] = []
    for key, curve in result.guinier.items():
        shown = np.where(curve > EMPTY, curve, np.nan)
        axes.plot(x, shown, color=colors[key], linewidth=2.2 if key == "sharpened" else 1.6, label=names[key])
        seen += shown[np.isfinite(shown) & (x > _HIDDEN * x[-1])].tolist()
    if result.fit is not None:
        first = 1 / params.autob_lowres_A**2
        last = 1 / params.autob_highres_A**2 if params.autob_highres_A > 0 else float(x[-1])
        ends = np.array([first, min(last, float(x[-1]))])
        axes.plot(ends, result.fit.slope * ends + result.fit.intercept, color=_RED, linewidth=1.5,
                  linestyle=(0, (4, 3)), label="fit")  # fmt: skip
    axes.set_xticks(*_resolution_ticks(float(x[-1]), power=2))
    axes.set_xlim(0, float(x[-1]))
    if seen:
        axes.set_ylim(min(seen) - 0.4, max(seen) + 0.6)
    value = f"{result.b_factor_A2:.0f}".replace("-", "−")
    title = "Guinier plot" if result.b_factor_A2 == 0 else f"Guinier plot: B-factor {value} Å²"
    _style(axes, x_label="Resolution (Å), linear in 1/d²", y_label="ln amplitude", title=title)
    return figure
