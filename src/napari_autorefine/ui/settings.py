"""The user's choices in napari's preferences, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from napari.settings import get_plugin_settings

PLUGIN = "napari-autorefine"
Backend = Literal["auto", "gpu", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Values of the manifest's ``configurations``; the defaults here are those of the manifest.

    Attributes
    ----------
    match_chimerax : show maps as ChimeraX does: x to the right, y up, z towards the viewer
    tell_orientation : say so when the view is turned the first time
    backend : ``auto`` takes a GPU when there is one
    gpu_ids : RELION's notation, ``0:1``; empty for all
    threads : CPU threads; 0 for all cores
    scratch_dir : folder for copies of the particles; empty for none
    in_window : jobs run in a thread of napari instead of a process of their own
    """

    match_chimerax: bool = True
    tell_orientation: bool = True
    backend: Backend = "auto"
    gpu_ids: str = ""
    threads: int = 0
    scratch_dir: str = ""
    in_window: bool = False


def read_settings() -> Settings:
    """Return the user's settings, the defaults where the plugin is not registered with napari (scripts, tests)."""
    try:
        groups = get_plugin_settings(PLUGIN)
    except KeyError:
        return Settings()
    view, compute = groups.view, groups.compute
    backend = str(_value(compute.backend))
    return Settings(
        match_chimerax=bool(view.match_chimerax),
        tell_orientation=bool(view.tell_orientation),
        backend=next((known for known in get_args(Backend) if known == backend), "auto"),
        gpu_ids=str(compute.gpu_ids),
        threads=int(compute.threads),
        scratch_dir=str(compute.scratch_dir),
        in_window=bool(compute.in_window),
    )


def _value(choice: Any) -> Any:
    """Return what an enumerated setting stands for."""
    return getattr(choice, "value", choice)


def orientation_was_told() -> None:
    """Remember that the user knows of the orientation; nothing where the plugin is not registered."""
    try:
        get_plugin_settings(PLUGIN).view.tell_orientation = False
    except KeyError:
        return
