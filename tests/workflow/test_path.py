"""From micrographs to a sharpened map and its report, each job taking the folder of the one before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from workflow.steps import DIAMETER_A, MOVE_PX, OURS, SYMMETRY, TINY, Site

from napari_autorefine.engine.correlation import fsc
from napari_autorefine.io.mrc import read_volume
from napari_autorefine.io.star import read_particles
from napari_autorefine.model.resize import fourier_resize

PIXEL = f"{TINY.scaled_A:.6g}"
CENTER = " ".join(f"--center_{axis} {value}" for axis, value in zip("XYZ", MOVE_PX, strict=True))
BACK = " ".join(f"--center_{axis} {-value}" for axis, value in zip("XYZ", MOVE_PX, strict=True))
LINES = {
    "extract/particles.star": "extract --i set/bgal_micrographs.star --reextract_data_star set/bgal_earlier.star"
    f" --recenter --extract_size {TINY.box} --scale {TINY.scaled} --o extract",
    "rebox/reference.mrc": f"rebox --i set/bgal_earlier.mrc --o rebox/reference.mrc --rescale_angpix {PIXEL}"
    f" --new_box {TINY.scaled} --force_header_angpix {PIXEL}",
    "refine/run_class001.mrc": f"refine --i extract --ref rebox/reference.mrc --o refine/run --sym {SYMMETRY}"
    f" --ini_high 30 --particle_diameter {DIAMETER_A:g} --cpu --j {TINY.threads} --random_seed 2",
    "recenter/particles.star": f"recenter --i refine --o recenter/particles.star --center {CENTER}",
    "reconstruct/map.mrc": "reconstruct --i recenter --o reconstruct/map.mrc --ctf",
    "mask/mask.mrc": "mask --i refine --o mask/mask.mrc",
    "postprocess/postprocess.star": "postprocess --i refine --mask mask --o postprocess/postprocess"
    f" --autob_lowres {3.2 * TINY.scaled_A:.3g}",
    "refine/report.html": "report refine --postprocess postprocess",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """All jobs, one after the other."""
    site = Site(folder=tmp_path_factory.mktemp("site"), sizes=TINY)
    site.simulate()
    for output, line in LINES.items():
        job, *words = line.split()
        site.run(OURS, job, output, words)
    return site


def test_the_poses_are_the_true_ones(site: Site) -> None:
    errors = site.errors("refine/run_data.star")
    assert len(errors.angle_deg) == TINY.n_particle
    assert np.median(errors.angle_deg) < 3.0
    assert np.percentile(errors.angle_deg, 90) < 6.0
    assert errors.offset_rms_A < 0.5 * TINY.scaled_A


def test_the_sharpened_map_is_as_good_as_it_says(site: Site) -> None:
    resolution_A, _ = site.post_processed("postprocess/postprocess.star")
    found, truth = (read_volume(site.folder / path) for path in ("postprocess/postprocess.mrc", "set/bgal_truth.mrc"))
    assert found.voxel_size_A == pytest.approx(TINY.scaled_A, abs=1e-4)
    curve = fsc(found.data, fourier_resize(truth.data, TINY.scaled), read_volume(site.folder / "mask/mask.mrc").data)
    shell = round(TINY.scaled * TINY.scaled_A / resolution_A)
    assert resolution_A < 3.5 * TINY.scaled_A
    assert curve[: shell - 1].min() > 0.5


def test_the_mask_holds_the_molecule_and_little_else(site: Site) -> None:
    mask = read_volume(site.folder / "mask/mask.mrc").data
    truth = fourier_resize(read_volume(site.folder / "set/bgal_truth.mrc").data, TINY.scaled)
    inside = truth > 0.3 * truth.max()
    assert mask[inside].mean() > 0.95
    assert mask.mean() < 0.4


def test_the_recentered_map_has_moved(site: Site) -> None:
    assert np.abs(site.shift_px("reconstruct/map.mrc", "refine/run_class001.mrc") + MOVE_PX).max() < 0.3
    before, after = (
        read_particles(site.folder / path, project_dir=site.folder)
        for path in ("refine/run_data.star", "recenter/particles.star")
    )
    assert np.array_equal(before.euler_deg, after.euler_deg)
    assert not np.allclose(before.origin_A, after.origin_A)


def test_recentering_back_undoes_it(site: Site) -> None:
    line = f"--i recenter --o back/particles.star --center {BACK}"
    site.run(OURS, "recenter", "back/particles.star", line.split())
    assert site.column_difference("back/particles.star", "refine/run_data.star") < 1e-5


def test_the_report_tells_of_refinement_and_sharpening(site: Site) -> None:
    page = Path(site.folder / "refine/report.html").read_text(encoding="utf-8")
    assert all(words in page for words in ("Converged", "Guinier", "Orientations"))
