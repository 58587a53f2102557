from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from napari_autorefine.errors import InputError
from napari_autorefine.io.tables import read_star, write_star

PARTICLES = """# version 30001

data_particles

loop_
_rlnMicrographName #1
_rlnDefocusU #2
_rlnOpticsGroup #3
_rlnCtfScalefactor #4
"""


def write(tmp_path: Path, text: str, name: str = "a.star") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def round_trip(path: Path):
    star = read_star(path)
    copy = path.with_name("copy.star")
    write_star(copy, star.tables, version=star.version, comments=star.comments)
    return star, read_star(copy)


def same(a, b) -> bool:
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
        return True
    return list(a) == list(b) and all(str(a[label]) == str(b[label]) for label in a)


def test_names_that_look_like_numbers_stay_text(tmp_path):
    path = write(tmp_path, PARTICLES + "0012 10000.5 1 1e-9\n0012 10000.5 1 1e-9\n")
    star, again = round_trip(path)
    for table in (star.tables["particles"], again.tables["particles"]):
        assert table["rlnMicrographName"].tolist() == ["0012", "0012"]
        assert table["rlnCtfScalefactor"].tolist() == [1e-9, 1e-9]
        assert table["rlnOpticsGroup"].dtype == np.int64


def test_starfile_loses_what_is_kept_here(tmp_path):
    """The defaults of starfile, and what its options cannot prevent."""
    path = write(tmp_path, PARTICLES + "0012 10000.5 1 1e-9\n0013 10000.5 1 1e-9\n")
    default = starfile.read(path)
    assert default["rlnMicrographName"].tolist() == [12, 13]
    starfile.write(default, tmp_path / "b.star")
    assert " 0.000000" in (tmp_path / "b.star").read_text().replace("\t", " ")
    hash_name = write(tmp_path, "data_a\nloop_\n_rlnVoltage\n_rlnMicrographName\n300 a.mrc\n300 b#1.mrc\n", "c.star")
    assert starfile.read(hash_name, parse_as_string=["rlnMicrographName"])["rlnMicrographName"].tolist()[1] == "b"
    assert read_star(hash_name).tables["a"]["rlnMicrographName"].tolist() == ["a.mrc", "b#1.mrc"]
    apostrophe = write(tmp_path, PARTICLES + "'s.mrc 1.0 1 1\n't.mrc 2.0 1 1\n", "d.star")
    assert read_star(apostrophe).tables["particles"]["rlnMicrographName"].tolist() == ["'s.mrc", "'t.mrc"]
    ragged = write(tmp_path, PARTICLES + "a.mrc 1.0 1 1\nb.mrc 2.0\n", "e.star")
    assert starfile.read(ragged).isna().any().any()
    with pytest.raises(InputError, match=r"e\.star, line 11: .* has 2 values but the table has 4 columns"):
        read_star(ragged)
    pair = write(tmp_path, "data_a\n\n_rlnComment  two words\n", "f.star")
    with pytest.raises(ValueError, match="too many values"):
        starfile.read(pair)
    assert read_star(pair).tables["a"] == {"rlnComment": "two words"}


def test_agrees_with_starfile_where_that_is_right(shared_data):
    path = shared_data / "particles_bgal" / "particles_matched_poses.star"
    ours, theirs = read_star(path).tables, starfile.read(path)
    assert list(ours) == list(theirs)
    for name in ours:
        for label in ours[name].columns:
            assert ours[name][label].tolist() == theirs[name][label].tolist()


@pytest.mark.parametrize(
    "value",
    ["", "two words", "it's", 'say "a"', "None", "nan", "NaN", "<NA>", "#1", "_x", "data_x", "loop_", "'a'", "é"],
)
def test_texts_survive(tmp_path, value):
    table = pd.DataFrame(
        {"rlnImageName": pd.Series([value, "b"], dtype=object), "rlnGroupName": pd.Series(["x", value], dtype=object)}
    )
    path = tmp_path / "a.star"
    write_star(path, {"particles": table, "general": {"rlnTomoName": value}})
    star = read_star(path)
    assert same(table, star.tables["particles"])
    assert star.tables["general"] == {"rlnTomoName": value}


def test_text_that_has_no_star_form_is_refused(tmp_path):
    for value in ("a\nb", "a 'b\" c"):
        with pytest.raises(InputError, match="cannot be written"):
            write_star(tmp_path / "a.star", {"a": {"rlnComment": value}})
    assert not list(tmp_path.iterdir())


def test_numbers_keep_their_value(tmp_path):
    rng = np.random.default_rng(0)
    values = np.concatenate(
        [
            rng.normal(size=50),
            10.0 ** rng.uniform(-300, 300, 50),
            [0.0, -0.5, 1e-9, 1e5, 1e6, -140.986312, 1 / 3, 5e-324],
        ]
    )
    table = pd.DataFrame({"rlnAngleRot": values, "rlnVoltage": values[::-1]})
    path = tmp_path / "a.star"
    write_star(path, {"": table})
    pd.testing.assert_frame_equal(read_star(path).tables[""], table)
    narrow = pd.DataFrame({"rlnAngleRot": np.array([0.1, 1 / 3], np.float32)})
    write_star(path, {"": narrow})
    assert "0.33333334" in path.read_text()


def test_relions_number_layout(tmp_path):
    path = tmp_path / "a.star"
    table = pd.DataFrame({"rlnAngleRot": [1.5, -140.98631], "rlnOpticsGroup": [1, 12]})
    write_star(path, {"particles": table})
    lines = path.read_text().splitlines()
    assert lines[1:7] == ["# version 30001", "", "data_particles", "", "loop_ ", "_rlnAngleRot #1 "]
    assert lines[8:10] == ["    1.500000            1 ", " -140.986310           12 "]
    assert lines[10] == " "


def test_leading_zeros_signs_and_long_integers_stay_text(tmp_path):
    text = "data_a\n\nloop_\n_rlnVoltage\n_rlnOther\n_rlnBig\n_unknown\n007 +5 123456789012345678901 1.50\n"
    star, again = round_trip(write(tmp_path, text))
    for table in (star.tables["a"], again.tables["a"]):
        assert table["rlnVoltage"].tolist() == ["007"]
        assert table["rlnOther"].tolist() == [5.0]
        assert table["rlnBig"].tolist() == [123456789012345678901.0]
        assert table["unknown"].tolist() == ["1.50"]


def test_a_column_that_turns_to_text_late_is_text_from_its_start(tmp_path):
    rows = "".join(f"{row}.50 {row}\n" for row in range(60_000)) + "a b\n"
    star = read_star(write(tmp_path, "data_\nloop_\n_rlnAngleRot\n_rlnOpticsGroup\n" + rows))
    table = star.tables[""]
    assert table["rlnAngleRot"].iloc[0] == "0.50"
    assert table["rlnOpticsGroup"].iloc[[7, -1]].tolist() == ["7", "b"]


def test_layouts(tmp_path):
    text = (
        "# one\r\n#two\r\n\r\n# version 50001\r\n\r\ndata_general\r\n_rlnA 1 # note\r\n_rlnEmptyName\r\n\r\n"
        "data_particles # note\r\n\r\nloop_ \r\n# inside\r\n_rlnImageName #1\r\n_rlnOriginX #2\r\n\r\n"
        "\t1@a.mrcs\t 2.5 \r\n# between\r\n\r\n  2@a.mrcs 3.5 # note\r\ndata_3@a.mrcs 4.5\r\n"
        "data_empty\r\nloop_\r\n_rlnB\r\n"
    )
    star, again = round_trip(write(tmp_path, text))
    assert star.version == again.version == 50001
    assert star.comments == again.comments == ("one", "two")
    assert list(star.tables) == ["general", "particles", "empty"]
    assert star.tables["general"] == {"rlnA": 1, "rlnEmptyName": ""}
    assert star.tables["particles"]["rlnImageName"].tolist() == ["1@a.mrcs", "2@a.mrcs", "data_3@a.mrcs"]
    assert star.tables["particles"]["rlnOriginX"].tolist() == [2.5, 3.5, 4.5]
    assert list(star.tables["empty"].columns) == ["rlnB"]
    assert all(same(star.tables[name], again.tables[name]) for name in star.tables)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.star is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-LFS pointer"),
        (b"\x89PNG\0\0\0", "binary file"),
        (b"hello\n", "line 1: text outside of any table"),
        (b"# only a comment\n", "no line that starts with 'data_'"),
        (b"data_a\n_rlnA 1\n_rlnA 2\n", r"line 3: the label rlnA occurs twice"),
        (b"data_a\nloop_\n_rlnA\n_rlnA\n1 2\n", r"line 4: the label rlnA occurs twice"),
        (b"data_a\nloop_\n_rlnA\n_rlnB\n1 2\n3\n", r"line 6: this row of the table 'data_a' has 1 values"),
        (b"data_a\nloop_\n_rlnA\n_rlnB\n1 2 3\n", r"line 5: this row .* has 3 values but the table has 2 columns"),
        (b"data_a\n_rlnA 1\n\ndata_a\n_rlnA 1\n", "line 4: the table 'data_a' occurs twice"),
        (b"data_a\nloop_\n_rlnA\n_rlnB\n1 2\nloop_\n_rlnC\n3\n", "line 6: a second loop in one table"),
        (b"data_a\nloop_\n1 2\n", "has no labels"),
        (b"data_a\n_rlnA 1\nstray words\n", "line 3: 'stray words' is not a label"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "a.star"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_star(path)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_star(tmp_path / "no.star")
    with pytest.raises(InputError, match="is a folder"):
        read_star(tmp_path)


def test_bytes_that_are_not_utf8_survive(tmp_path):
    path = tmp_path / "a.star"
    path.write_bytes(b"data_a\n_rlnMicrographName caf\xe9.mrc\n")
    star = read_star(path)
    write_star(path, star.tables)
    assert b"caf\xe9.mrc" in path.read_bytes()


def test_nothing_appears_under_the_final_name_when_writing_fails(tmp_path):
    path = tmp_path / "a.star"
    path.write_text("old")
    with pytest.raises(InputError):
        write_star(path, {"a": {"rlnComment": "line\nbreak"}})
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.star"]


def test_every_star_file_of_the_data_survives_a_round_trip(shared_data, tmp_path):
    refused = []
    paths = sorted(shared_data.rglob("*.star"))
    for path in paths:
        try:
            star = read_star(path)
        except InputError as error:
            refused.append((path.name, str(error)))
            continue
        copy = tmp_path / "copy.star"
        write_star(copy, star.tables, version=star.version, comments=star.comments)
        again = read_star(copy)
        assert again.version == star.version
        assert again.comments == star.comments
        assert list(again.tables) == list(star.tables)
        for name, table in star.tables.items():
            assert type(again.tables[name]) is type(table)
            assert same(table, again.tables[name]), (path, name)
    names = {name for name, _ in refused}
    assert {"git_lfs_pointer.star", "ragged_rows.star"} <= names <= {*names, "job.star"}
    assert len(refused) <= 3
    assert all("\n" not in text and path.name for (_, text), path in zip(refused, paths, strict=False))


def test_underscores_are_no_part_of_numbers(tmp_path):
    path = write(tmp_path, "data_\nloop_\n_rlnAngleRot\n_rlnVoltage\n1_0.5 1_0\n2.5 3\n")
    table = read_star(path).tables[""]
    assert table["rlnAngleRot"].tolist() == ["1_0.5", "2.5"]
    assert table["rlnVoltage"].tolist() == ["1_0", "3"]


@pytest.mark.parametrize("value", ["a\u00a0b", "a\tb", "x", "100%"])
def test_blanks_of_all_kinds_are_quoted(tmp_path, value):
    table = pd.DataFrame({"rlnGroupName": pd.Series([value, "b"], dtype=object), "rlnImageName": ["1@a", "2@a"]})
    write_star(tmp_path / "a.star", {"": table})
    assert read_star(tmp_path / "a.star").tables[""]["rlnGroupName"].tolist() == [value, "b"]


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "no permission"), (errno.EIO, "error")]
)
def test_a_full_disc_is_one_sentence(tmp_path, monkeypatch, number, words):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=words):
        write_star(tmp_path / "a.star", {"a": {"rlnA": 1}})
    assert not list(tmp_path.iterdir())


def test_damaged_files_never_fail_otherwise(tmp_path):
    """Random damage ends in a table or in one sentence."""
    rng, sentences = random.Random(1), []
    whole = (
        b"# version 30001\n\ndata_general\n\n_rlnTomoSubTomosAre2DStacks 1\n\ndata_particles\n\nloop_\n"
        b"_rlnImageName #1\n"
        b"_rlnDefocusU #2\n_rlnComment #3\n" + b"000001@a.mrcs 10000.5 'two words'\n" * 5
    )
    path = tmp_path / "a.star"
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            place = rng.randrange(len(damaged))
            damaged[place : place + rng.randint(0, 9)] = rng.choice([b"", b"\n", b'"', b"#", b"data_", b"nan", b"\xff"])
        path.write_bytes(damaged)
        try:
            write_star(path, read_star(path).tables)
        except InputError as error:
            sentences.append(str(error).encode())
    assert not any(b"\n" in sentence for sentence in sentences)
