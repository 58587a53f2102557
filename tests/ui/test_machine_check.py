"""The check of this machine from the command palette."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("napari")

REPOSITORY = Path(__file__).resolve().parents[2]
MOMENT_MS = 120_000


@pytest.fixture
def check(make_viewer: Any, monkeypatch: pytest.MonkeyPatch, qtbot: Any) -> Any:
    from napari_autorefine.ui.machine_check import MachineCheck

    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    return MachineCheck(make_viewer())


def test_the_page_of_the_check_is_shown_and_copied(check: Any, qtbot: Any, tmp_path: Path, qapp: Any) -> None:
    check.start("--folder", str(tmp_path), "--seconds", "0.05", "--disk_MB", "0", "--no-graphics")
    assert not check.copy.isEnabled()
    qtbot.waitUntil(check.copy.isEnabled, timeout=MOMENT_MS)
    page = check.text.toPlainText()
    assert "napari-autorefine" in page and "Paste this page" in check.words.text()
    check.copy.click()
    assert qapp.clipboard().text() == page
    check.reject()


def test_what_goes_wrong_is_shown(check: Any, qtbot: Any) -> None:
    check.start("--folder", "/nowhere")
    qtbot.waitUntil(check.copy.isEnabled, timeout=MOMENT_MS)
    assert "could not be done" in check.words.text() and "/nowhere does not exist" in check.text.toPlainText()
    check.reject()


def test_closing_the_window_ends_the_check(check: Any, qtbot: Any) -> None:
    check.start("--seconds", "60")
    qtbot.waitUntil(lambda: check.process.state() == check.process.ProcessState.Running, timeout=MOMENT_MS)
    process = check.process
    check.reject()
    assert process.state() == process.ProcessState.NotRunning
