"""What must not matter in the search of volumes and tilt stacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracles import half_sets, imaging, tomo_sets
from oracles.half_sets import Case, Found

from napari_autorefine.engine import setup as setups
from napari_autorefine.engine import shifts
from napari_autorefine.engine.problem import TomogramData
from napari_autorefine.engine.reconstruction import complete_hermitian
from napari_autorefine.model.geometry import angular_distance_deg, euler_to_matrix, matrix_to_euler
from napari_autorefine.model.particles import Particles, SubtomogramRows
from napari_autorefine.model.tomography import Tomogram

VOLUMES = Case(form="volume", is_premultiplied=True, n_particle=4)
STACKS = Case(form="tilt_stack", is_premultiplied=True, n_particle=4)
FORMS = {"volumes": VOLUMES, "stacks": STACKS}
SEARCHES = {
    "global": {},
    "screened": {"is_local": True, "screen_size": 4},
    "correlation": {"is_cc": True},
    "noise behind the mask": {"zero_mask": False},
}


def assert_same_sums(found: Found, expected: Found, rtol: float = 1e-4) -> None:
    """Everything summed over particles agrees."""
    for name in ("noise", "count", "weight", "scale_cross", "scale_power", "direction", "offset_square", "p_max"):
        own, other = getattr(found.statistics, name), getattr(expected.statistics, name)
        np.testing.assert_allclose(own, other, rtol=rtol, atol=rtol * np.max(np.abs(other)), err_msg=name)
    volumes = [one.accumulators.copy() for one in (found, expected)]
    for volume in volumes:
        complete_hermitian(volume)  # which of two mates a sample is added to is left to rounding
    for name in ("data", "weight"):
        own, other = (getattr(volume, name) for volume in volumes)
        np.testing.assert_allclose(own, other, atol=rtol * np.abs(other).max(), err_msg=name)
    assert found.accumulators.dc_data == pytest.approx(expected.accumulators.dc_data, rel=rtol)
    assert found.accumulators.dc_weight == pytest.approx(expected.accumulators.dc_weight, rel=rtol)


def assert_same(found: Found, expected: Found, rtol: float = 1e-4) -> None:
    """Sums and poses agree."""
    assert_same_sums(found, expected, rtol)
    members = expected.members
    for name in ("p_max", "log_likelihood"):
        own, other = getattr(found.poses, name)[members], getattr(expected.poses, name)[members]
        np.testing.assert_allclose(own, other, rtol=rtol, err_msg=name)
    # Poses are means over the posterior.
    np.testing.assert_allclose(found.poses.origin_A, expected.poses.origin_A, atol=5 * rtol)
    error_deg = angular_distance_deg(found.poses.euler_deg, expected.poses.euler_deg, np.eye(3)[None])
    assert error_deg.max() < 50 * rtol


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("form", FORMS)
def test_threads_change_no_bit(form: str, search: str) -> None:
    case = replace(FORMS[form], n_particle=8, **SEARCHES[search])
    first, second = half_sets.run(case), half_sets.run(replace(case, threads=3))
    np.testing.assert_array_equal(first.accumulators.data, second.accumulators.data)
    np.testing.assert_array_equal(first.accumulators.weight, second.accumulators.weight)
    np.testing.assert_array_equal(first.statistics.noise, second.statistics.noise)
    for name in ("euler_deg", "origin_A", "p_max", "log_likelihood", "n_significant"):
        np.testing.assert_array_equal(getattr(first.poses, name), getattr(second.poses, name), err_msg=name)
    assert np.isfinite(first.accumulators.data).all() and (first.poses.p_max[first.members] > 0).all()


@pytest.mark.parametrize("search", ["global", "screened"])
@pytest.mark.parametrize("form", FORMS)
def test_neither_memory_nor_blocks_change_results(form: str, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(FORMS[form], n_particle=8, offset_step_A=3.0, **SEARCHES[search])
    expected = half_sets.run(case)
    assert_same(half_sets.run(replace(case, memory_bytes=1)), expected)
    monkeypatch.setattr(setups, "_BLOCK_SIZE", 1)
    assert_same(half_sets.run(case), expected)
    monkeypatch.setattr(setups, "_BLOCK_SIZE", 16)
    monkeypatch.setattr(setups, "_BLOCK_PIXELS", 2 * 20**3)
    assert_same(half_sets.run(case), expected)
    monkeypatch.setattr(shifts, "_KEPT_BYTES", 0)
    assert_same(half_sets.run(case), expected, rtol=0.02)


def test_noise_behind_the_mask_is_another_one_for_every_particle_and_tilt() -> None:
    for case in FORMS.values():
        plain, noisy = half_sets.run(case), half_sets.run(replace(case, zero_mask=False))
        assert not np.array_equal(plain.statistics.noise, noisy.statistics.noise)
        # Its power is that of the noise model: what lies beyond the disc is of that order.
        ratio = noisy.statistics.noise[:, 1:] / np.maximum(plain.statistics.noise[:, 1:], 1e-12)
        assert 0.1 < np.median(ratio[ratio > 0]) < 10


def as_stacks_of_one(particles: Particles) -> tuple[Particles, TomogramData]:
    """Single particles as stacks of one untilted image, each of a tilt series of its own."""
    tomograms = {}
    for i in range(len(particles)):
        tomograms[f"t{i}"] = Tomogram(
            name=f"t{i}",
            pixel_size_A=1.0,
            projection=np.eye(4)[None],
            dose_e_A2=np.zeros(1),
            defocus_A=particles.defocus_A[[i]],
            defocus_angle_deg=particles.defocus_angle_deg[[i]],
            phase_shift_deg=particles.phase_shift_deg[[i]],
            ctf_bfactor_A2=particles.ctf_bfactor_A2[[i]],
            ctf_scale=particles.ctf_scale[[i]],
            bfactor_per_dose_A2=np.zeros(1),
        )
    n = len(particles)
    height = np.column_stack([particles.origin_A, np.zeros(n)])
    rows = SubtomogramRows(
        is_tilt_stack=True,
        tomogram_name=np.array(list(tomograms), dtype=object),
        rotation_deg=np.zeros((n, 3)),
        coordinate=np.zeros((n, 3)),
    )
    data = TomogramData(tomograms=tomograms, tilts=[np.zeros(1, int)] * n)
    return replace(particles, origin_A=height, subtomograms=rows), data


@pytest.mark.parametrize("is_premultiplied", [False, True])
@pytest.mark.parametrize("search", [{}, {"is_local": True, "screen_size": 4}, {"is_cc": True}])
def test_a_stack_of_one_untilted_image_is_that_image(search: dict[str, bool], is_premultiplied: bool) -> None:
    case = Case(is_premultiplied=is_premultiplied, has_norm=False, **search)
    single = half_sets.run(case)
    particles, data = as_stacks_of_one(single.setup.problem.particles)
    images = [image[None] for image in single.images]
    case = replace(case, form="tilt_stack", is_flat=True)
    stacks = half_sets.run(case, (half_sets.problem_of(particles, images, data), images))
    members = single.members
    # Neighbors of the best sample, which poses are means over, are not quite the same.
    error_deg = angular_distance_deg(stacks.poses.euler_deg, single.poses.euler_deg, np.eye(3)[None])
    assert error_deg.max() < (1e-4 if case.is_cc else 1.5)
    np.testing.assert_allclose(stacks.poses.origin_A[members, :2], single.poses.origin_A[members], atol=0.3)
    assert_same_sums(
        stacks, replace(single, statistics=replace(single.statistics, offset_square=stacks.statistics.offset_square,
                                                   p_max=stacks.statistics.p_max))
    )  # fmt: skip
    if not case.is_cc:
        # Every offset is there at two heights, which the image cannot tell apart.
        np.testing.assert_allclose(2 * stacks.poses.p_max[members], single.poses.p_max[members], rtol=1e-3)
        likelihood = single.poses.log_likelihood[members] + np.log(2)
        np.testing.assert_allclose(stacks.poses.log_likelihood[members], likelihood, rtol=1e-4)


HALF_TURN = np.diag([-1.0, -1.0, 1.0])  # about z: of the grid of orientations, and of unperturbed offsets


def turned_poses(particles: Particles) -> Particles:
    """Particles whose frames are turned by half a turn, with poses, offsets and priors to match."""
    prior = particles.origin_prior_A
    return replace(
        particles,
        euler_deg=matrix_to_euler(HALF_TURN @ euler_to_matrix(particles.euler_deg)),
        origin_A=particles.origin_A @ HALF_TURN.T,
        origin_prior_A=None if prior is None else prior @ HALF_TURN.T,
    )


def assert_turned(turned: Found, plain: Found) -> None:
    """The same posterior, of poses that are turned."""
    members = plain.members
    np.testing.assert_allclose(turned.poses.p_max, plain.poses.p_max, rtol=1e-3)
    np.testing.assert_allclose(turned.poses.log_likelihood, plain.poses.log_likelihood, rtol=1e-4)
    assert_same_sums(turned, plain, rtol=5e-4)
    expected = HALF_TURN @ euler_to_matrix(plain.poses.euler_deg[members])
    np.testing.assert_allclose(euler_to_matrix(turned.poses.euler_deg[members]), expected, atol=1e-3)
    np.testing.assert_allclose(turned.poses.origin_A[members], plain.poses.origin_A[members] @ HALF_TURN, atol=1e-3)


@pytest.mark.parametrize("is_local", [False, True])
def test_the_frame_of_a_tilt_stack_is_a_convention(is_local: bool) -> None:
    case = replace(STACKS, perturbation=0.0, has_prior=True, is_local=is_local)
    plain = half_sets.run(case)
    problem = plain.setup.problem
    particles = turned_poses(problem.particles)
    rows = particles.subtomograms
    assert rows is not None
    frames = matrix_to_euler(euler_to_matrix(rows.rotation_deg) @ HALF_TURN.T)
    particles = replace(particles, subtomograms=replace(rows, rotation_deg=frames))
    other = half_sets.problem_of(particles, plain.images, problem.tomogram_data)
    assert_turned(half_sets.run(case, (other, plain.images)), plain)


@pytest.mark.parametrize("is_local", [False, True])
def test_turning_a_volume_and_its_weights_turns_its_pose(is_local: bool) -> None:
    case = replace(VOLUMES, perturbation=0.0, has_prior=True, is_local=is_local, is_odd=True)
    plain = half_sets.run(case)
    problem = plain.setup.problem
    assert problem.tomogram_data is not None and problem.tomogram_data.read_weights is not None
    read = problem.tomogram_data.read_weights

    def turned_weights(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(_turned_half(values) for values in read(index))  # type: ignore[return-value]

    images = [np.ascontiguousarray(image[:, ::-1, ::-1]) for image in plain.images]
    data = replace(problem.tomogram_data, read_weights=turned_weights)
    other = half_sets.problem_of(turned_poses(problem.particles), images, data)
    assert_turned(half_sets.run(case, (other, images)), plain)


def _turned_half(values: np.ndarray) -> np.ndarray:
    """Even weights (n, N, N, N // 2 + 1) turned by half a turn about z: that at (x, y, z) is from (x, y, -z)."""
    return values[:, -np.arange(values.shape[1]) % values.shape[1]]


def test_volumes_divided_by_their_multiplicity_are_those_that_are_not() -> None:
    # As long as nothing is moved and no background masked, which is done before.
    found = []
    for is_normalised in (False, True):
        files = tomo_sets.Files(is_normalised=is_normalised, has_holes=False)
        case = replace(VOLUMES, files=files, diameter_A=400.0)
        problem, images = half_sets.tiny_problem(case)
        centered = replace(problem.particles, origin_A=np.zeros((len(images), 3)))
        found.append(half_sets.run(case, (replace(problem, particles=centered), images)))
    assert_same(*found, 1e-3)


def test_volumes_of_ctfs_are_those_of_their_squares() -> None:
    plain = half_sets.run(VOLUMES)
    assert_same(half_sets.run(replace(VOLUMES, files=tomo_sets.Files(holds_ctf=True))), plain, 1e-3)


def test_weights_of_one_are_no_weights() -> None:
    case = Case(form="volume", n_particle=4, files=tomo_sets.Files(has_weights=False))
    plain = half_sets.run(case)
    problem = plain.setup.problem
    assert problem.tomogram_data is not None

    def ones(index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        size = problem.particles.optics[problem.particles.optics_index[index[0]]].box_size
        values = np.ones((len(index), size, size, size // 2 + 1), np.float32)
        return values, values.copy()

    for read in (ones, lambda index: (ones(index)[0], None)):
        data = replace(problem.tomogram_data, read_weights=read)
        other = half_sets.problem_of(problem.particles, plain.images, data)
        assert_same(half_sets.run(case, (other, plain.images)), plain)


def test_a_tilt_that_sees_nothing_changes_nothing_but_the_count() -> None:
    # Its squared CTF is 0: it says nothing on the pose, and nothing of it goes into the map.
    case = replace(STACKS, n_particle=8)
    plain = half_sets.run(case)
    problem = plain.setup.problem
    data = problem.tomogram_data
    assert data is not None
    blind = {}
    for name, tomogram in data.tomograms.items():
        scale = np.append(tomogram.ctf_scale, 0.0)
        more = {
            key: np.concatenate([getattr(tomogram, key), getattr(tomogram, key)[:1]])
            for key in ("projection", "dose_e_A2", "defocus_A", "defocus_angle_deg", "phase_shift_deg",
                        "ctf_bfactor_A2", "bfactor_per_dose_A2")
        }  # fmt: skip
        blind[name] = replace(tomogram, ctf_scale=scale, **more)
    rows = problem.particles.subtomograms
    assert rows is not None
    last = [blind[name].n_tilt - 1 for name in rows.tomogram_name]
    tilts = [np.append(own, end) for own, end in zip(data.tilts, last, strict=True)]
    images = [np.concatenate([stack, 0 * stack[:1]]) for stack in plain.images]
    other = half_sets.problem_of(problem.particles, images, replace(data, tomograms=blind, tilts=tilts))
    found = half_sets.run(case, (other, images))
    np.testing.assert_allclose(found.poses.p_max, plain.poses.p_max, rtol=1e-4)
    np.testing.assert_allclose(found.poses.origin_A, plain.poses.origin_A, atol=1e-3)
    premultiplied = 1
    np.testing.assert_allclose(found.statistics.count[premultiplied], plain.statistics.count[premultiplied], rtol=1e-5)
    assert (found.statistics.count[0] >= plain.statistics.count[0]).all()
    np.testing.assert_allclose(found.statistics.noise, plain.statistics.noise, rtol=1e-4)
    largest = np.abs(plain.accumulators.data).max()
    np.testing.assert_allclose(found.accumulators.data, plain.accumulators.data, atol=1e-4 * largest)


def test_the_order_of_tilts_does_not_matter() -> None:
    plain = half_sets.run(STACKS)
    problem = plain.setup.problem
    assert problem.tomogram_data is not None
    images = [np.ascontiguousarray(stack[::-1]) for stack in plain.images]
    data = replace(problem.tomogram_data, tilts=[tilts[::-1] for tilts in problem.tomogram_data.tilts])
    other = half_sets.problem_of(problem.particles, images, data)
    assert_same(half_sets.run(STACKS, (other, images)), plain)


def test_the_oracle_of_tilts_turns_as_the_tomogram_says() -> None:
    found = half_sets.run(STACKS)
    assert found.setup.tilts is not None
    for i in range(4):
        seen = found.setup.tilts.views(i)
        rows = found.setup.problem.particles.subtomograms
        assert rows is not None
        tomogram = tomo_sets.tomograms()[rows.tomogram_name[i]]
        assert len(seen) == len(found.images[i]) <= tomogram.n_tilt
        np.testing.assert_allclose(seen @ np.swapaxes(seen, 1, 2), np.broadcast_to(np.eye(3), seen.shape), atol=1e-9)
        first = tomogram.projection[found.setup.tilts.tilts[i][0], :3, :3] @ imaging.rotation(rows.rotation_deg[i])
        np.testing.assert_allclose(seen[0], first, atol=1e-12)
