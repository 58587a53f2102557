from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
from napari.layers import Image, Layer, Points

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_header, read_volume
from napari_autorefine.io.tables import read_star
from napari_autorefine.ui.lazy import LazyArray
from napari_autorefine.ui.readers import read_mrc, read_star_file
from napari_autorefine.ui.world import series_frame, world_frame
from napari_autorefine.ui.writers import write_coordinates, write_mrc

OnMicrographs = Callable[[int], Path]
RNG = np.random.default_rng(3)


def _save(write: Any, path: Path, layer: Layer) -> list[str]:
    data, arguments, _ = layer.as_layer_data_tuple()
    written: list[str] = write(str(path), data, arguments)
    return written


def test_a_map_is_written_with_the_scale_of_its_layer(tmp_path: Path) -> None:
    data = RNG.standard_normal((8, 10, 12))
    layer = Image(data, **world_frame(data.shape, 1.25))
    assert _save(write_mrc, tmp_path / "out.mrc", layer) == [str(tmp_path / "out.mrc")]
    volume = read_volume(tmp_path / "out.mrc")
    np.testing.assert_array_equal(volume.data, data.astype(np.float32))
    assert volume.voxel_size_A == pytest.approx(1.25) and volume.origin_A == (0.0, 0.0, 0.0)
    with mrcfile.open(tmp_path / "out.mrc") as file:
        assert file.data.dtype == np.float32


def test_other_units_of_length_are_converted(tmp_path: Path) -> None:
    _save(write_mrc, tmp_path / "nm.mrc", Image(np.zeros((4, 4, 4)), scale=(0.2,) * 3, units=("nm",) * 3))
    assert read_header(tmp_path / "nm.mrc").voxel_size_A[0] == pytest.approx(2.0)


def test_a_map_comes_back_as_it_was_read(tmp_path: Path) -> None:
    _save(write_mrc, tmp_path / "a.mrc", Image(RNG.standard_normal((9, 9, 9)), **world_frame((9,) * 3, 3.0)))
    _save(write_mrc, tmp_path / "b.mrc", Layer.create(*read_mrc(tmp_path / "a.mrc")[0]))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mrc").data, read_volume(tmp_path / "b.mrc").data)


def test_a_moved_map_is_written_in_its_box_and_the_user_told(tmp_path: Path, notices: list[tuple[str, str]]) -> None:
    frame = {**world_frame((8,) * 3, 2.0), "translate": (-8.0, -8.0, -5.0)}
    layer = Image(np.zeros((8, 8, 8)), metadata={"autorefine": {"kind": "map"}}, **frame)
    _save(write_mrc, tmp_path / "moved.mrc", layer)
    assert read_volume(tmp_path / "moved.mrc").origin_A == (0.0, 0.0, 0.0)
    assert any("(3.00, 0.00, 0.00)" in text for _, text in notices)


def test_a_series_is_a_stack_and_needs_its_ending(tmp_path: Path) -> None:
    images = RNG.standard_normal((5, 1, 6, 6)).astype(np.float32)
    layer = Image(
        LazyArray((5,), (1, 6, 6), lambda at: images[at]),
        contrast_limits=(-1, 1),
        **series_frame(("particle",), (6, 6), 1.5, centered=True),
    )
    _save(write_mrc, tmp_path / "s.mrcs", layer)
    assert read_header(tmp_path / "s.mrcs").shape == (5, 6, 6)
    assert read_header(tmp_path / "s.mrcs").pixel_size_A == pytest.approx(1.5)
    with pytest.raises(InputError, match=r"ends with \.mrcs"):
        _save(write_mrc, tmp_path / "s.mrc", layer)


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (2, 2, 1, 4, 4)])
def test_what_no_mrc_file_holds_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        _save(write_mrc, tmp_path / "x.mrcs", Image(np.zeros(shape)))
    assert not list(tmp_path.iterdir())


def test_voxels_that_are_no_cubes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only cubes"):
        _save(write_mrc, tmp_path / "x.mrc", Image(np.zeros((4, 4, 4)), scale=(1, 1, 2)))


def test_a_micrograph_is_one_image(tmp_path: Path) -> None:
    _save(write_mrc, tmp_path / "m.mrc", Image(RNG.standard_normal((6, 8)), scale=(2, 2), units=("angstrom",) * 2))
    assert read_header(tmp_path / "m.mrc").shape == (1, 6, 8)


def test_points_become_a_coordinate_file(tmp_path: Path) -> None:
    points = Points([[3.0, 5.5], [10.0, 20.0]], features=pd.DataFrame({"rlnAutopickFigureOfMerit": [0.5, 0.7]}))
    _save(write_coordinates, tmp_path / "picks.star", points)
    table = read_star(tmp_path / "picks.star").loop("")
    assert table is not None
    assert table["rlnCoordinateX"].tolist() == [5.5, 20.0] and table["rlnCoordinateY"].tolist() == [3.0, 10.0]
    assert table["rlnAutopickFigureOfMerit"].tolist() == [0.5, 0.7]


def test_moved_points_of_a_series_keep_micrograph_and_columns(on_micrographs: OnMicrographs, tmp_path: Path) -> None:
    _, points, _ = read_star_file(on_micrographs(2))
    layer = Layer.create(*points)
    layer.data = layer.data + np.array([0, 0, 1.0, -2.0])
    _save(write_coordinates, tmp_path / "moved.star", layer)
    star = read_star(tmp_path / "moved.star")
    table = star.loop("particles")
    assert table is not None and star.loop("optics") is not None
    np.testing.assert_allclose(table["rlnCoordinateX"], np.arange(12) * 5.0 - 2.0)
    assert table["rlnMicrographName"].tolist() == ["a.mrc"] * 6 + ["b.mrc"] * 6
    assert table["rlnImageName"].tolist() == points[1]["features"]["rlnImageName"].tolist()


def test_points_of_all_micrographs_are_written_when_one_is_shown(on_micrographs: OnMicrographs, tmp_path: Path) -> None:
    pytest.importorskip("qtpy.QtWidgets", exc_type=ImportError)
    from napari_autorefine.ui import background

    _, points, _ = read_star_file(on_micrographs(2))
    follower = background.PointsOfItem(points[0], points[1]["features"])
    follower.item = 1
    rows = follower.shown_rows(1)
    assert len(rows) == 7
    own = {**points[1]["metadata"]["autorefine"], "follower": follower}
    arguments = {**points[1], "features": follower.features(rows), "metadata": {"autorefine": own}}
    _save(write_coordinates, tmp_path / "all.star", Layer.create(points[0][rows], arguments, "points"))
    table = read_star(tmp_path / "all.star").loop("particles")
    assert table is not None and sorted(table["rlnCoordinateX"]) == (np.arange(12) * 5.0).tolist()


def test_points_in_a_tomogram_are_centered_coordinates(tmp_path: Path) -> None:
    metadata = {"autorefine": {"kind": "coordinates_3d", "names": ("TS_1", "TS_2")}}
    layer = Points([[1, 1.0, 2.0, 3.0]], scale=(1, 10, 10, 10), metadata=metadata)
    _save(write_coordinates, tmp_path / "tomo.star", layer)
    table = read_star(tmp_path / "tomo.star").loop("")
    assert table is not None
    assert table.iloc[0].to_dict() == {
        "rlnCenteredCoordinateZAngst": 10.0,
        "rlnCenteredCoordinateYAngst": 20.0,
        "rlnCenteredCoordinateXAngst": 30.0,
        "rlnTomoName": "TS_2",
    }


def test_no_points_and_points_off_the_series_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no points"):
        _save(write_coordinates, tmp_path / "x.star", Points(np.empty((0, 2))))
    metadata = {"autorefine": {"kind": "coordinates", "names": ("a.mrc",)}}
    with pytest.raises(InputError, match="image 4 of 1"):
        _save(write_coordinates, tmp_path / "x.star", Points([[3, 0, 1, 1]], metadata=metadata))
    assert not list(tmp_path.iterdir())
