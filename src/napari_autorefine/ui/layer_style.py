"""How layers look: one color per role everywhere, contrast and threshold that survive outliers.

Colors are those of Okabe & Ito (2008, jfly.uni-koeln.de/color), told apart by color-blind eyes, on dark themes and on
light ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from napari.utils import Colormap

from napari_autorefine.jobs.render import contour_level

Role = Literal["map", "half1", "half2", "joined", "reference", "mask"]

COLORS: dict[Role, str] = {
    "map": "#dddddd",
    "half1": "#56b4e9",
    "half2": "#e69f00",
    "joined": "#f4f1e8",
    "reference": "#cc79a7",
    "mask": "#009e73",
}
"""Color of every role, in layers and in plots."""

_MASK_NAME = re.compile(r"mask(?!ed)", re.IGNORECASE)
_HALF_NAME = re.compile(r"half[_\-. ]?(?:map[_\-. ]?)?([12ab])(?![0-9a-z])", re.IGNORECASE)
_JOINED_NAME = re.compile(r"class\d{3}$|postprocess|merged", re.IGNORECASE)
_REFERENCE_NAME = re.compile(r"(^|[_\-. ])(ref|reference|initial_model)([_\-. ]|$)", re.IGNORECASE)
_MOST_SAMPLED = 2_000_000
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What the look of a map depends on.

    Attributes
    ----------
    limits : contrast from the level of the solvent up, without the most extreme voxels
    full_range : smallest and largest value
    threshold : contour that separates molecule from solvent
    is_mask : all values within 0 and 1, nearly all of them at one of the ends
    """

    limits: tuple[float, float]
    full_range: tuple[float, float]
    threshold: float
    is_mask: bool


def name_without_ending(path: Path) -> str:
    """Return a file's name without the endings of maps and of compression."""
    name = path.name
    for ending in (".gz", ".bz2", ".mrc", ".mrcs", ".map", ".ccp4", ".rec", ".st"):
        name = name.removesuffix(ending)
    return name


def role_by_name(path: Path) -> Role:
    """Tell what a map is from its name, by the habits of RELION, cryoSPARC and EMDB."""
    name = name_without_ending(path)
    half = _HALF_NAME.search(name)
    if half:
        return "half1" if half[1] in "1aA" else "half2"
    if _MASK_NAME.search(name):
        return "mask"
    if _REFERENCE_NAME.search(name):
        return "reference"
    return "joined" if _JOINED_NAME.search(name) else "map"


def statistics(data: np.ndarray) -> Statistics:
    """Measure a map (n_z, n_y, n_x) from at most two million of its voxels, evenly spread."""
    sample = _sample(data)
    low, high = float(sample.min()), float(sample.max())
    if not high > low:
        return Statistics(limits=(low, low + 1.0), full_range=(low, low + 1.0), threshold=low + 0.5, is_mask=False)
    at_ends = np.count_nonzero((sample < 1e-3) | (sample > 1 - 1e-3)) / sample.size
    return Statistics(
        limits=density_limits(sample),
        full_range=(low, high),
        threshold=display_threshold(sample),
        is_mask=bool(low >= -1e-3 and 0.99 < high <= 1.001 and at_ends > 0.6),
    )


def _sample(data: np.ndarray) -> np.ndarray:
    step = max(1, int(np.ceil((np.prod(data.shape) / _MOST_SAMPLED) ** (1 / data.ndim))))
    sample = np.asarray(data[(slice(None, None, step),) * data.ndim], np.float32)
    return sample[np.isfinite(sample)] if not np.isfinite(sample).all() else sample


def density_limits(values: np.ndarray) -> tuple[float, float]:
    """Return the contrast of a map: black is the solvent (median), white exceeded by one voxel in a thousand."""
    low, high = float(np.median(values)), float(np.percentile(values, 99.9))
    return (low, high) if high > low else (float(values.min()), float(max(values.max(), values.min() + 1.0)))


def image_limits(images: np.ndarray, n_sigma: float = 3.0) -> tuple[float, float]:
    """Return the contrast of noisy images (..., n_y, n_x): median and robust deviation, as in RELION's display."""
    values = images[np.isfinite(images)]
    if not values.size:
        return 0.0, 1.0
    middle = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(values - middle))) or float(values.std())
    return (middle - n_sigma * sigma, middle + n_sigma * sigma) if sigma > 0 else (middle - 0.5, middle + 0.5)


def display_threshold(values: np.ndarray) -> float:
    """Return the level of the surface that is shown first: Otsu's, but three deviations above the solvent at least."""
    middle = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(values - middle)))
    highest = float(np.percentile(values, 99.9))
    if not highest > middle:  # nothing but a few voxels
        return 0.5 * (middle + float(values.max()))
    return min(max(contour_level(np.minimum(values, highest)), middle + 3.0 * sigma), highest)


def colormap(role: Role) -> Colormap:
    """Return the colors of a role: black to its color, for masks transparent to its color."""
    red, green, blue = (int(COLORS[role][at : at + 2], 16) / 255 for at in (1, 3, 5))
    first = (red, green, blue, 0.0) if role == "mask" else (0.0, 0.0, 0.0, 1.0)
    return Colormap([first, (red, green, blue, 1.0)], name=f"autorefine {role}", display_name=f"auto-refine {role}")


def map_style(role: Role, measured: Statistics) -> dict[str, Any]:
    """Return the layer arguments of a map of a role.

    Half-maps add up to near white where they agree. A mask lies over what is below it as a veil.
    """
    style: dict[str, Any] = {
        "colormap": colormap(role),
        "contrast_limits": measured.limits,
        "iso_threshold": measured.threshold,
        "rendering": volume_rendering(),
        "blending": "additive",
        "interpolation2d": "linear",
    }
    if role == "mask":
        style |= {"contrast_limits": (0.0, 1.0), "iso_threshold": 0.5, "opacity": 0.35}
        style |= {"blending": "translucent_no_depth", "rendering": "mip" if is_software_rendering() else "iso"}
    elif role in {"map", "joined"}:
        style["blending"] = "translucent"
    return style


@lru_cache(maxsize=1)
def _renderer() -> str:
    """Return the name of what draws; raises while there is no canvas."""
    from vispy import gloo

    name = gloo.gl.glGetParameter(gloo.gl.GL_RENDERER)
    if not name:
        raise RuntimeError("no canvas yet")
    return str(name)


def is_software_rendering() -> bool:
    """Tell whether OpenGL runs on the CPU, where iso-surfaces of volumes take seconds; without a canvas no."""
    try:
        name = _renderer().lower()
    except Exception:  # OpenGL bindings fail in their own ways where nothing is open
        return False
    return any(word in name for word in _SOFTWARE)


def volume_rendering() -> str:
    """Return how volumes are drawn in 3D: surfaces on a graphics card, projections on the CPU."""
    return "attenuated_mip" if is_software_rendering() else "iso"
