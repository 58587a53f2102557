from __future__ import annotations

import bz2
import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ParticleSet
from napari.layers import Layer

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_stack, write_volume
from napari_autorefine.io.tables import write_star
from napari_autorefine.ui import layers_of_maps, readers
from napari_autorefine.ui.lazy import LazyArray
from napari_autorefine.ui.readers import get_reader, read_folder, read_mrc, read_paths, read_star_file

OnMicrographs = Callable[[int], Path]
RNG = np.random.default_rng(7)


def _ball(box: int = 24, radius: float = 7.0) -> np.ndarray:
    axis = np.arange(box) - box // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[None, :, None] ** 2 + axis[None, None, :] ** 2)
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


def _own(layer: Any) -> dict[str, Any]:
    """What a layer remembers; sees to it that napari takes the layer, too."""
    created = Layer.create(*layer)
    own: dict[str, Any] = created.metadata["autorefine"]
    assert {"path", "kind", "voxel_size_A"} <= own.keys()
    return own


def _map(path: Path, scale: float = 3.0, noise: float = 0.02) -> Path:
    data = _ball() * scale + RNG.normal(0, noise, (24,) * 3).astype(np.float32)
    write_volume(path, data, 2.5)
    return path


# maps


def test_a_map_opens_in_the_world_frame_with_contrast_and_threshold(tmp_path: Path) -> None:
    ((data, arguments, kind),) = read_mrc(_map(tmp_path / "volume.mrc"))
    assert kind == "image" and data.dtype == np.float32
    assert arguments["scale"] == (2.5, 2.5, 2.5) and arguments["translate"] == (-30.0, -30.0, -30.0)
    assert arguments["units"] == ("angstrom",) * 3 and arguments["axis_labels"] == ("z", "y", "x")
    low, high = arguments["contrast_limits"]
    assert abs(low) < 0.1 and 2.5 < high < 3.2
    assert 0.5 < arguments["iso_threshold"] < 2.5
    own = _own((data, arguments, kind))
    assert own["kind"] == "map" and own["voxel_size_A"] == 2.5 and own["path"] == str(tmp_path / "volume.mrc")


def test_one_wild_voxel_does_not_spoil_the_contrast(tmp_path: Path) -> None:
    data = _ball()
    data[1, 1, 1] = 1e6
    write_volume(tmp_path / "wild.mrc", data, 1.0)
    ((_, arguments, _),) = read_mrc(tmp_path / "wild.mrc")
    assert arguments["contrast_limits"][1] < 1000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("run_half1_class001_unfil.mrc", "half1"),
        ("run_it012_half2_class001.mrc", "half2"),
        ("emd_1234_half_map_1.map", "half1"),
        ("J12_map_half_B.mrc", "half2"),
        ("run_class001.mrc", "joined"),
        ("postprocess_masked.mrc", "joined"),
        ("reference.mrc", "reference"),
        ("ribosome.mrc", "map"),
        ("preferred.mrc", "map"),
    ],
)
def test_maps_are_recognised_by_name(tmp_path: Path, name: str, kind: str) -> None:
    assert _own(read_mrc(_map(tmp_path / name))[0])["kind"] == kind


def test_roles_have_colors_of_their_own(tmp_path: Path) -> None:
    names = ["run_half1_class001.mrc", "run_half2_class001.mrc", "run_class001.mrc", "reference.mrc"]
    colors = [tuple(read_mrc(_map(tmp_path / name))[0][1]["colormap"].colors[-1]) for name in names]
    assert len(set(colors)) == len(colors)


def test_a_mask_is_recognised_by_its_values_and_is_a_veil(tmp_path: Path) -> None:
    write_volume(tmp_path / "solvent.mrc", _ball(), 2.0)
    ((_, arguments, _),) = layer = read_mrc(tmp_path / "solvent.mrc")
    assert _own(layer[0])["kind"] == "mask"
    assert arguments["iso_threshold"] == 0.5 and arguments["opacity"] < 0.5
    assert arguments["colormap"].colors[0][3] == 0.0  # nothing where the mask is 0


def test_a_map_called_mask_is_shown_as_a_map_and_the_user_told(tmp_path: Path, notices: list[tuple[str, str]]) -> None:
    assert _own(read_mrc(_map(tmp_path / "my_mask.mrc"))[0])["kind"] == "map"
    assert any("called a mask" in text for _, text in notices)


@pytest.mark.parametrize(("ending", "packed"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_maps_open(tmp_path: Path, ending: str, packed: Any) -> None:
    plain = _map(tmp_path / "plain.map")
    (tmp_path / f"packed.map{ending}").write_bytes(packed(plain.read_bytes()))
    ((data, arguments, _),) = read_mrc(tmp_path / f"packed.map{ending}")
    np.testing.assert_array_equal(data, read_mrc(plain)[0][0])
    assert arguments["name"] == "packed"


def test_nan_is_shown_as_zero_and_told(tmp_path: Path, notices: list[tuple[str, str]]) -> None:
    data = _ball() * 3
    write_volume(tmp_path / "bad.mrc", data, 1.0)
    content = bytearray((tmp_path / "bad.mrc").read_bytes())
    content[1024:1028] = np.float32(np.nan).tobytes()
    (tmp_path / "bad.mrc").write_bytes(content)
    ((shown, _, _),) = read_mrc(tmp_path / "bad.mrc")
    assert np.isfinite(shown).all()
    assert any("1 voxels that are NaN" in text for _, text in notices)


def test_a_header_without_pixel_size_gives_one_angstrom_and_says_so(
    tmp_path: Path, notices: list[tuple[str, str]]
) -> None:
    write_volume(tmp_path / "none.mrc", _ball() * 3, 0.0)
    assert read_mrc(tmp_path / "none.mrc")[0][1]["scale"] == (1.0, 1.0, 1.0)
    assert any("no pixel size" in text for _, text in notices)


def test_the_job_folder_is_part_of_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "Refine3D" / "job029"
    folder.mkdir(parents=True)
    assert read_mrc(_map(folder / "run_class001.mrc"))[0][1]["name"] == "job029/run_class001"


# stacks


def test_a_stack_is_not_read_before_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.mrcs"
    n, box = 400_000, 256
    write_stack(path, np.zeros((1, box, box), np.float32), 1.5)
    header = bytearray(path.read_bytes()[:1024])
    header[8:12] = np.int32(n).tobytes()
    with open(path, "wb") as file:  # 105 GB, of which the disc holds a header
        file.write(header)
        file.truncate(1024 + 4 * n * box * box)
    ((data, arguments, _),) = read_mrc(path)
    assert isinstance(data, LazyArray) and data.shape == (n, 1, box, box)
    assert data[n - 1].shape == (1, box, box)
    assert arguments["axis_labels"] == ("particle", "z", "y", "x")
    assert arguments["scale"][1:] == (384.0, 1.5, 1.5)


@pytest.mark.parametrize("half_precision", [False, True])
def test_slices_of_a_stack_are_its_images(tmp_path: Path, half_precision: bool) -> None:
    images = RNG.standard_normal((5, 12, 12)).astype(np.float32)
    write_stack(tmp_path / "a.mrcs", images, 2.0, half_precision=half_precision)
    ((data, _, _),) = read_mrc(tmp_path / "a.mrcs")
    assert data[0].dtype == np.float32
    np.testing.assert_allclose(data[2, 0], images[2], atol=2e-3 if half_precision else 0)
    np.testing.assert_allclose(data[1:4, :, 3, ::2], images[1:4, None, 3, ::2], atol=2e-3)
    np.testing.assert_allclose(np.asarray(data)[:, 0], images, atol=2e-3)


def test_a_tilt_series_counts_tilts_and_a_tomogram_is_read_by_sections(tmp_path: Path) -> None:
    write_stack(tmp_path / "TS_01.st", RNG.standard_normal((7, 16, 20)).astype(np.float32), 2.7)
    write_volume(tmp_path / "TS_01.rec", RNG.standard_normal((10, 16, 20)).astype(np.float32), 10.0)
    tilts, tomogram = read_mrc(tmp_path / "TS_01.st")[0], read_mrc(tmp_path / "TS_01.rec")[0]
    assert tilts[1]["axis_labels"][0] == "tilt" and _own(tilts)["kind"] == "tilts"
    assert isinstance(tomogram[0], LazyArray) and tomogram[0].shape == (10, 16, 20)
    assert _own(tomogram)["kind"] == "tomogram" and tomogram[1]["translate"] == (-50.0, -80.0, -100.0)


def test_lazy_arrays_are_indexed_as_arrays_are() -> None:
    full = RNG.standard_normal((4, 3, 5, 6)).astype(np.float32)
    lazy = LazyArray((4, 3), (5, 6), lambda at: full[at])
    for key in (1, -1, (2, 1), (slice(1, 3), 0), (Ellipsis, 2), (slice(None), slice(0, 1), slice(None), slice(2, 4))):
        np.testing.assert_array_equal(lazy[key], full[key])
    assert lazy.ndim == 4 and lazy.size == full.size and len(lazy) == 4
    with pytest.raises(IndexError):
        lazy[4]


def test_too_much_at_once_is_refused() -> None:
    lazy = LazyArray((10**6,), (1, 512, 512), lambda at: np.zeros((1, 512, 512), np.float32))
    with pytest.raises(InputError, match="at once"):
        lazy[...]


# STAR files


def test_particles_open_in_the_order_of_the_star_file(particle_set: ParticleSet) -> None:
    head, rows = particle_set.star.read_text().split("_rlnDefocusAngle #6\n")
    lines = rows.strip().split("\n")
    particle_set.star.write_text(f"{head}_rlnDefocusAngle #6\n" + "\n".join(lines[::-1]) + "\n")
    ((data, arguments, _),) = read_star_file(particle_set.star)
    first = read_mrc(particle_set.stacks[1])[0][0]
    np.testing.assert_array_equal(data[0], first[5])
    assert data.shape == (12, 1, 16, 16) and arguments["scale"] == (1.0, 48.0, 3.0, 3.0)
    assert _own((data, arguments, "image"))["kind"] == "particles"


def test_coordinates_open_on_their_micrographs_with_every_column(
    particle_set: ParticleSet, on_micrographs: OnMicrographs
) -> None:
    micrographs, points, images = read_star_file(on_micrographs(2))
    assert micrographs[0].shape == (2, 1, 40, 64) and points[2] == "points"
    np.testing.assert_array_equal(points[0][:, 0], [0] * 6 + [1] * 6)
    np.testing.assert_array_equal(points[0][:, 3], np.arange(12) * 5.0)
    np.testing.assert_array_equal(points[0][:, 2], np.arange(12) * 3.0)
    assert {"rlnDefocusU", "rlnMicrographName"} <= set(points[1]["features"].columns)
    assert micrographs[1]["scale"] == points[1]["scale"] == (1.0, 96.0, 1.5, 1.5)
    assert not images[1]["visible"] and images[0].shape == (12, 1, 1, 16, 16)
    assert images[1]["axis_labels"] == ("particle", "micrograph", "z", "y", "x")
    np.testing.assert_array_equal(images[0][7, 0, 0], read_mrc(particle_set.stacks[1])[0][0][1, 0])
    assert [_own(layer)["kind"] for layer in (micrographs, points, images)] == [
        "micrographs",
        "coordinates",
        "particles",
    ]


def test_a_missing_micrograph_is_blank_and_told(on_micrographs: OnMicrographs, notices: list[tuple[str, str]]) -> None:
    micrographs, *_ = read_star_file(on_micrographs(1))
    assert not micrographs[0][1].any() and micrographs[0][0].any()
    assert any("1 of 2 micrographs are missing" in text for _, text in notices)


def test_images_are_found_from_the_folder_of_the_project(
    particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = particle_set.folder / "Refine3D" / "job004"
    job.mkdir(parents=True)
    particle_set.star.rename(job / "run_data.star")
    monkeypatch.chdir("/")
    ((data, _, _),) = read_star_file(job / "run_data.star")
    assert data[0].any()


def test_missing_stacks_are_one_sentence(particle_set: ParticleSet) -> None:
    for path in particle_set.stacks:
        path.unlink()
    with pytest.raises(InputError, match=r"none of its 2 image files is there, the first is a.mrcs"):
        read_star_file(particle_set.star)


def test_a_coordinate_file_finds_its_micrograph(tmp_path: Path) -> None:
    from napari_autorefine.io.mrc import write_image

    folder = tmp_path / "MotionCorr" / "job002"
    folder.mkdir(parents=True)
    write_image(folder / "mic1.mrc", RNG.standard_normal((30, 30)).astype(np.float32), 2.0)
    picks = tmp_path / "AutoPick" / "job005" / "mic1_autopick.star"
    table = pd.DataFrame({"rlnCoordinateX": [1.0, 20.0], "rlnCoordinateY": [3.0, 4.0], "rlnAutopickFigureOfMerit": 0.5})
    write_star(picks, {"": table})
    image, points = read_star_file(picks)
    assert image[0].shape == (30, 30) and image[1]["translate"] == (0.0, 0.0)
    np.testing.assert_array_equal(points[0], [[3.0, 1.0], [4.0, 20.0]])
    assert points[1]["scale"] == (2.0, 2.0) and "rlnAutopickFigureOfMerit" in points[1]["features"]


def test_micrographs_open_as_a_series_with_the_picks_they_name(tmp_path: Path) -> None:
    from napari_autorefine.io.mrc import write_image

    for name in ("m1", "m2"):
        write_image(tmp_path / f"{name}.mrc", RNG.standard_normal((20, 20)).astype(np.float32), 2.0)
        write_star(tmp_path / f"{name}.star", {"": pd.DataFrame({"rlnCoordinateX": [5.0], "rlnCoordinateY": [6.0]})})
    names = pd.Series(["m1.mrc", "m2.mrc"], dtype=object)
    picks = pd.Series(["m1.star", "m2.star"], dtype=object)
    write_star(tmp_path / "plain.star", {"micrographs": pd.DataFrame({"rlnMicrographName": names})})
    table = pd.DataFrame({"rlnMicrographName": names, "rlnMicrographCoordinates": picks})
    write_star(tmp_path / "autopick.star", {"coordinate_files": table})
    ((data, _, _),) = read_star_file(tmp_path / "plain.star")
    assert data.shape == (2, 1, 20, 20)
    _, points = read_star_file(tmp_path / "autopick.star")
    np.testing.assert_array_equal(points[0], [[0, 0, 6, 5], [1, 0, 6, 5]])


def test_an_optimisation_set_opens_tomograms_coordinates_and_maps(tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        write_volume(tmp_path / f"{name}.mrc", RNG.standard_normal((6, 10, 12)).astype(np.float32), 8.0)
    write_volume(tmp_path / "mask.mrc", _ball(), 2.0)
    names = pd.Series(["TS_1", "TS_2"], dtype=object)
    volumes = pd.Series(["t1.mrc", "t2.mrc"], dtype=object)
    tomograms = {"rlnTomoName": names, "rlnTomoReconstructedTomogram": volumes}
    write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame(tomograms)})
    centered = {f"rlnCenteredCoordinate{axis}Angst": [float(at), 8.0] for at, axis in enumerate("XYZ")}
    write_star(tmp_path / "picks.star", {"particles": pd.DataFrame({"rlnTomoName": names, **centered})})
    entries = {"rlnTomoParticlesFile": "picks.star", "rlnTomoTomogramsFile": "tomograms.star"}
    write_star(tmp_path / "optimisation_set.star", {"": {**entries, "rlnTomoReferenceMaskFile": "mask.mrc"}})
    volumes_layer, points, mask = read_folder(tmp_path)
    assert volumes_layer[0].shape == (2, 6, 10, 12) and volumes_layer[1]["translate"] == (0.0, -24.0, -40.0, -48.0)
    world = Layer.create(*points).data * points[1]["scale"]
    np.testing.assert_allclose(world, [[0, 2, 1, 0], [1, 8, 8, 8]])
    assert [_own(layer)["kind"] for layer in (volumes_layer, points, mask)] == ["tomogram", "coordinates_3d", "mask"]


def _run(folder: Path, *, is_finished: bool) -> Path:
    """Write the names of a refinement of two iterations, and its maps."""
    folder.mkdir(parents=True)
    _map(folder / "solvent_mask.mrc")
    for iteration in ("_it001", "_it002"):
        for half in (1, 2):
            _map(folder / f"run{iteration}_half{half}_class001.mrc")
        general = {"rlnOutputRootName": "Refine3D/job003/run", "rlnSolventMaskName": "Refine3D/job003/solvent_mask.mrc"}
        write_star(folder / f"run{iteration}_optimiser.star", {"optimiser_general": general})
    if is_finished:
        _map(folder / "run_class001.mrc")
        for half in (1, 2):
            _map(folder / f"run_half{half}_class001_unfil.mrc")
        write_star(folder / "run_optimiser.star", {"optimiser_general": general})
    return folder


def test_the_folder_of_a_running_refinement_opens_the_newest_half_maps_and_the_mask(tmp_path: Path) -> None:
    layers = read_folder(_run(tmp_path / "Refine3D" / "job003", is_finished=False))
    assert [_own(layer)["kind"] for layer in layers] == ["half2", "half1", "mask"]
    assert [layer[1].get("visible", True) for layer in layers] == [True, True, False]
    run = _own(layers[0])["run"]
    assert run["iteration"] == 2 and run["prefix"].endswith("job003/run")
    assert layers[1][1]["name"] == "job003/run it002 half 1"


def test_the_folder_of_a_finished_refinement_opens_the_joined_map_first(tmp_path: Path) -> None:
    layers = read_folder(_run(tmp_path / "Refine3D" / "job003", is_finished=True))
    visible = [_own(layer)["kind"] for layer in layers if layer[1].get("visible", True)]
    assert visible == ["joined"] and len(layers) == 4
    assert _own(layers[0])["run"]["iteration"] is None


def test_an_iteration_opens_by_its_optimiser_file(tmp_path: Path) -> None:
    folder = _run(tmp_path / "Refine3D" / "job003", is_finished=True)
    layers = read_star_file(folder / "run_it001_optimiser.star")
    assert _own(layers[0])["run"]["iteration"] == 1


def test_star_files_without_anything_to_show_say_what_they_are(tmp_path: Path) -> None:
    write_star(tmp_path / "model.star", {"model_general": {"rlnPixelSize": 1.0}})
    with pytest.raises(InputError, match=r"model\.star holds the statistics of a refinement: open its _optimiser"):
        read_star_file(tmp_path / "model.star")


# the functions that napari calls


def test_get_reader_is_cheap_and_never_raises(tmp_path: Path) -> None:
    assert get_reader(str(tmp_path / "not_there.mrc")) is not None
    assert get_reader(str(tmp_path / "not_there.tif")) is None
    assert get_reader(str(tmp_path)) is None
    assert get_reader([]) is None
    assert get_reader("\0.tif") is None
    started = time.perf_counter()
    for _ in range(1000):
        get_reader("/somewhere/a.star")
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("content", [b"", b"junk", b"\0" * 2000])
@pytest.mark.parametrize("name", ["a.mrc", "a.star", "a.mrcs", "a.map.gz"])
def test_bad_files_are_one_notification_and_no_exception(
    tmp_path: Path, notices: list[tuple[str, str]], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert read_paths(str(tmp_path / name)) == [(None,)]
    ((severity, sentence),) = notices
    assert severity == "error" and "\n" not in sentence and name in sentence and str(tmp_path) not in sentence


def test_several_files_open_together(tmp_path: Path) -> None:
    paths = [str(_map(tmp_path / f"run_half{half}_class001.mrc")) for half in (1, 2)]
    reader = get_reader(paths)
    assert reader is not None and len(reader(paths)) == 2


def test_large_star_files_do_not_hold_up_the_window(
    make_viewer: Any, qtbot: Any, on_micrographs: OnMicrographs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari_autorefine.ui import background

    monkeypatch.setattr(readers, "_LARGE_BYTES", 10)
    monkeypatch.setattr(background, "_MANY_POINTS", 5)
    path = on_micrographs(2)
    viewer = make_viewer()
    assert viewer.open(str(path), plugin="napari-autorefine") == []
    qtbot.waitUntil(lambda: len(viewer.layers) == 3, timeout=20000)
    points = viewer.layers[1]
    assert len(points.data) == 6 and (points.data[:, 0] == 0).all()
    axis = viewer.dims.axis_labels.index("micrograph")
    viewer.dims.set_current_step(axis, 1)
    assert len(points.data) == 6 and (points.data[:, 0] == 1).all()
    assert points.features["rlnMicrographName"].tolist() == ["b.mrc"] * 6
    viewer.layers.remove(points)
    viewer.dims.set_current_step(axis, 0)


def test_layers_open_in_the_window(make_viewer: Any, particle_set: ParticleSet, notices: list[tuple[str, str]]) -> None:
    viewer = make_viewer()
    viewer.open(str(_map(particle_set.folder / "volume.mrc")), plugin="napari-autorefine")
    viewer.open(str(particle_set.star), plugin="napari-autorefine")
    assert [layer.name for layer in viewer.layers] == ["volume", "particles images"]
    assert viewer.dims.axis_labels == ("particle", "z", "y", "x")
    assert tuple(viewer.scene.camera.orientation) == ("towards", "up", "right")
    viewer.dims.set_current_step(0, 5)
    viewer.dims.ndisplay = 3
    (particle_set.folder / "bad.mrc").write_bytes(b"bad")
    assert viewer.open(str(particle_set.folder / "bad.mrc"), plugin="napari-autorefine") == []
    assert notices[-1][1].startswith("bad.mrc is not an MRC file")


# orientations


def test_orientations_are_the_axis_of_the_reference_in_the_image() -> None:
    from napari_autorefine.ui.orientations import arrows_on_points

    features = pd.DataFrame({"rlnAngleRot": [0.0, 0.0], "rlnAngleTilt": [90.0, 90.0], "rlnAnglePsi": [0.0, -90.0]})
    meta = {"features": features, "size": 10.0, "metadata": {"autorefine": {"kind": "coordinates"}}}
    vectors, _, kind = arrows_on_points(np.array([[5.0, 6.0], [1.0, 2.0]]), meta)
    assert kind == "vectors"
    # A e_z = (-sin(tilt) cos(psi), sin(tilt) sin(psi), cos(tilt)) in x, y, z
    np.testing.assert_allclose(vectors[:, 1], [[0.0, -10.0], [-10.0, 0.0]], atol=1e-9)
    np.testing.assert_allclose(vectors[0, 0], (5.0, 6.0))


def test_viewing_directions_lie_on_a_sphere_about_the_map(particle_set: ParticleSet) -> None:
    from napari_autorefine.ui.orientations import arrows_around_map

    ((data, arguments, _),) = read_star_file(particle_set.star)
    with pytest.raises(InputError, match="refine the particles first"):
        arrows_around_map(arguments)
    table = arguments["metadata"]["autorefine"]["table"]
    own = {**arguments["metadata"]["autorefine"]}
    own["table"] = table.assign(rlnAngleRot=90.0, rlnAngleTilt=90.0, rlnAnglePsi=0.0)
    vectors, _, _ = arrows_around_map({**arguments, "metadata": {"autorefine": own}})
    np.testing.assert_allclose(vectors[:, 0], [[0.0, 24.0, 0.0]] * 12, atol=1e-9)
    assert layers_of_maps.star_name(particle_set.star) == "particles"
    assert data.shape[0] == 12
