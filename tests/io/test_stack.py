from __future__ import annotations

import errno
import os
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_stack
from napari_autorefine.io.screening import check_images, image_statistics
from napari_autorefine.io.stack import FileState, ParticleStack
from napari_autorefine.io.star import read_particles

RNG = np.random.default_rng(7)


def images(n=6, box=16):
    return RNG.normal(size=(n, box, box)).astype(np.float32)


def opened(particle_set, **options):
    return ParticleStack(read_particles(particle_set.star), star_path=particle_set.star, **options)


def test_images_come_in_the_order_asked_for(particle_set):
    data = [images(), images()]
    for path, values in zip(particle_set.stacks, data, strict=True):
        write_stack(path, values, 3.0)
    stack = opened(particle_set, max_open=1)
    whole = np.concatenate(data)
    for rows in (np.arange(12), np.array([11, 0, 5, 6, 5]), RNG.permutation(12), [3], []):
        np.testing.assert_array_equal(stack.read(rows), whole[rows] if len(rows) else np.empty((0, 0, 0)))
    assert (stack.place(7).slice, stack.place(7).file) == (2, str(particle_set.stacks[1]))
    np.testing.assert_array_equal(stack.read_raw(7), whole[7])
    assert len(stack) == 12
    assert stack.box_sizes.tolist() == [16] * 12


@pytest.mark.parametrize(("kind", "mode"), [("i1", 0), ("i2", 1), ("u2", 6), ("f2", 12), (">f4", 2), (">i2", 1)])
def test_stored_types(particle_set, kind, mode):
    values = (RNG.normal(size=(6, 16, 16)) * 20 + 60).astype(kind)
    blob = bytearray(particle_set.stacks[0].read_bytes()[:1024])
    if kind.startswith(">"):
        words = struct.unpack("<10i6f3i", bytes(blob[:76]))
        struct.pack_into(">10i6f3i", blob, 0, *words)
        blob[212:216] = b"\x11\x11\0\0"
    struct.pack_into((">" if kind.startswith(">") else "<") + "i", blob, 12, mode)
    particle_set.stacks[0].write_bytes(bytes(blob) + values.tobytes())
    stack = opened(particle_set)
    read = stack.read(np.arange(6))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, values.astype(np.float32))
    assert stack.read_raw(0).dtype == np.dtype(kind)


def test_reading_from_threads(particle_set):
    stack = opened(particle_set, max_open=1)
    whole = stack.read(np.arange(12))
    orders = [RNG.permutation(12) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for rows, read in zip(orders, pool.map(stack.read, orders), strict=True):
            np.testing.assert_array_equal(read, whole[rows])


def test_project_folder_comes_before_the_star_files(particle_set, tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    write_stack(project / "a.mrcs", np.full((6, 16, 16), 5.0, np.float32), 3.0)
    monkeypatch.chdir(project)
    stack = opened(particle_set)
    assert stack.read([0]).max() == 5.0
    assert stack.files[1] == particle_set.stacks[1]
    monkeypatch.chdir(tmp_path)
    assert opened(particle_set, project_dir=project).read([0]).max() == 5.0


def test_number_formats_and_endings(particle_set):
    expected = opened(particle_set).read(np.arange(12))
    particle_set.replace("000001@a.mrcs", "1@a.mrcs")
    particle_set.replace("000002@a.mrcs", "00000002@a.mrcs:mrcs")
    np.testing.assert_array_equal(opened(particle_set).read(np.arange(12)), expected)


def test_stack_named_mrc(shared_data):
    path = shared_data / "particles_other" / "empiar_10076_7.star"
    stack = ParticleStack(read_particles(path), star_path=path)
    assert stack.read(np.arange(7)).shape == (7, 320, 320)


def refused(particle_set, match):
    with pytest.raises(InputError, match=match) as caught:
        opened(particle_set)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_truncated_stacks(particle_set):
    path = particle_set.stacks[1]
    blob = path.read_bytes()
    path.unlink()
    refused(particle_set, r"row 7: the image file b\.mrcs does not exist")
    path.write_bytes(b"")
    refused(particle_set, r"b\.mrcs is empty")
    path.write_bytes(blob[:-5])
    refused(particle_set, r"b\.mrcs is truncated")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 2000)
    refused(particle_set, "git-LFS")


def test_image_numbers_out_of_range(particle_set):
    particle_set.replace("000006@b.mrcs", "000007@b.mrcs")
    refused(particle_set, r"row 12: image 7 is beyond the end of .*b\.mrcs, which holds 6 images")
    particle_set.replace("000007@b.mrcs", "000000@b.mrcs")
    refused(particle_set, "number 0")
    particle_set.replace("000000@b.mrcs", "b.mrcs")
    refused(particle_set, "without an image number")


def test_boxes_and_pixel_sizes_that_do_not_fit(particle_set):
    path = particle_set.stacks[1]
    write_stack(path, images(box=15), 3.0)
    refused(particle_set, r"row 7 .*the box of 15 pixels is odd")
    write_stack(path, RNG.normal(size=(6, 16, 18)).astype(np.float32), 3.0)
    refused(particle_set, "18 x 16 pixels are not square")
    write_stack(path, images(box=18), 3.0)
    refused(particle_set, r"the box is 18 pixels but the optics group 'opticsGroup1' says 16")
    write_stack(path, images(), 3.01)
    refused(particle_set, r"row 7 .*says 3\.01 A per pixel but the optics group 'opticsGroup1' says 3;")
    for sane_or_not in (3.002, 0.0, 1.0):
        write_stack(path, images(), sane_or_not)
        opened(particle_set)


def screened(particle_set, diameter=30.0):
    particles = read_particles(particle_set.star)
    steps = check_images(opened(particle_set), particles, particle_diameter_A=diameter)
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as stop:
            assert seen[-1].done == seen[-1].total == 12
            return stop.value


def test_bad_images_are_named(particle_set):
    data = images()
    data[1] = 2.5
    data[2] *= 1000.0
    data[3] += 300.0
    data[4] *= 1e-4
    write_stack(particle_set.stacks[1], data, 3.0)
    with open(particle_set.stacks[1], "r+b") as file:
        file.seek(1024)
        file.write(np.float32(np.nan).tobytes())
    found = screened(particle_set)
    assert [(image.row, image.slice, image.file) for image in found.bad] == [
        (row, row - 6, str(particle_set.stacks[1])) for row in range(7, 12)
    ]
    reasons = [image.reason for image in found.bad]
    assert reasons[0] == "it holds NaN or Inf"
    assert reasons[1] == "all pixels have the same value"
    assert "deviation of its background" in reasons[2]
    assert "mean of its background" in reasons[3]
    assert "deviation of its background" in reasons[4]
    assert found.bad_rows.tolist() == [6, 7, 8, 9, 10]
    assert found.bad_fraction == pytest.approx(5 / 12)
    assert found.warnings == ()


def test_a_set_that_is_not_normalised_gives_one_warning(particle_set):
    for path in particle_set.stacks:
        write_stack(path, images() * 20.0 + 100.0, 3.0)
    found = screened(particle_set)
    assert found.bad == ()
    assert len(found.warnings) == 1
    assert "12 of 12 images are not normalised" in found.warnings[0]


def test_statistics_of_constant_offset_images():
    """A large mean must not eat the digits of the deviation."""
    data = images(3) + np.float32(1e4)
    statistics = image_statistics(data, 6.0)
    y, x = np.ogrid[:16, :16]
    outside = (y - 8) ** 2 + (x - 8) ** 2 > 36
    np.testing.assert_allclose(statistics.background_std, data[:, outside].astype(float).std(axis=1), rtol=1e-4)
    np.testing.assert_allclose(statistics.background_mean, data[:, outside].astype(float).mean(axis=1), rtol=1e-7)


def test_several_box_sizes(particle_set):
    text = particle_set.star.read_text()
    text = text.replace("3.0 16 2\n", "3.0 16 2\n2 opticsGroup2 300.0 2.7 0.1 2.0 24 2\n")
    particle_set.star.write_text(text.replace(" b.mrc 1 ", " b.mrc 2 "))
    write_stack(particle_set.stacks[1], images(box=24), 2.0)
    stack = opened(particle_set)
    assert stack.box_sizes.tolist() == [16] * 6 + [24] * 6
    assert stack.read([6, 8]).shape == (2, 24, 24)
    with pytest.raises(ValueError, match="different box sizes"):
        stack.read([0, 8])
    assert screened(particle_set).bad == ()
    particles = read_particles(particle_set.star)
    wrong = replace(particles, optics_index=1 - particles.optics_index)
    with pytest.raises(InputError, match="correct rlnImageSize"):
        ParticleStack(wrong, star_path=particle_set.star)


def test_a_stack_that_changes_is_noticed(particle_set):
    stack, path = opened(particle_set), particle_set.stacks[0]
    stack.read([0])
    before = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    stack.read([0])  # the same as far as can be told without reading all of it
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    with pytest.raises(InputError, match=r"a\.mrcs was changed while it was in use \(its time of change\)"):
        stack.read([0])
    assert len(stack.read([7])) == 1
    os.truncate(path, 3000)
    with pytest.raises(InputError, match=r"a\.mrcs was changed while it was in use \(\d+ to 3000 bytes\)"):
        stack.read([5])
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        stack.read([0])


def test_a_stack_that_is_cut_between_look_and_read_ends_in_a_sentence(particle_set, monkeypatch):
    """Read through a memory map it would end the process."""
    stack, path = opened(particle_set), particle_set.stacks[0]
    monkeypatch.setattr(FileState, "check", lambda *_: os.truncate(path, 3000))
    with pytest.raises(InputError, match=r"a\.mrcs was cut while it was being read"):
        stack.read(np.arange(6))


def test_a_disc_that_fails_ends_in_a_sentence(particle_set, monkeypatch):
    def gone(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    stack = opened(particle_set)
    monkeypatch.setattr(os, "preadv", gone)
    with pytest.raises(InputError, match=r"a\.mrcs cannot be read: Stale file handle"):
        stack.read([0])


@pytest.mark.parametrize("can_read_at_places", [True, False])
def test_images_of_copies_and_of_other_processes(particle_set, tmp_path, monkeypatch, can_read_at_places):
    if not can_read_at_places:
        monkeypatch.delattr(os, "preadv")
    stack = opened(particle_set)
    whole = stack.read(np.arange(12))
    copy = tmp_path / "copy.mrcs"
    copy.write_bytes(particle_set.stacks[0].read_bytes())
    copied = stack.with_copies({particle_set.stacks[0]: copy})
    sent = pickle.loads(pickle.dumps(stack))
    particle_set.stacks[0].write_bytes(b"")
    np.testing.assert_array_equal(copied.read(np.arange(12)), whole)
    np.testing.assert_array_equal(sent.read([7, 11]), whole[[7, 11]])
    assert copied.files == (copy, particle_set.stacks[1])


def test_files_are_closed_when_nobody_reads_them(particle_set):
    before = len(os.listdir("/proc/self/fd"))
    stack = opened(particle_set, max_open=1)
    for row in (0, 6, 1, 7):
        stack.read([row])
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del stack
    assert len(os.listdir("/proc/self/fd")) == before


def test_folders_above_the_star_file_are_looked_into(particle_set, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    deep = tmp_path / "Refine3D" / "job003"
    deep.mkdir(parents=True)
    star = particle_set.star.rename(deep / "run_data.star")
    stack = ParticleStack(read_particles(star), star_path=star)
    assert stack.files == particle_set.stacks
