"""Pages of job folders: all that is there is shown, with the numbers of the files, and nothing comes from outside."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ParticleSet
from oracles.report_folders import (
    BOX,
    N_PARTICLE,
    VOXEL_A,
    PageReader,
    ball,
    numbers,
    optimiser,
    particle_tables,
    postprocessing,
    random_euler,
    relion_refinement,
)

from napari_autorefine.cli import main
from napari_autorefine.engine.correlation import fsc
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.io.mrc import read_volume, write_stack, write_volume
from napari_autorefine.io.runs import RunFolder
from napari_autorefine.io.screening import BadImage
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.io.tables import write_star
from napari_autorefine.jobs import plots
from napari_autorefine.jobs.record import checksum
from napari_autorefine.jobs.refine import RefineParams, refine
from napari_autorefine.jobs.report import ReportParams, report
from napari_autorefine.jobs.report_page import Section, Text, Verdict

ALL = ["Resolution", "Iterations", "Maps", "Orientations", "Particles", "Spectra", "Parameters", "Provenance"]


@pytest.fixture(autouse=True)
def _without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes the time; test_report_page.py draws."""
    monkeypatch.setattr(plots, "svg_text", lambda _: '<svg viewBox="0 0 1 1"></svg>')


def page_of(folder: Path, **changes: object) -> PageReader:
    """Make the report of a folder and take it apart."""
    values = {"folder": str(folder), "output": str(folder.parent / f"{folder.name}.html"), **changes}
    events = list(report(ReportParams(**values)))
    return PageReader(written(events))


def written(events: list[Event]) -> str:
    last = events[-1]
    assert isinstance(last, Finished)
    return Path(last.outputs["report"]).read_text(encoding="utf-8")


@pytest.mark.parametrize("relion5", [True, False])
def test_a_refine3d_folder_of_relion_gives_every_section(tmp_path: Path, relion5: bool) -> None:
    folder = relion_refinement(tmp_path / "job007", relion5=relion5)
    page = page_of(folder)
    assert page.headings == ALL
    assert ("Converged." if relion5 else "Finished.") in page.text
    assert f"RELION {'5.0.1' if relion5 else '3.1.3'}" in page.text
    assert "--i particles.star --ref ref.mrc" in page.text
    assert "mic3 (2.50)" in page.text


def test_numbers_of_iterations_are_those_of_the_files(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=3)
    page = page_of(folder)
    title = "Values: iterations"
    assert page.column(title, "iteration") == ["0", "1", "2", "3", "final"]
    assert page.column(title, "search") == ["global", "global", "local", "local", "local"]
    stems = [f"run_it{n:03d}" for n in range(4)] + ["run"]
    for name, ending, table, label, factor in (
        ("resolution (Å)", "half1_model", "model_general", "rlnCurrentResolution", 1.0),
        ("mean best weight", "half1_model", "model_general", "rlnAveragePmax", 1.0),
        ("image size (px)", "half1_model", "model_general", "rlnCurrentImageSize", 1.0),
        ("accuracy (°)", "half1_model", "model_classes", "rlnAccuracyRotations", 1.0),
        ("accuracy (Å)", "half1_model", "model_classes", "rlnAccuracyTranslationsAngst", 1.0),
        ("HEALPix order", "sampling", "sampling_general", "rlnHealpixOrder", 1.0),
        ("offset range (Å)", "sampling", "sampling_general", "rlnOffsetRange", 1.0),
        ("offset step (Å)", "sampling", "sampling_general", "rlnOffsetStep", 0.5),
        ("angular step (°)", "sampling", "sampling_general", "rlnPsiStep", 0.5),
        ("without gain", "optimiser", "optimiser_general", "rlnNumberOfIterWithoutResolutionGain", 1.0),
        ("change (°)", "optimiser", "optimiser_general", "rlnChangesOptimalOrientations", 1.0),
        ("change (Å)", "optimiser", "optimiser_general", "rlnChangesOptimalOffsets", 1.0),
    ):
        wanted = []
        for stem in stems:
            kind = "model" if stem == "run" and ending == "half1_model" else ending
            pairs = read_star(folder / f"{stem}_{kind}.star").pairs(table)
            assert pairs is not None
            value = float(str(pairs[label]))
            wanted.append(np.nan if value == 999 else factor * value)
        np.testing.assert_allclose(numbers(page.column(title, name)), wanted, rtol=1e-5, err_msg=name)


def test_curves_and_factors_are_those_of_the_files(tmp_path: Path) -> None:
    folder, post = relion_refinement(tmp_path / "job007"), postprocessing(tmp_path / "job011")
    page = page_of(folder, postprocess=str(post))
    title = "Values: FSC, half-maps"
    model = read_star(folder / "run_model.star")
    spectra = model.loop("model_class_1")
    assert spectra is not None
    np.testing.assert_allclose(numbers(page.column(title, "model file")), spectra["rlnGoldStandardFsc"], atol=1e-6)
    halves = [read_volume(folder / f"run_half{n}_class001_unfil.mrc").data for n in (1, 2)]
    np.testing.assert_allclose(numbers(page.column(title, "half-maps")), fsc(*halves), atol=1e-6)
    np.testing.assert_allclose(
        numbers(page.column(title, "Å"))[1:], BOX * VOXEL_A / np.arange(1, BOX // 2 + 1), rtol=1e-5
    )
    theirs = read_star(post / "postprocess.star").loop("fsc")
    assert theirs is not None
    for name, label in (
        ("masked, corrected", "Corrected"),
        ("masked", "MaskedMaps"),
        ("half-maps, unmasked", "UnmaskedMaps"),
    ):
        values = theirs[f"rlnFourierShellCorrelation{label}"]
        np.testing.assert_allclose(numbers(page.column("Values: FSC, post-processing", name)), values, atol=1e-6)
    groups = model.loop("model_groups")
    assert groups is not None
    assert page.column("Values: greyscale factors", "group") == groups["rlnGroupName"].tolist()
    np.testing.assert_allclose(
        numbers(page.column("Values: greyscale factors", "factor")), groups["rlnGroupScaleCorrection"], atol=1e-6
    )
    assert "Resolution 8.00 Å." in page.text
    assert "The refinement itself says 9.00 Å" in page.text
    assert "−87.5 Å²" in page.text


def test_a_mask_adds_masked_and_corrected_curves(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007")
    mask = np.clip(ball(4.0), 0, 1)
    write_volume(tmp_path / "mask.mrc", mask, VOXEL_A)
    page = page_of(folder, mask=str(tmp_path))  # the folder of the job that made it
    halves = [read_volume(folder / f"run_half{n}_class001_unfil.mrc").data for n in (1, 2)]
    found = numbers(page.column("Values: FSC, half-maps", "masked"))
    np.testing.assert_allclose(found, fsc(halves[0], halves[1], mask), atol=1e-6)
    assert "masked, corrected" in page.tables["Values: FSC, half-maps"][0]


def test_the_mask_of_the_run_is_found_beside_it(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "Refine3D" / "job007")
    write_star(
        folder / "run_optimiser.star", optimiser(-1, rlnHasConverged=1, rlnSolventMaskName="MaskCreate/job3/m.mrc")
    )
    assert "was not found" in page_of(folder).text
    write_volume(tmp_path / "MaskCreate" / "job3" / "m.mrc", np.clip(ball(4.0), 0, 1), VOXEL_A)
    assert "masked" in page_of(folder, overwrite=True).tables["Values: FSC, half-maps"][0]


def test_our_own_run_with_an_image_set_aside(particle_set: ParticleSet) -> None:
    list(
        refine(
            RefineParams(
                particles=str(particle_set.star),
                reference=str(particle_set.reference),
                output=str(particle_set.output),
                particle_diameter_A=30.0,
                random_seed=1,
                threads=1,
                cpu=True,
                max_iterations=2,
            )
        )
    )
    bad = BadImage(row=2, file="a.mrcs", slice=2, reason="all pixels have the same value")
    RunFolder(particle_set.output).write_excluded([bad], read_particles(particle_set.star))
    folder = particle_set.output.parent
    page = page_of(folder)
    assert set(ALL) <= {*page.headings, "Maps", "Not in this folder"}
    assert "1 image was set aside." in page.text
    (aside,) = [rows for rows in page.tables.values() if rows[0][0] == "row of the input"]
    assert aside[1] == ["2", "000002@a.mrcs", "all pixels have the same value"]
    inputs = {row[1]: row for row in page.tables["Inputs"][1:]}
    assert inputs[str(particle_set.star)][3:] == [checksum(particle_set.star), "unchanged"]
    assert "autorefine refine" in page.text
    particle_set.star.write_text(particle_set.star.read_text() + "\n")
    again = page_of(folder, overwrite=True)
    assert {row[1]: row[4] for row in again.tables["Inputs"][1:]}[str(particle_set.star)] == "changed since"


def test_what_is_missing_is_said_and_the_rest_is_shown(tmp_path: Path) -> None:
    full = relion_refinement(tmp_path / "full")
    folder = tmp_path / "partial"
    folder.mkdir()
    (folder / "run_model.star").write_bytes((full / "run_model.star").read_bytes())
    page = page_of(folder)
    assert page.headings == ["Resolution", "Iterations", "Particles", "Spectra", "Not in this folder", "Provenance"]
    for sentence in ("run_…data.star: nothing on single particles", "run_…optimiser.star: no options", "no joined map"):
        assert sentence in page.text
    assert "Resolution 9.00 Å." in page.text


def test_views_come_from_the_model_file_when_the_particles_are_gone(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007")
    (folder / "run_data.star").unlink()
    page = page_of(folder)
    assert "Shares per direction in the model file" in page.text
    assert "Sampling compensation factor" in page.text


def test_a_running_refinement(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=2, is_final=False)
    page = page_of(folder)
    assert "Not finished." in page.text
    assert "The newest files are of iteration 2" in page.text
    assert "Where the FSC falls to 0.5" in page.text
    assert page.column("Values: iterations", "iteration") == ["0", "1", "2"]


def test_the_newest_of_several_runs_is_shown_and_the_others_named(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=1, name="first")
    relion_refinement(folder, n=3, name="second")
    for path in folder.glob("first_*"):
        os.utime(path, (1e9, 1e9))
    events = list(report(ReportParams(folder=str(folder))))
    warnings = [event.text for event in events if isinstance(event, Message) and event.level == "warning"]
    assert any("this is second, the newest" in text and "first" in text for text in warnings)
    chosen = page_of(folder, run="first")
    assert chosen.column("Values: iterations", "iteration") == ["0", "1", "final"]
    by_prefix = PageReader(
        written(list(report(ReportParams(folder=str(folder / "first"), output=str(tmp_path / "f.html")))))
    )
    assert by_prefix.column("Values: iterations", "iteration") == ["0", "1", "final"]
    with pytest.raises(InputError, match="no run named third; it has second, first"):
        page_of(folder, run="third", overwrite=True)


def test_a_continued_run_begins_with_the_run_it_continues(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=3, is_final=False)
    relion_refinement(tmp_path / "later", n=5)
    for path in (tmp_path / "later").iterdir():
        if not re.search(r"_it00[012]_", path.name):
            (folder / path.name.replace("run_", "run_ct2_", 1)).write_bytes(path.read_bytes())
    page = page_of(folder, run="run_ct2")
    assert page.column("Values: iterations", "iteration") == ["0", "1", "2", "3", "4", "5", "final"]


def test_a_report_is_only_replaced_when_asked(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=1)
    list(report(ReportParams(folder=str(folder))))
    target = folder / "report.html"
    target.write_text("mine")
    with pytest.raises(InputError, match=r"report\.html exists; choose another --o or add --overwrite"):
        list(report(ReportParams(folder=str(folder))))
    assert target.read_text() == "mine"
    list(report(ReportParams(folder=str(folder), overwrite=True)))
    assert "<!DOCTYPE html>" in target.read_text(encoding="utf-8")
    assert not list(folder.glob(".*tmp"))


def test_sections_and_verdicts_of_another_job_are_added(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=1)
    extra = Section(title="Errors against the truth", blocks=[Text(text="A <small> one & more.")])
    verdict = Verdict(level="good", headline="The truth is known.")
    events = list(report(ReportParams(folder=str(folder)), extra=[extra], verdicts=[verdict]))
    page = PageReader(written(events))
    place = page.headings.index("Errors against the truth")
    assert page.headings[place - 1] == "Particles"
    assert "A <small> one & more." in page.text
    assert page.text.index("The truth is known.") < page.text.index("Converged.")


def test_a_post_processing_has_a_page_of_its_own(tmp_path: Path) -> None:
    page = page_of(postprocessing(tmp_path / "job011"))
    assert page.headings == ["Resolution", "Parameters", "Provenance"]
    assert "Resolution 8.00 Å." in page.text
    assert "RELION 3.1.3" in page.text


def test_an_extraction_has_a_page_with_counts_and_a_montage(tmp_path: Path) -> None:
    folder = tmp_path / "Extract" / "job002"
    folder.mkdir(parents=True)
    write_star(folder / "particles.star", particle_tables(random_euler(), np.zeros((N_PARTICLE, 2))))
    without = page_of(folder)
    assert "the files of the images were not found" in without.text
    for n in range(4):
        write_stack(
            folder / f"mic{n}.mrcs", np.random.default_rng(n).standard_normal((40, 8, 8)).astype(np.float32), 3.0
        )
    page = page_of(folder, overwrite=True)
    assert page.headings == ["Particles", "Provenance"]
    assert ["Particles", str(N_PARTICLE)] in page.tables["Particles"]
    assert ["Micrographs", "4"] in page.tables["Particles"]
    assert page.tables["Optics groups"][1][:3] == ["1", "opticsGroup1", "3"]
    assert "The first 32 particles" in page.text


def test_bad_input_is_one_sentence_and_nothing_is_written(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=1)
    empty = tmp_path / "empty"
    empty.mkdir()
    write_volume(tmp_path / "small.mrc", np.ones((8, 8, 8), np.float32), VOXEL_A)
    running = relion_refinement(tmp_path / "running", n=1, is_final=False)
    broken = relion_refinement(tmp_path / "broken", n=1)
    (broken / "run_it001_half1_model.star").write_text("data_model_general\n\nloop_\n_rlnA #1\n_rlnB #2\n1\n")
    classes = relion_refinement(tmp_path / "classes", n=1)
    write_star(classes / "run_it001_optimiser.star", optimiser(1, rlnDoAutoRefine=0))
    for values, sentence in (
        ({"folder": tmp_path / "nowhere"}, r"Folder .*nowhere does not exist"),
        ({"folder": empty}, r"not the folder of a job .*optimiser\.star .*postprocess\.star .*particles\.star"),
        ({"folder": broken}, r"run_it001_half1_model\.star, line 6: this row .* has 1 value"),
        ({"folder": classes}, "is of a classification"),
        ({"folder": tmp_path / "small.mrc"}, "is a file of no refinement"),
        ({"folder": folder, "mask": tmp_path / "small.mrc"}, "box of 8 px, the half-maps one of 16 px"),
        ({"folder": folder, "mask": tmp_path / "none.mrc"}, r"none\.mrc does not exist"),
        ({"folder": running, "mask": tmp_path / "small.mrc"}, "no unfiltered half-maps yet"),
        ({"folder": folder, "postprocess": empty}, r"holds no postprocess\.star"),
        ({"folder": folder, "mask": empty}, "holds no mask file"),
        ({"folder": folder, "output": empty}, r"is a folder; give the name of the page too, as .*empty/report\.html"),
    ):
        with pytest.raises(InputError, match=sentence) as caught:
            list(report(ReportParams(**{name: str(value) for name, value in values.items()})))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.html"))


def test_the_command_line_ends_with_status_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err
    folder = relion_refinement(tmp_path / "job007", n=1)
    assert main(["report", str(folder), "--o", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("place", "resolution", "headings"),
    [
        ("star/relion3.1_tutorial/Refine3D/job019", "7.58", {"Resolution", "Orientations", "Particles", "Spectra"}),
        ("star/relion5_tomo_HIV/Refine3D/job012", "16.54", {"Resolution", "Spectra", "Not in this folder"}),
        ("star/relion5_tomo_HIV/Refine3D/job023", "4.32", {"Resolution", "Orientations", "Particles"}),
        ("sta_sim/Refine3D/stack2d", "15.25", {"Resolution", "Iterations", "Maps", "Orientations", "Particles"}),
    ],
)
def test_recorded_folders_of_relion(
    tmp_path: Path, shared_data: Path, place: str, resolution: str, headings: set[str]
) -> None:
    events = list(report(ReportParams(folder=str(shared_data / place), output=str(tmp_path / "report.html"))))
    page = PageReader(written(events))
    assert headings <= set(page.headings)
    assert f"Resolution {resolution} Å." in page.text


def test_recorded_post_processing_of_relion(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "relion_jobs" / "reconstruct" / "post"
    page = PageReader(written(list(report(ReportParams(folder=str(folder), output=str(tmp_path / "r.html"))))))
    assert "Resolution 9.88 Å." in page.text
    assert "masked, corrected 9.88 Å" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_empty_shells_of_relion_do_not_stop_a_report(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=1)
    for path in folder.glob("*model.star"):
        star = read_star(path)
        spectra = star.loop("model_class_1")
        assert spectra is not None
        spectra["rlnGoldStandardFsc"] = spectra["rlnGoldStandardFsc"].where(spectra["rlnSpectralIndex"] < 7, np.nan)
        spectra["rlnReferenceSigma2"] = np.inf
        write_star(path, star.tables)
    data = read_star(folder / "run_data.star")
    particles = data.loop("particles")
    assert particles is not None
    particles.loc[3, "rlnNormCorrection"] = np.nan
    write_star(folder / "run_data.star", data.tables)
    assert page_of(folder).headings == ALL


def test_a_value_that_is_no_number_is_named_with_its_file(tmp_path: Path) -> None:
    folder = relion_refinement(tmp_path / "job007", n=1)
    path = folder / "run_it001_sampling.star"
    path.write_text(re.sub(r"(_rlnOffsetStep +)\S+", r"\1wide", path.read_text()))
    with pytest.raises(
        InputError, match=r"run_it001_sampling\.star: the value 'wide' of rlnOffsetStep is not a number"
    ):
        page_of(folder)
