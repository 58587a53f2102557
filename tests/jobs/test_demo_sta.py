"""The demo of subtomogram averaging runs from atoms to report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from napari_autorefine.cli import parse
from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, IterationDone, Message
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.optimisation_set import read_optimisation_set
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.demo_sta import DemoStaParams, demo_sta
from napari_autorefine.params import make_params

SMALL = {
    "n_particle": 16, "tilt_series": 2, "tilt_step_deg": 15.0, "pixel_size_A": 4.0, "box_size": 20, "snr": 1.0,
    "threads": 1, "cpu": True,
}  # fmt: skip
STEPS = ["refine", "report", "mask", "recenter", "reconstruct_particle", "recenter", "subtomo", "rebox", "rebox"]


def test_demo_goes_from_tilt_series_to_a_map_at_the_finer_binning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = make_params(DemoStaParams, SMALL | {"output": "demo"})
    events = list(demo_sta(params))
    assert sum(event.is_final for event in events if isinstance(event, IterationDone)) == 2
    last = events[-1]
    assert isinstance(last, Finished)
    assert all(Path(path).is_file() for path in last.outputs.values())
    made = read_volume(last.outputs["map"])
    assert (made.data.shape, made.voxel_size_A) == ((40, 40, 40), pytest.approx(8.0))
    values = json.loads(Path(last.outputs["summary"]).read_text())
    assert values["offset_true_A"] == 44.0
    assert values["offset_found_A"] == pytest.approx([0.0, 0.0, 44.0], abs=5.0)
    assert values["offset_left_A"] == pytest.approx([0.0, 0.0, 0.0], abs=5.0)
    assert values["binning_4"]["map_center_z_A"] == pytest.approx(44.0, abs=4.0)
    fine = values["binning_2"]
    assert fine["angle_median_deg"] < 4
    assert fine["center_rms_per_axis_A"] < 4
    assert fine["resolution_truth_A"] < 26
    page = Path(last.outputs["report"]).read_text(encoding="utf-8")
    words = ("From tilt series", "Recentring", "Against the truth", "Binning 4: the truth was found", "Orientations")
    assert all(word in page for word in words)
    assert Path("demo/report_bin4.html").is_file()
    assert read_optimisation_set("demo/refine_bin2/run_optimisation_set.star")["mask"] == "demo/rebox/mask.mrc"
    told = [event.text for event in events if isinstance(event, Message) and event.text.startswith("$ ")]
    assert [line.split()[2] for line in told] == [*STEPS, "refine", "report"]
    for line in told:  # what is told can be typed
        _, _, job, *typed = line.split()
        parse(JOBS[job], typed)
    with pytest.raises(InputError, match="exists"):
        list(demo_sta(params))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"box_size": 21}, "must be even"),
        ({"box_size": 16}, "too small for the molecule"),
        ({"tilt_series": 17}, "too few for 17 tilt series"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, int], text: str) -> None:
    with pytest.raises(InputError, match=text):
        make_params(DemoStaParams, SMALL | changes)
