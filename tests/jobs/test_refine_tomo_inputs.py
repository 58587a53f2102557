"""What a refinement takes from an optimisation set, hands to the engine and writes, without the engine's work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from oracles.tomo_files import BOX, PIXEL, TomoFiles, write_tomo_files

from napari_autorefine.cli import parse
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.state import Convergence, HalfModel, Poses, RefinementState, Sampling
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.mrc import read_data, write_volume
from napari_autorefine.io.optimisation_set import read_optimisation_set
from napari_autorefine.io.particle_images import ParticleImages, SubtomogramImages
from napari_autorefine.io.runs import read_run
from napari_autorefine.io.screening import Screening, check_images
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.continuing import resumed
from napari_autorefine.jobs.image_source import ImageSource, open_images
from napari_autorefine.jobs.record import output_of
from napari_autorefine.jobs.refine import engine_options, make_problem, with_files_of_folders
from napari_autorefine.jobs.refine_inputs import RefineInputs, load_inputs, messages
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.refine_plan import make_plan
from napari_autorefine.jobs.refine_tomo_inputs import with_files_of_set
from napari_autorefine.jobs.run_files import RunFiles, assign_halves
from napari_autorefine.jobs.saved_params import load_parameters

FORMS = ("2d", "3d")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TomoFiles]:
    """Small projects in the working directory, with half-maps, an FSC and a mask in their set."""

    def make(form: str) -> TomoFiles:
        monkeypatch.chdir(tmp_path)
        files = write_tomo_files(tmp_path, form)
        rng = np.random.default_rng(1)
        for name in ("map_half1", "map_half2", "ref"):
            write_volume(tmp_path / f"{name}.mrc", rng.random((BOX,) * 3, np.float32), PIXEL)
        write_volume(tmp_path / "mask.mrc", np.ones((BOX,) * 3, np.float32), PIXEL)
        text = "_rlnTomoReferenceMap1File map_half1.mrc\n_rlnTomoReferenceMap2File map_half2.mrc\n"
        text += "_rlnTomoReferenceMaskFile mask.mrc\n_rlnTomoReferenceFscFile fsc.star\n_rlnTomoParticlesFile"
        files.change(files.optimisation_set, "_rlnTomoParticlesFile", text)
        return files

    return make


def params(**values: object) -> RefineParams:
    start: dict[str, object] = {
        "optimisation_set": "optimisation_set.star",
        "output": "out/run",
        "particle_diameter_A": 24.0,
        "random_seed": 3,
        "cpu": True,
    }
    return RefineParams(**(start | values))  # type: ignore[arg-type]


def loaded(values: RefineParams) -> tuple[RefineParams, RefineInputs, list[Message]]:
    resolved, told = with_files_of_set(with_files_of_folders(values))
    return resolved, load_inputs(resolved), told


def opened(stack: ParticleImages, values: RefineParams, resources: ExitStack) -> ImageSource:
    """Return where images are read from, without what is said about it."""
    opening = open_images(stack, values, resources)  # type: ignore[arg-type]
    while True:
        try:
            next(opening)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def problem_of(values: RefineParams, inputs: RefineInputs, rows: list[int]) -> RefinementProblem:
    with ExitStack() as resources:
        images = opened(inputs.stack, values, resources)
        return make_problem(inputs, np.array(rows), images, values)


@pytest.mark.parametrize("form", FORMS)
def test_all_files_come_from_the_set(form: str, project: Callable[[str], TomoFiles]) -> None:
    project(form)
    resolved, inputs, told = loaded(params())
    assert (resolved.particles, resolved.tomograms) == ("particles.star", "tomograms.star")
    assert (resolved.reference, resolved.mask) == ("map_half1.mrc", "mask.mrc")
    assert len(inputs.references) == 2  # half1 in its name
    assert inputs.mask is not None
    texts = " ".join(message.text for message in told)
    assert "From the optimisation set optimisation_set.star: particles.star and tomograms.star." in texts
    assert "Reference map, as none was given, from the optimisation set: map_half1.mrc." in texts
    assert "Reference mask, as none was given, from the optimisation set: mask.mrc" in texts
    said = " ".join(message.text for message in messages(inputs))
    assert {"2d": "4 tilt stacks of 2 tomograms", "3d": "4 subtomograms of 2 tomograms"}[form] in said
    assert "Grey scales of single particles are not estimated" in said


def test_single_inputs_override_the_set(project: Callable[[str], TomoFiles]) -> None:
    files = project("2d")
    for name in ("particles", "tomograms"):
        (files.folder / f"other_{name}.star").write_text((files.folder / f"{name}.star").read_text())
    given = {"particles": "other_particles.star", "tomograms": "other_tomograms.star"}
    resolved, inputs, told = loaded(
        params(**given, reference="ref.mrc", mask="mask.mrc", trajectories="motion.star", trust_ref_size=True)
    )
    assert {name: getattr(resolved, name) for name in given} == given
    assert len(inputs.references) == 1
    assert not told
    assert inputs.tomo is not None
    assert inputs.tomo.files["trajectories"] == "motion.star"
    assert inputs.tomo.files["tomograms"] == "other_tomograms.star"
    assert any("motion.star) are not used" in message.text for message in messages(inputs))


def test_without_a_set_the_files_are_given_one_by_one(project: Callable[[str], TomoFiles]) -> None:
    project("2d")
    given = {"optimisation_set": "", "particles": "particles.star", "tomograms": "tomograms.star"}
    _, inputs, _ = loaded(params(**given, reference="ref.mrc"))
    assert inputs.particles.form == "tilt_stack"
    project("3d")
    _, inputs, _ = loaded(params(optimisation_set="", particles="particles.star", reference="ref.mrc"))
    assert inputs.particles.form == "volume"  # volumes need no tomograms


def test_a_folder_of_an_earlier_job_stands_for_its_set(project: Callable[[str], TomoFiles]) -> None:
    files = project("3d")
    (files.folder / "Extract").mkdir()
    files.optimisation_set.rename(files.folder / "Extract" / "optimisation_set.star")
    assert output_of("Extract", "optimisation_set") == "Extract/optimisation_set.star"
    resolved, _, _ = loaded(params(optimisation_set="Extract"))
    assert resolved.optimisation_set == "Extract/optimisation_set.star"
    (files.folder / "empty").mkdir()
    with pytest.raises(InputError, match="holds no optimisation set file"):
        loaded(params(optimisation_set="empty"))


@pytest.mark.parametrize("storage", [{}, {"preread_images": True}, {"scratch_dir": "scratch"}])
@pytest.mark.parametrize("form", FORMS)
def test_the_engine_gets_images_weights_and_tilts_of_the_rows(
    form: str, storage: dict[str, object], project: Callable[[str], TomoFiles]
) -> None:
    files = project(form)
    values, inputs, _ = loaded(params(subtomo_multi_thr=0.02, **storage))
    rows = [0, 2, 3]
    with ExitStack() as resources:
        images = opened(inputs.stack, values, resources)
        copied = len(list((files.folder / "scratch").rglob("*.mrc*"))) if "scratch_dir" in storage else 0
        assert copied == (0 if "scratch_dir" not in storage else 8 if form == "3d" else 4)
        found = make_problem(inputs, np.array(rows), images, values)
        data = found.tomogram_data
        assert data is not None
        read = found.read_images(np.array([2, 1]))
        ending = "mrcs" if form == "2d" else "mrc"
        for one, row in zip(read, (3, 2), strict=True):
            np.testing.assert_array_equal(one, read_data(files.folder / f"{row}.{ending}")[0])
        if form == "2d":
            assert data.read_weights is None
            assert [tilts.tolist() for tilts in data.tilts] == [[1, 2, 3]] * 3
        else:
            assert data.read_weights is not None
            ctf2, multiplicity = data.read_weights(np.array([1]))
            stored = read_data(files.folder / "2_w.mrc")[0]
            assert multiplicity is not None
            np.testing.assert_array_equal(np.concatenate([ctf2[0], multiplicity[0]]), stored)
    assert not list(Path("scratch").glob("*")) or "scratch_dir" not in storage
    assert data.least_multiplicity == 0.02
    assert set(data.tomograms) == {"TS_1", "TS_2"}


def test_options_reach_the_engine(project: Callable[[str], TomoFiles]) -> None:
    project("3d")
    given = {"skip_subtomo_multi": True, "normalised_subtomo": True, "ctf3d_not_squared": True, "sigma_tilt_deg": 10.0}
    values, inputs, _ = loaded(params(**given))
    data = problem_of(values, inputs, [0, 1, 2, 3]).tomogram_data
    assert data is not None
    assert (data.ignores_multiplicity, data.is_normalised, data.holds_ctf) == (True, True, True)
    options, _ = engine_options(values, inputs)
    assert (options.sigma_tilt_deg, options.norm) == (10.0, False)
    without = dataclasses.replace(inputs, tomo=loaded(params(ctf=False))[1].tomo)
    empty = problem_of(params(ctf=False), without, [0, 1, 2, 3]).tomogram_data
    assert empty is not None
    assert empty.read_weights is None


LINE = (
    "--o Refine3D/job012/run --auto_refine --split_random_halves --ios Extract/job010/optimisation_set.star --ref"
    " Reconstruct/job011/merged.mrc --trust_ref_size --ini_high 60 --dont_combine_weights_via_disc --pool 30 --pad 2"
    " --ctf --particle_diameter 500 --flatten_solvent --zero_mask --oversampling 1 --healpix_order 2"
    " --auto_local_healpix_order 4 --offset_range 5 --offset_step 2 --sym C6 --low_resol_join_halves 40 --norm --scale"
    " --sigma_tilt 10 --j 6 --gpu 0 --tomograms tomograms.star --trajectories motion.star --subtomo_multi_thr 0.02"
    " --pipeline_control Refine3D/job012/"
)


def test_a_line_of_relion_on_subtomograms_is_understood() -> None:
    read, notices = parse(JOBS["refine"], LINE.split())
    assert isinstance(read, RefineParams)
    assert read.optimisation_set == "Extract/job010/optimisation_set.star"
    assert (read.tomograms, read.trajectories) == ("tomograms.star", "motion.star")
    assert (read.sigma_tilt_deg, read.subtomo_multi_thr, read.symmetry) == (10.0, 0.02, "C6")
    words = " ".join(notices)
    for option in ("--pool 30", "--dont_combine_weights_via_disc"):
        assert f"{option} is without effect" in words
    off, _ = parse(JOBS["refine"], [*LINE.split(), "--sigma_tilt", "-1", "--trajectories", "None"])
    assert isinstance(off, RefineParams)
    assert (off.sigma_tilt_deg, off.trajectories) == (None, "")


def test_forms_of_relion_5_become_parameters(shared_data: Path) -> None:
    jobs = [shared_data / "star" / "relion5_tomo_HIV" / "Refine3D" / name / "job.star" for name in ("job012", "job023")]
    first, second = (load_parameters(path).values for path in jobs)
    assert first["optimisation_set"] == "Extract/job010/optimisation_set.star"
    assert second["optimisation_set"] == "Extract/job020/optimisation_set.star"
    assert first["sigma_tilt_deg"] == 10.0
    assert (second["reference"], second["mask"]) == ("Reconstruct/job021/half1.mrc", "mask_align.mrc")
    assert {"particles", "tomograms", "trajectories"}.isdisjoint(first)
    third = load_parameters(shared_data / "jobs" / "relion5_jobs_tomo_Refine3D_job001.star")
    assert third.job == "refine"
    assert not [note for note in third.notes if "tomo" in note or "optimisation" in note or "sigma_tilt" in note]


def test_direct_entries_of_a_form_become_parameters(tmp_path: Path) -> None:
    head = "data_job\n\n_rlnJobTypeLabel relion.refine3d.tomo\n\ndata_joboptions_values\n\nloop_\n"
    head += "_rlnJobOptionVariable #1\n_rlnJobOptionValue #2\n"
    rows = 'in_optimisation ""\nin_particles p.star\nin_tomograms t.star\nin_trajectories ""\nuse_direct_entries {}\n'
    path = tmp_path / "job.star"
    path.write_text(head + rows.format("Yes"))
    values = load_parameters(path).values
    assert (values["particles"], values["tomograms"], values["trajectories"]) == ("p.star", "t.star", "")
    path.write_text(head + rows.format("No"))
    assert "particles" not in load_parameters(path).values


def test_nan_in_a_volume_or_its_ctf_is_found(project: Callable[[str], TomoFiles]) -> None:
    files = project("3d")
    spoil(files.folder / "1.mrc", np.nan)
    spoil(files.folder / "2_w.mrc", np.inf)
    write_volume(files.folder / "3.mrc", np.full((BOX,) * 3, 2.0, np.float32), PIXEL)
    found = screening_of(loaded(params())[1])
    assert [image.text for image in found.bad] == [
        "row 2, 1.mrc: it holds NaN or Inf",
        "row 3, 2.mrc: its CTF volume holds NaN or Inf, or is 0 everywhere",
        "row 4, 3.mrc: all pixels have the same value",
    ]
    assert not found.warnings  # subtomograms are not normalised


def test_nan_in_one_tilt_sets_its_particle_aside(project: Callable[[str], TomoFiles]) -> None:
    files = project("2d")
    spoil(files.folder / "2.mrcs", np.nan)
    assert [image.text for image in screening_of(loaded(params())[1]).bad] == ["row 3, 2.mrcs: it holds NaN or Inf"]


def spoil(path: Path, value: float) -> None:
    raw = bytearray(path.read_bytes())
    raw[1024 + 4 * 30 : 1024 + 4 * 31] = np.float32(value).tobytes()
    path.write_bytes(bytes(raw))


def screening_of(inputs: RefineInputs) -> Screening:
    steps = check_images(inputs.stack, inputs.particles, particle_diameter_A=24.0)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            found: Screening = stop.value
            return found


def half_model(n_direction: int) -> HalfModel:
    n_shell = BOX // 2 + 1
    ones = np.ones(n_shell)
    return HalfModel(
        map=np.zeros((BOX,) * 3, np.float32),
        tau2=ones,
        ssnr=ones,
        sigma2_map=ones,
        completeness=ones,
        sigma2_noise=ones[None],
        scale=np.ones(2),
        norm_average=1.0,
        sigma_offset_A=5.0,
        pdf_direction=np.full(n_direction, 1 / n_direction),
        mean_p_max=0.5,
        log_likelihood=-1.0,
        accuracy_rot_deg=1.0,
        accuracy_trans_A=1.0,
        orientability=ones,
    )


def states(n: int) -> Iterator[RefinementState]:
    """The state after an iteration, and that of the end."""
    rng = np.random.default_rng(0)
    poses = Poses(
        euler_deg=rng.uniform(0, 90, (n, 3)),
        origin_A=rng.normal(size=(n, 3)),
        p_max=np.ones(n),
        log_likelihood=np.ones(n),
        n_significant=np.ones(n, np.int64),
        norm_correction=np.ones(n),
        intensity=np.ones(n),
    )
    state = RefinementState(
        iteration=2,
        box_size=BOX,
        voxel_size_A=PIXEL,
        halves=(half_model(12), half_model(12)),
        fsc=np.ones(BOX // 2 + 1),
        poses=poses,
        sampling=Sampling(
            symmetry="C1",
            healpix_order=0,
            psi_step_deg=60.0,
            offset_range_A=20.0,
            offset_step_A=8.0,
            is_3d_translation=True,
        ),
        convergence=Convergence(current_resolution_A=9.0, current_size=BOX),
    )
    yield state
    yield dataclasses.replace(state, iteration=3, joined=half_model(12), is_final=True)


@pytest.mark.parametrize("form", FORMS)
def test_files_of_an_iteration_and_of_the_end(form: str, project: Callable[[str], TomoFiles]) -> None:
    project(form)
    values, inputs, _ = loaded(params())
    Path("out").mkdir()
    found = problem_of(values, inputs, [0, 1, 2, 3])
    assert inputs.tomo is not None
    files = RunFiles(values, found.particles, particle_diameter_A=24.0, project=inputs.tomo.files)
    files.write_start(Screening(bad=(), warnings=(), n_image=4), inputs.particles)
    for state in states(4):
        files.write(state)
    during, end = (read_optimisation_set(f"out/{name}optimisation_set.star") for name in ("run_it002_", "run_"))
    kept = {"map1": "map_half1.mrc", "map2": "map_half2.mrc", "mask": "mask.mrc", "fsc": "fsc.star"}
    assert {**during.files} == {"particles": "out/run_it002_data.star", "tomograms": "tomograms.star", **kept}
    assert {**end.files} == {
        "particles": "out/run_data.star",
        "tomograms": "tomograms.star",
        "map1": "out/run_half1_class001_unfil.mrc",
        "map2": "out/run_half2_class001_unfil.mrc",
        "mask": "mask.mrc",
    }
    assert files.outputs()["optimisation_set"] == "out/run_optimisation_set.star"
    optimiser = read_star("out/run_it002_optimiser.star").pairs("optimiser_general")
    assert optimiser is not None
    assert (optimiser["rlnTomoTomogramsFile"], optimiser["rlnTomoTrajectoriesFile"]) == ("tomograms.star", "")
    assert optimiser["rlnDoCorrectNorm"] == 0
    model = read_star("out/run_it002_half1_model.star").pairs("model_general")
    assert model is not None
    assert (model["rlnReferenceDimensionality"], model["rlnDataDimensionality"]) == (3, 2 if form == "2d" else 3)
    sampling = read_star("out/run_sampling.star").pairs("sampling_general")
    assert sampling is not None
    assert sampling["rlnIs3DTranslationalSampling"] == 1
    check_particles(form)


def check_particles(form: str) -> None:
    """New poses with three origins; every other column as it was, in the order of the input."""
    before, after = (read_star(path).loop("particles") for path in ("particles.star", "out/run_it002_data.star"))
    assert before is not None and after is not None
    moved = [label for label in before if label.startswith(("rlnAngle", "rlnOrigin"))]
    assert before.drop(columns=moved).equals(after[[label for label in before if label not in moved]])
    read = read_particles("out/run_it002_data.star")
    np.testing.assert_allclose(read.origin_A, next(states(4)).poses.origin_A)
    general = read_star("out/run_it002_data.star").pairs("general")
    assert general == {"rlnTomoSubTomosAre2DStacks": int(form == "2d")}


@pytest.mark.parametrize("form", FORMS)
def test_a_run_goes_on_with_its_tomograms(form: str, project: Callable[[str], TomoFiles]) -> None:
    project(form)
    values, inputs, _ = loaded(params(sigma_tilt_deg=12.0))
    Path("out").mkdir()
    found = problem_of(values, inputs, [0, 1, 2, 3])
    assert inputs.tomo is not None
    files = RunFiles(values, found.particles, particle_diameter_A=24.0, project=inputs.tomo.files)
    files.write_start(Screening(bad=(), warnings=(), n_image=4), inputs.particles)
    state = next(states(4))
    files.write(state)
    merged, saved, _ = resumed(RefineParams(continue_from="out/run_it002_optimiser.star"))
    assert (merged.tomograms, merged.sigma_tilt_deg, merged.mask) == ("tomograms.star", 12.0, "mask.mrc")
    again = load_inputs(with_files_of_set(merged)[0], saved)
    np.testing.assert_allclose(again.particles.origin_A, state.poses.origin_A)
    assert again.particles.form == inputs.particles.form
    assert again.tomo is not None
    assert again.tomo.files["map1"] == "map_half1.mrc"


def test_runs_of_relion_go_on_with_their_tomograms(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared_data / "sta_sim")
    optimiser = "Refine3D/stack2d/run_it004_optimiser.star"
    assert read_run(optimiser).project == {"tomograms": "tomograms.star"}
    merged, saved, _ = resumed(RefineParams(continue_from=optimiser))
    inputs = load_inputs(with_files_of_set(merged)[0], saved)
    assert inputs.particles.form == "tilt_stack"
    assert inputs.tomo is not None
    assert inputs.tomo.files["tomograms"] == "tomograms.star"
    assert saved.sampling["is_3d_translation"]


def test_half_sets_are_those_of_relion_for_its_seed(shared_data: Path) -> None:
    root = shared_data / "sta_sim"
    for form in ("stack2d", "sub3d"):
        ours = assign_halves(read_particles(root / "Extract" / form / "particles.star", project_dir=root), 42)
        theirs = read_particles(root / "Refine3D" / form / "run_it000_data.star", project_dir=root)
        assert ours.image_name.tolist() == theirs.image_name.tolist()
        np.testing.assert_array_equal(ours.half, theirs.half)


def test_time_is_expected_by_the_number_of_images(project: Callable[[str], TomoFiles]) -> None:
    plans, n_image = {}, {"2d": 4 * 3, "3d": 4}
    for form in n_image:
        project(form)
        values, inputs, _ = loaded(params())
        plans[form] = make_plan(values, inputs, RefineOptions(threads=1))
        assert isinstance(inputs.stack, SubtomogramImages) and inputs.stack.n_images == n_image[form]
    of_image, of_volume = plans["2d"].last_s / n_image["2d"], plans["3d"].last_s / n_image["3d"]
    assert of_volume / of_image == pytest.approx(2 * BOX / 3, rel=0.5)
    assert min(plans["2d"].first_s, plans["3d"].first_s) > 0
