"""What is measured of the site: its views, and under which event loop, on which database and with
how many connections.
"""

from __future__ import annotations

from typing import NamedTuple

_TOKEN = "x" * 32
POSTED = (
    f"csrfmiddlewaretoken={_TOKEN}&name=Ada+Lovelace&email=ada%40example.org&number=12"
    "&size=medium&text=" + "+".join(["word"] * 40)
)
COOKIE = f"csrftoken={_TOKEN}"
"""What is posted, and with which cookie: Django takes the cookie's secret itself as a token."""


class View(NamedTuple):
    """A page of the site."""

    title: str
    is_async: bool = False
    queries: bool = False
    """Whether it uses the database."""
    is_form: bool = False


VIEWS = {
    "sync": View("sync view"),
    "async": View("async view", is_async=True),
    "query": View("sync view, a query", queries=True),
    "orm": View("async view, a query", is_async=True, queries=True),
    "five-sync": View("sync view, five queries", queries=True),
    "five": View("async view, five queries", is_async=True, queries=True),
    "template": View("sync view, a template of 60 rows"),
    "compute": View("sync view, 2 ms of computing"),
    "sleep": View("sync view, 10 ms of blocking sleep"),
    "form": View("sync view, a form post", is_form=True),
    "large": View("sync view, a response of 1 MB"),
}
"""By the name that a path has, too."""

EVERYWHERE = ("sync", "query")
"""Measured in all circumstances; the others in those at `HOME` only."""

IN_CONTESTS = ("sync", "async", "query", "template", "five")
"""Where a commit is taken in turn with another."""


class Circumstances(NamedTuple):
    """Under what the servers are measured."""

    loop: str
    database: str
    connections: int
    """Of the load."""

    @property
    def name(self) -> str:
        """Of the pass."""
        return f"{PREFIX}{self.loop}-{self.database}-{self.connections}"

    @classmethod
    def of(cls, name: str) -> Circumstances:
        """Those of a pass."""
        loop, database, connections = name.removeprefix(PREFIX).split("-")
        return cls(loop, database, int(connections))

    def __str__(self) -> str:
        plural = "s" if self.connections > 1 else ""
        return f"{self.loop}, {DATABASES[self.database]}, {self.connections} connection{plural}"


PREFIX = "site-"
LOOPS = ("uvloop", "asyncio")
DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
CONNECTIONS = (20, 1)
HOME = Circumstances("uvloop", "sqlite", 20)
EVERY_VIEW_SINCE = (3, 13)
"""The Python on which every view is measured; on an older one those of `EVERYWHERE` are."""


def views_of(circumstances: Circumstances, version: tuple[int, ...]) -> tuple[str, ...]:
    """Those that are measured if nobody chooses others."""
    if circumstances == HOME and version >= EVERY_VIEW_SINCE:
        return tuple(VIEWS)
    return EVERYWHERE
