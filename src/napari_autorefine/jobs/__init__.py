"""napari_autorefine jobs."""
