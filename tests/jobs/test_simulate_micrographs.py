"""Simulated micrographs: particles where the STAR files say, noise and files as promised."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.events import Finished, Message
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import AtomProjector, Atoms, to_image
from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.geometry import euler_to_matrix, pose_error_deg
from napari_autorefine.params import make_params

SIZE, PIXEL, DIAMETER_A = 256, 2.5, 50.0


@pytest.fixture
def atoms() -> Atoms:
    rng = np.random.default_rng(3)
    return Atoms(xyz_A=rng.normal(0, 6.0, (60, 3)).clip(-12, 12), element=np.array(["C", "N", "O", "P"] * 15))


def params(folder: Path, **changes: object) -> SimulateParams:
    values = {
        "output": str(folder / "set" / "p"), "n_particle": 12, "micrographs": 2, "micrograph_size": (SIZE,),
        "box_size": 32, "pixel_size_A": PIXEL, "particle_diameter_A": DIAMETER_A, "threads": 1, "optics_groups": 2,
        "defocus_min_A": 5000.0, "defocus_max_A": 8000.0,
    }  # fmt: skip
    return make_params(SimulateParams, values | changes)


def made(atoms: Atoms, values: SimulateParams) -> dict[str, str]:
    last = list(simulate_atoms(atoms, values))[-1]
    assert isinstance(last, Finished)
    return last.outputs


def loop(path: str, name: str = "particles") -> pd.DataFrame:
    table = read_star(path).loop(name)
    assert table is not None
    return table


def test_particles_lie_where_coordinates_and_origins_say(tmp_path: Path, atoms: Atoms) -> None:
    """The micrograph equals the sum of projections drawn on its whole grid at truncated coordinate - origin."""
    values = params(tmp_path, snr=0.0, scale_sigma=0.0, edge_A=0.0, bfactor_A2=200.0)
    outputs = made(atoms, values)
    truth, table = read_particles(outputs["truth"]), loop(outputs["truth"])
    for index, path in enumerate(loop(outputs["micrographs"], "micrographs")["rlnMicrographName"]):
        image = mrcfile.read(path)
        assert image.shape == (SIZE, SIZE)
        projector = AtomProjector(atoms, box_size=SIZE, pixel_size_A=PIXEL, bfactor_A2=200.0)
        expected = np.zeros((SIZE, SIZE))
        for row in np.flatnonzero(truth.micrograph_name == path):
            pick = table.loc[row, ["rlnCoordinateX", "rlnCoordinateY"]].to_numpy(float)
            center = np.trunc(pick) - truth.origin_A[row] / PIXEL
            origin = (SIZE // 2 - center) * PIXEL
            transform = projector.project(euler_to_matrix(truth.euler_deg[row]), origin)
            transfer = ctf(
                truth.optics[index], truth.defocus_A[row : row + 1], truth.defocus_angle_deg[row : row + 1],
                0.0, 0.0, 1.0, projector.frequencies,
            )  # fmt: skip
            expected += to_image(transform * transfer.reshape(transform.shape))
        inner = slice(24, -24)  # the whole grid wraps particles around the edge
        assert np.abs(image + expected)[inner, inner].max() < 0.01 * np.abs(expected).max()
        assert np.abs(image).max() > 0.5 * np.abs(expected).max()


def test_files_agree_with_each_other(tmp_path: Path, atoms: Atoms) -> None:
    outputs = made(atoms, params(tmp_path, group_pixel_size_A=(2.5, 2.0), micrograph_size=(SIZE, 320)))
    micrographs = loop(outputs["micrographs"], "micrographs")
    optics = loop(outputs["micrographs"], "optics")
    assert optics["rlnMicrographPixelSize"].tolist() == [2.5, 2.0]
    listed = loop(outputs["coordinates"], "coordinate_files")
    assert listed["rlnMicrographName"].tolist() == micrographs["rlnMicrographName"].tolist()
    truth = loop(outputs["truth"])
    for row, path in listed.iterrows():
        picks = loop(path["rlnMicrographCoordinates"], "")
        mine = truth[truth["rlnMicrographName"] == path["rlnMicrographName"]]
        assert np.array_equal(picks.to_numpy(), mine[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy())
        with mrcfile.open(path["rlnMicrographName"]) as file:
            assert file.data.shape == (320, SIZE)
            assert float(file.voxel_size.x) == pytest.approx([2.5, 2.0][int(str(row))])
        height = mine["rlnDefocusU"].to_numpy() - micrographs["rlnDefocusU"].iloc[int(str(row))]
        assert 10 < np.abs(height).mean() < 300
    assert truth["rlnImageName"].iloc[0].endswith("000001@" + str(tmp_path / "set" / "p_micrographs" / "mic001.mrcs"))


def test_particles_keep_their_distance_from_each_other_and_from_the_edge(tmp_path: Path, atoms: Atoms) -> None:
    values = params(tmp_path, n_particle=40, edge_A=40.0, spacing_A=60.0, optics_groups=1)
    truth = read_particles(made(atoms, values)["truth"])
    table = loop(values.output + "_truth.star")
    center = np.trunc(table[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy()) - truth.origin_A / PIXEL
    assert center.min() >= 16
    assert center.max() <= SIZE - 1 - 16
    for name in set(truth.micrograph_name):
        mine = center[truth.micrograph_name == name]
        distance = np.linalg.norm(mine[:, None] - mine[None], axis=-1) + 1e9 * np.eye(len(mine))
        assert distance.min() >= 60.0 / PIXEL


def test_noise_has_the_counts_of_the_dose_and_the_share_of_the_ice(tmp_path: Path, atoms: Atoms) -> None:
    values = params(tmp_path, n_particle=2, snr=1e-6, dose_e_A2=30.0, ice=0.4, gradient=0.0, optics_groups=1)
    outputs = made(atoms, values)
    image = mrcfile.read(loop(outputs["micrographs"], "micrographs")["rlnMicrographName"].iloc[0]).astype(float)
    mean = 30.0 * PIXEL**2
    assert image.mean() == pytest.approx(mean, rel=0.01)
    assert image.var() == pytest.approx(mean / 0.6, rel=0.05)
    assert np.array_equal(image, np.round(image))
    micrographs = read_star(outputs["micrographs"])
    row = micrographs.loop("micrographs").iloc[0]  # type: ignore[union-attr]
    axis = np.fft.fftfreq(SIZE, PIXEL)
    fy, fx = np.meshgrid(axis, axis, indexing="ij")
    points = np.stack([fx.ravel(), fy.ravel()], axis=-1)
    group = read_particles(outputs["truth"]).optics[0]
    defocus = np.array([[row["rlnDefocusU"], row["rlnDefocusV"]]])
    transfer = ctf(group, defocus, row["rlnDefocusAngle"], 0.0, 0.0, 1.0, points).reshape(SIZE, SIZE) ** 2
    power = np.abs(np.fft.fft2(image)) ** 2 / image.size
    band = (np.hypot(fx, fy) > 0.02) & (np.hypot(fx, fy) < 0.12)
    assert power[band & (transfer > 0.9)].mean() > 1.5 * power[band & (transfer < 0.02)].mean()
    assert power[band & (transfer < 0.005)].mean() == pytest.approx(mean, rel=0.1)


def test_signal_has_the_wanted_ratio_to_the_noise_and_protein_is_dark(tmp_path: Path, atoms: Atoms) -> None:
    """Of the same seed with and without noise, the difference is the noise."""
    changes = {"n_particle": 30, "optics_groups": 1, "scale_sigma": 0.0, "gradient": 0.0}
    clean = made(atoms, params(tmp_path / "a", snr=0.0, **changes))
    noisy = made(atoms, params(tmp_path / "b", snr=0.5, dose_e_A2=400.0, **changes))
    table = loop(clean["truth"])
    signal, ratios = [], []
    disc = np.hypot(*np.mgrid[-16:16, -16:16]) <= DIAMETER_A / (2 * PIXEL)
    for index in range(2):
        pair = [
            mrcfile.read(loop(kind["micrographs"], "micrographs")["rlnMicrographName"].iloc[index]).astype(float)
            for kind in (clean, noisy)
        ]
        rows = table["rlnMicrographName"] == loop(clean["micrographs"], "micrographs")["rlnMicrographName"].iloc[index]
        slope = np.cov(pair[0].ravel(), pair[1].ravel())[0, 1] / pair[0].var()
        assert slope > 0
        noise = pair[1] - slope * pair[0]
        for x, y in table.loc[rows, ["rlnCoordinateX", "rlnCoordinateY"]].to_numpy().astype(int):
            window = pair[0][y - 16 : y + 16, x - 16 : x + 16]
            if window.shape == disc.shape:
                ratios.append(slope**2 * window[disc].var() / noise.var())
                signal.append(window[disc].mean() - np.median(pair[0]))
    assert np.mean(ratios) == pytest.approx(0.5, rel=0.15)
    assert np.mean(signal) < 0


def test_same_seed_same_micrographs_for_any_number_of_threads(tmp_path: Path, atoms: Atoms) -> None:
    one, three = (made(atoms, params(tmp_path / str(n), threads=n)) for n in (1, 3))
    images = [
        mrcfile.read(loop(kind["micrographs"], "micrographs")["rlnMicrographName"].iloc[1]) for kind in (one, three)
    ]
    assert np.array_equal(*images)
    other = made(atoms, params(tmp_path / "other", seed=2))
    image = mrcfile.read(loop(other["micrographs"], "micrographs")["rlnMicrographName"].iloc[1])
    assert not np.array_equal(images[0], image)


@pytest.mark.parametrize(("kind", "mode"), [("int8", 0), ("int16", 1), ("float32", 2), ("uint16", 6), ("float16", 12)])
def test_micrographs_are_stored_in_the_wanted_mode(tmp_path: Path, atoms: Atoms, kind: str, mode: int) -> None:
    outputs = made(atoms, params(tmp_path, micrograph_type=kind, dose_e_A2=4.0, n_particle=2))
    with mrcfile.open(loop(outputs["micrographs"], "micrographs")["rlnMicrographName"].iloc[0]) as file:
        assert int(file.header.mode) == mode
        assert file.data.mean() == pytest.approx(4.0 * PIXEL**2, rel=0.05)
        assert file.is_single_image()


def test_an_earlier_refinement_is_near_the_truth(tmp_path: Path, atoms: Atoms) -> None:
    outputs = made(atoms, params(tmp_path, n_particle=60, earlier_binning=2))
    truth, earlier = read_particles(outputs["truth"]), read_particles(outputs["earlier"])
    assert [(group.pixel_size_A, group.box_size) for group in earlier.optics] == [(5.0, 16), (5.0, 16)]
    error = pose_error_deg(truth.euler_deg, earlier.euler_deg, np.eye(3)[None])
    assert 2.0 < np.median(error) < 4.5
    assert (earlier.origin_A - truth.origin_A).std() == pytest.approx(0.35 * 5.0, rel=0.2)
    with mrcfile.open(outputs["earlier_map"]) as file:
        assert file.data.shape == (16, 16, 16)
        assert float(file.voxel_size.x) == pytest.approx(5.0)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path, atoms: Atoms) -> None:
    with pytest.raises(InputError, match=r"holds \d+ of the 200 particles"):
        made(atoms, params(tmp_path, n_particle=400))
    with pytest.raises(InputError, match="holds 0 of the 6 particles"):
        made(atoms, params(tmp_path, edge_A=400.0))
    assert not (tmp_path / "set").exists()


def test_the_size_is_found_from_the_particles(tmp_path: Path, atoms: Atoms) -> None:
    outputs = made(atoms, params(tmp_path, n_particle=100, micrograph_size=()))
    image = mrcfile.read(loop(outputs["micrographs"], "micrographs")["rlnMicrographName"].iloc[0])
    assert 250 < image.shape[0] < 400
    with pytest.raises(InputError, match="exists"):
        made(atoms, params(tmp_path))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"micrographs": 13}, "too few"),
        ({"micrograph_size": (64, 64, 64)}, "columns and rows"),
        ({"noise_length_A": 20.0}, "--ice"),
        ({"earlier_binning": 3}, "not a whole"),
        ({"micrographs": 0, "micrograph_size": (), "earlier_binning": 2}, "earlier_binning is for micrographs"),
        ({"micrographs": 0}, "micrograph_size is for micrographs"),
        ({"groups": 3}, "groups is for particle stacks"),
        ({"micrograph_type": "int8"}, "--dose"),
        ({"micrograph_type": "int16", "snr": 0.0}, "not counts"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, changes: dict[str, object], text: str) -> None:
    with pytest.raises(InputError, match=text):
        params(tmp_path, **changes)


def test_a_signal_too_strong_for_the_dose_is_told(tmp_path: Path, atoms: Atoms) -> None:
    events = list(simulate_atoms(atoms, params(tmp_path, snr=50.0, dose_e_A2=0.5)))
    assert any(isinstance(event, Message) and "fewer than 0 electrons" in event.text for event in events)
