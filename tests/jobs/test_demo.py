"""The demo runs from atoms to report."""

from __future__ import annotations

from pathlib import Path

import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, IterationDone
from napari_autorefine.jobs.demo import DemoParams, demo


def test_demo_converges_and_reports(tmp_path: Path) -> None:
    params = DemoParams(
        output=str(tmp_path / "demo"), n_particle=60, box_size=32, pixel_size_A=6.8, snr=1.0, threads=1, cpu=True
    )
    events = list(demo(params))
    iterations = [event for event in events if isinstance(event, IterationDone)]
    assert iterations[-1].is_final
    assert iterations[-1].resolution_A < 20
    last = events[-1]
    assert isinstance(last, Finished)
    assert all(Path(path).is_file() for path in last.outputs.values())
    assert set(last.figures) == {"map", "fsc", "slices", "iterations", "errors", "directions"}
    text = Path(last.outputs["report_text"]).read_text(encoding="utf-8")
    median = float(text.split("median and 90th percentile | ")[1].split("°")[0])
    assert median < 6.0
    with pytest.raises(InputError, match="exists"):
        list(demo(params))
