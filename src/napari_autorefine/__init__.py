"""RELION-like 3D auto-refinement of cryo-EM maps."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_autorefine.errors import InputError as InputError
    from napari_autorefine.jobs.refine import RefineParams as RefineParams
    from napari_autorefine.jobs.refine import refine as refine
    from napari_autorefine.model.particles import Particles as Particles
    from napari_autorefine.model.volume import Volume as Volume

__version__ = "0.1.0"

_HOMES = {
    "InputError": "napari_autorefine.errors",
    "Particles": "napari_autorefine.model.particles",
    "RefineParams": "napari_autorefine.jobs.refine",
    "Volume": "napari_autorefine.model.volume",
    "refine": "napari_autorefine.jobs.refine",
}
__all__ = ["InputError", "Particles", "RefineParams", "Volume", "__version__", "refine"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that importing the package stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
