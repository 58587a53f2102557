"""Threads beside the window's, and garbage that waits."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("qtpy.QtCore")

from napari_autorefine.ui import thread_manners
from napari_autorefine.ui.thread_manners import (
    beside_the_window,
    collect_in_any_thread,
    collect_in_this_thread,
    hold_garbage,
    release_garbage,
    start_worker,
)


class Thing:
    """Something that can refer to itself, and tells where it ends."""

    def __init__(self, ends: list[str]) -> None:
        self.own = self
        weakref.finalize(self, lambda: ends.append(threading.current_thread().name))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    for holder in list(thread_manners._holders):  # of windows that were closed before they released it
        release_garbage(holder)
    gc.unfreeze()  # what a library has frozen
    interval = sys.getswitchinterval()
    thresholds = gc.get_threshold()
    yield
    collect_in_any_thread()
    assert gc.get_threshold() == thresholds
    assert gc.isenabled() and gc.get_freeze_count() == 0 and sys.getswitchinterval() == interval


def test_no_thread_collects_garbage_while_one_works_beside_the_window() -> None:
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with beside_the_window():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(10)
    with beside_the_window():
        assert not gc.isenabled()
    assert not gc.isenabled()
    leave.set()
    thread.join(10)


def test_old_objects_are_left_alone_until_the_last_holder_releases_them() -> None:
    hold_garbage("a")
    n_frozen = gc.get_freeze_count()
    assert n_frozen > 1000
    hold_garbage("b")
    hold_garbage("b")
    release_garbage("a")
    release_garbage("nobody")
    assert gc.get_freeze_count() > 0.9 * n_frozen
    release_garbage("b")


def in_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work, name="foreign")
    thread.start()
    thread.join(30)


def make_objects() -> None:
    for _ in range(30):
        [[number] for number in range(1000)]


def test_no_other_thread_looks_for_garbage_of_a_window(qtbot: Any) -> None:
    gc.collect()
    ends: list[str] = []
    Thing(ends)
    in_thread(make_objects)
    assert ends == ["foreign"]  # as Python does by itself
    collect_in_this_thread()
    collect_in_this_thread()
    Thing(ends)
    in_thread(make_objects)
    assert len(ends) == 1
    new = [[number] for number in range(20_000)]
    qtbot.waitUntil(lambda: len(ends) == 2, timeout=20_000)
    assert ends[1] == threading.current_thread().name and new


def test_a_thread_that_stays_beside_the_window_does_not_keep_garbage(qtbot: Any) -> None:
    ends: list[str] = []
    collect_in_this_thread()
    with beside_the_window():
        Thing(ends)
        make_objects()
        [Thing(ends) for _ in range(1000)]
        qtbot.waitUntil(lambda: len(ends) == 1001, timeout=20_000)


def test_very_many_new_objects_are_not_looked_through(qtbot: Any) -> None:
    collect_in_this_thread()
    assert thread_manners._collector is not None
    generations: list[int] = []
    note = lambda phase, info: generations.append(info["generation"])  # noqa: E731
    with beside_the_window():
        kept = [[number] for number in range(thread_manners._MANY + 1)]
        gc.callbacks.append(note)
        thread_manners._collector.turn()
        gc.callbacks.remove(note)
        assert not generations and gc.get_count()[0] < 700
        more = [[number] for number in range(thread_manners._MANY + 1)]
    assert gc.get_count()[0] < 700 and len(kept) == len(more)


def test_old_objects_are_looked_through_when_the_mouse_rests(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(thread_manners.time, "monotonic", lambda: now[0])
    ends: list[str] = []
    collect_in_this_thread()
    collector = thread_manners._collector
    assert collector is not None
    thing = Thing(ends)
    gc.collect()
    del thing
    collector.turn()
    now[0] += 61
    collector._mouse = "elsewhere"
    collector.turn()
    assert not ends
    now[0] += 6
    with beside_the_window():
        collector.turn()
        assert not ends
    collector.turn()
    assert len(ends) == 1


def test_a_worker_is_kept_until_its_thread_has_left_it(qtbot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from superqt.utils import create_worker

    monkeypatch.setattr(thread_manners, "_LEFT_MS", 300)
    done: list[int] = []
    worker = create_worker(lambda: 1, _start_thread=False)
    worker.returned.connect(done.append)
    kept = weakref.ref(worker)
    worker.finished.connect(lambda: done.append(0))
    start_worker(worker)
    del worker
    qtbot.waitUntil(lambda: done == [1, 0], timeout=20_000)
    assert kept() in thread_manners._started.values()
    qtbot.waitUntil(lambda: not thread_manners._started, timeout=20_000)
