"""`asgibridge.integrations` with the real task queues and servers: one client for each process.

A worker process makes its HTTP client when it imports it, and asks the test's server by that in
every task. What is looked at: the connections that the server has seen from each process, what it
was asked for and by whom, and how the worker has ended. The client closes itself with a last
request, for ``/closed``: a shared loop that was not closed in order leaves that out.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import backends
import psycopg
import pytest
import sites
from backends import Backend
from sites import AUTO, PURE, Implementation, Server

from programs import Postgres

HERE = Path(__file__).parent / "recipes"
STOP_SECONDS = 20
DATABASES = {"auto": 1, "pure": 2}
"""Of Redis, for the test that is run on both kernels. Every other test has one, too."""

_LOST = re.compile(
    r"Event loop is closed|attached to a different loop|Task was destroyed|Fatal Python error|"
    r"was never (awaited|retrieved)|Exception ignored"
)


class Worker(Server):
    """A worker, which the test ends itself; a log that tells of a lost loop is a failure."""

    def __init__(self, implementation: Implementation, *program: str, **options: str) -> None:
        settings = {"DJANGO_SETTINGS_MODULE": "", **options}
        super().__init__(implementation, *program, site=HERE, quiet=False, **settings)

    def __exit__(self, kind: object, error: BaseException | None, tb: object) -> None:
        self._stop()
        log = self.log()
        self._end()
        if error is not None:
            print(f"--- log of {self._program}:\n{log}")
        else:
            assert not _LOST.search(log), log

    def wait_for_words(self, pattern: str, times: int = 1) -> None:
        sites.wait_until(
            lambda: len(re.findall(pattern, self.log())) >= times,
            lambda: f"{pattern}\n{self.log()}",
        )

    def exit_code(self) -> int:
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.log()}") from None


@pytest.fixture
def backend() -> Iterator[Backend]:
    with backends.serving() as backend:
        yield backend


def send(settings: dict[str, str], library: str, *tasks: str) -> None:
    """Enqueue tasks: ``name:path:count``."""
    settings = {"DJANGO_SETTINGS_MODULE": "", **settings}
    sites.run(AUTO, "send.py", library, *tasks, site=HERE, **settings)


def database(postgres: Postgres, name: str) -> str:
    """The DSN of a database of its own."""
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres.dsn.replace(f"dbname={postgres.database}", f"dbname={name}")


def cut(dsn: str, worker: Worker) -> None:
    """End all connections to the database, as its restart does, when nobody has asked lately."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def is_quiet() -> bool:
            return not connection.execute(
                "SELECT 1 FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database()"
                " AND (state <> 'idle' OR state_change > now() - interval '0.3 s')"
            ).fetchall()

        sites.wait_until(is_quiet, worker.log)
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def has_one_connection_each(backend: Backend) -> bool:
    with backend.changed:
        return all(len(made) == 1 for made in backend.connections.values())


def ends_in_the_middle(backend: Backend, worker: Worker, words: str) -> None:
    """A SIGTERM while a task waits for its answer: the task ends, then the loop, then the worker.

    :param words: what the log says when the signal has come.
    """
    held = backend.wait_for("/held", 1, worker.log)
    worker.signal(signal.SIGTERM)
    worker.wait_for_words(words)
    backend.released.set()
    assert worker.exit_code() == 0, worker.log()
    assert backend.processes("/answered/held") == held, worker.log()


def script(name: str) -> str:
    """A console script of this environment: by its path, which need not be in PATH."""
    return str(Path(sys.executable).with_name(name))


def celery_worker(
    implementation: Implementation, settings: dict[str, str], *options: str
) -> Worker:
    return Worker(
        implementation,
        *("-m", "celery", "-A", "celery_tasks", "worker", "-l", "INFO", *options),
        *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ready=r"celery@\S+ ready",
        **settings,
    )


@pytest.mark.parametrize("implementation", [AUTO, PURE], ids=str)
def test_celery_prefork(
    redis_port: int, postgres: Postgres, backend: Backend, implementation: Implementation
) -> None:
    """Children come and go (five tasks each), a time limit ends a coroutine, the database is gone
    for a moment, and SIGTERM comes in the middle of a task."""
    dsn = database(postgres, f"celery_{implementation}")
    settings = {
        "RECIPES_URL": backend.url,
        "RECIPES_DSN": dsn,
        "RECIPES_BROKER": f"redis://127.0.0.1:{redis_port}/{DATABASES[str(implementation)]}",
    }
    options = ("-P", "prefork", "-c", "2", "--max-tasks-per-child", "5")
    with celery_worker(implementation, settings, *options) as worker:
        send(settings, "celery", "fetch:/fast:16", "query:/asked/:4")
        backend.wait_for("/answered/fast", 16, worker.log)
        backend.wait_for("/asked/42", 4, worker.log)
        assert has_one_connection_each(backend)
        assert len(backend.connections) >= 4
        cut(dsn, worker)
        send(settings, "celery", "query:/asked/:4", "limited:/held/limited:1")
        backend.wait_for("/asked/42", 8, worker.log)
        backend.wait_for("/cancelled/held/limited", 1, worker.log)
        # Not at once: Celery 5.7 may hang if it stops in the middle of reading a long result.
        send(settings, "celery", "fetch:/held:1")
        ends_in_the_middle(backend, worker, "[Ww]arm shutdown")
    # Each that has run a task, once.
    assert sorted(backend.processes("/closed")) == sorted(backend.connections)


def test_celery_threads(redis_port: int, postgres: Postgres, backend: Backend) -> None:
    dsn = database(postgres, "celery_threads")
    settings = {
        "RECIPES_URL": backend.url,
        "RECIPES_DSN": dsn,
        "RECIPES_BROKER": f"redis://127.0.0.1:{redis_port}/3",
    }
    with celery_worker(AUTO, settings, "-P", "threads", "-c", "4") as worker:
        send(settings, "celery", "fetch:/fast:20", "query:/asked/:4")
        backend.wait_for("/answered/fast", 20, worker.log)
        backend.wait_for("/asked/42", 4, worker.log)
        cut(dsn, worker)
        send(settings, "celery", "query:/asked/:4")
        backend.wait_for("/asked/42", 8, worker.log)
        send(settings, "celery", "fetch:/held:1")
        ends_in_the_middle(backend, worker, "[Ww]arm shutdown")
    assert len(backend.connections) == 1
    assert has_one_connection_each(backend)
    assert backend.processes("/closed") == list(backend.connections)


def test_celery_gevent(redis_port: int, backend: Backend) -> None:
    settings = {
        "RECIPES_URL": backend.url,
        "RECIPES_BROKER": f"redis://127.0.0.1:{redis_port}/7",
    }
    with celery_worker(AUTO, settings, "-P", "gevent", "-c", "10") as worker:
        send(settings, "celery", "fetch:/fast:20", "fetch:/held:1")
        backend.wait_for("/held", 1, worker.log)
        backend.released.set()
        backend.wait_for("/answered/held", 1, worker.log)
        backend.wait_for("/answered/fast", 20, worker.log)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.log()
    assert len(backend.connections) == 1
    assert has_one_connection_each(backend)
    assert backend.processes("/closed") == list(backend.connections)


def test_celery_eventlet(redis_port: int, backend: Backend) -> None:
    """It is told why it has no shared loop."""
    settings = {
        "RECIPES_URL": backend.url,
        "RECIPES_BROKER": f"redis://127.0.0.1:{redis_port}/8",
    }
    with celery_worker(AUTO, settings, "-P", "eventlet", "-c", "10") as worker:
        assert worker.log().count("no shared event loop in this worker") == 1
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.log()


def test_dramatiq(redis_port: int, backend: Backend) -> None:
    """Two processes with threads; a reload, a time limit, and SIGTERM in the middle of a task."""
    settings = {
        "RECIPES_URL": backend.url,
        "RECIPES_BROKER": f"redis://127.0.0.1:{redis_port}/4",
    }
    with Worker(
        AUTO,
        *(script("dramatiq"), "dramatiq_tasks", "-p", "2", "-t", "4"),
        ready="ready for action",
        **settings,
    ) as worker:
        send(settings, "dramatiq", "fetch:/fast:20")
        backend.wait_for("/answered/fast", 20, worker.log)
        assert has_one_connection_each(backend)
        first = set(backend.connections)
        worker.wait_for_words("ready for action", 2)
        worker.signal(signal.SIGHUP)
        worker.wait_for_words("ready for action", 4)
        assert set(backend.processes("/closed")) == first
        send(settings, "dramatiq", "fetch:/again:20")
        backend.wait_for("/answered/again", 20, worker.log)
        assert has_one_connection_each(backend)
        assert first.isdisjoint(backend.processes("/again"))
        send(settings, "dramatiq", "limited:/held/limited:1")
        backend.wait_for("/cancelled/held/limited", 1, worker.log)
        send(settings, "dramatiq", "fetch:/held:1")
        ends_in_the_middle(backend, worker, "Stopping worker process")
    assert sorted(backend.processes("/closed")) == sorted(backend.connections)


def test_rq_in_one_process(redis_port: int, backend: Backend) -> None:
    """Sync and async jobs share the client; SIGTERM comes in the middle of one."""
    settings = {
        "RECIPES_URL": backend.url,
        "RECIPES_BROKER": f"redis://127.0.0.1:{redis_port}/5",
    }
    with Worker(
        AUTO,
        *(script("rq"), "worker", "-w", "asgibridge.integrations.rq.SimpleWorker"),
        *("--url", settings["RECIPES_BROKER"], "--path", "."),
        ready="Listening on",
        **settings,
    ) as worker:
        send(settings, "rq", "fetch:/fast:6", "fetch_async:/fast:6")
        backend.wait_for("/answered/fast", 12, worker.log)
        send(settings, "rq", "fetch_async:/held:1")
        ends_in_the_middle(backend, worker, "[Ww]arm shut")
    assert len(backend.connections) == 1
    assert has_one_connection_each(backend)
    assert backend.processes("/closed") == list(backend.connections)


def test_rq_with_a_process_for_each_job(redis_port: int, backend: Backend) -> None:
    """The calls of one job share the client, which is closed with the job's process."""
    settings = {
        "RECIPES_URL": backend.url,
        "RECIPES_BROKER": f"redis://127.0.0.1:{redis_port}/6",
    }
    send(settings, "rq", "fetch_twice:/fast:3")
    with Worker(
        AUTO,
        *(script("rq"), "worker", "-w", "asgibridge.integrations.rq.Worker", "--burst"),
        *("--url", settings["RECIPES_BROKER"], "--path", "."),
        ready="Listening on",
        **settings,
    ) as worker:
        backend.wait_for("/answered/fast", 6, worker.log)
        assert worker.exit_code() == 0, worker.log()
        assert "FailedJobRegistry" not in worker.log()
    assert len(backend.connections) == 3
    assert has_one_connection_each(backend)
    assert sorted(backend.processes("/closed")) == sorted(backend.connections)


def test_arq(redis_port: int, backend: Backend) -> None:
    """Two jobs' sync code runs at the same time; a job that SIGTERM cancels is run again."""
    folder = os.environ.get("SERVICES_ARQ", "")
    if not Path(folder, "arq").is_dir():
        pytest.skip("NOT TESTED: no arq here (make test-services installs it, where pip can)")
    settings = {
        "RECIPES_URL": backend.url,
        "RECIPES_REDIS_PORT": str(redis_port),
        "PYTHONPATH": folder,
    }

    def start() -> Worker:
        words = ("-m", "arq", "arq_jobs.WorkerSettings")
        return Worker(AUTO, *words, ready="Starting worker", **settings)

    with start() as worker:
        send(settings, "arq", "meet:/met:2", "fetch:/fast:10")
        backend.wait_for("/met", 2, worker.log)
        backend.wait_for("/fast", 10, worker.log)
        assert len(backend.processes("/started")) == 12
        assert has_one_connection_each(backend)
        send(settings, "arq", "fetch:/held:1")
        backend.wait_for("/held", 1, worker.log)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.log()
    backend.released.set()
    with start() as worker:
        backend.wait_for("/held", 2, worker.log)


def test_procrastinate(postgres: Postgres, backend: Backend) -> None:
    """Sync and async jobs share the client, async jobs' sync code runs at the same time, and
    SIGTERM comes in the middle of a job."""
    settings = {"RECIPES_URL": backend.url, "RECIPES_DSN": database(postgres, "procrastinate")}
    command = ("-m", "procrastinate", "--app", "procrastinate_app.app")
    none = {"DJANGO_SETTINGS_MODULE": ""}
    sites.run(AUTO, *command, "schema", "--apply", site=HERE, **settings, **none)
    with Worker(
        AUTO,
        *(*command, "worker", "--concurrency", "4"),
        ready="Starting worker",
        **settings,
    ) as worker:
        send(settings, "procrastinate", "meet:/met:2", "fetch:/fast:6", "fetch_async:/fast:6")
        backend.wait_for("/met", 2, worker.log)
        backend.wait_for("/answered/fast", 12, worker.log)
        send(settings, "procrastinate", "fetch_async:/held:1")
        ends_in_the_middle(backend, worker, "Stop requested")
    assert len(backend.connections) == 1
    assert has_one_connection_each(backend)


def test_django_tasks(postgres: Postgres, backend: Backend) -> None:
    """Tasks of a site on PostgreSQL: its connection is gone, and noticed; SIGTERM in the middle."""
    dsn = database(postgres, "recipes")
    settings = {
        "RECIPES_URL": backend.url,
        "BOARD_POSTGRES_PORT": str(postgres.port),
        "DJANGO_SETTINGS_MODULE": "django_site.settings",
    }
    sites.run(AUTO, "manage.py", "migrate", "--verbosity", "0", site=HERE, **settings)
    with Worker(
        AUTO,
        *("manage.py", "db_worker", "--interval", "2", "--no-startup-delay"),
        ready="Starting worker",
        **settings,
    ) as worker:
        send(settings, "django", "fetch:/fast:10", "query:/asked/:2")
        backend.wait_for("/answered/fast", 10, worker.log)
        backend.wait_for("/asked/42", 2, worker.log)
        cut(dsn, worker)
        send(settings, "django", "query:/asked/:2")
        backend.wait_for("/asked/42", 4, worker.log)
        send(settings, "django", "fetch:/held:1")
        ends_in_the_middle(backend, worker, "shutting down gracefully")
    assert len(backend.connections) == 1
    assert has_one_connection_each(backend)
    assert backend.processes("/closed") == list(backend.connections)


def ask(server: Server, path: str) -> bytes:
    with urllib.request.urlopen(f"{server.url}{path}", timeout=30) as response:
        body: bytes = response.read()
    return body


def test_gunicorn_with_threads(backend: Backend) -> None:
    """A site's async client under gthread; a reload and SIGTERM come in the middle of requests."""
    with (
        Worker(
            AUTO,
            *("-m", "gunicorn", "wsgi_site:application", "-b", "127.0.0.1:0"),
            *("-c", "gunicorn.conf.py", "-k", "gthread", "--threads", "8", "-w", "2"),
            RECIPES_URL=backend.url,
        ) as server,
        ThreadPoolExecutor(16) as threads,
    ):
        assert set(threads.map(lambda _: ask(server, "/fast"), range(60))) == {b"ok"}
        assert has_one_connection_each(backend)
        first = set(backend.connections)
        assert server.log().count("our own hook, too") == 2

        held = threads.submit(ask, server, "/held/reload")
        backend.wait_for("/held/reload", 1, server.log)
        server.signal(signal.SIGHUP)
        server.wait_for_words("our own hook, too", 4)
        backend.released.set()
        assert held.result() == b"ok"
        backend.wait_for("/closed", len(first), server.log)
        assert set(backend.processes("/closed")) == first

        backend.released.clear()
        assert set(threads.map(lambda _: ask(server, "/again"), range(60))) == {b"ok"}
        assert first.isdisjoint(backend.processes("/again"))
        held = threads.submit(ask, server, "/held")
        ends_in_the_middle(backend, server, "Handling signal: term")
        assert held.result() == b"ok"
    assert has_one_connection_each(backend)
    assert sorted(backend.processes("/closed")) == sorted(backend.connections)
