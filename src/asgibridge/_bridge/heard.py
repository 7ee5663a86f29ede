"""Those who have replaced ``submit`` hear of hops, as they would of asgiref's.

Profilers and agents put a function of their own in place of ``ThreadPoolExecutor.submit``, or of
``CurrentThreadExecutor.submit``: it looks at what is submitted, and hands it, or a function around
it, to the ``submit`` that was there. Our hops make no use of ``submit``. So while one is replaced:

1. `sync` has `thread_handler` called, and notes that call of it in `handlers`;
2. `routes` hands this to the replaced ``submit`` (`tell_pool`, `tell_frame`), on the loop's thread;
3. what comes out at the other end is not put anywhere: the call takes it as its function, and goes
   its usual way.

So nothing else changes: who may run the call, how it is counted, how its task is woken.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import functools
import weakref
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from types import FunctionType
from typing import TYPE_CHECKING, Any

from .._process import cpython, items, threads

if TYPE_CHECKING:
    from .._kernel import kernel

handlers: dict[kernel.SyncCall, functools.partial[Any]] = {}
"""Of each call that somebody is to hear of: what runs ``thread_handler``. From the call's beginning
to its end, or until they have heard."""


def _stock_submit() -> Any:
    # An agent may have been here before us.
    submit = ThreadPoolExecutor.__dict__.get("submit")
    is_stock = (
        type(submit) is FunctionType and submit.__globals__ is concurrent.futures.thread.__dict__
    )
    return submit if is_stock else None


POOL_SUBMIT: Any = _stock_submit()


class _Relay(ThreadPoolExecutor):
    """Stands in ``submit`` for an executor of ours, and has no thread: see the header."""

    _work_queue: Any

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="asgibridge-worker")
        self._work_queue = self

    def put(self, work: Any) -> None:
        items.passing.item = functools.partial(work.run, *cpython.worker_arguments(self))

    def qsize(self) -> int:
        return 0

    def _adjust_thread_count(self) -> None:
        pass


_relays: weakref.WeakKeyDictionary[Executor, _Relay] = weakref.WeakKeyDictionary()


def tell_pool(call: kernel.SyncCall, executor: Executor) -> None:
    """Have ``ThreadPoolExecutor.submit`` hear that ``executor`` is to run ``call``."""
    handler = handlers.pop(call, None)
    if handler is None or threads.exiting:  # then the stock `submit` refuses
        return
    relay = _relays.get(executor)
    if relay is None:
        relay = _relays[executor] = _Relay()
    _tell(call, relay, handler)


def tell_frame(call: kernel.SyncCall, frame: kernel.CurrentThreadExecutor) -> None:
    """Have ``CurrentThreadExecutor.submit`` hear that ``frame`` is to run ``call``."""
    handler = handlers.pop(call, None)
    if handler is not None:
        _tell(call, frame, handler)


def _tell(call: kernel.SyncCall, executor: Executor, handler: functools.partial[Any]) -> None:
    passing = items.passing
    passing.executor = executor
    try:
        future = executor.submit(handler)
        run, passing.item = passing.item, None
    finally:
        passing.executor = None
    call.call_instead(functools.partial(_run, run, future))


def _run(run: Any, future: Future[Any]) -> Any:
    # On the call's thread. Without `run`, somebody else runs it.
    __traceback_hide__ = True
    try:
        if run is not None:
            run()
        return future.result()
    except CancelledError:
        raise asyncio.CancelledError from None
    finally:
        del run, future  # an error's traceback refers to this frame


class _Handler(functools.partial[Any]):
    """A call in somebody's own executor, that looks like what asgiref submits."""

    call: kernel.SyncCall

    def __call__(self) -> Any:
        __traceback_hide__ = True
        return self.call()


def shown_as(call: kernel.SyncCall) -> Any:
    """What to submit to an executor of somebody's own."""
    handler = handlers.pop(call, None)
    if handler is None:
        return call
    shown = _Handler(handler.func, *handler.args)
    shown.call = call
    return shown
