"""Parameters of the auto-refinement that say which other processes search particles."""

from __future__ import annotations

from typing import Annotated

from pydantic import field_validator, model_validator

from napari_autorefine.jobs.refine_input_params import none_if_empty
from napari_autorefine.jobs.refine_tomo_params import RefineTomoParams
from napari_autorefine.params import Param

RUNNING = "Running"


class RefineClusterParams(RefineTomoParams):
    """Where the processes are that search particles, when it is not this one that does."""

    cluster: Annotated[
        str | None,
        Param(
            "Cluster file",
            "YAML or JSON file that says which processes to start, here or as SLURM jobs; see scaling.md.",
            RUNNING,
            file_kind="read",
            is_advanced=True,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        Param(
            "Dask scheduler",
            "Address of a dask scheduler whose workers search the particles, such as tcp://10.1.2.3:8786.",
            RUNNING,
            is_advanced=True,
        ),
    ] = None
    tls_ca: Annotated[
        str | None,
        Param(
            "Certificate authority",
            "PEM file that a tls:// scheduler's certificate is checked against; by default that of dask's settings.",
            RUNNING,
            file_kind="read",
            is_advanced=True,
        ),
    ] = None
    tls_cert: Annotated[
        str | None,
        Param(
            "Certificate",
            "PEM file of this computer's certificate for a tls:// scheduler.",
            RUNNING,
            file_kind="read",
            is_advanced=True,
        ),
    ] = None
    tls_key: Annotated[
        str | None,
        Param("Key of the certificate", "PEM file of its private key.", RUNNING, file_kind="read", is_advanced=True),
    ] = None

    @field_validator("cluster", "scheduler", "tls_ca", "tls_cert", "tls_key", mode="after")
    @classmethod
    def _no_process_if_empty(cls, value: str | None) -> str | None:
        return none_if_empty(value)

    @model_validator(mode="after")
    def _check_processes(self) -> RefineClusterParams:
        if self.cluster is not None and self.scheduler is not None:
            raise ValueError("--cluster and --scheduler exclude each other")
        if self.scheduler is None and any((self.tls_ca, self.tls_cert, self.tls_key)):
            raise ValueError("--tls_ca, --tls_cert and --tls_key need --scheduler; a --cluster file says tls: true")
        return self

    @property
    def has_crew(self) -> bool:
        """Other processes search the particles."""
        return self.cluster is not None or self.scheduler is not None
