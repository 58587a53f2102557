"""Images of particles of tomograms: volumes with their CTF and multiplicity, or stacks of tilt images.

Both readers look files up relative to the project's folder (the working directory), then to the STAR file's folder,
check all headers when they are made, keep nothing but names and sizes in memory, and may be shared between threads.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from napari_autorefine.errors import InputError
from napari_autorefine.io.mrc import MrcHeader, check_complete, read_data, read_header
from napari_autorefine.io.names import find_image_file, search_folders, split_image_name
from napari_autorefine.io.optics import check_pixel_size
from napari_autorefine.model.particles import Particles, SubtomogramRows
from napari_autorefine.model.tomography import Tomogram

Place = str | os.PathLike[str]
_NO_COPIES: Mapping[Path, Path] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class SubtomogramWeights:
    """Fourier sums that belong to n volumes of N voxels per axis.

    Attributes
    ----------
    ctf2 : (n, N, N, N // 2 + 1) float32, half transforms (z, y, x): x = 0 .. N / 2, y and z in wrap-around order
        (0, 1, .. N / 2 - 1, -N / 2, .. -1). Sums of squared CTFs over the tilts for pseudo-subtomograms, which are
        multiplied by their CTF; else whatever the file holds, as a rule the CTF itself
    multiplicity : like ``ctf2``, how many tilts contribute to each coefficient, 0 in the missing wedge; None when the
        file has only a CTF
    """

    ctf2: np.ndarray
    multiplicity: np.ndarray | None


class SubtomogramVolumes:
    """Volumes of a particle set (RELION 4 pseudo-subtomograms and the 3D form of RELION 5).

    Parameters
    ----------
    particles : of the form ``volume``
    star_path : their file, for errors and relative names
    project_dir : folder that names are relative to
    has_weights : the CTF volumes are needed too

    Raises
    ------
    InputError
        Missing files (the first is named, all are counted); a volume that is not cubic, odd, truncated, or of another
        box or pixel size than its optics group says; a CTF volume of another size than its particle.
    """

    def __init__(
        self,
        particles: Particles,
        *,
        star_path: Place | None = None,
        project_dir: Place | None = None,
        has_weights: bool = True,
    ) -> None:
        self._star = str(star_path) if star_path is not None else "particles"
        rows = _tomo_rows(particles, is_tilt_stack=False)
        folders = search_folders(star_path, project_dir)
        self.files = _find_all(particles.image_name, folders, self._star, "subtomograms")
        self.box_sizes = np.array(
            [_checked_box(_header(path), particles, row, self._star) for row, path in enumerate(self.files)], np.int64
        )
        self.weight_files: list[Path] | None = None
        if has_weights:
            if rows.weights_name is None:
                raise InputError(
                    f"{self._star} lacks the column rlnCtfImage with the CTF volumes of its subtomograms; add it, or"
                    " switch CTF correction off."
                )
            self.weight_files = _find_all(rows.weights_name, folders, self._star, "CTF volumes")
            kinds = {self._checked_weights(row, path) for row, path in enumerate(self.weight_files)}
            if len(kinds) > 1:
                raise InputError(f"{self._star}: some CTF volumes come with multiplicities and some without.")

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: names that hold in any folder."""
        weights = None if self.weight_files is None else [path.absolute() for path in self.weight_files]
        return {**self.__dict__, "files": [path.absolute() for path in self.files], "weight_files": weights}

    @property
    def n_byte(self) -> int:
        """Memory that all volumes take as float32, without weights."""
        return int((self.box_sizes**3).sum()) * 4

    def read(self, rows: Sequence[int] | np.ndarray, copies: Mapping[Path, Path] = _NO_COPIES) -> np.ndarray:
        """Return volumes (n, N, N, N) float32, (z, y, x) with the particle at N // 2; all must have one box size.

        The axes are those of the subtomogram: A_sub turns them into the tomogram's. ``copies`` are files that are read
        in place of others.
        """
        return np.stack([_read(self.files[int(row)], copies) for row in rows])

    def read_weights(
        self, rows: Sequence[int] | np.ndarray, copies: Mapping[Path, Path] = _NO_COPIES
    ) -> SubtomogramWeights:
        """Return the CTF volumes of particles of one box size."""
        if self.weight_files is None:
            raise ValueError("the reader was made without CTF volumes")
        read = [_half_transforms(_read(self.weight_files[int(row)], copies)) for row in rows]
        multiplicities = [one[1] for one in read if one[1] is not None]
        return SubtomogramWeights(
            ctf2=np.stack([one[0] for one in read]), multiplicity=np.stack(multiplicities) if multiplicities else None
        )

    def _checked_weights(self, row: int, path: Path) -> bool:
        """Return whether a CTF volume comes with multiplicities."""
        n, header = int(self.box_sizes[row]), check_complete(_header(path))
        if header.shape not in _weight_shapes(n):
            size = " x ".join(str(one) for one in reversed(header.shape))
            raise InputError(
                f"{path} (row {row + 1} of {self._star}): the CTF volume has {size} values, but the subtomogram of"
                f" {n} px needs {n // 2 + 1} x {n} x {2 * n} or x {n}, or {n} x {n} x {n}."
            )
        return header.shape == _weight_shapes(n)[0]


def _weight_shapes(n: int) -> tuple[tuple[int, int, int], ...]:
    """CTF² and multiplicity; CTF alone; CTF as a full cube about its middle."""
    return (2 * n, n, n // 2 + 1), (n, n, n // 2 + 1), (n, n, n)


def _half_transforms(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    n_z, n, n_x = values.shape
    if n_x == n:  # by Friedel symmetry the negative half, which has the Nyquist frequency
        order = np.concatenate([n // 2 - np.arange(n // 2), n - np.arange(n // 2)]) % n
        return np.ascontiguousarray(values[np.ix_(order, order, n // 2 - np.arange(n // 2 + 1))]), None
    return values[:n], values[n:] if n_z == 2 * n else None


class TiltStacks:
    """Stacks of tilt images of a particle set (the 2D form of RELION 5).

    Parameters
    ----------
    particles : of the form ``tilt_stack``
    tomograms : their tilt series by name
    star_path : their file, for errors and relative names
    project_dir : folder that names are relative to

    Attributes
    ----------
    tilts : list of (n_visible,) int64, for each particle the rows of its tilt series that its stack holds, in order

    Raises
    ------
    InputError
        Missing files (the first is named, all are counted); images that are not square, odd, truncated, or of another
        box or pixel size than their optics group says; a stack with another number of images than visible tilts; a
        list of visible tilts of another length than the tilt series.
    """

    def __init__(
        self,
        particles: Particles,
        tomograms: Mapping[str, Tomogram],
        *,
        star_path: Place | None = None,
        project_dir: Place | None = None,
    ) -> None:
        self._star = str(star_path) if star_path is not None else "particles"
        rows = _tomo_rows(particles, is_tilt_stack=True)
        self.tilts = [
            _visible_tilts(rows, row, tomograms[str(name)].n_tilt, self._star)
            for row, name in enumerate(rows.tomogram_name)
        ]
        self.files = _find_all(particles.image_name, search_folders(star_path, project_dir), self._star, "tilt stacks")
        self.box_sizes = np.empty(len(self.files), np.int64)
        for row, path in enumerate(self.files):
            header = _header(path)
            self.box_sizes[row] = _checked_box(header, particles, row, self._star)
            if header.shape[0] != len(self.tilts[row]):
                raise InputError(
                    f"{path} (row {row + 1} of {self._star}): the stack holds {header.shape[0]} images but"
                    f" {len(self.tilts[row])} tilts are visible (rlnTomoVisibleFrames)."
                )

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict[str, object]:
        """Return what another process needs: names that hold in any folder."""
        return {**self.__dict__, "files": [path.absolute() for path in self.files]}

    @property
    def n_images(self) -> np.ndarray:
        """(n,) int64, number of tilt images of every particle."""
        return np.array([len(tilts) for tilts in self.tilts], np.int64)

    @property
    def n_byte(self) -> int:
        """Memory that all images take as float32."""
        return int((self.box_sizes**2 * self.n_images).sum()) * 4

    def read(self, row: int, copies: Mapping[Path, Path] = _NO_COPIES) -> np.ndarray:
        """Return the images (n_visible, N, N) float32 of one particle in the order of ``tilts[row]``.

        They are (y, x) with the particle at N // 2, protein white, as a rule multiplied by CTF and dose weight
        (``is_premultiplied`` of the optics group).
        """
        return _read(self.files[row], copies)


def _read(path: Path, copies: Mapping[Path, Path]) -> np.ndarray:
    data: np.ndarray = read_data(copies.get(path, path))[0]
    return data


def _tomo_rows(particles: Particles, *, is_tilt_stack: bool) -> SubtomogramRows:
    rows = particles.subtomograms
    if rows is None or rows.is_tilt_stack != is_tilt_stack:
        raise ValueError(f"particles of the form {particles.form}")
    return rows


def _find_all(names: np.ndarray, folders: tuple[Path, ...], star: str, what: str) -> list[Path]:
    """Return where files are, or say how many are missing and which is the first."""
    paths = []
    for row, name in enumerate(names.tolist()):
        number, path = split_image_name(str(name))
        if number is not None:
            raise InputError(
                f"{star}, row {row + 1}: {name} is one image of a stack, but particles of tomograms have a file each."
            )
        paths.append(path)
    found = [find_image_file(path, folders) for path in paths]
    dead = [row for row, place in enumerate(found) if place is None]
    if dead:
        tried = " and ".join(dict.fromkeys(str(folder.resolve()) for folder in folders))
        verb = "does" if len(dead) == 1 else "do"
        raise InputError(
            f"{star}: {len(dead)} of its {len(found)} {what} {verb} not exist, the first is {paths[dead[0]]}"
            f" in row {dead[0] + 1} (looked in {tried})."
        )
    return [place for place in found if place is not None]


def _header(path: Path) -> MrcHeader:
    header = read_header(path)
    if header.axes != (1, 2, 3):
        raise InputError(f"{path}: the axis order {header.axes} is not that of particle images.")
    return header if path.suffix in {".gz", ".bz2"} else check_complete(header)


def _checked_box(header: MrcHeader, particles: Particles, row: int, star: str) -> int:
    """Return the box of a particle after checking it against its optics group."""
    place, (n_z, n_y, n_x) = f"{header.path} (row {row + 1} of {star})", header.shape
    group, is_volume = particles.optics[int(particles.optics_index[row])], particles.form == "volume"
    if n_y != n_x or (is_volume and n_z != n_x):
        size = f"{n_x} x {n_y}" + (f" x {n_z}" if is_volume else "")
        raise InputError(f"{place}: {size} px is not {'cubic' if is_volume else 'square'}.")
    if n_x % 2:
        raise InputError(f"{place}: the box of {n_x} pixels is odd; extract again with an even box.")
    if group.box_size not in {0, n_x}:
        raise InputError(
            f"{place}: the box is {n_x} pixels but the optics group '{group.name}' says {group.box_size};"
            " correct rlnImageSize."
        )
    if header.pixel_size_A is not None:
        check_pixel_size(group, header.pixel_size_A, place)
    return n_x


def _visible_tilts(rows: SubtomogramRows, row: int, n_tilt: int, star: str) -> np.ndarray:
    if rows.visible is None:
        return np.arange(n_tilt)
    flags = rows.visible[row]
    if len(flags) != n_tilt:
        raise InputError(
            f"{star}, row {row + 1}: rlnTomoVisibleFrames lists {len(flags)} tilts but the tilt series"
            f" {rows.tomogram_name[row]} has {n_tilt}; give the tomograms file that the particles were extracted with."
        )
    return np.flatnonzero(flags)
