"""napari_autorefine engine."""
