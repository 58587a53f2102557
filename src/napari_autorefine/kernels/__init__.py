"""napari_autorefine kernels."""
