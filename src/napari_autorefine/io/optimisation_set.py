"""Optimisation sets of RELION 4 and 5: one small STAR file that names the files of a subtomogram project."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from napari_autorefine.errors import InputError
from napari_autorefine.io.names import find_image_file, search_folders
from napari_autorefine.io.tables import VERSION_3_0, VERSION_5_0, ListTable, StarFile, read_star, write_star

Kind = Literal["particles", "tomograms", "trajectories", "manifolds", "map1", "map2", "mask", "fsc"]

LABELS: dict[Kind, str] = {
    "particles": "rlnTomoParticlesFile",
    "tomograms": "rlnTomoTomogramsFile",
    "trajectories": "rlnTomoTrajectoriesFile",
    "manifolds": "rlnTomoManifoldsFile",
    "map1": "rlnTomoReferenceMap1File",
    "map2": "rlnTomoReferenceMap2File",
    "mask": "rlnTomoReferenceMaskFile",
    "fsc": "rlnTomoReferenceFscFile",
}
_EMPTY = frozenset({"", '""', "None"})
_ALWAYS_WRITTEN: tuple[Kind, ...] = ("particles", "tomograms", "trajectories")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimisationSet:
    """The files of a subtomogram project.

    Attributes
    ----------
    files : path by kind, as written in the set; kinds that are missing or empty there are not in it
    others : entries under labels that are not known here, kept as read
    path : the set's own file, or None when it was put together from single inputs
    version : number of the ``# version`` line
    """

    files: Mapping[Kind, str] = field(default_factory=dict)
    others: ListTable = field(default_factory=dict)
    path: Path | None = None
    version: int = VERSION_5_0

    def __getitem__(self, kind: Kind) -> str | None:
        """Return the path of one kind as written, None without it."""
        return self.files.get(kind)

    def with_files(self, files: Mapping[Kind, str | os.PathLike[str] | None]) -> OptimisationSet:
        """Return the set with single inputs in place of its own; those that are None or empty change nothing."""
        merged = dict(self.files)
        for kind, path in files.items():
            if path is not None and str(path) not in _EMPTY:
                merged[kind] = str(path)
        return replace(self, files=merged)

    def after_refinement(
        self,
        particles: str | os.PathLike[str],
        *,
        half_maps: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        mask: str | os.PathLike[str] | None = None,
    ) -> OptimisationSet:
        """Return the set as a refinement leaves it.

        Parameters
        ----------
        particles : particle file with the new poses
        half_maps : unfiltered half-maps of the end; the set's FSC, which belongs to older maps, is then left out
        mask : the solvent mask that was used, if any

        All other entries stay as they are.
        """
        updated = self.with_files({"particles": particles, "mask": mask})
        if half_maps is None:
            return updated
        updated = updated.with_files({"map1": half_maps[0], "map2": half_maps[1]})
        return replace(updated, files={kind: path for kind, path in updated.files.items() if kind != "fsc"})

    def found(self, kinds: Iterable[Kind], *, project_dir: str | os.PathLike[str] | None = None) -> dict[Kind, Path]:
        """Return where files of the set are, looked up in the project's folder, then in the folder of the set.

        Parameters
        ----------
        kinds : wanted; those without an entry are left out of the result
        project_dir : folder that paths are relative to; the working directory if None

        Raises
        ------
        InputError
            Files that do not exist; one sentence names all of them.
        """
        folders = search_folders(self.path, project_dir)
        places = {kind: find_image_file(self.files[kind], folders) for kind in kinds if kind in self.files}
        dead = [kind for kind, place in places.items() if place is None]
        if dead:
            raise InputError(self._dead_sentence(dead, folders))
        return {kind: place for kind, place in places.items() if place is not None}

    def dead(self, kinds: Iterable[Kind], *, project_dir: str | os.PathLike[str] | None = None) -> list[Kind]:
        """Return the kinds whose file does not exist."""
        folders = search_folders(self.path, project_dir)
        return [kind for kind in kinds if kind in self.files and find_image_file(self.files[kind], folders) is None]

    def _dead_sentence(self, dead: list[Kind], folders: tuple[Path, ...]) -> str:
        named = " and ".join(f"{LABELS[kind]} {self.files[kind]}" for kind in dead)
        tried = " and ".join(dict.fromkeys(str(folder.resolve()) for folder in folders))
        place, one = self.path or "The input", len(dead) == 1
        advice = "give the file by its own option" if one else "give the files by their own options"
        return (
            f"{place}: {named} {'does' if one else 'do'} not exist (looked in {tried}); start in the project's folder,"
            f" correct the set, or {advice}."
        )

    def require(self, *kinds: Kind) -> None:
        """Raise an InputError when the set has no entry of these kinds."""
        missing = " and no ".join(LABELS[kind] for kind in kinds if kind not in self.files)
        if missing:
            place = self.path or "The input"
            raise InputError(f"{place} names no {missing}; add the entry, or give the file by its option.")


def optimisation_set_pairs(star: StarFile) -> ListTable | None:
    """Return the entries of an optimisation set, or None when the file is none.

    RELION writes a list table without a name; a one-row loop under any name, as picking tools write it, counts as well.
    """
    for name in star.tables:
        pairs = star.pairs(name)
        if pairs is not None and any(label in pairs for label in (LABELS["particles"], LABELS["tomograms"])):
            return pairs
    return None


def read_optimisation_set(path: str | os.PathLike[str]) -> OptimisationSet:
    """Read an optimisation set of RELION 4 or 5; entries may be missing or empty.

    Raises
    ------
    InputError
        Not a STAR file, not an optimisation set, or one with several rows.
    """
    star = read_star(path)
    pairs = optimisation_set_pairs(star)
    if pairs is None:
        tables = ", ".join(f"'data_{name}'" for name in star.tables)
        raise InputError(
            f"{path} is no optimisation set: no table names {LABELS['particles']} or {LABELS['tomograms']}"
            f" (it holds {tables})."
        )
    for name in star.tables:
        loop = star.loop(name)
        if loop is not None and LABELS["particles"] in loop and len(loop) > 1:
            raise InputError(f"{path}: an optimisation set has one row, the table 'data_{name}' has {len(loop)}.")
    texts = {label: str(value).strip() for label, value in pairs.items()}
    files = {kind: texts[label] for kind, label in LABELS.items() if texts.get(label, "") not in _EMPTY}
    others = {label: value for label, value in pairs.items() if label not in LABELS.values()}
    return OptimisationSet(files=files, others=others, path=Path(path), version=star.version)


def write_optimisation_set(path: str | os.PathLike[str], optimisation_set: OptimisationSet) -> None:
    """Write a set as RELION does: a list table without a name.

    Particles, tomograms and trajectories are always there, empty when the set has none.
    """
    entries: ListTable = {}
    for kind, label in LABELS.items():
        if kind in optimisation_set.files or kind in _ALWAYS_WRITTEN:
            entries[label] = optimisation_set.files.get(kind, "")
    version = VERSION_5_0 if optimisation_set.version == VERSION_3_0 else optimisation_set.version
    write_star(path, {"": {**entries, **optimisation_set.others}}, version=version)
