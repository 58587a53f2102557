from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from napari_autorefine.cli import main
from napari_autorefine.io.mrc import read_volume, write_volume


def test_rescale_and_box_as_relion_does(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "relion_jobs" / "map"
    new = tmp_path / "new.mrc"
    words = ["--rescale_angpix", "3.57", "--new_box", "40", "--force_header_angpix", "3.57"]
    assert main(["rebox", "--i", str(folder / "even36.mrc"), "--o", str(new), *words]) == 0
    made, recorded = read_volume(new), read_volume(folder / "rescale_3.57_box40_header.mrc")
    np.testing.assert_allclose(made.data, recorded.data, atol=2e-6)
    assert made.voxel_size_A == pytest.approx(recorded.voxel_size_A, rel=1e-6)


def test_the_true_pixel_size_is_written_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "old.mrc", np.ones((64, 64, 64), np.float32), 3.54)
    line = ["rebox", "--i", str(tmp_path / "old.mrc"), "--o", str(tmp_path / "new.mrc"), "--rescale-angpix", "1.24"]
    assert main(line) == 0
    assert read_volume(tmp_path / "new.mrc").voxel_size_A == pytest.approx(64 * 3.54 / 182, rel=1e-6)
    assert "instead of 1.24" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "nothing to do"),
        (["--new_box", "1"], "new_box must be at least 2"),
        (["--rescale_angpix", "500"], "no voxel"),
        (["--i", "missing.mrc", "--new_box", "8"], "does not exist"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(tmp_path / "old.mrc", np.ones((12, 12, 12), np.float32), 3.0)
    assert main(["rebox", "--i", str(tmp_path / "old.mrc"), "--o", str(tmp_path / "new.mrc"), *words]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "new.mrc").exists()


def test_an_existing_map_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "map.mrc")
    write_volume(path, np.ones((12, 12, 12), np.float32), 3.0)
    assert main(["rebox", "--i", path, "--o", path, "--new_box", "8"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    new = str(tmp_path / "new.mrc")
    for box, words in (("8", []), ("10", ["--overwrite"])):
        assert main(["rebox", "--i", path, "--o", new, "--new_box", box, *words]) == 0
        assert read_volume(new).data.shape == (int(box),) * 3


def test_a_map_is_never_its_own_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(phantom_map(tmp_path / "map.mrc"))
    assert main(["rebox", "--i", path, "--o", path, "--new_box", "8", "--overwrite"]) == 2
    assert "is one of the inputs; choose another --o." in capsys.readouterr().err
    assert read_volume(path).data.shape == (20, 20, 20)


def test_the_folder_of_a_mask_job_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "MaskCreate").mkdir()
    soft_ball(tmp_path / "MaskCreate" / "mask.mrc")
    line = ["rebox", "--i", str(tmp_path / "MaskCreate"), "--o", str(tmp_path / "new.mrc"), "--new_box", "30"]
    assert main(line) == 0
    assert read_volume(tmp_path / "new.mrc").data.shape == (30, 30, 30)


def test_only_cubic_maps_are_rescaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "flat.mrc", np.ones((6, 12, 12), np.float32), 3.0)
    line = ["rebox", "--i", str(tmp_path / "flat.mrc"), "--o", str(tmp_path / "n.mrc"), "--rescale_angpix", "4"]
    assert main(line) == 2
    assert "needs a cubic map" in capsys.readouterr().err


def phantom_map(path: Path, shape: tuple[int, ...] = (20, 20, 20), voxel_size_A: float = 3.0) -> Path:
    write_volume(path, np.random.default_rng(1).standard_normal(shape).astype(np.float32), voxel_size_A)
    return path


def soft_ball(path: Path, size: int = 24, voxel_size_A: float = 3.0) -> Path:
    axis = np.arange(size) - size // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    write_volume(path, np.clip(8 - radius, 0, 1), voxel_size_A)
    return path


def test_several_maps_go_to_a_folder(tmp_path: Path) -> None:
    first, second = phantom_map(tmp_path / "one.mrc"), phantom_map(tmp_path / "two.map")
    line = ["rebox", "--i", str(first), str(second), "--o", str(tmp_path / "job"), "--rescale_angpix", "2.5"]
    assert main([*line, "--new_box", "30", "--force_pixel_size"]) == 0
    names = sorted(path.name for path in (tmp_path / "job").iterdir())
    assert names == ["one_reboxed_rescaled.mrc", "rebox_params.json", "two_reboxed_rescaled.mrc"]
    volume = read_volume(tmp_path / "job" / "two_reboxed_rescaled.mrc")
    assert volume.data.shape == (30, 30, 30)
    assert volume.voxel_size_A == pytest.approx(2.5)
    record = json.loads((tmp_path / "job" / "rebox_params.json").read_text())
    assert set(record["inputs"]) == {"input_1", "input_2"}
    assert record["outputs"]["map"].endswith("one_reboxed_rescaled.mrc")


def test_when_one_map_is_wrong_none_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = phantom_map(tmp_path / "one.mrc"), phantom_map(tmp_path / "two.mrc", (10, 20, 20))
    line = ["rebox", "--i", str(first), str(second), "--o", str(tmp_path / "job"), "--rescale_angpix", "2.5"]
    assert main(line) == 2
    assert "two.mrc is 20 x 20 x 10 px" in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--o @new.mrc --i @a/x.mrc @b/x.mrc --new_box 8", "is one file but there are 2 maps"),
        ("--o @job --i @a/x.mrc @b/x.mrc --new_box 8", "would both become x_reboxed.mrc"),
        ("--o @job --i @a/x.mrc --new_box 8 --force_pixel_size", "needs --rescale_angpix"),
        ("--o @job --i @a/nosize.mrc --rescale_angpix 2", "no pixel size in its header; give it with --angpix"),
        ("--o @job --i @a/particles.star --rescale_angpix 2", "is a STAR file"),
        ("--o @job --i @a/x.mrc --new_box 8 --lowpass 10", "only pixel size and box are changed here"),
        ("--o @job --i @a --new_box 8", "holds no map file"),
        ("--o @job --i @a/image.mrc --new_box 8", "is an image of 20 x 20 px, not a map"),
        ("--o @job --i @a/x.mrc --rescale_angpix 0.001", "would have 60000 px per side"),
        ("--o @job --i @a/x.mrc --new_box 20000", "would have 20000 px per side"),
        ("--o @a/x.mrc/job --i @a/x.mrc --new_box 8", "x.mrc is a file"),
    ],
)
def test_more_that_cannot_be_done(words: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        phantom_map(tmp_path / name / "x.mrc")
    phantom_map(tmp_path / "a" / "nosize.mrc", voxel_size_A=0.0)
    phantom_map(tmp_path / "a" / "image.mrc", (1, 20, 20))
    assert main(["rebox", *(word.replace("@", f"{tmp_path}/") for word in shlex.split(words))]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert not (tmp_path / "job").exists() and not (tmp_path / "new.mrc").exists()


def test_a_mask_stays_within_0_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft_ball(tmp_path / "mask.mrc")
    line = ["rebox", "--i", str(tmp_path / "mask.mrc"), "--o", str(tmp_path / "new.mrc"), "--rescale_angpix", "1.8"]
    assert main(line) == 0
    made = read_volume(tmp_path / "new.mrc").data
    assert made.min() == 0 and made.max() == 1
    assert "is kept within 0 and 1" in capsys.readouterr().out


def test_a_map_between_0_and_1_is_no_mask(tmp_path: Path) -> None:
    density = phantom_map(tmp_path / "x.mrc")
    values = np.abs(read_volume(density).data)
    write_volume(tmp_path / "y.mrc", values / values.max(), 3.0)
    assert main(["rebox", "--i", str(tmp_path / "y.mrc"), "--o", str(tmp_path / "n.mrc"), "--rescale_angpix", "2"]) == 0
    assert read_volume(tmp_path / "n.mrc").data.min() < 0


def test_an_odd_box_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom_map(tmp_path / "odd.mrc", (21, 21, 21))
    line = ["rebox", "--i", str(tmp_path / "odd.mrc"), "--o", str(tmp_path / "n.mrc"), "--rescale_angpix", "4"]
    assert main(line) == 0
    assert "odd box of 21 px" in capsys.readouterr().out
    line = ["rebox", "--i", str(tmp_path / "odd.mrc"), "--o", str(tmp_path / "m.mrc"), "--new_box", "25"]
    assert main(line) == 0
    assert "Warning: A box of 25 px is odd" in capsys.readouterr().out


def test_a_pixel_size_that_is_given_does_not_change_the_header(tmp_path: Path) -> None:
    phantom_map(tmp_path / "x.mrc")
    line = ["rebox", "--i", str(tmp_path / "x.mrc"), "--o", str(tmp_path / "n.mrc"), "--new_box", "12", "--angpix", "5"]
    assert main(line) == 0
    assert read_volume(tmp_path / "n.mrc").voxel_size_A == pytest.approx(3.0)


def test_statistics_of_the_header_are_those_of_the_new_map(tmp_path: Path) -> None:
    phantom_map(tmp_path / "x.mrc")
    assert main(["rebox", "--i", str(tmp_path / "x.mrc"), "--o", str(tmp_path / "n.mrc"), "--new_box", "12"]) == 0
    with mrcfile.open(tmp_path / "n.mrc") as file:
        assert file.header.dmax == pytest.approx(float(file.data.max()))
        assert file.header.rms == pytest.approx(float(file.data.std()), rel=1e-5)


LIVE = [
    "@x.mrc --rescale_angpix 1.244 --new_box 64 --force_header_angpix 1.244",
    "@x.mrc --rescale_angpix 4.7",
    "@x.mrc --rescale_angpix 2.99 --new_box 13",
    "@x.mrc --angpix 4 --rescale_angpix 5",
    "@odd.mrc --rescale_angpix 2.2 --new_box 30",
    "@long.mrc --new_box 18",
    "@long.mrc --new_box 33",
    "@mask.mrc --new_box 40",
    "@x.mrc --force_header_angpix 3.3",
]


@pytest.mark.relion
@pytest.mark.parametrize("words", LIVE)
def test_maps_equal_those_of_relion(relion: Path, tmp_path: Path, words: str) -> None:
    phantom_map(tmp_path / "x.mrc")
    phantom_map(tmp_path / "odd.mrc", (21, 21, 21))
    phantom_map(tmp_path / "long.mrc", (16, 20, 24))
    soft_ball(tmp_path / "mask.mrc")
    line = ["--i", *(word.replace("@", f"{tmp_path}/") for word in shlex.split(words))]
    command = [str(relion / "relion_image_handler"), *line, "--o", str(tmp_path / "theirs.mrc")]
    subprocess.run(command, check=True, capture_output=True)
    assert main(["rebox", *line, "--o", str(tmp_path / "ours.mrc")]) == 0
    ours, theirs = read_volume(tmp_path / "ours.mrc"), read_volume(tmp_path / "theirs.mrc")
    np.testing.assert_allclose(ours.data, theirs.data, atol=1e-6)
    assert ours.voxel_size_A == pytest.approx(theirs.voxel_size_A, rel=1e-5)


def test_the_wanted_pixel_size_is_written_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phantom_map(tmp_path / "x.mrc", (50, 50, 50), 3.54)
    line = ["rebox", "--i", str(tmp_path / "x.mrc"), "--o", str(tmp_path / "n.mrc"), "--rescale_angpix", "2.113"]
    assert main([*line, "--force_pixel_size", "--new_box", "32"]) == 0
    volume = read_volume(tmp_path / "n.mrc")
    assert volume.data.shape == (32, 32, 32)
    assert volume.voxel_size_A == pytest.approx(2.113, abs=1e-4)
    assert "off scale" in capsys.readouterr().out
