"""A kernel is a numba file, a CUDA file and a launch function of one name; none comes alone."""

from __future__ import annotations

import re

import pytest

from napari_autorefine.kernels import _cuda, _load

PYTHON = {path.stem for path in _load.FOLDER.glob("*.py") if not path.stem.startswith("_")}
CUDA = {path.stem for path in _load.FOLDER.glob("*.cu")}


def test_every_file_has_its_twin() -> None:
    assert PYTHON == CUDA


@pytest.mark.parametrize("stem", sorted(CUDA))
def test_the_source_defines_the_kernel_of_its_name(stem: str) -> None:
    assert re.search(rf'extern "C" __global__ void {stem}\(', _load.read_source(stem))


@pytest.mark.parametrize("stem", sorted(CUDA))
def test_every_kernel_has_a_launch_function(stem: str) -> None:
    assert callable(getattr(_cuda, f"launch_{stem}"))


@pytest.mark.parametrize("stem", sorted(CUDA))
def test_every_twin_pair_is_compared(stem: str) -> None:
    compared = (_load.FOLDER.parents[2] / "tests" / "kernels" / "test_cuda_twins.py").read_text(encoding="utf-8")
    assert f"_cuda.launch_{stem}(" in compared


def test_no_kernel_synchronizes_its_block() -> None:
    assert not [stem for stem in CUDA if "__syncthreads" in _load.read_source(stem)]
