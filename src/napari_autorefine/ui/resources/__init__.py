"""Files shipped with the window."""
