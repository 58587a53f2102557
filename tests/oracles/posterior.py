"""The expectation step of one half-set by explicit sums over every orientation, shift and coefficient, in float64.

Nothing is shared, pruned or factorised: each particle is compared with each candidate by the formula

    D(o, t) = sum_k |C s P_o - e^{-2 pi i k t / N} X|^2 / (2 sigma2 V),   0 < |k| <= size / 2

and every sum runs over all candidates. V is by how much the noise of a coefficient varies more than the spectrum says:
1 for images; C for what was multiplied by its CTF, so that C is a squared CTF, or of volumes a sum of them; M, the
number of tilts, for volumes that were not. A tilt stack is compared through all coefficients of all its images at once.
Only the list of candidates and the reference's Fourier volume are given.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from oracles import imaging, slices
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.problem import TomogramData
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles

LEAST_SPREAD = 1e-4


@dataclass(kw_only=True)
class Model:
    """What a half-set believes before the iteration, and how it searches; arrays as in the engine's states."""

    volume: np.ndarray
    pad: int
    r2_max: float
    box_size: int
    voxel_size_A: float
    sigma2_noise: np.ndarray
    scale: np.ndarray
    norm_average: float
    sigma_offset_A: float
    use_for_scale: np.ndarray
    diameter_A: float
    mask_edge_px: float
    has_ctf: bool
    has_norm: bool


@dataclass(kw_only=True)
class Candidates:
    """Orientations and shifts of one particle: fine ones, and the coarse quantities that priors belong to.

    ``rotations`` (n_o, 3, 3), ``directions`` (n_o,) and ``log_prior`` (n_o,); ``shifts_A`` (n_t, dim) and
    ``prior_shifts_A`` (n_t, dim), the unperturbed coarse shift of each.
    """

    rotations: np.ndarray
    directions: np.ndarray
    log_prior: np.ndarray
    shifts_A: np.ndarray
    prior_shifts_A: np.ndarray


@dataclass(kw_only=True)
class View:
    """One particle's coefficients inside the disc of ``size``, and everything they are compared through.

    ``index`` (K, 2 or 3) are the frequencies on the grid of the image or volume, ``moved_by`` (K, 2 or 3) those that an
    offset is multiplied with, ``points`` (K, 3) those that the map is looked up at, before the pose turns them. Of a
    tilt stack they are those of one tilt after the other.
    """

    index: np.ndarray
    moved_by: np.ndarray
    points: np.ndarray
    masked: np.ndarray
    unmasked: np.ndarray
    transfer: np.ndarray
    sigma2: np.ndarray
    spread: np.ndarray
    shell: np.ndarray
    outer_noise: np.ndarray
    count: np.ndarray
    old_origin_A: np.ndarray
    optics: OpticsGroup
    volume_index: float

    @property
    def is_far(self) -> np.ndarray:
        """Which coefficients are not the origin."""
        return np.linalg.norm(self.index, axis=1) > 0


@dataclass(kw_only=True)
class Outcome:
    """Everything one particle leaves behind, over all candidates."""

    weights: np.ndarray
    best: tuple[int, int]
    log_evidence: float
    noise: np.ndarray
    norm_power: float
    scale_cross: float
    scale_power: float
    offset_square: float
    total_origin_A: np.ndarray
    values: np.ndarray = field(repr=False)
    sample_weights: np.ndarray = field(repr=False)


@dataclass(kw_only=True)
class Shown:
    """What is known of every coefficient (n,) of an image or volume.

    ``transfer`` is what slices are multiplied by, ``variance`` how much noise varies, as far as it is believed,
    ``spread`` the same as it is counted, ``factor`` what the file's value is multiplied by.
    """

    transfer: np.ndarray
    variance: np.ndarray
    spread: np.ndarray
    factor: np.ndarray


def reference_shell(shell: np.ndarray, optics: OpticsGroup, model: Model) -> np.ndarray:
    ratio = model.box_size * model.voxel_size_A / (optics.box_size * optics.pixel_size_A)
    return np.minimum(np.floor(shell * ratio + 0.5).astype(int), model.box_size // 2)


def rounded(values: np.ndarray) -> np.ndarray:
    """Nearest whole numbers, halves away from zero."""
    return np.sign(values) * np.floor(np.abs(values) + 0.5)


def view(
    image: np.ndarray, particles: Particles, i: int, model: Model, size: float, data: TomogramData | None = None
) -> View:
    """Prepare particle ``i``: norm, whole-pixel move, mask, transform."""
    optics = particles.optics[particles.optics_index[i]]
    dim = 3 if particles.form == "volume" else 2
    index, counts = imaging.plane(optics.box_size, dim)
    index = index[counts & (imaging.shells(index) <= optics.box_size // 2)]
    gain = model.norm_average / particles.norm_correction[i] if model.has_norm else 1.0
    old_px = rounded(particles.origin_A[i] / optics.pixel_size_A)
    if particles.form == "tilt_stack":
        assert data is not None
        turns = tilt_views(particles, i, data)
        parts = [
            _part(one, index, _shown_by_tilt(particles, i, j, model, index, data), (turn @ old_px)[:2], turn)
            for j, (one, turn) in enumerate(zip(image, turns, strict=True))
        ]
    elif particles.form == "volume":
        assert data is not None
        parts = [_part(image, index, _shown_by_volume(particles, i, model, index, data), old_px, None)]
    else:
        parts = [_part(gain * image, index, _shown_by_image(particles, i, model, index), old_px, None)]
    joined = [part(optics, model, size, int(particles.optics_index[i])) for part in parts]
    sums = {name: np.sum([own.pop(name) for own in joined], axis=0) for name in ("outer_noise", "count")}
    arrays = {name: np.concatenate([own[name] for own in joined]) for name in joined[0]}
    return View(
        **arrays,
        **sums,
        old_origin_A=old_px * optics.pixel_size_A,
        optics=optics,
        volume_index=model.pad * model.box_size * model.voxel_size_A / (optics.box_size * optics.pixel_size_A),
    )


def tilt_views(particles: Particles, i: int, data: TomogramData) -> np.ndarray:
    """(n_tilt, 3, 3), frame of the subtomogram to view of each visible tilt."""
    rows = particles.subtomograms
    assert rows is not None
    projection = data.tomograms[rows.tomogram_name[i]].projection[data.tilts[i]]
    return projection[:, :3, :3] @ imaging.rotation(rows.rotation_deg[i])


def _part(image: np.ndarray, index: np.ndarray, shown: Shown, seen_px: np.ndarray, turn: np.ndarray | None):  # type: ignore[no-untyped-def]
    """Return the function that makes the coefficients of one image or volume of a particle."""
    whole = rounded(seen_px)

    def make(optics: OpticsGroup, model: Model, size: float, group: int) -> dict[str, np.ndarray]:
        radius_px = model.diameter_A / (2 * optics.pixel_size_A)
        outside = imaging.background(optics.box_size, radius_px, model.mask_edge_px, image.ndim)
        unmasked = imaging.moved(image, whole.astype(int))
        masked = imaging.masked(unmasked, outside)
        flat = np.column_stack([index, np.zeros((len(index), 3 - image.ndim))])
        points = flat.copy()
        if image.ndim == 2:
            points[:, :2] = imaging.magnified(optics, index)
        moved_by = index if turn is None else flat @ turn
        points = points if turn is None else points @ turn
        factor = shown.factor * np.exp(-2j * np.pi / optics.box_size * (index @ (seen_px - whole)))
        shell = reference_shell(imaging.shells(index), optics, model)
        inside = np.linalg.norm(index, axis=1) <= size / 2
        coefficients = imaging.coefficients(masked, index) * factor
        n_shell = model.box_size // 2 + 1
        return {
            "index": index[inside],
            "moved_by": moved_by[inside],
            "points": points[inside],
            "masked": coefficients[inside],
            "unmasked": imaging.coefficients(unmasked, index[inside]) * factor[inside],
            "transfer": shown.transfer[inside],
            "spread": shown.variance[inside],
            "sigma2": model.sigma2_noise[group][shell[inside]],
            "shell": shell[inside],
            "outer_noise": np.bincount(shell[~inside], np.abs(coefficients[~inside]) ** 2, n_shell),
            "count": np.bincount(shell, shown.spread, n_shell),
        }

    return make


def _shown_by_image(particles: Particles, i: int, model: Model, index: np.ndarray) -> Shown:
    optics, ones = particles.optics[particles.optics_index[i]], np.ones(len(index))
    frequencies = imaging.magnified(optics, index) / (optics.box_size * optics.pixel_size_A)
    transfer = imaging.transfer(optics, particles, i, frequencies) if model.has_ctf else ones
    return _shown(transfer, optics, np.exp(-1j * imaging.coma(optics, frequencies)))


def _shown_by_tilt(particles: Particles, i: int, j: int, model: Model, index: np.ndarray, data: TomogramData) -> Shown:
    rows, optics, ones = particles.subtomograms, particles.optics[particles.optics_index[i]], np.ones(len(index))
    assert rows is not None and rows.coordinate is not None
    tomogram = data.tomograms[rows.tomogram_name[i]]
    frequencies = imaging.magnified(optics, index) / (optics.box_size * optics.pixel_size_A)
    height_px = rows.coordinate[i] / tomogram.pixel_size_A
    transfer = imaging.tilt_transfer(optics, tomogram, data.tilts[i][j], height_px, frequencies)
    return _shown(transfer if model.has_ctf else ones, optics, ones)


def _shown(transfer: np.ndarray, optics: OpticsGroup, factor: np.ndarray) -> Shown:
    spread = transfer if optics.is_premultiplied else np.ones(len(transfer))
    return Shown(transfer=transfer, variance=np.maximum(spread, LEAST_SPREAD), spread=spread, factor=factor)


def _shown_by_volume(particles: Particles, i: int, model: Model, index: np.ndarray, data: TomogramData) -> Shown:
    ones, optics = np.ones(len(index)), particles.optics[particles.optics_index[i]]
    if data.read_weights is None or not model.has_ctf:
        return Shown(transfer=ones, variance=ones, spread=ones, factor=ones)
    ctf, multiplicity = data.read_weights(np.array([i]))
    x, y, z = index.T  # negative ones count from the end, as frequencies do
    transfer = ctf[0, z, y, x].astype(np.float64)
    seen = ones if multiplicity is None else multiplicity[0, z, y, x].astype(np.float64)
    if optics.is_premultiplied and data.holds_ctf:
        transfer = transfer**2
    is_seen = (seen >= np.float32(data.least_multiplicity)) & (transfer != 0)
    transfer, seen, factor = transfer[is_seen], seen[is_seen], ones[is_seen]
    if data.is_normalised and multiplicity is not None:
        transfer, factor = transfer * seen, factor * seen
    if data.ignores_multiplicity and multiplicity is not None:
        transfer, factor, seen = transfer / seen, factor / seen, seen / seen
    spread = transfer if optics.is_premultiplied else seen
    variance = np.where(spread > LEAST_SPREAD, spread, 1.0)
    values = {"transfer": transfer, "variance": variance, "spread": spread, "factor": factor}
    nothing = {"transfer": 0.0, "variance": np.inf, "spread": 0.0, "factor": 0.0}  # in the missing wedge
    whole = {name: np.full(len(index), nothing[name]) for name in values}
    for name, own in values.items():
        whole[name][is_seen] = own
    return Shown(**whole)


def matrices(seen: View, rotations: np.ndarray) -> np.ndarray:
    """Frequency index to padded reference index."""
    return seen.volume_index * np.swapaxes(rotations, 1, 2)


def slices_of(seen: View, model: Model, rotations: np.ndarray) -> np.ndarray:
    return slices.project(model.volume, matrices(seen, rotations), seen.points, model.r2_max)


def ramps(seen: View, shifts_A: np.ndarray) -> np.ndarray:
    """Factors (n_t, n_sample) that move an image by shifts in A."""
    field_of_view_A = seen.optics.box_size * seen.optics.pixel_size_A
    return np.exp(-2j * np.pi * (shifts_A @ seen.moved_by.T) / field_of_view_A)


def correlation(seen: View, projections: np.ndarray, shifts_A: np.ndarray, size: float) -> np.ndarray:
    """Normalised correlation (n_o, n_t) over 0 < |k| <= size / 2, group scale without effect."""
    chosen = seen.is_far & (np.linalg.norm(seen.index, axis=1) <= size / 2)
    deviation = np.sqrt(seen.spread)
    model = (seen.transfer * projections / deviation)[:, chosen]
    trials = (ramps(seen, shifts_A) * seen.masked / deviation)[:, chosen]
    cross = (model @ trials.conj().T).real
    return cross / np.linalg.norm(model, axis=1)[:, None] / np.linalg.norm(trials, axis=1)


def posterior(
    seen: View, projections: np.ndarray, candidates: Candidates, model: Model, scale: float, prior_A: np.ndarray
) -> tuple[np.ndarray, float]:
    """Weights (n_o, n_t) of sum 1, and the log of their sum before division."""
    far = seen.is_far
    variance = 2 * (seen.sigma2 * seen.spread)[far]
    trials = (ramps(seen, candidates.shifts_A) * seen.masked)[:, far]
    predicted = (scale * seen.transfer * projections)[:, far]
    difference = np.array([(np.abs(one - trials) ** 2 / variance).sum(axis=1) for one in predicted])
    deviation = seen.old_origin_A + candidates.prior_shifts_A - prior_A
    log_prior = candidates.log_prior[:, None] - (deviation**2).sum(axis=1) / (2 * model.sigma_offset_A**2)
    scores = log_prior - difference
    total = np.logaddexp.reduce(scores, axis=None)
    noise_terms = np.log(2 * np.pi * seen.sigma2[far]).sum()
    return np.exp(scores - total), float(total - noise_terms)


def mean_pose(
    candidates: Candidates, own: Outcome, operators: np.ndarray, reach_deg: float, reach_A: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean rotation (3, 3) and offset over the samples around the best, each by its mate nearest to the best.

    Samples beyond the largest that hold 99.9 % of the weight are left out.
    """
    o, t = own.best
    ordered = np.sort(own.weights, axis=None)[::-1]
    least = ordered[np.searchsorted(np.cumsum(ordered), 0.999 * ordered.sum())]
    kept = np.where(own.weights >= least, own.weights, 0.0)
    turn, offset, total = np.zeros(3), np.zeros(own.total_origin_A.shape[1]), 0.0
    near_t = np.flatnonzero(np.linalg.norm(own.total_origin_A - own.total_origin_A[t], axis=1) <= reach_A + 1e-6)
    for row, rotation in enumerate(candidates.rotations):
        mates = Rotation.from_matrix(rotation @ operators @ candidates.rotations[o].T)
        nearest = int(mates.magnitude().argmin())
        if np.cos(mates.magnitude()[nearest]) < np.cos(np.radians(reach_deg)) - 1e-6:
            continue
        weights = kept[row, near_t]
        turn += weights.sum() * mates[nearest].as_rotvec()
        offset += weights @ own.total_origin_A[near_t]
        total += weights.sum()
    return Rotation.from_rotvec(turn / total).as_matrix() @ candidates.rotations[o], offset / total


def outcome(
    seen: View,
    projections: np.ndarray,
    candidates: Candidates,
    model: Model,
    weights: np.ndarray,
    *,
    scale: float,
    prior_A: np.ndarray,
    log_evidence: float,
) -> Outcome:
    """All sums of one particle for given weights (n_o, n_t)."""
    trials = ramps(seen, candidates.shifts_A) * seen.masked
    contrast = seen.transfer * projections
    residual = sum(own @ np.abs(scale * one - trials) ** 2 for own, one in zip(weights, contrast, strict=True))
    noise = np.bincount(seen.shell, weights=residual, minlength=model.box_size // 2 + 1) + seen.outer_noise
    use = model.use_for_scale[seen.shell]
    cross = (contrast.conj() * (weights @ trials)).sum(axis=0).real
    power = weights.sum(axis=1) @ np.abs(contrast) ** 2
    total_origin = seen.old_origin_A + candidates.shifts_A
    variance = seen.sigma2 * (1.0 if seen.optics.is_premultiplied else seen.spread)
    gain, weight = scale * seen.transfer / variance, (scale * seen.transfer) ** 2 / variance
    if seen.optics.is_premultiplied:
        gain, weight = 1 / variance, scale * seen.transfer / variance
    best = np.unravel_index(np.argmax(weights), weights.shape)
    return Outcome(
        weights=weights,
        best=(int(best[0]), int(best[1])),
        log_evidence=log_evidence,
        noise=noise,
        norm_power=float(noise.sum()),
        scale_cross=float((use * cross).sum()),
        scale_power=float((use * power).sum()),
        offset_square=float((weights.sum(axis=0) * ((total_origin - prior_A) ** 2).sum(axis=1)).sum()),
        total_origin_A=total_origin,
        values=weights @ (ramps(seen, candidates.shifts_A) * seen.unmasked) * gain,
        sample_weights=weights.sum(axis=1)[:, None] * weight,
    )
