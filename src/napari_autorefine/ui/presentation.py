"""How parameters look in forms where the tutorials' forms ask for them in another way than the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from napari_autorefine.jobs import JOBS
from napari_autorefine.params import FieldRecord, describe

Kind = Literal["star", "map", "mask", "table", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a form shows of a parameter; empty values are those of its ``Param``.

    Attributes
    ----------
    label, help : texts
    check : a check box instead, and the values for off and on
    choices : a list to choose from, text to value
    empty : what an empty field means
    blank : value that an empty field stands for, when it is not None
    twins : parameters that get the same value when this one is changed
    """

    label: str = ""
    help: str = ""
    check: tuple[Any, Any] | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)
    empty: str = ""
    blank: Any = None
    twins: tuple[str, ...] = ()


_TABS = ("I/O", "Reference", "CTF", "Optimisation", "Auto-sampling", "Compute", "Running")
_DEGREES = ("30", "15", "7.5", "3.7", "1.8", "0.9", "0.5", "0.2", "0.1")
_SAMPLING = {f"{degrees} degrees": order for order, degrees in enumerate(_DEGREES)}
_PLAIN = Look()
_ALL_CORES = Look(empty="all cores", blank=0)

LOOKS: dict[tuple[str, str], Look] = {
    ("refine", "firstiter_cc"): Look(
        label="Ref. map is on absolute greyscale?",
        help="When it is not, the first iteration compares by cross-correlation, which sets the grey scale right.",
        check=(True, False),
    ),
    ("refine", "healpix_order"): Look(label="Initial angular sampling", choices=_SAMPLING),
    ("refine", "auto_local_healpix_order"): Look(label="Local searches from auto-sampling", choices=_SAMPLING),
    ("refine", "auto_ignore_angles"): Look(
        help="Go to finer sampling while orientations still change, and as soon as the resolution needs it.",
        twins=("auto_resol_angles",),
    ),
    ("refine", "pad"): Look(label="Skip padding?", check=(2, 1)),
    ("refine", "cpu"): Look(
        label="Use GPU acceleration?", help="Without a usable GPU the CPU does the work.", check=(True, False)
    ),
    ("refine", "gpu"): Look(empty="all"),
    ("refine", "ini_high_A"): Look(empty="none"),
    ("refine", "particle_diameter_A"): Look(empty="whole box"),
    ("refine", "low_resol_join_halves_A"): Look(empty="never"),
    ("refine", "max_significant"): Look(empty="no limit"),
    ("refine", "strict_highres_exp_A"): Look(empty="no limit"),
    ("refine", "threads"): Look(empty="all cores"),
    ("refine", "random_seed"): Look(empty="from the clock"),
    ("refine", "mask"): Look(empty="none: a sphere"),
    ("refine", "scratch_dir"): Look(empty="none"),
    ("refine", "continue_from"): Look(empty="start anew"),
    ("refine", "optimisation_set"): Look(empty="none: single particles"),
    ("refine", "tomograms"): Look(empty="of the set"),
    ("refine", "trajectories"): Look(empty="of the set"),
    ("refine", "sigma_tilt_deg"): Look(empty="off"),
    ("refine", "cluster"): Look(empty="none: this machine"),
    ("refine", "scheduler"): Look(empty="none"),
    ("refine", "tls_ca"): Look(empty="none"),
    ("refine", "tls_cert"): Look(empty="none"),
    ("refine", "tls_key"): Look(empty="none"),
    ("extract", "scale_size_px"): Look(empty="no rescaling"),
    ("extract", "bg_diameter_px"): Look(empty="75 % of box"),
    ("extract", "part_dir"): Look(empty="the output folder"),
    ("extract", "part_star"): Look(empty="particles.star in the output folder"),
    ("extract", "pixel_size_A"): Look(empty="as in STAR"),
    ("subtomo", "optimisation_set"): Look(empty="particles and tomograms below"),
    ("subtomo", "particles"): Look(empty="of the set"),
    ("subtomo", "tomograms"): Look(empty="of the set"),
    ("subtomo", "crop_size_px"): Look(empty="box size"),
    ("subtomo", "max_dose_e_A2"): Look(empty="all images"),
    ("rebox", "new_box"): Look(empty="keep"),
    ("rebox", "rescale_angpix"): Look(empty="keep"),
    ("rebox", "angpix"): Look(empty="header"),
    ("rebox", "force_header_angpix"): Look(empty="true size"),
    ("reconstruct", "voxel_size_A"): Look(empty="as images"),
    ("reconstruct", "box_size_px"): Look(empty="as images"),
    ("reconstruct", "maxres_A"): Look(empty="Nyquist"),
    ("reconstruct", "subset"): Look(empty="all"),
    ("reconstruct", "class_number"): Look(empty="all"),
    ("reconstruct_particle", "optimisation_set"): Look(empty="particles and tomograms below"),
    ("reconstruct_particle", "particles"): Look(empty="of the set"),
    ("reconstruct_particle", "tomograms"): Look(empty="of the set"),
    ("reconstruct_particle", "crop_size_px"): Look(empty="box size"),
    ("reconstruct_particle", "snr"): Look(empty="none"),
    ("mask", "lowpass_A"): Look(empty="none"),
    ("mask", "ini_threshold"): Look(empty="automatic"),
    ("mask", "molweight_kDa"): Look(empty="not used"),
    ("mask", "angpix"): Look(empty="header"),
    ("mask", "box_size"): Look(empty="none"),
    ("mask", "outer_radius_px"): Look(empty="whole box", blank=99999.0),
    ("postprocess", "half2"): Look(empty="found by its name"),
    ("postprocess", "mask"): Look(empty="none"),
    ("postprocess", "mtf"): Look(empty="none"),
    ("postprocess", "angpix"): Look(empty="header"),
    ("postprocess", "mtf_angpix"): Look(empty="as the maps"),
    ("postprocess", "inimask_threshold"): Look(empty="automatic"),
    ("postprocess", "randomize_at_A"): Look(empty="by the FSC"),
    ("postprocess", "molweight_kDa"): Look(empty="not used"),
}

NOTES: dict[tuple[str, str], str] = {
    ("refine", "Compute"): "Not asked for, as there is nothing to choose: Use parallel disc I/O? (no MPI processes"
    " could disturb each other), Number of pooled particles (work is shared between threads and devices"
    " automatically), Combine iterations through disc? (nothing is exchanged through the disc).",
    ("refine", "Running"): "There are no MPI processes: one process uses all cores and GPUs."
    " Several machines: see Cluster file.",
}
"""Remarks at the end of a tab, for those who follow a tutorial and look for a field."""


def tabs_of(records: Sequence[FieldRecord]) -> tuple[str, ...]:
    """Return the tabs of a form: the groups of its parameters, in the tutorials' order where all are known there."""
    groups = tuple(dict.fromkeys(record.param.group for record in records))
    return tuple(sorted(groups, key=_TABS.index)) if set(groups) <= set(_TABS) else groups


def look_of(job: str, record: FieldRecord) -> Look:
    """Return how a parameter is shown."""
    known = LOOKS.get((job, record.name))
    if known is None and record.name == "threads" and record.default == 0:
        return _ALL_CORES
    return known or _PLAIN


def label_of(job: str, record: FieldRecord) -> str:
    """Return the label of a parameter in the form."""
    return look_of(job, record).label or record.param.label


def tooltip_of(job: str, record: FieldRecord) -> str:
    """Return the help text of a parameter with its name on the command line."""
    text = look_of(job, record).help or record.param.help
    return f"<p>{text}</p><p><code>--{record.flags[0]}</code></p>"


def unit_of(record: FieldRecord) -> str:
    """Return the unit as printed."""
    return {"A": "Å", "A^2": "Å²", "deg": "°", "e/A^2": "e/Å²"}.get(record.param.unit, record.param.unit)


def kind_of_file(record: FieldRecord) -> Kind:
    """Guess what a path points at from what the parameter is called."""
    name = f"{record.name} {record.param.label}".lower()
    if re.search(r"mtf|continue|fsc", name):
        return "table"
    if re.search(r"star|particle|micrograph|coord|optimis|trajector|tomogram", name):
        return "star"
    if "mask" in name:
        return "mask"
    return "map" if re.search(r"map|reference|half|volume|input", name) else "any"


def printed(text: str) -> str:
    """Return a sentence of a job with its angstroms as printed."""
    return re.sub(r"(?<=[\d.]) A(?=$|[\s.,;)/^])", " Å", text)


def in_window(job: str, text: str) -> str:
    """Return a sentence of a job as the window says it: options by their labels, unless they stand in a command."""
    if "autorefine " in text or job not in JOBS:
        return printed(text)
    labels = {flag: label_of(job, record) for record in describe(JOBS[job].params()) for flag in record.flags}
    return printed(re.sub(r"--(\w+)", lambda match: labels.get(match[1], match[0]), text))


def in_labels(job: str, text: str, records: tuple[FieldRecord, ...]) -> str:
    """Return a sentence in which options of the command line have become labels of the form."""
    labels = {flag: label_of(job, record) for record in records for flag in record.flags}

    def shown(match: re.Match[str]) -> str:
        return labels.get(match[1], match[0])

    text = re.sub(r"--(\w+)", shown, text)
    text = re.sub(r"(?:^|(?<=; ))(\w+)(?= is missing|: | must be )", shown, text)
    return re.sub(r"(.+?), the \1, (is missing)", r"\1 \2", text, flags=re.IGNORECASE)
