"""Particles that are volumes: sums of tilt images in Fourier space, with the sums of their squared CTFs.

A coefficient D of such a volume is a sum of CTF times image over tilts, W the sum of squared CTFs, M the multiplicity,
how many tilts met there. The map is multiplied by W, and the noise of D varies as that of images does times W, so that

    |D - W P|^2 / (2 W s2) = const - Re[conj(P) D] / s2 + 1/2 W |P|^2 / s2

is what the images themselves would say (RELION takes noise to vary with M). Where less than a hundredth of a tilt is
seen lies the missing wedge, where everything is 0 (Zivanov et al. 2022, eLife 11, e83724, doi:10.7554/eLife.83724).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_autorefine.engine import images as image_steps
from napari_autorefine.engine.context import GroupGeometry
from napari_autorefine.engine.problem import TomogramData
from napari_autorefine.xp import array_module, to_host

_LEAST_SPREAD = 1e-4  # noise is not taken to be weaker than this says


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightGrids:
    """Weights of n volumes on the grid of half transforms (n, N, N, N // 2 + 1), all 0 in the missing wedge.

    Attributes
    ----------
    factor : what transforms are multiplied by
    transfer : what slices are multiplied by before the group scale
    spread : by how much noise varies: squared CTFs, or multiplicities of volumes that were not multiplied by CTFs
    """

    factor: Any
    transfer: Any
    spread: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeWeights:
    """Weights of n volumes on their samples.

    Attributes
    ----------
    factor : see ``WeightGrids``
    transfer : (n, n_sample) float32, what slices are multiplied by before the group scale
    precision : (n, n_sample) float32, see ``PreparedImages``
    count : (n, n_shell) float64, spreads summed per image shell
    """

    factor: Any
    transfer: Any
    precision: Any
    count: np.ndarray


def weight_grids(ctf: Any, multiplicity: Any | None, data: TomogramData, *, is_premultiplied: bool) -> WeightGrids:
    """Work out the weights of volumes from what their files hold.

    Parameters
    ----------
    ctf : (n, N, N, N // 2 + 1) float32, squared CTFs or, for files that hold them, CTFs
    multiplicity : the same shape, or None when files have none
    data : how the files were made
    is_premultiplied : data were multiplied by the CTF
    """
    xp = array_module(ctf)
    transfer = ctf
    if is_premultiplied:
        transfer = ctf * ctf if data.holds_ctf else xp.abs(ctf)
    seen = xp.ones_like(transfer) if multiplicity is None else multiplicity
    inside = (seen >= np.float32(data.least_multiplicity)) & (transfer != 0)
    factor = inside.astype(np.float32)
    if data.is_normalised and multiplicity is not None:
        factor, transfer = factor * seen, transfer * seen
    if data.ignores_multiplicity and multiplicity is not None:
        share = 1.0 / xp.maximum(seen, np.float32(data.least_multiplicity))
        factor, transfer, seen = factor * share, transfer * share, xp.ones_like(seen)
    spread = transfer if is_premultiplied else seen
    return WeightGrids(factor=factor, transfer=transfer * inside, spread=spread * inside)


def volume_weights(ctf: Any, multiplicity: Any | None, geometry: GroupGeometry, data: TomogramData) -> VolumeWeights:
    """Weights of volumes of an optics group on its samples; see ``weight_grids``."""
    xp, samples = array_module(ctf), geometry.samples
    grids = weight_grids(ctf, multiplicity, data, is_premultiplied=geometry.optics.is_premultiplied)
    own = image_steps.samples_of(grids.spread, samples)
    precision = (own > 0) / xp.where(own > _LEAST_SPREAD, own, np.float32(1.0))
    return VolumeWeights(
        factor=grids.factor,
        transfer=image_steps.samples_of(grids.transfer, samples),
        precision=precision.astype(np.float32),
        count=_sums_per_shell(own, geometry) + image_steps.outer_sums(grids.spread, samples),
    )


def _sums_per_shell(values: Any, geometry: GroupGeometry) -> np.ndarray:
    """Return sums of (n, n_sample) values per image shell; (n, N // 2 + 1) float64."""
    shell, n_shell = geometry.samples.shell, geometry.samples.box_size // 2 + 1
    host = to_host(values)
    return np.array([np.bincount(shell, weights=row, minlength=n_shell)[:n_shell] for row in host])
