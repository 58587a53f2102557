"""What the report of a subtomogram demo says besides: tilt series, recentring, and how far the truth is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.patches import Circle
from scipy.ndimage import gaussian_filter

from napari_autorefine.engine.correlation import fsc
from napari_autorefine.io.atoms import demo_molecule
from napari_autorefine.io.mrc import read_data, read_volume
from napari_autorefine.io.names import find_image_file, search_folders, split_image_name
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.jobs.demo_truth import Comparison
from napari_autorefine.jobs.measures import molecule_mask
from napari_autorefine.jobs.measures_tomo import tomo_pose_errors
from napari_autorefine.jobs.plots import crossing_A, new_figure, picture, slices_figure
from napari_autorefine.jobs.report_page import Picture, Section, Table, Text, Verdict
from napari_autorefine.model.atoms import AtomProjector
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.model.tomography import positions_px, projected_px

_GOOD_DEG, _FAR_DEG = 5.0, 15.0
_SHOWN_A = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A finished refinement beside the truth.

    Attributes
    ----------
    binning : of its particles
    resolution_A : that it reports
    comparison : with the true map, moved to where the poses say that the molecule is
    """

    binning: int
    resolution_A: float
    comparison: Comparison

    @property
    def center_A(self) -> np.ndarray:
        """Where the molecule is in the map: (3,)."""
        return self.comparison.errors.common_shift_A

    @property
    def n_far(self) -> int:
        """Particles whose orientation was missed."""
        return int((self.comparison.errors.angle_deg > _FAR_DEG).sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Recentring:
    """Maps before and after recentring, and the mask; in A offsets (3,) found and left, and the true one along z."""

    before: str
    after: str
    mask: str
    found_A: tuple[float, ...]
    left_A: tuple[float, ...]
    true_A: float


def compare(outputs: Mapping[str, str], truth: str, tomograms: str, *, binning: int, bfactor_A2: float) -> Stage:
    """Compare a finished refinement with the truth.

    Parameters
    ----------
    outputs : files of the refinement by kind
    truth : particle file with the true poses
    tomograms : file of the tilt series
    binning : of the particles
    bfactor_A2 : of the simulated atoms
    """
    group, density = point_group("D2"), read_volume(outputs["map"])
    found = read_particles(outputs["particles"])
    errors = tomo_pose_errors(found, read_particles(truth), read_tomograms(tomograms), group)
    atoms = demo_molecule().moved(errors.common_shift_A)
    size, voxel_A = len(density.data), density.voxel_size_A
    true = AtomProjector(atoms, box_size=size, pixel_size_A=voxel_A, bfactor_A2=bfactor_A2).density()
    curve = fsc(density.data, true, molecule_mask(true, voxel_A))
    general = read_star(outputs["model"]).pairs("model_general") or {}
    return Stage(
        binning=binning,
        resolution_A=float(general["rlnCurrentResolution"]),
        comparison=Comparison(
            density=density.data,
            truth=true,
            voxel_size_A=voxel_A,
            curve=curve,
            resolution_A=max(crossing_A(curve, voxel_A, threshold=0.5), 2 * voxel_A),
            errors=errors,
        ),
    )


def stage_verdict(stage: Stage) -> Verdict:
    """Say in one sentence how near a refinement is to the truth."""
    median, upper = stage.comparison.angle_deg
    n, errors = len(stage.comparison.errors.angle_deg), stage.comparison.errors
    text = f"{stage.resolution_A:.1f} Å by the half-maps, {stage.comparison.resolution_A:.1f} Å against the truth (FSC"
    text += f" 0.5); orientations are off by {median:.2f}° (median; 90 % by less than {upper:.2f}°), centers by"
    text += f" {errors.offset_rms_A:.2f} Å; {stage.n_far} of {n} particles are off by more than {_FAR_DEG:.0f}°."
    if median < _GOOD_DEG:
        return Verdict(level="good", headline=f"Binning {stage.binning}: the truth was found.", text=text)
    return Verdict(level="warning", headline=f"Binning {stage.binning}: the truth was missed.", text=text)


def tilt_series_section(tomograms: str, particles: str, diameter_A: float) -> Section:
    """Return the untilted image of the first tilt series with its picks."""
    text = "Tilt series were simulated from PDB 5A1A: particles are drawn into every tilt image with its CTF, damage"
    text += " and noise, then cut out as stacks of tilt images. The starting map was moved up along z, as an initial"
    text += " model that does not know of the mask."
    alt = "Untilted image of the first tilt series with its particles circled"
    caption = f"Filtered to {_SHOWN_A:.0f} Å for the eye; circles of {diameter_A:.0f} Å around the picks."
    shown = _tilt_picture(tomograms, particles, diameter_A)
    blocks = [Text(text=text), *(() if shown is None else (replace(shown, alt=alt, caption=caption),))]
    return Section(title="From tilt series", blocks=blocks)


def _tilt_picture(tomograms: str, particles: str, diameter_A: float) -> Picture | None:
    """Draw the image of least tilt of the first tomogram, low-passed, with a circle around each pick."""
    picks = read_particles(particles)
    rows = picks.subtomograms
    assert rows is not None
    name = str(rows.tomogram_name[0])
    series = read_tomograms(tomograms)
    one = series[name]
    tilt = int(np.argmax(one.projection[:, 2, 2]))
    number, path = split_image_name(str(one.image_name[tilt])) if one.image_name is not None else (None, "")
    place = find_image_file(path, search_folders(tomograms, None))
    if place is None:
        return None
    image = gaussian_filter(read_data(place)[0][(number or 1) - 1], _SHOWN_A / (4 * one.pixel_size_A))
    positions = positions_px(rows, series)[rows.tomogram_name == name]
    low, high = np.percentile(image, [0.5, 99.5])
    figure, (axes,) = new_figure(4.7, 4.7 * image.shape[0] / image.shape[1])
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower")
    for position in positions:
        x, y = projected_px(one, position)[tilt]
        radius = diameter_A / 2 / one.pixel_size_A
        axes.add_patch(Circle((x, y), radius, fill=False, edgecolor="#e69f00", linewidth=0.8))
    axes.set_xlim(-0.5, image.shape[1] - 0.5)
    axes.set_ylim(-0.5, image.shape[0] - 0.5)
    axes.set_axis_off()
    return picture(figure, alt="", width="half")


def recentring_section(found: Recentring, coarse: Stage) -> Section:
    """Return the offsets before and after recentring, and sections of maps and mask."""
    rows = [
        ("Starting map lies too high by", f"{found.true_A:.2f} Å"),
        ("Molecule in the map at binning 4, from the true poses", f"{coarse.center_A[2]:.2f} Å along z"),
        ("Offset of map and mask, found", ", ".join(f"{value:.2f}" for value in found.found_A) + " Å"),
        ("Offset that is left in the map of the recentred particles", f"{found.left_A[2]:.2f} Å along z"),
    ]
    maps = {"refined": found.before, "mask": found.mask, "recentred": found.after}
    volumes = {name: read_volume(path) for name, path in maps.items()}
    figure = slices_figure({name: one.data for name, one in volumes.items()}, volumes["mask"].voxel_size_A)
    alt = "Central sections of the refined map, of the mask, and of the map of the recentred particles"
    text = "The refined map lies too high for the mask. The offset is found by moving the map onto the mask; particles"
    text += " get new centers, and a new map of them, straight from the tilt series, lies in the mask."
    return Section(title="Recentring", blocks=[Text(text=text), Table(rows=rows), picture(figure, alt=alt)])


def summary_values(coarse: Stage, fine: Stage, recentred: Recentring) -> dict[str, Any]:
    """Return the figures of a demo as plain values."""
    return {
        "binning_4": _values(coarse),
        "binning_2": _values(fine),
        "offset_true_A": recentred.true_A,
        "offset_found_A": list(recentred.found_A),
        "offset_left_A": list(recentred.left_A),
    }


def _values(stage: Stage) -> dict[str, float | int]:
    found, errors = stage.comparison, stage.comparison.errors
    median, upper = found.angle_deg
    near = errors.offset_A[errors.angle_deg <= _FAR_DEG]
    return {
        "particles": len(errors.angle_deg),
        "resolution_half_maps_A": round(stage.resolution_A, 3),
        "resolution_truth_A": round(found.resolution_A, 3),
        "angle_median_deg": round(median, 3),
        "angle_p90_deg": round(upper, 3),
        "particles_beyond_15_deg": stage.n_far,
        "center_rms_per_axis_A": round(float(np.sqrt(np.mean(near**2) / 3)) if len(near) else float("nan"), 3),
        "map_center_z_A": round(float(stage.center_A[2]), 3),
    }
