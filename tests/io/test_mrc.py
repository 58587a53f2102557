from __future__ import annotations

import bz2
import gzip
import struct

import mrcfile
import numpy as np
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import is_stack_name, read_data, read_header, read_volume, write_stack, write_volume

RNG = np.random.default_rng(3)


def density(shape=(4, 5, 6)) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def raw_file(path, data, *, mode, order="<", extended=b"", cell=None, axes=(1, 2, 3), stamp=None):
    """An MRC file made by hand, so that reading is not tested against a writer of the same hand."""
    n_z, n_y, n_x = data.shape
    header = bytearray(1024)
    struct.pack_into(order + "10i", header, 0, n_x, n_y, n_z, mode, 0, 0, 0, n_x, n_y, n_z)
    struct.pack_into(order + "6f", header, 40, *(cell or (n_x * 2.0, n_y * 2.0, n_z * 2.0)), 90, 90, 90)
    struct.pack_into(order + "3i", header, 64, *axes)
    struct.pack_into(order + "2i", header, 88, 1, len(extended))
    header[208:212] = b"MAP "
    header[212:216] = stamp if stamp is not None else (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    path.write_bytes(bytes(header) + extended + data.tobytes())
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "kind"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
def test_modes_and_byte_orders(tmp_path, mode, kind, order):
    values = (RNG.normal(size=(3, 4, 5)) * 30 + (60 if kind == "u2" else 0)).astype(np.dtype(kind).newbyteorder(order))
    path = raw_file(tmp_path / "a.mrc", values, mode=mode, order=order, extended=b"x" * 320)
    data, header = read_data(path)
    np.testing.assert_array_equal(data, values.astype(np.float32))
    assert data.dtype == np.float32
    assert data.dtype.isnative
    assert header.mode == mode
    assert header.voxel_size_A == (2.0, 2.0, 2.0)


def test_byte_order_without_a_machine_stamp(tmp_path):
    values = RNG.normal(size=(3, 4, 5)).astype(">f4")
    path = raw_file(tmp_path / "a.mrc", values, mode=2, order=">", stamp=b"\0\0\0\0")
    np.testing.assert_array_equal(read_data(path)[0], values)


def test_packed_4_bit_images(tmp_path):
    values = RNG.integers(0, 16, size=(2, 3, 5)).astype(np.uint8)
    padded = np.concatenate([values, np.zeros((2, 3, 1), np.uint8)], axis=2)
    packed = padded[..., 0::2] | (padded[..., 1::2] << 4)
    path = raw_file(tmp_path / "a.mrcs", packed, mode=101)
    blob = bytearray(path.read_bytes())
    struct.pack_into("<i", blob, 0, 5)
    path.write_bytes(blob)
    np.testing.assert_array_equal(read_data(path)[0], values)


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 1, 2), (2, 1, 3), (2, 3, 1), (3, 2, 1), (1, 3, 2)])
def test_axis_orders(tmp_path, axes):
    """Columns, rows and sections along any axes come out as z, y, x."""
    value = density((2, 3, 4))  # (z, y, x)
    along = {1: 2, 2: 1, 3: 0}
    stored = np.ascontiguousarray(value.transpose([along[axis] for axis in axes[::-1]]))
    path = raw_file(tmp_path / "a.mrc", stored, mode=2, axes=axes)
    np.testing.assert_array_equal(read_data(path)[0], value)


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_compressed_maps(tmp_path, ending, pack):
    data = density()
    plain = tmp_path / "a.mrc"
    write_volume(plain, data, 1.5)
    path = tmp_path / f"a.mrc{ending}"
    path.write_bytes(pack(plain.read_bytes()))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, data)
    assert volume.voxel_size_A == pytest.approx(1.5)
    path.write_bytes(pack(plain.read_bytes())[:-40])
    with pytest.raises(InputError, match=r"damaged|truncated"):
        read_volume(path)


def test_written_maps_are_valid_and_read_back(tmp_path):
    data = density((8, 8, 8))
    path = tmp_path / "new" / "a.mrc"
    write_volume(path, data, 1.2345, origin_A=(1.0, 2.0, 3.0))
    assert mrcfile.validate(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, data)
    assert volume.voxel_size_A == pytest.approx(1.2345, rel=1e-6)
    assert volume.origin_A == (1.0, 2.0, 3.0)
    with mrcfile.open(path) as file:
        assert float(file.header.dmax) == data.max()
        assert float(file.header.rms) == pytest.approx(data.std(), rel=1e-5)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.mrc"]


def test_half_precision_stacks_are_clamped(tmp_path):
    images = np.array([[[1e6, -1e6], [0.73364, 0.5]]], np.float32)
    path = tmp_path / "a.mrcs"
    write_stack(path, images, 2.0, half_precision=True)
    data, header = read_data(path)
    assert (header.mode, header.is_stack) == (12, True)
    assert data[0, 0].tolist() == [65504.0, -65504.0]
    assert data[0, 1, 0] == np.float16(0.73364)


def test_stack_or_volume_by_name():
    assert is_stack_name("a.mrcs")
    assert is_stack_name("a.mrc:mrcs")
    assert not is_stack_name("a.mrc")
    assert not is_stack_name("a.map.gz")


def test_no_voxel_size_is_one_angstrom(tmp_path):
    path = raw_file(tmp_path / "a.mrc", density((4, 4, 4)), mode=2, cell=(0.0, 0.0, 0.0))
    assert read_volume(path).voxel_size_A == 1.0


def test_files_that_cannot_be_maps_are_refused(tmp_path):
    good = raw_file(tmp_path / "a.mrc", density((4, 4, 4)), mode=2)
    blob = good.read_bytes()

    def refused(content: bytes, match: str, name: str = "b.mrc"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=match) as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)

    refused(b"", "is empty")
    refused(b"ten bytes!", "less than a header")
    refused(b"version https://git-lfs.github.com/spec/v1\n", "git-LFS")
    refused(b"x" * 2000, "not an MRC file")
    refused(blob[:-1], "truncated")
    refused(blob[:12] + struct.pack("<i", 4) + blob[16:], "complex")
    refused(blob[:64] + struct.pack("<3i", 1, 1, 3) + blob[76:], "axis order")
    refused(blob[:92] + struct.pack("<i", -5) + blob[96:], "extended header")
    refused(blob[:1024] + struct.pack("<f", np.nan) + blob[1028:], "1 voxels that are not finite")
    refused(blob, "stack of images", "c.mrcs")
    with pytest.raises(InputError, match="not cubes"):
        read_volume(raw_file(tmp_path / "d.mrc", density((4, 4, 4)), mode=2, cell=(4.0, 4.0, 8.0)))
    with pytest.raises(InputError, match="does not exist"):
        read_volume(tmp_path / "no.mrc")


def test_junk_where_old_files_have_no_extended_header(tmp_path):
    data = density((4, 4, 4))
    blob = bytearray(raw_file(tmp_path / "a.mrc", data, mode=2).read_bytes())
    struct.pack_into("<i", blob, 92, 1_000_000)
    (tmp_path / "a.mrc").write_bytes(blob)
    np.testing.assert_array_equal(read_data(tmp_path / "a.mrc")[0], data)


QUIRKS = {
    "3pqr_mode0.ccp4": (59, 69, 100),
    "EMD-3001.map": (73, 25, 43),
    "EMD-3001.map.bz2": (73, 25, 43),
    "emd_3001.map.gz": (73, 25, 43),
    "ccp4_box_20_21_22.ccp4": (29, 20, 11),
    "fei2_HAADFscan_16x16.mrc": (1, 16, 16),
    "garbage_nversion.mrc": (33, 33, 33),
    "iota_yzx.ccp4.gz": (2, 1, 4),
    "maestro_stamp_nstart_origin.mrc": (40, 40, 40),
    "mode0_anisotropic_voxels.map": (36, 30, 32),
    "mode6_negative_cell_stack.mrc": (348, 16, 16),
    "no_MAP_stamp.mrc": (43, 58, 54),
    "tst_input.map": (16, 8, 16),
    "unsigned_ints_mode0.mrc": (4, 4, 4),
    "xmipp_smallStack.mrcs": (4, 64, 64),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_quirks(shared_data):
    """Files with odd headers are read as their index says; the broken ones are refused."""
    folder = shared_data / "mrc_quirks"
    for name, shape in QUIRKS.items():
        data, header = read_data(folder / name)
        assert data.shape == shape, name
        assert np.isfinite(data).all()
        if header.axes == (1, 2, 3):
            with mrcfile.open(folder / name, permissive=True) as file:
                np.testing.assert_array_equal(data, np.asarray(file.data, np.float32).reshape(data.shape))
    for name in ("eight_bytes.map", "ten_bytes.mrc", "invalid_axes.mrc", "truncated_corrupt_header.map"):
        with pytest.raises(InputError):
            read_data(folder / name)
    twins = [read_data(folder / name)[0] for name in ("EMD-3001.map", "EMD-3001.map.bz2", "emd_3001.map.gz")]
    np.testing.assert_array_equal(twins[0], twins[1])
    np.testing.assert_array_equal(twins[0], twins[2])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_axis_order_agrees_with_gemmi(shared_data):
    gemmi = pytest.importorskip("gemmi")
    path = shared_data / "mrc_quirks" / "tst_input.map"
    grid = gemmi.read_ccp4_map(str(path), setup=True).grid
    data, header = read_data(path)
    start = dict(zip(header.axes, header.start, strict=True))
    for z, y, x in [(0, 0, 0), (5, 3, 7), (15, 7, 15), (2, 6, 1)]:
        assert data[z, y, x] == pytest.approx(grid.get_value(x + start[1], y + start[2], z + start[3]))


def test_every_map_and_stack_of_the_data_is_read_or_refused(shared_data):
    refused, sentences = [], []
    for path in sorted(shared_data.rglob("*")):
        if not path.is_file() or not set(path.suffixes) & {".mrc", ".mrcs", ".map", ".ccp4"}:
            continue
        try:
            header = read_header(path)
            if path.stat().st_size < 3_000_000:
                assert read_data(path)[0].size == np.prod(header.shape)
        except InputError as error:
            refused.append(path.name)
            sentences.append(str(error))
    assert all("\n" not in sentence for sentence in sentences)
    assert sorted(refused) == sorted(
        ["eight_bytes.map", "ten_bytes.mrc", "invalid_axes.mrc", "truncated_corrupt_header.map"]
    )


def test_maps_with_voxel_sizes(shared_data):
    expected = {
        "betaGal.mrc": (100, 3.54),
        "EMD-5625.map": (56, 4.23),
        "EMD-6824_TRPML1_C4.mrc": (70, 2.64),
        "clean70SRibosome_vol_65p.mrc": (65, 1.0),
        "betaGal_localResolution.mrc.gz": (100, 1.0),
    }
    for name, (box, voxel) in expected.items():
        volume = read_volume(shared_data / "maps" / name)
        assert volume.data.shape == (box,) * 3
        assert volume.voxel_size_A == pytest.approx(voxel, rel=1e-5)
