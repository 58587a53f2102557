"""Surfaces of maps: where they are, closed, within their number of triangles, and in the right hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("napari")

from napari_autorefine.ui import surfaces
from napari_autorefine.ui.surfaces import Mesh, coarser, iso_mesh, surface_data, surface_frame


def ball(n: int, radius: float) -> np.ndarray:
    axis = np.arange(n) - n // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return (radius - distance).astype(np.float32)


def volume_of(mesh: Mesh) -> float:
    """Signed volume in voxels, from the tetrahedra of triangles and origin."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]].astype(np.float64) for corner in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


def is_closed(mesh: Mesh) -> bool:
    """Every edge belongs to two triangles, once in each direction."""
    triangles = [tuple(map(int, face)) for face in mesh.faces if len(set(map(int, face))) == 3]
    edges = Counter(edge for a, b, c in triangles for edge in ((a, b), (b, c), (c, a)))
    return all(count == 1 and edges[end, begin] == 1 for (begin, end), count in edges.items())


def test_the_surface_of_a_ball_has_its_radius_and_its_center() -> None:
    mesh = iso_mesh(ball(32, 9.0), 0.0)
    away = np.linalg.norm(mesh.vertices - 16, axis=1)
    assert away == pytest.approx(9.0, abs=0.05)
    assert abs(volume_of(mesh)) == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.01)


@pytest.mark.parametrize("step", [1, 2000, 10**9])
def test_slabs_leave_no_seams(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    data = ball(24, 8.0) + np.random.default_rng(0).standard_normal((24, 24, 24)).astype(np.float32)
    whole = iso_mesh(data, 0.3)
    monkeypatch.setattr(surfaces, "_STEP_VOXELS", step)
    mesh = iso_mesh(data, 0.3)
    assert is_closed(mesh) and len(mesh.faces) == len(whole.faces)
    assert volume_of(mesh) == pytest.approx(volume_of(whole))


def test_a_surface_is_closed_at_the_border_of_the_box() -> None:
    assert is_closed(iso_mesh(ball(16, 10.0), 0.0))


def test_a_level_above_the_map_gives_a_surface_without_extent() -> None:
    mesh = iso_mesh(ball(16, 4.0), 100.0)
    assert len(mesh.faces) == 1 and np.ptp(mesh.vertices, axis=0) == pytest.approx(0)


def test_many_triangles_become_fewer_in_the_same_place() -> None:
    rng = np.random.default_rng(1)
    data = coarser(rng.standard_normal((48, 48, 48)), (24, 24, 24))
    smooth = np.exp(-((12 - ball(48, 12.0)) ** 2) / 100).astype(np.float32)
    many, few = iso_mesh(smooth, 0.5, most_faces=10**6), iso_mesh(smooth, 0.5, most_faces=1500)
    assert len(few.faces) <= 1600 < len(many.faces)
    assert few.vertices.mean(axis=0) == pytest.approx(many.vertices.mean(axis=0), abs=0.3)
    assert abs(volume_of(few)) == pytest.approx(abs(volume_of(many)), rel=0.03)
    assert data.shape == (24, 24, 24)


def test_cropping_the_transform_keeps_a_wave() -> None:
    def wave(n: int) -> np.ndarray:
        phase = 2 * np.pi * np.arange(n) / n
        return np.broadcast_to(np.cos(2 * phase)[:, None, None] + np.sin(phase), (n, n, n))

    assert coarser(wave(32), (20, 20, 20)) == pytest.approx(wave(20), abs=1e-5)


def test_a_mirrored_view_changes_the_numbers_and_not_the_place() -> None:
    mesh = iso_mesh(ball(16, 4.0) - np.arange(16, dtype=np.float32)[:, None, None] / 10, 0.0)
    places = []
    for mirrored in (False, True):
        vertices, _, _ = surface_data(mesh, mirrored=mirrored)
        frame = surface_frame((16, 16, 16), 2.5, mirrored=mirrored)
        places.append(vertices * np.array(frame["scale"]) + np.array(frame["translate"]))
    assert places[0] == pytest.approx(places[1])
    assert surfaces.is_mirrored(("towards", "up", "right"))
    assert not surfaces.is_mirrored(("away", "up", "right"))
