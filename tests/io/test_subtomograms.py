"""Particles of tomograms: tables of both forms, images of both forms, and every way in which they can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oracles.tomo_files import BOX, PIXEL, TomoFiles, write_tomo_files

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_data, write_stack, write_volume
from napari_autorefine.io.star import are_tilt_stacks, read_particles, write_particles
from napari_autorefine.io.subtomograms import SubtomogramVolumes, TiltStacks
from napari_autorefine.io.tomo_inputs import TomoInputs, gather_files, read_tomo_inputs


def load(files: TomoFiles, **single: Path) -> TomoInputs:
    return read_tomo_inputs(gather_files(files.optimisation_set, single), project_dir=files.folder)


@pytest.mark.parametrize(("form", "name"), [("2d", "tilt_stack"), ("3d", "volume")])
def test_columns_of_both_forms(tmp_path: Path, form: str, name: str) -> None:
    files = write_tomo_files(tmp_path, form)
    particles = read_particles(files.star)
    rows = particles.subtomograms
    assert rows is not None
    assert particles.form == name
    assert are_tilt_stacks(particles) == (form == "2d")
    assert rows.tomogram_name.tolist() == ["TS_1", "TS_1", "TS_2", "TS_2"]
    assert rows.rotation_deg[0].tolist() == [10, 20, 30]
    assert particles.euler_deg[0].tolist() == [40, 50, 60]
    assert particles.origin_A[0].tolist() == [1.5, 0, -1]
    assert rows.coordinate is not None and rows.coordinate[1].tolist() == [8, -4, 2]
    assert rows.coordinate_unit == "A_from_center"
    assert particles.group_name.tolist() == rows.tomogram_name.tolist()
    assert (rows.weights_name is None) == (form == "2d")
    assert (rows.visible is None) == (form == "3d")


def test_selecting_rows_selects_those_of_subtomograms(tmp_path: Path) -> None:
    particles = read_particles(write_tomo_files(tmp_path, "2d").star).selected(np.array([3, 0]))
    rows = particles.subtomograms
    assert rows is not None and rows.visible is not None
    assert len(particles) == len(rows.visible) == len(particles.table) == 2
    assert rows.tomogram_name.tolist() == ["TS_2", "TS_1"]
    assert particles.table["rlnTomoParticleName"].tolist() == ["TS_2/3", "TS_1/0"]


def test_files_of_relion_4_count_pixels_from_1(tmp_path: Path) -> None:
    files = write_tomo_files(tmp_path, "3d")
    text = files.star.read_text().replace("50001", "30001")
    for axis in "XYZ":
        text = text.replace(f"rlnCenteredCoordinate{axis}Angst", f"rlnCoordinate{axis}")
    files.star.write_text(text)
    rows = read_particles(files.star).subtomograms
    assert rows is not None and rows.coordinate_unit == "px_from_1"


def test_tables_are_written_back_unchanged(tmp_path: Path) -> None:
    files = write_tomo_files(tmp_path, "2d")
    particles = read_particles(files.star)
    write_particles(tmp_path / "again.star", particles)
    again = read_particles(tmp_path / "again.star")
    assert again.version == "5.0"
    assert again.other_tables == particles.other_tables
    pd.testing.assert_frame_equal(again.table, particles.table, check_dtype=False)


def test_volumes_and_their_weights(tmp_path: Path) -> None:
    inputs = load(write_tomo_files(tmp_path, "3d"))
    assert isinstance(inputs.images, SubtomogramVolumes)
    assert inputs.images.n_byte == 4 * 4 * BOX**3
    volumes, weights = inputs.images.read([2, 0]), inputs.images.read_weights([2, 0])
    assert volumes.shape == (2, BOX, BOX, BOX)
    assert np.array_equal(volumes[1], read_data(tmp_path / "0.mrc")[0])
    stored = read_data(tmp_path / "2_w.mrc")[0]
    assert np.array_equal(weights.ctf2[0], stored[:BOX])
    assert weights.multiplicity is not None
    assert np.array_equal(weights.multiplicity[0], stored[BOX:])


def test_a_full_cube_means_the_same_as_a_half_transform(tmp_path: Path) -> None:
    """The CTF of older subtomograms is stored about the middle of a cube."""
    files = write_tomo_files(tmp_path, "3d")
    axis = np.arange(BOX) - BOX // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    cube = np.cos(0.4 * x + 0.7 * y - 0.3 * z) + 0.1 * x * y  # even, as a CTF is
    wrapped = np.fft.fftfreq(BOX) * BOX
    kz, ky, kx = np.meshgrid(wrapped, wrapped, np.arange(BOX // 2 + 1), indexing="ij")
    for number in range(4):
        write_volume(tmp_path / f"{number}_w.mrc", cube.astype(np.float32), 1.0)
    images = load(files).images
    assert isinstance(images, SubtomogramVolumes)
    weights = images.read_weights([0])
    assert weights.multiplicity is None
    inside = (np.abs(kz) < BOX // 2) & (np.abs(ky) < BOX // 2)  # beyond, a cube has only one sign
    expected = np.cos(0.4 * kx + 0.7 * ky - 0.3 * kz) + 0.1 * kx * ky
    assert np.allclose(weights.ctf2[0][inside], expected[inside], atol=1e-5)


def test_stacks_hold_the_visible_tilts(tmp_path: Path) -> None:
    inputs = load(write_tomo_files(tmp_path, "2d"))
    assert isinstance(inputs.images, TiltStacks)
    assert [tilts.tolist() for tilts in inputs.images.tilts] == [[1, 2, 3]] * 4
    assert inputs.images.n_byte == 4 * 4 * 3 * BOX**2
    assert np.array_equal(inputs.images.read(3), read_data(tmp_path / "3.mrcs")[0])


def test_without_a_list_all_tilts_are_visible(tmp_path: Path) -> None:
    files = write_tomo_files(tmp_path, "2d")
    files.change(files.star, "_rlnTomoVisibleFrames", "_rlnSomething")
    for number in range(4):
        write_stack(tmp_path / f"{number}.mrcs", np.ones((5, BOX, BOX), np.float32), PIXEL)
    images = load(files).images
    assert isinstance(images, TiltStacks)
    assert images.n_images.tolist() == [5] * 4


def test_volumes_do_without_tomograms_and_single_inputs_come_first(tmp_path: Path) -> None:
    files = write_tomo_files(tmp_path, "3d")
    alone = read_tomo_inputs(gather_files(None, {"particles": files.star}), project_dir=tmp_path)
    assert alone.tomograms == {}
    files.optimisation_set.write_text(
        "data_\n\n_rlnTomoParticlesFile dead.star\n_rlnTomoTomogramsFile tomograms.star\n"
    )
    assert len(load(files, particles=files.star).particles) == 4


def test_what_is_only_passed_on_is_said(tmp_path: Path) -> None:
    files = write_tomo_files(tmp_path, "2d")
    with files.optimisation_set.open("a") as file:
        file.write("_rlnTomoTrajectoriesFile motion.star\n")
    notes = load(files).notes
    assert "Motion trajectories (motion.star) are not used" in notes[0]
    assert "motion.star of the set does not exist" in notes[1]


def spoil_stack(files: TomoFiles) -> None:
    write_stack(files.folder / "2.mrcs", np.ones((4, BOX, BOX), np.float32), PIXEL)


def spoil_weights(files: TomoFiles) -> None:
    write_volume(files.folder / "1_w.mrc", np.ones((2 * BOX, BOX, BOX // 2), np.float32), 1.0)


def lose_three(files: TomoFiles) -> None:
    for number in (1, 2, 3):
        next(path for path in files.folder.glob(f"{number}.mrc*")).unlink()


def lose_weights(files: TomoFiles) -> None:
    (files.folder / "3_w.mrc").unlink()


def cut_short(files: TomoFiles) -> None:
    path = files.folder / "1.mrc"
    path.write_bytes(path.read_bytes()[:-100])


def grow(files: TomoFiles) -> None:
    write_volume(files.folder / "1.mrc", np.ones((BOX + 2,) * 3, np.float32), PIXEL)


def flatten(files: TomoFiles) -> None:
    write_volume(files.folder / "1.mrc", np.ones((4, BOX, BOX), np.float32), PIXEL)


def mix(files: TomoFiles) -> None:
    text = files.star.read_text()
    second = f"2 optics2 300 2.7 0.1 {PIXEL} {PIXEL} {BOX} 2 1"
    text = text.replace(f" {BOX} 3 1\n", f" {BOX} 3 1\n{second}\n").replace("2 1 3.mrc", "2 2 3.mrc")
    files.star.write_text(text)


def change(old: str, new: str):  # type: ignore[no-untyped-def]
    return lambda files: files.change(files.star, old, new)


@pytest.mark.parametrize(
    ("form", "spoil", "words"),
    [
        ("3d", lose_three, "3 of its 4 subtomograms do not exist, the first is 1.mrc in row 2"),
        ("2d", lose_three, "3 of its 4 tilt stacks do not exist, the first is 1.mrcs in row 2"),
        ("3d", lose_weights, "1 of its 4 CTF volumes does not exist, the first is 3_w.mrc in row 4"),
        ("3d", spoil_weights, r"1_w.mrc \(row 2 .*the CTF volume has 4 x 8 x 16 values, but the subtomogram of 8 px"),
        ("3d", cut_short, "1.mrc is truncated"),
        ("3d", grow, "the box is 10 pixels but the optics group 'optics1' says 8"),
        ("3d", flatten, "8 x 8 x 4 px is not cubic"),
        ("3d", mix, "2D and 3D particles are mixed: row 1 is a volume .* but row 4 is a 2D image"),
        ("3d", change("Are2DStacks 0", "Are2DStacks 1"), "row 1 is a volume .* but rlnTomoSubTomosAre2DStacks is 1"),
        ("3d", change("_rlnCtfImage", "_rlnSomething"), "lacks the column rlnCtfImage"),
        ("2d", spoil_stack, r"2.mrcs \(row 3 .* holds 4 images but 3 tilts are visible"),
        ("2d", change("2.mrcs [0,1,1,1,0]", "2.mrcs [0,1,1,1]"), "row 3: .* lists 4 tilts but .* TS_2 has 5"),
        ("2d", change("2.mrcs [0,1,1,1,0]", "2.mrcs 01110"), "in row 3 is not a list of 0 and 1"),
        ("2d", change("2.mrcs [0,1,1,1,0]", "2.mrcs [0,0,0,0,0]"), "row 3 has no visible tilt"),
        ("2d", change("-1 2 1", "-1 1 1"), "rlnRandomSubset leaves half-set 2 empty"),
        ("2d", change("TS_2 TS_2", "TS_5 TS_5"), "the tomogram TS_5 of the particles is not listed"),
        ("2d", change("optics1 300", "optics1 200"), "disagree on the voltage .* TS_1: 200 in .*'optics1', 300"),
        ("2d", change("1.mrcs", "000002@1.mrcs"), "row 2: 000002@1.mrcs is one image of a stack"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(tmp_path: Path, form: str, spoil, words: str) -> None:  # type: ignore[no-untyped-def]
    files = write_tomo_files(tmp_path, form)
    spoil(files)
    with pytest.raises(InputError, match=words) as caught:
        load(files)
    assert "\n" not in str(caught.value)


def test_tilt_stacks_need_tomograms_and_single_particles_are_not_taken(tmp_path: Path) -> None:
    files = write_tomo_files(tmp_path, "2d")
    with pytest.raises(InputError, match="need their tomograms file"):
        read_tomo_inputs(gather_files(None, {"particles": files.star}), project_dir=tmp_path)
    files.change(files.star, "Are2DStacks 1", "Are2DStacks 0")
    with pytest.raises(InputError, match="2D images of single particles"):
        load(files)


@pytest.mark.parametrize(("kind", "n", "box"), [("stack2d", 80, 48), ("sub3d", 48, 40)])
def test_recorded_subtomograms_of_relion(shared_data: Path, kind: str, n: int, box: int) -> None:
    folder = shared_data / "sta_sim"
    files = gather_files(folder / "Extract" / kind / "optimisation_set.star", {})
    inputs = read_tomo_inputs(files, project_dir=folder)
    assert len(inputs.images) == n
    assert set(inputs.images.box_sizes) == {box}
    assert inputs.particles.optics[0].is_premultiplied
    if isinstance(inputs.images, TiltStacks):
        assert (inputs.images.n_images.min(), inputs.images.n_images.max()) == (9, 17)
        assert inputs.images.read(0).shape == (17, box, box)
    else:
        weights = inputs.images.read_weights(range(n))
        assert weights.multiplicity is not None
        # the example of a particle with 17 tilts: 23.80 in the middle and as its maximum, CTF^2 0.2434 and 8.9
        middle = np.stack([weights.multiplicity[:, 0, 0, 0], weights.ctf2[:, 0, 0, 0]], axis=1)
        example = int(np.argmin(np.abs(middle - [23.80, 0.2434]) @ [1, 100]))
        assert np.allclose(middle[example], [23.80, 0.2434], atol=0.01)
        assert weights.ctf2[example].max() == pytest.approx(8.9, abs=0.1)


def test_recorded_particles_of_relion_4_and_5(shared_data: Path) -> None:
    five = read_particles(shared_data / "star/relion5_tomo_HIV/Extract_job020_particles_first.star")
    assert (five.form, five.subtomograms.coordinate_unit) == ("tilt_stack", "A_from_center")  # type: ignore[union-attr]
    assert five.subtomograms.visible[0].sum() == 17  # type: ignore[union-attr, index]
    (path,) = shared_data.rglob("tomo_pseudosubtomo_relion_4.0.star")
    four = read_particles(path)
    assert (four.form, four.subtomograms.coordinate_unit) == ("volume", "px_from_1")  # type: ignore[union-attr]
    assert four.subtomograms.weights_name is not None  # type: ignore[union-attr]
