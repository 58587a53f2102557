"""The process of a detached job: ``python -m napari_autorefine.jobs.detached_main FOLDER``."""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time

import psutil

from napari_autorefine.jobs.detached_run import POLL_S, run_job
from napari_autorefine.jobs.job_folder import HEARTBEAT_S, JobFolder, JobStatus

_NICE, _NICEST = 10, 19
_IO_PRIORITY = 6
_INTERRUPT_AFTER_S, _GIVE_UP_AFTER_S = 3.0, 60.0


def main(argv: list[str] | None = None) -> int:
    """Run the job of a state folder to its end; return 0 when it finished."""
    folder = JobFolder((sys.argv[1:] if argv is None else argv)[0])
    faulthandler.enable()
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt_once)
    watchdog = _Watchdog(folder)
    watchdog.start()
    _be_polite(but=watchdog)
    try:
        status = run_job(folder, on_end=watchdog.leave)
    finally:
        watchdog.stop()
    return 0 if status.state == "finished" else 1


class _Watchdog(threading.Thread):
    """Says that the job is alive; interrupts it when it does not come to an order to cancel by itself."""

    def __init__(self, folder: JobFolder) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._is_ending = False
        self._folder = folder
        self._stopped = threading.Event()

    def leave(self) -> None:
        """Interrupt nothing any more: the job has heard the order and clears up."""
        self._is_ending = True

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.join(timeout=HEARTBEAT_S)

    def run(self) -> None:
        """Look after the job until ``stop``."""
        cancelled_at: float | None = None
        is_interrupted = False
        next_beat = 0.0
        while not self._stopped.wait(POLL_S):
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + HEARTBEAT_S
                with contextlib.suppress(OSError):
                    self._folder.beat()
            if self._folder.ordered() != "cancel":
                continue
            cancelled_at = now if cancelled_at is None else cancelled_at
            if now - cancelled_at > _INTERRUPT_AFTER_S and not (self._is_ending or is_interrupted):
                is_interrupted = True
                _interrupt_main_thread()
            if now - cancelled_at > _GIVE_UP_AFTER_S:
                self._folder.write_state(JobStatus(state="cancelled", text="Cancelled; the process had to be ended."))
                os._exit(1)


def _interrupt_once(*_: object) -> None:
    """Answer a request to end as Ctrl-C would, and let nothing disturb the clearing up that follows."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt_main_thread() -> None:
    if hasattr(signal, "pthread_kill"):
        identity = threading.main_thread().ident
        assert identity is not None
        signal.pthread_kill(identity, signal.SIGTERM)
    else:
        _thread.interrupt_main()


def _be_polite(*, but: threading.Thread) -> None:
    """Leave the window in front when all cores are busy; ``but`` one thread, which says that the job is alive.

    Linux gives threads of the idle class what others leave, at once; a nice one holds its processor until the next
    tick, for 4 ms of the 18 that a redraw takes. AUTOREFINE_NICE, from 0 to 19, is taken instead.
    """
    given = os.environ.get("AUTOREFINE_NICE", "")
    nice = min(int(given), _NICEST) if given.isdigit() else _NICE
    if not nice:
        return
    with contextlib.suppress(psutil.Error, OSError, AttributeError):
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else nice)
    if sys.platform == "linux" and not given.isdigit():
        with contextlib.suppress(psutil.Error, OSError):
            psutil.Process().ionice(psutil.IOPRIO_CLASS_BE, _IO_PRIORITY)  # else the idle class of disks, too
        for thread in psutil.Process().threads():
            if thread.id != but.native_id:
                with contextlib.suppress(OSError):
                    os.sched_setscheduler(thread.id, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    sys.exit(main())
