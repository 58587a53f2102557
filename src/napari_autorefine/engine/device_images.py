"""Images on their way to GPUs.

Threads that read ahead send what they have read through a queue of copies of their own, so that copies and the search
of the block before overlap; blocks take turns, so that no more are read than there is room for. Where all images of an
optics group fit into a share of a GPU's memory they are kept there: from the second iteration on nothing is read or
sent.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from napari_autorefine.engine.resident_images import KeptImages
from napari_autorefine.engine.setup import Setup
from napari_autorefine.engine.source import BlockSource, RawParticles, read_raw
from napari_autorefine.xp import Sent, is_on_device, is_out_of_memory, send_ahead, wait_for


class Turns:
    """Blocks may be begun in their order, a few more than have been searched: the next one never has to wait."""

    def __init__(self, n_ahead: int) -> None:
        self._n_ahead = n_ahead
        self._n_done = 0
        self._change = threading.Condition()

    def wait(self, number: int) -> None:
        """Wait for the turn of a block, counted from 0."""
        with self._change:
            self._change.wait_for(lambda: number < self._n_done + self._n_ahead)

    def done(self) -> None:
        """Take note that a block has been searched."""
        with self._change:
            self._n_done += 1
            self._change.notify_all()

    def close(self) -> None:
        """Let all threads go that wait."""
        with self._change:
            self._n_ahead = sys.maxsize
            self._change.notify_all()


@dataclass(slots=True, kw_only=True)
class Fetched:
    """A block whose images have been read, sent ahead, or are kept where it is searched.

    Attributes
    ----------
    source : what they are read from
    raw : what was read; None when all images are kept on the device
    sent : the same on the device, to be waited for; None when it was not sent
    kept : where its images are kept, or are to be
    """

    source: BlockSource
    indices: np.ndarray
    raw: RawParticles | None
    sent: Sent | None = None
    kept: KeptImages | None = None

    def on_device(self, rows: np.ndarray) -> RawParticles:
        """Return images of some rows of the block where it is searched, as far as they are there."""
        if self.raw is None:
            if self.kept is not None and self.kept.has[self.indices].all():
                return RawParticles(images=self.kept.take(self.indices[rows]))
            self.raw = read_raw(self.source, self.indices)  # they had to make room
        if self.sent is not None:
            self.raw = RawParticles(**dict(zip(_ARRAYS, wait_for(self.sent), strict=True)))
            self.sent = None
        if self.kept is not None and self.kept.is_open and not self.kept.has[self.indices].all():
            self.raw = replace(self.raw, images=self.kept.put(self.indices, self.raw.images))
        return self.raw.only(rows)

    def on_host(self, rows: np.ndarray) -> RawParticles | None:
        """Return images of some rows of the block if they are on the host."""
        if self.raw is None or self.sent is not None or is_on_device(self.raw.images):
            return None
        return self.raw.only(rows)


_ARRAYS = ("images", "ctf", "multiplicity")


class Searcher(Protocol):
    """Whoever searches what is sent."""

    device: int

    @property
    def can_search(self) -> bool:
        """Whether there is any use in sending."""


class Sender:
    """Fetches blocks for one GPU; several threads may use it."""

    def __init__(self, half: Searcher, source: BlockSource, setup: Setup) -> None:
        self._half, self._device, self._source, self._setup = half, half.device, source, setup

    def fetch(self, indices: np.ndarray) -> Fetched:
        """Read a block and send it ahead, unless it is there already."""
        setup, optics_index = self._setup, self._setup.problem.particles.optics_index
        group, kept = int(optics_index[indices[0]]), None
        if not setup.is_of_tomograms and self._half.can_search:
            kept = setup.resident.of(self._device, group, optics_index, setup.optics[group].box_size)
        if kept is not None and kept.has[indices].all():
            return Fetched(source=self._source, indices=indices, raw=None, kept=kept)
        found = Fetched(source=self._source, indices=indices, raw=read_raw(self._source, indices), kept=kept)
        assert found.raw is not None
        if isinstance(found.raw.images, np.ndarray) and self._half.can_search:
            self._send(found)
        return found

    def _send(self, found: Fetched) -> None:
        """Send a block ahead if there is memory for it."""
        arrays = tuple(getattr(found.raw, name) for name in _ARRAYS)
        try:
            found.sent = send_ahead(arrays, self._device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
