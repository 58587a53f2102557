from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.cli import main
from napari_autorefine.events import Finished, Message
from napari_autorefine.io.mrc import read_volume, write_volume
from napari_autorefine.jobs.mask import MaskParams, mask

SIZE = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    axis = np.arange(SIZE) - SIZE // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    noise = 0.02 * np.random.default_rng(1).standard_normal((SIZE,) * 3)
    write_volume(tmp_path / "ball.mrc", (radius < 6) + noise, 4.0)
    write_volume(tmp_path / "small.mrc", (radius < 3) + noise, 4.0)
    write_volume(tmp_path / "flat.mrc", np.ones((SIZE,) * 3), 4.0)
    write_volume(tmp_path / "long.mrc", np.pad((radius < 6) + noise, ((0, 6), (0, 0), (0, 0))), 4.0)
    write_volume(tmp_path / "nosize.mrc", (radius < 6) + noise, 0.0)
    return tmp_path


def run(folder: Path, words: str) -> int:
    output = [] if "--o " in words else ["--o", str(folder / "mask.mrc")]
    return main(["mask", *(word.replace("@", f"{folder}/") for word in shlex.split(words)), *output])


def made(folder: Path) -> np.ndarray:
    return read_volume(folder / "mask.mrc").data


def test_a_given_threshold_makes_the_body_and_its_edge(folder: Path) -> None:
    assert run(folder, "--i @ball.mrc --ini_threshold 0.5 --lowpass -1 --extend_inimask 2 --width_soft_edge 4") == 0
    line = made(folder)[12, 12, 12:]
    assert line[:7].tolist() == [1.0] * 7
    assert 0 < line[9] < 1
    assert line[11] == 0


def test_the_threshold_is_found_when_none_is_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--i @ball.mrc --ini_threshold auto --extend_inimask 0 --width_soft_edge 0") == 0
    assert "found: 30 %" in capsys.readouterr().out
    density = read_volume(folder / "ball.mrc").data
    assert made(folder)[density > 0.5].mean() > 0.99
    assert made(folder).sum() < 1.7 * (density > 0.5).sum()


def test_a_mass_gives_the_volume(folder: Path) -> None:
    assert run(folder, "--i @ball.mrc --molweight 30 --extend_inimask 0 --width_soft_edge 0") == 0
    assert made(folder).sum() * 64 == pytest.approx(1.25 * 30000 / 0.81, rel=0.05)


@pytest.mark.parametrize(
    ("words", "inside", "outside"),
    [
        ("--and @small.mrc", (12, 12, 12), (12, 12, 16)),
        ("--or @small.mrc", (12, 12, 16), (12, 12, 20)),
        ("--and_not @small.mrc", (12, 12, 16), (12, 12, 12)),
        ("--or_not @small.mrc", (1, 1, 1), None),
    ],
)
def test_two_maps_are_combined(
    folder: Path, words: str, inside: tuple[int, ...], outside: tuple[int, ...] | None
) -> None:
    assert run(folder, f"--i @ball.mrc --ini_threshold 0.5 --lowpass -1 --extend_inimask 0 {words}") == 0
    assert made(folder)[inside] == 1
    if outside is not None:
        assert made(folder)[outside] < 1


def test_the_inverse_is_one_minus_the_mask(folder: Path) -> None:
    line = "--i @ball.mrc --ini_threshold 0.5"
    assert run(folder, line) == 0
    plain = made(folder)
    assert run(folder, f"{line} --invert --overwrite") == 0
    np.testing.assert_allclose(made(folder), 1 - plain, atol=1e-7)


def test_only_the_largest_body_is_kept_on_request(folder: Path) -> None:
    density = read_volume(folder / "ball.mrc").data.copy()
    density[2:4, 2:4, 2:4] = 1
    write_volume(folder / "two.mrc", density, 4.0)
    line = "--i @two.mrc --ini_threshold 0.5 --lowpass -1 --extend_inimask 0 --width_soft_edge 0"
    assert run(folder, line) == 0
    assert made(folder)[2, 2, 2] == 1
    assert run(folder, f"{line} --largest --overwrite") == 0
    assert made(folder)[2, 2, 2] == 0 and made(folder)[12, 12, 12] == 1


def test_a_sphere_needs_no_map(folder: Path) -> None:
    assert run(folder, "--denovo --box_size 20 --outer_radius 5 --width_soft_edge 0 --center_x 2 --angpix 3.1") == 0
    volume = read_volume(folder / "mask.mrc")
    assert volume.voxel_size_A == pytest.approx(3.1)
    assert volume.data[10, 10, 12] == 1 and volume.data[10, 10, 6] == 0


def test_a_folder_stands_for_its_map(folder: Path) -> None:
    job = folder / "Refine3D"
    job.mkdir()
    (folder / "ball.mrc").rename(job / "run_class001.mrc")
    assert run(folder, "--i @Refine3D --ini_threshold 0.5") == 0
    record = json.loads((folder / "mask_params.json").read_text())
    assert record["inputs"]["input"]["path"].endswith("run_class001.mrc")
    assert record["outputs"]["mask"].endswith("mask.mrc")


def test_events_for_python(folder: Path) -> None:
    params = MaskParams(input=str(folder / "ball.mrc"), output=str(folder / "m.mrc"), extend_px=30)
    events = list(mask(params))
    assert isinstance(events[-1], Finished) and events[-1].outputs == {"mask": str(folder / "m.mrc")}
    assert [event.level for event in events if isinstance(event, Message)].count("warning") == 2


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--i @ball.mrc --ini_threshold 7", ["empty", "values from", "--ini_threshold auto"]),
        ("--i @ball.mrc --ini_threshold 0.5 --extend_inimask -9", ["empty", "shrinking"]),
        ("--i @flat.mrc", ["has the value 1 everywhere"]),
        ("--i @missing.mrc", ["does not exist"]),
        ("--i @long.mrc", ["24 x 24 x 30 px", "needs a cubic map", "autorefine rebox", "--new_box 30"]),
        ("--i @nosize.mrc", ["no pixel size", "--angpix"]),
        ("--i @ball.mrc --ini_threshold 0.5 --lowpass -1 --and @long.mrc", ["24 x 24 x 30 px", "24 px", "--new_box"]),
        ("--i @ball.mrc --and @small.mrc", ["needs a number for --ini_threshold"]),
        ("--i @ball.mrc --ini_threshold 1 --and @small.mrc --or @small.mrc", ["exclude each other"]),
        ("--i @ball.mrc --ini_threshold 1 --molweight 100", ["exclude each other"]),
        ("", ["--i is missing"]),
        ("--denovo", ["--box_size"]),
        ("--denovo --box_size 10 --inner_radius 60 --outer_radius 70", ["empty", "no voxel"]),
        ("--denovo --box_size 10 --inner_radius 6 --outer_radius 5", ["must be smaller"]),
        ("--i @ball.mrc --helix", ["helices", "not supported"]),
        ("--i @particles.star", ["is a STAR file"]),
        ("--i @ball.mrc --molweight 100000", ["--molweight 100000 kDa takes more room than the whole box"]),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    folder: Path, words: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, words) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert error.count("\n") == 1
    assert not list(folder.glob("mask*"))


def test_an_existing_mask_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--i @ball.mrc --o @ball.mrc") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(folder, "--i @ball.mrc --o @ball.mrc --overwrite") == 2
    assert "is one of the inputs" in capsys.readouterr().err
    words = "--i @ball.mrc --ini_threshold 0.5 --and @small.mrc --o @small.mrc --overwrite"
    assert run(folder, words) == 2
    assert "is one of the inputs" in capsys.readouterr().err


def test_masks_of_real_maps_hold_the_molecule_in_one_body(shared_data: Path, tmp_path: Path) -> None:
    for name, angpix in (("betaGal.mrc", "3.54"), ("EMD-6824_TRPML1_C4.mrc", "-1"), ("EMD-5625.map", "-1")):
        path = shared_data / "maps" / name
        line = ["mask", "--i", str(path), "--o", str(tmp_path / f"{name}.mrc"), "--angpix", angpix]
        assert main(line) == 0
        density, made = read_volume(path).data, read_volume(tmp_path / f"{name}.mrc").data
        positive = np.where(density > 0, density, 0)
        high = density > np.quantile(density, 0.98)
        assert made[high].min() > 0.99
        assert np.mean(made > 0.5) < 0.35
        assert (positive * made)[high].sum() == pytest.approx(positive[high].sum(), rel=1e-3)


RECORDED = [
    ("mask", "--ini_threshold 0.04 --lowpass 20 --extend_inimask 2 --width_soft_edge 4"),
    ("mask_shrunk_inverted", "--ini_threshold 0.03 --lowpass 20 --extend_inimask -1.5 --width_soft_edge 3 --invert"),
]


@pytest.mark.parametrize(("name", "words"), RECORDED)
def test_recorded_masks_of_relion(shared_data: Path, tmp_path: Path, name: str, words: str) -> None:
    folder = shared_data / "relion_jobs" / "reconstruct"
    assert run(tmp_path, f"--i {folder}/run_half1_class001_unfil.mrc {words}") == 0
    np.testing.assert_allclose(made(tmp_path), read_volume(folder / f"{name}.mrc").data, atol=1e-7)


LIVE = [
    "--i @ball.mrc --ini_threshold 0.4 --lowpass 18 --extend_inimask 2.7 --width_soft_edge 3.5",
    "--i @ball.mrc --ini_threshold 0.5 --lowpass 9 --extend_inimask 0 --width_soft_edge 0",
    "--i @ball.mrc --ini_threshold 0.02 --lowpass -1 --extend_inimask -1 --width_soft_edge 2",
    "--i @ball.mrc --ini_threshold 0.3 --lowpass 20 --extend_inimask 1 --width_soft_edge 2 --angpix 2.5",
    "--i @ball.mrc --ini_threshold 0.4 --lowpass -1 --extend_inimask 1 --width_soft_edge 2 --and_not @small.mrc",
    "--i @long.mrc --ini_threshold 0.4 --lowpass -1 --extend_inimask 1 --width_soft_edge 2",
    "--denovo --box_size 24 --inner_radius 3 --outer_radius 8.5 --width_soft_edge 3 --center_z -2.3 --extend_inimask 0",
]


@pytest.mark.relion
@pytest.mark.parametrize("words", LIVE)
def test_masks_equal_those_of_relion(relion: Path, folder: Path, words: str) -> None:
    line = [word.replace("@", f"{folder}/") for word in shlex.split(words)]
    command = [str(relion / "relion_mask_create"), *line, "--o", str(folder / "theirs.mrc")]
    subprocess.run(command, check=True, capture_output=True)
    assert run(folder, words) == 0
    theirs = read_volume(folder / "theirs.mrc")
    np.testing.assert_allclose(made(folder), theirs.data, atol=1e-6)
    assert read_volume(folder / "mask.mrc").voxel_size_A == pytest.approx(theirs.voxel_size_A, rel=1e-5)
