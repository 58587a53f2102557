"""Optics groups: what all particles of one microscope session and pixel size share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class OpticsGroup:
    """One row of the optics table. ``number`` is the 1-based ``rlnOpticsGroup`` after renumbering."""

    number: int
    name: str
    pixel_size_A: float
    box_size: int
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    dimensionality: int = 2
    is_premultiplied: bool = False
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    odd_zernike: tuple[float, ...] = ()
    even_zernike: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] | None = None
    mtf_path: str | None = None
    original_pixel_size_A: float | None = None

    @property
    def wavelength_A(self) -> float:
        """Relativistic electron wavelength."""
        volts = self.voltage_kV * 1e3
        return float(12.2643247 / np.sqrt(volts * (1.0 + 0.978466e-6 * volts)))
