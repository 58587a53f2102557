from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_autorefine.io.mrc import write_image
from napari_autorefine.io.star import read_star, write_star

REPOSITORY = Path(__file__).resolve().parents[2]
DEBIAN_PACKAGES = (
    "xvfb xauth libegl1 libgl1-mesa-dri libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-shape0"
    " libdbus-1-3 libglib2.0-0 libfontconfig1"
)
WINDOW_FIXTURES = {"qtbot", "qapp", "make_viewer", "make_napari_viewer", "make_napari_viewer_proxy"}


def reason_without_window(config: pytest.Config) -> str:
    """What is missing for a test with a window; empty when nothing is."""
    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not has_display:
        return f"no display: run under xvfb-run (Debian: apt-get install {DEBIAN_PACKAGES})"
    try:
        import qtpy.QtWidgets  # noqa: F401
    except Exception as error:  # a missing binding or a missing library of the system
        return f"no Qt ({error}): pip install 'napari[pyqt6]' and, on Debian, apt-get install {DEBIAN_PACKAGES}"
    if not config.pluginmanager.hasplugin("pytest-qt"):
        return "pytest-qt is not loaded: pip install pytest-qt"
    return ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests with a window where there is none; Qt would end the whole run."""
    with_window = [item for item in items if WINDOW_FIXTURES & set(getattr(item, "fixturenames", ()))]
    reason = reason_without_window(config) if with_window else ""
    if reason:
        for item in with_window:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def jobs_that_are_not_nice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs get their share of the processors beside other tests."""
    monkeypatch.setenv("AUTOREFINE_NICE", "0")


@pytest.fixture(autouse=True)
def threads_that_leave(request: pytest.FixtureRequest) -> Iterator[None]:
    """No thread of a window that is gone works on beside the next test: they get 5 s, then the test is named."""
    yield
    manners = sys.modules.get("napari_autorefine.ui.thread_manners")
    if manners is None:
        return
    manners.collect_in_any_thread()
    end = time.monotonic() + 5.0
    while manners._inside and time.monotonic() < end:
        time.sleep(0.05)
    if manners._inside:
        frames, stacks = sys._current_frames(), []
        for thread in threading.enumerate():
            if thread.ident in frames and thread is not threading.main_thread():
                names = [frame.name for frame in traceback.extract_stack(frames[thread.ident])]
                stacks.append(f"{thread.name}: {' > '.join(names)}")
        warnings.warn(f"{request.node.nodeid} leaves threads at work: {'; '.join(stacks)}", stacklevel=1)
        with manners._lock:
            manners._inside = 0
        sys.setswitchinterval(0.005)
        gc.enable()


@pytest.fixture
def make_viewer(make_napari_viewer: Callable[..., Any], plugin: Any) -> Callable[..., Any]:
    """``make_napari_viewer`` with this plugin registered; call it with ``show=True`` for images of the screen."""
    return make_napari_viewer


@pytest.fixture
def plugin(npe2pm: Any) -> Iterator[Any]:
    """The plugin as the top-level manifest describes it, alone in npe2's plugin manager."""
    with npe2pm.tmp_plugin(manifest=str(REPOSITORY / "napari.yaml")) as dynamic:
        yield dynamic


@pytest.fixture
def notices() -> Iterator[list[tuple[str, str]]]:
    """(severity, sentence) of every notification, in order."""
    from napari.utils.notifications import notification_manager

    told: list[tuple[str, str]] = []

    def note(notification: Any) -> None:
        told.append((str(notification.severity), notification.message))

    notification_manager.notification_ready.connect(note)
    yield told
    notification_manager.notification_ready.disconnect(note)


@pytest.fixture
def on_micrographs(particle_set: Any) -> Callable[[int], Path]:
    """Give the particles coordinates, write the first ``n`` of their two micrographs (40 x 64 px), return the file."""

    def make(n: int) -> Path:
        star = read_star(particle_set.star)
        table = star.loop("particles")
        assert table is not None
        table = table.assign(rlnCoordinateX=np.arange(12) * 5.0, rlnCoordinateY=np.arange(12) * 3.0)
        for name in ("a", "b")[:n]:
            image = np.random.default_rng(2).standard_normal((40, 64)).astype(np.float32)
            write_image(particle_set.folder / f"{name}.mrc", image, 1.5)
        path: Path = particle_set.folder / "with_coordinates.star"
        write_star(path, {"optics": star.tables["optics"], "particles": table})
        return path

    return make


@pytest.fixture
def sessions(qapp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The window's sessions; jobs that are left are ended."""
    from napari_autorefine.ui import sessions as module

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    yield module.sessions
    for session in module.sessions.running():
        for _ in range(3):
            session.cancel()
        session.job.wait(20)
    module.sessions.forget()


@pytest.fixture
def make_dock(sessions: Any, slow_job: None, qtbot: Any, tmp_path: Path) -> Callable[..., Any]:
    from napari_autorefine.ui.job_dock import JobDock
    from napari_autorefine.ui.project import Project

    def make(job: str = "slow", **values: Any) -> Any:
        dock = JobDock(job, job.capitalize(), project=Project(tmp_path))
        qtbot.addWidget(dock)
        dock.form.set_values(values)
        return dock

    return make
