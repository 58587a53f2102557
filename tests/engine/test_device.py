"""The search on a GPU: on a stand-in for CuPy that runs the CUDA sources as C++, and on a GPU where there is one."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from oracles import cupy_stand_in, half_sets, phantoms
from oracles.agreement import assert_same
from oracles.cuda_on_host import COMPILER
from oracles.half_sets import Case, Found
from oracles.tomo_sets import Files

from napari_autorefine import xp
from napari_autorefine.engine import device as device_module
from napari_autorefine.engine import device_team, images, resident_images, slices
from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.device_images import Fetched
from napari_autorefine.engine.device_sums import DeviceSums, Weighted
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.resident_images import ResidentImages
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.events import Message, Progress
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.xp import gpu_count

Machine = cupy_stand_in.Machine


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_on_host")


@pytest.fixture
def machine(builds: Path) -> Iterator[Machine]:
    """Two stand-in devices."""
    if COMPILER is None:
        pytest.skip("no C++ compiler to run the CUDA sources on the host")
    with cupy_stand_in.installed(builds, n_device=2) as found:
        yield found


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest) -> None:
    """CuPy, or what stands in for it."""
    if request.param == "stand-in":
        request.getfixturevalue("machine")
    elif gpu_count() == 0:
        pytest.skip("no CUDA device, or CuPy is not installed")


@lru_cache(maxsize=32)
def on_host(case: Case) -> Found:
    return half_sets.run(case)


VOLUMES = Case(form="volume", is_premultiplied=True, n_particle=4, fraction=0.999)
STACKS = Case(form="tilt_stack", is_premultiplied=True, n_particle=4, fraction=0.999)
CASES = {
    "global": Case(),
    "local": Case(is_local=True, screen_size=6),
    "correlation": Case(is_cc=True),
    "premultiplied, aberrated": Case(is_premultiplied=True, is_aberrated=True),
    "no CTF, no norm": Case(is_plain=True),
    "local, priors": Case(is_local=True, has_prior=True),
    "tilt prior": Case(sigma_tilt_deg=20.0),
    "volumes": replace(VOLUMES, has_prior=True),
    "volumes, local": replace(VOLUMES, is_local=True, screen_size=4, offset_step_A=3.0),
    "volumes, correlation": replace(VOLUMES, is_cc=True),
    "volumes, parents first": replace(VOLUMES, healpix_order=1, screen_size=4, image_gain=10.0),
    "volumes, normalised": replace(VOLUMES, files=Files(is_normalised=True), zero_mask=False),
    "volumes without multiplicity": replace(VOLUMES, files=Files(has_multiplicity=False)),
    "volumes, multiplicity ignored": replace(VOLUMES, files=Files(ignores_multiplicity=True, holds_ctf=True)),
    "volumes without weights": replace(VOLUMES, is_plain=True, files=Files(has_weights=False)),
    "stacks": replace(STACKS, has_prior=True),
    "stacks, local": replace(STACKS, is_local=True, screen_size=4, offset_step_A=3.0),
    "stacks, global, screened": replace(STACKS, screen_size=4, zero_mask=False),
    "stacks, correlation": replace(STACKS, is_cc=True),
    "stacks, tilt prior": replace(STACKS, sigma_tilt_deg=20.0),
    "stacks, no CTF": replace(STACKS, is_plain=True),
}


@pytest.mark.parametrize("name", CASES)
def test_a_half_set_searched_on_a_device_is_that_of_the_host(gpu: None, name: str) -> None:
    case = CASES[name]
    assert_same(half_sets.run(replace(case, devices=(0,))), on_host(case))


@pytest.mark.parametrize("name", ["global", "local"])
def test_with_little_room_particles_are_searched_in_small_groups(
    machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    add_group = DeviceSums.add_group

    def watched(self: DeviceSums, group: int, entry: Weighted) -> None:
        groups.append(len(entry.sample_weight))
        add_group(self, group, entry)

    monkeypatch.setattr(DeviceSums, "add_group", watched)
    case = CASES[name]
    assert_same(half_sets.run(replace(case, devices=(0,))), on_host(case))
    together = max(groups)
    groups.clear()
    monkeypatch.setattr(device_module, "_ROOM_SHARE", 1e-9)
    assert_same(half_sets.run(replace(case, devices=(0,))), on_host(case))
    assert together > 1 and set(groups) == {1}


def test_a_fine_global_search_compares_parents_first_on_a_device_too(gpu: None) -> None:
    data = phantoms.simulate(phantoms.ASYMMETRIC, 8, snr=4.0, box_size=40, pixel_size_A=2.5)
    options = RefineOptions(
        particle_diameter_A=72.0, ini_high_A=8.0, healpix_order=3, auto_local_healpix_order=5, offset_range_px=2.0,
        offset_step_px=1.0, mask_edge_px=3.0, max_iterations=1, firstiter_cc=False, low_resol_join_halves_A=-1.0,
    )  # fmt: skip
    found, expected = (
        [e for e in refine(data.problem, replace(options, devices=devices)) if isinstance(e, RefinementState)][-1]
        for devices in ((0,), ())
    )
    assert_same_state(found, expected)


@pytest.mark.parametrize("name", ["global", "volumes, parents first"])
def test_scores_in_tf32_find_the_same_poses_to_its_precision(
    machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    products: list[bool] = []
    multiply = xp.product

    def watched(a: object, b: object, *, fast: bool = False) -> object:
        products.append(fast)
        return multiply(a, b, fast=fast)

    monkeypatch.setattr(slices, "product", watched)
    case = replace(CASES[name], fraction=0.999)
    found, expected = (half_sets.run(replace(case, devices=(0,), tf32=tf32)) for tf32 in (True, False))
    assert any(products) and not machine.is_tf32
    turns = [euler_to_matrix(one.poses.euler_deg) for one in (found, expected)]
    np.testing.assert_allclose(*turns, atol=0.01)
    assert not [event for event in found.events if isinstance(event, Message) and "TF32" in event.text]


def test_fast_products_round_their_factors_and_nothing_else_does(machine: Machine) -> None:
    a, b = (np.random.default_rng(i).standard_normal((40, 40)).astype(np.float32) for i in range(2))
    there = [cupy_stand_in.CUPY.asarray(one) for one in (a, b)]
    error = np.abs(xp.product(*there, fast=True).get() - a @ b).max()
    assert 1e-4 < error < 5e-2
    np.testing.assert_array_equal(xp.product(*there).get(), a @ b)
    np.testing.assert_array_equal(xp.product(a, b, fast=True), a @ b)


def test_tf32_that_would_lose_poses_is_not_used(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "ranking_of_batch", lambda _: (0.9, 1.0))
    found = half_sets.run(Case(devices=(0,), tf32=True))
    assert_same(found, on_host(Case()))
    assert any(isinstance(event, Message) and "only 90.0% of the weight" in event.text for event in found.events)


@pytest.mark.parametrize("is_local", [False, True])
def test_two_devices_share_the_blocks(machine: Machine, is_local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serving_devices(monkeypatch)
    monkeypatch.setattr(device_team, "LARGEST_BATCH", 1)
    case = Case(is_local=is_local, n_particle=16)
    assert_same(half_sets.run(replace(case, devices=(0, 1))), on_host(case))
    assert len(served) == 8 and set(served) == {0, 1}


def test_blocks_that_are_read_faster_than_the_first_do_not_keep_it_waiting(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_team, "LARGEST_BATCH", 1)
    counts: list[int] = []
    problem, others = reading(counts), threading.Event()
    read, first = problem.read_images, threading.Lock()

    def unequal(index: np.ndarray) -> object:
        if len(index) == 1 and first.acquire(blocking=False):  # the first block waits for all that may be read by then
            assert others.wait(timeout=60)
            return read(index)
        found = read(index)
        if counts.count(1) == device_module.AHEAD - 1:
            others.set()
        return found

    options = replace(OPTIONS, devices=(0,), threads=8)
    states = [e for e in refine(replace(problem, read_images=unequal), options) if isinstance(e, RefinementState)]
    for found, expected in zip(states, refined_on_host()[0], strict=True):
        assert_same_state(found, expected)
    assert counts.count(1) == 16


@pytest.mark.parametrize("name", ["global", "local", "correlation"])
def test_the_size_of_blocks_changes_nothing(machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(CASES[name], n_particle=24)
    for size in (2, 5, device_module.LARGEST_BATCH):
        monkeypatch.setattr(device_team, "LARGEST_BATCH", size)
        assert_same(half_sets.run(replace(case, devices=(0,))), on_host(case))


@pytest.mark.parametrize("name", ["global", "local"])
def test_what_is_launched_does_not_grow_with_the_particles(machine: Machine, name: str) -> None:
    calls, waits = [], []
    for n in (16, 64):
        half_sets.run(replace(CASES[name], n_particle=16, devices=(0,)))  # tables that are kept
        machine.calls = machine.waits = 0
        half_sets.run(replace(CASES[name], n_particle=n, devices=(0,)))
        calls.append(machine.calls)
        waits.append(machine.waits)
    assert calls[1] < 1.1 * calls[0] < 1000  # two blocks, and what a half-set needs
    assert waits[1] <= waits[0] < 40


def serving_devices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Devices in the order of the blocks they begin; the first blocks of two devices wait for each other."""
    served: list[int] = []
    both = threading.Barrier(2)
    search = device_module.DeviceHalf.run

    def run(self: device_module.DeviceHalf, fetched: Fetched) -> BlockResult:
        if self.device not in served:
            both.wait(timeout=60)
        served.append(self.device)
        return search(self, fetched)

    monkeypatch.setattr(device_module.DeviceHalf, "run", run)
    return served


def test_the_kernels_ran_on_the_device_asked_for(machine: Machine) -> None:
    before = machine.used.get(0, 0)
    half_sets.run(Case(devices=(1,)))
    assert machine.launches > 15
    assert machine.used.get(0, 0) == before and machine.used[1] > 0


def test_a_device_is_left_empty(machine: Machine) -> None:
    for cache in (images._centre_signs, images._image_index, images._volume_index, images._image_outer_index,
                  images._volume_outer_index):  # fmt: skip
        cache.cache_clear()
    before, peak = peak_bytes(machine, Case(devices=(0,)))
    assert before - 4096 < machine.used[0] < before + 4096 < peak / 10  # small tables are kept for the next half-set


def peak_bytes(machine: Machine, case: Case) -> tuple[int, int]:
    """Memory in use before and at most during a search."""
    half_sets.run(case)
    before, machine.peak = machine.used[0], 0
    half_sets.run(case)
    return before, machine.peak


@pytest.mark.parametrize("is_local", [False, True])
def test_without_enough_memory_batches_are_halved(
    machine: Machine, is_local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "batch_size", lambda *_, **__: 4)
    monkeypatch.setattr(device_module, "free_device_memory", lambda _: 1 << 34)  # someone else takes it later
    monkeypatch.setattr(ResidentImages, "of", lambda *_: None)
    case = Case(is_local=is_local, n_particle=16)
    device_case = replace(case, devices=(0,))
    _, peak = peak_bytes(machine, device_case)
    machine.total = peak - 1024
    found = half_sets.run(device_case)
    assert machine.failures > 0
    assert_same(found, on_host(case))
    texts = [event.text for event in found.events if isinstance(event, Message)]
    assert any("ran out of memory: it gets 2 particles" in text for text in texts)
    assert not any("CPU" in text for text in texts)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("is_local", [False, True])
def test_a_run_never_ends_for_lack_of_device_memory(machine: Machine, is_local: bool, share: float) -> None:
    case = Case(is_local=is_local)
    device_case = replace(case, devices=(0,))
    before, peak = peak_bytes(machine, device_case)
    machine.total = int(before + share * (peak - before))
    found = half_sets.run(device_case)
    assert_same(found, on_host(case))
    told = any(isinstance(event, Message) and "GPU 0" in event.text for event in found.events)
    assert told or share > 0


def test_other_errors_on_a_device_end_the_run(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(device_module, "search_batch", broken)
    with pytest.raises(ValueError, match="no such thing"):
        half_sets.run(Case(devices=(0,)))


def test_a_batch_fits_into_the_memory_there_is() -> None:
    geometry = on_host(Case()).job.geometries[0]
    sizes = [device_module.batch_size(1 << n, geometry, n_rot=36864, n_trans=37) for n in range(10, 40)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] == device_module.LARGEST_BATCH
    assert 1 < device_module.batch_size(1 << 29, geometry, n_rot=36864, n_trans=37) < device_module.LARGEST_BATCH


@pytest.mark.parametrize("case", [VOLUMES, STACKS])
def test_a_batch_counts_volumes_and_tilts(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "LARGEST_BATCH", 1 << 20)
    image, own = on_host(Case()).job.geometries[0], on_host(case).job.geometries[0]
    n_image = 5 if case.form == "tilt_stack" else 1
    larger = 5 if case.form == "tilt_stack" else half_sets.BOX
    free = 1 << 24
    few = device_module.batch_size(free, own, n_rot=0, n_trans=7, n_image=n_image)
    assert 1 <= few <= device_module.batch_size(free, image, n_rot=0, n_trans=7) / larger * 1.1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("case", [VOLUMES, STACKS])
def test_a_run_of_subtomograms_never_ends_for_lack_of_device_memory(machine: Machine, case: Case, share: float) -> None:
    device_case = replace(case, devices=(0,))
    before, peak = peak_bytes(machine, device_case)
    machine.total = int(before + share * (peak - before))
    assert_same(half_sets.run(device_case), on_host(case))


def images_of_two_groups() -> RefinementProblem:
    case = Case(n_particle=16)
    particles = half_sets.tiny_particles(case, case.n_particle)
    images = half_sets.tiny_images(particles, 1.0)
    return RefinementProblem(
        particles=particles,
        read_images=lambda index: np.stack([images[i] for i in index]),
        reference=phantoms.ASYMMETRIC.map(half_sets.BOX, half_sets.VOXEL_A),
        voxel_size_A=half_sets.VOXEL_A,
    )


OPTIONS = RefineOptions(
    symmetry="D2", particle_diameter_A=half_sets.DIAMETER_A, ini_high_A=25.0, healpix_order=0, offset_range_px=2.0,
    offset_step_px=1.0, mask_edge_px=3.0, low_resol_join_halves_A=-1.0, zero_mask=False, max_iterations=2,
)  # fmt: skip


def iterations(options: RefineOptions, resume: RefinementState | None = None) -> list[RefinementState]:
    events = refine(images_of_two_groups(), options, resume)
    return [event for event in events if isinstance(event, RefinementState)]


@lru_cache(maxsize=2)
def refined_on_host() -> tuple[list[RefinementState], RefinementState]:
    """States of two global iterations, and the one after a local iteration from there."""
    states = iterations(OPTIONS)
    return states, iterations(replace(OPTIONS, max_iterations=3), local_start(states[-1]))[-1]


def local_start(state: RefinementState) -> RefinementState:
    sampling = replace(state.sampling, is_local=True, sigma_angle_deg=20.0)
    return replace(state, sampling=sampling)


def assert_same_state(found: RefinementState, expected: RefinementState) -> None:
    for own, other in zip(*(euler_to_matrix(state.poses.euler_deg) for state in (found, expected)), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-4)
    np.testing.assert_allclose(found.poses.origin_A, expected.poses.origin_A, atol=1e-2)
    for half, other in zip(found.halves, expected.halves, strict=True):
        assert np.abs(half.map - other.map).max() < 1e-4 * other.map.std()
        assert half.accuracy_rot_deg == pytest.approx(other.accuracy_rot_deg, rel=0.02)
        assert half.accuracy_trans_A == pytest.approx(other.accuracy_trans_A, rel=0.02)


def test_iterations_on_a_device_are_those_of_the_host(gpu: None) -> None:
    states, local = refined_on_host()
    for found, expected in zip(iterations(replace(OPTIONS, devices=(0,))), states, strict=True):
        assert_same_state(found, expected)
    options = replace(OPTIONS, devices=(0,), max_iterations=3)
    assert_same_state(iterations(options, local_start(states[-1]))[-1], local)


def reading(counts: list[int]) -> RefinementProblem:
    """A refinement that counts the images it reads."""
    problem = images_of_two_groups()
    read = problem.read_images

    def counted(index: np.ndarray) -> np.ndarray:
        counts.append(len(index))
        found = read(index)
        assert isinstance(found, np.ndarray)
        return found

    return replace(problem, read_images=counted)


@pytest.mark.parametrize("is_kept", [True, False])
def test_images_are_sent_ahead_and_stay_where_they_fit(
    machine: Machine, is_kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_kept:
        monkeypatch.setattr(resident_images, "_KEPT_SHARE", 0.0)
    counts: list[int] = []
    events = refine(reading(counts), replace(OPTIONS, devices=(0,), max_iterations=2))
    found = [event for event in events if isinstance(event, RefinementState)]
    for own, expected in zip(found, refined_on_host()[0], strict=True):
        assert_same_state(own, expected)
    before = 16  # looked at for the noise before the first iteration
    assert sum(counts) == before + (16 if is_kept else 32)
    assert machine.sent == (4 if is_kept else 8)  # two optics groups in two half-sets


def test_after_a_run_no_images_stay(machine: Machine) -> None:
    iterations(replace(OPTIONS, devices=(0,)))
    before = machine.used[0]
    for _ in range(2):
        iterations(replace(OPTIONS, devices=(0,)))
    assert machine.used[0] == before


def test_images_that_stay_make_room_when_memory_runs_out(machine: Machine) -> None:
    iterations(replace(OPTIONS, devices=(0,)))
    problem, counts = None, []
    for event in refine(reading(counts), replace(OPTIONS, devices=(0,))):
        if isinstance(event, RefinementState) and event.iteration == 1:
            machine.total = machine.used[0] + 1000
        if isinstance(event, RefinementState) and event.iteration == 2:
            problem = event
    assert problem is not None and machine.failures > 0
    assert 48 <= sum(counts) <= 64  # read again in the second iteration
    assert_same_state(problem, refined_on_host()[0][-1])


def test_images_kept_on_a_gpu_do_not_travel_to_other_processes(machine: Machine) -> None:
    resident = ResidentImages()
    kept = resident.of(0, 0, np.zeros(4, np.int64), 8)
    assert kept is not None
    kept.put(np.array([2, 0]), np.stack([np.full((8, 8), n, np.float32) for n in (2, 0)]))
    np.testing.assert_array_equal(kept.take(np.array([0, 2])).get()[:, 0, 0], [0, 2])
    assert kept.has.tolist() == [True, False, True, False]
    assert not pickle.loads(pickle.dumps(resident)).drop(0)
    assert resident.drop(0) and not resident.drop(0)


def test_a_search_that_is_left_leaves_no_thread_behind(machine: Machine) -> None:
    before = threading.active_count()
    events = refine(images_of_two_groups(), replace(OPTIONS, devices=(0,), threads=4))
    for event in events:
        if isinstance(event, Progress) and event.stage == "expectation":
            break
    events.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_the_stand_in_refuses_what_cupy_refuses(machine: Machine) -> None:
    cupy, host = cupy_stand_in.CUPY, np.arange(3.0)
    there = cupy.asarray(host)
    for mixed in (
        lambda: there + host,
        lambda: host + there,
        lambda: np.add(host, there),
        lambda: np.asarray(there),
        lambda: np.ascontiguousarray(there),
        lambda: np.bincount(there),
        lambda: cupy.sqrt(host),
        lambda: there[np.array([0])],
        lambda: there.__setitem__(0, host),
    ):
        with pytest.raises(TypeError):
            mixed()
    with cupy_stand_in.Device(1), pytest.raises(ValueError, match="current = 1"):
        there + 1
    np.testing.assert_array_equal((np.float32(2) * there + 1).get(), 2 * host + 1)
