"""Every step of the path from micrographs to a sharpened map takes what RELION's program made, and the reverse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from workflow.steps import MOVE_PX, OURS, SMALL, THEIRS, Site

pytestmark = pytest.mark.relion
BOTH = pytest.mark.parametrize("side", [OURS, THEIRS])


@pytest.fixture(scope="module")
def site(relion: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(folder=tmp_path_factory.mktemp("site"), sizes=SMALL)
    site.simulate()
    return site


@pytest.fixture(scope="module")
def refined(site: Site) -> str:
    """Our refinement of RELION's particles from RELION's reference."""
    return site.refine(site.extract(THEIRS), site.rebox(THEIRS), "ours_of_theirs")


@pytest.fixture(scope="module")
def classified(site: Site) -> str:
    """One iteration of relion_refine with our particles and our reference."""
    return site.classify(site.extract(OURS), site.rebox(OURS), "theirs_of_ours")


@pytest.mark.parametrize("job", ["extract", "pick"])
def test_micrographs_are_extracted_alike(site: Site, job: str) -> None:
    ours, theirs = (getattr(site, job)(side) for side in (OURS, THEIRS))
    assert site.column_difference(ours, theirs) < 2e-5
    assert site.image_difference(ours, theirs) < 1e-3


def test_recentered_coordinates_leave_less_than_a_pixel(site: Site) -> None:
    from napari_autorefine.io.star import read_particles

    origin = read_particles(site.folder / site.extract(OURS), project_dir=site.folder).origin_A
    assert np.abs(origin).max() <= 0.5 * SMALL.pixel_size_A + 1e-4
    assert np.median(site.errors(site.extract(OURS)).angle_deg) < 5


def test_references_are_reboxed_alike(site: Site) -> None:
    assert site.map_difference(site.rebox(OURS), site.rebox(THEIRS)) < 1e-5


def test_relion_refines_our_files_as_its_own(site: Site, classified: str) -> None:
    own = site.classify(site.extract(THEIRS), site.rebox(THEIRS), "theirs_of_theirs")
    assert np.median(site.errors(f"{classified}_data.star").angle_deg) < 8
    assert site.correlation(f"{classified}_class001.mrc", f"{own}_class001.mrc")[:15].min() > 0.99
    assert site.column_difference(f"{classified}_data.star", f"{own}_data.star") >= 0  # the same columns


def test_we_refine_relions_files(site: Site, refined: str) -> None:
    errors = site.errors(f"{refined}_data.star")
    assert np.median(errors.angle_deg) < 2.0
    assert np.percentile(errors.angle_deg, 90) < 5.0
    assert errors.offset_rms_A < 2.0


@BOTH
@pytest.mark.parametrize("source", [OURS, THEIRS])
def test_refined_particles_are_recentered_and_reconstructed(
    site: Site, refined: str, classified: str, source: str, side: str
) -> None:
    """Refined by one side, recentered by either, reconstructed by both."""
    particles = f"{refined if source == OURS else classified}_data.star"
    centered = site.recenter(side, particles, source)
    other = site.recenter(THEIRS if side == OURS else OURS, particles, source)
    assert site.column_difference(centered, other) < 2e-5
    maps = [site.reconstruct(program, centered, f"{source}_{side}") for program in (OURS, THEIRS)]
    assert site.agreement(*maps) > 0.999
    assert site.map_difference(*maps) < 0.1
    unmoved = site.reconstruct(OURS, particles, f"{source}_unmoved")
    assert np.abs(site.shift_px(maps[0], unmoved) + MOVE_PX).max() < 0.3


def test_relion_refines_particles_that_we_recentered(site: Site, refined: str) -> None:
    centered = site.recenter(OURS, f"{refined}_data.star", OURS)
    reference = site.reconstruct(OURS, centered, f"{OURS}_{OURS}")
    again = site.classify(centered, reference, "again", "--sigma_ang", "3", "--sym", "C1")
    assert (site.folder / f"{again}_class001.mrc").exists()


@pytest.mark.parametrize("source", [OURS, THEIRS])
def test_maps_are_masked_alike(site: Site, refined: str, classified: str, source: str) -> None:
    density = f"{refined if source == OURS else classified}_class001.mrc"
    ours, theirs = (site.mask(side, density, source) for side in (OURS, THEIRS))
    assert site.map_difference(ours, theirs) < 1e-4


@pytest.mark.parametrize("masked_by", [OURS, THEIRS])
@pytest.mark.parametrize("halves_by", [OURS, THEIRS, "refinement"])
def test_half_maps_are_post_processed_alike(site: Site, refined: str, halves_by: str, masked_by: str) -> None:
    mask = site.mask(masked_by, f"{refined}_class001.mrc", OURS)
    half = f"{refined}_half1_class001_unfil.mrc"
    if halves_by != "refinement":
        half = site.halves(halves_by, f"{refined}_data.star", "halves")
    found = {
        side: site.post_processed(site.postprocess(side, half, mask, f"{halves_by}_{masked_by}"))
        for side in (OURS, THEIRS)
    }
    assert found[OURS][0] == pytest.approx(found[THEIRS][0], abs=1e-4)
    for name in ("rlnFourierShellCorrelationUnmaskedMaps", "rlnFourierShellCorrelationMaskedMaps"):
        assert np.abs(found[OURS][1][name] - found[THEIRS][1][name]).max() < 1e-4


def test_half_sets_are_reconstructed_alike(site: Site, refined: str) -> None:
    ours, theirs = (site.halves(side, f"{refined}_data.star", "halves") for side in (OURS, THEIRS))
    for half in ("half1", "half2"):
        pair = [path.replace("half1", half) for path in (ours, theirs)]
        assert site.agreement(*pair) > 0.999
        assert site.map_difference(*pair) < 0.1
