"""Shared by the benchmarks: start a program, meter it, and judge the files that it leaves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import napari_autorefine
from napari_autorefine.engine.correlation import fsc, solvent_corrected_fsc
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.tables import read_star
from napari_autorefine.jobs.measures import molecule_mask, pose_errors
from napari_autorefine.jobs.plots import crossing_A
from napari_autorefine.model.symmetry import point_group

AUTOREFINE = (sys.executable, "-c", "import sys; from napari_autorefine.cli import main; sys.exit(main())")
# The package that this script uses is the one it starts, wherever the working folder is.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(napari_autorefine.__file__).resolve().parents[1])}
SHARED = Path(os.environ.get("AUTOREFINE_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run took: wall and CPU seconds, peak memory in MiB summed over processes, exit status."""

    wall_s: float
    cpu_s: float
    memory_MiB: float
    status: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a result is; NaN where there is no truth to compare with.

    ``reported_A`` is what the program wrote into its model file: a whole shell. The others are interpolated.
    """

    iterations: int
    reported_A: float
    unmasked_A: float
    masked_A: float
    truth_A: float
    angle_median_deg: float
    angle_p90_deg: float
    offset_median_A: float
    offset_rms_A: float


def run_metered(command: list[str], folder: Path, log: Path) -> Cost:
    """Run a command in ``folder`` and meter it and all its children."""
    started = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(
        wall_s=time.monotonic() - started,
        cpu_s=usage.ru_utime + usage.ru_stime,
        memory_MiB=usage.ru_maxrss / 1024,
        status=process.returncode,
    )


def cost_of_ranks(folder: Path) -> Cost:
    """Sum the ``time.<rank>`` reports that ``/usr/bin/time -v`` left for each MPI process.

    The leader only hands out work and spins while it waits, so its CPU time is left out; its memory counts.
    """
    reports = [path.read_text() for path in sorted(folder.glob("time.[0-9]*"))]
    if not reports:
        raise SystemExit(f"{folder} holds no time.<rank> files; run RELION under /usr/bin/time -v (see --help).")
    cpu = [_number(text, "User time") + _number(text, "System time") for text in reports]
    return Cost(
        wall_s=max(_elapsed(text) for text in reports),
        cpu_s=sum(cpu[1:]) if len(cpu) > 1 else cpu[0],
        memory_MiB=sum(_number(text, "Maximum resident set size") for text in reports) / 1024,
    )


def _number(text: str, label: str) -> float:
    found = re.search(rf"{label}[^:]*: ([\d.]+)", text)
    return float(found[1]) if found else float("nan")


def _elapsed(text: str) -> float:
    found = re.search(r"Elapsed \(wall clock\).*: ([\d:.]+)\n", text)
    seconds = 0.0
    for part in (found[1] if found else "nan").split(":"):
        seconds = seconds * 60 + float(part)
    return seconds


def judge(prefix: Path, *, symmetry: str, truth_star: Path, truth_map: Path | None, mask_map: Path) -> Quality:
    """Judge a finished run by its files; both programs are judged by this same code.

    The mask is a soft mask around the molecule in ``mask_map``; the masked curve is corrected for it by phase
    randomisation, as in ``relion_postprocess``.
    """
    source = read_volume(mask_map)
    mask = molecule_mask(source.data, source.voxel_size_A)
    half1, half2 = (read_volume(f"{prefix}_half{number}_class001_unfil.mrc") for number in (1, 2))
    voxel = half1.voxel_size_A
    against_truth = float("nan")
    if truth_map is not None:
        curve = fsc(read_volume(f"{prefix}_class001.mrc").data, read_volume(truth_map).data, mask)
        against_truth = crossing_A(curve, voxel, threshold=0.5)
    group = point_group(symmetry)
    errors = pose_errors(read_particles(f"{prefix}_data.star"), read_particles(truth_star), group)
    iterations = len(list(prefix.parent.glob(f"{prefix.name}_it*_half1_model.star"))) - 1
    return Quality(
        iterations=iterations + 1,
        reported_A=_reported_A(Path(f"{prefix}_model.star")),
        unmasked_A=crossing_A(fsc(half1.data, half2.data), voxel, threshold=0.143),
        masked_A=crossing_A(solvent_corrected_fsc(half1.data, half2.data, mask).corrected, voxel, threshold=0.143),
        truth_A=against_truth,
        angle_median_deg=float(np.median(errors.angle_deg)),
        angle_p90_deg=float(np.percentile(errors.angle_deg, 90)),
        offset_median_A=float(np.median(errors.offset_A)),
        offset_rms_A=errors.offset_rms_A,
    )


def _reported_A(model: Path) -> float:
    table = read_star(model).tables["model_general"]
    value = table["rlnCurrentResolution"]
    return float(value.iloc[0] if hasattr(value, "iloc") else value)


def machine() -> str:
    """Return one line about the processor and the cores this process may use."""
    model = "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"model name\s*: (.+)", info.read_text())
        model = found[1] if found else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model}, {cores} cores"
