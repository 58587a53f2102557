"""``python -m napari_autorefine`` is the command line."""

from __future__ import annotations

import sys

from napari_autorefine.cli import main

sys.exit(main())
