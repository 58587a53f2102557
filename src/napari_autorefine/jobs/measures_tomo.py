"""How good a refinement of particles of tomograms is when the truth is known: errors of angles and of centers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from napari_autorefine.errors import InputError
from napari_autorefine.jobs.measures import PoseErrors
from napari_autorefine.model.geometry import euler_to_matrix, rotation_difference_deg
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.symmetry import PointGroup
from napari_autorefine.model.tomography import Tomogram, positions_px, subtomogram_matrices

_NAME = "rlnTomoParticleName"


def tomo_pose_errors(
    found: Particles,
    truth: Particles,
    tomograms: Mapping[str, Tomogram],
    group: PointGroup,
    *,
    center_A: npt.ArrayLike | None = None,
) -> PoseErrors:
    """Compare poses of all particles that both sets hold; rows are matched by tomogram and particle name.

    Poses and centers are compared in the tomogram, so that sets may differ in coordinates, origins and rotations of
    their subtomograms.

    Parameters
    ----------
    found, truth : of particles of tomograms
    tomograms : by name
    group : point group of the molecule
    center_A : (3,) or None
        where the molecule is in the map of ``found``, from its center; None: where the centers that were found agree
        best with the true ones

    Returns
    -------
    PoseErrors
        ``common_shift_A`` is ``center_A``, or the center that was fitted.

    Raises
    ------
    InputError
        No particle in common, or particles without names.
    """
    rows, wanted = _pairs(found, truth)
    turned, true = _rotations(found)[rows], _rotations(truth)[wanted]
    step = _centers_A(truth, tomograms)[wanted] - _centers_A(found, tomograms)[rows]
    center = np.linalg.lstsq(turned.reshape(-1, 3), step.ravel(), rcond=1e-6)[0] if center_A is None else center_A
    center = np.asarray(center, np.float64)
    angles = [rotation_difference_deg(turned, true @ operator) for operator in group.operators]
    return PoseErrors(
        angle_deg=np.min(angles, axis=0),
        offset_A=np.linalg.norm(step - turned @ center, axis=1),
        common_shift_A=center,
    )


def _pairs(found: Particles, truth: Particles) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of the same particles in both sets."""
    mine, theirs = _names(found), _names(truth)
    rows = {name: row for row, name in enumerate(mine)}
    pairs = [(rows[name], row) for row, name in enumerate(theirs) if name in rows]
    if not pairs:
        raise InputError("The two particle files have no particle in common; compare a refinement with its own truth.")
    first, second = np.array(pairs).T
    return first, second


def _names(particles: Particles) -> list[tuple[str, str]]:
    rows = particles.subtomograms
    if rows is None or _NAME not in particles.table:
        raise InputError(f"Particles of tomograms with {_NAME} are compared with their truth, but these have none.")
    return list(zip(rows.tomogram_name.astype(str), particles.table[_NAME].astype(str), strict=True))


def _rotations(particles: Particles) -> np.ndarray:
    """Return (n, 3, 3), reference to tomogram."""
    assert particles.subtomograms is not None
    return np.asarray(subtomogram_matrices(particles.subtomograms) @ euler_to_matrix(particles.euler_deg))


def _centers_A(particles: Particles, tomograms: Mapping[str, Tomogram]) -> np.ndarray:
    """Return (n, 3), centers of the boxes in their tomograms."""
    rows = particles.subtomograms
    assert rows is not None
    pixel_A = np.array([tomograms[str(name)].pixel_size_A for name in rows.tomogram_name])
    return positions_px(rows, tomograms, particles.origin_A) * pixel_A[:, None]
