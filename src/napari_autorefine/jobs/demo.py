"""A complete refinement in a few minutes: simulate, refine from a poor reference, report against the truth."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from napari_autorefine.engine.correlation import fsc
from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, IterationDone, Message
from napari_autorefine.io.atoms import demo_molecule
from napari_autorefine.io.mrc import read_volume, write_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs.measures import PoseErrors, molecule_mask, pose_errors
from napari_autorefine.jobs.plots import (
    IterationSummary,
    crossing_A,
    direction_figure,
    error_figure,
    fsc_figure,
    iterations_figure,
    save_figure,
    slices_figure,
)
from napari_autorefine.jobs.refine import RefineParams, refine
from napari_autorefine.jobs.render import map_figure
from napari_autorefine.jobs.report import Report, write_report
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.symmetry import point_group
from napari_autorefine.params import JobParams, Param

_SYMMETRY, _DIAMETER_A, _REFERENCE_A, _WRONG_SCALE = "D2", 190.0, 30.0, 3.0


class DemoParams(JobParams):
    """Size of the demo."""

    output: Annotated[
        str, Param("Output", "Folder for particles, refinement and report.", flags=("o",), file_kind="write")
    ] = "demo_output"
    n_particle: Annotated[int, Param("Particles", "Number of particles.", flags=("n",), minimum=50)] = 800
    box_size: Annotated[int, Param("Box", "Box size, even.", unit="px", flags=("box",), minimum=32)] = 80
    pixel_size_A: Annotated[
        float, Param("Pixel size", "Pixel size.", unit="A", flags=("angpix",), minimum=1.0, maximum=8.0)
    ] = 2.6
    snr: Annotated[
        float, Param("Signal to noise", "Variance of signal over noise in the particle circle.", minimum=0.01)
    ] = 0.1
    seed: Annotated[int, Param("Random seed", "The same seed gives the same result.", minimum=0)] = 1
    threads: Annotated[int | None, Param("Threads", "CPU threads; by default all cores.", flags=("j",), minimum=1)] = (
        None
    )
    cpu: Annotated[bool, Param("No GPU", "Do not use a GPU.")] = False
    overwrite: Annotated[bool, Param("Overwrite", "Replace an earlier demo.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paths:
    folder: Path

    @property
    def particles(self) -> str:
        return str(self.folder / "particles" / "betagal")

    @property
    def reference(self) -> str:
        return str(self.folder / "particles" / "reference.mrc")

    @property
    def run(self) -> str:
        return str(self.folder / "refine" / "run")

    def figure(self, name: str) -> str:
        return str(self.folder / "report" / f"{name}.png")


def demo(params: DemoParams) -> Iterator[Event]:
    """Simulate beta-galactosidase particles, refine them to convergence, and write ``report/report.html``."""
    started = time.monotonic()
    paths = _Paths(folder=Path(params.output))
    if (paths.folder / "particles").exists() and not params.overwrite:
        raise InputError(f"Output {paths.folder} exists; choose another --o or add --overwrite.")
    text = f"Simulating {params.n_particle} particles of beta-galactosidase (PDB 5A1A), {params.box_size} px"
    yield Message(text=f"{text} of {params.pixel_size_A:g} Å, signal-to-noise ratio {params.snr:g}.")
    for event in simulate_atoms(demo_molecule(), _simulation(params, paths)):
        if not isinstance(event, Finished):
            yield event
    _write_reference(paths)
    yield Message(text=f"Reference: the truth low-passed to {_REFERENCE_A:g} Å, times {_WRONG_SCALE:g}.")
    history = yield from _refine(params, paths)
    yield Message(text="Comparing with the truth and drawing the report.")
    yield _report(paths, history, started)


def _simulation(params: DemoParams, paths: _Paths) -> SimulateParams:
    return SimulateParams(
        output=paths.particles,
        symmetry=_SYMMETRY,
        n_particle=params.n_particle,
        box_size=params.box_size,
        pixel_size_A=params.pixel_size_A,
        particle_diameter_A=_DIAMETER_A,
        optics_groups=2,
        groups=8,
        snr=params.snr,
        seed=params.seed,
        threads=params.threads or 0,
        overwrite=params.overwrite,
    )


def _write_reference(paths: _Paths) -> None:
    """Write a low-passed truth on a wrong grey scale: what a user has at this point of a project."""
    truth = read_volume(f"{paths.particles}_truth.mrc")
    start = low_pass_map(truth.data, _REFERENCE_A, truth.voxel_size_A) * np.float32(_WRONG_SCALE)
    write_volume(paths.reference, start, truth.voxel_size_A)


def _refine(params: DemoParams, paths: _Paths) -> Generator[Event, None, list[IterationDone]]:
    """Refine to convergence; return what every iteration reported."""
    history: list[IterationDone] = []
    refine_params = RefineParams(
        particles=f"{paths.particles}.star",
        reference=paths.reference,
        output=paths.run,
        ini_high_A=_REFERENCE_A,
        symmetry=_SYMMETRY,
        particle_diameter_A=_DIAMETER_A,
        threads=params.threads,
        cpu=params.cpu,
        random_seed=params.seed,
        overwrite=params.overwrite,
    )
    for event in refine(refine_params):
        if isinstance(event, IterationDone):
            history.append(event)
        if not isinstance(event, Finished):
            yield event
    return history


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result:
    """Maps, curves and errors of the finished run."""

    joined: np.ndarray
    half: np.ndarray
    truth: np.ndarray
    voxel_size_A: float
    curves: dict[str, np.ndarray]
    errors: PoseErrors
    euler_deg: np.ndarray


def _measure(paths: _Paths) -> _Result:
    truth, joined = read_volume(f"{paths.particles}_truth.mrc"), read_volume(f"{paths.run}_class001.mrc")
    halves = [read_volume(f"{paths.run}_half{number}_class001_unfil.mrc").data for number in (1, 2)]
    mask = molecule_mask(truth.data, truth.voxel_size_A)
    found = read_particles(f"{paths.run}_data.star")
    curves = {
        "half-maps": fsc(halves[0], halves[1]),
        "half-maps, masked": fsc(halves[0], halves[1], mask),
        "map and truth": fsc(joined.data, truth.data, mask),
    }
    return _Result(
        joined=joined.data,
        half=halves[0],
        truth=truth.data,
        voxel_size_A=truth.voxel_size_A,
        curves=curves,
        errors=pose_errors(found, read_particles(f"{paths.particles}_truth.star"), point_group(_SYMMETRY)),
        euler_deg=found.euler_deg,
    )


def _summary(result: _Result, history: list[IterationDone], seconds: float) -> dict[str, str]:
    """Return the figures of merit by name, as shown in the report."""
    errors, voxel = result.errors, result.voxel_size_A
    resolution = {
        name: crossing_A(curve, voxel, threshold=0.5 if "truth" in name else 0.143)
        for name, curve in result.curves.items()
    }
    median, upper = np.percentile(errors.angle_deg, (50, 90))
    return {
        "Particles": f"{len(errors.angle_deg)}",
        "Iterations": f"{len(history)}",
        "Gold-standard resolution, FSC 0.143": f"{resolution['half-maps']:.2f} Å",
        "… within a mask around the molecule": f"{resolution['half-maps, masked']:.2f} Å",
        "Map against the truth, FSC 0.5": f"{resolution['map and truth']:.2f} Å",
        "Limit of the pixel size (Nyquist)": f"{2 * voxel:.2f} Å",
        "Angular error, median and 90th percentile": f"{median:.2f}° and {upper:.2f}°",
        "Offset error, root mean square": f"{errors.offset_rms_A:.2f} Å",
        "Time, simulation and refinement": f"{seconds:.0f} s",
    }


def _report(paths: _Paths, history: list[IterationDone], started: float) -> Finished:
    if not history:
        raise InputError("The refinement made no iteration; remove the output folder and start the demo again.")
    result = _measure(paths)
    summary = _summary(result, history, time.monotonic() - started)
    resolution = summary["Gold-standard resolution, FSC 0.143"]
    figures = {
        "map": map_figure(result.joined, title=f"Refined map, {resolution}"),
        "fsc": fsc_figure(result.curves, result.voxel_size_A, title="Fourier shell correlation"),
        "slices": slices_figure(
            {"refined": result.joined, "truth": result.truth}, result.voxel_size_A, title="Central sections"
        ),
        "iterations": iterations_figure([_point(event) for event in history], title="Resolution"),
        "errors": error_figure(result.errors.angle_deg, result.errors.offset_A, title="Errors against the truth"),
        "directions": direction_figure(
            result.euler_deg, operators=point_group(_SYMMETRY).operators, title="Viewing directions, D2 applied"
        ),
    }
    files = {name: save_figure(figure, paths.figure(name)) for name, figure in figures.items()}
    report = Report(
        title="Auto-refinement demo: beta-galactosidase",
        text="Particles were simulated from PDB 5A1A with CTF and noise, in two optics groups. The refinement started"
        f" from the truth low-passed to {_REFERENCE_A:g} Å on a wrong grey scale and converged by itself.",
        summary=summary,
        figures=files,
    )
    written = write_report(paths.folder / "report" / "report", report)
    sentence = (
        f"{resolution} gold-standard; angular error {summary['Angular error, median and 90th percentile']};"
        f" {summary['Time, simulation and refinement']}."
    )
    return Finished(text=sentence, outputs=written | {"map": f"{paths.run}_class001.mrc"}, figures=dict(files))


def _point(event: IterationDone) -> IterationSummary:
    return IterationSummary(
        iteration=event.iteration,
        resolution_A=event.resolution_A,
        angular_step_deg=event.angular_step_deg,
        accuracy_rot_deg=event.accuracy_rot_deg,
        is_local=event.is_local,
    )
