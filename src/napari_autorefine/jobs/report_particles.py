"""What a report shows of particles: offsets, certainty, intensities, defocus, greyscale factors, counts."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.mrc import as_float32, map_sections, read_header
from napari_autorefine.io.names import split_image_name
from napari_autorefine.io.run_tables import INTENSITY_LABEL
from napari_autorefine.jobs import report_plots as plots
from napari_autorefine.jobs.plots import picture
from napari_autorefine.jobs.report_data import Run, values_of
from napari_autorefine.jobs.report_maps import find_beside
from napari_autorefine.jobs.report_page import Block, Section, Table
from napari_autorefine.jobs.report_verdicts import picked_point_A

_MONTAGE = 32
_half = partial(picture, width="half")


def particle_section(run: Run) -> Section | None:
    """Offsets, certainty, normalisation, intensities and defocus of the particles, greyscale factors of the groups."""
    particles = run.particles
    blocks: list[Block] = []
    if particles is not None and len(particles):
        blocks += _offsets(run, particles)
        blocks += _histograms(particles)
    blocks += _scales(run)
    if particles is not None and len(particles):
        blocks.append(Table(title="Particles", rows=_counts(particles)))
    return Section(title="Particles", blocks=blocks) if blocks else None


def _offsets(run: Run, particles: Columns) -> list[Block]:
    pixel = run.voxel_size_A
    if "rlnOriginXAngst" in particles:
        origin = particles.stacked(("rlnOriginXAngst", "rlnOriginYAngst"))
    elif "rlnOriginX" in particles and math.isfinite(pixel):
        origin = particles.stacked(("rlnOriginX", "rlnOriginY")) * pixel
    else:
        return []
    sigma = run.models[0].number("rlnSigmaOffsetsAngst") if run.models else math.nan
    text = f"Circle: spread per axis that the refinement assumes, {sigma:.2f} Å." if math.isfinite(sigma) else ""
    point = picked_point_A(run)
    if point is not None:
        place = ", ".join(f"{value:.2f}" for value in point).replace("-", "−")
        text += f" On average images are centred on ({place}) Å (x, y, z) of the map."
    return [_half(plots.offset_figure(origin, sigma), alt="Offsets of the particles", caption=text.strip())]


def _histograms(particles: Columns) -> list[Block]:
    """Return the histograms of the columns that are there and not all alike."""
    wanted = {
        "rlnMaxValueProbDistribution": ("Weight of the best pose", "Weight"),
        "rlnNrOfSignificantSamples": ("Poses that count", "Coarse poses with 99.9 % of the weight"),
        "rlnNormCorrection": ("Normalisation", "Deviation of the image without the particle"),
        INTENSITY_LABEL: ("Intensity of the particles", "Intensity relative to the group"),
        "rlnLogLikeliContribution": ("Log-likelihood", "Log-likelihood of the image"),
    }
    blocks: list[Block] = []
    for label, (title, x_label) in wanted.items():
        if label in particles:
            values = values_of(particles, label)
            values = values[np.isfinite(values)]
            if len(values) and np.ptp(values) > 0:
                blocks.append(_half(plots.histogram_figure(values, title=title, x_label=x_label), alt=f"{title}"))
    return blocks + defocus_pictures(particles)


def defocus_pictures(particles: Columns) -> list[Block]:
    """Return the histogram of the mean defocus, nothing without CTF columns."""
    if "rlnDefocusU" not in particles:
        return []
    mean = particles.numbers("rlnDefocusU")
    if "rlnDefocusV" in particles:
        mean = 0.5 * (mean + particles.numbers("rlnDefocusV"))
    figure = plots.histogram_figure(mean * 1e-4, title="Defocus", x_label="Defocus (µm)", unit=" µm")  # noqa: RUF001
    return [_half(figure, alt="Distribution of the defocus")]


def _scales(run: Run) -> list[Block]:
    groups = run.models[0].groups if run.models else None
    if groups is None or "rlnGroupScaleCorrection" not in groups:
        return []
    scale, count = groups.numbers("rlnGroupScaleCorrection"), groups.numbers("rlnGroupNrParticles", 1.0)
    used = count > 0
    rows = [
        [name, f"{n:.0f}", f"{value:.6f}"]
        for name, n, value in zip(groups.texts("rlnGroupName"), count, scale, strict=True)
    ]
    table = Table(
        title="Values: greyscale factors", columns=["group", "particles", "factor"], rows=rows, is_folded=True
    )
    blocks: list[Block] = []
    if used.sum() > 1:
        text = "One point per scale group, by default a micrograph."
        blocks.append(_half(plots.scales_figure(scale[used], count[used]), alt="Greyscale factors", caption=text))
    return [*blocks, table]


def _counts(particles: Columns) -> list[list[str]]:
    rows = [["Particles", str(len(particles))]]
    if "rlnRandomSubset" in particles:
        half = particles.integers("rlnRandomSubset")
        rows.append(["Half-sets", f"{(half == 1).sum()} and {(half == 2).sum()}"])
    for label, name in (("rlnMicrographName", "Micrographs"), ("rlnTomoName", "Tomograms")):
        if label in particles:
            rows.append([name, str(len(set(particles.texts(label))))])
    return rows


def optics_table(optics: Columns | None) -> list[Block]:
    """Return the optics groups of a data file."""
    if optics is None or len(optics) == 0:
        return []
    labels = {
        "group": "rlnOpticsGroup",
        "name": "rlnOpticsGroupName",
        "pixel size (Å)": "rlnImagePixelSize",
        "box (px)": "rlnImageSize",
        "voltage (kV)": "rlnVoltage",
        "Cs (mm)": "rlnSphericalAberration",
        "amplitude contrast": "rlnAmplitudeContrast",
    }
    kept = {name: label for name, label in labels.items() if label in optics}
    texts = [
        [f"{value:g}" if isinstance(value, float) else str(value) for value in optics.table[kept[name]]]
        for name in kept
    ]
    return [Table(title="Optics groups", columns=list(kept), rows=list(zip(*texts, strict=True)))]


def extraction_section(particles: Columns, optics: Columns | None) -> Section:
    """Count, defocus, particles per micrograph and first images of an extraction."""
    blocks: list[Block] = []
    images, missing = first_images(particles)
    if images is not None:
        text = f"The first {len(images)} particles, each on its own grey scale."
        blocks.append(picture(plots.montage_figure(images), alt="Montage of the first particles", caption=text))
    blocks += defocus_pictures(particles)
    if "rlnMicrographName" in particles:
        counts = np.unique(particles.texts("rlnMicrographName").astype(str), return_counts=True)[1]
        blocks.append(_half(plots.counts_figure(counts.astype(np.float64)), alt="Particles per micrograph"))
    blocks.append(Table(title="Particles", rows=[*_counts(particles), *([["Images", missing]] if missing else [])]))
    return Section(title="Particles", blocks=[*blocks, *optics_table(optics)])


def first_images(particles: Columns) -> tuple[np.ndarray | None, str]:
    """Return the first images of one size, (n, n_y, n_x), or None and why there are none."""
    if "rlnImageName" not in particles:
        return None, "no column rlnImageName"
    images: list[np.ndarray] = []
    for name in particles.texts("rlnImageName")[:_MONTAGE]:
        number, file = split_image_name(str(name))
        path = find_beside(file, Path(particles.file).parent)
        if path is None:
            break
        try:
            header = read_header(path)
            sections = map_sections(header)
            index = (number or 1) - 1
            image = as_float32(sections[index : index + 1], header)[0]
        except (InputError, IndexError) as error:
            return None, f"not shown: {error}"
        if images and image.shape != images[0].shape:
            break
        images.append(image)
    return (np.stack(images), "") if images else (None, "not shown: the files of the images were not found")
