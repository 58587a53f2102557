"""Every CUDA source compiles with NVIDIA's run-time compiler, for every architecture in use, in single precision."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from napari_autorefine.kernels import _load

STEMS = sorted(path.stem for path in _load.FOLDER.glob("*.cu"))
ARCHITECTURES = (70, 75, 80, 86, 90, 100, 120)
# The phase of the contrast transfer function loses its digits in float32; long sums are kept in double precision.
DOUBLE_PRECISION = {"ctf", "mean_poses", "residuals", "rotations", "shells", "significance"}


@functools.cache
def _nvrtc() -> Any:
    """The library of the nvidia-cuda-nvrtc wheel, or None where it is not installed."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(path))
    return None


def _architectures(library: Any) -> set[int]:
    count = ctypes.c_int()
    assert library.nvrtcGetNumSupportedArchs(ctypes.byref(count)) == 0
    found = (ctypes.c_int * count.value)()
    assert library.nvrtcGetSupportedArchs(found) == 0
    return set(found)


def _text(library: Any, program: Any, what: str) -> str:
    size = ctypes.c_size_t()
    assert getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(library, f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.value.decode()


def compile_to_ptx(source: str, options: tuple[str, ...]) -> tuple[int, str, str]:
    """Compile with NVRTC; return its status, the log and the PTX (empty on failure)."""
    library = _nvrtc()
    program = ctypes.c_void_p()
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = library.nvrtcCompileProgram(program, len(options), encoded)
    log = _text(library, program, "ProgramLog")
    ptx = _text(library, program, "PTX") if status == 0 else ""
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log, ptx


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """The run-time compiler; tests that need it are skipped without it."""
    library = _nvrtc()
    if library is None:
        pytest.skip("the wheel nvidia-cuda-nvrtc-cu12 is not installed")
    return library


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("stem", STEMS)
def test_every_source_compiles_without_a_warning(nvrtc: Any, stem: str, architecture: int) -> None:
    if architecture not in _architectures(nvrtc):
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    options = (*_load.OPTIONS, f"--gpu-architecture=compute_{architecture}")
    status, log, ptx = compile_to_ptx(_load.read_source(stem), options)
    assert status == 0, log
    assert not [line for line in log.strip("\0").splitlines() if line.strip() and "are deprecated" not in line], log
    for name in re.findall(r"__global__ void (\w+)\(", _load.read_source(stem)):
        assert re.search(rf"\.entry {name}\b", ptx)


@pytest.mark.parametrize("stem", sorted(set(STEMS) - DOUBLE_PRECISION))
def test_no_double_precision_slips_in(nvrtc: Any, stem: str) -> None:
    options = (*_load.OPTIONS, "--gpu-architecture=compute_80")
    _, _, ptx = compile_to_ptx(_load.read_source(stem), options)
    assert ".f64" not in ptx


def test_compiler_messages_name_the_real_file_and_line(nvrtc: Any) -> None:
    source = _load.read_source("project").replace("const int radius = (n_z - 1) / 2;", "const int radius = oops;")
    line = next(
        number
        for number, text in enumerate((_load.FOLDER / "project.cu").read_text().splitlines(), start=1)
        if "const int radius" in text
    )
    status, log, _ = compile_to_ptx(source, (*_load.OPTIONS, "--gpu-architecture=compute_80"))
    assert status != 0
    assert f"project.cu({line})" in log
