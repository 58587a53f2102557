from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import napari_autorefine

REPOSITORY = Path(__file__).resolve().parents[1]

BLOCKED = """
import importlib.abc, pkgutil, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"napari", "qtpy", "magicgui", "superqt", "pyqtgraph", "vispy", "cupy"}:
            raise AssertionError(f"{name} was imported")

sys.meta_path.insert(0, Block())
import napari_autorefine
for module in pkgutil.walk_packages(napari_autorefine.__path__, "napari_autorefine."):
    if not module.name.startswith("napari_autorefine.ui") and not module.name.endswith("__main__"):
        __import__(module.name)
from napari_autorefine import cli
assert cli.main(["refine", "--help"]) == 0
"""


NO_CUDA = """
import pkgutil, sys
import napari_autorefine
for module in pkgutil.walk_packages(napari_autorefine.__path__, "napari_autorefine."):
    if not module.name.startswith("napari_autorefine.ui") and not module.name.endswith("__main__"):
        __import__(module.name)
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.jobs.refine import RefineParams, choose_devices
assert RefineOptions().devices == ()
params = RefineParams(particles="a.star", reference="b.mrc", output="c", particle_diameter_A=100, cpu=True)
assert choose_devices(params)[0] == ()
assert "cupy" not in sys.modules
"""


def test_manifest_in_the_package_is_the_top_level_one() -> None:
    inner = REPOSITORY / "src" / "napari_autorefine" / "napari.yaml"
    assert inner.read_bytes() == (REPOSITORY / "napari.yaml").read_bytes()


def test_manifest_is_valid() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # npe2 under a newer pydantic
        from npe2 import PluginManifest

        manifest = PluginManifest.from_file(REPOSITORY / "napari.yaml")
    assert manifest.name == "napari-autorefine"


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == napari_autorefine.__version__
    assert f"## {project['version']}" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_everything_but_ui_runs_without_napari_qt_and_cupy() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_everything_and_computing_on_the_cpu_touch_no_cuda(tmp_path: Path) -> None:
    (tmp_path / "cupy.py").write_text("raise SystemExit('CuPy was imported')")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", NO_CUDA]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, napari_autorefine; sys.exit(any(m in sys.modules for m in ('numba', 'pandas', 'cupy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_can_be_imported() -> None:
    for name in napari_autorefine.__all__:
        assert getattr(napari_autorefine, name) is not None
    assert set(dir(napari_autorefine)) == set(napari_autorefine.__all__)
