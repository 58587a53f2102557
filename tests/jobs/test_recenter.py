from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ParticleSet

from napari_autorefine.cli import main
from napari_autorefine.engine.registration import moved
from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, Message
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.star import read_star, write_star
from napari_autorefine.jobs.recenter import RecenterParams, recenter

ORIGINS = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
CENTER = ["--center", "--center_X", "3", "--center_Y", "-2.5", "--center_Z", "7.25"]
BACK = ["--center", "--center_X", "-3", "--center_Y", "2.5", "--center_Z", "-7.25"]


def particles_of(path: Path) -> pd.DataFrame:
    table = read_star(path).tables["particles"]
    assert isinstance(table, pd.DataFrame)
    return table


def assert_same_but_origins(path: Path, other: Path) -> None:
    """All tables, columns, rows and values agree, except for origins."""
    found, wanted = read_star(path), read_star(other)
    assert list(found.tables) == list(wanted.tables)
    for name, table in wanted.tables.items():
        one = found.tables[name]
        if isinstance(table, dict):
            assert one == table
            continue
        assert isinstance(one, pd.DataFrame)
        assert list(one.columns) == list(table.columns)
        pd.testing.assert_frame_equal(one.drop(columns=list(ORIGINS), errors="ignore"),
                                      table.drop(columns=list(ORIGINS), errors="ignore"))  # fmt: skip


def posed(folder: Path, n: int = 6, *, is_tomo: bool = False, pixel_sizes_A: tuple[float, ...] = (2.5,)) -> Path:
    """Write a particle file with poses, a further table and columns that nobody knows."""
    rng = np.random.default_rng(3)
    groups = len(pixel_sizes_A)
    optics = pd.DataFrame({
        "rlnOpticsGroup": np.arange(groups) + 1,
        "rlnOpticsGroupName": np.array([f"og{i + 1}" for i in range(groups)], object),
        "rlnVoltage": np.full(groups, 300.0),
        "rlnSphericalAberration": np.full(groups, 2.7),
        "rlnImagePixelSize": np.array(pixel_sizes_A),
        "rlnImageDimensionality": np.full(groups, 3 if is_tomo else 2),
    })  # fmt: skip
    particles = pd.DataFrame({
        "rlnImageName": np.array([f"{i + 1:06d}@absent.mrcs" for i in range(n)], object),
        "myLabel": np.array([f"00{i} #{i}" for i in range(n)], object),
        "rlnAngleRot": np.round(rng.uniform(-180, 180, n), 6),
        "rlnAngleTilt": np.round(rng.uniform(0, 180, n), 6),
        "rlnAnglePsi": np.round(rng.uniform(-180, 180, n), 6),
        "rlnOriginXAngst": np.round(rng.normal(0, 5, n), 6),
        "rlnOriginYAngst": np.round(rng.normal(0, 5, n), 6),
        "rlnOpticsGroup": np.arange(n) % groups + 1,
    })  # fmt: skip
    path = folder / "run_data.star"
    extra = {"general": {"rlnTomoSubTomosAre2DStacks": 1}} if is_tomo else {"other": pd.DataFrame({"a": [1, 2]})}
    write_star(path, {**extra, "optics": optics, "particles": particles}, version=50001)
    return path


def test_origins_are_moved_by_the_projected_centre(tmp_path: Path) -> None:
    source, target = posed(tmp_path), tmp_path / "new.star"
    assert main(["recenter", "--i", str(source), "--o", str(target), *CENTER]) == 0
    old, new = particles_of(source), particles_of(target)
    for i in range(len(old)):
        rot, tilt, psi = np.radians([old[f"rlnAngle{name}"][i] for name in ("Rot", "Tilt", "Psi")])
        x, y, z = 3.0, -2.5, 7.25
        x, y = x * np.cos(rot) + y * np.sin(rot), y * np.cos(rot) - x * np.sin(rot)
        x, z = x * np.cos(tilt) - z * np.sin(tilt), z * np.cos(tilt) + x * np.sin(tilt)
        x, y = x * np.cos(psi) + y * np.sin(psi), y * np.cos(psi) - x * np.sin(psi)
        assert new["rlnOriginXAngst"][i] == pytest.approx(old["rlnOriginXAngst"][i] - 2.5 * x, abs=1e-8)
        assert new["rlnOriginYAngst"][i] == pytest.approx(old["rlnOriginYAngst"][i] - 2.5 * y, abs=1e-8)
    assert_same_but_origins(target, source)


def test_the_reference_value_of_a_projected_centre(tmp_path: Path) -> None:
    source, target = posed(tmp_path, 1), tmp_path / "new.star"
    tables = dict(read_star(source).tables)
    tables["particles"] = particles_of(source).assign(
        rlnAngleRot=[30.0], rlnAngleTilt=[40.0], rlnAnglePsi=[50.0],
        rlnOriginXAngst=[0.0], rlnOriginYAngst=[0.0], rlnOriginZAngst=[0.0],
    )  # fmt: skip
    write_star(source, tables)
    assert main(["recenter", "--i", str(source), "--o", str(target), "--center_A", "3", "-2.5", "7.25"]) == 0
    found = particles_of(target)[list(ORIGINS)].iloc[0]
    np.testing.assert_allclose(found, [5.139329, -0.422987, -6.420349], atol=1e-6)


@pytest.mark.parametrize("is_tomo", [False, True])
def test_the_opposite_centre_undoes_it(is_tomo: bool, tmp_path: Path) -> None:
    source = posed(tmp_path, 300, is_tomo=is_tomo, pixel_sizes_A=(2.5, 3.825))
    there, back = tmp_path / "there.star", tmp_path / "back.star"
    assert main(["recenter", "--i", str(source), "--o", str(there), *CENTER]) == 0
    assert main(["recenter", "--i", str(there), "--o", str(back), *BACK]) == 0
    old, new = particles_of(source), particles_of(back)
    for label in ORIGINS[:2]:
        assert not np.allclose(particles_of(there)[label], old[label])
        assert (new[label] == old[label]).all()
    if is_tomo:
        assert (new[ORIGINS[2]] == 0).all()
    else:
        assert back.read_text() == source.read_text()


def test_pixels_are_those_of_the_particles_unless_the_reference_has_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = posed(tmp_path, pixel_sizes_A=(2.5, 5.0))
    files = [tmp_path / name for name in ("own.star", "ref.star", "angstrom.star")]
    options = (["--center_Z", "4"], ["--center_Z", "4", "--ref_angpix", "3"], ["--center_A", "0", "0", "12"])
    for path, words in zip(files, options, strict=True):
        assert main(["recenter", "--i", str(source), "--o", str(path), *words]) == 0
    assert capsys.readouterr().out.count("Warning: Pixel sizes range from 2.5 to 5 A") == 1
    old, own, ref, angstrom = (particles_of(path)["rlnOriginXAngst"].to_numpy() for path in (source, *files))
    np.testing.assert_allclose((own - old)[::2], (ref - old)[::2] * 10 / 12, atol=1e-8)
    np.testing.assert_allclose((own - old)[1::2], (ref - old)[1::2] * 20 / 12, atol=1e-8)
    np.testing.assert_array_equal(ref, angstrom)


def test_subtomograms_get_a_third_component(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = posed(tmp_path, is_tomo=True), tmp_path / "new.star"
    assert main(["recenter", "--i", str(source), "--o", str(target), "--center_Z", "2.75"]) == 0
    assert "rlnOriginZAngst" in capsys.readouterr().out
    old, new = particles_of(source), particles_of(target)
    assert list(new.columns) == [*old.columns, "rlnOriginZAngst"]
    np.testing.assert_allclose(new["rlnOriginZAngst"], -2.5 * 2.75 * np.cos(np.radians(old["rlnAngleTilt"])), atol=1e-8)
    step = np.stack([new[label] - old.get(label, 0.0) for label in ORIGINS])
    np.testing.assert_allclose(np.linalg.norm(step, axis=0), 2.5 * 2.75, atol=1e-8)
    assert read_star(target).version == 50001
    assert read_star(target).pairs("general") == {"rlnTomoSubTomosAre2DStacks": 1}


def test_a_centre_outside_the_map_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = posed(tmp_path)
    star = read_star(source)
    star.tables["optics"] = star.tables["optics"].assign(rlnImageSize=40)
    write_star(source, star.tables, version=star.version)
    words = ["recenter", "--i", str(source), "--o", str(tmp_path / "new.star"), "--overwrite"]
    for center, is_outside in (("19.5", False), ("-21", True)):
        assert main([*words, "--center_Y", center]) == 0
        said = "lies outside the map, which is 100 A wide" in capsys.readouterr().out
        assert said == is_outside


def test_old_priors_are_pointed_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = posed(tmp_path)
    tables = dict(read_star(source).tables)
    write_star(source, {**tables, "particles": particles_of(source).assign(rlnOriginXPriorAngst=1.0)})
    assert main(["recenter", "--i", str(source), "--o", str(tmp_path / "new.star"), "--center_X", "1"]) == 0
    assert "rlnOriginXPriorAngst stay as they are" in capsys.readouterr().out


def test_offsets_in_pixels_of_relion_3_0_become_angstrom(
    particle_set: ParticleSet, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ("ImageName", "AngleRot", "AngleTilt", "AnglePsi", "OriginX", "OriginY", "DetectorPixelSize",
              "Magnification", "Voltage", "SphericalAberration")  # fmt: skip
    text = "data_\n\nloop_\n" + "".join(f"_rln{label} #{n}\n" for n, label in enumerate(labels, start=1))
    source, target = particle_set.folder / "old.star", particle_set.folder / "new.star"
    source.write_text(text + "000001@a.mrcs 0 0 0 1.5 -2 6 20000 300 2.7\n")
    assert main(["recenter", "--i", str(source), "--o", str(target), "--center_X", "2"]) == 0
    assert "RELION 3.0" in capsys.readouterr().out
    found = particles_of(target)
    np.testing.assert_allclose(found[list(ORIGINS[:2])].to_numpy(), [[(1.5 - 2) * 3.0, -6.0]])
    optics = read_star(target).loop("optics")
    assert optics is not None
    assert (optics["rlnImagePixelSize"][0], optics["rlnImageSize"][0]) == (3.0, 16)


def test_folders_of_jobs_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    posed(tmp_path)
    folder = str(tmp_path) + "/"
    assert main(["recenter", "--i", folder, "--o", folder, "--center", "--center_Z", "2.75"]) == 0
    made = tmp_path / "run_data_centered.star"
    assert len(particles_of(made)) == 6
    record = json.loads((tmp_path / "run_data_centered_params.json").read_text())
    assert record["outputs"] == {"particles": str(made)}
    assert record["inputs"]["particles"]["path"] == str(tmp_path / "run_data.star")
    assert main(["recenter", "--i", folder, "--o", folder, "--center_Z", "2.75"]) == 2
    assert "already holds recentred particles" in capsys.readouterr().err


def phantom_and_mask(size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    z, y, x = np.ogrid[-size // 2 : size // 2, -size // 2 : size // 2, -size // 2 : size // 2]
    density = np.exp(-((x / 6) ** 2 + (y / 5) ** 2 + ((z - 1) / 3.5) ** 2))
    density = density + 0.7 * np.exp(-(((x - 5) / 3) ** 2 + ((y + 3) / 3) ** 2 + ((z + 4) / 3) ** 2))
    mask = np.clip((density - 0.1) / 0.2, 0, 1)
    return density.astype(np.float32), mask.astype(np.float32)


def write_maps(folder: Path, shift: tuple[float, float, float], voxel_size_A: float = 5.4) -> list[str]:
    density, mask = phantom_and_mask()
    write_volume(folder / "map.mrc", moved(density, np.array(shift)), voxel_size_A)
    write_volume(folder / "mask.mrc", mask, voxel_size_A)
    return ["recenter", "--on-mask", str(folder / "mask.mrc"), "--map", str(folder / "map.mrc")]


def test_the_offset_from_a_mask_is_printed_as_it_has_to_be_typed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = write_maps(tmp_path, (0.3, -0.4, 2.75))
    assert main(line) == 0
    words = capsys.readouterr().out.split("To recentre particles:")[1].split("\n")[0].split()
    typed = dict(zip(words[::2], words[1::2], strict=True))
    found = [float(typed[f"--center_{axis}"]) for axis in "XYZ"]
    np.testing.assert_allclose(found, (0.3, -0.4, 2.75), atol=0.1)
    assert typed["--ref_angpix"] == "5.4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.mrc", "mask.mrc"]


def test_applied_offset_equals_the_typed_one(tmp_path: Path) -> None:
    line, source = write_maps(tmp_path, (0.0, 0.0, 2.75)), posed(tmp_path)
    one, two = tmp_path / "one.star", tmp_path / "two.star"
    assert main([*line, "--apply", "--i", str(source), "--o", str(one)]) == 0
    events = list(recenter(RecenterParams(mask=str(tmp_path / "mask.mrc"), map=str(tmp_path / "map.mrc"))))
    last = events[-1]
    assert isinstance(last, Finished)
    np.testing.assert_allclose(last.figures["offset_A"], last.figures["offset_px"] * 5.4, rtol=1e-6)
    x, y, z = (str(value) for value in last.figures["offset_px"])
    typed = ["--center_X", x, "--center_Y", y, "--center_Z", z, "--ref_angpix", "5.4"]
    assert main(["recenter", "--i", str(source), "--o", str(two), *typed]) == 0
    for label in ORIGINS[:2]:
        np.testing.assert_allclose(particles_of(one)[label], particles_of(two)[label], atol=1e-5)


def test_symmetry_keeps_the_offset_on_its_axis(tmp_path: Path) -> None:
    write_maps(tmp_path, (0.4, -0.4, 2.75))
    params = RecenterParams(mask=str(tmp_path / "mask.mrc"), map=str(tmp_path / "map.mrc"), symmetry="C6")
    last = list(recenter(params))[-1]
    assert isinstance(last, Finished)
    assert last.figures["offset_px"][:2].tolist() == [0.0, 0.0]
    assert last.figures["offset_px"][2] == pytest.approx(2.75, abs=0.1)


def test_little_in_common_is_warned_of(tmp_path: Path) -> None:
    line = write_maps(tmp_path, (0.0, 0.0, 0.0))
    rod = np.zeros((32, 32, 32), np.float32)
    rod[:, 15:18, 15:18] = 1.0
    write_volume(tmp_path / "map.mrc", rod, 5.4)
    events = list(recenter(RecenterParams(mask=line[2], map=line[4])))
    assert any(isinstance(event, Message) and event.level == "warning" for event in events)


BAD = [
    ([], "nothing is to do"),
    (["--center_X", "1", "--center_A", "1", "2", "3"], "not both"),
    (["--center_A", "1", "2"], "three numbers"),
    (["--on_mask", "m.mrc", "--center_X", "1"], "go together"),
    (["--on_mask", "m.mrc", "--map", "a.mrc", "--center_X", "1"], "finds the centre"),
    (["--center_X", "1", "--apply"], "--apply goes with"),
    (["--center_X", "1", "--i", "none.star"], "does not exist"),
    (["--center_X", "1", "--o", "run"], "should end in .star"),
    (["--center_X", "1", "--operate", "rlnX"], "not what this job does"),
]


@pytest.mark.parametrize(("words", "text"), BAD)
def test_what_cannot_be_done_is_said_in_one_sentence(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = posed(tmp_path), tmp_path / "new.star"
    assert main(["recenter", "--i", str(source), "--o", str(target), *words]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run_data.star"]


@pytest.mark.parametrize(
    ("removed", "text"),
    [
        (["rlnAngleTilt"], "the column rlnAngleTilt is missing"),
        (["rlnAngleRot", "rlnOriginYAngst"], "the columns rlnAngleRot, rlnOriginYAngst are missing"),
    ],
)
def test_missing_columns_are_named(removed: list[str], text: str, tmp_path: Path) -> None:
    source = posed(tmp_path)
    tables = dict(read_star(source).tables)
    write_star(source, {**tables, "particles": particles_of(source).drop(columns=removed)})
    with pytest.raises(InputError, match=text):
        list(recenter(RecenterParams(particles=str(source), output=str(tmp_path / "n.star"), center_x_px=1.0)))


def test_an_unknown_pixel_size_is_asked_for(tmp_path: Path) -> None:
    source = posed(tmp_path)
    optics = read_star(source).loop("optics")
    assert optics is not None
    write_star(source, {"optics": optics.drop(columns="rlnImagePixelSize"), "particles": particles_of(source)})
    values = {"particles": str(source), "output": str(tmp_path / "n.star"), "center_x_px": 1.0}
    with pytest.raises(InputError, match="rlnImagePixelSize"):
        list(recenter(RecenterParams(**values)))
    list(recenter(RecenterParams(**values, ref_angpix=2.5)))
    write_star(source, {"particles": particles_of(source)})
    with pytest.raises(InputError, match="no optics groups"):
        list(recenter(RecenterParams(**{**values, "overwrite": True})))


def test_outputs_are_kept_and_never_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = posed(tmp_path), tmp_path / "new.star"
    line = ["recenter", "--i", str(source), "--center_X", "1", "--o"]
    assert main([*line, str(source), "--overwrite"]) == 2
    assert "the input itself" in capsys.readouterr().err
    assert main([*line, str(target)]) == 0
    assert main([*line, str(target)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*line, str(target), "--overwrite"]) == 0


BODY = phantom_and_mask()[1]
UNFIT = [
    ("mask.mrc", np.zeros_like(BODY), 5.4, "zero everywhere"),
    ("mask.mrc", np.ones_like(BODY), 5.4, "is 1 everywhere; give another mask"),
    ("mask.mrc", BODY[4:-4, 4:-4, 4:-4], 5.4, "autorefine rebox"),
    ("mask.mrc", BODY, 2.7, "--rescale_angpix 5.4"),
    ("mask.mrc", 3 * BODY, 5.4, "between 0 and 1"),
    ("map.mrc", BODY[4:-4], 5.4, "cubic"),
    ("map.mrc", np.ones_like(BODY), 5.4, "give another map"),
]


@pytest.mark.parametrize(("name", "values", "voxel_size_A", "text"), UNFIT)
def test_map_and_mask_that_cannot_be_compared(
    name: str, values: np.ndarray, voxel_size_A: float, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, source, target = write_maps(tmp_path, (0.0, 0.0, 1.0)), posed(tmp_path), tmp_path / "new.star"
    write_volume(tmp_path / name, values, voxel_size_A)
    assert main([*line, "--apply", "--i", str(source), "--o", str(target)]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert not target.exists()


def test_a_group_with_one_possible_centre_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*write_maps(tmp_path, (0.0, 0.0, 1.0)), "--sym", "D2"]) == 2
    assert "only one possible centre" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "recorded"), [("run_data.star", "centered.star"), ("run_data_z.star", "centered_z.star")]
)
def test_recorded_origins_of_relion(name: str, recorded: str, shared_data: Path, tmp_path: Path) -> None:
    folder, target = shared_data / "relion_jobs" / "extract", tmp_path / "new.star"
    assert main(["recenter", "--i", str(folder / name), "--o", str(target), *CENTER]) == 0
    found, wanted = particles_of(target), particles_of(folder / recorded)
    labels = [label for label in ORIGINS if label in wanted]
    assert [label for label in ORIGINS if label in found] == labels
    np.testing.assert_allclose(found[labels], wanted[labels], atol=1.1e-5)
    assert (found["rlnImageName"] == wanted["rlnImageName"]).all()
    assert_same_but_origins(target, folder / name)


def test_recorded_subtomograms_of_relion(shared_data: Path, tmp_path: Path) -> None:
    folder, target = shared_data / "sta_sim", tmp_path / "new.star"
    line = ["recenter", "--i", str(folder / "truth_sub3d.star"), "--o", str(target)]
    assert main([*line, "--center", "--center_X", "1.5", "--center_Y", "-2", "--center_Z", "2.75"]) == 0
    found, wanted = particles_of(target), particles_of(folder / "truth_sub3d_centered.star")
    np.testing.assert_allclose(found[list(ORIGINS)], wanted[list(ORIGINS)], atol=1.1e-5)


@pytest.mark.relion
def test_live_relion_agrees(relion: Path, tmp_path: Path) -> None:
    source, ours, theirs = posed(tmp_path, 40), tmp_path / "ours.star", tmp_path / "theirs.star"
    words = ["--center", "--center_X", "1.25", "--center_Y", "-8", "--center_Z", "2.75"]
    subprocess.run([relion / "relion_star_handler", "--i", source, "--o", theirs, *words], check=True,
                   capture_output=True)  # fmt: skip
    assert main(["recenter", "--i", str(source), "--o", str(ours), *words]) == 0
    found, wanted = particles_of(ours), particles_of(theirs)
    np.testing.assert_allclose(found[list(ORIGINS[:2])], wanted[list(ORIGINS[:2])], atol=1.1e-5)
    assert ORIGINS[2] not in found
    assert ORIGINS[2] not in wanted
