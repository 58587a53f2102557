"""Plain sentences on a refinement: has it converged, how good is it, what should be looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from napari_autorefine.engine.sampling_score import SamplingScore, sampling_score
from napari_autorefine.errors import InputError
from napari_autorefine.jobs.plots import shell_resolution_A
from napari_autorefine.jobs.report_data import UNKNOWN, Run
from napari_autorefine.jobs.report_maps import Curves, PostProcess
from napari_autorefine.jobs.report_page import Verdict
from napari_autorefine.model.geometry import euler_to_matrix
from napari_autorefine.model.symmetry import PointGroup, point_group

_NYQUIST_MARGIN = 1.06
_GOOD_SCORE, _POOR_SCORE = 0.78, 0.5  # side views alone, which are enough, have 0.81
_LOW_FSC, _TAIL_FSC = 0.7, 0.1
_LOW_RESOLUTION_A = 20.0
_POOR_ACCURACY_DEG = 10.0
_ODD_SCALE = (0.5, 2.0)
_FAR_OFFSET_PX = 2.0
_UNEVEN_HALVES, _BY_CHANCE = 0.1, 3.0
_FEW = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Directions of view of a run: of its particles, or of the sampling grid with the share of each direction."""

    euler_deg: np.ndarray
    weight: np.ndarray | None
    source: str


def views_of(run: Run) -> Views | None:
    """Return the views of the particles, else the distribution in the model file, or None."""
    labels = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
    if run.particles is not None and len(run.particles) and all(label in run.particles for label in labels):
        return Views(euler_deg=run.particles.stacked(labels), weight=None, source="best orientations of the particles")
    weight = run.models[0].direction_weight if run.models else None
    directions = run.directions_deg
    if weight is None or directions is None or len(weight) != len(directions) or weight.sum() <= 0:
        return None
    euler = np.column_stack([directions, np.zeros(len(directions))])
    return Views(euler_deg=euler, weight=weight, source="shares per direction in the model file")


def group_of(run: Run) -> PointGroup:
    """Return the point group of a run; C1 for one that is not known here."""
    try:
        return point_group(run.symmetry)
    except InputError:
        return point_group("C1")


def score_of(run: Run, views: Views | None) -> SamplingScore | None:
    """Return the sampling score of single particles; tomographic ones have no single direction of view."""
    if views is None or run.is_tomography:
        return None
    return sampling_score(euler_to_matrix(views.euler_deg)[:, 2], group_of(run).operators, weight=views.weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was worked out for a report, None where a file is missing."""

    run: Run
    curves: Curves | None
    views: Views | None
    score: SamplingScore | None
    postprocess: PostProcess | None


def verdicts_of(found: Findings) -> tuple[Verdict, ...]:
    """Return the sentences on a run, the most important first."""
    made = (
        _convergence(found.run),
        _resolution(found),
        _nyquist(found),
        _orientations(found),
        _low_frequencies(found),
        _tail(found),
        _accuracy(found.run),
        *_particles(found.run),
        _greyscale(found.run),
        _set_aside(found.run),
    )
    return tuple(verdict for verdict in made if verdict is not None)


def _times(count: float, word: str) -> str:
    return f"{count:.0f} {word}{'' if count == 1 else 's'}"


def _convergence(run: Run) -> Verdict | None:
    numbered = [one for one in run.iterations if one.number]
    n = max((one.number or 0 for one in numbered), default=0)
    no_gain, no_change = (
        run.option(f"rlnNumberOfIter{name}") for name in ("WithoutResolutionGain", "WithoutChangingAssignments")
    )
    reasons = []
    if no_gain > 0:
        reasons.append(f"the resolution had not improved for {_times(no_gain, 'iteration')}")
    if no_change > 0:
        reasons.append(f"orientations and offsets had settled for {_times(no_change, 'iteration')}")
    because = " and ".join(reasons)
    if run.is_final:
        return _ending(run, n, because)
    if not run.iterations:
        return None
    state = f" So far, {because}." if because else ""
    text = f"The newest files are of iteration {n}: the run is going on, or was stopped.{state}"
    where = run.files.get("optimiser")
    more = f" To go on: autorefine refine --continue {where}" if where is not None else ""
    return Verdict(level="warning", headline="Not finished.", text=text + more)


def _ending(run: Run, n: int, because: str) -> Verdict:
    """Return the sentence on a run whose final model is there; RELION 3.1 leaves no optimiser file of the end."""
    after = f"after {_times(n, 'iteration')}" if n else ""
    text = f"{after}: {because}" if after and because else after or because
    text = f"{text[:1].upper()}{text[1:]}. " if text else ""
    joined = "In the last iteration all particles were joined and used at all frequencies."
    is_known = run.option("rlnCurrentIteration") < 0
    if not is_known:
        return Verdict(level="good", headline="Finished.", text=text + joined)
    if run.option("rlnHasConverged") == 1:
        return Verdict(level="good", headline="Converged.", text=text + joined)
    text += "The final map was made before the criteria of convergence were met, by force or by a limit."
    return Verdict(level="warning", headline="Ended without convergence.", text=text)


def best_resolution(found: Findings) -> tuple[float, str] | None:
    """Return the resolution to quote and how it was measured: corrected for a mask where possible."""
    post = found.postprocess
    if post is not None and "rlnFinalResolution" in post.general:
        return float(str(post.general["rlnFinalResolution"])), "masked and corrected, by the post-processing"
    curves = found.curves
    if curves is not None and "masked, corrected" in curves.curves:
        value = shell_resolution_A(curves.curves["masked, corrected"], curves.voxel_size_A)
        return value, f"within the mask {curves.mask}, corrected"
    value = found.run.iterations[-1].resolution_A if found.run.iterations else math.nan
    if math.isfinite(value):
        how = "corrected for the mask" if found.run.option("rlnDoSolventFscCorrection") == 1 else "without a mask"
        return value, f"between half-maps, {how}"
    return None


def _criterion(found: Findings) -> str:
    """Return the FSC at which the refinement reads its own resolution: 0.143 in the end, 0.5 before."""
    return "0.143" if found.run.iterations and found.run.iterations[-1].number is None else "0.5"


def _resolution(found: Findings) -> Verdict | None:
    best = best_resolution(found)
    if best is None:
        return None
    plain = found.run.iterations[-1].resolution_A if found.run.iterations else math.nan
    is_own = "between half-maps" in best[1]
    text = f"Where the FSC falls to {_criterion(found) if is_own else '0.143'}, {best[1]}."
    if math.isfinite(plain) and not is_own:
        text += f" The refinement itself says {plain:.2f} Å, at {_criterion(found)} and without post-processing."
    curve = _plain_curve(found)
    if is_own and _criterion(found) == "0.5" and curve is not None:
        text += f" At 0.143 it is {shell_resolution_A(*curve):.2f} Å."
    elif "without a mask" in best[1]:
        text += " Solvent lowers it: with --mask or --postprocess this page shows the resolution of the particle."
    return Verdict(level="good", headline=f"Resolution {best[0]:.2f} Å.", text=text)


def _nyquist(found: Findings) -> Verdict | None:
    best, voxel = best_resolution(found), found.run.voxel_size_A
    if best is None or not math.isfinite(voxel) or best[0] > 2 * voxel * _NYQUIST_MARGIN:
        return None
    text = f"It reaches the Nyquist limit of {2 * voxel:.2f} Å; particles extracted with smaller pixels may show more."
    return Verdict(level="note", headline="The pixel size limits the resolution.", text=text)


def _orientations(found: Findings) -> Verdict | None:
    score = found.score
    if score is None:
        return None
    text = f"Sampling compensation factor {score.scf:.2f} (1: even sampling of Fourier space; 0.81: side views only)"
    if score.scf >= _GOOD_SCORE:
        return Verdict(level="good", headline="Views are spread well.", text=f"{text}.")
    missing = f", {100 * score.unsampled:.0f} % of the directions unsampled" if score.unsampled >= 0.005 else ""
    more = f"; an even spread would reach the same signal with {100 * score.scf:.0f} % of the particles."
    if score.scf >= _POOR_SCORE:
        return Verdict(level="note", headline="Some views are rare.", text=text + missing + more)
    headline = "Views are spread badly."
    advice = " Expect a map that is smeared in one direction; look at sections and at the FSC by direction."
    return Verdict(level="warning", headline=headline, text=text + missing + more + advice)


def _plain_curve(found: Findings) -> tuple[np.ndarray, float] | None:
    if found.curves is None:
        return None
    return next(iter(found.curves.curves.values())), found.curves.voxel_size_A


def _low_frequencies(found: Findings) -> Verdict | None:
    """Judge the FSC between the frequencies that are joined and 20 Å, or twice the resolution."""
    plain = _plain_curve(found)
    if plain is None:
        return None
    fsc, voxel = plain
    box_A = 2 * (len(fsc) - 1) * voxel
    join = found.run.option("rlnJoinHalvesUntilThisResolution")
    first = max(2, math.ceil(box_A / join) + 1 if join > 0 else 2)
    last = int(box_A / max(_LOW_RESOLUTION_A, 2 * shell_resolution_A(fsc, voxel)))
    if last < first:
        return None
    worst = first + int(np.argmin(fsc[first : last + 1]))
    if fsc[worst] >= _LOW_FSC:
        return None
    text = (
        f"Their FSC is {fsc[worst]:.2f} already at {box_A / worst:.1f} Å: few, mixed or wrongly scaled particles, or"
        " wrong poses; compare the sections of both halves."
    )
    return Verdict(level="warning", headline="The half-maps differ at low resolution.", text=text)


def _tail(found: Findings) -> Verdict | None:
    """Judge the FSC where no signal is expected: it must fall to zero."""
    plain = _plain_curve(found)
    if plain is None:
        return None
    fsc, voxel = plain
    shell = round(2 * (len(fsc) - 1) * voxel / shell_resolution_A(fsc, voxel))
    tail = fsc[max(int(1.3 * shell), len(fsc) * 3 // 4) : -1]
    if len(tail) < 4 or tail.mean() < _TAIL_FSC:
        return None
    text = (
        f"Its mean is {tail.mean():.2f} beyond the resolution: images may be in both half-sets, or the maps were masked"
        " or filtered."
    )
    return Verdict(level="warning", headline="The FSC does not fall to zero.", text=text)


def _accuracy(run: Run) -> Verdict | None:
    known = [one for one in run.iterations if 0 < one.accuracy_rot_deg < UNKNOWN]
    if not known:
        return None
    last = known[-1]
    text = f"Expected errors are {last.accuracy_rot_deg:.2f}° and {last.accuracy_trans_A:.2f} Å"
    if last.accuracy_rot_deg > _POOR_ACCURACY_DEG:
        more = ": the map hardly tells orientations apart; look at the map before the resolution."
        return Verdict(level="warning", headline="Orientations are uncertain.", text=text + more)
    step = last.angular_step_deg
    if not math.isfinite(step):
        return Verdict(level="note", headline="Accuracy.", text=f"{text}.")
    kind = "locally " if last.is_local else "over all orientations "
    more = f"; the last search went {kind}in steps of {step:.2f}° and {last.offset_step_A:.2f} Å."
    return Verdict(level="good" if last.is_local else "note", headline="Accuracy.", text=text + more)


def _particles(run: Run) -> Iterator[Verdict]:
    particles = run.particles
    if particles is None or len(particles) == 0:
        return
    half = particles.integers("rlnRandomSubset", 0)
    counts = [int((half == number).sum()) for number in (1, 2)]
    is_uneven = max(counts) - min(counts) > max(_UNEVEN_HALVES * min(counts), _BY_CHANCE * math.sqrt(sum(counts)))
    if min(counts) > 0 and is_uneven:
        text = f"{counts[0]} and {counts[1]} particles: their maps are not of one quality."
        yield Verdict(level="note", headline="The half-sets are uneven.", text=text)
    yield from _repeated(run, half)
    point, pixel = picked_point_A(run), run.voxel_size_A
    if point is not None and math.isfinite(pixel) and np.linalg.norm(point) > _FAR_OFFSET_PX * pixel:
        place = ", ".join(f"{value:.1f}" for value in point)
        text = f"On average images are centred on ({place}) Å (x, y, z) of the map; extract again with refined centres."
        yield Verdict(level="note", headline="Particles were picked off their centre.", text=text)


def _repeated(run: Run, half: np.ndarray) -> Iterator[Verdict]:
    if run.particles is None or "rlnImageName" not in run.particles:
        return
    names = run.particles.texts("rlnImageName").astype(str)
    _, index, count = np.unique(names, return_inverse=True, return_counts=True)
    n_twice = int((count > 1).sum())
    if not n_twice:
        return
    mixed = int(((np.bincount(index, half == 1) > 0) & (np.bincount(index, half == 2) > 0)).sum())
    text = f"{n_twice} images occur more than once, {mixed} of them in both half-sets"
    more = ": the FSC is too good; remove duplicates and refine again." if mixed else "."
    yield Verdict(level="warning" if mixed else "note", headline="Repeated images.", text=text + more)


def picked_point_A(run: Run) -> np.ndarray | None:
    """Return the point of the map (x, y, z in Å from its centre) that images are centred on, on average, (3,).

    Least squares over all particles of ``A[:2] point = -offset``; directions that the symmetry fixes are left out. None
    for tomograms, without poses, and where it does not differ from the centre by three standard errors.
    """
    particles = run.particles
    if particles is None or len(particles) < _FEW or run.is_tomography or "rlnOriginXAngst" not in particles:
        return None
    matrices = euler_to_matrix(particles.stacked(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")))[:, :2]
    offsets = particles.stacked(("rlnOriginXAngst", "rlnOriginYAngst"))
    free = np.round(group_of(run).operators.mean(axis=0), 9)
    point: np.ndarray = free @ np.linalg.lstsq((matrices @ free).reshape(-1, 3), -offsets.ravel(), rcond=1e-6)[0]
    error = float(np.sqrt(np.mean(offsets**2) * 3 / len(offsets)))
    return point if np.linalg.norm(point) > 3 * error else None


def odd_groups(run: Run) -> Mapping[str, float]:
    """Return scale groups whose greyscale factor is far from 1, the farthest first."""
    groups = run.models[0].groups if run.models else None
    if groups is None or "rlnGroupScaleCorrection" not in groups:
        return {}
    scale, count = groups.numbers("rlnGroupScaleCorrection"), groups.numbers("rlnGroupNrParticles", 1.0)
    names = groups.texts("rlnGroupName")
    odd = [n for n in np.flatnonzero(count > 0) if not _ODD_SCALE[0] <= scale[n] <= _ODD_SCALE[1]]
    odd.sort(key=lambda n: -abs(math.log(max(float(scale[n]), 1e-3))))
    return {str(names[n]): float(scale[n]) for n in odd}


def _greyscale(run: Run) -> Verdict | None:
    odd = odd_groups(run)
    if not odd:
        return None
    named = ", ".join(f"{name} ({scale:.2f})" for name, scale in list(odd.items())[:4])
    more = f" and {len(odd) - 4} more" if len(odd) > 4 else ""
    text = f"Greyscale factors far from 1: {named}{more}. Thick ice, wrong normalisation, or few particles."
    return Verdict(level="note", headline="Some micrographs differ in contrast.", text=text)


def _set_aside(run: Run) -> Verdict | None:
    if run.excluded is None or len(run.excluded) == 0:
        return None
    text = "They could not be used and took no part; they are listed below."
    n = len(run.excluded)
    return Verdict(level="note", headline=f"{n} image{'s were' if n > 1 else ' was'} set aside.", text=text)
