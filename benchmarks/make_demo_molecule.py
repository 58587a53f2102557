"""Make the demo molecule of the package from PDB 5A1A: one chain as 16-bit integers; the others follow by D2.

Source: E. coli beta-galactosidase, PDB 5A1A (Bartesaghi et al. 2015, Science 348, 1147-1151), CC0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gemmi
import numpy as np

STEP_A = 0.005
CENTER_A = 93.0


def main(model: str, output: str) -> None:
    """Write chain A of ``model``, relative to the center of its D2 axes, to ``output``."""
    structure = gemmi.read_structure(model)
    atoms = [atom for residue in structure[0]["A"] for atom in residue]
    xyz = np.array([atom.pos.tolist() for atom in atoms]) - CENTER_A
    number = np.array([atom.element.atomic_number for atom in atoms], dtype=np.uint8)
    packed = np.round(xyz / STEP_A).astype(np.int16)
    np.savez_compressed(Path(output), xyz=packed, step_A=STEP_A, atomic_number=number)


if __name__ == "__main__":
    main(*sys.argv[1:3])
