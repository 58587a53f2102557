"""Two volumes in one window: side by side, overlaid, and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_autorefine.io.mrc import write_volume

MOMENT_MS = 30_000


def ball(size: int, center: tuple[float, float, float] = (0, 0, 0), radius: float = 6.0) -> np.ndarray:
    z, y, x = np.indices((size,) * 3) - size // 2
    far = np.sqrt((z - center[0]) ** 2 + (y - center[1]) ** 2 + (x - center[2]) ** 2)
    return np.clip(radius + 1.0 - far, 0, 1).astype(np.float32)


@pytest.fixture
def window(make_viewer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A viewer with a map and its mask, 24 px at 3 A, and points that are none of its business."""
    from napari_autorefine.ui.project import project

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(project, "_folder", tmp_path)
    viewer = make_viewer()
    noise = np.random.default_rng(0).normal(0, 0.05, (24, 24, 24)).astype(np.float32)
    add(viewer, tmp_path / "run_class001.mrc", 2 * ball(24) + noise)
    add(viewer, tmp_path / "mask.mrc", ball(24, radius=8))
    viewer.add_points(np.zeros((1, 3)), name="points")
    return viewer


def add(viewer: Any, path: Path, data: np.ndarray, voxel_size_A: float = 3.0) -> Any:
    from napari.layers import Layer

    from napari_autorefine.ui.layers_of_maps import map_layer

    write_volume(path, data, voxel_size_A)
    return viewer.add_layer(Layer.create(*map_layer(path)))


def seen(viewer: Any) -> list[str]:
    return [layer.name for layer in viewer.layers if layer.visible]


def look(viewer: Any) -> dict[str, Any]:
    """Everything that has to come back."""
    state: dict[str, Any] = {
        layer.name: (layer.visible, layer.opacity, str(layer.blending), tuple(layer.translate))
        for layer in viewer.layers
    }
    for layer in viewer.layers:
        if hasattr(layer, "rendering"):
            state[f"{layer.name} in 3D"] = (layer.rendering, layer.iso_threshold, layer.colormap.name)
    grid, camera = viewer.canvas.grid, viewer.scene.camera
    state |= {"grid": (grid.enabled, grid.stride, grid.shape), "camera": (camera.center, camera.zoom, camera.angles)}
    return state | {"dims": (viewer.dims.ndisplay, viewer.dims.order), "active": viewer.layers.selection.active}


def with_meshes(dock: Any, qtbot: Any) -> Any:
    """Wait for the surfaces where the test's OpenGL has them as meshes."""
    qtbot.waitUntil(lambda: all(solid.mesh is not None for solid in dock.view.solids), timeout=MOMENT_MS)
    return dock


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw surfaces as on software OpenGL."""
    from napari_autorefine.ui import pair_view

    monkeypatch.setattr(pair_view, "is_software_rendering", lambda: True)


def test_one_command_shows_map_and_mask_side_by_side(window: Any, on_cpu: None, qtbot: Any) -> None:
    from napari_autorefine.ui.side_by_side import show_side_by_side

    before = look(window)
    dock = with_meshes(show_side_by_side(window), qtbot)
    assert (dock.first.layer.name, dock.second.layer.name) == ("run_class001", "mask")
    assert window.canvas.grid.enabled and window.canvas.grid.actual_shape(window.layers) == (1, 2)
    assert window.dims.ndisplay == 3
    assert seen(window) == ["run_class001 (surface)", "mask (surface)"]
    first = next(i for i, layer in enumerate(window.layers) if layer.name == "run_class001 (surface)")
    assert window.canvas.grid.position(first, window.layers) == (0, 0)
    dock.stop_button.click()
    assert look(window) == before


def test_slices_are_side_by_side_too_and_the_map_stays_left(window: Any, on_cpu: None, qtbot: Any) -> None:
    from napari_autorefine.ui.side_by_side import show_side_by_side

    window.layers.move(0, 2)
    with_meshes(show_side_by_side(window), qtbot)
    window.dims.ndisplay = 2
    assert seen(window) == ["mask", "run_class001"]
    place = window.layers.index(window.layers["run_class001"])
    assert window.canvas.grid.position(place, window.layers) == (0, 0)


def test_each_surface_of_the_overlay_has_its_threshold(window: Any, on_cpu: None, qtbot: Any) -> None:
    from napari_autorefine.ui.side_by_side import show_overlay

    dock = with_meshes(show_overlay(window), qtbot)
    assert not window.canvas.grid.enabled
    map_mesh, mask_mesh = (solid.mesh for solid in dock.view.solids)
    assert mask_mesh.opacity < 0.6 and map_mesh.opacity == 1.0
    size_of_mask = np.ptp(mask_mesh.data[0], axis=0)
    np.testing.assert_allclose(size_of_mask, 17, atol=1.0)
    dock.levels[0].set_level(0.4)
    qtbot.waitUntil(lambda: np.ptp(map_mesh.data[0], axis=0).max() > 13.2, timeout=MOMENT_MS)
    np.testing.assert_allclose(np.ptp(mask_mesh.data[0], axis=0), size_of_mask, atol=0.1)
    extent = np.array(map_mesh.extent.world)
    np.testing.assert_allclose(extent.mean(axis=0), 0, atol=0.5)  # where the volume is, mirrored or not


def test_with_a_graphics_card_the_volumes_are_drawn_themselves(window: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from napari_autorefine.ui.pair_view import PairView

    before = look(window)
    view = PairView(window, as_meshes=False)
    view.start(window.layers["run_class001"], window.layers["mask"], "overlay", "z")
    monkeypatch.setattr(type(window.layers["mask"]), "visible", property(lambda _: False, lambda *_: None))
    for solid in view.solids:  # not drawn: iso volumes take seconds here
        solid.show(is_3d=True, over=True)
        assert solid.layer.rendering == "iso" and solid.mesh is None
    view.solids[0].set_level(0.7)
    assert window.layers["run_class001"].iso_threshold == 0.7
    monkeypatch.undo()
    view.stop()
    assert look(window) == before


def test_two_selected_maps_come_before_map_and_mask(window: Any, tmp_path: Path) -> None:
    from napari_autorefine.ui.volume_choice import two_volumes

    one = add(window, tmp_path / "half1.mrc", ball(24))
    window.layers.selection = {one, window.layers["run_class001"]}
    assert {layer.name for layer in two_volumes(window)} == {"half1", "run_class001"}
    window.layers.selection = set()
    assert [layer.name for layer in two_volumes(window)][1] == "mask"


def test_a_mask_is_known_by_its_values_when_no_reader_said_so(window: Any) -> None:
    from napari_autorefine.ui.volume_choice import is_mask

    assert is_mask(window.add_image(ball(24), name="thing"))
    assert not is_mask(window.add_image(np.random.default_rng(0).normal(size=(24, 24, 24)), name="map"))


def test_another_grid_is_named_and_rebox_opens_filled_in(window: Any, tmp_path: Path, on_cpu: None) -> None:
    from napari_autorefine.ui.job_docks import TITLES
    from napari_autorefine.ui.side_by_side import show_side_by_side

    add(window, tmp_path / "big_mask.mrc", ball(32, radius=8), 2.5)
    dock = show_side_by_side(window)
    assert dock.message.text() == "run_class001 has 24 px at 3 Å, big_mask 32 px at 2.5 Å."
    assert dock.view.is_on and not dock.rebox_button.isHidden()
    dock.rebox_button.click()
    rebox = window.window.dock_widgets[f"{TITLES['rebox']} (napari-autorefine)"]
    values = rebox.form.values()
    assert values["input"] == ("big_mask.mrc",) and values["new_box"] == 24
    assert values["rescale_angpix"] == pytest.approx(3.0)
    assert rebox.form.problem == ""


def test_what_is_missing_is_said_in_a_sentence(make_viewer: Callable[..., Any], notices: list[tuple[str, str]]) -> None:
    from napari_autorefine.ui.side_by_side import show_overlay

    viewer = make_viewer()
    dock = show_overlay(viewer)
    assert dock.message.text().startswith("Open two maps") and not dock.view.is_on
    assert not any(button.isEnabled() for button in dock.buttons.values())
    viewer.add_points(np.zeros((1, 3)))
    viewer.add_image(np.zeros((8, 8)), name="micrograph")
    viewer.add_image(ball(16), name="one")
    assert dock.message.text().startswith("Open two maps")
    viewer.add_image(2 * ball(16) - 1, name="two")
    assert dock.message.text() == "" and dock.buttons["overlay"].isEnabled()
    dock.second.choose(dock.first.layer)
    assert dock.message.text() == "Choose two different volumes."
    assert notices == []


def test_closing_a_layer_ends_the_view(window: Any, on_cpu: None, qtbot: Any) -> None:
    from napari_autorefine.ui.side_by_side import show_side_by_side

    dock = with_meshes(show_side_by_side(window), qtbot)
    window.layers.remove("mask")
    assert not dock.view.is_on and dock.hint.text() == "mask was closed."
    assert [layer.name for layer in window.layers] == ["run_class001", "points"]
    assert not window.canvas.grid.enabled and window.layers["run_class001"].visible


def test_closing_the_dock_puts_the_window_back(window: Any, on_cpu: None, qtbot: Any) -> None:
    import gc

    from napari_autorefine.ui.side_by_side import show_side_by_side

    before = look(window)
    dock = with_meshes(show_side_by_side(window), qtbot)
    view = dock.view
    window.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view.is_on, timeout=MOMENT_MS)
    assert look(window) == before
    del dock
    gc.collect()
    window.add_image(ball(16), name="later")  # nothing of the dock is left that listens
    assert [layer.name for layer in window.layers] == ["run_class001", "mask", "points", "later"]


def test_a_second_view_of_the_window_ends_the_first(window: Any, on_cpu: None) -> None:
    from napari_autorefine.ui.pair_view import PairView

    before = look(window)
    pair = window.layers["run_class001"], window.layers["mask"]
    first, second = PairView(window), PairView(window)
    first.start(*pair, "side by side")
    second.start(*pair, "overlay", "z")
    assert second.is_on and not first.is_on
    second.stop()
    assert look(window) == before
