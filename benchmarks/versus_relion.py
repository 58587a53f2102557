"""Refine the same particles with RELION's relion_refine_mpi and with autorefine, one after the other, and compare.

    python benchmarks/versus_relion.py --folder bench                      make the sets, run both, print the table
    python benchmarks/versus_relion.py --folder bench --sets O C1          only these sets
    python benchmarks/versus_relion.py --folder bench --relion-out O=old   judge an earlier RELION run of set O instead

Sets: D2 (beta-galactosidase), O (apoferritin), C1 (30S ribosome), all simulated with a signal-to-noise ratio of 0.08,
and real (beta-galactosidase picks of EMPIAR-10204). Models and picks come from the folder of shared data
(environment variable AUTOREFINE_SHARED_DATA). A finished run is judged again instead of repeated, unless --again.
Both programs get the same options, two threads or two worker processes.

The table is Markdown, for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import mrcfile
import numpy as np
from measure_run import AUTOREFINE, SHARED, Cost, Quality, cost_of_ranks, judge, machine, run_metered

from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.io.mrc import read_volume, write_stack, write_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.measures import pose_errors
from napari_autorefine.jobs.simulate import simulate
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.resize import window
from napari_autorefine.model.symmetry import point_group


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSet:
    """One set of particles and the options that both programs get."""

    name: str
    title: str
    symmetry: str
    ini_high_A: float
    diameter_A: float
    reference_A: float = 30.0
    healpix_order: int = 2
    local_order: int = 4
    simulation: dict[str, object] = field(default_factory=dict)
    particles: str = "particles.star"
    reference: str = "ref.mrc"
    truth_star: str = "particles_truth.star"
    truth_map: str | None = "particles_truth.mrc"


SETS = {
    item.name: item
    for item in (
        BenchmarkSet(
            name="D2",
            title="beta-galactosidase 5A1A, D2, 1500 × 128 px of 1.8 Å",
            symmetry="D2",
            ini_high_A=40,
            diameter_A=200,
            simulation={
                "model": "5a1a_betagal_D2.cif.gz",
                "n_particle": 1500,
                "box_size": 128,
                "pixel_size_A": 1.8,
                "groups": 15,
            },
        ),
        # A lower limit would leave the hand open: low-passed to 20 Å the map correlates 0.97 with its mirror image.
        BenchmarkSet(
            name="O",
            title="apoferritin 7A4M, O, 600 × 96 px of 1.7 Å",
            symmetry="O",
            ini_high_A=15,
            diameter_A=150,
            reference_A=15,
            # What RELION's tutorials advise for octahedral and icosahedral symmetry: 3.7 degrees, local from 0.9.
            healpix_order=3,
            local_order=5,
            simulation={
                "model": "7a4m_apoferritin_O_asu.cif",
                "assembly": "1",
                "n_particle": 600,
                "box_size": 96,
                "pixel_size_A": 1.7,
                "groups": 10,
            },
        ),
        BenchmarkSet(
            name="C1",
            title="30S ribosome 4V4R, C1, 800 × 96 px of 3 Å",
            symmetry="C1",
            ini_high_A=40,
            diameter_A=250,
            simulation={
                "model": "4v4r_30S_ribosome_C1.pdb.gz",
                "n_particle": 800,
                "box_size": 96,
                "pixel_size_A": 3.0,
                "groups": 12,
                "defocus_min_A": 10000.0,
                "defocus_max_A": 28000.0,
            },
        ),
        # For orientation: on such a set of 1000 particles RELION 5.0.1's accelerated CPU code took 554 s on 2 cores.
        BenchmarkSet(
            name="C6",
            title="HIV-1 CA-SP1 hexamer, C6, 1000 × 96 px of 1.6 Å",
            symmetry="C6",
            ini_high_A=20,
            diameter_A=130,
            reference_A=20,
            simulation={
                "model": "HIV1_CA-SP1_C6_modelangelo.cif",
                "n_particle": 1000,
                "box_size": 96,
                "pixel_size_A": 1.6,
                "groups": 20,
            },
        ),
        BenchmarkSet(
            name="real",
            title="beta-galactosidase, real picks (EMPIAR-10204), D2, 1157 × 64 px of 3.54 Å",
            symmetry="D2",
            ini_high_A=50,
            diameter_A=200,
            particles="particles_picked.star",
            reference="ref64.mrc",
            truth_star="particles_matched_poses.star",
            truth_map=None,
        ),
    )
}


def prepare(item: BenchmarkSet, folder: Path) -> None:
    """Make particles and reference of a set unless they are there."""
    if (folder / item.particles).exists() and (folder / item.reference).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not item.simulation:
        _prepare_real(item, folder)
        return
    values = item.simulation | {"model": str(SHARED / "models" / str(item.simulation["model"]))}
    params = SimulateParams(
        output=str(folder / "particles"),
        symmetry=item.symmetry,
        particle_diameter_A=item.diameter_A,
        snr=0.08,
        optics_groups=2,
        seed=42,
        overwrite=True,
        **values,  # type: ignore[arg-type]
    )
    for _ in simulate(params):
        pass
    for name in (item.particles, item.truth_star):  # image names relative to the folder, where both programs start
        path = folder / name
        path.write_text(path.read_text().replace(f"@{folder}/", "@"))
    truth = read_volume(folder / "particles_truth.mrc")
    start = low_pass_map(truth.data, item.reference_A, truth.voxel_size_A) * np.float32(3.0)
    write_volume(folder / item.reference, start, truth.voxel_size_A)


def _prepare_real(item: BenchmarkSet, folder: Path) -> None:
    """Copy the real picks as float32 (RELION 3.1 reads no float16) and cut the published map to their box."""
    source = SHARED / "particles_bgal"
    for path in sorted(source.glob("Extract/*/Movies/*.mrcs")):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_stack(target, mrcfile.read(path).astype(np.float32), 3.54)
    for path in source.glob("*.star"):
        shutil.copyfile(path, folder / path.name)
    published = read_volume(SHARED / "maps" / "betaGal.mrc")
    write_volume(folder / item.reference, window(published.data, 64), published.voxel_size_A)


def options(item: BenchmarkSet, prefix: str) -> list[str]:
    """Return the options that both programs understand."""
    text = (
        f"--i {item.particles} --ref {item.reference} --o {prefix} --auto_refine --split_random_halves --firstiter_cc"
        f" --ini_high {item.ini_high_A:g} --sym {item.symmetry} --ctf --particle_diameter {item.diameter_A:g}"
        f" --zero_mask --flatten_solvent --norm --scale --oversampling 1 --healpix_order {item.healpix_order}"
        f" --auto_local_healpix_order {item.local_order} --offset_range 5 --offset_step 2"
        " --auto_ignore_angles --auto_resol_angles --low_resol_join_halves 40 --pad 2"
        " --random_seed 42 --pool 3 --skip_gridding"
    )
    return text.split()


def run_relion(item: BenchmarkSet, folder: Path) -> Path:
    """Run RELION with two workers in ``folder``/relion_out, each rank metered by /usr/bin/time; return that folder."""
    output = folder / "relion_out"
    output.mkdir(exist_ok=True)
    rank = "/usr/bin/time -v -o relion_out/time.$OMPI_COMM_WORLD_RANK relion_refine_mpi"
    inner = " ".join([rank, *options(item, "relion_out/run"), "--j 1", "--dont_combine_weights_via_disc"])
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "3"]
    with (output / "run.out").open("wb") as log:
        subprocess.run([*mpirun, "bash", "-c", inner], cwd=folder, stdout=log, stderr=log, check=True)
    return output


def run_ours(item: BenchmarkSet, folder: Path, *, seed: int = 42, extra: tuple[str, ...] = ()) -> Path:
    """Run autorefine with two threads in ``folder``/autorefine_out; return that folder."""
    output = folder / "autorefine_out"
    output.mkdir(exist_ok=True)
    words = options(item, "autorefine_out/run")
    words[words.index("--random_seed") + 1] = str(seed)
    command = [*AUTOREFINE, "refine", *words, "--j", "2", "--cpu", "--overwrite", *extra]
    cost = run_metered(command, folder, output / "run.out")
    if cost.status:
        raise SystemExit(f"autorefine ended with status {cost.status}; see {output / 'run.out'}.")
    (output / "cost.json").write_text(json.dumps(asdict(cost)))
    return output


def our_cost(output: Path) -> Cost:
    """Read what an earlier run of ours took."""
    return Cost(**json.loads((output / "cost.json").read_text()))


def judge_run(item: BenchmarkSet, folder: Path, output: Path) -> Quality:
    """Judge the files of one program."""
    truth_map = None if item.truth_map is None else folder / item.truth_map
    mask_map = folder / (item.truth_map or item.reference)
    return judge(
        output / "run",
        symmetry=item.symmetry,
        truth_star=folder / item.truth_star,
        truth_map=truth_map,
        mask_map=mask_map,
    )


def reached_s(item: BenchmarkSet, folder: Path, output: Path, wanted: Quality, wall_s: float) -> float:
    """Wall time after which all four pose errors of a run of ours were no larger than ``wanted``; NaN if never."""
    group, truth = point_group(item.symmetry), read_particles(folder / item.truth_star)
    end = (output / "run_data.star").stat().st_mtime
    for path in [*sorted(output.glob("run_it*_data.star")), output / "run_data.star"]:
        errors = pose_errors(read_particles(path), truth, group)
        found = (*np.percentile(errors.angle_deg, (50, 90)), np.median(errors.offset_A), errors.offset_rms_A)
        limits = (wanted.angle_median_deg, wanted.angle_p90_deg, wanted.offset_median_A, wanted.offset_rms_A)
        if all(error <= limit for error, limit in zip(found, limits, strict=True)):
            return wall_s - (end - path.stat().st_mtime)
    return float("nan")


ROWS = (
    ("wall time (s)", "wall_s", ".0f"),
    ("wall time until poses are as good as RELION's last (s)", "reached_s", ".1f"),
    ("CPU time of the workers (s)", "cpu_s", ".0f"),
    ("peak memory (MiB)", "memory_MiB", ".0f"),
    ("iterations", "iterations", ".0f"),
    ("resolution that the program reports (Å)", "reported_A", ".2f"),
    ("gold-standard 0.143, unmasked (Å)", "unmasked_A", ".2f"),
    ("gold-standard 0.143, masked (Å)", "masked_A", ".2f"),
    ("against the truth, FSC 0.5 (Å)", "truth_A", ".2f"),
    ("angular error, median (°)", "angle_median_deg", ".2f"),
    ("angular error, 90th percentile (°)", "angle_p90_deg", ".2f"),
    ("offset error, median (Å)", "offset_median_A", ".3f"),
    ("offset error, rms (Å)", "offset_rms_A", ".3f"),
)


def table(title: str, figures: list[dict[str, float]]) -> str:
    """Return one set's figures as Markdown: RELION's if there are any, ours, and RELION's over ours."""
    has_both = len(figures) == 2
    heads = ["RELION", "autorefine", "RELION / autorefine"] if has_both else ["autorefine"]
    lines = [f"### {title}", "", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for label, key, form in ROWS:
        values = [entry[key] for entry in figures]
        if np.isnan(values).all():
            continue
        cells = [f"{value:{form}}" for value in values]
        if has_both:
            cells.append(f"{values[0] / values[1]:.2f}" if values[1] else "")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def relion_version() -> str:
    """Return the version line of the installed RELION."""
    if shutil.which("relion_refine") is None:
        return "RELION not installed; an earlier run was judged"
    shown = subprocess.run(["relion_refine", "--version"], capture_output=True, text=True, check=False)
    return (shown.stdout.strip().splitlines() or ["RELION, version unknown"])[0]


def main() -> None:
    """Run the wanted sets and print one table each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="where sets and runs are kept")
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=["D2", "O", "C1", "real"])
    parser.add_argument(
        "--relion-out", action="append", default=[], metavar="SET=FOLDER", help="judge this earlier RELION run"
    )
    parser.add_argument("--ours-only", action="store_true", help="do not run RELION; judge it only where it has run")
    parser.add_argument("--again", action="store_true", help="repeat our own runs that exist")
    parser.add_argument("--seed", type=int, default=42, help="random seed of our own runs")
    arguments = parser.parse_args()
    earlier = dict(pair.split("=", 1) for pair in arguments.relion_out)
    print(f"{machine()}; {relion_version()}.\n", flush=True)
    for name in arguments.sets:
        item, folder = SETS[name], arguments.folder.resolve() / name
        prepare(item, folder)
        relion = Path(earlier[name]) if name in earlier else folder / "relion_out"
        if not (relion / "run_class001.mrc").exists() and not arguments.ours_only:
            relion = run_relion(item, folder)
        ours = folder / "autorefine_out"
        if arguments.again or not (ours / "cost.json").exists():
            ours = run_ours(item, folder, seed=arguments.seed)
        cost = our_cost(ours)
        figures = [asdict(cost) | asdict(judge_run(item, folder, ours)) | {"reached_s": float("nan")}]
        if (relion / "run_class001.mrc").exists():
            theirs, quality = cost_of_ranks(relion), judge_run(item, folder, relion)
            figures[0]["reached_s"] = reached_s(item, folder, ours, quality, cost.wall_s)
            figures.insert(0, asdict(theirs) | asdict(quality) | {"reached_s": theirs.wall_s})
        print(table(item.title, figures), flush=True)


if __name__ == "__main__":
    main()
