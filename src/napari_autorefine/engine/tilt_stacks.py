"""Particles that are stacks of tilt images: what each tilt sees of them, and a block of them as Fourier samples.

An orientation of the particle is compared with all its visible tilts at once, and one weight holds for all of them. The
old offset moves every image by whole pixels before it is masked; what is left of its projection is a phase ramp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine.context import GroupGeometry
from napari_autorefine.engine.problem import RefinementProblem
from napari_autorefine.model.geometry import round_half_away
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.tomography import Tomogram, positions_px, subtomogram_matrices, tilt_ctfs
from napari_autorefine.xp import REAL, beside


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TiltGeometry:
    """Where and how the particles of a refinement are seen in their tilt series.

    Attributes
    ----------
    tomograms : (n,) the tilt series of every particle
    tilts : its visible tilts, rows of the series
    matrices : (n, 3, 3) float64, frame of the subtomogram -> tomogram
    positions_px : (n, 3) float64, where each was cut, in unbinned pixels; gives the height in all iterations
    """

    tomograms: Sequence[Tomogram]
    tilts: Sequence[np.ndarray]
    matrices: np.ndarray
    positions_px: np.ndarray

    @property
    def most_tilts(self) -> int:
        """Largest number of visible tilts."""
        return max(len(tilts) for tilts in self.tilts)

    def views(self, particle: int) -> np.ndarray:
        """(n_tilt, 3, 3) float64, frame of the subtomogram -> view of each visible tilt."""
        seen: np.ndarray = self.tomograms[particle].rotations[self.tilts[particle]] @ self.matrices[particle]
        return seen

    def transfer(self, particle: int, geometry: GroupGeometry, *, ctf: bool, intact_first_peak: bool) -> Any:
        """Return what slices are multiplied by before the group scale: CTF times damage, or its square; (n_tilt, K)."""
        tilts = self.tilts[particle]
        if not ctf:
            ones = np.ones((len(tilts), geometry.samples.n_sample), dtype=REAL)
            return beside(ones, geometry.background)
        values = self.ctfs(particle, geometry.optics, geometry.frequencies, intact_first_peak=intact_first_peak)
        if geometry.optics.is_premultiplied:
            values *= values
        return beside(values.astype(REAL, copy=False), geometry.background)

    def ctfs(
        self, particle: int, optics: OpticsGroup, frequencies: np.ndarray, *, intact_first_peak: bool
    ) -> np.ndarray:
        """CTF times damage of the visible tilts at frequencies (n, 2) in 1/A; (n_tilt, n) float32."""
        return tilt_ctfs(
            self.tomograms[particle],
            self.positions_px[particle],
            optics,
            frequencies,
            tilts=self.tilts[particle],
            intact_first_peak=intact_first_peak,
        )


def tilt_geometry(problem: RefinementProblem) -> TiltGeometry:
    """Work out the geometry of all particles of a problem whose particles are tilt stacks."""
    data, rows = problem.tomogram_data, problem.particles.subtomograms
    if data is None or rows is None:
        raise ValueError("tilt stacks need their tomograms")
    return TiltGeometry(
        tomograms=[data.tomograms[str(name)] for name in rows.tomogram_name],
        tilts=data.tilts,
        matrices=subtomogram_matrices(rows),
        positions_px=positions_px(rows, data.tomograms),
    )


def tilt_offsets(views: np.ndarray, offset_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the offset (3,) of a particle as its tilts see it: whole pixels (n_tilt, 2), and what is left."""
    seen = views[:, :2] @ offset_px
    whole = round_half_away(seen)
    return whole, seen - whole
