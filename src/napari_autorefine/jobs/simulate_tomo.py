"""Make tilt series with known particles, and particles of tomograms cut from them in both of RELION's forms."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pandas as pd

from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.events import Event, Finished
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.optimisation_set import OptimisationSet
from napari_autorefine.io.tables import VERSION_3_1, VERSION_5_0, Table, write_star
from napari_autorefine.io.tomograms import SIZES, read_tomograms
from napari_autorefine.jobs.record import write_record
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.simulate_tomo_frames import TiltDrawer, series_path, write_series
from napari_autorefine.jobs.simulate_tomo_scene import TomoScene, draw_scene
from napari_autorefine.jobs.simulate_truth import optics_of
from napari_autorefine.jobs.subtomo_cut import CutParticles, CutPlan, Picks, cut_particles, write_cut
from napari_autorefine.model.atoms import AtomProjector, Atoms
from napari_autorefine.model.subtomogram_cutting import Cut
from napari_autorefine.model.tomography import Tomogram

_POSE = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_ORIGIN = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")


def simulate_tomo(atoms: Atoms, params: SimulateParams, diameter_A: float) -> Iterator[Event]:
    """Make tilt series, particles, truth, starting reference and optimisation set from a molecule."""
    scene = draw_scene(params, diameter_A)
    drawer = TiltDrawer(atoms, scene, params)
    gain = drawer.gain(diameter_A)
    yield from write_series(drawer, gain, params)
    tomograms = _write_tomograms(scene, params)
    cut = yield from cut_particles(_picks(scene, params), tomograms, _plan(params))
    outputs = {"particles": f"{params.output}.star", "optimisation_set": f"{params.output}_optimisation_set.star"}
    write_cut(cut, outputs, OptimisationSet().with_files({"tomograms": f"{params.output}_tomograms.star"}))
    outputs |= {"tomograms": f"{params.output}_tomograms.star", "truth": f"{params.output}_truth.star"}
    write_star(outputs["truth"], _truth_tables(cut, scene), version=cut.version)
    outputs |= _write_maps(atoms, gain, params)
    write_record(params.output, "simulate", params, outputs)
    text = f"Made {len(cut.rows)} particles in {len(tomograms)} tilt series of {scene.tomograms[0].n_tilt} images"
    yield Finished(text=f"{text}; sphere of {diameter_A:.0f} Å.", outputs=outputs)


def _picks(scene: TomoScene, params: SimulateParams) -> Picks:
    """Return the particles of a scene without their poses."""
    optics = optics_of(params)
    index = {group.name: number for number, group in enumerate(optics)}
    names = np.array([tomogram.name for tomogram in scene.tomograms], object)[scene.tomogram]
    count, listed = dict.fromkeys(names, 0), []
    for name in names:
        count[name] += 1
        listed.append(f"{name}/{count[name]}")
    optics_index = np.array([index[scene.tomograms[number].optics_name] for number in scene.tomogram])
    has_prior = params.arrangement == "sphere"
    poses = dict(zip(_POSE, (0.0, 90.0 if has_prior else 0.0, 0.0), strict=True))
    prior = {"rlnAngleTiltPrior": 90.0, "rlnAnglePsiPrior": 0.0} if has_prior else {}
    columns = {"rlnTomoParticleName": listed, **poses, **prior, "rlnOpticsGroup": optics_index + 1}
    return Picks(
        table=pd.DataFrame(columns),
        tomogram_name=names,
        position_px=scene.pick_px,
        subtomogram_deg=scene.subtomogram_deg,
        optics_index=optics_index,
        optics=optics,
    )


def _truth_tables(cut: CutParticles, scene: TomoScene) -> dict[str, Table]:
    """Return the tables of the particles with true poses, and half-sets by turns."""
    particles = cut.tables["particles"]
    assert isinstance(particles, pd.DataFrame)
    columns = dict(zip(_POSE + _ORIGIN, np.hstack([scene.euler_deg, scene.origin_A])[cut.rows].T, strict=True))
    return {**cut.tables, "particles": particles.assign(**columns, rlnRandomSubset=np.arange(len(cut.rows)) % 2 + 1)}


def _plan(params: SimulateParams) -> CutPlan:
    """Return how particles are cut: the box of each optics group, and by default a third more for the CTF."""
    cuts = [
        Cut(
            box_size=params.cut_box_size or 2 * int(np.ceil(group.box_size * 2 / 3)),
            crop_size=group.box_size,
            binning=params.binning,
        )
        for group in optics_of(params)
    ]
    return CutPlan(
        cuts=tuple(cuts),
        is_stack=params.tomo == "2d",
        folder=f"{params.output}_subtomograms",
        max_dose_e_A2=params.max_dose_e_A2,
        is_half_precision=params.float16,
        is_relion_4=params.relion_version == "4",
        threads=params.threads or os.cpu_count() or 1,
    )


def _write_tomograms(scene: TomoScene, params: SimulateParams) -> dict[str, Tomogram]:
    """Write the table of tomograms and the tables of their tilts; return the tomograms as they read back."""
    is_5 = params.relion_version == "5"
    tilts = {tomogram.name: _tilt_table(scene, number, params) for number, tomogram in enumerate(scene.tomograms)}
    rows: dict[str, list[object]] = {
        "rlnTomoName": [t.name for t in scene.tomograms],
        "rlnVoltage": [t.voltage_kV for t in scene.tomograms],
        "rlnSphericalAberration": [t.cs_mm for t in scene.tomograms],
        "rlnAmplitudeContrast": [t.amplitude_contrast for t in scene.tomograms],
        "rlnTomoHand": [t.hand for t in scene.tomograms],
        "rlnOpticsGroupName": [t.optics_name for t in scene.tomograms],
        "rlnTomoTiltSeriesPixelSize": [t.pixel_size_A for t in scene.tomograms],
        "rlnTomoImportFractionalDose": [params.tilt_dose_e_A2 for _ in scene.tomograms],
    }
    rows |= {label: [(t.size_px or (0, 0, 0))[axis] for t in scene.tomograms] for axis, label in enumerate(SIZES)}
    path = f"{params.output}_tomograms.star"
    tables: dict[str, Table] = {}
    if is_5:
        rows["rlnTomoTiltSeriesStarFile"] = [f"{params.output}_tilt_series/{name}.star" for name in tilts]
        for name, table in tilts.items():
            write_star(f"{params.output}_tilt_series/{name}.star", {name: table}, version=VERSION_5_0)
    else:
        rows["rlnTomoTiltSeriesName"] = [series_path(params.output, name) for name in tilts]
        rows["rlnTomoFrameCount"] = [len(table) for table in tilts.values()]
        tables = dict(tilts)
    write_star(path, {"global": pd.DataFrame(rows), **tables}, version=VERSION_5_0 if is_5 else VERSION_3_1)
    return read_tomograms(path)


def _tilt_table(scene: TomoScene, number: int, params: SimulateParams) -> pd.DataFrame:
    """Return the tilts of one tomogram in the layout of RELION 5 (angles and shifts) or 4 (projection matrices)."""
    tomogram, angles, shift = scene.tomograms[number], scene.angles_deg[number], scene.shift_A[number]
    table: dict[str, object] = {}
    if params.relion_version == "5":
        stack = series_path(params.output, tomogram.name)
        table["rlnMicrographName"] = [f"{tilt + 1:06d}@{stack}" for tilt in range(tomogram.n_tilt)]
        table["rlnTomoNominalStageTiltAngle"] = angles[:, 1]
        table |= dict(zip(("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot"), angles.T, strict=True))
        table |= dict(zip(("rlnTomoXShiftAngst", "rlnTomoYShiftAngst"), shift.T, strict=True))
    else:
        for axis, label in enumerate(("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ", "rlnTomoProjW")):
            table[label] = ["[" + ",".join(f"{v:.12g}" for v in row) + "]" for row in tomogram.projection[:, axis]]
    table["rlnDefocusU"], table["rlnDefocusV"] = tomogram.defocus_A.T
    table["rlnDefocusAngle"] = tomogram.defocus_angle_deg
    table["rlnCtfScalefactor"] = tomogram.ctf_scale
    table["rlnMicrographPreExposure"] = tomogram.dose_e_A2
    return pd.DataFrame(table)


def _write_maps(atoms: Atoms, gain: float, params: SimulateParams) -> dict[str, str]:
    """Write the true map on the grid of the first optics group, and a low-passed one that is moved along z.

    The true map has the grey scale of the particles: its projections are the images of a tilt stack before CTF, damage
    and noise; averages of volumes are sqrt(box * binning) times stronger.
    """
    group = optics_of(params)[0]
    voxel = group.pixel_size_A * params.binning
    strength = gain * (params.pixel_size_A / voxel) ** 2 / params.binning
    scale = np.float32(strength * (np.sqrt(group.box_size * params.binning) if params.tomo == "3d" else 1.0))
    outputs = {"truth_map": f"{params.output}_truth.mrc", "reference": f"{params.output}_reference.mrc"}
    for kind, path in outputs.items():
        shift = params.reference_shift_px * voxel if kind == "reference" else 0.0
        moved = atoms.moved(np.array([0.0, 0.0, shift]))
        projector = AtomProjector(moved, box_size=group.box_size, pixel_size_A=voxel, bfactor_A2=params.bfactor_A2)
        density = projector.density() * scale
        if kind == "reference":
            density = low_pass_map(density, params.reference_low_pass_A, voxel)
        write_volume(path, density, voxel)
    return outputs
