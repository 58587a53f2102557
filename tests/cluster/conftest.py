from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from napari_autorefine.cluster.connect import started
from napari_autorefine.cluster.description import ClusterDescription


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Client of two processes on this computer."""
    pytest.importorskip("distributed", reason="distributed is not installed")
    with started(ClusterDescription(kind="local", n_workers=2)) as found:
        yield found
