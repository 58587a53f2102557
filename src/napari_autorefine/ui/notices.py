"""What the user is told: one sentence in napari's notifications."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from napari.utils.notifications import show_error, show_info, show_warning

from napari_autorefine.errors import InputError

__all__ = ["NO_LAYERS", "show_error", "show_info", "show_warning", "told_not_raised"]

NO_LAYERS: list[Any] = [(None,)]
"""What a napari reader returns when it has dealt with a path and adds no layer."""

P = ParamSpec("P")


def shortened(sentence: str, *paths: object) -> str:
    """Return a sentence with the names of these files instead of their paths: a notification begins in one line."""
    for path in paths:
        if isinstance(path, Path):
            sentence = sentence.replace(str(path), path.name)
    return sentence


def told_not_raised(function: Callable[P, Sequence[Any]]) -> Callable[P, list[Any]]:
    """Make a reader tell an ``InputError`` as an error notification instead of raising it.

    napari answers an exception of a reader with a dialog about plugins and a traceback; the sentence is all that helps.
    """

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> list[Any]:
        try:
            return list(function(*args, **kwargs))
        except InputError as error:
            show_error(shortened(str(error), *args))
            return list(NO_LAYERS)

    return told
