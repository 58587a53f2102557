"""What travels between the process that refines and those that search for it: plain values."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from napari_autorefine.engine.block import BlockResult
from napari_autorefine.engine.half_job import IterationPlan
from napari_autorefine.engine.reconstruction import Accumulators
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.state import HalfModel, Poses, Sampling

Key = tuple[int, int]
"""Iteration and half-set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a process says of itself.

    Attributes
    ----------
    version, python : of this package, None where it is not installed, and of Python
    source : check sum of its files
    libraries : versions of what decides the last digits
    threads : tasks that dask gives it at once, taken as CPU threads
    memory_bytes : what it may use: its limit, or what is free on its computer (then ``is_shared``)
    gpus : devices it can use
    """

    version: str | None
    source: int
    python: str
    libraries: dict[str, str]
    host: str
    pid: int
    threads: int
    memory_bytes: int
    is_shared: bool
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """What one process may use while it works for a run.

    Attributes
    ----------
    session : names the process's part in the run
    threads : CPU threads
    devices : GPUs; empty for the CPU
    cache_bytes : images are kept in memory up to this
    memory_bytes : see ``RefineOptions``
    """

    session: str
    threads: int
    devices: tuple[int, ...]
    cache_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What both half-sets share in an iteration."""

    plan: IterationPlan
    sampling: Sampling
    poses: Poses


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Blocks of particles that are handed out together, of one half-set and optics group, in their fixed order."""

    number: int
    particles: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResult:
    """What a process sends back for a chunk; the images are in its own Fourier volume.

    Attributes
    ----------
    seconds : time spent searching
    notes : texts and levels of messages
    """

    number: int
    results: tuple[BlockResult, ...]
    seconds: float
    notes: tuple[tuple[str, str], ...] = ()


class SessionLost(Exception):
    """A process no longer knows what it was asked about: it is a new one under an old address."""


class CannotRead(Exception):
    """A process cannot read the images."""


def lean_setup(setup: Setup) -> Setup:
    """Return a setup without the maps that are only needed before the first iteration."""
    nothing = np.zeros((1, 1, 1), dtype=np.float32)
    return replace(setup, problem=replace(setup.problem, reference=nothing, mask=None))


def lean_model(model: HalfModel) -> HalfModel:
    """Return a model without what no search needs."""
    return replace(model, unfiltered_map=None)


def added(first: Accumulators, second: Accumulators) -> Accumulators:
    """Return the sum of two Fourier volumes; neither is changed."""
    return replace(
        first,
        data=first.data + second.data,
        weight=first.weight + second.weight,
        dc_data=first.dc_data + second.dc_data,
        dc_weight=first.dc_weight + second.dc_weight,
    )
