"""Point groups of rotations: operators, and the part of the sphere of views that one asymmetric unit fills.

Axes follow RELION and Xmipp: Cn has its axis on z; Dn adds a two-fold on x; T has a three-fold on z; O has four-folds
on x, y, z; I = I2 has two-folds on x, y, z with a five-fold in the xz plane at 31.7 degrees from z, I1 is I2 turned by
+90 degrees about y, I3 has a five-fold on z (I2 turned by -31.7 degrees about y) and I4 is I2 turned by +31.7 degrees.

References
----------
Heymann, Chagoyen & Belnap (2005), J. Struct. Biol. 151, 196-207, doi:10.1016/j.jsb.2005.06.001.
RELION 5.0.1 programs ``relion_refine`` (``--sym``) and ``relion_align_symmetry`` for the choice of axes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from napari_autorefine.errors import InputError
from napari_autorefine.model.geometry import axis_rotation, euler_to_matrix, view_direction

KNOWN_GROUPS = "C1, C2, C3 … (Cn), D1, D2, D3 … (Dn), T, O, I (same as I2), I1, I2, I3, I4"
LARGEST_FOLD = 99

_GOLDEN = (1.0 + np.sqrt(5.0)) / 2.0
_ICOSAHEDRAL_TILT_DEG = float(np.degrees(np.arctan(1.0 / _GOLDEN)))  # 31.7174745559: from the two-fold to the five-fold
# Turn about y, in degrees, that takes I2 to the named setting.
_ICOSAHEDRAL_TURN_DEG = {"I1": 90.0, "I2": 0.0, "I3": -_ICOSAHEDRAL_TILT_DEG, "I4": _ICOSAHEDRAL_TILT_DEG}
# Plane normals of the I4 unit in the I2 frame, pointing away from the unit.
_I4_OUTWARD = np.array([[0.0, 0.0, 1.0], [0.187592, -0.303531, -0.491123], [0.187592, 0.303531, -0.491123]])
_EDGE = 1e-9  # slack, in radians or cosine, so that directions on the border of the unit count as inside


@dataclass(frozen=True, slots=True, kw_only=True)
class PointGroup:
    """A finite group of rotations of the reference.

    Attributes
    ----------
    name : canonical name, upper case; ``I`` becomes ``I2``
    operators : (n_operator, 3, 3) float64, active on reference coordinates, the identity first
    """

    name: str
    operators: np.ndarray

    def __len__(self) -> int:
        return len(self.operators)


def _closure(generators: list[np.ndarray]) -> np.ndarray:
    """Every distinct product of the generators, the identity first."""
    group = [np.eye(3)]
    for element in group:  # grows while it is walked through
        for generator in generators:
            product = element @ generator
            if not any(np.abs(product - known).max() < 1e-6 for known in group):
                group.append(product)
    return np.stack(group)


def _cyclic(fold: int) -> np.ndarray:
    return np.stack([axis_rotation((0.0, 0.0, 1.0), 360.0 * i / fold) for i in range(fold)])


def _operators(family: str, fold: int, setting: str) -> np.ndarray:
    if family == "C":
        return _cyclic(fold)
    if family == "D":
        return np.concatenate([_cyclic(fold), _cyclic(fold) @ axis_rotation((1.0, 0.0, 0.0), 180.0)])
    if family == "T":
        two_fold = (0.0, np.sqrt(2.0 / 3.0), np.sqrt(1.0 / 3.0))
        return _closure([axis_rotation((0.0, 0.0, 1.0), 120.0), axis_rotation(two_fold, 180.0)])
    if family == "O":
        return _closure([axis_rotation((1.0, 1.0, 1.0), 120.0), axis_rotation((0.0, 0.0, 1.0), 90.0)])
    turn = axis_rotation((0.0, 1.0, 0.0), _ICOSAHEDRAL_TURN_DEG[setting])
    axes = [((0.0, 0.0, 1.0), 180.0), ((1.0, 0.0, _GOLDEN), 72.0), ((0.0, 1.0 / _GOLDEN, _GOLDEN), 120.0)]
    return _closure([axis_rotation(turn @ np.array(axis), angle) for axis, angle in axes])


def _parse(name: str) -> tuple[str, int]:
    """Canonical name and fold (0 for the cubic groups)."""
    text = str(name).strip().upper()
    match = re.fullmatch(r"([CD])0*([1-9]\d*)", text)
    if match and int(match[2]) <= LARGEST_FOLD:
        return f"{match[1]}{int(match[2])}", int(match[2])
    if text in {"T", "O", "I", "I1", "I2", "I3", "I4"}:
        return ("I2" if text == "I" else text), 0
    raise InputError(
        f"Symmetry '{name}' is not known: choose one of {KNOWN_GROUPS}; n is at most {LARGEST_FOLD}, "
        "and groups with mirror planes or inversion do not occur for chiral molecules."
    )


@lru_cache(maxsize=64)
def _point_group(canonical: str, fold: int) -> PointGroup:
    operators = _operators(canonical[0], fold, canonical)
    operators.setflags(write=False)
    return PointGroup(name=canonical, operators=operators)


def point_group(name: str) -> PointGroup:
    """Look up the rotation group called ``name``, in any case: Cn, Dn, T, O, I, I1, I2, I3 or I4.

    Raises
    ------
    InputError
        for any other name; the message lists the known ones
    """
    return _point_group(*_parse(name))


def _cubic_planes(name: str) -> np.ndarray:
    """Vectors v, (n, 3), of a cubic group whose unit obeys v . direction >= 0."""
    if name == "T":
        return np.array(
            [
                [-np.sqrt(8.0) / 3.0, 0.0, 0.0],
                [np.sqrt(2.0) / 3.0, np.sqrt(2.0 / 27.0), 0.7698003589],
                [np.sqrt(2.0) / 3.0, np.sqrt(2.0 / 3.0), 0.0],
            ]
        )
    if name == "O":
        return np.array([[0.0, -1.0, 1.0], [1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    two_fold = np.array([[0.0, 1.0, 0.0], [-0.5, -_GOLDEN / 2.0, 0.5 / _GOLDEN], [0.5, -_GOLDEN / 2.0, 0.5 / _GOLDEN]])
    if name == "I2":
        return two_fold
    if name == "I4":
        return -_turned(_I4_OUTWARD, -_ICOSAHEDRAL_TILT_DEG)
    return _turned(two_fold, 90.0 if name == "I1" else _ICOSAHEDRAL_TILT_DEG)


def _turned(vectors: np.ndarray, tilt_deg: float) -> np.ndarray:
    """Vectors (n, 3) multiplied by A(0, tilt, 0)."""
    turned: np.ndarray = vectors @ euler_to_matrix((0.0, tilt_deg, 0.0)).T
    return turned


def is_in_asymmetric_unit(group: PointGroup, rot_deg: npt.ArrayLike, tilt_deg: npt.ArrayLike) -> np.ndarray:
    """Whether views lie in the asymmetric unit that RELION searches.

    Borders count as inside, except for T, where RELION leaves them out.

    Parameters
    ----------
    group
        the point group
    rot_deg : (...)
        degrees, in (-180, 180]
    tilt_deg : (...)
        degrees, in [0, 180]

    Returns
    -------
    (...) bool
    """
    rot, tilt = np.broadcast_arrays(np.asarray(rot_deg, dtype=np.float64), np.asarray(tilt_deg, dtype=np.float64))
    family, slack = group.name[0], np.degrees(_EDGE)
    if family == "C":
        return np.asarray(np.abs(rot) <= 180.0 / len(group) + slack)
    if family == "D":
        half_width = 360.0 / len(group)
        is_upper = tilt <= 90.0 + slack
        return np.asarray(is_upper if len(group) == 2 else is_upper & (np.abs(rot - 90.0) <= half_width + slack))
    border = _EDGE if family == "T" else -_EDGE
    inside = (view_direction(rot, tilt) @ _cubic_planes(group.name).T >= border).all(axis=-1)
    if family == "T":
        inside &= ((rot >= 90.0 - slack) & (rot <= 150.0 + slack)) | (np.abs(rot) <= slack)
    if family == "O":
        inside &= (((rot >= 45.0 - slack) & (rot <= 135.0 + slack)) | (np.abs(rot) <= slack)) & (tilt <= 90.0 + slack)
    return np.asarray(inside)
