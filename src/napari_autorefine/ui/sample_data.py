"""File > Open Sample: data made on the fly from the molecule that comes with the package.

Files are kept in the user's cache, so that jobs can read them and a second time costs nothing.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from napari import current_viewer
from qtpy.QtCore import QEventLoop
from qtpy.QtWidgets import QApplication

from napari_autorefine.engine.masking import low_pass_map
from napari_autorefine.errors import InputError
from napari_autorefine.io.atoms import demo_molecule
from napari_autorefine.io.mrc import read_volume, write_volume
from napari_autorefine.io.tables import read_star
from napari_autorefine.jobs.measures import molecule_mask
from napari_autorefine.jobs.simulate import simulate_atoms
from napari_autorefine.jobs.simulate_params import SimulateParams
from napari_autorefine.model.atoms import AtomProjector
from napari_autorefine.ui.latest_worker import Failure, LatestWorker
from napari_autorefine.ui.layers_of_maps import LayerData, map_layer
from napari_autorefine.ui.layers_of_particles import image_layer_of
from napari_autorefine.ui.layers_of_runs import hidden
from napari_autorefine.ui.notices import show_info, show_warning
from napari_autorefine.ui.star_tables import rows_with
from napari_autorefine.ui.world import prepare_viewer

BOX, VOXEL_SIZE_A = 64, 3.54
_VERSION = "1"
_N_PARTICLE, _LOW_PASS_A = 200, 30.0
_MAP_BFACTOR_A2 = 250.0


def cache_folder() -> Path:
    """Return the folder for samples in the user's cache; ``AUTOREFINE_CACHE`` names another one."""
    named = os.environ.get("AUTOREFINE_CACHE")
    if named:
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "napari-autorefine" / f"samples-{_VERSION}"


def sample_folder() -> Path:
    """Return the folder for samples, one of temporary files where the cache cannot be written."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        show_warning(f"{folder} cannot be written; samples go to a temporary folder.")
        return _temporary_folder()
    return folder


@functools.cache
def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="napari-autorefine-"))


def make_map_and_mask(folder: Path) -> tuple[Path, Path]:
    """Write ``betagal.mrc`` and ``betagal_mask.mrc``, 64 px of 3.54 Å, unless they are there; return them."""
    map_path, mask_path = folder / "betagal.mrc", folder / "betagal_mask.mrc"
    if not map_path.is_file():
        molecule = AtomProjector(demo_molecule(), box_size=BOX, pixel_size_A=VOXEL_SIZE_A, bfactor_A2=_MAP_BFACTOR_A2)
        write_volume(map_path, molecule.density(threads=os.cpu_count() or 1), VOXEL_SIZE_A)
    if not mask_path.is_file():
        volume = read_volume(map_path)
        write_volume(mask_path, molecule_mask(volume.data, volume.voxel_size_A), volume.voxel_size_A)
    return map_path, mask_path


def make_particles(folder: Path) -> tuple[Path, Path]:
    """Write 200 noisy particles with their reference unless they are there; return the STAR file and the reference."""
    star, reference = folder / "particles.star", folder / "reference.mrc"
    if not star.is_file():
        params = SimulateParams(
            output=str(star.with_suffix("")),
            symmetry="D2",
            n_particle=_N_PARTICLE,
            box_size=BOX,
            pixel_size_A=VOXEL_SIZE_A,
            groups=4,
            snr=0.15,
            overwrite=True,
        )
        for _ in simulate_atoms(demo_molecule(), params):
            pass
    if not reference.is_file():
        truth = read_volume(folder / "particles_truth.mrc")
        write_volume(reference, low_pass_map(truth.data, _LOW_PASS_A, truth.voxel_size_A), truth.voxel_size_A)
    return star, reference


@dataclass(frozen=True, slots=True, kw_only=True)
class TutorialFiles:
    """What the tutorial fills into the forms."""

    particles: Path
    reference: Path
    mask: Path
    output: Path
    symmetry: str = "D2"
    particle_diameter_A: float = 190.0


def map_and_mask() -> list[LayerData]:
    """Return beta-galactosidase and a mask around it."""
    return _opened(_map_and_mask_layers)


def small_particles() -> list[LayerData]:
    """Return 200 simulated particles of beta-galactosidase and a blurred reference, ready to be refined."""
    return _opened(_particle_layers)


def tutorial() -> list[LayerData]:
    """Return the small particle set and open the forms, filled in, so that it can be refined at once."""
    layers = _opened(_particle_layers)
    viewer = current_viewer()
    if layers and viewer is not None:
        job_docks: Any = import_module("napari_autorefine.ui.job_docks")
        job_docks.open_tutorial(viewer, tutorial_files(sample_folder()))
    return layers


def tutorial_files(folder: Path) -> TutorialFiles:
    """Return the files of the tutorial, made when they are not there."""
    star, reference = make_particles(folder)
    _, mask = make_map_and_mask(folder)
    return TutorialFiles(particles=star, reference=reference, mask=mask, output=folder / "Refine3D" / "job001" / "run")


def _map_and_mask_layers() -> list[LayerData]:
    _tell_of("betagal_mask.mrc")
    map_path, mask_path = in_thread(partial(make_map_and_mask, sample_folder()))
    return [
        map_layer(map_path, role="map", name="beta-galactosidase"),
        map_layer(mask_path, role="mask", name="beta-galactosidase mask"),
    ]


def _particle_layers() -> list[LayerData]:
    _tell_of("reference.mrc")
    star, reference = in_thread(partial(make_particles, sample_folder()))
    rows = rows_with(read_star(star), star, "rlnImageName")
    if rows is None:
        raise InputError(f"{star} is damaged; delete the folder {star.parent}.")
    return [hidden(map_layer(reference, role="reference", name="reference")), image_layer_of(rows)]


def _tell_of(last_file: str) -> None:
    """Say that files are made, when they are not there."""
    if not (cache_folder() / last_file).is_file():
        show_info("Making the sample; it appears in a moment and is kept for the next time.")


def _opened(make: Callable[[], list[LayerData]]) -> list[LayerData]:
    """Return layers for the current viewer, turned as its maps are."""
    prepare_viewer(current_viewer())
    return make()


Made = TypeVar("Made")


def in_thread(make: Callable[[], Made]) -> Made:
    """Make files while the window goes on drawing; it takes no clicks meanwhile.

    Raises
    ------
    InputError
        They cannot be made.
    """
    if QApplication.instance() is None:
        return make()
    loop, answers, worker = QEventLoop(), list[Any](), LatestWorker()

    def take(answer: Any) -> None:
        answers.append(answer)
        loop.quit()

    worker.ask("files", make, take)
    loop.exec(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
    worker.stop()
    if not answers or isinstance(answers[0], Failure):
        raise InputError(answers[0].text if answers else "The window was closed.")
    made: Made = answers[0]
    return made
