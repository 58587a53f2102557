"""Bring a molecule to the axes that RELION expects for its point group."""

from __future__ import annotations

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.model.geometry import rotation_difference_deg
from napari_autorefine.model.symmetry import PointGroup

_TOLERANCE_DEG = 3.0
_IN_FRAME_DEG = 0.5


def frame_rotation(rotations: np.ndarray, group: PointGroup) -> np.ndarray:
    """Rotation Q that turns the symmetry of a molecule into that of a point group: Q R Q^T is in the group.

    Parameters
    ----------
    rotations : (n, 3, 3), rotations found to map the molecule on itself; more than the group's are allowed
    group : point group in RELION's setting

    Returns
    -------
    (3, 3) float64, the identity when the axes are in place already, otherwise the smallest such rotation

    Raises
    ------
    InputError
        The rotations do not contain the point group.
    """
    if len(group) == 1 or _misfit_deg(rotations, group, np.eye(3)) < _IN_FRAME_DEG:
        return np.eye(3)
    good = [q for q in _candidates(rotations, group) if _misfit_deg(rotations, group, q) < _TOLERANCE_DEG]
    if not good:
        raise InputError(f"The model does not have the symmetry {group.name}; choose another --sym or an --assembly.")
    polished = [_polished(rotations, group, q) for q in good]
    return min(polished, key=lambda q: float(rotation_difference_deg(q, np.eye(3))))


def symmetry_center(rotations: np.ndarray, shifts: np.ndarray, group: PointGroup, frame: np.ndarray) -> np.ndarray:
    """Point that the symmetry of a molecule leaves in place; (3,), the one nearest to the origin.

    Parameters
    ----------
    rotations, shifts : (n, 3, 3) and (n, 3), motions x -> R x + t that map the molecule on itself
    group : point group; motions that belong to none of its operators are ignored
    frame : (3, 3), turns the rotations into operators of the group
    """
    turned = frame @ rotations @ frame.T
    nearest = np.min([rotation_difference_deg(turned, operator) for operator in group.operators], axis=0)
    used = nearest < _TOLERANCE_DEG
    moved = (np.eye(3) - rotations[used]).reshape(-1, 3)
    return np.asarray(np.linalg.lstsq(moved, shifts[used].ravel(), rcond=0.05)[0])


def _misfit_deg(rotations: np.ndarray, group: PointGroup, frame: np.ndarray) -> float:
    """Largest angle between an operator of the group and the closest rotation in the new frame."""
    turned = frame @ rotations @ frame.T
    nearest = [float(rotation_difference_deg(turned, operator).min()) for operator in group.operators[1:]]
    return max(nearest)


def _axis_and_angle(rotation: np.ndarray) -> tuple[np.ndarray, float]:
    """Return unit axis (right-hand rule; either one for half turns) and angle in degrees within [0, 180]."""
    angle = float(rotation_difference_deg(rotation, np.eye(3)))
    values, vectors = np.linalg.eigh(0.5 * (rotation + rotation.T))
    axis = vectors[:, int(np.argmax(values))]
    skew = np.array([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    return (axis if skew @ axis >= 0 else -axis), angle


def best_rotation(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Proper rotation Q for which Q times the rows of ``source`` (n, 3) is closest to the rows of ``target``.

    References
    ----------
    Kabsch (1976), Acta Cryst. A32, 922-923, https://doi.org/10.1107/S0567739476001873
    """
    u, _, vt = np.linalg.svd(target.T @ source)
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)


def _generators(group: PointGroup) -> list[tuple[np.ndarray, float]]:
    """One operator of the smallest turn and, if there is one, another about a different axis."""
    turns = sorted((_axis_and_angle(operator) for operator in group.operators[1:]), key=lambda turn: round(turn[1], 3))
    first = turns[0]
    others = [turn for turn in turns[1:] if abs(turn[0] @ first[0]) < 0.999]
    return [first, *others[:1]]


def _matching(rotations: np.ndarray, angle_deg: float) -> list[np.ndarray]:
    """Axes of all rotations by ``angle_deg``, both signs of those that are half turns."""
    turns = [_axis_and_angle(rotation) for rotation in rotations]
    axes = [axis for axis, angle in turns if abs(angle - angle_deg) < _TOLERANCE_DEG]
    return axes + [-axis for axis in axes] if angle_deg > 180.0 - _TOLERANCE_DEG else axes


def _candidates(rotations: np.ndarray, group: PointGroup) -> list[np.ndarray]:
    """Frames in which one or two rotations of the molecule coincide with generators of the group."""
    generators = _generators(group)
    first = _matching(rotations, generators[0][1])
    if len(generators) == 1:
        return [_shortest(axis, generators[0][0]) for axis in first]
    (axis_a, _), (axis_b, angle_b) = generators
    wanted = float(axis_a @ axis_b)
    pairs = [(a, b) for a in first for b in _matching(rotations, angle_b) if abs(float(a @ b) - wanted) < 0.05]
    return [best_rotation(np.stack(pair), np.stack([axis_a, axis_b])) for pair in pairs]


def _shortest(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Smallest rotation that takes the unit vector ``source`` to ``target``."""
    cross, cosine = np.cross(source, target), float(source @ target)
    if cosine < -0.999999:
        side = np.eye(3)[int(np.argmin(np.abs(target)))]
        side = side - (side @ target) * target
        side /= np.linalg.norm(side)
        return 2.0 * np.outer(side, side) - np.eye(3)
    skew = np.array([[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]])
    return np.asarray(np.eye(3) + skew + skew @ skew / (1.0 + cosine))


def _polished(rotations: np.ndarray, group: PointGroup, frame: np.ndarray) -> np.ndarray:
    """Frame that fits the axes of all operators of the group at once."""
    turned = frame @ rotations @ frame.T
    source, target = [], []
    for operator in group.operators[1:]:
        axis, _ = _axis_and_angle(operator)
        found, _ = _axis_and_angle(turned[int(np.argmin(rotation_difference_deg(turned, operator)))])
        source.append(found if found @ axis > 0 else -found)
        target.append(axis)
    if np.linalg.matrix_rank(np.stack(target), tol=1e-3) < 2:
        return _shortest(source[0], target[0]) @ frame
    return best_rotation(np.stack(source), np.stack(target)) @ frame
