"""The loader of the CUDA sources, without a GPU: a stand-in for CuPy records what it is asked to compile."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from napari_autorefine.kernels import _load


class FakeCupy:
    """The four names of CuPy that the loader uses."""

    def __init__(self) -> None:
        self.compiled: list[tuple[int, tuple[str, ...]]] = []
        self.device = -1
        self.cuda = SimpleNamespace(Device=self._use)

    @contextlib.contextmanager
    def _use(self, device: int) -> Any:
        self.device = device
        yield

    def RawModule(self, *, code: str, options: tuple[str, ...]) -> Any:
        assert "#include" not in code
        self.compiled.append((self.device, options))
        return SimpleNamespace(get_function=lambda name: (name, len(self.compiled)))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> FakeCupy:
    fake = FakeCupy()
    monkeypatch.setattr(_load, "array_module", lambda array: fake)
    return fake


def on_device(device: int) -> Any:
    return SimpleNamespace(device=SimpleNamespace(id=device))


def test_a_kernel_is_compiled_once_per_device_and_options(cupy: FakeCupy) -> None:
    first = _load.load_kernel("project", on_device(0))
    assert _load.load_kernel("project", on_device(0)) is first
    assert _load.load_kernel("project", on_device(0), name="other")[0] == "other"
    assert _load.load_kernel("project", on_device(1)) is not first
    _load.load_kernel("project", on_device(1), options=("-DX=1",))
    assert cupy.compiled == [(0, _load.OPTIONS), (1, _load.OPTIONS), (1, (*_load.OPTIONS, "-DX=1"))]


def test_includes_are_resolved_and_lines_counted() -> None:
    source = _load.read_source("project").splitlines()
    original = (_load.FOLDER / "project.cu").read_text().splitlines()
    include = original.index('#include "common.cuh"') + 1
    assert source[0] == '#line 1 "project.cu"'
    assert '#line 1 "common.cuh"' in source
    resumed = source.index(f'#line {include + 1} "project.cu"')
    assert source[resumed + 1 :] == original[include:]


def test_an_unknown_kernel_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.cu"):
        _load.read_source("nothing")
