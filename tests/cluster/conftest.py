from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from napari_autorefine.cluster.connect import started
from napari_autorefine.cluster.description import ClusterDescription


@pytest.fixture(scope="session")
def two_processes() -> Iterator[Any]:
    """Client of two processes on this computer, for all tests."""
    pytest.importorskip("distributed", reason="distributed is not installed")
    with started(ClusterDescription(kind="local", n_workers=2)) as found:
        yield found


@pytest.fixture
def client(two_processes: Any) -> Any:
    """Client of two processes; those that were killed have come back."""
    for _ in range(60):
        if len(two_processes.nthreads()) == 2:
            return two_processes
        two_processes.cluster.scale(2)
        time.sleep(1.0)
    raise AssertionError(f"processes that are there: {list(two_processes.nthreads())}")
