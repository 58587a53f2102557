"""Links, command lines, options and code of the documentation are those of the package."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from conftest import ParticleSet

from napari_autorefine.cli import parse
from napari_autorefine.io.star import read_star
from napari_autorefine.jobs import JOBS
from napari_autorefine.params import describe

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WIDGETS = DOCS / "widgets"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")), *sorted(WIDGETS.glob("*.md"))]
HAND_WRITTEN = [page for page in PAGES if page.name != "parameters.md" and page.parent != WIDGETS]
# What an ellipsis in a command line stands for.
REQUIRED = {"refine": ["--i", "particles.star", "--ref", "map.mrc", "--o", "run"]}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return f"{page.parent.name}/{page.name}" if page.parent == WIDGETS else page.name


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of every fenced block."""
    return [(found[1], found[2]) for found in FENCE.finditer(page.read_text(encoding="utf-8"))]


def command_lines(page: Path) -> list[str]:
    """Every line of the page that starts ``autorefine``, in blocks and in running text."""
    text = "\n".join(content for language, content in blocks(page) if language != "python").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("autorefine ")]
    return lines + re.findall(r"`(autorefine [^`]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    """Names that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), target
        assert not anchor or anchor in anchors(goal), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_of_the_repository_that_are_named_exist(page: Path) -> None:
    for path in re.findall(r"`((?:docs|tests|benchmarks|src)/[\w./]+)`", prose(page)):
        assert (ROOT / path).exists(), path


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    missing = [page.name for page in DOCS.glob("*.md") if page.name != "index.md" and f"({page.name})" not in index]
    assert not missing, "link these pages from docs/index.md"


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_command_lines_are_understood(page: Path) -> None:
    for line in command_lines(page):
        _, name, *words = shlex.split(line.partition(" #")[0])
        assert name in JOBS or name.startswith("-"), line
        if name in JOBS and words and words != ["--help"]:
            given = [word for word in words if word != "…"]
            parse(JOBS[name], REQUIRED.get(name, []) + given if "…" in words else given)


def test_command_lines_are_found() -> None:
    assert len(command_lines(DOCS / "refine.md")) >= 5


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=name_of)
def test_options_in_running_text_exist(page: Path) -> None:
    known = {"help", "version"}
    for job in JOBS.values():
        known |= set(job.foreign_options())
        for record in describe(job.params()):
            known |= {*record.flags, *record.param.off_flags, *(f"no_{flag}" for flag in record.flags)}
    named = re.findall(r"`--([a-zA-Z]\w*)", re.sub(r"(?<=\w)-(?=\w)", "_", prose(page)))
    assert set(named) <= known


def test_the_page_of_options_is_up_to_date() -> None:
    made = runpy.run_path(str(DOCS / "generate_parameters.py"))["page"]()
    assert (DOCS / "parameters.md").read_text(encoding="utf-8") == made, "run python docs/generate_parameters.py"


def test_pages_of_forms_are_up_to_date_and_linked() -> None:
    made = runpy.run_path(str(DOCS / "generate_widgets.py"))["pages"]()
    committed = {page.name: page.read_text(encoding="utf-8") for page in WIDGETS.glob("*.md")}
    assert committed == made, "run python docs/generate_widgets.py"
    window = (DOCS / "window.md").read_text(encoding="utf-8")
    assert {name for name in made if f"(widgets/{name})" not in window} == set()


def test_pictures_are_shown_somewhere_and_small() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (DOCS / "images").glob("*.png"):
        assert f"images/{picture.name})" in text, picture.name
        assert picture.stat().st_size <= 300_000, picture.name


def test_poor_particles_are_left_out_as_described(
    particle_set: ParticleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = (content for language, content in blocks(DOCS / "refine.md") if language == "python")
    table = read_star(particle_set.star)
    particles = table.tables["particles"]
    assert not isinstance(particles, dict)
    rows = len(particles)
    column = "_autorefineIntensity #7\n"
    text = particle_set.star.read_text().replace("_rlnDefocusAngle #6\n", "_rlnDefocusAngle #6\n" + column)
    lines = [f"{line} {0.1 if '000002@' in line else 1.1}" if "@" in line else line for line in text.splitlines()]
    (tmp_path / "run_data.star").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "refine.md", "exec"), {})
    kept = read_star(tmp_path / "run_data_good.star").tables["particles"]
    assert len(kept) == rows - 2
