"""Tomogram files of RELION 4 and 5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.tomo_files import PIXEL, write_tomograms

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_stack
from napari_autorefine.io.tomograms import read_tomograms


def test_tilts_of_every_tomogram(tmp_path: Path) -> None:
    tomograms = read_tomograms(write_tomograms(tmp_path))
    assert list(tomograms) == ["TS_1", "TS_2"]
    one = tomograms["TS_1"]
    assert (one.n_tilt, one.pixel_size_A, one.hand, one.size_px, one.optics_name) == (
        5,
        PIXEL,
        -1.0,
        (40, 40, 20),
        "optics1",
    )
    assert (one.voltage_kV, one.cs_mm, one.amplitude_contrast, one.defocus_slope) == (300.0, 2.7, 0.1, 1.0)
    assert one.dose_e_A2.tolist() == [0, 3, 6, 9, 12]
    assert one.defocus_A[3].tolist() == [20003, 19003]
    assert one.ctf_scale.tolist() == [1] * 5
    assert one.image_size_px is None


def test_center_of_the_tomogram_falls_on_the_middle_of_the_image(tmp_path: Path) -> None:
    write_stack(tmp_path / "TS_1.mrcs", np.zeros((5, 30, 24), np.float32), PIXEL)
    one = read_tomograms(write_tomograms(tmp_path), names=["TS_1"])["TS_1"]
    assert one.image_size_px == (24, 30)
    place = one.projection @ np.array([20, 20, 10, 1.0])
    assert np.allclose(place[:, :2], [12 + 4 / PIXEL, 15 - 8 / PIXEL])
    assert np.allclose(place[:, 2:], [0, 1])


def test_relion_4_keeps_tilts_and_matrices_in_one_file(tmp_path: Path) -> None:
    five = read_tomograms(write_tomograms(tmp_path))["TS_1"]
    rows = []
    for n, matrix in enumerate(five.projection):
        vectors = ["[" + ",".join(f"{value:.12g}" for value in row) + "]" for row in matrix]
        rows.append(" ".join([*vectors, f"{2e4 + n} {1.9e4 + n} 30 0.9 {3 * n}"]))
    labels = ["TomoProjX", "TomoProjY", "TomoProjZ", "TomoProjW", "DefocusU", "DefocusV", "DefocusAngle",
              "CtfScalefactor", "MicrographPreExposure"]  # fmt: skip
    head = "".join(f"_rln{label} #{n}\n" for n, label in enumerate(labels, start=1))
    (tmp_path / "four.star").write_text(
        "# version 30001\n\ndata_global\n\n_rlnTomoName TS_1\n_rlnTomoTiltSeriesName TS_1.mrc:mrc\n"
        f"_rlnTomoTiltSeriesPixelSize {PIXEL}\n_rlnTomoHand -1\n\n# version 30001\n\ndata_TS_1\n\nloop_\n{head}"
        + "\n".join(rows)
        + "\n"
    )
    four = read_tomograms(tmp_path / "four.star")["TS_1"]
    assert np.allclose(four.projection, five.projection, atol=1e-9)
    assert four.ctf_scale.tolist() == [0.9] * 5
    assert (four.size_px, four.voltage_kV) == (None, None)
    assert four.image_name is not None and four.image_name[4] == "000005@TS_1.mrc:mrc"


def test_only_wanted_tomograms_are_opened(tmp_path: Path) -> None:
    path = write_tomograms(tmp_path)
    (tmp_path / "tilts" / "TS_2.star").unlink()
    assert list(read_tomograms(path, names=["TS_1", "TS_1"])) == ["TS_1"]
    with pytest.raises(InputError, match=r"tilt-series file tilts/TS_2.star of TS_2 does not exist \(looked in"):
        read_tomograms(path)


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("tomograms.star", "data_global", "data_other", "holds no tomograms"),
        ("tomograms.star", "TS_2 300", "TS_1 300", "TS_1 is listed twice"),
        ("tomograms.star", "0.1 -1 optics1", "0.1 2 optics1", "rlnTomoHand of TS_1 must be 1 or -1, not 2"),
        ("tomograms.star", f"optics1 {PIXEL}", "optics1 0.0", "must be positive"),
        ("tilts/TS_1.star", "data_TS_1", "data_TS_9", "no table 'data_TS_1'"),
        ("tilts/TS_1.star", "_rlnMicrographPreExposure", "_rlnSomething", "rlnMicrographPreExposure is missing"),
        ("tilts/TS_1.star", "_rlnTomoYTilt", "_rlnSomething", "rlnTomoYTilt is missing"),
        ("tilts/TS_1.star", "TS_1.mrcs 6 ", "TS_1.mrcs -6 ", "in row 3 is -6, but a dose cannot be negative"),
        ("tilts/TS_1.star", "20002.0", "nan", "in row 3 is not a finite number"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, file: str, old: str, new: str, words: str) -> None:
    path = write_tomograms(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=words) as caught:
        read_tomograms(path, names=["TS_1"])
    assert "\n" not in str(caught.value)


def test_a_tomogram_that_is_not_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the tomogram TS_7 and 1 more of the particles is not listed"):
        read_tomograms(write_tomograms(tmp_path), names=["TS_1", "TS_7", "TS_8"])


def test_recorded_tomograms_of_the_tutorial(shared_data: Path) -> None:
    folder = shared_data / "star" / "relion5_tomo_HIV"
    one = read_tomograms(folder / "Denoise/job008/tomograms.star", names=["TS_01"], project_dir=folder)["TS_01"]
    assert (one.n_tilt, one.pixel_size_A, one.hand, one.size_px) == (40, 1.35, -1.0, (4000, 4000, 2000))
    assert one.dose_e_A2[0] == 114.0
    assert np.allclose(one.rotations @ one.rotations.transpose(0, 2, 1), np.eye(3))
