"""A job for tests of running jobs: it does nothing, for as long as wanted, and writes its file last."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.files import FileSet
from napari_autorefine.jobs import JOBS, Job
from napari_autorefine.params import JobParams, Param

NAME = "slow"


class SlowParams(JobParams):
    """What the job does."""

    output: Annotated[str, Param("Output", "File.", "I/O", flags=("o",), file_kind="write")] = ""
    steps: Annotated[int, Param("Steps", "How many.", "I/O", minimum=1)] = 100_000
    silent_s: Annotated[float, Param("Silence", "Time without an event after the first.", "I/O", unit="s")] = 0.0
    failure: Annotated[str, Param("Failure", "Kind of error at the end.", "I/O")] = ""


def slow(params: SlowParams) -> Iterator[Event]:
    """Count, then write the file."""
    with FileSet() as files:
        path = files.new(params.output)
        path.write_text("half")
        yield Message(text="Counting.")
        yield Progress(stage="counting", done=0, total=params.steps)
        time.sleep(params.silent_s)
        for done in range(params.steps):
            time.sleep(0.005)
            yield Progress(stage="counting", done=done + 1, total=params.steps)
        if params.failure:
            raise InputError("As wanted.") if params.failure == "input" else ZeroDivisionError(params.failure)
        path.write_text("whole")
    yield Finished(text="Counted.", outputs={"map": params.output})


def register() -> None:
    """Make it one of the jobs of this process."""
    sys.modules[f"napari_autorefine.jobs.{NAME}"] = sys.modules[__name__]
    JOBS[NAME] = Job(name=NAME, title="Count", params_class="SlowParams")
