from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ParticleSet

from napari_autorefine.cli import main
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.jobs import JOBS, detached
from napari_autorefine.jobs.mask_params import MaskParams
from napari_autorefine.jobs.output_lock import OutputLock, check_unlocked, lock_path, one_at_a_time
from napari_autorefine.jobs.refine import refine
from napari_autorefine.jobs.refine_params import RefineParams

SOURCE = Path(__file__).resolve().parents[2] / "src"
WRITES_NOTHING_OF_ITS_OWN = {"info", "report", "doctor"}


@one_at_a_time
def job(params: MaskParams) -> Iterator[Event]:
    yield Message(text="begun")
    Path(params.output).write_text("done")
    yield Finished(text="ended")


def params(output: Path) -> MaskParams:
    return MaskParams(input="map.mrc", output=str(output))


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.lock*"))


def holder(**changes: object) -> str:
    values = {"job": "mask", "pid": 2**22 - 1, "process_started": 1.0, "started": 1.0, "host": socket.gethostname()}
    return json.dumps(values | changes)


def test_every_job_that_writes_files_is_alone_with_its_output() -> None:
    unlocked = {
        name
        for name in JOBS
        if not hasattr(getattr(importlib.import_module(f"napari_autorefine.jobs.{name}"), name), "__wrapped__")
    }
    assert unlocked == WRITES_NOTHING_OF_ITS_OWN & set(JOBS)


def test_a_second_job_with_the_same_output_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    output = tmp_path / "made" / "mask.mrc"
    first = job(params(output))
    next(first)
    assert locks(tmp_path) == [".mask.lock"]
    with pytest.raises(InputError, match=rf"mask.mrc is being written by job \(process {os.getpid()}, since .*--o"):
        next(job(params(output)))
    with pytest.raises(InputError, match="is being written"):
        check_unlocked(output)
    next(job(params(tmp_path / "made" / "other.mrc")))
    assert isinstance(list(first)[-1], Finished)
    assert locks(tmp_path) == []
    check_unlocked(output)
    assert [type(event) for event in job(params(output))] == [Message, Finished]


def test_an_interrupted_job_leaves_neither_lock_nor_thread_nor_folder(tmp_path: Path) -> None:
    before = threading.active_count()
    running = job(params(tmp_path / "a" / "b" / "mask.mrc"))
    next(running)
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


def test_a_job_that_refuses_its_input_leaves_nothing(tmp_path: Path) -> None:
    assert main(["mask", "--i", str(tmp_path / "missing.mrc"), "--o", str(tmp_path / "a" / "mask.mrc")]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [
        holder(),
        holder(pid=os.getpid(), process_started=1.0),
        holder(host="elsewhere", pid=1),
        "",
        "{",
        "[1]",
        '{"job": 3}',
        holder(pid="x"),
        holder(started=None),
        holder(process_started="x"),
    ],
    ids=[
        "no such process", "its number was given again", "another computer, silent", "empty", "torn", "a list",
        "no name", "no number", "no start", "no start of the process",
    ],
)  # fmt: skip
def test_the_lock_of_a_job_that_is_gone_is_taken_over(tmp_path: Path, content: str) -> None:
    output = tmp_path / "mask.mrc"
    lock = lock_path(output)
    lock.write_text(content)
    os.utime(lock, (time.time() - 1000,) * 2)
    events = list(job(params(output)))
    assert isinstance(events[-1], Finished)
    assert locks(tmp_path) == []
    if content.startswith('{"job": "mask", "pid": ' + str(2**22 - 1)) and "elsewhere" not in content:
        is_sound = '"started": null' not in content and '"process_started": "x"' not in content
        assert ("is gone without having ended" in str(events[0])) == is_sound


def test_a_job_on_another_computer_counts_as_long_as_it_says_that_it_is_alive(tmp_path: Path) -> None:
    output = tmp_path / "mask.mrc"
    lock = lock_path(output)
    lock.write_text(holder(host="elsewhere"))
    with pytest.raises(InputError, match=r"on elsewhere, since .* remove .*mask\.lock if that computer has lost it"):
        next(job(params(output)))
    assert json.loads(lock.read_text())["host"] == "elsewhere"


def test_a_lock_that_another_process_has_renewed_meanwhile_stays(tmp_path: Path) -> None:
    output = tmp_path / "mask.mrc"
    lock = OutputLock(str(output), "mask")
    lock_path(output).write_text(holder(host="elsewhere"))
    assert not lock._put_aside(None)
    assert "elsewhere" in lock_path(output).read_text()
    assert locks(tmp_path) == [".mask.lock"]


def test_a_folder_that_cannot_be_written_is_left_to_the_job(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with OutputLock(str(tmp_path / "file" / "run"), "refine") as lock:
        assert lock.gone is None
    assert (tmp_path / "file").read_text() == ""


def test_a_run_that_goes_on_has_the_lock_of_the_run(tmp_path: Path) -> None:
    assert lock_path(tmp_path / "run_ct7") == lock_path(tmp_path / "run") == tmp_path / ".run.lock"
    assert lock_path(f"{tmp_path}/out/") == lock_path(tmp_path / "out") == tmp_path / ".out.lock"
    optimiser = tmp_path / "run_ct3_it005_optimiser.star"
    optimiser.write_text("x")
    going_on = refine(RefineParams(continue_from=str(optimiser)))
    with OutputLock(str(tmp_path / "run"), "refine"), pytest.raises(InputError, match="is being written"):
        next(going_on)


def test_a_window_does_not_start_what_a_command_line_is_writing(tmp_path: Path) -> None:
    (tmp_path / "map.mrc").write_text("x")
    with OutputLock(str(tmp_path / "mask.mrc"), "mask"), pytest.raises(InputError, match="is being written by mask"):
        detached.start("mask", {"input": "map.mrc", "output": "mask.mrc"}, tmp_path)
    assert not (tmp_path / ".mask_job").exists()


def start(words: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "napari_autorefine", *words]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs a system that can stop a process")
def test_a_second_process_is_refused_until_the_first_was_killed(particle_set: ParticleSet) -> None:
    lock = lock_path(particle_set.output)
    line = particle_set.line("--max_iterations", "1", "--j", "1", "--cpu")
    first = start(line)
    try:
        end = time.monotonic() + 60
        while not lock.exists() and first.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        first.send_signal(signal.SIGSTOP)
        assert json.loads(lock.read_text())["pid"] == first.pid
        second = start([*line, "--overwrite"])
        text = second.communicate(timeout=60)[0]
        assert second.returncode == 2
        assert f"is being written by refine (process {first.pid}" in text
        assert json.loads(lock.read_text())["pid"] == first.pid
    finally:
        first.kill()
        first.communicate()
    assert lock.exists()
    third = start([*line, "--overwrite"])
    text = third.communicate(timeout=120)[0]
    assert third.returncode == 0, text
    assert f"refine (process {first.pid}, since" in text and "is gone without having ended" in text
    assert not lock.exists()
