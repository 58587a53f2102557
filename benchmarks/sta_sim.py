"""Refine the simulated subtomograms of the shared data, and compare with what RELION 5.0.1 made of them.

    python benchmarks/sta_sim.py --folder bench          refine both forms, print the table
    python benchmarks/sta_sim.py --folder bench --sets stack2d --threads 1
    python benchmarks/sta_sim.py --folder bench --also "--no_particle_scale"
    python benchmarks/sta_sim.py --folder bench --sets stack2d --seeds 42 1 2 3     a line per random seed

RELION's files and command lines are those of ``sta_sim`` in the folder of shared data (environment variable
AUTOREFINE_SHARED_DATA); both programs are judged by the same code. A finished run is judged again instead of repeated,
unless --again.

RELION's time is the sum of its progress bars, wall clock, of 2 workers on two cores that others used too: its CPU time
is at most twice that, so that the true ratio of CPU times is not below the printed one. The last column is ours over
RELION's: below 1 is better; that of resolutions and errors should not exceed 1.02.

Half-maps of so few particles in two tilt series have an FSC that is low where their CTFs are 0 and varies with the
half-sets: where it crosses 0.143 is partly luck. With --seeds this is seen: other seeds make other half-sets. As errors
of the halves are independent, the FSC between them is on average the product of those of each half with the truth,
which varies little: where this product crosses 0.143 is "as far as the truth allows". What is finer is good luck.

The table is Markdown, for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure_run import AUTOREFINE, SHARED, Cost, machine, run_metered

from napari_autorefine.engine.correlation import fsc
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.tables import read_star
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.jobs.measures import molecule_mask
from napari_autorefine.jobs.measures_tomo import tomo_pose_errors
from napari_autorefine.jobs.plots import crossing_A
from napari_autorefine.model.resize import window
from napari_autorefine.model.symmetry import point_group

ROOT = SHARED / "sta_sim"
PIXEL_A, SHIFT_PX, FAR_DEG = 5.4, 2.75, 15.0
COMMON = (
    "--auto_refine --split_random_halves --firstiter_cc --trust_ref_size --dont_combine_weights_via_disc --pool 10"
    " --pad 2 --auto_ignore_angles --auto_resol_angles --ctf --flatten_solvent --zero_mask --oversampling 1"
    " --healpix_order 2 --auto_local_healpix_order 3 --offset_range 5 --offset_step 2 --sym C6"
    " --low_resol_join_halves 40 --norm --scale --random_seed 42 --cpu --ref reference.mrc"
)
SETS = {
    "stack2d": "--ios Extract/stack2d/optimisation_set.star --particle_diameter 160 --ini_high 40",
    "sub3d": "--ios Extract/sub3d/optimisation_set.star --particle_diameter 150 --ini_high 25",
}
LOWER_IS_BETTER = {
    "half-maps reported (Å)": "reported_A",
    "half-maps 0.143, unmasked (Å)": "unmasked_A",
    "half-maps 0.143, masked (Å)": "masked_A",
    "the same, as far as the truth allows (Å)": "allowed_A",
    "map against truth 0.5, masked (Å)": "truth_A",
    "1 - mean FSC with the truth, shells of 26 to 11 Å": "truth_missing",
    "angle error, median (°)": "angle_median_deg",
    "angle error, 90 % (°)": "angle_p90_deg",
    "off by more than 15°": "n_far",
    "center error of the others, rms per axis (Å)": "center_rms_A",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a finished run is."""

    iterations: int
    reported_A: float
    unmasked_A: float
    masked_A: float
    allowed_A: float
    truth_A: float
    truth_missing: float
    angle_median_deg: float
    angle_p90_deg: float
    n_far: int
    center_rms_A: float


def judge(prefix: Path, name: str) -> Quality:
    """Judge a run by its files; maps are compared where the molecule is: moved up with the starting reference."""
    half1, half2 = (read_volume(f"{prefix}_half{number}_class001_unfil.mrc").data for number in (1, 2))
    size = len(half1)
    truth = moved_up(window(read_volume(ROOT / "truth.mrc").data, size))
    mask = molecule_mask(truth, PIXEL_A)
    found = read_particles(f"{prefix}_data.star", project_dir=ROOT)
    errors = tomo_pose_errors(
        found,
        read_particles(ROOT / f"truth_{name}.star", project_dir=ROOT),
        read_tomograms(ROOT / "tomograms.star", project_dir=ROOT),
        point_group("C6"),
        center_A=(0.0, 0.0, SHIFT_PX * PIXEL_A),
    )
    is_near = errors.angle_deg < FAR_DEG
    density = read_volume(f"{prefix}_class001.mrc").data
    with_truth = fsc(density, truth, mask)
    allowed = fsc(half1, truth, mask) * fsc(half2, truth, mask)
    shells = np.arange(len(with_truth)) / (size * PIXEL_A)
    is_judged = (shells > 1 / 26.0) & (shells < 1 / 11.0)
    general = read_star(f"{prefix}_model.star").pairs("model_general") or {}
    limit = 2 * PIXEL_A
    return Quality(
        iterations=len(list(prefix.parent.glob(f"{prefix.name}_it*_half1_model.star"))),
        reported_A=float(general["rlnCurrentResolution"]),
        unmasked_A=max(crossing_A(fsc(half1, half2), PIXEL_A, threshold=0.143), limit),
        masked_A=max(crossing_A(fsc(half1, half2, mask), PIXEL_A, threshold=0.143), limit),
        allowed_A=max(crossing_A(allowed, PIXEL_A, threshold=0.143), limit),
        truth_A=max(crossing_A(with_truth, PIXEL_A, threshold=0.5), limit),
        truth_missing=1.0 - float(with_truth[is_judged].mean()),
        angle_median_deg=float(np.median(errors.angle_deg)),
        angle_p90_deg=float(np.percentile(errors.angle_deg, 90)),
        n_far=int((~is_near).sum()),
        center_rms_A=float(np.sqrt(np.mean(errors.offset_A[is_near] ** 2) / 3)),
    )


def moved_up(data: np.ndarray) -> np.ndarray:
    """Move a map along z as the starting reference was."""
    phases = np.exp(-2j * np.pi * np.fft.fftfreq(len(data)) * SHIFT_PX)
    moved: np.ndarray = np.fft.ifft(np.fft.fft(data, axis=0) * phases[:, None, None], axis=0).real
    return moved.astype(np.float32)


def relion_wall_s(name: str) -> float:
    """Sum the progress bars of RELION's log."""
    text = (ROOT / "Refine3D" / name / "run.out").read_text(encoding="utf-8", errors="replace")
    unit = {"sec": 1.0, "min": 60.0, "hrs": 3600.0}
    bars = re.findall(r"^\s*[\d.]+/\s*([\d.]+) (sec|min|hrs) \.", text, re.MULTILINE)
    return sum(float(number) * unit[word] for number, word in bars)


def refined(name: str, folder: Path, args: argparse.Namespace, also: str = "") -> tuple[Path, Cost]:
    """Run a set, unless it is there already; return prefix and cost."""
    prefix, record = folder / name / "run", folder / name / "cost.json"
    if record.is_file() and not args.again:
        return prefix, Cost(**json.loads(record.read_text()))
    prefix.parent.mkdir(parents=True, exist_ok=True)
    words = ["refine", "--o", str(prefix.resolve()), *shlex.split(f"{SETS[name]} {COMMON} {args.also} {also}")]
    line = [*AUTOREFINE, *words, "--j", str(args.threads), "--overwrite"]
    cost = run_metered(line, ROOT, prefix.parent / "log.txt")
    if cost.status:
        raise SystemExit(f"The refinement of {name} failed, see {prefix.parent / 'log.txt'}.")
    fields = {key: getattr(cost, key) for key in ("wall_s", "cpu_s", "memory_MiB", "status")}
    record.write_text(json.dumps(fields) + "\n")
    return prefix, cost


def table(name: str, ours: Quality, theirs: Quality, cost: Cost) -> list[str]:
    """Return the lines of one set."""
    lines = [f"### {name}", "", "| | RELION 5.0.1 | here | ratio |", "|---|---|---|---|"]
    lines.append(f"| iterations | {theirs.iterations} | {ours.iterations} | |")
    for title, key in LOWER_IS_BETTER.items():
        first, second = float(getattr(theirs, key)), float(getattr(ours, key))
        ratio = f"{second / first:.3f}" if first else ("1.000" if not second else "–")
        lines.append(f"| {title} | {first:.4g} | {second:.4g} | {ratio} |")
    wall = relion_wall_s(name)
    lines.append(f"| time, two workers (s wall) | {wall:.0f} | {cost.wall_s:.0f} | |")
    lines.append(f"| CPU time (s) | at most {2 * wall:.0f} | {cost.cpu_s:.0f} | {cost.cpu_s / (2 * wall):.3f} |")
    lines.append(f"| largest memory (MiB) | – | {cost.memory_MiB:.0f} | |")
    return [*lines, ""]


def seed_table(name: str, args: argparse.Namespace) -> list[str]:
    """Return the lines of one set refined with several random seeds."""
    keys = ["reported_A", "unmasked_A", "masked_A", "allowed_A", "truth_A", "truth_missing"]
    keys += ["angle_median_deg", "angle_p90_deg", "n_far", "center_rms_A"]
    titles = {key: title for title, key in LOWER_IS_BETTER.items()}
    rows = [("RELION 5.0.1", judge(ROOT / "Refine3D" / name / "run", name))]
    for seed in args.seeds:
        prefix, _ = refined(name, args.folder / f"seed{seed}", args, f"--random_seed {seed}")
        rows.append((f"here, seed {seed}", judge(prefix, name)))
    lines = [f"### {name}", "", f"| | {' | '.join(titles[key] for key in keys)} |", "|---" * (len(keys) + 1) + "|"]
    lines += [f"| {title} | {' | '.join(f'{getattr(one, key):.4g}' for key in keys)} |" for title, one in rows]
    medians = (np.median([getattr(one, key) for _, one in rows[1:]]) for key in keys)
    return [*lines, f"| here, median | {' | '.join(f'{value:.4g}' for value in medians)} |", ""]


def main() -> None:
    """Refine and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench_sta_sim"))
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--also", default="", help="further options of refine")
    parser.add_argument("--seeds", nargs="+", type=int, help="random seeds to compare")
    parser.add_argument("--again", action="store_true")
    args = parser.parse_args()
    lines = [machine(), ""]
    for name in args.sets:
        if args.seeds:
            lines += seed_table(name, args)
            continue
        prefix, cost = refined(name, args.folder, args)
        lines += table(name, judge(prefix, name), judge(ROOT / "Refine3D" / name / "run", name), cost)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
