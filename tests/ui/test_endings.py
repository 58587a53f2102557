"""Widgets whose Python side is collected before Qt destroys them."""

from __future__ import annotations

import gc
import re
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qtpy.QtWidgets")

REPOSITORY = Path(__file__).resolve().parents[2]


def collect(*, elsewhere: bool) -> None:
    if not elsewhere:
        gc.collect()
        return
    thread = threading.Thread(target=gc.collect)
    thread.start()
    thread.join(60)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("is_removed", [False, True])
def test_what_is_to_be_done_is_done_when_python_has_forgotten_the_widget(
    elsewhere: bool, is_removed: bool, qapp: Any, qtbot: Any
) -> None:
    from qtpy.QtWidgets import QWidget

    from napari_autorefine.ui.endings import _endings, when_destroyed

    before = set(_endings)
    ended: list[threading.Thread] = []
    for _ in range(3):
        about: list[Any] = []
        widget = QWidget()
        about.append(widget)
        widget.about = about  # type: ignore[attr-defined]
        when_destroyed(widget, lambda: ended.append(threading.current_thread()))
        if is_removed:
            widget.deleteLater()
        del widget, about
        collect(elsewhere=elsewhere)
    qtbot.waitUntil(lambda: len(ended) == 3, timeout=20_000)
    assert set(ended) == {threading.main_thread()} and not set(_endings) - before


@pytest.mark.parametrize("elsewhere", [False, True])
def test_docks_end_after_python_has_collected_them(
    elsewhere: bool, make_viewer: Any, sessions: Any, qtbot: Any
) -> None:
    from napari_autorefine.ui.dashboard import Dashboard
    from napari_autorefine.ui.endings import _endings
    from napari_autorefine.ui.job_docks import MaskDock
    from napari_autorefine.ui.particles_dock import ParticlesDock
    from napari_autorefine.ui.recenter_dock import RecenterDock
    from napari_autorefine.ui.side_by_side import CompareDock

    viewer = make_viewer()
    before = set(_endings)
    for make in (Dashboard, MaskDock, RecenterDock, CompareDock, ParticlesDock):
        make(viewer)
        assert set(_endings) - before
        collect(elsewhere=elsewhere)
        qtbot.waitUntil(lambda: not set(_endings) - before, timeout=20_000)


def test_nothing_else_is_connected_to_the_end_of_a_widget() -> None:
    """Python may empty partials and functions of its garbage that Qt still calls."""
    for path in (REPOSITORY / "src" / "napari_autorefine" / "ui").glob("*.py"):
        for slot in re.findall(r"\.destroyed\.connect\((.*)\)", path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"self\._?\w+|slot", slot), f"{path.name}: destroyed.connect({slot})"
