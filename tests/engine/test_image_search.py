"""The compiled search of images finds what the search of any particles does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles import half_sets
from oracles.agreement import assert_same
from oracles.half_sets import Case
from oracles.tomo_sets import Files

from napari_autorefine.engine import (
    block,
    compiled_passes,
    compiled_scores,
    expectation,
    first_pass,
    half_job,
    image_search,
)
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.engine.search import Search
from napari_autorefine.engine.shifts import as_real, shift_basis
from napari_autorefine.engine.slices import SharedSlices
from napari_autorefine.kernels import project
from napari_autorefine.model.geometry import euler_to_matrix, matrix_to_euler

LOCAL = Case(is_local=True, screen_size=6, fraction=0.999)
VOLUMES = replace(LOCAL, form="volume", screen_size=4, is_premultiplied=True, n_particle=4)
CASES = {
    "global, from a table": Case(fraction=0.999),
    "global, without tables": Case(memory_bytes=0, fraction=0.999),
    "parents first": Case(healpix_order=1, screen_size=4, image_gain=10.0, fraction=0.999),
    "tilt prior": Case(sigma_tilt_deg=20.0, screen_size=4, fraction=0.999),
    "local": LOCAL,
    "local, without a ring": replace(LOCAL, screen_size=8),
    "local, sharp": replace(LOCAL, image_gain=10.0),
    "local, many shifts": replace(LOCAL, offset_step_A=3.0),
    "local, priors": replace(LOCAL, has_prior=True),
    "premultiplied, aberrated": replace(LOCAL, is_premultiplied=True, is_aberrated=True),
    "odd boxes": replace(LOCAL, is_odd=True),
    "no CTF, no norm": replace(LOCAL, is_plain=True),
    "few representatives": replace(LOCAL, healpix_order=1, most_representatives=5),
    "volumes": Case(form="volume", is_premultiplied=True, n_particle=4, has_prior=True, fraction=0.999),
    "volumes, local": replace(VOLUMES, offset_step_A=3.0),
    "volumes without weights": replace(VOLUMES, is_plain=True, files=Files(has_weights=False)),
    "two threads": replace(LOCAL, threads=2),
}


@pytest.mark.parametrize("name", CASES)
def test_results_are_those_of_the_search_of_any_particles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def can_be_compiled(search: object) -> bool:
        asked.append(image_search.can_be_compiled(search))  # type: ignore[arg-type]
        return asked[-1]

    monkeypatch.setattr(block, "can_be_compiled", can_be_compiled)
    compiled = half_sets.run(CASES[name])
    assert asked and all(asked)
    monkeypatch.setattr(block, "can_be_compiled", lambda search: False)
    assert_same(compiled, half_sets.run(CASES[name]))


@pytest.mark.parametrize("name", ["global, from a table", "parents first", "local, many shifts"])
def test_the_orientations_of_a_vague_image_are_drawn_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_job, "_MOST_ROTATIONS", 6)
    case = replace(CASES[name], image_gain=0.3)
    compiled = half_sets.run(case)
    monkeypatch.setattr(block, "can_be_compiled", lambda search: False)
    assert_same(compiled, half_sets.run(case))


@pytest.mark.parametrize("held", [0, 1 << 30])
@pytest.mark.parametrize("n_shift", [3, 40])
def test_scores_of_slices_in_chunks_are_those_of_all(n_shift: int, held: int) -> None:
    rng = np.random.default_rng(4)
    samples = fourier_samples(80, 60, 60)
    n, radius = samples.n_sample, 62
    shape = (2 * radius + 1, 2 * radius + 1, radius + 2)
    volume = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    rotations = euler_to_matrix(rng.uniform([-180, 0, -180], [180, 180, 180], (150, 3)))
    matrices = np.ascontiguousarray(2 * np.swapaxes(rotations, 1, 2), dtype=np.float32)
    image = (rng.standard_normal(n) + 1j * rng.standard_normal(n)).astype(np.complex64)
    contrast, weight = (rng.random(n).astype(np.float32) for _ in range(2))
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(5), indexing="ij"), axis=-1).reshape(-1, 2)
    basis = shift_basis(samples, 0.5 * grid, slice(n))
    chosen = np.arange(n_shift)
    assert basis.functions is not None
    assert basis.coefficients is not None
    slices = project(volume, matrices, samples.rows, n, 1e6)
    expected = expectation.log_likelihoods(slices, basis.of(image, chosen), contrast, weight)
    whole = samples.rows, 0, as_real(basis.ramps), as_real(basis.functions), basis.coefficients
    reference = volume.view(np.float32), np.float32(1e6)
    scores, kept = compiled_scores.scores_of(
        matrices, np.arange(150), chosen, reference, whole, image_search._NO_TABLE, (image, contrast, weight), held
    )
    tolerance = 2e-5 * np.abs(expected).max()
    np.testing.assert_allclose(scores, expected, atol=tolerance)
    assert len(kept) == (150 if held else 0)
    rows = np.array([3, 70, 149])
    again = compiled_scores.slices_again(
        rows, np.arange(150), matrices[rows], reference, whole, image_search._NO_TABLE, kept
    )
    np.testing.assert_array_equal(again.view(np.complex64), slices[rows])
    table = np.ascontiguousarray(slices[::-1]).view(np.float32)
    ring = (
        samples.rows[:0],
        900,
        *(as_real(a[:, 900:].copy()) for a in (basis.ramps, basis.functions)),
        basis.coefficients,
    )
    of_ring, _ = compiled_scores.scores_of(
        matrices[:0], np.arange(150)[::-1].copy(), chosen, reference, ring, table, (image, contrast, weight), held
    )
    beyond = (np.arange(n) >= 900).astype(np.float32)
    expected = expectation.log_likelihoods(slices, basis.of(image, chosen), contrast, weight * beyond)
    np.testing.assert_allclose(of_ring, expected, atol=tolerance)


def test_angles_are_those_of_the_geometry() -> None:
    euler = np.random.default_rng(5).uniform([-180, 0, -180], [180, 180, 180], (50, 3))
    euler[:8, 1] = [0, 0, 180, 180, 1e-7, 180 - 1e-7, 1e-3, 179.999]
    for rotation in euler_to_matrix(euler):
        found, expected = compiled_passes._euler_deg(rotation), matrix_to_euler(rotation)
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("is_compiled", [True, False])
def test_each_image_is_compared_with_the_whole_grid_or_with_some_of_it(
    monkeypatch: pytest.MonkeyPatch, is_compiled: bool
) -> None:
    shares: list[float] = []
    search_children = first_pass._children_of_near_parents

    def children(search: Search, shared: SharedSlices) -> dict[int, np.ndarray]:
        found = search_children(search, shared)
        shares.extend(len(ids) / len(shared.dir_idx) for ids in found.values())
        return found

    if not is_compiled:
        monkeypatch.setattr(block, "can_be_compiled", lambda search: False)
    monkeypatch.setattr(first_pass, "_children_of_near_parents", children)
    monkeypatch.setattr(first_pass, "CROWDED", -1.0)
    with_all = half_sets.run(CASES["parents first"])
    assert max(shares) > min(shares) > 0
    for limit in (float(np.median(shares)), 1.0):
        monkeypatch.setattr(first_pass, "CROWDED", limit)
        assert_same(half_sets.run(CASES["parents first"]), with_all)
