from __future__ import annotations

import numpy as np
import pytest
from oracles import slices

from napari_autorefine.engine.insertion import HalfSum, OrientationTable
from napari_autorefine.engine.maximization import Insertion
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.engine.workers import Workers

BOX, SIZE, PAD = 12, 10, 2
N_ORIENTATION = 24
SAMPLES = fourier_samples(BOX, SIZE, SIZE)
MATRICES = slices.sampling_matrices(N_ORIENTATION, float(PAD), 3)


def entries(n: int) -> list[Insertion]:
    """Insertions of n particles on a few orientations of the grid each."""
    rng = np.random.default_rng(12)
    found = []
    for _ in range(n):
        chosen = np.sort(rng.choice(N_ORIENTATION, 3, replace=False))
        values = slices.complex_noise(rng, 3, SAMPLES.n_sample)
        values[:, 0] = values[:, 0].real
        weight = rng.uniform(0.5, 1.5, SAMPLES.n_sample).astype(np.float32)
        amounts = rng.uniform(0.1, 0.6, 3).astype(np.float32)
        found.append(
            Insertion(
                orientations=chosen,
                matrices=MATRICES[chosen],
                values=values,
                amounts=amounts,
                sample_weight=weight,
                rows=SAMPLES.rows,
                origin_value=float(values[:, 0].real.sum()),
                origin_weight=float(amounts.sum() * weight[0]),
            )
        )
    return found


def summed(items: list[Insertion], *, threads: int, has_table: bool, limit_bytes: int = 1 << 30) -> Accumulators:
    accumulators = Accumulators.zeros(BOX, pad=PAD, r_max=SIZE / 2)
    tables = {0: OrientationTable.zeros(N_ORIENTATION, SAMPLES.n_sample, SAMPLES.rows)} if has_table else {}
    with Workers(threads) as workers:
        half = HalfSum(
            accumulators=accumulators,
            r2_max=100.5,
            run=workers.each,
            n_slabs=threads,
            limit_bytes=limit_bytes,
            tables=tables,
        )
        for item in items:
            half.add(0, item)
        return half.finish({0: lambda used: MATRICES[used]})


@pytest.mark.parametrize("has_table", [False, True])
def test_the_volume_is_the_naive_sum_of_all_insertions(has_table: bool) -> None:
    items = entries(4)
    found = summed(items, threads=1, has_table=has_table)
    data, weight = np.zeros(found.data.shape, complex), np.zeros(found.weight.shape)
    for item in items:
        weights = item.amounts[:, None].astype(float) * item.sample_weight
        added = slices.backproject(
            data.shape, item.matrices, item.values, weights, slices.frequencies(SAMPLES.rows), 100.5
        )
        data, weight = data + added[0], weight + added[1]
    np.testing.assert_allclose(found.data, data, atol=2e-5)
    np.testing.assert_allclose(found.weight, weight, atol=2e-5)
    assert found.dc_data == pytest.approx(sum(item.origin_value for item in items))
    assert found.dc_weight == pytest.approx(sum(item.origin_weight for item in items))


@pytest.mark.parametrize("has_table", [False, True])
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_the_number_of_threads_changes_no_bit(has_table: bool, threads: int) -> None:
    one, many = (summed(entries(7), threads=n, has_table=has_table) for n in (1, threads))
    np.testing.assert_array_equal(one.data, many.data)
    np.testing.assert_array_equal(one.weight, many.weight)


def test_flushing_early_changes_no_bit() -> None:
    late, early = (summed(entries(7), threads=2, has_table=False, limit_bytes=limit) for limit in (1 << 30, 1))
    np.testing.assert_array_equal(late.data, early.data)
    np.testing.assert_array_equal(late.weight, early.weight)


def test_orientations_that_nobody_took_leave_the_volume_empty() -> None:
    found = summed([], threads=2, has_table=True)
    assert not found.data.any()
    assert not found.weight.any()
