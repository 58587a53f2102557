"""The pictures of the tutorial on subtomograms, on tilt series that are simulated for it; see make_screenshots.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from make_screenshots import Driver
    from napari import Viewer

LIVE_ITERATION = 3
_SHIFT_PX, _COARSE, _PIXEL_A, _BOX, _DIAMETER_A = 2.75, 4, 2.5, 32, 190.0
_SYMMETRY = "C2"


def simulate(folder: Path) -> None:
    """Write a project: particles on a sphere as volumes, a reference that lies too high, a mask."""
    from napari_autorefine.io.atoms import demo_molecule
    from napari_autorefine.jobs.mask import MaskParams, mask
    from napari_autorefine.jobs.simulate import simulate_atoms
    from napari_autorefine.jobs.simulate_params import SimulateParams

    params = SimulateParams(
        output="Extract/job004/sim",
        symmetry="D2",
        tomo="3d",
        arrangement="sphere",
        spacing_A=230.0,
        n_particle=80,
        tilt_series=2,
        tilt_step_deg=4.0,
        max_dose_e_A2=60.0,
        box_size=_BOX,
        pixel_size_A=_PIXEL_A,
        binning=_COARSE,
        particle_diameter_A=_DIAMETER_A,
        offset_sigma_A=6.0,
        bfactor_A2=100.0,
        reference_shift_px=_SHIFT_PX,
        snr=0.1,
        seed=1,
    )
    before = Path.cwd()
    os.chdir(folder)
    try:
        list(simulate_atoms(demo_molecule(), params))
        made = MaskParams(
            input="Extract/job004/sim_truth.mrc",
            output="masks/mask_align_bin4.mrc",
            lowpass_A=25.0,
            extend_px=1.0,
            soft_edge_px=2.0,
            largest=True,
        )
        list(mask(made))
    finally:
        os.chdir(before)


def subtomograms(viewer: Viewer, images: Path) -> None:
    """Go through the tutorial on subtomograms."""
    from make_screenshots import Driver

    driver = Driver(viewer, images)
    folder = Path(os.environ["AUTOREFINE_CACHE"]) / "project"
    folder.mkdir(exist_ok=True)
    simulate(folder)
    driver.spin(1.0)
    refined = refine(driver, folder)
    recentred = recentre(driver, refined, folder)
    check(driver, recentred, folder)


def refine(driver: Driver, folder: Path) -> Any:
    """Drop the set, look at its particles, refine them."""
    viewer = driver.viewer
    dock: Any = driver.dock("refine")
    viewer.open(str(folder / "Extract/job004/sim_optimisation_set.star"), plugin="napari-autorefine")
    field = dock.form.fields["optimisation_set"]
    driver.until(lambda: field.facts is not None, "the set", 60)
    dock.fill({
        "reference": str(folder / "Extract/job004/sim_reference.mrc"),
        "ini_high_A": 45,
        "symmetry": _SYMMETRY,
        "particle_diameter_A": 250,
        "auto_local_healpix_order": 3,
        "sigma_tilt_deg": 15,
        "random_seed": 1,
    })  # fmt: skip
    driver.spin(2.0)
    driver.shot("sta_set")
    field.show_wanted.emit()
    driver.spin(1.0)
    viewer.scene.camera.angles = (15.0, 25.0, 0.0)
    driver.shot("sta_particles")
    driver.start(dock)
    session = dock.panel.session
    driver.until(lambda: session.is_over or len(session.iterations) >= LIVE_ITERATION, "iterations", 1800)
    driver.spin(3.0)
    driver.shot("sta_live")
    driver.until(lambda: session.is_over, "the end", 3600)
    driver.end(dock)
    driver.spin(3.0)
    _newest_poses(driver)
    return dock


def _newest_poses(driver: Driver) -> None:
    """Show the particles alone, as the refinement has left them."""
    from napari_autorefine.ui.live_results import DOCK_NAME
    from napari_autorefine.ui.set_viewing import particles_dock

    viewer = driver.viewer
    dock = particles_dock(viewer)
    dock.newest.click()
    driver.until(lambda: dock.colors.findData("rlnMaxValueProbDistribution") > 0, "the newest poses", 60)
    names = [dock.colors.itemText(at) for at in range(dock.colors.count())]
    dock.colors.setCurrentIndex(names.index("certainty (Pmax)"))
    viewer.window.dock_widgets[DOCK_NAME].parent().hide()
    for layer in viewer.layers:
        layer.visible = type(layer).__name__ in {"Points", "Vectors"}
    viewer.canvas.grid.enabled = False
    viewer.reset_view()
    viewer.scene.camera.angles = (15.0, 25.0, 0.0)
    driver.shot("sta_poses")


def recentre(driver: Driver, refined: Any, folder: Path) -> Any:
    """Bring the map onto the mask, and the particles with it."""
    driver.viewer.layers.clear()
    driver.press(refined, "→ Recentre")
    dock: Any = driver.dock("recenter")
    dock.fill({"mask": str(folder / "masks/mask_align_bin4.mrc"), "symmetry": _SYMMETRY})
    driver.until(lambda: dock.tool.view.is_on, "map and mask", 60)
    dock.tool.looks["y"].click()
    driver.spin(2.0)
    driver.shot("recentre_before")
    dock.tool.suggest_button.click()
    driver.until(lambda: dock.tool.note.text() not in ("", "…") and not dock.tool.model.is_zero, "a suggestion", 120)
    driver.shot("recentre_after")
    dock.tool.looks["3d"].click()
    driver.spin(2.0)
    driver.shot("recentre_3d")
    driver.run(dock)
    driver.shot("recentre_applied")
    return dock


def check(driver: Driver, recentred: Any, folder: Path) -> None:
    """Reconstruct the recentred particles from the tilt series; the map lies on the mask now."""
    driver.press(recentred, "→ Reconstruct particle")
    dock: Any = driver.dock("reconstruct_particle")
    dock.fill({"binning": _COARSE, "box_size_px": 48, "crop_size_px": _BOX, "symmetry": _SYMMETRY})
    driver.run(dock)
    driver.viewer.layers.clear()
    tool: Any = driver.dock("recenter")
    tool.tool.set_center([0.0, 0.0, 0.0])
    assert dock.panel.session is not None
    tool.fill({"map": dock.panel.session.outputs["map"], "mask": str(folder / "masks/mask_align_bin4.mrc")})
    driver.until(lambda: tool.tool.view.is_on, "map and mask", 60)
    tool.tool.looks["y"].click()
    driver.spin(3.0)
    driver.shot("sta_check")
