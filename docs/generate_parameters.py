"""Write docs/parameters.md, the tables of all options, from the parameter classes of the jobs.

    python docs/generate_parameters.py

A test compares the committed page with ``page()``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from napari_autorefine.jobs import JOBS, Job
from napari_autorefine.params import FieldRecord, ForeignOption, describe

PAGE = Path(__file__).with_name("parameters.md")

_INTRODUCTION = """\
# Options of every job

This page is made from the parameter classes by `docs/generate_parameters.py`; change those, not this page.

Options are accepted with dashes or underscores. The second name of an option, where there is one, is its name in Python
(`RefineParams(particle_diameter_A=200)`); both names work on the command line. An option that is on by default is
switched off with `--no_` before its name. What is read as a line for RELION is explained in [refine.md](refine.md).
"""


def page() -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION, *(_job_section(job) for job in JOBS.values())]
    return "\n".join(parts)


def _job_section(job: Job) -> str:
    records = describe(job.params())
    has_relion = bool(job.foreign_options())
    lines = [f"## autorefine {job.name}", "", f"{job.title}.", ""]
    for group in dict.fromkeys(record.param.group for record in records):
        members = [record for record in records if record.param.group == group]
        lines += [f"### {job.name}: {group}", ""] if group != "Main" else []
        lines += [*_table(members, job.positional, has_relion=has_relion), ""]
    if has_relion:
        lines += _foreign_section(job)
    return "\n".join(lines)


def _table(records: list[FieldRecord], positional: str, *, has_relion: bool) -> list[str]:
    heads = ["option", "meaning", "default", *(["in a line for RELION"] if has_relion else [])]
    rows = [_row(record, positional, has_relion=has_relion) for record in records]
    return [_line(heads), "|---" * len(heads) + "|", *map(_line, rows)]


def _row(record: FieldRecord, positional: str, *, has_relion: bool) -> list[str]:
    names = [f"`{record.name}`"] if record.name == positional else [f"`--{flag}`" for flag in record.flags]
    param = record.param
    meaning = f"{param.help} [{param.unit.replace('A', 'Å')}]" if param.unit else param.help
    row = [", ".join(names), meaning, _value(record.default)]
    if has_relion:
        row.append("" if record.relion_default == record.default else _value(record.relion_default))
    return row


def _value(value: Any) -> str:
    if value is None or value in ("", ()):
        return "–"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else f"{value}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _foreign_section(job: Job) -> list[str]:
    options = job.foreign_options()
    own = {flag for record in describe(job.params()) for flag in record.flags}
    accepted = {name: option for name, option in options.items() if not option.is_refused and name not in own}
    refused = {name: option for name, option in options.items() if option.is_refused and name not in own}
    return [
        f"### {job.name}: options of {job.relion_program} that are accepted without effect",
        "",
        "One line says so when the job starts.",
        "",
        _line(["option", "why"]),
        "|---|---|",
        *(_line([_foreign_name(name, option), option.reason]) for name, option in accepted.items()),
        "",
        f"### {job.name}: options of {job.relion_program} that are refused",
        "",
        "They would change the result, so the job ends; with the values in the last column they are accepted.",
        "",
        _line(["option", "why", "accepted as"]),
        "|---|---|---|",
        *(
            _line([_foreign_name(name, option), option.reason, ", ".join(f"`{v}`" for v in option.harmless if v)])
            for name, option in refused.items()
        ),
        "",
    ]


def _foreign_name(name: str, option: ForeignOption) -> str:
    return f"`--{name}`" + " X" * option.n_value


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
