"""What a job that fails tells the user: one sentence in plain words, and the details for whoever wants them."""

from __future__ import annotations

import errno
import traceback

from napari_autorefine.errors import InputError


def failure_text(error: BaseException) -> str:
    """Return one sentence that a user can act on.

    Errors of CUDA and CuPy are told from their names, so that CuPy need not be there.
    """
    if isinstance(error, InputError):
        return str(error)
    name = type(error).__name__
    if isinstance(error, MemoryError) and name != "OutOfMemoryError":
        return "The computer has too little memory for this job; close other programs or use a smaller box."
    if name == "OutOfMemoryError" or "OutOfMemory" in str(error):
        return "The GPU has too little free memory for this job; end other jobs on it or switch GPU acceleration off."
    if name.startswith(("CUDA", "CUFFT")) or "cudaError" in str(error):
        return f"The GPU failed ({_first_line(error)}); run the job again, or switch GPU acceleration off."
    if isinstance(error, OSError):
        return _os_error_text(error)
    return f"The job ended by an error that it did not expect: {name}, {_first_line(error)}"


def failure_details(error: BaseException) -> str:
    """Return the traceback of an unexpected error; nothing for input that cannot be used."""
    if isinstance(error, InputError):
        return ""
    return "".join(traceback.format_exception(error))


def _os_error_text(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"No space is left for the output{where}; free some or choose another folder."
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"No permission to read or write{where}; choose another folder or change its permissions."
    return f"{error.strerror or error}{where}."


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no further text"
