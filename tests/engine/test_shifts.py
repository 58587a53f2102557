"""Trial shifts as few functions, of images, volumes and tilt stacks, against the ramps themselves."""

from __future__ import annotations

import numpy as np
import pytest
from oracles import imaging, slices

from napari_autorefine.engine import shifts
from napari_autorefine.engine.grids import translations
from napari_autorefine.engine.samples import FourierSamples, fourier_samples

VIEWS = {
    "one untilted image": np.eye(3)[None],
    "one tilted image": imaging.rotation(np.array([20.0, 50.0, -80.0]))[None],
    "a tilt series": np.array([imaging.rotation(np.array([5.0, tilt, 80.0])) for tilt in range(-60, 61, 15)]),
}
PARTS = ("screen", "coarse", "ring", "all")


def trial_shifts(dim: int) -> np.ndarray:
    """A ball of shifts off its center, one of them at random."""
    found = translations(3.0, 0.75, dim) + 0.27 * 0.75
    found[7] = np.random.default_rng(dim).uniform(-2, 2, dim)
    return found


def part_of(samples: FourierSamples, name: str) -> slice:
    return {
        "screen": slice(samples.n_screen),
        "coarse": slice(samples.n_coarse),
        "ring": slice(samples.n_screen, samples.n_coarse),
        "all": slice(samples.n_sample),
    }[name]


def exact_ramps(samples: FourierSamples, shifts_px: np.ndarray, part: slice, views: np.ndarray | None) -> np.ndarray:
    """Ramps (n_shift, n_image * n_part) complex128."""
    index = np.stack([samples.x, samples.y, samples.z], axis=1)[part].astype(float)
    if views is None:
        return np.exp(-2j * np.pi / samples.box_size * (shifts_px @ index[:, : shifts_px.shape[1]].T))
    turns = [(shifts_px @ view[:2].T) @ index[:, :2].T for view in views]
    return np.exp(-2j * np.pi / samples.box_size * np.concatenate(turns, axis=1))


def assert_close(found: shifts.ShiftedImage, exact: np.ndarray) -> None:
    """Of the power at most twice the tolerance is lost, over all shifts; of single shifts no more than ten times."""
    made = found.samples
    if found.coefficients is not None:
        made = (found.coefficients @ shifts.as_real(made)).view(np.complex64)
    lost = np.abs(made - exact) ** 2 / np.mean(np.abs(exact) ** 2)
    assert lost.mean() < 2 * shifts.TOLERANCE
    assert lost.mean(axis=1).max() < 15 * shifts.TOLERANCE


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(("dim", "box_size"), [(2, 32), (2, 33), (3, 32), (3, 33)])
def test_functions_reproduce_the_ramps_of_images_and_volumes(dim: int, box_size: int, part: str) -> None:
    samples = fourier_samples(box_size, 20, 12, 8, dim=dim)
    chosen, trials = part_of(samples, part), trial_shifts(dim)
    basis = shifts.shift_basis(samples, trials, chosen)
    assert basis.functions is not None and len(basis.functions) < 0.8 * len(trials)
    image = slices.complex_noise(np.random.default_rng(1), len(samples.x[chosen]))
    exact = exact_ramps(samples, trials, chosen, None)
    assert_close(basis.of(image), image * exact)
    some = np.arange(3, len(trials), 2)
    assert_close(basis.of(image, some), image * exact[some])
    few = np.array([1, 7, 9])
    np.testing.assert_allclose(basis.of(image, few).samples, image * exact[few], atol=1e-5)  # ramps themselves


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("views", VIEWS)
def test_functions_reproduce_the_ramps_of_tilt_stacks(views: str, part: str) -> None:
    samples = fourier_samples(32, 20, 12, 8)
    chosen, trials = part_of(samples, part), trial_shifts(3)
    basis = shifts.tilt_basis(samples, trials, chosen)
    assert basis.coefficients is not None and basis.coefficients.shape[1] < 0.8 * len(trials)
    tilted = shifts.TiltedShifts(basis, VIEWS[views][:, :2])
    image = slices.complex_noise(np.random.default_rng(2), len(VIEWS[views]) * len(samples.x[chosen]))
    exact = exact_ramps(samples, trials, chosen, VIEWS[views])
    assert_close(tilted.of(image), image * exact)
    some = np.arange(2, len(trials), 2)
    assert_close(tilted.of(image, some), image * exact[some])
    few = np.array([0, 7, 30])
    np.testing.assert_allclose(tilted.of(image, few).samples, image * exact[few], atol=1e-5)


def test_few_shifts_are_left_as_they_are() -> None:
    trials = translations(2.0, 2.0, 3)
    for dim, make in ((3, shifts.shift_basis), (2, shifts.tilt_basis)):
        samples = fourier_samples(16, 14, 14, dim=dim)
        basis = make(samples, trials, slice(samples.n_sample))
        assert basis.coefficients is None and basis.functions is None


def test_one_shift_of_nothing_changes_nothing() -> None:
    for dim in (2, 3):
        samples = fourier_samples(16, 8, 8, dim=dim)
        basis = shifts.shift_basis(samples, np.zeros((1, dim)), slice(samples.n_sample))
        np.testing.assert_array_equal(basis.basis(np.zeros(1)), 1.0)


@pytest.mark.parametrize("kept", ["ramps", "functions", "nothing"])
def test_what_is_not_kept_is_made_again_and_is_the_same(kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, trials = fourier_samples(24, 14, 14, dim=3), trial_shifts(3)
    part = slice(2, samples.n_sample)
    whole = shifts.shift_basis(samples, trials, part)
    assert whole.ramps is not None and whole.functions is not None and whole.coefficients is not None
    n_sample, n_function = samples.n_sample - 2, len(whole.functions)
    budget = {"nothing": 0, "functions": 8 * n_sample * n_function, "ramps": 8 * n_sample * len(trials)}[kept]
    monkeypatch.setattr(shifts, "_KEPT_BYTES", budget)
    basis = shifts.shift_basis(samples, trials, part)
    assert (basis.ramps is None) == (kept != "ramps")
    assert (basis.functions is None) == (kept == "nothing")
    image = slices.complex_noise(np.random.default_rng(3), n_sample)
    np.testing.assert_array_equal(basis.ramps_of(None, image), whole.ramps)
    chosen = np.array([1, 5, 40])
    np.testing.assert_array_equal(basis.ramps_of(chosen, image), whole.ramps[chosen])
    exact = exact_ramps(samples, trials, part, None)
    assert_close(basis.of(image), image * exact)
    np.testing.assert_array_equal(basis.basis(image), whole.ramps if kept == "nothing" else whole.functions)


def test_functions_are_the_same_made_a_few_shifts_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, trials = fourier_samples(24, 14, 14, dim=3), trial_shifts(3)
    whole = shifts.shift_basis(samples, trials, slice(samples.n_sample))
    monkeypatch.setattr(shifts, "_CHUNK_BYTES", 5 * 8 * samples.n_sample)
    parts = shifts.shift_basis(samples, trials, slice(samples.n_sample))
    np.testing.assert_allclose(parts.functions, whole.functions, atol=1e-5 * np.abs(whole.functions).max())


def test_products_with_functions_are_those_with_shifted_images() -> None:
    rng, trials = np.random.default_rng(4), trial_shifts(3)
    samples = fourier_samples(24, 14, 14, dim=3)
    part = slice(samples.n_sample)
    basis = shifts.shift_basis(samples, trials, part)
    image, own = slices.complex_noise(rng, samples.n_sample), slices.complex_noise(rng, 5, samples.n_sample)
    gain, weights = rng.uniform(size=samples.n_sample).astype(np.float32), rng.uniform(size=(5, len(trials)))
    found, shifted = basis.of(image), image * exact_ramps(samples, trials, part, None)
    assert found.coefficients is not None
    bound = 2e-3 * np.sqrt(samples.n_sample)
    np.testing.assert_allclose(found.scores(own, gain), (own.conj() @ (gain * shifted).T).real, atol=10 * bound)
    averaged = found.averaged(weights.astype(np.float32))
    np.testing.assert_allclose(averaged, weights @ shifted, atol=10 * bound)
    correlation = np.einsum("ot,ok,tk->k", weights, own.conj(), shifted).real
    np.testing.assert_allclose(found.correlation(own, weights.astype(np.float32)), correlation, atol=30 * bound)
    only = np.array([3, 4, 77])
    np.testing.assert_allclose(
        found.only(only).scores(own, gain), (own.conj() @ (gain * shifted[only]).T).real, atol=10 * bound
    )
