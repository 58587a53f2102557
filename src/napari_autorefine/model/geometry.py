"""Rotations and their Euler angles: the conventions of the whole package.

Angles are ZYZ Euler angles ``(rot, tilt, psi) = (alpha, beta, gamma)`` in degrees, as in RELION and Xmipp::

    A = Rz(-gamma) Ry(-beta) Rz(-alpha)            (active, right-handed; A.T = Rz(alpha) Ry(beta) Rz(gamma))

``A`` maps reference coordinates to view coordinates, ``x_view = A @ x_ref``, with column vectors ordered (x, y, z).
Its rows are the axes of the view in the reference frame; the third row, (sin b cos a, sin b sin a, cos b), is the
viewing direction. A projection is the integral along view z, and in Fourier space
``F2D(kx, ky) = F3D(A.T @ (kx, ky, 0))``. With a point-group operator ``R`` of the reference, ``A @ R`` is the same
view.

Offsets are shifts in Angstrom to be applied to an image to bring the particle to its center, voxel ``n // 2``.
Map arrays are indexed (z, y, x). Everything here is float64 and broadcasts over leading axes.

References
----------
Heymann, Chagoyen & Belnap (2005), J. Struct. Biol. 151, 196-207, doi:10.1016/j.jsb.2005.06.001 (Euler conventions).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Below this sine of tilt, rot and psi cannot be told apart (RELION uses 16 single-precision epsilons).
GIMBAL_SINE = 16.0 * float(np.finfo(np.float32).eps)


def euler_to_matrix(euler_deg: npt.ArrayLike) -> np.ndarray:
    """Rotation matrices from Euler angles.

    Parameters
    ----------
    euler_deg : (..., 3)
        rot tilt psi in degrees

    Returns
    -------
    (..., 3, 3) float64, reference to view
    """
    angles = np.radians(np.asarray(euler_deg, dtype=np.float64))
    (ca, cb, cg), (sa, sb, sg) = np.moveaxis(np.cos(angles), -1, 0), np.moveaxis(np.sin(angles), -1, 0)
    matrix = np.empty((*angles.shape[:-1], 3, 3))
    matrix[..., 0, 0] = cg * cb * ca - sg * sa
    matrix[..., 0, 1] = cg * cb * sa + sg * ca
    matrix[..., 0, 2] = -cg * sb
    matrix[..., 1, 0] = -sg * cb * ca - cg * sa
    matrix[..., 1, 1] = -sg * cb * sa + cg * ca
    matrix[..., 1, 2] = sg * sb
    matrix[..., 2, 0] = sb * ca
    matrix[..., 2, 1] = sb * sa
    matrix[..., 2, 2] = cb
    return matrix


def matrix_to_euler(matrix: npt.ArrayLike) -> np.ndarray:
    """Euler angles of rotation matrices; rot is 0 where tilt is 0 or 180.

    Parameters
    ----------
    matrix : (..., 3, 3)
        reference to view

    Returns
    -------
    (..., 3) float64, degrees, tilt in [0, 180], rot and psi in (-180, 180]
    """
    m = np.asarray(matrix, dtype=np.float64)
    sine = np.hypot(m[..., 0, 2], m[..., 1, 2])
    is_gimbal = sine <= GIMBAL_SINE
    sign = np.where(m[..., 2, 2] > 0.0, 1.0, -1.0)
    psi = np.where(
        is_gimbal,
        np.arctan2(-sign * m[..., 1, 0], sign * m[..., 0, 0]),
        np.arctan2(m[..., 1, 2], -m[..., 0, 2]),
    )
    rot = np.where(is_gimbal, 0.0, np.arctan2(m[..., 2, 1], m[..., 2, 0]))
    tilt = np.where(is_gimbal, np.where(sign > 0.0, 0.0, np.pi), np.arctan2(sine, m[..., 2, 2]))
    euler: np.ndarray = np.degrees(np.stack([rot, tilt, psi], axis=-1))
    return euler


def axis_rotation(axis: npt.ArrayLike, angle_deg: float) -> np.ndarray:
    """Active right-handed rotation by ``angle_deg`` about ``axis`` (3,), as a (3, 3) matrix (Rodrigues' formula)."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(np.asarray(axis, dtype=np.float64))
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = np.radians(angle_deg)
    rotation: np.ndarray = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)
    return rotation


def view_direction(rot_deg: npt.ArrayLike, tilt_deg: npt.ArrayLike) -> np.ndarray:
    """Return unit vectors (..., 3), x y z, of the viewing direction in the reference frame: the third row of A."""
    rot, tilt = np.broadcast_arrays(np.radians(rot_deg), np.radians(tilt_deg))
    return np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)], axis=-1)


def rotation_difference_deg(matrix_a: npt.ArrayLike, matrix_b: npt.ArrayLike) -> np.ndarray:
    """Geodesic angle of the rotation that takes ``matrix_a`` to ``matrix_b``.

    Computed from the Frobenius norm of the difference, |A - B|^2 = 8 sin^2(angle / 2), which is precise near 0.

    Parameters
    ----------
    matrix_a, matrix_b : (..., 3, 3)
        broadcast against each other

    Returns
    -------
    (...) float64, degrees in [0, 180]
    """
    difference = np.asarray(matrix_a, dtype=np.float64) - np.asarray(matrix_b, dtype=np.float64)
    half_sine = np.sqrt((difference**2).sum(axis=(-2, -1)) / 8.0)
    angle: np.ndarray = np.degrees(2.0 * np.arcsin(np.minimum(half_sine, 1.0)))
    return angle


def pose_error_deg(euler_a: npt.ArrayLike, euler_b: npt.ArrayLike, operators: npt.ArrayLike) -> np.ndarray:
    """Geodesic angle between poses, the smallest over the point group: the pose error of the benchmarks.

    Parameters
    ----------
    euler_a, euler_b : (n, 3)
        degrees
    operators : (n_operator, 3, 3)
        point group of the reference with the identity

    Returns
    -------
    (n,) float64, degrees
    """
    first, second = euler_to_matrix(euler_a), euler_to_matrix(euler_b)
    smallest = np.full(first.shape[:-2], 180.0)
    for operator in np.asarray(operators, dtype=np.float64):
        smallest = np.minimum(smallest, rotation_difference_deg(first, second @ operator))
    return smallest


def angular_distance_deg(euler_a: npt.ArrayLike, euler_b: npt.ArrayLike, operators: npt.ArrayLike) -> np.ndarray:
    """RELION's measure of a change of pose: mean angle between corresponding view axes, the smallest over the group.

    This is what convergence counters and the ``changes`` of the log use (``calculateAngularDistance`` in
    healpix_sampling.cpp). For the rotation angle itself see ``pose_error_deg``.

    Parameters
    ----------
    euler_a, euler_b : (n, 3)
        degrees
    operators : (n_operator, 3, 3)
        point group of the reference with the identity

    Returns
    -------
    (n,) float64, degrees
    """
    first, second = euler_to_matrix(euler_a), euler_to_matrix(euler_b)
    smallest = np.full(first.shape[:-2], 180.0)
    for operator in np.asarray(operators, dtype=np.float64):
        rows = ((first - second @ operator) ** 2).sum(axis=-1)
        angles = 2.0 * np.arcsin(np.minimum(np.sqrt(rows) / 2.0, 1.0))
        smallest = np.minimum(smallest, np.degrees(angles).mean(axis=-1))
    return smallest


def round_half_away(values: npt.ArrayLike) -> np.ndarray:
    """Round to the nearest integer, halves away from zero, as float64 (numpy rounds halves to even)."""
    x = np.asarray(values, dtype=np.float64)
    rounded: np.ndarray = np.trunc(x + np.copysign(0.5, x))
    return rounded
