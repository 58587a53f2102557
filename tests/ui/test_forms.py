"""Forms made from parameter classes: tabs, values, messages beside fields, files and layers, command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ParticleSet

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.params import describe

TABS = ("I/O", "Reference", "CTF", "Optimisation", "Auto-sampling", "Compute", "Running")
SEED = {
    "particles": "particles.star",
    "reference": "ref.mrc",
    "ini_high_A": 50.0,
    "symmetry": "D2",
    "particle_diameter_A": 30.0,
}


@pytest.fixture
def project(qapp: Any, particle_set: ParticleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from napari_autorefine.ui.project import Project

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return Project(particle_set.folder)


@pytest.fixture
def make_form(project: Any, qtbot: Any) -> Callable[..., Any]:
    from napari_autorefine.ui.forms import JobForm

    def make(job: str = "refine", layers: Any = None) -> Any:
        form = JobForm(job, project, layers)
        qtbot.addWidget(form)
        return form

    return make


def type_into(form: Any, name: str, text: str) -> None:
    form.fields[name].widget.value = text


def test_refine_has_the_tabs_and_labels_of_the_tutorials(make_form: Callable[..., Any]) -> None:
    from napari_autorefine.ui.presentation import tabs_of

    form = make_form()
    assert tabs_of(describe(RefineParams)) == form.tabs.names == TABS
    labels = [field.label for field in form.fields.values()]
    for label in (
        "Input images STAR file",
        "Reference map",
        "Reference mask (optional)",
        "Ref. map is on absolute greyscale?",
        "Initial low-pass filter",
        "Do CTF correction?",
        "Ignore CTFs until first peak?",
        "Mask individual particles with zeros?",
        "Local searches from auto-sampling",
        "Use finer angular sampling faster?",
        "Skip padding?",
        "Pre-read all particles into RAM?",
        "Copy particles to scratch directory",
        "Use GPU acceleration?",
        "Which GPUs to use",
        "Number of threads",
    ):
        assert label in labels
    assert form.fields["ini_high_A"].tooltip.count("--ini_high") == 1


@pytest.mark.parametrize("job", ["extract", "rebox", "refine", "recenter", "reconstruct", "mask", "postprocess"])
def test_a_form_shows_the_defaults_of_its_job(make_form: Callable[..., Any], job: str) -> None:
    form = make_form(job)
    assert set(form.values()) <= {"output"}
    for record in describe(JOBS[job].params()):
        if record.name != "output" and not record.is_required:
            assert form.fields[record.name].read() == record.default, record.name


def test_values_make_parameters_and_a_command_line(make_form: Callable[..., Any]) -> None:
    form = make_form()
    assert "missing" in form.problem and form.command() == ""
    assert make_form("postprocess").problem == "One of the 2 unfiltered half-maps is missing."
    assert make_form("extract").problem == "Micrograph STAR file is missing."
    form.set_values(SEED)
    assert form.problem == ""
    params = form.params()
    assert {name: getattr(params, name) for name in SEED} == SEED
    assert form.command().startswith("autorefine refine --i particles.star --ref ref.mrc --o Refine3D/job001/run")
    assert "--sym D2" in form.command() and "--ini_high 50" in form.command()


def test_yes_and_no_of_the_tutorials_become_our_values(make_form: Callable[..., Any]) -> None:
    form = make_form()
    form.fields["firstiter_cc"].widget.value = True  # on absolute grey scale
    form.fields["pad"].widget.value = True
    form.fields["cpu"].widget.value = False
    form.fields["healpix_order"].widget.value = "3.7 degrees"
    form.fields["auto_ignore_angles"].widget.value = False
    given = form.values()
    assert (given["firstiter_cc"], given["pad"], given["cpu"], given["healpix_order"]) == (False, 1, True, 3)
    assert given["auto_ignore_angles"] is given["auto_resol_angles"] is False


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("particle_diameter_A", "wide", "wide is not a number"),
        ("particle_diameter_A", "2,5", "write decimals with a point"),
        ("offset_range_px", "0", "Must be above 0"),
        ("max_iterations", "2.5", "not a whole number"),
        ("symmetry", "X3", "X3"),
    ],
)
def test_a_wrong_value_is_said_beside_its_field(
    make_form: Callable[..., Any], name: str, text: str, message: str
) -> None:
    form = make_form()
    form.set_values(SEED)
    type_into(form, name, text)
    field = form.fields[name]
    assert message in field._message.text() and not field._message.isHidden()
    assert form.problem.startswith(field.label)
    with pytest.raises(InputError, match=r"^" + field.label):
        form.params()
    field.reset()
    assert field._message.isHidden()


def test_an_empty_field_means_what_it_says(make_form: Callable[..., Any]) -> None:
    form = make_form()
    for text in ("", "auto", "whole box"):
        type_into(form, "particle_diameter_A", text)
        assert form.values()["particle_diameter_A"] is None
    mask = make_form("mask")
    assert mask.fields["threads"].widget.value == "" and mask.fields["threads"].read() == 0


def test_a_chosen_file_is_described_and_compared(make_form: Callable[..., Any], qtbot: Any) -> None:
    form = make_form()
    form.set_values(SEED)
    particles, reference = form.fields["particles"], form.fields["reference"]
    qtbot.waitUntil(lambda: particles.facts is not None and reference.facts is not None, timeout=10_000)
    assert particles._facts.text() == "12 particles, 2 micrographs, 16 px, 3 Å/px"
    assert reference._facts.text() == "Map, 16 px, 3 Å/px"
    rebox = form.project.folder / "ref.mrc"
    data = read_volume(rebox)
    from napari_autorefine.io.mrc import write_volume

    write_volume(form.project.folder / "small.mrc", data.data[2:14, 2:14, 2:14], 3.0)
    reference.set_value("small.mrc")
    qtbot.waitUntil(lambda: reference.facts is not None, timeout=10_000)
    assert "but the particles are 16 px" in reference._facts.text() and form.problem == ""
    form.fields["trust_ref_size"].set_value(True)
    assert reference._facts.text() == "Map, 12 px, 3 Å/px"


def test_a_missing_file_is_said_beside_its_field(make_form: Callable[..., Any], qtbot: Any) -> None:
    form = make_form()
    form.set_values(SEED | {"mask": "nothing.mrc"})
    field = form.fields["mask"]
    qtbot.waitUntil(lambda: field.facts is not None, timeout=10_000)
    assert field._message.text() == "This does not exist." and form.problem.startswith("Reference mask (optional)")


def test_layers_stand_for_their_files_and_others_are_written(make_form: Callable[..., Any], qtbot: Any) -> None:
    from napari.components import LayerList
    from napari.layers import Image

    form = make_form(layers=LayerList())
    folder = form.project.folder
    made = Image(np.ones((8, 8, 8)), name="my map", scale=(2.5,) * 3)
    read = Image(np.ones((8, 8, 8)), name="read", metadata={"autorefine": {"path": str(folder / "mask.mrc")}})
    flat = Image(np.ones((8, 8)), name="flat")
    form.fields["reference"]._layers.extend([made, read, flat])
    assert [layer.name for layer in form.fields["mask"].suitable_layers()] == ["my map", "read"]
    form.set_values(SEED)
    form.fields["mask"].take_layer(read)
    form.fields["reference"].take_layer(made)
    qtbot.waitUntil(lambda: form.fields["reference"].facts is not None, timeout=10_000)
    assert "Run writes Layers/my_map.mrc" in form.fields["reference"].facts.text
    params = form.params()
    assert (params.mask, params.reference) == ("mask.mrc", "Layers/my_map.mrc")
    assert read_volume(folder / "Layers" / "my_map.mrc").voxel_size_A == pytest.approx(2.5)
    form.fields["reference"]._layers.remove(made)
    with pytest.raises(InputError, match="not open any more"):
        form.params()


def test_parameters_are_loaded_and_reset(make_form: Callable[..., Any], tmp_path: Path) -> None:
    form = make_form()
    output = form.fields["output"].read()
    job = tmp_path / "job.star"
    job.write_text(
        "data_job\n_rlnJobTypeLabel relion.refine3d\ndata_joboptions_values\nloop_\n_rlnJobOptionVariable #1\n"
        "_rlnJobOptionValue #2\nsym_name D2\nini_high 50\nother_args --blush\n"
    )
    saved = form.load(job)
    assert form.values() == {"symmetry": "D2", "ini_high_A": 50.0, "output": output}
    assert len(saved.notes) == 1
    form.reset()
    assert form.values() == {"output": output}
    job.write_text(job.read_text().replace("refine3d", "extract"))
    with pytest.raises(InputError, match="not of this job"):
        form.load(job)


def test_values_are_kept_per_project(project: Any, tmp_path: Path) -> None:
    from napari_autorefine.ui.project import Project

    project.remember("refine", {"symmetry": "D2"})
    assert Project(project.folder).recall("refine") == {"symmetry": "D2"}
    (tmp_path / "other").mkdir()
    assert Project(tmp_path / "other").recall("refine") == {}
    (project.folder / "Class3D" / "job016").mkdir(parents=True)
    assert project.next_output("refine") == "Refine3D/job017/run"
    assert project.relative(project.folder / "a" / "b.mrc") == "a/b.mrc"
    with pytest.raises(InputError, match="does not exist"):
        project.move_to(tmp_path / "nowhere")


def test_angstroms_of_jobs_are_printed(qapp: Any) -> None:
    from napari_autorefine.ui.presentation import printed

    assert printed("Converged at 10.30 A.") == "Converged at 10.30 Å."
    assert printed("B-factor 80 A^2, half A of 12 A") == "B-factor 80 Å^2, half A of 12 Å"


def test_a_dropped_file_goes_into_the_field(make_form: Callable[..., Any]) -> None:
    from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
    from qtpy.QtGui import QDragEnterEvent, QDropEvent
    from qtpy.QtWidgets import QApplication

    form = make_form()
    line = form.fields["reference"].widget.native
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(form.project.folder / "ref.mrc"))])
    details = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    QApplication.sendEvent(line, QDragEnterEvent(QPoint(3, 3), *details))
    QApplication.sendEvent(line, QDropEvent(QPointF(3, 3), *details))
    assert form.fields["reference"].read() == "ref.mrc"


def test_a_file_that_appears_later_is_noticed(make_form: Callable[..., Any], qtbot: Any) -> None:
    form = make_form()
    place = form.project.folder / "ref.mrc"
    place.rename(form.project.folder / "away.mrc")
    field = form.fields["reference"]
    type_into(form, "reference", "ref.mrc")
    qtbot.waitUntil(lambda: "does not exist" in field.problem, timeout=10_000)
    (form.project.folder / "away.mrc").rename(place)
    qtbot.waitUntil(lambda: not field.problem and field.facts.box_px == 16, timeout=10_000)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("particles", "ref.mrc", "A STAR file is needed here; this is a map."),
        ("reference", "particles.star", "A map is needed here; this is a STAR file."),
        ("particles", "damaged.star", "Line 1: text outside of any table"),
        ("particles", "empty", "This folder holds no particles file"),
    ],
)
def test_a_file_of_the_wrong_kind_is_said(
    make_form: Callable[..., Any], qtbot: Any, name: str, text: str, expected: str
) -> None:
    form = make_form()
    (form.project.folder / "damaged.star").write_text("hello\n")
    (form.project.folder / "empty").mkdir()
    type_into(form, name, text)
    qtbot.waitUntil(lambda: form.fields[name].facts is not None, timeout=10_000)
    assert expected in form.fields[name].problem


def test_sentences_of_jobs_name_fields_not_options(qapp: Any) -> None:
    from napari_autorefine.ui.presentation import in_window

    assert in_window("mask", "Output m.mrc exists; choose another --o or add --overwrite.") == (
        "Output m.mrc exists; choose another Output or add Overwrite."
    )
    line = "Go on with: autorefine refine --continue run_it003_optimiser.star"
    assert in_window("refine", line) == line
    assert in_window("no job", "12 A with --o") == "12 Å with --o"
