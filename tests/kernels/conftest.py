"""Fixtures of the kernel tests: the CUDA sources run as C++ on the host, and on a GPU where there is one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.cuda_on_host import COMPILER, compile_for_host, launch_on_host

from napari_autorefine.kernels import _cuda, _load
from napari_autorefine.xp import gpu_count


@pytest.fixture(scope="session")
def cxx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the host builds of the CUDA sources go."""
    return tmp_path_factory.mktemp("cuda_on_host")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of a CUDA twin on the host and on the GPU."""
    if "to_twin" in metafunc.fixturenames:
        where = ["c++", pytest.param("cuda", marks=pytest.mark.gpu)]
        metafunc.parametrize("to_twin", where, indirect=True)


@pytest.fixture
def to_twin(request: pytest.FixtureRequest, cxx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Move an array to where the CUDA twin runs: the GPU, or the host with the sources compiled as C++."""
    if request.param == "cuda":
        if gpu_count() == 0:
            pytest.skip("no CUDA device, or CuPy is not installed")
        return pytest.importorskip("cupy").asarray
    if COMPILER is None:
        pytest.skip("no C++ compiler to run the CUDA sources on the host")

    def load_kernel(stem: str, array: Any, *, name: str = "", options: tuple[str, ...] = ()) -> Callable[..., None]:
        library = compile_for_host(_load.read_source(stem), options, cxx_folder)
        return functools.partial(launch_on_host, getattr(library, f"run_{name or stem}"))

    monkeypatch.setattr(_cuda, "load_kernel", load_kernel)
    return np.asarray
