"""Subtomograms in a real window: drop the set, refine, recentre; files are those of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.tomo_project import N_PARTICLE, PIXEL_A, write_project

from napari_autorefine.cli import main
from napari_autorefine.io.optimisation_set import read_optimisation_set
from napari_autorefine.io.star import read_star

MOMENT_MS, JOB_MS = 60_000, 240_000
LIVE = "Live results (napari-autorefine)"
SEARCH = {
    "reference": "sta/p_reference.mrc",
    "particle_diameter_A": 110,
    "ini_high_A": 30,
    "healpix_order": 1,
    "auto_local_healpix_order": 2,
    "random_seed": 1,
    "threads": 2,
    "cpu": True,
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sessions: Any) -> Iterator[Path]:
    """A simulated project; the window's project is its parent at first."""
    from napari_autorefine.ui.project import project as shared

    before, folder = shared.folder, (tmp_path / "project").resolve()
    folder.mkdir()
    write_project(folder)
    shared.move_to(tmp_path)
    yield folder
    shared.move_to(before)


class Hands:
    """What a user does in a dock."""

    def __init__(self, viewer: Any, qtbot: Any) -> None:
        self.viewer, self.qtbot = viewer, qtbot

    def dock(self, job: str) -> Any:
        from napari_autorefine.ui.job_docks import open_dock

        return open_dock(self.viewer, job)

    def run(self, dock: Any) -> dict[str, str]:
        self.qtbot.waitUntil(lambda: dock.panel.run_button.isEnabled() and not dock.form.problem, timeout=MOMENT_MS)
        dock.panel.run_button.click()
        session = dock.panel.session
        self.qtbot.waitUntil(lambda: session.is_over, timeout=JOB_MS)
        assert session.state == "finished", session.ended
        return dict(session.outputs)

    def press(self, dock: Any, text: str) -> None:
        flow = dock.panel._flow
        buttons = {flow.itemAt(at).widget().text(): flow.itemAt(at).widget() for at in range(flow.count())}
        buttons[text].click()


def test_from_the_set_to_recentred_particles(
    project: Path, make_viewer: Callable[..., Any], qtbot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_viewer(show=True)
    hands = Hands(viewer, qtbot)
    refine = hands.dock("refine")
    viewer.window._qt_viewer._qt_open([str(project / "sta/p_optimisation_set.star")], stack=False)
    field = refine.form.fields["optimisation_set"]
    qtbot.waitUntil(lambda: field.text == "sta/p_optimisation_set.star" and field.facts is not None, timeout=MOMENT_MS)
    assert field.facts.text.startswith("16 subtomograms (volumes), 2 tomograms, 20 px, 7 Å/px")
    assert refine.project.folder == project and {type(layer).__name__ for layer in viewer.layers} == {"Points", "Image"}

    refine.fill(SEARCH)
    outputs = hands.run(refine)
    dashboard = viewer.window.dock_widgets[LIVE]
    qtbot.waitUntil(lambda: "final map" in viewer.layers and dashboard.worker.is_idle, timeout=MOMENT_MS)
    qtbot.waitUntil(lambda: bool(dashboard.orientations.rows()[1]), timeout=MOMENT_MS)
    assert dashboard.orientations._directions.is_of_tomograms and {"half-map 1", "half-map 2"} <= {
        layer.name for layer in viewer.layers
    }
    for name in ("fsc", "resolution", "angles", "offsets"):
        assert dashboard.plots[name].rows()[1], name

    _newest_poses(viewer, outputs, qtbot)
    hands.press(refine, "→ Recentre")
    _recentre(hands, project, outputs, monkeypatch)


def _newest_poses(viewer: Any, outputs: dict[str, str], qtbot: Any) -> None:
    """Positions and arrows of the last iteration, on request."""
    from napari_autorefine.ui.set_viewing import particles_dock

    dock = particles_dock(viewer)
    layer, before = dock.layer, dock.layer.data.copy()
    dock.arrows.setChecked(True)
    dock.newest.click()
    newest = Path(outputs["particles"])
    qtbot.waitUntil(lambda: Path(layer.metadata["autorefine"]["path"]) == newest, timeout=MOMENT_MS)
    moved_A = np.linalg.norm((layer.data - before) * layer.scale, axis=1)
    assert len(moved_A) == N_PARTICLE and 1.0 < np.median(moved_A) < 30.0
    assert dock.colors.findData("rlnMaxValueProbDistribution") > 0


def _recentre(hands: Hands, project: Path, outputs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    dock = hands.dock("recenter")
    assert dock.form.values()["optimisation_set"] == "Refine3D/job001/run_optimisation_set.star"
    hands.qtbot.waitUntil(lambda: dock.tool.voxel_size_A == pytest.approx(PIXEL_A), timeout=MOMENT_MS)
    dock.tool.set_center([0.0, 0.0, 2.75])
    written = hands.run(dock)
    monkeypatch.chdir(project)
    line = ["recenter", "--i", "Refine3D/job001/run_data.star", "--o", "Expected/job009/particles.star"]
    assert main([*line, "--center_Z", "2.75"]) == 0
    found, expected = Path(written["particles"]), Path("Expected/job009/particles.star")
    assert found.read_bytes() == expected.read_bytes()
    old, new = (read_star(path).loop("particles") for path in (outputs["particles"], found))
    assert old is not None and new is not None
    steps = np.stack([old[f"rlnOrigin{axis}Angst"] - new[f"rlnOrigin{axis}Angst"] for axis in "XYZ"], axis=1)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 2.75 * PIXEL_A, atol=1e-4)
    mine, theirs = (read_optimisation_set(path.with_name("optimisation_set.star")) for path in (found, expected))
    assert mine.files == {**theirs.files, "particles": "Recenter/job002/particles.star"}
    assert mine["tomograms"] == "sta/p_tomograms.star" and mine["map1"] is None
    for step, job in (("→ Reconstruct particle", "reconstruct_particle"), ("→ Extract subtomograms", "subtomo")):
        hands.press(dock, step)
        assert hands.dock(job).form.values()["optimisation_set"] == "Recenter/job002/optimisation_set.star"
