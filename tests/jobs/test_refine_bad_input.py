"""Each of these ends with status 2, one clear sentence and no output files."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from conftest import ParticleSet

from napari_autorefine.cli import main
from napari_autorefine.io.mrc import write_stack, write_volume

Break = Callable[[ParticleSet], list[str] | None]


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the data of an MRC file, whatever the new values are."""
    with mrcfile.open(path, permissive=True) as file:
        data = change(np.array(file.data))
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.ones(data.shape, np.float32))
        if path.suffix == ".mrcs":
            file.set_image_stack()
        file.voxel_size = 3.0
    raw = path.read_bytes()
    path.write_bytes(raw[:1024] + data.astype("<f4").tobytes())


def with_value(index: tuple[int, ...], value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[index] = value
        return data

    return change


def missing_stack(files: ParticleSet) -> None:
    files.stacks[1].unlink()


def truncated_stack(files: ParticleSet) -> None:
    files.stacks[1].write_bytes(files.stacks[1].read_bytes()[:-100])


def zero_byte_stack(files: ParticleSet) -> None:
    files.stacks[1].write_bytes(b"")


def index_beyond(files: ParticleSet) -> None:
    files.replace("000006@b.mrcs", "000007@b.mrcs")


def odd_box(files: ParticleSet) -> None:
    files.replace("3.0 16 2", "3.0 15 2")
    for stack in files.stacks:
        write_stack(stack, np.ones((6, 15, 15), np.float32), 3.0)


def not_square(files: ParticleSet) -> None:
    write_stack(files.stacks[0], np.ones((6, 16, 14), np.float32), 3.0)


def other_pixel_size_in_the_header(files: ParticleSet) -> None:
    write_stack(files.stacks[0], np.ones((6, 16, 16), np.float32), 3.3)


def other_box_of_the_map(files: ParticleSet) -> None:
    write_volume(files.reference, np.ones((20, 20, 20), np.float32), 3.0)


def other_pixel_size_of_the_map(files: ParticleSet) -> None:
    write_volume(files.reference, np.ones((16, 16, 16), np.float32), 2.5)


def map_not_cubic(files: ParticleSet) -> None:
    write_volume(files.reference, np.ones((16, 16, 12), np.float32), 3.0)


def empty_map(files: ParticleSet) -> None:
    write_volume(files.reference, np.zeros((16, 16, 16), np.float32), 3.0)


def missing_map(files: ParticleSet) -> None:
    files.reference.unlink()


def nan_in_the_map(files: ParticleSet) -> None:
    rewrite(files.reference, with_value((3, 4, 5), np.nan))


def mask_above_one(files: ParticleSet) -> list[str]:
    rewrite(files.mask, with_value((8, 8, 8), 1.5))
    return ["--solvent_mask", str(files.mask)]


def mask_of_another_box(files: ParticleSet) -> list[str]:
    write_volume(files.mask, np.ones((20, 20, 20), np.float32), 3.0)
    return ["--solvent_mask", str(files.mask)]


def no_mask_for_the_corrected_fsc(files: ParticleSet) -> list[str]:
    return ["--solvent_correct_fsc"]


def nan_in_many_images(files: ParticleSet) -> None:
    rewrite(files.stacks[0], with_value((2, 3, 4), np.nan))


def unknown_symmetry(files: ParticleSet) -> list[str]:
    return ["--sym", "Q7"]


def missing_column(files: ParticleSet) -> None:
    files.replace("_rlnImageName #1", "_rlnSomething #1")


def missing_voltage(files: ParticleSet) -> None:
    files.replace("_rlnVoltage #3", "_rlnSomething #3")


def missing_defocus(files: ParticleSet) -> None:
    files.replace("_rlnDefocusU #4", "_rlnSomethingElse #4")


def empty_half(files: ParticleSet) -> None:
    files.replace("_rlnDefocusAngle #6", "_rlnDefocusAngle #6\n_rlnRandomSubset #7")
    files.replace(" 30.0\n", " 30.0 1\n")


def one_particle(files: ParticleSet) -> None:
    text = files.star.read_text()
    files.star.write_text(text[: text.index("000002@a.mrcs")])


def diameter_beyond_the_box(files: ParticleSet) -> list[str]:
    return ["--particle_diameter", "49"]


def garbled_star(files: ParticleSet) -> None:
    files.star.write_bytes(os.urandom(500))


def ragged_star(files: ParticleSet) -> None:
    files.replace("000003@a.mrcs a.mrc 1", "000003@a.mrcs a.mrc")


def missing_star(files: ParticleSet) -> None:
    files.star.unlink()


def no_such_gpu(files: ParticleSet) -> list[str]:
    return ["--gpu", "0", "--cpu"]


def output_is_a_folder(files: ParticleSet) -> list[str]:
    return ["--o", str(files.folder)]


def output_below_a_file(files: ParticleSet) -> list[str]:
    return ["--o", str(files.star / "run")]


def scratch_below_a_file(files: ParticleSet) -> list[str]:
    return ["--scratch_dir", str(files.star / "scratch")]


def continue_from_nothing(files: ParticleSet) -> list[str]:
    return ["--continue", str(files.folder / "run_it001_optimiser.star")]


CASES: list[tuple[Break, tuple[str, ...]]] = [
    (missing_stack, ("b.mrcs does not exist", "row 7")),
    (truncated_stack, ("b.mrcs is truncated",)),
    (zero_byte_stack, ("b.mrcs is empty",)),
    (index_beyond, ("image 7 is beyond the end", "b.mrcs", "row 12")),
    (odd_box, ("odd",)),
    (not_square, ("not square",)),
    (other_pixel_size_in_the_header, ("3.3",)),
    (other_box_of_the_map, ("20 px", "autorefine rebox", "--new_box 16", "--trust_ref_size")),
    (other_pixel_size_of_the_map, ("2.5 A", "--rescale_angpix 3 --force_pixel_size --new_box 16")),
    (map_not_cubic, ("not cubic",)),
    (empty_map, ("zero everywhere",)),
    (missing_map, ("ref.mrc does not exist",)),
    (nan_in_the_map, ("ref.mrc", "NaN")),
    (mask_above_one, ("mask.mrc", "between 0 and 1")),
    (mask_of_another_box, ("mask.mrc", "20 px", "--new_box 16")),
    (no_mask_for_the_corrected_fsc, ("--solvent_mask",)),
    (nan_in_many_images, ("1 of 12 images", "a.mrcs", "NaN")),
    (unknown_symmetry, ("Q7",)),
    (missing_column, ("rlnImageName",)),
    (missing_voltage, ("rlnVoltage",)),
    (missing_defocus, ("rlnDefocusU", "--no-ctf")),
    (empty_half, ("half-set 2",)),
    (one_particle, ("one particle",)),
    (diameter_beyond_the_box, ("49 A", "48 A")),
    (garbled_star, ("particles.star",)),
    (ragged_star, ("particles.star", "line")),
    (missing_star, ("particles.star does not exist",)),
    (no_such_gpu, ("exclude each other",)),
    (output_is_a_folder, ("is a folder",)),
    (output_below_a_file, ("particles.star",)),
    (scratch_below_a_file, ("--scratch_dir",)),
    (continue_from_nothing, ("run_it001_optimiser.star does not exist",)),
]


@pytest.mark.parametrize(("spoil", "words"), CASES, ids=[case[0].__name__ for case in CASES])
def test_one_sentence_and_no_output(
    particle_set: ParticleSet, spoil: Break, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    more = spoil(particle_set) or []
    assert main(particle_set.line("--cpu", *more)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    for word in words:
        assert word in captured.err
    assert not particle_set.output.parent.exists() or not list(particle_set.output.parent.iterdir())


def test_an_earlier_run_is_not_replaced(particle_set: ParticleSet, capsys: pytest.CaptureFixture[str]) -> None:
    particle_set.output.parent.mkdir()
    earlier = particle_set.output.with_name("run_it003_optimiser.star")
    earlier.write_text("kept")
    assert main(particle_set.line("--cpu")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert earlier.read_text() == "kept"


def test_no_space(
    particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("napari_autorefine.jobs.refine_plan.shutil.disk_usage", lambda path: usage(100, 99, 1))
    assert main(particle_set.line("--cpu")) == 2
    assert "No space left" in capsys.readouterr().err
    assert not particle_set.output.parent.exists()


def test_no_permission(
    particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("napari_autorefine.io.runs.Path.mkdir", refused)  # root may write everywhere
    assert main(particle_set.line("--cpu")) == 2
    assert "no permission" in capsys.readouterr().err
    assert not particle_set.output.parent.exists()
