"""The report of a refinement: what was found of it, put together as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from napari_autorefine.io.run_tables import software_version
from napari_autorefine.jobs.report_data import Run
from napari_autorefine.jobs.report_maps import PostProcess, program_of, run_curves
from napari_autorefine.jobs.report_page import Page, Section, Table, Verdict
from napari_autorefine.jobs.report_particles import particle_section
from napari_autorefine.jobs.report_provenance import parameter_section, provenance_section
from napari_autorefine.jobs.report_sections import (
    aside_section,
    course_section,
    map_section,
    orientation_section,
    resolution_section,
    spectra_section,
)
from napari_autorefine.jobs.report_verdicts import Findings, best_resolution, score_of, verdicts_of, views_of


def examine(run: Run, *, mask: str | None, postprocess: PostProcess | None) -> Findings:
    """Work out curves, views and score of a run."""
    views = views_of(run)
    return Findings(
        run=run,
        curves=run_curves(run, mask, postprocess),
        views=views,
        score=score_of(run, views),
        postprocess=postprocess,
    )


def refinement_page(found: Findings, *, extra: Sequence[Section] = (), verdicts: Sequence[Verdict] = ()) -> Page:
    """Return the page of a refinement.

    Parameters
    ----------
    found : what is known of the run
    extra : sections of the caller, put after that on the particles
    verdicts : sentences of the caller, put first
    """
    run = found.run
    folder = run.prefix.parent
    program = program_of(run.optimiser_comments)
    missing = missing_of(run)
    sections = (
        resolution_section(found),
        course_section(found),
        map_section(found),
        orientation_section(found),
        particle_section(run),
        *extra,
        spectra_section(found),
        aside_section(found),
        Section(title="Not in this folder", blocks=[Table(rows=[[text] for text in missing])]) if missing else None,
        parameter_section(run.record, run.optimiser, folder),
        provenance_section(run.record, program, folder, dict(run.files) | dict(run.maps)),
    )
    state = "finished" if run.is_final else "unfinished"
    return Page(
        title=f"Refinement {folder.resolve().name}/{run.prefix.name}",
        subtitle=" · ".join(part for part in (str(folder.resolve()), program[0], state) if part),
        facts=facts_of(found),
        verdicts=(*verdicts, *verdicts_of(found)),
        sections=[section for section in sections if section is not None],
        footer=footer(),
    )


def footer() -> str:
    """Return who made the page and when."""
    return f"Made by napari-autorefine {software_version()} on {datetime.now().astimezone():%d %B %Y, %H:%M %Z}."


def facts_of(found: Findings) -> list[tuple[str, str]]:
    """Return the figures shown large."""
    run, best = found.run, best_resolution(found)
    numbers = [one.number for one in run.iterations if one.number]
    facts = []
    if best is not None:
        facts.append(("Resolution", f"{best[0]:.2f} Å"))
    if run.particles is not None:
        facts.append(("Particles", f"{len(run.particles):,}".replace(",", "\u202f")))
    if numbers:
        facts.append(("Iterations", str(max(numbers))))
    if math.isfinite(run.voxel_size_A):
        facts.append(("Pixel size", f"{run.voxel_size_A:.4g} Å"))
        facts.append(("Box", f"{run.models[0].number('rlnOriginalImageSize'):.0f} px"))
    if run.sampling:
        facts.append(("Symmetry", run.symmetry))
    if found.score is not None:
        facts.append(("Sampling score", f"{found.score.scf:.2f}"))
    return facts


def missing_of(run: Run) -> list[str]:
    """Return a sentence for each kind of file that is not there, and what is therefore missing from the page."""
    name = run.prefix.name
    sentences = {
        f"{name}_itNNN_half1_model.star of iterations: no course of resolution and accuracy.": not run.half_models,
        f"{name}_model.star: the spectra shown are of half-set 1.": bool(run.models) and run.models == run.half_models,
        f"No {name}_…model.star at all: no resolution, spectra and greyscale factors.": not run.models,
        f"{name}_…optimiser.star: no options, counters of convergence and command line.": not run.optimiser,
        f"{name}_…sampling.star: symmetry and search steps are unknown.": not run.sampling,
        f"{name}_…data.star: nothing on single particles.": run.particles is None,
        f"{name}_class001.mrc: no joined map.": "map" not in run.maps,
        f"{name}_half1_class001_unfil.mrc and half2: no FSC from the half-maps.": "half1" not in run.maps,
    }
    return [text for text, is_missing in sentences.items() if is_missing]
