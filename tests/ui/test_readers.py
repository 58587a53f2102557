from __future__ import annotations

import bz2
import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ParticleSet
from oracles.layer_files import RNG, ball, own_metadata, write_map

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_data, write_image, write_stack, write_volume
from napari_autorefine.ui import readers
from napari_autorefine.ui.lazy import LazyArray, binned
from napari_autorefine.ui.readers import get_reader, read_mrc, read_paths
from napari_autorefine.ui.writers import write_mrc

OnMicrographs = Callable[[int], Path]


# maps


def test_a_map_opens_in_the_world_frame_with_contrast_and_threshold(tmp_path: Path) -> None:
    ((data, arguments, kind),) = read_mrc(write_map(tmp_path / "volume.mrc"))
    assert kind == "image" and data.dtype == np.float32
    assert arguments["scale"] == (2.5, 2.5, 2.5) and arguments["translate"] == (-30.0, -30.0, -30.0)
    assert arguments["units"] == ("angstrom",) * 3 and arguments["axis_labels"] == ("z", "y", "x")
    low, high = arguments["contrast_limits"]
    assert abs(low) < 0.1 and 2.5 < high < 3.2
    assert 0.5 < arguments["iso_threshold"] < 2.5
    own = own_metadata((data, arguments, kind))
    assert own["kind"] == "map" and own["voxel_size_A"] == 2.5 and own["path"] == str(tmp_path / "volume.mrc")


def test_one_wild_voxel_does_not_spoil_the_contrast(tmp_path: Path) -> None:
    data = ball()
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
    assert own_metadata(read_mrc(write_map(tmp_path / name))[0])["kind"] == kind


def test_roles_have_colors_of_their_own(tmp_path: Path) -> None:
    names = ["run_half1_class001.mrc", "run_half2_class001.mrc", "run_class001.mrc", "reference.mrc"]
    colors = [tuple(read_mrc(write_map(tmp_path / name))[0][1]["colormap"].colors[-1]) for name in names]
    assert len(set(colors)) == len(colors)


def test_a_mask_is_recognised_by_its_values_and_is_a_veil(tmp_path: Path) -> None:
    write_volume(tmp_path / "solvent.mrc", ball(), 2.0)
    ((_, arguments, _),) = layer = read_mrc(tmp_path / "solvent.mrc")
    assert own_metadata(layer[0])["kind"] == "mask"
    assert arguments["iso_threshold"] == 0.5 and arguments["opacity"] < 0.5
    assert arguments["colormap"].colors[0][3] == 0.0  # nothing where the mask is 0


def test_a_map_called_mask_is_shown_as_a_map_and_the_user_told(tmp_path: Path, notices: list[tuple[str, str]]) -> None:
    assert own_metadata(read_mrc(write_map(tmp_path / "my_mask.mrc"))[0])["kind"] == "map"
    assert any("called a mask" in text for _, text in notices)


@pytest.mark.parametrize(("ending", "packed"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_maps_open(tmp_path: Path, ending: str, packed: Any) -> None:
    plain = write_map(tmp_path / "plain.map")
    (tmp_path / f"packed.map{ending}").write_bytes(packed(plain.read_bytes()))
    ((data, arguments, _),) = read_mrc(tmp_path / f"packed.map{ending}")
    np.testing.assert_array_equal(data, read_mrc(plain)[0][0])
    assert arguments["name"] == "packed"


def test_nan_is_shown_as_zero_and_told(tmp_path: Path, notices: list[tuple[str, str]]) -> None:
    data = ball() * 3
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
    write_volume(tmp_path / "none.mrc", ball() * 3, 0.0)
    assert read_mrc(tmp_path / "none.mrc")[0][1]["scale"] == (1.0, 1.0, 1.0)
    assert any("no pixel size" in text for _, text in notices)


def test_the_job_folder_is_part_of_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "Refine3D" / "job029"
    folder.mkdir(parents=True)
    assert read_mrc(write_map(folder / "run_class001.mrc"))[0][1]["name"] == "job029/run_class001"


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
    assert tilts[1]["axis_labels"][0] == "tilt" and own_metadata(tilts)["kind"] == "tilts"
    assert isinstance(tomogram[0], LazyArray) and tomogram[0].shape == (10, 16, 20)
    assert own_metadata(tomogram)["kind"] == "tomogram" and tomogram[1]["translate"] == (-50.0, -80.0, -100.0)


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
    paths = [str(write_map(tmp_path / f"run_half{half}_class001.mrc")) for half in (1, 2)]
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
    assert points.data[:, 0].tolist() == [0] * 6 + [1]  # the last one keeps the range of the slider
    axis = viewer.dims.axis_labels.index("micrograph")
    viewer.dims.set_current_step(axis, 1)
    assert points.data[:, 0].tolist() == [0] + [1] * 6
    assert points.features["rlnMicrographName"].tolist() == ["a.mrc"] + ["b.mrc"] * 6
    viewer.layers.remove(points)
    viewer.dims.set_current_step(axis, 0)


def test_layers_open_in_the_window(make_viewer: Any, particle_set: ParticleSet, notices: list[tuple[str, str]]) -> None:
    viewer = make_viewer()
    viewer.open(str(write_map(particle_set.folder / "volume.mrc")), plugin="napari-autorefine")
    viewer.open(str(particle_set.star), plugin="napari-autorefine")
    assert [layer.name for layer in viewer.layers] == ["volume", "particles images"]
    assert viewer.dims.axis_labels == ("particle", "z", "y", "x")
    assert tuple(viewer.scene.camera.orientation) == ("towards", "up", "right")
    viewer.dims.set_current_step(0, 5)
    viewer.dims.ndisplay = 3
    (particle_set.folder / "bad.mrc").write_bytes(b"bad")
    assert viewer.open(str(particle_set.folder / "bad.mrc"), plugin="napari-autorefine") == []
    assert notices[-1][1].startswith("bad.mrc is not an MRC file")


def test_pixels_of_coarser_levels_lie_around_the_pixel_they_stand_on() -> None:
    ramp = np.add.outer(np.arange(64.0), 100 * np.arange(72.0)).astype(np.float32)[None]
    for factor in (2, 4, 8):
        small = binned(ramp, factor)
        assert small.shape == (1, 64 // factor, 72 // factor) and small.dtype == np.float32
        # the mean lies half a pixel of the image before the pixel, whatever the factor
        assert np.allclose(small[0, 1:, 1:], ramp[0, ::factor, ::factor][1:, 1:] - 0.5 * 101, atol=0.05)


def test_large_micrographs_are_means_from_afar_with_the_contrast_of_these(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((1100, 2200)).astype(np.float32)
    write_image(tmp_path / "mic.mrc", noise, 1.5)
    (levels, arguments, _) = read_mrc(tmp_path / "mic.mrc")[0]
    assert [level.shape for level in levels] == [(1100, 2200), (550, 1100), (275, 550)] and arguments["multiscale"]
    low, high = arguments["contrast_limits"]
    assert high == pytest.approx(3 * 0.5, rel=0.1) and low == pytest.approx(-3 * 0.5, rel=0.1)
    assert np.array_equal(levels[0][5], noise[5])
    write_mrc(str(tmp_path / "again.mrc"), levels, arguments)
    assert np.array_equal(read_data(tmp_path / "again.mrc")[0][0], noise)
