"""Who searches the particles of a refinement: GPUs of this process, or processes elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from napari_autorefine.cluster.connect import Certificates, connected, started
from napari_autorefine.cluster.crew import DaskCrew
from napari_autorefine.cluster.description import read_description
from napari_autorefine.cluster.members import GpuGroups
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message
from napari_autorefine.jobs.refine_cluster_params import RefineClusterParams

_QUEUE_PATIENCE_S, _PATIENCE_S = float("inf"), 600.0


@contextmanager
def crew_of(params: RefineClusterParams, gpu: GpuGroups | None) -> Iterator[DaskCrew | None]:
    """Connect to, or start, the processes that the options name; None when there are none.

    Parameters
    ----------
    params : of the refinement
    gpu : devices as asked for, group by group; () = all, None = CPU only

    Raises
    ------
    InputError
        They cannot be reached or started, or the cluster file is wrong.
    """
    if params.scheduler is not None:
        certificates = Certificates(ca=params.tls_ca, certificate=params.tls_cert, key=params.tls_key)
        source, patience_s, n_wanted = connected(params.scheduler, certificates), _PATIENCE_S, 0
    elif params.cluster is not None:
        description = read_description(params.cluster)
        source, n_wanted = started(description), description.n_workers
        patience_s = _QUEUE_PATIENCE_S if description.kind == "slurm" else _PATIENCE_S
    else:
        yield None
        return
    with source as client:
        crew = DaskCrew(client, gpu=gpu, patience_s=patience_s, n_wanted=n_wanted)
        try:
            yield crew
        finally:
            crew.close()


def gpu_groups(text: str | None) -> GpuGroups:
    """Return the GPUs of one process after the other from RELION's ``0,1:2,3``; () for an empty text, which is all.

    Colons part processes, commas the devices of a process.

    Raises
    ------
    InputError
        Anything but numbers.
    """
    groups = [group for group in (text or "").split(":") if group.strip(" ,")]
    try:
        found = tuple(tuple(dict.fromkeys(int(one) for one in group.split(",") if one.strip())) for group in groups)
    except ValueError as error:
        raise InputError(f"--gpu {text} is not a list of GPU numbers such as 0:1.") from error
    if any(number < 0 for group in found for number in group):
        raise InputError(f"--gpu {text} has a negative number; GPUs are counted from 0.")
    return found


def not_used(params: RefineClusterParams, *, preread: bool, scratch: bool) -> Iterator[Message]:
    """Say which options have no meaning when other processes read the images."""
    names = [name for name, is_given in (("--preread_images", preread), ("--scratch_dir", scratch)) if is_given]
    if params.has_crew and names:
        text = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} not used: processes read the images"
        yield Message(text=f"{text} themselves and keep them in memory.", level="warning")
