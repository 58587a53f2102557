"""Parts of a crew that need no other process: chunks, devices, sessions, cached images, sums."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ParticleSet
from oracles import cupy_stand_in, half_sets, phantoms
from oracles.cuda_on_host import COMPILER
from oracles.half_sets import Case

from napari_autorefine.cluster.cache import ImageCache, WeightCache
from napari_autorefine.cluster.half_work import HalfWork, chunk_size
from napari_autorefine.cluster.members import Member, contract_of, devices_of, differences, greeter, misfit
from napari_autorefine.cluster.wire import Chunk, Contract, Greeting, SessionLost, Step, added, lean_setup
from napari_autorefine.cluster.worker import Session
from napari_autorefine.engine import half_job
from napari_autorefine.engine.half_search import work_order
from napari_autorefine.engine.search_step import SearchStep
from napari_autorefine.engine.source import cut_into_blocks
from napari_autorefine.engine.state import Sampling
from napari_autorefine.engine.sums import PoseTable
from napari_autorefine.errors import InputError
from napari_autorefine.io.stack import ParticleStack
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.crew_source import gpu_groups
from napari_autorefine.model.particles import Form

CONTRACT = Contract(session="run/1", threads=1, devices=(), cache_bytes=1 << 20, memory_bytes=4 << 30)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("0:1:2", ((0,), (1,), (2,))),
        ("0,1:2,3", ((0, 1), (2, 3))),
        ("3", ((3,),)),
        ("0,0", ((0,),)),
        (" 0 : 1 ", ((0,), (1,))),
        ("", ()),
        (None, ()),
        (":", ()),
    ],
)
def test_lists_of_gpus_are_relions(text: str | None, groups: tuple[tuple[int, ...], ...]) -> None:
    assert gpu_groups(text) == groups


@pytest.mark.parametrize("text", ["all", "0;1", "0:x", "-1", "0,1.5"])
def test_other_lists_of_gpus_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--gpu"):
        gpu_groups(text)


def test_gpus_are_dealt_to_the_processes_of_a_computer() -> None:
    assert [devices_of((), 4, i, 2) for i in range(2)] == [(0, 2), (1, 3)]
    assert [devices_of((), 2, i, 3) for i in range(3)] == [(0,), (1,), (0,)]
    assert [devices_of(((0, 1), (2, 3)), 4, i, 3) for i in range(3)] == [(0, 1), (2, 3), (0, 1)]
    assert devices_of(((0,), (7,)), 2, 1, 2) == ()
    assert devices_of(None, 4, 0, 1) == () and devices_of((), 0, 0, 1) == ()


def greeting(**changes: object) -> Greeting:
    own = Greeting(
        version="1.0", source=5, python="3.12", libraries={"numpy": "2.0"}, host="a", pid=1, threads=4,
        memory_bytes=8 << 30, is_shared=True, gpus=0,
    )  # fmt: skip
    return replace(own, **changes)  # type: ignore[arg-type]


def test_processes_that_do_not_fit_are_told_apart() -> None:
    own = greeting()
    assert misfit(own, own) == "" and differences(own, own) == ""
    assert "has napari-autorefine 1.1, this process 1.0" in misfit(own, greeting(version="1.1"))
    assert "does not have napari-autorefine" in misfit(own, greeting(version=None))
    assert "other source files of napari-autorefine 1.0" in misfit(own, greeting(source=6))
    assert "runs Python 3.11" in misfit(own, greeting(python="3.11"))
    assert differences(own, greeting(libraries={"numpy": "2.1"})) == "numpy 2.1 for 2.0"
    assert greeter().__qualname__.count("<locals>") == 1  # sent by value: others may lack this package


def test_processes_of_one_computer_share_its_memory() -> None:
    two = [greeting(pid=1), greeting(pid=2)]
    shares = [contract_of(one, two, None, "run") for one in two]
    assert shares[0].cache_bytes == shares[1].cache_bytes == (8 << 30) // 2 // 4
    assert shares[0].session != shares[1].session and all(one.session.startswith("run/") for one in shares)
    limited = greeting(is_shared=False)
    assert contract_of(limited, [*two, limited], None, "run").cache_bytes == (8 << 30) // 4


@pytest.mark.parametrize(
    ("n_block", "n_worker", "threads"), [(3, 1, 1), (100, 2, 8), (5000, 1, 1), (63, 64, 16), (1, 8, 4)]
)
def test_chunks_give_every_process_work(n_block: int, n_worker: int, threads: int) -> None:
    size = chunk_size(n_block, n_worker, threads)
    assert 1 <= size <= 64
    assert n_block < 2 * n_worker or n_block / size >= n_worker


def work_of(case: Case, n_worker: int) -> tuple[HalfWork, SearchStep, np.ndarray]:
    """A tiny half-set cut for some processes, its search, and its order."""
    is_local = case.is_local
    found = half_sets.run(case)
    job = found.job
    sampling = Sampling(
        symmetry="D2", healpix_order=0, psi_step_deg=60.0, offset_range_A=6.0, offset_step_A=6.0, perturbation=0.27,
        is_local=is_local, sigma_angle_deg=25.0, is_3d_translation=case.form != "image",
    )  # fmt: skip
    model = half_sets.tiny_model(job.grid.orientations.n_dir, case.form)
    step = SearchStep(plan=job.plan, sampling=sampling, poses=job.source.poses, models=(model, model))
    table = PoseTable.like(job.source.poses)
    work = HalfWork(found.setup, step, (1, 1), n_dir=job.grid.orientations.n_dir, table=table)
    work.cut(n_worker, 1)
    order = work_order(found.setup.members(1), step.poses.euler_deg, is_local=is_local)
    return work, step, order


@pytest.mark.parametrize("is_local", [False, True])
def test_blocks_are_those_of_a_single_process(is_local: bool) -> None:
    case = Case(n_particle=160, is_local=is_local)
    work, _, order = work_of(case, 2)
    group = half_sets.tiny_particles(case, 160).optics_index
    expected = cut_into_blocks(order, group, 16)
    cut = [block for chunk in work.chunks.values() for block in cut_into_blocks(chunk.particles, group, 16)]
    assert len(work.chunks) > 2
    assert [block.tolist() for block in cut] == [block.tolist() for block in expected]


def test_chunks_go_to_the_process_that_has_read_them() -> None:
    work, _, _ = work_of(Case(n_particle=160), 1)
    members = [Member(address=str(i), serial=i, greeting=greeting(), contract=CONTRACT) for i in range(2)]
    home = np.full(160, -1)
    last = work.chunks[len(work.chunks) - 1]
    home[last.particles] = 1
    assert work.take(home, members[1]) is last
    first = work.take(home, members[0])
    assert first is work.chunks[0]
    work.give_back({last.number})
    taken = [work.take(home, members[0]) for _ in range(len(work.chunks) - 1)]
    assert taken[-1] is last and work.take(home, members[0]) is None


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[cupy_stand_in.Machine]:
    """Two stand-in devices."""
    if COMPILER is None:
        pytest.skip("no C++ compiler to run the CUDA sources on the host")
    with cupy_stand_in.installed(tmp_path, n_device=2) as found:
        yield found


def searched(
    contract: Contract, case: Case, monkeypatch: pytest.MonkeyPatch
) -> tuple[half_sets.Found, Session, np.ndarray, np.ndarray]:
    """Half-set 1 of the tiny set by a session, chunk by chunk, and its volume."""
    found = half_sets.run(case)
    work, step, _ = work_of(case, 1)
    session = Session(lean_setup(found.setup), contract)
    own = Step(plan=step.plan, sampling=step.sampling, poses=step.poses)
    monkeypatch.setattr(half_job, "_MOST_REPRESENTATIVES", case.most_representatives)
    monkeypatch.setattr(half_job, "_MOST_LOCAL_REPRESENTATIVES", case.most_representatives)
    assert session.begin((1, 1), own, step.models[0]) > 0
    eulers = np.full((16, 3), np.nan)
    for chunk in work.chunks.values():
        result = session.search((1, 1), chunk)
        for block in result.results:
            for row, particle in zip(block.particles, block.results, strict=True):
                eulers[row] = particle.euler_deg
                assert not particle.insertions
        assert session.search((1, 1), chunk) is result  # asked again: nothing is added twice
    sums = session.finish((1, 1))
    with pytest.raises(SessionLost):
        session.search((1, 1), Chunk(number=0, particles=np.arange(1)))
    return found, session, eulers, sums.data


@pytest.mark.parametrize("form", ["image", "volume", "tilt_stack"])
@pytest.mark.parametrize("is_local", [False, True])
def test_a_session_does_what_a_single_process_does(is_local: bool, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    found, session, eulers, data = searched(CONTRACT, Case(n_particle=16, is_local=is_local, form=form), monkeypatch)
    np.testing.assert_array_equal(eulers[found.members], found.poses.euler_deg[found.members])
    np.testing.assert_allclose(data, found.accumulators.data, atol=1e-6 * np.abs(data).max())
    assert session.cache.n_read == len(found.members)
    if form == "volume":
        assert session.weights is not None and session.weights.volumes.n_read == len(found.members)
    session.close()


def test_a_session_uses_its_own_gpus(machine: cupy_stand_in.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # else arrays that an earlier test has left are let go of meanwhile
    before = machine.used.get(0, 0)
    found, session, eulers, data = searched(replace(CONTRACT, devices=(1,)), Case(n_particle=16), monkeypatch)
    np.testing.assert_allclose(eulers[found.members], found.poses.euler_deg[found.members], atol=1e-3)
    np.testing.assert_allclose(data, found.accumulators.data, atol=1e-5 * np.abs(data).max())
    assert machine.launches > 15 and machine.used.get(0, 0) == before
    session.close()


def test_images_are_read_once_as_long_as_there_is_room() -> None:
    images = np.random.default_rng(1).standard_normal((10, 4, 4)).astype(np.float32)
    asked: list[int] = []

    def read(indices: np.ndarray) -> np.ndarray:
        asked.extend(indices.tolist())
        return images[indices]

    cache = ImageCache(read, limit_bytes=6 * images[0].nbytes)
    cache.read_ahead(np.arange(4))
    for order in (np.arange(6), np.array([5, 0, 3]), np.arange(10), np.arange(10)[::-1]):
        np.testing.assert_array_equal(cache.read(order), images[order])
    cache.read_ahead(np.arange(10))
    assert sorted(asked[:6]) == list(range(6)) and set(asked[6:]) == {6, 7, 8, 9}


@pytest.mark.parametrize("n_kind", [1, 2])
def test_weights_of_volumes_are_read_once(n_kind: int) -> None:
    volumes = np.random.default_rng(1).random((2, 6, 4, 4, 3)).astype(np.float32)
    asked: list[int] = []

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        asked.extend(indices.tolist())
        return volumes[0][indices], volumes[1][indices] if n_kind == 2 else None

    cache = WeightCache(read, limit_bytes=1 << 20)
    for order in (np.array([4, 1]), np.array([1, 3, 4]), np.arange(6), np.arange(6)[::-1]):
        squares, multiplicities = cache.read(order)
        np.testing.assert_array_equal(squares, volumes[0][order])
        if n_kind == 2:
            np.testing.assert_array_equal(multiplicities, volumes[1][order])
        else:
            assert multiplicities is None
    assert sorted(asked) == list(range(6))


def test_stacks_of_several_images_keep_their_shapes() -> None:
    stacks = [np.full((n, 2, 2), n, np.float32) for n in (3, 5, 3)]
    cache = ImageCache(lambda indices: [stacks[i] for i in indices], limit_bytes=1 << 20)
    for _ in range(2):
        found = cache.read(np.array([2, 0, 1]))
        assert isinstance(found, list) and [one.shape[0] for one in found] == [3, 3, 5]


def test_sums_are_added_without_changing_them() -> None:
    first, second = (half_sets.run(Case(n_particle=n)).accumulators for n in (8, 16))
    kept = first.data.copy()
    both = added(first, second)
    np.testing.assert_array_equal(both.data, first.data + second.data)
    np.testing.assert_array_equal(both.weight, first.weight + second.weight)
    assert both.dc_weight == first.dc_weight + second.dc_weight
    np.testing.assert_array_equal(first.data, kept)


def test_readers_find_their_files_from_any_folder(particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(particle_set.folder)
    stack = ParticleStack(read_particles(particle_set.star.name), star_path=particle_set.star.name)
    images = stack.read(np.arange(12))
    sent = pickle.dumps(stack)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(pickle.loads(sent).read(np.arange(12)), images)
    assert len(sent) < 20_000  # names, not pixels


def test_what_is_sent_holds_no_map_that_is_not_needed() -> None:
    problem = phantoms.simulate(phantoms.ASYMMETRIC, 8, snr=4.0, box_size=20, pixel_size_A=4.0).problem
    setup = half_sets.run(Case()).setup
    assert lean_setup(replace(setup, problem=problem)).problem.reference.size == 1  # type: ignore[union-attr]
