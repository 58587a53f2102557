"""CUDA sources compiled as C++ and run on the host, one thread after the other, from barrier to barrier."""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

SHIM = Path(__file__).parent / "cuda_shim.h"
COMPILER = next((found for name in ("g++", "clang++", "c++") if (found := shutil.which(name))), None)
ENTRY = """extern "C" int run_{name}(const unsigned* shape, void** arguments, int n_arguments) {{
    return run({name}, shape, arguments, n_arguments);
}}
"""
CXX_OPTIONS = ("-std=c++14", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
CXX_EXTRA = ("-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-missing-field-initializers")


@functools.cache
def compile_for_host(code: str, options: tuple[str, ...], folder: Path) -> Any:
    """Compile a CUDA source as C++ behind the shim; return the library, with a ``run_…`` for every kernel."""
    assert COMPILER is not None
    names = re.findall(r"__global__ void (\w+)\(", code)
    entries = [ENTRY.format(name=name) for name in names]
    stem = f"{names[0]}-{abs(hash((code, options))):x}"
    source, library = folder / f"{stem}.cpp", folder / f"{stem}.so"
    first = ["#define SYNCHRONIZES"] if "__syncthreads" in code else []
    source.write_text("\n".join([*first, f'#include "{SHIM}"', code, *entries]), encoding="utf-8")
    defines = [option for option in options if option.startswith("-D")]
    command = [COMPILER, *CXX_OPTIONS, *CXX_EXTRA, *defines, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


def launch_on_host(entry: Any, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """Run one launch; ``arguments`` are NumPy arrays and sized NumPy scalars, as CuPy's RawKernel takes them."""
    shape = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
    values = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            assert argument.flags.c_contiguous
            values.append(ctypes.c_void_p(argument.ctypes.data))
        else:
            assert isinstance(argument, np.generic), f"a bare Python number has no size: {argument!r}"
            values.append(np.ctypeslib.as_ctypes_type(argument.dtype)(argument.item()))
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    expected = entry(shape, pointers, len(values))
    assert expected >= 0, "threads of a block wait at a barrier which others never reach"
    assert expected == 0, f"the kernel takes {expected} arguments, got {len(values)}"
