"""Write docs/widgets: a page for the form of every job in the window, from the parameter classes and the manifest.

    python docs/generate_widgets.py

A test compares the committed pages with ``pages()``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from napari_autorefine.jobs import JOBS
from napari_autorefine.params import FieldRecord, describe
from napari_autorefine.ui.presentation import NOTES, label_of, look_of, tabs_of, unit_of

DOCS = Path(__file__).parent
FOLDER = DOCS / "widgets"
MANIFEST = DOCS.parent / "napari.yaml"

_MADE = "This page is made from the parameter definitions by `docs/generate_widgets.py`; change those, not this page."
_HEADS = ("field", "meaning", "at first", "option")
_BY_HAND = {
    "recenter": {"center_x_px", "center_y_px", "center_z_px", "center_A", "mask", "map", "apply"},
}
"""Parameters that have something better than a field in the window."""
_REMARKS = {
    "recenter": "The centre has no fields: map and mask are chosen among the open layers and moved onto each other in "
    "the viewer, by mouse, keys, numbers, picked points or by **Suggest**. [How](../recenter_by_hand.md)."
    " **Run** is called **Apply** here.",
}


def pages() -> dict[str, str]:
    """Return the pages by the name of their files."""
    return {f"{job}.md": _page(job, *titles) for job, titles in _docks().items()}


def _docks() -> dict[str, tuple[str, str]]:
    """Return name of the dock and title in the command palette of every job that has a dock."""
    contributions = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))["contributions"]
    titles = {command["id"]: command["title"] for command in contributions["commands"]}
    begin = "napari-autorefine.open_"
    docks = {widget["command"]: widget["display_name"] for widget in contributions["widgets"]}
    return {
        command.removeprefix(begin): (name, titles[command])
        for command, name in docks.items()
        if command.removeprefix(begin) in JOBS
    }


def _page(job: str, name: str, title: str) -> str:
    records = [record for record in describe(JOBS[job].params()) if record.name not in _BY_HAND.get(job, ())]
    lines = [f"# {name}", "", _MADE, "", f"{JOBS[job].title}. {_ways(job, name, title)}", ""]
    if job in _REMARKS:
        lines += [_REMARKS[job], ""]
    for group in tabs_of(records):
        mine = [record for record in records if record.param.group == group]
        plain = [record for record in mine if not record.param.is_advanced] or mine
        folded = [record for record in mine if record not in plain]
        lines += [f"## {group}", "", *_table(job, plain), ""]
        if folded:
            lines += ["Under **More options**:", "", *_table(job, folded), ""]
        if (job, group) in NOTES:
            lines += [NOTES[job, group], ""]
    return "\n".join(lines)


def _ways(job: str, name: str, title: str) -> str:
    guide = f"; [more on the job](../{job}.md)" if (DOCS / f"{job}.md").is_file() else ""
    return (
        f"Plugins > Auto-refine > {name}, or *{title}* in the command palette. The same on the command line is"
        f" `autorefine {job}`{guide}. What all forms have in common is on [the window's page](../window.md)."
    )


def _table(job: str, records: list[FieldRecord]) -> list[str]:
    rows = [_row(job, record) for record in records]
    return [_line(_HEADS), "|---" * len(_HEADS) + "|", *map(_line, rows)]


def _row(job: str, record: FieldRecord) -> tuple[str, ...]:
    unit = unit_of(record)
    label = label_of(job, record) + (f" [{unit}]" if unit else "")
    meaning = look_of(job, record).help or record.param.help
    return label, meaning, _shown(job, record), f"`--{record.flags[0]}`"


def _shown(job: str, record: FieldRecord) -> str:
    """Return what stands in the field of a new form."""
    look, default = look_of(job, record), record.default
    if look.check is not None:
        return "yes" if default == look.check[1] else "no"
    if record.name == "output":
        return "the next free job"
    if record.param.file_kind:
        return f"*{look.empty}*" if look.empty else "–"
    if record.base_type is bool and not record.is_optional and not record.is_sequence:
        return "yes" if default else "no"
    if look.choices:
        return next((text for text, value in look.choices.items() if value == default), "–")
    if default in (None, "", ()) or default == look.blank:
        return f"*{look.empty}*" if look.empty else ("–" if record.base_type is str else "*auto*")
    return _number(default)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for old in FOLDER.glob("*.md"):
        if old.name not in made:
            old.unlink()
    for file_name, text in made.items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
