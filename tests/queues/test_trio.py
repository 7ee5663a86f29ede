"""In a task of trio's: what need not wait works, and what has to wait says what to do."""

from __future__ import annotations

import pytest
import trio

from asgibridge.queue import (
    Broadcast,
    Latest,
    MessageQueue,
    QueueEmpty,
    open_channel,
    select,
    sync_select,
)
from queues import SECONDS, in_thread


def full():
    queue = MessageQueue(1)
    queue.put_nowait(1)
    return queue


SENDER, RECEIVER = open_channel()
WAITS = {
    "get": lambda: MessageQueue().get(),
    "put": lambda: full().put(2),
    "peek": lambda: MessageQueue().peek(),
    "join": lambda: full().join(),
    "get_many": lambda: MessageQueue().get_many(2),
    "max_wait": lambda: MessageQueue().get_many(2, max_wait=SECONDS),
    "select": lambda: select(MessageQueue(), Broadcast().subscribe()),
    "select with a time-out": lambda: select(MessageQueue(), timeout=SECONDS),
    "reader": lambda: Broadcast().subscribe().get(),
    "latest": lambda: Latest().get_newer(),
    "receive": lambda: RECEIVER.receive(),
    "receive_many": lambda: RECEIVER.receive_many(2, max_wait=SECONDS),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_is_an_error_that_says_what_to_do(wait):
    async def main():
        with pytest.raises(RuntimeError, match=r"trio\.to_thread\.run_sync\(queue\.sync_get\)"):
            await wait()

    trio.run(main)
    assert SENDER.qsize() == 0
    assert SENDER._queue.getting == 0


def test_trios_thread_does_not_wait():
    async def main():
        with pytest.raises(RuntimeError, match=r"trio\.to_thread\.run_sync\(queue\.sync_get, "):
            MessageQueue().sync_get(timeout=SECONDS)
        with pytest.raises(RuntimeError, match=r"trio\.to_thread\.run_sync\(sync_select, "):
            sync_select(MessageQueue())
        with pytest.raises(QueueEmpty):
            MessageQueue().sync_get(timeout=0)

    trio.run(main)


def test_what_need_not_wait():
    async def main():
        queue = MessageQueue(2)
        await queue.put(1)
        queue.sync_put(2)
        assert await select(queue) == (queue, 1)
        assert await queue.get() == 2

    trio.run(main)


def test_what_is_to_be_done():
    async def main():
        queue = MessageQueue()
        in_thread(queue.sync_put, 1)
        assert await trio.to_thread.run_sync(queue.sync_get) == 1

    trio.run(main)


def test_in_no_event_loop_at_all():
    with pytest.raises(RuntimeError, match="no running event loop: use the sync_ methods"):
        MessageQueue().get().send(None)
    with pytest.raises(RuntimeError, match="no running event loop: use the sync_ methods"):
        select(MessageQueue(), timeout=1).send(None)


@pytest.mark.thread_unsafe(reason="replaces a part of trio")
def test_a_trio_that_is_half_imported(monkeypatch):
    for lowlevel in (None, object()):
        monkeypatch.setattr(trio, "lowlevel", lowlevel)
        with pytest.raises(RuntimeError, match="no running event loop"):
            MessageQueue().get().send(None)
