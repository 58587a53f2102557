"""A refinement that is killed at any moment ends as if nothing had happened; see ``benchmarks/interruptions.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOMENTS = {
    "operations": [f"operation:{n}" for n in (1, 3, 6, 25, 40, 44, 46, 48, 130, 380)],
    "contents": [f"write:{n}" for n in (1, 4, 9, 14, 17, 26, 118, 150)] + [f"settle:{n}" for n in (2, 9, 14, 16, 70)],
    "times": [f"delay:{n}" for n in range(1, 9)],
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked on this system")
@pytest.mark.parametrize("moments", MOMENTS)
def test_a_killed_run_ends_like_an_undisturbed_one(moments: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "oracles.interruptions", str(tmp_path), *MOMENTS[moments]]
    places = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        line, env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(row) for row in done.stdout.splitlines()]
    assert len(results) == len(MOMENTS[moments])
    assert [result for result in results if result["differs"]] == []
    assert sum(result["killed"] for result in results) >= len(results) * (moments != "times")
