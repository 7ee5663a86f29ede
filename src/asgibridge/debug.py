"""Who waits for whom: a dump of threads, calls, tasks and event loops that names the culprit.

* `dump` prints it now, `snapshot` returns it;
* `dump_on_signal` prints it when the process gets a signal, whatever its main thread is doing;
* `watch` prints it when a call has been running for too long, and `log_slow_calls` logs each call
  that has taken too long. ``asgibridge run --watch SECONDS`` is `watch` for any program and its
  children.

Until they are switched on, they cost a call nothing; then each call reads the clock twice, as it
always does in the compiled kernel (`asgibridge.workers.collect_timings`). A dump itself finds what
it shows (see `asgibridge._sight.graph`), in some tenths of a second for a big process.

**Threads.** `watch` and `dump_on_signal` have a daemon thread each, because a signal handler in
Python would run in the main thread only, between two lines of Python. A forked child starts them
again. Under gevent's or eventlet's monkey-patching they are greenlets, which cannot run while the
hub is blocked.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from . import _kernel
from ._process import fork, settings, threads
from ._sight.graph import take
from ._sight.snapshot import Call, Frame, Snapshot, Task, Thread
from ._waits.names import function_words
from ._workers import stats

__all__ = [
    "Call",
    "Frame",
    "Snapshot",
    "Task",
    "Thread",
    "dump",
    "dump_on_signal",
    "log_slow_calls",
    "no_dump_on_signal",
    "snapshot",
    "unwatch",
    "watch",
]


def __dir__() -> list[str]:
    return __all__


_logger = logging.getLogger("asgibridge")


class Writable(Protocol):
    def write(self, text: str, /) -> object: ...


def snapshot() -> Snapshot:
    """Who waits for whom now, as data. From any thread.

    A Snapshot has text only, and keeps no object of the program alive.
    """
    return take(snapshot.__code__.co_filename)


def dump(file: Writable | None = None) -> None:
    """Print a `snapshot` to ``file`` (sys.stderr by default). From any thread."""
    _write(str(snapshot()), file)


def _write(text: str, file: Writable | None) -> None:
    out: Any = sys.stderr if file is None else file
    if out is not None:
        out.write(text)
        if hasattr(out, "flush"):
            out.flush()


def _checked(seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be a number above 0, not {seconds!r}")
    return float(seconds)


# --- slow calls ----------------------------------------------------------------------------------

_slow_seconds: float | None = None


def log_slow_calls(seconds: float | None) -> None:
    """Log a warning for each `sync_to_async` call that has run for ``seconds`` or longer.

    The thread that ran it logs that when the call has ended, on logger ``asgibridge``; as asyncio's
    ``slow_callback_duration`` does for callbacks that block a loop. None switches it off.
    ValueError unless ``seconds`` is a positive number.
    """
    global _slow_seconds
    _slow_seconds = None if seconds is None else _checked(seconds)
    _need_timings()
    _kernel.kernel.report_slow(_slow_seconds or 0, None if _slow_seconds is None else _report_slow)


def _report_slow(function: Callable[[], Any], seconds: float) -> None:
    _logger.warning(
        "%s took %.3f seconds on thread %s",
        function_words(function),
        seconds,
        threading.current_thread().name,
    )


def _need_timings() -> None:
    stats.need_timings(_slow_seconds is not None or _watcher is not None)


# --- watch ---------------------------------------------------------------------------------------


class _Watcher:
    """A thread that looks every now and then whether a call has been running for too long.

    A look reads only a few numbers from the kernel. Each call is reported once.
    """

    def __init__(self, seconds: float, file: Writable | None) -> None:
        self.seconds = seconds
        self.file = file
        self.stop = threading.Event()
        self._reported: set[tuple[int, float]] = set()
        self._thread = threading.Thread(target=self._run, name="asgibridge-watch", daemon=True)
        threads.start(self._thread, self._thread.start)

    def _run(self) -> None:
        # So a look comes at most a quarter of the time late. Arbitrary.
        while not self.stop.wait(min(self.seconds / 4, 1.0)):
            try:
                self.look()
            except Exception:
                _logger.exception("asgibridge.debug.watch could not look")

    def look(self) -> None:
        kernel = _kernel.kernel
        running = set(kernel.running())
        now = kernel.now()
        stuck = {key for key in running if now - key[1] >= self.seconds}
        fresh = stuck - self._reported
        self._reported = stuck
        if fresh:
            count = "a call has" if len(fresh) == 1 else f"{len(fresh)} calls have"
            _write(
                f"asgibridge: {count} been running for more than {self.seconds:g} seconds\n"
                f"{snapshot()}",
                self.file,
            )


_watcher: _Watcher | None = None


def watch(seconds: float, file: Writable | None = None) -> None:
    """Dump to ``file`` (sys.stderr) when a `sync_to_async` call has been running for ``seconds``.

    Once for each such call; a call that waits in `async_to_sync` counts as running. The pure kernel
    does not know since when a call runs that has begun before (`workers.collect_timings`), and
    leaves it out. Replaces what was set before. Also ``ASGIBRIDGE_WATCH=SECONDS`` in the
    environment. ValueError unless ``seconds`` is a positive number.
    """
    global _watcher
    seconds = _checked(seconds)
    unwatch()
    _watcher = _Watcher(seconds, file)
    _need_timings()


def unwatch() -> None:
    """End `watch`."""
    global _watcher
    watcher, _watcher = _watcher, None
    if watcher is not None:
        watcher.stop.set()
    _need_timings()


# --- on a signal ---------------------------------------------------------------------------------


class _OnSignal:
    """A thread that dumps when something arrives in a pipe.

    faulthandler's handler writes to it. That is C and runs at once, on whatever thread gets the
    signal, also in the middle of a C function or a wait for a lock. The pipe does not block, so a
    second signal during a dump does no harm. The thread discards the text.
    """

    def __init__(self, signum: int, file: Writable | None) -> None:
        self.signum = signum
        self.file = file
        self._read, self._pipe = os.pipe()
        try:
            os.set_blocking(self._pipe, False)
            # all_threads=True reads the stacks of running threads, and 3.14 crashes.
            faulthandler.register(signum, file=self._pipe, all_threads=False, chain=False)
            try:
                self._thread = threading.Thread(
                    target=self._run, name="asgibridge-dump", daemon=True
                )
                threads.start(self._thread, self._thread.start)
            except BaseException:
                faulthandler.unregister(signum)
                raise
        except BaseException:
            os.close(self._pipe)
            os.close(self._read)
            raise

    def _run(self) -> None:
        while os.read(self._read, 1):
            try:
                dump(self.file)
            except Exception:
                _logger.exception("asgibridge.debug could not dump")
            os.set_blocking(self._read, False)
            with suppress(BlockingIOError):
                while os.read(self._read, 65536):
                    pass
            os.set_blocking(self._read, True)
        os.close(self._read)

    def stop(self) -> None:
        faulthandler.unregister(self.signum)
        os.close(self._pipe)  # the thread reads the end of it

    def forget(self) -> None:
        # In a forked child. The parent's thread reads this pipe, and would dump the parent.
        self.stop()
        os.close(self._read)


_on_signal: dict[int, _OnSignal] = {}


def dump_on_signal(signum: int, file: Writable | None = None) -> None:
    """Dump to ``file`` (sys.stderr) when this process gets the signal ``signum``.

    That works whatever the main thread is doing: waiting for a lock, in a C function or in Python.
    It replaces the signal's handler; `asyncio` or a server that sets its own later replaces this
    one. RuntimeError on Windows, which has no such signals; ValueError for a signal that cannot be
    caught, or is faulthandler's own (SIGSEGV and the like).
    """
    if not hasattr(faulthandler, "register"):
        raise RuntimeError("there are no signals to dump on here: call asgibridge.debug.dump()")
    signum = int(signum)
    no_dump_on_signal(signum)
    try:
        _on_signal[signum] = _OnSignal(signum, file)
    except threads.CannotStart:
        raise
    except (OSError, RuntimeError) as error:
        raise ValueError(f"signal {signum} cannot be caught: {error}") from error


def no_dump_on_signal(signum: int) -> None:
    """End `dump_on_signal`: the signal gets its former handler back."""
    on_signal = _on_signal.pop(int(signum), None)
    if on_signal is not None:
        on_signal.stop()


def _after_fork_in_child() -> None:
    # The child has none of the threads.
    global _watcher
    if _watcher is not None:
        _watcher = _Watcher(_watcher.seconds, _watcher.file)
    for signum, on_signal in list(_on_signal.items()):
        on_signal.forget()
        _on_signal[signum] = _OnSignal(signum, on_signal.file)


fork.at_fork(_after_fork_in_child)


def read_environment() -> None:
    """Do what ASGIBRIDGE_TIMINGS and ASGIBRIDGE_WATCH ask for; child processes inherit them.

    They are `asgibridge.workers.collect_timings`, 1 or 0, and `watch`, in seconds, as set by
    ``asgibridge run --watch``. ValueError for a bad value.
    """
    stats.read_environment()
    seconds = settings.read("ASGIBRIDGE_WATCH")
    if seconds is not None:
        watch(seconds)
