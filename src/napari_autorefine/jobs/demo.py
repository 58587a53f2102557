"""The whole path in a few minutes: micrographs, extraction, reference, refinement, mask, sharpening, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import model_validator

from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.io.atoms import demo_molecule
from napari_autorefine.io.star import read_particles, read_star
from napari_autorefine.jobs.chained import Folders, step, told
from napari_autorefine.jobs.demo_truth import Comparison, compare, micrograph_section, truth_section, verdict_of
from napari_autorefine.jobs.extract import ExtractParams, extract
from napari_autorefine.jobs.mask import MaskParams, mask
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.postprocess import PostprocessParams, postprocess
from napari_autorefine.jobs.rebox import ReboxParams, rebox
from napari_autorefine.jobs.refine import RefineParams, refine
from napari_autorefine.jobs.report import ReportParams, report
from napari_autorefine.jobs.report_page import Section
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.params import JobParams, Param

_SYMMETRY, _DIAMETER_A, _INI_HIGH_A, _BINNING = "D2", 190.0, 30.0, 2


class DemoParams(JobParams):
    """Size of the demo."""

    output: Annotated[
        str, Param("Output", "Folder for micrographs and all jobs.", flags=("o",), file_kind="folder")
    ] = "demo_output"
    n_particle: Annotated[int, Param("Particles", "Number of particles.", flags=("n",), minimum=50)] = 800
    micrographs: Annotated[int, Param("Micrographs", "Number of micrographs.", minimum=2)] = 8
    pixel_size_A: Annotated[
        float,
        Param("Pixel size", "Pixel size of the micrographs.", unit="A", flags=("angpix",), minimum=0.5, maximum=6.0),
    ] = 2.0
    box_size: Annotated[
        int, Param("Box", "Box cut from the micrographs, a multiple of 4.", unit="px", flags=("box",), minimum=32)
    ] = 116
    scaled_size: Annotated[
        int, Param("Scaled box", "The box is resampled to this size, even.", unit="px", flags=("scale",), minimum=32)
    ] = 88
    snr: Annotated[
        float, Param("Signal to noise", "Variance of signal over noise in the particle circle.", minimum=0.01)
    ] = 0.12
    seed: Annotated[int, Param("Random seed", "The same seed gives the same result.", minimum=0)] = 1
    threads: Annotated[int | None, Param("Threads", "CPU threads; by default all cores.", flags=("j",), minimum=1)] = (
        None
    )
    cpu: Annotated[bool, Param("No GPU", "Do not use a GPU.")] = False
    overwrite: Annotated[bool, Param("Overwrite", "Replace an earlier demo.")] = False

    @model_validator(mode="after")
    def _check_sizes(self) -> DemoParams:
        if self.box_size % (2 * _BINNING) or self.scaled_size % 2:
            raise ValueError(f"box must be a multiple of {2 * _BINNING} and scale even")
        if self.scaled_size > self.box_size:
            raise ValueError(f"scale {self.scaled_size} is larger than box {self.box_size}")
        return self

    @property
    def scaled_A(self) -> float:
        """Pixel size of the extracted particles."""
        return self.pixel_size_A * self.box_size / self.scaled_size


class _Folders(Folders):
    """Where each job of the demo puts its files."""

    __slots__ = ()

    @property
    def simulated(self) -> str:
        return self.of("simulate", "betagal")


@one_at_a_time
def demo(params: DemoParams) -> Iterator[Event]:
    """Go from simulated micrographs of beta-galactosidase to a sharpened map and ``report.html``, job after job."""
    started = time.monotonic()
    folders = _Folders.fresh(params.output, first="simulate", overwrite=params.overwrite)
    text = f"Simulating {params.micrographs} micrographs with {params.n_particle} particles of beta-galactosidase"
    yield Message(text=f"{text} (PDB 5A1A), pixels of {params.pixel_size_A:g} Å, signal-to-noise {params.snr:g}.")
    yield from told(simulate_atoms(demo_molecule(), _simulation(params, folders)))
    cut = yield from step("extract", extract, _extraction(params, folders))
    yield from step("rebox", rebox, _reboxing(params, folders))
    refined = yield from step("refine", refine, _refinement(params, folders))
    yield from step("mask", mask, _masking(params, folders))
    sharpened = yield from step("postprocess", postprocess, _sharpening(params, folders))
    found = compare(
        sharpened.outputs["map"], refined.outputs["particles"], f"{folders.simulated}_truth", point_group(_SYMMETRY)
    )
    extra = [_micrographs(folders, cut.outputs["montage"]), truth_section(found)]
    with_truth = partial(report, extra=extra, verdicts=[verdict_of(found)])
    page = yield from step("report", with_truth, _reporting(params, folders))
    outputs = page.outputs | {"map": sharpened.outputs["map"]}
    yield Finished(text=_summary(sharpened.outputs["star"], found, time.monotonic() - started), outputs=outputs)


def _simulation(params: DemoParams, folders: _Folders) -> SimulateParams:
    return SimulateParams(
        output=folders.simulated,
        symmetry=_SYMMETRY,
        n_particle=params.n_particle,
        micrographs=params.micrographs,
        box_size=params.box_size,
        pixel_size_A=params.pixel_size_A,
        particle_diameter_A=_DIAMETER_A,
        optics_groups=2,
        earlier_binning=_BINNING,
        snr=params.snr,
        seed=params.seed,
        threads=params.threads or 0,
        overwrite=params.overwrite,
    )


def _extraction(params: DemoParams, folders: _Folders) -> ExtractParams:
    """Cut the particles out again around the centers that the earlier refinement found."""
    return ExtractParams(
        micrographs=f"{folders.simulated}_micrographs.star",
        refined_particles=f"{folders.simulated}_earlier.star",
        output=folders.of("extract"),
        box_size_px=params.box_size,
        scale_size_px=params.scaled_size,
        recenter=True,
        threads=params.threads or 0,
        overwrite=params.overwrite,
    )


def _reboxing(params: DemoParams, folders: _Folders) -> ReboxParams:
    """Bring the map of the earlier refinement to the pixel size and box of the particles."""
    return ReboxParams(
        input=(f"{folders.simulated}_earlier.mrc",),
        output=folders.of("rebox", "reference.mrc"),
        rescale_angpix=params.scaled_A,
        new_box=params.scaled_size,
        force_header_angpix=params.scaled_A,
        overwrite=params.overwrite,
    )


def _refinement(params: DemoParams, folders: _Folders) -> RefineParams:
    return RefineParams(
        particles=folders.of("extract"),
        reference=folders.of("rebox", "reference.mrc"),
        output=folders.of("refine", "run"),
        ini_high_A=_INI_HIGH_A,
        symmetry=_SYMMETRY,
        particle_diameter_A=_DIAMETER_A,
        threads=params.threads,
        cpu=params.cpu,
        random_seed=params.seed,
        overwrite=params.overwrite,
    )


def _masking(params: DemoParams, folders: _Folders) -> MaskParams:
    return MaskParams(
        input=folders.of("refine"),
        output=folders.of("mask", "mask.mrc"),
        soft_edge_px=5.0,
        largest=True,
        threads=params.threads or 0,
        overwrite=params.overwrite,
    )


def _sharpening(params: DemoParams, folders: _Folders) -> PostprocessParams:
    """Sharpen; the line of the Guinier plot begins at 10 Å unless the pixels are too large for it."""
    return PostprocessParams(
        half1=folders.of("refine"),
        mask=folders.of("mask"),
        output=folders.of("postprocess", "postprocess"),
        autob_lowres_A=max(10.0, 3.2 * params.scaled_A),
        threads=params.threads or 0,
        overwrite=params.overwrite,
    )


def _reporting(params: DemoParams, folders: _Folders) -> ReportParams:
    return ReportParams(
        folder=folders.of("refine"),
        postprocess=folders.of("postprocess"),
        output=str(folders.root / "report.html"),
        overwrite=params.overwrite,
    )


def _micrographs(folders: _Folders, montage: str) -> Section:
    """Return the section on the first micrograph, with the centers of the earlier refinement."""
    earlier = read_particles(f"{folders.simulated}_earlier.star")
    name = earlier.micrograph_name[0]
    mine = earlier.micrograph_name == name
    coordinates = earlier.table.loc[mine, ["rlnCoordinateX", "rlnCoordinateY"]].to_numpy(np.float64)
    header_A = earlier.optics[0].pixel_size_A / _BINNING
    centers = coordinates - earlier.origin_A[mine] / header_A
    return micrograph_section(str(name), centers, _DIAMETER_A, Path(montage).read_bytes())


def _summary(postprocess_star: str, found: Comparison, seconds: float) -> str:
    general = read_star(postprocess_star).pairs("general") or {}
    median, upper = found.angle_deg
    return (
        f"{float(general['rlnFinalResolution']):.2f} Å by the half-maps in the mask, {found.resolution_A:.2f} Å against"
        f" the truth; angular error {median:.2f}° (median), {upper:.2f}° (90 %); {seconds:.0f} s in all."
    )
