"""Optimisation sets in the window: facts, forms that fill in, particles in their tomograms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from oracles.layer_files import ball
from oracles.tomo_project import N_PARTICLE, set_around, with_poses, write_project

from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.tables import read_star, write_star
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.tomography import positions_px, subtomogram_matrices
from napari_autorefine.ui.next_steps import next_steps
from napari_autorefine.ui.project import Project
from napari_autorefine.ui.readers import read_star_file
from napari_autorefine.ui.set_facts import SetFacts, set_facts
from napari_autorefine.ui.set_filling import cleared_for
from napari_autorefine.ui.writers import write_coordinates

MAPS = {"map1": "maps/half1.mrc", "map2": "maps/half2.mrc", "mask": "maps/mask.mrc"}
DOCK = "Particles in tomograms (napari-autorefine)"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project").resolve()
    write_project(folder)
    with_poses(folder)
    (folder / "maps").mkdir()
    for name in ("half1", "half2", "mask"):
        write_volume(folder / f"maps/{name}.mrc", ball(20, 5.0), 7.0)
    set_around(folder, "Refine3D/job001/run_it003_data.star", MAPS)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The window's project is elsewhere at first."""
    from napari_autorefine.ui.project import project as shared

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    before = shared.folder
    shared.move_to(tmp_path)
    yield made
    shared.move_to(before)


def points_of(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    (layer,) = (one for one in read_star_file(path) if one[2] == "points")
    return np.asarray(layer[0]), layer[1]


# where particles are


def test_particles_are_at_the_coordinate_less_the_turned_origin(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    data, arguments = points_of(Path("Refine3D/job001/run_it003_data.star"))
    particles = read_particles("Refine3D/job001/run_it003_data.star")
    tomograms = read_tomograms("sta/p_tomograms.star")
    rows = particles.subtomograms
    assert rows is not None and np.abs(particles.origin_A).max() > 3
    centers = np.stack([tomograms[name].center_px for name in rows.tomogram_name])
    expected = (positions_px(rows, tomograms, particles.origin_A) - centers) * tomograms["TS_1"].pixel_size_A
    np.testing.assert_allclose((data * arguments["scale"])[:, :0:-1], expected, atol=1e-6)
    names = arguments["metadata"]["autorefine"]["names"]
    assert [names[int(at)] for at in data[:, 0]] == rows.tomogram_name.tolist() and len(names) == 2
    assert "rlnMaxValueProbDistribution" in arguments["features"]


def test_pixels_of_relion_4_count_from_one(tmp_path: Path) -> None:
    for version, first in ((50001, 0.0), (30001, 1.0)):
        table = {"rlnTomoName": pd.Series(["TS_1"], dtype=object), "rlnTomoTiltSeriesPixelSize": [2.0]}
        table |= {f"rlnCoordinate{axis}": [value] for axis, value in zip("XYZ", (60.0, 40.0, 25.0), strict=True)}
        path = tmp_path / f"{version}" / "picks.star"
        path.parent.mkdir()
        write_star(path, {"particles": pd.DataFrame(table)}, version=version)
        sizes = {f"rlnTomoSize{axis}": [size] for axis, size in zip("XYZ", (100, 80, 40), strict=True)}
        tomograms = pd.DataFrame({"rlnTomoName": table["rlnTomoName"], **sizes})
        write_star(path.with_name("tomograms.star"), {"global": tomograms})
        data, arguments = points_of(path)
        expected = (np.array([25.0, 40.0, 60.0]) + first - (20, 40, 50)) * 2
        np.testing.assert_allclose((data * arguments["scale"])[0], expected)


def test_arrows_are_the_axis_of_the_reference_in_the_tomogram(made: Path) -> None:
    from napari_autorefine.ui.orientations import arrows_on_points

    data, arguments = points_of(made / "Refine3D/job001/run_it003_data.star")
    vectors, _, _ = arrows_on_points(data, arguments)
    particles = read_particles(made / "Refine3D/job001/run_it003_data.star", project_dir=made)
    assert particles.subtomograms is not None
    whole = subtomogram_matrices(particles.subtomograms) @ euler_to_matrix(particles.euler_deg)
    np.testing.assert_allclose(vectors[:, 1, :0:-1], whole[:, :, 2], atol=1e-6)
    np.testing.assert_allclose(vectors[:, 0], data)


def test_saved_points_have_their_origins_in_the_coordinates(made: Path, tmp_path: Path) -> None:
    data, arguments = points_of(made / "Refine3D/job001/run_it003_data.star")
    write_coordinates(str(tmp_path / "new.star"), data, arguments)
    again, other = points_of(tmp_path / "new.star")
    np.testing.assert_allclose(again * other["scale"], data * arguments["scale"], atol=1e-5)
    table = read_star(tmp_path / "new.star").loop("particles")
    assert table is not None and (table["rlnOriginZAngst"] == 0).all()


def test_untilted_views_are_those_of_the_whole_rotation(tmp_path: Path) -> None:
    from napari_autorefine.model.geometry import matrix_to_euler
    from napari_autorefine.ui.plots_orientations import read_directions

    rng = np.random.default_rng(1)
    sub = rng.uniform(0, 180, (20, 3))
    own = matrix_to_euler(euler_to_matrix(sub).transpose(0, 2, 1) @ euler_to_matrix([[0.0, 90.0, 0.0]]))
    columns = {f"rlnTomoSubtomogram{name}": sub[:, at] for at, name in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= {f"rlnAngle{name}": own[:, at] for at, name in enumerate(("Rot", "Tilt", "Psi"))}
    names = pd.Series([f"{n}.mrc" for n in range(20)], dtype=object)
    optics = pd.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [7.0]})
    write_star(
        tmp_path / "run_data.star", {"optics": optics, "particles": pd.DataFrame({"rlnImageName": names} | columns)}
    )
    found = read_directions(tmp_path / "run_data.star", title="", symmetry="C1")
    assert found.is_of_tomograms and found.n_particle == 20
    row, column = np.unravel_index(np.nanargmax(found.density), found.density.shape)
    assert abs(row - 29.5) < 4 and abs(column - 59.5) < 4  # rot 0, tilt 90: the middle of the map


# facts


def test_facts_say_what_a_set_holds(made: Path) -> None:
    facts = set_facts(made / "sta/p_optimisation_set.star", made)
    assert facts.text == "16 subtomograms (volumes), 2 tomograms, 20 px, 7 Å/px, binning 1"
    refined = set_facts(made / "Refine3D/job001", made)
    assert isinstance(refined, SetFacts) and refined.files["mask"] == made / "maps/mask.mrc"
    assert refined.text.startswith("run_optimisation_set.star: 16 subtomograms")
    assert refined.text.endswith("; with half-maps and mask")
    assert (refined.box_px, refined.pixel_A) == (20, 7.0)


def test_facts_of_tilt_stacks_and_of_lost_files(tmp_path: Path) -> None:
    write_project(tmp_path, "2d", n_particle=4)
    facts = set_facts(tmp_path / "sta/p_optimisation_set.star", tmp_path)
    assert facts.text.startswith("4 tilt stacks, 2 tomograms, 20 px")
    gone = set_around(tmp_path, "sta/p.star", {"mask": "masks/gone.mrc"})
    assert set_facts(gone, tmp_path).text.endswith("; not there: masks/gone.mrc")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lost = set_facts(tmp_path / "sta/p_optimisation_set.star", elsewhere)
    assert lost.is_problem and lost.text.endswith(f"make {tmp_path.resolve()} the project.")


# forms


@pytest.fixture
def form(made: Path, qtbot: Any) -> Any:
    from napari_autorefine.ui.forms import JobForm

    made_form = JobForm("refine", Project(made))
    qtbot.addWidget(made_form)
    return made_form


def known(form: Any, qtbot: Any) -> Any:
    qtbot.waitUntil(lambda: form.fields["optimisation_set"].facts is not None, timeout=20_000)
    return form.fields


def test_a_set_fills_reference_and_mask_and_stands_for_the_particles(form: Any, qtbot: Any) -> None:
    form.set_values({"optimisation_set": "Refine3D/job001/run_optimisation_set.star"})
    fields = known(form, qtbot)
    assert (fields["reference"].text, fields["mask"].text) == ("maps/half1.mrc", "maps/mask.mrc")
    grey = fields["particles"].widget.native.placeholderText()
    assert fields["particles"].text == "" and grey == "of the set: Refine3D/job001/run_it003_data.star"
    assert not form.problem and "--ios Refine3D/job001/run_optimisation_set.star" in form.command()
    form.set_values({"optimisation_set": "sta/p_optimisation_set.star"})  # it names no maps: those of the other go
    known(form, qtbot)
    assert (fields["reference"].text, fields["mask"].text) == ("", "")
    assert fields["mask"].widget.native.placeholderText() == "none: a sphere"


def test_what_the_user_has_chosen_stays(form: Any, qtbot: Any) -> None:
    form.set_values({"reference": "maps/half2.mrc", "particles": "sta/p.star"})
    form.set_values({"optimisation_set": "Refine3D/job001/run_optimisation_set.star"})
    fields = known(form, qtbot)
    assert (fields["reference"].text, fields["mask"].text) == ("maps/half2.mrc", "maps/mask.mrc")
    assert fields["particles"].remark.startswith("Taken in place of Refine3D/job001/run_it003_data.star")


def test_a_set_fills_box_and_binning_of_a_map_from_tilt_series(made: Path, qtbot: Any) -> None:
    from napari_autorefine.ui.forms import JobForm

    form: Any = JobForm("reconstruct_particle", Project(made))
    qtbot.addWidget(form)
    form.set_values({"optimisation_set": "Refine3D/job001/run_optimisation_set.star"})
    facts = known(form, qtbot)["optimisation_set"].facts
    sizes = lambda: tuple(form.fields[name].read() for name in ("box_size_px", "binning"))  # noqa: E731
    assert sizes() == (facts.box_px, facts.binning or 1.0) and facts.box_px == 20
    form.set_filling._fill_sizes(replace(facts, binning=2.0, box_px=24))
    assert sizes() == (24, 2.0)
    form.set_values({"binning": 3.0})
    form.set_filling._fill_sizes(replace(facts, binning=4.0, box_px=28))
    assert sizes() == (28, 3.0)  # what the user has chosen stays


def test_the_box_of_the_reference_is_compared_with_that_of_the_set(form: Any, qtbot: Any, made: Path) -> None:
    write_volume(made / "maps/other.mrc", ball(24, 5.0), 7.0)
    form.set_values({"optimisation_set": "sta/p_optimisation_set.star", "reference": "maps/other.mrc"})
    known(form, qtbot)
    qtbot.waitUntil(lambda: "but the particles are 20 px" in form.fields["reference"].remark, timeout=20_000)


def test_particles_and_sets_take_turns() -> None:
    filled = cleared_for({"optimisation_set": "a_optimisation_set.star", "reference": "map.mrc"})
    assert filled["particles"] == filled["tomograms"] == "" and filled["reference"] == "map.mrc"
    assert cleared_for({"particles": "p.star"}) == {"optimisation_set": "", "particles": "p.star"}
    assert cleared_for({"threads": 2}) == {"threads": 2}


def test_what_follows_on_tomograms() -> None:
    outputs = {"optimisation_set": "s.star", "particles": "p.star", "map": "m.mrc", "half1": "h.mrc"}
    after = {step.job: step.values for step in next_steps("recenter", outputs)}
    assert list(after) == ["reconstruct_particle", "subtomo", "reconstruct", "refine"]
    assert after["subtomo"] == {"optimisation_set": "s.star"}
    assert {"optimisation_set": "s.star", "map": "m.mrc"} in [s.values for s in next_steps("refine", outputs)]
    del outputs["optimisation_set"]
    assert "extract" in {step.job for step in next_steps("recenter", outputs)}


# in the window


def test_a_set_that_is_dropped_fills_the_forms_and_moves_the_project(
    project: Path, make_viewer: Callable[..., Any], qtbot: Any
) -> None:
    from napari_autorefine.ui.job_docks import open_dock

    viewer = make_viewer(show=True)
    behind, front = open_dock(viewer, "reconstruct"), open_dock(viewer, "refine")
    assert behind is not None and front is not None
    front.fill({"particles": "old.star"})
    viewer.window._qt_viewer._qt_open([str(project / "Refine3D/job001/run_optimisation_set.star")], stack=False)
    place = "Refine3D/job001/run_optimisation_set.star"
    for dock in (behind, front):
        qtbot.waitUntil(lambda one=dock: one.form.fields["optimisation_set"].text == place, timeout=20_000)
    qtbot.waitUntil(lambda: front.form.fields["mask"].text == "maps/mask.mrc", timeout=20_000)
    assert front.form.fields["particles"].text == "" and front.project.folder == project
    kinds = {layer.metadata["autorefine"]["kind"] for layer in viewer.layers}
    assert {"coordinates_3d", "particles", "half1", "half2", "mask"} <= kinds


def test_recentring_opens_map_and_mask_of_a_set(project: Path, make_viewer: Callable[..., Any], qtbot: Any) -> None:
    from napari_autorefine.ui.job_docks import open_dock

    viewer = make_viewer(show=True)
    dock: Any = open_dock(viewer, "recenter")
    viewer.open(str(project / "Refine3D/job001/run_optimisation_set.star"), plugin="napari-autorefine")
    qtbot.waitUntil(lambda: dock.tool.map_choice.layer is not None and "optimisation_set" in dock.form.values())
    assert dock.tool.map_choice.layer.metadata["autorefine"]["kind"] == "half1"
    assert dock.tool.mask_choice.layer.metadata["autorefine"]["kind"] == "mask"
    dock.tool.set_center([0, 0, 2.75])
    qtbot.waitUntil(lambda: dock.panel.run_button.isEnabled(), timeout=20_000)
    assert dock.form.command().startswith("autorefine recenter --ios Refine3D/job001/run_optimisation_set.star")


def test_the_particles_of_a_set_are_colored_pointed_updated_and_split(
    project: Path, make_viewer: Callable[..., Any], qtbot: Any
) -> None:
    from napari_autorefine.ui.set_viewing import show_set

    viewer = make_viewer()
    layer = show_set(viewer, project / "Refine3D/job001")
    dock = viewer.window.dock_widgets[DOCK]
    assert dock.layer is layer and dock.arrows.isChecked() and len(layer.data) == N_PARTICLE
    arrows = viewer.layers[-1]
    np.testing.assert_allclose(arrows.data[:, 0], layer.data)
    np.testing.assert_allclose(np.linalg.norm(arrows.data[:, 1], axis=1), 1.0)  # a particle's diameter
    assert (layer.size < 0.5).all()  # dots at their feet
    assert "TS_1: 8 of 16 particles of run_it003_data.star" in dock.words.text()
    texts = [dock.colors.itemText(at) for at in range(dock.colors.count())]
    assert texts[:4] == ["one color", "tomogram", "class", "half-set"] and "certainty (Pmax)" in texts
    dock.colors.setCurrentIndex(texts.index("class"))
    classes = layer.features["rlnClassNumber"].to_numpy()
    colors = {tuple(color) for color in layer.border_color[classes == 2]}
    assert len(colors) == 1 and len(np.unique(layer.border_color, axis=0)) == 3
    np.testing.assert_allclose(arrows.edge_color, layer.border_color)

    before = layer.data.copy()
    star = read_star(project / "Refine3D/job001/run_it003_data.star")
    table = star.loop("particles")
    assert table is not None
    new = {
        **star.tables,
        "particles": table.assign(rlnCenteredCoordinateZAngst=table["rlnCenteredCoordinateZAngst"] + 30),
    }
    write_star(project / "Refine3D/job001/run_it004_data.star", new, version=star.version)
    dock.newest.click()
    qtbot.waitUntil(lambda: "run_it004_data.star" in dock.words.text(), timeout=20_000)
    np.testing.assert_allclose(((layer.data - before) * layer.scale), [[0, 30, 0, 0]] * N_PARTICLE, atol=1e-6)
    np.testing.assert_allclose(arrows.data[:, 0], layer.data)
    assert "run_it004_data.star" in dock.words.text()
    (project / "Refine3D/job001/run_it004_data.star").unlink()

    dock.split.click()
    pieces = [one for one in viewer.layers if one.name in {"TS_1", "TS_2"}]
    assert [len(one.data) for one in pieces] == [8, 8] and all(one.ndim == 3 for one in pieces)
    assert layer not in viewer.layers and arrows not in viewer.layers


def test_layers_that_show_one_tomogram_at_a_time_are_updated(
    project: Path, make_viewer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from napari.layers import Layer

    from napari_autorefine.ui import background
    from napari_autorefine.ui.particle_updates import newest_poses, shown, take_poses

    monkeypatch.setattr(background, "_MANY_POINTS", 5)
    path = project / "Refine3D/job001/run_it003_data.star"
    viewer = make_viewer()
    (points,) = (one for one in read_star_file(path) if one[2] == "points")
    layer = viewer.add_layer(Layer.create(*background._thinned(points)))
    follower = layer.metadata["autorefine"]["follower"]
    follower.attach(layer, viewer)
    viewer.dims.set_current_step(0, 1)
    assert layer.data[:, 0].tolist() == [0] + [1] * 8
    star = read_star(path)
    table = star.loop("particles")
    assert table is not None
    moved = table.assign(rlnCenteredCoordinateZAngst=table["rlnCenteredCoordinateZAngst"] + 30)
    newer = path.with_name("moved_data.star")
    write_star(newer, {**star.tables, "particles": moved}, version=star.version)
    before = layer.data.copy()
    take_poses(layer, newest_poses([newer], shown(layer)))
    newer.unlink()
    np.testing.assert_allclose((layer.data - before) * layer.scale, [[0, 30, 0, 0]] * 9, atol=1e-6)
    viewer.dims.set_current_step(0, 0)
    assert layer.data[:, 0].tolist() == [0] * 8 + [1] and len(follower.data) == N_PARTICLE
    np.testing.assert_allclose(follower.data[:, 1] * layer.scale[1], points[0][:, 1] * points[1]["scale"][1] + 30)
