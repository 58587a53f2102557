"""What goes wrong ends as one sentence in the window: no traceback, nothing lost, nothing half-written."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, ParticleSet
from oracles.cuda_on_host import COMPILER

from napari_autorefine.io.mrc import write_volume

MOMENT_MS = 30_000
JOB_MS = 180_000


@pytest.fixture
def gpu_to_lose(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jobs find a GPU; it is lost when this file is there."""
    if COMPILER is None:
        pytest.skip("no C++ compiler to run the CUDA sources on the host")
    folder = tmp_path_factory.mktemp("gpu")
    tests = REPOSITORY / "tests"
    places = [tests / "oracles" / "lost_gpu", tests, *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, filter(None, places))))
    monkeypatch.setenv("AUTOREFINE_GPU_BUILDS", str(folder))
    monkeypatch.setenv("AUTOREFINE_GPU_LOST", str(folder / "lost"))
    return folder / "lost"


def buttons(panel: Any) -> dict[str, Any]:
    """Buttons below a job that has ended, by their text."""
    widgets = [panel._flow.itemAt(at).widget() for at in range(panel._flow.count())]
    return {widget.text(): widget for widget in widgets}


def is_sentence(text: str) -> bool:
    return "Traceback" not in text and "\n" not in text.strip() and 'File "' not in text


def test_a_gpu_that_vanishes_in_mid_run_is_told_and_the_run_goes_on_without_it(
    make_dock: Callable[..., Any],
    gpu_to_lose: Path,
    particle_set: ParticleSet,
    notices: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    qtbot: Any,
) -> None:
    endless = {"healpix_order": 1, "auto_local_healpix_order": 9, "random_seed": 1, "threads": 1}
    dock = make_dock("refine", particles="particles.star", reference="ref.mrc", particle_diameter_A=30.0, **endless)
    dock.run()
    session = dock.panel.session
    qtbot.waitUntil(lambda: len(session.iterations) > 0 or session.is_over, timeout=JOB_MS)
    assert not session.is_over, session.ended
    assert any("Stand-in" in timed.event.text for timed in session.log)
    gpu_to_lose.touch()
    qtbot.waitUntil(lambda: session.is_over, timeout=JOB_MS)
    severity, text = notices[-1]
    assert session.state == "failed" and severity == "error" and is_sentence(text)
    assert "GPU failed" in text and dock.panel.status.text() in text
    assert not list(session.output.parent.glob("*.tmp*"))

    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    buttons(dock.panel)["Continue this run"].click()
    dock.form.set_values({"cpu": True, "max_iterations": session.iterations[-1].iteration + 1})
    dock.run()
    again = dock.panel.session
    assert again is not session, dock.panel.status.text()
    qtbot.waitUntil(lambda: len(again.iterations) > 0 or again.is_over, timeout=JOB_MS)
    assert again.iterations[0].iteration == session.iterations[-1].iteration + 1, again.ended


def test_particles_whose_stacks_are_missing_are_named_when_the_job_is_run(
    make_dock: Callable[..., Any], particle_set: ParticleSet, notices: list[tuple[str, str]], qtbot: Any
) -> None:
    particle_set.stacks[1].unlink()
    dock = make_dock("refine", particles="particles.star", reference="ref.mrc", particle_diameter_A=30.0)
    dock.run()
    session = dock.panel.session
    qtbot.waitUntil(lambda: session.is_over, timeout=JOB_MS)
    severity, text = notices[-1]
    assert severity == "error" and is_sentence(text) and "b.mrcs" in text
    assert not session.output.with_name("run_it000_data.star").exists()


@pytest.fixture
def locked_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written, for the superuser one of the kernel."""
    if os.getuid() == 0:
        if not Path("/sys/kernel").is_dir():
            pytest.skip("everything can be written here")
        yield Path("/sys/kernel")
        return
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    yield folder
    folder.chmod(0o700)


def test_a_folder_without_write_permission_is_told(
    make_dock: Callable[..., Any], locked_folder: Path, notices: list[tuple[str, str]]
) -> None:
    dock = make_dock(output=str(locked_folder / "out" / "count.mrc"))
    dock.run()
    assert dock.panel.session is None and dock.panel.run_button is not None
    severity, text = notices[-1]
    assert severity == "error" and is_sentence(text) and str(locked_folder) in text


def test_a_place_that_cannot_be_written_is_said_while_it_is_typed(
    make_dock: Callable[..., Any], tmp_path: Path, qtbot: Any
) -> None:
    (tmp_path / "file").touch()
    dock = make_dock("refine")
    field = dock.form.fields["scratch_dir"]
    field.set_value(str(tmp_path / "file" / "scratch"))
    qtbot.waitUntil(lambda: bool(field.problem), timeout=MOMENT_MS)
    assert "not a folder" in field.problem and "not a folder" in dock.panel.run_button.toolTip()
    field.set_value(str(tmp_path / "scratch"))
    qtbot.waitUntil(lambda: field.facts is not None and "GB free" in field.facts.text, timeout=MOMENT_MS)
    assert not field.problem
    output = dock.form.fields["output"]
    output.set_value("file/run")
    qtbot.waitUntil(lambda: bool(output.problem), timeout=MOMENT_MS)


def wrong_layers() -> list[Any]:
    """Layers of every kind that no command of the plugin is meant for."""
    from napari.layers import Image, Labels, Points, Shapes, Surface, Tracks, Vectors

    plane, corners = np.zeros((8, 8), np.float32), np.array([[0.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    return [
        Image(plane, name="plane"),
        Image(np.zeros((8, 8, 3), np.uint8), rgb=True, name="colors"),
        Image([np.zeros((8, 8, 8)), np.zeros((4, 4, 4))], multiscale=True, name="levels"),
        Image(np.zeros((2, 8, 8, 8)), name="four axes"),
        Labels(np.zeros((8, 8), int), name="labels"),
        Points(corners, name="points"),
        Points(np.zeros((0, 2)), name="no points"),
        Shapes([corners[:, :2]], shape_type="polygon", name="shapes"),
        Surface((corners, np.array([[0, 1, 2]])), name="surface"),
        Tracks(np.array([[0, 0, 0, 0], [0, 1, 1, 1.0]]), name="tracks"),
        Vectors(np.zeros((1, 2, 3)), name="vectors"),
    ]


COMMANDS = ("side_by_side", "overlay", "show_orientations", "match_chimerax")


def test_commands_on_layers_of_the_wrong_kind_say_so(
    make_viewer: Callable[..., Any], sessions: Any, notices: list[tuple[str, str]]
) -> None:
    from npe2 import PluginManager

    viewer = make_viewer()
    layers = wrong_layers()
    for layer in layers:
        viewer.add_layer(layer)
    warnings.simplefilter("ignore")
    manager = PluginManager.instance()
    for layer in layers:
        viewer.layers.selection = {layer}
        viewer.layers.selection.active = layer
        for name in COMMANDS:
            manager.commands.get(f"napari-autorefine.{name}")(viewer)
    viewer.layers.selection = set(layers)
    for name in COMMANDS:
        manager.commands.get(f"napari-autorefine.{name}")(viewer)
    assert {severity for severity, _ in notices} <= {"info", "warning", "error"}
    assert all(is_sentence(text) for _, text in notices) and any(severity != "info" for severity, _ in notices)


def test_docks_beside_layers_of_the_wrong_kind_offer_none_of_them(
    make_viewer: Callable[..., Any], sessions: Any, particle_set: ParticleSet, qtbot: Any
) -> None:
    from napari_autorefine.ui.file_fields import FileField
    from napari_autorefine.ui.job_docks import TITLES, open_dock

    viewer = make_viewer()
    for layer in wrong_layers():
        viewer.add_layer(layer)
    for job in TITLES:
        dock: Any = open_dock(viewer, job)
        for field in dock.form.fields.values():
            if isinstance(field, FileField):
                assert not field.suitable_layers(), (job, field.label)
    refine: Any = open_dock(viewer, "refine", {"particles": "ref.mrc", "reference": "particles.star"})
    refine.project.move_to(particle_set.folder)
    fields = refine.form.fields
    qtbot.waitUntil(lambda: bool(fields["particles"].problem and fields["reference"].problem), timeout=MOMENT_MS)
    assert "A STAR file is needed" in fields["particles"].problem and not refine.panel.run_button.isEnabled()


def test_a_reference_of_another_box_is_said_beside_its_field_and_by_the_job(
    make_dock: Callable[..., Any], particle_set: ParticleSet, notices: list[tuple[str, str]], qtbot: Any
) -> None:
    write_volume(particle_set.reference, np.random.default_rng(1).random((20, 20, 20), np.float32), 3.0)
    dock = make_dock("refine", particles="particles.star", reference="ref.mrc", particle_diameter_A=30.0)
    qtbot.waitUntil(lambda: "Rebox the map" in dock.form.fields["reference"].remark, timeout=MOMENT_MS)
    dock.run()
    qtbot.waitUntil(lambda: dock.panel.session.is_over, timeout=JOB_MS)
    severity, text = notices[-1]
    assert severity == "error" and is_sentence(text) and "20" in text and "16" in text


def test_a_window_that_only_watches_a_job_asks_too(
    make_viewer: Callable[..., Any], sessions: Any, particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_autorefine.jobs.detached import start
    from napari_autorefine.ui import close_guard
    from napari_autorefine.ui.live_results import live_results

    endless = {"healpix_order": 2, "auto_local_healpix_order": 9, "threads": 1, "cpu": True}
    files = {"particles": "particles.star", "reference": "ref.mrc", "output": "out/run", "particle_diameter_A": 30.0}
    job = start("refine", {**files, **endless}, particle_set.folder)
    viewer = make_viewer()
    live_results(viewer).open(particle_set.folder / "out" / "run")  # no dock of the job was ever opened
    assert sessions.running(), job.status()
    (session,) = sessions.running()
    asked = []
    monkeypatch.setattr(close_guard, "ask_about_running", lambda parent: asked.append(1) or "stay")
    viewer.window._qt_window.close()
    assert len(asked) == 1 and not session.is_over and sessions.running() == [session]
    monkeypatch.setattr(close_guard, "ask_about_running", lambda parent: "cancel")
    viewer.window._qt_window.close()
    assert job.wait(30).state == "cancelled" and not sessions.running()
