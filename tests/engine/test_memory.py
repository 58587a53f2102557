"""Peak memory of the last iteration at 256 px, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
