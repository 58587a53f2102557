"""Go from micrographs to a sharpened map with RELION's programs and ours, each taking what the other made.

    python benchmarks/workflow.py --folder bench/workflow             about 1,000 particles, the table
    python benchmarks/workflow.py --folder bench/workflow --auto      and a whole refinement by relion_refine_mpi
    python benchmarks/workflow.py --folder bench/small --small        the set of the tests

Steps that are finished are not repeated; their times are then those of the first run. The tests in tests/workflow
check the same handovers; the command lines are in tests/workflow/steps.py, the same for both sides.

The table is Markdown, for docs/validation.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure_run import machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "workflow"))
from steps import MOVE_PX, OURS, SMALL, THEIRS, THOUSAND, Site

from napari_autorefine.jobs.plots import crossing_A

Row = tuple[str, str, str]
BOTH = (OURS, THEIRS)


def handovers(site: Site, *, is_auto: bool) -> Iterator[Row]:
    """Yield what is handed over, from whom to whom, and what came out."""
    yield from _extraction(site)
    refined = site.refine(site.extract(THEIRS), site.rebox(THEIRS), "ours_of_theirs")
    yield "particles, reference", "RELION → ours (refine)", _quality(site, refined)
    own = site.refine(site.extract(OURS), site.rebox(OURS), "ours_of_ours")
    yield "particles, reference", "ours → ours (refine)", _quality(site, own)
    classified = site.classify(site.extract(OURS), site.rebox(OURS), "theirs_of_ours")
    yield "particles, reference", "ours → RELION (relion_refine, 1 iteration)", _same_classification(site, classified)
    if is_auto:
        auto = site.refine(site.extract(OURS), site.rebox(OURS), "auto", THEIRS)
        yield "particles, reference", "ours → RELION (relion_refine_mpi, auto-refine)", _quality(site, auto)
        classified = auto
    relion = "RELION-auto" if is_auto else "RELION"
    sources = {"ours": refined, relion: classified}
    for name, prefix in sources.items():
        yield from _recentering(site, name, f"{prefix}_data.star")
    centered = site.recenter(OURS, f"{refined}_data.star", "ours")
    reference = site.reconstruct(OURS, centered, "ours_ours")
    site.classify(centered, reference, "again", "--sym", "C1")
    yield "recentered particles, new map", "ours → RELION (relion_refine, 1 iteration)", "taken"
    for name, prefix in sources.items():
        masks = [site.mask(side, f"{prefix}_class001.mrc", name) for side in BOTH]
        yield "refined map", f"{name} → both (mask)", f"masks differ by {site.map_difference(*masks):.1e} (rms)"
    yield from _sharpening(site, refined, "ours")
    if is_auto:
        yield from _sharpening(site, auto, relion)


def _extraction(site: Site) -> Iterator[Row]:
    for job, what in (("extract", "micrographs, earlier particles"), ("pick", "micrographs, picks")):
        ours, theirs = (getattr(site, job)(side) for side in BOTH)
        text = f"pixels differ by {site.image_difference(ours, theirs):.1e} σ, columns by"
        yield what, "ours → both (extract)", f"{text} {site.column_difference(ours, theirs):.1e}"
    text = f"maps differ by {site.map_difference(site.rebox(OURS), site.rebox(THEIRS)):.1e} (rms)"
    yield "earlier map", "ours → both (rebox)", text


def _quality(site: Site, prefix: str) -> str:
    """Tell how good a finished refinement is."""
    errors = site.errors(f"{prefix}_data.star")
    median, upper = np.percentile(errors.angle_deg, (50, 90))
    halves = [f"{prefix}_half{half}_class001_unfil.mrc" for half in (1, 2)]
    resolution = crossing_A(site.correlation(*halves), site.sizes.scaled_A, threshold=0.143)
    text = f"angles {median:.2f}° (median), {upper:.2f}° (90 %), offsets {errors.offset_rms_A:.2f} Å off the truth"
    return f"{text}; half-maps unmasked {resolution:.2f} Å"


def _same_classification(site: Site, prefix: str) -> str:
    own = site.classify(site.extract(THEIRS), site.rebox(THEIRS), "theirs_of_theirs")
    curve = site.correlation(f"{prefix}_class001.mrc", f"{own}_class001.mrc")
    reached = crossing_A(curve, site.sizes.scaled_A, threshold=0.99)
    errors = [np.median(site.errors(f"{one}_data.star").angle_deg) for one in (prefix, own)]
    text = f"angles {errors[0]:.2f}° off the truth (its own files: {errors[1]:.2f}°)"
    return f"{text}; FSC of the two maps above 0.99 to {reached:.1f} Å"


def _recentering(site: Site, source: str, particles: str) -> Iterator[Row]:
    centered = {side: site.recenter(side, particles, source) for side in BOTH}
    difference = site.column_difference(centered[OURS], centered[THEIRS])
    yield "refined particles", f"{source} → both (recenter)", f"columns differ by {difference:.1e}"
    unmoved = site.reconstruct(OURS, particles, f"{source}_unmoved")
    for side in BOTH:
        maps = [site.reconstruct(program, centered[side], f"{source}_{side}") for program in BOTH]
        moved = ", ".join(f"{value:.2f}" for value in site.shift_px(maps[0], unmoved))
        wanted = ", ".join(f"{-value:g}" for value in MOVE_PX)
        text = f"FSC to 0.9 Nyquist above {_floor(site.agreement(*maps))}; moved by ({moved}) px, wanted ({wanted})"
        yield (
            f"recentered particles, refined by {source}",
            f"{'ours' if side == OURS else 'RELION'} → both (reconstruct)",
            text,
        )


def _floor(value: float) -> str:
    return f"{np.floor(value * 1e4) / 1e4:.4f}"


def _sharpening(site: Site, prefix: str, refined_by: str) -> Iterator[Row]:
    particles = f"{prefix}_data.star"
    halves = {
        f"half-maps, refined by {refined_by}": f"{prefix}_half1_class001_unfil.mrc",
        "half-maps of reconstruct": site.halves(OURS, particles, f"halves_{refined_by}"),
        "half-maps of relion_reconstruct": site.halves(THEIRS, particles, f"halves_{refined_by}"),
    }
    for number, (what, half) in enumerate(halves.items()):
        for side in BOTH:
            mask = site.mask(side, f"{prefix}_class001.mrc", refined_by)
            tag = f"{refined_by}{number}_{side}"
            found = [site.post_processed(site.postprocess(program, half, mask, tag)) for program in BOTH]
            curves = [one[1] for one in found]
            worst = max(
                float(np.abs(curves[0][name] - curves[1][name]).max())
                for name in ("rlnFourierShellCorrelationUnmaskedMaps", "rlnFourierShellCorrelationMaskedMaps",
                             "rlnFourierShellCorrelationCorrected")
            )  # fmt: skip
            text = f"{found[0][0]:.3f} and {found[1][0]:.3f} Å; FSC curves differ by {worst:.0e}"
            yield f"{what}, mask of {'ours' if side == OURS else 'RELION'}", "both → both (postprocess)", text


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("bench/workflow"), help="where all files are kept")
    parser.add_argument("--small", action="store_true", help="the set of the tests")
    parser.add_argument("--auto", action="store_true", help="also a whole refinement by RELION")
    arguments = parser.parse_args()
    if shutil.which("relion_refine") is None:
        raise SystemExit("RELION's programs are not installed.")
    site = Site(folder=arguments.folder.resolve(), sizes=SMALL if arguments.small else THOUSAND)
    times = site.folder / "seconds.json"
    if times.exists():
        site.seconds |= json.loads(times.read_text())
    if not (site.folder / site.truth).exists():
        started = time.monotonic()
        site.simulate()
        site.seconds["ours simulate"] = time.monotonic() - started
    sizes = site.sizes
    print(f"{machine()}. {sizes.n_particle} particles in {sizes.micrographs} micrographs of {sizes.pixel_size_A:g} Å,")
    print(f"two optics groups; box {sizes.box} px, scaled to {sizes.scaled} px of {sizes.scaled_A:.4g} Å.\n")
    print("| handed over | from → to (job) | result |\n|---|---|---|")
    for row in handovers(site, is_auto=arguments.auto):
        print("| " + " | ".join(row) + " |", flush=True)
        times.write_text(json.dumps(site.seconds, indent=1))
    print("\n| job | seconds |\n|---|---|")
    for name, seconds in site.seconds.items():
        print(f"| {name} | {seconds:.1f} |")


if __name__ == "__main__":
    main()
