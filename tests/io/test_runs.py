from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.engine.state import Convergence, HalfModel, Poses, RefinementState, Sampling
from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_volume, write_stack, write_volume
from napari_autorefine.io.runs import RunFolder, RunSettings, read_run
from napari_autorefine.io.screening import BadImage
from napari_autorefine.io.star import read_particles, read_star, write_particles

RNG = np.random.default_rng(11)
BOX, N = 16, 12
DIRECTIONS = np.stack([RNG.uniform(-180, 180, 192), RNG.uniform(0, 180, 192)], axis=1)


def model(n_group=2, unfiltered=False) -> HalfModel:
    n_shell = BOX // 2 + 1

    def positive() -> np.ndarray:
        return RNG.uniform(1e-9, 2.0, n_shell)

    volume = RNG.normal(size=(BOX,) * 3).astype(np.float32)
    return HalfModel(
        map=volume,
        unfiltered_map=2 * volume if unfiltered else None,
        tau2=positive(),
        ssnr=positive(),
        sigma2_map=positive(),
        completeness=positive(),
        sigma2_noise=np.stack([positive()]),
        scale=RNG.uniform(0.8, 1.2, n_group),
        norm_average=0.987654321012345,
        sigma_offset_A=3.14159265358979,
        pdf_direction=RNG.dirichlet(np.ones(192)),
        mean_p_max=0.51234567,
        log_likelihood=-1.23456789e8,
        accuracy_rot_deg=1.2345678,
        accuracy_trans_A=0.7654321,
        orientability=positive(),
        **{field.name: 0.123456789012 for field in dataclasses.fields(HalfModel) if isinstance(field.default, float)},
    )


def state(iteration=3, **changes) -> RefinementState:
    poses = Poses(
        euler_deg=RNG.uniform(-180, 180, (N, 3)),
        origin_A=RNG.normal(size=(N, 2)),
        p_max=RNG.uniform(size=N),
        log_likelihood=RNG.normal(size=N) * 1e4,
        n_significant=RNG.integers(1, 100, N),
        norm_correction=RNG.uniform(0.9, 1.1, N),
        intensity=RNG.uniform(0.1, 2.0, N),
    )
    sampling = Sampling(
        symmetry="D2",
        healpix_order=3,
        psi_step_deg=7.5,
        offset_range_A=10.123456789,
        offset_step_A=4.987654321,
        perturbation=0.123456789,
        is_local=True,
        sigma_angle_deg=3.75,
        offset_range_original_A=15.0,
        offset_step_original_A=6.0,
    )
    convergence = Convergence(
        current_resolution_A=9.87654321,
        current_size=12,
        coarse_size=8,
        n_iter_without_resolution_gain=1,
        best_resolution_A=9.5,
        change_rot_deg=2.5,
        is_fine_enough=True,
        has_high_fsc=True,
    )
    values = {
        "iteration": iteration,
        "box_size": BOX,
        "voxel_size_A": 3.0,
        "halves": (model(), model()),
        "fsc": RNG.uniform(size=BOX // 2 + 1),
        "poses": poses,
        "sampling": sampling,
        "convergence": convergence,
    }
    return RefinementState(**{**values, **changes})


@pytest.fixture
def particles(particle_set):
    read = read_particles(particle_set.star)
    return dataclasses.replace(read, half=np.tile(np.array([1, 2], np.int8), N // 2))


@pytest.fixture
def folder(particle_set):
    return RunFolder(particle_set.output, RunSettings(command_line="--i particles.star", random_seed=42, pad=1))


def test_names_of_an_iteration(folder, particles):
    written = folder.write_iteration(state(), particles, directions_deg=DIRECTIONS)
    names = {path.name for path in folder.prefix.parent.iterdir()}
    assert names == {path.name for path in written}
    assert names == {
        "run_it003_half1_class001.mrc",
        "run_it003_half2_class001.mrc",
        "run_it003_half1_class001_angdist.bild",
        "run_it003_half2_class001_angdist.bild",
        "run_it003_half1_model.star",
        "run_it003_half2_model.star",
        "run_it003_data.star",
        "run_it003_sampling.star",
        "run_it003_optimiser.star",
    }
    assert written[-1].name == "run_it003_optimiser.star"


def test_names_of_the_finished_run(folder, particles):
    halves = (model(unfiltered=True), model(unfiltered=True))
    final = state(halves=halves, joined=model(), is_final=True)
    folder.write_final(final, particles, directions_deg=DIRECTIONS)
    folder.write_params({"particles": "particles.star", "threads": 2})
    names = {path.name for path in folder.prefix.parent.iterdir()}
    assert names == {
        "run_class001.mrc",
        "run_class001_angdist.bild",
        "run_half1_class001_unfil.mrc",
        "run_half2_class001_unfil.mrc",
        "run_data.star",
        "run_model.star",
        "run_sampling.star",
        "run_optimiser.star",
        "run_params.json",
    }
    unfiltered = read_volume(folder.path("half2_class001_unfil.mrc"))
    np.testing.assert_array_equal(unfiltered.data, halves[1].unfiltered_map)
    assert unfiltered.voxel_size_A == pytest.approx(3.0)
    optimiser = read_star(folder.path("optimiser.star")).tables["optimiser_general"]
    assert optimiser["rlnCurrentIteration"] == -1
    assert optimiser["rlnDoSplitRandomHalves"] == 0
    assert "rlnModelStarFile2" not in optimiser
    assert json.loads(folder.path("params.json").read_text())["threads"] == 2
    with pytest.raises(InputError, match="finished run"):
        read_run(folder.path("optimiser.star"))


def test_a_run_is_read_back_exactly(folder, particles):
    """Continuing from files must not differ from never having stopped."""
    before = state()
    folder.write_iteration(before, particles, directions_deg=DIRECTIONS)
    folder.write_params({"threads": 2})
    saved = read_run(folder.path("optimiser.star", 3))
    after = RefinementState(
        iteration=saved.iteration,
        box_size=saved.box_size,
        voxel_size_A=saved.voxel_size_A,
        halves=(HalfModel(**saved.halves[0]), HalfModel(**saved.halves[1])),
        fsc=saved.fsc,
        poses=Poses(**saved.poses),
        sampling=Sampling(**saved.sampling),
        convergence=Convergence(**saved.convergence),
    )
    assert_same(before, after)
    assert saved.options["random_seed"] == 42
    assert saved.options == {
        field.name: getattr(folder.settings, field.name)
        for field in dataclasses.fields(folder.settings)
        if field.name not in {"command_line", "files"}
    }
    assert saved.params["threads"] == 2
    assert saved.prefix == str(folder.prefix)
    assert saved.group_names == ("a.mrc", "b.mrc")
    np.testing.assert_array_equal(saved.particles.half, particles.half)


def assert_same(a, b):
    assert type(a) is type(b)
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name))
    elif isinstance(a, tuple):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, np.ndarray):
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b


def test_a_run_that_moved_is_found_beside_its_optimiser_file(folder, particles, tmp_path):
    folder.write_iteration(state(), particles, directions_deg=DIRECTIONS)
    moved = tmp_path / "moved"
    folder.prefix.parent.rename(moved)
    assert read_run(moved / "run_it003_optimiser.star").iteration == 3


def test_no_file_of_an_iteration_appears_before_all_are_complete(folder, particles):
    broken = dataclasses.replace(state(), fsc=np.zeros(2))
    with pytest.raises(ValueError, match="length"):
        folder.write_iteration(broken, particles, directions_deg=DIRECTIONS)
    assert list(folder.prefix.parent.iterdir()) == []


def test_existing_runs_are_noticed(folder, particles):
    folder.check_free()
    folder.write_iteration(state(), particles, directions_deg=DIRECTIONS)
    (folder.prefix.parent / "run2_it000_optimiser.star").touch()
    (folder.prefix.parent / "run_other_it000_optimiser.star").touch()
    assert [path.name for path in folder.existing()] == ["run_it003_optimiser.star"]
    with pytest.raises(InputError, match="exists already"):
        folder.check_free()


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run").prepare()


def test_images_set_aside_are_listed(folder, particles):
    bad = (BadImage(row=7, file="b.mrcs", slice=1, reason="it holds NaN or Inf"),)
    table = read_star(folder.write_excluded(bad, particles)).tables["excluded"]
    assert table["rlnImageName"].tolist() == ["000001@b.mrcs"]
    assert table["autorefineReason"].tolist() == ["it holds NaN or Inf"]


def test_labels_are_relions(folder, particles, shared_data):
    """Every label that RELION 3.1 wrote in its files, apart from what it only needs for gradient refinement."""
    folder.write_iteration(state(), particles, directions_deg=DIRECTIONS)
    theirs = shared_data / "star" / "relion3.1_tutorial" / "Refine3D" / "job019"
    for ending in ("half1_model.star", "sampling.star", "optimiser.star"):
        ours = read_star(folder.path(ending, 3)).tables
        for name, table in read_star(theirs / f"run_it020_{ending}").tables.items():
            if name.startswith("model_group_"):  # noise per micrograph, per optics group since RELION 4
                continue
            missing = set(table) - set(ours[name])
            assert all("Sgd" in label for label in missing), (ending, name, missing)


def test_relions_own_runs_can_be_read(shared_data):
    run = shared_data / "sta_sim" / "Refine3D" / "stack2d" / "run_it004_optimiser.star"
    saved = read_run(run)
    assert (saved.iteration, saved.box_size, saved.voxel_size_A) == (4, 48, pytest.approx(5.4))
    assert saved.sampling["symmetry"] == "C6"
    assert saved.sampling["is_local"]
    assert saved.convergence["best_resolution_A"] == pytest.approx(1 / 0.050154)
    assert HalfModel(**saved.halves[1]).map.shape == (48, 48, 48)
    assert RunSettings(**saved.options).particle_diameter_A == 160.0
    with pytest.raises(InputError, match="finished run"):
        read_run(shared_data / "sta_sim" / "Refine3D" / "stack2d" / "run_optimiser.star")
    with pytest.raises(InputError, match="not a file of a refinement"):
        read_run(shared_data / "sta_sim" / "Refine3D" / "stack2d" / "run_data.star")


def relion_run(relion: Path, program: str, *words: object, cwd: Path) -> str:
    line = [str(relion / program), *map(str, words)]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def finished(folder, particles, particle_set):
    smooth = read_volume(particle_set.reference).data
    halves = tuple(
        dataclasses.replace(model(), unfiltered_map=(smooth + 0.3 * RNG.normal(size=smooth.shape)).astype(np.float32))
        for _ in range(2)
    )
    final = state(halves=halves, joined=dataclasses.replace(model(), map=smooth), is_final=True)
    folder.write_final(final, particles, directions_deg=DIRECTIONS)
    return folder


@pytest.mark.relion
def test_relion_postprocess_takes_our_half_maps(relion, finished, particle_set):
    half = finished.path("half1_class001_unfil.mrc")
    words = ("--i", half, "--mask", particle_set.mask, "--angpix", 3.0, "--o", particle_set.folder / "post")
    assert "FINAL RESOLUTION" in relion_run(relion, "relion_postprocess", *words, cwd=particle_set.folder)
    assert read_volume(particle_set.folder / "post.mrc").data.shape == (BOX,) * 3


@pytest.mark.relion
def test_relion_star_handler_keeps_our_particles(relion, finished, particle_set, particles):
    words = ("--i", finished.path("data.star"), "--o", particle_set.folder / "handled.star", "--center")
    relion_run(relion, "relion_star_handler", *words, "--center_X", 0, cwd=particle_set.folder)
    ours, theirs = (read_particles(path) for path in (finished.path("data.star"), particle_set.folder / "handled.star"))
    np.testing.assert_allclose(theirs.euler_deg, ours.euler_deg, atol=6e-6)
    np.testing.assert_allclose(theirs.origin_A, ours.origin_A, atol=6e-6)
    assert theirs.image_name.tolist() == particles.image_name.tolist()
    assert theirs.half.tolist() == particles.half.tolist()
    assert list(theirs.table.columns)[: len(particles.table.columns)] == list(particles.table.columns)


@pytest.mark.relion
def test_relion_star_handler_reads_every_table_of_a_run(relion, finished, particles, particle_set):
    finished.write_iteration(state(), particles, directions_deg=DIRECTIONS)
    for path in sorted(finished.prefix.parent.glob("run*model.star")):
        words = (path, "data_model_class_1", "rlnSpectralIndex", "rlnReferenceTau2")
        printed = relion_run(relion, "relion_star_printtable", *words, cwd=particle_set.folder)
        ours = read_star(path).tables["model_class_1"]
        theirs = np.array([line.split() for line in printed.splitlines() if line.strip()], float)
        np.testing.assert_allclose(theirs[:, 0], ours["rlnSpectralIndex"])
        np.testing.assert_allclose(theirs[:, 1], ours["rlnReferenceTau2"], rtol=1e-5)


@pytest.mark.relion
def test_relion_reconstruct_takes_our_particles(relion, finished, particle_set):
    out = particle_set.folder / "rec.mrc"
    words = ("--i", finished.path("data.star"), "--o", out, "--ctf", "--subset", 1)
    relion_run(relion, "relion_reconstruct", *words, cwd=particle_set.folder)
    volume = read_volume(out)
    assert volume.data.shape == (BOX,) * 3
    assert volume.voxel_size_A == pytest.approx(3.0)


@pytest.mark.relion
def test_relion_refine_takes_our_particles_and_map(relion, finished, particle_set):
    out = particle_set.folder / "relion"
    out.mkdir()
    words = ("--i", finished.path("data.star"), "--ref", finished.path("class001.mrc"), "--o", out / "run")
    more = ("--iter", 1, "--K", 1, "--ctf", "--particle_diameter", 40, "--healpix_order", 0, "--ini_high", 20)
    relion_run(relion, "relion_refine", *words, *more, "--skip_gridding", "--dont_check_norm", cwd=particle_set.folder)
    assert (out / "run_it001_data.star").is_file()


@pytest.mark.relion
def test_quoted_texts_and_long_numbers_reach_relion(relion, particle_set):
    particles = read_particles(particle_set.star)
    table = particles.table.assign(rlnCtfScalefactor=1e-9, rlnGroupName="two words", rlnDefocusAngle=1 / 3)
    changed = dataclasses.replace(particles, table=table)
    path, out = particle_set.folder / "in.star", particle_set.folder / "out.star"
    write_particles(path, changed)
    relion_run(relion, "relion_star_handler", "--i", path, "--o", out, "--center", cwd=particle_set.folder)
    again = read_particles(out).table
    assert set(again["rlnGroupName"]) == {"two words"}
    assert again["rlnCtfScalefactor"].tolist() == [1e-9] * N
    np.testing.assert_allclose(again["rlnDefocusAngle"], 1 / 3, atol=1e-6)


def test_maps_written_over_a_stack_name(tmp_path):
    write_stack(tmp_path / "a.mrcs", np.ones((2, 4, 4), np.float32), 1.0)
    write_volume(tmp_path / "a.mrc", np.ones((4, 4, 4), np.float32), 2.0)
    assert read_volume(tmp_path / "a.mrc").voxel_size_A == 2.0
