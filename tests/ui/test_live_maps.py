"""Maps of a refinement in the viewer: replaced in place, back when deleted, of any iteration, as surfaces or slices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.run_folders import VOXEL_A, add_maps, blob, refinement

from napari_autorefine.io.mrc import read_volume, write_volume

MOMENT_MS = 30_000


class Scene:
    """A viewer with the maps of a run."""

    def __init__(self, viewer: Any, folder: Path, qtbot: Any) -> None:
        from napari_autorefine.ui.latest_worker import LatestWorker
        from napari_autorefine.ui.live_maps import LiveMaps
        from napari_autorefine.ui.run_steps import files_of_run

        self.viewer, self.folder, self._qtbot = viewer, folder, qtbot
        self.worker = LatestWorker()
        self.maps = LiveMaps(viewer, self.worker)
        self.files = files_of_run(folder)
        self.failures: list[str] = []
        self.maps.failed.connect(self.failures.append)

    def wait(self) -> None:
        self._qtbot.waitUntil(lambda: self.worker.is_idle and not self.maps.is_busy, timeout=MOMENT_MS)
        self._qtbot.waitUntil(lambda: not self.maps._fit_timer.isActive(), timeout=MOMENT_MS)

    def show(self, n: int) -> None:
        from napari_autorefine.ui.run_steps import read_step

        self.maps.show(read_step(self.files, n))
        self.wait()

    def begin(self, **paths: Path) -> None:
        from napari_autorefine.ui.run_steps import RunFacts

        self.maps.begin(RunFacts(prefix=self.folder / "run", **paths))
        self.wait()

    def layer(self, name: str) -> Any:
        return self.viewer.layers[name]


@pytest.fixture
def make_scene(make_viewer: Callable[..., Any], tmp_path: Path, qtbot: Any, monkeypatch: Any) -> Iterator[Any]:
    from napari_autorefine.ui.live_maps import LiveMaps

    scenes: list[Scene] = []

    def make(*, surfaces: bool = False, is_final: bool = True) -> Scene:
        monkeypatch.setattr(LiveMaps, "uses_surfaces", surfaces)
        folder = refinement(tmp_path / "job007", is_final=is_final)
        scenes.append(Scene(make_viewer(), folder, qtbot))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.maps.close()
        scene.worker.stop()


FINAL = 10**9


def vertices(layer: Any) -> np.ndarray:
    """Vertices of the triangles of a surface in the world, in angstrom."""
    return np.asarray(layer.vertices)[np.unique(layer.faces)] * layer.scale + layer.translate


def test_maps_are_where_their_files_say(make_scene: Any) -> None:
    scene = make_scene()
    scene.show(1)
    layer = scene.layer("half-map 1")
    assert np.array_equal(layer.data, read_volume(scene.folder / "run_it001_half1_class001.mrc").data)
    assert tuple(layer.scale) == (VOXEL_A,) * 3 and tuple(layer.translate) == (-8 * VOXEL_A,) * 3
    assert [one.name for one in scene.viewer.layers] == ["half-map 1", "half-map 2"]
    assert scene.viewer.canvas.grid.enabled and scene.viewer.dims.ndisplay == 2


def test_an_update_keeps_what_the_user_chose(make_scene: Any) -> None:
    scene = make_scene()
    scene.begin()
    scene.show(1)
    layer, camera = scene.layer("half-map 1"), scene.viewer.scene.camera
    camera.zoom, camera.angles, camera.center = 3.21, (10.0, 20.0, 30.0), (1.0, 2.0, 3.0)
    layer.contrast_limits, layer.iso_threshold, layer.name = (0.1, 0.7), 0.33, "mine"
    layer.opacity, layer.colormap = 0.5, "magma"
    before = layer.data
    scene.show(3)
    assert scene.viewer.layers["mine"] is layer and len(scene.viewer.layers) == 2
    assert not np.array_equal(before, layer.data) and layer.data.max() == pytest.approx(4 * 1.5, rel=0.3)
    assert tuple(layer.contrast_limits) == (0.1, 0.7) and layer.iso_threshold == pytest.approx(0.33)
    assert (layer.opacity, layer.colormap.name) == (0.5, "magma")
    assert camera.zoom == 3.21 and tuple(camera.center) == (1.0, 2.0, 3.0)
    assert tuple(camera.angles) == (10.0, 20.0, 30.0)


def test_contrast_and_threshold_follow_the_data_until_they_are_chosen(make_scene: Any) -> None:
    scene = make_scene()
    scene.show(0)
    layer = scene.layer("half-map 2")
    limits, level = np.array(layer.contrast_limits), layer.iso_threshold
    scene.show(3)
    assert np.array(layer.contrast_limits) == pytest.approx(4 * limits, rel=1e-4)
    assert layer.iso_threshold == pytest.approx(4 * level, rel=1e-4)


def test_surfaces_follow_the_contour_in_sigma(make_scene: Any) -> None:
    from napari.layers import Surface

    scene = make_scene(surfaces=True)
    scene.begin()
    scene.show(1)
    layer = scene.layer("half-map 1")
    assert isinstance(layer, Surface)
    wide = np.ptp(vertices(layer), axis=0)
    scene.maps.set_contour(6.0)
    scene.wait()
    assert np.all(np.ptp(vertices(layer), axis=0) < wide)
    chosen = np.asarray(layer.vertices)
    scene.show(3)  # the same map, four times as strong
    assert scene.maps.contour_in_sigma() == 6.0
    assert np.asarray(layer.vertices) == pytest.approx(chosen, abs=1e-3)
    assert scene.layer("half-map 1") is layer


def test_a_surface_stays_where_it_is_when_the_view_is_turned_into_its_mirror_image(make_scene: Any) -> None:
    scene = make_scene(surfaces=True)
    scene.begin()
    scene.show(2)
    layer, camera = scene.layer("half-map 1"), scene.viewer.scene.camera
    before, is_negated = vertices(layer), layer.scale[0] < 0
    camera.orientation = ("towards", "down" if camera.orientation[1] == "up" else "up", "right")
    scene.wait()
    assert (layer.scale[0] < 0) is not is_negated
    assert vertices(layer) == pytest.approx(before, abs=1e-3)


def test_slices_replace_surfaces_in_two_dimensions(make_scene: Any) -> None:
    scene = make_scene(surfaces=True)
    scene.begin()
    scene.show(1)
    scene.viewer.dims.ndisplay = 2
    scene.wait()
    seen = {layer.name for layer in scene.viewer.layers if layer.visible}
    assert seen == {"half-map 1 slices", "half-map 2 slices"}
    scene.layer("half-map 2 slices").visible = False
    scene.show(2)
    scene.viewer.dims.ndisplay = 3
    scene.wait()
    assert {layer.name for layer in scene.viewer.layers if layer.visible} == {"half-map 1"}


@pytest.mark.parametrize("surfaces", [False, True])
def test_a_layer_that_is_deleted_during_the_run_comes_back(make_scene: Any, surfaces: bool) -> None:
    scene = make_scene(surfaces=surfaces)
    scene.begin()
    scene.maps.set_running(True)
    scene.show(1)
    layer = scene.layer("half-map 1")
    assert layer.locked
    layer.opacity = 0.4
    scene.viewer.layers.remove(layer)
    scene.wait()
    assert scene.layer("half-map 1").opacity == 0.4 and scene.layer("half-map 1").locked
    scene.show(2)
    assert scene.layer("half-map 1") is layer


def test_after_the_run_layers_can_be_deleted(make_scene: Any) -> None:
    scene = make_scene()
    scene.maps.set_running(True)
    scene.show(1)
    scene.maps.set_running(False)
    scene.wait()
    assert not any(layer.locked for layer in scene.viewer.layers)
    scene.viewer.layers.remove("half-map 1")
    scene.wait()
    assert [layer.name for layer in scene.viewer.layers] == ["half-map 2"]


def test_history_goes_back_and_forth(make_scene: Any) -> None:
    scene = make_scene()
    scene.begin()
    scene.show(FINAL)
    assert np.array_equal(
        scene.layer("half-map 1").data, read_volume(scene.folder / "run_half1_class001_unfil.mrc").data
    )
    assert scene.layer("final map").visible
    scene.show(2)
    assert scene.layer("half-map 1").data.max() == pytest.approx(3 * blob(seed=1).max())
    assert not scene.layer("final map").visible
    scene.maps.set_contour(5.0)
    scene.viewer.dims.ndisplay = 2
    scene.wait()
    assert not scene.layer("final map").visible
    scene.show(FINAL)
    assert scene.layer("final map").visible


def test_reference_and_mask_stand_beside(make_scene: Any, tmp_path: Path) -> None:
    scene = make_scene()
    write_volume(tmp_path / "ref.mrc", blob(5.0), VOXEL_A)
    write_volume(tmp_path / "mask.mrc", (blob() > 0.5).astype(np.float32), VOXEL_A)
    scene.begin(reference=tmp_path / "ref.mrc", mask=tmp_path / "mask.mrc")
    scene.show(1)
    assert [one.name for one in scene.viewer.layers] == ["half-map 1", "half-map 2", "reference", "mask"]
    scene.maps.arrange("overlay")
    assert not scene.viewer.canvas.grid.enabled
    assert [one.name for one in scene.viewer.layers if one.visible] == ["half-map 1", "half-map 2"]
    scene.maps.arrange("grid")
    assert all(one.visible for one in scene.viewer.layers)


def test_other_layers_are_hidden_and_stay_first(make_scene: Any) -> None:
    scene = make_scene()
    other = scene.viewer.add_image(np.zeros((4, 4, 4)), name="other")
    scene.begin()
    scene.show(1)
    assert [one.name for one in scene.viewer.layers] == ["other", "half-map 1", "half-map 2"] and not other.visible


def test_a_damaged_map_is_told_and_the_last_one_stays(make_scene: Any) -> None:
    scene = make_scene()
    scene.show(1)
    before = scene.layer("half-map 1").data
    (scene.folder / "run_it002_half2_class001.mrc").write_bytes(b"no map")
    scene.show(2)
    assert len(scene.failures) == 1 and "run_it002_half2_class001.mrc" in scene.failures[0]
    assert scene.layer("half-map 1").data is before


def test_layers_that_were_opened_from_the_files_are_taken_over(make_scene: Any) -> None:
    from napari.layers import Layer

    from napari_autorefine.ui.layers_of_runs import optimiser_layers

    scene = make_scene()
    for data, arguments, kind in optimiser_layers(scene.folder / "run_it003_optimiser.star"):
        scene.viewer.add_layer(Layer.create(data, arguments, kind))
    names = {layer.name for layer in scene.viewer.layers}
    scene.begin()
    scene.show(1)
    assert {layer.name for layer in scene.viewer.layers} == names
    assert scene.layer("job007/run it003 half 1").data.max() == pytest.approx(2 * blob(seed=1).max())


def test_closing_leaves_layers_and_no_connections(make_scene: Any) -> None:
    scene = make_scene()
    scene.maps.set_running(True)
    scene.show(1)
    scene.maps.close()
    assert len(scene.viewer.layers) == 2 and not any(layer.locked for layer in scene.viewer.layers)
    add_maps(scene.folder, 1, scale=9.0)
    scene.viewer.layers.remove("half-map 1")
    scene.viewer.dims.ndisplay = 3 if scene.viewer.dims.ndisplay == 2 else 2
    assert not scene.maps._timer.isActive() and [one.name for one in scene.viewer.layers] == ["half-map 2"]


@pytest.mark.parametrize("surfaces", [False, True])
def test_maps_fill_the_view_while_micrographs_are_open(make_scene: Any, surfaces: bool) -> None:
    scene = make_scene(surfaces=surfaces)
    frame = {"scale": (1.0, 6000.0, 2.0, 2.0), "units": ("dimensionless", *["angstrom"] * 3)}
    scene.viewer.add_image(np.zeros((3, 1, 3000, 3000), np.uint8), name="micrographs", **frame)
    scene.begin()
    scene.show(1)
    camera, size_A = scene.viewer.scene.camera, 16 * VOXEL_A
    for n_display in (3, 2, 3):
        scene.viewer.dims.ndisplay = n_display
        scene.wait()
        least = min(scene.viewer.canvas.viewbox_size(scene.viewer.layers)) / size_A
        assert 0.2 * least < camera.zoom < 3 * least, n_display
        assert np.abs(camera.center).max() < size_A


def test_a_surface_keeps_its_extent_when_it_changes(make_scene: Any) -> None:
    scene = make_scene(surfaces=True)
    scene.begin()
    scene.show(1)
    layer = scene.layer("half-map 1")
    before = layer.extent.world.copy()
    scene.maps.set_contour(6.0)
    scene.wait()
    np.testing.assert_array_equal(layer.extent.world, before)
