"""Micrograph images, and STAR files about micrographs."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import tifffile
from oracles.micrographs import make_micrographs, write_table

from napari_autorefine.errors import InputError
from napari_autorefine.io.micrograph_tables import (
    by_micrograph,
    found_files,
    join_tables,
    match_micrographs,
    read_coordinate_file,
    read_coordinate_list,
    read_micrographs,
    without_job,
)
from napari_autorefine.io.micrographs import open_micrograph

IMAGE = np.arange(20 * 30).reshape(20, 30) % 117


def write(path: Path, image: np.ndarray) -> Path:
    with mrcfile.new(path) as file:
        file.set_data(image)
        file.voxel_size = 1.3
    return path


@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f4", "f2"])
def test_every_mode_of_mrc_is_read(dtype: str, tmp_path: Path) -> None:
    image = open_micrograph(write(tmp_path / "m.mrc", IMAGE.astype(dtype)))
    assert image.shape == (20, 30)
    assert image.pixel_size_A == pytest.approx(1.3)
    assert image.n_byte == 2400
    values = image.read()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, IMAGE)


def test_compressed_and_big_endian_files_are_read(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc.gz", compression="gzip") as file:
        file.set_data(IMAGE.astype(np.float32))
    np.testing.assert_array_equal(open_micrograph(tmp_path / "m.mrc.gz").read(), IMAGE)
    with mrcfile.new(tmp_path / "big.mrc") as file:
        file.set_data(IMAGE.astype(">f4"))
    np.testing.assert_array_equal(open_micrograph(tmp_path / "big.mrc").read(), IMAGE)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4"])
def test_the_last_row_of_a_tiff_has_y_zero(dtype: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", IMAGE.astype(dtype))
    image = open_micrograph(tmp_path / "m.tif")
    assert image.shape == (20, 30)
    np.testing.assert_array_equal(image.read(), IMAGE[::-1])


def test_what_is_no_micrograph_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "movie.mrcs", np.zeros((3, 8, 8), np.float32))
    (tmp_path / "text.mrc").write_text("no image\n" * 300)
    (tmp_path / "text.tif").write_text("no image\n")
    tifffile.imwrite(tmp_path / "movie.tif", np.zeros((3, 8, 8), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "color.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    whole = write(tmp_path / "short.mrc", IMAGE.astype(np.float32)).read_bytes()
    (tmp_path / "short.mrc").write_bytes(whole[:-50])
    reasons = {
        "movie.mrcs": "3 images",
        "text.mrc": "not an MRC",
        "text.tif": "not a TIFF",
        "movie.tif": "movies",
        "color.tif": "not one micrograph",
        "short.mrc": "truncated",
        "none.mrc": "not exist",
        "none.tif": "not exist",
    }
    for name, text in reasons.items():
        with pytest.raises(InputError, match=text):
            open_micrograph(tmp_path / name)


def test_a_tiff_whose_pixels_are_damaged_is_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", IMAGE.astype(np.uint16), compression="zlib")
    data = bytearray((tmp_path / "m.tif").read_bytes())
    image = open_micrograph(tmp_path / "m.tif")
    with tifffile.TiffFile(tmp_path / "m.tif") as file:
        offset = file.pages[0].dataoffsets[0]
    data[offset : offset + 40] = b"\0" * 40
    (tmp_path / "m.tif").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"m\.tif cannot be decoded"):
        image.read()


def test_micrographs_with_optics(tmp_path: Path) -> None:
    table = read_micrographs(make_micrographs(tmp_path).star)
    assert table.names.tolist() == ["Motion/job002/Movies/a.mrc", "Motion/job002/Movies/b.mrc"]
    assert table.optics_index.tolist() == [0, 1]
    assert table.pixel_size_A.tolist() == [1.5, 2.0]
    assert table.has_ctf
    assert table.ctf["rlnDefocusV"].tolist() == [8500.0, 17000.0]
    assert table.ctf["rlnCtfScalefactor"].tolist() == [1.0, 1.0]
    assert "rlnCtfFigureOfMerit" not in table.ctf
    assert read_micrographs(make_micrographs(tmp_path / "more").star, pixel_size_A=3.0).pixel_size_A.tolist() == [3, 3]


def test_micrographs_of_relion_3_0_get_optics_groups(tmp_path: Path) -> None:
    labels = "MicrographName DefocusU DefocusV DefocusAngle Voltage SphericalAberration AmplitudeContrast Magnification"
    rows = ["a.mrc 10000 9000 5 300 2.7 0.1 10000 1.5", "b.mrc 10000 9000 5 200 2.7 0.1 10000 1.5",
            "c.mrc 10000 9000 5 300 2.7 0.1 10000 1.5"]  # fmt: skip
    write_table(tmp_path / "m.star", "", f"{labels} DetectorPixelSize", rows)
    table = read_micrographs(tmp_path / "m.star")
    assert table.optics_index.tolist() == [0, 1, 0]
    assert table.optics["rlnOpticsGroupName"].tolist() == ["opticsGroup1", "opticsGroup2"]
    assert table.optics["rlnVoltage"].tolist() == [300, 200]
    assert table.pixel_size_A.tolist() == [1.5, 1.5]
    assert "rlnMagnification" not in table.optics


def test_an_unknown_pixel_size_can_be_given(tmp_path: Path) -> None:
    write_table(tmp_path / "m.star", "", "MicrographName", ["a.mrc"])
    with pytest.raises(InputError, match=r"pixel size is unknown.*--angpix"):
        read_micrographs(tmp_path / "m.star")
    assert read_micrographs(tmp_path / "m.star", pixel_size_A=1.1).pixel_size_A.tolist() == [1.1]


def test_a_micrograph_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "m.star", "", "MicrographName", ["a.mrc", "b.mrc", "a.mrc"])
    with pytest.raises(InputError, match=r"a\.mrc of row 3 is listed twice"):
        read_micrographs(tmp_path / "m.star", pixel_size_A=1.0)


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("MotionCorr/job002/Movies/m.mrc", "Movies/m.mrc"),
        ("/data/project/MotionCorr/job12/m.mrc", "m.mrc"),
        ("Movies/m.mrc", "Movies/m.mrc"),
        ("Movies/jobs/m.mrc", "Movies/jobs/m.mrc"),
        ("job003/m.mrc", "m.mrc"),
    ],
)
def test_the_job_folder_is_no_part_of_a_micrograph_name(name: str, rest: str) -> None:
    assert without_job(name) == rest


def test_names_match_in_whole_not_by_a_part(tmp_path: Path) -> None:
    write_table(tmp_path / "m.star", "", "MicrographName", ["M/job002/Movies/mic1.mrc", "M/job002/Movies/mic11.mrc"])
    table = read_micrographs(tmp_path / "m.star", pixel_size_A=1.0)
    names = np.array(["P/job009/Movies/mic1.mrc", "M/job002/x/Movies/mic1.mrc", "Movies/mic11.mrc", "mic1.mrc"], object)
    assert match_micrographs(names, table).tolist() == [0, -1, 1, -1]


def test_rows_are_sorted_by_micrograph_and_remember_where_they_were(tmp_path: Path) -> None:
    write_table(tmp_path / "m.star", "", "MicrographName", ["a.mrc", "b.mrc", "c.mrc"])
    table = read_micrographs(tmp_path / "m.star", pixel_size_A=1.0)
    names = np.array(["c.mrc", "a.mrc", "x.mrc", "c.mrc", "a.mrc"], object)
    values = pd.DataFrame({"rlnCoordinateX": np.arange(5.0), "rlnCoordinateY": 0.0})
    found, unknown = by_micrograph(values, names, table, "p.star")
    assert found.xy()[:, 0].tolist() == [1, 4, 0, 3]
    assert found.micrograph.tolist() == [0, 0, 2, 2]
    assert found.place(2) == "p.star, row 1"
    assert found.without == ("b.mrc",)
    assert unknown == ["x.mrc"]
    assert found.kept(np.array([True, False, True, False])).row.tolist() == [2, 1]


def test_coordinate_files_are_named_after_the_micrograph(tmp_path: Path) -> None:
    made = make_micrographs(tmp_path)
    table = read_micrographs(made.star)
    files = found_files(table, str(tmp_path / "picks"), "_pick.star", made.star)
    assert files == {row: str(tmp_path / "picks" / "Movies" / f"{name}_pick.star") for row, name in enumerate("ab")}
    beside = tmp_path / "Motion" / "job002" / "Movies" / "a_manual.star"
    beside.write_text("\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 2\n")
    assert found_files(table, None, "_manual.star", made.star)[0] == str(beside)


def test_a_list_names_coordinate_files_or_holds_coordinates(tmp_path: Path) -> None:
    made = make_micrographs(tmp_path)
    table = read_micrographs(made.star)
    rows = [f"Motion/job002/Movies/{name}.mrc picks/Movies/{name}_pick.star" for name in "ba"]
    write_table(tmp_path / "list.star", "coordinate_files", "MicrographName MicrographCoordinates", rows)
    files = read_coordinate_list(tmp_path / "list.star", table)
    assert files == {row: str(tmp_path / "picks" / "Movies" / f"{name}_pick.star") for row, name in enumerate("ab")}
    rows = ["Movies/b.mrc 1 2", "Movies/a.mrc 3 4", "Movies/q.mrc 3 4"]
    write_table(tmp_path / "all.star", "particles", "MicrographName CoordinateX CoordinateY", rows)
    found = read_coordinate_list(tmp_path / "all.star", table)
    assert isinstance(found, tuple)
    assert found[0].xy().tolist() == [[3, 4], [1, 2]]
    assert found[1] == ["Movies/q.mrc"]


def test_an_empty_coordinate_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "labels.star").write_text("\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n")
    (tmp_path / "bare.star").write_text("\ndata_\n\n")
    assert len(read_coordinate_file(tmp_path / "labels.star")) == 0
    assert len(read_coordinate_file(tmp_path / "bare.star")) == 0


def test_coordinates_must_be_numbers(tmp_path: Path) -> None:
    write_table(tmp_path / "c.star", "", "CoordinateX CoordinateY", ["1 2", "nan 3"])
    with pytest.raises(InputError, match="rlnCoordinateX in row 2"):
        read_coordinate_file(tmp_path / "c.star")
    write_table(tmp_path / "c.star", "", "CoordinateX", ["1"])
    with pytest.raises(InputError, match="rlnCoordinateY is missing"):
        read_coordinate_file(tmp_path / "c.star")


def test_columns_that_a_file_lacks_are_filled() -> None:
    first = pd.DataFrame({"rlnCoordinateX": [1.0], "rlnClassNumber": np.array([3])})
    second = pd.DataFrame({"rlnCoordinateX": [2.0], "rlnName": pd.Series(["n"], dtype=object)})
    joined = join_tables([first, second])
    assert joined["rlnClassNumber"].tolist() == [3, 0]
    assert joined["rlnClassNumber"].dtype.kind == "i"
    assert joined["rlnName"].tolist() == ["None", "n"]
