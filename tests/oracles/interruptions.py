"""Refinements that are killed at chosen moments and gone on with, in child processes of one warm process.

``python -m oracles.interruptions FOLDER KIND:NUMBER ...`` makes a small set in FOLDER, refines it without a disturbance
and then once per moment; it writes one line of JSON per moment: how often the run was killed, what differs at the end.

Kinds of moments, all counted from 1 within the output folder:

- ``operation``: before the n-th opening of a file for writing, renaming or removal;
- ``write``: in the middle of what is written into the n-th file;
- ``settle``: before the n-th time something is brought to the disc;
- ``delay``: SIGKILL after random times, again and again until the run gets through; n seeds the times.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from oracles import phantoms
from oracles.particle_files import write_particle_files

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.run_integrity import damage_of
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.output_lock import lock_path
from napari_autorefine.jobs.refine import RefineParams, refine

BOX, PIXEL_A, N = 16, 5.0, 24
KINDS = ("operation", "write", "settle", "delay")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MOST_TRIES = 12


def parameters(folder: Path, **changes: object) -> RefineParams:
    """Return those of the run from its start, in ``folder``/Refine3D."""
    values: dict[str, object] = {
        "particles": str(folder / "particles.star"),
        "reference": str(folder / "ref.mrc"),
        "output": str(folder / "Refine3D" / "run"),
        "particle_diameter_A": 70.0,
        "healpix_order": 0,
        "auto_local_healpix_order": 1,
        "ini_high_A": 40.0,
        "offset_range_px": 2.0,
        "random_seed": 1,
        "threads": 1,
        "max_iterations": 40,
        "cpu": True,
    }
    return RefineParams(**(values | changes))


def make_set(folder: Path) -> None:
    """Write particles and a reference."""
    data = phantoms.simulate(phantoms.ASYMMETRIC, N, snr=2.0, box_size=BOX, pixel_size_A=PIXEL_A)
    write_particle_files(folder, data, box_size=BOX, pixel_size_A=PIXEL_A)


def go_on(folder: Path) -> Iterator[object]:
    """Start the run, or go on with it as somebody would who finds its folder; nothing when it has ended.

    Killed at its very end a run is finished, but its lock lies there: whoever tries to go on is told that, and the lock
    of the process that is gone is removed.
    """
    output = folder / "Refine3D"
    final = output / "run_optimiser.star"
    if final.exists() and not damage_of(final):
        if lock_path(output / "run").exists():
            with pytest.raises(InputError, match="is finished"):
                all_of(refine(RefineParams(continue_from=str(output), max_iterations=40, cpu=True)))
        return iter(())
    if any(output.glob("run_it*_optimiser.star")):
        return iter(refine(RefineParams(continue_from=str(output), max_iterations=40, cpu=True)))
    return iter(refine(parameters(folder)))


def child(action: Callable[[], None], kill_after_s: float | None = None) -> int:
    """Do something in a forked process; return its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Trap:
    """Ends this process at the n-th event of a kind below a folder."""

    def __init__(self, folder: Path, kind: str, number: int) -> None:
        self.folder, self.kind, self.left = str(folder), kind, number
        sys.addaudithook(self.audit)
        self.fsync, os.fsync = os.fsync, self.settle

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if not arguments or self.folder not in str(arguments[0]):
            return
        is_opened = event == "open" and self.is_for_writing(arguments)
        if self.kind == "write" and is_opened and self.count():
            # The system ends a process that writes beyond its limit, in the middle of that write.
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        if self.kind == "operation" and (is_opened or event in {"os.rename", "os.remove"}) and self.count():
            os._exit(9)

    @staticmethod
    def is_for_writing(arguments: tuple[object, ...]) -> bool:
        _path, mode, flags = arguments
        return bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(int(flags) & _WRITING)  # type: ignore[call-overload]

    def settle(self, descriptor: int) -> None:
        if self.kind == "settle" and self.count():
            os._exit(9)
        self.fsync(descriptor)

    def count(self) -> bool:
        self.left -= 1
        return self.left == 0


def all_of(events: Iterator[object]) -> None:
    for _ in events:
        pass


def trapped(folder: Path, kind: str, number: int) -> None:
    Trap(folder / "Refine3D", kind, number)
    all_of(go_on(folder))


def run_with(folder: Path, kind: str, number: int, longest_s: float = 1.0) -> int:
    """Kill the run at a moment and go on until it has ended; return how often it was killed.

    ``longest_s`` is the longest time after which it is killed at random.
    """
    if kind != "delay":
        killed = int(child(lambda: trapped(folder, kind, number)) != 0)
        assert child(lambda: all_of(go_on(folder))) == 0
        return killed
    delays, killed = random.Random(number), 0
    for _ in range(_MOST_TRIES):
        if child(lambda: all_of(go_on(folder)), kill_after_s=delays.uniform(0.02, longest_s)) == 0:
            break
        killed += 1
    assert child(lambda: all_of(go_on(folder))) == 0
    return killed


def differences(folder: Path, undisturbed: Path) -> list[str]:
    """Return what of the files of a run differs from those of the run that was not disturbed."""
    ours, theirs = folder / "Refine3D", undisturbed / "Refine3D"
    names = {path.name for path in theirs.iterdir()}
    found = [f"only in one: {name}" for name in sorted(names ^ {path.name for path in ours.iterdir()})]
    for name in sorted(names):
        if name.endswith(".mrc") and (ours / name).exists():
            pair = [read_volume(path / name).data for path in (ours, theirs)]
            if not np.allclose(*pair, rtol=1e-5, atol=1e-6 * np.abs(pair[1]).max()):
                found.append(name)
        elif name.endswith("_data.star") and (ours / name).exists():
            pair = [read_particles(path / name) for path in (ours, theirs)]
            same = np.allclose(pair[0].euler_deg, pair[1].euler_deg, atol=1e-4)
            same &= np.allclose(pair[0].origin_A, pair[1].origin_A, atol=1e-4)
            found += [] if same and list(pair[0].half) == list(pair[1].half) else [name]
    return found


def duration_s(folder: Path) -> float:
    """Return how long the run takes here and now in a process that is warm."""
    folder.mkdir()
    make_set(folder)
    began = time.perf_counter()
    assert child(lambda: all_of(go_on(folder))) == 0
    return time.perf_counter() - began


def main(words: list[str]) -> None:
    place = Path(words[0])
    undisturbed = place / "undisturbed"
    undisturbed.mkdir(parents=True)
    make_set(undisturbed)
    all_of(go_on(undisturbed))
    longest_s = duration_s(place / "timed")
    for word in words[1:]:
        kind, _, number = word.partition(":")
        folder = place / f"{kind}_{number}"
        folder.mkdir()
        make_set(folder)
        killed = run_with(folder, kind, int(number), longest_s)
        result = {"kind": kind, "number": int(number), "killed": killed, "differs": differences(folder, undisturbed)}
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
