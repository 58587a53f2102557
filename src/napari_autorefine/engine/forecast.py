"""How long an iteration and the run will take and how much memory, told while it runs.

What is left of an iteration follows from the particles searched so far and from what earlier iterations needed after
the last particle. How many iterations there will be nobody knows: the range is that of runs of the same schedule,
between one and three iterations per order of the grid that still lies ahead and one to six local ones, and the last.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TypeVar

import psutil

from napari_autorefine.engine.convergence import check_convergence
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.sampling import Accuracy
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.events import Event, IterationDone, Message, Progress, duration

_STAGE = "expectation"
_FIRST_SHARE, _FIRST_S = 0.02, 3.0
_WORTH_TELLING_S = 10.0
_FASTER, _SLOWER = 0.5, 2.0
_PER_ORDER = (1, 3)
_LOCAL = (1, 6)
_BYTES_PER_SAMPLE = 32  # sums of both halves (12 each) and the reference of one (8)
_MAPS = 6

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A forecast in seconds and bytes; ``run_s`` the shortest and the longest that is likely, after the iteration."""

    iteration_s: float
    run_s: tuple[float, float]
    peak_bytes: int
    expected_bytes: int

    def text(self) -> str:
        """Return it in words."""
        low, high = self.run_s
        words = f"iteration {duration(self.iteration_s)}"
        if high > self.iteration_s:
            words += f", run {duration(low)} to {duration(high)}"
        return f"{words} left; memory {_gigabytes(self.peak_bytes)} so far, {_gigabytes(self.expected_bytes)} expected"


@dataclass(slots=True, kw_only=True)
class Forecast:
    """Follows a refinement and adds to its events what is to be expected.

    Attributes
    ----------
    options : of the refinement
    state : after the last iteration, None before the first
    after_s : seconds from the last particle of an iteration to its end, in the last iteration
    base_bytes : memory before the first iteration
    """

    options: RefineOptions
    state: RefinementState | None = None
    after_s: float = 0.0
    base_bytes: int = field(default_factory=lambda: psutil.Process().memory_info().rss)
    _iteration: int = -1
    _began: float = 0.0
    _searched: float = 0.0
    _is_told: bool = False

    def follow(self, events: Generator[Event | RefinementState, None, None]) -> Iterator[Event | RefinementState]:
        """Yield all events, progress with a forecast, and one sentence after the first blocks of a long iteration."""
        self._began = time.perf_counter()
        with closing(events):
            for event in events:
                if isinstance(event, Progress) and event.stage == _STAGE:
                    yield from self._progress(event)
                    continue
                if isinstance(event, RefinementState):
                    self.state = event
                elif isinstance(event, IterationDone):
                    now = time.perf_counter()
                    self.after_s, self._began = now - self._searched, now
                yield event

    def _progress(self, event: Progress) -> Iterator[Event]:
        now = time.perf_counter()
        if event.iteration != self._iteration:
            self._iteration, self._is_told = event.iteration or 0, False
        self._searched = now
        elapsed, share = now - self._began, event.done / max(event.total, 1)
        if elapsed < _FIRST_S and share < _FIRST_SHARE:
            yield event
            return
        outlook = self.outlook(elapsed, share)
        text = outlook.text()
        yield replace(event, seconds_left=outlook.iteration_s, forecast=text)
        if not self._is_told and elapsed >= _FIRST_S:
            self._is_told = True
            if outlook.iteration_s > _WORTH_TELLING_S:
                yield Message(text=f"Forecast for iteration {event.iteration}: {text}.")

    def outlook(self, elapsed_s: float, share: float) -> Outlook:
        """Return the forecast some seconds into an iteration of which a share of the particles is searched."""
        search_s = elapsed_s * (1.0 - share) / share
        after_s = self.after_s or 0.1 * elapsed_s / share
        whole_s, left_s = elapsed_s / share + after_s, search_s + after_s
        fewest, most = self.iterations_left()
        last = self._cost_of_last()
        low = left_s + whole_s * (_FASTER * max(fewest - 1, 0) + (min(last, 1.0) if fewest else 0.0))
        high = left_s + whole_s * (_SLOWER * max(most - 1, 0) + (max(last, 1.0) if most else 0.0))
        peak = peak_memory_bytes()
        return Outlook(
            iteration_s=left_s, run_s=(low, high), peak_bytes=peak, expected_bytes=max(peak, self._memory_at_end())
        )

    def iterations_left(self) -> tuple[int, int]:
        """Return the fewest and the most iterations that are likely after the present one, the last one included."""
        if self.state is None:
            return 0, self.options.max_iterations
        convergence, sampling = self.state.convergence, self.state.sampling
        present = self.state.iteration + 1
        if self._is_last(self.state):
            return 0, 0
        orders = 0 if sampling.is_local else max(self.options.auto_local_healpix_order - sampling.healpix_order, 0)
        fewest, most = (orders * per + local + 1 for per, local in zip(_PER_ORDER, _LOCAL, strict=True))
        if convergence.is_fine_enough and sampling.is_local:
            fewest = 1
        possible = max(self.options.max_iterations - present, 0)
        return min(fewest, possible), min(most, possible)

    def _is_last(self, state: RefinementState) -> bool:
        """Whether the present iteration, which comes after ``state``, is the last one."""
        half = state.halves[0]
        accuracy = Accuracy(rot_deg=half.accuracy_rot_deg, trans_A=half.accuracy_trans_A)
        return check_convergence(state.convergence, state.sampling, accuracy, self.options).convergence.has_converged

    def _cost_of_last(self) -> float:
        """Return how many times the present iteration the last one, with all frequencies, takes at the most."""
        if self.state is None or not self.state.convergence.current_size:
            return 1.0
        return (self.state.box_size / self.state.convergence.current_size) ** 2

    def _memory_at_end(self) -> int:
        """Return what the last iteration is expected to occupy."""
        if self.state is None:
            return 0
        n, radius = self.state.box_size, math.ceil(self.options.pad * self.state.box_size / 2) + 1
        return self.base_bytes + _BYTES_PER_SAMPLE * (2 * radius + 1) ** 2 * (radius + 2) + 4 * _MAPS * n**3


def n_step(*, is_final: bool, is_masked: bool) -> int:
    """Return how many things the maximization makes: sums of both halves, their comparison, maps."""
    return (6 + is_masked) if is_final else (5 + 2 * is_masked)


def told(steps: Generator[str, None, Made], iteration: int, total: int) -> Generator[Progress, None, Made]:
    """Say what is made while it is made."""
    done = 0
    try:
        while True:
            yield Progress(stage=next(steps), done=done, total=total, iteration=iteration)
            done += 1
    except StopIteration as end:
        made: Made = end.value
        return made


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else 1024 * peak)


def _gigabytes(n_byte: int) -> str:
    return f"{n_byte / 1e9:.1f} GB"
