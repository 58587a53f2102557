"""Whole micrographs with known particles: what an extraction starts from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from scipy.fft import next_fast_len

from napari_autorefine.events import Event, Message, Progress
from napari_autorefine.io.mrc import write_image
from napari_autorefine.io.tables import VERSION_3_0, write_star
from napari_autorefine.jobs.simulate_field import Field, background, electrons, ice_noise, place
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.simulate_truth import ParticleDrawer, Truth, optics_of
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.optics import OpticsGroup

_COVERAGE = 0.25
_NEGLIGIBLE = 4.0  # frequencies beyond which a B-factor leaves less than exp(-4) of the amplitude
_FIRST_PIXEL = 32  # automatic sizes are multiples of this


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that is drawn before the first pixel.

    Attributes
    ----------
    truth : with origins relative to the truncated picks, as extraction needs them
    pick_px : (n, 2) float64, x and y of the picked coordinates
    fields : one per micrograph
    """

    truth: Truth
    pick_px: np.ndarray
    fields: tuple[Field, ...]


def make_scene(truth: Truth, params: SimulateParams, diameter_A: float) -> Scene:
    """Place the particles and pick them: a pick misses its particle by the drawn offset.

    Extraction cuts the image at the pick without its fraction, so the true origin is (truncated pick - center) times
    the pixel size.

    Raises
    ------
    InputError
        When the particles do not fit the micrographs.
    """
    optics = optics_of(params)
    counts = np.bincount(truth.micrograph, minlength=params.micrographs)
    spacing = params.spacing_A or diameter_A
    edge = diameter_A / 2 if params.edge_A is None else params.edge_A
    shape = _shape(params, optics, int(counts.max()), spacing, edge)
    fields, centers = [], []
    for index, count in enumerate(counts):
        shared = truth.micrographs
        group = optics[int(shared.optics[index])]
        field = Field(
            shape=shape,
            optics=group,
            defocus_A=shared.defocus_A[index],
            angle_deg=float(shared.angle_deg[index]),
            seed=(params.seed, 2, index),
        )
        fields.append(field)
        pixel = group.pixel_size_A
        centers.append(place(field, int(count), spacing_px=spacing / pixel, edge_px=edge / pixel))
    pixel_size = np.array([group.pixel_size_A for group in optics])[truth.optics][:, None]
    center = np.concatenate(centers)
    pick = np.round(center + truth.origin_A / pixel_size, 6)
    origin = (np.trunc(pick) - center) * pixel_size
    return Scene(truth=replace(truth, origin_A=origin), pick_px=pick, fields=tuple(fields))


def _shape(
    params: SimulateParams, optics: tuple[OpticsGroup, ...], n_particle: int, spacing_A: float, edge_A: float
) -> tuple[int, int]:
    """Return rows and columns: as given, or large enough to place the particles with ease."""
    if params.micrograph_size:
        columns, rows = params.micrograph_size[0], params.micrograph_size[-1]
        return rows, columns
    inner = np.sqrt(n_particle * np.pi * (spacing_A / 2) ** 2 / _COVERAGE)
    smallest = min(group.pixel_size_A for group in optics)
    side = int(np.ceil((inner + 2 * edge_A) / smallest / _FIRST_PIXEL)) * _FIRST_PIXEL
    return side, side


def drawing_boxes(atoms: Atoms, truth: Truth, params: SimulateParams) -> tuple[int, ...]:
    """Box of each optics group that holds a particle with all that the CTF spreads around it.

    A frequency u is displaced by the slope of the CTF's phase, lambda dz u + Cs lambda^3 u^3, in Å.
    """
    boxes = []
    origin = float(np.abs(truth.origin_A).max(initial=0.0))
    for group in optics_of(params):
        pixel, wavelength = group.pixel_size_A, group.wavelength_A
        highest = 0.5 * np.sqrt(2) / pixel
        if params.bfactor_A2 > 0:
            highest = min(highest, np.sqrt(4 * _NEGLIGIBLE / params.bfactor_A2))
        u = np.linspace(0, highest, 64)
        spread = np.abs(
            group.cs_mm * 1e7 * wavelength**3 * u[:, None] ** 3 - wavelength * u[:, None] * truth.defocus_A.ravel()
        ).max()
        width = 2 * (atoms.radius_A + spread + origin) / pixel
        boxes.append(2 * next_fast_len(int(np.ceil(width / 2)) + 1, real=True))
    return tuple(boxes)


def micrograph_path(prefix: str, index: int) -> str:
    """Name of micrograph ``index`` (0-based)."""
    return f"{prefix}_micrographs/mic{index + 1:03d}.mrc"


def coordinate_path(prefix: str, index: int) -> str:
    """Name of the coordinate file of micrograph ``index``: beside it, where RELION's ``_pick.star`` suffix finds it."""
    return f"{prefix}_micrographs/mic{index + 1:03d}_pick.star"


def write_micrographs(drawer: ParticleDrawer, scene: Scene, gain: float, params: SimulateParams) -> Iterator[Event]:
    """Draw and write one micrograph after another."""
    threads = params.threads or os.cpu_count() or 1
    n_cut = 0
    with ThreadPoolExecutor(threads) as pool:
        for index, field in enumerate(scene.fields):
            rows = np.flatnonzero(scene.truth.micrograph == index)
            signal = _drawn(partial(_window, drawer, scene), rows, field, pool, 4 * threads)
            image, n_negative = _exposed(field, signal * np.float32(gain), params, pool)
            n_cut += n_negative
            write_image(micrograph_path(params.output, index), image, field.optics.pixel_size_A)
            yield Progress(stage="micrographs", done=index + 1, total=len(scene.fields))
    if n_cut:
        text = f"{n_cut} pixels would have had fewer than 0 electrons and have 0"
        yield Message(text=f"{text}: the signal is too strong for the dose; lower --snr.", level="warning")


def _window(drawer: ParticleDrawer, scene: Scene, row: int) -> tuple[np.ndarray, int, int]:
    """Return the image of one particle, and the micrograph's row and column of its first pixel."""
    image = drawer.signal(row).astype(np.float32)
    x, y = np.trunc(scene.pick_px[row]).astype(int) - len(image) // 2
    return image, int(y), int(x)


def _drawn(
    window: partial[tuple[np.ndarray, int, int]], rows: np.ndarray, field: Field, pool: ThreadPoolExecutor, chunk: int
) -> np.ndarray:
    """Add up the particles ``rows`` in their order, ``chunk`` of them in memory at a time."""
    signal = np.zeros(field.shape, dtype=np.float32)
    for start in range(0, len(rows), chunk):
        for image, top, left in pool.map(window, rows[start : start + chunk].tolist()):
            first_y, first_x = max(top, 0), max(left, 0)
            part = image[first_y - top :, first_x - left :][: field.shape[0] - first_y, : field.shape[1] - first_x]
            signal[first_y : first_y + part.shape[0], first_x : first_x + part.shape[1]] += part
    return signal


def _exposed(
    field: Field, signal: np.ndarray, params: SimulateParams, pool: ThreadPoolExecutor
) -> tuple[np.ndarray, int]:
    """Return the micrograph of a signal in units of the noise, and in how many pixels electrons ran out."""
    dtype = np.dtype(params.micrograph_type)
    if params.snr == 0:
        return (-signal).astype(dtype), 0
    mean = params.dose_e_A2 * field.optics.pixel_size_A**2
    deviation = np.sqrt(mean / (1.0 - params.ice))
    expected = -signal
    if params.ice:
        expected += np.float32(np.sqrt(params.ice)) * ice_noise(field, pool)
    expected *= np.float32(deviation)
    expected += np.float32(mean) * background(field, params.gradient)
    n_negative = int(np.count_nonzero(expected < 0))
    counts = electrons(field, np.maximum(expected, 0.0, out=expected), pool)
    if dtype.kind != "f":
        counts = np.minimum(counts, np.iinfo(dtype).max)
    return counts.astype(dtype), n_negative


def write_coordinates(scene: Scene, params: SimulateParams) -> dict[str, str]:
    """Write the picks of every micrograph, the list of these files, and the micrographs' STAR file last.

    Returns
    -------
    paths by kind
    """
    names = [micrograph_path(params.output, index) for index in range(len(scene.fields))]
    picks = [coordinate_path(params.output, index) for index in range(len(scene.fields))]
    for index, path in enumerate(picks):
        x, y = scene.pick_px[scene.truth.micrograph == index].T
        table = pd.DataFrame({"rlnCoordinateX": x, "rlnCoordinateY": y})
        write_star(path, {"": table}, version=VERSION_3_0)
    outputs = {"coordinates": f"{params.output}_picks.star", "micrographs": f"{params.output}_micrographs.star"}
    listed = pd.DataFrame({"rlnMicrographName": names, "rlnMicrographCoordinates": picks})
    write_star(outputs["coordinates"], {"coordinate_files": listed})
    tables = {"optics": _optics_table(params), "micrographs": _micrograph_table(scene, names)}
    write_star(outputs["micrographs"], tables)
    return outputs


def _optics_table(params: SimulateParams) -> pd.DataFrame:
    optics = optics_of(params)
    return pd.DataFrame(
        {
            "rlnOpticsGroupName": [g.name for g in optics],
            "rlnOpticsGroup": [g.number for g in optics],
            "rlnMicrographOriginalPixelSize": [g.pixel_size_A for g in optics],
            "rlnVoltage": [g.voltage_kV for g in optics],
            "rlnSphericalAberration": [g.cs_mm for g in optics],
            "rlnAmplitudeContrast": [g.amplitude_contrast for g in optics],
            "rlnMicrographPixelSize": [g.pixel_size_A for g in optics],
        }
    )


def _micrograph_table(scene: Scene, names: list[str]) -> pd.DataFrame:
    """One row per micrograph, with the columns of RELION's CTF estimation and the true values."""
    shared = scene.truth.micrographs
    return pd.DataFrame(
        {
            "rlnMicrographName": names,
            "rlnOpticsGroup": shared.optics + 1,
            "rlnDefocusU": shared.defocus_A[:, 0],
            "rlnDefocusV": shared.defocus_A[:, 1],
            "rlnCtfAstigmatism": shared.defocus_A[:, 0] - shared.defocus_A[:, 1],
            "rlnDefocusAngle": shared.angle_deg,
            "rlnCtfBfactor": np.zeros(len(names)),
            "rlnCtfScalefactor": np.ones(len(names)),
            "rlnPhaseShift": np.zeros(len(names)),
        }
    )
