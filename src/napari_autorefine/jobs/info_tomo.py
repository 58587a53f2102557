"""Sentences of ``info`` on the files of a subtomogram project: optimisation sets, tomograms, particles of tomograms."""

from __future__ import annotations

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.optimisation_set import LABELS, OptimisationSet, read_optimisation_set
from napari_autorefine.io.tomograms import read_tomograms
from napari_autorefine.model.particles import Particles
from napari_autorefine.model.tomography import Tomogram

_MOST_TOMOGRAMS = 20
_UNITS = {
    "A_from_center": "A from the center of the tomogram",
    "px_from_0": "unbinned pixels, counted from 0",
    "px_from_1": "unbinned pixels, counted from 1 (RELION 4)",
}


def set_lines(path: str) -> list[str]:
    """Return what an optimisation set names, and which of it is missing."""
    try:
        files = read_optimisation_set(path)
    except InputError as error:
        return [f"  not usable as it is: {error}"]
    lines = [f"  optimisation set of a subtomogram project: {len(files.files)} files"]
    return lines + _entries(files)


def _entries(files: OptimisationSet) -> list[str]:
    missing = set(files.dead(LABELS))
    return [
        f"  {kind:<12} {files[kind]}{' (does not exist here)' if kind in missing else ''}"
        for kind in LABELS
        if files[kind] is not None
    ]


def tomogram_lines(path: str) -> list[str]:
    """Return what is known of every tilt series."""
    try:
        tomograms = read_tomograms(path)
    except InputError as error:
        return [f"  not usable as it is: {error}"]
    lines = [f"  {len(tomograms)} tomogram{'' if len(tomograms) == 1 else 's'}"]
    lines += [_tomogram(one) for one in list(tomograms.values())[:_MOST_TOMOGRAMS]]
    if len(tomograms) > _MOST_TOMOGRAMS:
        lines.append(f"  and {len(tomograms) - _MOST_TOMOGRAMS} more")
    return lines


def _tomogram(one: Tomogram) -> str:
    # the beam of a tilt is turned about the tilt axis; its angle with that of no tilt is the tilt
    tilt = np.degrees(np.arccos(np.clip(one.projection[:, 2, 2], -1, 1)))
    size = "" if one.size_px is None else f", {' x '.join(map(str, one.size_px))} px"
    images = "" if one.image_size_px is None else f", images of {one.image_size_px[0]} x {one.image_size_px[1]} px"
    lowest, highest = np.nanmin(one.defocus_A), np.nanmax(one.defocus_A)
    return (
        f"  {one.name}: {one.n_tilt} tilts up to {tilt.max():.0f} deg, {one.pixel_size_A:.6g} A per pixel"
        f"{size}{images}, dose up to {one.dose_e_A2.max():.4g} e/A^2, defocus {lowest:.0f} to {highest:.0f} A,"
        f" hand {one.hand:+.0f}"
    )


def particle_lines(particles: Particles) -> list[str]:
    """Return what particles of tomograms have besides poses; nothing for single particles."""
    rows = particles.subtomograms
    if rows is None:
        return []
    n = len(np.unique(rows.tomogram_name.astype(str)))
    lines = [f"  in {n} tomogram{'' if n == 1 else 's'}"]
    if rows.coordinate is not None:
        lines.append(f"  coordinates in {_UNITS[rows.coordinate_unit]}")
    if rows.visible is not None:
        counts = [int(flags.sum()) for flags in rows.visible]
        span = f"{max(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
        lines.append(f"  {span} tilt images each")
    if not rows.is_tilt_stack:
        lines.append("  with CTF volumes" if rows.weights_name is not None else "  without CTF volumes")
    lines.append(f"  subtomograms {'turned' if np.any(rows.rotation_deg) else 'not turned'} in their tomograms")
    if particles.euler_prior_deg is not None or "rlnAngleTiltPrior" in particles.table:
        lines.append("  with a prior of the tilt")
    return lines
