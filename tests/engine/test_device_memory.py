"""A GPU whose memory is capped: batches are halved, then tables given up, then particles searched on the host."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from oracles import half_sets
from oracles.half_sets import Case

from napari_autorefine.engine.reconstruction import complete_hermitian, reconstruct
from napari_autorefine.events import Message
from napari_autorefine.xp import gpu_count

pytestmark = pytest.mark.gpu


@pytest.fixture
def pool() -> Iterator[Any]:
    """CuPy's pool of device memory; its limit is taken away at the end."""
    if gpu_count() == 0:
        pytest.skip("no CUDA device, or CuPy is not installed")
    pool = importlib.import_module("cupy").get_default_memory_pool()
    yield pool
    pool.set_limit(size=0)
    pool.free_all_blocks()


def finished_map(found: half_sets.Found) -> np.ndarray:
    sums = found.accumulators.copy()
    complete_hermitian(sums)
    return reconstruct(sums)


@pytest.mark.parametrize("megabytes", [0.1, 1, 4, 16, 64])
@pytest.mark.parametrize("is_local", [False, True])
def test_a_capped_pool_changes_nothing_but_the_batches(pool: Any, is_local: bool, megabytes: float) -> None:
    case = Case(is_local=is_local, n_particle=48)
    whole = half_sets.run(case)
    pool.free_all_blocks()
    pool.set_limit(size=int(pool.used_bytes() + megabytes * 2**20))
    found = half_sets.run(replace(case, devices=(0,)))
    map_, expected = finished_map(found), finished_map(whole)
    np.testing.assert_allclose(map_, expected, atol=1e-4 * np.abs(expected).max())
    said = [event.text for event in found.events if isinstance(event, Message)]
    if megabytes < 1:
        assert any("CPU" in text for text in said)
