"""``timeout``: asgiref's time limit for a block of code, deprecated there and here.

New code uses ``asyncio.timeout()`` (Python 3.11 and up). `_process.deadline` says what happens at
expiry and on cancellation.
"""

from __future__ import annotations

import asyncio
import warnings

from ._process.deadline import Deadline

__all__ = ["timeout"]


def __dir__() -> list[str]:
    return __all__


class timeout(Deadline):
    """Raises TimeoutError from a ``with`` or ``async with`` block not done in ``timeout`` seconds.

    None sets no limit. The block must run in a task of the running event loop, or of ``loop``
    (deprecated), and that task is cancelled when the time is up; ``expired`` tells whether it was,
    ``remaining`` how many seconds are left. Before Python 3.11 the error raised is an
    ``asyncio.TimeoutError`` too. Raises RuntimeError where no event loop is running.

    .. deprecated:: asgiref 3.13
       Every construction gives a DeprecationWarning; use ``asyncio.timeout()``.
    """

    def __init__(
        self, timeout: float | None, *, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        warnings.warn(
            "asgibridge.timeout.timeout is deprecated: use asyncio.timeout() of Python 3.11 and up",
            DeprecationWarning,
            stacklevel=2,
        )
        if loop is None:
            loop = asyncio.get_running_loop()
        else:
            warnings.warn(
                "timeout(loop=...) is deprecated: leave it out, the running loop is used",
                DeprecationWarning,
                stacklevel=2,
            )
        super().__init__(timeout, loop)
