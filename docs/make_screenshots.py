"""Make the pictures of docs/images: a real window is driven through the tutorials, on data that are simulated for it.

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_screenshots.py [--only spa|sta]

``make screenshots`` does it. Jobs run in processes of their own as always; a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari import Viewer
    from PIL import Image

    from napari_autorefine.ui.job_dock import JobDock

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
PLUGIN = "napari-autorefine"
WINDOW = (1400, 860)
MOST_BYTES = 300_000
LIVE_ITERATION = 5
LIVE = "Live results (napari-autorefine)"
_TURN_S = 0.02
_GAP_PX, _FORM_HEIGHT = 8, 440


class Driver:
    """The window, and what a hand and an eye would do with it."""

    def __init__(self, viewer: Viewer, images: Path) -> None:
        self.viewer, self.images = viewer, images

    def spin(self, seconds: float = 0.5) -> None:
        """Let the window work for some time."""
        from qtpy.QtCore import QEvent
        from qtpy.QtWidgets import QApplication

        end = time.monotonic() + seconds
        while time.monotonic() < end:
            QApplication.processEvents()
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
            time.sleep(_TURN_S)

    def until(self, done: Callable[[], bool], what: str, seconds: float = 600.0) -> None:
        """Let the window work until something is so."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {what}")
            self.spin(0.1)

    def shot(self, name: str) -> None:
        """Write a picture of the window."""
        from PIL import Image

        self.spin(1.0)
        self.quiet()
        self._write(name, Image.fromarray(self.viewer.screenshot(canvas_only=False, flash=False)))

    def strip(self, name: str, dock: JobDock, tabs: tuple[str, ...]) -> None:
        """Write the tabs of a form beside each other, without what is below the fields."""
        from PIL import Image

        pictures = []
        for tab in tabs:
            self.tab(dock, tab)
            pictures.append(_grabbed(dock))
        height = min(_FORM_HEIGHT, *(picture.height for picture in pictures))
        whole = Image.new("RGB", (sum(one.width + _GAP_PX for one in pictures) - _GAP_PX, height), "white")
        left = 0
        for picture in pictures:
            whole.paste(picture, (left, 0))
            left += picture.width + _GAP_PX
        self._write(name, whole)

    def _write(self, name: str, picture: Image.Image) -> None:
        """Write a picture; with fewer colors, then smaller, when its file would be large, as one of noise is."""
        path = self.images / f"{name}.png"
        for scale in (1.0, 0.88, 0.77, 0.68):
            smaller = picture.convert("RGB").resize((int(scale * picture.width), int(scale * picture.height)))
            smaller.save(path, optimize=True)
            if path.stat().st_size > MOST_BYTES:
                smaller.quantize(256, dither=0).save(path, optimize=True)
            if path.stat().st_size <= MOST_BYTES:
                break
        sys.stdout.write(f"{path}  {path.stat().st_size // 1000} kB\n")
        sys.stdout.flush()

    def dock(self, job: str) -> JobDock:
        """Bring the form of a job to the front."""
        from napari_autorefine.ui.job_docks import open_dock

        dock = open_dock(self.viewer, job)
        assert dock is not None
        self.spin()
        return dock

    def tab(self, dock: JobDock, name: str) -> None:
        """Show a tab of a form."""
        dock.form.tabs.show_page(dock.form._groups.index(name))
        self.spin(0.2)

    def run(self, dock: JobDock) -> None:
        """Press Run and wait for the end."""
        self.start(dock)
        self.end(dock)

    def start(self, dock: JobDock) -> None:
        """Press Run."""
        self.until(lambda: not dock.form.problem, f"{dock.title}: {dock.form.problem}", 30)
        dock.panel.run_button.click()
        assert dock.panel.session is not None, dock.panel.status.text()

    def end(self, dock: JobDock) -> None:
        """Wait until the job of a form has finished."""
        session = dock.panel.session
        assert session is not None
        self.until(lambda: session.is_over, dock.title)
        assert session.state == "finished", session.ended
        self.spin(1.0)

    def press(self, dock: JobDock, text: str) -> None:
        """Press one of the buttons below a finished job."""
        flow = dock.panel._flow
        buttons = [flow.itemAt(index).widget() for index in range(flow.count())]
        next(button for button in buttons if button.text() == text).click()
        self.spin(1.0)

    def quiet(self) -> None:
        """Take notifications away."""
        from napari._qt.dialogs.qt_notification import NapariQtNotification

        for one in self.viewer.window._qt_window.findChildren(NapariQtNotification):
            one.close()
        self.spin(0.2)


def _grabbed(widget: Any) -> Image.Image:
    """Return a widget as a picture."""
    from PIL import Image
    from qtpy.QtCore import QBuffer, QIODevice

    buffer = QBuffer()
    buffer.open(QIODevice.OpenModeFlag.WriteOnly)
    widget.grab().save(buffer, "PNG")
    return Image.open(io.BytesIO(bytes(buffer.data())))


def extract(driver: Driver) -> JobDock:
    """Open the sample project and cut its particles out again."""
    driver.viewer.open_sample(PLUGIN, "project")
    dock = driver.dock("extract")
    driver.spin(2.0)
    driver.shot("extract_inputs")
    driver.strip("extract_form", dock, ("I/O", "Extraction options", "Re-extraction options"))
    driver.tab(dock, "Extraction options")
    driver.run(dock)
    driver.viewer.layers.clear()
    driver.press(dock, "Open montage")
    driver.shot("extract_result")
    return dock


def rebox(driver: Driver) -> JobDock:
    """Put the earlier map on the grid of the particles."""
    dock = driver.dock("rebox")
    driver.tab(dock, "Rebox and rescale")
    driver.run(dock)
    driver.viewer.layers.clear()
    driver.press(dock, "Open map")
    driver.shot("rebox_result")
    return dock


def refine(driver: Driver, extracted: JobDock, reboxed: JobDock) -> JobDock:
    """Refine, with pictures of the form, of an iteration, of the end and of an earlier iteration."""
    from napari_autorefine.ui.live_results import live_results

    driver.press(extracted, "→ Auto-refine")
    driver.press(reboxed, "→ Auto-refine")
    dock = driver.dock("refine")
    dock.fill({"random_seed": 1})
    driver.spin(2.0)
    driver.strip("refine_form", dock, ("I/O", "Reference", "Optimisation", "Auto-sampling"))
    driver.tab(dock, "I/O")
    driver.start(dock)
    session = dock.panel.session
    assert session is not None
    driver.until(lambda: session.is_over or len(session.iterations) >= LIVE_ITERATION, "iterations")
    driver.spin(2.0)
    driver.shot("refine_live")
    driver.end(dock)
    driver.spin(4.0)
    driver.shot("refine_converged")
    dashboard = live_results(driver.viewer)
    step = dashboard.follower.steps[2]
    dashboard._choose(step)
    driver.until(lambda: dashboard.maps.current.step == step and dashboard.worker.is_idle, "an earlier iteration", 60)
    driver.viewer.dims.ndisplay = 2
    driver.spin(3.0)
    driver.shot("refine_history")
    driver.viewer.dims.ndisplay = 3
    dashboard._choose(dashboard.follower.steps[-1])
    return dock


def mask(driver: Driver, refined: JobDock) -> JobDock:
    """Make the mask and look at it with the map."""
    from napari_autorefine.ui.side_by_side import show_overlay

    driver.press(refined, "→ Mask")
    dock = driver.dock("mask")
    driver.run(dock)
    driver.viewer.window.dock_widgets[LIVE].parent().hide()
    driver.viewer.layers.clear()
    driver.press(refined, "Open map")
    driver.press(dock, "Open mask")
    compare = show_overlay(driver.viewer)
    driver.spin(3.0)
    driver.shot("mask_overlay")
    compare.show_pair("side by side")
    driver.spin(2.0)
    driver.shot("mask_side_by_side")
    compare.stop()
    return dock


def postprocess(driver: Driver, refined: JobDock, masked: JobDock) -> None:
    """Sharpen, and look at the map beside the one before."""
    driver.press(refined, "→ Post-process")
    driver.press(masked, "→ Post-process")
    dock = driver.dock("postprocess")
    driver.run(dock)
    driver.viewer.layers.clear()
    driver.viewer.dims.ndisplay = 2
    driver.press(dock, "Open masked map")
    driver.viewer.reset_view()
    driver.shot("postprocess_result")


@contextmanager
def window(folder: Path) -> Iterator[Viewer]:
    """Open a viewer with this plugin, with preferences and samples of its own."""
    os.environ |= {"XDG_CONFIG_HOME": str(folder / "config"), "AUTOREFINE_CACHE": str(folder)}
    import napari
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    manager.discover()
    if PLUGIN not in {manifest.name for manifest in manager.iter_manifests()}:
        manager.register(PluginManifest.from_file(DOCS.parent / "napari.yaml"))
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*WINDOW)
    yield viewer
    viewer.close()


def single_particles(viewer: Viewer, images: Path) -> None:
    """Go through the tutorial on single particles, on its sample project."""
    driver = Driver(viewer, images)
    driver.spin(1.0)
    extracted = extract(driver)
    reboxed = rebox(driver)
    refined = refine(driver, extracted, reboxed)
    masked = mask(driver, refined)
    postprocess(driver, refined, masked)


def main() -> None:
    """Make the pictures."""
    from screenshots_sta import subtomograms

    sessions = {"spa": single_particles, "sta": subtomograms}
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder for the pictures")
    parser.add_argument("--only", choices=list(sessions), help="one of the tutorials")
    given = parser.parse_args()
    given.images.mkdir(parents=True, exist_ok=True)
    for name, session in sessions.items():
        if given.only in (None, name):
            folder = Path(tempfile.gettempdir()) / f"autorefine-{name}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with window(folder) as viewer:
                session(viewer, given.images)
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
