"""napari_autorefine model."""
