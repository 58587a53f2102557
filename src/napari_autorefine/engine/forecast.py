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

_STAGE, _PREPARATION = "expectation", "reference of half-set"
_AFTER = 0.1  # of the search, where nothing is known yet of what follows it
_FIRST_SHARE, _FIRST_S = 0.02, 2.0
_WORTH_TELLING_S = 10.0
_FASTER = {False: 0.2, True: 0.5}  # local searches, to which a global one leads, take less time
_SLOWER, _SLOWER_THAN_FIRST = 2.0, 6.0
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
class _Pace:
    """How fast an iteration searches: the time from block to block, without that before the first of a half-set.

    Attributes
    ----------
    prepared_s : from the beginning of a half-set to its first block
    searched_s, searched : time and particles after that
    done : particles searched, of both halves; -1 before the first block of a half-set
    """

    iteration: int
    prepared_s: float = 0.0
    searched_s: float = 0.0
    searched: int = 0
    done: int = -1
    is_told: bool = False

    def take(self, done: int, seconds: float) -> None:
        """Count a block that came some seconds after the event before it."""
        if self.done < 0:
            self.prepared_s = seconds
        else:
            self.searched_s += seconds
            self.searched += done - self.done
        self.done = done

    def is_known(self, total: int) -> bool:
        """Whether enough was searched to foretell the rest."""
        return self.searched > 0 and (self.searched_s >= _FIRST_S or self.searched >= _FIRST_SHARE * total)

    def left_s(self, total: int) -> float:
        """Return the time that the search of the rest takes."""
        again = self.prepared_s if self.done < total / 2 else 0.0
        return (total - self.done) * self.searched_s / self.searched + again


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
    _began: float = 0.0
    _last: float = 0.0
    _pace: _Pace = field(default_factory=lambda: _Pace(iteration=-1))

    def follow(self, events: Generator[Event | RefinementState, None, None]) -> Iterator[Event | RefinementState]:
        """Yield all events, progress with a forecast, and one sentence after the first blocks of a long iteration."""
        self._began = self._last = time.perf_counter()
        with closing(events):
            for event in events:
                now = time.perf_counter()
                if isinstance(event, Progress) and event.stage == _STAGE:
                    yield from self._progress(event, now)
                    self._last = time.perf_counter()  # without the time that the listener took
                    continue
                if isinstance(event, RefinementState):
                    self.state = event
                elif isinstance(event, IterationDone):
                    self.after_s, self._began = now - self._last, now
                elif isinstance(event, Progress) and event.stage.startswith(_PREPARATION):
                    self._pace.done = -1
                    self._last = now
                yield event

    def _progress(self, event: Progress, now: float) -> Iterator[Event]:
        if event.iteration != self._pace.iteration:
            self._pace = _Pace(iteration=event.iteration or 0)
        pace = self._pace
        pace.take(event.done, now - self._last)
        if not pace.is_known(event.total):
            yield event
            return
        outlook = self.outlook(now - self._began, pace.left_s(event.total))
        text = outlook.text()
        yield replace(event, seconds_left=outlook.iteration_s, forecast=text)
        if not pace.is_told:
            pace.is_told = True
            if outlook.iteration_s > _WORTH_TELLING_S:
                yield Message(text=f"Forecast for iteration {event.iteration}: {text}.")

    def outlook(self, elapsed_s: float, search_s: float) -> Outlook:
        """Return the forecast some seconds into an iteration whose search takes some seconds more."""
        after_s = self.after_s or _AFTER * (elapsed_s + search_s)
        left_s = search_s + after_s
        whole_s = elapsed_s + left_s
        fewest, most = self.iterations_left()
        low, high = left_s, left_s
        if most:
            faster = _FASTER[self.state is not None and self.state.sampling.is_local]
            low += whole_s * faster * fewest
            slower = _SLOWER if self.state is not None and self.state.iteration else _SLOWER_THAN_FIRST
            high += whole_s * (slower * (most - 1) + max(self._cost_of_last(), 1.0))
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
