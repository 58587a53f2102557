"""Fourier shell correlations of all iterations, the newest in front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import Qt

from napari_autorefine.ui.plots_base import ACCENT, SECOND, Plot, axis_with
from napari_autorefine.ui.run_steps import Step

_TICKS = (
    *(100, 50, 30, 20, 15, 12, 10, 9, 8, 7, 6, 5, 4.5, 4, 3.5, 3.2, 3, 2.8, 2.6, 2.4, 2.2, 2),
    *(1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1),
)
_TICK_WIDTH_PX = 34.0


def resolution_ticks(low: float, high: float, size_px: float) -> list[tuple[float, list[float]]]:
    """Return spatial frequencies (1/Å) of round resolutions, far enough apart for their numbers."""
    apart = (high - low) / max(size_px / _TICK_WIDTH_PX, 1.0)
    kept: list[float] = []
    for resolution in _TICKS:
        frequency = 1.0 / resolution
        before = kept[-1] if kept else max(low, 0.0) - 0.5 * apart
        if low < frequency <= high and frequency - before > apart:
            kept.append(frequency)
    return [(apart, kept)]


def resolution_text(frequency: float) -> str:
    """Return a frequency as a resolution in Å."""
    return f"{1.0 / round(frequency, 9):g}" if frequency > 0 else ""


class FscPlot(Plot):
    """Curves over resolution with the lines at 0.5 and 0.143; older iterations fade."""

    title = "FSC of the half-maps"

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._shown: Step | None = None
        self._curves: list[pg.PlotDataItem] = []
        self._lines: list[pg.InfiniteLine] = []
        super().__init__(
            x_label="resolution (Å)",
            y_label="FSC",
            axes={"bottom": axis_with("bottom", resolution_ticks, resolution_text)},
        )
        self.plot.vb.setLimits(yMin=-0.4, yMax=1.1)
        self.plot.vb.setMouseEnabled(x=True, y=False)
        self.plot.setYRange(-0.05, 1.03, padding=0)
        self.marker = pg.ScatterPlotItem(size=7)
        self.marker.setZValue(90)
        self.plot.addItem(self.marker, ignoreBounds=True)

    def show_steps(self, steps: Sequence[Step], shown: Step | None) -> None:
        """Draw the curves of all iterations, that of ``shown`` in front."""
        self._steps = [step for step in steps if step.fsc is not None and len(step.fsc) > 2 and step.voxel_size_A > 0]
        self._shown = shown if shown in self._steps else self._steps[-1] if self._steps else None
        self.redraw()

    def redraw(self) -> None:
        """Draw all curves."""
        for item in (*self._curves, *self._lines):
            self.plot.removeItem(item)
        self._curves, self._lines = [], []
        n = len(self._steps)
        for index, step in enumerate(self._steps):
            is_shown = step is self._shown
            age = (n - 1 - index) / max(n - 1, 1)
            pen = pg.mkPen(ACCENT if is_shown else self.look.faded(age), width=2.2 if is_shown else 1.0)
            assert step.fsc is not None
            curve = self.plot.plot(frequencies(step)[1:], step.fsc[1:], pen=pen, antialias=True)
            curve.setZValue(50 if is_shown else index / max(n, 1))
            self._curves.append(curve)
        for level, style in ((0.5, Qt.PenStyle.DotLine), (0.143, Qt.PenStyle.DashLine)):
            pen = pg.mkPen(SECOND if level < 0.5 else self.look.muted, width=1, style=style)
            options = {"position": 0.06, "color": self.look.ink, "anchors": [(0, 1), (0, 1)]}
            line = pg.InfiniteLine(pos=level, angle=0, pen=pen, label=f"{level:g}", labelOpts=options)
            self.plot.addItem(line, ignoreBounds=True)
            self._lines.append(line)
        if self._shown is not None:
            self.plot.vb.setLimits(xMin=0.0, xMax=0.5 / self._shown.voxel_size_A)
            self.plot.setXRange(0.0, 0.5 / self._shown.voxel_size_A, padding=0)

    def describe_at(self, x: float, y: float) -> tuple[str, float, float] | None:
        """Return shell, resolution and FSC of the curve that is nearest in height, of the shell that is nearest."""
        found: tuple[float, Step, int] | None = None
        for step in self._steps:
            assert step.fsc is not None
            last = len(step.fsc) - 1
            shell = round(x * 2 * last * step.voxel_size_A)
            if 1 <= shell <= last:
                away = abs(float(step.fsc[shell]) - y) - (0.02 if step is self._shown else 0.0)
                if found is None or away < found[0]:
                    found = (away, step, shell)
        if found is None:
            self.marker.clear()
            return None
        _, step, shell = found
        assert step.fsc is not None
        value, at = float(step.fsc[shell]), float(frequencies(step)[shell])
        self.marker.setData([at], [value], brush=pg.mkBrush(ACCENT), pen=pg.mkPen(self.look.ink))
        return f"{step.title}\nshell {shell} · {1.0 / at:.2f} Å\nFSC {value:.3f}", at, value

    def rows(self) -> tuple[Sequence[str], list[Sequence[object]]]:
        """Return shells as rows, iterations as columns."""
        if not self._steps:
            return (), []
        longest = max(self._steps, key=lambda step: 0 if step.fsc is None else len(step.fsc))
        at = frequencies(longest)
        head = ("shell", "resolution_A", *(step.title for step in self._steps))
        rows: list[Sequence[object]] = []
        for shell in range(len(at)):
            values = [
                float(step.fsc[shell]) if step.fsc is not None and shell < len(step.fsc) else "" for step in self._steps
            ]
            rows.append((shell, 1.0 / at[shell] if shell else "", *values))
        return head, rows


def frequencies(step: Step) -> np.ndarray:
    """Return the spatial frequency (n_shell,) in 1/Å of the shells of a step's FSC."""
    assert step.fsc is not None
    n_shell = len(step.fsc)
    return np.asarray(np.arange(n_shell) / (2 * (n_shell - 1) * step.voxel_size_A))
