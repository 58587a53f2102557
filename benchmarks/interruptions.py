"""Kill a small refinement at every file operation, in the middle of every write, and at random times, and go on.

    python benchmarks/interruptions.py [STEP]

STEP takes every STEP-th moment only. Prints how many moments there were, how often the run was killed, and each moment
after which files differed from those of an undisturbed run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from oracles.interruptions import all_of, differences, duration_s, go_on, make_set, run_with

N_RANDOM = 60


def main() -> None:
    """Go through the moments of each kind."""
    step = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with tempfile.TemporaryDirectory() as place:
        undisturbed = Path(place) / "undisturbed"
        undisturbed.mkdir()
        make_set(undisturbed)
        all_of(go_on(undisturbed))
        longest_s = duration_s(Path(place) / "timed")
        for kind in ("operation", "write", "settle", "delay"):
            n_moment, n_killed, bad = 0, 0, []
            for number in range(1, N_RANDOM + 1 if kind == "delay" else 10**6, 1 if kind == "delay" else step):
                with tempfile.TemporaryDirectory(dir=place) as name:
                    make_set(Path(name))
                    killed = run_with(Path(name), kind, number, longest_s)
                    if not killed and kind != "delay":
                        break
                    n_moment, n_killed = n_moment + 1, n_killed + killed
                    bad += [(number, found) for found in differences(Path(name), undisturbed)]
            sys.stdout.write(f"{kind}: {n_moment} moments, killed {n_killed} times, {len(bad)} differences {bad}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
