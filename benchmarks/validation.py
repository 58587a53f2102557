"""Try everything in the folder of shared data: real picks, wrong CTF, other stacks, projections, every file.

    python benchmarks/validation.py --folder validation                all parts; prints Markdown for docs/validation.md
    python benchmarks/validation.py --folder validation --parts info   only this part

Parts: picks (three random seeds), wrong_ctf, stacks, projections, info. The data come from the environment variable
AUTOREFINE_SHARED_DATA.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import subprocess
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
from measure_run import AUTOREFINE, ENVIRONMENT, SHARED, Quality, machine
from versus_relion import SETS, judge_run, prepare, run_ours

from napari_autorefine import cli
from napari_autorefine.engine.projector import make_reference
from napari_autorefine.engine.samples import fourier_samples
from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_data, write_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.io.tables import read_star
from napari_autorefine.kernels import project
from napari_autorefine.model.geometry import euler_to_matrix

REAL = SETS["real"]
LIMIT_A, LIMIT_DEG = 7.4, 1.7
SUFFIXES = (".star", ".mrc", ".mrcs", ".map", ".ccp4", ".gz", ".bz2")


def quality_row(name: str, quality: Quality) -> str:
    """Return one row of the table of the real picks."""
    return (
        f"| {name} | {quality.iterations} | {quality.reported_A:.2f} | {quality.unmasked_A:.2f} |"
        f" {quality.masked_A:.2f} | {quality.angle_median_deg:.2f}, {quality.angle_p90_deg:.2f} |"
        f" {quality.offset_median_A:.2f} |"
    )


QUALITY_HEAD = (
    "| run | iterations | reported (Å) | 0.143 unmasked (Å) | masked (Å) | angle median, p90 (°) | offset (Å) |\n"
    "|---|---|---|---|---|---|---|"
)


def picks(folder: Path, seeds: tuple[int, ...]) -> None:
    """Refine the real picks with several seeds; judge by the 463 published poses."""
    print("## Real beta-galactosidase picks\n")
    print(f"Wanted: at most {LIMIT_A} Å and {LIMIT_DEG}° median for every seed.\n\n{QUALITY_HEAD}")
    prepare(REAL, folder / "real")
    passed = True
    for seed in seeds:
        output = run_ours(REAL, folder / "real", seed=seed)
        quality = judge_run(REAL, folder / "real", output)
        passed &= quality.unmasked_A <= LIMIT_A and quality.angle_median_deg <= LIMIT_DEG
        print(quality_row(f"seed {seed}", quality), flush=True)
    print(f"\nAll within the limits: {'yes' if passed else 'NO'}.\n")


def wrong_ctf(folder: Path) -> None:
    """Refine the same images with the failed CTF estimation: must end cleanly and look poor."""
    item = replace(REAL, particles="particles_picked_wrongCTF.star")
    prepare(REAL, folder / "real")
    quality = judge_run(item, folder / "real", run_ours(item, folder / "real"))
    print(f"## The same picks with a wrong CTF\n\n{QUALITY_HEAD}\n{quality_row('wrong CTF', quality)}\n", flush=True)


def blob(star: Path, target: Path) -> None:
    """Write a Gaussian ball as reference, on the grid of the particles where that is known."""
    box_size, pixel_size_A = 64, 4.0
    with contextlib.suppress(InputError):
        group = read_particles(star).optics[0]
        box_size, pixel_size_A = group.box_size, group.pixel_size_A
    axis = np.arange(box_size) - box_size // 2
    radius2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + (0.7 * axis) ** 2
    write_volume(target, np.exp(-radius2 / (0.15 * box_size) ** 2).astype(np.float32), pixel_size_A)


def project_folder(star: Path) -> Path:
    """Return the folder that the image names of a file are relative to; its own if the images are nowhere."""
    with contextlib.suppress(InputError):
        first = str(read_particles(star).image_name[0]).rpartition("@")[2]
        for folder in star.parents:
            if (folder / first).exists():
                return folder
    return star.parent


def try_stack(star: Path, scratch: Path) -> str:
    """Start two iterations from a blob; return how it ended."""
    blob(star, scratch / "blob.mrc")
    words = ["refine", "--i", str(star), "--ref", str(scratch / "blob.mrc"), "--o", str(scratch / "out" / "run")]
    words += ["--ini_high", "40", "--particle_diameter", "0", "--auto_iter_max", "2", "--ctf", "--firstiter_cc"]
    words += ["--overwrite", "--j", "2", "--cpu", "--healpix_order", "1", "--random_seed", "1"]
    try:
        done = subprocess.run(
            [*AUTOREFINE, *words],
            cwd=project_folder(star),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "still running after 10 minutes"
    said = [line for line in done.stderr.strip().splitlines() if line.startswith("autorefine: ")]
    if done.returncode == 0:
        return "iterates"
    if done.returncode == 2 and len(said) == 1:
        return "refused: " + said[0].removeprefix("autorefine: ").replace(str(SHARED) + "/", "")
    return f"FAILED with status {done.returncode}: {(done.stderr.strip().splitlines() or ['nothing said'])[-1]}"


def stacks() -> None:
    """Start a refinement of every particle file, whether its images are there or not."""
    print("## Every other particle file\n\n| file | outcome |\n|---|---|")
    outcomes: dict[str, list[str]] = {}
    for star in sorted(SHARED.rglob("*.star")):
        if star.parent.name == "particles_bgal" or "_rlnImageName" not in star.read_text(errors="replace"):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            outcome = try_stack(star, Path(scratch))
        outcomes.setdefault(outcome.partition(":")[0].split(" with")[0], []).append(star.name)
        print(f"| {star.relative_to(SHARED)} | {outcome} |", flush=True)
    print("\n" + ", ".join(f"{len(names)} {outcome}" for outcome, names in outcomes.items()) + ".\n", flush=True)


def projection_agreement(star: Path, volume: np.ndarray) -> tuple[float, float]:
    """Return the smallest correlation and the largest scale deviation of our slices from RELION's images.

    All frequencies inside the Nyquist circle but the origin take part. RELION puts the origin of an odd-sized image one
    pixel further than the center of the map, hence the (box + 1) // 2.
    """
    tables = read_star(star).tables
    table = tables["particles"]
    images = mrcfile.read(star.with_suffix(".mrcs")).astype(np.float64)
    box_size = images.shape[-1]
    euler = np.stack([np.asarray(table[f"rlnAngle{name}"], dtype=float) for name in ("Rot", "Tilt", "Psi")], axis=1)
    labels = ("rlnOriginX", "rlnOriginY") if "rlnOriginX" in table else ("rlnOriginXAngst", "rlnOriginYAngst")
    origin = np.stack([np.asarray(table[label], dtype=float) for label in labels], axis=1)
    samples = fourier_samples(box_size, box_size - 1, box_size - 1)
    reference = make_reference(volume, pad=2, r_max=box_size // 2)
    matrices = (2.0 * np.swapaxes(euler_to_matrix(euler), -1, -2)).astype(np.float32)
    slices = project(reference.data, matrices, samples.rows, samples.n_sample, float(box_size - 1) ** 2)
    middle = (box_size + 1) // 2
    turns = samples.x * (middle - origin[:, :1]) + samples.y * (middle - origin[:, 1:])
    ours = (slices * np.exp(-2j * np.pi * turns / box_size))[:, 1:]
    transforms = np.fft.rfft2(images) / box_size**2
    theirs = transforms[:, np.mod(samples.y, box_size), samples.x][:, 1:]
    cross = (ours * theirs.conj()).real.sum(axis=1)
    power = (np.abs(ours) ** 2).sum(axis=1)
    correlation = cross / np.sqrt(power * (np.abs(theirs) ** 2).sum(axis=1))
    return float(correlation.min()), float(np.abs(cross / power - 1).max())


def projections() -> None:
    """Compare our slices with relion_project's images of the 70S ribosome."""
    print(
        "## RELION's own projections\n\n| file | images | smallest correlation | scale differs by |\n|---|---|---|---|"
    )
    volume = read_data(SHARED / "maps" / "clean70SRibosome_vol_65p.mrc")[0]
    for star in sorted((SHARED / "projections").glob("*.star")):
        correlation, deviation = projection_agreement(star, volume)
        count = len(mrcfile.read(star.with_suffix(".mrcs")))
        print(f"| {star.name} | {count} | {correlation:.6f} | {deviation:.1e} |", flush=True)
    print()


def describe_file(path: Path) -> tuple[int, str]:
    """Run ``autorefine info`` on a file; return status and what was said on the error stream."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            status = cli.main(["info", str(path)])
    except Exception as error:  # a crash is a result here
        return -1, f"{type(error).__name__}: {error}"
    return status, err.getvalue().strip()


def info() -> None:
    """Describe every STAR and MRC file of the folder."""
    print("## `autorefine info` on every file\n")
    counts = {"described": 0, "refused in one sentence": 0, "FAILED": 0}
    lines = []
    for path in sorted(SHARED.rglob("*")):
        if not path.is_file() or path.suffix not in SUFFIXES or ".cif" in path.name or ".pdb" in path.name:
            continue
        status, said = describe_file(path)
        is_sentence = status == 2 and len(said.splitlines()) == 1
        outcome = "described" if status == 0 else "refused in one sentence" if is_sentence else "FAILED"
        counts[outcome] += 1
        if outcome != "described":
            text = said.removeprefix("autorefine: ").replace(str(path), path.name).replace("\n", " ")
            lines.append(f"| {path.relative_to(SHARED)} | {text} |")
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()) + ".\n")
    print("| not described | why |\n|---|---|\n" + "\n".join(lines) + "\n", flush=True)


PARTS = ("picks", "wrong_ctf", "projections", "stacks", "info")


def main() -> None:
    """Run the wanted parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("validation"), help="where runs are kept")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"# Validation on shared data\n\nMade by `benchmarks/validation.py`; {machine()}.\n", flush=True)
    steps = {
        "picks": lambda: picks(folder, tuple(arguments.seeds)),
        "wrong_ctf": lambda: wrong_ctf(folder),
        "projections": projections,
        "stacks": stacks,
        "info": info,
    }
    for part in arguments.parts:
        steps[part]()


if __name__ == "__main__":
    main()
