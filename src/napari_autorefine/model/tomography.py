"""Tilt series: where a particle of a tomogram lies in every tilt image, and how that image shows it.

Positions are (x, y, z) in unbinned pixels of the tomogram, counted from 0. The projection matrix P of a tilt takes
them to its image: the first two rows of ``P (x, y, z, 1)`` are the pixel, the third is the depth::

    P = S(shift / a) S(floor(w / 2), floor(h / 2), 0) Rz(ZRot) Ry(YTilt) Rx(XTilt) S(-floor(X / 2), ...)

with active right-handed rotations, shifts S, image size (w, h), tomogram size (X, Y, Z) and pixel size a. A particle
with the rotations A_sub (subtomogram) and A (``geometry``) is seen in a tilt with the view ``P3 A_sub A``, where P3 is
the upper left 3 x 3 part of P; a shift t in the frame of the subtomogram becomes ``(P3 A_sub t)[:2]`` in the image.

A particle above the tomogram's center has another defocus, ``U + hand slope a (z(position) - z(center))``, and
likewise V, where z is the depth. Radiation damage multiplies the CTF by ``exp(-d / (2 (0.245 u^-1.665 + 2.81)))`` at
the dose d (e/A^2) before the image.

References
----------
Zivanov et al. (2022), eLife 11, e83724, doi:10.7554/eLife.83724 (geometry).
Grant & Grigorieff (2015), eLife 4, e06980, doi:10.7554/eLife.06980 (critical dose).
RELION 5.0.1 programs ``relion_tomo_subtomo`` and ``relion_refine`` (signs and orders).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import SubtomogramRows

_UNKNOWN_SIZE = -999  # RELION 5's stand-in, so that coordinates of such files mean the same here


@dataclass(frozen=True, slots=True, kw_only=True)
class Tomogram:
    """A tilt series and the tomogram it belongs to; tilts are in the order of their table.

    Attributes
    ----------
    name, optics_name : of the tomogram; of its optics group
    pixel_size_A : of the unbinned tilt images
    size_px : x y z of the tomogram in unbinned pixels, None when unknown
    image_size_px : columns and rows of the tilt images, None when unknown: the pixel of the tilt axis is then 0, 0
    hand : 1 or -1, sign of the change of defocus with depth
    defocus_slope : factor of that change
    voltage_kV, cs_mm, amplitude_contrast : of the microscope; None where the file does not say
    projection : (n_tilt, 4, 4) float64, unbinned pixels
    dose_e_A2 : (n_tilt,) before each image
    defocus_A : (n_tilt, 2), U and V at the center of the tomogram
    defocus_angle_deg, phase_shift_deg, ctf_bfactor_A2, ctf_scale : (n_tilt,)
    bfactor_per_dose_A2 : (n_tilt,) A^2 per e/A^2; where above 0 damage is ``exp(-B d u^2 / 4)`` instead
    image_name : (n_tilt,) object, ``000001@series.mrcs``; None when the table names no images
    """

    name: str
    pixel_size_A: float
    projection: np.ndarray
    dose_e_A2: np.ndarray
    defocus_A: np.ndarray
    defocus_angle_deg: np.ndarray
    phase_shift_deg: np.ndarray
    ctf_bfactor_A2: np.ndarray
    ctf_scale: np.ndarray
    bfactor_per_dose_A2: np.ndarray
    optics_name: str = ""
    size_px: tuple[int, int, int] | None = None
    image_size_px: tuple[int, int] | None = None
    hand: float = 1.0
    defocus_slope: float = 1.0
    voltage_kV: float | None = None
    cs_mm: float | None = None
    amplitude_contrast: float | None = None
    image_name: np.ndarray | None = None

    @property
    def n_tilt(self) -> int:
        """Number of tilts."""
        return len(self.projection)

    @property
    def rotations(self) -> np.ndarray:
        """(n_tilt, 3, 3), tomogram to view of each tilt."""
        return self.projection[:, :3, :3]

    @property
    def center_px(self) -> np.ndarray:
        """(3,) float64, half the size: where centered coordinates are 0."""
        return _sizes(self.size_px) / 2


def _sizes(size_px: tuple[int, int, int] | None) -> np.ndarray:
    return np.array((_UNKNOWN_SIZE,) * 3 if size_px is None else size_px, np.float64)


def projection_matrices(
    angles_deg: npt.ArrayLike,
    shift_px: npt.ArrayLike,
    *,
    size_px: tuple[int, int, int] | None = None,
    image_size_px: tuple[int, int] | None = None,
) -> np.ndarray:
    """Projection matrices of RELION 5's tilt angles and shifts.

    Parameters
    ----------
    angles_deg : (n_tilt, 3)
        ``rlnTomoXTilt``, ``rlnTomoYTilt``, ``rlnTomoZRot``
    shift_px : (n_tilt, 2)
        x and y, unbinned pixels
    size_px : (X, Y, Z)
        of the tomogram; unknown: RELION's stand-in, -999 each
    image_size_px : (w, h)
        of the tilt images; unknown: 0, for all that needs no place in the image

    Returns
    -------
    (n_tilt, 4, 4) float64
    """
    x_tilt, y_tilt, z_rot = np.radians(np.asarray(angles_deg, np.float64)).T
    shift = np.asarray(shift_px, np.float64)
    result = np.zeros((len(shift), 4, 4))
    result[:, 3, 3] = 1.0
    turn = _rotation(2, z_rot) @ _rotation(1, y_tilt) @ _rotation(0, x_tilt)
    result[:, :3, :3] = turn
    result[:, :3, 3] = -turn @ np.trunc(_sizes(size_px) / 2)
    result[:, :2, 3] += shift + (0 if image_size_px is None else np.array(image_size_px) // 2)
    return result


def _rotation(axis: int, angle: np.ndarray) -> np.ndarray:
    """Active right-handed rotations (n, 3, 3) about x, y or z."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    result = np.zeros((len(angle), 3, 3))
    result[:, axis, axis] = 1.0
    result[:, first, first] = result[:, second, second] = np.cos(angle)
    result[:, second, first] = np.sin(angle)
    result[:, first, second] = -np.sin(angle)
    return result


def subtomogram_matrices(rows: SubtomogramRows) -> np.ndarray:
    """(n, 3, 3) float64, A_sub of every particle: frame of the subtomogram to tomogram."""
    return euler_to_matrix(rows.rotation_deg)


def positions_px(rows: SubtomogramRows, tomograms: Mapping[str, Tomogram], origin_A: npt.ArrayLike = 0.0) -> np.ndarray:
    """Return where particles are in their tomograms.

    Parameters
    ----------
    rows : n particles of tomograms
    tomograms : by name
    origin_A : (n, 3) or 0
        origins in the frames of the subtomograms: the particle is at the coordinate less A_sub times the origin

    Returns
    -------
    (n, 3) float64, x y z in unbinned pixels; the center of the tomogram for files without coordinates
    """
    n = len(rows.tomogram_name)
    result = np.empty((n, 3))
    steps = np.einsum("nij,nj->ni", subtomogram_matrices(rows), np.broadcast_to(origin_A, (n, 3)))
    for name in dict.fromkeys(rows.tomogram_name.tolist()):
        chosen, tomogram = rows.tomogram_name == name, tomograms[name]
        start = _coordinates_px(rows, chosen, tomogram)
        result[chosen] = start - steps[chosen] / tomogram.pixel_size_A
    return result


def _coordinates_px(rows: SubtomogramRows, chosen: np.ndarray, tomogram: Tomogram) -> np.ndarray:
    if rows.coordinate is None:
        return tomogram.center_px
    if rows.coordinate_unit == "A_from_center":
        return rows.coordinate[chosen] / tomogram.pixel_size_A + tomogram.center_px
    # RELION 4 adds 1 when it reads coordinates, RELION 5 does not
    return rows.coordinate[chosen] + (1.0 if rows.coordinate_unit == "px_from_1" else 0.0)


def projected_px(tomogram: Tomogram, position_px: npt.ArrayLike) -> np.ndarray:
    """Return where a point is in every tilt image: (n_tilt, 2) float64, x and y in unbinned pixels."""
    return tomogram.projection[:, :2, :3] @ np.asarray(position_px, np.float64) + tomogram.projection[:, :2, 3]


def depth_defocus_A(tomogram: Tomogram, position_px: npt.ArrayLike) -> np.ndarray:
    """Return what the height of a point adds to the defocus of every tilt: (n_tilt,) float64, Å."""
    depth_px = tomogram.projection[:, 2, :3] @ (np.asarray(position_px, np.float64) - tomogram.center_px)
    return tomogram.hand * tomogram.defocus_slope * tomogram.pixel_size_A * depth_px


def dose_weights(
    dose_e_A2: npt.ArrayLike, frequency: npt.ArrayLike, bfactor_per_dose_A2: npt.ArrayLike = 0.0
) -> np.ndarray:
    """Return what radiation damage leaves of the amplitude.

    Parameters
    ----------
    dose_e_A2 : (n,)
        electrons per square Å before each image
    frequency : (n_frequency,)
        1/Å
    bfactor_per_dose_A2 : (n,)
        above 0: B-factor per dose in place of the critical dose

    Returns
    -------
    (n, n_frequency) float64
    """
    dose, u = np.asarray(dose_e_A2, np.float64)[:, None], np.abs(np.asarray(frequency, np.float64))
    bfactor = np.broadcast_to(np.asarray(bfactor_per_dose_A2, np.float64), len(dose))[:, None]
    with np.errstate(divide="ignore"):
        critical = 0.245 * u**-1.665 + 2.81
    return np.where(bfactor > 0, np.exp(-0.25 * bfactor * dose * u**2), np.exp(-0.5 * dose / critical))


def tilt_ctfs(
    tomogram: Tomogram,
    position_px: npt.ArrayLike,
    optics: OpticsGroup,
    frequencies: npt.ArrayLike,
    *,
    tilts: np.ndarray | None = None,
    intact_first_peak: bool = False,
) -> np.ndarray:
    """CTF times dose weight of one particle in its tilt images.

    Parameters
    ----------
    tomogram : Tomogram
        its tilt series
    position_px : (3,)
        of the particle, see ``positions_px``
    optics : OpticsGroup
        of the particle: voltage, aberrations
    frequencies : (n_frequency, 2)
        x and y in 1/Å
    tilts : (n,) int or bool
        which tilts; all by default
    intact_first_peak : bool
        1 up to the first peak, before scale, B-factor and dose

    Returns
    -------
    (n, n_frequency) float32
    """
    rows = np.arange(tomogram.n_tilt)[slice(None) if tilts is None else tilts]
    points = np.asarray(frequencies, np.float64)
    values = ctf(
        optics,
        tomogram.defocus_A[rows] + depth_defocus_A(tomogram, position_px)[rows, None],
        tomogram.defocus_angle_deg[rows],
        tomogram.phase_shift_deg[rows],
        tomogram.ctf_bfactor_A2[rows],
        tomogram.ctf_scale[rows],
        points,
        intact_first_peak=intact_first_peak,
    )
    weights = dose_weights(
        tomogram.dose_e_A2[rows], np.hypot(points[:, 0], points[:, 1]), tomogram.bfactor_per_dose_A2[rows]
    )
    damped: np.ndarray = values * weights.astype(np.float32)
    return damped
