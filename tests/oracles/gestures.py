"""Keys and mouse drags, told to a viewer's callbacks as napari tells them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


def press(viewer: Any, *keys: str) -> None:
    """Press keys with the canvas in focus."""
    from napari.utils.key_bindings import KeymapHandler

    handler = KeymapHandler()
    handler.keymap_providers = [viewer]
    for key in keys:
        handler.press_key(key)


def drag(viewer: Any, start: Any, end: Any, *, direction: Any = None, shift: bool = False) -> None:
    """Press, move in steps, release, as napari tells it to callbacks."""
    from napari.utils.interactions import mouse_move_callbacks, mouse_press_callbacks, mouse_release_callbacks

    start, end = np.array(start, float), np.array(end, float)
    for part, run, kind in (
        (0.0, mouse_press_callbacks, "mouse_press"),
        (0.5, mouse_move_callbacks, "mouse_move"),
        (1.0, mouse_move_callbacks, "mouse_move"),
        (1.0, mouse_release_callbacks, "mouse_release"),
    ):
        if kind == "mouse_move" and (start == end).all():
            continue
        event = SimpleNamespace(
            type=kind,
            button=1,
            modifiers=("Shift",) if shift else (),
            pos=tuple((start + part * (end - start))[-2:]),
            position=tuple(start + part * (end - start)),
            view_direction=direction,
            dims_displayed=list(viewer.dims.displayed),
            is_dragging=kind == "mouse_move",
            handled=False,
        )
        if kind == "mouse_press":
            persisted = SimpleNamespace(**vars(event))
            run(viewer, Wrapped(persisted))
        else:
            run(viewer, Wrapped(event))


class Wrapped:
    """Stands for napari's read-only event, whose content is exchanged while a button is held."""

    def __init__(self, event: Any) -> None:
        object.__setattr__(self, "__wrapped__", event)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "__wrapped__"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__wrapped__":
            object.__setattr__(self, name, value)
        else:
            setattr(object.__getattribute__(self, "__wrapped__"), name, value)
