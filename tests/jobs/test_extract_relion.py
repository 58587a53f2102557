"""Extraction against recorded and live runs of relion_preprocess."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import tifffile
from oracles.micrographs import make_micrographs

from napari_autorefine.cli import main
from napari_autorefine.io.star import read_star

pytestmark = pytest.mark.relion

PICKS = "--coord_dir coords --coord_suffix _pick.star"
AGAIN = "--reextract_data_star run_data.star"
NORM = "--scale 48 --norm --bg_radius 18 --invert_contrast"
RECORDED = {
    "out_raw": PICKS,
    "out_full": f"{PICKS} {NORM}",
    "out_full_float16": f"{PICKS} {NORM} --float16",
    "out_premult": f"{PICKS} --premultiply_ctf --premultiply_extract_size 96",
    "out_rescale": AGAIN,
    "out_recenter0": f"{AGAIN} --recenter --recenter_x 0 --recenter_y 0 --recenter_z 0 --ref_angpix 3.75 {NORM}",
    "out_recenter": f"{AGAIN} --recenter --recenter_x 3 --recenter_y -2.5 --recenter_z 7.25 --ref_angpix 4.2",
    "out_reset": f"{AGAIN} --reset_offsets",
}
LIVE_NORM = "--scale 24 --norm --bg_radius 9 --invert_contrast"
LIVE = {
    "normalised": f"picks {LIVE_NORM}",
    "no ramp": f"picks {LIVE_NORM} --no_ramp",
    "not rescaled": "picks --norm --bg_radius 11",
    "whole background": "picks --norm --bg_radius 0",
    "odd scale": "picks --scale 23",
    "window": "picks --window 20 --norm --bg_radius 8",
    "premultiplied": f"picks {LIVE_NORM} --premultiply_ctf --premultiply_extract_size 48",
    "flipped": "picks --phase_flip",
    "first peak": "picks --premultiply_ctf --ctf_intact_first_peak",
    "again": f"refined {LIVE_NORM}",
    "re-centered": "refined --recenter --recenter_x 3 --recenter_y -2 --recenter_z 5 --ref_angpix 2.5",
    "moved": "refined --extract_bias_x 2 --extract_bias_y -1",
}
NEW_COLUMNS = {"rlnCtfDataAreCtfPremultiplied"}


def line(options: str, output: str, box: int, star: str) -> list[str]:
    words = f"--i {star} {options} --part_star {output}/particles.star --part_dir {output}/ --extract"
    return [*words.split(), "--extract_size", str(box)]


def assert_same_table(made: pd.DataFrame, theirs: pd.DataFrame, output: str) -> None:
    """Compare values to the precision that RELION prints, and names but for the folder and the width of numbers."""
    assert set(made.columns) - set(theirs.columns) <= NEW_COLUMNS
    assert [label for label in made if label in theirs] == list(theirs.columns)
    for label in theirs.columns:
        mine, wanted = made[label].tolist(), theirs[label].tolist()
        if label == "rlnImageName":
            assert [name.lstrip("0") for name in mine] == [
                name.lstrip("0").replace("@theirs/", f"@{output}/") for name in wanted
            ]
        elif isinstance(wanted[0], str):
            assert mine == wanted
        else:
            np.testing.assert_allclose(mine, wanted, rtol=1e-7, atol=1e-5, err_msg=label)


def assert_same(mine: Path, theirs: Path, *, atol: float) -> None:
    """Compare two outputs; differences of images are in standard deviations of the stack."""
    ours, other = read_star(mine / "particles.star"), read_star(theirs / "particles.star")
    for name in ("optics", "particles"):
        assert_same_table(ours.loop(name), other.loop(name), mine.name)
    stacks = sorted(theirs.rglob("*.mrcs"))
    assert stacks
    for stack in stacks:
        with mrcfile.open(mine / stack.relative_to(theirs)) as made, mrcfile.open(stack) as wanted:
            assert made.data.dtype == wanted.data.dtype
            exact = wanted.data.astype(np.float64)
            np.testing.assert_allclose(made.data, exact, rtol=0, atol=atol * exact.std())
            np.testing.assert_allclose(made.header.rms, wanted.header.rms, rtol=1e-5)
            np.testing.assert_allclose(made.header.dmean, wanted.header.dmean, atol=1e-5 * exact.std())
            assert made.voxel_size.x == pytest.approx(float(wanted.header.cella.x) / wanted.data.shape[-1], rel=1e-6)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_jobs_are_repeated(
    name: str, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_data / "relion_jobs" / "extract"
    for link in ("MotionCorr", "coords", "micrographs_ctf.star", "run_data.star"):
        (tmp_path / link).symlink_to(folder / link)
    monkeypatch.chdir(tmp_path)
    assert main(["extract", *line(RECORDED[name], name, 64, "micrographs_ctf.star")]) == 0
    if name == "out_full_float16":  # RELION 5 in single precision: defocus to 7 digits, pixels to half a last place
        theirs = read_star(folder / name / "particles.star").loop("particles")
        made = read_star(tmp_path / name / "particles.star").loop("particles")
        np.testing.assert_allclose(made["rlnDefocusU"], theirs["rlnDefocusU"], rtol=1e-7)
        for stack in ("mic1.mrcs", "mic2.mrcs"):
            ours, wanted = mrcfile.read(tmp_path / name / stack), mrcfile.read(folder / name / stack)
            assert ours.dtype == wanted.dtype == np.float16
            difference = np.abs(ours.astype(float) - wanted.astype(float))
            assert (difference <= np.spacing(np.abs(wanted)).astype(float) + 1e-5).all()
            assert (difference > 0).mean() < 0.01
        return
    assert_same(tmp_path / name, folder / name, atol=5e-6)


@pytest.mark.parametrize("name", LIVE)
def test_live_runs_give_the_same(name: str, relion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_micrographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    os.chdir(tmp_path)
    for picks in (tmp_path / "picks" / "Movies").iterdir():  # RELION makes NaN or nothing of an image of one value
        picks.write_text("".join(row for row in picks.read_text().splitlines(True) if not row.startswith("135.2")))
    options = LIVE[name].replace("picks", "--coord_dir picks --coord_suffix _pick.star")
    options = options.replace("refined", "--reextract_data_star run_data.star")
    refined = Path(made.refined)
    refined.write_text(refined.read_text().replace("3 unused 300 2.7 0.1 3.0 16 2 1\n", ""))
    refined.write_text(refined.read_text().replace(" 16 2 1\n", " 16 2 0\n"))
    command = [str(relion / "relion_preprocess"), *line(options, "theirs", 32, "mics.star")]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert main(["extract", *line(options, "ours", 32, "mics.star")]) == 0
    # float32 of RELION's files is the limit where grey values are 80 standard deviations from zero
    assert_same(tmp_path / "ours", tmp_path / "theirs", atol=2e-5)


def test_live_tiff_files_are_turned_the_same_way(relion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_micrographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    star = Path(made.star)
    star.write_text(star.read_text().replace("a.mrc", "a.tif").replace("b.mrc", "b.tif"))
    for name, dtype in (("a", np.float32), ("b", np.uint16)):
        tifffile.imwrite(tmp_path / "Motion" / "job002" / "Movies" / f"{name}.tif", made.images[name].astype(dtype))
    options = "--coord_dir picks --coord_suffix _pick.star"
    command = [str(relion / "relion_preprocess"), *line(options, "theirs", 32, "mics.star")]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert main(["extract", *line(options, "ours", 32, "mics.star")]) == 0
    assert_same(tmp_path / "ours", tmp_path / "theirs", atol=0.0)


def test_live_next_program_reads_what_is_written(relion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_micrographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = "--reextract_data_star run_data.star --scale 24 --norm --bg_radius 9"
    assert main(["extract", *line(options, "ours", 32, "mics.star")]) == 0
    words = "--i ours/particles.star --o map.mrc --angpix 2.0 --sym C1 --ctf --skip_gridding"
    command = [str(relion / "relion_reconstruct"), *words.split()]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert mrcfile.read(tmp_path / "map.mrc").shape == (24, 24, 24)
