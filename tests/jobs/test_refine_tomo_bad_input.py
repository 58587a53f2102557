"""Each of these particles of tomograms ends a refinement with status 2, one clear sentence and no output files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles.tomo_files import BOX, PIXEL, VISIBLE, TomoFiles, write_tomo_files

from napari_autorefine.cli import main
from napari_autorefine.io.mrc import write_stack, write_volume
from napari_autorefine.jobs.refine_inputs import load_inputs
from napari_autorefine.jobs.refine_params import RefineParams
from napari_autorefine.jobs.refine_tomo_inputs import with_files_of_set

Break = Callable[[TomoFiles], list[str] | None]


@pytest.fixture
def files_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TomoFiles]:
    """Small projects in the working directory, with a reference and a mask."""

    def make(form: str) -> TomoFiles:
        monkeypatch.chdir(tmp_path)
        files = write_tomo_files(tmp_path, form)
        write_volume(tmp_path / "ref.mrc", np.eye(BOX, dtype=np.float32)[None].repeat(BOX, 0), PIXEL)
        write_volume(tmp_path / "mask.mrc", np.ones((BOX,) * 3, np.float32), PIXEL)
        return files

    return make


def line(*more: str) -> list[str]:
    words = ["--ios", "optimisation_set.star", "--ref", "ref.mrc", "--o", "out/run", "--particle_diameter", "24"]
    return ["refine", *words, *more]


def missing_images(files: TomoFiles) -> None:
    for path in (*files.folder.glob("[12].mrc*"),):
        path.unlink()


def missing_ctf_volumes(files: TomoFiles) -> None:
    (files.folder / "3_w.mrc").unlink()


def ctf_volume_of_another_size(files: TomoFiles) -> None:
    write_volume(files.folder / "1_w.mrc", np.ones((2 * BOX, BOX, BOX // 2), np.float32), 1.0)


def no_ctf_volumes(files: TomoFiles) -> None:
    files.change(files.star, "_rlnCtfImage", "_rlnOther")


def dead_particles(files: TomoFiles) -> None:
    files.change(files.optimisation_set, "particles.star", "gone.star")


def dead_tomograms(files: TomoFiles) -> None:
    files.change(files.optimisation_set, "tomograms.star", "gone.star")


def dead_tilt_series(files: TomoFiles) -> None:
    shutil.rmtree(files.folder / "tilts")


def dead_mask(files: TomoFiles) -> None:
    label = "_rlnTomoTomogramsFile"
    files.change(files.optimisation_set, label, f"_rlnTomoReferenceMaskFile gone.mrc\n{label}")


def set_without_particles(files: TomoFiles) -> None:
    files.change(files.optimisation_set, "_rlnTomoParticlesFile particles.star\n", "")


def no_reference(files: TomoFiles) -> list[str]:
    return ["--ref", ""]


def set_that_is_none(files: TomoFiles) -> None:
    files.optimisation_set.write_text(files.star.read_text())


def mixed(files: TomoFiles) -> None:
    group = f"optics1 300 2.7 0.1 {PIXEL} {PIXEL} {BOX} 3 1"
    files.change(files.star, f"1 {group}", f"1 {group}\n2 {group.replace(' 3 1', ' 2 1')}")
    files.change(files.star, "2 1 3.mrc", "2 2 3.mrc")


def single_particles(files: TomoFiles) -> None:
    files.change(files.star, "rlnTomoSubTomosAre2DStacks 1", "rlnTomoSubTomosAre2DStacks 0")


def visible_of_another_length(files: TomoFiles) -> None:
    text = files.star.read_text().replace(VISIBLE, "[0,1,1,1,0,0]", 1)
    files.star.write_text(text)


def stack_of_another_length(files: TomoFiles) -> None:
    write_stack(files.folder / "2.mrcs", np.ones((4, BOX, BOX), np.float32), PIXEL)


def unknown_tomogram(files: TomoFiles) -> None:
    files.change(files.star, "TS_2 TS_2/3", "TS_9 TS_2/3")


def empty_half(files: TomoFiles) -> None:
    files.change(files.star, " 1.5 0 -1 2 1 ", " 1.5 0 -1 1 1 ")


def stack_without_tomograms(files: TomoFiles) -> list[str]:
    return ["--ios", "", "--i", "particles.star"]


def reference_of_another_binning(files: TomoFiles) -> None:
    write_volume(files.folder / "ref.mrc", np.ones((BOX,) * 3, np.float32), 2 * PIXEL)


def mask_of_another_box(files: TomoFiles) -> list[str]:
    write_volume(files.folder / "mask.mrc", np.ones((12,) * 3, np.float32), PIXEL)
    return ["--solvent_mask", "mask.mrc"]


def option_of_volumes(files: TomoFiles) -> list[str]:
    return ["--skip_subtomo_multi"]


def option_of_images(files: TomoFiles) -> list[str]:
    return ["--ctf_intact_first_peak"]


def multiplicities_missing(files: TomoFiles) -> list[str]:
    for path in files.folder.glob("*_w.mrc"):
        write_volume(path, np.ones((BOX, BOX, BOX // 2 + 1), np.float32), 1.0)
    return ["--normalised_subtomo"]


def other_pixel_size_of_the_tilt_series(files: TomoFiles) -> None:
    files.change(files.tomograms, f"optics1 {PIXEL}", "optics1 3.9")


def odd_box(files: TomoFiles) -> None:
    write_volume(files.folder / "1.mrc", np.ones((BOX - 1,) * 3, np.float32), PIXEL)


def too_wide_a_mask(files: TomoFiles) -> list[str]:
    return ["--particle_diameter", "40"]


def nan_in_many(files: TomoFiles) -> None:
    data = np.ones((BOX,) * 3, np.float32)
    write_volume(files.folder / "1.mrc", data, PIXEL)
    raw = (files.folder / "1.mrc").read_bytes()
    data[1, 2, 3] = np.nan
    (files.folder / "1.mrc").write_bytes(raw[:1024] + data.tobytes())


REBOX = "autorefine rebox --i ref.mrc --o NEW.mrc --rescale_angpix 4 --force_pixel_size --new_box 8"
CASES: list[tuple[str, Break, str]] = [
    ("3d", missing_images, "2 of its 4 subtomograms do not exist, the first is 1.mrc in row 2"),
    ("2d", missing_images, "2 of its 4 tilt stacks do not exist, the first is 1.mrcs in row 2"),
    ("3d", missing_ctf_volumes, "1 of its 4 CTF volumes does not exist, the first is 3_w.mrc in row 4"),
    ("3d", ctf_volume_of_another_size, "1_w.mrc (row 2 of particles.star): the CTF volume has 4 x 8 x 16 values"),
    ("3d", no_ctf_volumes, "lacks the column rlnCtfImage"),
    ("3d", dead_particles, "optimisation_set.star: rlnTomoParticlesFile gone.star does not exist"),
    ("2d", dead_tomograms, "optimisation_set.star: rlnTomoTomogramsFile gone.star does not exist"),
    ("2d", dead_tilt_series, "tilts/TS_1.star of TS_1 does not exist"),
    ("3d", dead_mask, "rlnTomoReferenceMaskFile gone.mrc does not exist"),
    ("3d", set_without_particles, "names no rlnTomoParticlesFile"),
    ("3d", no_reference, "names no rlnTomoReferenceMap1File; give the starting map with --ref"),
    ("3d", set_that_is_none, "is no optimisation set"),
    ("3d", mixed, "2D and 3D particles are mixed: row 1 is a volume (optics group 'optics1') but row 4 is a 2D image"),
    ("2d", single_particles, "holds 2D images of single particles, but --ios is for particles of tomograms"),
    ("2d", visible_of_another_length, "rlnTomoVisibleFrames lists 6 tilts but the tilt series TS_1 has 5"),
    ("2d", stack_of_another_length, "the stack holds 4 images but 3 tilts are visible"),
    ("2d", unknown_tomogram, "TS_9"),
    ("3d", empty_half, "rlnRandomSubset leaves half-set 2 empty"),
    ("2d", stack_without_tomograms, "need their tomograms file; give it with --tomograms"),
    ("2d", reference_of_another_binning, REBOX),
    ("3d", reference_of_another_binning, REBOX),
    ("3d", mask_of_another_box, "autorefine rebox --i mask.mrc --o NEW.mrc --new_box 8"),
    ("2d", option_of_volumes, "--skip_subtomo_multi is about CTF volumes, which tilt stacks do not have"),
    ("3d", option_of_images, "--ctf_intact_first_peak is about CTF models, but volumes bring theirs in files"),
    ("3d", multiplicities_missing, "--normalised_subtomo needs multiplicities"),
    ("2d", other_pixel_size_of_the_tilt_series, "disagree on the pixel size"),
    ("3d", odd_box, "the box of 7 pixels is odd"),
    ("3d", too_wide_a_mask, "is larger than the box of 32 A"),
    ("3d", nan_in_many, "1 of 4 images cannot be used, more than 5%; the first is row 2, 1.mrc: it holds NaN or Inf"),
]


@pytest.mark.parametrize(("form", "broken", "text"), CASES, ids=[f"{form}-{one.__name__}" for form, one, _ in CASES])
def test_what_is_wrong_is_said_in_one_sentence(
    form: str,
    broken: Break,
    text: str,
    files_of: Callable[[str], TomoFiles],
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = files_of(form)
    more = broken(files) or []
    assert main(line(*more)) == 2
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not list(Path("out").glob("*"))


def test_options_for_tomograms_are_refused_for_single_particles(
    particle_set: object, capsys: pytest.CaptureFixture[str]
) -> None:
    words = particle_set.line("--sigma_tilt", "10")  # type: ignore[attr-defined]
    assert main(words) == 2
    assert "--sigma_tilt is for particles of tomograms" in capsys.readouterr().err


def test_the_command_that_is_named_makes_the_reference_fit(
    files_of: Callable[[str], TomoFiles], capsys: pytest.CaptureFixture[str]
) -> None:
    files = files_of("3d")
    reference_of_another_binning(files)
    assert main(line()) == 2
    found = re.search(r"run (autorefine rebox [^,]*),", capsys.readouterr().err)
    assert found is not None
    assert main(found[1].split()[1:]) == 0
    inputs = load_inputs(with_files_of_set(refine_params("NEW.mrc"))[0])
    assert inputs.references[0].shape == (BOX,) * 3


def refine_params(reference: str) -> RefineParams:
    words = {"optimisation_set": "optimisation_set.star", "reference": reference, "output": "out/run"}
    return RefineParams(**words, particle_diameter_A=24.0)
