from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from napari_autorefine.engine.handedness import LIKE_MIRROR, hand_warning, mirror_similarity
from napari_autorefine.io.atoms import read_model
from napari_autorefine.model.atoms import AtomProjector, Atoms

VOXEL_A, BOX = 4.0, 32
CHIRAL = np.array([[22, 0, -26], [0, 22, -9], [-22, 0, 9], [0, -22, 26]], dtype=float)
# Four equal masses in a plane: the plane mirrors them on themselves.
FLAT = np.array([[22, 4, 0], [-16, 20, 0], [-4, -24, 0], [10, -8, 0]], dtype=float)


def density(points_A: np.ndarray, *, turn: Rotation | None = None, box_size: int = BOX) -> np.ndarray:
    """Gaussian blobs of 6 A width, growing in height from point to point."""
    points = points_A if turn is None else turn.apply(points_A)
    axis = (np.arange(box_size) - box_size // 2) * VOXEL_A
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    total = np.zeros((box_size,) * 3)
    for height, point in enumerate(points, start=2):
        total += height * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2 + (z - point[2]) ** 2) / (2 * 6.0**2))
    return total.astype(np.float32)


def similarity(map_: np.ndarray, resolution_A: float) -> float:
    return mirror_similarity(
        map_, resolution_A=resolution_A, voxel_size_A=VOXEL_A, particle_diameter_A=VOXEL_A * BOX * 0.9
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_map_with_a_mirror_plane_is_its_mirror_image_however_it_is_turned(seed: int) -> None:
    assert similarity(density(FLAT, turn=Rotation.random(random_state=seed)), 16.0) > 0.995


def test_a_chiral_map_is_not() -> None:
    assert similarity(density(CHIRAL), 16.0) < 0.94


def test_the_likeness_does_not_depend_on_pose_position_or_hand() -> None:
    expected = similarity(density(CHIRAL), 20.0)
    turned = density(CHIRAL + np.array([5.0, -3.0, 2.0]), turn=Rotation.random(random_state=4))
    assert similarity(turned, 20.0) == pytest.approx(expected, abs=0.01)
    assert similarity(density(-CHIRAL), 20.0) == pytest.approx(expected, abs=0.01)


def test_no_low_pass_and_odd_boxes_are_accepted() -> None:
    assert similarity(density(CHIRAL), 0.0) < 0.94
    assert similarity(density(CHIRAL, box_size=31), 20.0) < 0.95


def test_the_warning_names_the_correlation() -> None:
    assert hand_warning(LIKE_MIRROR - 0.01) is None
    message = hand_warning(0.9996)
    assert message is not None
    assert message.level == "warning"
    assert "1.000" in message.text


@pytest.mark.parametrize(
    ("file", "assembly", "voxel_size_A", "is_warned"),
    [("7a4m_apoferritin_O_asu.cif", "1", 3.6, True), ("4v4r_30S_ribosome_C1.pdb.gz", None, 7.0, False)],
)
def test_apoferritin_at_40_A_warns_and_a_ribosome_does_not(
    shared_data: Path, file: str, assembly: str | None, voxel_size_A: float, is_warned: bool
) -> None:
    atoms: Atoms = read_model(shared_data / "models" / file, assembly=assembly).atoms
    map_ = AtomProjector(atoms, box_size=44, pixel_size_A=voxel_size_A, bfactor_A2=60.0).density()
    found = mirror_similarity(
        map_, resolution_A=40.0, voxel_size_A=voxel_size_A, particle_diameter_A=2 * atoms.radius_A + 10
    )
    assert (hand_warning(found) is not None) == is_warned
