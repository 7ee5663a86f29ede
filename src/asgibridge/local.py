"""`Local`: attributes of a task, or of a thread, that follow a call across the bridge."""

from __future__ import annotations

import asyncio  # noqa: F401 - asgiref's module has it, and programs take it from there
import threading
from typing import TYPE_CHECKING, Any, final

from . import _kernel

__all__ = ["Local"]


def __dir__() -> list[str]:
    return __all__


# Of the kernel that the classes below are built on, whichever is at work later.
_ContextStorage: Any = _kernel.kernel.ContextStorage
_ThreadStorage: Any = _kernel.kernel.ThreadStorage


@final
class Local:
    """A namespace like `threading.local` that also knows about tasks.

    In a thread with an event loop, attributes are local as context variables are: what a coroutine
    sets is seen by what it awaits, by the tasks it starts, and by sync code it calls by
    `sync_to_async`. In a thread without one they are local to the thread, and seen by async code it
    calls by `async_to_sync`. Either way, what the called side sets is seen by the caller when the
    call has returned. Unrelated threads never see each other's, even one started with a copy of
    this thread's context.

    :param thread_critical: keep the attributes in their thread: like `threading.local` in sync
        code, like context variables within the thread of an event loop, never carried over the
        bridge. For what must not change threads, such as database connections.

    Reading a missing attribute raises AttributeError. Safe to use from any thread. Cannot be
    subclassed.
    """

    __slots__ = ()

    def __new__(cls, thread_critical: bool = False) -> Local:
        if cls is not Local:
            raise TypeError(
                f"{cls.__name__}: asgibridge.local.Local cannot be subclassed; hold one instead"
            )
        # Not object.__new__: that refuses to make what has a C structure.
        if thread_critical:
            return _ThreadStorage.__new__(_ThreadCriticalLocal)  # type: ignore[no-any-return]
        return _ContextStorage.__new__(_DefaultLocal)  # type: ignore[no-any-return]

    if TYPE_CHECKING:  # so that type checkers allow any attribute; the storages below have them

        def __init__(self, thread_critical: bool = False) -> None: ...
        def __getattr__(self, key: str) -> Any: ...
        def __setattr__(self, key: str, value: Any) -> None: ...
        def __delattr__(self, key: str) -> None: ...


class _DefaultLocal(_ContextStorage, Local):  # type: ignore[misc]
    """What ``Local()`` makes."""

    __slots__ = ()

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        # As asgiref's: the namespace of the object, in which no attribute of the user's is.
        return {"_lock": threading.RLock(), "_storage": self}

    def __init__(self, thread_critical: bool = False) -> None:
        super().__init__()


class _ThreadCriticalLocal(_ThreadStorage, Local):  # type: ignore[misc]
    """What ``Local(thread_critical=True)`` makes."""

    __slots__ = ()

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return {"_storage": self}

    def __init__(self, thread_critical: bool = False) -> None:
        super().__init__()
