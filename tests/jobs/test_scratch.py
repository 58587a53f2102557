"""Copies on scratch: room is kept, what does not fit is read where it is, what killed runs left is removed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from conftest import ParticleSet

from napari_autorefine.events import Message
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs import free_space, scratch
from napari_autorefine.jobs.image_source import open_images
from napari_autorefine.jobs.refine_params import RefineParams

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def stack(particle_set: ParticleSet) -> ParticleStack:
    return ParticleStack(read_particles(particle_set.star), star_path=particle_set.star)


def opened(stack: ParticleStack, resources: ExitStack, **values: object) -> tuple[ParticleStack, list[Message]]:
    """Return the stack that is read, and what was said."""
    params = RefineParams(particles="p", reference="r", output="o", **values)
    opening, said = open_images(stack, params, resources), []
    while True:
        try:
            event = next(opening)
        except StopIteration as end:
            return end.value, said
        said += [event] if isinstance(event, Message) else []


def test_all_stacks_are_copied_and_removed_at_the_end(stack: ParticleStack, tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    with ExitStack() as resources:
        copied, said = opened(stack, resources, scratch_dir=str(folder), keep_free_scratch_GB=0)
        assert all(path.is_relative_to(folder) for path in copied.files)
        np.testing.assert_array_equal(copied.read(np.arange(12)), stack.read(np.arange(12)))
        assert said[0].text.startswith("2 of 2 files of images (0.00 GB) are copied to")
        assert said[0].level == "info"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("free", "n_copied"), [(10, 0), (10 + 7200 / 1e9, 1), (10 + 14400 / 1e9, 2)])
def test_room_is_kept_and_the_rest_is_read_where_it_is(
    free: float, n_copied: int, stack: ParticleStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [path.stat().st_size for path in stack.files]
    assert sizes == [7168, 7168]
    used = [0]

    def usage(_: object) -> Usage:
        return Usage(0, 0, int(free * 1e9) - used[0])

    def copyfile(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes())
        used[0] += Path(source).stat().st_size

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with ExitStack() as resources:
        copied, said = opened(stack, resources, scratch_dir=str(tmp_path / "scratch"))
        assert sum(path.is_relative_to(tmp_path / "scratch") for path in copied.files) == n_copied
        np.testing.assert_array_equal(copied.read(np.arange(12)), stack.read(np.arange(12)))
    assert (said[0].level == "warning") == (n_copied < 2)
    assert n_copied == 2 or f"{2 - n_copied} are read where they are" in said[0].text


def test_a_scratch_disc_that_fills_up_all_the_same(
    stack: ParticleStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copyfile(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:2000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with ExitStack() as resources:
        copied, said = opened(stack, resources, scratch_dir=str(tmp_path / "scratch"), keep_free_scratch_GB=0)
        np.testing.assert_array_equal(copied.read(np.arange(12)), stack.read(np.arange(12)))
        assert [path.name for path in (tmp_path / "scratch").rglob("*.mrcs")] == []
    assert "2 are read where they are" in said[0].text


@pytest.mark.skipif(os.name == "nt", reason="files are not locked in this way there")
def test_copies_of_killed_runs_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom napari_autorefine.jobs.scratch import scratch_folder\n"
        "with scratch_folder(sys.argv[1]) as folder:\n    print(folder, flush=True)\n    time.sleep(60)\n"
    )
    line = [sys.executable, "-c", code, str(tmp_path)]
    others = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        folders = [Path(other.stdout.readline().strip()) for other in others if other.stdout is not None]
        assert all(folder.is_dir() for folder in folders)
        others[0].kill()
        others[0].wait()
        (tmp_path / "autorefine_notes.txt").touch()
        (tmp_path / "autorefine_other").mkdir()
        with scratch.scratch_folder(str(tmp_path)) as own:
            assert not folders[0].exists()
            assert folders[1].is_dir() and own.is_dir()
        assert (tmp_path / "autorefine_notes.txt").exists() and (tmp_path / "autorefine_other").is_dir()
    finally:
        for other in others:
            other.kill()
            other.communicate()


def test_limits_of_containers_and_of_the_process_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5\n")
    (group.parent / "memory.max").write_text("3000\n")
    (group.parent / "memory.current").write_text("1000\n")
    monkeypatch.setattr(free_space, "_CGROUP", tmp_path)
    assert list(free_space._left(group, "memory.max", "memory.current")) == [2000]
    free = free_space.free_memory()
    assert free is not None and free > 1e6
