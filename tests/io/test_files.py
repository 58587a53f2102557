from __future__ import annotations

import errno
from pathlib import Path

import pytest

from napari_autorefine.errors import InputError
from napari_autorefine.io.files import FileSet, check_writable, existing_folder, write_error


def test_a_file_that_cannot_be_written_has_its_final_name_in_the_sentence(tmp_path: Path) -> None:
    temporary = FileSet().new(tmp_path / "map.mrc")
    error = write_error(temporary, OSError(errno.ENOSPC, "No space left on device"))
    assert str(error).startswith(f"{tmp_path / 'map.mrc'} cannot be written: no space left")


def test_the_nearest_folder_is_that_a_new_one_is_made_in(tmp_path: Path) -> None:
    assert existing_folder(tmp_path / "a" / "b") == tmp_path
    assert existing_folder(tmp_path) == tmp_path
    check_writable(tmp_path / "a" / "b")
    (tmp_path / "a").write_text("a file")
    with pytest.raises(InputError, match="cannot be a folder"):
        check_writable(tmp_path / "a" / "b")
