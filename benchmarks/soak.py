"""Many refinements in one process: does anything stay? ``python benchmarks/soak.py --runs 20``.

Each run is compared with the first: memory within 5 %, and no thread, open file, child process, temporary file or GPU
memory more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from measure_run import machine
from oracles.leftovers import Holdings, holdings

from napari_autorefine.events import Finished
from napari_autorefine.jobs.refine import refine
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.simulate import simulate
from napari_autorefine.jobs.simulate_params import SimulateParams

_TOLERANCE = 0.05


def main() -> int:
    """Run; return 1 when something has stayed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--model", required=True, help="atomic model, PDB or mmCIF")
    parser.add_argument("--n", type=int, default=300, help="particles")
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--gpu", default=None, help="GPUs, as for refine; none: the CPU")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        angpix = 224.0 / options.box
        made = SimulateParams(
            model=options.model, output=str(place / "set"), n_particle=options.n, box_size=options.box,
            pixel_size_A=angpix, symmetry="D2", snr=0.1,
        )  # fmt: skip
        for _ in simulate(made):
            pass
        seen = [_one(place, number, options.gpu) for number in range(options.runs)]
    return _judge(seen)


def _one(place: Path, number: int, gpu: str | None) -> Holdings:
    """Refine once to convergence and return what the process holds then."""
    began, text = time.perf_counter(), ""
    params = RefineParams(
        particles=str(place / "set.star"), reference=str(place / "set_truth.mrc"), output=str(place / "out" / "run"),
        symmetry="D2", ini_high_A=40.0, particle_diameter_A=200.0, random_seed=1, overwrite=True, cpu=gpu is None,
        gpu=gpu,
    )  # fmt: skip
    for event in refine(params):
        text = event.text if isinstance(event, Finished) else text
    found = holdings(place)
    print(f"{number + 1:3} {time.perf_counter() - began:6.1f} s  {found.text()}  {text}", flush=True)
    return found


def _judge(seen: list[Holdings]) -> int:
    first, last = seen[0], seen[-1]
    growth = last.memory / first.memory - 1.0
    stayed = [
        name for name in ("threads", "files", "children", "device_memory") if getattr(last, name) > getattr(first, name)
    ]
    stayed += ["temporary files"] if last.temporary else []
    stayed += ["memory"] if abs(growth) > _TOLERANCE else []
    print(f"memory of the last against the first: {growth:+.1%}; stayed: {', '.join(stayed) or 'nothing'}")
    return int(bool(stayed))


if __name__ == "__main__":
    sys.exit(main())
