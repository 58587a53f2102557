"""The script that checks a GPU runs through on the stand-in for CuPy, so that a real card meets no untested line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from oracles import cupy_stand_in
from oracles.cuda_on_host import COMPILER

from napari_autorefine import xp

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("gpu")
    for name in ("gpu", "gpu_job", "gpu_load", "gpu_rates"):
        sys.modules.pop(name, None)


@pytest.fixture
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One device."""
    if COMPILER is None:
        pytest.skip("no C++ compiler to run the CUDA sources on the host")
    with cupy_stand_in.installed(tmp_path_factory.mktemp("cuda_on_host")) as machine:
        yield machine


def small(script: ModuleType) -> Any:
    """The whole check with sizes for a test."""
    sizes = script.Sizes(
        matrix=64, copy_bytes=1 << 16, box=32, coarse_size=8, n_rot=16, n_image=4, healpix_order=1, repeats=1
    )
    job = script.JobSize(n_particle=8, box=24, pixel_A=9.0, n_atom=200, max_iterations=2)
    return script.Plan(sizes=sizes, job=job, twin=job, is_judged=True)


def test_without_a_gpu_it_says_so_and_ends_with_2(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(xp, "gpu_count", lambda: 0)
    assert script.main([]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1 and "No GPU 0 can be used here" in said.err


def test_every_section_is_printed_and_targets_are_judged(
    script: Any, stand_in: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = script.main(["--folder", str(tmp_path), "--threads", "2"], small(script))
    text = capsys.readouterr().out
    for section in ("## Rates", "## Kernels", "## Scoring", "## Job", "## Targets"):
        assert section in text
    assert "Stand-in 0" in text and "| project |" in text and "TFLOP/s" in text
    assert "The GPU had a block to work on" in text
    loads = [line.split(" | ")[-3:] for line in text.splitlines() if line.startswith(("| 1 | global", "| 2 |"))]
    assert len(loads) == 2
    for blocks, busy, waited in loads:
        assert int(blocks) == 2 and 0 < int(busy.rstrip("%")) <= 100 and 0 <= int(waited.rstrip("% |")) <= 100
    assert "| 1 | global |" in text and "| 2 |" in text
    verdicts = [line for line in text.splitlines() if line.endswith(("| met |", "| MISSED |"))]
    assert len(verdicts) == 7
    assert status == int(any("MISSED" in line for line in verdicts))
    same = [line for line in verdicts if "as on the CPU" in line]
    assert len(same) == 2 and all(line.endswith("| met |") for line in same)
    assert not list(tmp_path.glob("**/*.tmp"))


def test_a_missed_target_is_status_1(script: Any, stand_in: object, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = script.Check(what="speed", found="1", target="2", is_met=False)
    monkeypatch.setattr(script, "check", lambda *_, **__: [missed])
    assert script.main([]) == 1
    monkeypatch.setattr(script, "check", lambda *_, **__: [replace(missed, is_met=True)])
    assert script.main(["--quick"]) == 0


def test_a_job_that_takes_too_long_is_left(script: Any, stand_in: object, tmp_path: Path) -> None:
    job = importlib.import_module("gpu_job")
    size = small(script).job
    folder = script.prepare(tmp_path, size)
    found = job.run_job(folder, size, 0, threads=2, limit_s=0.0, tf32=False)
    assert not found.is_finished and found.warnings[-1].startswith("Left after")
    checks = script.job_section(found, 1e12, is_judged=True)
    assert not any(one.is_met for one in checks)
