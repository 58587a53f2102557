"""napari_autorefine io."""
