"""How smooth the window stays: redraws beside a refinement, updates of a large map, a STAR file of a million rows.

    xvfb-run -a -s "-screen 0 1600x1000x24" python benchmarks/window.py

Redraws are counted while the map is turned, in turns of a few seconds with the refinement's process running and
stopped, so that other work on the machine falls on both alike: of a small set, whose iterations take a few seconds, so
that maps are replaced in many turns, and of one whose iterations take ten seconds and more. Blocks are the longest
times between two turns of the window's event loop; processor time of the window's thread is given beside them, which
other work does not lengthen.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import napari
import numpy as np
import psutil
from measure_run import machine
from npe2 import PluginManager, PluginManifest
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QApplication
from scipy.ndimage import gaussian_filter

from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.io.atoms import demo_molecule
from napari_autorefine.io.mrc import read_volume, write_volume
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.ui import live_results
from napari_autorefine.ui.run_steps import RunFacts, Step
from napari_autorefine.ui.sessions import sessions

REPOSITORY = Path(__file__).resolve().parents[1]
BOX, VOXEL_A = 64, 3.54
N_PARTICLE = {"short": 1000, "usual": 5000}
"""Particles of a refinement whose iterations take a few seconds, and of one whose take ten and more."""
N_ROW = 1_000_000
LEAST_RATIO, LONGEST_MS = 0.8, 100.0


@dataclass
class Gaps:
    """Times between turns of the event loop in ms: by the clock, and of the processor in this thread."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    _last: tuple[float, float] | None = None

    def tick(self) -> None:
        """Note a turn."""
        now = (time.perf_counter(), time.thread_time())
        if self._last is not None:
            self.clock.append(1e3 * (now[0] - self._last[0]))
            self.processor.append(1e3 * (now[1] - self._last[1]))
        self._last = now

    def row(self, name: str) -> str:
        """Return a row of the table."""
        percentile = float(np.percentile(self.clock, 99))
        figures = f"{max(self.clock):.0f} | {percentile:.0f} | {max(self.processor):.0f}"
        return f"| {name} | {figures} |"


def measured(work: Callable[[], object], is_done: Callable[[], bool], *, least_s: float = 0.0) -> Gaps:
    """Begin some work and let the event loop turn until it is done; return the times between turns."""
    gaps = Gaps()
    timer = QTimer()
    timer.setInterval(0)
    timer.timeout.connect(gaps.tick)
    timer.start()
    began = time.perf_counter()
    work()
    while not is_done() or time.perf_counter() - began < least_s:
        QApplication.processEvents()
        time.sleep(0.001)
    timer.stop()
    return gaps


def spin(seconds: float) -> None:
    """Let the event loop turn for a while."""
    measured(lambda: None, lambda: True, least_s=seconds)


def turn(viewer: Any) -> bool:
    """Turn the map by a degree, or move it in 2D; True, as a condition that always holds."""
    camera = viewer.scene.camera
    if viewer.dims.ndisplay == 3:
        first, second, third = camera.angles
        camera.angles = (first, second + 1.0, third)
    else:
        camera.zoom *= 1.001
    return True


def redraws_per_second(viewer: Any, seconds: float) -> float:
    """Turn the map and count how often it is drawn."""
    n, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        turn(viewer)
        QApplication.processEvents()
        n += 1
    return n / (time.perf_counter() - began)


def particles(folder: Path, n_particle: int) -> RefineParams:
    """Write particles and reference; return a refinement of them."""
    params = SimulateParams(
        output=str(folder / "particles"),
        symmetry="C1",
        n_particle=n_particle,
        box_size=BOX,
        pixel_size_A=VOXEL_A,
        groups=5,
        snr=0.1,
    )
    for _ in simulate_atoms(demo_molecule(), params):
        pass
    truth = read_volume(folder / "particles_truth.mrc")
    write_volume(folder / "reference.mrc", low_pass_map(truth.data, 40.0, truth.voxel_size_A), truth.voxel_size_A)
    return RefineParams(
        particles="particles.star",
        reference="reference.mrc",
        output="Refine3D/job001/run",
        particle_diameter_A=190.0,
        cpu=True,
    )


def redraw_rows(viewer: Any, folder: Path, kind: str, *, pairs: int, seconds: float) -> list[str]:
    """Measure redraws with a refinement running and stopped, turn by turn."""
    folder = folder / kind
    folder.mkdir()
    session = sessions.start("refine", particles(folder, N_PARTICLE[kind]), folder)
    dashboard = live_results.follow_session(viewer, session)
    assert dashboard is not None
    while dashboard.maps.current is None and not session.is_over:
        spin(0.2)
    spin(2.0)
    redraws_per_second(viewer, seconds)  # the first redraws compile shaders
    process = psutil.Process(session.job.info.pid)
    running, idle, updates = [], [], 0
    for _ in range(pairs):
        if session.is_over:
            break
        n_before = len(session.iterations)
        running.append(redraws_per_second(viewer, seconds))
        updates += len(session.iterations) - n_before
        try:
            process.suspend()
        except psutil.NoSuchProcess:
            running.pop()
            break
        idle.append(redraws_per_second(viewer, seconds))
        process.resume()
    for _ in range(3):
        session.cancel()
    session.job.wait(20)
    spin(1.0)
    ratios = [one / other for one, other in zip(running, idle, strict=True)]
    name = f"refinement of {N_PARTICLE[kind]:,} particles running, {updates} iterations in {len(running)} turns"
    rows = [f"| idle | {statistics.median(idle):.1f} |", f"| {name} | {statistics.median(running):.1f} |"]
    ratio = statistics.median(ratios)
    verdict = "reached" if ratio >= LEAST_RATIO else "missed"
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} turns of {seconds:g} s"
    return [*rows, f"| ratio (at least {LEAST_RATIO}: {verdict}) | {ratio:.2f} ({spread}) |"]


def large_maps(folder: Path, box: int) -> list[Step]:
    """Write half-maps of two iterations of a large box; return the iterations."""
    rng = np.random.default_rng(1)
    axis = (np.arange(box) - box // 2) / box
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    rough = gaussian_filter(rng.standard_normal((box, box, box), dtype=np.float32), 3.0)
    steps = []
    for number in (1, 2):
        files = {}
        for half in (1, 2):
            noise = gaussian_filter(rng.standard_normal((box, box, box), dtype=np.float32), 2.0)
            data = (rough / rough.std() + 0.2 * number * noise / noise.std()) * (radius < 0.3) + 1.5 * (radius < 0.25)
            path = folder / f"large_it{number:03d}_half{half}_class001.mrc"
            write_volume(path, data.astype(np.float32), 1.0)
            files[f"half{half}"] = path
        steps.append(Step(number=number, files=files, voxel_size_A=1.0))
    return steps


def update_rows(viewer: Any, folder: Path, box: int) -> list[str]:
    """Measure the blocks of the event loop while a large map is replaced, beside those of a window at rest."""
    dashboard = live_results.live_results(viewer)
    dashboard._clear()
    steps = large_maps(folder, box)
    maps = dashboard.maps
    maps.set_running(True)
    rows = []
    for ndisplay, name in ((2, "slices"), (3, "surfaces")):
        viewer.dims.ndisplay = ndisplay
        rows += _blocks(viewer, dashboard, steps, f"{name} of two {box}³ half-maps")
    maps.begin(_beside(steps[0], folder))
    rows += _blocks(viewer, dashboard, steps, "surfaces with reference and mask beside")
    maps.set_running(False)
    return rows


def _beside(step: Step, folder: Path) -> RunFacts:
    """Write a mask; return a run whose reference is a half-map."""
    reference = read_volume(step.files["half1"])
    n = reference.data.shape[0]
    radius = np.linalg.norm(np.indices((n, n, n), np.float32) - n // 2, axis=0)
    write_volume(folder / "mask.mrc", np.clip(0.3 * n - radius, 0, 1).astype(np.float32), reference.voxel_size_A)
    return RunFacts(prefix=folder / "large", reference=step.files["half1"], mask=folder / "mask.mrc")


def _blocks(viewer: Any, dashboard: Any, steps: list[Step], name: str) -> list[str]:
    """Return rows for the window at rest, turned by hand, and while maps are replaced."""

    def is_done() -> bool:
        return dashboard.worker.is_idle and not dashboard.maps.is_busy

    measured(lambda: dashboard.show_step(steps[0]), is_done, least_s=4.0)
    at_rest = measured(lambda: None, lambda: True, least_s=3.0)
    turned = measured(lambda: None, lambda: turn(viewer), least_s=3.0)
    updates = [
        measured(lambda step=step: dashboard.show_step(step), is_done, least_s=1.5) for step in (steps[1], steps[0]) * 3
    ]
    return [at_rest.row(f"at rest, {name}"), turned.row("view moved by hand, redraws only"), _update_row(updates, name)]


def _update_row(updates: list[Gaps], name: str) -> str:
    """Return the row of several updates: median and range of the longest block of each."""
    longest = [max(gaps.clock) for gaps in updates]
    median = statistics.median(longest)
    verdict = "reached" if median < LONGEST_MS else "missed"
    percentile = float(np.percentile([one for gaps in updates for one in gaps.clock], 99))
    processor = statistics.median(max(gaps.processor) for gaps in updates)
    wanted = f"(below {LONGEST_MS:.0f} ms: {verdict})"
    spread = f"{min(longest):.0f} to {max(longest):.0f}, {len(longest)} updates"
    return f"| live update, {name} {wanted} | {median:.0f} ({spread}) | {percentile:.0f} | {processor:.0f} |"


def coordinates(path: Path, n_row: int) -> Path:
    """Write a table of coordinates, a thousand per micrograph; return the file."""
    table = np.random.default_rng(2).uniform(0, 4000, (n_row, 2))
    with open(path, "w", encoding="utf-8") as file:
        file.write("data_particles\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n")
        for row in range(n_row):
            file.write(f"{table[row, 0]:.2f} {table[row, 1]:.2f} mic{row // 1000:04d}.mrc\n")
    return path


def star_rows(viewer: Any, folder: Path) -> list[str]:
    """Measure the blocks while a STAR file of a million coordinates is opened."""
    viewer.open(str(coordinates(folder / "few.star", 10)), plugin="napari-autorefine")
    spin(2.0)
    one = measured(lambda: QTimer.singleShot(200, lambda: viewer.add_points([[1.0, 1.0]])), lambda: True, least_s=2.0)
    path = coordinates(folder / "million.star", N_ROW)
    n_layer = len(viewer.layers)
    end = time.perf_counter() + 240
    gaps = measured(
        lambda: viewer.open(str(path), plugin="napari-autorefine"),
        lambda: len(viewer.layers) > n_layer or time.perf_counter() > end,
        least_s=2.0,
    )
    return [one.row("napari adds a layer of one point"), gaps.row(f"opening a STAR file of {N_ROW:,} rows")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6, help="turns with and without the refinement")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn")
    parser.add_argument("--box", type=int, default=256, help="box of the large map")
    parser.add_argument("--refinement", choices=tuple(N_PARTICLE), help="one of the two beside which is drawn")
    parser.add_argument("--only", choices=("redraws", "update", "star"), help="one of the measurements")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CONFIG_HOME"] = str(folder / "config")
        PluginManager.instance().register(PluginManifest.from_file(REPOSITORY / "napari.yaml"))
        viewer = napari.Viewer(show=True)
        viewer.window.resize(1500, 930)
        spin(2.0)
        print(machine(), f"\nload {os.getloadavg()[0]:.1f}\n", flush=True)
        if options.only in (None, "redraws"):
            print("| window | redraws per second |\n|---|---|")
            for kind in N_PARTICLE if options.refinement is None else (options.refinement,):
                rows = redraw_rows(viewer, folder, kind, pairs=options.pairs, seconds=options.seconds)
                print("\n".join(rows), flush=True)
            print()
        blocks = "| event loop | longest block (ms) | 99 % (ms) | longest, processor time (ms) |\n|---|---|---|---|"
        if options.only in (None, "update"):
            print(blocks, "\n".join(update_rows(viewer, folder, options.box)), "", sep="\n", flush=True)
        if options.only in (None, "star"):
            print(blocks, "\n".join(star_rows(viewer, folder)), sep="\n", flush=True)
        viewer.close()


if __name__ == "__main__":
    main()
