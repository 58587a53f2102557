"""Radial spectra: noise and signal power, signal-to-noise from the halves, group scales. No files, no images.

All variances are per real or imaginary component under forward transforms divided by the number of points. Shell
arrays have N // 2 + 1 entries on the reference grid. Equations: Scheres (2012), J. Struct. Biol. 180, 519-530,
doi:10.1016/j.jsb.2012.09.006, with the numerical rules of RELION's ml_optimiser.cpp and ml_model.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
import scipy.fft

from napari_autorefine.engine.shells import half_shell_counts, half_shells, round_half_up, shell_sums
from napari_autorefine.errors import InputError

MINIMUM_SHELL = 5
# Smallest noise variances, relative to the largest of the spectrum: what is less is no noise but a fault or rounding.
_SMALLEST_SIGMA2, _PREMULTIPLIED_FLOOR = 1e-10, 1e-11
_SMALLEST_FSC, _LARGEST_FSC = 0.001, 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolutionShell:
    """Shell of the current resolution; ``has_dip`` when the curve fell below 1 and rose again."""

    shell: int
    has_dip: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScales:
    """Intensity scales (n_group,) with mean 1 over particles; how many were pulled in, how many were almost zero."""

    scale: np.ndarray
    n_limited: int
    n_vanishing: int


def image_power_spectrum(images: np.ndarray, threads: int = 1) -> np.ndarray:
    """Mean power per shell of images or maps, over all stored coefficients of the half transform.

    Parameters
    ----------
    images : (n, N, N) images
    threads : worker threads

    Returns
    -------
    (n, N // 2 + 1) float64, <|F|^2> under the 1 / N^2 normalisation
    """
    box_size = images.shape[-1]
    transforms = scipy.fft.rfft2(images, workers=threads)
    shells, counts = half_shells(box_size, 2), half_shell_counts(box_size, 2)
    spectra = np.empty((len(images), len(counts)))
    for i, transform in enumerate(transforms):
        power = transform.real.astype(np.float64) ** 2 + transform.imag.astype(np.float64) ** 2
        spectra[i] = shell_sums(power, shells, len(counts)) / counts
    return spectra / float(box_size) ** 4


def volume_power_spectrum(map_: np.ndarray, threads: int = 1) -> np.ndarray:
    """Mean power <|F|^2> per shell of an (N, N, N) map under the 1 / N^3 normalisation; (N // 2 + 1,) float64."""
    box_size = map_.shape[0]
    transform = scipy.fft.rfftn(map_, workers=threads)
    counts = half_shell_counts(box_size, 3)
    power = transform.real**2 + transform.imag**2
    return shell_sums(power, half_shells(box_size, 3), len(counts)) / counts / float(box_size) ** 6


def initial_sigma2_noise(mean_spectrum: np.ndarray, mean_image_spectrum: np.ndarray) -> np.ndarray:
    """Noise before the first iteration, half of (mean of spectra - spectrum of the mean).

    Parameters
    ----------
    mean_spectrum : (..., n_shell), average of the images' power spectra, per optics group
    mean_image_spectrum : (n_shell,), power spectrum of the average over all groups

    Returns
    -------
    (..., n_shell) float64; values that are not positive are replaced by the nearest positive one before them
    """
    sigma2 = np.atleast_2d(0.5 * (mean_spectrum - mean_image_spectrum))
    for row in sigma2:
        good = np.flatnonzero(row > _SMALLEST_SIGMA2 * max(row.max(), 0.0))
        if len(good) == 0:
            raise InputError(
                "The images hold no noise: their average accounts for all of their power; check the image stacks."
            )
        before = np.searchsorted(good, np.arange(len(row)), side="right") - 1
        row[:] = row[good[np.maximum(before, 0)]]
    return sigma2.reshape(np.shape(mean_spectrum))


def initial_tau2(map_: np.ndarray, *, tau2_fudge: float = 1.0, data_dim: int = 2, threads: int = 1) -> np.ndarray:
    """Signal power of a starting map as seen by images (``data_dim`` 2) or subtomograms (3); (n_shell,)."""
    scale = 0.5 * tau2_fudge * (map_.shape[0] ** 2 if data_dim == 2 else 1)
    spectrum: np.ndarray = scale * volume_power_spectrum(map_, threads)
    return spectrum


def initial_ssnr(tau2: np.ndarray, sigma2_noise: np.ndarray, n_particles: int) -> np.ndarray:
    """Data-versus-prior ratio of a starting map, N_half tau2 / <sigma2> / (2 k); (n_shell,).

    Parameters
    ----------
    tau2 : (n_shell,)
    sigma2_noise : (n_optics, n_shell)
    n_particles : particles of the half-set
    """
    sigma2 = np.mean(sigma2_noise, axis=0)
    ssnr = np.divide(n_particles * tau2, sigma2, out=np.zeros_like(tau2), where=sigma2 > 0)
    ssnr[1:] /= 2.0 * np.arange(1, len(tau2))
    return ssnr


def ssnr_from_fsc(fsc: np.ndarray, *, tau2_fudge: float = 1.0, is_joint: bool = False) -> np.ndarray:
    """Signal-to-noise ratio of each shell, T F / (1 - F).

    For the map of all data, F becomes sqrt(2 F / (F + 1)) first (Rosenthal & Henderson 2003,
    doi:10.1016/j.jmb.2003.07.013).

    Parameters
    ----------
    fsc : (n_shell,) correlation of the halves
    tau2_fudge : T
    is_joint : both halves make one map
    """
    clipped = np.maximum(fsc, _SMALLEST_FSC)
    if is_joint:
        clipped = np.sqrt(2.0 * clipped / (clipped + 1.0))
    clipped = np.minimum(clipped, _LARGEST_FSC)
    ssnr: np.ndarray = tau2_fudge * clipped / (1.0 - clipped)
    return ssnr


def tau2_from_fsc(
    fsc: np.ndarray, sigma2_map: np.ndarray, *, tau2_fudge: float = 1.0, is_joint: bool = False
) -> np.ndarray:
    """Signal power per shell, ssnr times the noise variance of the unregularised map; (n_shell,)."""
    tau2: np.ndarray = ssnr_from_fsc(fsc, tau2_fudge=tau2_fudge, is_joint=is_joint) * sigma2_map
    return tau2


def current_resolution_shell(ssnr: np.ndarray) -> ResolutionShell:
    """Last shell where the data outweigh the prior (ssnr >= 1), at least 5.

    The curve may dip below 1 and rise again; more than 3 shells later the rise counts.
    """
    n_shell = len(ssnr)
    below = np.flatnonzero(ssnr[1:] < 1.0)
    first = int(below[0]) if len(below) else n_shell - 1
    above = np.flatnonzero(ssnr[: n_shell - 1] > 1.0)
    last = int(above[-1]) if len(above) else 0
    has_dip = last > first + 3
    return ResolutionShell(shell=max(last if has_dip else first, MINIMUM_SHELL), has_dip=has_dip)


def low_pass_shell(resolution_A: float, box_size: int, voxel_size_A: float) -> int:
    """Shell of a resolution limit, ROUND(N a / d)."""
    return round_half_up(box_size * voxel_size_A / resolution_A) if isfinite(resolution_A) else 0


def update_sigma2_noise(
    sums: np.ndarray, counts: np.ndarray, previous: np.ndarray, *, is_premultiplied: np.ndarray | None = None
) -> np.ndarray:
    """Noise of each optics group from the weighted squared differences, sum / (2 count).

    Parameters
    ----------
    sums : (n_optics, n_shell), weighted sums of |model - image|^2
    counts : (n_optics, n_shell), independent coefficients (of volumes: multiplicities) of all images, weighted likewise
    previous : (n_optics, n_shell), kept where a shell or a group has no data
    is_premultiplied : (n_optics,), groups whose images are multiplied by the CTF

    Returns
    -------
    (n_optics, n_shell) float64
    """
    divisor = 2.0 * np.asarray(counts, dtype=np.float64)
    sigma2 = np.divide(sums, divisor, out=np.array(previous, dtype=np.float64), where=divisor > 0)
    premultiplied = np.zeros(len(sigma2), dtype=bool) if is_premultiplied is None else np.asarray(is_premultiplied)
    largest = sigma2.max(axis=1)
    sigma2[premultiplied] = np.maximum(sigma2[premultiplied], _PREMULTIPLIED_FLOOR * largest[premultiplied, None])
    for shell in range(1, sigma2.shape[1]):
        tiny = ~premultiplied & (sigma2[:, shell] < _SMALLEST_SIGMA2 * largest)
        sigma2[tiny, shell] = sigma2[tiny, shell - 1]
    return sigma2


def update_scales(xa: np.ndarray, aa: np.ndarray, n_particles: np.ndarray) -> GroupScales:
    """Intensity scale of each group, XA / AA within [median / 5, 5 median], with mean 1 over particles.

    Parameters
    ----------
    xa, aa : (n_group,), sums of model times image and of squared model over the shells that count
    n_particles : (n_group,), particles of each group; groups without particles get 1
    """
    present = (np.asarray(n_particles) > 0) & (np.asarray(aa) > 0)
    scale = np.ones(len(xa))
    if np.count_nonzero(present) < 2:
        return GroupScales(scale=scale, n_limited=0, n_vanishing=0)
    raw = xa[present] / aa[present]
    median = np.sort(raw)[len(raw) // 2]
    limited = np.clip(raw, median / 5.0, 5.0 * median) if median > 0 else np.ones_like(raw)
    limited = limited / np.average(limited, weights=n_particles[present])
    n_vanishing = int(np.count_nonzero(limited < 1e-3))
    scale[present] = np.maximum(limited, 1e-3)
    n_limited = int(np.count_nonzero((raw < median / 5.0) | (raw > 5.0 * median)))
    return GroupScales(scale=scale, n_limited=n_limited, n_vanishing=n_vanishing)
