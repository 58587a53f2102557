"""Subtomogram averaging in a few minutes: tilt series, binning 4, recentring on a mask, binning 2, report."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from functools import partial
from typing import Annotated

from pydantic import model_validator

from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.io.atoms import demo_molecule
from napari_autorefine.io.files import replacing
from napari_autorefine.jobs.chained import Folders, step, told
from napari_autorefine.jobs.demo_sta_truth import (
    Recentring,
    Stage,
    compare,
    recentring_section,
    stage_verdict,
    summary_values,
    tilt_series_section,
)
from napari_autorefine.jobs.demo_truth import truth_section
from napari_autorefine.jobs.mask import MaskParams, mask
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.rebox import ReboxParams, rebox
from napari_autorefine.jobs.recenter import RecenterParams, recenter
from napari_autorefine.jobs.reconstruct_particle import ReconstructParticleParams, reconstruct_particle
from napari_autorefine.jobs.refine import RefineParams, refine
from napari_autorefine.jobs.report import ReportParams, report
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.jobs.subtomo import SubtomoParams, subtomo
from napari_autorefine.params import JobParams, Param

_SYMMETRY = "C2"
"""Of the refinements: the molecule is D2, but a map that lies too high leaves only the axis along z."""
_DIAMETER_A, _SHIFT_PX, _COARSE, _FINE = 190.0, 2.75, 4, 2
_MOST_DOSE, _BFACTOR_A2 = 60.0, 100.0


class DemoStaParams(JobParams):
    """Size of the demo."""

    output: Annotated[
        str, Param("Output", "Folder for tilt series and all jobs.", flags=("o",), file_kind="folder")
    ] = "demo_sta_output"
    n_particle: Annotated[int, Param("Particles", "Number of particles.", flags=("n",), minimum=8)] = 80
    tilt_series: Annotated[int, Param("Tilt series", "Number of tilt series.", minimum=1)] = 4
    tilt_step_deg: Annotated[float, Param("Tilt step", "Step between tilts.", unit="deg", minimum=1, maximum=20)] = 4.0
    pixel_size_A: Annotated[
        float,
        Param("Pixel size", "Pixel size of the tilt images.", unit="A", flags=("angpix",), minimum=1.0, maximum=6.0),
    ] = 2.5
    box_size: Annotated[
        int, Param("Box", "Box of the particles at binning 4.", unit="px", flags=("box",), minimum=16)
    ] = 32
    snr: Annotated[
        float,
        Param("Signal to noise", "Variance of signal over noise in the particle circle, per tilt image.", minimum=0.01),
    ] = 0.1
    seed: Annotated[int, Param("Random seed", "The same seed gives the same result.", minimum=0)] = 1
    threads: Annotated[int | None, Param("Threads", "CPU threads; by default all cores.", flags=("j",), minimum=1)] = (
        None
    )
    cpu: Annotated[bool, Param("No GPU", "Do not use a GPU.")] = False
    overwrite: Annotated[bool, Param("Overwrite", "Replace an earlier demo.")] = False

    @model_validator(mode="after")
    def _check_sizes(self) -> DemoStaParams:
        if self.box_size % 2:
            raise ValueError(f"box must be even, it is {self.box_size}")
        width, needed = self.box_size * _COARSE * self.pixel_size_A, _DIAMETER_A + 2 * self.shift_A
        if width < needed:
            raise ValueError(f"a box of {width:g} A is too small for the molecule, which needs {needed:g} A")
        if self.tilt_series > self.n_particle:
            raise ValueError(f"{self.n_particle} particles are too few for {self.tilt_series} tilt series")
        return self

    @property
    def shift_A(self) -> float:
        """How far the starting map lies too high."""
        return _SHIFT_PX * _COARSE * self.pixel_size_A


class _Folders(Folders):
    """Where each job of the demo puts its files."""

    __slots__ = ()

    @property
    def simulated(self) -> str:
        return self.of("simulate", "bgal")

    @property
    def tomograms(self) -> str:
        return f"{self.simulated}_tomograms.star"


@one_at_a_time
def demo_sta(params: DemoStaParams) -> Iterator[Event]:
    """Go from simulated tilt series of beta-galactosidase to a map at binning 2 and ``report.html``, job after job."""
    started = time.monotonic()
    folders = _Folders.fresh(params.output, first="simulate", overwrite=params.overwrite)
    text = f"Simulating {params.tilt_series} tilt series with {params.n_particle} particles of beta-galactosidase"
    yield Message(text=f"{text} (PDB 5A1A), pixels of {params.pixel_size_A:g} Å, signal-to-noise {params.snr:g}.")
    yield from told(simulate_atoms(demo_molecule(), _simulation(params, folders)))
    coarse = yield from _at_binning_4(params, folders)
    recentred = yield from _recentre(params, folders)
    fine = yield from _at_binning_2(params, folders)
    sections = [
        tilt_series_section(folders.tomograms, f"{folders.simulated}.star", _DIAMETER_A),
        recentring_section(recentred, coarse),
        truth_section(fine.comparison),
    ]
    verdicts = [stage_verdict(coarse), stage_verdict(fine)]
    page = yield from step("report", partial(report, extra=sections, verdicts=verdicts), _reporting(params, folders))
    summary = folders.root / "summary.json"
    values = summary_values(coarse, fine, recentred) | {"seconds": round(time.monotonic() - started)}
    with replacing(summary) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    outputs = page.outputs | {"map": f"{folders.of('refine_bin2')}/run_class001.mrc", "summary": str(summary)}
    yield Finished(text=_summary(fine, recentred, time.monotonic() - started), outputs=outputs, figures=values)


def _at_binning_4(params: DemoStaParams, folders: _Folders) -> Generator[Event, None, Stage]:
    """Refine the particles as they were picked, from a reference that lies too high."""
    refined = yield from step("refine", refine, _coarse_refinement(params, folders))
    yield from step(
        "report",
        report,
        ReportParams(
            folder=folders.of("refine_bin4"),
            output=str(folders.root / "report_bin4.html"),
            overwrite=params.overwrite,
        ),
    )
    return compare(
        refined.outputs,
        f"{folders.simulated}_truth.star",
        folders.tomograms,
        binning=_COARSE,
        bfactor_A2=_BFACTOR_A2,
    )


def _recentre(params: DemoStaParams, folders: _Folders) -> Generator[Event, None, Recentring]:
    """Move the particles onto a mask of the molecule, and see on a new map that they are there."""
    mask_path, moved = folders.of("mask", "mask.mrc"), folders.of("recenter", "particles.star")
    yield from step("mask", mask, _masking(params, folders))
    on_mask = RecenterParams(
        particles=folders.of("refine_bin4"),
        output=moved,
        mask=mask_path,
        map=folders.of("refine_bin4"),
        symmetry=_SYMMETRY,
        apply=True,
        overwrite=params.overwrite,
    )
    before = yield from step("recenter", recenter, on_mask)
    made = yield from step(
        "reconstruct_particle",
        reconstruct_particle,
        ReconstructParticleParams(
            particles=moved,
            tomograms=folders.tomograms,
            output=folders.of("reconstruct"),
            binning=_COARSE,
            box_size_px=_cut_box(params.box_size),
            crop_size_px=params.box_size,
            symmetry=_SYMMETRY,
            threads=params.threads or 0,
            overwrite=params.overwrite,
        ),
    )
    check = RecenterParams(mask=mask_path, map=made.outputs["map"], symmetry=_SYMMETRY)
    after = yield from step("recenter", recenter, check)
    return Recentring(
        before=f"{folders.of('refine_bin4')}/run_class001.mrc",
        after=made.outputs["map"],
        mask=mask_path,
        found_A=tuple(float(value) for value in before.figures["offset_A"]),
        left_A=tuple(float(value) for value in after.figures["offset_A"]),
        true_A=params.shift_A,
    )


def _at_binning_2(params: DemoStaParams, folders: _Folders) -> Generator[Event, None, Stage]:
    """Cut the recentred particles again, bring map and mask to their grid, and refine them."""
    size, voxel_A = params.box_size * _COARSE // _FINE, params.pixel_size_A * _FINE
    cut = SubtomoParams(
        particles=folders.of("recenter", "particles.star"),
        tomograms=folders.tomograms,
        output=folders.of("extract_bin2"),
        binning=_FINE,
        box_size_px=_cut_box(size),
        crop_size_px=size,
        max_dose_e_A2=_MOST_DOSE,
        threads=params.threads or 0,
        overwrite=params.overwrite,
    )
    yield from step("subtomo", subtomo, cut)
    for name, source in (("reference", folders.of("reconstruct", "merged.mrc")), ("mask", folders.of("mask"))):
        target = folders.of("rebox", f"{name}.mrc")
        yield from step(
            "rebox",
            rebox,
            ReboxParams(
                input=(source,), output=target, rescale_angpix=voxel_A, new_box=size, overwrite=params.overwrite
            ),
        )
    refined = yield from step("refine", refine, _fine_refinement(params, folders))
    truth = f"{folders.simulated}_truth.star"
    return compare(refined.outputs, truth, folders.tomograms, binning=_FINE, bfactor_A2=_BFACTOR_A2)


def _cut_box(size: int) -> int:
    """Return the box in which the CTF is applied: a third more, even."""
    return 2 * -(-size * 2 // 3)


def _simulation(params: DemoStaParams, folders: _Folders) -> SimulateParams:
    return SimulateParams(
        output=folders.simulated,
        symmetry="D2",
        tomo="2d",
        n_particle=params.n_particle,
        tilt_series=params.tilt_series,
        tilt_step_deg=params.tilt_step_deg,
        max_dose_e_A2=_MOST_DOSE,
        box_size=params.box_size,
        pixel_size_A=params.pixel_size_A,
        binning=_COARSE,
        particle_diameter_A=_DIAMETER_A,
        offset_sigma_A=6.0,
        bfactor_A2=_BFACTOR_A2,
        reference_shift_px=_SHIFT_PX,
        snr=params.snr,
        seed=params.seed,
        threads=params.threads or 0,
        overwrite=params.overwrite,
    )


def _coarse_refinement(params: DemoStaParams, folders: _Folders) -> RefineParams:
    """Return the first refinement: nothing is known of the orientations, and the map lies too high."""
    return RefineParams(
        optimisation_set=f"{folders.simulated}_optimisation_set.star",
        reference=f"{folders.simulated}_reference.mrc",
        output=folders.of("refine_bin4", "run"),
        ini_high_A=12.0 * params.pixel_size_A + 15.0,
        symmetry=_SYMMETRY,
        particle_diameter_A=_DIAMETER_A + 2 * params.shift_A,
        auto_local_healpix_order=3,
        threads=params.threads,
        cpu=params.cpu,
        random_seed=params.seed,
        overwrite=params.overwrite,
    )


def _fine_refinement(params: DemoStaParams, folders: _Folders) -> RefineParams:
    """Return the second one: searches are local from the beginning, within the mask."""
    return RefineParams(
        optimisation_set=folders.of("extract_bin2", "optimisation_set.star"),
        reference=folders.of("rebox", "reference.mrc"),
        mask=folders.of("rebox", "mask.mrc"),
        output=folders.of("refine_bin2", "run"),
        ini_high_A=10.0 * params.pixel_size_A,
        symmetry=_SYMMETRY,
        particle_diameter_A=_DIAMETER_A + 20.0,
        healpix_order=3,
        auto_local_healpix_order=3,
        offset_range_px=3.0,
        threads=params.threads,
        cpu=params.cpu,
        random_seed=params.seed,
        overwrite=params.overwrite,
    )


def _masking(params: DemoStaParams, folders: _Folders) -> MaskParams:
    """Return how the mask is made: centered on the molecule, as those of a project are."""
    return MaskParams(
        input=f"{folders.simulated}_truth.mrc",
        output=folders.of("mask", "mask.mrc"),
        lowpass_A=10.0 * params.pixel_size_A,
        extend_px=1.0,
        soft_edge_px=2.0,
        largest=True,
        threads=params.threads or 0,
        overwrite=params.overwrite,
    )


def _reporting(params: DemoStaParams, folders: _Folders) -> ReportParams:
    return ReportParams(
        folder=folders.of("refine_bin2"), output=str(folders.root / "report.html"), overwrite=params.overwrite
    )


def _summary(fine: Stage, recentred: Recentring, seconds: float) -> str:
    median, upper = fine.comparison.angle_deg
    truth_A = fine.comparison.resolution_A
    return (
        f"Offset {recentred.found_A[2]:.1f} Å found of {recentred.true_A:.1f} Å, {recentred.left_A[2]:.1f} Å left; at"
        f" binning 2 {fine.resolution_A:.2f} Å by the half-maps, {truth_A:.2f} Å against the truth; angular"
        f" error {median:.2f}° (median), {upper:.2f}° (90 %); {seconds:.0f} s in all."
    )
