"""Check a GPU in one command: its rates, every kernel, the search, and a job of the size of RELION's tutorial.

    python benchmarks/gpu.py                      everything, in under 5 minutes on an H200 and 16 cores
    python benchmarks/gpu.py --quick              a small job instead, which is not judged by its time
    python benchmarks/gpu.py --folder gpu_check   keep the simulated particles for the next time
    python benchmarks/gpu.py --tf32               the job with scores of the first pass in TF32

Prints Markdown. Exit status: 0 when every target is met, 1 when one is missed, 2 where there is no GPU to be used.
Targets: scoring at 50 % of the rate of a large single-precision product measured in the same run, the expectation steps
of the job at 35 %; the job, 5,000 particles of 256 px, within 60 s; poses and maps as on the CPU; TF32 keeps the
ranking of poses.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpu_job import QUICK, TUTORIAL, TWIN, JobResult, JobSize, TwinResult, compare_with_host, make_set, run_job
from gpu_rates import KernelTime, ScoringRate, Sizes, copy_rates, kernel_times, matrix_rate, module, scoring_rate

from napari_autorefine import __version__, xp
from napari_autorefine.events import Message
from napari_autorefine.jobs import doctor_machine

SCORING_SHARE, SEARCH_SHARE, JOB_S, AIM_S = 0.5, 0.35, 60.0, 30.0
KEPT_SHARE, SAME_BEST = 0.99, 0.95
ANGLE_DEG, OFFSET_A, MAP_SD = 0.05, 0.02, 1e-3
_LEFT_AFTER = 4.0  # times the target: a job that takes longer is left


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A figure beside its target."""

    what: str
    found: str
    target: str
    is_met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured: sizes of products and kernels, the job and the small one, and whether the job's time counts."""

    sizes: Sizes
    job: JobSize
    twin: JobSize
    is_judged: bool


FULL = Plan(sizes=Sizes(), job=TUTORIAL, twin=TWIN, is_judged=True)
SMALL = Plan(sizes=Sizes(), job=QUICK, twin=TWIN, is_judged=False)


def say(text: str = "") -> None:
    """Print at once."""
    print(text, flush=True)


def header(device: int) -> str:
    """Return the card, its driver and the versions of what is used."""
    cupy, found = module(device), doctor_machine.devices()[device]
    return (
        f"{found['name']} ({found['memory'] / 2**30:.0f} GiB, {found['multiprocessors']} multiprocessors, compute"
        f" capability {found['capability']}); driver {doctor_machine.driver() or 'not told'}, CUDA"
        f" {found['driver_cuda']} of the driver and {found['runtime_cuda']} of CuPy {cupy.__version__}; Python"
        f" {platform.python_version()}, {os.cpu_count()} threads; napari-autorefine {__version__}."
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def rates_section(device: int, sizes: Sizes) -> tuple[float, list[Check]]:
    """Measure rates; returns that of single-precision products, and the checks of scoring."""
    single, fast = (matrix_rate(device, sizes, fast=fast) for fast in (False, True))
    copies = copy_rates(device, sizes)
    say("## Rates\n")
    rows = [("product in single precision", f"{single / 1e12:.1f} TFLOP/s"), ("in TF32", f"{fast / 1e12:.1f} TFLOP/s")]
    rows += [(f"copies {name}", f"{rate / 1e9:.1f} GB/s") for name, rate in copies.items()]
    say(table(("what", "rate"), rows))
    say("## Kernels\n")
    say(kernel_table(kernel_times(device, sizes, copies["within"])))
    scoring = scoring_rate(device, sizes)
    say("## Scoring\n")
    say(scoring_table(scoring, single, fast))
    share = scoring.rate / single
    return single, [
        Check(
            what="scoring / product", found=f"{share:.0%}", target=f"{SCORING_SHARE:.0%}", is_met=share >= SCORING_SHARE
        ),
        Check(
            what="TF32: weight on what it keeps, same best pose",
            found=f"{scoring.kept:.4f}, {scoring.same_best:.0%}",
            target=f"{KEPT_SHARE}, {SAME_BEST:.0%}",
            is_met=scoring.kept >= KEPT_SHARE and scoring.same_best >= SAME_BEST,
        ),
    ]


def kernel_table(found: list[KernelTime]) -> str:
    """Return times of kernels beside those in which their data pass through memory once."""
    rows = [
        (one.name, f"{1e3 * one.seconds:.3f}", f"{1e3 * one.floor_s:.3f}", f"{one.seconds / one.floor_s:.1f}")
        for one in found
    ]
    return table(("kernel", "ms", "floor, ms", "times the floor"), rows)


def scoring_table(found: ScoringRate, single: float, fast: float) -> str:
    """Return the rates of scoring beside those of products."""
    rows = [
        ("single precision", f"{found.rate / 1e12:.1f}", f"{found.rate / single:.0%}"),
        ("TF32", f"{found.fast_rate / 1e12:.1f}", f"{found.fast_rate / fast:.0%}"),
    ]
    return table(("scores in", "TFLOP/s carried out", "share of the product"), rows)


def job_section(found: JobResult, single: float, *, is_judged: bool) -> list[Check]:
    """Print a job, iteration by iteration; returns its checks."""
    rows = [
        (
            str(one.iteration),
            "local" if one.is_local else "global",
            f"{one.step_deg:.2f}",
            str(one.size_px),
            f"{one.search_s:.2f}",
            f"{one.operations / max(one.search_s, 1e-9) / single:.1%}",
            f"{one.other_s:.2f}",
            str(one.n_block),
            f"{one.busy_s / max(one.search_s, 1e-9):.0%}",
            f"{one.waited_s / max(one.search_s, 1e-9):.0%}",
        )
        for one in found.iterations
    ]
    columns = ("iteration", "search", "fine step, °", "size, px", "search, s", "share of the product", "the rest, s")
    columns += ("blocks", "GPU has a block", "host waits for it")
    say(table(columns, rows))
    say(load_text(found))
    say(
        f"From files to final maps {found.seconds:.1f} s, of which {found.before_s:.1f} s before the first search;"
        f" {found.resolution_A:.2f} A, median angular error {found.angle_deg:.2f}°.\n"
    )
    for text in found.warnings:
        say(f"- {text}")
    share = found.search_rate / single
    checks = [Check(what="the job ends", found=str(found.is_finished), target="True", is_met=found.is_finished)]
    if is_judged:
        seconds = f"{found.seconds:.1f} s" + (" (better than the aim)" if found.seconds <= AIM_S else "")
        is_fast = found.is_finished and found.seconds <= JOB_S
        checks += [
            Check(what="job, from files to final maps", found=seconds, target=f"{JOB_S:.0f} s", is_met=is_fast),
            Check(
                what="expectation steps / product",
                found=f"{share:.1%}",
                target=f"{SEARCH_SHARE:.0%}",
                is_met=share >= SEARCH_SHARE,
            ),
        ]
    return checks


def load_text(found: JobResult) -> str:
    """Return what share of the searches is the GPU's, and what launches and the CPU make of it at most."""
    names = ("busy_s", "waited_s", "search_s")
    busy, waited, search = (sum(getattr(one, name) for one in found.iterations) for name in names)
    if not search:
        return ""
    return (
        f"The GPU had a block to work on during {busy / search:.0%} of the search, and the host waited for it during"
        f" {waited / search:.0%}: launches set the pace for at most {max(busy - waited, 0) / search:.0%} of the search,"
        f" reading, sending and sums on the CPU for {max(search - busy, 0) / search:.0%}.\n"
    )


def twin_checks(found: list[TwinResult]) -> list[Check]:
    """Return the comparison of an iteration on GPU and CPU."""
    return [
        Check(
            what=f"{one.name} iteration as on the CPU: angle, offset, map",
            found=f"{one.angle_deg:.4f}°, {one.offset_A:.4f} A, {one.map_:.1e} s.d.",
            target=f"{ANGLE_DEG}°, {OFFSET_A} A, {MAP_SD:.0e} s.d.",
            is_met=one.angle_deg <= ANGLE_DEG and one.offset_A <= OFFSET_A and one.map_ <= MAP_SD,
        )
        for one in found
    ]


def prepare(folder: Path, size: JobSize) -> Path:
    """Simulate a set in a folder of its own, or take that of an earlier time; says how long it took."""
    own, began = folder / f"{size.n_particle}x{size.box}", time.perf_counter()
    for event in make_set(own, size):
        if isinstance(event, Message):
            say(f"- {event.text}")
    say(f"Particles ({size.n_particle} of {size.box} px): {time.perf_counter() - began:.0f} s.\n")
    return own


def check(plan: Plan, folder: Path, device: int, *, threads: int, tf32: bool) -> list[Check]:
    """Measure everything and print it; returns the figures that have a target."""
    began = time.perf_counter()
    say(f"{header(device)}\n")
    single, checks = rates_section(device, plan.sizes)
    say("## Job\n")
    own = prepare(folder, plan.job)
    found = run_job(own, plan.job, device, threads=threads, limit_s=_LEFT_AFTER * JOB_S, tf32=tf32)
    checks += job_section(found, single, is_judged=plan.is_judged)
    twin = prepare(folder, plan.twin)
    checks += twin_checks(compare_with_host(twin, plan.twin, device, threads=threads))
    say("## Targets\n")
    rows = [(one.what, one.found, one.target, "met" if one.is_met else "MISSED") for one in checks]
    say(table(("what", "found", "target", ""), rows))
    say(f"Everything together took {time.perf_counter() - began:.0f} s.")
    return checks


def main(arguments: Sequence[str] | None = None, plan: Plan | None = None) -> int:
    """Parse the command line and check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small job, not judged by its time")
    parser.add_argument("--folder", type=Path, help="keep simulated particles and results here")
    parser.add_argument("--device", type=int, default=0, help="which GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of the CPU")
    parser.add_argument("--tf32", action="store_true", help="scores of the first pass in TF32")
    asked = parser.parse_args(arguments)
    if not 0 <= asked.device < xp.gpu_count():
        reason = "CuPy is not installed" if not xp.has_cupy() else f"CuPy finds {xp.gpu_count()} of them"
        print(f"No GPU {asked.device} can be used here: {reason}; nothing was measured.", file=sys.stderr)
        return 2
    plan = plan or (SMALL if asked.quick else FULL)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="autorefine_gpu_"))
    try:
        with xp.on_device(asked.device):
            checks = check(plan, folder.resolve(), asked.device, threads=asked.threads, tf32=asked.tf32)
    finally:
        if asked.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(one.is_met for one in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
