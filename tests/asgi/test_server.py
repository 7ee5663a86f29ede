"""``StatelessServer``: which instance lives how long, and that no exception is lost."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from random import Random

import pytest

from asgibridge.server import StatelessServer


class Broken(Exception):
    pass


async def echo(scope, receive, send):
    while True:
        await send(await receive())


async def fails(scope, receive, send):
    raise Broken(scope)


async def by_scope(scope, receive, send):
    await {"echo": echo, "fails": fails}[scope](scope, receive, send)


class Server(StatelessServer):
    """Runs ``script`` as handle(); keeps what was sent and reported."""

    application_checker_interval = 0.001

    def __init__(self, application, script=None, **options):
        super().__init__(application, **options)
        self.script = script
        self.sent = asyncio.Queue()
        self.reported = asyncio.Queue()

    async def handle(self):
        await self.script(self)

    async def application_send(self, scope, message):
        await self.sent.put((scope, message))

    async def application_exception(self, exception, application_details):
        await self.reported.put((exception, application_details))


async def wait_for_the_report(server):
    return await asyncio.wait_for(server.reported.get(), 10)


# Instances


@pytest.mark.asyncio
async def test_an_instance_gets_its_messages_and_sends_under_its_scope():
    async def script(server):
        for user in ("ann", "bob"):
            queue = server.get_or_create_application_instance(user, {"user": user})
            queue.put_nowait(f"hello {user}")
        assert await server.sent.get() == ({"user": "ann"}, "hello ann")
        assert await server.sent.get() == ({"user": "bob"}, "hello bob")

    server = Server(echo, script)
    await server.arun()
    for scope_id in list(server.application_instances):
        server.delete_application_instance(scope_id)


@pytest.mark.asyncio
async def test_an_asgi_2_application_is_served_too():
    class Application:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await send(await receive())

    async def script(server):
        server.get_or_create_application_instance(1, "scope").put_nowait("message")
        assert await server.sent.get() == ("scope", "message")

    await Server(Application, script).arun()


@pytest.mark.asyncio
async def test_an_instance_is_found_again_and_marked_as_used():
    server = Server(echo)
    queue = server.get_or_create_application_instance(1, "first scope")
    details = server.application_instances[1]
    assert set(details) == {"input_queue", "future", "scope", "last_used"}
    details["last_used"] = 0
    assert server.get_or_create_application_instance(1, "second scope") is queue
    assert server.application_instances == {1: details}
    assert details["scope"] == "first scope"
    assert details["last_used"] > 0
    server.delete_application_instance(1)


@pytest.mark.asyncio
async def test_the_least_recently_used_instance_makes_room():
    server = Server(echo, max_applications=3)
    futures = {}
    for scope_id, last_used in (("a", 30), ("b", 10), ("c", 10)):
        server.get_or_create_application_instance(scope_id, None)
        server.application_instances[scope_id]["last_used"] = last_used
        futures[scope_id] = server.application_instances[scope_id]["future"]
    server.get_or_create_application_instance("d", None)
    assert list(server.application_instances) == ["a", "c", "d"]
    await asyncio.wait({futures["b"]}, timeout=10)
    assert futures["b"].cancelled()
    assert not futures["a"].done()
    for scope_id in list(server.application_instances):
        server.delete_application_instance(scope_id)


@pytest.mark.asyncio
async def test_deleting_an_unknown_instance_says_so():
    with pytest.raises(KeyError):
        Server(echo).delete_application_instance("nobody")


@pytest.mark.parametrize("method", ["handle", "application_send"])
@pytest.mark.asyncio
async def test_what_is_not_overridden_names_itself(method):
    arguments = {"handle": (), "application_send": ("scope", "message")}[method]
    with pytest.raises(NotImplementedError, match=rf"StatelessServer has to override {method}\(\)"):
        await getattr(StatelessServer(echo), method)(*arguments)


# The checker


@pytest.mark.asyncio
async def test_an_instance_that_raised_is_reported_and_removed():
    async def script(server):
        server.get_or_create_application_instance(1, "fails")
        details = server.application_instances[1]
        exception, reported_details = await wait_for_the_report(server)
        assert exception.args == ("fails",)
        assert reported_details is details
        while server.application_instances:
            await asyncio.sleep(0)

    await Server(by_scope, script).arun()


@pytest.mark.asyncio
async def test_a_cancelled_instance_does_not_end_the_server():
    async def script(server):
        server.get_or_create_application_instance("cancelled", "echo")
        server.application_instances["cancelled"]["future"].cancel()
        # Looked at after the cancelled one, so that its report proves that one did no harm.
        server.get_or_create_application_instance("fails", "fails")
        await wait_for_the_report(server)
        assert "cancelled" not in server.application_instances

    await Server(by_scope, script).arun()


@pytest.mark.asyncio
async def test_a_report_may_delete_and_replace_its_instance():
    class Replacing(Server):
        async def application_exception(self, exception, application_details):
            if application_details["scope"] == "fails":
                self.delete_application_instance("replaced")
                self.get_or_create_application_instance("replaced", "echo")
            await super().application_exception(exception, application_details)

    async def script(server):
        server.get_or_create_application_instance("replaced", "fails")
        await wait_for_the_report(server)
        # Reported by the checker's next look, so the one above is over by then.
        server.get_or_create_application_instance("later", "fails later")
        await wait_for_the_report(server)

    async def application(scope, receive, send):
        await (echo if scope == "echo" else fails)(scope, receive, send)

    server = Replacing(application, script)
    await server.arun()
    assert not server.application_instances["replaced"]["future"].done()
    server.delete_application_instance("replaced")


@pytest.mark.parametrize("how", ["returns", "raises", "is cancelled"])
@pytest.mark.asyncio
async def test_what_failed_since_the_last_look_is_reported_at_the_end(how):
    started = asyncio.Event()

    async def script(server):
        server.get_or_create_application_instance(1, "fails")
        await asyncio.wait({server.application_instances[1]["future"]})
        started.set()
        if how == "raises":
            raise LookupError
        if how == "is cancelled":
            await asyncio.Event().wait()

    server = Server(by_scope, script)
    server.application_checker_interval = 3600
    running = asyncio.ensure_future(server.arun())
    await started.wait()
    if how == "is cancelled":
        running.cancel()
    await asyncio.wait({running})
    exception, _ = server.reported.get_nowait()
    assert isinstance(exception, Broken)
    assert server.application_instances == {}
    if how == "raises":
        assert isinstance(running.exception(), LookupError)
    else:
        assert running.cancelled() == (how == "is cancelled")


@pytest.mark.asyncio
async def test_the_default_report_is_logged_with_its_traceback(caplog):
    try:
        raise Broken("the reason")
    except Broken as error:
        await StatelessServer(echo).application_exception(error, {})
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    message = record.getMessage()
    assert message.startswith("Exception inside application: the reason\n")
    assert f'File "{__file__}"' in message
    assert message.endswith("\n  the reason")


# The end


@pytest.mark.parametrize("how", ["returns", "raises", "is cancelled"])
@pytest.mark.asyncio
async def test_arun_leaves_no_task_of_its_own_behind(how):
    started = asyncio.Event()

    async def script(server):
        started.set()
        if how == "raises":
            raise LookupError
        if how == "is cancelled":
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    running = asyncio.ensure_future(Server(echo, script).arun())
    await started.wait()
    if how == "is cancelled":
        running.cancel()
    await asyncio.wait({running})
    assert asyncio.all_tasks() == before
    if how == "raises":
        assert isinstance(running.exception(), LookupError)


@pytest.mark.asyncio
async def test_a_report_that_fails_ends_the_server_with_its_exception():
    stopped = []

    class Unreportable(Server):
        async def application_exception(self, exception, application_details):
            self.application_instances.clear()
            raise LookupError("while reporting")

    async def script(server):
        server.get_or_create_application_instance(1, "fails")
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    with pytest.raises(LookupError, match="while reporting"):
        await Unreportable(by_scope, script).arun()
    assert stopped == [True]


@pytest.mark.asyncio
async def test_a_checker_that_returns_does_not_end_the_server():
    class Unchecked(Server):
        async def application_checker(self):
            pass

    async def script(server):
        for _ in range(5):
            await asyncio.sleep(0)
        server.sent.put_nowait("handled to the end")

    server = Unchecked(echo, script)
    await server.arun()
    assert server.sent.get_nowait() == "handled to the end"


def test_run_raises_what_handle_raises():
    class Failing(StatelessServer):
        async def handle(self):
            raise Broken

    with pytest.raises(Broken):
        Failing(echo).run()


@pytest.mark.thread_unsafe(reason="signals go to the main thread")
def test_ctrl_c_ends_run_quietly(caplog):
    caplog.set_level(logging.INFO)

    class Interrupted(StatelessServer):
        async def handle(self):
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()

    Interrupted(echo).run()
    assert [record.name for record in caplog.records] == ["asgibridge.server"]


# How many, and which


@pytest.mark.asyncio
async def test_there_are_never_more_than_max_applications():
    server = Server(echo, max_applications=3)
    for scope_id in range(10):
        server.get_or_create_application_instance(scope_id, None)
        assert len(server.application_instances) == min(scope_id + 1, 3)
    assert list(server.application_instances) == [7, 8, 9]
    for scope_id in list(server.application_instances):
        server.delete_application_instance(scope_id)


def test_a_server_for_no_application_says_so():
    with pytest.raises(ValueError, match="max_applications is 0: it must be at least 1"):
        Server(echo, max_applications=0)


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 0.0
        self.monotonic = time.monotonic

    def time(self):
        return self.now


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.asyncio
async def test_the_oldest_is_the_same_as_by_looking_through_all(monkeypatch, seed):
    clock = Clock()
    monkeypatch.setattr("asgibridge.server.time", clock)
    random = Random(seed)
    server = Server(echo, max_applications=20)
    instances = server.application_instances
    used = {}  # by scope id: when, and which was made first
    for i in range(600):
        clock.now += random.choice([0, 1, 1, 2, -3])
        scope_id = random.randrange(40)
        if random.random() < 0.1 and instances:
            victim = random.choice(list(instances))
            used[victim] = random.uniform(-5, clock.now), used[victim][1]
            instances[victim]["last_used"] = used[victim][0]
        if random.random() < 0.1 and instances:
            victim = random.choice(list(instances))
            server.delete_application_instance(victim)
            del used[victim]
        if scope_id not in used and len(used) == 20:
            del used[min(used, key=used.get)]
        used[scope_id] = clock.now, used.get(scope_id, (0, i))[1]
        server.get_or_create_application_instance(scope_id, None)
        assert set(instances) == set(used)
    for scope_id in list(instances):
        server.delete_application_instance(scope_id)


@pytest.mark.asyncio
async def test_a_subclass_may_put_in_its_own_dicts():
    server = Server(echo, max_applications=3)
    for scope_id, last_used in (("a", 3), ("b", 1), ("c", 2)):
        server.application_instances[scope_id] = {
            "input_queue": asyncio.Queue(),
            "future": asyncio.get_running_loop().create_future(),
            "scope": None,
            "last_used": last_used,
        }
    server.get_or_create_application_instance("d", None)
    assert list(server.application_instances) == ["a", "c", "d"]
    server.get_or_create_application_instance("e", None)
    assert list(server.application_instances) == ["a", "d", "e"]
    server.application_instances = dict(server.application_instances)
    server.get_or_create_application_instance("f", None)
    assert list(server.application_instances) == ["d", "e", "f"]
    for scope_id in list(server.application_instances):
        server.delete_application_instance(scope_id)


# What is deleted


@pytest.mark.parametrize("when", ["before it is deleted", "as it is cancelled"])
@pytest.mark.asyncio
async def test_what_a_deleted_instance_raises_is_reported_once(when):
    deleted = asyncio.Event()

    class LooksLater(Server):
        async def application_checker(self):
            await deleted.wait()  # a look between the raise and the delete would remove it
            await super().application_checker()

    async def application(scope, receive, send):
        if when == "before it is deleted":
            raise Broken("once")
        try:
            await receive()
        finally:
            await asyncio.sleep(0)
            raise Broken("once")

    async def script(server):
        server.get_or_create_application_instance(1, None)
        details = server.application_instances[1]
        for _ in range(3):
            await asyncio.sleep(0)
        server.delete_application_instance(1)
        deleted.set()
        exception, reported = await wait_for_the_report(server)
        assert exception.args == ("once",)
        assert reported is details
        server.get_or_create_application_instance(2, None)
        server.delete_application_instance(2)  # for another look

    server = LooksLater(application, script)
    await server.arun()
    assert server.reported.qsize() <= 1
    assert server._ending == {}


@pytest.mark.asyncio
async def test_the_server_waits_for_what_it_has_deleted():
    cleaned_up = []

    async def application(scope, receive, send):
        try:
            await receive()
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            cleaned_up.append(scope)
            raise Broken("late")

    async def script(server):
        server.get_or_create_application_instance(1, "scope")
        await asyncio.sleep(0)
        server.delete_application_instance(1)

    server = Server(application, script)
    await server.arun()
    assert cleaned_up == ["scope"]
    exception, _ = server.reported.get_nowait()
    assert exception.args == ("late",)


@pytest.mark.asyncio
async def test_a_report_that_deletes_its_instance_is_the_only_one():
    class Deleting(Server):
        async def application_exception(self, exception, application_details):
            self.delete_application_instance("fails")
            await super().application_exception(exception, application_details)

    server = Deleting(by_scope, lambda server: asyncio.sleep(0))
    server.get_or_create_application_instance("fails", "fails")
    await asyncio.wait({server.application_instances["fails"]["future"]})
    for _ in range(3):
        await server._check_applications()
    assert server.reported.qsize() == 1


@pytest.mark.asyncio
async def test_what_is_gone_is_not_remembered():
    server = Server(echo)
    server.get_or_create_application_instance("stays", None)
    for i in range(500):
        server.get_or_create_application_instance(i, None)
        server.delete_application_instance(i)
    assert set(server.application_instances) == {"stays"}
    server.delete_application_instance("stays")
    futures = {details["future"] for details in server._ending.values()}
    await asyncio.wait(futures, timeout=10)
    await server._check_applications()
    assert server._ending == {}
