"""The items that inboxes hold."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import GeneratorType
from typing import Any, Literal, Protocol


class Item(Protocol):
    """The inbox's thread runs it, or somebody cancels it; then `deliver`. A base, or a pattern."""

    __slots__ = ()

    def run(self) -> None: ...

    def deliver(self) -> None:
        """Wake the task or thread that waits for the outcome."""
        return  # nobody does

    def cancel(self) -> None:
        """It will not run: let `deliver` say so."""
        return


class WhenIdle(Protocol):
    """What an idle thread that serves an inbox asks: what next, after so many seconds with nothing
    to do? True: it ends. A float: it asks again after so many seconds more. None: it waits. Else an
    item, which it runs.

    On the thread. It must be quick, and run no code of the program's: others may be woken after.
    """

    def __call__(self, idle: float, /) -> Item | float | Literal[True] | None: ...


def generators_given(function: Callable[..., Any]) -> list[Any]:
    """The generators among the arguments of a partial; none of any other function's.

    In `thread_handler`'s partial, they are in the one that comes last.
    """
    if type(function) is not functools.partial:
        return []
    found = [each for each in function.args if type(each) is GeneratorType]
    if function.keywords:
        found += [each for each in function.keywords.values() if type(each) is GeneratorType]
    if function.args and type(function.args[-1]) is functools.partial:
        found += generators_given(function.args[-1])
    return found


class Passing(threading.local):
    """Of a thread, while somebody's ``submit`` hears of a call of ours: the executor whose own
    ``submit`` is to hand over what it makes, and what that made. See `asgibridge._bridge.heard`."""

    executor: Any = None
    item: Any = None

    def take(self, executor: Any, call: FutureCall) -> bool:
        """Whether ``submit`` has nothing more to do."""
        if self.executor is not executor:
            return False
        self.executor = None
        self.item = call.run_and_deliver
        return True


passing = Passing()


class FutureCall:
    """What ``submit`` makes: a call of ``function(*args, **kwargs)`` for ``future``.

    Of the thread that runs it or gives it up, whichever took it out of the inbox.
    """

    __slots__ = ("_call", "_error", "_future", "_value")

    def __init__(
        self,
        future: Future[Any],
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._future: Future[Any] | None = future
        self._call: tuple[Any, Any, Any] | None = (function, args, kwargs)
        self._value: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Call the function, unless the future was cancelled."""
        call, self._call = self._call, None
        if self._future is None or call is None:
            return
        if not self._future.set_running_or_notify_cancel():
            self._future = None
            return
        function, args, kwargs = call
        del call
        try:
            self._value = function(*args, **kwargs)
        except BaseException as error:
            self._error = error
        finally:
            del function, args, kwargs

    def deliver(self) -> None:
        """Tell the future."""
        future, self._future = self._future, None
        value, error = self._value, self._error
        self._value = self._error = None
        if future is None:
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
        del future, value, error, self

    def run_and_deliver(self) -> None:
        """Both, for who calls it as a function."""
        self.run()
        self.deliver()

    def cancel(self) -> None:
        """Give it up, in place of `run`."""
        future, self._future = self._future, None
        self._call = None
        if future is not None:
            future.cancel()
            future.set_running_or_notify_cancel()

    def fail(self, error: BaseException) -> None:
        """Have the future raise ``error``, in place of `run`."""
        self._call = None
        if self._future is not None and self._future.set_running_or_notify_cancel():
            self._error = error
            self.deliver()
