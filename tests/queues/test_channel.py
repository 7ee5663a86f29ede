"""`open_channel`: two ends that close, their clones, and what they raise."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import sys
import textwrap
import threading
import types

import anyio
import pytest

import queues
from asgibridge.queue import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfChannel,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    Receiver,
    Sender,
    open_channel,
)
from queues import SECONDS, abandoned, in_thread, on_loop, run, step, until


class TestItems:
    def test_go_from_one_end_to_the_other(self, loop):
        sender, receiver = open_channel()
        assert isinstance(sender, Sender)
        assert isinstance(receiver, Receiver)
        sender.send_nowait(1)
        sender.sync_send(2)
        on_loop(loop, sender.send(3)).result(SECONDS)
        sender.send_nowait(None)
        assert receiver.qsize() == sender.qsize() == 4
        assert receiver.receive_nowait() == 1
        assert receiver.sync_receive() == 2
        assert on_loop(loop, receiver.receive()).result(SECONDS) == 3
        assert receiver.sync_receive() is None

    def test_many_at_once(self, loop):
        sender, receiver = open_channel()
        for item in range(6):
            sender.send_nowait(item)
        assert receiver.sync_receive_many(2) == [0, 1]
        assert on_loop(loop, receiver.receive_many(2)).result(SECONDS) == [2, 3]
        assert receiver.sync_receive_many() == [4, 5]
        with pytest.raises(QueueEmpty):
            receiver.sync_receive_many(timeout=0.001)
        assert receiver.sync_receive_many(2, max_wait=0.001) == []
        assert on_loop(loop, receiver.receive_many(2, max_wait=0.001)).result(SECONDS) == []
        future = on_loop(loop, receiver.receive_many(2, max_wait=SECONDS))
        sender.send_nowait(6)
        sender.send_nowait(7)
        assert future.result(SECONDS) == [6, 7]
        future = on_loop(loop, receiver.receive_many())
        sender.send_nowait(8)
        assert future.result(SECONDS) == [8]

    def test_wait_for_each_other(self, loop):
        sender, receiver = open_channel(1)
        sender.send_nowait(0)
        with pytest.raises(QueueFull):
            sender.send_nowait(1)
        with pytest.raises(QueueFull):
            sender.sync_send(1, timeout=0.001)
        futures = [in_thread(sender.sync_send, 1)]
        until(lambda: sender._queue.putting == 1)
        futures.append(on_loop(loop, sender.send(2)))
        until(lambda: sender._queue.putting == 2)
        assert [receiver.sync_receive(timeout=SECONDS) for _ in range(3)] == [0, 1, 2]
        for future in futures:
            future.result(SECONDS)
        with pytest.raises(QueueEmpty):
            receiver.receive_nowait()
        with pytest.raises(QueueEmpty):
            receiver.sync_receive(timeout=0.001)
        futures = [in_thread(receiver.sync_receive)]
        until(lambda: sender._queue.getting == 1)
        futures.append(on_loop(loop, receiver.receive()))
        until(lambda: sender._queue.getting == 2)
        for item, future in enumerate(futures):
            sender.send_nowait(item)
            assert future.result(SECONDS) == item

    def test_an_event_loops_thread_does_not_wait(self):
        async def main():
            sender, receiver = open_channel(1)
            with pytest.raises(RuntimeError, match="block the event loop"):
                receiver.sync_receive()
            sender.sync_send(1)
            with pytest.raises(RuntimeError, match="block the event loop"):
                sender.sync_send(2)

        run(main)

    def test_time_outs_that_are_none(self):
        sender, receiver = open_channel(1)
        sender.send_nowait(1)
        for call in (
            lambda: sender.sync_send(1, timeout=-1),
            lambda: receiver.sync_receive(timeout=-1),
            lambda: receiver.sync_receive_many(timeout=-1),
            lambda: receiver.sync_receive_many(max_wait=-1),
        ):
            with pytest.raises(ValueError, match="timeout="):
                call()


class TestEnds:
    @pytest.mark.parametrize("end", ["close", "aclose", "with", "async with", "del"])
    def test_a_receiver_ends_after_the_last_item(self, loop, end):
        sender, receiver = open_channel()
        sender.send_nowait(1)
        if end == "close":
            sender.close()
        elif end == "aclose":
            on_loop(loop, sender.aclose()).result(SECONDS)
        elif end == "with":
            with sender:
                sender.send_nowait(2)
        elif end == "async with":

            async def use(sender):
                async with sender:
                    await sender.send(2)

            on_loop(loop, use(sender)).result(SECONDS)
        if end != "del":
            assert sender.closed
        del sender
        gc.collect()
        expected = [1, 2] if "with" in end else [1]
        assert list(receiver) == expected
        for receive in (receiver.receive_nowait, receiver.sync_receive, receiver.sync_receive_many):
            with pytest.raises(EndOfChannel):
                receive()
        for receive in (receiver.receive, receiver.receive_many):
            with pytest.raises(EndOfChannel):
                on_loop(loop, receive()).result(SECONDS)

    def test_receivers_that_wait_end_when_the_last_sender_does(self, loop):
        sender, receiver = open_channel()
        clone = sender.clone()

        async def collect(receiver):
            return [item async for item in receiver]

        futures = [in_thread(receiver.sync_receive), on_loop(loop, receiver.receive())]
        futures += [on_loop(loop, collect(receiver.clone())), in_thread(list, receiver.clone())]
        until(lambda: sender._queue.getting == 4)
        sender.close()
        assert sender._queue.getting == 4
        clone.close()
        for future in futures[:2]:
            with pytest.raises(EndOfChannel):
                future.result(SECONDS)
        assert [future.result(SECONDS) for future in futures[2:]] == [[], []]

    def test_a_send_fails_when_no_receiver_is_left(self, loop):
        sender, receiver = open_channel(1)
        clone = receiver.clone()
        sender.send_nowait(1)
        futures = [in_thread(sender.sync_send, 2), on_loop(loop, sender.send(3))]
        until(lambda: sender._queue.putting == 2)
        receiver.close()
        assert sender._queue.putting == 2
        del clone
        gc.collect()
        for future in futures:
            with pytest.raises(BrokenResourceError):
                future.result(SECONDS)
        for send in (sender.send_nowait, sender.sync_send):
            with pytest.raises(BrokenResourceError):
                send(4)
        with pytest.raises(BrokenResourceError):
            on_loop(loop, sender.send(4)).result(SECONDS)
        assert sender.qsize() == 0

    def test_an_end_that_is_closed(self, loop):
        sender, receiver = open_channel()
        others = sender.clone(), receiver.clone()
        for end in (sender, receiver):
            end.close()
            end.close()
            assert end.closed
            assert "closed" in repr(end)
            with pytest.raises(ClosedResourceError):
                end.clone()
        for call in (
            lambda: sender.send_nowait(1),
            lambda: sender.sync_send(1),
            receiver.receive_nowait,
            receiver.sync_receive,
            receiver.sync_receive_many,
            lambda: list(receiver),
        ):
            with pytest.raises(ClosedResourceError):
                call()
        for call in (lambda: sender.send(1), receiver.receive, receiver.receive_many):
            with pytest.raises(ClosedResourceError):
                on_loop(loop, call()).result(SECONDS)
        others[0].send_nowait(1)
        assert others[1].receive_nowait() == 1
        assert "closed" not in repr(others[0])

    def test_a_close_ends_the_waits_at_this_end_alone(self, loop):
        sender, receiver = open_channel(1)
        other = receiver.clone()
        theirs = in_thread(other.sync_receive)
        until(lambda: sender._queue.getting == 1)
        futures = [in_thread(receiver.sync_receive), on_loop(loop, receiver.receive())]
        futures.append(on_loop(loop, receiver.receive_many(3, max_wait=SECONDS)))
        futures.append(in_thread(receiver.sync_receive_many, 3, max_wait=SECONDS))
        until(lambda: sender._queue.getting == 5)
        receiver.close()
        for future in futures:
            with pytest.raises(ClosedResourceError):
                future.result(SECONDS)
        assert sender._queue.getting == 1
        sender.send_nowait(1)
        assert theirs.result(SECONDS) == 1
        keeps_open = sender.clone()
        sender.send_nowait(2)
        futures = [in_thread(sender.sync_send, 3), on_loop(loop, sender.send(4))]
        until(lambda: sender._queue.putting == 2)
        theirs = in_thread(keeps_open.sync_send, 5)
        until(lambda: sender._queue.putting == 3)
        sender.close()
        for future in futures:
            with pytest.raises(ClosedResourceError):
                future.result(SECONDS)
        assert [other.sync_receive(), other.sync_receive()] == [2, 5]
        theirs.result(SECONDS)

    def test_a_close_leaves_what_is_promised(self):
        async def main():
            sender, receiver = open_channel()
            task = asyncio.create_task(receiver.receive())
            await step()
            sender.send_nowait(1)
            other = receiver.clone()
            receiver.close()
            assert await task == 1
            sender.close()
            with pytest.raises(EndOfChannel):
                await other.receive()

        run(main)

    def test_clones_in_many_threads(self):
        sender, receiver = open_channel(10)
        count, each = 8, 200
        barrier = threading.Barrier(count)

        def send(mine, start):
            with mine:
                barrier.wait(SECONDS)
                for item in range(start, start + each):
                    with mine.clone() as clone:
                        clone.sync_send(item)

        def receive(mine):
            with mine:
                return list(mine)

        receivers = [in_thread(receive, receiver.clone()) for _ in range(3)]
        receiver.close()
        senders = [in_thread(send, sender.clone(), i * each) for i in range(count)]
        sender.close()
        for future in senders:
            future.result(SECONDS)
        got = [item for future in receivers for item in future.result(SECONDS)]
        assert sorted(got) == list(range(count * each))

    def test_two_threads_that_close_the_last_two_ends_at_once(self):
        for _ in range(200):
            sender, receiver = open_channel()
            clone = sender.clone()
            barrier = threading.Barrier(2)

            def close(end, barrier=barrier):
                barrier.wait(SECONDS)
                end.close()

            futures = [in_thread(close, end) for end in (sender, clone)]
            with pytest.raises(EndOfChannel):
                receiver.sync_receive(timeout=SECONDS)
            for future in futures:
                future.result(SECONDS)

    def test_have_no_copies(self):
        for end in open_channel():
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="clone"):
                    copied(end)

    def test_a_sender_that_is_only_in_the_channel_is_not_dropped(self):
        sender, receiver = open_channel()
        sender.send_nowait(sender)
        del sender
        gc.collect()
        receiver.receive_nowait().send_nowait(1)
        assert list(receiver) == [1]


class TestCancellation:
    def test_loses_nothing(self):
        async def main():
            sender, receiver = open_channel(1)
            task = asyncio.create_task(receiver.receive())
            await step()
            sender.send_nowait(1)
            task.cancel()
            await step()
            assert task.cancelled()
            assert receiver.receive_nowait() == 1
            sender.send_nowait(2)
            tasks = [asyncio.create_task(sender.send(item)) for item in (3, 4)]
            await step()
            assert await receiver.receive() == 2
            tasks[0].cancel()
            assert await receiver.receive() == 4
            assert tasks[0].cancelled()
            assert not sender._waits
            assert not receiver._waits

        run(main)

    def test_of_a_loop_that_was_closed(self):
        sender, receiver = open_channel()
        with abandoned(receiver.receive(), lambda: sender._queue.getting) as closed:
            sender.send_nowait(1)
            closed.close()
            assert receiver.sync_receive(timeout=SECONDS) == 1
        sender.close()
        receiver.close()


class TestErrors:
    def raised(self, call):
        with pytest.raises(Exception) as caught:
            call()
        return caught.value

    def all_of_them(self):
        sender, receiver = open_channel(1)
        errors = {"empty": self.raised(receiver.receive_nowait)}
        sender.send_nowait(1)
        errors["full"] = self.raised(lambda: sender.send_nowait(2))
        clone = receiver.clone()
        clone.close()
        errors["closed"] = self.raised(clone.receive_nowait)
        receiver.close()
        errors["broken"] = self.raised(lambda: sender.send_nowait(2))
        sender, receiver = open_channel()
        sender.close()
        errors["end"] = self.raised(receiver.receive_nowait)
        return errors

    def test_are_those_of_queues(self):
        errors = self.all_of_them()
        assert isinstance(errors["empty"], QueueEmpty)
        assert isinstance(errors["full"], QueueFull)
        assert isinstance(errors["closed"], ClosedResourceError)
        assert isinstance(errors["broken"], BrokenResourceError)
        assert isinstance(errors["end"], EndOfChannel)
        for name in ("closed", "broken", "end"):
            assert isinstance(errors[name], QueueShutDown)
            assert errors[name].__cause__ is None

    def test_are_anyios(self):
        errors = self.all_of_them()
        assert isinstance(errors["empty"], anyio.WouldBlock)
        assert isinstance(errors["full"], anyio.WouldBlock)
        assert isinstance(errors["closed"], anyio.ClosedResourceError)
        assert isinstance(errors["broken"], anyio.BrokenResourceError)
        assert isinstance(errors["end"], anyio.EndOfStream)

    def test_are_trios(self, monkeypatch):
        """Of a stand-in, as it is also where trio is not installed."""
        names = ["WouldBlock", "ClosedResourceError", "BrokenResourceError", "EndOfChannel"]
        trio = types.ModuleType("trio")
        for name in names:
            setattr(trio, name, type(name, (Exception,), {}))
        monkeypatch.setitem(sys.modules, "trio", trio)
        errors = self.all_of_them()
        found = {name: type(error) for name, error in errors.items()}
        assert issubclass(found["empty"], trio.WouldBlock)
        assert issubclass(found["full"], trio.WouldBlock)
        assert issubclass(found["closed"], trio.ClosedResourceError)
        assert issubclass(found["broken"], trio.BrokenResourceError)
        assert issubclass(found["end"], trio.EndOfChannel)
        assert type(self.all_of_them()["end"]) is found["end"]
        assert found["end"].__name__ == "EndOfChannel"

    def test_are_ours_alone_where_neither_is_imported(self, monkeypatch):
        for name in ("trio", "anyio"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        assert type(self.all_of_them()["end"]) is EndOfChannel

    def test_a_library_that_is_half_imported(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "trio", types.ModuleType("trio"))
        monkeypatch.delitem(sys.modules, "anyio", raising=False)
        assert type(self.all_of_them()["end"]) is EndOfChannel


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_its_own_ends(script_output):
    source = """
        import os, sys, warnings
        sys.path.insert(0, sys.argv[1])
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        from asgibridge.queue import *
        from queues import *
        sender, receiver = open_channel()
        future = in_thread(receiver.sync_receive)
        until(lambda: sender._queue.getting)
        child = os.fork()
        if not child:
            sender.send_nowait("child's")
            assert receiver.receive_nowait() == "child's"
            sender.close()
            try:
                receiver.sync_receive()
            except EndOfChannel:
                os._exit(7)
            os._exit(1)
        assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7
        sender.send_nowait("parent's")
        assert future.result(SECONDS) == "parent's"
    """
    assert script_output(textwrap.dedent(source), os.path.dirname(queues.__file__)) == ""


def test_at_exit_open_ends_are_no_error(script_output):
    source = """
        from asgibridge.queue import Broadcast, open_channel
        sender, receiver = open_channel()
        sender.send_nowait(sender)
        broadcast = Broadcast()
        reader = broadcast.subscribe()
        broadcast.put_nowait(reader)
    """
    assert script_output(source) == ""
