"""Extraction of a small set, from the command line to the files, against plain float64 formulas."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pandas as pd
import pytest
from oracles import micrographs as oracle
from oracles.micrographs import PIXEL_A, MicrographSet, make_micrographs, write_table
from oracles.relion_jobs import transfer

from napari_autorefine.cli import main, parse
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.extract import ExtractParams, extract
from napari_autorefine.jobs.extract_settings import background_radius
from napari_autorefine.jobs.record import read_record
from napari_autorefine.model.geometry import euler_to_matrix


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MicrographSet:
    monkeypatch.chdir(tmp_path)
    return make_micrographs(tmp_path)


def tables(made: MicrographSet) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Optics and particles that were written."""
    star = read_star(made.output / "particles.star")
    optics, particles = star.tables["optics"], star.tables["particles"]
    assert isinstance(optics, pd.DataFrame)
    assert isinstance(particles, pd.DataFrame)
    return optics, particles


def images(made: MicrographSet, name: str) -> np.ndarray:
    return np.asarray(mrcfile.read(made.output / "Movies" / f"{name}.mrcs"))


def run(words: list[str]) -> None:
    assert main(words) == 0


def test_defaults_are_those_of_the_tutorials(made: MicrographSet) -> None:
    run(made.line("--scale", "24"))
    optics, particles = tables(made)
    assert optics["rlnImagePixelSize"].tolist() == pytest.approx([2.0, 2.0 * 32 / 24])
    assert optics["rlnImageSize"].tolist() == [24, 24]
    assert optics["rlnCtfDataAreCtfPremultiplied"].tolist() == [0, 0]
    assert "rlnMicrographPixelSize" not in optics
    assert len(particles) == 14
    for name in "ab":
        stack = images(made, name)
        assert stack.dtype == np.float16
        for image, (x, y) in zip(stack, made.coordinates[name], strict=True):
            if 0 <= x < 120:
                wanted = oracle.rescaled(oracle.window(made.images[name], x, y, 32), 24)
                np.testing.assert_allclose(image, -oracle.normalised(wanted, 9), atol=4e-3)


def test_a_line_made_for_relion_has_its_defaults(made: MicrographSet) -> None:
    words = ["--i", made.star, *made.picks(), "--extract", "--extract_size", "32", "--part_star", "out/particles.star"]
    run(["extract", *words, "--part_dir", "out/"])
    for name in "ab":
        wanted = [oracle.window(made.images[name], x, y, 32) for x, y in made.coordinates[name]]
        np.testing.assert_array_equal(images(made, name), wanted)
    params, notices = parse(JOBS["extract"], words)
    assert isinstance(params, ExtractParams)
    assert not (params.normalise or params.invert_contrast or params.float16)
    assert params.ramp
    assert params.folder == "Particles/"
    assert any("Off here: invert_contrast, norm, float16" in text for text in notices)


def test_a_plain_line_has_the_defaults_of_the_window() -> None:
    params, notices = parse(JOBS["extract"], ["--i", "m.star", "--coord_suffix", "_a.star", "--o", "job"])
    assert isinstance(params, ExtractParams)
    assert params.normalise and params.invert_contrast and params.float16 and params.ramp
    assert (params.folder, params.star) == ("job", "job/particles.star")
    assert not notices


def test_columns_of_a_first_extraction(made: MicrographSet) -> None:
    run(made.line())
    _, particles = tables(made)
    expected = "CoordinateX CoordinateY AutopickFigureOfMerit ImageName MicrographName OpticsGroup CtfMaxResolution"
    expected += " DefocusU DefocusV DefocusAngle CtfBfactor CtfScalefactor PhaseShift"
    assert list(particles.columns) == [f"rln{label}" for label in expected.split()]
    assert particles["rlnImageName"].iloc[8] == f"000002@{made.output}/Movies/b.mrcs"
    assert particles["rlnMicrographName"].iloc[8] == "Motion/job002/Movies/b.mrc"
    assert particles["rlnDefocusU"].tolist() == [9000.0] * 7 + [18000.0] * 7
    np.testing.assert_array_equal(particles["rlnCoordinateX"][:7], made.coordinates["a"][:, 0])
    part = read_star(made.output / "Movies" / "b_extract.star").tables["images"]
    assert part["rlnImageName"].tolist() == particles["rlnImageName"].tolist()[7:]


def test_the_next_job_takes_the_folder(made: MicrographSet) -> None:
    run(made.line("--scale", "24"))
    read = read_particles(made.output / "particles.star")
    assert [group.box_size for group in read.optics] == [24, 24]
    assert (made.output / "montage.png").read_bytes().startswith(b"\x89PNG")
    record = read_record(made.output / "particles_params.json")
    assert record.outputs["particles"] == str(made.output / "particles.star")
    assert "micrographs" in record.inputs
    names = sorted(path.name for path in made.output.rglob("*") if path.is_file())
    assert names == ["a.mrcs", "a_extract.star", "b.mrcs", "b_extract.star", "montage.png", "particles.star",
                     "particles_params.json"]  # fmt: skip


@pytest.mark.parametrize("words", [["--premultiply_ctf"], ["--phase_flip", "--premultiply_extract_size", "48"]])
def test_images_are_multiplied_by_their_ctf(made: MicrographSet, words: list[str]) -> None:
    run(made.line(*words, "--no_norm", "--no_invert_contrast", "--no_float16"))
    optics, particles = tables(made)
    assert optics["rlnCtfDataAreCtfPremultiplied"].tolist() == [int("--premultiply_ctf" in words)] * 2
    large = 48 if "48" in words else 32
    y = np.arange(large)
    grid = np.meshgrid(np.where(y > large // 2, y - large, y), np.arange(large // 2 + 1), indexing="ij")
    points = np.stack([grid[1].ravel(), grid[0].ravel()], axis=1)
    for number, name in enumerate("ab"):
        row = particles.iloc[7 * number]
        group = SimpleNamespace(**optics.iloc[number].to_dict())
        factor = transfer(row, group, points / (large * PIXEL_A[name])).reshape(large, -1)
        factor = np.sign(factor) if "--phase_flip" in words else factor
        for image, (x, y) in zip(images(made, name), made.coordinates[name], strict=True):
            wanted = oracle.filtered_window(made.images[name], x, y, (32, large), factor)
            np.testing.assert_allclose(image, wanted, atol=2e-4)


def test_re_extraction_takes_over_everything_else(made: MicrographSet) -> None:
    before = read_star(made.refined).tables["particles"]
    run(made.again("--scale", "24"))
    optics, particles = tables(made)
    assert optics["rlnOpticsGroupName"].tolist() == ["gb", "ga"]
    assert optics["rlnOpticsGroup"].tolist() == [1, 2]
    assert optics["rlnImagePixelSize"].tolist() == pytest.approx([2.0 * 32 / 24, 2.0])
    assert optics["rlnCtfDataAreCtfPremultiplied"].tolist() == [0, 0]
    assert list(particles.columns) == list(before.columns)
    order = [*np.flatnonzero(before["rlnMicrographName"].str.endswith("a.mrc")),
             *np.flatnonzero(before["rlnMicrographName"].str.endswith("b.mrc"))]  # fmt: skip
    for label in before.columns:
        if label not in {"rlnImageName", "rlnMicrographName"}:
            assert particles[label].tolist() == before[label].iloc[order].tolist(), label
    assert particles["rlnMicrographName"].iloc[0] == "Motion/job002/Movies/a.mrc"


def test_re_centering_moves_whole_pixels_and_leaves_the_rest(made: MicrographSet) -> None:
    before = read_star(made.refined).tables["particles"].set_index("rlnDefocusU")
    run(made.again("--recenter", "--recenter_x", "3", "--recenter_y", "-2.5", "--recenter_z", "7.25", "--ref_angpix",
                   "2.5", "--no_norm", "--no_invert_contrast", "--no_float16"))  # fmt: skip
    _, particles = tables(made)
    stacks = {name: list(images(made, name)) for name in "ab"}
    for row in particles.itertuples():
        old = before.loc[row.rlnDefocusU]
        name = Path(row.rlnMicrographName).stem
        matrix = euler_to_matrix([old.rlnAngleRot, old.rlnAngleTilt, old.rlnAnglePsi])
        center = matrix @ np.array([3, -2.5, 7.25]) * 2.5
        for axis, label in enumerate("XY"):
            moved = (old[f"rlnOrigin{label}Angst"] - center[axis]) / PIXEL_A[name]
            whole = np.sign(moved) * np.floor(abs(moved) + 0.5)
            new = getattr(row, f"rlnCoordinate{label}")
            assert new == pytest.approx(old[f"rlnCoordinate{label}"] - whole, abs=1e-9)
            assert getattr(row, f"rlnOrigin{label}Angst") == pytest.approx(PIXEL_A[name] * (moved - whole), abs=1e-9)
        image = stacks[name].pop(0)
        wanted = oracle.window(made.images[name], row.rlnCoordinateX, row.rlnCoordinateY, 32)
        np.testing.assert_array_equal(image, wanted)


@pytest.mark.parametrize(
    ("x", "origin_A", "new_x", "rest_A"),
    [
        (50, 0.75, 49, -0.75),
        (50, -0.75, 51, 0.75),
        (50.4, -2.25, 52.4, 0.75),
        (50, 0.74, 50, 0.74),
        (50, -0.76, 51, 0.74),
    ],
)
def test_offsets_of_half_a_pixel_move_the_coordinate(
    made: MicrographSet, x: float, origin_A: float, new_x: float, rest_A: float
) -> None:
    text = Path(made.refined).read_text().split("data_particles")[0].replace(" 3.0 16 2", " 1.5 16 2")
    labels = "MicrographName CoordinateX CoordinateY OpticsGroup OriginXAngst OriginYAngst ImageName"
    row = f"Movies/a.mrc {x} 40 2 {origin_A} 0 1@old.mrcs"
    write_table(Path(made.refined), "particles", labels, [row], head=text)
    run(made.again("--recenter"))
    _, particles = tables(made)
    assert particles["rlnCoordinateX"].iloc[0] == pytest.approx(new_x)
    assert particles["rlnOriginXAngst"].iloc[0] == pytest.approx(rest_A)
    assert particles["rlnDefocusU"].iloc[0] == 9000.0  # the particles had no CTF


def test_the_third_coordinate_is_treated_alike(made: MicrographSet) -> None:
    head = Path(made.refined).read_text().split("data_particles")[0]
    labels = "MicrographName CoordinateX CoordinateY CoordinateZ OpticsGroup OriginXAngst OriginYAngst OriginZAngst"
    labels += " AngleRot AngleTilt AnglePsi ImageName"
    write_table(
        Path(made.refined), "particles", labels, ["Movies/a.mrc 60 50 5 2 1 2.6 -4.1 30 40 50 1@o.mrcs"], head=head
    )
    run(made.again("--recenter", "--recenter_x", "3", "--recenter_y", "-2.5", "--recenter_z", "7.25"))
    _, particles = tables(made)
    row = particles.iloc[0]
    assert [row.rlnCoordinateX, row.rlnCoordinateY, row.rlnCoordinateZ] == [49, 49, 21]
    np.testing.assert_allclose(
        [row.rlnOriginXAngst, row.rlnOriginYAngst, row.rlnOriginZAngst], [-0.082013, -0.168961, 0.638953], atol=2e-6
    )
    assert "rlnOriginZ" not in particles


def test_offsets_can_be_reset(made: MicrographSet) -> None:
    before = read_star(made.refined).tables["particles"]
    run(made.again("--reset_offsets"))
    _, particles = tables(made)
    assert not particles[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy().any()
    assert sorted(particles["rlnCoordinateX"]) == sorted(before["rlnCoordinateX"])


def test_the_ctf_of_the_micrographs_comes_with_their_optics_groups(made: MicrographSet) -> None:
    run(made.again("--keep_ctfs_micrographs"))
    optics, particles = tables(made)
    assert optics["rlnOpticsGroupName"].tolist() == ["ga", "gb"]
    assert optics["rlnMicrographPixelSize"].tolist() == [1.5, 2.0]
    assert particles["rlnOpticsGroup"].tolist() == [1] * 4 + [2] * 4
    assert particles["rlnDefocusU"].tolist() == [9000.0] * 4 + [18000.0] * 4


def test_coordinates_may_come_as_a_list_or_in_one_file(made: MicrographSet) -> None:
    run(made.line("--o", "first"))
    rows = [f"Motion/job002/Movies/{name}.mrc {made.folder}/picks/Movies/{name}_pick.star" for name in "ab"]
    write_table(made.folder / "list.star", "coordinate_files", "MicrographName MicrographCoordinates", rows)
    words = ["extract", "--i", made.star, "--extract_size", "32"]
    run([*words, "--coord_list", "list.star", "--o", "second"])
    run([*words, "--coord_list", "first/particles.star", "--o", "third"])
    for name in "ab":
        one, two, three = (mrcfile.read(f"{folder}/Movies/{name}.mrcs") for folder in ("first", "second", "third"))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)
    starts = [read_star(f"{folder}/particles.star").tables["particles"] for folder in ("first", "second", "third")]
    assert list(starts[0].columns) == list(starts[1].columns) == list(starts[2].columns)


def test_folders_of_earlier_jobs_are_taken_as_inputs(made: MicrographSet) -> None:
    for folder, name, source in (("Ctf", "micrographs_ctf.star", made.star), ("Sel", "particles.star", made.refined)):
        (made.folder / folder).mkdir()
        (made.folder / folder / name).write_text(Path(source).read_text())
    rows = [f"Motion/job002/Movies/{name}.mrc picks/Movies/{name}_pick.star" for name in "ab"]
    write_table(made.folder / "Pick" / "autopick.star", "", "MicrographName MicrographCoordinates", rows)
    run(["extract", "--i", "Ctf", "--coord_list", "Pick", "--o", "one", "--extract_size", "32"])
    run(["extract", "--i", "Ctf", "--reextract_data_star", "Sel", "--o", "two", "--extract_size", "32"])
    assert [len(read_star(f"{folder}/particles.star").tables["particles"]) for folder in ("one", "two")] == [14, 8]


def test_poor_picks_are_left_out(made: MicrographSet) -> None:
    run(made.line("--minimum_pick_fom", "0.25"))
    _, particles = tables(made)
    assert particles["rlnAutopickFigureOfMerit"].tolist() == pytest.approx([0.3, 0.4, 0.5, 0.6] * 2)


def test_a_bias_is_added_to_all_coordinates(made: MicrographSet) -> None:
    run(made.line("--extract_bias_x", "4", "--extract_bias_y", "-3", "--skip_missing"))
    _, particles = tables(made)
    assert particles["rlnCoordinateX"].iloc[0] == pytest.approx(made.coordinates["a"][0, 0] + 4)
    assert particles["rlnCoordinateY"].iloc[0] == pytest.approx(made.coordinates["a"][0, 1] - 3)


def test_the_background_circle_follows_the_rule_of_the_window() -> None:
    def radius(**values: object) -> float:
        return background_radius(ExtractParams(micrographs="m", coord_suffix="s", output="o", **values), 1.25)

    assert radius(box_size_px=360, scale_size_px=256) == 96
    assert radius(box_size_px=256, bg_diameter_px=200) == 100
    assert radius(box_size_px=256, bg_diameter_A=250) == 100
    assert radius(box_size_px=100, scale_size_px=64) == 24
    assert radius(box_size_px=100, bg_radius_px=0) == 0


def test_the_number_of_threads_changes_no_bit(made: MicrographSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_autorefine.jobs.extract_run._BATCH_PIXELS", 3 * 32**2)
    run(made.line("--o", "one", "--j", "1", "--white_dust", "3", "--premultiply_ctf"))
    run(made.line("--o", "many", "--j", "5", "--white_dust", "3", "--premultiply_ctf"))
    for name in "ab":
        one, many = Path(f"one/Movies/{name}.mrcs"), Path(f"many/Movies/{name}.mrcs")
        assert one.read_bytes() == many.read_bytes()


def test_events_tell_how_far_it_is(made: MicrographSet) -> None:
    params = ExtractParams(
        micrographs=made.star,
        coord_dir=str(made.folder / "picks"),
        coord_suffix="_pick.star",
        output="out",
        box_size_px=32,
    )
    events: list[Event] = list(extract(params))
    progress = [event for event in events if isinstance(event, Progress) and event.stage == "extract"]
    assert (progress[-1].done, progress[-1].total) == (14, 14)
    assert isinstance(events[-1], Finished)
    assert set(events[-1].outputs) == {"particles", "montage"}
    assert any("fewer than 10" in event.text for event in events if isinstance(event, Message))


def test_a_list_of_coordinate_files_is_written_on_request(made: MicrographSet) -> None:
    run(made.line("--pick_star", "out/extractpick.star"))
    table = read_star("out/extractpick.star").tables["coordinate_files"]
    assert table["rlnMicrographCoordinates"].tolist() == [f"{made.output}/Movies/{name}_extract.star" for name in "ab"]
