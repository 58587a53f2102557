"""A report of figures of merit and pictures, as Markdown and as one page of HTML."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_autorefine.io.files import replacing

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 62rem; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.3rem; }
table { border-collapse: collapse; margin: 1.2rem 0 2rem; }
td { padding: 0.3rem 1.6rem 0.3rem 0; border-bottom: 1px solid #e4e7eb; }
td:last-child { font-weight: 600; font-variant-numeric: tabular-nums; }
img { max-width: 100%; display: block; margin: 1.2rem 0; }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is reported; ``figures`` are paths of PNG files by name, shown in order."""

    title: str
    text: str
    summary: Mapping[str, str]
    figures: Mapping[str, str]


def write_report(prefix: Path, report: Report) -> dict[str, str]:
    """Write ``PREFIX.md`` and ``PREFIX.html`` beside the figures; return their paths by kind."""
    paths = {"report": f"{prefix}.html", "report_text": f"{prefix}.md"}
    pictures = {name: os.path.relpath(path, prefix.parent) for name, path in report.figures.items()}
    _write(paths["report"], _html(report, pictures))
    _write(paths["report_text"], _markdown(report, pictures))
    return paths


def _write(path: str, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _markdown(report: Report, pictures: Mapping[str, str]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in report.summary.items())
    images = "\n\n".join(f"![{name}]({path})" for name, path in pictures.items())
    return f"# {report.title}\n\n{report.text}\n\n| | |\n|---|---|\n{rows}\n\n{images}\n"


def _html(report: Report, pictures: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>\n"
        for name, value in report.summary.items()
    )
    images = "".join(f'<img src="{html.escape(path)}" alt="{html.escape(name)}">\n' for name, path in pictures.items())
    title = html.escape(report.title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n<p>{html.escape(report.text)}</p>\n"
        f"<table>\n{rows}</table>\n{images}</body></html>\n"
    )
