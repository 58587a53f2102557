"""Read and check everything that post-processing starts from, before any work is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import first_bytes
from napari_autorefine.io.mtf import read_mtf
from napari_autorefine.jobs.map_inputs import (
    InputMap,
    check_cubic,
    check_even,
    check_mask,
    check_same_grid,
    read_map,
    voxel_size_of,
)
from napari_autorefine.jobs.postprocess_params import PostprocessParams
from napari_autorefine.jobs.record import check_free, check_not_input, output_of

_WHAT_FOR = "post-processing"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostprocessInputs:
    """Checked inputs, all on one cubic grid.

    Attributes
    ----------
    halves : two (N, N, N) float32 maps, each with its file
    mask : (N, N, N) within [0, 1], or None
    mtf : frequency in 1 / px and transfer, or None
    params : as given, with the files that were found
    """

    halves: tuple[InputMap, InputMap]
    mask: np.ndarray | None
    mtf: tuple[np.ndarray, np.ndarray] | None
    voxel_size_A: float
    params: PostprocessParams

    @property
    def box_size(self) -> int:
        """N."""
        return int(self.halves[0].data.shape[0])

    @property
    def are_identical(self) -> bool:
        """Tell whether both halves are the same map."""
        return np.array_equal(self.halves[0].data, self.halves[1].data)


def load_inputs(params: PostprocessParams) -> PostprocessInputs:
    """Read half-maps, mask and MTF, and check that they fit each other.

    Raises
    ------
    InputError
        Whatever is missing or does not fit.
    """
    first_path, second_path = half_paths(params)
    first, second = read_map(first_path, "half1"), read_map(second_path, "half2")
    check_cubic(first, _WHAT_FOR)
    check_even(first, _WHAT_FOR)
    check_same_grid(second, first)
    for half in (first, second):
        if not np.any(half.data != half.data.flat[0]):
            raise InputError(f"{half.path} has the value {half.data.flat[0] + 0.0:g} everywhere; it is no half-map.")
    found = {"half1": first.path, "half2": second.path}
    mask: np.ndarray | None = None
    if params.mask:
        one = read_map(params.mask, "mask")
        check_same_grid(one, first)
        check_mask(one)
        mask = np.clip(one.data, 0.0, 1.0)
        found["mask"] = one.path
    return PostprocessInputs(
        halves=(first, second),
        mask=mask,
        mtf=read_mtf(params.mtf) if params.mtf else None,
        voxel_size_A=voxel_size_of(first, params.angpix),
        params=params.model_copy(update=found),
    )


def half_paths(params: PostprocessParams) -> tuple[str, str]:
    """Return the files of half 1 and half 2; the second by the name of the first when it is not given.

    Raises
    ------
    InputError
        When there is no second file; the names tried are in the sentence.
    """
    given = params.half1
    first = output_of(given, "half1")
    if params.half2:
        return first, output_of(params.half2, "half2")
    folder, name = os.path.split(first)
    for word, other in (("half1", "half2"), ("half2", "half1")):
        if word not in name:
            continue
        first_bytes(first)
        partner = os.path.join(folder, other.join(name.rsplit(word, 1)))
        if not Path(partner).is_file():
            raise InputError(f"{first} has no other half: {partner} does not exist; give it with --i2.")
        return (first, partner) if word == "half1" else (partner, first)
    raise InputError(f"{first} has neither half1 nor half2 in its name; give the other half-map with --i2.")


def output_files(params: PostprocessParams) -> dict[str, str]:
    """Return the names of all outputs, by kind."""
    prefix = params.output
    names = {
        "map": f"{prefix}.mrc",
        "star": f"{prefix}.star",
        "fsc_xml": f"{prefix}_fsc.xml",
        "fsc_columns": f"{prefix}_fsc.dat",
        "fsc_plot": f"{prefix}_fsc.png",
        "guinier_plot": f"{prefix}_guinier.png",
    }
    has_mask = bool(params.mask) or params.auto_mask
    if has_mask:
        names["masked_map"] = f"{prefix}_masked.mrc"
    if params.auto_mask:
        names["mask"] = f"{prefix}_automask.mrc"
    if params.half_maps:
        names |= {f"sharpened_half{half}": f"{prefix}_half{half}.mrc" for half in (1, 2)}
    if params.half_maps and has_mask:
        names |= {f"masked_half{half}": f"{prefix}_half{half}_masked.mrc" for half in (1, 2)}
    return names


def check_outputs(params: PostprocessParams) -> None:
    """Raise when the output is a folder, or when one of its files is there already."""
    if params.output.endswith("/") or Path(params.output).is_dir():
        raise InputError(
            f"--o {params.output} is a folder; give the first part of file names too, as"
            f" {Path(params.output) / 'postprocess'}."
        )
    for path in output_files(params).values():
        check_free(path, params.overwrite)
        check_not_input(path, (params.half1, params.half2, params.mask))
