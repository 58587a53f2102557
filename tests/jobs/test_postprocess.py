from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from oracles.maps import phantom

from napari_autorefine.cli import main
from napari_autorefine.events import Finished, Message
from napari_autorefine.io.mrc import read_volume, write_volume
from napari_autorefine.io.tables import StarFile, read_star
from napari_autorefine.jobs.postprocess import PostprocessParams, postprocess

SIZE, VOXEL_A = 32, 2.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(7)
    signal = phantom(SIZE, 1)
    for half in (1, 2):
        noisy = signal + 0.06 * rng.standard_normal(signal.shape)
        write_volume(tmp_path / f"run_half{half}_class001_unfil.mrc", noisy, VOXEL_A)
    axis = np.arange(SIZE) - SIZE // 2
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    write_volume(tmp_path / "mask.mrc", np.clip((14 - radius) / 4, 0, 1), VOXEL_A)
    write_volume(tmp_path / "zero.mrc", np.zeros_like(signal), VOXEL_A)
    write_volume(tmp_path / "high.mrc", np.full_like(signal, 1.5), VOXEL_A)
    write_volume(tmp_path / "small.mrc", np.ones((16,) * 3), VOXEL_A)
    write_volume(tmp_path / "coarse.mrc", np.ones_like(signal), 4.0)
    write_volume(tmp_path / "alone_half1.mrc", signal, VOXEL_A)
    write_volume(tmp_path / "alone.mrc", signal, VOXEL_A)
    write_volume(tmp_path / "nosize.mrc", signal, 0.0)
    for half in (1, 2):
        write_volume(tmp_path / f"odd_half{half}.mrc", signal[1:, 1:, 1:], VOXEL_A)
        write_volume(tmp_path / f"long_half{half}.mrc", signal[4:], VOXEL_A)
        write_volume(tmp_path / f"same_half{half}.mrc", signal, VOXEL_A)
        write_volume(tmp_path / f"bare_half{half}.mrc", signal + 0.1 * rng.standard_normal(signal.shape), 0.0)
        write_volume(tmp_path / f"zero_half{half}.mrc", 0 * signal, VOXEL_A)
        write_volume(tmp_path / f"minus_half{half}.mrc", np.full_like(signal, -0.0), VOXEL_A)
        write_volume(tmp_path / f"noise_half{half}.mrc", signal * 0 + (3 - 2 * half) * np.roll(signal, 9), VOXEL_A)
    write_volume(tmp_path / "bad_half1.mrc", signal, VOXEL_A)
    write_volume(tmp_path / "bad_half2.mrc", signal[2:-2, 2:-2, 2:-2], VOXEL_A)
    (tmp_path / "mtf.star").write_text(
        "data_\n\nloop_\n_rlnResolutionInversePixel\n_rlnMtfValue\n0 1\n0.25 0.8\n0.5 0.5\n"
    )
    (tmp_path / "nomtf.star").write_text("data_\n\nloop_\n_rlnImageName\na\n")
    return tmp_path


HALF1 = "--i @run_half1_class001_unfil.mrc"


def run(folder: Path, words: str) -> int:
    output = [] if "--o " in words else ["--o", f"{folder}/job/postprocess"]
    return main(["postprocess", *(word.replace("@", f"{folder}/") for word in shlex.split(words)), *output])


def star(folder: Path) -> StarFile:
    return read_star(folder / "job" / "postprocess.star")


def pairs(folder: Path) -> dict[str, float]:
    found = star(folder).pairs("general")
    assert found is not None
    return {name: float(value) for name, value in found.items() if not isinstance(value, str)}


def test_all_outputs_are_written_and_recorded(folder: Path) -> None:
    assert run(folder, f"{HALF1} --mask @mask.mrc --half_maps --molweight 20") == 0
    names = sorted(path.name for path in (folder / "job").iterdir())
    assert names == [
        "postprocess.mrc",
        "postprocess.star",
        "postprocess_fsc.dat",
        "postprocess_fsc.png",
        "postprocess_fsc.xml",
        "postprocess_guinier.png",
        "postprocess_half1.mrc",
        "postprocess_half1_masked.mrc",
        "postprocess_half2.mrc",
        "postprocess_half2_masked.mrc",
        "postprocess_masked.mrc",
        "postprocess_params.json",
    ]
    record = json.loads((folder / "job" / "postprocess_params.json").read_text())
    assert set(record["inputs"]) == {"half1", "half2", "mask"}
    assert record["outputs"]["map"].endswith("postprocess.mrc")


def test_the_maps_follow_from_the_tables(folder: Path) -> None:
    assert run(folder, f"{HALF1} --mask @mask.mrc --adhoc_bfac -40") == 0
    table = star(folder).loop("fsc")
    assert table is not None
    halves = [read_volume(folder / f"run_half{half}_class001_unfil.mrc").data for half in (1, 2)]
    axis = np.fft.fftfreq(SIZE) * SIZE
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    curve = table["rlnFourierShellCorrelationCorrected"].to_numpy()
    weight = np.zeros(len(curve) + SIZE)
    last = int(np.flatnonzero(np.append(curve, 0) < 1e-4)[0])
    weight[:last] = np.sqrt(2 * curve[:last] / (1 + curve[:last]))
    factor = weight[np.floor(radius + 0.5).astype(int)] * np.exp(10 * (radius / (SIZE * VOXEL_A)) ** 2)
    factor[radius > SIZE / 2] = 0
    wanted = np.fft.ifftn(np.fft.fftn((halves[0] + halves[1]) / 2) * factor).real
    made = read_volume(folder / "job" / "postprocess.mrc")
    np.testing.assert_allclose(made.data, wanted, atol=1e-6)
    assert made.voxel_size_A == pytest.approx(VOXEL_A)
    mask = read_volume(folder / "mask.mrc").data
    np.testing.assert_allclose(read_volume(folder / "job" / "postprocess_masked.mrc").data, wanted * mask, atol=1e-6)


def test_half_maps_average_to_the_map(folder: Path) -> None:
    assert run(folder, f"{HALF1} --mask @mask.mrc --half_maps --mtf @mtf.star --mtf_angpix 1.5 --low_pass 6") == 0
    first, second, whole = (
        read_volume(folder / "job" / f"postprocess{name}.mrc").data for name in ("_half1", "_half2", "")
    )
    np.testing.assert_allclose((first + second) / 2, whole, atol=1e-6)
    guinier = star(folder).loop("guinier")
    assert guinier is not None and "rlnLogAmplitudesMTFCorrected" in guinier


def test_the_xml_is_the_corrected_curve(folder: Path) -> None:
    assert run(folder, f"{HALF1} --mask @mask.mrc") == 0
    root = ElementTree.parse(folder / "job" / "postprocess_fsc.xml").getroot()
    assert root.attrib["title"] == "RELION masked-corrected FSC"
    y = [float(str(point.findtext("y"))) for point in root]
    table = star(folder).loop("fsc")
    assert table is not None
    np.testing.assert_allclose(y, table["rlnFourierShellCorrelationCorrected"], rtol=1e-5)
    columns = np.loadtxt(folder / "job" / "postprocess_fsc.dat")
    np.testing.assert_allclose(columns[1:, 0], np.arange(1, SIZE // 2 + 1) / (SIZE * VOXEL_A), rtol=1e-5)


def test_it_works_without_a_mask(folder: Path) -> None:
    assert run(folder, HALF1) == 0
    assert not (folder / "job" / "postprocess_masked.mrc").exists()
    table = star(folder).loop("fsc")
    assert table is not None
    np.testing.assert_array_equal(
        table["rlnFourierShellCorrelationCorrected"], table["rlnFourierShellCorrelationUnmaskedMaps"]
    )


def test_a_mask_is_made_on_request(folder: Path) -> None:
    assert run(folder, f"{HALF1} --auto_mask --extend_inimask 2") == 0
    made = read_volume(folder / "job" / "postprocess_automask.mrc").data
    assert made.max() == 1 and 0.01 < made.mean() < 0.9


def test_folders_of_jobs_are_inputs(folder: Path) -> None:
    job, masks = folder / "Refine3D", folder / "MaskCreate"
    job.mkdir()
    masks.mkdir()
    for half in (1, 2):
        (folder / f"run_half{half}_class001_unfil.mrc").rename(job / f"run_half{half}_class001_unfil.mrc")
    (folder / "mask.mrc").rename(masks / "mask.mrc")
    assert run(folder, "--i @Refine3D --mask @MaskCreate") == 0
    general = star(folder).pairs("general")
    assert general is not None and str(general["rlnMaskName"]).endswith("MaskCreate/mask.mrc")


def test_the_second_half_may_come_first_or_be_named(folder: Path) -> None:
    assert run(folder, "--i @run_half2_class001_unfil.mrc") == 0
    swapped = pairs(folder)
    line = "--i @run_half1_class001_unfil.mrc --i2 @run_half2_class001_unfil.mrc --overwrite"
    assert run(folder, line) == 0
    assert pairs(folder) == swapped


def test_a_pixel_size_that_is_given_replaces_the_headers(folder: Path) -> None:
    assert run(folder, f"{HALF1} --mask @mask.mrc") == 0
    as_is = pairs(folder)["rlnFinalResolution"]
    assert run(folder, f"{HALF1} --mask @mask.mrc --angpix 3 --overwrite") == 0
    assert pairs(folder)["rlnFinalResolution"] == pytest.approx(1.5 * as_is)
    assert read_volume(folder / "job" / "postprocess.mrc").voxel_size_A == pytest.approx(3)


@pytest.mark.parametrize(
    ("words", "b_factor"),
    [("--adhoc_bfac -70", -70.0), ("--adhoc_bfac 0", 0.0), ("--no_auto_bfac", 0.0)],
)
def test_a_given_b_factor_replaces_the_fit(folder: Path, words: str, b_factor: float) -> None:
    assert run(folder, f"{HALF1} {words}") == 0
    assert pairs(folder)["rlnBfactorUsedForSharpening"] == b_factor
    assert "rlnFittedSlopeGuinierPlot" not in pairs(folder)


def test_the_fit_is_the_default(folder: Path) -> None:
    assert run(folder, HALF1) == 0
    general = pairs(folder)
    assert general["rlnBfactorUsedForSharpening"] == pytest.approx(4 * general["rlnFittedSlopeGuinierPlot"])


def test_parameters_survive_json() -> None:
    params = PostprocessParams(half1="a_half1.mrc", adhoc_bfac_A2=-50)
    assert PostprocessParams.model_validate_json(params.model_dump_json()) == params
    assert not params.auto_bfac


def test_identical_halves_are_warned_of(folder: Path) -> None:
    params = PostprocessParams(
        half1=str(folder / "same_half1.mrc"), mask=str(folder / "mask.mrc"), output=f"{folder}/p"
    )
    events = list(postprocess(params))
    texts = [event.text for event in events if isinstance(event, Message) and event.level == "warning"]
    assert any("the same map" in text for text in texts)
    assert any("never falls below 0.8" in text for text in texts)
    assert isinstance(events[-1], Finished)
    figures = events[-1].figures
    assert figures["resolution_A"] == pytest.approx(2 * VOXEL_A)
    assert figures["curves"].unmasked == pytest.approx(1.0)
    assert np.isfinite(figures["b_factor_A2"])


def test_half_maps_that_do_not_agree_have_no_resolution(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, "--i @noise_half1.mrc") == 0
    out = capsys.readouterr().out
    assert "Warning: The half-maps do not agree" in out
    assert "Final resolution none." in out
    assert "999" not in out


def test_a_mask_that_hides_the_molecule_is_not_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corner = np.zeros((SIZE,) * 3)
    corner[2:6, 2:6, 2:6] = 1
    write_volume(folder / "corner.mrc", corner, VOXEL_A)
    assert run(folder, f"{HALF1} --mask @corner.mrc --adhoc_bfac 0") == 0
    assert "reaches further than the corrected" in capsys.readouterr().out
    plain = pairs(folder)["rlnFinalResolution"]
    assert run(folder, f"{HALF1} --adhoc_bfac 0 --overwrite") == 0
    assert pairs(folder)["rlnFinalResolution"] == plain


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--i @alone_half1.mrc", ["alone_half2.mrc does not exist", "--i2"]),
        ("--i @alone.mrc", ["neither half1 nor half2", "--i2"]),
        ("--i @missing_half1.mrc --i2 @alone.mrc", ["does not exist"]),
        ("--i @missing_half1.mrc", ["missing_half1.mrc does not exist; check the name"]),
        (f"{HALF1} --o @run_half1_class001_unfil --overwrite", ["is one of the inputs"]),
        (f"{HALF1} --mask @mask.mrc --o @mask --overwrite", ["mask.mrc is one of the inputs"]),
        (f"{HALF1} --i2 @missing.mrc", ["does not exist"]),
        ("--i @bad_half1.mrc", ["28 px", "32 px", "autorefine rebox", "--new_box 32"]),
        ("--i @odd_half1.mrc", ["odd box of 31 px", "--new_box 32"]),
        ("--i @long_half1.mrc", ["32 x 32 x 28 px", "needs a cubic map"]),
        ("--i @bare_half1.mrc", ["no pixel size", "--angpix"]),
        ("--i @zero_half1.mrc", ["has the value 0 everywhere"]),
        (f"{HALF1} --mask @small.mrc", ["16 px", "32 px", "autorefine rebox --i", "--new_box 32"]),
        (f"{HALF1} --mask @coarse.mrc", ["4 A", "2 A", "--rescale_angpix 2 --force_pixel_size --new_box 32"]),
        (f"{HALF1} --mask @high.mrc", ["1.5", "between 0 and 1"]),
        (f"{HALF1} --mask @zero.mrc", ["zero everywhere"]),
        (f"{HALF1} --mask @nomask.mrc", ["does not exist"]),
        (f"{HALF1} --auto_bfac --adhoc_bfac -100", ["exclude each other"]),
        (f"{HALF1} --mask @mask.mrc --auto_mask", ["exclude each other"]),
        (f"{HALF1} --mask @mask.mrc --randomize_at_A 500", ["must lie between 4 and 64 A"]),
        (f"{HALF1} --mtf @nomtf.star", ["no MTF file"]),
        (f"{HALF1} --autob_lowres 5 --autob_highres 6", ["must be a smaller number"]),
        (f"{HALF1} --locres", ["Local resolution is not supported"]),
        (f"{HALF1} --auto_mask --inimask_threshold 90", ["empty"]),
        ("--i @mtf.star", ["neither half1"]),
        ("--i @minus_half1.mrc", ["has the value 0 everywhere"]),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    folder: Path, words: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, words) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert error.count("\n") == 1
    assert not (folder / "job").exists()


def test_an_existing_output_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, HALF1) == 0
    before = (folder / "job" / "postprocess.mrc").stat().st_mtime_ns
    assert run(folder, HALF1) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (folder / "job" / "postprocess.mrc").stat().st_mtime_ns == before
    assert run(folder, f"{HALF1} --o {folder}/job") == 2
    assert "is a folder" in capsys.readouterr().err


def assert_same_tables(made: Path, theirs: Path) -> None:
    """Every label of RELION's file is there, with its value to the digits that RELION prints."""
    ours, other = read_star(made), read_star(theirs)
    for name in ("general", "fsc", "guinier"):
        left, right = ours.loop(name), other.loop(name)
        assert left is not None and right is not None
        for label in right.columns:
            if right[label].dtype != object:
                np.testing.assert_allclose(left[label], right[label], rtol=2e-6, atol=5.2e-6, err_msg=label)


def test_recorded_post_processing_of_relion(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "relion_jobs" / "reconstruct"
    line = f"--i {folder}/run_half1_class001_unfil.mrc --mask {folder}/mask.mrc --angpix 3.5"
    assert run(tmp_path, f"{line} --auto_bfac --autob_lowres 15") == 0
    assert_same_tables(tmp_path / "job" / "postprocess.star", folder / "post" / "postprocess.star")
    for name in ("postprocess", "postprocess_masked"):
        made, theirs = read_volume(tmp_path / "job" / f"{name}.mrc"), read_volume(folder / "post" / f"{name}.mrc")
        np.testing.assert_allclose(made.data, theirs.data, atol=1e-7)
    made_xml = (tmp_path / "job" / "postprocess_fsc.xml").read_text()
    assert made_xml == (folder / "post" / "postprocess_fsc.xml").read_text()


LIVE = [
    "--mask @mask.mrc --auto_bfac --autob_lowres 14 --mtf @mtf.star --mtf_angpix 1.7 --half_maps",
    "--mask @mask.mrc --adhoc_bfac -80 --molweight 15 --low_pass -1 --random_seed 3",
    "--mask @mask.mrc --adhoc_bfac 0 --skip_fsc_weighting --low_pass 7 --randomize_at_A 9.3",
    "--mask @mask.mrc --auto_bfac --autob_lowres 20 --autob_highres 5 --angpix 2.3 --randomize_at_fsc 0.5",
]


@pytest.mark.relion
@pytest.mark.parametrize("words", LIVE)
def test_post_processing_equals_that_of_relion(relion: Path, folder: Path, words: str) -> None:
    (folder / "theirs").mkdir()
    line = [word.replace("@", f"{folder}/") for word in shlex.split(f"{HALF1} {words}")]
    command = [str(relion / "relion_postprocess"), *line, "--o", f"{folder}/theirs/postprocess"]
    subprocess.run(command, check=True, capture_output=True)
    assert run(folder, f"{HALF1} {words}") == 0
    assert_same_tables(folder / "job" / "postprocess.star", folder / "theirs" / "postprocess.star")
    for path in (folder / "theirs").glob("*.mrc"):
        made = read_volume(folder / "job" / path.name).data
        np.testing.assert_allclose(made, read_volume(path).data, atol=2e-6, err_msg=path.name)
