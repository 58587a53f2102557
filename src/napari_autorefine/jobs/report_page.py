"""One self-contained page of HTML: sentences, figures, tables; light and dark, on screen and on paper."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from napari_autorefine.io.files import printable, replacing
from napari_autorefine.jobs.report_style import STYLE

Level = Literal["good", "note", "warning"]
Width = Literal["full", "half"]
_SIGNS: dict[Level, tuple[str, str]] = {"good": ("✓", "fine"), "note": ("i", "note"), "warning": ("!", "look here")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One plain sentence at the top of a page: ``headline`` in bold, ``text`` after it."""

    level: Level
    headline: str
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A figure: ``image`` is the text of an SVG or the bytes of a PNG; ``alt`` says what is seen, for those who cannot.

    See ``jobs.plots.picture`` for making one from a matplotlib figure.
    """

    image: str | bytes
    alt: str
    caption: str = ""
    width: Width = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of texts under ``columns`` (empty: no head). A folded table shows only its title until it is opened."""

    rows: Sequence[Sequence[str]]
    columns: Sequence[str] = ()
    title: str = ""
    is_folded: bool = False


Block = Text | Picture | Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands below it, in order."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Name of the section in links of the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """All of a page; ``facts`` are the few figures shown large, (name, value)."""

    title: str
    subtitle: str = ""
    facts: Sequence[tuple[str, str]] = ()
    verdicts: Sequence[Verdict] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""


def write_page(path: str | Path, page: Page) -> str:
    """Write a page under a temporary name, rename it, and return its path."""
    text = page_html(page)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return str(path)


def page_html(page: Page) -> str:
    """Return the HTML of a page; it refers to nothing outside itself."""
    links = "".join(f'<a href="#{section.anchor}">{_text(section.title)}</a>' for section in page.sections)
    parts = [
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(page.title)}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta name="color-scheme" content="light dark">\n<style>{STYLE}</style>\n</head>\n<body>\n<main>',
        f"<header><h1>{_text(page.title)}</h1><p>{_text(page.subtitle)}</p></header>",
        _facts(page.facts),
        _verdicts(page.verdicts),
        f"<nav>{links}</nav>" if links else "",
        *(_section(section, number) for number, section in enumerate(page.sections)),
        f"<footer>{_text(page.footer)}</footer>",
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _text(text: str) -> str:
    return html.escape(printable(text))


def _sentence(text: str) -> str:
    """Escape a text, with options of the command line as code."""
    return re.sub(r"(?<![\w-])--\w[\w-]*", r"<code>\g<0></code>", _text(text))


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    tiles = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{tiles}</dl>' if tiles else ""


def _verdicts(verdicts: Iterable[Verdict]) -> str:
    items = []
    for verdict in verdicts:
        sign, word = _SIGNS[verdict.level]
        text = f" {_sentence(verdict.text)}" if verdict.text else ""
        mark = f'<span class="sign" role="img" aria-label="{word}">{sign}</span>'
        items.append(f'<li class="{verdict.level}">{mark}<p><b>{_text(verdict.headline)}</b>{text}</p></li>')
    return f'<ul class="verdicts">{"".join(items)}</ul>' if items else ""


def _section(section: Section, number: int) -> str:
    """Return a section; pictures that follow each other share a grid."""
    parts = [f'<section id="{section.anchor}">\n<h2>{_text(section.title)}</h2>']
    is_open = False
    for index, block in enumerate(section.blocks):
        is_picture = isinstance(block, Picture)
        if is_picture != is_open:
            parts.append('<div class="figures">' if is_picture else "</div>")
            is_open = is_picture
        parts.append(_block(block, f"f{number}-{index}"))
    return "\n".join([*parts, "</div>\n</section>" if is_open else "</section>"])


def _block(block: Block, name: str) -> str:
    if isinstance(block, Text):
        return f"<p>{_sentence(block.text)}</p>"
    if isinstance(block, Picture):
        caption = f"<figcaption>{_text(block.caption)}</figcaption>" if block.caption else ""
        return f'<figure class="{block.width}">{_image(block, name)}{caption}</figure>'
    return _table(block)


def _image(picture: Picture, name: str) -> str:
    alt = html.escape(printable(picture.alt), quote=True)
    if isinstance(picture.image, bytes):
        data = base64.b64encode(picture.image).decode("ascii")
        return f'<img src="data:image/png;base64,{data}" alt="{alt}">'
    inline = picture.image[picture.image.index("<svg") :]
    inline = re.sub(r"<metadata>.*?</metadata>\s*", "", inline, flags=re.DOTALL)
    inline = (
        re.sub(r'\s(xmlns(:\w+)?|version|width|height)="[^"]*"', "", inline.split(">", 1)[0])
        + ">"
        + (inline.split(">", 1)[1])
    )
    inline = re.sub(r'(\bid="|"#|url\(#)', rf"\g<1>{name}-", inline)  # one name space for all figures of a page
    return inline.replace("<svg", f'<svg role="img" aria-label="{alt}"', 1).strip()


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "\n".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in table.rows)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    title = _text(table.title)
    if table.is_folded:
        body = f'<div class="wide"><table>{head}<tbody>\n{rows}\n</tbody></table></div>'
        return f"<details><summary>{title}</summary>{body}</details>"
    caption = f"<caption>{title}</caption>" if title else ""
    return f'<div class="wide"><table>{caption}{head}<tbody>\n{rows}\n</tbody></table></div>'


_NUMBER = re.compile(r"[-−+]?[\d.,\u202f]+([eE][-+]?\d+)?(\s?(%|°|Å|px|nm|s|kB|MB))?$|–$")


def _cell(value: str) -> str:
    kind = ' class="number"' if _NUMBER.match(value) else ""
    return f"<td{kind}>{_text(value)}</td>"
