"""`asgibridge.workers.stats`: what is counted, timed and shown."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import os
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

import asgibridge
from asgibridge import workers
from asgibridge._process.buckets import BOUNDS
from asgibridge.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from wsgi_tools import respond

SECONDS = 10


@pytest.fixture(autouse=True)
def timings(monkeypatch):
    from asgibridge._workers import stats as figures

    workers.collect_timings(True)
    yield
    monkeypatch.setattr(figures, "_wanted", None)
    figures._apply()


def changes(before, after):
    return tuple(
        getattr(after, name) - getattr(before, name)
        for name in ("submitted", "started", "finished", "cancelled")
    )


def nothing():
    pass


class TestCounts:
    @pytest.mark.parametrize("thread_sensitive", [True, False])
    def test_calls(self, thread_sensitive):
        async def main():
            for _ in range(7):
                await sync_to_async(nothing, thread_sensitive=thread_sensitive)()

        before = workers.stats()
        asyncio.run(main())
        assert changes(before, workers.stats()) == (7, 7, 7, 0)

    def test_calls_in_frames_and_contexts(self):
        """The exit of a context, and the loop's own run, are no user's calls."""

        async def main():
            async with ThreadSensitiveContext():
                await sync_to_async(async_to_sync(inner))()

        async def inner():
            await sync_to_async(nothing)()

        before = workers.stats()
        async_to_sync(main)()
        assert changes(before, workers.stats()) == (2, 2, 2, 0)

    def test_calls_in_somebody_elses_executor(self):
        async def main():
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                call = sync_to_async(nothing, thread_sensitive=False, executor=executor)
                await call()
                with pytest.raises(ZeroDivisionError):
                    await sync_to_async(divide, thread_sensitive=False, executor=executor)()

        def divide():
            return 1 / 0

        before = workers.stats()
        asyncio.run(main())
        assert changes(before, workers.stats()) == (2, 2, 2, 0)

    @pytest.mark.thread_unsafe(reason="no thread can be started")
    @pytest.mark.parametrize("kind", ["fresh", "keep", "pooled"])
    def test_a_call_whose_thread_cannot_be_started(self, monkeypatch, kind):
        """It is given up, and waits in no figure for ever."""

        async def main():
            def refuse(_thread):
                raise RuntimeError("no thread")

            async with ThreadSensitiveContext(policy=None if kind == "pooled" else kind):
                call = sync_to_async(nothing, thread_sensitive=kind != "pooled")
                with monkeypatch.context() as patched:
                    patched.setattr(threading.Thread, "start", refuse)
                    workers.end_idle_workers()
                    with pytest.raises(RuntimeError, match="no thread"):
                        await call()

        before = workers.stats()
        asyncio.run(main())
        after = workers.stats()
        submitted, started, finished, cancelled = changes(before, after)
        assert (started, finished, submitted - cancelled) == (0, 0, 0)

    def test_running_queued_and_cancelled(self):
        begun, end = threading.Event(), threading.Event()

        def wait():
            begun.set()
            assert end.wait(SECONDS)

        async def main():
            first = asyncio.ensure_future(sync_to_async(wait)())
            while not begun.is_set():
                await asyncio.sleep(0)
            second = asyncio.ensure_future(sync_to_async(nothing)())
            third = asyncio.ensure_future(sync_to_async(nothing)())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            busy = workers.stats()
            assert busy.running - before.running == 1
            assert busy.queued - before.queued == 2
            third.cancel()
            await asyncio.wait([third])
            end.set()
            await asyncio.gather(first, second)

        before = workers.stats()
        asyncio.run(main())
        assert changes(before, workers.stats()) == (3, 2, 2, 1)

    def test_many_threads(self):
        """No count is lost, with or without the GIL, and none with a thread's end."""

        def use():
            async def main():
                async with ThreadSensitiveContext():
                    await asyncio.gather(*[sync_to_async(nothing)() for _ in range(50)])
                await sync_to_async(nothing, thread_sensitive=False)()

            asyncio.run(main())

        before = workers.stats()
        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert changes(before, workers.stats()) == (408, 408, 408, 0)

    def test_a_child_begins_at_zero(self, script_output):
        source = """
            import asyncio, os, warnings
            from asgibridge import workers
            from asgibridge.sync import sync_to_async

            async def main():
                await sync_to_async(len)("")

            asyncio.run(main())
            assert workers.stats().finished == 1
            read, write = os.pipe()
            warnings.simplefilter("ignore")  # 3.12: of threads and fork
            if os.fork() == 0:
                first = workers.stats()
                asyncio.run(main())
                second = workers.stats()
                os.write(write, repr((first.finished, second.finished, second.running)).encode())
                os._exit(0)
            os.close(write)
            print(os.read(read, 1000).decode(), workers.stats().finished)
            os.wait()
        """
        if not hasattr(os, "fork"):
            pytest.skip("no fork here")
        assert script_output(source) == "(0, 1, 0) 1"


class TestTimes:
    def test_how_long_calls_run_and_wait(self):
        """By a second call, which waits for as long as the first runs."""
        begun = threading.Event()

        def run_for_a_while():
            begun.set()
            assert not threading.Event().wait(0.06)

        async def main():
            first = asyncio.ensure_future(sync_to_async(run_for_a_while)())
            while not begun.is_set():
                await asyncio.sleep(0)
            await asyncio.gather(first, sync_to_async(nothing)())

        before = workers.stats()
        asyncio.run(main())
        after = workers.stats()
        assert after.run_time.count - before.run_time.count == 2
        assert after.queue_time.count - before.queue_time.count == 2
        assert after.run_time.sum - before.run_time.sum >= 0.055
        assert after.queue_time.sum - before.queue_time.sum >= 0.03
        ran = [a - b for a, b in zip(after.run_time.counts, before.run_time.counts)]
        # Over 0.05 s, and unless the machine stood still in the bucket of 0.1.
        assert sum(ran[BOUNDS.index(0.1) :]) == 1

    def test_can_be_left_out(self):
        async def main():
            await sync_to_async(nothing)()
            await sync_to_async(nothing, thread_sensitive=False)()

        workers.collect_timings(False)
        before = workers.stats()
        asyncio.run(main())
        after = workers.stats()
        assert after.finished == before.finished + 2
        assert after.run_time == before.run_time
        assert after.queue_time == before.queue_time

    def test_by_environment(self, script_output, run_script):
        source = """
            import asyncio
            from asgibridge import workers
            from asgibridge.sync import sync_to_async

            async def main():
                await sync_to_async(len)("")

            asyncio.run(main())
            print(workers.stats().run_time.count)
        """
        assert script_output(source, ASGIBRIDGE_TIMINGS="1") == "1"
        assert script_output(source, ASGIBRIDGE_TIMINGS="0") == "0"
        default = {"speedups": "1", "pure": "0"}[asgibridge.IMPLEMENTATION]
        assert script_output(source, ASGIBRIDGE_TIMINGS="") == default
        refused = run_script(source, ASGIBRIDGE_TIMINGS="yes")
        assert refused.returncode == 1
        assert "ASGIBRIDGE_TIMINGS='yes'" in refused.stderr

    def test_quantiles(self):
        counts = [0] * (len(BOUNDS) + 1)
        counts[0], counts[3], counts[-1] = 5, 4, 1
        histogram = workers.Histogram(BOUNDS, tuple(counts), 1.0)
        assert histogram.count == 10
        assert histogram.quantile(0) == BOUNDS[0]
        assert histogram.quantile(0.5) == BOUNDS[0]
        assert histogram.quantile(0.51) == BOUNDS[3]
        assert histogram.quantile(0.9) == BOUNDS[3]
        assert histogram.quantile(1) == math.inf
        assert workers.Histogram(BOUNDS, (0,) * len(counts), 0.0).quantile(0.5) is None
        with pytest.raises(ValueError, match="from 0 to 1"):
            histogram.quantile(50)


class TestWorkers:
    def test_leased_and_idle(self, script_output):
        """In a process of its own: elsewhere a collection may free workers at any time."""
        seen = script_output("""
            import asyncio
            from asgibridge import workers
            from asgibridge.sync import ThreadSensitiveContext, sync_to_async

            def seen():
                stats = workers.stats()
                return stats.alive, stats.leased, stats.idle

            async def main():
                print(seen())
                async with ThreadSensitiveContext():
                    await sync_to_async(len)("")
                    print(seen())
                print(seen())

            asyncio.run(main())
        """).splitlines()
        assert seen[:2] == ["(0, 0, 0)", "(1, 1, 0)"]
        if asgibridge.IMPLEMENTATION == "speedups":  # the pure kernel's thread ends, at some time
            assert seen[2] == "(1, 0, 1)"

    def test_threads_of_the_pool(self):
        async def main():
            before = workers.stats()
            await sync_to_async(nothing, thread_sensitive=False)()
            after = workers.stats()
            assert after.pool_threads == before.pool_threads + 1
            assert after.alive == before.alive

        asyncio.run(main())

    def test_threads_of_a_wsgi_application(self):
        seen = []

        def application(environ, start_response):
            seen.append((workers.stats().pool_threads, threading.current_thread().name))
            start_response("200 OK", [])
            return [b""]

        before = workers.stats().pool_threads
        asyncio.run(respond(application, workers=1))
        assert seen == [(before + 1, "asgibridge-wsgi_0")]


class TestPrometheus:
    def test_what_the_client_librarys_parser_reads(self):
        async def main():
            await sync_to_async(nothing)()

        asyncio.run(main())
        now = workers.stats()
        families = {f.name: f for f in text_string_to_metric_families(workers.prometheus())}
        assert families["asgibridge_calls_finished"].type == "counter"
        assert families["asgibridge_calls_finished"].samples[0].value == now.finished
        states = {s.labels["state"]: s.value for s in families["asgibridge_workers"].samples}
        assert states == {"leased": now.leased, "idle": now.idle}
        histogram = families["asgibridge_call_run_time_seconds"]
        assert histogram.type == "histogram"
        buckets = [s for s in histogram.samples if s.name.endswith("_bucket")]
        assert [float(s.labels["le"]) for s in buckets] == [*BOUNDS, math.inf]
        values = [s.value for s in buckets]
        assert values == sorted(values)
        (count,) = [s.value for s in histogram.samples if s.name.endswith("_count")]
        (total,) = [s.value for s in histogram.samples if s.name.endswith("_sum")]
        assert (values[-1], count, total) == (count, now.run_time.count, now.run_time.sum)
        assert all(family.documentation for family in families.values())

    def test_its_form(self):
        text = workers.prometheus("my:app")
        assert text.endswith("\n")
        assert "\n\n" not in text
        lines = text.splitlines()
        assert lines[0].startswith("# HELP my:app_workers ")
        assert lines[1] == "# TYPE my:app_workers gauge"
        assert all(line.startswith(("# ", "my:app_")) for line in lines)
        assert "version=0.0.4" in workers.CONTENT_TYPE

    @pytest.mark.parametrize("prefix", ["", "1st", "a-b", "a b", "é"])
    def test_a_prefix_that_is_none(self, prefix):
        with pytest.raises(ValueError, match="prefix"):
            workers.prometheus(prefix)
