"""Extract the same particles with relion_preprocess and with autorefine, in turn, and compare times and images.

    python benchmarks/extraction.py --folder bench                    6 micrographs of 4096 px, 300 particles each
    python benchmarks/extraction.py --folder bench --rounds 5 --box 360 --scale 256

Micrographs are noise with a gradient (MRC, float32), made once per folder and size. Both programs cut, rescale,
normalise and invert the particles and write float32 stacks. RELION runs with one process and with ``--ranks`` MPI
processes, autorefine with one thread and with as many threads; the programs take turns, and the fastest of the rounds
counts, because other work on the machine only ever makes a run slower. Peak memory is that of the largest process.

The table is Markdown, for docs/performance.md. The status is 1 when the images differ by more than 1e-4 of their
standard deviation.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from multiprocessing import Process
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
from measure_run import AUTOREFINE, Cost, machine, run_metered

from napari_autorefine.io.mrc import write_stack
from napari_autorefine.io.tables import write_star

PIXEL_A = 0.885
WORST = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """One way to run the extraction."""

    name: str
    words: tuple[str, ...]
    output: str


def make_micrographs(folder: Path, options: argparse.Namespace) -> None:
    """Write micrographs, their STAR file and coordinates, the boxes of a few of them over the edge."""
    rng = np.random.default_rng(1)
    names = [f"mics/mic{number + 1:03d}.mrc" for number in range(options.micrographs)]
    (folder / "mics").mkdir(parents=True, exist_ok=True)
    for name in names:
        noise = rng.standard_normal((options.size, options.size), np.float32)
        image = 5.0 * noise + np.linspace(95.0, 105.0, options.size, dtype=np.float32)
        write_stack(folder / name, image[None].astype(np.float32), PIXEL_A)
        xy = rng.uniform(0.0, options.size, (options.particles, 2))
        table = pd.DataFrame({"rlnCoordinateX": xy[:, 0], "rlnCoordinateY": xy[:, 1]})
        write_star(folder / "coords" / f"{name.removesuffix('.mrc')}_pick.star", {"": table})
    optics = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["opticsGroup1"],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
        "rlnMicrographPixelSize": [PIXEL_A],
    }
    micrographs = {
        "rlnMicrographName": names,
        "rlnOpticsGroup": 1,
        "rlnDefocusU": rng.uniform(8000, 20000, len(names)),
        "rlnDefocusV": 9000.0,
        "rlnDefocusAngle": 30.0,
    }
    write_star(folder / "mics.star", {"optics": pd.DataFrame(optics), "micrographs": pd.DataFrame(micrographs)})


def runners(options: argparse.Namespace) -> list[Runner]:
    """Return all ways to run, with the same options."""
    radius = int(0.5 * int(0.75 * options.box) * options.scale / options.box)
    words = f"--i mics.star --coord_dir coords/ --coord_suffix _pick.star --extract --extract_size {options.box}"
    words += f" --scale {options.scale} --norm --bg_radius {radius} --invert_contrast"
    if options.premultiply:
        words += " --premultiply_ctf"

    def made(name: str, program: tuple[str, ...], output: str, *more: str) -> Runner:
        target = ("--part_dir", f"{output}/", "--part_star", f"{output}/particles.star")
        return Runner(name=name, words=(*program, *words.split(), *target, *more), output=output)

    ranks = str(options.ranks)
    mpi = ("mpirun", "--allow-run-as-root", "--oversubscribe", "-n", ranks, "relion_preprocess_mpi")
    ours = (*AUTOREFINE, "extract")
    return [
        made("relion_preprocess", ("relion_preprocess",), "relion_1"),
        made(f"relion_preprocess_mpi, {ranks} processes", mpi, "relion_n"),
        made("autorefine, 1 thread", ours, "ours_1", "--overwrite", "--j", "1"),
        made(f"autorefine, {ranks} threads", ours, "ours_n", "--overwrite", "--j", ranks),
    ]


def largest_difference(folder: Path, first: str, second: str) -> float:
    """Return the largest difference of two sets of stacks in standard deviations of the images."""
    worst = 0.0
    stacks = sorted((folder / first).rglob("*.mrcs"))
    for stack in stacks:
        one = mrcfile.read(stack).astype(np.float64)
        two = mrcfile.read(folder / second / stack.relative_to(folder / first))
        worst = max(worst, float(np.abs(one - two).max() / one.std()))
    return worst if stacks else float("inf")


def measure(folder: Path, ways: list[Runner], rounds: int) -> dict[str, Cost]:
    """Run all ways in turn; return the fastest run of each."""
    best: dict[str, Cost] = {}
    for _ in range(rounds):
        for way in ways:
            shutil.rmtree(folder / way.output, ignore_errors=True)
            cost = run_metered(list(way.words), folder, folder / f"{way.output}.log")
            if cost.status:
                raise SystemExit(f"{way.name} failed; see {folder / way.output}.log")
            if way.name not in best or cost.wall_s < best[way.name].wall_s:
                best[way.name] = cost
    return best


def main() -> int:
    """Make the data, run, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--micrographs", type=int, default=6)
    parser.add_argument("--particles", type=int, default=300, help="per micrograph")
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--box", type=int, default=256)
    parser.add_argument("--scale", type=int, default=128)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--premultiply", action="store_true", help="multiply the images by their CTF")
    options = parser.parse_args()
    folder = options.folder / f"{options.micrographs}x{options.size}_{options.particles}"
    if not (folder / "mics.star").exists():
        maker = Process(target=make_micrographs, args=(folder, options))  # so that its memory is not counted
        maker.start()
        maker.join()
    ways = [way for way in runners(options) if shutil.which(way.words[0])]
    best = measure(folder, ways, options.rounds)
    sizes = f"{options.micrographs} micrographs of {options.size} px, {options.particles} particles each"
    lines = [
        f"{machine()}; {sizes}, box {options.box} to {options.scale} px; fastest of {options.rounds}.",
        "",
        "| program | wall s | CPU s | peak MiB |",
        "|---|---|---|---|",
        *(f"| {name} | {c.wall_s:.2f} | {c.cpu_s:.2f} | {c.memory_MiB:.0f} |" for name, c in best.items()),
        "",
    ]
    costs = list(best.values())
    worst = 0.0
    if len(costs) == 4:
        lines += [
            f"Times as fast as relion_preprocess: {costs[0].wall_s / costs[2].wall_s:.1f} with one thread"
            f" (CPU time {costs[0].cpu_s / costs[2].cpu_s:.1f}), {costs[0].wall_s / costs[3].wall_s:.1f} with"
            f" {options.ranks} threads, against {options.ranks} MPI processes {costs[1].wall_s / costs[3].wall_s:.1f}"
            f" (CPU time {costs[1].cpu_s / costs[3].cpu_s:.1f}).",
        ]
        worst = max(largest_difference(folder, "relion_1", name) for name in ("ours_1", "ours_n"))
        lines.append(f"Largest difference of the images: {worst:.1e} standard deviations.")
    print("\n".join(lines))
    return int(worst > WORST)


if __name__ == "__main__":
    raise SystemExit(main())
