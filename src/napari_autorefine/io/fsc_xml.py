"""Correlation curves as files of their own: the XML that EMDB takes, and plain columns."""

from __future__ import annotations

import os
from xml.sax.saxutils import quoteattr

import numpy as np

from napari_autorefine.io.files import replacing


def write_fsc_xml(path: str | os.PathLike[str], frequency: np.ndarray, fsc: np.ndarray, *, title: str) -> None:
    """Write a Fourier shell correlation in EMDB's format.

    Parameters
    ----------
    path : file to write
    frequency : (n,) 1 / A
    fsc : (n,)
    title : shown with the curve
    """
    lines = [f'<fsc title={quoteattr(title)} xaxis="Resolution (A-1)" yaxis="Correlation Coefficient">']
    for x, y in zip(frequency.tolist(), fsc.tolist(), strict=True):
        lines += ["  <coordinate>", f"    <x>{x:.6g}</x>", f"    <y>{y:.6g}</y>", "  </coordinate>"]
    with replacing(path) as temporary:
        temporary.write_text("\n".join([*lines, "</fsc>", ""]), encoding="utf-8")


def write_fsc_columns(path: str | os.PathLike[str], frequency: np.ndarray, fsc: np.ndarray) -> None:
    """Write frequency (1 / A) and correlation, (n,) each, as two columns of text."""
    rows = [f"{x:.6g} {y:.6g}\n" for x, y in zip(frequency.tolist(), fsc.tolist(), strict=True)]
    with replacing(path) as temporary:
        temporary.write_text("".join(rows), encoding="utf-8")
