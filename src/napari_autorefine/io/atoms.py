"""Reading atomic models: PDB and mmCIF, compressed or not, expanded to a biological assembly on request."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.model.atoms import Atoms


def read_atoms(path: str | Path, *, assembly: str | None = None) -> Atoms:
    """Read the first model of a PDB or mmCIF file (also ``.gz``), centered on its mean atom position.

    Parameters
    ----------
    path : file
    assembly : name of a biological assembly of the file (``"1"``) to build; ``None`` takes the atoms as they are
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"Atomic model {file} does not exist; give a .pdb or .cif file, gzipped or not.")
    try:
        structure = gemmi.read_structure(str(file))
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"Atomic model {file} cannot be read ({error}); give a PDB or mmCIF file.") from error
    if len(structure) == 0:
        raise InputError(f"Atomic model {file} holds no model; give a PDB or mmCIF file with atoms.")
    if assembly is not None:
        _expand(structure, assembly, file)
    sites = [(site.atom.pos.tolist(), site.atom.element.name, site.atom.occ) for site in structure[0].all()]
    kept = [(xyz, element) for xyz, element, occupancy in sites if occupancy > 0 and element != "X"]
    if not kept:
        raise InputError(f"Atomic model {file} holds no atoms; give a PDB or mmCIF file with atoms.")
    xyz = np.array([row[0] for row in kept], dtype=np.float64)
    return Atoms(xyz_A=xyz, element=np.array([row[1] for row in kept])).centered()


def _expand(structure: gemmi.Structure, assembly: str, file: Path) -> None:
    """Replace the atoms of ``structure`` by those of one of its assemblies."""
    names = [item.name for item in structure.assemblies]
    if assembly not in names:
        listed = ", ".join(names) or "none"
        raise InputError(f"Atomic model {file} has no assembly {assembly!r} (it has: {listed}); leave --assembly out.")
    structure.transform_to_assembly(assembly, gemmi.HowToNameCopiedChain.AddNumber)
