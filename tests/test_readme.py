"""The README's code runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conftest import ParticleSet

from napari_autorefine.cli import parse
from napari_autorefine.jobs import JOBS, refine

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_example(
    particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    particle_set.reference.rename(particle_set.folder / "reference.mrc")
    monkeypatch.chdir(particle_set.folder)
    quick = refine.RefineParams.model_construct
    changes = {"particle_diameter_A": 30.0, "max_iterations": 1, "healpix_order": 1, "threads": 1, "cpu": True}
    monkeypatch.setattr("napari_autorefine.RefineParams", lambda **given: quick(**{**given, **changes}), raising=False)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1 ")


def test_command_lines_are_understood() -> None:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    blocks = "\n".join(text for language, text in found if not language).replace("\\\n", " ")
    lines = [line for line in blocks.splitlines() if line.startswith("autorefine")]
    lines += re.findall(r"`(autorefine [a-z]+ [^`]*)`", README)
    assert len(lines) >= 10
    for line in lines:
        _, job, *words = shlex.split(line.partition("#")[0])
        if words not in (["--help"], []):
            parse(JOBS[job], [word for word in words if word != "…"])
