"""Sections of the report of a refinement, each from what was found of it; None where nothing was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.jobs import report_plots as plots
from napari_autorefine.jobs.plots import (
    direction_figure,
    fsc_figure,
    picture,
    sampling_figure,
    shell_resolution_A,
    slices_figure,
)
from napari_autorefine.jobs.render import map_figure, surface_figure
from napari_autorefine.jobs.report_data import UNKNOWN, Iteration
from napari_autorefine.jobs.report_maps import Curves, PostProcess, sharpened_map
from napari_autorefine.jobs.report_page import Block, Picture, Section, Table, Text
from napari_autorefine.jobs.report_verdicts import Findings, group_of

_FSC_SIZE = (4.7, 3.5)
_MOST_ROWS = 200
_HOW_RESOLUTION = (
    "The resolution of an iteration is where the FSC of the half-maps falls to 0.5, as each half is used alone; that of"
    " the final map is where it falls to 0.143."
)

half = partial(picture, width="half")


def number_text(value: float, digits: int = 6) -> str:
    """Return a number with so many digits as in the files, a dash for one that is not known."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) and value != UNKNOWN else "–"


def resolution_section(found: Findings) -> Section | None:
    """FSC of the run and of a post-processing, after the run and after each iteration."""
    blocks: list[Block] = []
    curves, post, run = found.curves, found.postprocess, found.run
    if curves is not None:
        caption = " ".join([curves.note, f"Mask: {curves.mask}." if curves.mask else ""]).strip()
        blocks.append(_fsc_picture(curves, title="Half-maps", caption=caption))
    if post is not None:
        blocks += postprocess_pictures(post)
    if len(run.fsc_history) > 1 and math.isfinite(run.voxel_size_A):
        figure = plots.fsc_history_figure(run.fsc_history, run.voxel_size_A)
        text = "As in the model files: joined at low resolution, and corrected for a mask if the run did so."
        blocks.append(half(figure, alt="FSC after each iteration", caption=text))
    return Section(title="Resolution", blocks=[*blocks, *fsc_tables(found)]) if blocks else None


def _fsc_picture(curves: Curves, *, title: str, caption: str) -> Picture:
    resolutions = [
        f"{name} {shell_resolution_A(fsc, curves.voxel_size_A):.2f} Å"
        for name, fsc in curves.curves.items()
        if "random" not in name
    ]
    figure = fsc_figure(curves.curves, curves.voxel_size_A, title=title, size_in=_FSC_SIZE)
    return half(figure, alt=f"{title}: Fourier shell correlation, {'; '.join(resolutions)}", caption=caption)


def postprocess_pictures(post: PostProcess) -> list[Block]:
    """Return FSC and Guinier plot of a post-processing."""
    caption = f"{post.path}; mask {post.general.get('rlnMaskName', 'none')}"
    blocks: list[Block] = [_fsc_picture(post.curves, title="Post-processing", caption=caption)]
    if post.guinier:
        fit = [post.general.get(f"rlnFitted{name}GuinierPlot") for name in ("Slope", "Intercept")]
        line = None if None in fit else (float(str(fit[0])), float(str(fit[1])))
        b_factor = post.general.get("rlnBfactorUsedForSharpening")
        text = f"B-factor used for sharpening: {number_text(float(str(b_factor)))} Å²" if b_factor is not None else ""
        blocks.append(half(plots.guinier_figure(post.guinier, line), alt="Guinier plot", caption=text))
    return blocks


def fsc_tables(found: Findings) -> Iterator[Table]:
    """Return the values of all curves as folded tables."""
    model = found.run.models[0] if found.run.models else None
    own = None if model is None else model.spectrum("rlnGoldStandardFsc")
    if found.curves is not None:
        is_same_box = own is not None and len(own) == len(next(iter(found.curves.curves.values())))
        more = {"model file": own} if own is not None and is_same_box else {}
        yield from value_tables(found.curves, "half-maps", more=more)
    if found.postprocess is not None:
        yield from value_tables(found.postprocess.curves, "post-processing")


def value_tables(curves: Curves, name: str, *, more: Mapping[str, np.ndarray] | None = None) -> Iterator[Table]:
    """Return the values of curves, one row per shell."""
    values = dict(curves.curves) | dict(more or {})
    n_shell = len(next(iter(values.values())))
    box_A = 2 * (n_shell - 1) * curves.voxel_size_A
    rows = []
    for shell in range(n_shell):
        resolution = number_text(box_A / shell if shell else math.inf)
        rows.append([str(shell), resolution, *(f"{curve[shell]:.6f}".replace("-", "−") for curve in values.values())])
    yield Table(title=f"Values: FSC, {name}", columns=["shell", "Å", *values], rows=rows, is_folded=True)


_ITERATION_COLUMNS: dict[str, Callable[[Iteration], str]] = {
    "iteration": lambda one: "final" if one.number is None else str(one.number),
    "resolution (Å)": lambda one: number_text(one.resolution_A),
    "image size (px)": lambda one: number_text(one.image_size_px),
    "HEALPix order": lambda one: number_text(one.healpix_order),
    "angular step (°)": lambda one: number_text(one.angular_step_deg),
    "search": lambda one: "local" if one.is_local else "global",
    "offset range (Å)": lambda one: number_text(one.offset_range_A),
    "offset step (Å)": lambda one: number_text(one.offset_step_A),
    "accuracy (°)": lambda one: number_text(one.accuracy_rot_deg),
    "accuracy (Å)": lambda one: number_text(one.accuracy_trans_A),
    "change (°)": lambda one: number_text(one.change_rot_deg),
    "change (Å)": lambda one: number_text(one.change_trans_A),
    "mean best weight": lambda one: number_text(one.p_max),
    "without gain": lambda one: number_text(one.no_gain),
    "without change": lambda one: number_text(one.no_change),
}


def course_section(found: Findings) -> Section | None:
    """Resolution, searches, accuracy and changes over the iterations."""
    run = found.run
    if not run.iterations:
        return None
    rows = [[text(one) for text in _ITERATION_COLUMNS.values()] for one in run.iterations]
    table = Table(title="Values: iterations", columns=list(_ITERATION_COLUMNS), rows=rows, is_folded=True)
    steps = "Steps are those of the fine search, half of the coarse ones in the sampling files."
    if len(run.iterations) < 2:
        return Section(title="Iterations", blocks=[Text(text=f"One iteration was found. {steps}"), table])
    angles = {"angular_step_deg": "step", "accuracy_rot_deg": "expected error", "change_rot_deg": "change"}
    offsets = {
        "offset_step_A": "step",
        "accuracy_trans_A": "expected error",
        "change_trans_A": "change",
        "offset_range_A": "range",
    }
    figures = {
        "Resolution after each iteration": plots.resolution_figure(run.iterations, run.voxel_size_A),
        "Mean weight of the best pose after each iteration": plots.certainty_figure(run.iterations),
        "Angular step, expected error and change of orientations": plots.search_figure(
            run.iterations, angles, title="Angles", unit="Degrees", step="angular_step_deg"
        ),
        "Step and range, expected error and change of offsets": plots.search_figure(
            run.iterations, offsets, title="Offsets", unit="Å", step="offset_step_A"
        ),
    }
    pictures = [half(figure, alt=alt) for alt, figure in figures.items()]
    text = f"{_HOW_RESOLUTION} {steps}"
    return Section(title="Iterations", blocks=[*pictures, Text(text=text), table])


def map_section(found: Findings) -> Section | None:
    """Surfaces and central sections of the joined map and the half-maps."""
    maps = {kind: read_volume(path) for kind, path in found.run.maps.items()}
    if not maps:
        return None
    voxel = next(iter(maps.values())).voxel_size_A
    names = {"map": "map", "half1": "half-map 1", "half2": "half-map 2"}
    names |= {f"filtered half{n}": f"half-map {n}, filtered" for n in (1, 2)}
    blocks: list[Block] = []
    shown = {names[kind]: volume.data for kind, volume in maps.items()}
    post = None if found.postprocess is None else sharpened_map(found.postprocess)
    if post is not None:
        blocks.append(_surface("Sharpened map", read_volume(post).data, f"{post}"))
    if "map" in shown:
        blocks.append(_surface("Map", shown["map"], f"{found.run.maps['map']}, neither masked nor sharpened"))
    halves = {name: data for name, data in shown.items() if name != "map"}
    if halves:
        limit = max(1.5 * _plain_resolution(found), 3 * voxel)
        soft = {name: low_pass_map(data, limit, voxel) for name, data in halves.items()}
        caption = f"Seen along z, low-passed to {limit:.1f} Å for this picture."
        for name, data in soft.items():
            blocks.append(half(surface_figure(data, title=name), alt=f"Surface of {name}", caption=caption))
    sections = slices_figure(shown, voxel)
    caption = "Through the centre of the box, unfiltered, each map on its own grey scale."
    blocks.append(picture(sections, alt=f"Central sections of {', '.join(shown)}", caption=caption))
    return Section(title="Maps", blocks=blocks)


def _surface(title: str, data: np.ndarray, caption: str) -> Picture:
    level = "Contour level by Otsu's method."
    return picture(map_figure(data, title=title), alt=f"{title} along z, y and x", caption=f"{caption}. {level}")


def _plain_resolution(found: Findings) -> float:
    """Return the resolution of the half-maps without a mask, 0 when it is not known."""
    value = found.run.iterations[-1].resolution_A if found.run.iterations else math.nan
    return value if math.isfinite(value) else 0.0


def orientation_section(found: Findings) -> Section | None:
    """Distribution of views, sampling of Fourier space, and the score."""
    views, run, score = found.views, found.run, found.score
    if views is None:
        return None
    group = group_of(run)
    figure = direction_figure(views.euler_deg, operators=group.operators, weight=views.weight, title="Views")
    text = f"{views.source[0].upper()}{views.source[1:]}, {group.name} applied; smoothed over 8°, equal areas."
    blocks: list[Block] = [half(figure, alt="Distribution of views on the sphere", caption=text)]
    if score is None:
        blocks.append(Text(text="Every particle is a tilt series, which has no single direction of view: no score."))
        return Section(title="Orientations", blocks=blocks)
    figure = sampling_figure(views.euler_deg, operators=group.operators, weight=views.weight, title="Fourier sampling")
    text = "How many slices pass through each direction, smoothed over 3°; dark regions lack signal."
    blocks.append(half(figure, alt="Sampling of Fourier space by direction", caption=text))
    rows = [
        ["Sampling compensation factor", f"{score.scf:.3f}"],
        ["Directions without any slice", f"{100 * score.unsampled:.1f} %"],
        ["Fourier radius of the count", f"{score.radius:.1f} px"],
    ]
    blocks.append(Table(rows=rows))
    text = (
        "The factor multiplies the signal-to-noise ratio of the map's shells compared with evenly spread views (Baldwin"
        " & Lyumkis 2020, doi:10.1016/j.pbiomolbio.2019.09.002): 1 is even, side views around one axis give 0.81, a"
        " missing cone brings it near 0. Directions without a slice count as sampled by 1 % of the mean."
    )
    return Section(title="Orientations", blocks=[*blocks, Text(text=text)])


def spectra_section(found: Findings) -> Section | None:
    """Noise per optics group, power of signal and noise of the map, signal-to-noise ratio."""
    run = found.run
    if not run.models or not math.isfinite(run.voxel_size_A):
        return None
    model, limit = run.models[0], 0.5 / run.voxel_size_A
    curves = {name: (values[0], values[1]) for name, values in model.noise.items()}
    blocks: list[Block] = []
    if curves:
        blocks.append(_spectrum(curves, limit, "Noise in the images", "Variance", _noise_caption(list(curves))))
    shells = model.spectrum("rlnResolution")
    power = {
        name: (shells, values)
        for name, label in (("signal τ²", "rlnReferenceTau2"), ("noise σ²", "rlnReferenceSigma2"))
        if shells is not None and (values := model.spectrum(label)) is not None
    }
    if power:
        blocks.append(_spectrum(power, limit, "Signal and noise in the map", "Variance", ""))
    ssnr = model.spectrum("rlnSsnrMap")
    if ssnr is not None and shells is not None:
        text = "Data against prior; the map is resolved where it is above 1."
        blocks.append(_spectrum({"": (shells, ssnr)}, limit, "Signal-to-noise ratio of the map", "SSNR", text))
    return Section(title="Spectra", blocks=blocks) if blocks else None


def _spectrum(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], limit: float, title: str, y_label: str, caption: str
) -> Picture:
    figure: Figure = plots.spectra_figure(curves, limit, title=title, y_label=y_label)
    return half(figure, alt=f"{title} over spatial frequency", caption=caption)


def _noise_caption(names: Sequence[str]) -> str:
    unit = "Per real or imaginary component of the transform divided by the number of pixels."
    if names[0].startswith("scale"):
        return f"One curve for each of {len(names)} scale groups (RELION 3.1). {unit}"
    return unit


def aside_section(found: Findings) -> Section | None:
    """Images that took no part."""
    excluded = found.run.excluded
    if excluded is None or len(excluded) == 0:
        return None
    labels = {"row of the input": "autorefineRow", "image": "rlnImageName", "reason": "autorefineReason"}
    kept = {name: label for name, label in labels.items() if label in excluded}
    return Section(title="Images set aside", blocks=[_shortened(excluded, kept)])


def _shortened(columns: Columns, labels: Mapping[str, str]) -> Table:
    texts = [columns.texts(label) for label in labels.values()]
    rows = [[str(column[row]) for column in texts] for row in range(min(len(columns), _MOST_ROWS))]
    if len(columns) > _MOST_ROWS:
        rows.append([f"and {len(columns) - _MOST_ROWS} more in {columns.file}", *[""] * (len(texts) - 1)])
    return Table(columns=list(labels), rows=rows)
