"""Whether two ways through the expectation step came to the same."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from oracles.half_sets import Found

from napari_autorefine.engine.reconstruction import complete_hermitian, reconstruct
from napari_autorefine.engine.state import Poses
from napari_autorefine.model.geometry import euler_to_matrix


def finished_map(found: Found) -> np.ndarray:
    sums = found.accumulators.copy()
    complete_hermitian(sums)
    return reconstruct(sums)


def assert_same(found: Found, expected: Found) -> None:
    """The same samples are searched, everything summed agrees to rounding; so do poses, which are means."""
    for item in fields(Poses):
        own, other = getattr(found.poses, item.name), getattr(expected.poses, item.name)
        if item.name == "n_significant":
            np.testing.assert_array_equal(own, other, err_msg=item.name)
        elif item.name == "euler_deg":
            np.testing.assert_allclose(euler_to_matrix(own), euler_to_matrix(other), atol=1e-5)
        elif item.name == "origin_A":
            np.testing.assert_allclose(own, other, atol=1e-3)
        else:
            np.testing.assert_allclose(own, other, rtol=2e-4, err_msg=item.name)
    for name in ("noise", "weight", "scale_cross", "scale_power", "direction", "offset_square", "norm"):
        own, other = getattr(found.statistics, name), getattr(expected.statistics, name)
        np.testing.assert_allclose(own, other, rtol=2e-4, atol=2e-4 * np.max(np.abs(other)), err_msg=name)
    map_, other = finished_map(found), finished_map(expected)
    assert np.abs(map_ - other).max() < 1e-4 * other.std()
    assert found.accumulators.dc_data == pytest.approx(expected.accumulators.dc_data, rel=1e-5)
    assert found.accumulators.dc_weight == pytest.approx(expected.accumulators.dc_weight, rel=1e-5)
