"""A limit for all server processes together, and how many there are.

With real servers: tests/services/test_limit_total.py.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading

import pytest

import children
from asgibridge import workers
from asgibridge._process import servers
from asgibridge._process.servers import Processes
from asgibridge._workers import policy as policies
from asgibridge._workers.pool import pool
from asgibridge.sync import ThreadSensitiveContext, sync_to_async
from asgibridge.workers import LimitReached, Policy, set_policy, stats
from threads import SECONDS, clean_pool

VARIABLES = (
    "ASGIBRIDGE_PROCESSES",
    "WEB_CONCURRENCY",
    "GUNICORN_CMD_ARGS",
    "UVICORN_WORKERS",
    "GRANIAN_WORKERS",
)


@pytest.fixture(autouse=True)
def nobody_says(monkeypatch):
    """How many processes there are; and the policy at the end is that of the beginning."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(servers, "told", None)
    monkeypatch.setattr(sys, "argv", ["program.py"])
    with clean_pool():
        yield


def request(*functions):
    """A context in which these are called."""

    async def main():
        async with ThreadSensitiveContext():
            return [await sync_to_async(function)() for function in functions or (int,)]

    return asyncio.run(asyncio.wait_for(main(), SECONDS))


class TestPolicy:
    @pytest.mark.parametrize(
        ("total", "processes", "limit", "part"),
        [(40, 4, None, 10), (40, 3, None, 13), (3, 4, None, 1), (40, 4, 20, 10), (40, 4, 5, 5)],
    )
    def test_each_process_has_its_part(self, monkeypatch, total, processes, limit, part):
        monkeypatch.setenv("ASGIBRIDGE_PROCESSES", str(processes))
        set_policy(Policy(limit=limit, limit_total=total))
        request()
        assert stats().limit == part
        assert workers.get_policy() == Policy(limit=limit, limit_total=total)

    def test_is_a_limit(self, monkeypatch):
        monkeypatch.setenv("ASGIBRIDGE_PROCESSES", "4")
        set_policy(Policy(limit_total=8, wait_timeout=0.01))

        async def hold(there, leave):
            async with ThreadSensitiveContext():
                await sync_to_async(int)()
                there.release()
                await leave.wait()

        async def main():
            there, leave = asyncio.Semaphore(0), asyncio.Event()
            holders = [asyncio.ensure_future(hold(there, leave)) for _ in range(2)]
            for _ in holders:
                await there.acquire()
            with pytest.raises(LimitReached) as caught:
                await hold(there, leave)
            leave.set()
            await asyncio.gather(*holders)
            return str(caught.value)

        message = asyncio.run(asyncio.wait_for(main(), SECONDS))
        assert "2 of 2 (of 8 for 4 server processes, by ASGIBRIDGE_PROCESSES) are in use" in message

    def test_is_found_when_a_context_gets_a_worker(self, monkeypatch):
        """Not before: when the policy is set the server may not know it itself."""
        set_policy(Policy(limit_total=8))
        monkeypatch.setenv("WEB_CONCURRENCY", "4")
        request()
        assert stats().limit == 2
        monkeypatch.setenv("WEB_CONCURRENCY", "2")
        request()
        assert stats().limit == 2

    def test_contexts_of_a_key_find_it_too(self, monkeypatch):
        set_policy(Policy(limit_total=8))
        monkeypatch.setenv("WEB_CONCURRENCY", "4")

        async def main():
            async with ThreadSensitiveContext(policy=Policy(sticky="ann")):
                await sync_to_async(int)()

        asyncio.run(main())
        assert stats().limit == 2

    def test_a_new_policy_ends_it(self, monkeypatch):
        monkeypatch.setenv("ASGIBRIDGE_PROCESSES", "4")
        set_policy(Policy(limit_total=8))
        set_policy(Policy())
        request()
        assert stats().limit is None
        assert pool.settle is None

    def test_what_the_program_says(self, monkeypatch):
        set_policy(Policy(limit_total=8))
        request()
        assert stats().limit == 8
        policies.tell_processes(4, "by somebody")
        request()
        assert stats().limit == 2
        monkeypatch.setenv("ASGIBRIDGE_PROCESSES", "8")
        policies.tell_processes(4, "by somebody")
        request()
        assert stats().limit == 1

    def test_takes_a_whole_number(self):
        with pytest.raises(ValueError, match="limit_total must be at least 1"):
            Policy(limit_total=0)
        with pytest.raises(TypeError, match="limit_total must be a whole number of workers"):
            Policy(limit_total=1.5)
        with pytest.raises(ValueError, match="limit_total is the process's alone"):
            ThreadSensitiveContext(policy=Policy(limit_total=3))

    def test_from_the_environment(self, script_output):
        assert (
            script_output(
                """
                import asyncio
                from asgibridge import workers
                from asgibridge.sync import ThreadSensitiveContext, sync_to_async

                async def main():
                    async with ThreadSensitiveContext():
                        await sync_to_async(int)()

                asyncio.run(main())
                print(workers.get_policy(), workers.stats().limit)
                """,
                ASGIBRIDGE_WORKERS_LIMIT_TOTAL="12",
                ASGIBRIDGE_PROCESSES="5",
            )
            == "Policy(kind='fresh', limit_total=12) 2"
        )

    @pytest.mark.parametrize("variable", ["ASGIBRIDGE_WORKERS_LIMIT_TOTAL", "ASGIBRIDGE_PROCESSES"])
    def test_from_a_bad_environment(self, variable):
        with pytest.raises(ValueError, match=f"{variable}='0': must be a whole number from 1 on"):
            workers.policy_of({variable: "0"})


class TestWarnings:
    def test_nobody_says_how_many(self, caplog):
        set_policy(Policy(limit_total=8))
        assert not caplog.records
        request()
        request()
        (record,) = caplog.records
        assert record.name == "asgibridge.workers"
        assert "nothing tells how many server processes share it" in record.getMessage()
        assert "ASGIBRIDGE_PROCESSES=4" in record.getMessage()
        assert stats().limit == 8

    def test_one_is_a_number(self, caplog, monkeypatch):
        monkeypatch.setenv("ASGIBRIDGE_PROCESSES", "1")
        set_policy(Policy(limit_total=8))
        request()
        assert not caplog.records

    def test_more_processes_than_workers(self, caplog, monkeypatch):
        monkeypatch.setenv("WEB_CONCURRENCY", "9")
        set_policy(Policy(limit_total=8))
        request()
        (record,) = caplog.records
        assert "less than the 9 server processes there are (by WEB_CONCURRENCY)" in (
            record.getMessage()
        )


class TestCommandLine:
    @pytest.mark.parametrize(
        ("line", "environment", "number"),
        [
            ("/venv/bin/uvicorn app:app --workers 4", {}, 4),
            ("/venv/bin/uvicorn app:app --workers=4 --port 80", {"WEB_CONCURRENCY": "2"}, 4),
            ("/venv/lib/uvicorn/__main__.py app:app", {"WEB_CONCURRENCY": "2"}, 2),
            ("uvicorn.exe app:app", {"UVICORN_WORKERS": "3", "WEB_CONCURRENCY": "2"}, 3),
            ("uvicorn app:app", {}, 1),
            ("gunicorn -w 4 app:app", {}, 4),
            ("gunicorn -w4 app:app", {}, 4),
            ("gunicorn app:app", {"GUNICORN_CMD_ARGS": "--workers=3 --threads=2"}, 3),
            ("gunicorn -w 4 app:app", {"GUNICORN_CMD_ARGS": "--workers=3"}, 4),
            ("gunicorn app:app", {"GUNICORN_CMD_ARGS": '"', "WEB_CONCURRENCY": "2"}, 2),
            ("gunicorn app:app", {}, None),  # its file may say it
            ("hypercorn app:app -w 2 --worker-class uvloop", {}, 2),
            ("hypercorn app:app", {"WEB_CONCURRENCY": "2"}, 1),  # it does not read that
            ("hypercorn -c hypercorn.toml app:app", {}, None),
            ("granian --interface asgi app:app --workers 3 --workers-lifetime 60", {}, 3),
            ("granian app:app", {"GRANIAN_WORKERS": "5"}, 5),
            ("granian app:app", {}, 1),
            ("daphne app:app", {"WEB_CONCURRENCY": "2"}, 1),
            ("manage.py runserver", {"WEB_CONCURRENCY": "2"}, 1),
            ("manage.py check", {"WEB_CONCURRENCY": "2"}, 2),
            ("celery worker", {"WEB_CONCURRENCY": "2"}, 2),
            ("celery worker -w 3", {}, None),
            ("uvicorn app:app --workers many", {}, 1),
            ("uvicorn app:app --workers", {}, 1),
        ],
    )
    def test_of_servers(self, monkeypatch, line, environment, number):
        monkeypatch.setattr(sys, "argv", line.split())
        found = servers.processes(environment)
        assert (found.number, found.is_known) == ((number, True) if number else (1, False))

    def test_an_embedded_python_has_none(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", [])
        assert servers.processes({}) == servers.ASSUMED

    def test_of_spawned_children(self, tmp_path):
        """They have their parent's command line, as uvicorn's and granian's have."""
        program = tmp_path / "granian.py"
        program.write_text(
            "import multiprocessing\n"
            "from asgibridge._process import servers\n"
            "def child():\n"
            "    print(servers.processes({}).number, flush=True)\n"
            "if __name__ == '__main__':\n"
            "    process = multiprocessing.get_context('spawn').Process(target=child)\n"
            "    process.start()\n"
            "    process.join()\n"
        )
        done = children.run(str(program), "app:app", "--workers", "3", cwd=tmp_path)
        assert (done.stdout.strip(), done.returncode) == ("3", 0), done.stderr


def stack(*objects):
    """What `servers.processes` finds below frames that have these in a variable, the first of them
    outermost."""

    def ask():
        return servers.processes({})

    for thing in reversed(objects):
        package = type(thing).__module__
        names = {"__name__": package, "ask": ask, "thing": thing}
        exec("def run(ask, thing):\n    return ask()\n", names)
        ask = functools.partial(names["run"], ask, thing)
    return ask()


def instance(name, **attributes):
    """An object of a class of that name."""
    module, _, qualname = name.rpartition(".")
    return type(qualname, (), {"__module__": module, "__qualname__": qualname, **attributes})()


def uvicorn(workers, reload=False):
    return instance("uvicorn.config.Config", workers=workers, reload=reload)


class TestStack:
    @pytest.mark.parametrize(
        ("objects", "number", "source"),
        [
            ([uvicorn(4)], 4, "by uvicorn"),
            ([uvicorn(4, reload=True)], 1, "by uvicorn"),
            ([instance("uvicorn.server.Server", config=uvicorn(3))], 3, "by uvicorn"),
            ([instance("gunicorn.arbiter.Arbiter", num_workers=5)], 5, "by gunicorn"),
            ([instance("hypercorn.config.Config", workers=2)], 2, "by hypercorn"),
            ([instance("hypercorn.config.Config", workers=0)], 1, "by hypercorn"),
            ([instance("granian.server.mp.MPServer", workers=2)], 2, "by granian"),
            ([instance("granian.server.mt.MTServer", workers=2)], 1, "by granian"),
            ([instance("daphne.server.Server")], 1, "by daphne"),
            (
                [instance("gunicorn.arbiter.Arbiter", num_workers=2), uvicorn(8)],
                2,
                "by gunicorn",
            ),
        ],
    )
    def test_of_servers(self, objects, number, source):
        assert stack(*objects) == Processes(number, source)

    def test_of_a_subclass(self):
        base = type(uvicorn(3))
        assert stack(type("Mine", (base,), {"__module__": "uvicorn.mine"})()).number == 3

    @pytest.mark.parametrize(
        "thing",
        [
            instance("gunicorn.arbiter.Arbiter"),
            instance("gunicorn.arbiter.Arbiter", num_workers="two"),
            instance("gunicorn.arbiter.Arbiter", num_workers=True),
            instance("gunicorn.arbiter.Other", num_workers=3),
            instance("elsewhere.arbiter.Arbiter", num_workers=3),
        ],
    )
    def test_what_says_nothing(self, thing):
        assert stack(thing) == servers.ASSUMED

    @pytest.mark.skipif(
        not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="needs other threads' stacks"
    )
    def test_from_another_thread(self):
        """The server is on the main thread's stack."""
        if threading.current_thread() is not threading.main_thread():
            pytest.skip("not on the main thread")
        found = []

        def in_thread():
            thread = threading.Thread(target=lambda: found.append(servers.processes({})))
            thread.start()
            thread.join(SECONDS)

        names = {"__name__": "uvicorn.server", "thing": uvicorn(6), "go": in_thread}
        exec("def run(thing):\n    go()\n", names)
        names["run"](names["thing"])
        assert found == [Processes(6, "by uvicorn")]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
    def test_in_a_forked_child_it_is_found_anew(self, script_output):
        """As gunicorn's workers are forked, from a process that may have used a worker before."""
        assert (
            script_output(
                """
                import asyncio, os, sys, types, warnings
                from asgibridge import workers
                from asgibridge.sync import ThreadSensitiveContext, sync_to_async

                warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads

                async def main():
                    async with ThreadSensitiveContext():
                        await sync_to_async(int)()

                workers.set_policy(workers.Policy(limit_total=12))
                asyncio.run(main())
                print(workers.stats().limit, flush=True)
                gunicorn = types.ModuleType("gunicorn.arbiter")
                exec(
                    "import os\\n"
                    "class Arbiter:\\n"
                    "    num_workers = 4\\n"
                    "    def run(self, work):\\n"
                    "        child = os.fork()\\n"
                    "        if child == 0:\\n"
                    "            work()\\n"
                    "            os._exit(0)\\n"
                    "        assert os.waitpid(child, 0)[1] == 0\\n",
                    gunicorn.__dict__,
                )

                def work():
                    asyncio.run(main())
                    print(workers.stats().limit, flush=True)

                gunicorn.Arbiter().run(work)
                print(workers.stats().limit)
                """,
                WEB_CONCURRENCY="2",
            )
            == "6\n3\n6"
        )
