"""Jobs in processes of their own: followed, paused, cancelled, killed, found again."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from conftest import ParticleSet

from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, IterationDone, Message, Progress
from napari_autorefine.jobs import detached_run
from napari_autorefine.jobs.detached import DetachedJob, attach, start
from napari_autorefine.jobs.failures import failure_text
from napari_autorefine.jobs.job_events import (
    IterationWritten,
    JobEnded,
    StateChanged,
    TimedEvent,
    from_line,
    to_line,
    without_arrays,
)
from napari_autorefine.jobs.job_folder import JobFolder, state_folder


@pytest.fixture
def endless(slow_job: None, tmp_path: Path) -> Iterator[DetachedJob]:
    """A job that is far from its end, past its first events."""
    job = start("slow", {"output": "out/count.mrc"}, tmp_path)
    assert until(lambda: any(isinstance(one.event, Progress) for one in job.events()[0])), job.status()
    yield job
    for pid in [job.info.pid] if job.info.pid and psutil.pid_exists(job.info.pid) else []:
        psutil.Process(pid).kill()
        job.wait(10)


def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def files(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and not path.parent.name.startswith(".")]


def test_a_job_is_followed_to_its_end(particle_set: ParticleSet) -> None:
    job = start("rebox", {"input": "ref.mrc", "output": "new/small.mrc", "new_box": 12}, particle_set.folder)
    assert job.wait(60).state == "finished", job.status()
    events, position = job.events()
    assert [type(one.event) for one in events[-2:]] == [Finished, JobEnded]
    assert events[-2].event.outputs["map"] == "new/small.mrc" and "12 x 12 x 12" in job.status().text
    assert job.events(position) == ((), position)
    assert (particle_set.folder / "new" / "small.mrc").is_file()
    again = attach(particle_set.folder / "new" / "small.mrc")
    assert again.info.job == "rebox" and again.info.command.startswith("autorefine rebox --i ref.mrc")
    assert attach(particle_set.folder / "new").info.pid == attach(job.folder.path).info.pid == job.info.pid


def test_a_paused_job_does_nothing_until_it_is_resumed(endless: DetachedJob) -> None:
    endless.pause()
    assert until(lambda: endless.status().state == "paused")
    _, position = endless.events()
    time.sleep(1.0)
    assert endless.events(position)[0] == ()
    endless.resume()
    assert until(lambda: any(isinstance(one.event, Progress) for one in endless.events(position)[0]))
    assert endless.status().state == "running"
    states = [one.event.state for one in endless.events()[0] if isinstance(one.event, StateChanged)]
    assert states == ["paused", "running"]


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_cancelled_job_leaves_no_files(endless: DetachedJob, is_paused: bool) -> None:
    if is_paused:
        endless.pause()
        assert until(lambda: endless.status().state == "paused")
    endless.cancel()
    assert endless.wait(30).state == "cancelled"
    assert files(endless.output.parent) == []


def test_a_job_without_events_is_interrupted(slow_job: None, tmp_path: Path) -> None:
    job = start("slow", {"output": "out/count.mrc", "silent_s": 300.0}, tmp_path)
    assert until(lambda: files(tmp_path))
    job.cancel()
    assert job.wait(30).state == "cancelled"
    assert files(tmp_path) == []


def test_a_job_that_does_not_listen_is_killed_at_the_third_request(endless: DetachedJob) -> None:
    process = psutil.Process(endless.info.pid)
    process.suspend()
    for _ in range(3):
        endless.cancel()
    assert endless.wait(10).state == "cancelled"


def test_a_request_of_the_system_to_end_is_a_cancellation(endless: DetachedJob) -> None:
    psutil.Process(endless.info.pid).terminate()
    assert endless.wait(30).state == "cancelled"
    assert files(endless.output.parent) == []


def test_a_second_job_with_the_same_output_is_refused(endless: DetachedJob) -> None:
    with pytest.raises(InputError, match="is running since"):
        start("slow", {"output": "out/count.mrc"}, endless.info.workdir)
    assert endless.status().state == "running"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_a_killed_job_is_found_dead(endless: DetachedJob) -> None:
    endless.folder.log.write_text("last words\n")
    os.kill(endless.info.pid or 0, signal.SIGKILL)
    assert endless.wait(10).state == "died"
    status = attach(endless.output).status()
    assert status.state == "died" and "killed" in status.text and status.details == "last words"
    JobFolder(endless.folder.path).write_info(replace(endless.info, pid=os.getpid()))
    assert attach(endless.output).status().state == "died", "another process has got the number since"


def test_a_job_of_another_computer_is_judged_by_its_heartbeat(endless: DetachedJob) -> None:
    endless.folder.write_info(replace(endless.info, host="elsewhere", pid=2**30))
    assert until(lambda: attach(endless.output).status().state == "running")
    os.utime(endless.folder.path / "heartbeat", (0, 0))
    psutil.Process(endless.info.pid).kill()
    os.utime(endless.folder.path / "heartbeat", (0, 0))
    assert attach(endless.output).status().state == "died"


def test_a_refinement_is_cancelled_and_continued(particle_set: ParticleSet) -> None:
    values = {"particles": "particles.star", "reference": "ref.mrc", "output": "out/run", "particle_diameter_A": 30.0}
    job = start("refine", values | {"threads": 1, "cpu": True, "random_seed": 1}, particle_set.folder)
    assert until(lambda: any(isinstance(one.event, IterationWritten) for one in job.events()[0])), job.status()
    job.cancel()
    status = job.wait(60)
    done = [one.event for one in job.events()[0] if isinstance(one.event, IterationWritten)]
    assert done[0].iteration == 1 and done[0].fsc[0] == pytest.approx(1.0)
    assert all((particle_set.folder / path).is_file() for path in done[0].files.values())
    assert set(done[0].files) == {"half1", "half2", "optimiser"}
    if status.state == "finished":
        pytest.skip("converged before it could be cancelled")
    assert status.state == "cancelled" and "--continue" in status.text
    going_on = start("refine", {"continue_from": done[-1].files["optimiser"]}, particle_set.folder)
    assert going_on.output == job.output
    assert going_on.wait(120).state == "finished", going_on.status()
    last = [one.event for one in going_on.events()[0] if isinstance(one.event, IterationWritten)][-1]
    assert last.is_final and set(last.files) == {"half1", "half2", "optimiser", "map", "particles"}


def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path) -> None:
    cases = [
        ("rebox", {"input": "no.mrc", "output": "b.mrc", "new_box": 12}, "map: no.mrc does not exist"),
        ("rebox", {"input": "no.mrc", "output": "b.mrc"}, "nothing to do"),
        ("rebox", {"input": "no.mrc", "output": "", "new_box": 12}, "output has no name"),
        ("resize", {}, "There is no job"),
    ]
    for job, values, text in cases:
        (tmp_path / "no.mrc").unlink(missing_ok=True)
        if "name" in text:
            (tmp_path / "no.mrc").touch()
        with pytest.raises(InputError, match=text):
            start(job, values, tmp_path)
    with pytest.raises(InputError, match="No job was started"):
        attach(tmp_path / "nothing")
    assert not list(tmp_path.rglob("*_job"))


@pytest.mark.parametrize(
    ("failure", "text", "details"), [("input", "As wanted.", ""), ("no sense", "did not expect: Zero", "slow.py")]
)
def test_failures_end_as_one_sentence(slow_job: None, tmp_path: Path, failure: str, text: str, details: str) -> None:
    status = start("slow", {"output": "a.mrc", "steps": 1, "failure": failure}, tmp_path).wait(60)
    assert status.state == "failed" and text in status.text and "\n" not in status.text and details in status.details
    assert bool(details) == bool(status.details) and files(tmp_path) == []


def test_other_failures_are_told_in_plain_words() -> None:
    class OutOfMemoryError(MemoryError):
        """As CuPy's."""

    assert "too little memory" in failure_text(MemoryError())
    assert "GPU has too little" in failure_text(OutOfMemoryError())
    assert "GPU failed" in failure_text(RuntimeError("cudaErrorIllegalAddress: an illegal memory access"))
    assert "No space" in failure_text(OSError(28, "No space left on device", "a.mrc"))
    assert "ZeroDivisionError" in failure_text(ZeroDivisionError("division by zero"))


def test_events_survive_as_lines(tmp_path: Path) -> None:
    done = IterationDone(
        iteration=3,
        is_final=False,
        half_maps=(np.zeros((2, 2, 2)), np.zeros((2, 2, 2))),
        joined_map=None,
        fsc=np.array([1.0, 0.5], np.float32),
        is_local=True,
        **dict.fromkeys(("voxel_size_A", "resolution_A", "accuracy_rot_deg", "accuracy_trans_A"), 2.5),
        **dict.fromkeys(("angular_step_deg", "offset_step_A", "offset_range_A", "change_rot_deg"), 1.5),
        **dict.fromkeys(("change_trans_A", "mean_p_max", "seconds"), float("inf")),
        healpix_order=np.int64(3),
        current_size=20,
    )
    (tmp_path / "run_it003_half1_class001.mrc").touch()
    (tmp_path / "run_ct2_it003_half1_class001.mrc").touch()
    os.utime(tmp_path / "run_it003_half1_class001.mrc", (0, 0))
    written = without_arrays(done, str(tmp_path / "run"))
    assert isinstance(written, IterationWritten) and written.files["half1"].endswith("run_ct2_it003_half1_class001.mrc")
    for event in (written, Message(text="å", level="warning"), Progress(stage="x", done=1, total=2)):
        assert from_line(to_line(TimedEvent(time=1.5, event=event))) == TimedEvent(time=1.5, event=event)
    assert from_line('{"time": 1, "type": "Later"}') is from_line("{") is from_line("[]") is None


def test_progress_is_thinned_and_other_events_are_not(tmp_path: Path) -> None:
    with open(tmp_path / "events", "w+", encoding="utf-8") as file:
        writer = detached_run.EventWriter(file)
        for done in range(1, 2001):
            writer.write(Progress(stage="a", done=done, total=2000))
            writer.write(Message(text=str(done)))
        file.seek(0)
        kinds = [json.loads(line)["type"] for line in file]
    assert kinds.count("Message") == 2000 and 2 <= kinds.count("Progress") < 20


def test_names_of_state_folders() -> None:
    assert state_folder("a/run") == Path("a/.run_job")
    assert state_folder("a/map_2.5A.mrc") == Path("a/.map_2.5A_job")
    assert state_folder("a/run.v2") == Path("a/.run.v2_job")


def running_job(tmp_path: Path) -> tuple[DetachedJob, int]:
    """Return a job that has told of progress, and the number of its process."""
    job = start("slow", {"output": "count.mrc"}, tmp_path)
    assert until(lambda: any(isinstance(one.event, Progress) for one in job.events()[0])), job.status()
    return job, job.info.pid or 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has classes of threads")
@pytest.mark.parametrize(("given", "nice", "is_idle"), [("", 10, True), ("3", 3, False), ("0", 0, False)])
def test_a_job_leaves_the_window_in_front(
    slow_job: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, nice: int, is_idle: bool
) -> None:
    monkeypatch.setenv("AUTOREFINE_NICE", given)
    job, pid = running_job(tmp_path)
    threads = [thread.id for thread in psutil.Process(pid).threads()]
    found = psutil.Process(pid).nice(), [os.sched_getscheduler(thread) == os.SCHED_IDLE for thread in threads]
    session, group, io = os.getsid(pid), os.getpgid(pid), psutil.Process(pid).ionice().ioclass
    for _ in range(3):
        job.cancel()
    job.wait(20)
    assert found[0] == nice
    assert found[1].count(False) == (1 if is_idle else len(threads)), "the thread that says that the job is alive"
    assert session == os.getsid(0), "Linux would share processors between sessions first"
    assert group == pid
    assert io != psutil.IOPRIO_CLASS_IDLE


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no terminals that hang up")
def test_a_closed_terminal_does_not_end_a_job(slow_job: None, tmp_path: Path) -> None:
    job, pid = running_job(tmp_path)
    n_before = len(job.events()[0])
    os.kill(pid, signal.SIGHUP)
    went_on = until(lambda: len(job.events()[0]) > n_before + 1)
    state = job.status().state
    for _ in range(3):
        job.cancel()
    job.wait(20)
    assert went_on
    assert state == "running"
