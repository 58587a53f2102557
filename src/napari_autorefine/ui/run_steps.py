"""Iterations of a refinement as the window shows them: from events of a running job, or from files, RELION's too."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.jobs.job_events import IterationWritten
from napari_autorefine.jobs.report_data import UNKNOWN, Run
from napari_autorefine.jobs.report_read import RunFileList, read_run, runs_of
from napari_autorefine.ui.found_files import project_folder

_ITERATION_FILE = re.compile(r"(?P<name>.+?)(?:_it\d+)?_(?:optimiser|data|sampling|(?:half[12]_)?model)\.star$")
_MANY_ITERATIONS = 10**6
_SETTLED_S = 2.0
_MAPS = {"half1": "half1_class001.mrc", "half2": "half2_class001.mrc"}
_FINAL_MAPS = {"half1": "half1_class001_unfil.mrc", "half2": "half2_class001_unfil.mrc", "map": "class001.mrc"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One iteration in numbers, NaN where a number is not known.

    Attributes
    ----------
    number : of the iteration; None for the last one, of all particles
    fsc : (n_shell,) from shell 0 to half the box, None without
    files : maps and particle table by kind: ``half1``, ``half2``, ``map``, ``data``
    moment : when it was written, in seconds since 1970
    """

    number: int | None
    resolution_A: float = math.nan
    angular_step_deg: float = math.nan
    offset_step_A: float = math.nan
    offset_range_A: float = math.nan
    accuracy_rot_deg: float = math.nan
    accuracy_trans_A: float = math.nan
    change_rot_deg: float = math.nan
    change_trans_A: float = math.nan
    mean_p_max: float = math.nan
    current_size: float = math.nan
    is_local: bool = False
    voxel_size_A: float = math.nan
    seconds: float = math.nan
    fsc: np.ndarray | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    moment: float = 0.0

    @property
    def is_final(self) -> bool:
        """Whether it is the last one, of all particles."""
        return self.number is None

    @property
    def order(self) -> int:
        """Number to sort by."""
        return _MANY_ITERATIONS if self.number is None else self.number

    @property
    def title(self) -> str:
        """What it is called."""
        return "final" if self.number is None else f"iteration {self.number}"

    @property
    def has_maps(self) -> bool:
        """Whether one of its maps is there."""
        return any(kind in self.files for kind in ("half1", "half2", "map"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What does not change during a refinement: reference and mask where they are found, point group."""

    prefix: Path
    reference: Path | None = None
    mask: Path | None = None
    symmetry: str = "C1"


def step_of_event(event: IterationWritten, *, moment: float = 0.0) -> Step:
    """Return the step that a running job tells of."""
    files = {kind: Path(path) for kind, path in event.files.items() if kind in {"half1", "half2", "map"}}
    optimiser = event.files.get("optimiser", "")
    data = event.files.get("particles") or optimiser.replace("_optimiser.star", "_data.star")
    if data and Path(data).is_file():
        files["data"] = Path(data)
    known = {
        name: _known(getattr(event, name))
        for name in (
            "resolution_A",
            "angular_step_deg",
            "offset_step_A",
            "offset_range_A",
            "accuracy_rot_deg",
            "accuracy_trans_A",
            "change_rot_deg",
            "change_trans_A",
            "mean_p_max",
            "current_size",
            "voxel_size_A",
            "seconds",
        )
    }
    return Step(
        number=None if event.is_final else event.iteration,
        is_local=event.is_local,
        fsc=np.asarray(event.fsc) if event.fsc else None,
        files=files,
        moment=moment,
        **known,
    )


def _known(value: float) -> float:
    """Return a number, NaN where it was not determined."""
    return float(value) if 0 < value < UNKNOWN else math.nan


def files_of_run(place: Path) -> RunFileList:
    """Return the files of the refinement of a folder (its newest), of one of its STAR files, or of a prefix.

    Raises
    ------
    InputError
        There is none.
    """
    folder = place if place.is_dir() else place.parent
    if not folder.is_dir():
        raise InputError(f"The folder {folder} does not exist.")
    runs = runs_of(folder)
    if not place.is_dir():
        match = _ITERATION_FILE.fullmatch(place.name)
        name = match["name"] if match else place.name
        runs = tuple(run for run in runs if run.prefix.name == name)
    if not runs:
        raise InputError(f"{place} holds no refinement: no files such as run_it001_optimiser.star.")
    return runs[0]


def complete_steps(files: RunFileList, *, is_over: bool = True) -> tuple[int, ...]:
    """Return the iterations whose files are all there, as keys of ``files.files``, in order.

    A program that is at work writes the files of an iteration one after the other, and RELION each of them line by
    line: the newest counts when none of them has changed for two seconds.
    """
    numbers = sorted(files.files)
    kinds = {"half1_model", "half2_model", "sampling", "optimiser"}
    if is_over or not numbers:
        return tuple(numbers)
    newest = files.files[numbers[-1]]
    age_s = time.time() - max(path.stat().st_mtime for path in newest.values())
    has_all = kinds <= set(newest) or "model" in newest
    return tuple(numbers if has_all and age_s > _SETTLED_S else numbers[:-1])


def read_step(files: RunFileList, n: int) -> Step:
    """Read the numbers of one iteration; maps and particles stay where they are.

    Raises
    ------
    InputError
        A file that is damaged, or of a classification.
    """
    group = {kind: path for kind, path in files.files[n].items() if kind != "data"}
    run = _last(RunFileList(prefix=files.prefix, files={n: group}))
    if not run.iterations:
        raise InputError(f"{files.prefix} has no iteration {n}.")
    read = run.iterations[-1]
    fsc = run.models[0].spectrum("rlnGoldStandardFsc") if run.models and n else None
    return Step(
        number=read.number,
        resolution_A=_known(read.resolution_A),
        angular_step_deg=_known(read.angular_step_deg),
        offset_step_A=_known(read.offset_step_A),
        offset_range_A=_known(read.offset_range_A),
        accuracy_rot_deg=_known(read.accuracy_rot_deg),
        accuracy_trans_A=_known(read.accuracy_trans_A),
        change_rot_deg=_known(read.change_rot_deg),
        change_trans_A=_known(read.change_trans_A),
        mean_p_max=read.p_max,
        current_size=read.image_size_px,
        is_local=read.is_local,
        voxel_size_A=run.voxel_size_A,
        fsc=fsc,
        files=_maps_and_data(files, n),
        moment=max(path.stat().st_mtime for path in files.files[n].values()),
    )


def _last(files: RunFileList) -> Run:
    for item in read_run(files):
        if isinstance(item, Run):
            return item
    raise InputError(f"{files.prefix} cannot be read.")


def _maps_and_data(files: RunFileList, n: int) -> dict[str, Path]:
    group = files.files[n]
    is_final = n >= _MANY_ITERATIONS
    some = next(iter(group.values()))
    stem = re.sub(r"_(?:optimiser|data|sampling|(?:half[12]_)?model)\.star$", "", some.name)
    found = {kind: some.with_name(f"{stem}_{name}") for kind, name in (_FINAL_MAPS if is_final else _MAPS).items()}
    if "data" in group:
        found["data"] = group["data"]
    return {kind: path for kind, path in found.items() if path.is_file()}


def read_facts(files: RunFileList) -> RunFacts:
    """Read what does not change during a run from its newest files."""
    newest = max(files.files)
    group = {kind: path for kind, path in files.files[newest].items() if kind != "data"}
    run = _last(RunFileList(prefix=files.prefix, files={newest: group}))
    words = [word for line in run.optimiser_comments for word in _words(line)]
    named = {name: words[words.index(name) + 1] for name in ("--ref", "--solvent_mask") if name in words[:-1]}
    reference = run.parameter("reference") or named.get("--ref")
    mask = run.optimiser.get("rlnSolventMaskName") or run.parameter("mask") or named.get("--solvent_mask")
    return RunFacts(
        prefix=files.prefix,
        reference=_found(files.prefix, reference) or _first_map(files),
        mask=_found(files.prefix, mask),
        symmetry=run.symmetry,
    )


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return line.split()


def _found(prefix: Path, named: object) -> Path | None:
    name = "" if named is None else str(named)
    if not name.endswith((".mrc", ".map", ".ccp4", ".gz")):
        return None
    if Path(name).is_file():
        return Path(name).absolute()
    folder = project_folder(prefix, [name])
    return None if folder is None else (folder / name).absolute()


def _first_map(files: RunFileList) -> Path | None:
    """Return the map that the first half-set started from, as iteration 0 has it."""
    path = files.prefix.with_name(f"{files.prefix.name}_it000_half1_class001.mrc")
    return path if path.is_file() else None
