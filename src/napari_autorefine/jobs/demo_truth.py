"""What the report of a demo says besides: where its particles came from, and how far the result is from the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.ndimage import gaussian_filter, zoom

from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.io.mrc import read_data, read_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.extracted_truth import extracted_truth
from napari_autorefine.jobs.measures import PoseErrors, molecule_mask, pose_errors
from napari_autorefine.jobs.plots import crossing_A, error_figure, fsc_figure, new_figure, picture, slices_figure
from napari_autorefine.jobs.render import surface_figure
from napari_autorefine.jobs.report_page import Picture, Section, Table, Text, Verdict
from napari_autorefine.model.resize import fourier_resize
from napari_autorefine.model.symmetry import PointGroup

_SHOWN_A, _SHOWN_PX = 20.0, 600
_GOOD_DEG = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A refined map and its poses beside the truth.

    Attributes
    ----------
    density, truth : (n, n, n) maps on the grid of the refinement
    curve : (n_shell,), FSC of the refined map and the truth within a mask around the molecule
    resolution_A : where ``curve`` falls below 0.5
    """

    density: np.ndarray
    truth: np.ndarray
    voxel_size_A: float
    curve: np.ndarray
    resolution_A: float
    errors: PoseErrors

    @property
    def angle_deg(self) -> tuple[float, float]:
        """Median and 90th percentile of the angular errors."""
        median, upper = np.percentile(self.errors.angle_deg, (50, 90))
        return float(median), float(upper)


def compare(refined_map: str, refined_particles: str, truth: str, group: PointGroup) -> Comparison:
    """Compare a finished refinement with the files of its simulation; ``truth`` is their first part."""
    density, true_map = read_volume(refined_map), read_volume(f"{truth}.mrc")
    true_density = fourier_resize(true_map.data, len(density.data))
    mask = molecule_mask(true_density, density.voxel_size_A)
    curve = fsc(density.data, true_density, mask)
    found = read_particles(refined_particles)
    return Comparison(
        density=density.data,
        truth=true_density,
        voxel_size_A=density.voxel_size_A,
        curve=curve,
        resolution_A=crossing_A(curve, density.voxel_size_A, threshold=0.5),
        errors=pose_errors(found, extracted_truth(found, read_particles(f"{truth}.star")), group),
    )


def verdict_of(found: Comparison) -> Verdict:
    """Say in one sentence how near the result is to the truth."""
    median, upper = found.angle_deg
    text = f"Orientations are off by {median:.2f}° (median; 90 % by less than {upper:.2f}°), centers by"
    text += f" {found.errors.offset_rms_A:.2f} Å; map and truth agree to {found.resolution_A:.2f} Å (FSC 0.5)."
    if median < _GOOD_DEG:
        return Verdict(level="good", headline="The truth was found.", text=text)
    return Verdict(level="warning", headline="The truth was missed.", text=text)


def truth_section(found: Comparison) -> Section:
    """Return errors of the poses, FSC and sections of the map, beside the truth."""
    median, upper = found.angle_deg
    rows = [
        ("Map against the truth, FSC 0.5", f"{found.resolution_A:.2f} Å"),
        ("Angular error, median and 90th percentile", f"{median:.2f}° and {upper:.2f}°"),
        ("Offset error, root mean square", f"{found.errors.offset_rms_A:.2f} Å"),
        ("Particles compared", f"{len(found.errors.angle_deg)}"),
    ]
    filtered = low_pass_map(found.truth.astype(np.float32), found.resolution_A, found.voxel_size_A)
    sections = slices_figure({"refined": found.density, "truth": filtered}, found.voxel_size_A)
    errors = error_figure(found.errors.angle_deg, found.errors.offset_A, title="Errors of the poses")
    curve = fsc_figure({"map and truth": found.curve}, found.voxel_size_A, title="Map and truth", size_in=(4.7, 3.1))
    return Section(
        title="Against the truth",
        blocks=[
            Table(rows=rows),
            picture(errors, alt=f"Histograms of errors: angles, median {median:.2f}°, and offsets"),
            *_surfaces(found),
            picture(
                curve,
                alt=f"Fourier shell correlation of map and truth, 0.5 at {found.resolution_A:.2f} Å",
                caption="Within a mask around the molecule; 0.5 here corresponds to 0.143 between half-maps.",
                width="half",
            ),
            picture(
                sections,
                alt="Central sections of the refined map and of the truth",
                caption=f"Sharpened map and truth, which is filtered to {found.resolution_A:.1f} Å.",
                width="half",
            ),
        ],
    )


def _surfaces(found: Comparison) -> list[Picture]:
    """Return the surfaces of map and truth, both low-passed alike."""
    smooth_A = 1.5 * found.resolution_A
    pictures = []
    for name, data in {"Refined": found.density, "Truth": found.truth}.items():
        figure = surface_figure(low_pass_map(data.astype(np.float32), smooth_A, found.voxel_size_A), title=name)
        alt = f"{name}: surface of the map, seen along z, low-passed to {smooth_A:.1f} Å"
        pictures.append(picture(figure, alt=alt, width="half"))
    return pictures


def micrograph_section(micrograph: str, picks_px: np.ndarray, diameter_A: float, montage: bytes) -> Section:
    """Return a micrograph with its picks (n, 2) circled, and the first particles cut from the set."""
    figure = micrograph_figure(micrograph, picks_px, diameter_A)
    text = "Micrographs were simulated from PDB 5A1A: particles in ice, under the CTF, counted electron by electron."
    text += " An earlier refinement at half the size gave coordinates and poses; the particles were cut out again"
    text += " around their refined centers, and the map of that refinement brought to their box and pixel size."
    caption = f"Filtered to {_SHOWN_A:.0f} Å for the eye; circles of {diameter_A:.0f} Å around the earlier centers."
    return Section(
        title="From micrographs",
        blocks=[
            Text(text=text),
            picture(figure, alt=f"Micrograph with {len(picks_px)} picks circled", caption=caption, width="half"),
            Picture(image=montage, alt="First extracted particles", caption="First extracted particles.", width="half"),
        ],
    )


def micrograph_figure(path: str, picks_px: np.ndarray, diameter_A: float) -> Figure:
    """Draw a micrograph, low-passed and reduced, with a circle around each pick (n, 2), x and y in pixels."""
    data, header = read_data(path)
    pixel_size_A = header.voxel_size_A[0]
    image = gaussian_filter(data[0], _SHOWN_A / (4 * pixel_size_A))
    factor = min(1.0, _SHOWN_PX / max(image.shape))
    small = zoom(image, factor, order=1)
    low, high = np.percentile(small, [0.5, 99.5])
    figure, (axes,) = new_figure(4.7, 4.7 * image.shape[0] / image.shape[1])
    axes.imshow(small, cmap="gray", vmin=low, vmax=high, origin="lower")
    for x, y in picks_px * factor:
        radius = diameter_A / 2 / pixel_size_A * factor
        axes.add_patch(Circle((x, y), radius, fill=False, edgecolor="#e69f00", linewidth=0.8))
    axes.set_xlim(-0.5, small.shape[1] - 0.5)
    axes.set_ylim(-0.5, small.shape[0] - 0.5)
    axes.set_axis_off()
    return figure
