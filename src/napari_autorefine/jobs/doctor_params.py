"""Parameters of the check of a machine."""

from __future__ import annotations

from typing import Annotated

from napari_autorefine.params import JobParams, Param


class DoctorParams(JobParams):
    """What is checked and where the result goes."""

    folder: Annotated[
        str,
        Param("Folder to test", "Its disc is written to and read from.", "I/O", flags=("folder",), file_kind="folder"),
    ] = "."
    json_file: Annotated[
        str | None, Param("JSON file", "All figures as JSON.", "I/O", flags=("json",), file_kind="write")
    ] = None
    overwrite: Annotated[bool, Param("Overwrite", "Replace an earlier JSON file.", "I/O")] = False
    seconds: Annotated[
        float, Param("Time per rate", "How long each rate is measured.", "Check", unit="s", minimum=0.05, maximum=60.0)
    ] = 1.0
    disk_MB: Annotated[
        int, Param("Size of the test file", "In millions of bytes; 0: the disc is not tested.", "Check", minimum=0)
    ] = 512
    graphics: Annotated[
        bool, Param("Ask for the graphics card", "Opens a hidden window to learn what draws volumes.", "Check")
    ] = True
