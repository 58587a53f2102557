"""Images that cannot be used: found on first read, named and set aside instead of stopping a run."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from napari_autorefine.events import Progress
from napari_autorefine.io.particle_images import ParticleImages, SubtomogramImages
from napari_autorefine.model.particles import Particles

_CHUNK_BYTES = 32_000_000
_LOUD, _QUIET = 50.0, 0.01
_FAR_MEAN = 50.0
_WORST_MEAN, _LEAST_STD, _MOST_STD = 0.5, 0.5, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BadImage:
    """One image that is set aside. ``row`` and ``slice`` count from 1 as in the STAR file; slice 0 is all of a file."""

    row: int
    file: str
    slice: int
    reason: str

    @property
    def text(self) -> str:
        """The image and what is wrong with it, as one sentence."""
        return f"row {self.row}, {f'{self.slice}@' if self.slice else ''}{self.file}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """Result of looking at every image once.

    Attributes
    ----------
    bad : images to set aside
    warnings : sentences about the set as a whole
    n_image : number of images looked at
    """

    bad: tuple[BadImage, ...]
    warnings: tuple[str, ...]
    n_image: int

    @property
    def bad_rows(self) -> np.ndarray:
        """0-based rows of the bad images."""
        return np.array([image.row - 1 for image in self.bad], np.int64)

    @property
    def bad_fraction(self) -> float:
        """Share of bad images."""
        return len(self.bad) / max(1, self.n_image)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStatistics:
    """What is measured of each image.

    Attributes
    ----------
    is_finite : (n,) bool
    spread : (n,) largest minus smallest value
    background_mean, background_std : (n,) outside the particle's circle
    has_ctf : (n,) bool, False where a CTF volume holds NaN or Inf, or is 0 everywhere
    """

    is_finite: np.ndarray
    spread: np.ndarray
    background_mean: np.ndarray
    background_std: np.ndarray
    has_ctf: np.ndarray


def image_statistics(images: np.ndarray | Sequence[np.ndarray], radius_px: float) -> ImageStatistics:
    """Measure images (n, n_y, n_x), volumes (n, n_z, n_y, n_x), or n stacks of tilt images (n_tilt, n_y, n_x).

    The background lies outside a circle or sphere of ``radius_px`` about index n // 2. A stack counts as one image.
    """
    if not isinstance(images, np.ndarray):
        parts = [_measured(one.reshape(1, -1), one[:, _outside(one.shape[1:], radius_px)]) for one in images]
        names = [one.name for one in fields(ImageStatistics)]
        return ImageStatistics(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
    return _measured(images.reshape(len(images), -1), images[:, _outside(images.shape[1:], radius_px)])


def _outside(shape: tuple[int, ...], radius_px: float) -> np.ndarray:
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    squared = sum((axis - n // 2) ** 2 for axis, n in zip(axes, shape, strict=True))
    return np.asarray(squared > min(radius_px, 0.5 * min(shape)) ** 2)


def _measured(values: np.ndarray, background: np.ndarray) -> ImageStatistics:
    """Measure n images from all their values (n, ...) and those of the background."""
    n = len(values)
    with np.errstate(invalid="ignore", over="ignore"):
        background = background.reshape(n, -1)
        lowest, highest = values.min(axis=1), values.max(axis=1)
        mean = background.mean(axis=1, dtype=np.float64)
        std = (background - mean[:, None].astype(np.float32)).std(axis=1, dtype=np.float64)
        return ImageStatistics(
            is_finite=np.isfinite(lowest) & np.isfinite(highest),
            spread=highest.astype(np.float64) - lowest,
            background_mean=mean,
            background_std=std,
            has_ctf=np.ones(n, bool),
        )


def check_images(
    stack: ParticleImages, particles: Particles, *, particle_diameter_A: float
) -> Generator[Progress, None, Screening]:
    """Look at every image once; yield progress and return what was found.

    An image is set aside when it holds NaN or Inf, is flat, or when mean or deviation of its background lie far outside
    those of its optics group (50 times the median deviation, or 1 % of it). Images that merely break RELION's rule of
    normalisation, |mean/std| <= 0.5 and 0.5 <= std <= 2, give one warning for the whole set; particles of tomograms are
    not normalised. A volume is set aside with its CTF volume.
    """
    parts: list[tuple[np.ndarray, ImageStatistics]] = []
    done = 0
    for rows in _chunks(stack, particles):
        group = particles.optics[particles.optics_index[rows[0]]]
        measured = image_statistics(stack.read(rows), 0.5 * particle_diameter_A / group.pixel_size_A)
        parts.append((rows, replace(measured, has_ctf=_have_ctf(stack, rows))))
        done += len(rows)
        yield Progress(stage="checking images", done=done, total=len(stack))
    statistics = _in_row_order(parts, len(stack))
    return judge_images(statistics, stack, particles)


def _have_ctf(stack: ParticleImages, rows: np.ndarray) -> np.ndarray:
    """Tell which particles have a CTF volume that can be used, or need none."""
    if not (isinstance(stack, SubtomogramImages) and stack.has_weights):
        return np.ones(len(rows), bool)
    volumes = [one.reshape(len(rows), -1) for one in stack.read_weights(rows) if one is not None]
    return np.all([np.isfinite(one).all(axis=1) & one.any(axis=1) for one in volumes], axis=0)


def _chunks(stack: ParticleImages, particles: Particles) -> Iterable[np.ndarray]:
    """Yield rows of one optics group and box size, in file order and bounded memory."""
    box, each = stack.box_sizes, max(1, stack.n_byte // max(1, len(stack)))
    kinds, kind = np.unique(np.stack([particles.optics_index, box], axis=1), axis=0, return_inverse=True)
    for index, (_, size) in enumerate(kinds.tolist()):
        rows = stack.file_order(np.flatnonzero(kind.ravel() == index))
        step = max(1, _CHUNK_BYTES // max(each, 4 * size * size))
        yield from (rows[start : start + step] for start in range(0, len(rows), step))


def _in_row_order(parts: list[tuple[np.ndarray, ImageStatistics]], n: int) -> ImageStatistics:
    def joined(name: str) -> np.ndarray:
        values = np.zeros(n, np.asarray(getattr(parts[0][1], name)).dtype)
        for rows, part in parts:
            values[rows] = getattr(part, name)
        return values

    return ImageStatistics(
        is_finite=joined("is_finite"),
        spread=joined("spread"),
        background_mean=joined("background_mean"),
        background_std=joined("background_std"),
        has_ctf=joined("has_ctf"),
    )


def judge_images(statistics: ImageStatistics, stack: ParticleImages, particles: Particles) -> Screening:
    """Decide which of n measured images are bad and what to say about the whole set."""
    n = len(stack)
    reasons = np.full(n, "", object)
    flat = statistics.is_finite & (statistics.spread <= 1e-6 * np.abs(statistics.background_mean))
    reasons[flat] = "all pixels have the same value"
    reasons[~statistics.has_ctf] = "its CTF volume holds NaN or Inf, or is 0 everywhere"
    reasons[~statistics.is_finite] = "it holds NaN or Inf"
    for group in range(len(particles.optics)):
        members = np.flatnonzero((particles.optics_index == group) & (reasons == ""))
        if len(members):
            reasons[members] = _background_reasons(
                statistics.background_mean[members], statistics.background_std[members]
            )
    bad = np.flatnonzero(reasons != "")
    images = []
    for row in bad.tolist():
        place = stack.place(row)
        images.append(BadImage(row=row + 1, file=place.file, slice=place.slice, reason=reasons[row]))
    warnings = _warnings(statistics, reasons == "") if particles.form == "image" else ()
    return Screening(bad=tuple(images), warnings=warnings, n_image=n)


def _background_reasons(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Reasons for images far from the others of their optics group, empty text for good ones."""
    typical_mean, typical_std = float(np.median(mean)), float(np.median(std))
    reasons = np.full(len(mean), "", object)
    far = np.abs(mean - typical_mean) > _FAR_MEAN * typical_std
    odd = (std > _LOUD * typical_std) | (std < _QUIET * typical_std)
    for row in np.flatnonzero(far | odd).tolist():
        name, value, typical = ("deviation", std, typical_std) if odd[row] else ("mean", mean, typical_mean)
        reasons[row] = f"the {name} of its background is {value[row]:.4g}, of the other images {typical:.4g}"
    return reasons


def _warnings(statistics: ImageStatistics, good: np.ndarray) -> tuple[str, ...]:
    """One sentence when images break RELION's rule of normalisation."""
    mean, std = statistics.background_mean[good], statistics.background_std[good]
    with np.errstate(divide="ignore", invalid="ignore"):
        odd = (np.abs(mean) > _WORST_MEAN * std) | (std < _LEAST_STD) | (std > _MOST_STD)
    if not odd.any():
        return ()
    first = int(np.flatnonzero(odd)[0])
    row = int(np.flatnonzero(good)[first]) + 1
    return (
        f"{int(odd.sum())} of {len(odd)} images are not normalised (background mean {mean[first]:.3g} and deviation"
        f" {std[first]:.3g} in row {row}, instead of 0 and 1): extract them again with normalisation, and check that"
        " the particle diameter covers the particle.",
    )
