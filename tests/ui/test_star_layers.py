from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ParticleSet
from napari.layers import Layer
from oracles.layer_files import RNG, ball, own_metadata, write_map

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.tables import write_star
from napari_autorefine.ui import layers_of_maps
from napari_autorefine.ui.readers import read_folder, read_mrc, read_star_file

OnMicrographs = Callable[[int], Path]


def test_particles_open_in_the_order_of_the_star_file(particle_set: ParticleSet) -> None:
    head, rows = particle_set.star.read_text().split("_rlnDefocusAngle #6\n")
    lines = rows.strip().split("\n")
    particle_set.star.write_text(f"{head}_rlnDefocusAngle #6\n" + "\n".join(lines[::-1]) + "\n")
    ((data, arguments, _),) = read_star_file(particle_set.star)
    first = read_mrc(particle_set.stacks[1])[0][0]
    np.testing.assert_array_equal(data[0], first[5])
    assert data.shape == (12, 1, 16, 16) and arguments["scale"] == (1.0, 48.0, 3.0, 3.0)
    assert own_metadata((data, arguments, "image"))["kind"] == "particles"


def test_coordinates_open_on_their_micrographs_with_every_column(
    particle_set: ParticleSet, on_micrographs: OnMicrographs
) -> None:
    micrographs, points, images = read_star_file(on_micrographs(2))
    assert micrographs[0].shape == (2, 1, 40, 64) and points[2] == "points"
    np.testing.assert_array_equal(points[0][:, 0], [0] * 6 + [1] * 6)
    np.testing.assert_array_equal(points[0][:, 3], np.arange(12) * 5.0)
    np.testing.assert_array_equal(points[0][:, 2], np.arange(12) * 3.0)
    assert {"rlnDefocusU", "rlnMicrographName"} <= set(points[1]["features"].columns)
    assert micrographs[1]["scale"] == points[1]["scale"] == (1.0, 96.0, 1.5, 1.5)
    assert not images[1]["visible"] and images[0].shape == (12, 1, 1, 16, 16)
    assert images[1]["axis_labels"] == ("particle", "micrograph", "z", "y", "x")
    np.testing.assert_array_equal(images[0][7, 0, 0], read_mrc(particle_set.stacks[1])[0][0][1, 0])
    assert [own_metadata(layer)["kind"] for layer in (micrographs, points, images)] == [
        "micrographs",
        "coordinates",
        "particles",
    ]


def test_a_missing_micrograph_is_blank_and_told(on_micrographs: OnMicrographs, notices: list[tuple[str, str]]) -> None:
    micrographs, *_ = read_star_file(on_micrographs(1))
    assert not micrographs[0][1].any() and micrographs[0][0].any()
    assert any("1 of 2 micrographs are missing" in text for _, text in notices)


def test_images_are_found_from_the_folder_of_the_project(
    particle_set: ParticleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = particle_set.folder / "Refine3D" / "job004"
    job.mkdir(parents=True)
    particle_set.star.rename(job / "run_data.star")
    monkeypatch.chdir("/")
    ((data, _, _),) = read_star_file(job / "run_data.star")
    assert data[0].any()


def test_missing_stacks_are_one_sentence(particle_set: ParticleSet) -> None:
    for path in particle_set.stacks:
        path.unlink()
    with pytest.raises(InputError, match=r"none of its 2 image files is there, the first is a.mrcs"):
        read_star_file(particle_set.star)


def test_a_coordinate_file_finds_its_micrograph(tmp_path: Path) -> None:
    from napari_autorefine.io.mrc import write_image

    folder = tmp_path / "MotionCorr" / "job002"
    folder.mkdir(parents=True)
    write_image(folder / "mic1.mrc", RNG.standard_normal((30, 30)).astype(np.float32), 2.0)
    picks = tmp_path / "AutoPick" / "job005" / "mic1_autopick.star"
    table = pd.DataFrame({"rlnCoordinateX": [1.0, 20.0], "rlnCoordinateY": [3.0, 4.0], "rlnAutopickFigureOfMerit": 0.5})
    write_star(picks, {"": table})
    image, points = read_star_file(picks)
    assert image[0].shape == (30, 30) and image[1]["translate"] == (0.0, 0.0)
    np.testing.assert_array_equal(points[0], [[3.0, 1.0], [4.0, 20.0]])
    assert points[1]["scale"] == (2.0, 2.0) and "rlnAutopickFigureOfMerit" in points[1]["features"]


def test_micrographs_open_as_a_series_with_the_picks_they_name(tmp_path: Path) -> None:
    from napari_autorefine.io.mrc import write_image

    for name in ("m1", "m2"):
        write_image(tmp_path / f"{name}.mrc", RNG.standard_normal((20, 20)).astype(np.float32), 2.0)
        write_star(tmp_path / f"{name}.star", {"": pd.DataFrame({"rlnCoordinateX": [5.0], "rlnCoordinateY": [6.0]})})
    names = pd.Series(["m1.mrc", "m2.mrc"], dtype=object)
    picks = pd.Series(["m1.star", "m2.star"], dtype=object)
    write_star(tmp_path / "plain.star", {"micrographs": pd.DataFrame({"rlnMicrographName": names})})
    table = pd.DataFrame({"rlnMicrographName": names, "rlnMicrographCoordinates": picks})
    write_star(tmp_path / "autopick.star", {"coordinate_files": table})
    ((data, _, _),) = read_star_file(tmp_path / "plain.star")
    assert data.shape == (2, 1, 20, 20)
    _, points = read_star_file(tmp_path / "autopick.star")
    np.testing.assert_array_equal(points[0], [[0, 0, 6, 5], [1, 0, 6, 5]])


def test_an_optimisation_set_opens_tomograms_coordinates_and_maps(tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        write_volume(tmp_path / f"{name}.mrc", RNG.standard_normal((6, 10, 12)).astype(np.float32), 8.0)
    write_volume(tmp_path / "mask.mrc", ball(), 2.0)
    names = pd.Series(["TS_1", "TS_2"], dtype=object)
    volumes = pd.Series(["t1.mrc", "t2.mrc"], dtype=object)
    tomograms = {"rlnTomoName": names, "rlnTomoReconstructedTomogram": volumes}
    write_star(tmp_path / "tomograms.star", {"global": pd.DataFrame(tomograms)})
    centered = {f"rlnCenteredCoordinate{axis}Angst": [float(at), 8.0] for at, axis in enumerate("XYZ")}
    write_star(tmp_path / "picks.star", {"particles": pd.DataFrame({"rlnTomoName": names, **centered})})
    entries = {"rlnTomoParticlesFile": "picks.star", "rlnTomoTomogramsFile": "tomograms.star"}
    write_star(tmp_path / "optimisation_set.star", {"": {**entries, "rlnTomoReferenceMaskFile": "mask.mrc"}})
    volumes_layer, points, mask = read_folder(tmp_path)
    assert volumes_layer[0].shape == (2, 6, 10, 12) and volumes_layer[1]["translate"] == (0.0, -24.0, -40.0, -48.0)
    world = Layer.create(*points).data * points[1]["scale"]
    np.testing.assert_allclose(world, [[0, 2, 1, 0], [1, 8, 8, 8]])
    assert [own_metadata(layer)["kind"] for layer in (volumes_layer, points, mask)] == [
        "tomogram",
        "coordinates_3d",
        "mask",
    ]


def _run(folder: Path, *, is_finished: bool) -> Path:
    """Write the names of a refinement of two iterations, and its maps."""
    folder.mkdir(parents=True)
    write_map(folder / "solvent_mask.mrc")
    for iteration in ("_it001", "_it002"):
        for half in (1, 2):
            write_map(folder / f"run{iteration}_half{half}_class001.mrc")
        general = {"rlnOutputRootName": "Refine3D/job003/run", "rlnSolventMaskName": "Refine3D/job003/solvent_mask.mrc"}
        write_star(folder / f"run{iteration}_optimiser.star", {"optimiser_general": general})
    if is_finished:
        write_map(folder / "run_class001.mrc")
        for half in (1, 2):
            write_map(folder / f"run_half{half}_class001_unfil.mrc")
        write_star(folder / "run_optimiser.star", {"optimiser_general": general})
    return folder


def test_the_folder_of_a_running_refinement_opens_the_newest_half_maps_and_the_mask(tmp_path: Path) -> None:
    layers = read_folder(_run(tmp_path / "Refine3D" / "job003", is_finished=False))
    assert [own_metadata(layer)["kind"] for layer in layers] == ["half2", "half1", "mask"]
    assert [layer[1].get("visible", True) for layer in layers] == [True, True, False]
    run = own_metadata(layers[0])["run"]
    assert run["iteration"] == 2 and run["prefix"].endswith("job003/run")
    assert layers[1][1]["name"] == "job003/run it002 half 1"


def test_the_folder_of_a_finished_refinement_opens_the_joined_map_first(tmp_path: Path) -> None:
    layers = read_folder(_run(tmp_path / "Refine3D" / "job003", is_finished=True))
    visible = [own_metadata(layer)["kind"] for layer in layers if layer[1].get("visible", True)]
    assert visible == ["joined"] and len(layers) == 4
    assert own_metadata(layers[0])["run"]["iteration"] is None


def test_an_iteration_opens_by_its_optimiser_file(tmp_path: Path) -> None:
    folder = _run(tmp_path / "Refine3D" / "job003", is_finished=True)
    layers = read_star_file(folder / "run_it001_optimiser.star")
    assert own_metadata(layers[0])["run"]["iteration"] == 1


def test_star_files_without_anything_to_show_say_what_they_are(tmp_path: Path) -> None:
    write_star(tmp_path / "model.star", {"model_general": {"rlnPixelSize": 1.0}})
    with pytest.raises(InputError, match=r"model\.star holds the statistics of a refinement: open its _optimiser"):
        read_star_file(tmp_path / "model.star")


# orientations


def test_orientations_are_the_axis_of_the_reference_in_the_image() -> None:
    from napari_autorefine.ui.orientations import arrows_on_points

    features = pd.DataFrame({"rlnAngleRot": [0.0, 0.0], "rlnAngleTilt": [90.0, 90.0], "rlnAnglePsi": [0.0, -90.0]})
    meta = {"features": features, "size": 10.0, "metadata": {"autorefine": {"kind": "coordinates"}}}
    vectors, _, kind = arrows_on_points(np.array([[5.0, 6.0], [1.0, 2.0]]), meta)
    assert kind == "vectors"
    # A e_z = (-sin(tilt) cos(psi), sin(tilt) sin(psi), cos(tilt)) in x, y, z
    np.testing.assert_allclose(vectors[:, 1], [[0.0, -10.0], [-10.0, 0.0]], atol=1e-9)
    np.testing.assert_allclose(vectors[0, 0], (5.0, 6.0))


def test_viewing_directions_lie_on_a_sphere_about_the_map(particle_set: ParticleSet) -> None:
    from napari_autorefine.ui.orientations import arrows_around_map

    ((data, arguments, _),) = read_star_file(particle_set.star)
    with pytest.raises(InputError, match="refine the particles first"):
        arrows_around_map(arguments)
    table = arguments["metadata"]["autorefine"]["table"]
    own = {**arguments["metadata"]["autorefine"]}
    own["table"] = table.assign(rlnAngleRot=90.0, rlnAngleTilt=90.0, rlnAnglePsi=0.0)
    vectors, _, _ = arrows_around_map({**arguments, "metadata": {"autorefine": own}})
    np.testing.assert_allclose(vectors[:, 0], [[0.0, 24.0, 0.0]] * 12, atol=1e-9)
    assert layers_of_maps.star_name(particle_set.star) == "particles"
    assert data.shape[0] == 12
