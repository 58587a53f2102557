"""Read-ahead, and what happens on the host when memory runs out."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracles import phantoms

from napari_autorefine.engine import half_search, host_blocks
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.shells import run_slabs, slabs
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message

N = 80
DATA = phantoms.simulate(phantoms.ASYMMETRIC, N, snr=2.0, box_size=16, pixel_size_A=5.0)
OPTIONS = RefineOptions(
    healpix_order=0, ini_high_A=40.0, particle_diameter_A=70.0, offset_range_px=2.0, max_iterations=2, random_seed=1
)


def run(problem: RefinementProblem, options: RefineOptions = OPTIONS) -> tuple[RefinementState, list[str]]:
    """Return the last state, and what was said."""
    events = list(refine(problem, options))
    last = [event for event in events if isinstance(event, RefinementState)][-1]
    return last, [event.text for event in events if isinstance(event, Message)]


def assert_alike(one: RefinementState, other: RefinementState) -> None:
    np.testing.assert_allclose(one.poses.euler_deg, other.poses.euler_deg, atol=1e-3)
    np.testing.assert_allclose(one.poses.p_max, other.poses.p_max, rtol=1e-4)
    for ours, theirs in zip(one.halves, other.halves, strict=True):
        np.testing.assert_allclose(ours.map, theirs.map, atol=1e-5 * np.abs(theirs.map).max())


def test_images_are_read_while_earlier_blocks_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search of the first block waits, in this test, until the images of another one are being read."""
    another, has_begun, n_read = threading.Event(), threading.Event(), [0]
    results, search_part = host_blocks.HostBlocks.results, host_blocks.HostBlocks._search_part

    def begin(*arguments: object) -> object:
        has_begun.set()
        return results(*arguments)  # type: ignore[arg-type]

    def read(indices: np.ndarray) -> np.ndarray:
        n_read[0] += has_begun.is_set()
        if n_read[0] > 1:
            another.set()
        return DATA.images[indices]

    def search(*arguments: object) -> None:
        assert another.wait(60.0), "nothing is read while the first block is searched"
        search_part(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(host_blocks, "_READERS", 1)
    monkeypatch.setattr(host_blocks.HostBlocks, "results", begin)
    monkeypatch.setattr(host_blocks.HostBlocks, "_search_part", search)
    last, _ = run(replace(DATA.problem, read_images=read), replace(OPTIONS, max_iterations=1, threads=1))
    assert last.iteration == 1


def test_readers_are_only_a_few_blocks_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    read, searched, farthest = [0], [0], [0]
    original = host_blocks.HostBlocks._search

    def reading(indices: np.ndarray) -> np.ndarray:
        read[0] += 1
        farthest[0] = max(farthest[0], read[0] - searched[0])
        return DATA.images[indices]

    def search(self: host_blocks.HostBlocks, item: tuple[np.ndarray, object]) -> object:
        result = original(self, item)
        searched[0] += 1
        return result

    monkeypatch.setattr(half_search.HalfSearch, "cut", lambda self, members: list(members[:, None]))
    problem = replace(
        DATA.problem, read_images=lambda indices: reading(indices) if len(indices) == 1 else DATA.images[indices]
    )
    monkeypatch.setattr(host_blocks.HostBlocks, "_search", search)
    run(problem, replace(OPTIONS, max_iterations=1, threads=1))
    assert 1 < farthest[0] <= host_blocks._READERS + 1 + 4


class Scarce:
    """Stands in for the search of a block: memory suffices for at most ``most`` particles at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
        self.most, self.sizes, self.inside, self.crowd = most, [], 0, 0
        self.make_search = host_blocks.make_search
        monkeypatch.setattr(host_blocks, "make_search", self)

    def __call__(self, job: object, indices: np.ndarray, *arguments: object) -> object:
        self.sizes.append(len(indices))
        if len(indices) > self.most:
            raise MemoryError
        return self.make_search(job, indices, *arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [8, 3, 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_block_too_large_is_searched_in_parts(most: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run(DATA.problem)
    scarce = Scarce(monkeypatch, most)
    parts, said = run(DATA.problem, replace(OPTIONS, threads=threads))
    assert_alike(parts, whole)
    largest = 2 ** int(np.log2(most))
    assert f"Memory ran out: {largest} particles at a time from here on." in said
    assert min(scarce.sizes) <= most


def test_particles_that_are_through_are_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run(DATA.problem)
    original, failed = host_blocks.search_particles, [0]

    def failing(search: object) -> Iterator[object]:
        for number, result in enumerate(original(search)):  # type: ignore[arg-type]
            if number == 5 and failed[0] < 2:
                failed[0] += 1
                raise MemoryError
            yield result

    monkeypatch.setattr(host_blocks, "search_particles", failing)
    parts, said = run(DATA.problem)
    assert failed[0] == 2
    assert any("8 particles at a time" in text for text in said)
    assert_alike(parts, whole)


def test_images_without_room_to_be_read_ahead_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run(DATA.problem)
    has_begun = threading.Event()
    original = host_blocks.HostBlocks.results

    def results(*arguments: object) -> object:
        has_begun.set()
        return original(*arguments)  # type: ignore[arg-type]

    def read(indices: np.ndarray) -> np.ndarray:
        if len(indices) == 16 and has_begun.is_set():
            raise MemoryError
        return DATA.images[indices]

    monkeypatch.setattr(host_blocks.HostBlocks, "results", results)

    parts, said = run(replace(DATA.problem, read_images=read), replace(OPTIONS, threads=2))
    assert any("8 particles at a time" in text for text in said)
    assert_alike(parts, whole)


def test_not_even_one_particle(monkeypatch: pytest.MonkeyPatch) -> None:
    Scarce(monkeypatch, 0)
    with pytest.raises(InputError, match="not suffice to search even one particle"):
        run(DATA.problem)


def test_errors_of_other_kinds_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(host_blocks, "make_search", failing)
    with pytest.raises(ZeroDivisionError):
        run(DATA.problem, replace(OPTIONS, threads=2))


@pytest.mark.parametrize("threads", [1, 4])
def test_slabs_too_large_are_done_in_halves(threads: int) -> None:
    done = np.zeros(100, np.int64)

    def work(piece: slice) -> None:
        if piece.stop - piece.start > 3:
            raise MemoryError
        done[piece] += 1

    run_slabs(work, slabs(100, 33), threads, is_repeatable=True)
    np.testing.assert_array_equal(done, 1)

    def never(_: slice) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        run_slabs(never, slabs(100, 33), threads, is_repeatable=True)
    done[:] = 0
    with pytest.raises(MemoryError):
        run_slabs(work, slabs(100, 33), threads)
    np.testing.assert_array_equal(done, 0)


_SCRIPT = """
import resource, sys
from dataclasses import replace
import numpy as np
sys.path.insert(0, sys.argv[1])
from oracles import phantoms
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.events import Message

data = phantoms.simulate(phantoms.ASYMMETRIC, 96, snr=2.0, box_size=64, pixel_size_A=1.6)
options = RefineOptions(healpix_order=2, ini_high_A=10.0, particle_diameter_A=80.0, random_seed=1, max_iterations=2,
                        threads=1, offset_range_px=4.0, memory_bytes=1 << 20)
# Compiles, starts the buffers of products and all threads.
beginning = list(refine(data.problem, replace(options, max_iterations=1)))
first = [event for event in beginning if isinstance(event, RefinementState)][-1]
del beginning
if len(sys.argv) > 3:
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (int(sys.argv[3]) << 20),) * 2)
events = list(refine(data.problem, options, first))
said = [event.text for event in events if isinstance(event, Message)]
state = [event for event in events if isinstance(event, RefinementState)][-1]
np.savez(sys.argv[2], euler_deg=state.poses.euler_deg, map=state.halves[0].map, p_max=state.poses.p_max)
print(*(text for text in said if "Memory" in text), sep="\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process cannot be capped elsewhere")
def test_a_process_with_little_memory_makes_the_same_maps(tmp_path: Path) -> None:
    def result(*more: object) -> tuple[dict[str, np.ndarray], str]:
        name = tmp_path / f"{len(more)}.npz"
        root = Path(__file__).parents[2]
        # Memory that was freed goes back to the system at once, so that the cap is one.
        env = {"PYTHONPATH": str(root / "src"), "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        env["MALLOC_ARENA_MAX"] = "1"
        line = [sys.executable, "-c", _SCRIPT, str(root / "tests"), str(name), *map(str, more)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr
        return dict(np.load(name)), done.stdout

    whole, said = result()
    assert said.strip() == ""
    # How much is too little differs between machines: the first of these caps that makes memory run out is taken.
    for megabytes in range(120, 40, -10):
        capped, said = result(megabytes)
        if "particles at a time" in said:
            break
    assert "particles at a time from here on" in said
    np.testing.assert_allclose(capped["euler_deg"], whole["euler_deg"], atol=1e-3)
    np.testing.assert_allclose(capped["map"], whole["map"], atol=1e-5 * np.abs(whole["map"]).max())
