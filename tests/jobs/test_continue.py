"""Going on after torn files, full discs and interruptions, from RELION's files, and RELION from ours."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from oracles import interruptions, phantoms
from oracles.particle_files import write_particle_files

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, IterationDone, Message
from napari_autorefine.io import files
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.resume import read_run
from napari_autorefine.io.run_integrity import damage_of, prefix_to_go_on
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.tables import read_star, write_star
from napari_autorefine.jobs.continuing import resumed, saved_state, usable_state
from napari_autorefine.jobs.job_folder import output_of_params
from napari_autorefine.jobs.refine import RefineParams, refine
from napari_autorefine.model.geometry import angular_distance_deg

LAST = 3


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has stopped after its third iteration, in ``Refine3D``."""
    folder = tmp_path_factory.mktemp("halfway")
    interruptions.make_set(folder)
    list(refine(interruptions.parameters(folder, max_iterations=LAST)))
    return folder


@pytest.fixture(scope="module")
def undisturbed(halfway: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, one iteration further."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(halfway, folder)
    list(refine(RefineParams(continue_from=str(folder / "Refine3D"), max_iterations=LAST + 1)))
    return folder


@pytest.fixture
def stopped(halfway: Path, tmp_path: Path) -> Path:
    """A copy of the run that has stopped."""
    folder = tmp_path / "stopped"
    shutil.copytree(halfway, folder)
    return folder


def texts(events: list[Event], level: str = "warning") -> str:
    return "\n".join(event.text for event in events if isinstance(event, Message) and event.level == level)


def iterations(events: list[Event]) -> list[int]:
    return [event.iteration for event in events if isinstance(event, IterationDone)]


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def zero_filled(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zero_ended(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


@pytest.mark.parametrize("damage", [truncated, zero_filled, zero_ended, os.unlink])
@pytest.mark.parametrize("ending", ["data.star", "half2_class001.mrc", "half1_model.star", "optimiser.star"])
def test_torn_files_of_the_newest_iteration_are_noticed_and_made_again(
    ending: str, damage: object, stopped: Path, undisturbed: Path
) -> None:
    damage(stopped / "Refine3D" / f"run_it{LAST:03d}_{ending}")  # type: ignore[operator]
    events = list(refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1)))
    assert iterations(events) == [LAST, LAST + 1]
    is_known = not (ending == "optimiser.star" and damage is os.unlink)
    assert ("goes on from the iteration before" in texts(events)) == is_known
    assert interruptions.differences(stopped, undisturbed) == []


def test_a_named_iteration_falls_back_only_when_it_is_the_newest(stopped: Path) -> None:
    newest, older = (stopped / "Refine3D" / f"run_it{n:03d}_optimiser.star" for n in (LAST, LAST - 1))
    truncated(newest.with_name(f"run_it{LAST:03d}_data.star"))
    assert resumed(RefineParams(continue_from=str(newest)))[1].iteration == LAST - 1
    older.with_name(f"run_it{LAST - 1:03d}_half1_class001.mrc").unlink()
    with pytest.raises(InputError, match=rf"run_it{LAST - 1:03d}_half1_class001.mrc is missing; go on from .*it001"):
        resumed(RefineParams(continue_from=str(older)))


def test_without_a_whole_iteration_it_is_said(stopped: Path) -> None:
    for path in (stopped / "Refine3D").glob("run_it*_data.star"):
        truncated(path)
    with pytest.raises(InputError, match=r"damaged.*no earlier iteration is whole; start the run again"):
        resumed(RefineParams(continue_from=str(stopped / "Refine3D")))
    with pytest.raises(InputError, match="no iteration of a refinement"):
        resumed(RefineParams(continue_from=str(stopped)))


def test_a_cut_optimiser_file_is_never_taken_for_a_whole_one(stopped: Path) -> None:
    path = stopped / "Refine3D" / f"run_it{LAST:03d}_optimiser.star"
    content = path.read_bytes()
    for end in range(0, len(content) - 1, 97):
        path.write_bytes(content[:end])
        assert damage_of(path), end
    path.write_bytes(content)
    assert damage_of(path) == ""


def test_parameters_survive_without_their_record(stopped: Path, undisturbed: Path) -> None:
    record = stopped / "Refine3D" / "run_params.json"
    expected = resumed(RefineParams(continue_from=str(stopped / "Refine3D")))[0]
    record.write_text('{"version": "1')
    params, _, messages = resumed(RefineParams(continue_from=str(stopped / "Refine3D")))
    assert params == expected
    assert "missing or damaged" in texts(list(messages))
    list(refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1)))
    assert interruptions.differences(stopped, undisturbed) == []


def test_a_finished_run_is_not_gone_on_from_by_its_folder(stopped: Path) -> None:
    output = stopped / "Refine3D"
    list(refine(RefineParams(continue_from=str(output), force_converge=True, max_iterations=99)))
    with pytest.raises(InputError, match="finished"):
        resumed(RefineParams(continue_from=str(output)))
    again, saved, _ = resumed(RefineParams(continue_from=str(output / f"run_it{LAST:03d}_optimiser.star")))
    assert (saved.iteration, again.output) == (LAST, f"{output / 'run'}_ct{LAST}")
    truncated(output / "run_optimiser.star")  # what is torn was never finished
    assert resumed(RefineParams(continue_from=str(output)))[0].output == str(output / "run")


def test_the_last_iteration_on_request_is_at_nyquist_with_all_particles(stopped: Path) -> None:
    output = stopped / "Refine3D"
    events = list(refine(RefineParams(continue_from=str(output), force_converge=True, max_iterations=99)))
    (done,) = [event for event in events if isinstance(event, IterationDone)]
    assert (done.is_final, done.current_size, done.iteration) == (True, interruptions.BOX, LAST + 1)
    assert done.joined_map is not None
    assert (output / "run_class001.mrc").exists()


def test_moved_runs_stay_together(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = stopped / "elsewhere"
    (stopped / "Refine3D").rename(moved)
    params = resumed(RefineParams(continue_from=str(moved)))[0]
    assert params.output == str(moved / "run")
    assert output_of_params(RefineParams(continue_from=str(moved))) == str(moved / "run")
    assert prefix_to_go_on(moved / "run_it001_optimiser.star") == moved / "run"


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_file_that_cannot_be_written_to_its_end_leaves_the_run_as_it_was(stopped: Path, undisturbed: Path) -> None:
    """The system refuses to write more than a few bytes of any file, as on a full disc."""
    before = {path.name for path in (stopped / "Refine3D").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    events = refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1))
    while not isinstance(event := next(events), Message) or "Expected accuracy" not in event.text:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(InputError, match=r"cannot be written: File too large.* --continue .*it003_optimiser"):
            list(events)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in (stopped / "Refine3D").iterdir()} == before
    list(refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1)))
    assert interruptions.differences(stopped, undisturbed) == []


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(errno.ENOSPC, "no space left on the disc"), (errno.EDQUOT, "no space left"), (errno.ESTALE, "cannot be written")],
)
@pytest.mark.parametrize("after", [0, 4, 8])
def test_a_disc_that_fails_when_files_are_settled_leaves_the_run_as_it_was(
    number: int, sentence: str, after: int, stopped: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems tell of a full or vanished disc when a file is closed or synchronised."""
    before = {path.name for path in (stopped / "Refine3D").iterdir()}
    events = refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1))
    while not isinstance(event := next(events), Message) or "Expected accuracy" not in event.text:
        pass
    left = iter(range(after))

    def settle(path: Path) -> None:
        if next(left, None) is None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "settle", settle)
    with pytest.raises(InputError, match=sentence):
        list(events)
    assert {path.name for path in (stopped / "Refine3D").iterdir()} == before
    monkeypatch.undo()
    list(refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1)))
    assert interruptions.differences(stopped, undisturbed) == []


def test_an_output_folder_that_vanishes_ends_the_run_in_one_sentence(stopped: Path, undisturbed: Path) -> None:
    events = refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1))
    while not isinstance(event := next(events), Message) or "Expected accuracy" not in event.text:
        pass
    (stopped / "Refine3D").rename(stopped / "away")
    (stopped / "Refine3D").mkdir()  # where a disc was mounted
    with pytest.raises(InputError, match=r"cannot be written: it is another folder .* --continue .*it003_optimiser"):
        list(events)
    (stopped / "Refine3D").rmdir()
    (stopped / "away").rename(stopped / "Refine3D")
    (stopped / "Refine3D" / ".run.lock").unlink(missing_ok=True)  # of this process, which is still alive
    list(refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1)))
    assert interruptions.differences(stopped, undisturbed) == []


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (MemoryError(), "too little memory"),
        (OSError(errno.EIO, "Input/output error", "a.mrcs"), r"output error \(a\.mrcs\)"),
    ],
)
def test_other_failures_name_the_line_to_go_on_with(
    failure: Exception, sentence: str, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> Iterator[Event]:
        raise failure
        yield

    monkeypatch.setattr("napari_autorefine.jobs.refine.loop.refine", failing)
    with pytest.raises(InputError, match=rf"{sentence}.* --continue .*it003_optimiser\.star"):
        list(refine(RefineParams(continue_from=str(stopped / "Refine3D"))))


def test_an_interruption_between_two_renames_leaves_no_half_iteration(
    stopped: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, left = os.replace, iter(range(16))

    def interrupted(*paths: object) -> None:
        if "it004" in str(paths[1]) and next(left, None) is None:
            raise KeyboardInterrupt
        replace(*paths)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"refine --continue .*it003_optimiser\.star"):
        list(refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1)))
    monkeypatch.undo()
    found = list((stopped / "Refine3D").glob("run_it004_*"))
    assert 0 < len(found) < 11
    list(refine(RefineParams(continue_from=str(stopped / "Refine3D"), max_iterations=LAST + 1)))
    assert interruptions.differences(stopped, undisturbed) == []


def test_what_a_killed_run_left_is_swept_up_and_nothing_else(stopped: Path) -> None:
    output = stopped / "Refine3D"
    gone = [
        ".run.77.probe",
        ".run.lock.4194305.7",
        ".77.run_it004_data.star",
        "..77.run_it004_data.star.77.tmp",
        ".run_params.json.77.tmp",
    ]
    kept = [
        f".run.lock.{os.getpid()}.7",
        ".77.other_it004_data.star",
        ".run_notes.77.tmp",
        "run_it004_notes.txt",
        ".run_job",
    ]
    for name in (*gone, *kept):
        (output / name).touch()
    list(refine(RefineParams(continue_from=str(output), max_iterations=LAST + 1)))
    assert not [name for name in gone if (output / name).exists()]
    assert all((output / name).exists() for name in kept)


@pytest.mark.parametrize("keep", [1, 2])
def test_older_iterations_are_pruned_and_the_run_goes_on_as_before(keep: int, stopped: Path, undisturbed: Path) -> None:
    output = stopped / "Refine3D"
    list(refine(RefineParams(continue_from=str(output), max_iterations=LAST + 1, keep_iterations=keep)))
    assert {path.name for path in output.glob("*_data.star")} == {
        f"run_it{n:03d}_data.star" for n in range(LAST + 2 - keep, LAST + 2)
    }
    assert len(list(output.glob("*_half1_model.star"))) == len(list(output.glob("*_optimiser.star"))) == LAST + 2
    for name in sorted(path.name for path in output.glob(f"run_it{LAST + 1:03d}_*.mrc")):
        theirs = undisturbed / "Refine3D" / name
        np.testing.assert_array_equal(read_volume(output / name).data, read_volume(theirs).data)
    assert resumed(RefineParams(continue_from=str(output)))[1].iteration == LAST + 1
    with pytest.raises(InputError, match=r"is missing; go on from .*it004_optimiser\.star"):
        resumed(RefineParams(continue_from=str(output / "run_it001_optimiser.star")))


def test_overwriting_from_an_iteration_removes_the_later_ones(stopped: Path) -> None:
    output = stopped / "Refine3D"
    params = RefineParams(continue_from=str(output / "run_it001_optimiser.star"), overwrite=True, max_iterations=2)
    assert iterations(list(refine(params))) == [2]
    assert len(list(output.glob("run_it*_optimiser.star"))) == 3
    assert (output / "run_params.json").exists()


# RELION


def as_relion(folder: Path, *, version: str, line: str) -> None:
    """Turn the files of a run into those that RELION 3.1, 4 or 5 would have written."""
    for path in folder.glob("run_it*.star"):
        star = read_star(path)
        tables = {name: table for name, table in star.tables.items() if not name.startswith("autorefine")}
        unwanted = "model_optics_group_" if version.startswith("3") else "model_group_"
        tables = {name: table for name, table in tables.items() if not name.startswith(unwanted)}
        for name, table in tables.items():
            if name == "particles":
                tables[name] = table.drop(columns="autorefineIntensity", errors="ignore")
        comments = (f"RELION optimiser; version {version}", line) if path.name.endswith("optimiser.star") else ()
        write_star(path, tables, comments=comments)
    for path in folder.glob("*_params.json"):
        path.unlink()


LINE = "--o Refine3D/run --auto_refine --split_random_halves --i particles.star --ref ref.mrc --firstiter_cc --pool 3"


@pytest.mark.parametrize("version", ["3.1.3", "4.0.1", "5.0.1"])
def test_runs_of_relion_are_gone_on_from(version: str, stopped: Path) -> None:
    """RELION's files hold all but intensities, so that the same iteration follows when these are left out."""
    output = stopped / "Refine3D"
    list(refine(interruptions.parameters(stopped, max_iterations=2, particle_scale=False, overwrite=True)))
    list(refine(RefineParams(continue_from=str(output), max_iterations=3)))
    expected = read_particles(output / "run_it003_data.star")
    optimiser = output / "run_it002_optimiser.star"
    as_relion(output, version=version, line=f"{LINE} --auto_ignore_angles --auto_resol_angles --skip_gridding")
    params, saved, messages = resumed(RefineParams(continue_from=str(optimiser), particle_scale=False))
    assert (saved.is_relion, saved.is_noise_by_group) == (True, version.startswith("3"))
    assert (params.auto_ignore_angles, params.skip_gridding, params.firstiter_cc) == (True, True, True)
    assert params.random_seed == 1
    assert f"RELION's ({version})" in texts(list(messages), "info")
    events = list(
        refine(RefineParams(continue_from=str(optimiser), overwrite=True, particle_scale=False, max_iterations=3))
    )
    assert iterations(events) == [3]
    again = read_particles(output / "run_it003_data.star")
    np.testing.assert_allclose(again.euler_deg, expected.euler_deg, atol=1e-3)
    np.testing.assert_allclose(again.origin_A, expected.origin_A, atol=1e-3)


def test_what_is_not_done_here_is_refused_or_told(stopped: Path) -> None:
    output = stopped / "Refine3D"
    as_relion(output, version="5.0.1", line=f"{LINE} --sigma_rot 3 --newest_option 4")
    with pytest.raises(InputError, match=r"cannot be gone on from: --sigma_rot: .* not supported"):
        resumed(RefineParams(continue_from=str(output)))
    path = output / "run_it003_optimiser.star"
    path.write_text(path.read_text().replace("--sigma_rot 3 ", ""))
    params, _, messages = resumed(RefineParams(continue_from=str(output)))
    assert "--newest_option" in texts(list(messages))
    assert (params.auto_ignore_angles, params.skip_gridding) == (False, True)
    path.write_text(path.read_text().replace("version 5.0.1", "version 3.1.0"))
    assert resumed(RefineParams(continue_from=str(output)))[0].skip_gridding is False
    text = path.read_text()
    path.write_text(re.sub(r"_rlnDoHelicalRefine +0", "_rlnDoHelicalRefine 1", text))
    with pytest.raises(InputError, match="helical refinement is not supported"):
        resumed(RefineParams(continue_from=str(output)))


def test_a_data_file_of_relion_with_missing_rows_is_noticed(stopped: Path) -> None:
    output = stopped / "Refine3D"
    as_relion(output, version="3.1.3", line=LINE)
    path = output / "run_it003_data.star"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-6]))
    with pytest.raises(InputError, match=r"run_it003_data\.star is damaged: it has \d+ particles"):
        resumed(RefineParams(continue_from=str(output)))


def test_relions_own_files_of_version_5(shared_data: Path) -> None:
    saved = read_run(shared_data / "sta_sim" / "Refine3D" / "stack2d" / "run_it004_optimiser.star")
    assert (saved.is_relion, saved.relion_version, saved.is_noise_by_group) == (True, (5, 0, 1), False)
    state = usable_state(saved_state(saved), saved, None)
    assert len(state.halves[0].pdf_direction) == 496  # the same directions in the same order


def relion_refine(relion: Path, folder: Path, *words: object) -> str:
    line = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3", str(relion / "relion_refine_mpi")]
    done = subprocess.run(
        [*line, *map(str, words), "--j", "1", "--pool", "3", "--dont_combine_weights_via_disc"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project folder with 60 particles of two optics groups in four micrographs, which is the current folder."""
    if shutil.which("mpirun") is None or shutil.which("relion_refine_mpi") is None:
        pytest.skip("relion_refine_mpi is not installed")
    data = phantoms.simulate(phantoms.ASYMMETRIC, 60, snr=2.0, box_size=24, pixel_size_A=4.0)
    write_particle_files(tmp_path, data, box_size=24, pixel_size_A=4.0, n_micrograph=4, n_optics=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


LINE_OF_RELION = (
    "--i particles.star --ref ref.mrc --auto_refine --split_random_halves --firstiter_cc --ini_high 40 --ctf"
    " --zero_mask --flatten_solvent --norm --scale --oversampling 1 --healpix_order 2 --offset_range 5 --offset_step 2"
    " --auto_ignore_angles --auto_resol_angles --low_resol_join_halves 40 --pad 2 --random_seed 42 --skip_gridding"
    " --particle_diameter 90"
)


def same_poses(ours: Path, theirs: Path, within_deg: float) -> float:
    """Return the share of particles with the same orientation."""
    pair = read_particles(ours), read_particles(theirs)
    rows = [np.argsort(particles.image_name) for particles in pair]
    distance = angular_distance_deg(*(p.euler_deg[row] for p, row in zip(pair, rows, strict=True)), np.eye(3)[None])
    return float(np.mean(distance < within_deg))


@pytest.mark.relion
def test_relion_goes_on_from_our_files(relion: Path, project: Path) -> None:
    params = RefineParams(
        particles="particles.star", reference="ref.mrc", output="ours/run", healpix_order=1, ini_high_A=40.0,
        particle_diameter_A=90.0, random_seed=42, max_iterations=2, cpu=True,
    )  # fmt: skip
    list(refine(params))
    (project / "theirs").mkdir()
    words = ("--continue", "ours/run_it002_optimiser.star", "--o", "theirs/run", "--auto_iter_max", 3)
    assert "Expectation iteration 3" in relion_refine(relion, project, *words)
    list(refine(RefineParams(continue_from="ours/run_it002_optimiser.star", max_iterations=3)))
    name = "run_it003_half1_class001.mrc"
    ours, theirs = (read_volume(project / place / name).data.ravel() for place in ("ours", "theirs"))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95
    assert 0.8 < ours.std() / theirs.std() < 1.25
    # RELION starts its random displacement of the grid anew: poses agree to its step.
    data = (project / place / "run_it003_data.star" for place in ("ours", "theirs"))
    assert same_poses(*data, within_deg=22.5) > 0.6


@pytest.mark.relion
def test_we_go_on_from_relions_files(relion: Path, project: Path) -> None:
    """Poses differ where the images leave them open, as the prior on offsets is not RELION's."""
    (project / "theirs").mkdir()
    relion_refine(relion, project, *LINE_OF_RELION.split(), "--o", "theirs/run", "--auto_iter_max", 3)
    for iteration in (0, 1, 2):
        optimiser = f"theirs/run_it{iteration:03d}_optimiser.star"
        saved = read_run(optimiser)
        assert (saved.relion_version, saved.is_noise_by_group) == ((3, 1, 3), True)
        list(refine(RefineParams(continue_from=optimiser, max_iterations=iteration + 1, particle_scale=False)))
        ours, theirs = (
            read_run(f"theirs/run{name}_it{iteration + 1:03d}_optimiser.star") for name in (f"_ct{iteration}", "")
        )
        maps = [run.halves[0]["map"].ravel() for run in (ours, theirs)]
        assert np.corrcoef(*maps)[0, 1] > 0.95
        assert ours.sampling["perturbation"] == pytest.approx(theirs.sampling["perturbation"], abs=1e-4)
        for name in ("healpix_order", "psi_step_deg", "offset_step_A", "offset_range_A"):
            assert ours.sampling[name] == pytest.approx(theirs.sampling[name])
        for name in ("current_size", "incr_size", "n_iter_without_resolution_gain", "n_iter_without_change"):
            assert ours.convergence[name] == theirs.convergence[name]
        noise = [run.halves[0]["sigma2_noise"][:, 3:12] for run in (ours, theirs)]
        np.testing.assert_allclose(*noise, rtol=0.15)
        np.testing.assert_array_equal(ours.particles.half, theirs.particles.half)
