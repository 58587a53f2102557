"""Do the chosen files fit each other? Remarks before the run instead of an error after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_autorefine.ui.facts import Facts

_SAME_A = 1e-3
_DEFAULT_BOX = 128
_PAIRS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "refine": (("reference", "particles", "the particles are"), ("mask", "particles", "the particles are")),
    "postprocess": (("mask", "half1", "the half-maps are"),),
}
"""Per job: a file, the file whose grid it should have, and how to say so."""


def misfits(job: str, facts: Mapping[str, Facts | None], values: Mapping[str, Any]) -> dict[str, str]:
    """Return remarks by parameter name on files whose grid is not that of the others; empty texts for those that fit.

    Parameters
    ----------
    job : name of the job
    facts : what is known of the files, by parameter name
    values : parameters that differ from their defaults
    """
    remarks = {}
    for name, other, phrase in _PAIRS.get(job, ()):
        mine, theirs = facts.get(name), facts.get(other)
        remarks[name] = "" if mine is None or theirs is None else _misfit(mine, theirs, phrase)
        if remarks[name] and name == "reference":
            if values.get("trust_ref_size"):
                remarks[name] = ""
            else:
                remarks[name] += " Rebox the map, or tick 'Resize reference if needed?'."
    return remarks


def hints(job: str, facts: Mapping[str, Facts | None], values: Mapping[str, Any]) -> dict[str, str]:
    """Return what numbers in the form come to, by parameter name: pixel size and Nyquist limit of new particles."""
    if job != "extract":
        return {}
    known = facts.get("micrographs")
    box, scale = values.get("box_size_px", _DEFAULT_BOX), values.get("scale_size_px")
    if known is None or not known.pixel_A or not isinstance(box, int):
        return {"scale_size_px": ""}
    pixel_A = known.pixel_A * box / (scale or box)
    return {"scale_size_px": f"Particles of {pixel_A:.5g} Å/px, at best {2 * pixel_A:.3g} Å (Nyquist)"}


def _misfit(mine: Facts, theirs: Facts, phrase: str) -> str:
    is_other_box = mine.box_px and theirs.box_px and mine.box_px != theirs.box_px
    is_other_pixel = mine.pixel_A and theirs.pixel_A and abs(mine.pixel_A - theirs.pixel_A) > _SAME_A
    if not (is_other_box or is_other_pixel):
        return ""
    return f"{_grid(mine)}, but {phrase} {_grid(theirs)}."


def _grid(facts: Facts) -> str:
    parts = [f"{facts.box_px} px" if facts.box_px else "", f"{facts.pixel_A:.4g} Å/px" if facts.pixel_A else ""]
    return ", ".join(part for part in parts if part)
