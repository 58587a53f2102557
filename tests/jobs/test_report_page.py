"""Pages as files: self-contained, well-formed, in the colours of the reader's screen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from oracles.report_folders import PageReader, ball, postprocessing, random_euler, relion_refinement

from napari_autorefine.jobs import plots, report_plots
from napari_autorefine.jobs.report import ReportParams, report
from napari_autorefine.jobs.report_data import Iteration
from napari_autorefine.jobs.report_page import Page, Picture, Section, Table, Text, Verdict, page_html
from napari_autorefine.jobs.report_style import COLORS, STYLE
from napari_autorefine.model.symmetry import point_group


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Text of a page with all its figures: a refinement of RELION with a post-processing."""
    folder = tmp_path_factory.mktemp("project")
    post = postprocessing(folder / "PostProcess" / "job011")
    run = relion_refinement(folder / "Refine3D" / "job007")
    list(report(ReportParams(folder=str(run), postprocess=str(post))))
    return (run / "report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(drawn: str) -> None:
    page = PageReader(drawn)
    inside = [f"#{name}" for name in page.identifiers]
    assert page.links
    assert all(link.startswith("data:image/png;base64,") or link in inside for link in page.links)
    assert len(page.identifiers) == len(set(page.identifiers))
    assert "http" not in drawn
    assert "@import" not in drawn
    assert "<script" not in drawn
    used = set(re.findall(r"url\((.*?)\)", drawn))
    assert used
    assert used <= set(inside)


def test_figures_take_the_colours_and_the_font_of_the_page(drawn: str) -> None:
    assert "prefers-color-scheme: dark" in drawn
    body = drawn[drawn.index("<body>") :]
    assert "stroke: var(--c0)" in body
    assert "font-family: var(--font)" in body
    assert "DejaVu" not in body
    assert not re.search(r"(fill|stroke): #(1f2933|0b66a3)", body)
    assert body.count("<svg role=") == body.count("<figure")
    assert "fit, B = −88 Å²" in body


def test_axes_of_curves_are_labelled_in_angstrom(drawn: str) -> None:
    first = drawn[drawn.index("<figure") : drawn.index("</figure>")]
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", first)
    assert "Resolution (Å)" in texts
    assert {"0.5", "0.143", "20", "10"} <= set(texts)


def test_texts_are_escaped_and_options_stand_as_code() -> None:
    section = Section(title="A & B", blocks=[Text(text="<b> with --mask"), Table(rows=[["<i>", "1.5 Å"]])])
    verdict = Verdict(level="warning", headline="x < y", text="Use --mask.")
    text = page_html(Page(title="<title>", facts=[("Size", "3 & 4")], verdicts=[verdict], sections=[section]))
    page = PageReader(text)
    assert page.headings == ["A & B"]
    assert "<code>--mask</code>" in text
    assert "&lt;b&gt; with" in text
    assert "3 &amp; 4" in text
    assert 'href="#a-b"' in text
    assert '<td class="number">1.5 Å</td>' in text
    assert 'aria-label="look here"' in text


def test_pictures_of_one_row_share_a_grid_and_png_files_are_embedded(tmp_path: Path) -> None:
    path = plots.save_figure(plots.slices_figure({"map": ball(3.0)}, 3.0), tmp_path / "a.png")
    pixels = Path(path).read_bytes()
    blocks = [Picture(image=pixels, alt='a "b"', width="half"), Picture(image=pixels, alt="b"), Text(text="end")]
    text = page_html(Page(title="t", sections=[Section(title="s", blocks=blocks)]))
    PageReader(text)
    assert text.count('<div class="figures">') == 1
    assert text.count("data:image/png;base64,") == 2
    assert 'alt="a &quot;b&quot;"' in text
    assert imread(path).shape[2] == 4


def test_colours_differ_in_lightness_or_hue_for_the_colour_blind() -> None:
    """Lines are told apart by deuteranopes: distances after removal of the red-green axis."""
    rgb = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in COLORS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    deuteranope = np.array([[0.625, 0.375, 0.0], [0.7, 0.3, 0.0], [0.0, 0.3, 0.7]])
    seen = (linear @ deuteranope.T) ** (1 / 2.4)
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + np.eye(len(seen))
    assert distance[:5, :5].min() > 0.08
    assert all(f"--c{number}:" in STYLE for number in range(len(COLORS)))


def test_figures_of_odd_data_are_drawn() -> None:
    one = [Iteration(number=0)]
    many = [Iteration(number=n, resolution_A=20.0 - n, p_max=0.5, change_rot_deg=999.0) for n in range(3)]
    final = [*many, Iteration(number=None, resolution_A=9.0, is_local=True, angular_step_deg=0.9)]
    figures = [
        report_plots.resolution_figure(one, np.nan),
        report_plots.resolution_figure(final, 3.0),
        report_plots.certainty_figure(final),
        report_plots.search_figure(one, {"angular_step_deg": "step"}, title="", unit="", step="angular_step_deg"),
        report_plots.histogram_figure(np.ones(5), title="", x_label=""),
        report_plots.histogram_figure(np.arange(100.0), title="", x_label=""),
        report_plots.offset_figure(np.random.default_rng(1).normal(0, 2, (4000, 2)), 2.0),
        report_plots.offset_figure(np.zeros((3, 2)), np.nan),
        report_plots.scales_figure(np.array([-0.1, 1.0]), np.array([1, 2])),
        report_plots.fsc_history_figure({1: np.linspace(1, 0, 9)}, 3.0),
        report_plots.spectra_figure({str(n): (np.arange(9.0), np.full(9, 1e-5 + n)) for n in range(8)}, 8.0, title="",
                                    y_label="Variance"),
        report_plots.montage_figure(np.random.default_rng(2).random((9, 6, 6))),
    ]  # fmt: skip
    for figure in figures:
        assert "<svg" in plots.svg_text(figure)


def test_even_views_have_even_density_and_sampling_in_every_group() -> None:
    euler = random_euler(20_000)
    poles = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0], [0.6, 0, -0.8]])
    for name in ("C1", "D2", "O"):
        density = plots.direction_density(euler, point_group(name).operators, poles)
        np.testing.assert_allclose(density, 1, atol=0.15)


def test_density_follows_the_symmetry_and_its_mean_is_one() -> None:
    one = np.array([[30.0, 50.0, 0.0]])
    axis = np.linspace(-1, 1, 41)[1::2]
    turn = np.deg2rad(np.arange(0, 360, 4.5))
    radius = np.sqrt(1 - axis**2)[:, None]
    grid = np.stack(np.broadcast_arrays(radius * np.cos(turn), radius * np.sin(turn), axis[:, None]), -1).reshape(-1, 3)
    operators = point_group("D3").operators
    density = plots.direction_density(one, operators, grid)
    assert density.mean() == pytest.approx(1.0, abs=0.02)
    turned = plots.direction_density(one, operators, grid @ operators[4])
    np.testing.assert_allclose(turned, density, atol=0.25 * density.max())


def test_resolution_is_the_last_shell_above_the_threshold() -> None:
    fsc = np.array([1.0, 0.9, 0.5, 0.143, 0.1, 0.2, 0.0])
    assert plots.shell_resolution_A(fsc, 2.0) == pytest.approx(24 / 3)
    assert plots.shell_resolution_A(fsc, 2.0, threshold=0.5) == pytest.approx(24 / 2)
    assert plots.shell_resolution_A(np.ones(7), 2.0) == pytest.approx(4.0)
