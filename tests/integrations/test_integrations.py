"""`asgibridge.integrations` without the libraries. With them: tests/services/test_recipes.py."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from asgibridge.integrations import _hooks, arq, gunicorn, procrastinate
from asgibridge.sync import SyncToAsync, sync_to_async

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


# --- libraries that are not there ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "use", "advice"),
    [
        ("celery", lambda module: module.install(), "pip install celery"),
        ("dramatiq", lambda module: module.install(object()), "pip install dramatiq"),
        ("dramatiq", lambda module: module.SharedLoop, "pip install dramatiq"),
        ("rq", lambda module: module.Worker, "pip install rq"),
        ("rq", lambda module: module.SimpleWorker, "pip install rq"),
    ],
)
def test_a_library_that_is_not_installed(monkeypatch, library, use, advice):
    monkeypatch.setitem(sys.modules, library, None)
    module = importlib.import_module(f"asgibridge.integrations.{library}")
    with pytest.raises(ModuleNotFoundError, match=advice) as caught:
        use(module)
    assert caught.value.name.split(".")[0] == library


def test_django_without_tasks(script_output):
    assert script_output(
        """
        import sys

        sys.modules["django"] = sys.modules["django_tasks"] = None
        from asgibridge.integrations import django_tasks

        try:
            django_tasks.install()
        except ModuleNotFoundError as error:
            print("pip install 'Django>=6.0' or django-tasks" in str(error))
        """
    ).split() == ["True"]


def test_what_a_library_itself_lacks_is_told_as_it_is(monkeypatch, tmp_path):
    tmp_path.joinpath("broken_library.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_dependency'"):
        _hooks.load("broken_library", "this test", "broken-library")


@pytest.mark.parametrize("module", ["dramatiq", "rq"])
def test_no_such_name(module):
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module(f"asgibridge.integrations.{module}").no_such_name


def test_asgiref_beside_asgibridge(script_output):
    assert script_output(
        """
        import logging
        import sys
        import types

        logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
        sys.modules["asgiref.sync"] = types.ModuleType("asgiref.sync")
        from asgibridge.integrations import _hooks

        _hooks.begin()
        _hooks.begin()
        """
    ) == (
        "asgibridge.integrations WARNING asgiref is imported beside asgibridge: code that has "
        "async_to_sync from asgiref gets an event loop for each call, and not the shared one. Call "
        "asgibridge.install() before anything imports asgiref, or start the program by "
        "'asgibridge run'. See docs/troubleshooting.md#asgiref-is-imported-beside-asgibridge"
    )


# --- processes that begin and end ----------------------------------------------------------------

FORKS = """
import asyncio
import os
import threading

from asgibridge._loops import shared
from asgibridge.integrations import at_close
from asgibridge.integrations.gunicorn import post_fork, worker_exit
from asgibridge.runners import shared_loop
from asgibridge.sync import async_to_sync

seen = []


@at_close
async def close():
    seen.append(id(asyncio.get_running_loop()))


@async_to_sync
async def use():
    seen.append(id(asyncio.get_running_loop()))


class Worker:
    pass


def child(uses):
    post_fork(None, Worker())
    post_fork(None, Worker())  # twice does no harm
    threads = [threading.Thread(target=use) for _ in range(uses)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker_exit(None, Worker())
    assert not shared_loop().is_running
    return len(seen) * 10 + len(set(seen))


def exit_code(uses):
    pid = os.fork()
    if not pid:
        os._exit(child(uses))
    return os.waitpid(pid, 0)[1] >> 8
"""


@needs_fork
def test_children_of_a_parent_that_has_no_loop(script_output):
    """Each has one loop, at whose end the client is closed; one that made no call has none."""
    assert script_output(
        FORKS
        + """
print(exit_code(3), exit_code(3), exit_code(0), shared.in_force)
"""
    ).split() == ["41", "41", "0", "None"]


@needs_fork
def test_the_end_of_a_child_in_its_parent_closes_nothing(script_output):
    """gunicorn calls the hook there, for a worker whose process is gone."""
    assert script_output(
        FORKS
        + """
import warnings

warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
worker_exit(None, Worker())
shared_loop()
use()
worker_exit(None, Worker())
print(shared_loop().is_running, exit_code(2), shared_loop().is_running)
"""
    ).split() == ["True", "42", "True"]


def test_a_worker_that_patches_threading_later(script_output):
    assert script_output(
        """
        import logging
        import sys

        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        from asgibridge._loops import shared
        from asgibridge.integrations.gunicorn import post_fork, worker_exit

        class GeventWorker:
            __module__ = "gunicorn.workers.ggevent"

        class OurWorker(GeventWorker):
            pass

        post_fork(None, OurWorker())
        worker_exit(None, OurWorker())
        print(shared.in_force)
        """
    ) == (
        "OurWorker patches threading too late for a shared event loop: each async_to_sync call has "
        "a loop of its own. Take -k gthread for a shared one\nNone"
    )


def test_gunicorn_counts_the_parameters():
    for hook in (gunicorn.post_fork, gunicorn.worker_exit):
        assert len(inspect.signature(hook).parameters) == 2


# --- a context for each job ----------------------------------------------------------------------


class Two:
    """Sync code that goes on when it runs twice at the same time."""

    def __init__(self):
        self._barrier = threading.Barrier(2)
        self.threads = []

    async def meet(self):
        for _ in range(2):
            self.threads.append(await sync_to_async(threading.get_ident)())
        await sync_to_async(self._barrier.wait)(10)

    def check(self):
        assert len(self.threads) == 4
        assert len(set(self.threads)) == 2


def arq_job(settings, body):
    """Run it as arq does: the hooks in one task, the job in another that this one starts."""
    settings = settings if isinstance(settings, dict) else vars(settings)

    async def run():
        job = {}
        await settings["on_job_start"](job)
        await asyncio.create_task(body(job))
        await settings["after_job_end"](job)
        return job

    return run()


@pytest.mark.parametrize("kind", ["class", "dict", "object"])
def test_arq(kind):
    two = Two()
    made = {"class": lambda: type("Settings", (), {}), "dict": dict, "object": SimpleNamespace}
    settings = made[kind]()
    assert arq.install(settings) is settings
    assert arq.install(settings) is settings

    async def main():
        async def body(job):
            await two.meet()

        return await asyncio.gather(arq_job(settings, body), arq_job(settings, body))

    assert asyncio.run(main()) == [{}, {}]
    two.check()


def test_arqs_hooks_of_the_user_run_inside():
    threads = []

    async def note(job):
        threads.append(await sync_to_async(threading.get_ident)())

    @arq.install
    class Settings:
        on_job_start = note
        after_job_end = note

    @arq.install
    class Others(Settings):  # arq does not look at what is inherited
        pass

    asyncio.run(arq_job(Settings, note))
    assert len(threads) == 3
    assert len(set(threads)) == 1
    asyncio.run(arq_job(Others, note))
    assert len(threads) == 4


@pytest.mark.parametrize("hook", ["on_job_start", "after_job_end"])
def test_arqs_hooks_that_fail(hook):
    async def fail(job):
        await sync_to_async(int)()
        raise LookupError

    async def body(job):
        await sync_to_async(int)()

    settings = arq.install({hook: fail})

    async def main():
        with pytest.raises(LookupError):
            await arq_job(settings, body)
        assert SyncToAsync.thread_sensitive_context.get(None) is None  # it was left

    asyncio.run(main())


def test_arq_installed_in_the_middle_of_a_job():
    settings = {}

    async def main():
        job = {}
        arq.install(settings)
        await settings["after_job_end"](job)

    asyncio.run(main())


class Task:
    def __init__(self, func):
        self.func = func


class App:
    """A procrastinate application, as far as tasks are made and added."""

    def __init__(self):
        self.tasks = {}

    def task(self, function=None, *, name=None):
        def make(function):
            made = self.tasks[name or function.__name__] = Task(function)
            return made

        return make if function is None else make(function)

    def add_tasks_from(self, blueprint, *, namespace):
        self.tasks.update({f"{namespace}:{name}": task for name, task in blueprint.tasks.items()})


def test_procrastinate():
    two = Two()

    async def meet():
        await two.meet()

    def sync():
        return "sync"

    app, blueprint = App(), App()
    app.task(meet, name="before")
    assert procrastinate.install(app) is app
    assert procrastinate.install(app) is app
    plain = app.task(meet)
    app.task(name="named")(meet)
    blueprint.task(meet)
    app.add_tasks_from(blueprint, namespace="of")
    assert app.task(sync).func is sync

    async def main(one, other):
        await asyncio.gather(one.func(), other.func())

    assert app.tasks["meet"] is plain
    for name in ("before", "named", "of:meet"):
        two.threads.clear()
        task = app.tasks[name]
        assert inspect.iscoroutinefunction(task.func)
        assert task.func.__name__ == "meet"
        asyncio.run(main(task, plain))
        two.check()


KEPT = """
    import asyncio, logging, sys, threading, warnings
    warnings.simplefilter("ignore")  # Django's own, about this Python
    import asgibridge
    asgibridge.install()
    import django
    from django.conf import settings
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": sys.argv[1] + "/database",
                "CONN_MAX_AGE": int(sys.argv[2]),
            }
        },
        INSTALLED_APPS=[],
        USE_TZ=True,
    )
    django.setup()
    from django.db import connection
    from asgibridge.integrations import procrastinate
    from asgibridge.workers import Policy, set_policy
    from asgiref.sync import sync_to_async

    class Task:
        pass

    class App:
        tasks = {"job": Task()}
        task = add_tasks_from = print

    seen = []
    set_policy(Policy(kind="keep", limit=1, before_lease=lambda worker: seen.append("lease")))

    def use():
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return connection.connection, threading.get_ident()

    async def job(function):
        return await sync_to_async(function)()

    App.tasks["job"].func = job
    procrastinate.install(App)

    async def main():
        first, there = await App.tasks["job"].func(use)
        second, here = await App.tasks["job"].func(use)
        assert here == there  # the worker is kept
        print(first is second, seen)

        def age():
            connection.close_at = 0  # of the connection that there is

        await App.tasks["job"].func(age)
        third, here = await App.tasks["job"].func(use)
        assert here == there
        print(third is second)

    asyncio.run(main())
"""


@pytest.mark.parametrize(("max_age", "is_kept"), [("60", "True"), ("0", "False")])
def test_connections_of_kept_workers_are_looked_after(script_output, tmp_path, max_age, is_kept):
    pytest.importorskip("django", reason="tests/matrix.py installs it, without asgiref")
    assert script_output(KEPT, str(tmp_path), max_age).splitlines() == [
        f"{is_kept} ['lease', 'lease']",
        "False",
    ]
