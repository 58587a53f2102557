"""Cutting particles from tilt series: RELION's files are reproduced, recentred particles are cut at their centers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.tomo import average, shell_correlation

from napari_autorefine.cli import parse
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.io.mrc import read_data, read_volume
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.io.tomo_inputs import gather_files, read_tomo_inputs
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.subtomo import SubtomoParams, subtomo
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.resize import fourier_resize

BOX, PIXEL = 16, 8.0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a noise-free set, binned twice."""
    rng = np.random.default_rng(3)
    atoms = Atoms(xyz_A=rng.normal(0, 16.0, (60, 3)), element=np.array(["C", "N", "O", "P", "S"] * 12)).centered()
    prefix = tmp_path_factory.mktemp("tomo") / "set"
    options = SimulateParams(
        output=str(prefix), n_particle=8, box_size=BOX, pixel_size_A=PIXEL / 2, binning=2, threads=2, tomo="2d",
        tilt_step_deg=10.0, snr=0.0, bfactor_A2=300.0, offset_sigma_A=5.0, particle_diameter_A=90.0,
    )  # fmt: skip
    list(simulate_atoms(atoms, options))
    return prefix


def run(prefix: Path, job: Path, **changes: object) -> list[Event]:
    values = {
        "particles": f"{prefix}.star", "tomograms": f"{prefix}_tomograms.star", "output": str(job), "binning": 2.0,
        "box_size_px": 22, "crop_size_px": BOX, "threads": 1,
    }  # fmt: skip
    return list(subtomo(SubtomoParams(**(values | changes))))


def test_cutting_again_gives_the_same_files(made: Path, tmp_path: Path) -> None:
    events = run(made, tmp_path / "job")
    assert isinstance(events[-1], Finished)
    ours, theirs = (read_star(path) for path in (tmp_path / "job" / "particles.star", f"{made}.star"))
    for name, table in theirs.tables.items():
        if isinstance(table, dict):
            assert ours.tables[name] == table
            continue
        same = [label for label in table if label != "rlnImageName"]
        assert (ours.tables[name][same] == table[same]).all().all()  # type: ignore[index]
    for first, second in zip(*(star.tables["particles"]["rlnImageName"] for star in (ours, theirs)), strict=True):  # type: ignore[index]
        assert np.array_equal(read_data(first)[0], read_data(second)[0])


def test_recentered_particles_are_cut_at_their_centers_in_another_binning(made: Path, tmp_path: Path) -> None:
    """From the true poses: origins end as zero in the coordinate, angles stay, and the average is the true map."""
    run(made, tmp_path / "job", particles=f"{made}_truth.star", binning=1.0, box_size_px=44, crop_size_px=2 * BOX)
    inputs = read_tomo_inputs(gather_files(tmp_path / "job" / "optimisation_set.star", {}))
    truth = read_particles(f"{made}_truth.star")
    assert np.abs(truth.origin_A).max() > 1
    assert not inputs.particles.origin_A.any()
    assert np.array_equal(inputs.particles.euler_deg, truth.euler_deg)
    assert np.array_equal(inputs.particles.half, truth.half)
    assert inputs.particles.optics[0].pixel_size_A == PIXEL / 2
    found = average(inputs, truth.euler_deg, np.zeros((8, 3)), np.arange(8))
    map_ = fourier_resize(read_volume(f"{made}_truth.mrc").data, 2 * BOX)
    assert shell_correlation(found, map_)[2:7].min() > 0.8


def test_particles_that_too_few_tilts_show_are_left_out(made: Path, tmp_path: Path) -> None:
    text = Path(f"{made}.star").read_text()
    name = next(line for line in text.splitlines() if "TS_1/2" in line)
    words = name.split()
    words[1] = "100000"  # far outside
    (tmp_path / "picks.star").write_text(text.replace(name, " ".join(words)))
    events = run(made, tmp_path / "job", particles=str(tmp_path / "picks.star"))
    warnings = [event.text for event in events if isinstance(event, Message) and event.level == "warning"]
    assert warnings == ["1 particles are whole in too few tilt images and left out."]
    left = read_particles(tmp_path / "job" / "particles.star")
    assert len(left) == 7
    assert "TS_1/2" not in set(left.table["rlnTomoParticleName"])
    with pytest.raises(InputError, match="No tilt image shows a whole particle"):
        run(made, tmp_path / "none", min_frames=100)
    assert not (tmp_path / "none" / "particles.star").exists()


def test_picks_without_optics_and_images(made: Path, tmp_path: Path) -> None:
    star = read_star(f"{made}.star")
    rows = star.tables["particles"]
    lines = [
        f"{name} {x} {y} {z}"
        for name, x, y, z in rows[["rlnTomoName", *(f"rlnCenteredCoordinate{a}Angst" for a in "XYZ")]].itertuples(
            index=False
        )
    ]  # type: ignore[index, union-attr]
    head = "".join(f"_{label}\n" for label in ("rlnTomoName", *(f"rlnCenteredCoordinate{a}Angst" for a in "XYZ")))
    (tmp_path / "picks.star").write_text(
        "# version 50001\n\ndata_particles\n\nloop_\n" + head + "\n".join(lines) + "\n"
    )
    run(made, tmp_path / "job", particles=str(tmp_path / "picks.star"), stack2d=False)
    particles = read_particles(tmp_path / "job" / "particles.star")
    assert particles.form == "volume"
    assert particles.table["rlnTomoParticleName"].tolist()[3:5] == ["TS_1/4", "TS_2/1"]
    assert particles.optics[0].voltage_kV == 300.0
    assert not particles.subtomograms.rotation_deg.any()  # type: ignore[union-attr]


def test_missing_tilt_images_are_named(made: Path, tmp_path: Path) -> None:
    text = Path(f"{made}_tomograms.star").read_text()
    tilts = tmp_path / "TS_1.star"
    tilts.write_text(Path(f"{made}_tilt_series/TS_1.star").read_text().replace("TS_1.mrcs", "gone.mrcs"))
    (tmp_path / "tomograms.star").write_text(text.replace(f"{made}_tilt_series/TS_1.star", str(tilts)))
    with pytest.raises(InputError, match=r"tilt images of TS_1 do not exist, the first is 000001@.*gone.mrcs"):
        run(made, tmp_path / "job", tomograms=str(tmp_path / "tomograms.star"))
    with pytest.raises(InputError, match=r"rlnTomoTomogramsFile nowhere\.star does not exist"):
        run(made, tmp_path / "job", tomograms="nowhere.star")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": ""}, "--o is missing"),
        ({"tomograms": ""}, "give an optimisation set with --i, or --p and --t"),
        ({"box_size_px": 21}, "box sizes must be even, they are 21 and 16"),
        ({"crop_size_px": 40}, "crop 40 is larger than the box of 22"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    made: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(made, tmp_path / "job", **changes)


def test_a_line_of_relion_is_understood() -> None:
    line = (
        "--p picks.star --t tomograms.star --theme classic --o Extract/job007/ --b 64 --crop 48 --bin 2 --max_dose 48"
        " --min_frames 1 --stack2d --float16 --j 4 --pipeline_control Extract/job007/"
    )
    params, _ = parse(JOBS["subtomo"], line.split())
    assert (params.crop_size_px, params.stack2d, params.threads) == (48, True, 4)  # type: ignore[attr-defined]
    params, _ = parse(JOBS["subtomo"], line.replace(" --stack2d --float16", "").split())
    assert (params.stack2d, params.float16) == (False, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("picks", "kind", "crop"), [("picks.star", "stack2d", 48), ("picks_3d.star", "sub3d", 40)])
def test_tables_and_images_of_relion(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, picks: str, kind: str, crop: int
) -> None:
    folder = shared_data / "sta_sim"
    text = (folder / picks).read_text().splitlines()
    few = [line for line in text if "TS_" not in line or line.split()[1] in {"TS_1/1", "TS_1/24", "TS_2/10"}]
    (tmp_path / "picks.star").write_text("\n".join(few) + "\n")
    monkeypatch.chdir(folder)
    options = SubtomoParams(
        particles=str(tmp_path / "picks.star"), tomograms="tomograms.star", output=str(tmp_path / "job"), threads=2,
        box_size_px=64, crop_size_px=crop, max_dose_e_A2=48.0, stack2d=kind == "stack2d",
    )  # fmt: skip
    list(subtomo(options))
    ours, theirs = (read_star(path) for path in (tmp_path / "job" / "particles.star", f"Extract/{kind}/particles.star"))
    assert ours.tables["general"] == theirs.tables["general"]
    assert (ours.tables["optics"] == theirs.tables["optics"][list(ours.tables["optics"])]).all().all()  # type: ignore[index, arg-type]
    expected = theirs.tables["particles"].set_index("rlnTomoParticleName")  # type: ignore[union-attr]
    found = ours.tables["particles"].set_index("rlnTomoParticleName")  # type: ignore[union-attr]
    assert set(found) == set(expected)
    for name in found.index:
        for label in expected:
            ours_is, theirs_is = found.loc[name, label], expected.loc[name, label]
            if label in {"rlnImageName", "rlnCtfImage"}:
                assert ours_is == str(tmp_path / "job" / theirs_is.removeprefix(f"Extract/{kind}/"))
                (a, ours_header), (b, theirs_header) = read_data(ours_is), read_data(theirs_is)
                assert np.abs(a - b).max() < 0.005 * max(b.std(), b.max() / 10)
                assert (ours_header.mode, ours_header.shape) == (theirs_header.mode, theirs_header.shape)
                assert np.allclose(ours_header.voxel_size_A[:2], theirs_header.voxel_size_A[:2], rtol=1e-5)
            elif isinstance(theirs_is, float):
                assert ours_is == pytest.approx(theirs_is, abs=2e-5)
            else:
                assert ours_is == theirs_is
