"""Transfer function and aberrations against RELION's own programs, through images of a single bright voxel."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from napari_autorefine.model.ctf import ctf
from napari_autorefine.model.optics import OpticsGroup, aberration_phase, magnification_matrix

pytestmark = [pytest.mark.relion, pytest.mark.usefixtures("relion")]

SIZE, PIXEL_A = 48, 1.5
PLAIN = OpticsGroup(number=1, name="one", pixel_size_A=PIXEL_A, box_size=SIZE)
MAGNIFIED = replace(PLAIN, magnification=(1.03, 0.01, -0.02, 0.97))
EVEN = replace(PLAIN, even_zernike=(0.3, 20, -15, 30, 100, -150, 120, 80, 90))
ODD = replace(PLAIN, odd_zernike=(3, -2, 50, -40, 60, 70))
TILTED = replace(PLAIN, beam_tilt_mrad=(1.3, -2.1))
GROUPS = {"plain": PLAIN, "magnified": MAGNIFIED, "even": EVEN, "odd": ODD, "tilted": TILTED}

KY, KX = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.rfftfreq(SIZE), indexing="ij")
RADIUS = np.hypot(KX, KY) * SIZE
FREQUENCIES = np.stack([KX, KY], axis=-1).reshape(-1, 2) / PIXEL_A


def write_star(path: Path, optics: OpticsGroup) -> None:
    """One particle with defocus in one optics group."""
    group = {"OpticsGroup": 1, "OpticsGroupName": "one", "Voltage": optics.voltage_kV, "AmplitudeContrast": 0.1,
             "SphericalAberration": optics.cs_mm, "ImagePixelSize": PIXEL_A, "ImageSize": SIZE,
             "ImageDimensionality": 2}  # fmt: skip
    if optics.magnification is not None:
        group |= dict(zip(("MagMat00", "MagMat01", "MagMat10", "MagMat11"), optics.magnification, strict=True))
    if any(optics.beam_tilt_mrad):
        group |= dict(zip(("BeamTiltX", "BeamTiltY"), optics.beam_tilt_mrad, strict=True))
    for label, values in (("OddZernike", optics.odd_zernike), ("EvenZernike", optics.even_zernike)):
        if values:
            group[label] = "[" + ",".join(map(str, values)) + "]"
    particle = {"AngleRot": 0, "AngleTilt": 0, "AnglePsi": 0, "OriginXAngst": 0, "OriginYAngst": 0, "OpticsGroup": 1,
                "ImageName": "1@x.mrcs", "DefocusU": 12000, "DefocusV": 10000, "DefocusAngle": 25, "PhaseShift": 10,
                "CtfBfactor": 30, "CtfScalefactor": 0.8}  # fmt: skip
    lines = ["", "# version 30001"]
    for name, row in (("optics", group), ("particles", particle)):
        lines += ["", f"data_{name}", "", "loop_", *(f"_rln{label} #{i}" for i, label in enumerate(row, start=1))]
        lines += [" ".join(map(str, row.values())), ""]
    path.write_text("\n".join(lines) + "\n")


def run(folder: Path, *command: str) -> np.ndarray:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return np.asarray(mrcfile.read(folder / command[command.index("--o") + 1]), dtype=np.float64)


def write_map(path: Path, data: np.ndarray) -> None:
    with mrcfile.new(path) as file:
        file.set_data(data.astype(np.float32))
        file.voxel_size = PIXEL_A


def transfer(optics: OpticsGroup) -> np.ndarray:
    return ctf(optics, [(12000, 10000)], 25.0, 10.0, 30.0, 0.8, FREQUENCIES).reshape(KX.shape).astype(np.float64)


@pytest.mark.parametrize("name", ["plain", "magnified", "even"])
def test_ctf_of_relion_project(name: str, tmp_path: Path) -> None:
    point = np.zeros((SIZE,) * 3)
    point[SIZE // 2, SIZE // 2, SIZE // 2] = 1000.0
    write_map(tmp_path / "point.mrc", point)
    write_star(tmp_path / "in.star", GROUPS[name])
    subprocess.run(["relion_project", "--i", "point.mrc", "--ang", "in.star", "--o", "out", "--ctf", "--angpix", "1.5"],
                   cwd=tmp_path, check=True, capture_output=True)  # fmt: skip
    image = np.asarray(mrcfile.read(tmp_path / "out.mrcs"), dtype=np.float64).reshape(SIZE, SIZE)
    values = np.fft.rfft2(np.fft.ifftshift(image))
    inside = (RADIUS > 0) & (RADIUS < SIZE / 2 - 2)
    expected = transfer(GROUPS[name])
    gain = (values.real * expected)[inside].sum() / (expected**2)[inside].sum()
    np.testing.assert_allclose(values[inside] / gain, expected[inside], atol=1e-5)


@pytest.mark.parametrize("name", ["odd", "tilted"])
def test_aberrations_are_those_relion_reconstruct_takes_out(name: str, tmp_path: Path) -> None:
    optics = GROUPS[name]
    contrast, phase = transfer(optics), aberration_phase(optics, FREQUENCIES).reshape(KX.shape)
    image = np.fft.fftshift(np.fft.irfft2(contrast * np.exp(1j * phase), s=(SIZE, SIZE)))
    write_map(tmp_path / "x.mrcs", image[None])
    write_star(tmp_path / "in.star", optics)
    density = run(tmp_path, "relion_reconstruct", "--i", "in.star", "--o", "out.mrc", "--pad", "1", "--ctf")
    values = np.fft.rfft2(np.fft.ifftshift(density.sum(axis=0)))
    clear = (RADIUS > 2) & (RADIUS < SIZE / 3) & (KX > 0) & (np.abs(contrast) > 0.3)
    assert np.abs(phase[clear]).max() > 0.5
    assert np.abs(np.angle(values[clear])).max() < 1e-3


def test_magnification_of_slices_is_that_of_relion_reconstruct(tmp_path: Path) -> None:
    place = np.array([8.0, 4.0, 0.0])  # of the density, from the center
    seen = np.linalg.inv(magnification_matrix(MAGNIFIED)).T @ place
    spot = np.exp(-2j * np.pi * (KX * seen[0] + KY * seen[1])) * (RADIUS < 0.4 * SIZE)
    write_map(tmp_path / "x.mrcs", np.fft.fftshift(np.fft.irfft2(spot, s=(SIZE, SIZE)))[None])
    write_star(tmp_path / "in.star", MAGNIFIED)
    density = run(tmp_path, "relion_reconstruct", "--i", "in.star", "--o", "out.mrc", "--pad", "2")
    values = np.fft.rfft2(np.fft.ifftshift(density.sum(axis=0)))
    offsets = np.stack(np.meshgrid(*[np.linspace(-0.4, 0.4, 81)] * 2), axis=-1).reshape(-1, 2) + place[:2]
    ramps = np.exp(2j * np.pi * (offsets[:, :1] * KX.ravel() + offsets[:, 1:] * KY.ravel()))
    np.testing.assert_allclose(offsets[(ramps @ values.ravel()).real.argmax()], place[:2], atol=0.03)
