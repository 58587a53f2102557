from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ParticleSet

from napari_autorefine.cli import main
from napari_autorefine.engine import loop
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.setup import prepare_setup, relative_mtf
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, IterationDone, Message
from napari_autorefine.io.mrc import read_volume, write_stack, write_volume
from napari_autorefine.io.runs import read_run
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.jobs import refine as refine_job
from napari_autorefine.jobs.continuing import saved_state
from napari_autorefine.jobs.record import checksum, output_of
from napari_autorefine.jobs.refine import RefineParams, refine
from napari_autorefine.model.resize import fourier_resize, window

ENDINGS = ("data.star", "optimiser.star", "sampling.star", "model.star", "class001.mrc")


class RecordedEngine:
    """Stands in for the engine's loop: keeps what it was given and ends at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.problem: RefinementProblem
        self.options: RefineOptions
        self.resume: RefinementState | None
        monkeypatch.setattr(refine_job.loop, "refine", self.refine)

    def refine(
        self, problem: RefinementProblem, options: RefineOptions, resume: RefinementState | None, crew: object
    ) -> Iterator[Event]:
        self.problem, self.options, self.resume = problem, options, resume
        self.images = problem.read_images(np.arange(len(problem.particles)))
        yield Message(text="engine began")

    def run(self, files: ParticleSet, **changes: object) -> list[Event]:
        """Run the job with the engine left out; it ends by complaining that nothing was done."""
        events: list[Event] = []
        with pytest.raises(InputError, match="nothing left to do"):
            events.extend(iterate(files, events, **changes))
        return events


def parameters(files: ParticleSet, **changes: object) -> RefineParams:
    values: dict[str, object] = {
        "particles": str(files.star),
        "reference": str(files.reference),
        "output": str(files.output),
        "particle_diameter_A": 30.0,
        "healpix_order": 1,
        "random_seed": 1,
        "threads": 1,
        "cpu": True,
    }
    return RefineParams(**(values | changes))


def iterate(files: ParticleSet, events: list[Event], **changes: object) -> Iterator[Event]:
    for event in refine(parameters(files, **changes)):
        events.append(event)
        yield event


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> RecordedEngine:
    return RecordedEngine(monkeypatch)


@pytest.fixture
def larger_set(particle_set: ParticleSet) -> ParticleSet:
    """The particle set with a third stack of 12 images, of which the fifth is flat."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((12, 16, 16)).astype(np.float32)
    images[4] = 0.25
    write_stack(particle_set.folder / "c.mrcs", images, 3.0)
    rows = [f"{n:06d}@c.mrcs c.mrc 1 12000.0 11500.0 30.0" for n in range(1, 13)]
    particle_set.star.write_text(particle_set.star.read_text() + "\n".join(rows) + "\n")
    return particle_set


def test_a_run_writes_relions_files_and_goes_on_from_them(particle_set: ParticleSet) -> None:
    events = list(refine(parameters(particle_set, max_iterations=2)))
    iterations = [event for event in events if isinstance(event, IterationDone)]
    assert [event.iteration for event in iterations] == [1, 2]
    (finished,) = [event for event in events if isinstance(event, Finished)]
    assert "--continue" in finished.text
    out = particle_set.output.parent
    for ending in ("data.star", "optimiser.star", "sampling.star", "half1_model.star", "half2_class001.mrc"):
        for iteration in range(3):
            assert (out / f"run_it{iteration:03d}_{ending}").exists(), (iteration, ending)

    optimiser = str(out / "run_it002_optimiser.star")
    events = list(refine(RefineParams(continue_from=optimiser, force_converge=True, max_iterations=9)))
    assert [event.iteration for event in events if isinstance(event, IterationDone)] == [3]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.text.startswith("Converged after 3 iterations")
    for ending in (*ENDINGS, "half1_class001_unfil.mrc", "half2_class001_unfil.mrc", "params.json"):
        assert (out / f"run_{ending}").exists(), ending
    assert all(Path(path).exists() for path in finished.outputs.values())
    assert output_of(out, "half1") == str(out / "run_half1_class001_unfil.mrc")
    assert json.loads((out / "run_params.json").read_text())["outputs"] == finished.outputs
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    assert read_volume(out / "run_class001.mrc").data.shape == (16, 16, 16)
    assert sorted(np.unique(read_particles(out / "run_data.star").half)) == [1, 2]


def test_parameters_are_kept_and_reproduce_the_run(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    engine.run(particle_set, symmetry="C2")
    saved = json.loads(particle_set.output.with_name("run_params.json").read_text())
    assert RefineParams(**saved["parameters"]) == parameters(particle_set, symmetry="C2")
    assert saved["command"].startswith("autorefine refine --i ")
    assert saved["inputs"]["particles"]["sha256"] == checksum(particle_set.star)
    assert saved["inputs"]["reference"]["size"] == particle_set.reference.stat().st_size


def test_the_folder_of_a_job_stands_for_its_file(
    particle_set: ParticleSet, engine: RecordedEngine, tmp_path: Path
) -> None:
    extracted, rebox = tmp_path / "Extract", tmp_path / "Rebox"
    for folder in (extracted, rebox):
        folder.mkdir()
    particle_set.star.rename(extracted / "particles.star")
    for stack in particle_set.stacks:
        stack.rename(extracted / stack.name)
    particle_set.reference.rename(rebox / "run_class001.mrc")
    engine.run(particle_set, particles=str(extracted), reference=str(rebox))
    saved = json.loads(particle_set.output.with_name("run_params.json").read_text())
    assert saved["parameters"]["particles"] == str(extracted / "particles.star")
    assert saved["parameters"]["reference"] == str(rebox / "run_class001.mrc")


def test_a_limit_of_iterations_and_an_interruption_end_one_call_only(
    particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(refine(parameters(particle_set, max_iterations=1)))
    optimiser = str(particle_set.output.with_name("run_it001_optimiser.star"))

    def interrupted(*_: object, **__: object) -> Iterator[RefinementState]:
        state = saved_state(read_run(optimiser))
        yield replace(state, iteration=2)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "refine", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"refine --continue .*run_it002_optimiser\.star"):
        list(refine(RefineParams(continue_from=optimiser)))
    monkeypatch.undo()
    job = refine(RefineParams(continue_from=optimiser.replace("001", "002")))
    assert next(event for event in job if isinstance(event, IterationDone)).iteration == 3


def test_going_on_from_an_earlier_iteration_keeps_the_later_files(particle_set: ParticleSet) -> None:
    list(refine(parameters(particle_set, max_iterations=1)))
    optimiser = str(particle_set.output.with_name("run_it000_optimiser.star"))
    kept = particle_set.output.with_name("run_it001_data.star").read_bytes()
    events = list(refine(RefineParams(continue_from=optimiser)))
    assert any(isinstance(event, Message) and "run_ct0" in event.text for event in events)
    assert particle_set.output.with_name("run_ct0_it001_data.star").exists()
    assert particle_set.output.with_name("run_it001_data.star").read_bytes() == kept


def test_overwrite_removes_the_earlier_run_and_nothing_else(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    out = particle_set.output.parent
    out.mkdir()
    gone = [out / name for name in ("run_it007_data.star", "run_optimiser.star", "run_half1_class001_unfil.mrc")]
    kept = [out / name for name in ("run_notes.txt", "run2_it007_data.star", "run_ct3_it004_data.star", "mask.mrc")]
    for path in (*gone, *kept):
        path.write_text("old")
    engine.run(particle_set, overwrite=True)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in kept)


def test_a_bad_image_is_named_and_set_aside(larger_set: ParticleSet, engine: RecordedEngine) -> None:
    events = engine.run(larger_set)
    texts = [event.text for event in events if isinstance(event, Message) and event.level == "warning"]
    assert any("row 17" in text and "c.mrcs" in text and "5@" in text for text in texts), texts
    assert len(engine.problem.particles) == 23
    assert "000005@c.mrcs" not in engine.problem.particles.image_name
    assert np.isclose(engine.images.std(axis=(1, 2)), 1.0, atol=0.3).all()
    table = read_star(larger_set.output.with_name("run_excluded.star")).loop("excluded")
    assert table is not None
    assert table["rlnImageName"].tolist() == ["000005@c.mrcs"]


def test_half_sets_do_not_depend_on_bad_images(larger_set: ParticleSet, engine: RecordedEngine) -> None:
    engine.run(larger_set)
    first = dict(zip(engine.problem.particles.image_name, engine.problem.particles.half, strict=True))
    images = np.random.default_rng(3).standard_normal((12, 16, 16)).astype(np.float32)
    write_stack(larger_set.folder / "c.mrcs", images, 3.0)
    engine.run(larger_set, overwrite=True)
    second = dict(zip(engine.problem.particles.image_name, engine.problem.particles.half, strict=True))
    assert len(second) == 24
    assert all(second[name] == half for name, half in first.items())


@pytest.mark.parametrize("changes", [{"preread_images": True}, {"scratch_dir": "scratch"}])
def test_where_images_come_from_makes_no_difference(
    larger_set: ParticleSet, engine: RecordedEngine, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(larger_set.folder)
    engine.run(larger_set)
    plain = engine.images
    engine.run(larger_set, overwrite=True, **changes)
    np.testing.assert_array_equal(engine.images, plain)
    scratch = larger_set.folder / "scratch"
    assert not scratch.exists() or not list(scratch.iterdir())


def test_a_map_of_another_grid_is_resampled_when_trusted(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    density = np.random.default_rng(0).standard_normal((24, 24, 24)).astype(np.float32)
    write_volume(particle_set.reference, density, 2.0)
    events = engine.run(particle_set, trust_ref_size=True)
    assert any(isinstance(event, Message) and "resampled" in event.text for event in events)
    assert isinstance(engine.problem.reference, np.ndarray)
    np.testing.assert_allclose(engine.problem.reference, window(fourier_resize(density, 16), 16), atol=1e-6)


def texts(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Message))


def test_rounding_of_the_pixel_size_is_said(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    write_volume(particle_set.reference, np.ones((24, 24, 24), np.float32), 2.1)
    assert "Rounding to 16 px leaves it +5.00 % off scale" in texts(engine.run(particle_set, trust_ref_size=True))


def test_a_mask_that_is_not_applied_is_said(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    events = engine.run(particle_set, mask=str(particle_set.mask), flatten_solvent=False)
    assert "the mask is used not at all" in texts(events)


def test_images_that_do_not_fit_into_memory_are_refused(
    particle_set: ParticleSet, engine: RecordedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "scratch_dir is not used" in texts(engine.run(particle_set, preread_images=True, scratch_dir="x"))
    monkeypatch.setattr("napari_autorefine.jobs.image_source.free_memory", lambda: 10)
    with pytest.raises(InputError, match="leave the option out"):
        list(refine(parameters(particle_set, preread_images=True, overwrite=True)))


def test_each_half_may_start_from_its_own_map(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    maps = [np.full((16, 16, 16), value, np.float32) for value in (1.0, 2.0)]
    for number, density in enumerate(maps, start=1):
        write_volume(particle_set.folder / f"run_half{number}_class001_unfil.mrc", density, 3.0)
    engine.run(particle_set, reference=str(particle_set.folder / "run_half2_class001_unfil.mrc"))
    for got, density in zip(engine.problem.reference, maps, strict=True):
        np.testing.assert_array_equal(got, density)


def test_an_optics_group_without_particles_does_no_harm(particle_set: ParticleSet) -> None:
    particle_set.replace(
        "1 opticsGroup1 300.0 2.7 0.1 3.0 16 2", "1 empty 300 2.7 0.1 2.0 24 2\n2 full 300 2.7 0.1 3.0 16 2"
    )
    particle_set.replace(".mrc 1 12000", ".mrc 2 12000")
    events = list(refine(parameters(particle_set, max_iterations=1)))
    assert any(isinstance(event, IterationDone) for event in events)


def test_several_optics_groups_of_different_grids(particle_set: ParticleSet) -> None:
    rng = np.random.default_rng(1)
    write_stack(particle_set.stacks[1], rng.standard_normal((6, 20, 20)).astype(np.float32), 2.4)
    particle_set.replace("1 opticsGroup1 300.0 2.7 0.1 3.0 16 2", "1 a 300 2.7 0.1 3.0 16 2\n2 b 200 2.0 0.1 2.4 20 2")
    particle_set.replace("b.mrc 1 12000", "b.mrc 2 12000")
    events = list(refine(parameters(particle_set, max_iterations=2)))
    assert sum(isinstance(event, IterationDone) for event in events) == 2


def test_options_reach_the_engine(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    engine.run(particle_set, mask=str(particle_set.mask), ini_high_A=None, ctf=False, tau2_fudge=2.0, symmetry="D2")
    options = engine.options
    assert (options.ini_high_A, options.ctf, options.tau2_fudge, options.symmetry) == (-1.0, False, 2.0, "D2")
    assert (options.random_seed, options.threads, options.devices) == (1, 1, ())
    assert engine.problem.mask is not None
    assert engine.problem.mask.max() == 1.0


def test_defocus_is_not_needed_without_ctf(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    particle_set.replace("_rlnDefocusU #4", "_rlnSomethingElse #4")
    engine.run(particle_set, ctf=False)


def test_a_diameter_of_minus_one_is_the_box_less_the_edge(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    engine.run(particle_set, particle_diameter_A=-1)
    assert engine.options.particle_diameter_A == pytest.approx((16 - 5) * 3.0)


def test_the_clock_gives_a_seed_that_is_kept(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    engine.run(particle_set, random_seed=-1)
    saved = json.loads(particle_set.output.with_name("run_params.json").read_text())
    assert saved["parameters"]["random_seed"] == engine.options.random_seed > 0


@pytest.mark.parametrize(
    ("gpu", "count", "chosen"),
    [
        (None, 0, ()),
        ("", 0, ()),
        (None, 2, (0, 1)),
        ("", 2, (0, 1)),
        ("1", 2, (1,)),
        ("0:1", 2, (0, 1)),
        ("0,0", 2, (0,)),
    ],
)
def test_devices(
    particle_set: ParticleSet, gpu: str | None, count: int, chosen: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_autorefine.xp.gpu_count", lambda: count)
    monkeypatch.setattr("napari_autorefine.xp.gpu_name", lambda number: f"Model {number}")
    devices, (note,) = refine_job.choose_devices(parameters(particle_set, cpu=False, gpu=gpu))
    assert devices == chosen
    named = ", ".join(f"GPU {number} (Model {number})" for number in chosen)
    assert note.text.startswith(f"Uses {named}." if chosen else "Uses the CPU: no GPU can be used")
    assert note.level == ("warning" if not chosen and gpu is not None else "info")


def test_no_gpu_is_looked_for_on_the_cpu(particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("napari_autorefine.xp.gpu_count")
    devices, (note,) = refine_job.choose_devices(parameters(particle_set, cpu=True))
    assert (devices, note.text) == ((), "Uses the CPU, as asked for.")


@pytest.mark.parametrize(("gpu", "count"), [("2", 2), ("-1", 2), ("first", 2), ("0", 0), ("1", 1)])
def test_unknown_devices_are_refused(
    particle_set: ParticleSet, gpu: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_autorefine.xp.gpu_count", lambda: count)
    with pytest.raises(InputError, match="--gpu"):
        refine_job.choose_devices(parameters(particle_set, cpu=False, gpu=gpu))


def test_a_finished_run_is_not_continued(particle_set: ParticleSet, capsys: pytest.CaptureFixture[str]) -> None:
    list(refine(parameters(particle_set, max_iterations=1, force_converge=True)))
    assert main(["refine", "--continue", str(particle_set.output.with_name("run_optimiser.star"))]) == 2
    assert "finished run" in capsys.readouterr().err


def test_the_engine_is_closed_with_the_job(particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def endless(*_: object, **__: object) -> Iterator[Event]:
        try:
            while True:
                yield Message(text="working")
        finally:
            closed.append(True)

    monkeypatch.setattr(loop, "refine", endless)
    job = refine(parameters(particle_set, scratch_dir=str(particle_set.folder / "scratch")))
    while not (isinstance(event := next(job), Message) and event.text == "working"):
        pass
    assert list((particle_set.folder / "scratch").iterdir())
    job.close()
    assert closed == [True]
    assert not list((particle_set.folder / "scratch").iterdir())


def test_a_mask_of_another_pixel_size_is_resampled_and_kept(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    write_volume(particle_set.mask, np.ones((24, 24, 24), np.float32), 2.0)
    assert "the mask is resampled" in texts(engine.run(particle_set, mask=str(particle_set.mask)))
    kept = read_volume(particle_set.output.with_name("run_solvent_mask.mrc"))
    assert engine.problem.mask is not None
    np.testing.assert_array_equal(kept.data, engine.problem.mask)
    np.testing.assert_allclose(kept.data, 1.0, atol=1e-6)
    assert kept.voxel_size_A == pytest.approx(3.0)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_run_never_replaces_what_it_starts_from(particle_set: ParticleSet, overwrite: bool) -> None:
    particle_set.output.parent.mkdir()
    reference = particle_set.output.with_name("run_class001.mrc")
    reference.write_bytes(particle_set.reference.read_bytes())
    with pytest.raises(InputError, match=r"run_class001\.mrc has the name of a file that the run itself writes"):
        list(refine(parameters(particle_set, reference=str(reference), overwrite=overwrite)))
    assert reference.exists()


MTF = "data_\n\nloop_\n_rlnResolutionInversePixel #1\n_rlnMtfValue #2\n0 {0}\n0.5 {0}\n"


def two_detectors(files: ParticleSet) -> None:
    """Put the second stack into a group of its own; group 1 has an MTF of 1, group 2 of 0.5."""
    for name, value in (("one.star", 1.0), ("half.star", 0.5)):
        (files.folder / name).write_text(MTF.format(value))
    files.replace(
        "_rlnImageDimensionality #8\n1 opticsGroup1 300.0 2.7 0.1 3.0 16 2",
        "_rlnImageDimensionality #8\n_rlnMtfFileName #9\n_rlnMicrographOriginalPixelSize #10\n"
        "1 a 300 2.7 0.1 3.0 16 2 one.star 1.5\n2 b 300 2.7 0.1 3.0 16 2 half.star 1.5",
    )
    files.replace("b.mrc 1 12000", "b.mrc 2 12000")


def test_images_of_several_detectors_are_brought_to_their_mean(
    particle_set: ParticleSet, engine: RecordedEngine
) -> None:
    two_detectors(particle_set)
    engine.run(particle_set)
    setup = prepare_setup(engine.problem, engine.options)
    frequencies = np.array([[0.0, 0.0], [0.05, 0.1]])
    for index, ratio in enumerate((1.0 / 0.75, 0.5 / 0.75)):
        np.testing.assert_allclose(relative_mtf(setup, index, frequencies), ratio)


def test_a_detector_that_is_not_corrected_for_is_said(particle_set: ParticleSet, engine: RecordedEngine) -> None:
    two_detectors(particle_set)
    particle_set.replace("half.star", "None")
    assert "optics group 'b'" in texts(engine.run(particle_set))
    assert engine.problem.mtf is None


def test_a_missing_mtf_file_is_refused(particle_set: ParticleSet, capsys: pytest.CaptureFixture[str]) -> None:
    two_detectors(particle_set)
    (particle_set.folder / "half.star").unlink()
    assert main(particle_set.line("--cpu")) == 2
    assert "half.star of optics group 'b' does not exist" in capsys.readouterr().err


def test_a_run_that_cannot_begin_leaves_no_files(particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> Iterator[Event]:
        yield Message(text="engine began")
        raise InputError("The images hold no noise.")

    monkeypatch.setattr(loop, "refine", refused)
    with pytest.raises(InputError, match="no noise"):
        list(refine(parameters(particle_set)))
    assert not list(particle_set.output.parent.glob("*"))
