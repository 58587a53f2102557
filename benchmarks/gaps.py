"""The longest silence of a refinement: ``python benchmarks/gaps.py --model MODEL --box 256``.

Refines a few simulated particles for some iterations and then carries out the last one, with all frequencies, and
prints how long the events kept the user waiting, between iterations and within them: by the clock, and in seconds of
processor time of all threads, which other programs do not change.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from measure_run import machine

from napari_autorefine.events import Event, IterationDone, Message, Progress
from napari_autorefine.jobs.refine import refine
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.simulate import simulate
from napari_autorefine.jobs.simulate_params import SimulateParams


def main() -> int:
    """Run and print the silences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="atomic model, PDB or mmCIF")
    parser.add_argument("--n", type=int, default=40, help="particles")
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        begin = f"{folder}/set"
        made = SimulateParams(
            model=options.model, output=begin, n_particle=options.n, box_size=options.box,
            pixel_size_A=300.0 / options.box, symmetry="D2",
        )  # fmt: skip
        for _ in simulate(made):
            pass
        first = RefineParams(
            particles=f"{begin}.star", reference=f"{begin}_truth.mrc", output=f"{folder}/out/run", symmetry="D2",
            ini_high_A=40.0, particle_diameter_A=200.0, random_seed=1, max_iterations=options.iterations, cpu=True,
        )  # fmt: skip
        silences = _silences(first)
        last = Path(folder, "out", f"run_it{options.iterations:03d}_optimiser.star")
        silences += _silences(RefineParams(continue_from=str(last), force_converge=True, max_iterations=99))
    clock, work = (max(times) for times in zip(*silences, strict=True))
    print(f"longest silence: {clock:.1f} s by the clock, {work:.1f} s of processor time")
    return 0


def _silences(params: RefineParams) -> list[tuple[float, float]]:
    """Return the times between events of a run, by the clock and of the processor; print the long ones."""
    found, before, last, worked = [], "start", time.perf_counter(), time.process_time()
    for event in refine(params):
        now, work, name = time.perf_counter(), time.process_time(), _name(event)
        found.append((now - last, work - worked))
        if max(found[-1]) > 1.0:
            print(f"  {now - last:5.1f} s, processor {work - worked:5.1f} s: {before} to {name}", flush=True)
        before, last, worked = name, now, work
    return found


def _name(event: Event) -> str:
    if isinstance(event, Progress):
        return f"'{event.stage} {event.done}/{event.total}' of iteration {event.iteration}"
    if isinstance(event, IterationDone):
        return f"the end of iteration {event.iteration}{' (the last)' if event.is_final else ''}"
    return f"'{event.text[:40]}'" if isinstance(event, Message) else type(event).__name__


if __name__ == "__main__":
    sys.exit(main())
