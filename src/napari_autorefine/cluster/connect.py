"""Ways to a dask scheduler: one that runs already, or one that is started with its processes for a run.

This module is the only one that needs dask to be installed. What is started here listens on this computer only, unless
a network interface is named; its web pages are off.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from napari_autorefine.cluster.description import ClusterDescription
from napari_autorefine.errors import InputError

_CONNECT_S = 15.0
_LOOPBACK = "127.0.0.1"
_QUIET = {
    # Web pages and their interfaces are not needed, and what does not listen cannot be asked.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    # Processes that look at themselves fifty times a second take several percent of a core.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
}
# Volumes and images are kept by the package itself within the memory it was given: dask need not write them to disc.
_UNMANAGED = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM files for encrypted connections; those not given are taken from dask's own configuration."""

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def __bool__(self) -> bool:
        return any((self.ca, self.certificate, self.key))


def check_installed(*names: str) -> None:
    """Check that optional packages are there.

    Raises
    ------
    InputError
        One is not.
    """
    for name in ("distributed", *names):
        if importlib.util.find_spec(name) is None:
            package = name.replace("_", "-")
            raise InputError(
                f"Several processes need {package}, which is not installed: pip install napari-autorefine[cluster]."
            )


@contextmanager
def connected(address: str, certificates: Certificates) -> Iterator[Any]:
    """Connect to a scheduler; give the client.

    Raises
    ------
    InputError
        There is none, or certificates are missing.
    """
    check_installed()
    if not address.startswith(("tcp://", "tls://")):
        raise InputError(f"--scheduler {address} is not an address such as tcp://10.1.2.3:8786 or tls://host:8786.")
    if certificates and not address.startswith("tls://"):
        raise InputError(f"--scheduler {address}: certificates are for encrypted addresses, tls://…, only.")
    distributed = importlib.import_module("distributed")
    with ExitStack() as stack:
        stack.enter_context(_quiet_logs())
        stack.enter_context(importlib.import_module("dask").config.set(_QUIET))
        try:
            security = _security(distributed, certificates) if address.startswith("tls://") else distributed.Security()
            _knock(address, security)
            client = stack.enter_context(
                distributed.Client(address, timeout=_CONNECT_S, security=security, set_as_default=False)
            )
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise InputError(_unreachable(address, error)) from error
        yield client


@contextmanager
def started(description: ClusterDescription) -> Iterator[Any]:
    """Start processes as described; give the client; stop them at the end."""
    check_installed(*(("dask_jobqueue",) if description.kind == "slurm" else ()))
    if description.tls:
        check_installed("cryptography")
    distributed, dask = importlib.import_module("distributed"), importlib.import_module("dask")
    with ExitStack() as stack:
        stack.enter_context(_quiet_logs())
        stack.enter_context(dask.config.set(_QUIET | _UNMANAGED))
        security = distributed.Security.temporary() if description.tls else None
        make = _slurm if description.kind == "slurm" else _local
        if security is not None and description.kind == "slurm":
            security = stack.enter_context(_in_files(security, description.shared_folder or os.getcwd()))
        try:
            cluster = stack.enter_context(make(description, security))
            client = stack.enter_context(distributed.Client(cluster, timeout=_CONNECT_S, set_as_default=False))
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"The processes of {description.source} cannot be started: {_line(error)}.") from error
        yield client


def _knock(address: str, security: Any) -> None:
    """Open and close a connection; a client that finds nobody would leave threads behind."""

    async def knock() -> None:
        arguments = security.get_connection_args("client")
        comm = await importlib.import_module("distributed.comm").connect(address, timeout=_CONNECT_S, **arguments)
        await comm.close()

    with ThreadPoolExecutor(1) as thread:  # there may be a running event loop in this one
        thread.submit(asyncio.run, knock()).result()


def _local(description: ClusterDescription, security: Any) -> Any:
    return importlib.import_module("distributed").LocalCluster(
        n_workers=description.n_workers,
        threads_per_worker=description.cores,
        processes=True,
        memory_limit=description.memory or 0,
        host=_LOOPBACK,
        dashboard_address=f"{_LOOPBACK}:0",
        scheduler_kwargs={"dashboard": False},
        security=security,
        silence_logs=logging.CRITICAL,
    )


def _slurm(description: ClusterDescription, security: Any) -> Any:
    if shutil.which("sbatch") is None:
        raise InputError(f"{description.source}: kind is slurm, but this computer has no program sbatch.")
    exports = [
        f"export DASK_{key.upper().replace('-', '_').replace('.', '__')}='{value}'"
        for key, value in (_QUIET | _UNMANAGED).items()
    ]
    cluster = importlib.import_module("dask_jobqueue").SLURMCluster(
        cores=description.cores,
        processes=1,
        memory=description.memory,
        queue=description.queue,
        account=description.account,
        walltime=description.walltime,
        interface=description.interface,
        job_name="autorefine",
        job_extra_directives=list(description.directives),
        job_script_prologue=[*exports, *description.prologue],
        worker_extra_args=["--no-dashboard"],
        python=description.python,
        local_directory=description.local_directory,
        log_directory=description.log_directory,
        death_timeout=120,
        nanny=True,
        protocol="tls://" if security is not None else None,
        security=security,
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},
        silence_logs=logging.CRITICAL,
    )
    cluster.scale(description.n_workers)
    return cluster


@contextmanager
def _in_files(security: Any, shared_folder: str) -> Iterator[Any]:
    """Write certificates made for a run to files that jobs can read, nobody else; give them by name; remove them."""
    try:
        folder = tempfile.mkdtemp(prefix=".autorefine_tls_", dir=shared_folder)
    except OSError as error:
        raise InputError(f"Certificates cannot be written to {shared_folder}: {error.strerror}.") from error
    try:
        names = {}
        for kind, text in security.get_tls_config_for_role("worker").items():
            if kind in {"ca_file", "cert", "key"}:
                names[kind] = os.path.join(os.path.abspath(folder), f"{kind}.pem")
                with open(os.open(names[kind], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                    file.write(text)
        pairs = {
            f"tls_{role}_{kind}": names[kind] for role in ("client", "scheduler", "worker") for kind in ("cert", "key")
        }
        yield type(security)(require_encryption=True, tls_ca_file=names["ca_file"], **pairs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _security(distributed: Any, certificates: Certificates) -> Any:
    """Return the security of a client; raises InputError for files that are missing."""
    given = {
        "tls_ca_file": ("--tls_ca", certificates.ca),
        "tls_client_cert": ("--tls_cert", certificates.certificate),
        "tls_client_key": ("--tls_key", certificates.key),
    }
    for flag, path in given.values():
        if path is not None and not os.path.isfile(path):
            raise InputError(f"{flag} {path} does not exist.")
    security = distributed.Security(
        require_encryption=True, **{name: path for name, (_, path) in given.items() if path is not None}
    )
    missing = [flag for name, (flag, _) in given.items() if getattr(security, name) is None]
    if missing:
        raise InputError(f"A tls:// address needs certificates: {', '.join(missing)} are missing.")
    return security


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep dask's own log off the terminal: what the user should know are messages."""
    loggers = [logging.getLogger(name) for name in ("distributed", "dask_jobqueue", "tornado", "asyncio")]
    earlier = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, earlier, strict=True):
            logger.setLevel(level)


def _unreachable(address: str, error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    return (
        f"There is no scheduler that answers at {address} ({_line(error)}); start one with dask scheduler, or correct"
        " --scheduler."
    )


def _line(error: BaseException) -> str:
    """Return an error's text on one line, without its full stop."""
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
