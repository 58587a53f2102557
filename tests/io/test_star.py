from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_stack
from napari_autorefine.io.star import (
    are_tilt_stacks,
    missing_ctf_columns,
    read_particles,
    read_star,
    updated_tables,
    write_particles,
)

OPTICS = """# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
"""
ROW = "{} group{} 300.0 2.7 0.1 {} 64 2\n"
PARTICLES = """
data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnOpticsGroup #3
_rlnDefocusU #4
"""


def particle_file(tmp_path, *, optics=None, rows=None, head=PARTICLES):
    optics = ROW.format(1, 1, 2.5) if optics is None else optics
    rows = "1@a.mrcs MotionCorr/job002/Movies/m1.mrc 1 10000.0\n" if rows is None else rows
    path = tmp_path / "p.star"
    path.write_text(OPTICS + optics + head + rows)
    return path


def test_relion_3_0_offsets_and_optics(tmp_path):
    """Offsets in pixels, pixel size from detector and magnification, optics groups as distinct rows."""
    write_stack(tmp_path / "a.mrcs", np.zeros((3, 32, 32), np.float32), 3.54)
    labels = "ImageName MicrographName Voltage SphericalAberration Magnification DetectorPixelSize OriginX OriginXPrior"
    header = "\ndata_images\n\nloop_\n" + "".join(f"_rln{label}\n" for label in labels.split())
    path = tmp_path / "p.star"
    path.write_text(
        header
        + "1@a.mrcs m.mrc 300.0 2.7 40000.0 14.0 2.0 1.0\n"
        + "2@a.mrcs m.mrc 200.0 2.7 40000.0 14.0 -1.5 1.0\n"
        + "3@a.mrcs m.mrc 300.0 2.7 40000.0 14.0 0.0 1.0\n"
    )
    particles = read_particles(path)
    assert particles.version == "3.0"
    assert particles.optics_index.tolist() == [0, 1, 0]
    assert [group.voltage_kV for group in particles.optics] == [300.0, 200.0]
    assert [group.pixel_size_A for group in particles.optics] == [3.5, 3.5]
    assert [group.box_size for group in particles.optics] == [32, 32]
    np.testing.assert_allclose(particles.origin_A, [[7.0, 0.0], [-5.25, 0.0], [0.0, 0.0]])
    assert particles.origin_prior_A is not None
    assert particles.origin_prior_A[:, 0].tolist() == [3.5] * 3
    assert "rlnOriginX" not in particles.table
    assert "rlnMagnification" not in particles.table
    assert missing_ctf_columns(particles) == ("rlnDefocusU", "rlnAmplitudeContrast")


def test_real_relion_1_3_to_5_files(shared_data):
    empiar = read_particles(shared_data / "particles_other" / "empiar_10076_7.star")
    assert (len(empiar), empiar.version, empiar.optics[0].box_size) == (7, "3.0", 320)
    assert empiar.optics[0].pixel_size_A == pytest.approx(1.31, abs=1e-3)
    swapped, straight = (
        read_particles(shared_data / "particles_other" / name) for name in ("relion31.v2.star", "relion31.star")
    )
    np.testing.assert_array_equal(swapped.euler_deg, straight.euler_deg)
    tomo = read_particles(shared_data / "star" / "relion5_tomo_HIV" / "Refine3D" / "job023" / "run_data.star")
    assert are_tilt_stacks(tomo)
    assert (tomo.version, tomo.origin_A.shape[1]) == ("5.0", 3)
    volumes = read_particles(shared_data / "star" / "relion4" / "tomo_pseudosubtomo_relion_4.0.star")
    assert volumes.optics[0].dimensionality == 3
    assert not are_tilt_stacks(volumes)
    picked = read_particles(shared_data / "particles_bgal" / "particles_picked.star")
    assert len(picked) == 1157
    assert (picked.half == 0).all()
    assert picked.group_name[0] == "Movies/20170629_00021_frameImage.mrc"


def test_groups_are_sorted_and_renumbered(tmp_path):
    path = particle_file(
        tmp_path,
        optics=ROW.format(7, 7, 2.5) + ROW.format(3, 3, 1.5),
        rows="1@a.mrcs m 7 1e4\n2@a.mrcs m 3 1e4\n",
    )
    particles = read_particles(path)
    assert [(group.number, group.name, group.pixel_size_A) for group in particles.optics] == [
        (1, "group3", 1.5),
        (2, "group7", 2.5),
    ]
    assert particles.optics_index.tolist() == [1, 0]
    assert particles.table["rlnOpticsGroup"].tolist() == [2, 1]
    assert particles.optics_table["rlnOpticsGroup"].tolist() == [1, 2]


def test_defaults_of_missing_columns(tmp_path):
    particles = read_particles(particle_file(tmp_path))
    assert particles.euler_deg.tolist() == [[0.0, 0.0, 0.0]]
    assert particles.origin_A.tolist() == [[0.0, 0.0]]
    assert particles.defocus_A.tolist() == [[1e4, 1e4]]
    assert particles.norm_correction.tolist() == [1.0]
    assert particles.ctf_scale.tolist() == [1.0]
    assert particles.half.tolist() == [0]
    assert particles.euler_prior_deg is None
    assert particles.group_name.tolist() == ["Movies/m1.mrc"]


def test_optics_extras(tmp_path):
    extra = (
        "_rlnBeamTiltX #9\n_rlnOddZernike #10\n_rlnMagMat00 #11\n_rlnMagMat01 #12\n_rlnMagMat10 #13\n_rlnMagMat11 #14\n"
    )
    path = tmp_path / "p.star"
    row = "1 g1 300.0 2.7 0.1 2.5 64 2 0.5 [1,2.5,-3e-5] 1.01 0.0 0.0 0.99\n"
    path.write_text(OPTICS + extra + row + PARTICLES + "1@a.mrcs m 1 1e4\n")
    group = read_particles(path).optics[0]
    assert group.beam_tilt_mrad == (0.5, 0.0)
    assert group.odd_zernike == (1.0, 2.5, -3e-5)
    assert group.magnification == (1.01, 0.0, 0.0, 0.99)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("_rlnImageName", "_rlnPicture", "'data_particles': the column rlnImageName is missing"),
        ("_rlnVoltage", "_rlnKv", "'data_optics': the column rlnVoltage is missing"),
        ("_rlnSphericalAberration", "_rlnCs", "the column rlnSphericalAberration is missing"),
        ("_rlnImagePixelSize", "_rlnPix", "the column rlnImagePixelSize is missing"),
        ("m1.mrc 1 1", "m1.mrc 4 1", r"row 1 belongs to optics group 4, which .* does not define"),
        ("10000.0", "abc", "the value 'abc' of rlnDefocusU in row 1 is not a number"),
        ("10000.0", "nan", "the value nan of rlnDefocusU in row 1 is not a finite number"),
        (" 2.5 64", " -2.5 64", "rlnImagePixelSize must be positive"),
        ("data_particles", "data_picks", "no table 'data_particles'"),
        ("data_optics", "data_glass", "no table 'data_optics'"),
        ("1@a.mrcs MotionCorr/job002/Movies/m1.mrc 1 10000.0\n", "", "there is no particle"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, message):
    path = particle_file(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        read_particles(path)
    assert "p.star" in str(caught.value)


def test_groups_defined_twice_and_mixed_halves(tmp_path):
    with pytest.raises(InputError, match="optics group 1 is defined twice"):
        read_particles(particle_file(tmp_path, optics=ROW.format(1, 1, 2.5) * 2))
    head = PARTICLES + "_rlnRandomSubset #5\n"
    with pytest.raises(InputError, match="rlnRandomSubset is 0 in row 2"):
        read_particles(particle_file(tmp_path, head=head, rows="1@a.mrcs m 1 1e4 1\n2@a.mrcs m 1 1e4 0\n"))
    with pytest.raises(InputError, match="row 1 is 3"):
        read_particles(particle_file(tmp_path, head=head, rows="1@a.mrcs m 1 1e4 3\n"))


def test_unknown_columns_and_tables_survive_new_poses(tmp_path):
    head = PARTICLES + "_mySerial #5\n"
    path = particle_file(tmp_path, head=head, rows="1@a.mrcs m 1 1e4 0012\n2@a.mrcs m 1 1e4 0013\n")
    path.write_text(path.read_text() + "\ndata_mine\n\n_myNote  'two words'\n")
    particles = read_particles(path)
    euler, origin = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([[0.1, -1e-9], [1 / 3, 7.0]])
    tables = updated_tables(particles, euler_deg=euler, origin_A=origin, columns={"rlnRandomSubset": np.array([1, 2])})
    assert "rlnAngleRot" not in particles.table
    copy = tmp_path / "copy.star"
    write_particles(copy, particles, tables)
    again = read_particles(copy)
    np.testing.assert_array_equal(again.euler_deg, euler)
    np.testing.assert_array_equal(again.origin_A, origin)
    assert again.half.tolist() == [1, 2]
    assert again.table["mySerial"].tolist() == ["0012", "0013"]
    assert read_star(copy).tables["mine"] == {"myNote": "two words"}
    assert list(read_star(copy).tables) == ["optics", "particles", "mine"]


def test_every_particle_file_of_the_data_is_read_or_refused(shared_data, tmp_path):
    n_read, sentences = 0, []
    for path in sorted(shared_data.rglob("*.star")):
        try:
            particles = read_particles(path)
        except InputError as error:
            sentences.append(str(error))
            continue
        n_read += 1
        if len(particles) > 500:
            continue
        copy = tmp_path / "copy.star"
        write_particles(copy, particles)
        again = read_particles(copy, project_dir=path.parent)
        for field in dataclasses.fields(particles):
            if isinstance(getattr(particles, field.name), np.ndarray):
                np.testing.assert_array_equal(getattr(again, field.name), getattr(particles, field.name))
        assert again.optics == particles.optics
    assert n_read > 60
    assert all("\n" not in sentence for sentence in sentences)
