from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.jobs.rebox import ReboxParams
from napari_autorefine.jobs.record import check_free, check_not_input, output_of, read_record, write_record


@pytest.fixture
def record_path(tmp_path: Path) -> str:
    write_volume(tmp_path / "in.mrc", np.ones((8, 8, 8), np.float32), 2.0)
    params = ReboxParams(input=str(tmp_path / "in.mrc"), output=str(tmp_path / "out.mrc"), new_box=6)
    return write_record(tmp_path / "out", "rebox", params, {"map": str(tmp_path / "in.mrc")})


def test_a_record_holds_command_parameters_and_checksums(record_path: str, tmp_path: Path) -> None:
    record = read_record(record_path)
    assert record.job == "rebox"
    assert "--new_box 6" in record.command
    assert record.parameters["new_box"] == 6
    digest = hashlib.sha256((tmp_path / "in.mrc").read_bytes()).hexdigest()
    assert record.inputs["input"].sha256 == digest
    assert record.inputs["input"].size == (tmp_path / "in.mrc").stat().st_size


def test_a_folder_stands_for_the_recorded_output(record_path: str, tmp_path: Path) -> None:
    assert output_of(tmp_path, "map") == str(tmp_path / "in.mrc")


def test_a_moved_folder_is_still_understood(record_path: str, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("in.mrc", "out_params.json"):
        (tmp_path / name).rename(moved / name)
    assert output_of(moved, "map") == str(moved / "in.mrc")


@pytest.mark.parametrize(
    ("names", "kind", "expected"),
    [
        (("particles.star", "mic1_extract.star"), "particles", "particles.star"),
        (("run_it001_data.star", "run_it012_data.star"), "particles", "run_it012_data.star"),
        (("run_it012_data.star", "run_data.star"), "particles", "run_data.star"),
        (("run_class001.mrc", "run_it003_half1_class001.mrc", "run_it003_class001.mrc"), "map", "run_class001.mrc"),
        (
            ("run_half1_class001_unfil.mrc", "run_it003_half1_class001_unfil.mrc"),
            "half1",
            "run_half1_class001_unfil.mrc",
        ),
        (("half2.mrc", "merged.mrc"), "half2", "half2.mrc"),
        (("mask.mrc", "map.mrc"), "mask", "mask.mrc"),
        (("run_optimiser.star", "run_it020_optimiser.star"), "optimiser", "run_optimiser.star"),
    ],
)
def test_files_of_relions_folders_are_found_by_name(
    tmp_path: Path, names: tuple[str, ...], kind: str, expected: str
) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    assert output_of(tmp_path, kind) == str(tmp_path / expected)  # type: ignore[arg-type]


def test_a_file_is_itself(tmp_path: Path) -> None:
    assert output_of(tmp_path / "any.star", "particles") == str(tmp_path / "any.star")


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no mask file"):
        output_of(tmp_path, "mask")


def test_an_existing_output_is_kept(tmp_path: Path) -> None:
    (tmp_path / "x.mrc").write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        check_free(tmp_path / "x.mrc", overwrite=False)
    check_free(tmp_path / "x.mrc", overwrite=True)


def test_an_output_that_cannot_be_written_is_noticed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot be a folder, as"):
        check_free(tmp_path / "file" / "x.mrc", overwrite=True)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written: no permission in"):
        check_free(tmp_path / "new" / "x.mrc", overwrite=False)


def test_an_input_is_no_output(tmp_path: Path) -> None:
    check_not_input(tmp_path / "x.mrc", (None, "", tmp_path / "y.mrc"))
    check_not_input(None, (tmp_path / "y.mrc",))
    with pytest.raises(InputError, match="is one of the inputs"):
        check_not_input(tmp_path / "x.mrc", (None, tmp_path / "sub" / ".." / "x.mrc"))


def test_something_else_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "x_params.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="not the record"):
        read_record(tmp_path / "x_params.json")
