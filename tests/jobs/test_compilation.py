from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ParticleSet

from napari_autorefine.cli import main
from napari_autorefine.jobs import compilation
from napari_autorefine.jobs.compilation import KernelCache, compilation_notes, device_cache, host_cache

SOURCE = Path(__file__).resolve().parents[2] / "src"
SCRIPT = """
import numpy as np
from napari_autorefine.engine.expectation import with_parents_priors
from napari_autorefine.jobs.compilation import compilation_notes, host_cache
before = host_cache()
print(before.n_compiled, before.n_function, before.folder)
print(compilation_notes(())[0].text)
prior = np.zeros(3, np.float32)
with_parents_priors(np.zeros((3, 6), np.float32), prior, prior, np.ones((3, 3), bool))
print(host_cache().n_compiled)
"""


def test_an_empty_cache_is_announced_and_fills(tmp_path: Path) -> None:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(SOURCE)}
    found = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    first, sentence, later = found.stdout.splitlines()
    assert first.split()[0] == "0"
    assert int(first.split()[1]) >= 10
    assert str(tmp_path) in sentence and "First run" in sentence
    assert later == "1"


def test_a_run_says_that_it_will_compile(
    particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = particle_set.line("--cpu", "--max_iterations", "1", "--overwrite")
    for n_compiled, is_told in ((3, True), (10, False)):
        cache = KernelCache(n_compiled=n_compiled, n_function=10, folder="cache")
        monkeypatch.setattr(compilation, "host_cache", lambda cache=cache: cache)
        assert main(line) == 0
        assert ("7 of 10 functions are compiled" in capsys.readouterr().out) == is_told


def test_gpus_are_told_about_when_nothing_is_kept_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = KernelCache(n_compiled=10, n_function=10, folder="cache")
    monkeypatch.setattr(compilation, "host_cache", lambda: full)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path))
    assert device_cache().n_compiled == 0
    assert compilation_notes(()) == []
    assert "GPU" in compilation_notes((0,))[0].text
    (tmp_path / "a.cubin").write_bytes(b"x")
    assert compilation_notes((0,)) == []


def test_what_this_process_has_compiled_counts_as_compiled() -> None:
    found = host_cache()
    assert 0 <= found.n_compiled <= found.n_function
    assert Path(found.folder).is_dir() or found.n_compiled == 0
