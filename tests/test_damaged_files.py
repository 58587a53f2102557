from __future__ import annotations

import ast
import contextlib
import gzip
import json
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import ParticleSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import fuzzing
from oracles.fuzzing import Target, check, damage, run_job
from oracles.micrographs import MicrographSet, make_micrographs
from oracles.tomo_files import TomoFiles, write_tomo_files

from napari_autorefine.errors import InputError
from napari_autorefine.io.micrographs import open_micrograph
from napari_autorefine.io.mrc import read_data, write_stack
from napari_autorefine.io.names import check_inner, find_image_file, inner_path, split_image_name
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.continuing import resumed
from napari_autorefine.jobs.refine_params import RefineParams

SOURCE = Path(__file__).resolve().parents[1] / "src" / "napari_autorefine"
NAMES = (
    "atoms",
    "event lines",
    "extract",
    "job folder",
    "job.star",
    "map",
    "micrograph",
    "mtf",
    "output of folder",
    "particles",
    "postprocess",
    "re-extract",
    "record",
    "refine, inputs",
    "report",
    "resume",
    "subtomo",
    "tomo 2d",
    "tomo 3d",
)


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    return {one.name: one for one in fuzzing.targets(tmp_path_factory.mktemp("good"))}


def test_every_reader_is_fuzzed(targets: dict[str, Target]) -> None:
    assert sorted(targets) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_good_files_are_read(targets: dict[str, Target], name: str) -> None:
    target = targets[name]
    assert not check(target, target.files[0], target.files[0].read_bytes())


QUIET = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)
JOBS = ("extract", "re-extract", "subtomo")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in JOBS])
@settings(max_examples=80, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**40))
def test_damaged_files_are_read_or_refused_in_one_sentence(targets: dict[str, Target], name: str, seed: int) -> None:
    check(targets[name], *damage(targets[name], random.Random(seed)))


@pytest.mark.parametrize("name", JOBS)
@settings(max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**40))
def test_whole_jobs_refuse_damaged_files_in_one_sentence(targets: dict[str, Target], name: str, seed: int) -> None:
    check(targets[name], *damage(targets[name], random.Random(seed)))


def test_the_rules_are_able_to_fail(targets: dict[str, Target], tmp_path: Path) -> None:
    good = targets["map"]
    folder = tmp_path / "a" / "in"
    folder.mkdir(parents=True)
    file = folder / "file.star"
    file.write_text("x")

    def target(read: Callable[[Path], object], writes: str = "") -> Target:
        return Target(name="bad", root=folder, main=file, files=(file,), read=read, writes=writes)

    def one_terabyte(_path: Path) -> None:
        np.ones(10**12, np.uint8)

    for bad in (
        target(lambda path: 1 / 0),
        target(one_terabyte),
        target(lambda path: (tmp_path / "a" / "escaped").write_text("x"), writes="out"),
    ):
        with pytest.raises(fuzzing.Rule):
            check(bad, file, b"y")
    assert file.read_text() == "x"
    assert check(good, good.main, b"") is False


def header(shape: tuple[int, int, int], mode: int = 2) -> bytes:
    head = bytearray(1024)
    head[:16] = struct.pack("<4i", *shape, mode)
    head[64:76] = struct.pack("<3i", 1, 2, 3)
    return bytes(head)


def test_a_map_that_promises_a_terabyte_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    plain, packed, sparse = tmp_path / "a.mrc", tmp_path / "b.mrc.gz", tmp_path / "c.mrc"
    plain.write_bytes(header((10_000,) * 3) + bytes(9_000))
    packed.write_bytes(gzip.compress(header((10_000,) * 3) + bytes(9_000)))
    sparse.write_bytes(header((10_000,) * 3))
    with open(sparse, "r+b") as file:
        file.truncate(1024 + 4 * 10**12)
    for path, word in ((plain, "truncated"), (packed, "truncated"), (sparse, "GB of memory")):
        with pytest.raises(InputError, match=word):
            read_data(path)


def test_a_compressed_map_of_zeros_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(gzip.compress(header((64, 64, 64)) + bytes(4 * 64**3)))
    assert read_data(path)[0].shape == (64, 64, 64)


def test_a_tiff_that_promises_more_pixels_than_its_bytes_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 30), np.float32))
    with tifffile.TiffFile(path) as file:
        places = [file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    content = bytearray(path.read_bytes())
    for place in places:
        content[place : place + 2] = struct.pack("<H", 60_000)
    path.write_bytes(content)
    with pytest.raises(InputError, match="60000 x 60000"):
        open_micrograph(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("_rlnOpticsGroupName #2", "_rlnOpticsGroupName #2\n" + "_rlnX #3\n" * 50_000),
        ("000001@a.mrcs", "1000000000@a.mrcs"),
        ("3.0 16 2", "3.0 1000000000 2"),
        ("3.0 16 2", "3.0 1e300 2"),
        ("1 opticsGroup1", "1e18 opticsGroup1"),
    ],
)
def test_a_small_particle_file_that_claims_much_is_refused_at_once(
    particle_set: ParticleSet, old: str, new: str
) -> None:
    particle_set.replace(old, new)
    target = Target(
        name="claims",
        root=particle_set.folder,
        main=particle_set.star,
        files=(particle_set.star,),
        read=lambda path: fuzzing._load_refine(
            {"reference": str(particle_set.reference), "output": "x", "particle_diameter_A": 30.0}, path
        ),
    )
    assert check(target, particle_set.star, particle_set.star.read_bytes())


def test_a_long_particle_file_of_few_bytes_per_row_takes_memory_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "many.star"
    path.write_text("data_optics\n\nloop_\n_rlnOpticsGroup #1\n" + "1\n" * 200_000)
    target = Target(
        name="rows", root=tmp_path, main=path, files=(path,), read=lambda p: read_particles(p, project_dir=tmp_path)
    )
    began = time.monotonic()
    assert check(target, path, path.read_bytes())
    assert time.monotonic() - began < fuzzing.SECONDS


ESCAPES = ("../../../escaped", "{root}/escaped", "a/../../../../escaped", "..", "a/./b", ".", "x/..")


@pytest.mark.parametrize("escape", ESCAPES)
def test_no_micrograph_name_leads_out_of_the_output_folder(tmp_path: Path, escape: str) -> None:
    folder = tmp_path / "deep" / "in"
    folder.mkdir(parents=True)
    made: MicrographSet = make_micrographs(folder)
    escape = escape.format(root=tmp_path)
    picture = folder / "Motion/job002/Movies/a.mrc"
    place = (folder / f"{escape}.mrc").resolve() if not escape.endswith(".") else folder / f"{escape}.mrc"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(picture.read_bytes())
    star = Path(made.star)
    star.write_text(star.read_text().replace("Motion/job002/Movies/a.mrc", f"{escape}.mrc"))
    picks = folder / "coordinates.star"
    picks.write_text(
        "data_\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
        f"{escape}.mrc 60 45\nMotion/job002/Movies/b.mrc 60 45\n"
    )
    values = {"micrographs": made.star, "coord_list": str(picks), "output": str(folder / "out"), "box_size_px": 32}
    before = files_of(tmp_path)
    with contextlib.suppress(InputError):  # names of which nothing is left
        run_job("extract", values, folder)
    assert {path for path in files_of(tmp_path) - before if folder / "out" not in path.parents} == set()


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def cut(made: TomoFiles) -> None:
    noise = np.random.default_rng(1).standard_normal((5, 40, 40)).astype(np.float32)
    for name in ("TS_1", "TS_2"):
        write_stack(made.folder / f"{name}.mrcs", noise, 4.0)
    values = {"particles": str(made.star), "tomograms": str(made.tomograms), "output": str(made.folder / "out")}
    run_job("subtomo", values | {"box_size_px": 16}, made.folder)


@pytest.mark.parametrize("escape", ["../../../escaped", "/tmp/escaped", "a/../../escaped", ".."])
def test_no_tomogram_name_leads_out_of_the_output_folder(tmp_path: Path, escape: str) -> None:
    folder = tmp_path / "deep" / "in"
    folder.mkdir(parents=True)
    made = write_tomo_files(folder, "2d")
    made.change(made.star, "TS_1", escape)
    tilts = folder / "tilts" / "TS_1.star"
    made.change(made.tomograms, "TS_1 ", f"{escape} ")
    made.change(tilts, "data_TS_1", f"data_{escape}")
    before = files_of(tmp_path)
    with pytest.raises(InputError, match="below the output folder"):
        cut(made)
    assert files_of(tmp_path) - before <= {folder / f"TS_{n}.mrcs" for n in (1, 2)}


def test_no_particle_name_leads_out_of_the_output_folder(tmp_path: Path) -> None:
    made = write_tomo_files(tmp_path, "2d")
    made.change(made.star, "TS_1/0", "TS_1/..")
    with pytest.raises(InputError, match="below the output folder"):
        cut(made)


def test_a_tomogram_name_may_have_folders(tmp_path: Path) -> None:
    made = write_tomo_files(tmp_path, "2d")
    for path, old, new in (
        (made.star, "TS_1", "day/TS_1"),
        (made.tomograms, "TS_1 ", "day/TS_1 "),
        (tmp_path / "tilts" / "TS_1.star", "data_TS_1", "data_day/TS_1"),
    ):
        made.change(path, old, new)
    cut(made)
    assert (tmp_path / "out" / "Subtomograms" / "day" / "TS_1").is_dir()


def test_a_run_goes_on_beside_its_files_wherever_they_say_that_they_are(
    targets: dict[str, Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = targets["resume"].root
    here = tmp_path / "copied"
    here.mkdir()
    for path in source.iterdir():
        if path.is_file():
            (here / path.name).write_bytes(path.read_bytes())
    optimiser = here / "run_it001_optimiser.star"
    optimiser.write_text(optimiser.read_text().replace("run ", "../../escaped/run ", 1))
    assert "escaped" in optimiser.read_text()
    monkeypatch.chdir(tmp_path)
    for with_record in (True, False):
        if not with_record:
            (here / "run_params.json").unlink()
        else:
            content = json.loads((here / "run_params.json").read_text())
            content["parameters"]["output"] = str(tmp_path / "escaped" / "run")
            (here / "run_params.json").write_text(json.dumps(content))
        params, *_ = resumed(RefineParams(continue_from=str(optimiser)))
        assert Path(params.output).resolve().parent == here


def test_names_are_made_safe_or_refused() -> None:
    assert inner_path("/a/../b/./c.mrc") == "a/b/c.mrc"
    assert inner_path("../..") == ""
    assert check_inner("day/TS_1", "x") == "day/TS_1"
    for bad in ("", " ", "..", "/a", "a/", "a//b", "a/../b"):
        with pytest.raises(InputError, match="The place"):
            check_inner(bad, "The place")


def test_strange_image_names_are_names(tmp_path: Path) -> None:
    assert split_image_name("000007@a.mrcs") == (7, "a.mrcs")
    assert split_image_name("²@a.mrcs") == (None, "²@a.mrcs")
    assert split_image_name(f"{10**30}@a.mrcs")[0] is None
    assert find_image_file("a" * 5000, (tmp_path,)) is None
    assert find_image_file("a\0b", (tmp_path,)) is None


def test_devices_are_not_read() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no /dev/zero here")
    with pytest.raises(InputError, match="device"):
        read_data("/dev/zero")


def test_text_of_errors_can_be_shown_anywhere() -> None:
    text = str(InputError("a\x1b[31m\udc80\nb " + "x" * 10_000))
    assert text.isprintable()
    assert text.startswith("a?[31m? b ")
    assert len(text) < 4_000
    assert text.encode("utf-8")


def test_nothing_is_unpickled_or_evaluated() -> None:
    """Neither by name nor by an option: a file is data, whatever it says."""
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code", "runpy"}
    calls = {"eval", "exec", "compile", "__import__", "read_pickle", "literal_eval"}
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            place = f"{path.relative_to(SOURCE)}:{getattr(node, 'lineno', 0)}"
            names = {alias.name.split(".")[0] for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                names = {str(node.module).split(".")[0]}
            if names & modules:
                found.append(f"{place} imports {names & modules}")
            if isinstance(node, ast.Call):
                function = node.func
                owner = function.value.id if isinstance(function, ast.Attribute) and isinstance(
                    function.value, ast.Name
                ) else ""  # fmt: skip
                name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
                if (name in calls and owner not in {"re", "box", "loop"}) or f"{owner}.{name}" in {
                    "os.system",
                    "os.popen",
                }:
                    found.append(f"{place} calls {owner}.{name}")
                found += [
                    f"{place} passes {word.arg}"
                    for word in node.keywords
                    if (word.arg == "allow_pickle" or (word.arg == "shell" and owner == "subprocess"))
                    and not (isinstance(word.value, ast.Constant) and word.value.value is False)
                ]
    assert found == []
