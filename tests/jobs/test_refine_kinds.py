"""Kinds of particle files, from the file to the map: what the columns say about the images is undone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from oracles import imaging, phantoms

from napari_autorefine.io.mrc import read_volume, write_stack, write_volume
from napari_autorefine.jobs.refine import RefineParams, refine

BOX, PIXEL_A, N, SNR = 24, 4.0, 40, 3.0
SET = phantoms.simulate(phantoms.ASYMMETRIC, N, snr=SNR, box_size=BOX, pixel_size_A=PIXEL_A)
TRUTH = phantoms.ASYMMETRIC.map(BOX, PIXEL_A)
WAVELENGTH_A = imaging.wavelength_A(phantoms.optics_group())
DEFOCUS_ERROR_A = 9000.0
PHASE_OF_DEFOCUS = -np.pi * WAVELENGTH_A * DEFOCUS_ERROR_A / 2  # times (2 k^2 - 1) + 1


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How images were made, and what the file says about it beyond the usual columns."""

    optics: dict[str, str] = field(default_factory=dict)
    column: tuple[str, str] | None = None
    beam_tilt_mrad: tuple[float, float] = (0.0, 0.0)
    phase_shift_deg: float = 0.0
    defocus_error_A: float = 0.0
    is_premultiplied: bool = False


KINDS = {
    "beam tilt": Kind(optics={"rlnBeamTiltX": "400", "rlnBeamTiltY": "-300"}, beam_tilt_mrad=(400.0, -300.0)),
    "phase shift": Kind(column=("rlnPhaseShift", "70"), phase_shift_deg=70.0),
    "even Zernike": Kind(
        optics={"rlnEvenZernike": f"[{PHASE_OF_DEFOCUS},0,{PHASE_OF_DEFOCUS},0]"}, defocus_error_A=DEFOCUS_ERROR_A
    ),
    "premultiplied": Kind(optics={"rlnCtfDataAreCtfPremultiplied": "1"}, is_premultiplied=True),
}


def images(kind: Kind) -> np.ndarray:
    """Projections, (N, BOX, BOX), seen through the transfer function of the kind, with white noise before any CTF^2."""
    optics = phantoms.optics_group(beam_tilt_mrad=kind.beam_tilt_mrad)
    known = SET.problem.particles
    seen = replace(
        known,
        optics=(optics,),
        phase_shift_deg=np.full(N, kind.phase_shift_deg),
        defocus_A=known.defocus_A + kind.defocus_error_A,
    )
    line = np.fft.fftfreq(BOX, PIXEL_A)
    y, x = np.meshgrid(line, line, indexing="ij")
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    tilt = np.exp(1j * imaging.coma(optics, points)).reshape(BOX, BOX)
    rng = np.random.default_rng(3)
    result = []
    for i, (euler, origin) in enumerate(zip(SET.euler_deg, SET.origin_A, strict=True)):
        transfer = imaging.transfer(optics, seen, i, points).reshape(BOX, BOX)
        projection = phantoms.ASYMMETRIC.image(imaging.rotation(euler), origin, BOX, PIXEL_A)
        image = np.fft.ifft2(np.fft.fft2(projection) * transfer * tilt).real
        image = image * np.sqrt(SNR) / image.std() + rng.standard_normal((BOX, BOX))
        if kind.is_premultiplied:
            image = np.fft.ifft2(np.fft.fft2(image) * transfer).real
        result.append(image)
    return np.array(result, dtype=np.float32)


def loop_table(name: str, rows: list[dict[str, str]]) -> str:
    labels = [f"_{label} #{number}" for number, label in enumerate(rows[0], start=1)]
    return "\n".join([f"\ndata_{name}\n\nloop_", *labels, *(" ".join(row.values()) for row in rows)]) + "\n"


def particle_rows() -> list[dict[str, str]]:
    known = SET.problem.particles
    labels = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    values = np.column_stack([known.defocus_A, known.defocus_angle_deg])
    return [
        {"rlnImageName": f"{i + 1:06d}@s.mrcs", "rlnMicrographName": "m.mrc"}
        | dict(zip(labels, map(str, row), strict=True))
        for i, row in enumerate(values.tolist())
    ]


def two_tables(extra: dict[str, str], column: tuple[str, str] | None) -> str:
    optics = {
        "rlnOpticsGroup": "1",
        "rlnVoltage": "300",
        "rlnSphericalAberration": "2.7",
        "rlnAmplitudeContrast": "0.1",
        "rlnImagePixelSize": str(PIXEL_A),
    }
    rows = [row | {"rlnOpticsGroup": "1"} | dict([column] if column else []) for row in particle_rows()]
    return "# version 30001\n" + loop_table("optics", [optics | extra]) + loop_table("particles", rows)


def one_table() -> str:
    optics = {
        "rlnVoltage": "300",
        "rlnSphericalAberration": "2.7",
        "rlnAmplitudeContrast": "0.1",
        "rlnMagnification": "10000",
        "rlnDetectorPixelSize": str(PIXEL_A),
        "rlnOriginX": "0",
        "rlnOriginY": "0",
    }
    return loop_table("", [row | optics for row in particle_rows()])


def likeness(folder: Path, text: str, stack: np.ndarray) -> float:
    """Correlation of the map of three iterations with the truth."""
    folder.mkdir()
    (folder / "p.star").write_text(text)
    write_stack(folder / "s.mrcs", stack, PIXEL_A)
    write_volume(folder / "ref.mrc", TRUTH, PIXEL_A)
    params = RefineParams(
        particles=str(folder / "p.star"),
        reference=str(folder / "ref.mrc"),
        output=str(folder / "run"),
        ini_high_A=20,
        particle_diameter_A=76,
        healpix_order=1,
        max_iterations=3,
        random_seed=1,
        threads=1,
        cpu=True,
    )
    list(refine(params))
    found = sum(read_volume(folder / f"run_it003_half{half}_class001.mrc").data for half in (1, 2))
    return float(np.corrcoef(np.ravel(found), TRUTH.ravel())[0, 1])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_columns_describe_how_images_were_made(kind: Kind, tmp_path: Path) -> None:
    stack = images(kind)
    with_column = likeness(tmp_path / "with", two_tables(kind.optics, kind.column), stack)
    without = likeness(tmp_path / "without", two_tables({}, None), stack)
    assert with_column > 0.9
    assert with_column > without + 0.02


def test_one_table_of_relion_3_0_gives_the_same_map(tmp_path: Path) -> None:
    stack = images(Kind())
    new = likeness(tmp_path / "new", two_tables({}, None), stack)
    old = likeness(tmp_path / "old", one_table(), stack)
    assert new == pytest.approx(old, abs=1e-6)
    assert new > 0.9
