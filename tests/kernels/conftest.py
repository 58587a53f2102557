"""Fixtures of the kernel tests: the CUDA sources run as C++ on the host, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_autorefine.kernels import _cuda, _load
from napari_autorefine.xp import gpu_count

SHIM = Path(__file__).parent / "cuda_shim.h"
COMPILER = next((found for name in ("g++", "clang++", "c++") if (found := shutil.which(name))), None)
ENTRY = """extern "C" int run_{name}(const unsigned* shape, void** arguments, int n_arguments) {{
    return run({name}, shape, arguments, n_arguments);
}}
"""
CXX_OPTIONS = ("-std=c++14", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
CXX_EXTRA = ("-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-missing-field-initializers")


@functools.cache
def compile_for_host(stem: str, options: tuple[str, ...], folder: Path) -> Any:
    """Compile ``stem``.cu as C++ behind the shim; return the library, with a ``run_…`` for every kernel."""
    assert COMPILER is not None
    code = _load.read_source(stem)
    entries = [ENTRY.format(name=name) for name in re.findall(r"__global__ void (\w+)\(", code)]
    source = folder / f"{stem}.cpp"
    source.write_text("\n".join([f'#include "{SHIM}"', code, *entries]), encoding="utf-8")
    library = folder / f"{stem}-{abs(hash(options))}.so"
    defines = [option for option in options if option.startswith("-D")]
    command = [COMPILER, *CXX_OPTIONS, *CXX_EXTRA, *defines, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def launch_on_host(entry: Any, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """Run one launch; ``arguments`` are NumPy arrays and sized NumPy scalars, as CuPy's RawKernel takes them."""
    shape = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
    values = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            assert argument.flags.c_contiguous
            values.append(ctypes.c_void_p(argument.ctypes.data))
        else:
            assert isinstance(argument, np.generic), f"a bare Python number has no size: {argument!r}"
            values.append(np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item()))
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    expected = entry(shape, pointers, len(values))
    assert expected == 0, f"the kernel takes {expected} arguments, got {len(values)}"


@pytest.fixture(scope="session")
def cxx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the host builds of the CUDA sources go."""
    return tmp_path_factory.mktemp("cuda_on_host")


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the tests that need a GPU."""
    config.addinivalue_line("markers", "gpu: runs on a CUDA device, when there is one and CuPy is installed")


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
        library = compile_for_host(stem, options, cxx_folder)
        return functools.partial(launch_on_host, getattr(library, f"run_{name or stem}"))

    monkeypatch.setattr(_cuda, "load_kernel", load_kernel)
    return np.asarray
