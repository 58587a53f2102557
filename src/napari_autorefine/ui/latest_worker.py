"""A thread for work that is only of interest in its newest form: a later request of a topic replaces an earlier one.

Files of a refinement arrive faster than a slow computer can show them. Nothing queues up here: per topic there is one
request that waits and one result on its way, and results reach the main thread through Qt's events.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QCoreApplication, QEvent, QObject

from napari_autorefine.errors import InputError
from napari_autorefine.ui.thread_manners import beside_the_window, collect_in_this_thread

Task = Callable[[], Any]
Then = Callable[[Any], None]

_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a task returned instead of a result: one sentence."""

    text: str


class LatestWorker(QObject):
    """One thread; ``ask`` it from the main thread, answers come back there."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._desk = _Desk(self._call)
        self._thread: threading.Thread | None = None
        self._thens: dict[int, tuple[str, Then]] = {}
        self._asked = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing is asked for, under way or waiting to be delivered."""
        return self._desk.is_idle

    def ask(self, topic: str, task: Task, then: Then) -> None:
        """Run a task in the thread, then ``then(result)`` in the main thread.

        A task of the topic that has not begun is dropped; so is a result that has not been delivered when a newer one
        is there. Exceptions become a ``Failure``.
        """
        if self._thread is None:
            collect_in_this_thread()
            self._thread = threading.Thread(target=self._desk.work, name="live results", daemon=True)
            self._thread.start()
        self._asked += 1
        self._thens[self._asked] = (topic, then)
        self._desk.put(topic, self._asked, task)

    def forget(self, topic: str) -> None:
        """Drop what was asked of a topic, its result included."""
        self._drop(topic, self._asked)
        self._desk.forget(topic)

    def stop(self, *, wait: bool = True) -> None:
        """End the thread after the task it is at, and wait for that; nothing is delivered any more."""
        self._desk.close()
        self._thens.clear()
        thread, self._thread = self._thread, None
        if wait and thread is not None:
            thread.join(_WAIT_S)

    def customEvent(self, event: QEvent | None) -> None:
        """Deliver results, in the main thread."""
        for topic, number, result in self._desk.results():
            known = self._thens.get(number)
            self._drop(topic, number)
            if known is not None:
                known[1](result)

    def _drop(self, topic: str, last: int) -> None:
        """Forget what was to be done with results of a topic up to a request; here, where widgets may end."""
        for number in [one for one, (known, _) in self._thens.items() if known == topic and one <= last]:
            del self._thens[number]

    def _call(self) -> None:
        """Let the main thread deliver; called by the other one."""
        QCoreApplication.postEvent(self, QEvent(QEvent.Type.User))


class _Desk:
    """What thread and main thread share; the thread knows nothing of Qt but a function to call, and owns no widget."""

    def __init__(self, notify: Callable[[], Any]) -> None:
        self._notify = notify
        self._changed = threading.Condition()
        self._asked: dict[str, tuple[int, Task]] = {}
        self._results: dict[str, tuple[int, Any]] = {}
        self._under_way = ""
        self._dropped = False
        self._is_open = True

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return not (self._asked or self._results or self._under_way)

    def put(self, topic: str, number: int, task: Task) -> None:
        with self._changed:
            if self._is_open:
                self._asked[topic] = (number, task)
                self._changed.notify()

    def forget(self, topic: str) -> None:
        with self._changed:
            self._asked.pop(topic, None)
            self._results.pop(topic, None)
            self._dropped = self._dropped or topic == self._under_way

    def close(self) -> None:
        with self._changed:
            self._is_open = False
            self._asked.clear()
            self._results.clear()
            self._changed.notify()

    def results(self) -> list[tuple[str, int, Any]]:
        with self._changed:
            taken = [(topic, number, result) for topic, (number, result) in self._results.items()]
            self._results.clear()
        return taken

    def work(self) -> None:
        """Do what is asked until the desk is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked or not self._is_open)
                if not self._is_open:
                    return
                topic = next(iter(self._asked))
                number, task = self._asked.pop(topic)
                self._under_way, self._dropped = topic, False
            result = _done(task)
            with self._changed:
                self._under_way = ""
                is_wanted = self._is_open and not self._dropped
                if is_wanted:
                    self._results[topic] = (number, result)
            del task, result
            if is_wanted:
                with suppress(RuntimeError):  # the window is gone
                    self._notify()


def _done(task: Task) -> Any:
    with beside_the_window():
        try:
            return task()
        except InputError as error:
            return Failure(text=str(error))
        except Exception as error:
            return Failure(text=f"{type(error).__name__}: {error}")
