"""Pages of jobs other than a refinement: post-processing and extraction."""

from __future__ import annotations

from pathlib import Path

from napari_autorefine.errors import InputError
from napari_autorefine.io.columns import Columns
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.jobs.plots import picture, shell_resolution_A, slices_figure
from napari_autorefine.jobs.record import JobRecord, read_record
from napari_autorefine.jobs.render import map_figure
from napari_autorefine.jobs.report_data import number
from napari_autorefine.jobs.report_maps import PostProcess, program_of, sharpened_map
from napari_autorefine.jobs.report_page import Block, Page, Section, Verdict
from napari_autorefine.jobs.report_particles import extraction_section
from napari_autorefine.jobs.report_provenance import parameter_section, provenance_section
from napari_autorefine.jobs.report_refinement import footer
from napari_autorefine.jobs.report_sections import number_text, postprocess_pictures, value_tables

_CORRECTED, _MASKED, _RANDOM = "masked, corrected", "masked", "masked, phases randomised"
_LARGE_CORRECTION = 0.1


def record_beside(folder: Path, *names: str) -> JobRecord | None:
    """Return the record of the job that wrote a folder, the first of these names before any other."""
    paths = [folder / f"{name}_params.json" for name in names] + sorted(folder.glob("*_params.json"))
    return next((read_record(path) for path in paths if path.is_file()), None)


def postprocess_page(post: PostProcess) -> Page:
    """Return the page of a post-processing."""
    folder = post.path.parent
    program = program_of(post.comments)
    record = record_beside(folder, post.path.stem)
    resolution = number(post.general, "rlnFinalResolution", post.path)
    facts = [("Resolution", f"{resolution:.2f} Å")] if resolution > 0 else []
    b_factor = number(post.general, "rlnBfactorUsedForSharpening", post.path)
    if b_factor == b_factor:
        facts.append(("B-factor", f"{number_text(b_factor, 4)} Å²"))
    facts.append(("Pixel size", f"{post.curves.voxel_size_A:.4g} Å"))
    fsc = Section(
        title="Resolution", blocks=[*postprocess_pictures(post), *value_tables(post.curves, "post-processing")]
    )
    sections = (
        fsc,
        _maps(post),
        parameter_section(record, post.general, folder),
        provenance_section(record, program, folder, {"post-processing": post.path}),
    )
    return Page(
        title=f"Post-processing in {folder.resolve().name}",
        subtitle=" · ".join(part for part in (str(folder.resolve()), program[0]) if part),
        facts=facts,
        verdicts=_verdicts(post, resolution),
        sections=[section for section in sections if section is not None],
        footer=footer(),
    )


def _verdicts(post: PostProcess, resolution: float) -> list[Verdict]:
    made = []
    if resolution > 0:
        mask = post.general.get("rlnMaskName", "none")
        made.append(Verdict(level="good", headline=f"Resolution {resolution:.2f} Å.",
                            text=f"Where the FSC falls to 0.143, within the mask {mask}, corrected."))  # fmt: skip
        nyquist = 2 * post.curves.voxel_size_A
        if resolution < 1.06 * nyquist:
            text = f"It reaches the Nyquist limit of {nyquist:.2f} Å."
            made.append(Verdict(level="note", headline="The pixel size limits the resolution.", text=text))
    curves = post.curves.curves
    if _RANDOM in curves and _MASKED in curves:
        found = shell_resolution_A(curves[_MASKED], post.curves.voxel_size_A)
        shell = round(2 * (len(curves[_MASKED]) - 1) * post.curves.voxel_size_A / found)
        left = float(curves[_RANDOM][min(shell, len(curves[_RANDOM]) - 1)])
        if left > _LARGE_CORRECTION:
            text = f"At {found:.1f} Å random phases still correlate by {left:.2f}: make the mask wider or softer."
            made.append(Verdict(level="warning", headline="The mask is tight.", text=text))
    return made


def _maps(post: PostProcess) -> Section | None:
    path = sharpened_map(post)
    if path is None:
        return None
    volume = read_volume(path)
    blocks: list[Block] = [
        picture(
            map_figure(volume.data, title="Sharpened map"), alt="Sharpened map along z, y and x", caption=str(path)
        ),
        picture(slices_figure({"map": volume.data}, volume.voxel_size_A), alt="Central sections of the map"),
    ]
    return Section(title="Map", blocks=blocks)


def extraction_page(path: Path, particles: Columns, optics: Columns | None) -> Page:
    """Return the page of extracted particles."""
    folder = path.parent
    if len(particles) == 0:
        raise InputError(f"{path} holds no particles; there is nothing to report.")
    record = record_beside(folder, path.stem)
    program = ("", "") if record is None else (f"napari-autorefine {record.version}", record.command)
    facts = [("Particles", f"{len(particles):,}".replace(",", "\u202f"))]
    if optics is not None and "rlnImagePixelSize" in optics and len(optics):
        sizes = sorted({f"{size:.4g}" for size in optics.numbers("rlnImagePixelSize")})
        facts.append(("Pixel size", f"{', '.join(sizes)} Å"))
    if "rlnMicrographName" in particles:
        facts.append(("Micrographs", str(len(set(particles.texts("rlnMicrographName"))))))
    sections = (
        extraction_section(particles, optics),
        parameter_section(record, {}, folder),
        provenance_section(record, program, folder, {"particles": path}),
    )
    return Page(
        title=f"Particles in {folder.resolve().name}",
        subtitle=str(folder.resolve()),
        facts=facts,
        sections=[section for section in sections if section is not None],
        footer=footer(),
    )
