"""Refinement on several processes and machines through dask.distributed."""
