"""Map and half-maps of particles with known poses, as ``relion_reconstruct`` makes them."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_autorefine.engine.averaged_weights import with_averaged_weights
from napari_autorefine.engine.correlation import fsc as correlation_of_maps
from napari_autorefine.engine.direct_reconstruction import (
    PosedImages,
    close_sums,
    insert_images,
    map_of_sums,
)
from napari_autorefine.engine.half_map_fsc import resolution_shell
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.tomo_reconstruction import (
    PosedTiltStacks,
    insert_subtomograms,
)
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.files import FileSet
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.optimisation_set import OptimisationSet, write_optimisation_set
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.reconstruct_inputs import ReconstructInputs, load_inputs
from napari_autorefine.jobs.reconstruct_params import FOREIGN_OPTIONS, ReconstructParams
from napari_autorefine.jobs.record import check_free, check_not_input, write_record
from napari_autorefine.model.resize import window

__all__ = ["FOREIGN_OPTIONS", "ReconstructParams", "reconstruct"]

_ENDINGS = (".mrc", ".map", ".ccp4")
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class MapNames:
    """Where maps go; ``halves`` is empty without half-maps."""

    joint: str
    halves: tuple[str, ...]

    @property
    def prefix(self) -> Path:
        """The map's name without its ending."""
        return Path(self.joint).with_suffix("")

    @property
    def optimisation_set(self) -> str:
        """Set that names the half-maps of particles of tomograms."""
        return f"{self.prefix}_optimisation_set.star"

    @property
    def outputs(self) -> dict[str, str]:
        """Files by kind."""
        return {"map": self.joint, **dict(zip(("half1", "half2"), self.halves, strict=False))}


@one_at_a_time
def reconstruct(params: ReconstructParams) -> Iterator[Event]:
    """Reconstruct a map, and with ``halves`` the map of each half-set; yields progress and what was found.

    Raises
    ------
    InputError
        Whatever is wrong with files or parameters, before anything is written.
    """
    names = map_names(params)
    for path in names.outputs.values():
        check_free(path, params.overwrite)
    inputs = load_inputs(params)
    params = inputs.params
    if inputs.files is not None and params.halves:
        check_free(names.optimisation_set, params.overwrite)
        check_not_input(names.optimisation_set, (params.optimisation_set, params.particles, params.tomograms))
    yield from inputs.notes
    sets = ((1, inputs.rows[inputs.halves == 1]), (2, inputs.rows[inputs.halves == 2]))
    total, maps = None, []
    for half, rows in sets if params.halves else ((0, inputs.rows),):
        sums = yield from _closed_sums(inputs, rows, f"half-set {half}" if half else "inserting images")
        if params.halves:
            yield Progress(stage=f"map of half-set {half}", done=0, total=1)
            maps.append(_map(sums, inputs))
        if total is None:
            total = sums
        else:
            total.add(sums)
    assert total is not None
    yield Progress(stage="map", done=0, total=1)
    maps.insert(0, _map(total, inputs, inputs.fsc))
    yield from _write(names, maps, inputs, params)


def map_names(params: ReconstructParams) -> MapNames:
    """Return the files of a reconstruction; an output name without the ending of a map gets one."""
    path = params.output
    if path.endswith(("/", os.sep)) or Path(path).is_dir():
        raise InputError(f"--o {path} is a folder; give the name of the map too, as {Path(path) / 'map.mrc'}.")
    if path.endswith((".mrcs", ".star")):
        raise InputError(f"--o {path} is not the name of a map; it should end in .mrc.")
    joint = path if path.endswith(_ENDINGS) else f"{path}.mrc"
    prefix = str(Path(joint).with_suffix("")).removesuffix("_class001")
    halves = tuple(f"{prefix}_half{half}_class001_unfil.mrc" for half in (1, 2)) if params.halves else ()
    return MapNames(joint=joint, halves=halves)


def _closed_sums(inputs: ReconstructInputs, rows: np.ndarray, stage: str) -> Generator[Event, None, Accumulators]:
    """Insert the images of one set and complete their sums; images that are not numbers are left out and named."""
    images, options = inputs.images, inputs.options
    if isinstance(images, PosedImages):
        found = yield from insert_images(images, rows, options, stage=stage)
    else:
        found = yield from insert_subtomograms(images, rows, options, stage=stage)
    if len(found.left_out):
        if len(found.left_out) == len(rows):
            raise InputError(f"No image of {inputs.params.particles} can be used: all hold NaN or Inf; extract again.")
        first = ", ".join(str(row + 1) for row in found.left_out[:_NAMED])
        more = "" if len(found.left_out) <= _NAMED else " …"
        yield Message(
            text=f"{len(found.left_out)} of {len(rows)} images hold NaN or Inf and are left out"
            f" (rows {first}{more} of {inputs.params.particles}).",
            level="warning",
        )
    yield Progress(stage="symmetry", done=0, total=1)
    close_sums(found.sums, inputs.params.symmetry, options.threads)
    return found.sums


def _map(sums: Accumulators, inputs: ReconstructInputs, fsc: np.ndarray | None = None) -> np.ndarray:
    """Invert sums and cut or pad the map; grey values do not depend on the box that it is made in."""
    if isinstance(inputs.images, PosedTiltStacks) and inputs.params.skip_gridding:
        sums = with_averaged_weights(sums, inputs.options.threads)
    made = map_of_sums(sums, skip_gridding=inputs.params.skip_gridding, fsc=fsc, threads=inputs.options.threads)
    if sums.box_size != inputs.image_box:
        made *= np.float32((inputs.image_box / sums.box_size) ** sums.data_dim)
    return window(made, inputs.box_size)


def _write(
    names: MapNames, maps: list[np.ndarray], inputs: ReconstructInputs, params: ReconstructParams
) -> Iterator[Event]:
    """Write all maps at once and say how well the halves agree."""
    voxel_size_A, outputs = inputs.options.voxel_size_A, names.outputs
    with FileSet() as files:
        for path, data in zip((names.joint, *names.halves), maps, strict=True):
            write_volume(files.new(path), data, voxel_size_A)
        if inputs.files is not None and params.halves:
            outputs["optimisation_set"] = names.optimisation_set
            write_optimisation_set(files.new(names.optimisation_set), _updated(inputs.files, names))
    text = f"New map of {len(inputs.rows)} particles: {inputs.box_size} px at {voxel_size_A:.6g} A."
    figures: dict[str, object] = {}
    if params.halves:
        curve = correlation_of_maps(maps[1], maps[2], None, inputs.options.threads)
        resolution_A = _resolution_A(curve, inputs)
        text += f" The half-maps agree to {resolution_A:.2f} A (FSC 0.143, without a mask)."
        figures = {"fsc": curve, "resolution_A": resolution_A}
    write_record(names.prefix, "reconstruct", params, outputs)
    yield Finished(text=text, outputs=outputs, figures=figures)


def _updated(files: OptimisationSet, names: MapNames) -> OptimisationSet:
    """Return the set of a project with new half-maps."""
    return files.after_refinement(files["particles"] or "", half_maps=(names.halves[0], names.halves[1]))


def _resolution_A(curve: np.ndarray, inputs: ReconstructInputs) -> float:
    """Return the resolution at FSC 0.143; the limit of the map when the halves agree all the way."""
    extent_A = inputs.box_size * inputs.options.voxel_size_A
    options = inputs.options
    last = int(options.r_max * extent_A / (options.box_size * options.voxel_size_A) + 1e-6)
    return extent_A / max(min(resolution_shell(curve), last), 1)
