"""Change the pixel size and the box of maps, as ``relion_image_handler`` does."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.events import Event, Finished, Message, Progress
from napari_autorefine.io.files import FileSet
from napari_autorefine.io.mrc import write_volume
from napari_autorefine.jobs.map_inputs import InputMap, check_cubic, looks_like_mask, read_map_or_mask, voxel_size_of
from napari_autorefine.jobs.output_lock import one_at_a_time
from napari_autorefine.jobs.rebox_params import FOREIGN_OPTIONS, ReboxParams
from napari_autorefine.jobs.record import check_free, check_not_input, write_record
from napari_autorefine.model.resize import even_size, fourier_resize, window
from napari_autorefine.model.volume import Volume

__all__ = ["FOREIGN_OPTIONS", "ReboxParams", "rebox", "rescaled"]

_WORTH_SAYING = 1e-3
_LARGEST_BOX = 4096
_MAP_ENDINGS = (".mrc", ".map", ".ccp4")


@one_at_a_time
def rebox(params: ReboxParams) -> Iterator[Event]:
    """Rescale, then rebox every map; yields what was rounded on the way.

    Raises
    ------
    InputError
        Whatever is wrong with one of the maps; then none is written.
    """
    sources = [read_map_or_mask(path) for path in params.maps]
    params = params.model_copy(update={"input": tuple(source.path for source in sources)})
    targets = output_names(params)
    for target in targets:
        check_free(target, params.overwrite)
        check_not_input(target, params.maps)
    changed: list[Volume] = []
    for done, source in enumerate(sources):
        yield Progress(stage="rescaling", done=done, total=len(sources))
        changed.append((yield from _changed(source, params)))
    Path(targets[0]).parent.mkdir(parents=True, exist_ok=True)
    with FileSet() as files:
        for target, volume in zip(targets, changed, strict=True):
            write_volume(files.new(target), volume.data, volume.voxel_size_A)
    outputs = {"map": targets[0]} | {f"map_{n}": target for n, target in enumerate(targets[1:], start=2)}
    write_record(_record_prefix(params, targets), "rebox", params, outputs)
    size = " x ".join(str(n) for n in reversed(changed[0].data.shape))
    begin = "New map" if len(changed) == 1 else f"{len(changed)} new maps"
    yield Finished(text=f"{begin}: {size} px at {changed[0].voxel_size_A:.6g} A.", outputs=outputs)


def output_names(params: ReboxParams) -> tuple[str, ...]:
    """Return the names of the new maps: the output itself, or one per map in the folder of that name.

    Raises
    ------
    InputError
        When two maps would get the same name.
    """
    is_file = params.output.lower().endswith(_MAP_ENDINGS) and not Path(params.output).is_dir()
    if is_file and len(params.maps) > 1:
        raise InputError(f"--o {params.output} is one file but there are {len(params.maps)} maps; give a folder.")
    if is_file:
        return (params.output,)
    added = ("_reboxed" if params.new_box else "") + ("_rescaled" if params.rescale_angpix else "")
    names = [f"{_stem(path)}{added}.mrc" for path in params.maps]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        same = [path for path, name in zip(params.maps, names, strict=True) if name == double]
        raise InputError(f"{' and '.join(same)} would both become {double}; rebox them one by one.")
    return tuple(str(Path(params.output) / name) for name in names)


def _stem(path: str) -> str:
    name = Path(path).name
    for ending in (".gz", ".bz2", *_MAP_ENDINGS):
        name = name[: -len(ending)] if name.lower().endswith(ending) else name
    return name


def _record_prefix(params: ReboxParams, targets: tuple[str, ...]) -> Path:
    """Beside one map its name, in a folder of several ``rebox``."""
    return Path(targets[0]).with_suffix("") if len(targets) == 1 else Path(params.output) / "rebox"


def _changed(source: InputMap, params: ReboxParams) -> Generator[Event, None, Volume]:
    """Return one map with its new pixel size and box."""
    voxel_size_A = params.angpix if params.angpix is not None else source.voxel_size_A
    if params.rescale_angpix is not None:
        voxel_size_A = voxel_size_of(source, params.angpix)
    elif voxel_size_A is None and params.force_header_angpix is None:
        text = f"{source.path} has no pixel size in its header; the new one says 1 A. --angpix gives another."
        yield Message(text=text, level="warning")
    volume = Volume(data=source.data, voxel_size_A=voxel_size_A or 1.0)
    if params.rescale_angpix is not None:
        _check_rescale(source, volume, params.rescale_angpix)
        volume = rescaled(volume, params.rescale_angpix)
        yield from _rounding(source, volume, params)
        volume = yield from _kept_within_mask(source, volume)
    if params.new_box is not None:
        _check_size(source, params.new_box)
        if params.new_box % 2:
            text = f"A box of {params.new_box} px is odd; refinement and post-processing need an even one."
            yield Message(text=text, level="warning")
        volume = Volume(data=window(volume.data, params.new_box), voxel_size_A=volume.voxel_size_A)
    header_A = params.rescale_angpix if params.force_pixel_size else params.force_header_angpix
    if header_A is None and params.rescale_angpix is None:
        header_A = source.voxel_size_A  # another pixel size was only given for what is computed
    return volume if header_A is None else Volume(data=volume.data, voxel_size_A=header_A)


def rescaled(volume: Volume, voxel_size_A: float) -> Volume:
    """Return a cubic map at the voxel size nearest to ``voxel_size_A`` that gives a whole, even box."""
    n = volume.data.shape[0]
    size = even_size(n, volume.voxel_size_A, voxel_size_A)
    return Volume(data=fourier_resize(volume.data, size), voxel_size_A=n * volume.voxel_size_A / size)


def _check_rescale(source: InputMap, volume: Volume, wanted_A: float) -> None:
    check_cubic(source, "another pixel size")
    size = even_size(volume.data.shape[0], volume.voxel_size_A, wanted_A)
    if size < 2:
        raise InputError(f"{wanted_A:g} A leaves no voxel of {source.path}; choose a smaller pixel size.")
    _check_size(source, size)


def _check_size(source: InputMap, size: int) -> None:
    """Raise when a box is beyond reason, most likely by a typing error."""
    if size > _LARGEST_BOX:
        raise InputError(
            f"{source.path} would have {size} px per side, more than {_LARGEST_BOX}; choose a larger pixel size or a"
            " smaller box."
        )


def _rounding(source: InputMap, volume: Volume, params: ReboxParams) -> Iterator[Message]:
    """Say what a whole, even number of voxels does to the pixel size, and to the centre of an odd box."""
    assert params.rescale_angpix is not None
    wanted, got, n = params.rescale_angpix, volume.voxel_size_A, source.data.shape[0]
    if abs(got / wanted - 1.0) > _WORTH_SAYING:
        text = f"The pixel size is {got:.6g} A instead of {wanted:g} A, for a whole and even number of voxels"
        ending = (
            f", {100 * (got / wanted - 1):+.2f} % off scale; the header says {wanted:g} A."
            if (params.force_pixel_size)
            else "."
        )
        yield Message(text=text + ending, level="warning")
    if n % 2:
        moved = volume.data.shape[0] / (2 * n)
        text = f"{source.path} has an odd box of {n} px, so that its centre comes to lie {moved:.2f} px beside the new"
        yield Message(text=f"{text} one; give it an even box first, with --new_box {n + 1} alone.", level="warning")


def _kept_within_mask(source: InputMap, volume: Volume) -> Generator[Event, None, Volume]:
    """Return a mask cut off at 0 and 1 again after resampling; other maps as they are."""
    if not looks_like_mask(source.data):
        return volume
    low, high = float(volume.data.min()), float(volume.data.max())
    if low >= 0.0 and high <= 1.0:
        return volume
    text = f"{source.path} is a mask: it is kept within 0 and 1, where resampling gave {low:.3g} to {high:.4g}."
    yield Message(text=text)
    return Volume(data=np.clip(volume.data, 0.0, 1.0), voxel_size_A=volume.voxel_size_A)
