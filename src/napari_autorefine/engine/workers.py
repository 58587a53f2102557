"""A pool of threads that runs blocks in order and slabs at once, with single-threaded matrix products inside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads of a refinement; a context manager.

    Inside the context every BLAS call uses one thread: particles run in parallel, products do not.
    """

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)

    def __enter__(self) -> Workers:
        self._limits: Any = threadpool_limits(limits=1)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="autorefine")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._limits.restore_original_limits()

    def each(self, function: Callable[[Item], Any], items: Iterable[Item]) -> None:
        """Call ``function`` on every item, in parallel; the first error is raised."""
        for future in [self._pool.submit(function, item) for item in items]:
            future.result()

    def ordered(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results of ``function`` in the order of ``items``; only a few are in flight at a time."""
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(function, item))
            if len(waiting) > self.threads + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
