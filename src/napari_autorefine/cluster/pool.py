"""The processes behind a dask client: who is there, values that all of them need, tasks that are on their way."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from typing import Any

from napari_autorefine.cluster import worker
from napari_autorefine.cluster.members import (
    GpuGroups,
    Member,
    contract_of,
    differences,
    greeter,
    misfit,
    own_greeting,
)
from napari_autorefine.cluster.wire import Greeting
from napari_autorefine.engine.problem import ReadImages
from napari_autorefine.errors import InputError
from napari_autorefine.events import Message

_REFRESH_S, _WAIT_S, _FETCH_S, _GROW_S = 1.0, 0.25, 5.0, 10.0
Task = tuple[str, Member, Any, Any]
"""Kind, who does it, half-set it belongs to, what else is to be remembered."""


class Lost(Exception):
    """What a task would have returned is gone with a process."""


class Pool:
    """Members of a crew and their tasks.

    Attributes
    ----------
    members : processes that can be given work, in the order of joining

    Parameters
    ----------
    client : dask.distributed.Client
    gpu : devices as asked for; None = CPU only
    n_wanted : processes of the client's own cluster, which are started again when they end; 0 = it has none
    """

    def __init__(self, client: Any, *, gpu: GpuGroups | None, n_wanted: int = 0) -> None:
        self._client = client
        self._gpu = gpu
        self._n_wanted = n_wanted
        self._grown = time.monotonic()
        self._own = own_greeting()
        self._runs = tuple(f"{one}/" for one in client.run_on_scheduler(_client_lister()))
        self._greetings: dict[str, Greeting] = {}
        self._refused: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        self._shared: dict[str, Any] = {}
        self._tasks: dict[Any, Task] = {}
        self._notes: list[Message] = []
        self._told: set[str] = set()
        self._looked = float("-inf")
        self._n_joined = 0
        self._has_begun = False
        self.members: list[Member] = []

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return str(self._client.scheduler.address)

    @property
    def has_refused(self) -> bool:
        """There are processes that do not fit."""
        return bool(self._refused)

    def refresh(self) -> list[Member]:
        """Look who has come and gone, at most once a second; returns the members that are lost."""
        if self.members and time.monotonic() - self._looked < _REFRESH_S:
            return []
        self._looked = time.monotonic()
        try:
            present = set(self._client.nthreads())
        except Exception as error:
            if not _is_loss(error):
                raise
            raise InputError(
                f"The connection to the scheduler {self.address} is lost; see whether it still runs and go on with"
                " --continue."
            ) from error
        self._grow(len(present))
        gone = [member for member in self.members if member.address not in present]
        self.members = [member for member in self.members if member.address in present]
        for known in (self._greetings, self._refused):
            for address in [one for one in known if one not in present]:
                del known[address]
        self._admit(sorted(present - set(self._refused) - {member.address for member in self.members}))
        return gone

    def messages(self) -> Iterator[Message]:
        """Yield what there is to say since the last call."""
        while self._notes:
            yield self._notes.pop(0)

    def check_fit(self, read_images: ReadImages, n_particle: int) -> None:
        """Check that every process that is there has the same versions and can read the images.

        Raises
        ------
        InputError
            One cannot.
        """
        self._has_begun = True
        for name, reason in self._refused.items():
            raise InputError(f"The process {name} {reason}.")
        tasks = [
            (member, self.submit(member, None, worker.why_unreadable, read_images, n_particle))
            for member in self.members
        ]
        for member, future in tasks:
            error = self._outcome(future, member)
            if isinstance(error, InputError | OSError):
                error = str(error)
            if isinstance(error, str) and error:
                raise InputError(f"The process {member.name} {unreadable(error)}.")

    def readmit(self, member: Member) -> None:
        """Take a member whose process has forgotten its session for a new one."""
        self.members = [one for one in self.members if one is not member]
        self._close([member.address], member.contract.session)
        self._looked = float("-inf")

    def refuse(self, member: Member, reason: str) -> None:
        """Give a member no more work."""
        self.members = [one for one in self.members if one is not member]
        self._refused[member.address] = reason
        self._notes.append(Message(text=f"Not used: {member.name} {reason}.", level="warning"))

    def share(self, name: str, value: Any) -> None:
        """Keep a value for all members; it takes the place of an earlier one of that name."""
        self._values[name] = value
        self._shared.pop(name, None)
        if name == "setup":
            for member in self.members:
                member.opened = None

    def shared(self, name: str) -> Any:
        """Return the future of a shared value.

        It is sent once; members pass it on to each other. When all copies are lost it is sent again.
        """
        future = self._shared.get(name)
        if future is None or future.status in {"lost", "cancelled", "error"}:
            future = self._client.scatter(self._values[name], hash=False)
            self._shared[name] = future
        return future

    def opened(self, member: Member) -> Any:
        """Return the future of a member's session."""
        if member.opened is None:
            member.opened = self.submit(
                member, None, worker.open_session, self.shared("setup"), member.contract, self._runs
            )
        return member.opened

    def submit(self, member: Member, task: Task | None, function: Any, *arguments: Any) -> Any:
        """Have a member call a function; its outcome comes with ``finished`` when there is a ``task``."""
        future = self._client.submit(function, *arguments, workers=[member.address], pure=False)
        if task is not None:
            self._tasks[future] = task
        return future

    def watch(self, future: Any, task: Task) -> None:
        """Let the outcome of a future come with ``finished``."""
        self._tasks[future] = task

    def finished(self) -> Iterator[tuple[Task, Any]]:
        """Yield tasks that have come to an end and their results, or the errors; waits a moment for the first.

        Volumes of members are not fetched: their outcome is None.
        """
        if not self._tasks:
            time.sleep(_WAIT_S)
            return
        self._wait_for_any()
        for future in [one for one in self._tasks if one.status != "pending"]:
            task = self._tasks.pop(future, None)  # handling one outcome may have dropped others
            if task is not None:
                is_fetched = task[0] != "leaf" or future.status != "finished"
                yield task, self._outcome(future, task[1]) if is_fetched else None

    def forget_tasks_of(self, member: Member) -> None:
        """Wait no more for a member's tasks."""
        self._cancel([future for future, task in self._tasks.items() if task[1] is member])

    def forget(self, future: Any) -> None:
        """Wait no more for a task."""
        self._cancel([future])

    def drop_tasks(self) -> None:
        """Cancel everything that is on its way."""
        self._cancel(list(self._tasks))

    def close(self) -> None:
        """Let all members stop after the block they are at, and forget the run."""
        self.drop_tasks()
        self._shared, self._values = {}, {}
        self._close([member.address for member in self.members], f"{self._client.id}/")
        self.members = []

    def _grow(self, n_present: int) -> None:
        """Start processes, or jobs, in place of those that have ended."""
        if n_present < self._n_wanted and time.monotonic() - self._grown > _GROW_S:
            self._grown = time.monotonic()
            self._client.cluster.scale(self._n_wanted)

    def _close(self, addresses: list[str], session: str) -> None:
        """End sessions beside the tasks of their processes; of those that are still there."""
        try:
            there = [address for address in addresses if address in self._client.nthreads()]
            if there:
                self._client.run(worker.close_sessions, session, workers=there, on_error="ignore")
        except Exception as error:  # without its scheduler a process ends by itself
            if not _is_loss(error):
                raise

    def _admit(self, addresses: list[str]) -> None:
        """Let processes introduce themselves, and take those that fit."""
        new = [address for address in addresses if address not in self._greetings]
        answers = self._client.run(greeter(), workers=new, on_error="return") if new else {}
        for address, answer in answers.items():
            if isinstance(answer, dict):
                self._greetings[address] = Greeting(**answer)
        for address in addresses:
            greeting = self._greetings.get(address)
            if greeting is None:
                continue
            reason = misfit(self._own, greeting)
            if reason:
                self._refused[address] = reason
                self._notes.append(Message(text=f"Not used: {address} {reason}.", level="warning"))
                continue
            self._note_differences(greeting)
            contract = contract_of(greeting, list(self._greetings.values()), self._gpu, self._client.id)
            member = Member(address=address, serial=self._n_joined, greeting=greeting, contract=contract)
            self.members.append(member)
            self._n_joined += 1
            if self._has_begun:
                self._notes.append(Message(text=f"Joined: {member.name}."))

    def _note_differences(self, greeting: Greeting) -> None:
        found = differences(self._own, greeting)
        if found and found not in self._told:
            self._told.add(found)
            text = f"Processes on {greeting.host} have other libraries ({found}): last digits may differ."
            self._notes.append(Message(text=text, level="warning"))

    def _outcome(self, future: Any, member: Member) -> Any:
        """Return a task's result, or its error; ``Lost`` when its process is gone."""
        patience = _FETCH_S
        while True:
            try:
                return future.result(timeout=patience)
            except Exception as error:
                if future.status == "error" and not _is_of_dask(error):
                    return error
                if not _is_loss(error):
                    raise
                if future.status in {"lost", "cancelled", "error"} or not self._is_present(member):
                    return Lost(str(error))
            patience *= 2

    def _wait_for_any(self) -> None:
        wait: Any = importlib.import_module("distributed").wait
        try:
            with self._client.as_current():
                wait(list(self._tasks), timeout=_WAIT_S, return_when="FIRST_COMPLETED")
        except Exception as error:
            if not _is_loss(error):
                raise

    def _is_present(self, member: Member) -> bool:
        return member.address in self._client.nthreads()

    def _cancel(self, futures: list[Any]) -> None:
        for future in futures:
            self._tasks.pop(future, None)
        if futures and self._client.status == "running":
            self._client.cancel(futures)


def unreadable(error: str) -> str:
    """Return what a process says that cannot read the images."""
    return f"cannot read the images ({error.rstrip('.')}); all must see the same files under the same names"


def _client_lister() -> Any:
    """Return the function that lists a scheduler's clients; sent as it stands, schedulers may lack this package."""

    def clients(dask_scheduler: Any) -> list[str]:
        return list(dask_scheduler.clients)

    return clients


def _is_of_dask(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in {"dask", "distributed"}


def _is_loss(error: BaseException) -> bool:
    """Tell whether an error is about a connection or a process that has gone, not about what it did."""
    return _is_of_dask(error) or isinstance(error, OSError | TimeoutError) or "Cancelled" in type(error).__name__
