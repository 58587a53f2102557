from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MANIFEST = REPOSITORY / "napari.yaml"


@pytest.fixture(scope="module")
def manifest() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # npe2 under a newer pydantic
        from npe2 import PluginManifest

        return PluginManifest.from_file(MANIFEST)


def test_npe2_finds_nothing_wrong() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "npe2", "validate", str(MANIFEST)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "valid" in done.stdout, done.stdout + done.stderr


def test_every_command_can_be_imported(manifest: Any) -> None:
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        try:
            loaded = __import__(module, fromlist=[name])
        except ImportError as error:
            if "Qt" in str(error) or ".so" in str(error):
                pytest.skip(f"no Qt here: {error}")
            raise
        assert callable(getattr(loaded, name)), command.id


def test_readers_name_every_ending_and_folders(manifest: Any) -> None:
    (reader,) = manifest.contributions.readers
    endings = {pattern.removeprefix("*") for pattern in reader.filename_patterns}
    wanted = {".mrc", ".mrcs", ".map", ".st", ".rec", ".ccp4", ".mrc.gz", ".map.gz", ".mrc.bz2", ".star"}
    assert wanted <= endings
    assert reader.accepts_directories


def test_every_pattern_of_the_manifest_has_a_reader(manifest: Any) -> None:
    from napari_autorefine.ui.readers import get_reader

    (reader,) = manifest.contributions.readers
    for pattern in reader.filename_patterns:
        assert get_reader(pattern.replace("*", "/nowhere/a")) is not None, pattern


def test_defaults_in_the_manifest_are_those_of_the_settings(manifest: Any) -> None:
    from dataclasses import asdict

    from napari_autorefine.ui.settings import Settings

    declared = {
        name: one.default
        for group in manifest.contributions.configurations.values()
        for name, one in group.properties.items()
    }
    assert declared == asdict(Settings())


def test_settings_are_read_and_kept(plugin_settings: Any, plugin: Any) -> None:
    from napari.settings import get_plugin_settings

    from napari_autorefine.ui.settings import orientation_was_told, read_settings

    assert read_settings().tell_orientation
    orientation_was_told()
    get_plugin_settings("napari-autorefine").compute.backend = "cpu"
    assert not read_settings().tell_orientation
    assert read_settings().backend == "cpu"


def test_settings_have_defaults_without_the_plugin(plugin_settings: Any) -> None:
    from napari_autorefine.ui.settings import Settings, orientation_was_told, read_settings

    orientation_was_told()
    assert read_settings() == Settings()


def test_the_icon_is_there(manifest: Any) -> None:
    from importlib.resources import files

    package, _, name = manifest.icon.partition(":")
    assert b"<svg" in files(package).joinpath(name).read_bytes()


def test_titles_in_menus_and_palette_are_words(manifest: Any) -> None:
    titles = [command.title for command in manifest.contributions.commands]
    assert len(set(titles)) == len(titles)
    assert all(len(title.split()) >= 2 and title[0].isalnum() for title in titles)
