"""Build hook: an editable install finds the top-level napari.yaml inside the package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManifestLink(BuildHookInterface[Any]):
    """Make ``src/napari_autorefine/napari.yaml`` the top-level manifest again when the link was lost on the way."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Repair the link before an editable build; wheels carry a copy of their own."""
        if version != "editable":
            return
        manifest = Path(self.root) / "napari.yaml"
        inner = Path(self.root) / "src" / "napari_autorefine" / "napari.yaml"
        if inner.exists() and inner.samefile(manifest):
            return
        inner.unlink(missing_ok=True)
        try:
            inner.symlink_to(os.path.relpath(manifest, inner.parent))
        except OSError:  # no permission to link, as on some Windows machines
            shutil.copyfile(manifest, inner)
