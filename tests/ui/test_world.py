from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image

from napari_autorefine.ui import world
from napari_autorefine.ui.settings import Settings


@pytest.mark.parametrize(("box", "voxel_size_A"), [(32, 3.54), (33, 1.0), (7, 0.5)])
def test_voxel_n_half_is_world_zero(box: int, voxel_size_A: float) -> None:
    layer = Image(np.zeros((box,) * 3, np.float32), **world.world_frame((box,) * 3, voxel_size_A))
    np.testing.assert_allclose(layer.data_to_world((box // 2,) * 3), 0.0, atol=1e-12)
    np.testing.assert_allclose(layer.data_to_world((box // 2, box // 2, box // 2 + 1)), (0, 0, voxel_size_A), atol=1e-9)
    assert [str(unit) for unit in layer.units] == ["angstrom"] * 3


def test_maps_of_any_box_and_voxel_size_overlay() -> None:
    coarse = Image(np.zeros((16,) * 3), **world.world_frame((16,) * 3, 4.0))
    fine = Image(np.zeros((40,) * 3), **world.world_frame((40,) * 3, 1.0))
    np.testing.assert_allclose(coarse.data_to_world((9, 8, 8)), fine.data_to_world((24, 20, 20)))


def test_voxel_size_is_read_from_a_layer_in_any_unit() -> None:
    assert world.voxel_size_A_of(Image(np.zeros((4, 4, 4)), **world.world_frame((4, 4, 4), 2.5))) == (2.5,) * 3
    in_nm = Image(np.zeros((4, 4)), scale=(0.1, 0.1), units=("nm", "nm"))
    np.testing.assert_allclose(world.voxel_size_A_of(in_nm), (1.0, 1.0))
    assert world.voxel_size_A_of(Image(np.zeros((4, 4)), scale=(3, 3))) == (3.0, 3.0)


def test_the_chimerax_view_is_right_handed_and_naparis_is_not() -> None:
    viewer = ViewerModel()

    def handedness() -> float:
        signs = {"towards": 1, "away": -1, "up": 1, "down": -1, "right": 1, "left": -1}
        depth, vertical, horizontal = (signs[str(axis.value)] for axis in viewer.scene.camera.orientation)
        x, y, z = np.eye(3)  # of the screen: right, up, towards the viewer
        return float(np.dot(np.cross(horizontal * x, vertical * y), depth * z))

    assert handedness() == -1
    world.match_chimerax(viewer)
    assert handedness() == 1


def test_a_viewer_is_turned_once_and_the_user_told_once(
    monkeypatch: pytest.MonkeyPatch, notices: list[tuple[str, str]]
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(world, "read_settings", lambda: Settings(tell_orientation=not told))
    monkeypatch.setattr(world, "orientation_was_told", lambda: told.append(True))
    viewer = ViewerModel()
    world.prepare_viewer(viewer)
    assert tuple(viewer.scene.camera.orientation) == world.CHIMERAX_ORIENTATION
    viewer.scene.camera.orientation = ("towards", "down", "right")
    world.prepare_viewer(viewer)
    world.prepare_viewer(ViewerModel())
    assert tuple(viewer.scene.camera.orientation) == ("towards", "down", "right")
    assert [text for _, text in notices if "ChimeraX" in text] == [text for _, text in notices]
    assert len(notices) == 1


def test_the_setting_leaves_the_view_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "read_settings", lambda: Settings(match_chimerax=False))
    viewer = ViewerModel()
    world.prepare_viewer(viewer)
    assert str(viewer.scene.camera.orientation[1].value) == "down"


def _screen(viewer: Any) -> np.ndarray:
    from qtpy.QtWidgets import QApplication

    viewer.window._qt_window.resize(900, 600)
    for turn in range(8):
        QApplication.processEvents()
        time.sleep(0.02)
        if turn == 3:
            viewer.reset_view()
    return np.asarray(viewer.screenshot(canvas_only=True, flash=False))[..., :3].astype(int)


def _middle_of(image: np.ndarray, channel: int) -> np.ndarray:
    """Return the mean position, right and up, of the pixels of one pure color."""
    others = [at for at in range(3) if at != channel]
    rows, columns = np.nonzero((image[..., channel] > 150) & (image[..., others] < 100).all(axis=-1))
    assert len(rows) > 10
    return np.array([columns.mean() - image.shape[1] / 2, image.shape[0] / 2 - rows.mean()])


def test_on_the_screen_x_is_right_y_is_up_and_z_is_near(make_viewer: Any) -> None:
    viewer = make_viewer(show=True)
    world.prepare_viewer(viewer)
    # Red at +x, green at +y; blue at +z in front of a yellow one at -z, which it must hide.
    zyx = [(0, 0, 30), (0, 30, 0), (30, 0, 0), (-30, 0, 0)]
    colors = ["#ff0000", "#00ff00", "#0000ff", "#ffff00"]
    viewer.add_points(zyx, size=16, face_color=colors, border_width=0, units=("angstrom",) * 3, antialiasing=0)
    viewer.dims.ndisplay = 3
    image = _screen(viewer)
    red, green, blue = (_middle_of(image, channel) for channel in range(3))
    assert red[0] > blue[0] + 20 and abs(red[1] - blue[1]) < 10
    assert green[1] > blue[1] + 20 and abs(green[0] - blue[0]) < 10
    is_yellow = (image[..., :2] > 150).all(axis=-1) & (image[..., 2] < 100)
    assert not is_yellow.any()


def test_a_map_and_points_agree_on_the_screen(make_viewer: Any) -> None:
    viewer = make_viewer(show=True)
    world.prepare_viewer(viewer)
    viewer.canvas.overlays.scale_bar.visible = False
    data = np.zeros((17, 17, 17), np.float32)
    data[8, 8, 14] = data[8, 12, 8] = 1.0
    viewer.add_image(data, rendering="mip", contrast_limits=(0, 1), **world.world_frame(data.shape, 2.0))
    viewer.dims.ndisplay = 3
    image = _screen(viewer).sum(axis=-1)
    rows, columns = np.nonzero(image > 200)
    right, up = columns - image.shape[1] / 2, image.shape[0] / 2 - rows
    assert right.max() > 60 and up.max() > 60 and right.min() > -40 and up.min() > -40


@pytest.mark.parametrize("n_display", [2, 3])
def test_the_view_is_fitted_to_maps_as_napari_does_it(n_display: int) -> None:
    viewer = ViewerModel(ndisplay=n_display)
    viewer.add_image(np.zeros((4, 6, 8)), **world.world_frame((4, 6, 8), 2.5))
    viewer.scene.camera.angles = (10.0, 20.0, 30.0)
    viewer.fit_to_view()
    wanted = (viewer.scene.camera.center, viewer.scene.camera.zoom)
    viewer.scene.camera.zoom = 0.1
    world.fit_view(viewer, list(viewer.layers))
    assert viewer.scene.camera.center == pytest.approx(wanted[0])
    assert viewer.scene.camera.zoom == pytest.approx(wanted[1])


@pytest.mark.parametrize("n_display", [2, 3])
def test_the_view_is_fitted_to_a_map_while_micrographs_are_open(n_display: int) -> None:
    viewer = ViewerModel(ndisplay=n_display)
    map_layer = viewer.add_image(np.zeros((8, 8, 8)), **world.world_frame((8, 8, 8), 2.0))
    world.fit_view(viewer, [map_layer])
    wanted = (viewer.scene.camera.center, viewer.scene.camera.zoom)
    frame = world.series_frame(("micrograph",), (500, 400), 2.0, centered=False)
    viewer.add_image(np.zeros((3, 1, 500, 400)), visible=False, **frame)
    world.fit_view(viewer, [map_layer])
    assert viewer.scene.camera.center == pytest.approx(wanted[0])
    assert viewer.scene.camera.zoom == pytest.approx(wanted[1])


def test_sliders_of_hidden_series_are_out_of_sight(make_viewer: Callable[..., Any], qtbot: Any) -> None:
    from napari_autorefine.ui.idle_sliders import _sliders

    viewer = make_viewer(show=True)
    series = viewer.add_image(np.zeros((5, 1, 8, 8)), **world.series_frame(("micrograph",), (8, 8), 2.0, centered=True))
    world.prepare_viewer(viewer)
    viewer.add_image(np.zeros((6, 6, 6)), **world.world_frame((6, 6, 6), 2.0))

    def seen() -> set[int]:
        return {one.axis for one in _sliders(viewer) if not one.isHidden()}

    assert len(_sliders(viewer)) == viewer.dims.ndim
    qtbot.waitUntil(lambda: seen() == {0, 1})
    series.visible = False
    qtbot.waitUntil(lambda: seen() == {1})
    viewer.dims.ndisplay = 3
    qtbot.waitUntil(lambda: seen() == set())
    series.visible = True
    qtbot.waitUntil(lambda: seen() == {0})
    viewer.dims.ndisplay = 2
    qtbot.waitUntil(lambda: seen() == {0, 1})
