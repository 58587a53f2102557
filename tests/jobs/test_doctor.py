from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from napari_autorefine.cli import main
from napari_autorefine.events import Finished, Message, Progress
from napari_autorefine.jobs import doctor_machine
from napari_autorefine.jobs.doctor import DoctorParams, doctor
from napari_autorefine.jobs.doctor_page import expected_rate, page, remarks

QUICK = {"seconds": 0.05, "disk_MB": 8, "graphics": False}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    events = list(doctor(DoctorParams(folder=str(tmp_path_factory.mktemp("disc")), **QUICK)))
    assert isinstance(events[-1], Finished)
    return events[-1].figures


def test_a_check_tells_what_it_does_and_ends_with_a_page(tmp_path: Path) -> None:
    events = list(doctor(DoctorParams(folder=str(tmp_path), **QUICK)))
    stages = [event.stage for event in events if isinstance(event, Progress)]
    assert "matrix products" in stages and "disc" in stages
    messages = [event.text for event in events if isinstance(event, Message)]
    assert len(messages) == 1
    assert messages[0].count("\n") < 50
    assert max(map(len, messages[0].splitlines())) <= 125
    assert list(tmp_path.iterdir()) == []


def test_figures_are_numbers_a_machine_can_have(found: dict[str, Any]) -> None:
    assert 0.5 < found["matrix"]["one_thread_GFLOPS"] < 2000
    assert found["matrix"]["all_threads_GFLOPS"] > 0.3 * found["matrix"]["one_thread_GFLOPS"]
    assert 0.1 < found["copy"]["one_thread_GBps"] < 1000
    assert found["disc"]["write_MBps"] > 0 and found["disc"]["read_MBps"] > 0
    assert found["processor"]["usable_threads"] >= 1
    assert 0 < found["memory"]["available"] <= found["memory"]["total"]
    assert found["versions"]["numpy"] == __import__("numpy").__version__
    assert found["kernels"]["host"]["n_function"] >= 10


def test_the_page_names_what_is_asked_in_every_question(found: dict[str, Any]) -> None:
    text = page(found)
    for word in (
        "version",
        "numpy",
        "processor",
        "products",
        "GFLOP/s",
        "copies",
        "kernels",
        "memory",
        "disc rate",
        "GPU",
    ):
        assert word in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"


def test_the_user_name_is_left_out_of_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert doctor_machine.home("/home/somebody/data") == "~/data"
    assert doctor_machine.home("/data") == "/data"


def test_figures_are_written_as_json_and_never_over_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "doctor.json"
    line = ["doctor", "--folder", str(tmp_path), "--json", str(path), "--seconds", "0.05", "--disk_MB", "0"]
    assert main([*line, "--no_graphics"]) == 0
    assert "processor" in capsys.readouterr().out
    assert json.loads(path.read_text())["disc"] == {"error": "not tested"}
    assert main([*line, "--no_graphics"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*line, "--no_graphics", "--overwrite"]) == 0


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--folder", "/does/not/exist"]) == 2
    assert "/does/not/exist" in capsys.readouterr().err


def sound(found: dict[str, Any]) -> dict[str, Any]:
    """A machine with which nothing is wrong."""
    made = copy.deepcopy(found)
    made["processor"] |= {
        "frequency_GHz": 3.0,
        "operations_per_cycle": 32,
        "usable_threads": 4,
        "load": [0.1, 0.1, 0.1],
    }
    made["processor"] |= {"is_narrow": False, "quota_cores": None}
    made["matrix"] = {"one_thread_GFLOPS": 80.0, "all_threads_GFLOPS": 300.0}
    made["memory"] |= {"available": 32 * 10**9, "limit": None}
    made["discs"] = {"folder": {"path": "/data", "free": 10**12, "total": 2 * 10**12}}
    made["disc"] = {"write_MBps": 500.0, "read_MBps": 900.0, "is_from_disc": True}
    return made | {"devices": [], "driver": "", "versions": {"napari-autorefine": "1", "python": "3", "numpy": "2"}}


def test_the_expected_rate_is_cores_times_vectors_times_frequency() -> None:
    assert expected_rate({"frequency_GHz": 2.5, "operations_per_cycle": 64}) == 160.0


@pytest.mark.parametrize(
    ("part", "changes", "word"),
    [
        ("matrix", {"one_thread_GFLOPS": 30.0}, "31% of what the processor can do"),
        ("matrix", {"all_threads_GFLOPS": 90.0}, "4 threads together do 1.1 times"),
        ("processor", {"is_narrow": True}, "AVX-512"),
        ("processor", {"load": [9.0, 1.0, 1.0]}, "load 9"),
        ("processor", {"quota_cores": 2.0}, "give --j 2"),
        ("memory", {"available": 10**9}, "1.0 GB of memory"),
        ("memory", {"limit": 2 * 10**9}, "2.0 GB of memory"),
        ("discs", {"folder": {"path": "/data", "free": 10**9, "total": 10**12}}, "free in the folder folder"),
        ("disc", {"read_MBps": 20.0}, "--scratch_dir"),
        ("versions", {"cupy-cuda12x": "14"}, "finds no GPU"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    found: dict[str, Any], part: str, changes: dict[str, Any], word: str
) -> None:
    made = sound(found)
    assert remarks(made) == []
    made[part] = made[part] | changes
    assert len(remarks(made)) == 1
    assert word in remarks(made)[0]


def test_gpus_that_work_fail_or_lack_cupy_are_told_apart(found: dict[str, Any]) -> None:
    made = sound(found)
    gpu = {
        "number": 0,
        "name": "Card",
        "memory": 80 * 10**9,
        "free": 79 * 10**9,
        "capability": "9.0",
        "multiprocessors": 132,
        "driver_cuda": "12.8",
        "runtime_cuda": "12.6",
    }
    rates = {"matrix_GFLOPS": 50_000.0, "copy_GBps": 2000.0, "to_device_GBps": 20.0, "from_device_GBps": 19.0}
    made |= {"devices": [gpu | {"rates": rates}, gpu | {"number": 1, "error": "broken"}], "remarks": []}
    made["versions"]["cupy"] = "14"
    text = " ".join(page(made).split())
    assert "products 50.0 TFLOP/s" in text and "CUDA 12.6" in text
    assert remarks(made) == ["GPU 1 (Card) failed: broken"]
    made |= {"devices": [], "driver": "570, Card, 80 GB"}
    del made["versions"]["cupy"]
    assert "CuPy is missing" in remarks(made)[0]


def test_a_driver_that_kills_the_process_costs_only_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(doctor_machine, "_GRAPHICS", "import os; os.abort()")
    assert doctor_machine.graphics() == {"error": "no OpenGL"}
    monkeypatch.setattr(doctor_machine, "_GRAPHICS", "print('vendor\\nrenderer\\nversion')")
    assert doctor_machine.graphics()["renderer"] == "renderer"


def test_vectors_that_the_blas_does_not_use_do_not_count() -> None:
    flags = frozenset({"avx2", "fma", "avx512f"})
    assert doctor_machine._operations_per_cycle(flags, "SkylakeX") == 64
    assert doctor_machine._operations_per_cycle(flags, "Haswell") == 32
    assert doctor_machine._operations_per_cycle(frozenset({"neon"}), "") == 16


def test_without_a_display_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.sys.platform.startswith("linux"):  # type: ignore[attr-defined]
        pytest.skip("only Linux tells by its environment")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert doctor_machine.graphics() == {"error": "no display"}
