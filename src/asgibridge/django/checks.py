"""System checks, for a site that has ``asgibridge.django`` in its ``INSTALLED_APPS``.

They look at the process that runs them: the policy is the one that its environment and the site's
setting ask for, which may be another than the server's.

| id | what it finds |
|---|---|
| asgibridge.E001 | the setting ``ASGIBRIDGE`` is wrong |
| asgibridge.W001 | the original asgiref was loaded first |
| asgibridge.W002 | ``CONN_MAX_AGE``, and workers that keep no connection |
| asgibridge.W003 | more connections than PostgreSQL takes (``check --database``) |
| asgibridge.W004 | a sync-only middleware above async views |
| asgibridge.W005 | ``ATOMIC_REQUESTS``, and async views |
| asgibridge.I001 | a connection pool, and workers that keep no connection |
| asgibridge.I002 | as many connections as there are requests (``check --database``) |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django import db
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from .. import workers
from .._process import servers
from .._start import importers
from .._start.install import real_asgiref_loaded
from .._workers.policy import limit_of
from . import configuration
from ._survey import Survey, View, views


def setting(app_configs: Any, **_kwargs: Any) -> list[checks.CheckMessage]:
    """E001."""
    try:
        configuration.values()
    except ImproperlyConfigured as error:
        hint = "Until it is mended nothing of it is in force, and get_asgi_application() raises."
        return [checks.Error(str(error), hint=hint, id="asgibridge.E001")]
    return []


def original(app_configs: Any, **_kwargs: Any) -> list[checks.CheckMessage]:
    """W001."""
    if not real_asgiref_loaded():
        return []
    what = (
        "The original asgiref is loaded in this process: thread-sensitive code of Django's runs on "
        "its threads, and not on those of asgibridge."
    )
    return [checks.Warning(what, hint=importers.what_to_do(), id="asgibridge.W001")]


def persistence(app_configs: Any, **_kwargs: Any) -> list[checks.CheckMessage]:
    """W002, I001."""
    kind = workers.get_policy().kind
    return [] if kind == "keep" else list(_forgotten(kind))


def _forgotten(kind: str) -> Iterator[checks.CheckMessage]:
    for alias in db.connections:
        options = db.connections.settings[alias]
        max_age = options.get("CONN_MAX_AGE", 0)
        if _pool(options) is not None:
            what = (
                f"DATABASES[{alias!r}] has a pool, and the workers' policy is {kind!r}: a worker "
                "keeps no connection from one request to the next, the pool does."
            )
            hint = (
                "That is right. A worker's own connection (ASGIBRIDGE = {'workers': 'keep', "
                "'limit': ...} with CONN_MAX_AGE, and no pool) saves asking the pool in each "
                "request. Else silence this check."
            )
            yield checks.Info(what, hint=hint, id="asgibridge.I001")
        elif max_age is None or max_age > 0:
            what = (
                f"DATABASES[{alias!r}] has CONN_MAX_AGE = {max_age}, and the workers' policy is "
                f"{kind!r}: a worker forgets its connections at the end of the request, so each "
                "request under ASGI connects anew."
            )
            hint = (
                "Let workers keep them: ASGIBRIDGE = {'workers': 'keep', 'limit': 20} "
                "(or ASGIBRIDGE_WORKERS=keep). Or use a pool, or CONN_MAX_AGE = 0."
            )
            yield checks.Warning(what, hint=hint, id="asgibridge.W002")


def _pool(options: Any) -> Any:
    """The pool's options; None without a pool."""
    pool = (options.get("OPTIONS") or {}).get("pool")
    if not pool:
        return None
    return pool if isinstance(pool, dict) else {}


def connections(
    app_configs: Any, databases: Sequence[str] | None = None, **_kwargs: Any
) -> list[checks.CheckMessage]:
    """W003, I002. Asks the databases."""
    try:
        processes = _processes()
    except ImproperlyConfigured:  # said by E001
        return []
    found = (
        _too_many(alias, processes)
        for alias in databases or []
        if db.connections[alias].vendor == "postgresql"
    )
    return [message for message in found if message is not None]


def _processes() -> servers.Processes:
    given = configuration.values().get("processes")
    if given is None or configuration.is_overridden("processes"):
        return servers.processes()
    return servers.Processes(given, "by ASGIBRIDGE['processes']")


_LIMITS = "max_connections", "superuser_reserved_connections", "reserved_connections"


def _too_many(alias: str, processes: servers.Processes) -> checks.CheckMessage | None:
    connection = db.connections[alias]
    with connection.cursor() as cursor:
        query = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
        cursor.execute(query, [list(_LIMITS)])
        found = {name: int(value) for name, value in cursor.fetchall()}
    free = found["max_connections"] - sum(found.get(name, 0) for name in _LIMITS[1:])
    policy, number = workers.get_policy(), processes.number
    limit, part = limit_of(policy, processes)
    each, whose = limit, f"the workers' limit of {limit}"
    if part:
        whose += f", their part of limit_total={policy.limit_total},"
    pool = _pool(connection.settings_dict)
    if pool is not None:
        most = pool.get("max_size") or pool.get("min_size", 4)  # psycopg_pool's default
        if limit is None or most < limit:
            each, whose = most, f"the pool's {most}"
    server = (
        f"PostgreSQL takes {found['max_connections']} connections, {free} of them of others than "
        "superusers"
    )
    count = f"{number} server process{'es' if number > 1 else ''} ({processes.source})"
    if each is None:
        what = (
            f"DATABASES[{alias!r}]: there is no limit of workers, so each of the requests at the "
            f"same time may have a connection; {server}."
        )
        hint = f"Let the processes share ASGIBRIDGE = {{'limit_total': {free}}}, or use a pool."
        return checks.Info(what, hint=hint, id="asgibridge.I002")
    if number * each <= free:
        return None
    what = f"DATABASES[{alias!r}]: {count} times {whose} are {number * each} connections; {server}."
    hint = (
        f"Lower it to {max(free // number, 1)}, or let the processes share ASGIBRIDGE = "
        f"{{'limit_total': {free}}}, or raise max_connections. Where a pooler such as pgbouncer "
        "stands between, silence this check."
    )
    return checks.Warning(what, hint=hint, id="asgibridge.W003")


def middlewares(app_configs: Any, **_kwargs: Any) -> list[checks.CheckMessage]:
    """W004."""
    asynchronous = [view for view in views() if view.is_async]
    if not asynchronous:
        return []
    try:
        survey = Survey()
    except Exception:  # a middleware that cannot be loaded: the server says so as it starts
        return []
    taken = survey.taken(is_view_async=True)
    return [
        checks.Warning(
            f"{each.path!r} is sync only, and above {_these(asynchronous)}: a request to them "
            f"{_costs(survey, each.path)}, and holds a worker while the view awaits.",
            hint=(
                "Write it as a MiddlewareMixin with process_request and process_response and no "
                "__call__, or make it async capable. 'manage.py bridge' shows the chain."
            ),
            id="asgibridge.W004",
        )
        for each in taken.middlewares
        if each.mode == "sync" and not each.async_capable
    ]


def _costs(survey: Survey, path: str) -> str:
    crossings = survey.taken(is_view_async=True).chain.crossings(True)
    costs = survey.costs(path, is_view_async=True)
    return f"crosses {crossings} times" + (f", {costs} of them because of it" if costs else "")


def atomic_requests(app_configs: Any, **_kwargs: Any) -> list[checks.CheckMessage]:
    """W005."""
    aliases = {a for a in db.connections if db.connections.settings[a].get("ATOMIC_REQUESTS")}
    try:
        if not aliases or configuration.current().atomic_async_views:
            return []
    except ImproperlyConfigured:  # said by E001
        return []
    found = [
        view
        for view in views()
        if view.is_async and aliases - getattr(view.callback, "_non_atomic_requests", set())
    ]
    if not found:
        return []
    what = (
        f"ATOMIC_REQUESTS is set for {', '.join(map(repr, sorted(aliases)))}, and Django raises "
        f"RuntimeError for {_these(found)}."
    )
    hint = (
        "ASGIBRIDGE = {'atomic_async_views': True} runs them in a transaction, too. Or exempt them "
        "by django.db.transaction.non_atomic_requests."
    )
    return [checks.Warning(what, hint=hint, id="asgibridge.W005")]


_SHOWN = 5
"""Views that a message names. Arbitrary."""


def _these(found: list[View]) -> str:
    routes = ", ".join(view.route for view in found[:_SHOWN])
    more = ", ..." if len(found) > _SHOWN else ""
    return f"{len(found)} async view{'s' if len(found) > 1 else ''} ({routes}{more})"


CHECKS = (setting, original, persistence, middlewares, atomic_requests)
"""All but `connections`, which is of Django's tag ``database``."""
