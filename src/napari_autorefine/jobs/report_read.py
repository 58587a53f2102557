"""Find the files of a refinement in a folder and read them, newest iteration last."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_autorefine.engine.grids import angular_step_deg
from napari_autorefine.errors import InputError
from napari_autorefine.events import Progress
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.tables import ListTable, StarFile, read_star
from napari_autorefine.jobs.record import JobRecord, read_record
from napari_autorefine.jobs.report_data import Iteration, Model, Run, column, number

_RUN_FILE = re.compile(
    r"(?P<name>.+?)_(?:it(?P<iteration>\d{3,})_)?(?P<kind>(?:half[12]_)?model|optimiser|data|sampling)\.star"
)
_CONTINUED = re.compile(r"(?P<name>.+)_ct(?P<iteration>\d+)")
_FINAL = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFileList:
    """STAR files of one run: ``files[iteration][kind]``; the final ones under the largest iteration."""

    prefix: Path
    files: Mapping[int, Mapping[str, Path]] = field(default_factory=dict)

    @property
    def time(self) -> float:
        """When the newest of the files was written."""
        return max(path.stat().st_mtime for group in self.files.values() for path in group.values())

    def newest(self, *kinds: str) -> Path | None:
        """Return the newest file of the first of these kinds that exists."""
        for iteration in sorted(self.files, reverse=True):
            for kind in kinds:
                if kind in self.files[iteration]:
                    return self.files[iteration][kind]
        return None


def runs_of(folder: Path) -> tuple[RunFileList, ...]:
    """Return the refinements of a folder, the one that was written to last first.

    A run that was continued (``NAME_ctN``) begins with the iterations of the run it continues.
    """
    found: dict[str, dict[int, dict[str, Path]]] = {}
    for path in sorted(folder.iterdir()):
        match = _RUN_FILE.fullmatch(path.name)
        if match and not path.name.startswith(".") and path.is_file():
            iteration = int(match["iteration"]) if match["iteration"] else _FINAL
            found.setdefault(match["name"], {}).setdefault(iteration, {})[match["kind"]] = path
    runs = [
        RunFileList(prefix=folder / name, files=_with_beginning(name, found))
        for name, files in found.items()
        if any(kind != "data" for group in files.values() for kind in group)
    ]
    return tuple(sorted(runs, key=lambda run: (-run.time, str(run.prefix))))


def _with_beginning(name: str, found: Mapping[str, dict[int, dict[str, Path]]]) -> dict[int, dict[str, Path]]:
    files = dict(found[name])
    match = _CONTINUED.fullmatch(name)
    if match:
        before = found.get(match["name"], {})
        files |= {n: group for n, group in before.items() if n <= int(match["iteration"]) and n not in files}
    return files


def read_run(files: RunFileList) -> Iterator[Progress | Run]:
    """Read a run, iteration by iteration; the last item is the Run.

    Raises
    ------
    InputError
        A damaged file, or a run that is no auto-refinement.
    """
    iterations: list[Iteration] = []
    history: dict[int, np.ndarray] = {}
    models: dict[str, Model] = {}
    numbers = sorted(files.files)
    for done, n in enumerate(numbers):
        yield Progress(stage="reading", done=done, total=len(numbers))
        group = files.files[n]
        stars = {kind: read_star(path) for kind, path in group.items() if kind != "data"}
        found = {kind: Model(path=group[kind], star=star) for kind, star in stars.items() if kind.endswith("model")}
        _check_refinement(group, stars, found)
        if found or "optimiser" in stars:
            iterations.append(_iteration(None if n == _FINAL else n, group, stars, found))
        curve = found["half1_model"].spectrum("rlnGoldStandardFsc") if "half1_model" in found else None
        if curve is not None and n:
            history[n] = np.nan_to_num(curve)
        models |= {kind: model for kind, model in found.items() if kind != "model" or n == _FINAL}
    yield _run(files, tuple(iterations), models, history)


def _check_refinement(group: Mapping[str, Path], stars: Mapping[str, StarFile], models: Mapping[str, Model]) -> None:
    """Raise for classifications, whose files have the same names."""
    optimiser = stars.get("optimiser")
    pairs = None if optimiser is None else optimiser.pairs("optimiser_general")
    if optimiser is not None and pairs is None:
        raise InputError(f"{group['optimiser']} is not a file of a refinement: it has no table 'optimiser_general'.")
    is_other = pairs is not None and number(pairs, "rlnDoAutoRefine", group["optimiser"]) == 0
    several = [model.path for model in models.values() if model.number("rlnNrClasses") > 1]
    if is_other or several:
        path = several[0] if several else group["optimiser"]
        raise InputError(f"{path} is of a classification; report describes auto-refinements (Refine3D).")


def _iteration(
    n: int | None, paths: Mapping[str, Path], stars: Mapping[str, StarFile], models: Mapping[str, Model]
) -> Iteration:
    model = models.get("model") or models.get("half1_model") or models.get("half2_model")
    values = {} if model is None else _model_values(model)
    for kind, name, labels in (
        ("sampling", "sampling_general", _SAMPLING_LABELS),
        ("optimiser", "optimiser_general", _OPTIMISER_LABELS),
    ):
        pairs = stars[kind].pairs(name) if kind in stars else None
        values |= {key: number(pairs, label, paths.get(kind, Path())) for key, label in labels.items()}
    order = values["healpix_order"]
    values["offset_step_A"] /= 2
    values["angular_step_deg"] = angular_step_deg(int(order)) / 2 if math.isfinite(order) else math.nan
    priors = ("rlnOrientationalPriorMode", "rlnSigmaPriorRotAngle")
    is_local = model is not None and all(model.number(label) > 0 for label in priors)
    return Iteration(number=n, is_local=is_local, **values)


_SAMPLING_LABELS = {
    "healpix_order": "rlnHealpixOrder",
    "offset_range_A": "rlnOffsetRange",
    "offset_step_A": "rlnOffsetStep",
}
_OPTIMISER_LABELS = {
    "change_rot_deg": "rlnChangesOptimalOrientations",
    "change_trans_A": "rlnChangesOptimalOffsets",
    "no_gain": "rlnNumberOfIterWithoutResolutionGain",
    "no_change": "rlnNumberOfIterWithoutChangingAssignments",
}


def _model_values(model: Model) -> dict[str, float]:
    return {
        "resolution_A": model.number("rlnCurrentResolution"),
        "accuracy_rot_deg": model.of_class("rlnAccuracyRotations"),
        "accuracy_trans_A": model.of_class("rlnAccuracyTranslationsAngst"),
        "p_max": model.number("rlnAveragePmax"),
        "image_size_px": model.number("rlnCurrentImageSize"),
        "log_likelihood": model.number("rlnLogLikelihood"),
    }


def _run(
    files: RunFileList, iterations: tuple[Iteration, ...], models: Mapping[str, Model], history: dict[int, np.ndarray]
) -> Run:
    """Return the run with what is only read once: the newest optimiser, sampling and data files."""
    optimiser_path, sampling_path = files.newest("optimiser"), files.newest("sampling")
    optimiser = read_star(optimiser_path) if optimiser_path else None
    sampling = read_star(sampling_path) if sampling_path else None
    data_path = files.newest("data")
    data = None if data_path is None else read_particle_tables(data_path)
    halves = tuple(models[kind] for kind in ("half1_model", "half2_model") if kind in models)
    maps = _maps(files)
    return Run(
        prefix=files.prefix,
        is_final=_FINAL in files.files or "map" in maps,
        iterations=iterations,
        models=(models["model"],) if "model" in models else halves,
        half_models=halves,
        fsc_history=history,
        optimiser=(optimiser.pairs("optimiser_general") or {}) if optimiser else {},
        optimiser_comments=optimiser.comments if optimiser else (),
        sampling=_sampling(sampling, sampling_path),
        directions_deg=_directions(sampling, sampling_path),
        particles=None if data is None else data[0],
        optics=None if data is None else data[1],
        maps=maps,
        record=_record(files.prefix),
        excluded=_excluded(files.prefix),
        files=_named(optimiser=optimiser_path, sampling=sampling_path, data=data_path, model=files.newest("model")),
    )


def _named(**paths: Path | None) -> dict[str, Path]:
    return {name: path for name, path in paths.items() if path is not None}


def _sampling(star: StarFile | None, path: Path | None) -> ListTable:
    if star is None:
        return {}
    pairs = star.pairs("sampling_general")
    if pairs is None:
        raise InputError(f"{path} is not a sampling file: it has no table 'data_sampling_general'.")
    return pairs


def _directions(star: StarFile | None, path: Path | None) -> np.ndarray | None:
    if star is None or path is None:
        return None
    angles = [column(star, "sampling_directions", label, path) for label in ("rlnAngleRot", "rlnAngleTilt")]
    return None if angles[0] is None or angles[1] is None else np.stack([angles[0], angles[1]], axis=-1)


def read_particle_tables(path: Path) -> tuple[Columns, Columns | None]:
    """Return the particles and the optics groups of a data file, None for groups that it does not have.

    Raises
    ------
    InputError
        A file that cannot be read or holds no particles.
    """
    star = read_star(path)
    name = "particles" if "particles" in star.tables else "images" if "images" in star.tables else ""
    table, optics = star.loop(name), star.loop("optics")
    if table is None:
        raise InputError(f"{path} holds no table of particles (data_particles).")
    return (
        Columns(table=table, file=str(path), name=name),
        None if optics is None else Columns(table=optics, file=str(path), name="optics"),
    )


def _maps(files: RunFileList) -> dict[str, Path]:
    """Return the maps that exist: of the finished run, else the half-maps of the newest iteration that has them."""
    prefix = files.prefix
    final = {
        "map": prefix.with_name(f"{prefix.name}_class001.mrc"),
        "half1": prefix.with_name(f"{prefix.name}_half1_class001_unfil.mrc"),
        "half2": prefix.with_name(f"{prefix.name}_half2_class001_unfil.mrc"),
    }
    found = {kind: path for kind, path in final.items() if path.is_file()}
    if {"half1", "half2"} <= set(found):
        return found
    for n in sorted((n for n in files.files if n != _FINAL), reverse=True):
        stem = re.sub(r"_it\d+_.*$", f"_it{n:03d}", str(next(iter(files.files[n].values()))))
        for ending, kinds in (("_unfil.mrc", ("half1", "half2")), (".mrc", ("filtered half1", "filtered half2"))):
            paths = {kind: Path(f"{stem}_{kind[-5:]}_class001{ending}") for kind in kinds}
            if all(path.is_file() for path in paths.values()):
                return found | paths
    return found


def _record(prefix: Path) -> JobRecord | None:
    path = prefix.with_name(f"{prefix.name}_params.json")
    return read_record(path) if path.is_file() else None


def _excluded(prefix: Path) -> Columns | None:
    path = prefix.with_name(f"{prefix.name}_excluded.star")
    table = read_star(path).loop("excluded") if path.is_file() else None
    return None if table is None else Columns(table=table, file=str(path), name="excluded")
