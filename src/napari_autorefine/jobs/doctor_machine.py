"""What a machine is: processor, memory, discs, versions, graphics."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
from threadpoolctl import threadpool_info

from napari_autorefine import xp
from napari_autorefine.io.files import existing_folder
from napari_autorefine.io.run_tables import software_version

_PACKAGES = (
    *("numpy", "scipy", "numba", "llvmlite", "finufft", "pandas", "mrcfile", "psutil", "pydantic"),
    *("napari", "vispy", "pyqtgraph", "qtpy", "PyQt6", "PyQt5", "PySide6", "cupy-cuda12x", "cupy-cuda13x", "cupy"),
)
_VARIABLES = re.compile(
    r"^(OMP|OPENBLAS|MKL|BLIS|NUMBA|CUDA|CUPY|NVIDIA|QT|PYOPENGL|SLURM_(JOB_CPUS|CPUS|MEM))|^(DISPLAY|WAYLAND_DISPLAY)$"
)
_WIDE = frozenset({"SkylakeX", "Cooperlake", "Sapphirerapids", "SAPPHIRERAPIDS"})
_GRAPHICS = """
from vispy import app, gloo
canvas = app.Canvas(show=False, size=(8, 8))
canvas.set_current()
gl = gloo.gl
print(gl.glGetParameter(gl.GL_VENDOR), gl.glGetParameter(gl.GL_RENDERER), gl.glGetParameter(gl.GL_VERSION), sep="\\n")
"""


def versions() -> dict[str, str]:
    """Return this package's version, Python's, and those of the packages that matter."""
    found = {"napari-autorefine": software_version(), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def system() -> dict[str, Any]:
    """Return what runs the computer, and what was set for this process."""
    set_here = {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.search(name)}
    relion = shutil.which("relion_refine")
    return {"system": platform.platform(), "environment": set_here, "relion": None if relion is None else home(relion)}


def processor() -> dict[str, Any]:
    """Return model, cores, frequency in GHz, vector instructions, and the library of matrix products."""
    flags, model = _cpu_flags()
    libraries = [info for info in threadpool_info() if info.get("user_api") == "blas"]
    library = libraries[0] if libraries else {}
    architecture = str(library.get("architecture", ""))
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "model": model,
        "cores": psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        "threads": os.cpu_count() or 1,
        "usable_threads": usable_threads(),
        "quota_cores": _quota_cores(),
        "frequency_GHz": 0.0 if frequency is None else max(frequency.max, frequency.current) / 1e3,
        "vectors": [name for name in ("sse4_2", "avx", "avx2", "fma", "avx512f", "asimd", "neon") if name in flags],
        "blas": " ".join(str(library.get(name) or "") for name in ("internal_api", "version", "architecture")).strip(),
        "operations_per_cycle": _operations_per_cycle(flags, architecture),
        "is_narrow": "avx512f" in flags and bool(architecture) and architecture not in _WIDE,
        "load": [round(one, 2) for one in os.getloadavg()] if hasattr(os, "getloadavg") else [],
    }


def usable_threads() -> int:
    """Return how many threads this process may use at a time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _operations_per_cycle(flags: frozenset[str], architecture: str) -> int:
    """Return single-precision operations per cycle and core: two multiply-adds of the vectors that are used."""
    if "avx512f" in flags and (architecture in _WIDE or not architecture):
        return 64
    if "avx2" in flags:
        return 32
    return 16


def _cpu_flags() -> tuple[frozenset[str], str]:
    """Return flags and model name as the system tells them."""
    model = platform.processor() or platform.machine()
    flags: frozenset[str] = frozenset({"neon", "asimd"} if platform.machine() in {"arm64", "aarch64"} else ())
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return flags, _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or model
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    values = {name.strip(): value.strip() for name, _, value in pairs}
    return flags | frozenset((values.get("flags") or values.get("Features") or "").split()), values.get(
        "model name", model
    )


def _quota_cores() -> float | None:
    """Return how many cores a container may use, None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def memory() -> dict[str, Any]:
    """Return memory in bytes; ``limit`` is that of a container, None without one."""
    state = psutil.virtual_memory()
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        limit = None
    return {"total": int(state.total), "available": int(state.available), "swap": _swap(), "limit": limit}


def _swap() -> int:
    try:
        return int(psutil.swap_memory().total)
    except (OSError, RuntimeError):
        return 0


def discs(folder: str) -> dict[str, dict[str, Any]]:
    """Return free and total bytes of the folder to test and of that for temporary files."""
    found = {}
    for name, place in (("folder", folder), ("temporary", tempfile.gettempdir())):
        usage = shutil.disk_usage(existing_folder(place))
        found[name] = {"path": home(place), "free": usage.free, "total": usage.total}
    return found


def devices() -> list[dict[str, Any]]:
    """Return GPUs: name, memory in bytes, compute capability, driver and CUDA versions."""
    found: list[dict[str, Any]] = []
    for number in range(xp.gpu_count()):
        cupy = xp.array_module(xp.zeros_on_device((1,), "f4", number))
        properties, runtime = cupy.cuda.runtime.getDeviceProperties(number), cupy.cuda.runtime
        found.append(
            {
                "number": number,
                "name": xp.gpu_name(number),
                "memory": int(properties["totalGlobalMem"]),
                "free": xp.free_device_memory(number),
                "capability": f"{properties['major']}.{properties['minor']}",
                "multiprocessors": int(properties["multiProcessorCount"]),
                "driver_cuda": _cuda_version(runtime.driverGetVersion()),
                "runtime_cuda": _cuda_version(runtime.runtimeGetVersion()),
            }
        )
    return found


def driver() -> str:
    """Return version of the NVIDIA driver and what ``nvidia-smi`` sees, nothing without it."""
    query = ["nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"]
    return "; ".join(_output(query).splitlines()[:8])


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def graphics() -> dict[str, str]:
    """Return what draws on the screen, asked for in a process of its own, because a driver may end it."""
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return {"error": "no display"}
    lines = _output([sys.executable, "-c", _GRAPHICS], 60.0).splitlines()
    if len(lines) < 3:
        return {"error": "no OpenGL"}
    return dict(zip(("vendor", "renderer", "version"), lines[-3:], strict=True))


def _output(command: list[str], timeout_s: float = 10.0) -> str:
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""


def home(path: str | Path) -> str:
    """Return a path without the user's name."""
    text, own = str(Path(path).absolute()), str(Path.home())
    return "~" + text[len(own) :] if own != "/" and text.startswith(own) else text
