"""The truth about particles that were cut out of simulated micrographs, wherever they were cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.jobs.measures import rows_of
from napari_autorefine.model.particles import Particles

_COORDINATES = ("rlnCoordinateX", "rlnCoordinateY")


def extracted_truth(extracted: Particles, truth: Particles) -> Particles:
    """Return true poses and origins for images that were cut at other coordinates than those of the truth.

    A particle lies at (whole pixel of the coordinate) * pixel size - origin, whatever the coordinate.

    Parameters
    ----------
    extracted : particles with ``rlnCoordinateX`` and ``rlnCoordinateY``
    truth : of a simulation of micrographs; its pixel size is that of the micrographs

    Returns
    -------
    the particles of ``extracted`` that the truth knows, in its order, with images, optics and coordinates of
    ``extracted``

    Raises
    ------
    InputError
        When a file lacks coordinates, or no particle is in both.
    """
    rows = rows_of(truth, extracted)
    known = np.flatnonzero(rows >= 0)
    if not len(known):
        raise InputError("The extracted particles and the truth have no image in common.")
    pixel_size = np.array([group.pixel_size_A for group in truth.optics])[truth.optics_index][:, None]
    moved = (_cut_at(extracted)[known] - _cut_at(truth)[rows[known]]) * pixel_size[rows[known]]
    return replace(
        extracted,
        image_name=extracted.image_name[known],
        micrograph_name=extracted.micrograph_name[known],
        group_name=extracted.group_name[known],
        optics_index=extracted.optics_index[known],
        euler_deg=truth.euler_deg[rows[known]],
        origin_A=truth.origin_A[rows[known]] + moved,
        defocus_A=truth.defocus_A[rows[known]],
        defocus_angle_deg=truth.defocus_angle_deg[rows[known]],
        phase_shift_deg=truth.phase_shift_deg[rows[known]],
        ctf_bfactor_A2=truth.ctf_bfactor_A2[rows[known]],
        ctf_scale=truth.ctf_scale[rows[known]],
        half=extracted.half[known],
        norm_correction=extracted.norm_correction[known],
        table=extracted.table.iloc[known].reset_index(drop=True),
    )


def _cut_at(particles: Particles) -> np.ndarray:
    """Pixel (n, 2) of the micrograph, x and y, that became the center of the image."""
    if not set(_COORDINATES) <= set(particles.table.columns):
        raise InputError("The particles have no rlnCoordinateX and rlnCoordinateY; only extracted particles do.")
    return np.trunc(particles.table[list(_COORDINATES)].to_numpy(np.float64))
