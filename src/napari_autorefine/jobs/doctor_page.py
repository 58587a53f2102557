"""The page of the check of a machine, and the sentences on what is not as it should be."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

Found = Mapping[str, Any]

_WIDTH = 110
_LOW_SHARE, _LOW_SCALING = 0.4, 0.6
_SLOW_DISC_MBPS = 100.0
_SMALL_MEMORY, _SMALL_DISC = 4 * 10**9, 10 * 10**9


def expected_rate(processor: Found) -> float:
    """Return 10^9 operations per second that one thread can do at the most; 0 when the frequency is not known."""
    return float(processor["frequency_GHz"]) * float(processor["operations_per_cycle"])


def remarks(found: Found) -> list[str]:
    """Return sentences on what costs speed or will cause trouble."""
    return [*_of_processor(found), *_of_room(found), *_of_devices(found)]


def _of_processor(found: Found) -> list[str]:
    processor, matrix, said = found["processor"], found["matrix"], []
    expected, one, together = expected_rate(processor), matrix["one_thread_GFLOPS"], matrix["all_threads_GFLOPS"]
    threads = processor["usable_threads"]
    if expected and one < _LOW_SHARE * expected:
        said.append(
            f"Matrix products run at {one / expected:.0%} of what the processor can do: other programs use it, it is"
            " throttled, or NumPy's BLAS does not fit it."
        )
    if threads > 1 and together < _LOW_SCALING * threads * one:
        said.append(
            f"{threads} threads together do {together / one:.1f} times the work of one: other programs use the"
            " processor, or threads share cores."
        )
    if processor["is_narrow"]:
        wanted = found["system"]["environment"].get("OPENBLAS_CORETYPE")
        advice = (
            f"take OPENBLAS_CORETYPE={wanted} out of the environment" if wanted else "try OPENBLAS_CORETYPE=SkylakeX"
        )
        said.append(f"The processor has AVX-512, but the BLAS uses AVX2: {advice} and compare the rates of two checks.")
    load = processor["load"]
    if load and load[0] > 1.5 * threads:
        said.append(f"Other programs keep the processor busy (load {load[0]:g} on {threads} threads).")
    quota = processor["quota_cores"]
    if quota is not None and quota < threads:
        said.append(f"The container may use {quota:g} cores, but {threads} are seen; give --j {max(int(quota), 1)}.")
    return said


def _of_room(found: Found) -> list[str]:
    memory, discs, disc, said = found["memory"], found["discs"], found["disc"], []
    room = min(memory["available"], memory["limit"] or memory["available"])
    if room < _SMALL_MEMORY:
        said.append(f"Only {_bytes(room)} of memory can be used.")
    for name, one in discs.items():
        if one["free"] < _SMALL_DISC:
            said.append(f"Only {_bytes(one['free'])} are free in the {name} folder {one['path']}.")
    slowest = min((disc[name] for name in ("write_MBps", "read_MBps") if name in disc), default=_SLOW_DISC_MBPS)
    if slowest < _SLOW_DISC_MBPS:
        said.append(
            f"The disc of {discs['folder']['path']} is slow ({slowest:.0f} MB/s); copy particles to a local disc with"
            " --scratch_dir, or into memory with --preread_images."
        )
    return said


def _of_devices(found: Found) -> list[str]:
    said = [f"GPU {one['number']} ({one['name']}) failed: {one['error']}" for one in found["devices"] if "error" in one]
    has_cupy = any(name.startswith("cupy") for name in found["versions"])
    if found["driver"] and not has_cupy:
        said.append("There is a GPU, but CuPy is missing: pip install napari-autorefine[cuda12], or cuda13.")
    if has_cupy and not found["devices"]:
        said.append("CuPy is installed but finds no GPU that it can use: no device, or a driver that is too old.")
    return said


def page(found: Found) -> str:
    """Return one page of text without anything about the user but the folders given."""
    parts = (_versions(found), _processor(found), _room(found), _devices(found), _screen(found), _remarks(found))
    return "\n".join(line for part in parts for line in part)


def _row(name: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(text, _WIDTH - 12, break_long_words=False, break_on_hyphens=False) or ["-"]
    return [f"{name:<11} {wrapped[0]}", *(f"{'':<11} {line}" for line in wrapped[1:])]


def _versions(found: Found) -> list[str]:
    versions, system = dict(found["versions"]), found["system"]
    own, python = versions.pop("napari-autorefine"), versions.pop("python")
    rest = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = _row("version", f"napari-autorefine {own}, Python {python}, {system['system']}") + _row("packages", rest)
    if system["relion"]:
        lines += _row("RELION", system["relion"])
    if system["environment"]:
        lines += _row("environment", ", ".join(f"{name}={value}" for name, value in system["environment"].items()))
    return lines


def _processor(found: Found) -> list[str]:
    processor, matrix, copy, kernels = found["processor"], found["matrix"], found["copy"], found["kernels"]["host"]
    expected, threads = expected_rate(processor), processor["usable_threads"]
    quota = "" if processor["quota_cores"] is None else f", {processor['quota_cores']:g} cores for this container"
    text = (
        f"{processor['model']}, {processor['cores']} cores, {processor['threads']} threads ({threads} usable{quota}),"
        f" {processor['frequency_GHz']:.2f} GHz, {' '.join(processor['vectors'])}; load"
        f" {' '.join(map(str, processor['load'])) or 'unknown'}"
    )
    share = f", {matrix['one_thread_GFLOPS'] / expected:.0%} of {expected:.0f} per thread" if expected else ""
    rate = (
        f"{matrix['one_thread_GFLOPS']:.0f} GFLOP/s with one thread{share}; {matrix['all_threads_GFLOPS']:.0f} with"
        f" {threads} ({processor['blas']})"
    )
    kept = f"{kernels['n_compiled']} of {kernels['n_function']} compiled, in {kernels['folder']}"
    return [
        *_row("processor", text),
        *_row("products", rate),
        *_row("copies", f"{copy['one_thread_GBps']:.1f} GB/s with one thread, {copy['all_threads_GBps']:.1f} with all"),
        *_row("kernels", kept),
    ]


def _room(found: Found) -> list[str]:
    memory, disc = found["memory"], found["disc"]
    limit = "" if memory["limit"] is None else f", limited to {_bytes(memory['limit'])}"
    free, total, swap = (_bytes(memory[name]) for name in ("available", "total", "swap"))
    lines = _row("memory", f"{free} of {total} free, swap {swap}{limit}")
    for name, one in found["discs"].items():
        lines += _row("disc", f"{_bytes(one['free'])} of {_bytes(one['total'])} free ({name}: {one['path']})")
    if "error" in disc:
        return lines + _row("disc rate", disc["error"])
    past = "" if disc["is_from_disc"] else " (maybe from memory)"
    return lines + _row(
        "disc rate", f"{disc['write_MBps']:.0f} MB/s written, {disc['read_MBps']:.0f} MB/s read{past}, in the folder"
    )


def _devices(found: Found) -> list[str]:
    lines = _row("driver", found["driver"]) if found["driver"] else []
    for one in found["devices"]:
        text = (
            f"{one['name']}, {_bytes(one['free'])} of {_bytes(one['memory'])} free, compute capability"
            f" {one['capability']}, CUDA {one['runtime_cuda']} (driver up to {one['driver_cuda']})"
        )
        if "rates" in one:
            rates = one["rates"]
            text += (
                f"; products {rates['matrix_GFLOPS'] / 1e3:.1f} TFLOP/s, copies {rates['copy_GBps']:.0f} GB/s, to it"
                f" {rates['to_device_GBps']:.1f}, from it {rates['from_device_GBps']:.1f}"
            )
        lines += _row(f"GPU {one['number']}", text)
    if not found["devices"]:
        lines += _row("GPU", "none that can be used")
    elif found["kernels"]["device"]["n_compiled"] == 0:
        lines += _row("GPU kernels", "none compiled yet")
    return lines


def _screen(found: Found) -> list[str]:
    seen = found["graphics"]
    return _row("graphics", seen.get("error") or f"{seen['renderer']} ({seen['vendor']}), OpenGL {seen['version']}")


def _remarks(found: Found) -> list[str]:
    return [line for one in found["remarks"] for line in _row("remark", one)]


def _bytes(n_byte: float) -> str:
    return f"{n_byte / 1e9:.1f} GB" if n_byte >= 1e9 else f"{n_byte / 1e6:.0f} MB"
