from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from oracles import half_sets, imaging, posterior, slices, tomo_sets

from napari_autorefine.engine import expectation
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.engine.selection import drawn, largest_weights, lots_of
from napari_autorefine.engine.shifts import shift_basis
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.particles import Form

# Beyond the disc the squared CTFs of premultiplied images are counted from a few directions.
COUNT_TOLERANCE = 0.2
MIXED = {"is_premultiplied": True}  # one optics group is, one is not


def volumes(**changes: object) -> half_sets.Case:
    files = tomo_sets.Files(**{name: changes.pop(name) for name in list(changes) if name in tomo_sets.Files.__slots__})
    return half_sets.Case(form="volume", files=files, **{"n_particle": 4, **changes})


def stacks(**changes: object) -> half_sets.Case:
    return half_sets.Case(form="tilt_stack", **{"n_particle": 4, **changes})


CASES = {
    "global": half_sets.Case(has_prior=True),
    "premultiplied": half_sets.Case(is_premultiplied=True),
    "correlation": half_sets.Case(is_cc=True),
    "local": half_sets.Case(is_local=True, is_premultiplied=True),
    "aberrated": half_sets.Case(is_aberrated=True),
    "no CTF, no norm": half_sets.Case(is_plain=True),
    "screened": half_sets.Case(is_local=True, screen_size=4),
    "odd boxes": half_sets.Case(is_odd=True, is_premultiplied=True),
    "tilt prior": half_sets.Case(sigma_tilt_deg=20.0),
    "volumes": volumes(has_prior=True, **MIXED),
    "volumes of CTFs": volumes(holds_ctf=True, **MIXED),
    "volumes, normalised": volumes(is_normalised=True, **MIXED),
    "volumes, multiplicity ignored": volumes(ignores_multiplicity=True, **MIXED),
    "volumes without multiplicity": volumes(has_multiplicity=False, **MIXED),
    "volumes without weights": volumes(has_weights=False, is_plain=True),
    "volumes, local": volumes(is_local=True, **MIXED),
    "volumes, screened": volumes(is_local=True, screen_size=4, **MIXED),
    "volumes, parents first": volumes(healpix_order=1, screen_size=4, image_gain=10.0, **MIXED),
    "volumes, many shifts": volumes(is_local=True, screen_size=4, offset_step_A=3.0, n_particle=2),
    "volumes, odd boxes": volumes(is_odd=True, **MIXED),
    "volumes, correlation": volumes(is_cc=True, **MIXED),
    "volumes, tilt prior": volumes(sigma_tilt_deg=20.0, **MIXED),
    "stacks": stacks(has_prior=True, **MIXED),
    "stacks, no CTF": stacks(is_plain=True),
    "stacks, local": stacks(is_local=True, has_prior=True, **MIXED),
    "stacks, screened": stacks(is_local=True, screen_size=4, **MIXED),
    "stacks, global, screened": stacks(screen_size=4, **MIXED),
    "stacks, many shifts": stacks(is_local=True, screen_size=4, offset_step_A=3.0, n_particle=2),
    "stacks, odd boxes": stacks(is_odd=True, **MIXED),
    "stacks, correlation": stacks(is_cc=True, **MIXED),
    "stacks, tilt prior": stacks(sigma_tilt_deg=20.0, **MIXED),
}


@lru_cache(maxsize=32)
def engine_and_oracle(
    name: str,
) -> tuple[half_sets.Found, list[tuple[posterior.View, posterior.Candidates, posterior.Outcome]]]:
    found = half_sets.run(CASES[name])
    return found, [half_sets.outcome(found, i) for i in found.members]


def looseness(found: half_sets.Found) -> float:
    """Many shifts are made from few functions; of a flat posterior on a fine grid some orientations stand for all."""
    return 30.0 if found.case.healpix_order or found.case.offset_step_A < half_sets.STEP_A else 1.0


@pytest.mark.parametrize("name", CASES)
def test_poses_and_weights_are_those_of_the_explicit_sum(name: str) -> None:
    found, expected = engine_and_oracle(name)
    orientations, step_A = found.job.grid.orientations, found.case.offset_step_A
    for i, (_, options, own) in zip(found.members, expected, strict=True):
        assert found.poses.p_max[i] == pytest.approx(own.weights.max(), rel=2e-3 * looseness(found))
        rotation, origin_A = posterior.mean_pose(
            options, own, orientations.group.operators, min(1.5 * orientations.step_deg, 60.0), 1.5 * step_A
        )
        np.testing.assert_allclose(euler_to_matrix(found.poses.euler_deg[i]), rotation, atol=2e-3 * looseness(found))
        np.testing.assert_allclose(found.poses.origin_A[i], origin_A, atol=1e-2 * looseness(found))
        if not found.case.is_cc:
            assert found.poses.log_likelihood[i] == pytest.approx(own.log_evidence, abs=2e-2 * looseness(found))


@pytest.mark.parametrize("name", CASES)
def test_noise_and_norm_sums_are_those_of_the_explicit_sum(name: str) -> None:
    found, expected = engine_and_oracle(name)
    statistics, group = found.statistics, found.setup.problem.particles.optics_index[found.members]
    for g in (0, 1):
        noise = np.sum([own.noise for (_, _, own), h in zip(expected, group, strict=True) if h == g], axis=0)
        np.testing.assert_allclose(statistics.noise[g], noise, rtol=1e-3 * looseness(found))
        count = np.sum([seen.count for (seen, _, _), h in zip(expected, group, strict=True) if h == g], axis=0)
        np.testing.assert_allclose(statistics.count[g], count, rtol=COUNT_TOLERANCE, atol=0.02 * count.max())
        assert statistics.weight[g] == pytest.approx(np.count_nonzero(group == g), rel=1e-3)
    norm = found.setup.problem.particles.norm_correction[found.members]
    norms = [n / 1.1 * np.sqrt(2 * own.norm_power) for n, (_, _, own) in zip(norm, expected, strict=True)]
    if not found.setup.options.norm:
        norms = [1.0] * len(expected)
    np.testing.assert_allclose(found.poses.norm_correction[found.members], norms, rtol=1e-3)
    assert statistics.norm == pytest.approx(np.sum(norms), rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_scale_offset_and_direction_sums_are_those_of_the_explicit_sum(name: str) -> None:
    found, expected = engine_and_oracle(name)
    statistics, group = found.statistics, found.setup.scale_group[found.members]
    outcomes = [own for _, _, own in expected]
    cross = np.bincount(group, weights=[own.scale_cross for own in outcomes], minlength=len(statistics.scale_cross))
    power = np.bincount(group, weights=[own.scale_power for own in outcomes], minlength=len(statistics.scale_cross))
    np.testing.assert_allclose(statistics.scale_cross, cross, rtol=2e-3, atol=2e-3 * np.abs(cross).max())
    np.testing.assert_allclose(statistics.scale_power, power, rtol=2e-3)
    assert statistics.offset_square == pytest.approx(sum(own.offset_square for own in outcomes), rel=1e-3)
    assert statistics.p_max == pytest.approx(sum(own.weights.max() for own in outcomes), rel=1e-3 * looseness(found))
    directions = np.zeros(len(statistics.direction))
    for _, options, own in expected:
        np.add.at(directions, options.directions, own.weights.sum(axis=1))
    np.testing.assert_allclose(statistics.direction, directions, atol=2e-3)


@pytest.mark.parametrize("name", CASES)
def test_the_fourier_volume_is_that_of_the_explicit_sum(name: str) -> None:
    found, expected = engine_and_oracle(name)
    accumulators = found.accumulators
    data, weight = np.zeros(accumulators.data.shape, complex), np.zeros(accumulators.weight.shape)
    origin = np.zeros(2)
    for seen, options, own in expected:
        kept = own.weights.sum(axis=1) > 1e-7
        far = np.flatnonzero(seen.is_far)
        order = np.concatenate([[far[0]], far])  # the first is left out
        added = slices.backproject(
            data.shape,
            posterior.matrices(seen, options.rotations[kept]),
            own.values[kept][:, order],
            own.sample_weights[kept][:, order],
            seen.points[order],
            accumulators.r2_max,
        )
        data, weight = data + added[0], weight + added[1]
        origin += own.values[:, ~seen.is_far].real.sum(), own.sample_weights[:, ~seen.is_far].sum()
    np.testing.assert_allclose(accumulators.data, data, atol=2e-3 * np.abs(data).max())
    np.testing.assert_allclose(accumulators.weight, weight, atol=2e-3 * weight.max())
    np.testing.assert_allclose([accumulators.dc_data, accumulators.dc_weight], origin, rtol=1e-3)


@pytest.mark.parametrize("name", ["global", "local"])
def test_threads_change_nothing(name: str) -> None:
    first, _ = engine_and_oracle(name)
    second = half_sets.run(half_sets.Case(**{**_fields(CASES[name]), "threads": 3}))
    np.testing.assert_array_equal(first.accumulators.data, second.accumulators.data)
    np.testing.assert_array_equal(first.accumulators.weight, second.accumulators.weight)
    np.testing.assert_array_equal(first.statistics.noise, second.statistics.noise)
    np.testing.assert_array_equal(first.poses.origin_A, second.poses.origin_A)
    np.testing.assert_array_equal(first.poses.p_max, second.poses.p_max)


@pytest.mark.parametrize("form", ["image", "volume", "tilt_stack"])
def test_few_orientations_stand_for_a_posterior(form: Form) -> None:
    case = half_sets.Case(form=form, is_local=True, n_particle=24, signal=0.3)
    every, some = half_sets.run(case), half_sets.run(replace(case, most_representatives=16))
    np.testing.assert_array_equal(every.poses.euler_deg, some.poses.euler_deg)
    full, sampled = every.statistics, some.statistics
    np.testing.assert_allclose(sampled.noise.sum(), full.noise.sum(), rtol=0.01)
    np.testing.assert_allclose(sampled.scale_cross.sum(), full.scale_cross.sum(), rtol=0.05)
    volumes = [found.accumulators.copy() for found in (every, some)]
    np.testing.assert_allclose(volumes[1].weight.sum(), volumes[0].weight.sum(), rtol=1e-3)
    assert not np.array_equal(volumes[1].weight, volumes[0].weight)
    correlation = np.corrcoef(*(abs(volume.data).ravel() for volume in volumes))[0, 1]
    assert correlation > 0.95


def test_without_memory_for_tables_the_sums_are_the_same() -> None:
    first, _ = engine_and_oracle("global")
    second = half_sets.run(half_sets.Case(**{**_fields(CASES["global"]), "memory_bytes": 1}))
    np.testing.assert_allclose(first.poses.p_max, second.poses.p_max, rtol=1e-4)
    np.testing.assert_allclose(first.statistics.noise, second.statistics.noise, rtol=1e-4)
    scale = np.abs(first.accumulators.data).max()
    np.testing.assert_allclose(first.accumulators.data, second.accumulators.data, atol=1e-4 * scale)
    np.testing.assert_allclose(first.accumulators.weight, second.accumulators.weight, rtol=1e-3, atol=1e-4)


def _fields(case: half_sets.Case) -> dict[str, object]:
    return {name: getattr(case, name) for name in half_sets.Case.__dataclass_fields__}


def test_images_a_thousand_times_too_bright_still_have_a_posterior() -> None:
    found = half_sets.run(half_sets.Case(image_gain=1e3))
    poses, members = found.poses, found.members
    assert np.isfinite(poses.p_max[members]).all() and (poses.p_max[members] > 0).all()
    assert np.isfinite(poses.log_likelihood[members]).all()
    assert (poses.n_significant[members] >= 1).all()
    assert np.isfinite(found.accumulators.data).all()
    assert found.statistics.total_weight == pytest.approx(len(members), rel=1e-5)


@pytest.mark.parametrize("span", [1e-3, 1.0, 1e3, 1e8, 1e30])
def test_weights_of_any_scores_are_finite_and_sum_to_one(span: float) -> None:
    scores = (np.random.default_rng(2).standard_normal((40, 9)) * span).astype(np.float32)
    scores[3] = -np.inf
    found = expectation.posterior(scores.copy(), winner_takes_all=False, fraction=1.0)
    assert np.isfinite(found.weights).all() and (found.weights >= 0).all()
    assert found.weights.sum(dtype=np.float64) == pytest.approx(1.0, abs=1e-5)
    best = np.unravel_index(np.argmax(found.weights), found.weights.shape)
    assert (found.rows[best[0]], found.columns[best[1]]) == divmod(int(np.argmax(scores)), 9)
    assert 0 < found.p_max <= 1
    shifted = scores.astype(np.float64) - scores.max()
    assert found.p_max == pytest.approx(1 / np.exp(shifted).sum(), rel=1e-5)


@pytest.mark.parametrize("fraction", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.1, 2.0, 30.0])
def test_significance_keeps_the_smallest_set_above_the_fraction(fraction: float, spread: float) -> None:
    scores = (np.random.default_rng(4).standard_normal((30, 11)) * spread).astype(np.float32)
    found = largest_weights(scores.copy(), fraction)
    weights, total = found.weights, found.total
    exact = np.exp(scores.astype(np.float64) - scores.max())
    ordered = np.sort(exact.ravel())[::-1]
    n_kept = int(np.argmax(np.cumsum(ordered) > fraction * exact.sum())) + 1
    assert np.count_nonzero(weights) == n_kept
    assert found.top == scores.max()
    np.testing.assert_allclose(found.of_rows, weights.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.of_columns, weights.sum(axis=0), rtol=1e-5)
    assert total == pytest.approx(exact.sum(), rel=1e-6)
    kept = np.zeros(scores.shape, dtype=bool)
    kept[np.ix_(found.rows, found.columns)] = weights > 0
    np.testing.assert_allclose(weights[weights > 0], exact[kept], rtol=1e-6)
    assert exact[kept].min() >= exact[~kept].max(initial=0.0)
    assert weights.sum() > fraction * total


def test_the_number_of_kept_samples_can_be_limited() -> None:
    scores = np.random.default_rng(4).standard_normal((30, 11)).astype(np.float32)
    found = largest_weights(scores.copy(), 0.999, 7)
    largest = np.sort(scores.ravel())[-7:]
    assert np.count_nonzero(found.weights) == 7
    kept = scores[np.ix_(found.rows, found.columns)][found.weights > 0]
    np.testing.assert_array_equal(np.sort(kept), largest)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (300, 1), (2000, 60)])
@pytest.mark.parametrize("fraction", [0.6, 0.999, 1.0])
def test_equal_weights_are_kept_together(shape: tuple[int, int], fraction: float) -> None:
    found = largest_weights(np.full(shape, 3.0, np.float32), fraction)
    assert found.weights.shape == shape and np.all(found.weights == 1)
    np.testing.assert_array_equal(found.rows, np.arange(shape[0]))
    np.testing.assert_array_equal(found.columns, np.arange(shape[1]))
    assert found.total == shape[0] * shape[1]


def test_weights_far_below_the_largest_are_nothing() -> None:
    scores = np.array([[0.0, -29.9], [-30.1, -np.inf]], np.float32)
    found = largest_weights(scores, 1.0)
    np.testing.assert_allclose(found.weights, [[1.0, np.exp(-29.9)]], rtol=3e-6)
    assert found.rows.tolist() == [0] and found.columns.tolist() == [0, 1]
    assert found.total == pytest.approx(1.0, rel=1e-12)


def test_few_orientations_stand_for_an_image_that_fits_everywhere() -> None:
    scores = np.random.default_rng(7).standard_normal((200, 6)).astype(np.float32)
    options = {"winner_takes_all": False, "fraction": 0.95, "max_count": -1, "identity": (np.arange(200), 5)}
    everything, few = (expectation.significant(scores, most=most, **options) for most in (200, 40))
    assert not everything.log_factor.any() and everything.count == everything.pairs.sum()
    assert 32 <= len(few.rotations) == len(few.log_factor) <= 48 and np.all(np.diff(few.rotations) > 0)
    assert few.count == everything.count  # what is significant, not what is left of it
    kept = np.zeros(scores.shape, dtype=bool)
    kept[np.ix_(everything.rotations, everything.shifts)] = everything.pairs
    np.testing.assert_array_equal(few.pairs, kept[np.ix_(few.rotations, few.shifts)])
    assert few.pairs.any(axis=0).all()
    weights = kept * np.exp(scores.astype(np.float64))
    shares = weights[few.rotations].sum(axis=1) * np.exp(few.log_factor)
    assert shares.sum() == pytest.approx(weights.sum(), rel=0.1)
    np.testing.assert_allclose(shares[few.log_factor > 0], shares.min(), rtol=1e-5)
    other = expectation.significant(scores, most=40, **{**options, "identity": (np.arange(200), 6)})
    assert set(other.rotations) != set(few.rotations)


SHARES = {
    "alike": np.random.default_rng(10).uniform(0.5, 1.5, 300),
    "uneven": np.random.default_rng(11).exponential(size=300) ** 4,
    "one dominates": np.append(1e6, np.random.default_rng(12).uniform(0.5, 1.5, 299)),
    "almost all": np.random.default_rng(13).exponential(size=25),
}


@pytest.mark.parametrize("most", [1, 2, 24])
@pytest.mark.parametrize("kind", SHARES)
def test_what_is_drawn_has_chances_in_proportion_to_its_share(kind: str, most: int) -> None:
    share = SHARES[kind]
    # In plain words: as long as the largest is due more than one of the places, it gets one, and leaves the rest.
    rest = list(np.argsort(-share))
    while len(rest) + most > len(share) and share[rest[0]] * (most - len(share) + len(rest)) > share[rest].sum():
        rest.pop(0)
    n_place = most - (len(share) - len(rest))
    expected = np.ones(len(share))
    expected[rest] = share[rest] * n_place / share[rest].sum()
    assert expected.sum() == pytest.approx(most)
    chosen, chance = drawn(share, most, 0.999 * expected)
    np.testing.assert_array_equal(chosen, np.arange(len(share)))
    np.testing.assert_allclose(chance, expected, rtol=1e-9)
    lots = 1.001 * expected
    lots[::2] = 0.0
    lots[expected == 1] = 0.5
    chosen, _ = drawn(share, most, lots)
    assert set(chosen) == set(np.flatnonzero(expected == 1)) | set(range(0, len(share), 2))
    few, _ = drawn(share, most, np.ones(len(share)))
    np.testing.assert_array_equal(few, [share.argmax()])


@pytest.mark.parametrize("most", [4, 24, 128])
@pytest.mark.parametrize("kind", ["alike", "uneven", "one dominates"])
def test_sums_over_what_is_drawn_are_unbiased(kind: str, most: int) -> None:
    share, rng = SHARES[kind], np.random.default_rng(14)
    values = share * rng.uniform(0.2, 1.8, len(share)) * (1 + (share > np.median(share)))
    sums, counts = [], []
    for particle in range(3000):
        chosen, chance = drawn(share, most, lots_of(1000 + np.arange(len(share)), particle))
        sums.append((values[chosen] / chance).sum())
        counts.append(len(chosen))
    error = np.std(sums) / np.sqrt(len(sums))
    assert np.mean(sums) == pytest.approx(values.sum(), abs=4 * error)
    assert np.mean(counts) == pytest.approx(most, rel=0.01)
    assert max(counts) <= most + 14 and min(counts) >= most - 14  # lots of neighbours are spread evenly


def test_last_digits_do_not_change_what_is_drawn() -> None:
    share, lots = SHARES["uneven"], lots_of(np.arange(300), 3)
    rng = np.random.default_rng(15)
    first, _ = drawn(share, 64, lots)
    for _ in range(50):
        other, _ = drawn(share * (1 + 1e-6 * rng.standard_normal(300)), 64, lots)
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("n", [1, 5])
def test_all_are_drawn_where_there_are_not_too_many(n: int) -> None:
    chosen, chance = drawn(np.arange(1.0, n + 1), 5, np.ones(n))
    np.testing.assert_array_equal(chosen, np.arange(n))
    np.testing.assert_array_equal(chance, np.ones(n))


def test_lots_lie_evenly() -> None:
    lots = np.sort(lots_of(np.arange(500, 800), 12345))
    assert lots[0] >= 0 and lots[-1] < 1
    np.testing.assert_allclose(lots, (np.arange(300) + 0.5) / 300, atol=4 / 300)


def test_children_take_the_priors_of_their_parents() -> None:
    rng = np.random.default_rng(8)
    scores = rng.standard_normal((3 * 8, 4 * 4)).astype(np.float32)
    log_rotation, log_shift = (rng.standard_normal(n).astype(np.float32) for n in (3, 4))
    pairs = rng.random((3, 4)) < 0.6
    found = expectation.with_parents_priors(scores.copy(), log_rotation, log_shift, pairs)
    for o in range(24):
        for t in range(16):
            prior = log_rotation[o // 8] + log_shift[t // 4] if pairs[o // 8, t // 4] else -np.inf
            assert found[o, t] == pytest.approx(scores[o, t] + prior, abs=1e-6)


def test_rows_of_a_table_score_as_their_slices_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expectation, "_CACHE_BYTES", 1000)
    monkeypatch.setattr(expectation, "_LEAST_ROWS", 7)
    rng = np.random.default_rng(9)
    samples = fourier_samples(16, 12, 12)
    n = samples.n_sample
    table = (rng.standard_normal((60, n)) + 1j * rng.standard_normal((60, n))).astype(np.complex64)
    image = (rng.standard_normal(n) + 1j * rng.standard_normal(n)).astype(np.complex64)
    contrast, weight = (rng.random(n).astype(np.float32) for _ in range(2))
    trials = shift_basis(samples, rng.uniform(-2, 2, (30, 2)), slice(0, n)).of(image)
    rows = np.sort(rng.choice(60, 40, replace=False))
    expected = expectation.log_likelihoods(table[rows], trials, contrast, weight)
    found = expectation.log_likelihoods_of_rows(table, rows, trials, contrast, weight)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_the_winner_takes_all() -> None:
    scores = np.random.default_rng(5).standard_normal((6, 5)).astype(np.float32)
    found = expectation.posterior(scores.copy(), winner_takes_all=True, fraction=0.999)
    assert found.weights.tolist() == [[1.0]]
    assert (found.rows[0], found.columns[0]) == divmod(int(scores.argmax()), 5)
    assert found.log_evidence == scores.max()
    assert found.p_max == 1.0


def test_dropped_weights_still_count_in_the_divisor() -> None:
    scores = np.log(np.array([[8.0, 1.0], [0.9, 0.1]], dtype=np.float32))
    found = expectation.posterior(scores, winner_takes_all=False, fraction=0.85)
    np.testing.assert_allclose(found.weights.ravel(), [0.8, 0.1], rtol=1e-5)
    assert found.p_max == pytest.approx(0.8, rel=1e-5)


def test_the_oracle_turns_as_the_geometry_does() -> None:
    euler = np.array([[10.0, 50.0, -70.0], [-120.0, 170.0, 33.0]])
    for one in euler:
        np.testing.assert_allclose(imaging.rotation(one), euler_to_matrix(one), atol=1e-12)
