"""The job and the command line with other processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ParticleSet

from napari_autorefine.cli import main
from napari_autorefine.cluster import connect
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs import refine as refine_job
from napari_autorefine.jobs.refine import RefineParams, choose_devices

LINE = ("--healpix_order", "1", "--random_seed", "1", "--max_iterations", "1", "--j", "1")


def files(particle_set: ParticleSet) -> tuple[Any, list[np.ndarray]]:
    out = particle_set.output.parent
    maps = [read_volume(out / f"run_it001_half{half}_class001.mrc").data for half in (1, 2)]
    return read_particles(out / "run_it001_data.star"), maps


def test_a_run_with_a_scheduler_writes_what_a_run_alone_writes(
    client: Any, particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(particle_set.folder)  # names are relative to a folder that the processes are not in
    address = client.scheduler.address
    line = ["refine", "--i", "particles.star", "--ref", "ref.mrc", "--o", "out/run", "--particle_diameter", "30", *LINE]
    assert main(line) == 0
    alone, maps = files(particle_set)
    capsys.readouterr()
    assert main([*line, "--scheduler", address, "--preread_images", "--gpu", "0:1", "--overwrite"]) == 0
    told = capsys.readouterr().out
    assert "Particles are searched by 2 processes on 1 computer, 2 threads." in told
    assert "--preread_images is not used" in told
    together, others = files(particle_set)
    np.testing.assert_array_equal(together.euler_deg, alone.euler_deg)
    np.testing.assert_array_equal(together.origin_A, alone.origin_A)
    for own, other in zip(maps, others, strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_scheduler_that_is_not_there_ends_the_run_before_anything_is_written(
    particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    monkeypatch.setattr(connect, "_CONNECT_S", 1.0)
    assert main(particle_set.line("--scheduler", "tcp://127.0.0.1:9")) == 2
    error = capsys.readouterr().err
    assert error.startswith("autorefine: There is no scheduler that answers at tcp://127.0.0.1:9")
    assert len(error.splitlines()) == 1
    assert not particle_set.output.parent.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--scheduler", "tcp://a:1", "--cluster", "c.yaml"), "--cluster and --scheduler exclude each other"),
        (("--tls_ca", "ca.pem"), "need --scheduler"),
        (("--cluster", "missing.yaml"), "--cluster missing.yaml cannot be read"),
        (("--scheduler", "tcp://a:1", "--gpu", "0;1"), "--gpu 0;1 is not a list of GPU numbers"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    particle_set: ParticleSet, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], words: str
) -> None:
    assert main(particle_set.line(*more)) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.splitlines()) == 1
    assert not particle_set.output.parent.exists()


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine_job.xp, "gpu_count", lambda: 4)
    monkeypatch.setattr(refine_job.xp, "gpu_name", lambda number: f"card {number}")


@pytest.mark.parametrize(
    ("text", "devices"),
    [("0:1:2", (0, 1, 2)), ("0,1:2,3", (0, 1, 2, 3)), ("", (0, 1, 2, 3)), (None, (0, 1, 2, 3)), ("3", (3,))],
)
def test_one_process_takes_all_gpus_of_the_list(four_gpus: None, text: str | None, devices: tuple[int, ...]) -> None:
    params = RefineParams(particles="a.star", reference="b.mrc", output="c", gpu=text)
    assert choose_devices(params)[0] == devices
    assert choose_devices(params.model_copy(update={"scheduler": "tcp://a:1"}))[0] == ()


def test_a_cluster_file_starts_processes_of_its_own(particle_set: ParticleSet, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed")
    path = tmp_path / "cluster.yaml"
    path.write_text("kind: local\nn_workers: 1\n")
    assert main(particle_set.line(*LINE, "--cluster", os.fspath(path))) == 0
    assert (particle_set.output.parent / "run_it001_data.star").exists()
