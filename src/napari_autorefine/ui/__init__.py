"""The window: readers, writers, samples and docks of the napari plugin; the only place that knows napari and Qt."""
