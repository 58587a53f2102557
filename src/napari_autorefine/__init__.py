"""napari_autorefine package."""
