from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from napari_autorefine.io.mrc import write_stack, write_volume
from napari_autorefine.jobs import JOBS

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the test data made by others; tests that need it are skipped without it."""
    path = Path(os.environ.get("AUTOREFINE_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no test data in {path} (set AUTOREFINE_SHARED_DATA)")
    return path


@pytest.fixture(scope="session")
def relion() -> Path:
    """Folder of RELION's programs; tests that compare with them are skipped without them."""
    program = shutil.which("relion_refine")
    if program is None:
        pytest.skip("RELION is not installed")
    return Path(program).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticleSet:
    """Small particle files of one folder: 12 images of 16 px at 3 A in two stacks, a map and a mask."""

    folder: Path
    star: Path
    stacks: tuple[Path, Path]
    reference: Path
    mask: Path

    @property
    def output(self) -> Path:
        return self.folder / "out" / "run"

    def line(self, *more: str) -> list[str]:
        """Words of a command line that refines this set."""
        words = ["refine", "--i", self.star, "--ref", self.reference, "--o", self.output, "--particle_diameter", "30"]
        return [*map(str, words), *more]

    def replace(self, old: str, new: str) -> None:
        """Change the text of the STAR file."""
        text = self.star.read_text()
        assert old in text
        self.star.write_text(text.replace(old, new))


HEADER = """# version 30001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
_rlnImageSize #7
_rlnImageDimensionality #8
1 opticsGroup1 300.0 2.7 0.1 3.0 16 2


# version 30001

data_particles

loop_
_rlnImageName #1
_rlnMicrographName #2
_rlnOpticsGroup #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnDefocusAngle #6
"""


def write_particle_set(tmp_path: Path) -> ParticleSet:
    """Write the files of a ``ParticleSet``."""
    rng = np.random.default_rng(5)
    size, per_stack = 16, 6
    stacks = (tmp_path / "a.mrcs", tmp_path / "b.mrcs")
    rows = []
    for path in stacks:
        write_stack(path, rng.standard_normal((per_stack, size, size)).astype(np.float32), 3.0)
        rows += [f"{n:06d}@{path.name} {path.stem}.mrc 1 12000.0 11500.0 30.0" for n in range(1, per_stack + 1)]
    star = tmp_path / "particles.star"
    star.write_text(HEADER + "\n".join(rows) + "\n")
    radius = np.sqrt(sum(axis**2 for axis in np.ogrid[-8:8, -8:8, -8:8]))
    density = np.exp(-((radius / 3.0) ** 2)).astype(np.float32)
    density[8, 8, 10:12] += 1.0
    write_volume(tmp_path / "ref.mrc", density, 3.0)
    write_volume(tmp_path / "mask.mrc", (radius < 5).astype(np.float32), 3.0)
    return ParticleSet(
        folder=tmp_path, star=star, stacks=stacks, reference=tmp_path / "ref.mrc", mask=tmp_path / "mask.mrc"
    )


@pytest.fixture
def particle_set(tmp_path: Path) -> ParticleSet:
    return write_particle_set(tmp_path)


@pytest.fixture
def slow_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job ``slow`` is there, in this process and in those of its jobs."""
    from oracles.slow_job import slow

    monkeypatch.setitem(JOBS, slow.NAME, None)
    slow.register()
    places = [REPOSITORY / "tests" / "oracles" / "slow_job", *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, filter(None, places))))
