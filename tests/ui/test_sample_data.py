from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.layers import Layer

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.ui import sample_data


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOREFINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sample_data, "BOX", 32)
    monkeypatch.setattr(sample_data, "VOXEL_SIZE_A", 7.0)
    monkeypatch.setattr(sample_data, "_N_PARTICLE", 20)
    return tmp_path / "cache"


def test_the_map_fills_its_mask(cache: Path) -> None:
    layers = [Layer.create(*layer) for layer in sample_data.map_and_mask()]
    assert [layer.metadata["autorefine"]["kind"] for layer in layers] == ["map", "mask"]
    density, mask = (np.asarray(layer.data) for layer in layers)
    assert density[mask > 0.99].mean() > 10 * abs(density[mask == 0].mean())
    assert 0.05 < (mask > 0.5).mean() < 0.5


def test_the_threshold_encloses_the_volume_of_the_molecule(cache: Path) -> None:
    (data, arguments, _), _ = sample_data.map_and_mask()
    volume_A3 = (data > arguments["iso_threshold"]).sum() * 7.0**3
    assert 0.5 < volume_A3 / (465_000 * 1.21) < 2.0  # 465 kDa at 1.21 cubic angstrom per dalton


def test_a_second_time_uses_the_cache(cache: Path) -> None:
    sample_data.map_and_mask()
    changed = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    sample_data.map_and_mask()
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == changed and len(changed) == 2


def test_particles_are_ready_to_be_refined(cache: Path) -> None:
    reference, images = (Layer.create(*layer) for layer in sample_data.small_particles())
    assert images.data.shape == (20, 1, 32, 32) and not reference.visible
    files = sample_data.tutorial_files(cache)
    assert len(read_particles(files.particles)) == 20
    assert read_volume(files.reference).voxel_size_A == pytest.approx(7.0)
    assert read_volume(files.mask).data.max() == 1.0


def test_a_cache_that_cannot_be_written_is_replaced_by_a_temporary_folder(
    cache: Path, notices: list[tuple[str, str]]
) -> None:
    cache.write_text("a file where the folder should be")
    layers = sample_data.map_and_mask()
    assert len(layers) == 2 and Path(layers[0][1]["metadata"]["autorefine"]["path"]).is_file()
    assert notices[-1][0] == "warning" and f"{cache} cannot be written" in notices[-1][1]


def test_the_window_draws_while_files_are_made(qapp: Any) -> None:
    from qtpy.QtCore import QTimer

    seen: list[int] = []
    timer = QTimer()
    timer.timeout.connect(lambda: seen.append(1))
    timer.start(5)
    assert sample_data.in_thread(lambda: time.sleep(0.3) or "made") == "made"
    timer.stop()
    assert len(seen) > 5

    def fails() -> None:
        raise InputError("The disc is full.")

    with pytest.raises(InputError, match="disc is full"):
        sample_data.in_thread(fails)


def test_the_project_is_laid_out_as_the_tutorial_says(tmp_path: Path) -> None:
    from napari_autorefine.ui import sample_project

    folder = tmp_path / "project"
    sample_project.make_project(folder, n_particle=8, micrographs=2, box_size=16, pixel_size_A=12.0)
    assert sample_project.is_complete(folder)
    particles = read_particles(folder / sample_project.PARTICLES)
    assert len(particles) == 8 and all((folder / name).is_file() for name in particles.micrograph_name)
    named = {path for values in sample_project.form_values().values() for path in values.values()}
    assert {sample_project.MICROGRAPHS, sample_project.PARTICLES, (sample_project.CLASS,)} <= named
    assert sorted(path.name for path in folder.iterdir()) == ["CtfFind", "Movies", "Select", "Truth"]
    assert not list(tmp_path.glob("*.part"))


def test_the_tutorial_hands_its_files_to_the_docks(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    class Docks:
        @staticmethod
        def open_tutorial(viewer: Any, files: sample_data.TutorialFiles) -> None:
            opened.append((viewer, files))

    monkeypatch.setattr(sample_data, "import_module", lambda name: Docks)
    monkeypatch.setattr(sample_data, "current_viewer", lambda: None)
    assert len(sample_data.tutorial()) == 2 and not opened
    monkeypatch.setattr(sample_data, "current_viewer", lambda: "viewer")
    monkeypatch.setattr(sample_data, "prepare_viewer", lambda viewer: None)
    sample_data.tutorial()
    ((viewer, files),) = opened
    assert viewer == "viewer" and files.particles.is_file() and files.symmetry == "D2"
