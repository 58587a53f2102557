"""Reading atomic models: PDB and mmCIF, compressed or not, expanded to a biological assembly on request."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import gemmi
import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.model.atoms import Atoms
from napari_autorefine.model.frames import best_rotation
from napari_autorefine.model.symmetry import point_group

_LARGEST_RMSD_A = 4.0
_FARTHEST_A = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class AtomicModel:
    """A molecule and the motions that map its largest chain on other copies of that chain.

    Attributes
    ----------
    atoms : centered on the mean atom position
    rotations, shifts_A : (n, 3, 3) and (n, 3), x -> R x + t; the identity first, then the candidates for its
        point-group operators
    """

    atoms: Atoms
    rotations: np.ndarray
    shifts_A: np.ndarray


def read_model(path: str | Path, *, assembly: str | None = None) -> AtomicModel:
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
    if len(structure) > 0 and assembly is not None:
        _expand(structure, assembly, file)
    sites = [] if len(structure) == 0 else [site.atom for site in structure[0].all()]
    sites = [atom for atom in sites if atom.occ > 0 and atom.element.name != "X"]
    if not sites:
        raise InputError(f"Atomic model {file} holds no atoms; give a PDB or mmCIF file with atoms.")
    xyz = np.array([atom.pos.tolist() for atom in sites], dtype=np.float64)
    if not (np.abs(xyz) < _FARTHEST_A).all():
        raise InputError(f"Atomic model {file} has an atom at no sensible position; it is damaged.")
    atoms = Atoms(xyz_A=xyz, element=np.array([atom.element.name for atom in sites]))
    try:
        rotations, shifts = _chain_motions(structure[0], xyz.mean(axis=0))
    except UnicodeDecodeError as error:
        raise InputError(f"Atomic model {file} has names that are no text ({error}); it is damaged.") from error
    return AtomicModel(atoms=atoms.centered(), rotations=rotations, shifts_A=shifts)


def _expand(structure: gemmi.Structure, assembly: str, file: Path) -> None:
    """Replace the atoms of ``structure`` by those of one of its assemblies."""
    names = [item.name for item in structure.assemblies]
    if assembly not in names:
        listed = ", ".join(names) or "none"
        raise InputError(f"Atomic model {file} has no assembly {assembly!r} (it has: {listed}); leave --assembly out.")
    structure.transform_to_assembly(assembly, gemmi.HowToNameCopiedChain.AddNumber)


def _backbone(chain: gemmi.Chain) -> dict[tuple[int, str, str], list[float]]:
    """Positions of one atom per residue, C-alpha or phosphorus, by number and name of the residue."""
    found: dict[tuple[int, str, str], list[float]] = {}
    for residue in chain:
        for atom in residue:
            if atom.name in {"CA", "P"}:
                found[(residue.seqid.num or 0, residue.name, atom.name)] = atom.pos.tolist()
                break
    return found


def _chain_motions(model: gemmi.Model, center_A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations and shifts about ``center_A`` that superpose the largest chain on every chain of the same sequence."""
    chains = [_backbone(chain) for chain in model]
    reference = max(chains, key=len)
    rotations, shifts = [np.eye(3)], [np.zeros(3)]
    for other in chains:
        common = [key for key in reference if key in other]
        if other is reference or len(common) < max(10, 0.7 * len(reference)):
            continue
        source = np.array([reference[key] for key in common]) - center_A
        target = np.array([other[key] for key in common]) - center_A
        rotation = best_rotation(source - source.mean(axis=0), target - target.mean(axis=0))
        shift = target.mean(axis=0) - rotation @ source.mean(axis=0)
        if np.sqrt(((source @ rotation.T + shift - target) ** 2).sum(axis=1).mean()) < _LARGEST_RMSD_A:
            rotations.append(rotation)
            shifts.append(shift)
    return np.stack(rotations), np.stack(shifts)


def demo_molecule() -> Atoms:
    """Return E. coli beta-galactosidase (PDB 5A1A), D2 with its axes on x, y and z, as shipped with the package."""
    resource = resources.files("napari_autorefine") / "assets" / "beta_galactosidase_5a1a.npz"
    with resource.open("rb") as file, np.load(file) as stored:
        chain = stored["xyz"] * float(stored["step_A"])
        names = np.array([gemmi.Element(int(number)).name for number in stored["atomic_number"]])
    operators = point_group("D2").operators
    return Atoms(xyz_A=np.concatenate([chain @ operator.T for operator in operators]), element=np.tile(names, 4))
