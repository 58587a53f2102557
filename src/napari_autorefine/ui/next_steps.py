"""What becomes of a job's outputs: layers to open, and the fields of other jobs that take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from napari_autorefine.jobs import JOBS
from napari_autorefine.params import describe

_OPENABLE = {
    "map": "map",
    "half1": "half-map 1",
    "half2": "half-map 2",
    "mask": "mask",
    "particles": "particles",
    "masked_map": "masked map",
    "montage": "montage",
    "report": "report",
}
_STEPS: dict[str, tuple[tuple[str, str, dict[str, str]], ...]] = {
    "extract": (("refine", "Auto-refine", {"particles": "particles"}),),
    "subtomo": (
        ("refine", "Auto-refine", {"optimisation_set": "optimisation_set"}),
        ("reconstruct_particle", "Reconstruct particle", {"optimisation_set": "optimisation_set"}),
    ),
    "rebox": (("refine", "Auto-refine", {"map": "reference"}),),
    "refine": (
        ("mask", "Mask", {"map": "input"}),
        ("postprocess", "Post-process", {"half1": "half1"}),
        ("recenter", "Recentre", {"particles": "particles", "map": "map"}),
        ("extract", "Extract particles", {"particles": "refined_particles"}),
        ("refine", "Refine further", {"particles": "particles", "map": "reference"}),
        ("report", "Report", {"map": "folder"}),
    ),
    "mask": (
        ("postprocess", "Post-process", {"mask": "mask"}),
        ("refine", "Auto-refine", {"mask": "mask"}),
    ),
    "recenter": (
        ("reconstruct", "Reconstruct", {"particles": "particles"}),
        ("extract", "Re-extract", {"particles": "refined_particles"}),
        ("refine", "Auto-refine", {"particles": "particles", "map": "reference"}),
    ),
    "reconstruct": (
        ("refine", "Auto-refine", {"map": "reference"}),
        ("mask", "Mask", {"map": "input"}),
        ("postprocess", "Post-process", {"half1": "half1"}),
    ),
    "reconstruct_particle": (
        ("mask", "Mask", {"map": "input"}),
        ("postprocess", "Post-process", {"half1": "half1"}),
    ),
    "postprocess": (
        ("refine", "Auto-refine", {"mask": "mask"}),
        ("report", "Report", {"star": "postprocess"}),
    ),
}
"""Per job: next job, text of the button, and which kind of output goes into which of its parameters."""

_SET = {"optimisation_set": "optimisation_set"}
_STEPS_OF_TOMOGRAMS: dict[str, tuple[tuple[str, str, dict[str, str]], ...]] = {
    "refine": (
        ("recenter", "Recentre", {**_SET, "map": "map"}),
        ("reconstruct_particle", "Reconstruct particle", _SET),
        ("subtomo", "Extract subtomograms", _SET),
        ("mask", "Mask", {"map": "input"}),
        ("postprocess", "Post-process", {"half1": "half1"}),
        ("refine", "Refine further", {**_SET, "map": "reference"}),
        ("report", "Report", {"map": "folder"}),
    ),
    "recenter": (
        ("reconstruct_particle", "Reconstruct particle", _SET),
        ("subtomo", "Extract subtomograms", _SET),
        ("reconstruct", "Reconstruct", _SET),
        ("refine", "Auto-refine", _SET),
    ),
}
"""The same for jobs that left an optimisation set: on particles of tomograms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """A job whose form can be filled in with outputs: ``values`` by parameter name."""

    job: str
    text: str
    values: Mapping[str, str]


def openable(outputs: Mapping[str, str]) -> dict[str, str]:
    """Return the outputs that can be opened as layers, path by what they are called."""
    return {_OPENABLE[kind]: path for kind, path in outputs.items() if kind in _OPENABLE}


def next_steps(job: str, outputs: Mapping[str, str]) -> tuple[NextStep, ...]:
    """Return what can follow a job that left these outputs; steps whose job does not exist are left out."""
    steps = []
    has_set = "optimisation_set" in outputs and job in _STEPS_OF_TOMOGRAMS
    for name, text, fields in _STEPS_OF_TOMOGRAMS[job] if has_set else _STEPS.get(job, ()):
        if name not in JOBS:
            continue
        known = {record.name: record.param for record in describe(JOBS[name].params())}
        given = {field: outputs[kind] for kind, field in fields.items() if kind in outputs and field in known}
        folders = {field for field in given if known[field].file_kind == "folder"}
        values = {field: str(Path(path).parent) if field in folders else path for field, path in given.items()}
        if values:
            steps.append(NextStep(job=name, text=text, values=values))
    return tuple(steps)
