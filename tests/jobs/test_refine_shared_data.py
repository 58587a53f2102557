"""Every particle file made by others starts a refinement, or is refused in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.engine.problem import RefinementProblem
from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Message
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.jobs import refine as refine_job
from napari_autorefine.jobs.refine import RefineParams, refine

STARTED = {
    "particles_bgal/particles_picked.star",
    "particles_bgal/particles_picked_wrongCTF.star",
    "particles_bgal/particles_matched_poses.star",
    "particles_other/empiar_10076_7.star",
    "relion_jobs/reconstruct/truth.star",
    "sta_sim/truth_sub3d.star",
    "sta_sim/truth_sub3d_centered.star",
    "tomo_particles_ribosome/sta_testing_bin8.star",
} | {
    f"relion_jobs/extract/out_{name}/particles.star"
    for name in ("full", "full_float16", "premult", "raw", "recenter", "recenter0", "rescale", "reset")
}


def only_read(problem: RefinementProblem, *_: object, **__: object) -> Iterator[Event]:
    """Stand in for the engine: read one image of each optics group."""
    for group in np.unique(problem.particles.optics_index):
        rows = np.flatnonzero(problem.particles.optics_index == group)[:1]
        assert np.isfinite(problem.read_images(rows)).all()
    yield Message(text="started")


def attempt(path: Path, folder: Path) -> str:
    """Return ``"started"``, or why not."""
    try:
        group = read_particles(path).optics[0]
        box = group.box_size if 8 <= group.box_size <= 400 else 64
        write_volume(folder / "ref.mrc", np.ones((box, box, box), np.float32), group.pixel_size_A)
        params = RefineParams(
            particles=str(path),
            reference=str(folder / "ref.mrc"),
            output=str(folder / "run"),
            overwrite=True,
            particle_diameter_A=None,
            trust_ref_size=True,
            cpu=True,
        )
        for event in refine(params):
            if isinstance(event, Message) and event.text == "started":
                return event.text
    except InputError as error:
        return str(error)
    return "ended early"


def test_every_particle_file(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine_job.loop, "refine", only_read)
    monkeypatch.chdir(tmp_path)
    started = set()
    for path in sorted(shared_data.rglob("*.star")):
        outcome = attempt(path, tmp_path)
        assert "\n" not in outcome
        if outcome == "started":
            started.add(str(path.relative_to(shared_data)))
    assert sorted(started) == sorted(STARTED)
