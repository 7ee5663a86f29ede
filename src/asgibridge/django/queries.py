"""`cancel_queries`: a query stops when the task is cancelled that waits for it.

A cancelled `sync_to_async` call ends at once, and its function goes on unheard. Here a query that
the function is in the middle of is stopped, and the function gets an `asyncio.CancelledError` from
it; or from its next query, if there is none at the moment. One of its queries, not more: what it
does then, it does by itself, as after any error.

**Never the next call's query.** A `_Query` is one call of a cursor's method. The worker enters it
under the call's task context in ``_running``, and takes it out when the method has returned.

1. The loop marks the call as abandoned, and then looks into ``_running``.
2. The worker enters the query, and then looks at the mark (both under ``_lock``).

At least one of them sees what the other did. The loop starts a thread then (`_Query.stop`), for it
may take a connection of its own to tell the database's server:

3. The thread takes the query's lock. If the query is over, there is nothing to stop.
4. It tells the server, and waits until the server has heard it. It holds the lock.
5. The worker, whose query may have ended meanwhile by itself, has to take the lock before it goes
   on. So no other query begins on the connection while one of ours is to be stopped.
6. The server may not have begun with the query when it was told, and then it does not care. So the
   thread goes on from step 3, until the query is over.

Where the server could not be told, nobody knows what it is still going to hear. So the worker
closes the connection.

Statements that begin and end transactions and savepoints are left alone: they are short, and
a rollback has to be done. So are calls that are waited for in any case
(``abandon_on_cancel=False``): the end of `asgibridge.django.atomic` among them, with its callbacks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextvars import ContextVar, Token
from typing import Any, NoReturn

from django.core.signals import request_started
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.utils import DatabaseErrorWrapper

from .._bridge import state
from .._process import fork
from ..sync import sync_to_async
from . import configuration

__all__ = ["cancel_queries"]

_logger = logging.getLogger("asgibridge.django")

_LEFT_ALONE = ("BEGIN", "SAVEPOINT", "RELEASE", "ROLLBACK", "COMMIT")
_WHY = "the task that waits for this query was cancelled"

_SECONDS = 5
"""That telling the server may take. Arbitrary: as long as a connection may take to a busy one."""

_wanted: ContextVar[bool | None] = ContextVar("asgibridge_cancel_queries", default=None)


class cancel_queries:
    """Have queries of the block stopped when the task is cancelled that waits for them.

    ::

        async with cancel_queries(), asyncio.timeout(2):
            await Report.objects.acount()

    Also in sync code, by ``with``. It goes for what `sync_to_async` calls in the block, in this
    task and in those that it starts, on connections of Django's: PostgreSQL (psycopg, psycopg2),
    SQLite, MySQL. In place of the setting ``cancel_queries``; with ``wanted=False``, for a block
    whose queries are to run to their end though the setting is on. May not be entered twice.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._is_wanted = wanted
        self._token: Token[bool | None] | None = None

    def __enter__(self) -> None:
        if self._is_wanted:
            watch()
            watch_connections()
        self._token = _wanted.set(self._is_wanted)

    def __exit__(self, *_error: object) -> None:
        assert self._token is not None
        _wanted.reset(self._token)

    async def __aenter__(self) -> None:
        if self._is_wanted:
            watch()
            await sync_to_async(watch_connections)()
        self._token = _wanted.set(self._is_wanted)

    async def __aexit__(self, *_error: object) -> None:
        self.__exit__()


def watch() -> None:
    """From now on, be told of calls that are abandoned, and of connections. Any thread."""
    if state.abandoned is None:
        state.abandoned = _stop_query_of
        connection_created.connect(_watch_new, dispatch_uid=__name__)
        request_started.connect(watch_connections, dispatch_uid=__name__)


def watch_connections(**_signal: Any) -> None:
    """Watch the connections that this thread has already."""
    for connection in connections.all(initialized_only=True):
        _watch(connection)


def _watch_new(*, connection: Any, **_signal: Any) -> None:
    _watch(connection)


def _watch(connection: Any) -> None:
    wrappers = connection.execute_wrappers
    if not any(isinstance(each, _Execute) for each in wrappers):
        # The first: Connection.execute_wrapper() takes its own from the end.
        wrappers.insert(0, _Execute())
        connection.wrap_database_errors = _Errors(connection)


class _Execute:
    """Django's way around ``execute`` and ``executemany``."""

    def __call__(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if isinstance(sql, str) and sql.startswith(_LEFT_ALONE):
            return execute(sql, params, many, context)
        return _run(context["connection"], execute, sql, params, many, context)


class _Errors(DatabaseErrorWrapper):
    """Django's way around ``fetchone``, ``fetchmany`` and so on, where SQLite does the work."""

    def __call__(self, function: Any) -> Any:
        function = super().__call__(function)

        def fetch(*args: Any, **kwargs: Any) -> Any:
            return _run(self.wrapper, function, *args, **kwargs)

        return fetch


def _is_wanted() -> bool:
    wanted = _wanted.get()
    return configuration.current().cancel_queries if wanted is None else wanted


_lock = threading.Lock()
_running: dict[int, _Query] = {}
"""What a call is in the middle of, by the id of its task context."""


def _forget() -> None:
    global _lock
    _lock = threading.Lock()
    _running.clear()


fork.at_fork(_forget)


def _run(connection: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
    # On the worker.
    task_context = state.threadlocal.__dict__.get("task_context")
    if task_context is None or not _is_wanted():
        return function(*args, **kwargs)
    key, query = id(task_context), _Query(connection)
    with _lock:
        outer = _running.get(key)  # somebody's wrapper around `execute` makes a query itself
        is_late, task_context.is_abandoned = task_context.is_abandoned, False
        if not is_late:
            _running[key] = query
    if is_late:
        raise asyncio.CancelledError(_WHY)
    try:
        result = function(*args, **kwargs)
    except BaseException as error:
        if _is_stopped(query, key, outer, task_context):
            query.settle(error)
        raise
    if _is_stopped(query, key, outer, task_context):
        query.settle(None)
    return result


def _is_stopped(query: _Query, key: int, outer: _Query | None, task_context: Any) -> bool:
    # The query has returned.
    with _lock:
        if outer is None:
            del _running[key]
        else:
            _running[key] = outer
    is_told = query.end()
    if is_told:
        task_context.is_abandoned = False
    return is_told


class _Query:
    """One call of a cursor's method."""

    __slots__ = ("_connection", "_is_over", "_is_told", "_lock", "_trouble")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._is_over = False
        self._is_told = False
        self._trouble: Exception | None = None

    def stop(self) -> None:
        """Tell the database's server to stop it, until it is over. On a thread of its own."""
        pause = 0.01  # arbitrary: far longer than a server needs to begin with a query
        while True:
            with self._lock:
                if self._is_over or self._trouble is not None:
                    return
                self._is_told = True
                try:
                    _tell_server(self._connection)
                except Exception as error:
                    self._trouble = error
            time.sleep(pause)
            pause = min(2 * pause, 1)

    def end(self) -> bool:
        """It is over. Returns whether the server was told. On the worker."""
        with self._lock:
            self._is_over = True
        return self._is_told

    def settle(self, failure: BaseException | None) -> NoReturn:
        """Raise the CancelledError in place of ``failure``. On the worker."""
        connection, trouble = self._connection, self._trouble
        _forget_frames(failure)
        if trouble is not None:
            _logger.warning(
                "a query of %r could not be stopped: its connection is closed",
                connection.alias,
                exc_info=trouble,
            )
            connection.close()
        if connection.in_atomic_block and failure is not None:
            # As Django's `mark_for_rollback_on_error` does, which is for Exceptions.
            connection.needs_rollback = True
            connection.rollback_exc = failure
        try:
            raise asyncio.CancelledError(_WHY) from failure
        finally:
            del failure


def _forget_frames(error: BaseException | None) -> None:
    """Let go of the cursors in the frames of ``error``, which Django's own refers to in a circle.

    1. A garbage collection on the loop's thread finds the circle, and resets the cursor. 2. SQLite
    waits until the next query of the connection is over, and the collection holds the GIL. 3. The
    thread that would stop that query waits for the GIL.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _tell_server(connection: Any) -> None:
    database = connection.connection
    if database is None:
        return
    if hasattr(database, "cancel_safe"):  # psycopg 3.2
        database.cancel_safe(timeout=_SECONDS)
    elif connection.vendor == "mysql":
        other = connection.copy()
        other.settings_dict["OPTIONS"]["connect_timeout"] = _SECONDS
        try:
            with other.cursor() as cursor:
                cursor.execute(f"KILL QUERY {database.thread_id()}")
        finally:
            other.close()
    elif hasattr(database, "interrupt"):  # SQLite
        database.interrupt()
    else:
        database.cancel()


def _stop_query_of(task_context: Any) -> None:
    # On the loop's thread, when nobody waits for the call any more.
    with _lock:
        query = _running.get(id(task_context))
    if query is not None:
        threading.Thread(target=query.stop, name="asgibridge-cancel-query", daemon=True).start()
