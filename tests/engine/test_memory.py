"""Memory: the peak of the last iteration at 256 px, in a process of its own; what is held as a search goes on."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oracles import tomo_phantoms

from napari_autorefine.engine import half_search, setup
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefineOptions
from napari_autorefine.model.particles import Form

_SCRIPT = """
import resource
import numpy as np, pandas as pd
from napari_autorefine.engine.loop import refine
from napari_autorefine.engine.problem import RefinementProblem, RefineOptions
from napari_autorefine.engine.state import RefinementState
from napari_autorefine.model.optics import OpticsGroup
from napari_autorefine.model.particles import Particles

n, box = 4, 256
rng = np.random.default_rng(0)
names = np.array([f"{i + 1:06d}@stack.mrcs" for i in range(n)], dtype=object)
micrograph = np.array(["micrograph"] * n, dtype=object)
zeros, ones = np.zeros(n), np.ones(n)
particles = Particles(
    image_name=names, micrograph_name=micrograph, group_name=micrograph, optics_index=np.zeros(n, dtype=np.int64),
    euler_deg=rng.uniform(0, 180, (n, 3)), origin_A=np.zeros((n, 2)), defocus_A=np.full((n, 2), 15000.0),
    defocus_angle_deg=zeros, phase_shift_deg=zeros, ctf_bfactor_A2=zeros, ctf_scale=ones,
    half=np.array([1, 2] * (n // 2), dtype=np.int8), norm_correction=ones,
    optics=(OpticsGroup(number=1, name="one", pixel_size_A=1.244, box_size=box),),
    table=pd.DataFrame(), optics_table=pd.DataFrame(),
)
reference = np.zeros((box, box, box), dtype=np.float32)
reference[100:156, 110:146, 96:160] = rng.random((56, 36, 64))
problem = RefinementProblem(
    particles=particles, reference=reference, voxel_size_A=1.244,
    read_images=lambda rows: np.random.default_rng(rows).standard_normal((len(rows), box, box)).astype(np.float32),
)
options = RefineOptions(
    symmetry="D2", threads=2, ini_high_A=30.0, firstiter_cc=False, force_converge=True, healpix_order=5
)
states = [event for event in refine(problem, options) if isinstance(event, RefinementState)]
assert states[-1].is_final and states[-1].joined.map.shape == (box, box, box)
assert states[-1].convergence.current_size == box
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_the_last_iteration_at_256_px_stays_below_6_gib() -> None:
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=False, env={"PYTHONPATH": str(source)}
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 6 * 2**30


@pytest.mark.parametrize("form", ["volume", "tilt_stack"])
def test_what_is_held_does_not_grow_with_the_particles_of_tomograms_that_were_searched(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_BLOCK_PIXELS", 1)  # blocks of one particle
    monkeypatch.setattr(half_search, "_WAITING_BYTES", 64 << 10)
    options = RefineOptions(
        particle_diameter_A=60.0, ini_high_A=16.0, healpix_order=0, offset_range_px=1.0, offset_step_px=1.0,
        firstiter_cc=False, threads=1, max_iterations=1,
    )  # fmt: skip
    n = 160
    problem = tomo_phantoms.simulate(form, n, noise=1.0).problem
    held: list[int] = []

    def read(index: np.ndarray) -> object:
        held.append(tracemalloc.get_traced_memory()[0])
        return problem.read_images(index)

    tracemalloc.start()
    try:
        for _ in refine(replace(problem, read_images=read), options):  # type: ignore[arg-type]
            pass
    finally:
        tracemalloc.stop()
    second_half = held[-n // 2 :]
    early, late = min(second_half[16:32]), min(second_half[-16:])
    assert late - early < 128 << 10  # images or insertions of 48 particles have 700 kB and more
