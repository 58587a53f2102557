"""What cannot be extracted: one sentence, status 2, nothing written; what is missing can be skipped; resuming."""

from __future__ import annotations

import os
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from oracles.micrographs import MicrographSet, make_micrographs, write_table

from napari_autorefine.cli import main
from napari_autorefine.errors import InputError
from napari_autorefine.events import Progress
from napari_autorefine.io.star import read_star
from napari_autorefine.jobs.extract import ExtractParams, extract
from napari_autorefine.model import extraction

A = Path("Motion/job002/Movies/a.mrc")


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MicrographSet:
    monkeypatch.chdir(tmp_path)
    return make_micrographs(tmp_path)


def refuse(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a line that must fail without leaving anything; return what it says."""
    before = sorted(Path().rglob("*"))
    assert main(words) == 2
    text = capsys.readouterr().err.removeprefix("autorefine: ")
    said = [line for line in text.splitlines() if not line.startswith("Note: ")]
    assert len(said) == 1
    assert said[0].endswith(".")
    assert sorted(Path().rglob("*")) == before
    return said[0]


def rows(made: MicrographSet) -> int:
    return len(read_star(made.output / "particles.star").tables["particles"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--extract_size", "33"], "the box must be even, but --extract_size is 33"),
        (["--scale", "48"], "--scale 48 is larger than the box of 32 px"),
        (["--scale", "16", "--window", "20"], "--window 20 is larger than the image of 16 px"),
        (["--bg_radius", "17"], "radius 17 px is larger than the image of 32 px"),
        (["--bg_diameter", "70"], "radius 35 px is larger"),
        (["--bg_diameter_angst", "90"], "radius 30 px is larger"),
        (["--bg_radius", "5", "--bg_diameter", "9"], "give one of --bg_radius"),
        (["--premultiply_ctf", "--premultiply_extract_size", "30"], "must be even and at least the box"),
        (["--premultiply_ctf", "--phase_flip"], "exclude each other"),
        (["--recenter"], "--recenter needs refined particles"),
        (["--coord_suffix", "_none.star"], "There are no coordinates: the first of 2 files would be"),
        (["--minimum_pick_fom", "3"], "No particle is left"),
        (["--i", "none.star"], "none.star does not exist"),
        (["--helix"], "Helical extraction is not supported"),
        (["--coord_list", "mics.star"], "exclude each other"),
    ],
)
def test_options_that_make_no_sense(
    words: list[str], text: str, made: MicrographSet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refuse(made.line(*words), capsys)


def test_sources_and_output_are_needed(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the particles are missing" in refuse(["extract", "--i", made.star, "--o", "out"], capsys)
    assert "the output folder, is missing" in refuse(["extract", "--i", made.star, *made.picks()], capsys)
    assert "micrograph STAR file, is missing" in refuse(["extract", *made.picks(), "--o", "out"], capsys)


def test_a_missing_micrograph_is_named_or_skipped(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    A.unlink()
    said = refuse(made.line(), capsys)
    assert f"The micrograph {A} does not exist" in said
    assert said.endswith("; or go on without it with --skip-missing.")
    assert main(made.line("--skip-missing")) == 0
    out = capsys.readouterr().out
    assert "Missing micrographs: 1, with 7 particles" in out
    assert "7 particles were lost" in out
    assert rows(made) == 7


@pytest.mark.parametrize("content", [b"", b"no image" * 400])
def test_an_unreadable_micrograph_is_named_or_skipped(
    content: bytes, made: MicrographSet, capsys: pytest.CaptureFixture[str]
) -> None:
    A.write_bytes(content)
    assert str(A) in refuse(made.line(), capsys)
    assert main(made.line("--skip-missing")) == 0
    assert rows(made) == 7


def test_nothing_is_left_when_every_micrograph_is_missing(
    made: MicrographSet, capsys: pytest.CaptureFixture[str]
) -> None:
    A.unlink()
    A.with_name("b.mrc").unlink()
    assert "No particle is left" in refuse(made.line("--skip-missing"), capsys)


def test_a_micrograph_that_turns_out_damaged_is_named_or_skipped(
    made: MicrographSet, capsys: pytest.CaptureFixture[str]
) -> None:
    star = Path(made.star)
    star.write_text(star.read_text().replace("Movies/b.mrc", "Movies/b.tif"))
    target = A.with_name("b.tif")
    tifffile.imwrite(target, made.images["b"].astype(np.uint16), compression="zlib")
    with tifffile.TiffFile(target) as file:
        offset = file.pages[0].dataoffsets[0]
    data = bytearray(target.read_bytes())
    data[offset : offset + 60] = bytes(60)
    target.write_bytes(bytes(data))
    assert main(made.line("--j", "1")) == 2
    said = capsys.readouterr().err
    assert "b.tif cannot be decoded" in said
    assert "--only_do_unfinished" in said
    assert not (made.output / "particles.star").exists()
    assert not [path for path in made.output.rglob("*") if path.name.startswith(".")]
    assert main(made.line("--only_do_unfinished", "--skip_missing")) == 0
    out = capsys.readouterr().out
    assert "1 of 2 micrographs were finished before" in out
    assert "7 particles were lost" in out
    assert rows(made) == 7


def test_values_that_are_no_numbers_are_found(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = made.coordinates["a"][0].astype(int)
    with mrcfile.open(A, "r+") as file:
        file.data[y, x] = np.nan
    assert main(made.line("--j", "1")) == 2
    assert "not finite numbers" in capsys.readouterr().err
    assert not (made.output / "particles.star").exists()
    assert not list(made.output.rglob("*a*.mrcs*"))


def test_coordinates_outside_are_named_or_skipped(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    picks = made.folder / "picks" / "Movies" / "b_pick.star"
    lines = picks.read_text().rstrip().splitlines()
    picks.write_text("\n".join([*lines, "-16.0 50 0.9", "136.2 50 0.9", "60 106.0 0.9"]) + "\n")
    said = refuse(made.line(), capsys)
    assert "b_pick.star, row 8: the particle at x = -16, y = 50 lies wholly outside" in said
    assert "Motion/job002/Movies/b.mrc of 120 x 90 px (3 such in all)" in said
    assert main(made.line("--skip-missing")) == 0
    assert rows(made) == 14
    assert "3 particles were lost" in capsys.readouterr().out


def test_columns_that_are_needed_are_named(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    refined = Path(made.refined)
    text = refined.read_text()

    def without(*labels: str) -> str:
        refined.write_text(text)
        for label in labels:
            refined.write_text(refined.read_text().replace(f"_rln{label} ", f"_rlnUnknown{label} "))
        return refuse(made.again("--recenter", "--recenter_x", "2", "--ref_angpix", "3"), capsys)

    assert "no origins (rlnOriginXAngst, rlnOriginYAngst) to re-center by" in without("OriginXAngst")
    assert "the column rlnAngleTilt is missing" in without("AngleTilt")
    assert "the column rlnCoordinateX is missing" in without("CoordinateX")
    assert "the column rlnMicrographName is missing" in without("MicrographName")


def test_the_pixel_size_of_the_point_must_be_clear(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    said = refuse(made.again("--recenter", "--recenter_z", "5"), capsys)
    assert "different pixel sizes (3 to 4 Å)" in said
    assert "--ref_angpix" in said
    assert main(made.again("--recenter")) == 0  # the center itself has no pixel size


def test_an_unknown_pixel_size_is_asked_for(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(made.folder / "bare.star", "", "MicrographName", ["Motion/job002/Movies/a.mrc"])
    words = ["extract", "--i", "bare.star", *made.picks(), "--o", "out", "--extract_size", "32"]
    assert "the pixel size is unknown" in refuse(words, capsys)
    assert "needs a CTF" in refuse([*words, "--angpix", "1.5", "--premultiply_ctf"], capsys)
    assert main([*words, "--angpix", "1.5"]) == 0
    assert "The micrographs have no CTF" in capsys.readouterr().out


def test_groups_of_mixed_micrographs_are_refused(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    refined = Path(made.refined)
    refined.write_text(refined.read_text().replace("Movies/b.mrc", "Movies/a.mrc", 1))
    assert "come from micrographs of different pixel sizes" in refuse(made.again(), capsys)


def test_particles_of_other_micrographs_are_left_out(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    star = Path(made.star)
    star.write_text("\n".join(line for line in star.read_text().splitlines() if "Movies/b.mrc" not in line) + "\n")
    assert main(made.again()) == 0
    assert "4 particles are left out" in capsys.readouterr().out
    assert rows(made) == 4
    star.write_text(star.read_text().replace("Movies/a.mrc", "Movies/c.mrc"))
    assert "None of the micrographs" in refuse(made.again("--o", "other"), capsys)


def test_two_micrographs_must_not_share_a_stack(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    star = Path(made.star)
    star.write_text(star.read_text().replace("Motion/job002/Movies/b.mrc", "Motion/job003/Movies/a.mrc"))
    target = Path("Motion/job003/Movies/a.mrc")
    target.parent.mkdir(parents=True)
    target.write_bytes(A.read_bytes())
    assert "would both be extracted to" in refuse(made.line(), capsys)


def test_an_odd_size_is_made_even_as_relion_does(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(made.line("--scale", "23")) == 0
    assert "--scale 23 is odd; 24 is used instead" in capsys.readouterr().out
    assert mrcfile.read(made.output / "Movies" / "a.mrcs").shape == (7, 24, 24)


def test_nothing_is_replaced_unasked(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(made.line()) == 0
    assert "--overwrite" in refuse(made.line(), capsys)
    (made.output / "particles.star").unlink()
    assert "--only_do_unfinished" in refuse(made.line(), capsys)
    assert main(made.line("--overwrite")) == 0


def test_inputs_are_never_overwritten(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    words = made.again("--part_star", made.refined, "--overwrite")
    assert "is one of the inputs" in refuse(words, capsys)


def test_only_what_is_unfinished_is_done(
    made: MicrographSet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(made.line()) == 0
    first = {path: path.stat().st_mtime_ns for path in made.output.rglob("*.mrcs")}
    wanted = (made.output / "particles.star").read_text()
    (made.output / "particles.star").unlink()
    (made.output / "Movies" / "b_extract.star").unlink()
    assert main(made.line("--only_do_unfinished")) == 0
    assert "1 of 2 micrographs were finished before" in capsys.readouterr().out
    assert (made.output / "particles.star").read_text() == wanted
    changed = [path.name for path, time in first.items() if path.stat().st_mtime_ns != time]
    assert changed == ["b.mrcs"]
    # other options are other particles
    assert main(made.line("--only_do_unfinished", "--no_invert_contrast")) == 0
    assert "0 of 2 micrographs were finished before" in capsys.readouterr().out


def test_an_interrupted_run_keeps_whole_stacks_only(made: MicrographSet, monkeypatch: pytest.MonkeyPatch) -> None:
    params = ExtractParams(
        micrographs=made.star,
        coord_dir=str(made.folder / "picks"),
        coord_suffix="_pick.star",
        output="out",
        box_size_px=32,
        threads=1,
    )
    monkeypatch.setattr("napari_autorefine.jobs.extract_run._BATCH_PIXELS", 32**2)
    events = extract(params)
    for event in events:
        if isinstance(event, Progress) and event.stage == "extract" and event.done >= 3:
            break
    events.close()
    found = [path for path in Path("out").rglob("*") if path.is_file()]
    for path in found:
        assert not path.name.startswith(".")
        if path.suffix == ".mrcs":
            assert mrcfile.read(path).shape == (7, 32, 32)
    assert not Path("out/particles.star").exists()


def test_memory_does_not_follow_the_number_of_particles(made: MicrographSet, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = []

    def watched(micrograph: np.ndarray, centers: np.ndarray, *args: object, **more: object):
        largest.append(len(centers))
        return extraction.cut_particles(micrograph, centers, *args, **more)

    monkeypatch.setattr("napari_autorefine.jobs.extract_run.cut_particles", watched)
    monkeypatch.setattr("napari_autorefine.jobs.extract_run._PIECE_PIXELS", 2 * 32**2)
    assert main(made.line()) == 0
    assert max(largest) == 2
    assert sum(largest) == 14


def test_a_full_disc_is_noticed_before(
    made: MicrographSet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000, "total": 10**9})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert "need 0.1 MB but only 0.0 MB are free" in refuse(made.line("--no_float16"), capsys)


def test_a_file_system_that_counts_no_space_can_be_used(made: MicrographSet, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 0, "total": 0})()
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert main(made.line()) == 0


def test_a_folder_that_cannot_be_written_is_noticed_before(
    made: MicrographSet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["extract", "--i", made.star, *made.picks(), "--extract_size", "32", "--o"]
    assert "mics.star/sub cannot be a folder, as" in refuse([*words, "mics.star/sub"], capsys)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "new/sub cannot be written: no permission in" in refuse([*words, "new/sub"], capsys)


def test_no_table_is_left_of_stacks_that_were_being_replaced(
    made: MicrographSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(made.line()) == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("napari_autorefine.jobs.extract_run._MicrographWork._cut", stop)
    for word in ("--overwrite", "--only_do_unfinished"):
        (made.output / "particles.star").touch()
        assert main(made.line("--scale", "24", word)) == 130
        assert not (made.output / "particles.star").exists()


def test_a_table_whose_stacks_are_kept_stays_until_the_end(
    made: MicrographSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(made.line()) == 0
    monkeypatch.setattr("napari_autorefine.jobs.extract.write_montage", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(made.line("--only_do_unfinished"))
    assert (made.output / "particles.star").exists()


def test_the_table_comes_after_everything_else(made: MicrographSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise InputError("montage.png cannot be written: no space left on the disc.")

    monkeypatch.setattr("napari_autorefine.jobs.extract.write_montage", full)
    assert main(made.line()) == 2
    assert not (made.output / "particles.star").exists()


@pytest.mark.parametrize("size", ["0", "-4", "1"])
def test_what_is_no_box_is_named(size: str, made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    said = refuse(made.line("--extract_size", size), capsys)
    assert f"the box must be an even number of pixels, 2 or more, but --extract_size is {size}." in said


def test_a_particle_file_is_not_taken_for_micrographs(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(made.line()) == 0
    words = ["extract", "--i", "out/particles.star", *made.picks(), "--extract_size", "32", "--o", "again"]
    assert "lists particles, not micrographs; give it with --reextract_data_star" in refuse(words, capsys)


def test_one_particle_is_one(made: MicrographSet, capsys: pytest.CaptureFixture[str]) -> None:
    write_table(made.folder / "one.star", "", "MicrographName CoordinateX CoordinateY", ["Movies/a.mrc 30 30"])
    words = ["extract", "--i", made.star, "--coord_list", "one.star", "--extract_size", "32", "--o", "one"]
    assert main(words) == 0
    assert "Extracted 1 particle of 32 px at 1.5 Å from 1 micrograph." in capsys.readouterr().out


def test_a_damaged_record_of_an_earlier_run_is_done_again(made: MicrographSet) -> None:
    assert main(made.line()) == 0
    os.truncate(made.output / "Movies" / "a.mrcs", 2000)
    assert main(made.line("--only_do_unfinished")) == 0
    assert mrcfile.read(made.output / "Movies" / "a.mrcs").shape == (7, 32, 32)


def test_refined_particles_in_place_of_coordinates_are_recognised(made: MicrographSet) -> None:
    write_table(made.folder / "old.star", "", "MicrographName CoordinateX CoordinateY OriginX", ["Movies/a.mrc 9 9 1"])
    params = ExtractParams(micrographs=made.star, coord_list="old.star", output="out", box_size_px=32)
    with pytest.raises(InputError, match="give it with --reextract_data_star"):
        list(extract(params))
