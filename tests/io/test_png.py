from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.image import imread

from napari_autorefine.io.png import write_grey_png


def test_the_picture_is_read_by_others_as_it_was(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (33, 50)).astype(np.uint8)
    write_grey_png(tmp_path / "p.png", picture, {"Description": "some particles"})
    np.testing.assert_array_equal(np.rint(imread(tmp_path / "p.png") * 255), picture)
    assert b"tEXtDescription\0some particles" in (tmp_path / "p.png").read_bytes()
    assert len(list(tmp_path.iterdir())) == 1
