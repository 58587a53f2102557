"""Numbers of a refinement over its iterations: resolution, sampling, accuracy and changes of the poses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyqtgraph as pg
from psygnal import Signal
from qtpy.QtCore import Qt

from napari_autorefine.ui.plots_base import ACCENT, SECOND, THIRD, Plot, axis_with, whole_numbers
from napari_autorefine.ui.run_steps import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One curve: an attribute of steps, its name, color and symbol."""

    name: str
    label: str
    color: str
    symbol: str


class IterationPlot(Plot):
    """Curves over iterations on a logarithmic scale; a click asks for an iteration."""

    step_clicked = Signal(object)
    unit = ""
    series: tuple[Series, ...] = ()
    is_falling = False

    def __init__(self, y_label: str) -> None:
        self._steps: list[Step] = []
        self._shown: Step | None = None
        self._items: list[Any] = []
        axes = {
            "bottom": axis_with("bottom", whole_numbers, "{:.0f}".format),
            "left": axis_with("left", log_ticks, power_text),
        }
        super().__init__(x_label="iteration", y_label=y_label, axes=axes)
        self.plot.vb.setMouseEnabled(x=False, y=False)
        self.plot.vb.invertY(self.is_falling)
        self.canvas.scene().sigMouseClicked.connect(self._on_click)

    def show_steps(self, steps: Sequence[Step], shown: Step | None) -> None:
        """Draw the iterations, a line at ``shown``."""
        self._steps = list(steps)
        self._shown = shown
        self.redraw()

    def place(self, step: Step) -> float:
        """Return where a step is on the axis; the last one, of all particles, comes after the last iteration."""
        if step.number is not None:
            return float(step.number)
        return 1.0 + max((one.number for one in self._steps if one.number is not None), default=0)

    def values(self, series: Series) -> tuple[np.ndarray, np.ndarray]:
        """Return places (n,) and values (n,) that are known."""
        pairs = [(self.place(step), float(getattr(step, series.name))) for step in self._steps if step.number != 0]
        known = [(at, value) for at, value in pairs if math.isfinite(value) and value > 0]
        array = np.array(known, np.float64).reshape(-1, 2)
        return array[:, 0], array[:, 1]

    def redraw(self) -> None:
        """Draw all curves."""
        for item in self._items:
            self.plot.removeItem(item)
        self._items = []
        heights: list[float] = []
        for series in self.series:
            at, value = self.values(series)
            if not len(at):
                continue
            log = np.log10(value)
            heights += [float(log.min()), float(log.max())]
            options = {"symbol": series.symbol, "symbolSize": 6, "symbolBrush": series.color, "symbolPen": None}
            pen = pg.mkPen(series.color, width=1.6)
            self._items.append(self.plot.plot(at, log, pen=pen, antialias=True, **options))
        if self._shown is not None and heights:
            pen = pg.mkPen(self.look.muted, width=1, style=Qt.PenStyle.DotLine)
            line = pg.InfiniteLine(pos=self.place(self._shown), angle=90, pen=pen)
            self.plot.addItem(line, ignoreBounds=True)
            self._items.append(line)
        if heights:
            low, high = min(heights), max(heights)
            margin = max(0.08 * (high - low), 0.04)
            self.plot.setYRange(low - margin, high + margin, padding=0)
            places = [self.place(step) for step in self._steps]
            self.plot.setXRange(0.6, max([*places, 2.0]) + 0.4, padding=0)
        self._draw_legend()

    def _draw_legend(self) -> None:
        parts = [f'<span style="color:{one.color}">{one.label}</span>' for one in self.series]
        title = self.title if len(parts) < 2 else " &nbsp;".join(parts)
        self.plot.setTitle(title, color=self.look.ink, size="8pt" if len(parts) > 1 else "9pt")

    def nearest(self, x: float) -> Step | None:
        """Return the step that is nearest on the axis."""
        steps = [step for step in self._steps if step.number != 0]
        return min(steps, key=lambda step: abs(self.place(step) - x), default=None)

    def describe_at(self, x: float, y: float) -> tuple[str, float, float] | None:
        """Return the numbers of the nearest iteration."""
        step = self.nearest(x)
        if step is None:
            return None
        lines = [step.title]
        for series in self.series:
            value = float(getattr(step, series.name))
            if math.isfinite(value):
                lines.append(f"{series.label} {value:.3g} {self.unit}".replace(" °", "°"))
        return "\n".join(lines), self.place(step), y

    def rows(self) -> tuple[Sequence[str], list[Sequence[object]]]:
        """Return one row per iteration."""
        head = ("iteration", *(series.name for series in self.series))
        return head, [
            ("final" if step.is_final else step.number, *(getattr(step, series.name) for series in self.series))
            for step in self._steps
        ]

    def _on_click(self, event: Any) -> None:
        if event.button() != Qt.MouseButton.LeftButton:
            return
        step = self.nearest(self.plot.vb.mapSceneToView(event.scenePos()).x())
        if step is not None:
            self.step_clicked.emit(step)


def log_ticks(low: float, high: float, size_px: float) -> list[tuple[float, list[float]]]:
    """Return decimal logarithms of few round numbers."""
    low, high = min(low, high), max(low, high)
    apart = (high - low) / max(size_px / 18.0, 1.0)
    inside: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(0.1 * n for n in range(10, 100))):
        powers = range(math.floor(low) - 1, math.ceil(high) + 1)
        ticks = [math.log10(digit) + power for power in powers for digit in digits]
        inside = sorted(tick for tick in ticks if low <= tick <= high)
        if len(inside) >= 3:
            break
    kept: list[float] = []
    for tick in inside:
        if not kept or tick - kept[-1] > apart:
            kept.append(tick)
    return [(1.0, kept)]


def power_text(logarithm: float) -> str:
    """Return a decimal logarithm as its number."""
    return f"{10**logarithm:.2g}"


class ResolutionPlot(IterationPlot):
    """Resolution at FSC = 0.143, better ones higher."""

    title = "resolution"
    unit = "Å"
    is_falling = True
    series = (Series(name="resolution_A", label="resolution", color=ACCENT, symbol="o"),)

    def __init__(self) -> None:
        super().__init__("Å")


class AnglePlot(IterationPlot):
    """Step of the search, estimated accuracy and change of the orientations."""

    title = "orientations"
    unit = "°"
    series = (
        Series(name="angular_step_deg", label="step", color=ACCENT, symbol="s"),
        Series(name="accuracy_rot_deg", label="accuracy", color=SECOND, symbol="o"),
        Series(name="change_rot_deg", label="change", color=THIRD, symbol="t"),
    )

    def __init__(self) -> None:
        super().__init__("degrees")


class OffsetPlot(IterationPlot):
    """Step and range of the search, estimated accuracy and change of the offsets."""

    title = "offsets"
    unit = "Å"
    series = (
        Series(name="offset_step_A", label="step", color=ACCENT, symbol="s"),
        Series(name="accuracy_trans_A", label="accuracy", color=SECOND, symbol="o"),
        Series(name="change_trans_A", label="change", color=THIRD, symbol="t"),
    )

    def __init__(self) -> None:
        super().__init__("Å")
