from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ParticleSet
from oracles import imaging
from oracles.phantoms import ASYMMETRIC, Phantom
from scipy.ndimage import distance_transform_edt
from scipy.spatial.transform import Rotation

from napari_autorefine.cli import main, parse
from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.masking import background_profile
from napari_autorefine.engine.registration import correlation_peak
from napari_autorefine.events import Finished, Progress
from napari_autorefine.io.mrc import read_volume, write_stack, write_volume
from napari_autorefine.io.star import read_star, write_star
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.reconstruct import ReconstructParams, map_names, reconstruct
from napari_autorefine.jobs.record import output_of
from napari_autorefine.model.symmetry import point_group

BOX, PIXEL_A = 24, 4.0


def projections(folder: Path, n: int = 200, *, phantom: Phantom = ASYMMETRIC, noise: float = 0.0) -> Path:
    """Write projections without CTF, with poses, half-sets, classes and figures of merit."""
    rng = np.random.default_rng(1)
    euler = -Rotation.random(n, random_state=2).inv().as_euler("ZYZ", degrees=True)[:, ::-1]
    origin = np.round(rng.normal(0, 4, (n, 2)), 6)
    images = [
        phantom.image(imaging.rotation(e), o, BOX, PIXEL_A) for e, o in zip(np.round(euler, 6), origin, strict=True)
    ]
    stack = np.array(images) + noise * np.std(images) * rng.standard_normal((n, BOX, BOX))
    write_stack(folder / "p.mrcs", stack.astype(np.float32), PIXEL_A)
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "og1", "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7,
              "rlnAmplitudeContrast": 0.1, "rlnImagePixelSize": PIXEL_A, "rlnImageSize": BOX,
              "rlnImageDimensionality": 2}  # fmt: skip
    particles = pd.DataFrame({
        "rlnImageName": np.array([f"{i + 1:06d}@p.mrcs" for i in range(n)], object),
        **dict(zip(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"), np.round(euler, 6).T, strict=True)),
        "rlnOriginXAngst": origin[:, 0], "rlnOriginYAngst": origin[:, 1],
        "rlnOpticsGroup": 1, "rlnRandomSubset": np.arange(n) % 2 + 1, "rlnClassNumber": np.arange(n) % 5 // 4 + 1,
        "rlnParticleFigureOfMerit": 0.5,
    })  # fmt: skip
    write_star(folder / "p.star", {"optics": pd.DataFrame({k: [v] for k, v in optics.items()}), "particles": particles})
    return folder / "p.star"


def change(star: Path, drop: tuple[str, ...] = (), **columns: object) -> None:
    tables = dict(read_star(star).tables)
    table = tables["particles"]
    assert isinstance(table, pd.DataFrame)
    write_star(star, {**tables, "particles": table.drop(columns=list(drop)).assign(**columns)})


def line(star: Path, target: Path, *more: str) -> list[str]:
    return ["reconstruct", "--i", str(star), "--o", str(target), "--no_ctf", "--j", "2", *more]


def data(path: Path) -> np.ndarray:
    return read_volume(path).data


def test_the_map_is_that_of_the_projections(tmp_path: Path) -> None:
    target = tmp_path / "out" / "map.mrc"
    assert main(line(projections(tmp_path), target)) == 0
    made, truth = read_volume(target), ASYMMETRIC.map(BOX, PIXEL_A)
    assert made.voxel_size_A == pytest.approx(PIXEL_A)
    assert fsc(made.data, truth)[:9].min() > 0.99
    inside = truth > 0.2 * truth.max()
    assert np.polyfit(truth[inside], made.data[inside], 1)[0] == pytest.approx(1.0, abs=0.05)
    record = json.loads((tmp_path / "out" / "map_params.json").read_text())
    assert record["outputs"] == {"map": str(target)}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["map.mrc", "map_params.json"]


def test_half_maps_have_the_names_that_post_processing_looks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = projections(tmp_path, noise=1.0)
    assert main(line(star, tmp_path / "run", "--half-maps")) == 0
    assert "half-maps agree to" in capsys.readouterr().out
    halves = [tmp_path / f"run_half{half}_class001_unfil.mrc" for half in (1, 2)]
    names = map_names(ReconstructParams(particles="p.star", output="job/run_class001.mrc", halves=True))
    assert names.halves[0] == "job/run_half1_class001_unfil.mrc"
    for half, path in enumerate(halves, start=1):
        assert main(line(star, tmp_path / "one.mrc", "--subset", str(half), "--overwrite")) == 0
        np.testing.assert_array_equal(data(tmp_path / "one.mrc"), data(path))
    assert main(line(star, tmp_path / "all.mrc")) == 0
    np.testing.assert_allclose(data(tmp_path / "run.mrc"), data(tmp_path / "all.mrc"), atol=1e-4)
    (tmp_path / "one_params.json").unlink()
    (tmp_path / "all_params.json").unlink()
    assert output_of(tmp_path, "half2") == str(halves[1])


def test_resolution_and_progress_are_events(tmp_path: Path) -> None:
    star = projections(tmp_path, noise=3.0)
    params = ReconstructParams(particles=str(star), output=str(tmp_path / "map.mrc"), ctf=False, halves=True)
    events = list(reconstruct(params))
    last = events[-1]
    assert isinstance(last, Finished)
    curve = last.figures["fsc"]
    first = int(np.argmax(curve < 0.143))
    assert last.figures["resolution_A"] == pytest.approx(BOX * PIXEL_A / (first - 1))
    stages = {event.stage for event in events if isinstance(event, Progress)}
    assert {"half-set 1", "half-set 2"} <= stages
    counted = [event for event in events if isinstance(event, Progress) and event.stage == "half-set 2"]
    assert counted[-1].done == counted[-1].total == 100
    assert all(event.seconds_left is not None for event in counted)


def test_threads_change_no_bit(tmp_path: Path) -> None:
    star = projections(tmp_path, 60)
    for threads in ("1", "3"):
        assert main(line(star, tmp_path / f"{threads}.mrc", "--j", threads)) == 0
    np.testing.assert_array_equal(data(tmp_path / "1.mrc"), data(tmp_path / "3.mrc"))


def test_other_boxes_and_pixel_sizes_show_the_same_density(tmp_path: Path) -> None:
    star = projections(tmp_path)
    for number, (box, voxel_A) in enumerate([(20, 4.0), (40, 4.0), (32, 3.0), (16, 6.0)]):
        target = tmp_path / f"{number}.mrc"
        assert main(line(star, target, "--newbox", str(box), "--angpix", str(voxel_A))) == 0
        made, truth = read_volume(target), ASYMMETRIC.map(box, voxel_A)
        assert made.data.shape == (box,) * 3
        assert made.voxel_size_A == pytest.approx(voxel_A)
        last = int(0.75 * BOX / 2 * min(1.0, box * voxel_A / (BOX * PIXEL_A)) * min(1.0, PIXEL_A / voxel_A))
        assert fsc(made.data, truth)[: last + 1].min() > 0.97, (box, voxel_A)
        if voxel_A == PIXEL_A:
            inside = truth > 0.3 * truth.max()
            assert np.polyfit(truth[inside], made.data[inside], 1)[0] == pytest.approx(1.0, abs=0.1)


def test_classes_symmetry_limits_and_weights_are_used(tmp_path: Path) -> None:
    group = point_group("C3")
    star = projections(tmp_path, 40, phantom=ASYMMETRIC.symmetrized(group.operators), noise=0.5)
    truth = ASYMMETRIC.symmetrized(group.operators).map(BOX, PIXEL_A)
    maps = {}
    options = {"c1": [], "c3": ["--sym", "C3"], "limit": ["--maxres", "16"], "class": ["--class", "1"],
               "fom": ["--fom_weighting"], "grid": ["--dont_skip_gridding"], "pad": ["--pad", "1"]}  # fmt: skip
    for name, words in options.items():
        assert main(line(star, tmp_path / f"{name}.mrc", *words)) == 0
        maps[name] = data(tmp_path / f"{name}.mrc")
    assert fsc(maps["c3"], truth)[3:9].mean() > fsc(maps["c1"], truth)[3:9].mean()
    power = [np.abs(np.fft.rfftn(maps[name])[:, 8:16, :]).mean() for name in ("c1", "limit")]
    assert power[1] < 0.2 * power[0]
    np.testing.assert_allclose(maps["fom"], maps["c1"], atol=1e-5)
    for name in ("class", "grid", "pad"):
        assert 0.5 < np.corrcoef(maps[name].ravel(), maps["c1"].ravel())[0, 1] < 0.999999, name


def test_an_fsc_file_filters_the_map_but_not_the_half_maps(tmp_path: Path) -> None:
    star, curve = projections(tmp_path, noise=2.0), tmp_path / "fsc.star"
    columns = {"rlnSpectralIndex": np.arange(13), "rlnGoldStandardFsc": np.where(np.arange(13) < 6, 0.9, 0.0)}
    write_star(curve, {"model_class_1": pd.DataFrame(columns)})
    assert main(line(star, tmp_path / "plain.mrc", "--halves")) == 0
    assert main(line(star, tmp_path / "filtered.mrc", "--halves", "--fsc", str(curve))) == 0
    for part, same in (("", False), ("_half1_class001_unfil", True)):
        plain, filtered = (data(tmp_path / f"{name}{part}.mrc") for name in ("plain", "filtered"))
        assert np.array_equal(plain, filtered) is same
    high = [np.abs(np.fft.rfftn(data(tmp_path / f"{n}.mrc"))[:, 9:15, :]).mean() for n in ("plain", "filtered")]
    assert high[1] < 0.1 * high[0]
    write_star(curve, {"x": pd.DataFrame({"a": [1]})})
    assert main(line(star, tmp_path / "n.mrc", "--fsc", str(curve))) == 2


def test_damaged_images_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = projections(tmp_path, 20)
    with open(tmp_path / "p.mrcs", "r+b") as file:
        file.seek(1024 + 4 * BOX * BOX * 2)
        file.write(np.full(4, np.nan, np.float32).tobytes())
    assert main(line(star, tmp_path / "map.mrc")) == 0
    assert "1 of 20 images hold NaN or Inf and are left out (rows 3 of" in capsys.readouterr().out
    assert np.isfinite(data(tmp_path / "map.mrc")).all()


def test_recentred_particles_give_a_map_that_sits_on_the_mask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shift = np.array([-1.2, 0.8, 2.75])
    off = Phantom(centers_A=ASYMMETRIC.centers_A + shift * PIXEL_A, heights=ASYMMETRIC.heights)
    density = ASYMMETRIC.map(BOX, PIXEL_A)
    distance = distance_transform_edt(density < 0.15 * density.max())
    write_volume(tmp_path / "mask.mrc", (1 - background_profile(distance, 1.0, 2.0)).astype(np.float32), PIXEL_A)
    first, again = tmp_path / "first" / "map.mrc", tmp_path / "again" / "map.mrc"
    star = projections(tmp_path, 300, phantom=off)
    assert main(line(star, first)) == 0
    compare = ["recenter", "--on-mask", str(tmp_path / "mask.mrc"), "--map", str(first.parent)]
    moved = tmp_path / "centred" / "particles.star"
    assert main([*compare, "--apply", "--i", str(star), "--o", str(moved)]) == 0
    shutil.copy(tmp_path / "p.mrcs", moved.parent / "p.mrcs")
    assert main(line(moved.parent, again)) == 0
    where = [
        correlation_peak(np.fft.rfftn(data(path)) * np.conj(np.fft.rfftn(density)), BOX)[1] for path in (first, again)
    ]
    np.testing.assert_allclose(where[0], shift, atol=0.05)
    np.testing.assert_allclose(where[1], 0, atol=0.12)
    capsys.readouterr()
    compare[4] = str(again.parent)
    assert main(compare) == 0
    words = capsys.readouterr().out.split("To recentre particles:")[1].split()
    np.testing.assert_allclose([float(word) for word in words[1:6:2]], 0, atol=0.06)


BAD = [
    (["--sym", "D0"], "Symmetry 'D0' is not known"),
    (["--newbox", "25"], "newbox must be even"),
    (["--subset", "1", "--halves"], "--subset must be left out"),
    (["--class", "9"], "no particle in class 9"),
    (["--ctf"], "lacks the column rlnDefocusU"),
    (["--i", "none.star"], "does not exist"),
    (["--o", "."], "is a folder"),
    (["--ewald"], "Ewald"),
    (["--fsc", "none.star"], "does not exist"),
    (["--pad", "0"], "pad must be at least 1"),
]


@pytest.mark.parametrize(("words", "text"), BAD)
def test_what_cannot_be_done_is_said_in_one_sentence(
    words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = projections(tmp_path, 6)
    assert main(line(star, tmp_path / "map.mrc", *words)) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.mrcs", "p.star"]


@pytest.mark.parametrize(
    ("drop", "words", "text"),
    [
        (("rlnAngleTilt",), [], "the column rlnAngleTilt is missing"),
        (("rlnOriginXAngst", "rlnOriginYAngst"), [], "the columns rlnOriginXAngst, rlnOriginYAngst are missing"),
        (("rlnRandomSubset",), ["--halves"], "rlnRandomSubset is missing"),
        (("rlnRandomSubset",), ["--subset", "2"], "rlnRandomSubset is missing"),
        (("rlnClassNumber",), ["--class", "1"], "rlnClassNumber is missing"),
        (("rlnParticleFigureOfMerit",), ["--fom_weighting"], "rlnParticleFigureOfMerit is missing"),
    ],
)
def test_missing_columns_are_named(
    drop: tuple[str, ...], words: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = projections(tmp_path, 6)
    change(star, drop)
    assert main(line(star, tmp_path / "map.mrc", *words)) == 2
    assert text in capsys.readouterr().err


def test_an_empty_half_set_and_a_missing_stack_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = projections(tmp_path, 6)
    change(star, rlnRandomSubset=1)
    assert main(line(star, tmp_path / "map.mrc", "--halves")) == 2
    assert "leaves half-set 2 without particles" in capsys.readouterr().err
    (tmp_path / "p.mrcs").unlink()
    assert main(line(star, tmp_path / "map.mrc")) == 2
    assert "p.mrcs does not exist" in capsys.readouterr().err
    assert not (tmp_path / "map.mrc").exists()


def test_images_of_a_stack_are_no_subtomograms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = projections(tmp_path, 6)
    tables = dict(read_star(star).tables)
    optics = tables["optics"]
    assert isinstance(optics, pd.DataFrame)
    write_star(star, {**tables, "optics": optics.assign(rlnImageDimensionality=3)})
    assert main(line(star, tmp_path / "map.mrc")) == 2
    assert "particles of tomograms have a file each" in capsys.readouterr().err


def test_existing_maps_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = projections(tmp_path, 6)
    (tmp_path / "map_half2_class001_unfil.mrc").write_text("old")
    assert main(line(star, tmp_path / "map.mrc", "--halves")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert not (tmp_path / "map.mrc").exists()
    assert main(line(star, tmp_path / "map.mrc", "--halves", "--overwrite")) == 0


def test_old_particles_without_poses_are_refused(particle_set: ParticleSet) -> None:
    assert main(["reconstruct", "--i", str(particle_set.star), "--o", str(particle_set.folder / "m.mrc")]) == 2


def test_a_line_of_relion_is_understood() -> None:
    words = (
        "--i Refine3D/job019/run_data.star --o Reconstruct/job020/map.mrc --sym D2 --maxres -1 --pad 2 --subset -1"
        " --class -1 --angpix -1 --newbox -1 --ctf --skip_gridding --blob_r 1.9 --verb 1 --pipeline_control x/"
    )
    params, _ = parse(JOBS["reconstruct"], words.split())
    assert isinstance(params, ReconstructParams)
    assert (params.symmetry, params.maxres_A, params.subset, params.voxel_size_A) == ("D2", None, None, None)
    assert params.ctf and params.skip_gridding


@pytest.mark.parametrize(
    ("recorded", "words"),
    [
        ("c1.mrc", []),
        ("run_half1_class001_unfil.mrc", ["--sym", "C4", "--subset", "1"]),
        ("run_half2_class001_unfil.mrc", ["--sym", "C4", "--subset", "2"]),
    ],
)
def test_recorded_maps_of_relion(recorded: str, words: list[str], shared_data: Path, tmp_path: Path) -> None:
    folder, target = shared_data / "relion_jobs" / "reconstruct", tmp_path / "map.mrc"
    start = ["reconstruct", "--i", str(folder / "truth.star"), "--o", str(target), "--ctf", "--skip_gridding"]
    assert main([*start, "--angpix", "3.601", *words]) == 0
    made, wanted = data(target), data(folder / recorded)
    assert np.sqrt(np.mean((made - wanted) ** 2)) < 1e-4 * wanted.std()


def test_recorded_half_maps_come_from_one_call(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "relion_jobs" / "reconstruct"
    start = ["reconstruct", "--i", str(folder / "truth.star"), "--o", str(tmp_path / "run.mrc")]
    assert main([*start, "--angpix", "3.601", "--sym", "C4", "--halves"]) == 0
    for half in (1, 2):
        name = f"run_half{half}_class001_unfil.mrc"
        made, wanted = data(tmp_path / name), data(folder / name)
        assert np.sqrt(np.mean((made - wanted) ** 2)) < 1e-4 * wanted.std()


@pytest.mark.relion
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--sym", "D2"],
        ["--ctf_phase_flipped"],
        ["--only_flip_phases", "--pad", "1", "--maxres", "14"],
        ["--ctf_intact_first_peak", "--angpix", "3.4"],
        ["--fom_weighting", "--subset", "1"],
    ],
)
def test_live_relion_makes_the_same_map(words: list[str], relion: Path, tmp_path: Path) -> None:
    star = projections(tmp_path, 150)
    rng = np.random.default_rng(4)
    defocus = rng.uniform(8e3, 2e4, 150)
    change(star, rlnDefocusU=defocus + 300, rlnDefocusV=defocus, rlnDefocusAngle=rng.uniform(0, 180, 150),
           rlnParticleFigureOfMerit=rng.uniform(0.1, 1, 150))  # fmt: skip
    words = ["--ctf", "--skip_gridding", *(words if "--angpix" in words else [*words, "--angpix", "4.001"])]
    subprocess.run([relion / "relion_reconstruct", "--i", star.name, "--o", "theirs.mrc", *words], cwd=tmp_path,
                   check=True, capture_output=True)  # fmt: skip
    assert main(["reconstruct", "--i", str(star), "--o", str(tmp_path / "ours.mrc"), *words]) == 0
    ours, theirs = data(tmp_path / "ours.mrc"), data(tmp_path / "theirs.mrc")
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 2e-4 * theirs.std()
    assert fsc(ours, theirs)[: int(0.9 * BOX / 2) + 1].min() > (0.99 if "--maxres" not in words else -1.0)
