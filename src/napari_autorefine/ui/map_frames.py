"""Maps of one iteration as a worker reads them: voxels, their measure, and a surface where one is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import read_data
from napari_autorefine.ui.layer_style import Role, Statistics, statistics
from napari_autorefine.ui.run_steps import Step
from napari_autorefine.ui.surfaces import LIVE_FACES, Mesh, iso_mesh

ROLES: tuple[Role, ...] = ("half1", "half2", "joined", "reference", "mask")
"""Maps of the live view in the order of its cells."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """A map as it is shown.

    Attributes
    ----------
    data : (n_z, n_y, n_x) float32 without NaN
    mean, sigma : of all voxels, for thresholds in units of sigma
    mesh : surface, None where volumes are drawn directly
    note : what is wrong with the map, or nothing
    """

    role: Role
    path: Path
    data: np.ndarray
    voxel_size_A: float
    measured: Statistics
    mean: float
    sigma: float
    mesh: Mesh | None = None
    note: str = ""

    def level(self, n_sigma: float | None) -> float:
        """Return the density of a contour in units of sigma; of the map's own one for None, of a mask always."""
        if self.role == "mask":
            return 0.5
        return self.measured.threshold if n_sigma is None else self.mean + n_sigma * self.sigma

    def in_sigma(self, level: float) -> float:
        """Return a density in units of sigma above the mean."""
        return (level - self.mean) / self.sigma if self.sigma > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapSet:
    """The maps of one iteration; ``sections`` are the central ones of the best map, by plane."""

    step: Step
    frames: Mapping[Role, Frame]
    sections: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contour:
    """Where surfaces are wanted: densities of roles whose own were chosen, and sigmas of all others; None: no surface.

    Attributes
    ----------
    wanted : whether surfaces are computed at all
    n_sigma : chosen for all maps, None to follow each map
    levels : densities that were chosen for single maps
    most_faces : triangles per surface, about
    """

    wanted: bool = True
    n_sigma: float | None = None
    levels: Mapping[Role, float] = field(default_factory=dict)
    most_faces: int = LIVE_FACES

    def level(self, frame: Frame) -> float:
        """Return the density of a map's surface."""
        return self.levels.get(frame.role, frame.level(self.n_sigma))


def read_frame(role: Role, path: Path, contour: Contour) -> Frame:
    """Read a map.

    Raises
    ------
    InputError
        It is missing, damaged or holds no finite number.
    """
    data, header = read_data(path)
    data = np.ascontiguousarray(data, np.float32)
    finite = np.isfinite(data)
    note = ""
    if not finite.all():
        if not finite.any():
            raise InputError(f"{path.name} holds no finite number.")
        note = f"{path.name}: {data.size - int(np.count_nonzero(finite))} voxels are NaN or Inf, shown as 0."
        data = np.where(finite, data, np.float32(0))
    frame = Frame(
        role=role,
        path=path,
        data=data,
        voxel_size_A=next((size for size in header.voxel_size_A if size > 0), 1.0),
        measured=statistics(data),
        mean=float(data.mean(dtype=np.float64)),
        sigma=float(data.std(dtype=np.float64)),
        note=note,
    )
    return with_mesh(frame, contour)


def with_mesh(frame: Frame, contour: Contour) -> Frame:
    """Return a map with the surface that is wanted."""
    if not contour.wanted:
        return replace(frame, mesh=None)
    return replace(frame, mesh=iso_mesh(frame.data, contour.level(frame), most_faces=contour.most_faces))


def read_maps(step: Step, contour: Contour) -> MapSet:
    """Read the half-maps of an iteration, and the joined map of the last one.

    Raises
    ------
    InputError
        A map is damaged or gone.
    """
    kinds: tuple[tuple[str, Role], ...] = (("half1", "half1"), ("half2", "half2"), ("map", "joined"))
    frames = {role: read_frame(role, step.files[kind], contour) for kind, role in kinds if kind in step.files}
    if not frames:
        raise InputError(f"The maps of {step.title} are not there any more.")
    return MapSet(step=step, frames=frames, sections=_sections(frames))


def read_beside(paths: Mapping[Role, Path], contour: Contour) -> dict[Role, Frame | str]:
    """Read the maps that stand beside those of a run; a sentence instead of one that cannot be read."""
    frames: dict[Role, Frame | str] = {}
    for role, path in paths.items():
        try:
            frames[role] = read_frame(role, path, contour)
        except InputError as error:
            frames[role] = str(error)
    return frames


def _sections(frames: Mapping[Role, Frame]) -> dict[str, np.ndarray]:
    """Return central sections (n, n) of the joined map, or of the mean of the half-maps; rows go up."""
    used = [frames["joined"]] if "joined" in frames else [frames[role] for role in ("half1", "half2") if role in frames]
    shape = used[0].data.shape
    used = [frame for frame in used if frame.data.shape == shape]
    middle = [n // 2 for n in shape]

    def mean(*index: int | slice) -> np.ndarray:
        return np.mean([frame.data[index] for frame in used], axis=0)

    every = slice(None)
    return {
        "xy": mean(middle[0], every, every),
        "xz": mean(every, middle[1], every),
        "yz": mean(every, every, middle[2]),
    }
