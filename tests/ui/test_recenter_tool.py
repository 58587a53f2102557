"""Moving a map onto its mask by hand, and what becomes of the particles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from oracles import imaging
from oracles.gestures import drag, press
from oracles.phantoms import ASYMMETRIC, Phantom
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation

from napari_autorefine.cli import main
from napari_autorefine.engine.masking import background_profile
from napari_autorefine.engine.registration import correlation_peak
from napari_autorefine.io.mrc import read_volume, write_stack, write_volume
from napari_autorefine.io.star import write_star

BOX, PIXEL_A = 24, 4.0
SHIFT = np.array([0.6, -1.3, 2.75])
MOMENT_MS = 60_000


@pytest.fixture
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with ``map.mrc``, which is off its ``mask.mrc`` by ``SHIFT`` px, and particles of that map."""
    from napari_autorefine.ui.project import project

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(project, "_folder", tmp_path)
    monkeypatch.chdir(tmp_path)
    density = ASYMMETRIC.map(BOX, PIXEL_A)
    distance = distance_transform_edt(density < 0.15 * density.max())
    write_volume(tmp_path / "mask.mrc", (1 - background_profile(distance, 1.0, 2.0)).astype(np.float32), PIXEL_A)
    write_volume(tmp_path / "map.mrc", off_center().map(BOX, PIXEL_A).astype(np.float32), PIXEL_A)
    particles(tmp_path)
    return tmp_path


def off_center() -> Phantom:
    return Phantom(centers_A=ASYMMETRIC.centers_A + SHIFT * PIXEL_A, heights=ASYMMETRIC.heights)


def particles(folder: Path, n: int = 150) -> None:
    """Write projections of the shifted body, with poses."""
    rng = np.random.default_rng(1)
    euler = np.round(-Rotation.random(n, random_state=2).inv().as_euler("ZYZ", degrees=True)[:, ::-1], 6)
    origin = np.round(rng.normal(0, 4, (n, 2)), 6)
    body = off_center()
    images = [body.image(imaging.rotation(e), o, BOX, PIXEL_A) for e, o in zip(euler, origin, strict=True)]
    write_stack(folder / "p.mrcs", np.array(images, np.float32), PIXEL_A)
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "og1", "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7,
              "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": PIXEL_A, "rlnImageSize": BOX,
              "rlnImageDimensionality": 2}  # fmt: skip
    table = pd.DataFrame({
        "rlnImageName": np.array([f"{i + 1:06d}@p.mrcs" for i in range(n)], object),
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), euler.T, strict=True)),
        "rlnOriginXAngst": origin[:, 0], "rlnOriginYAngst": origin[:, 1], "rlnOpticsGroup": 1,
    })  # fmt: skip
    write_star(folder / "p.star", {"optics": pd.DataFrame({k: [v] for k, v in optics.items()}), "particles": table})


def add(viewer: Any, path: Path) -> Any:
    from napari.layers import Layer

    from napari_autorefine.ui.layers_of_maps import map_layer

    return viewer.add_layer(Layer.create(*map_layer(path)))


@pytest.fixture
def dock(make_viewer: Callable[..., Any], project_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The dock of the manifest with map and mask open, shown in slices along z."""
    from napari_autorefine.ui import pair_view
    from napari_autorefine.ui.job_docks import open_dock

    monkeypatch.setattr(pair_view, "is_software_rendering", lambda: True)
    viewer = make_viewer()
    add(viewer, project_folder / "map.mrc")
    add(viewer, project_folder / "mask.mrc")
    dock = open_dock(viewer, "recenter", {"particles": "p.star", "output": "out/new.star"})
    assert dock is not None
    dock.tool.start()
    assert dock.tool.view.is_on
    return dock


def in_place(dock: Any) -> np.ndarray:
    """How far the map layer is moved, x y z in px."""
    return (np.array(dock.viewer.layers["map"].translate) / PIXEL_A + BOX // 2)[::-1]


def test_map_and_mask_are_found_and_shown_alone_in_slices(dock: Any) -> None:
    tool = dock.tool
    assert (tool.map_choice.layer.name, tool.mask_choice.layer.name) == ("map", "mask")
    assert [layer.name for layer in dock.viewer.layers if layer.visible] == ["map", "mask"]
    assert dock.viewer.dims.ndisplay == 2 and tool.looks["z"].isChecked()
    np.testing.assert_allclose(dock.viewer.dims.point, 0)
    assert dock.form.values()["ref_angpix"] == PIXEL_A
    assert not dock.panel.run_button.isEnabled() and "Move the map" in dock.panel.reason.text()
    assert dock.minimumSizeHint().width() <= 390


def test_keys_move_the_map_along_the_axes_of_the_screen(dock: Any) -> None:
    viewer, tool = dock.viewer, dock.tool
    press(viewer, "Shift-Right", "Shift-Right", "Shift-Down", "Shift-PageUp")
    np.testing.assert_allclose(in_place(dock), [0.5, -0.25, 0.25])
    np.testing.assert_allclose(tool.model.center_px, [-0.5, 0.25, -0.25])
    assert [box.value() for box in tool.editor.boxes] == [-0.5, 0.25, -0.25]
    tool.editor.step.setCurrentIndex(tool.editor.step.count() - 1)
    tool.looks["y"].click()
    press(viewer, "Shift-Up")
    np.testing.assert_allclose(in_place(dock), [0.5, -0.25, 0.30])
    tool.looks["x"].click()
    press(viewer, "Shift-Left")
    np.testing.assert_allclose(in_place(dock), [0.5, -0.30, 0.30])
    tool.looks["3d"].click()
    press(viewer, "Shift-Up", "Shift-PageDown")
    np.testing.assert_allclose(in_place(dock), [0.5, -0.25, 0.25])
    press(viewer, "Control-Z", "Control-Z")
    np.testing.assert_allclose(in_place(dock), [0.5, -0.30, 0.30])
    press(viewer, "Control-Shift-Z")
    np.testing.assert_allclose(in_place(dock), [0.5, -0.25, 0.30])


def test_a_flipped_view_moves_the_map_where_the_arrow_points(dock: Any) -> None:
    dock.viewer.scene.camera.orientation = ("towards", "down", "right")
    press(dock.viewer, "Shift-Up")
    np.testing.assert_allclose(in_place(dock), [0, -0.25, 0])


def test_a_drag_in_a_slice_moves_the_map_in_its_plane_as_one_step(dock: Any) -> None:
    viewer, tool = dock.viewer, dock.tool
    drag(viewer, (0, 10, 10), (0, 4, 22))
    np.testing.assert_allclose(in_place(dock), [3, -1.5, 0])
    assert viewer.scene.camera.mouse_pan
    tool.editor.undo_button.click()
    np.testing.assert_allclose(in_place(dock), 0)
    tool.editor.redo_button.click()
    tool.looks["y"].click()
    drag(viewer, (10, 0, 10), (14, 0, 10))
    np.testing.assert_allclose(in_place(dock), [3, -1.5, 1])
    tool.drag_box.setChecked(False)
    drag(viewer, (10, 0, 10), (14, 0, 10))
    np.testing.assert_allclose(in_place(dock), [3, -1.5, 1])
    drag(viewer, (10, 0, 10), (6, 0, 10), shift=True)
    np.testing.assert_allclose(in_place(dock), [3, -1.5, 0])
    tool.editor.reset_button.click()
    np.testing.assert_allclose(in_place(dock), 0)


def test_a_shift_drag_in_3d_stays_in_the_plane_of_view(dock: Any, qtbot: Any) -> None:
    tool = dock.tool
    tool.looks["3d"].click()
    qtbot.waitUntil(lambda: all(solid.mesh is not None for solid in tool.view.solids), timeout=MOMENT_MS)
    drag(dock.viewer, (0, 0, 0), (8, 4, 12), direction=(0.0, 0.0, 1.0))  # without Shift the view turns
    np.testing.assert_allclose(in_place(dock), 0)
    drag(dock.viewer, (0, 0, 0), (8, 4, 12), direction=(0.0, 0.0, 1.0), shift=True)
    np.testing.assert_allclose(in_place(dock), [0, 1, 2])
    np.testing.assert_allclose(tool.view.solids[0].mesh.translate, dock.viewer.layers["map"].translate)


def test_numbers_are_typed_in_pixels_or_in_angstrom(dock: Any) -> None:
    editor = dock.tool.editor
    editor.boxes[2].setValue(2.75)
    np.testing.assert_allclose(in_place(dock), [0, 0, -2.75])
    assert "11.0 Å" in editor.other_unit.text()
    editor.unit.setCurrentIndex(1)
    assert editor.boxes[2].value() == 11.0
    editor.boxes[0].setValue(2.4)
    np.testing.assert_allclose(dock.tool.model.center_px, [0.6, 0, 2.75])
    assert "--center_X 0.6 --center_Z 2.75 --ref_angpix 4" in dock.form.command()


def test_points_picked_in_slices_are_brought_together(dock: Any) -> None:
    tool = dock.tool
    tool.pick_button.click()
    assert [layer.name for layer in dock.viewer.layers if layer.visible] == ["map"]
    drag(dock.viewer, (0, 400, 0), (0, 400, 0))
    assert "nothing of map here" in tool.note.text()
    drag(dock.viewer, (0, 8, -4), (0, 8, -4))
    assert "mask" in tool.note.text()
    assert [layer.name for layer in dock.viewer.layers if layer.visible] == ["mask"]
    drag(dock.viewer, (4, 0, 4), (4, 0, 4))
    np.testing.assert_allclose(in_place(dock), [2, -2, 1])
    assert not tool.pick_button.isChecked() and not tool.hand.is_picking
    assert [layer.name for layer in dock.viewer.layers if layer.visible] == ["map", "mask"]


def test_points_picked_in_3d_lie_on_the_surfaces(dock: Any) -> None:
    tool = dock.tool
    tool.looks["3d"].click()
    tool.set_center([1.0, 0.0, 0.0])  # picking counts from where the file has the map
    tool.pick_button.click()
    data, level = np.asarray(dock.viewer.layers["map"].data), tool.view.solids[0].level
    _, y, x = np.unravel_index(int(data.argmax()), data.shape)
    top = data[:, y, x] > level
    position = (np.array([BOX - 1, y, x]) - BOX // 2) * PIXEL_A + [0, 0, -PIXEL_A]  # of the moved map
    drag(dock.viewer, position, position, direction=(-1.0, 0.0, 0.0))
    hit_px = tool._picked / PIXEL_A + BOX // 2
    np.testing.assert_allclose(hit_px[1:], [y, x], atol=1e-6)
    last = int(np.flatnonzero(top).max())
    assert last <= hit_px[0] <= last + 1
    mask = np.asarray(dock.viewer.layers["mask"].data)
    _, b, c = np.unravel_index(int(mask.argmax()), mask.shape)
    position = (np.array([BOX - 1, b, c]) - BOX // 2) * PIXEL_A
    drag(dock.viewer, position, position, direction=(-1.0, 0.0, 0.0))
    np.testing.assert_allclose(tool.model.center_px[:2], [x - c, y - b], atol=1e-3)


def test_the_suggestion_is_the_known_offset_and_the_score_rises(dock: Any, qtbot: Any) -> None:
    tool = dock.tool
    qtbot.waitUntil(lambda: "0." in tool.score.format(), timeout=MOMENT_MS)
    before = tool.score.value()
    tool.suggest_button.click()
    assert not tool.suggest_button.isEnabled()
    qtbot.waitUntil(lambda: not tool.model.is_zero, timeout=MOMENT_MS)
    np.testing.assert_allclose(tool.model.center_px, SHIFT, atol=0.12)
    np.testing.assert_allclose(in_place(dock), -SHIFT, atol=0.12)
    qtbot.waitUntil(lambda: tool.score.value() > before + 20, timeout=MOMENT_MS)
    tool.preview.setChecked(False)
    np.testing.assert_allclose(in_place(dock), 0)
    qtbot.waitUntil(lambda: tool.score.value() == before, timeout=MOMENT_MS)
    press(dock.viewer, "Control-Z")
    assert tool.model.is_zero


def test_symmetry_keeps_the_map_on_its_axis(dock: Any) -> None:
    dock.tool.set_center(SHIFT)
    dock.form.set_values({"symmetry": "C6"})
    assert dock.tool.model.center_px.tolist() == [0.0, 0.0, 2.75]
    dock.form.set_values({"symmetry": "nonsense"})
    assert dock.form.problem


def test_apply_writes_what_the_command_line_writes_and_the_new_map_sits_on_the_mask(
    dock: Any, project_folder: Path, qtbot: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from napari_autorefine.ui.job_docks import TITLES

    for box, value in zip(dock.tool.editor.boxes, SHIFT, strict=True):
        box.setValue(value)
    dock.copy_command()
    words = dock.form.command().split()
    assert words[:2] == ["autorefine", "recenter"] and dock.panel.run_button.isEnabled()
    dock.panel.run_button.click()
    session = dock.panel.session
    qtbot.waitUntil(lambda: session.is_over, timeout=MOMENT_MS)
    assert session.state == "finished", session.ended
    np.testing.assert_allclose(in_place(dock), 0)
    np.testing.assert_allclose(dock.tool.model.center_px, SHIFT)
    by_hand = words[1:]
    by_hand[by_hand.index("out/new.star")] = "by_hand.star"
    assert main(by_hand) == 0
    assert (project_folder / "by_hand.star").read_bytes() == (project_folder / "out/new.star").read_bytes()
    steps = [dock.panel._flow.itemAt(i).widget() for i in range(dock.panel._flow.count())]
    buttons = {button.text(): button for button in steps}
    buttons["→ Re-extract"].click()
    extract = dock.viewer.window.dock_widgets[f"{TITLES['extract']} (napari-autorefine)"]
    assert extract.form.values()["refined_particles"] == "out/new.star" and extract.form.values()["recenter"] is True
    buttons["→ Reconstruct"].click()
    form = dock.viewer.window.dock_widgets[f"{TITLES['reconstruct']} (napari-autorefine)"].form
    assert form.values()["particles"] == "out/new.star"
    assert main(["reconstruct", "--i", "by_hand.star", "--o", "again.mrc", "--no_ctf", "--j", "2"]) == 0
    density = np.fft.rfftn(ASYMMETRIC.map(BOX, PIXEL_A))
    found = correlation_peak(np.fft.rfftn(read_volume(project_folder / "again.mrc").data) * np.conj(density), BOX)[1]
    np.testing.assert_allclose(found, 0, atol=0.05)


def test_the_window_is_put_back_when_the_dock_is_hidden_and_the_offset_stays(dock: Any) -> None:
    viewer = dock.viewer
    dock.tool.set_center(SHIFT)
    dock.tool.looks["3d"].click()
    dock.presence.changed.emit(False)
    np.testing.assert_allclose(in_place(dock), 0)
    assert viewer.dims.ndisplay == 2 and tuple(viewer.dims.order) == (0, 1, 2)
    assert [layer.name for layer in viewer.layers] == ["map", "mask"]
    assert dock.tool.hand._on_press not in viewer.mouse_drag_callbacks
    press(viewer, "Shift-Right")
    np.testing.assert_allclose(in_place(dock), 0)
    dock.presence.changed.emit(True)
    np.testing.assert_allclose(in_place(dock), -SHIFT)
    press(viewer, "Shift-Right")
    np.testing.assert_allclose(dock.tool.model.center_px, SHIFT - [0.25, 0, 0])


def test_a_map_that_was_moved_with_naparis_own_tools_keeps_that_offset(dock: Any) -> None:
    dock.tool.stop()
    layer = dock.viewer.layers["map"]
    affine = np.eye(4)
    affine[:3, 3] = [-11.0, 0.0, 2.0]
    layer.affine = affine
    dock.tool.start()
    np.testing.assert_allclose(dock.tool.model.center_px, [-0.5, 0.0, 2.75])
    np.testing.assert_allclose(np.array(layer.data_to_world((12, 12, 12))), [-11.0, 0.0, 2.0], atol=1e-4)
    affine[:3, :3] = Rotation.from_euler("x", 20, degrees=True).as_matrix()  # of arrays, about z
    dock.tool.stop()
    layer.affine = affine
    assert "was turned" in dock.tool.problem()


def test_other_jobs_hand_over_map_and_parameters(dock: Any, project_folder: Path) -> None:
    write_volume(project_folder / "other.mrc", read_volume(project_folder / "map.mrc").data, PIXEL_A)
    dock.fill({"particles": str(project_folder / "p.star"), "map": str(project_folder / "other.mrc")})
    assert dock.tool.map_choice.layer.name == "other" and dock.form.values()["particles"] == "p.star"
    assert "map" not in dock.form.values()
    dock.fill({"center_z_px": 2.75})
    np.testing.assert_allclose(dock.tool.model.center_px, [0, 0, 2.75])
    assert main(["recenter", "--i", "p.star", "--o", "a.star", "--center_A", "4", "0", "-8"]) == 0
    dock.load(project_folder / "a_params.json")
    np.testing.assert_allclose(dock.tool.model.center_px, [1, 0, -2])
    assert dock.form.problem == "" and "--center_Z -2" in dock.form.command()


def test_an_offset_can_be_typed_without_any_map(make_viewer: Callable[..., Any], project_folder: Path) -> None:
    from napari_autorefine.ui.job_docks import open_dock

    dock: Any = open_dock(make_viewer(), "recenter", {"particles": "p.star", "output": "new.star"})
    assert dock.tool.message.text() == "Open a map and mask to move it by hand, or type X, Y and Z."
    assert not dock.tool.suggest_button.isEnabled() and not dock.tool.view.is_on
    dock.tool.suggest()
    dock.tool.editor.boxes[2].setValue(2.75)
    assert dock.panel.run_button.isEnabled()
    assert dock.form.command() == "autorefine recenter --i p.star --o new.star --center_Z 2.75"


def test_layers_that_do_not_fit_are_named_and_reboxed(dock: Any, project_folder: Path) -> None:
    from napari_autorefine.ui.job_docks import TITLES

    viewer, tool = dock.viewer, dock.tool
    write_volume(project_folder / "wide_mask.mrc", np.pad(read_volume(project_folder / "mask.mrc").data, 4), PIXEL_A)
    tool.mask_choice.choose(add(viewer, project_folder / "wide_mask.mrc"))
    assert tool.message.text() == "map has 24 px at 4 Å, wide_mask 32 px at 4 Å." and not tool.view.is_on
    tool.rebox_button.click()
    values = viewer.window.dock_widgets[f"{TITLES['rebox']} (napari-autorefine)"].form.values()
    assert values["input"] == ("wide_mask.mrc",) and values["new_box"] == 24 and "rescale_angpix" not in values
    tool.mask_choice.choose(viewer.layers["map"])
    assert "same layer" in tool.message.text()
    tool.mask_choice.choose(viewer.layers["mask"])
    assert tool.message.text() == "" and tool.suggest_button.isEnabled()
    viewer.layers["mask"].data = np.full((BOX,) * 3, 1.0, np.float32)
    tool.start()
    assert "same value everywhere" in tool.problem() and not tool.view.is_on


def test_a_map_that_is_closed_ends_the_view(dock: Any, notices: list[tuple[str, str]]) -> None:
    dock.viewer.layers.remove("map")
    assert not dock.tool.view.is_on and dock.tool.message.text().startswith("Open a map to")
    assert [layer.name for layer in dock.viewer.layers] == ["mask"]
    press(dock.viewer, "Shift-Right")
    assert notices == []


def test_closing_the_dock_puts_the_map_back(dock: Any, qtbot: Any) -> None:
    viewer, tool = dock.viewer, dock.tool
    tool.set_center(SHIFT)
    tool.suggest()
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not tool.view.is_on, timeout=MOMENT_MS)
    np.testing.assert_allclose(in_place(dock), 0)
    assert [layer.name for layer in viewer.layers] == ["map", "mask"]
    assert not tool.hand.is_holding and not tool.view.is_on
