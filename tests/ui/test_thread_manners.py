"""Threads beside the window's, and garbage that waits."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from napari_autorefine.ui import thread_manners
from napari_autorefine.ui.thread_manners import beside_the_window, hold_garbage, release_garbage


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    for holder in list(thread_manners._holders):  # of windows that were closed before they released it
        release_garbage(holder)
    gc.unfreeze()  # what a library has frozen
    interval = sys.getswitchinterval()
    yield
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
