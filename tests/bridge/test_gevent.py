"""Under gevent's monkey-patching every "thread" is a greenlet of one real thread.

Flask's async views and Celery's tasks run like that, many at once. Each call has an event loop in a
real thread, and its sync code in greenlets of the caller's thread.
"""

from __future__ import annotations

import asyncio
import sysconfig

import pytest

from asgibridge import _pure
from asgibridge._pure import channel
from greenlets import AT_ONCE, PATCHED_BY_GEVENT, PROGRAM

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    pytest.skip("gevent has no free-threaded build", allow_module_level=True)
pytest.importorskip("gevent", reason="needs the extra: pip install asgibridge[gevent]")

SCRIPT = PATCHED_BY_GEVENT + PROGRAM


@pytest.fixture(autouse=True)
def _auto(monkeypatch):
    monkeypatch.setenv("ASGIBRIDGE_SPEEDUPS", "auto")


def test_runs_on_the_pure_kernel(script_output):
    assert script_output(SCRIPT + "    print(asgibridge.IMPLEMENTATION)") == "pure"


def test_one_call_after_the_other(script_output):
    assert script_output(
        SCRIPT
        + """
    for n in range(3):
        number, thread = async_to_sync(view)(n)
        print(number, thread is threading.current_thread())
    """
    ).splitlines() == ["0 True", "1 True", "2 True"]


def test_iterators_in_both_directions(script_output):
    assert script_output(
        SCRIPT
        + """
    from asgibridge.iterators import async_to_sync_iterator, sync_to_async_iterator

    async def views(n):
        try:
            for i in range(n):
                yield await view(i)
        finally:
            print("closed", flush=True)

    async def numbers():
        return [i async for i in sync_to_async_iterator(range(3))]

    for number, thread in async_to_sync_iterator(views(2)):
        print(number, thread is threading.current_thread())
    print(async_to_sync(numbers)())
    left_open = async_to_sync_iterator(views(2))
    next(left_open)
    """
    ).splitlines() == ["0 True", "1 True", "closed", "[0, 1, 2]", "closed"]


@pytest.mark.parametrize("kind", ["fresh", "keep"])
def test_many_calls_at_once(script_output, kind):
    """Each in its greenlet, of whatever kind, and no sync code sees a loop."""
    assert script_output(
        SCRIPT
        + AT_ONCE
        + """
    calls = [gevent.spawn(task, n) for n in range(50)]
    gevent.joinall(calls, timeout=30, raise_error=True)
    print([each.value for each in calls] == list(range(50)), seen)
    """,
        ASGIBRIDGE_WORKERS=kind,
    ).splitlines() == ["True []"]


def test_who_waits_imports_nothing(script_output):
    """CPython 3.9's `import_module` may wait for ever for another thread's greenlet (bpo-43392)."""
    assert (
        script_output(
            SCRIPT
            + """
    import importlib

    def refuse(name, package=None):
        raise AssertionError(name)

    async_to_sync(view)(0)
    importlib.import_module = refuse
    calls = [gevent.spawn(async_to_sync(view), n) for n in range(3)]
    gevent.joinall(calls, timeout=30, raise_error=True)
    print([call.value[0] for call in calls])
    """
        )
        == "[0, 1, 2]"
    )


def test_calls_at_once_take_the_time_of_one(script_output):
    """They all wait for the last of them."""
    assert (
        script_output(
            SCRIPT
            + """
    arrived, all_there = [], threading.Event()

    def arrive():
        arrived.append(1)
        if len(arrived) == 50:
            all_there.set()
        return all_there.wait(30)

    async def main():
        return await sync_to_async(arrive)()

    calls = [gevent.spawn(async_to_sync(main)) for _ in range(50)]
    gevent.joinall(calls, timeout=30, raise_error=True)
    print(all(each.value for each in calls))
    """
        )
        == "True"
    )


def test_beside_a_loop_of_the_programs(script_output):
    """A greenlet runs a loop in the thread of all; another's call has a loop of its own."""
    assert script_output(
        SCRIPT
        + """
    async def main():
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def other():
            number, thread = async_to_sync(view)(3)
            loop.call_soon_threadsafe(stop.set)
            return number

        call = gevent.spawn(other)
        await stop.wait()
        try:
            async_to_sync(view)(1)
        except RuntimeError as error:
            print("just await" in str(error))
        return call

    print(asyncio.run(main()).get(timeout=20))
    """
    ).splitlines() == ["True", "3"]


@pytest.mark.parametrize("when", ["before the first call", "with a loop that runs"])
def test_the_shared_loop(script_output, when):
    """One real thread for all greenlets, and each has its own calls come back."""
    first = "async_to_sync(note)()" if when == "with a loop that runs" else "None"
    assert script_output(
        SCRIPT
        + AT_ONCE
        + f"""
    from asgibridge.runners import shared_loop

    loops = set()

    async def note():
        loops.add(asyncio.get_running_loop())

    async def gathered(here):
        await note()
        calls = [sync_to_async(threading.get_ident)() for _ in range(3)]
        assert await asyncio.gather(*calls) == [here] * 3

    def shared_task(n):
        async_to_sync(gathered)(threading.get_ident())
        return task(n)

    with shared_loop() as handle:
        {first}
        calls = [gevent.spawn(shared_task, n) for n in range(50)]
        gevent.joinall(calls, timeout=30, raise_error=True)
        print([each.value for each in calls] == list(range(50)), seen, len(loops))
    print(handle.is_running, loops.pop().is_closed())
    """
    ).splitlines() == ["True [] 1", "False True"]


def test_the_shared_loop_at_exit(script_output):
    assert (
        script_output(
            SCRIPT
            + """
    from asgibridge.runners import shared_loop

    shared_loop()
    print(async_to_sync(view)(3)[0])
    """
        )
        == "3"
    )


def test_a_killed_greenlet_cancels_its_coroutine(script_output):
    assert script_output(
        SCRIPT
        + """
    begun = threading.Event()

    async def main():
        try:
            await sync_to_async(begun.set)()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled")
            raise

    call = gevent.spawn(async_to_sync(main))
    begun.wait(20)
    call.kill(timeout=20)
    print(call.dead)
    """
    ).splitlines() == ["cancelled", "True"]


def test_what_a_coroutine_leaves_behind_goes_on(script_output):
    """A thread that it starts is a greenlet of the loop's thread, and outlives the loop."""
    assert (
        script_output(
            SCRIPT
            + """
    may_end, over = threading.Event(), threading.Event()

    def left():
        may_end.wait(20)
        gevent.sleep(0.01)
        over.set()

    async def main():
        threading.Thread(target=left).start()

    async_to_sync(main)()
    may_end.set()
    print(over.wait(20))
    """
        )
        == "True"
    )


def test_async_outermost(script_output):
    assert (
        script_output(
            SCRIPT
            + """
    async def main():
        async with ThreadSensitiveContext():
            results = await asyncio.gather(*(sync_to_async(int)(str(n)) for n in range(3)))
            return results, await sync_to_async(lambda: threading.current_thread().name)()

    results, name = asyncio.run(main())
    print(results, name.startswith("asgibridge-worker-"))
    """
        )
        == "[0, 1, 2] True"
    )


def test_installed_before_the_patching(script_output):
    """As the first line of a program, which must not load asyncio before gevent patches it."""
    assert (
        script_output(
            "    import asgibridge.autoinstall\n" + SCRIPT + "    print(asgibridge.IMPLEMENTATION)"
        )
        == "pure"
    )


def test_the_compiled_kernel_cannot_be_required(run_script):
    done = run_script(SCRIPT, ASGIBRIDGE_SPEEDUPS="require")
    assert done.returncode == 1
    assert "threading is monkey-patched" in done.stderr


LATE = """
    import asyncio, warnings
    warnings.simplefilter("ignore")  # gevent's, about what was imported before
    import asgibridge
    from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
    from gevent import monkey; monkey.patch_all()

    async def view(n):
        await asyncio.sleep(0.01)
        async with ThreadSensitiveContext():
            return await sync_to_async(lambda: n)()
"""


def test_patched_after_the_import(script_output):
    """The compiled kernel is loaded by then. With asgiref half of this hangs."""
    assert script_output(
        LATE
        + """
    print(async_to_sync(view)(1), asyncio.run(view(2)), asyncio.run(sync_to_async(int)("3")))
    print(async_to_sync(view)(4), asgibridge.IMPLEMENTATION)
    """
    ).splitlines() == ["1 2 3", "4 pure"]


def test_patched_after_the_import_with_async_outermost(script_output):
    assert script_output(LATE + "    print(asyncio.run(view(1)), async_to_sync(view)(2))") == "1 2"


@pytest.mark.parametrize("module", ["local", "runners", "integrations.gunicorn"])
def test_patched_between_the_imports(script_output, module):
    """The kernel is loaded by then, and what decides which one is right is not."""
    assert script_output(
        f"""
    import asgibridge.{module}
{PATCHED_BY_GEVENT}
"""
        + PROGRAM
        + """
    print(async_to_sync(view)(1)[0], asyncio.run(view(2))[0], asgibridge.IMPLEMENTATION)
    """
    ).splitlines() == ["1 2 pure"]


def test_the_shared_loop_patched_after_the_import_says_what_to_do(script_output):
    pytest.importorskip("asgibridge._speedups", reason="there is no compiled kernel here")
    assert script_output(
        LATE
        + """
    from asgibridge.runners import shared_loop

    with shared_loop():
        try:
            async_to_sync(view)(1)
        except RuntimeError as error:
            print("Patch first" in str(error))
    print(async_to_sync(view)(2))
    """
    ).splitlines() == ["True", "2"]


MADE_BEFORE = LATE.replace(
    "from gevent import monkey",
    """from asgibridge.limiters import CapacityLimiter
    from asgibridge.local import Local
    from asgibridge.queue import MessageQueue
    from asgibridge.sync import AsyncSingleThreadContext

    async def nothing():
        return await sync_to_async(threading.get_ident)()

    import threading
    queue = MessageQueue(1)
    limiter = CapacityLimiter(1)
    local = Local(thread_critical=True)
    local.name = "main"
    contexts = [AsyncSingleThreadContext(), AsyncSingleThreadContext(persistent_loop=True)]
    for context in contexts:
        with context:
            async_to_sync(nothing)()
    from gevent import monkey""",
)


@pytest.mark.parametrize("speedups", ["auto", "off"])
class TestMadeBeforeThePatching:
    def test_a_queue_lets_other_greenlets_run(self, script_output, speedups):
        assert script_output(
            MADE_BEFORE
            + """
    import gevent

    async def fill():
        for item in range(5):
            await queue.put(item)

    for filling in (fill, lambda: [queue.sync_put(item) for item in range(5)]):
        getting = gevent.spawn(lambda: [queue.sync_get() for _ in range(5)])
        gevent.sleep(0)
        (async_to_sync(fill) if filling is fill else filling)()
        print(getting.get(timeout=20))
    print(queue.qsize())
    """,
            ASGIBRIDGE_SPEEDUPS=speedups,
        ).splitlines() == ["[0, 1, 2, 3, 4]", "[0, 1, 2, 3, 4]", "0"]

    def test_a_wait_has_its_time_limit(self, script_output, speedups):
        assert (
            script_output(
                MADE_BEFORE
                + """
    from asgibridge.queue import QueueEmpty
    try:
        queue.sync_get(timeout=0.01)
    except QueueEmpty:
        print("empty")
    """,
                ASGIBRIDGE_SPEEDUPS=speedups,
            )
            == "empty"
        )

    def test_a_limiter_lets_other_greenlets_run(self, script_output, speedups):
        assert (
            script_output(
                MADE_BEFORE
                + """
    import gevent

    def borrow(n):
        with limiter:
            gevent.sleep(0.001)
        return n

    calls = [gevent.spawn(borrow, n) for n in range(4)]
    print([call.get(timeout=20) for call in calls])
    """,
                ASGIBRIDGE_SPEEDUPS=speedups,
            )
            == "[0, 1, 2, 3]"
        )

    def test_a_thread_critical_local_tells_greenlets_apart(self, script_output, speedups):
        """From the next call on."""
        assert (
            script_output(
                MADE_BEFORE
                + """
    import gevent
    async_to_sync(nothing)()

    def own(n):
        before = getattr(local, "name", None)
        local.name = n
        gevent.sleep(0.001)
        return before, local.name

    calls = [gevent.spawn(own, n) for n in range(2)]
    print([call.get(timeout=20) for call in calls], local.name)
    """,
                ASGIBRIDGE_SPEEDUPS=speedups,
            )
            == "[(None, 0), (None, 1)] main"
        )

    def test_a_context_has_a_real_thread(self, script_output, speedups):
        assert (
            script_output(
                MADE_BEFORE
                + """
    import gevent

    def within(context):
        with context:
            return [async_to_sync(nothing)() == threading.get_ident() for _ in range(2)]

    calls = [gevent.spawn(within, context) for context in contexts]
    print([call.get(timeout=20) for call in calls])
    """,
                ASGIBRIDGE_SPEEDUPS=speedups,
            )
            == "[[True, True], [True, True]]"
        )

    def test_greenlets_in_a_sync_function_go_to_their_own_loops(self, script_output, speedups):
        assert (
            script_output(
                MADE_BEFORE
                + """
    import gevent

    async def inner():
        await asyncio.sleep(0.001)
        return id(asyncio.get_running_loop())

    def there():
        gevent.sleep(0.01)
        return async_to_sync(inner)()

    async def outer():
        here = id(asyncio.get_running_loop())
        return await sync_to_async(there)() == here

    calls = [gevent.spawn(async_to_sync(outer)) for _ in range(10)]
    print({call.get(timeout=20) for call in calls})
    """,
                ASGIBRIDGE_SPEEDUPS=speedups,
            )
            == "{True}"
        )


LOOPS_WITHOUT_READERS = """
    class Loop(asyncio.SelectorEventLoop):
        def add_reader(self, *args):  # as a Proactor's
            raise NotImplementedError

    class Loops(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self):
            return Loop()

    asyncio.set_event_loop_policy(Loops())

    def hops(n):
        async def main():
            return [await sync_to_async(int)(i) for i in range(n)]
        return async_to_sync(main)()
"""


def test_patched_after_the_import_every_module_goes_over(script_output):
    assert script_output(
        LATE
        + LOOPS_WITHOUT_READERS
        + """
    import sys
    import asgibridge.debug, asgibridge.wsgi, asgibridge.iterators, asgibridge.local
    from asgibridge import _pure
    from asgibridge.sync import AsyncSingleThreadContext

    with AsyncSingleThreadContext(persistent_loop=True):
        print(hops(3))
    print(hops(2))
    local = asgibridge.local.Local(), asgibridge.local.Local(thread_critical=True)
    local[0].x = local[1].x = 4
    print(local[0].x, local[1].x)
    print([name for name, module in sys.modules.items() if name.startswith("asgibridge.")
           for bound in (vars(module).get("kernel"), vars(module).get("CurrentThreadExecutor"))
           if bound and bound not in (_pure, _pure.CurrentThreadExecutor)
           and name != "asgibridge._speedups"])
    """
    ).splitlines() == ["[0, 1, 2]", "[0, 1]", "4 4", "[]"]


def test_the_pure_kernel_makes_its_own_channel_beside_the_compiled_ones():
    compiled = pytest.importorskip("asgibridge._speedups", reason="there is no compiled kernel")
    names = {"add_reader": lambda *args: exec("raise NotImplementedError")}  # as a Proactor's
    loop = type("Loop", (asyncio.SelectorEventLoop,), names)()
    compiled.attach_reader(loop)
    channels = {channel.wake_channel(loop) for _ in range(2)}
    assert [type(each) for each in channels] == [_pure.WakeChannel]
    loop.close()


def test_patched_after_the_import_of_a_required_kernel_says_what_to_do(run_script):
    pytest.importorskip("asgibridge._speedups", reason="there is no compiled kernel here")
    done = run_script(LATE + "    async_to_sync(view)(1)", ASGIBRIDGE_SPEEDUPS="require")
    assert done.returncode == 1
    assert "ASGIBRIDGE_SPEEDUPS=auto instead of require" in done.stderr


def test_exit_with_an_idle_worker(script_output):
    """From 3.13 on gevent waits for whatever does not look like a daemon, and ours do not."""
    assert script_output(SCRIPT + '    print(asyncio.run(sync_to_async(int)("3")))') == "3"


def test_message_queues_let_other_greenlets_run(script_output):
    assert (
        script_output(
            SCRIPT
            + """
    from asgibridge.queue import MessageQueue, QueueEmpty
    queue = MessageQueue(2)
    getting = gevent.spawn(lambda: list(queue))
    for item in range(10):
        queue.sync_put(item)
    queue.shutdown()
    print(sum(getting.get(timeout=30)))
    """
        )
        == "45"
    )


def test_kept_workers_are_greenlets(script_output):
    """They keep what is theirs, there are no more than the limit, and their time ends."""
    assert script_output(
        SCRIPT
        + """
    from asgibridge.workers import Policy, set_policy
    set_policy(Policy(kind="keep", limit=2, idle_timeout=60))
    local = threading.local()

    def count():
        local.count = getattr(local, "count", 0) + 1
        return local.count

    async def one():
        async with ThreadSensitiveContext():
            return await sync_to_async(count)()

    async def main():
        return await asyncio.gather(*(one() for _ in range(6)))

    print(sum(asyncio.run(main())))
    workers = [each for each in threading.enumerate() if "asgibridge" in each.name]
    print(len(workers))
    set_policy(Policy(kind="keep", idle_timeout=0.01))
    for each in workers:
        each.join(10)
    print(any(each.is_alive() for each in workers))
    """
    ).splitlines() == ["12", "2", "False"]


def test_contexts_that_idle_give_their_greenlets_back(script_output):
    assert script_output(
        SCRIPT
        + """
    from asgibridge.workers import Policy, set_policy, stats
    set_policy(Policy(kind="keep", limit=2, release_idle=0.01))

    async def stream(begun, end):
        async with ThreadSensitiveContext():
            await sync_to_async(int)()
            begun.set()
            await end.wait()
            return await sync_to_async(int)("7")

    async def main():
        end = asyncio.Event()
        events = [asyncio.Event() for _ in range(6)]
        tasks = [asyncio.ensure_future(stream(begun, end)) for begun in events]
        for begun in events:
            await begun.wait()
        end.set()
        return await asyncio.gather(*tasks)

    print(sum(asyncio.run(main())))
    print(stats().released >= 4)
    print(len([each for each in threading.enumerate() if "asgibridge" in each.name]))
    """
    ).splitlines() == ["42", "True", "2"]
