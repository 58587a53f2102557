"""Command line: one sub-command per job, its options made from the job's parameter class."""

from __future__ import annotations

import argparse
import difflib
import gc
import io
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from pydantic import BaseModel

from napari_autorefine import __version__
from napari_autorefine.errors import InputError
from napari_autorefine.jobs import JOBS, Job
from napari_autorefine.jobs.failures import failure_text
from napari_autorefine.params import FieldRecord, ForeignOption, describe, make_params
from napari_autorefine.terminal import show

_RELION_MARKS = ("auto_refine", "split_random_halves", "extract", "center", "theme", "pipeline_control")
_FOREIGN = "foreign:"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit status: 0 done, 2 unusable input, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a log in another encoding must not end a run
    try:
        with _termination_as_interruption():
            return _run(words)
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt as stop:
        return _fail(" ".join(["Interrupted.", *map(str, stop.args)]), 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away: nobody to tell
        return 1
    except (OSError, MemoryError) as error:
        return _fail(failure_text(error), 2)


@contextmanager
def _termination_as_interruption() -> Iterator[None]:
    """Let a queue's or the system's request to end clean up as Ctrl-C does: temporary files, copies on scratch."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"autorefine: {text}\n")
    return status


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0 if words else 2
    if words[0] == "--version":
        sys.stdout.write(f"napari-autorefine {__version__}\n")
        return 0
    job = JOBS.get(words[0])
    if job is None:
        close = difflib.get_close_matches(words[0], JOBS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(f"There is no job {words[0]!r}{hint}; the jobs are {', '.join(JOBS)}.")
    if any(word in ("-h", "--help") for word in words[1:]):
        sys.stdout.write(make_parser(job).format_help())
        return 0
    params, notices = parse(job, words[1:])
    for notice in notices:
        sys.stderr.write(f"Note: {notice}\n")
    with _uncollected():
        function = job.function()
    show(function(params))
    return 0


@contextmanager
def _uncollected() -> Iterator[None]:
    """Import without garbage collection: what modules make stays, so that looking for garbage there is lost time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def overview() -> str:
    """Return the help text of the program itself."""
    width = max(map(len, JOBS))
    jobs = "\n".join(f"  {job.name:<{width}}  {job.title}" for job in JOBS.values())
    return f"usage: autorefine JOB [options]\n\n{jobs}\n\nOptions of a job: autorefine JOB --help\n"


class _Parser(argparse.ArgumentParser):
    """Parser whose errors are InputErrors."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[0].upper()}{message[1:]}; see {self.prog} --help.")


def parse(job: Job, words: Sequence[str]) -> tuple[BaseModel, list[str]]:
    """Return the parameters of a command line, and what the user should know about how it was read.

    A line that holds one of ``_RELION_MARKS`` was made for RELION: options that it lacks then have the value they have
    in RELION's program. Otherwise they have this package's defaults.
    """
    found, rest = make_parser(job).parse_known_args(_positional_first(job, [_plain(word) for word in words]))
    if rest:
        raise InputError(_unknown(job, rest))
    given = vars(found)
    foreign = {name.removeprefix(_FOREIGN): given.pop(name) for name in list(given) if name.startswith(_FOREIGN)}
    notices = _judge_foreign(job.foreign_options(), foreign)
    records = describe(job.params())
    if any(mark in foreign for mark in _RELION_MARKS):
        given = {r.name: r.relion_default for r in records if r.relion_default != r.default} | given
        notices.append(_relion_notice(records, given))
    return make_params(job.params(), given), notices


def _positional_first(job: Job, words: list[str]) -> list[str]:
    """Move the values of a flag of the positional parameter to the front, where they need no flag."""
    flags = {f"--{flag}" for record in describe(job.params()) if record.name == job.positional for flag in record.flags}
    first, rest, is_positional = [], [], False
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            is_positional = name in flags
        if not is_positional:
            rest.append(word)
        elif name not in flags:
            first.append(word)
        elif equals:
            first.append(value)
    return first + rest


def make_parser(job: Job) -> argparse.ArgumentParser:
    """Return the parser of one job, with its options in groups and RELION's other options hidden."""
    parser = _Parser(
        prog=f"autorefine {job.name}",
        description=job.title + ".",
        epilog="Options are accepted with dashes or underscores.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=110),
    )
    groups: dict[str, Any] = {}
    taken: set[str] = set()
    for record in describe(job.params()):
        heading = record.param.group
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        _add_option(groups[heading], record, is_positional=record.name == job.positional)
        taken.update(record.flags)
    for name, option in job.foreign_options().items():
        nargs: Any = {"action": "store_true"} if option.n_value == 0 else {"nargs": option.n_value}
        if name not in taken:
            parser.add_argument(f"--{name}", dest=_FOREIGN + name, help=argparse.SUPPRESS, **nargs)
    return parser


def _add_option(group: Any, record: FieldRecord, *, is_positional: bool) -> None:
    text = _help(record)
    if is_positional:
        group.add_argument(record.name, nargs="+" if record.is_sequence else None, help=text)
        return
    names = [f"--{flag}" for flag in record.flags]
    if record.base_type is bool:
        group.add_argument(*names, dest=record.name, action="store_true", help=text)
        off = [f"--no_{flag}" for flag in record.flags] + [f"--{flag}" for flag in record.param.off_flags]
        group.add_argument(
            *dict.fromkeys(off),
            dest=record.name,
            action="store_false",
            help=argparse.SUPPRESS if not record.default else "Switch it off.",
        )
        return
    extra: dict[str, Any] = {"metavar": _metavar(record)}
    if record.is_sequence:
        extra["nargs"] = "+"
    elif record.param.bare_value is not None:
        extra |= {"nargs": "?", "const": record.param.bare_value}
    group.add_argument(*names, dest=record.name, help=text, **extra)


def _help(record: FieldRecord) -> str:
    unit = f" [{record.param.unit}]" if record.param.unit else ""
    if record.is_required or record.default in (None, "", ()):
        default = ""
    elif record.base_type is bool:
        default = " (default: on)" if record.default else ""
    else:
        default = f" (default: {record.default})"
    return (_name_first(record.param.label, record.param.help) + unit + default).replace("%", "%%")


def _name_first(label: str, text: str) -> str:
    """Return the name of the field in the window and the sentence on it, which goes on from that name."""
    if text.lower().startswith(label.lower().rstrip("?")):
        return text
    return f"{label}{'' if label.endswith('?') else '.'} {text}"


def _metavar(record: FieldRecord) -> str:
    if record.choices:
        return "{" + ",".join(str(choice) for choice in record.choices) + "}"
    if record.param.file_kind:
        return "FOLDER" if record.param.file_kind == "folder" else "FILE"
    return {int: "N", float: "X"}.get(record.base_type, "TEXT")


def _plain(word: str) -> str:
    """Return a long option with underscores for dashes in its name; anything else as it is."""
    if not word.startswith("--") or word == "--":
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _unknown(job: Job, rest: Sequence[str]) -> str:
    """Return one sentence about words that no option explains."""
    word = rest[0]
    if not word.startswith("--"):
        return f"{word!r} belongs to no option of autorefine {job.name}; see autorefine {job.name} --help."
    known = [flag for record in describe(job.params()) for flag in record.flags] + list(job.foreign_options())
    close = difflib.get_close_matches(word[2:], known, 1)
    hint = f"did you mean --{close[0]}?" if close else f"see autorefine {job.name} --help."
    return f"{word} is not an option of autorefine {job.name}; {hint}"


def _judge_foreign(known: Mapping[str, ForeignOption], given: Mapping[str, Any]) -> list[str]:
    """Return one line for each of RELION's options that is ignored; refuse those that would change the run."""
    notices = []
    for name, values in given.items():
        option = known[name]
        text = " ".join(values) if isinstance(values, list) else ""
        if option.is_refused and not (option.n_value and text in option.harmless):
            raise InputError(f"--{name}: {option.reason}; run it with RELION, or leave the option out.")
        reason = "it asks for what is done anyway" if option.is_refused else option.reason
        notices.append(f"{' '.join(['--' + name, text]).strip()} is without effect: {reason}.")
    return notices


def _relion_notice(records: Sequence[FieldRecord], values: Mapping[str, Any]) -> str:
    """Return one sentence on what a line made for RELION leaves switched off."""
    off = [r.flags[0] for r in records if r.base_type is bool and r.default is True and values.get(r.name) is False]
    ending = f" Off here: {', '.join(off)}." if off else ""
    return f"the line was made for RELION, so options it lacks have RELION's own defaults.{ending}"
