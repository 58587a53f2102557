"""napari_autorefine ui."""
