"""The optimisation set around recentred particles of tomograms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.io.names import find_image_file, search_folders
from napari_autorefine.io.optimisation_set import Kind, OptimisationSet, read_optimisation_set
from napari_autorefine.jobs.record import output_of

_OF_OLD_CENTER: tuple[Kind, ...] = ("map1", "map2", "mask", "fsc")
_NAME = "optimisation_set.star"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBeside:
    """A set to be written beside recentred particles.

    Attributes
    ----------
    path : where it goes
    files : what it names
    notes : what of the old set it leaves out
    """

    path: str
    files: OptimisationSet
    notes: tuple[Message, ...] = ()


def particles_of_set(path: str) -> str:
    """Return the particle file that an optimisation set, or that of a job's folder, names.

    Raises
    ------
    InputError
        No set, or one without a particle file that exists.
    """
    files = read_optimisation_set(output_of(path, "optimisation_set"))
    files.require("particles")
    return str(files.found(("particles",))["particles"])


def set_beside(source: str, target: str, *, given: str = "", mask: str = "") -> SetBeside | None:
    """Return the set that goes with recentred particles: that of the old ones, with the new file.

    Half-maps, mask and FSC of the old centre are left out; particles that were moved onto a mask keep that one.

    Parameters
    ----------
    source, target : particle files, before and after
    given : set of the old particles, or the folder of its job; looked for beside them when it is empty
    mask : that the particles are moved onto, if any

    Returns
    -------
    beside : None when no set names the old particles

    Raises
    ------
    InputError
        The set that was given cannot be read.
    """
    old = read_optimisation_set(output_of(given, "optimisation_set")) if given else _set_of(Path(source))
    if old is None:
        return None
    left_out = [kind for kind in _OF_OLD_CENTER if kind in old.files]
    kept = {kind: path for kind, path in old.files.items() if kind not in left_out}
    new = replace(old, files=kept).with_files({"particles": target, "mask": mask})
    notes: tuple[Message, ...] = ()
    if left_out:
        words = {"map1": "half-maps", "mask": "mask", "fsc": "FSC"}
        named = " and ".join(words[kind] for kind in left_out if kind in words) or "half-map"
        notes = (
            Message(text=f"The new optimisation set leaves out {named} of the old one: they have the old centre."),
        )
    return SetBeside(path=set_path(target), files=new, notes=notes)


def set_path(particles: str) -> str:
    """Return where the set of a particle file goes: ``optimisation_set.star``, with the file's name before it."""
    path = Path(particles)
    return str(path.with_name(_NAME if path.name == "particles.star" else f"{path.stem}_{_NAME}"))


def _set_of(particles: Path) -> OptimisationSet | None:
    """Return the set in the folder of a particle file that names it, the last one by name; None without."""
    for path in sorted(particles.parent.glob(f"*{_NAME}"), reverse=True):
        try:
            files = read_optimisation_set(path)
        except InputError:
            continue
        if _is_named(files["particles"] or "", path, particles):
            return files
    return None


def _is_named(name: str, set_file: Path, particles: Path) -> bool:
    """Tell whether a name in a set means a file: the same one, or, in a project that was moved, one so called."""
    found = find_image_file(name, search_folders(set_file)) if name else None
    return Path(name).name == particles.name if found is None else found.resolve() == particles.resolve()
