from __future__ import annotations

from conftest import ParticleSet
from oracles.leftovers import holdings

from napari_autorefine.jobs.refine import refine
from napari_autorefine.jobs.refine_params import RefineParams

_MOST_GROWTH = 0.05  # of the memory after the first


def run(made: ParticleSet, **changes: object) -> list[object]:
    values = {"particles": str(made.star), "reference": str(made.reference), "output": str(made.output)}
    more = {"particle_diameter_A": 30.0, "max_iterations": 2, "cpu": True, "overwrite": True, "threads": 2}
    return list(refine(RefineParams(**(values | more | changes))))


def test_refinements_in_one_process_leave_nothing_behind(particle_set: ParticleSet) -> None:
    run(particle_set)
    first = holdings(particle_set.folder)
    for _ in range(3):
        run(particle_set)
    last = holdings(particle_set.folder)
    assert last.temporary == ()
    assert (last.threads, last.children) == (first.threads, first.children)
    assert last.files <= first.files
    assert last.memory < (1.0 + _MOST_GROWTH) * first.memory


def test_a_run_that_is_given_up_in_the_middle_leaves_no_thread_and_no_open_file(particle_set: ParticleSet) -> None:
    run(particle_set, max_iterations=1)
    before = holdings(particle_set.folder)
    values = {"particles": str(particle_set.star), "reference": str(particle_set.reference)}
    for wanted in (3, 12, 20):
        events = refine(
            RefineParams(
                **values, output=str(particle_set.output), particle_diameter_A=30.0, cpu=True, overwrite=True, threads=2
            )
        )
        for _ in range(wanted):
            next(events)
        events.close()  # type: ignore[attr-defined]
    after = holdings(particle_set.folder)
    assert after.temporary == ()
    assert after.threads == before.threads
    assert after.files <= before.files


def test_a_copy_on_scratch_is_gone_after_the_run(particle_set: ParticleSet) -> None:
    scratch = particle_set.folder / "scratch"
    run(particle_set, scratch_dir=str(scratch), max_iterations=1)
    assert list(scratch.iterdir()) == []
