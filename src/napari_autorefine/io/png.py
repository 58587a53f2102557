"""Plain grey pictures as PNG files, without a plotting library."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from napari_autorefine.io.files import replacing

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8_BIT = (8, 0, 0, 0, 0)


def write_grey_png(path: str | os.PathLike[str], picture: np.ndarray, texts: Mapping[str, str] | None = None) -> None:
    """Write a picture (n_y, n_x) uint8, the first row on top, under a temporary name, then rename.

    ``texts`` are stored in the file by keyword (``Title``, ``Description`` …).

    References
    ----------
    W3C Recommendation, Portable Network Graphics, second edition (2003).
    """
    n_y, n_x = picture.shape
    rows = np.concatenate([np.zeros((n_y, 1), np.uint8), picture.astype(np.uint8)], axis=1)
    chunks = [_chunk(b"IHDR", struct.pack(">IIBBBBB", n_x, n_y, *_GREY_8_BIT))]
    for keyword, text in (texts or {}).items():
        chunks.append(_chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1", "replace")))
    chunks += [_chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)), _chunk(b"IEND", b"")]
    with replacing(path) as temporary:
        temporary.write_bytes(_SIGNATURE + b"".join(chunks))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
