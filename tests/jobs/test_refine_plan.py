"""What a refinement is expected to need, and what is refused before it begins."""

from __future__ import annotations

import os
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ParticleSet

from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message
from napari_autorefine.jobs import image_states, refine_plan
from napari_autorefine.jobs.refine import RefineParams, refine
from napari_autorefine.jobs.refine_inputs import RefineInputs, load_inputs
from napari_autorefine.jobs.refine_plan import check_plan, make_plan, plan_messages

GB = 10**9
Usage = namedtuple("Usage", "total used free")


def parameters(files: ParticleSet, **changes: object) -> RefineParams:
    values: dict[str, object] = {
        "particles": str(files.star),
        "reference": str(files.reference),
        "output": str(files.output),
        "particle_diameter_A": 30.0,
        "healpix_order": 0,
        "max_iterations": 1,
        "threads": 1,
        "random_seed": 1,
        "cpu": True,
    }
    return RefineParams(**(values | changes))


def of_box(inputs: RefineInputs, box: int) -> RefineInputs:
    """The inputs with a reference of another box, of which nothing is stored."""
    return replace(inputs, references=(np.broadcast_to(np.float32(0), (box, box, box)),))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Free memory and room on the disc, in GB."""
    found = {"memory": 64.0, "disc": 500.0}
    monkeypatch.setattr(refine_plan, "free_memory", lambda: int(found["memory"] * GB))
    monkeypatch.setattr(refine_plan.shutil, "disk_usage", lambda _: Usage(0, 0, int(found["disc"] * GB)))
    return found


@pytest.mark.parametrize(("box", "measured_bytes"), [(128, 834_228_224), (256, 3_303_743_488)])
def test_the_last_iteration_is_expected_to_need_what_was_measured(
    box: int, measured_bytes: int, particle_set: ParticleSet, free: dict[str, float]
) -> None:
    """D2 with two threads and padding 2, see ``tests/engine/test_memory.py``."""
    params = parameters(particle_set, symmetry="D2", threads=2)
    plan = make_plan(params, of_box(load_inputs(params), box), RefineOptions(symmetry="D2", threads=2))
    assert measured_bytes / 1.35 < plan.least_bytes < measured_bytes * 1.35


def test_what_cannot_fit_into_memory_is_refused(particle_set: ParticleSet, free: dict[str, float]) -> None:
    params = parameters(particle_set)
    inputs = of_box(load_inputs(params), 512)
    free["memory"] = 8.0
    plan = make_plan(params, inputs, RefineOptions())
    with pytest.raises(InputError, match=r"at 512 px needs about \d+\.\d GB of memory, 8\.0 GB are free; give --pad 1"):
        check_plan(plan, params, inputs)
    thin = parameters(particle_set, pad=1)
    check_plan(make_plan(thin, inputs, RefineOptions(pad=1)), thin, inputs)


def test_tables_make_room_when_memory_is_scarce(particle_set: ParticleSet, free: dict[str, float]) -> None:
    params, options = parameters(particle_set), RefineOptions()
    inputs = of_box(load_inputs(params), 128)
    roomy = make_plan(params, inputs, options)
    assert roomy.memory_bytes == options.memory_bytes
    free["memory"] = 1.2
    scarce = make_plan(params, inputs, options)
    assert 64 << 20 <= scarce.memory_bytes < options.memory_bytes
    assert scarce.peak_bytes < roomy.peak_bytes
    texts = [message.text for message in plan_messages(scarce, params, options)]
    assert any("Memory is scarce" in text for text in texts)


def test_a_disc_that_is_too_small_is_refused_or_warned_of(particle_set: ParticleSet, free: dict[str, float]) -> None:
    params, options = parameters(particle_set), RefineOptions()
    particle_set.output.parent.mkdir()
    inputs = of_box(load_inputs(params), 256)
    plan = make_plan(params, inputs, options)
    assert 2 * 4 * 256**3 < plan.iteration_bytes < 3 * 4 * 256**3
    free["disc"] = 0.1
    with pytest.raises(InputError, match=r"No space left for the output .*one iteration needs \d+ MB, 100 MB are free"):
        check_plan(plan, params, inputs)
    free["disc"] = 1.0
    check_plan(plan, params, inputs)
    (warning,) = [message for message in plan_messages(plan, params, options) if message.level == "warning"]
    assert "may fill up" in warning.text and "--keep_iterations 2" in warning.text
    frugal = parameters(particle_set, keep_iterations=2)
    assert not [message for message in plan_messages(plan, frugal, options) if message.level == "warning"]


def test_the_plan_is_told_before_anything_is_written(particle_set: ParticleSet) -> None:
    events = refine(parameters(particle_set))
    for event in events:
        if isinstance(event, Message) and event.text.startswith("Expected: up to"):
            break
    else:
        pytest.fail("no plan")
    assert not list(particle_set.output.parent.glob("run_*"))
    for words in ("of memory", "free)", "of files per iteration", "in all", "for the first iteration", "for the last"):
        assert words in event.text
    events.close()  # type: ignore[attr-defined]


def texts(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Message) and event.level == "warning")


def test_images_that_changed_between_two_calls_are_told(particle_set: ParticleSet) -> None:
    list(refine(parameters(particle_set)))
    path = particle_set.stacks[1]
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 10**9))
    events = refine(RefineParams(continue_from=str(particle_set.output.parent), max_iterations=2))
    told = texts(list(events))
    assert "1 of 2 files of images were changed since the run began" in told
    assert "b.mrcs (its time of change)" in told


def test_with_checksums_other_images_end_a_run_that_goes_on(particle_set: ParticleSet) -> None:
    list(refine(parameters(particle_set, checksum_images=True)))
    path = particle_set.stacks[1]
    before, content = path.stat(), bytearray(path.read_bytes())
    os.utime(path, ns=(0, before.st_mtime_ns + 10**9))
    assert texts(list(refine(RefineParams(continue_from=str(particle_set.output.parent), max_iterations=2)))) == ""
    content[2000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(0, before.st_mtime_ns))
    with pytest.raises(InputError, match=r"b\.mrcs is not what it was when the run began"):
        list(refine(RefineParams(continue_from=str(particle_set.output.parent), max_iterations=3)))


def test_very_many_files_are_not_noted_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_states, "_MOST_NOTED", 1)
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.touch()
    noting = image_states.note_images(paths, has_checksums=False)
    with pytest.raises(StopIteration) as end:
        next(noting)
    assert end.value.value == {}
