"""One page of HTML on what a job made: plots, pictures and plain sentences on a refinement, ours or RELION's."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.tables import read_star
from napari_autorefine.jobs.record import check_free
from napari_autorefine.jobs.report_data import Run
from napari_autorefine.jobs.report_jobs import extraction_page, postprocess_page
from napari_autorefine.jobs.report_maps import PostProcess, postprocess_file, read_postprocess
from napari_autorefine.jobs.report_page import Page, Section, Verdict, write_page
from napari_autorefine.jobs.report_read import RunFileList, read_particle_tables, read_run, runs_of
from napari_autorefine.jobs.report_refinement import examine, refinement_page
from napari_autorefine.params import JobParams, Param, command_line


class ReportParams(JobParams):
    """What a report is about and where it goes."""

    folder: Annotated[
        str,
        Param(
            "Job folder",
            "Folder of a refinement, ours or RELION's, finished or running; of a post-processing or an extraction.",
            "I/O",
            flags=("folder", "i"),
            file_kind="folder",
        ),
    ]
    output: Annotated[
        str | None,
        Param("Report", "HTML file; by default report.html in the folder.", "I/O", flags=("o",), file_kind="write"),
    ] = None
    run: Annotated[
        str,
        Param(
            "Run", "Name that the run's files start with, when the folder holds several; by default the newest.", "I/O"
        ),
    ] = ""
    mask: Annotated[
        str | None,
        Param(
            "Mask",
            "Mask for the FSC of the half-maps; by default the one of the run or of the post-processing.",
            "I/O",
            file_kind="read",
        ),
    ] = None
    postprocess: Annotated[
        str | None,
        Param("Post-processing", "Folder of a post-processing of this run, for its FSC and Guinier plot.", "I/O",
              file_kind="folder"),
    ] = None  # fmt: skip
    overwrite: Annotated[bool, Param("Overwrite", "Replace an earlier report.", "I/O")] = False


def report(params: ReportParams, *, extra: Sequence[Section] = (), verdicts: Sequence[Verdict] = ()) -> Iterator[Event]:
    """Write the report of a job folder.

    Parameters
    ----------
    params : folder and output
    extra : sections of the caller, put after those on particles
    verdicts : sentences of the caller, put first

    Raises
    ------
    InputError
        A folder that is missing or of no known job, a damaged file, or a report that exists.
    """
    folder, name = _place(params)
    output = folder / "report.html" if params.output is None else Path(params.output)
    if output.is_dir():
        raise InputError(f"--o {output} is a folder; give the name of the page too, as {output / 'report.html'}.")
    check_free(output, params.overwrite)
    post = _postprocess(params, folder)
    runs = runs_of(folder)
    if runs:
        files = _chosen(runs, name)
        others = ", ".join(one.prefix.name for one in runs if one is not files)
        if others and not name:
            text = f"{folder} holds several runs; this is {files.prefix.name}, the newest. Others by --run: {others}."
            yield Message(text=text, level="warning")
        page = yield from _refinement(files, params, post, extra=extra, verdicts=verdicts)
    else:
        page = yield from _other(folder, post, params)
    page = replace(page, footer=f"{page.footer} Command: {command_line('report', params)}")
    path = write_page(output, page)
    sentences = [f"{verdict.headline} {verdict.text}".strip() for verdict in page.verdicts]
    for sentence, verdict in zip(sentences, page.verdicts, strict=True):
        yield Message(text=sentence, level="warning" if verdict.level == "warning" else "info")
    yield Finished(text=f"{page.title}: {len(page.sections)} sections.", outputs={"report": path})


def _place(params: ReportParams) -> tuple[Path, str]:
    """Return folder and run from what was given: a folder, the prefix of a run, or one of its files."""
    path = Path(params.folder)
    if path.is_dir():
        return path, params.run
    known = {} if not path.parent.is_dir() else {one.prefix.name: one for one in runs_of(path.parent)}
    if path.name in known:
        return path.parent, path.name
    for name, run in known.items():
        if any(path.name == file.name for group in run.files.values() for file in group.values()):
            return path.parent, name
    if path.is_file():
        raise InputError(f"{path} is a file of no refinement; give the folder of a job.")
    raise InputError(f"Folder {path} does not exist; check the name and the folder the command is started in.")


def _chosen(runs: Sequence[RunFileList], name: str) -> RunFileList:
    if not name:
        return runs[0]
    for run in runs:
        if run.prefix.name == name:
            return run
    names = ", ".join(run.prefix.name for run in runs)
    raise InputError(f"{runs[0].prefix.parent} holds no run named {name}; it has {names}.")


def _postprocess(params: ReportParams, folder: Path) -> PostProcess | None:
    """Return the post-processing that was given, or the one whose files are in the folder."""
    if params.postprocess is None:
        path = postprocess_file(folder)
        return None if path is None else read_postprocess(path)
    given = Path(params.postprocess)
    path = given if given.is_file() else postprocess_file(given)
    if path is None:
        raise InputError(f"--postprocess {given} holds no postprocess.star; give the folder of a post-processing.")
    return read_postprocess(path)


def _refinement(
    files: RunFileList,
    params: ReportParams,
    post: PostProcess | None,
    *,
    extra: Sequence[Section],
    verdicts: Sequence[Verdict],
) -> Generator[Event, None, Page]:
    run: Run | None = None
    for item in read_run(files):
        if isinstance(item, Progress):
            yield item
        else:
            run = item
    assert run is not None
    yield Message(text=f"Drawing the report of {files.prefix}.")
    return refinement_page(examine(run, mask=params.mask, postprocess=post), extra=extra, verdicts=verdicts)


def _other(folder: Path, post: PostProcess | None, params: ReportParams) -> Generator[Event, None, Page]:
    """Return the page of a post-processing or of extracted particles."""
    for flag, value in (("--mask", params.mask), ("--run", params.run)):
        if value:
            yield Message(text=f"{flag} is only used for refinements and was ignored.", level="warning")
    if post is not None:
        yield Message(text=f"Drawing the report of {post.path}.")
        return postprocess_page(post)
    for path in (folder / "particles.star", *sorted(folder.glob("*.star"))):
        if path.is_file() and "particles" in read_star(path).tables:
            yield Message(text=f"Drawing the report of {path}.")
            particles, optics = read_particle_tables(path)
            return extraction_page(path, particles, optics)
    raise InputError(
        f"{folder} is not the folder of a job that can be reported: it has no ..._optimiser.star or ..._model.star"
        " (refinement), postprocess.star (post-processing) or particles.star (extraction)."
    )
