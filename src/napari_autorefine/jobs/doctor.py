"""Check this machine: what it is, how fast it is against what it should be, on one page to paste into a question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.files import check_writable, replacing
from napari_autorefine.jobs import doctor_machine as machine
from napari_autorefine.jobs.compilation import device_cache, host_cache
from napari_autorefine.jobs.doctor_page import page, remarks
from napari_autorefine.jobs.doctor_params import DoctorParams
from napari_autorefine.jobs.doctor_rates import copy_rate, device_rates, disc_rates, matrix_rates
from napari_autorefine.jobs.failures import failure_text
from napari_autorefine.jobs.record import check_free

__all__ = ["DoctorParams", "doctor"]

_STAGES = ("versions", "graphics", "matrix products", "memory copies", "disc", "GPUs")


def doctor(params: DoctorParams) -> Iterator[Event]:
    """Check this machine; the page comes as a message, all figures in ``Finished.figures`` and, if wanted, as JSON.

    Raises
    ------
    InputError
        A folder that cannot be written, a JSON file that exists.
    """
    folder = Path(params.folder)
    if not folder.is_dir():
        raise InputError(f"--folder {params.folder} does not exist; give a folder whose disc is to be tested.")
    if params.disk_MB:
        check_writable(folder)
    if params.json_file:
        check_free(params.json_file, params.overwrite)
    yield _progress(0)
    found: dict[str, Any] = {"versions": machine.versions(), "system": machine.system()}
    found |= {"processor": machine.processor(), "memory": machine.memory(), "discs": machine.discs(params.folder)}
    found["kernels"] = {"host": asdict(host_cache()), "device": asdict(device_cache())}
    yield _progress(1)
    found["graphics"] = machine.graphics() if params.graphics else {"error": "not asked for"}
    threads = found["processor"]["usable_threads"]
    yield _progress(2)
    found["matrix"] = matrix_rates(threads, params.seconds)
    yield _progress(3)
    found["copy"] = copy_rate(threads, params.seconds)
    yield _progress(4)
    found["disc"] = _disc(folder, params, found["discs"]["folder"]["free"])
    yield _progress(5)
    found["driver"], found["devices"] = machine.driver(), _devices(params)
    found["remarks"] = remarks(found)
    yield Message(text=page(found))
    outputs = {}
    if params.json_file:
        with replacing(params.json_file) as temporary:
            temporary.write_text(json.dumps(found, indent=1, default=str) + "\n", encoding="utf-8")
        outputs["json"] = params.json_file
    n = len(found["remarks"])
    text = "Nothing is wrong with this machine." if n == 0 else f"{n} remark{'s' if n > 1 else ''}, see above."
    yield Finished(text=text, outputs=outputs, figures=found)


def _progress(number: int) -> Progress:
    return Progress(stage=_STAGES[number], done=number, total=len(_STAGES))


def _disc(folder: Path, params: DoctorParams, free: int) -> dict[str, Any]:
    """Test the disc, unless that was not asked for or would fill it."""
    n_byte = params.disk_MB * 1_000_000
    if n_byte == 0:
        return {"error": "not tested"}
    if n_byte > free // 2:
        return {"error": "not tested: too little space is free"}
    try:
        return disc_rates(folder, n_byte)
    except OSError as error:
        return {"error": failure_text(error)}


def _devices(params: DoctorParams) -> list[dict[str, Any]]:
    """Describe and measure all GPUs; one that fails says how."""
    found = machine.devices()
    for device in found:
        try:
            device["rates"] = device_rates(device["number"], params.seconds)
        except Exception as error:  # CuPy raises several unrelated types
            device["error"] = failure_text(error)
    return found
