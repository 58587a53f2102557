"""What a job tells the world: frozen values yielded by job generators; listeners only read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Work done inside one stage.

    ``seconds_left`` of the stage, or of the iteration where there is one; ``forecast`` says in words what is to be
    expected of iteration and run, in time and memory; empty where nothing is known.
    """

    stage: str
    done: int
    total: int
    iteration: int | None = None
    seconds_left: float | None = None
    forecast: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One sentence for the user."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationDone:
    """Everything a viewer or a log shows after one iteration.

    ``half_maps`` are (n_z, n_y, n_x) float32 maps of half 1 and half 2 (regularised, solvent-flattened;
    unfiltered in the last iteration); ``joined_map`` is the final map and only set in the last iteration.
    """

    iteration: int
    is_final: bool
    half_maps: tuple[np.ndarray, np.ndarray]
    joined_map: np.ndarray | None
    voxel_size_A: float
    fsc: np.ndarray
    resolution_A: float
    accuracy_rot_deg: float
    accuracy_trans_A: float
    angular_step_deg: float
    offset_step_A: float
    offset_range_A: float
    healpix_order: int
    is_local: bool
    change_rot_deg: float
    change_trans_A: float
    mean_p_max: float
    current_size: int
    seconds: float
    summary: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Last event of a job: what it made."""

    text: str
    outputs: dict[str, str] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


Event = Progress | Message | IterationDone | Finished


def duration(seconds: float) -> str:
    """Return a time span in words short enough for a progress line."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"
