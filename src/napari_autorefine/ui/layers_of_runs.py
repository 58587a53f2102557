"""Layers of finished and running jobs: refinements, post-processing, optimisation sets, job folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_autorefine.errors import InputError
from napari_autorefine.io.tables import ListTable, StarFile, read_star
from napari_autorefine.ui.found_files import project_folder
from napari_autorefine.ui.layer_style import Role
from napari_autorefine.ui.layers_of_maps import LayerData, layer_name, map_layer
from napari_autorefine.ui.layers_of_tomograms import tomo_coordinate_layers, tomogram_series, tomograms_of
from napari_autorefine.ui.notices import show_info, show_warning
from napari_autorefine.ui.star_tables import rows_with

_OPTIMISER = re.compile(r"(?P<prefix>.+?)(?:_it(?P<iteration>\d+))?_optimiser\.star$")
_SET_MAPS: tuple[tuple[str, Role], ...] = (
    ("rlnTomoReferenceMap1File", "half1"),
    ("rlnTomoReferenceMap2File", "half2"),
    ("rlnTomoReferenceMaskFile", "mask"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """Maps of a refinement that can be shown.

    Attributes
    ----------
    prefix : path and first part of all names
    iteration : of the maps; None for those of the finished run
    half1, half2, joined : maps, None where there is none
    """

    prefix: Path
    iteration: int | None
    half1: Path | None
    half2: Path | None
    joined: Path | None

    @property
    def has_maps(self) -> bool:
        """Tell whether there is anything to show."""
        return self.half1 is not None or self.joined is not None


def run_files(prefix: Path, iteration: int | None) -> RunFiles:
    """Return the maps of one iteration of a refinement, or of the finished run."""
    middle = "" if iteration is None else f"_it{iteration:03d}"
    unfiltered = "_unfil" if iteration is None else ""

    def existing(ending: str) -> Path | None:
        path = prefix.with_name(f"{prefix.name}{middle}_{ending}.mrc")
        return path if path.is_file() else None

    halves = [existing(f"half{half}_class001{unfiltered}") for half in (1, 2)]
    return RunFiles(prefix=prefix, iteration=iteration, half1=halves[0], half2=halves[1], joined=existing("class001"))


def newest_optimiser(folder: Path) -> Path | None:
    """Return the optimiser file of the finished run in a folder, else of its last iteration, or None."""
    found = [path for path in folder.glob("*_optimiser.star") if _OPTIMISER.match(path.name)]
    return max(found, key=_age, default=None)


def _age(path: Path) -> tuple[float, str]:
    match = _OPTIMISER.match(path.name)
    number = match["iteration"] if match else None
    return (float("inf") if number is None else float(number)), path.name


def optimiser_layers(path: Path) -> list[LayerData]:
    """Return the half-maps, the joined map and the mask of the refinement that an optimiser file belongs to.

    The metadata of every layer hold the run's prefix and iteration, from which a dashboard attaches to it.

    Raises
    ------
    InputError
        No map of the run is there.
    """
    match = _OPTIMISER.match(path.name)
    if match is None:
        raise InputError(f"{path.name} is not named as an optimiser file (PREFIX_itNNN_optimiser.star).")
    prefix = path.with_name(match["prefix"])
    iteration = None if match["iteration"] is None else int(match["iteration"])
    files = run_files(prefix, iteration)
    if not files.has_maps:
        raise InputError(f"{path.parent} holds no maps of the run {prefix.name}; copy them beside {path.name}.")
    layers = _run_layers(files) + _mask_layers(path)
    return [_with_run(layer, prefix, iteration, path) for layer in layers]


def _run_layers(files: RunFiles) -> list[LayerData]:
    """Return the maps; the half-maps start hidden where there is a joined one."""
    at = "final" if files.iteration is None else f"it{files.iteration:03d}"
    job = layer_name(files.prefix)
    layers = []
    for path, role, words in ((files.half1, "half1", "half 1"), (files.half2, "half2", "half 2")):
        if path is not None:
            layer = map_layer(path, role="half1" if role == "half1" else "half2", name=f"{job} {at} {words}")
            layer[1]["visible"] = files.joined is None
            layers.append(layer)
    if files.joined is not None:
        layers.append(map_layer(files.joined, role="joined", name=f"{job} {at} map"))
    return layers[::-1]


def _mask_layers(path: Path) -> list[LayerData]:
    """Return the solvent mask that the optimiser file names, when it is there."""
    general = read_star(path).pairs("optimiser_general") or {}
    named = str(general.get("rlnSolventMaskName", "None"))
    if named in {"", "None"}:
        return []
    project = project_folder(path, [named])
    if project is None:
        show_info(f"{path.name}: its mask {named} is not found and not shown.")
        return []
    return [hidden(map_layer(project / named, role="mask", name=f"{layer_name(path.with_name('mask'))}"))]


def _with_run(layer: LayerData, prefix: Path, iteration: int | None, optimiser: Path) -> LayerData:
    run = {"prefix": str(prefix), "iteration": iteration, "optimiser": str(optimiser)}
    layer[1]["metadata"]["autorefine"]["run"] = run
    return layer


def hidden(layer: LayerData) -> LayerData:
    """Return a layer that starts with its eye closed."""
    return layer[0], {**layer[1], "visible": False}, layer[2]


def postprocess_layers(star: StarFile, path: Path) -> list[LayerData]:
    """Return half-maps, mask and sharpened map of a post-processing job."""
    general: ListTable = star.pairs("general") or {}
    beside = path.with_name("postprocess.mrc")
    wanted: list[tuple[Path | None, Role]] = [
        (beside if beside.is_file() else _found(path, general, "rlnPostprocessedMap"), "joined"),
        (_found(path, general, "rlnUnfilteredMapHalf1"), "half1"),
        (_found(path, general, "rlnUnfilteredMapHalf2"), "half2"),
        (_found(path, general, "rlnMaskName"), "mask"),
    ]
    layers = [map_layer(file, role=role) for file, role in wanted if file is not None]
    if not layers:
        raise InputError(f"{path}: none of the maps of this post-processing is there.")
    has_map = any(role == "joined" and file is not None for file, role in wanted)
    return [hidden(one) if has_map and _kind(one) != "joined" else one for one in layers]


def optimisation_set_layers(pairs: ListTable, path: Path, particles: Any) -> list[LayerData]:
    """Return the layers of an optimisation set: tomograms, coordinates, mask and half-maps, particles.

    Parameters
    ----------
    pairs : entries of the set
    path : its file
    particles : function that returns the layers of a particle table
    """
    layers: list[LayerData] = []
    tomograms_file = _found(path, pairs, "rlnTomoTomogramsFile")
    tomograms = None if tomograms_file is None else tomograms_of(read_star(tomograms_file), tomograms_file)
    layers += _tried(lambda: [] if tomograms is None else tomogram_series(tomograms))
    particles_file = _found(path, pairs, "rlnTomoParticlesFile")
    if particles_file is not None:
        star = read_star(particles_file)
        rows = rows_with(star, particles_file, "rlnTomoName")
        if rows is not None and "rlnImageName" in rows:
            layers += _tried(lambda: particles(rows, tomograms))
        elif rows is not None:
            layers += tomo_coordinate_layers(rows, tomograms)
    for label, role in _SET_MAPS:
        file = _found(path, pairs, label)
        if file is not None:
            layers.append(map_layer(file, role=role))
    if not layers:
        raise InputError(f"{path}: none of the files of this optimisation set can be shown.")
    for layer in layers:
        layer[1]["metadata"]["autorefine"]["set"] = str(path.absolute())
    return layers


def _tried(make: Any) -> list[LayerData]:
    """Return layers, or none and a warning when their files are missing: the rest of a set is shown without them."""
    try:
        return list(make())
    except InputError as error:
        show_warning(str(error))
        return []


def _found(path: Path, pairs: ListTable, label: str) -> Path | None:
    named = str(pairs.get(label, ""))
    if named in {"", "None"}:
        return None
    project = project_folder(path, [named])
    if project is None:
        show_warning(f"{path.name}: {named} is not found and not shown.")
        return None
    return project / named


def _kind(layer: LayerData) -> str:
    return str(layer[1]["metadata"]["autorefine"]["kind"])


def main_file(folder: Path) -> Path | None:
    """Return the file that stands for a job's folder: optimiser, set, particles, micrographs or map; None if none."""
    optimiser = newest_optimiser(folder)
    if optimiser is not None:
        return optimiser
    names = (
        "optimisation_set.star",
        "postprocess.star",
        "particles.star",
        "autopick.star",
        "micrographs_ctf.star",
        "corrected_micrographs.star",
        "micrographs.star",
        "tomograms.star",
        "mask.mrc",
        "initial_model.mrc",
    )
    return next((folder / name for name in names if (folder / name).is_file()), None)


def maps_in(folder: Path, endings: Iterable[str] = (".mrc", ".map", ".ccp4")) -> list[Path]:
    """Return the maps of a folder, by name."""
    known = tuple(endings)
    return sorted(path for path in folder.iterdir() if path.name.endswith(known) and path.is_file())
