"""A kernel is a numba file, a CUDA file and a launch function of one name; none comes alone."""

from __future__ import annotations

import re

import pytest

from napari_autorefine.kernels import _cuda, _load

NO_KERNEL = {"__init__", "_cuda", "_load", "_simd"}
PYTHON = {path.stem.lstrip("_") for path in _load.FOLDER.glob("*.py") if path.stem not in NO_KERNEL}
CUDA = {path.stem for path in _load.FOLDER.glob("*.cu")}
KERNELS = sorted(name for stem in CUDA for name in re.findall(r"__global__ void (\w+)\(", _load.read_source(stem)))


def test_every_file_has_its_twin() -> None:
    assert PYTHON == CUDA


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_has_a_launch_function(name: str) -> None:
    assert callable(getattr(_cuda, f"launch_{name}"))


@pytest.mark.parametrize("name", KERNELS)
def test_every_twin_pair_is_compared(name: str) -> None:
    compared = (_load.FOLDER.parents[2] / "tests" / "kernels" / "test_cuda_twins.py").read_text(encoding="utf-8")
    assert f"_cuda.launch_{name}(" in compared


@pytest.mark.parametrize("stem", sorted(CUDA))
def test_every_source_has_a_kernel(stem: str) -> None:
    assert 'extern "C" __global__ void' in _load.read_source(stem)
