"""How good a refinement is when the truth is known: pose errors, masks, correlation curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.errors import InputError
from napari_autorefine.jobs.render import contour_level
from napari_autorefine.model.geometry import euler_to_matrix, pose_error_deg
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.symmetry import PointGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseErrors:
    """Errors of n particles against known poses.

    Attributes
    ----------
    angle_deg : (n,), rotation angle between found and true pose, the smallest over the point group
    offset_A : (n,), length of the difference of origins after removal of ``common_shift_A``
    common_shift_A : (3,), shift of the whole reference, free where the point group leaves it free
    """

    angle_deg: np.ndarray
    offset_A: np.ndarray
    common_shift_A: np.ndarray

    @property
    def offset_rms_A(self) -> float:
        """Root mean square length of the offset errors."""
        return float(np.sqrt(np.mean(self.offset_A**2)))


def rows_of(found: Particles, wanted: Particles) -> np.ndarray:
    """Row in ``found`` of every image of ``wanted``, (n_wanted,); -1 where it is missing."""
    rows = {_image_key(name): row for row, name in enumerate(found.image_name)}
    return np.array([rows.get(_image_key(name), -1) for name in wanted.image_name], dtype=np.int64)


def _image_key(name: str) -> tuple[int, str]:
    """Split an image name into number and stack: programs differ in leading zeros and in the folder."""
    number, _, stack = str(name).rpartition("@")
    return int(number or 0), stack.rpartition("/")[2]


def pose_errors(found: Particles, truth: Particles, group: PointGroup) -> PoseErrors:
    """Compare poses of all images that both sets hold; rows are matched by image name."""
    rows = rows_of(found, truth)
    kept = rows >= 0
    if not kept.any():
        raise InputError("The two particle files have no image in common; compare a refinement with its own truth.")
    euler, true_euler = found.euler_deg[rows[kept]], truth.euler_deg[kept]
    difference = found.origin_A[rows[kept], :2] - truth.origin_A[kept, :2]
    free_axes = np.round(group.operators.mean(axis=0), 9)  # projector on what the group leaves free: often nothing
    matrices = euler_to_matrix(euler)[:, :2] @ free_axes
    shift = np.linalg.lstsq(matrices.reshape(-1, 3), difference.ravel(), rcond=1e-6)[0]
    return PoseErrors(
        angle_deg=pose_error_deg(euler, true_euler, group.operators),
        offset_A=np.linalg.norm(difference - matrices @ shift, axis=1),
        common_shift_A=shift,
    )


def molecule_mask(
    data: np.ndarray, voxel_size_A: float, *, low_pass_A: float = 15.0, extend_px: float = 3.0, edge_px: float = 6.0
) -> np.ndarray:
    """Soft mask around the molecule in a map.

    The largest connected part above the contour level of the low-passed map, its holes filled, grown by ``extend_px``
    and ended by a cosine edge of ``edge_px``; the procedure of ``relion_mask_create``.

    Returns
    -------
    (n, n, n) float32 within [0, 1]
    """
    filtered = low_pass_map(data.astype(np.float32), max(low_pass_A, 2.5 * voxel_size_A), voxel_size_A)
    parts, n_part = label(filtered > contour_level(filtered))
    if n_part == 0:
        return np.ones(data.shape, dtype=np.float32)
    largest = parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    distance = distance_transform_edt(~binary_fill_holes(largest))
    edge = np.clip((distance - extend_px) / edge_px, 0.0, 1.0)
    return (0.5 + 0.5 * np.cos(np.pi * edge)).astype(np.float32)
