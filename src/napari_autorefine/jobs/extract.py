"""Particles from micrographs: first extraction and re-extraction of refined ones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.io.files import check_writable, existing_folder
from napari_autorefine.io.tables import write_star
from napari_autorefine.jobs.extract_inputs import counted
from napari_autorefine.jobs.extract_params import ExtractParams
from napari_autorefine.jobs.extract_plan import ExtractionPlan, MicrographTask, make_plan
from napari_autorefine.jobs.extract_run import cut_all, is_done
from napari_autorefine.jobs.extract_settings import FOREIGN_OPTIONS
from napari_autorefine.jobs.montage import write_montage
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.record import check_free, check_not_input, write_record

__all__ = ["FOREIGN_OPTIONS", "ExtractParams", "extract"]


@one_at_a_time
def extract(params: ExtractParams) -> Iterator[Event]:
    """Cut particles from micrographs; write a stack per micrograph, ``particles.star`` and ``montage.png``.

    Raises
    ------
    InputError
        Whatever is wrong with files or parameters, before anything is written.
    """
    _check_output(params)
    plan = yield from make_plan(params)
    tasks = yield from _unfinished(plan, params)
    _check_files(plan, tasks, params)
    if any(task.stack.exists() for task in tasks):
        Path(params.star).unlink(missing_ok=True)  # it describes stacks that are about to be replaced
    try:
        failed = yield from cut_all(plan, tasks, params)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("Go on later with --only_do_unfinished.") from stop
    kept = [task for task in plan.tasks if task not in failed]
    n_lost = plan.n_lost + sum(task.count for task in failed)
    if not kept:
        raise InputError(f"No particle is left: none of the micrographs of {params.micrographs} can be read.")
    montage = write_montage(_montage_path(params), [task.stack for task in kept], kept[0].pixel_size_A)
    outputs = _write_tables(plan, kept, params) | {"montage": montage}
    write_record(Path(params.star).with_suffix(""), "extract", params, outputs)
    yield Finished(text=_summary(kept, n_lost), outputs=outputs, figures={"lost": n_lost})


def _montage_path(params: ExtractParams) -> str:
    return os.path.join(os.path.dirname(params.star), "montage.png")


def _check_output(params: ExtractParams) -> None:
    """Raise when the particle file exists and must not be replaced, or nothing can be written to the folder."""
    for folder in (params.folder, os.path.dirname(params.star) or "."):
        check_writable(folder)
    if not params.only_do_unfinished:
        check_free(params.star, params.overwrite)
    for name in (params.star, params.pick_star):
        check_not_input(name, (params.micrographs, params.refined_particles, params.coord_list))


def _unfinished(plan: ExtractionPlan, params: ExtractParams) -> Generator[Event, None, list[MicrographTask]]:
    """Return the tasks that are left to do, and say how many are done."""
    if not params.only_do_unfinished:
        return list(plan.tasks)
    tasks = [task for task in plan.tasks if not is_done(plan, task, params)]
    n_done = len(plan.tasks) - len(tasks)
    yield Message(text=f"{n_done} of {len(plan.tasks)} micrographs were finished before; they are kept.")
    return tasks


def _check_files(plan: ExtractionPlan, tasks: list[MicrographTask], params: ExtractParams) -> None:
    """Raise when files of other runs or inputs would be overwritten, or the disc is too small."""
    micrographs = {os.path.realpath(task.image.path) for task in plan.tasks}
    for task in tasks:
        if os.path.realpath(task.stack) in micrographs:
            raise InputError(f"The stack {task.stack} would replace a micrograph; choose another --o.")
        if task.stack.exists() and not (params.overwrite or params.only_do_unfinished):
            raise InputError(
                f"{task.stack} exists from an earlier run; go on with it by --only_do_unfinished, replace it by"
                " --overwrite, or choose another --o."
            )
    size = 2 if params.float16 else 4
    needed = sum(task.count * task.steps.window_size**2 * size for task in tasks if not task.stack.exists())
    folder = existing_folder(params.folder)
    usage = shutil.disk_usage(folder)
    free = usage.free
    if needed > free and usage.total > 0:  # a file system that counts nothing says 0
        raise InputError(
            f"The stacks need {_bytes(needed)} but only {_bytes(free)} are free in {folder}; free some space,"
            " choose another --o, or write half precision with --float16."
        )


def _bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def _write_tables(plan: ExtractionPlan, kept: list[MicrographTask], params: ExtractParams) -> dict[str, str]:
    """Write the joint particle file last: when it is there, everything is complete."""
    outputs = {}
    if params.pick_star is not None:
        files = {
            "rlnMicrographName": [task.name for task in kept],
            "rlnMicrographCoordinates": [str(task.star) for task in kept],
        }
        write_star(params.pick_star, {"coordinate_files": pd.DataFrame(files)})
        outputs["coordinates"] = params.pick_star
    rows = np.concatenate([np.arange(task.first, task.first + task.count) for task in kept])
    table = plan.table if len(rows) == len(plan.table) else plan.table.iloc[rows]
    write_star(params.star, {"optics": plan.optics, "particles": table})
    return {"particles": params.star, **outputs}


def _summary(kept: list[MicrographTask], n_lost: int) -> str:
    total = sum(task.count for task in kept)
    sizes = sorted({task.pixel_size_A for task in kept})
    pixel = " and ".join(f"{size:.6g}" for size in sizes)
    lost = f" {counted(n_lost, 'particle')} {'was' if n_lost == 1 else 'were'} lost." if n_lost else ""
    box = kept[0].steps.window_size
    whence = counted(len(kept), "micrograph")
    return f"Extracted {counted(total, 'particle')} of {box} px at {pixel} Å from {whence}.{lost}"
