"""Averaged weights of few slices: even ones stay, gaps are filled, and maps are nearer to the truth."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from oracles import tomo_phantoms
from oracles.phantoms import ASYMMETRIC

from napari_autorefine.engine import averaged_weights
from napari_autorefine.engine.averaged_weights import with_averaged_weights
from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.halfmaps import finish_sums
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.projector import make_reference
from napari_autorefine.engine.reconstruction import Accumulators, reconstruct
from napari_autorefine.engine.setup import prepare_setup
from napari_autorefine.model.particles import Form

BOX = 24


def uneven_sums(box_size: int = BOX, *, pad: int = 2) -> Accumulators:
    """Closed sums with weights of all sizes, many of them small."""
    sums = Accumulators.zeros(box_size, pad=pad, r_max=box_size // 2)
    sums.weight[:] = np.random.default_rng(5).random(sums.weight.shape) ** 6
    sums.weight[:, :, 0] += sums.weight[::-1, ::-1, 0]
    return sums


def test_weights_of_even_slices_stay_and_gaps_are_filled() -> None:
    sums = Accumulators.zeros(BOX, pad=2, r_max=BOX // 2)
    radius, (n_z, n_y, n_x) = sums.radius, sums.weight.shape
    z, y, x = np.ogrid[-radius : n_z - radius, -radius : n_y - radius, :n_x]
    length = np.sqrt(z * z + y * y + x * x)
    inside = length**2 <= sums.r2_max
    sums.weight[:] = inside / np.maximum(length, 1.0)
    averaged = with_averaged_weights(sums).weight
    np.testing.assert_allclose(averaged[inside], sums.weight[inside], rtol=1e-5)
    assert not averaged[~inside].any()
    rng = np.random.default_rng(3)
    sums.weight *= rng.random(sums.weight.shape) < 0.3
    sums.weight[:, :, 0] = (sums.weight[:, :, 0] + sums.weight[::-1, ::-1, 0]) / 2
    gapped = with_averaged_weights(sums)
    assert (gapped.weight[inside] > 0).mean() > 0.999
    total = (gapped.weight * length)[inside].sum() / (sums.weight * length)[inside].sum()
    assert total == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(gapped.weight[:, :, 0], gapped.weight[::-1, ::-1, 0], rtol=1e-5)
    assert gapped.data is sums.data
    flat = Accumulators.zeros(BOX, pad=1, r_max=BOX // 2)
    assert with_averaged_weights(flat) is flat


@pytest.mark.parametrize("pad", [2, 3])
def test_an_average_is_the_explicit_sum_over_neighbors_on_both_sides_of_x_0(pad: int) -> None:
    sums = uneven_sums(8, pad=pad)
    averaged, radius = with_averaged_weights(sums).weight, sums.radius
    reach = range(1 - pad, pad)
    for z, y, x in ((0, 0, 0), (0, 0, 1), (3, -2, 0), (-4, 4, 3), (0, -sums.keep, 0), (2, 1, sums.keep - 1)):
        total = share = 0.0
        for steps in product(reach, reach, reach):
            kz, ky, kx = z + steps[0], y + steps[1], x + steps[2]
            if kz * kz + ky * ky + kx * kx > sums.r2_max:
                continue
            sign = -1 if kx < 0 else 1
            part = np.prod([1 - abs(step) / pad for step in steps])
            length = max(np.sqrt(kz * kz + ky * ky + kx * kx), 1.0)
            total += part * length * sums.weight[sign * kz + radius, sign * ky + radius, sign * kx]
            share += part
        expected = total / share / max(np.sqrt(z * z + y * y + x * x), 1.0)
        assert averaged[z + radius, y + radius, x] == pytest.approx(expected, rel=1e-5)


def test_neither_pieces_nor_threads_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = uneven_sums()
    whole = with_averaged_weights(sums).weight
    monkeypatch.setattr(averaged_weights, "_SLAB_BYTES", 1)
    np.testing.assert_array_equal(with_averaged_weights(sums, threads=3).weight, whole)


def test_a_map_of_coefficients_some_of_which_were_hardly_seen_is_nearer_to_the_truth() -> None:
    truth = ASYMMETRIC.map(BOX, 4.0).astype(np.float32)
    sums = uneven_sums()
    clean = make_reference(truth, pad=2, r_max=BOX // 2).data
    rng = np.random.default_rng(7)
    noise = rng.normal(size=clean.shape) + 1j * rng.normal(size=clean.shape)
    level = 0.2 * np.sqrt((np.abs(clean) ** 2).mean())
    sums.data[:] = sums.weight * clean + np.sqrt(sums.weight) * level * noise
    plain, averaged = (fsc(reconstruct(one), truth) for one in (sums, with_averaged_weights(sums)))
    seen = slice(2, 9)  # beyond there is next to nothing but noise
    assert (averaged[seen] > plain[seen]).all()
    assert (1 - averaged[seen]).mean() < 0.7 * (1 - plain[seen]).mean()


@pytest.mark.parametrize(("form", "skip_gridding"), [("tilt_stack", True), ("tilt_stack", False), ("volume", True)])
def test_a_refinement_averages_the_weights_of_tilt_stacks_unless_gridding_compensates(
    form: Form, skip_gridding: bool
) -> None:
    problem = tomo_phantoms.simulate(form, 4, noise=1.0).problem
    setup = prepare_setup(problem, RefineOptions(particle_diameter_A=60.0, skip_gridding=skip_gridding, threads=1))
    sums = uneven_sums(tomo_phantoms.BOX)
    finished = sums.copy()
    finish_sums(setup, finished)
    sums.weight[:, :, 0] += sums.weight[::-1, ::-1, 0]
    sums.weight[sums.radius, sums.radius, 0] /= 2
    expected = with_averaged_weights(sums).weight if form == "tilt_stack" and skip_gridding else sums.weight
    np.testing.assert_allclose(finished.weight, expected, rtol=1e-5)
