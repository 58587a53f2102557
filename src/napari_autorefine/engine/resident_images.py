"""Images that stay on GPUs for a whole run."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from napari_autorefine.xp import (
    beside,
    free_device_memory,
    is_out_of_memory,
    release_device_memory,
    zeros_on_device,
)

_KEPT_SHARE = 0.3  # of the memory free at that moment


class KeptImages:
    """Images of one optics group on one GPU.

    Attributes
    ----------
    has : (n_particle,) bool, particles whose images are there
    """

    def __init__(self, device: int, members: np.ndarray, n_particle: int, box_size: int) -> None:
        self._data: Any = zeros_on_device((len(members), box_size, box_size), np.float32, device)
        self._place = np.zeros(n_particle, dtype=np.int64)
        self._place[members] = np.arange(len(members))
        self.has = np.zeros(n_particle, dtype=bool)

    def put(self, indices: np.ndarray, images: Any) -> Any:
        """Keep images (n, N, N) of the host or the device; returns them where they are kept."""
        there = beside(images, self._data)
        self._data[beside(self._place[indices], self._data)] = there
        self.has[indices] = True
        return there

    @property
    def is_open(self) -> bool:
        """Whether images may be kept here; not when they had to make room."""
        return self._data is not None

    def close(self) -> None:
        """Give the memory back."""
        self.has[:] = False
        self._data = None

    def take(self, indices: np.ndarray) -> Any:
        """Return images (n, N, N)."""
        return self._data[beside(self._place[indices], self._data)]


class ResidentImages:
    """The images that a run keeps on its GPUs; a context manager, empty in a copy that was sent to another process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], KeptImages | None] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> ResidentImages:
        return self

    def __exit__(self, *_: object) -> None:
        for device in {device for device, _ in self._kept}:
            self.drop(device)
            release_device_memory(device)
        self._kept.clear()

    def __reduce__(self) -> tuple[type[ResidentImages], tuple[()]]:
        return ResidentImages, ()

    def of(self, device: int, group: int, optics_index: np.ndarray, box_size: int) -> KeptImages | None:
        """Return where images of an optics group are kept on a GPU, None where they do not fit.

        Parameters
        ----------
        optics_index : (n_particle,) optics group of every particle
        box_size : of the group's images
        """
        key = device, group
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _room_for(device, np.flatnonzero(optics_index == group), len(optics_index), box_size)
            return self._kept[key]

    def drop(self, device: int) -> bool:
        """Give the memory of a GPU back for the rest of the run; False when nothing was kept there."""
        with self._lock:
            own = {key: kept for key, kept in self._kept.items() if key[0] == device and kept is not None}
            self._kept.update(dict.fromkeys(own, None))
        for kept in own.values():
            kept.close()
        return bool(own)


def _room_for(device: int, members: np.ndarray, n_particle: int, box_size: int) -> KeptImages | None:
    if 4 * len(members) * box_size**2 > _KEPT_SHARE * free_device_memory(device):
        return None
    try:
        return KeptImages(device, members, n_particle, box_size)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None
