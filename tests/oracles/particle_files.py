"""Simulated particle sets as files: stack, STAR file, reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from oracles.phantoms import SimulatedSet

from napari_autorefine.io.mrc import write_stack, write_volume

OPTICS = (
    "rlnOpticsGroup",
    "rlnOpticsGroupName",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
)
PARTICLES = ("rlnImageName", "rlnMicrographName", "rlnOpticsGroup", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


def write_particle_files(
    folder: Path,
    data: SimulatedSet,
    *,
    box_size: int,
    pixel_size_A: float,
    n_micrograph: int = 2,
    n_optics: int = 1,
    version: int = 30001,
) -> Path:
    """Write ``particles.star``, its stacks and ``ref.mrc``; return the STAR file.

    Micrographs take turns in optics groups that differ by their names only.
    """
    known = data.problem.particles
    optics = [f"{number} group{number} 300 2.7 0.1 {pixel_size_A} {box_size} 2" for number in range(1, n_optics + 1)]
    rows = []
    for micrograph, members in enumerate(np.array_split(np.arange(len(data.images)), n_micrograph)):
        write_stack(folder / f"m{micrograph}.mrcs", data.images[members], pixel_size_A)
        for number, i in enumerate(members, start=1):
            ctf = f"{known.defocus_A[i, 0]:.3f} {known.defocus_A[i, 1]:.3f} {known.defocus_angle_deg[i]:.3f}"
            name = f"{number:06d}@m{micrograph}.mrcs m{micrograph}.mrc"
            rows.append(f"{name} {1 + micrograph % n_optics} {ctf}")
    star = folder / "particles.star"
    star.write_text(_loop("optics", OPTICS, optics, version) + _loop("particles", PARTICLES, rows, version))
    write_volume(folder / "ref.mrc", np.asarray(data.problem.reference), pixel_size_A)
    return star


def _loop(name: str, labels: tuple[str, ...], rows: list[str], version: int) -> str:
    head = "\n".join(f"_{label} #{number}" for number, label in enumerate(labels, start=1))
    return f"\n# version {version}\n\ndata_{name}\n\nloop_\n{head}\n" + "\n".join(rows) + "\n\n"
