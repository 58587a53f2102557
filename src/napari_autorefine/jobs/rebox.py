"""Change the pixel size and the box of a map, as ``relion_image_handler`` does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

from pydantic import model_validator

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message
from napari_autorefine.io.mrc import read_volume, write_volume
from napari_autorefine.model.resize import even_size, fourier_resize, window
from napari_autorefine.model.volume import Volume
from napari_autorefine.params import JobParams, Param

_WORTH_SAYING = 1e-3


class ReboxParams(JobParams):
    """What ``rebox`` makes of a map: first another pixel size, then another box."""

    input: Annotated[str, Param("Map", "Map to change.", flags=("i",), file_kind="read")]
    output: Annotated[str, Param("Output", "New map.", flags=("o",), file_kind="write")]
    rescale_angpix: Annotated[
        float | None,
        Param("New pixel size", "Resample to this pixel size.", unit="A", minimum=0, is_above_minimum=True),
    ] = None
    new_box: Annotated[int | None, Param("New box", "Cut or pad to this box.", unit="px", minimum=2)] = None
    angpix: Annotated[
        float | None,
        Param("Pixel size", "Overrides the header of the map.", unit="A", minimum=0, is_above_minimum=True),
    ] = None
    force_header_angpix: Annotated[
        float | None,
        Param("Pixel size to write", "Only the header changes.", unit="A", minimum=0, is_above_minimum=True),
    ] = None
    overwrite: Annotated[bool, Param("Overwrite", "Replace an existing map.")] = False

    @model_validator(mode="after")
    def _check_purpose(self) -> ReboxParams:
        if self.rescale_angpix is None and self.new_box is None and self.force_header_angpix is None:
            raise ValueError("give --rescale_angpix, --new_box or --force_header_angpix, or there is nothing to do")
        return self


def rebox(params: ReboxParams) -> Iterator[Event]:
    """Rescale, then rebox one map; yields what was rounded on the way."""
    if os.path.exists(params.output) and not params.overwrite:
        raise InputError(f"{params.output} exists; give --overwrite to replace it, or another name with --o.")
    volume = read_volume(params.input)
    if params.angpix is not None:
        volume = Volume(data=volume.data, voxel_size_A=params.angpix)
    if params.rescale_angpix is not None:
        _check_rescale(volume, params)
        volume = rescaled(volume, params.rescale_angpix)
        yield from _rounding(volume, params)
    if params.new_box is not None:
        volume = Volume(data=window(volume.data, params.new_box), voxel_size_A=volume.voxel_size_A)
    if params.force_header_angpix is not None:
        volume = Volume(data=volume.data, voxel_size_A=params.force_header_angpix)
    write_volume(params.output, volume.data, volume.voxel_size_A)
    size = " x ".join(str(n) for n in reversed(volume.data.shape))
    yield Finished(text=f"New map: {size} px at {volume.voxel_size_A:.6g} A.", outputs={"map": params.output})


def rescaled(volume: Volume, voxel_size_A: float) -> Volume:
    """Return a cubic map at the voxel size nearest to ``voxel_size_A`` that gives a whole, even box."""
    n = volume.data.shape[0]
    size = even_size(n, volume.voxel_size_A, voxel_size_A)
    return Volume(data=fourier_resize(volume.data, size), voxel_size_A=n * volume.voxel_size_A / size)


def _check_rescale(volume: Volume, params: ReboxParams) -> None:
    if volume.voxel_size_A <= 0:
        raise InputError(f"{params.input} has no pixel size in its header; give it with --angpix.")
    if len(set(volume.data.shape)) != 1:
        shape = " x ".join(str(n) for n in reversed(volume.data.shape))
        raise InputError(f"{params.input} is {shape} px; only cubic maps can be rescaled, so give --new_box first.")
    assert params.rescale_angpix is not None
    if even_size(volume.data.shape[0], volume.voxel_size_A, params.rescale_angpix) < 2:
        raise InputError(f"{params.rescale_angpix:g} A leaves no voxel of {params.input}; choose a smaller pixel size.")


def _rounding(volume: Volume, params: ReboxParams) -> Iterator[Message]:
    assert params.rescale_angpix is not None
    wanted, got = params.rescale_angpix, volume.voxel_size_A
    if abs(got / wanted - 1.0) > _WORTH_SAYING:
        yield Message(
            text=f"The pixel size is {got:.6g} A instead of {wanted:g} A, for a whole and even number of voxels.",
            level="warning",
        )
