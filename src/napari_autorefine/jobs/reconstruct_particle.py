"""Map and half-maps of particles straight from tilt series, as ``relion_tomo_reconstruct_particle`` makes them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.half_map_fsc import resolution_shell
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.tilt_series_reconstruction import PosedPicks, full_map, insert_particles, tapered
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.files import FileSet
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.optimisation_set import OptimisationSet, write_optimisation_set
from napari_autorefine.jobs.free_space import free_memory
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.reconstruct_particle_params import FOREIGN_OPTIONS, ReconstructParticleParams
from napari_autorefine.jobs.record import check_free, check_not_input, output_of, write_record
from napari_autorefine.jobs.subtomo import load_inputs
from napari_autorefine.jobs.subtomo_cut import tilt_images
from napari_autorefine.jobs.subtomo_params import SubtomoParams
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.subtomogram_cutting import Cut
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.model.tomography import Tomogram

__all__ = ["FOREIGN_OPTIONS", "ReconstructParticleParams", "reconstruct_particle"]

_EULER = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
_NAMES = ("half1", "half2", "merged")
_AGREEMENT = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class TiltSeriesInputs:
    """Checked inputs; ``halves`` (n,) is 1 or 2, or 0 for all particles where the file has no half-sets."""

    files: OptimisationSet
    picks: PosedPicks
    halves: np.ndarray
    pixel_size_A: float

    @property
    def has_halves(self) -> bool:
        """Whether particles are in half-sets."""
        return bool(self.halves.any())


@one_at_a_time
def reconstruct_particle(params: ReconstructParticleParams) -> Iterator[Event]:
    """Reconstruct particles from their tilt images; yields progress and what was found.

    Raises
    ------
    InputError
        Whatever is missing or does not fit, before anything is written.
    """
    folder = params.output.rstrip("/") or "/"
    check_free(f"{folder}/merged.mrc", params.overwrite)
    inputs = load_particles(params)
    outputs = _outputs(folder, params, inputs.has_halves)
    for path in outputs.values():
        check_free(path, params.overwrite)
        check_not_input(path, (params.optimisation_set, params.particles, params.tomograms))
    if inputs.files["trajectories"] is not None:
        text = f"Motion trajectories ({inputs.files['trajectories']}) are not applied; they are passed on."
        yield Message(text=text, level="warning")
    _check_memory(params, inputs.has_halves)
    group = point_group(params.symmetry).name
    n, n_series = len(inputs.halves), len(inputs.picks.tomograms)
    yield Message(text=f"{n} particles in {n_series} tilt series, {group}; map of {params.map_size_px} px.")
    full = yield from _full_maps(inputs, params)
    yield from _write(full, outputs, inputs, params)


def load_particles(params: ReconstructParticleParams) -> TiltSeriesInputs:
    """Read particles, their tilt series, and the headers of all tilt images.

    Raises
    ------
    InputError
        Whatever is missing or does not fit.
    """
    point_group(params.symmetry)
    star = output_of(params.particles, "particles") if params.particles else ""
    found = load_inputs(
        SubtomoParams(
            optimisation_set=params.optimisation_set, particles=star, tomograms=params.tomograms, output=params.output
        )
    )
    picks, tomograms = found.picks, found.tomograms
    pixel_size_A = _one_pixel_size_A(tomograms, str(found.tomograms_path))
    columns = Columns(table=picks.table, file=found.files["particles"] or "", name="particles")
    columns.require(*_EULER)
    return TiltSeriesInputs(
        files=found.files,
        picks=PosedPicks(
            tomogram_name=picks.tomogram_name,
            position_px=picks.position_px,
            rotation=euler_to_matrix(picks.subtomogram_deg) @ euler_to_matrix(columns.stacked(_EULER)),
            optics_index=picks.optics_index,
            optics=picks.optics,
            tomograms=tomograms,
            frames={name: tilt_images(tomogram, found.tomograms_path) for name, tomogram in tomograms.items()},
        ),
        halves=_halves(columns),
        pixel_size_A=pixel_size_A * params.binning,
    )


def _one_pixel_size_A(tomograms: Mapping[str, Tomogram], file: str) -> float:
    sizes = {name: tomogram.pixel_size_A for name, tomogram in tomograms.items()}
    first = next(iter(sizes))
    for name, size in sizes.items():
        if abs(size - sizes[first]) > _AGREEMENT:
            raise InputError(
                f"{file}: the tilt series {name} has {size:g} A/px, {first} has {sizes[first]:g}; reconstruct particles"
                " of one pixel size at a time."
            )
    return sizes[first]


def _halves(columns: Columns) -> np.ndarray:
    """Return the half-set (n,) of every particle, zeros without half-sets."""
    label = "rlnRandomSubset"
    halves = columns.integers(label) if label in columns else np.zeros(len(columns), np.int64)
    if halves.any() and set(halves.tolist()) != {1, 2}:
        found = ", ".join(map(str, np.unique(halves)))
        raise columns.error(f"{label} must be 1 or 2, and both must occur, but it is {found}; correct or remove it")
    return halves


def _check_memory(params: ReconstructParticleParams, has_halves: bool) -> None:
    """Check that sums, a copy for symmetry, and maps in the making fit."""
    needed = (40 if has_halves else 28) * params.box_size_px**3
    free = free_memory()
    if free is not None and needed > free:
        raise InputError(
            f"The reconstruction needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; give a smaller"
            " --b or a larger --bin."
        )


def _full_maps(
    inputs: TiltSeriesInputs, params: ReconstructParticleParams
) -> Generator[Event, None, dict[str, np.ndarray]]:
    """Reconstruct the half-sets and all particles, before cropping; by the name of the map."""
    cut = Cut(box_size=params.box_size_px, crop_size=params.map_size_px, binning=params.binning)
    full: dict[str, np.ndarray] = {}
    n_unseen, total = 0, None
    for half in (1, 2) if inputs.has_halves else (0,):
        rows, stage = np.flatnonzero(inputs.halves == half), f"half-set {half}" if half else "particles"
        sums, unseen = yield from insert_particles(inputs.picks, rows, cut, threads=_threads(params), stage=stage)
        if len(unseen) == len(rows):
            raise InputError(
                f"No tilt image shows a particle of {stage} with {cut.box_size / 2:g} px around it; give a smaller --b."
            )
        n_unseen += len(unseen)
        if half:
            full[f"half{half}"] = yield from _map(sums, params, f"map of half-set {half}")
        if total is None:
            total = sums
        else:
            total.add(sums)
    assert total is not None
    if n_unseen:
        yield Message(text=f"{n_unseen} particles are whole in no tilt image and left out.", level="warning")
    full["merged"] = yield from _map(total, params, "map")
    return full


def _map(sums: Accumulators, params: ReconstructParticleParams, stage: str) -> Generator[Event, None, np.ndarray]:
    yield Progress(stage=stage, done=0, total=1)
    return full_map(sums, symmetry=params.symmetry, snr=params.snr, threads=_threads(params))


def _outputs(folder: str, params: ReconstructParticleParams, has_halves: bool) -> dict[str, str]:
    """Return files by kind."""
    names = _NAMES if has_halves else _NAMES[2:]
    outputs = {name: f"{folder}/{name}.mrc" for name in names}
    if params.map_size_px < params.box_size_px:
        outputs |= {f"{name}_full": f"{folder}/{name}_full.mrc" for name in names}
    if has_halves:
        outputs["optimisation_set"] = f"{folder}/optimisation_set.star"
    return {"map" if kind == "merged" else kind: path for kind, path in outputs.items()}


def _write(
    full: Mapping[str, np.ndarray],
    outputs: Mapping[str, str],
    inputs: TiltSeriesInputs,
    params: ReconstructParticleParams,
) -> Iterator[Event]:
    """Write all maps at once and say how well the halves agree."""
    maps = {name: tapered(one, params.map_size_px, params.taper_px) for name, one in full.items()}
    with FileSet() as files:
        for name, made in maps.items():
            write_volume(files.new(outputs["map" if name == "merged" else name]), made, inputs.pixel_size_A)
            if f"{name}_full" in outputs:
                write_volume(files.new(outputs[f"{name}_full"]), full[name], inputs.pixel_size_A)
        if "optimisation_set" in outputs:
            halves = (outputs["half1"], outputs["half2"])
            updated = inputs.files.after_refinement(inputs.files["particles"] or "", half_maps=halves)
            write_optimisation_set(files.new(outputs["optimisation_set"]), updated)
    text = f"New map of {len(inputs.halves)} particles: {params.map_size_px} px at {inputs.pixel_size_A:.6g} A."
    figures: dict[str, object] = {}
    if inputs.has_halves:
        curve = fsc(maps["half1"], maps["half2"], None, _threads(params))
        resolution_A = params.map_size_px * inputs.pixel_size_A / max(resolution_shell(curve), 1)
        text += f" The half-maps agree to {resolution_A:.2f} A (FSC 0.143, without a mask)."
        figures = {"fsc": curve, "resolution_A": resolution_A}
    write_record(outputs["map"].removesuffix(".mrc"), "reconstruct_particle", params, outputs)
    yield Finished(text=text, outputs=dict(outputs), figures=figures)


def _threads(params: ReconstructParticleParams) -> int:
    return params.threads or os.cpu_count() or 1
