"""The demo runs from atoms to report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.cli import parse
from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, IterationDone, Message
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.demo import DemoParams, demo
from napari_autorefine.params import make_params

SMALL = {
    "n_particle": 60, "micrographs": 2, "pixel_size_A": 4.0, "box_size": 56, "scaled_size": 36, "snr": 1.0,
    "threads": 1, "cpu": True,
}  # fmt: skip


def test_demo_goes_from_micrographs_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(DemoParams, SMALL | {"output": "demo"})
    events = list(demo(params))
    iterations = [event for event in events if isinstance(event, IterationDone)]
    assert iterations[-1].is_final
    assert iterations[-1].resolution_A < 20
    last = events[-1]
    assert isinstance(last, Finished)
    assert all(Path(path).is_file() for path in last.outputs.values())
    sharpened = read_volume(last.outputs["map"])
    assert sharpened.data.shape == (36, 36, 36)
    assert sharpened.voxel_size_A == pytest.approx(4.0 * 56 / 36)
    found = re.search(r"([\d.]+) Å against the truth; angular error ([\d.]+)°", last.text)
    assert found is not None
    assert float(found[1]) < 16
    assert float(found[2]) < 6
    page = Path(last.outputs["report"]).read_text(encoding="utf-8")
    assert all(words in page for words in ("The truth was found", "From micrographs", "Against the truth", "Guinier"))
    told = [event.text for event in events if isinstance(event, Message) and event.text.startswith("$ ")]
    assert [line.split()[2] for line in told] == ["extract", "rebox", "refine", "mask", "postprocess", "report"]
    for line in told:  # what is told can be typed
        _, _, job, *words = line.split()
        parse(JOBS[job], words)
    records = {path.parent.name: json.loads(path.read_text()) for path in Path("demo").glob("*/*_params.json")}
    assert set(records) >= {"simulate", "extract", "rebox", "refine", "mask", "postprocess"}
    with pytest.raises(InputError, match="exists"):
        list(demo(params))


@pytest.mark.parametrize(
    ("changes", "text"), [({"box_size": 58}, "multiple of 4"), ({"scaled_size": 60}, "larger than box")]
)
def test_impossible_boxes_are_refused(changes: dict[str, int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        make_params(DemoParams, SMALL | changes)


def test_a_missed_truth_is_told(tmp_path: Path) -> None:
    from napari_autorefine.jobs.demo_truth import Comparison, verdict_of
    from napari_autorefine.jobs.measures import PoseErrors

    errors = PoseErrors(angle_deg=np.full(9, 40.0), offset_A=np.ones(9), common_shift_A=np.zeros(3))
    zeros = np.zeros((8, 8, 8))
    found = Comparison(density=zeros, truth=zeros, voxel_size_A=5.0, curve=np.ones(5), resolution_A=30.0, errors=errors)
    assert verdict_of(found).level == "warning"
