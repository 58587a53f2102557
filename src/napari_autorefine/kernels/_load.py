"""CUDA sources of this folder: read them, resolve their includes, compile them once per device."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from napari_autorefine.xp import array_module

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++14",)
_INCLUDE = re.compile(r'^#include "([\w.]+)"$')


def read_source(stem: str) -> str:
    """Return ``stem``.cu as one translation unit; compiler messages name the real files and lines.

    Lines of the form ``#include "name"`` are replaced by that file of this folder, so no include path is needed.
    """
    return _expand(f"{stem}.cu")


def load_kernel(stem: str, array: Any, *, name: str = "", options: tuple[str, ...] = ()) -> Callable[..., None]:
    """Return a kernel of ``stem``.cu for the device that holds ``array``.

    Parameters
    ----------
    stem : stem of the file
    array : CuPy array; it says which CuPy and which device
    name : kernel of a file that has several; that of the file's own name otherwise
    options : extra compiler options, such as ``("-DWITH_WEIGHT=1",)``

    Returns
    -------
    function of (grid, block, arguments), as :class:`cupy.RawKernel`
    """
    kernel: Callable[..., None] = _compile(stem, array_module(array), int(array.device.id), OPTIONS + options)(
        name or stem
    )
    return kernel


@functools.cache
def _compile(stem: str, xp: Any, device: int, options: tuple[str, ...]) -> Callable[[str], Any]:
    with xp.cuda.Device(device):
        module = xp.RawModule(code=read_source(stem), options=options)
    return functools.cache(module.get_function)


def _expand(name: str) -> str:
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((FOLDER / name).read_text(encoding="utf-8").splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include is None:
            lines.append(line)
        else:
            lines += [_expand(include.group(1)), f'#line {number + 1} "{name}"']
    return "\n".join(lines)
