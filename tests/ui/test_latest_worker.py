"""The thread of the live results: the newest request counts, errors become sentences, nothing is left running."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("napari")

from napari_autorefine.errors import InputError

MOMENT_MS = 20_000


@pytest.fixture
def worker(qtbot: Any) -> Iterator[Any]:
    from napari_autorefine.ui.latest_worker import LatestWorker

    worker = LatestWorker()
    yield worker
    worker.stop()


def test_only_the_newest_request_of_a_topic_is_done(worker: Any, qtbot: Any) -> None:
    gate, done, told = threading.Event(), [], []

    def task(number: int) -> Callable[[], int]:
        return lambda: done.append(number) or number

    worker.ask("block", gate.wait, lambda _: None)
    for number in range(5):
        worker.ask("maps", task(number), told.append)
    worker.ask("curves", task(10), told.append)
    gate.set()
    qtbot.waitUntil(lambda: len(told) == 2, timeout=MOMENT_MS)
    assert done == told == [4, 10] and worker.is_idle


def test_results_come_back_in_the_main_thread(worker: Any, qtbot: Any) -> None:
    threads: list[int] = []
    task = lambda: threads.append(threading.get_ident())  # noqa: E731
    worker.ask("one", task, lambda _: threads.append(threading.get_ident()))
    qtbot.waitUntil(lambda: len(threads) == 2, timeout=MOMENT_MS)
    assert threads[1] == threading.get_ident() != threads[0]


def test_errors_are_sentences_and_the_thread_goes_on(worker: Any, qtbot: Any) -> None:
    told: list[Any] = []

    def fail(error: Exception) -> None:
        raise error

    worker.ask("one", lambda: fail(InputError("The map is damaged.")), told.append)
    worker.ask("two", lambda: fail(RuntimeError("out of luck")), told.append)
    worker.ask("three", lambda: 3, told.append)
    qtbot.waitUntil(lambda: len(told) == 3, timeout=MOMENT_MS)
    assert [getattr(one, "text", one) for one in told] == ["The map is damaged.", "RuntimeError: out of luck", 3]


def test_what_is_forgotten_is_not_delivered(worker: Any, qtbot: Any) -> None:
    gate, told = threading.Event(), []
    worker.ask("maps", lambda: gate.wait() and 1, told.append)
    worker.forget("maps")
    gate.set()
    worker.ask("last", lambda: 2, told.append)
    qtbot.waitUntil(lambda: bool(told), timeout=MOMENT_MS)
    assert told == [2]


def test_python_does_not_collect_garbage_in_the_thread(worker: Any, qtbot: Any) -> None:
    told: list[bool] = []
    worker.ask("one", gc.isenabled, told.append)
    qtbot.waitUntil(lambda: bool(told), timeout=MOMENT_MS)
    assert told == [False] and gc.isenabled()


def test_a_stopped_worker_leaves_no_thread(worker: Any, qtbot: Any) -> None:
    worker.ask("one", lambda: 1, lambda _: None)
    assert any(thread.name == "live results" for thread in threading.enumerate())
    worker.stop()
    assert not any(thread.name == "live results" for thread in threading.enumerate())


def test_the_thread_lets_nothing_of_the_window_end_in_it(worker: Any, qtbot: Any) -> None:
    class Widget:
        def show(self, result: int) -> None:
            raise AssertionError

    ends: list[threading.Thread] = []
    gate, begun = threading.Event(), threading.Event()
    widget = Widget()
    weakref.finalize(widget, lambda: ends.append(threading.current_thread()))
    worker.ask("maps", lambda: begun.set() or gate.wait(20), widget.show)
    assert begun.wait(20)
    del widget
    thread = worker._thread
    worker.stop(wait=False)
    gate.set()
    thread.join(20)
    assert not thread.is_alive() and ends == [threading.current_thread()]


def test_a_result_goes_to_who_asked_for_it(worker: Any, qtbot: Any) -> None:
    gate, begun, told = threading.Event(), threading.Event(), []
    worker.ask("maps", lambda: begun.set() or gate.wait(20), lambda result: told.append(("first", result)))
    assert begun.wait(20)
    worker.ask("maps", lambda: told.append("done") or 2, lambda result: told.append(("second", result)))
    gate.set()
    qtbot.waitUntil(lambda: ("second", 2) in told, timeout=MOMENT_MS)
    assert ("second", True) not in told and ("first", 2) not in told and not worker._thens
