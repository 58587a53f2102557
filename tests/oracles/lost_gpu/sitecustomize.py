"""Python runs this file when its folder is on the path: the processes of jobs have a GPU that can be lost.

The GPU is the stand-in for CuPy; its kernels are refused, as CUDA's runtime does, once the file LOST is there.
"""

import os
import sys
from pathlib import Path

from oracles import cupy_stand_in

BUILDS, LOST = Path(os.environ["AUTOREFINE_GPU_BUILDS"]), Path(os.environ["AUTOREFINE_GPU_LOST"])


class CUDARuntimeError(RuntimeError):
    """As CuPy's: a RuntimeError."""


class RawModule(cupy_stand_in.RawModule):
    """Kernels of a device that may be gone."""

    def get_function(self, name):
        launch = super().get_function(name)

        def checked(*arguments):
            if LOST.exists():
                raise CUDARuntimeError("cudaErrorDevicesUnavailable: CUDA-capable device(s) is/are busy or unavailable")
            launch(*arguments)

        return checked


cupy_stand_in.CUPY.RawModule = RawModule
cupy_stand_in.MACHINE.names = ["Stand-in"]
cupy_stand_in.MACHINE.folder = BUILDS
sys.modules["cupy"] = cupy_stand_in.CUPY
