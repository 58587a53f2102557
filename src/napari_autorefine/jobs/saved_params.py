"""Parameters from files: job.star of RELION and CCP-EM, and the records of this package's own jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import first_bytes
from napari_autorefine.jobs import JOBS
from napari_autorefine.jobs.record import read_record
from napari_autorefine.params import describe

Values = Mapping[str, str]
Convert = Callable[[str], Any]

_TOKEN = re.compile(r'"([^"]*)"|(\S+)')
_DEGREES = ("30", "15", "7.5", "3.7", "1.8", "0.9", "0.5", "0.2", "0.1")
_TYPES: dict[str, str] = {
    "relion.extract": "extract",
    "relion.refine3d": "refine",
    "relion.maskcreate": "mask",
    "relion.postprocess": "postprocess",
    "relion.map_utilities.rebox_rescale_map": "rebox",
    "relion.reconstructparticletomo": "reconstruct_particle",
    "5": "extract",
    "10": "refine",
    "12": "mask",
    "15": "postprocess",
}
"""Beginning of RELION's job type, or its number before RELION 3.1.1, to the name of the job here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedParameters:
    """Parameters of one job: ``values`` by parameter name; ``notes`` say what was not taken over, and why."""

    job: str
    values: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """What an option of RELION's form means here.

    ``flag`` is the option of the command line, ``convert`` reads the value, ``gate`` names the option that switches it
    on, or off with ``!`` before it.
    """

    flag: str
    convert: Convert
    gate: str = ""


def load_parameters(path: str | Path) -> SavedParameters:
    """Read parameters from a ``job.star`` or from ``PREFIX_params.json``.

    Raises
    ------
    InputError
        It is neither, is damaged, or is a job that does not exist here.
    """
    if first_bytes(path).lstrip().startswith(b"{"):
        record = read_record(path)
        if record.job not in JOBS:
            raise InputError(f"{path} is the record of {record.job!r}, which is not one of the jobs here.")
        known = {one.name for one in describe(JOBS[record.job].params())}
        unknown = sorted(set(record.parameters) - known)
        notes = (f"Not known in this version: {', '.join(unknown)}.",) if unknown else ()
        return SavedParameters(
            job=record.job,
            values={name: value for name, value in record.parameters.items() if name in known},
            notes=notes,
        )
    return _from_job_star(Path(path))


def _from_job_star(path: Path) -> SavedParameters:
    kind, options = read_job_star(path)
    job = next((name for start, name in _TYPES.items() if kind == start or kind.startswith(f"{start}.")), None)
    if job is None or job not in JOBS:
        raise InputError(f"{path} is a job of type {kind}; parameters can be taken from {_known_types()}.")
    taker = _Taker(job, options)
    for name, text in options.items():
        taker.take(name, text)
    return SavedParameters(job=job, values=taker.values, notes=tuple(taker.notes))


def _known_types() -> str:
    names = [start for start, name in _TYPES.items() if name in JOBS and not start.isdigit()]
    return ", ".join(names)


def read_job_star(path: Path) -> tuple[str, dict[str, str]]:
    """Return type and options of a job.star; its table of help texts, which breaks STAR's rules, is not read."""
    block, kind, options = "", "", {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    for line in lines:
        words = [match[1] if match[2] is None else match[2] for match in _TOKEN.finditer(line)]
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith("data_"):
            block = words[0]
        elif block == "data_job" and words[0] in {"_rlnJobTypeLabel", "_rlnJobType"} and len(words) > 1:
            kind = words[1]
        elif block == "data_joboptions_values" and len(words) == 2 and not words[0].startswith("_"):
            options[words[0]] = words[1].replace("__", " ")
    if not kind or not options:
        raise InputError(f"{path} is not a job.star: it has no type of job or no options.")
    return kind, options


class _Taker:
    """Collects parameters from the options of RELION's form."""

    def __init__(self, job: str, options: Values) -> None:
        self.values: dict[str, Any] = {}
        self.notes: list[str] = []
        self._options = options
        self._keys = _KEYS[job]
        self._records = {flag: record for record in describe(JOBS[job].params()) for flag in record.flags}

    def take(self, name: str, text: str) -> None:
        """Put one option into ``values``, or say in ``notes`` why not."""
        keys = [key for key in self._keys.get(name, ()) if key.flag in self._records]
        if not keys:
            if name not in _WITHOUT_MEANING and not _is_idle(name, text):
                self.notes.append(f"{name} = {text or 'empty'}: {_REFUSED.get(name, 'has no counterpart here')}.")
            return
        for key in keys:
            if self._is_open(key.gate):
                self._convert(key, name, text)

    def _is_open(self, gate: str) -> bool:
        """Whether the option that switches another one on, or off with ``!``, does so."""
        if not gate:
            return True
        return _yes(self._options.get(gate.lstrip("!"), "Yes")) != gate.startswith("!")

    def _convert(self, key: _Key, name: str, text: str) -> None:
        record = self._records[key.flag]
        try:
            value = key.convert(text)
        except ValueError:
            self.notes.append(f"{name} = {text}: not a value that {record.param.label} takes.")
            return
        self.values[record.name] = record.default if value == "" and not record.is_required else value


def _is_idle(name: str, text: str) -> bool:
    """Whether an option without a counterpart says nothing: empty, No, off."""
    return name in _REFUSED and text.strip().lower() in {"", "no", "none", "-1", "0"}


def _yes(text: str) -> bool:
    return text.strip().lower() in {"yes", "true", "1"}


def _no(text: str) -> bool:
    return not _yes(text)


def _text(text: str) -> str:
    """Return a text with variables of the environment put in."""
    expanded = os.path.expandvars(text)
    if re.match(r"\$\w", expanded):
        raise ValueError(f"{expanded} is not set")
    return "" if expanded == "None" else expanded


def _number(text: str) -> float:
    return float(text)


def _whole(text: str) -> int:
    return round(float(text))


def _doubled(text: str) -> float:
    """Offset steps of the form are those after oversampling."""
    return 2.0 * float(text)


def _order(text: str) -> int:
    return _DEGREES.index(text.split()[0])


def _key(flag: str, convert: Convert = _text, gate: str = "") -> tuple[_Key, ...]:
    return (_Key(flag=flag, convert=convert, gate=gate),)


_KEYS: dict[str, dict[str, tuple[_Key, ...]]] = {
    "refine": {
        "fn_img": _key("i"),
        "in_particles": _key("i", gate="use_direct_entries"),
        "in_optimisation": _key("ios"),
        "in_tomograms": _key("tomograms", gate="use_direct_entries"),
        "in_trajectories": _key("trajectories", gate="use_direct_entries"),
        "fn_cont": _key("continue"),
        "fn_ref": _key("ref"),
        "fn_mask": _key("solvent_mask"),
        "ref_correct_greyscale": _key("firstiter_cc", _no),
        "trust_ref_size": _key("trust_ref_size", _yes),
        "ini_high": _key("ini_high", _number),
        "sym_name": _key("sym"),
        "do_ctf_correction": _key("ctf", _yes),
        "ctf_intact_first_peak": _key("ctf_intact_first_peak", _yes),
        "particle_diameter": _key("particle_diameter", _number),
        "do_zero_mask": _key("zero_mask", _yes),
        "do_solvent_fsc": _key("solvent_correct_fsc", _yes),
        "sampling": _key("healpix_order", _order),
        "offset_range": _key("offset_range", _number),
        "offset_step": _key("offset_step", _doubled),
        "auto_local_sampling": _key("auto_local_healpix_order", _order),
        "auto_faster": (*_key("auto_ignore_angles", _yes), *_key("auto_resol_angles", _yes)),
        "sigma_tilt": _key("sigma_tilt", _number),
        "do_pad1": _key("pad", lambda text: 1 if _yes(text) else 2),
        "skip_gridding": _key("skip_gridding", _yes),
        "do_preread_images": _key("preread_images", _yes),
        "scratch_dir": _key("scratch_dir"),
        "use_gpu": _key("cpu", _no),
        "gpu_ids": _key("gpu", gate="use_gpu"),
    },
    "extract": {
        "star_mics": _key("i"),
        "fndata_reextract": _key("reextract_data_star", gate="do_reextract"),
        "coords_suffix": _key("coord_list", gate="!do_reextract"),
        "extract_size": _key("extract_size", _whole),
        "do_invert": _key("invert_contrast", _yes),
        "do_norm": _key("norm", _yes),
        "bg_diameter": _key("bg_diameter", _number),
        "white_dust": _key("white_dust", _number),
        "black_dust": _key("black_dust", _number),
        "rescale": _key("scale", _whole, gate="do_rescale"),
        "do_float16": _key("float16", _yes),
        "do_reset_offsets": _key("reset_offsets", _yes, gate="do_reextract"),
        "do_recenter": _key("recenter", _yes, gate="do_reextract"),
        "recenter_x": _key("recenter_x", _number, gate="do_recenter"),
        "recenter_y": _key("recenter_y", _number, gate="do_recenter"),
        "recenter_z": _key("recenter_z", _number, gate="do_recenter"),
        "minimum_pick_fom": _key("minimum_pick_fom", _number, gate="do_fom_threshold"),
    },
    "mask": {
        "fn_in": _key("i"),
        "lowpass_filter": _key("lowpass", _number),
        "angpix": _key("angpix", _number),
        "inimask_threshold": _key("ini_threshold", _number),
        "extend_inimask": _key("extend_inimask", _number),
        "width_mask_edge": _key("width_soft_edge", _number),
    },
    "postprocess": {
        "fn_in": _key("i"),
        "fn_mask": _key("mask"),
        "angpix": _key("angpix", _number),
        "do_auto_bfac": _key("auto_bfac", _yes),
        "autob_lowres": _key("autob_lowres", _number, gate="do_auto_bfac"),
        "adhoc_bfac": _key("adhoc_bfac", _number, gate="do_adhoc_bfac"),
        "do_skip_fsc_weighting": _key("skip_fsc_weighting", _yes),
        "low_pass": _key("low_pass", _number, gate="do_skip_fsc_weighting"),
        "fn_mtf": _key("mtf"),
        "mtf_angpix": _key("mtf_angpix", _number),
    },
    "rebox": {
        "input_map": _key("i"),
        "box_size": _key("new_box", _whole, gate="do_rebox"),
        "rescale_angpix": (
            *_key("rescale_angpix", _number, gate="do_rescale"),
            *_key("force_header_angpix", _number, gate="force_pixel_size"),
        ),
    },
    "reconstruct_particle": {
        "in_particles": _key("p"),
        "in_optimisation": _key("i"),
        "in_tomograms": _key("t"),
        "in_trajectories": _key("mot"),
        "box_size": _key("b", _whole),
        "crop_size": _key("crop", _whole),
        "binning": _key("bin", _number),
        "snr": _key("SNR", _number),
        "sym_name": _key("sym"),
    },
}

_GATES = (
    "do_reextract do_rescale do_recenter do_fom_threshold do_auto_bfac do_rebox force_pixel_size"
    " use_direct_entries do_adhoc_bfac do_set_angpix"
)
_PARALLEL = (
    "do_parallel_discio do_combine_thru_disc nr_pool nr_mpi nr_threads min_dedicated do_queue queuename qsub"
    " qsubscript qsub_extra1 qsub_extra2 qsub_extra3 qsub_extra4 ctf_corrected_ref"
)
_OF_HELICES = (
    "do_apply_helical_symmetry do_local_search_helical_symmetry helical_nr_asu helical_range_distance"
    " helical_rise_inistep helical_rise_initial helical_rise_max helical_rise_min helical_rise"
    " helical_tube_inner_diameter helical_tube_outer_diameter helical_twist_inistep helical_twist_initial"
    " helical_twist_max helical_twist_min helical_z_percentage keep_tilt_prior_fixed range_psi range_rot range_tilt"
    " do_cut_into_segments do_extract_helical_tubes helical_bimodal_angular_priors"
)
_WITHOUT_MEANING = frozenset(f"{_GATES} {_PARALLEL} {_OF_HELICES}".split())
"""Options that are used with another one, that need not be chosen here, or that only matter for helices."""
_REFUSED = {
    "do_helix": "helices are not supported",
    "do_extract_helix": "helices are not supported",
    "relax_sym": "relaxed symmetry is not supported",
    "do_blush": "Blush regularisation is not supported",
    "other_args": "additional arguments are not taken over",
    "in_particles": "has no counterpart here",
    "fn_cont": "has no counterpart here",
}
"""Options that say something only when they are set, with the reason why they are not taken over then."""
