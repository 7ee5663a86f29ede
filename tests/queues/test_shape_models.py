"""Rings, batches, channels, selects and latest values, and plain models of each, step by step.

One thread and one loop, which runs only when a step is over (`queue_model.SteppedLoop`), so the
model says who gets what, however many wait. A step is made in a task of the loop or outside of it;
what waits, waits in tasks; a method for threads has no time to wait. Time passes by hand, up to
where the next wait is over. Threads and several loops: test_queue_model.py,
test_broadcast_model.py.
"""

from __future__ import annotations

import gc
import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from asgibridge.queue import (
    Broadcast,
    BrokenResourceError,
    ClosedResourceError,
    EndOfChannel,
    Latest,
    MessageQueue,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
    RingQueue,
    SelectTimeout,
    open_channel,
    select,
    sync_select,
)
from queue_model import SETTINGS, Model, SteppedLoop, alone

ERRORS = (
    EndOfChannel,
    BrokenResourceError,
    ClosedResourceError,
    QueueShutDown,
    SelectTimeout,
    QueueEmpty,
    QueueFull,
)
"""An error is the first of these that it is one of: a channel's are trio's or anyio's as well."""


def outcome(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except ERRORS as error:
        return next(each for each in ERRORS if isinstance(error, each))


class Wait:
    """A task that waits. ``end``: of a channel, where it does."""

    def __init__(self, how, argument, task, *, deadline=None, end=None):
        self.how, self.argument, self.task = how, argument, task
        self.deadline, self.end = deadline, end

    def __repr__(self):
        return f"{self.how}({self.argument})"


class StepMachine(RuleBasedStateMachine):
    """What all of them have in common."""

    def __init__(self):
        super().__init__()
        self.loop = SteppedLoop()
        self.numbers = itertools.count()

    def teardown(self):
        self.loop.end()

    def act(self, inside, call, *args, **kwargs):
        """The outcome of a call, by a task of the loop or by no task."""
        if not inside:
            return outcome(call, *args, **kwargs)

        async def step():
            return outcome(call, *args, **kwargs)

        return self.loop.run_until_complete(step())

    def start(self, coroutine):
        return self.loop.create_task(coroutine)

    def time_out(self):
        """Seconds, and when they are over: at no other's time."""
        seconds = 1 + next(self.numbers) / 1000
        return seconds, self.loop.now + seconds

    def pass_time_until(self, waits):
        """The first of them whose time is over, which it is now."""
        wait = min(waits, key=lambda wait: wait.deadline)
        self.loop.now = wait.deadline
        return wait

    def check(self, wait, expected):
        assert wait.task.done()
        assert outcome(wait.task.result) == expected

    def cancel(self, wait, then=None):
        """Cancel it; ``then()`` is called before it has noticed."""
        assert wait.task.cancel()
        told = None if then is None else then()
        self.loop.settle()
        assert wait.task.cancelled()
        return told


class QueueStepMachine(StepMachine):
    """Of one queue, whose model is `model`."""

    def wait_to_get(self, how, most, get, get_many):
        if how == "get":
            return Wait(how, None, self.start(get()))
        if how == "get_many":
            return Wait(how, most, self.start(get_many(most)))
        seconds, deadline = self.time_out()
        task = self.start(get_many(most, max_wait=seconds))
        return Wait(how, most, task, deadline=deadline)

    @precondition(lambda self: any(wait.deadline for wait in self.model.getting))
    @rule()
    def pass_time(self):
        wait = self.pass_time_until(wait for wait in self.model.getting if wait.deadline)
        self.loop.settle()
        self.check(wait, self.model.expire(wait))
        self.settle()


flags = st.booleans()


class QueueMachine(QueueStepMachine):
    """One who puts and one who gets, or several: queues, rings, and a broadcast's one reader."""

    @initialize(
        kind=st.sampled_from(["queue", "ring", "reader", "ring of a reader"]),
        maxsize=st.integers(0, 3),
    )
    def make(self, kind, maxsize):
        self.overwrites = "ring" in kind
        if self.overwrites:
            maxsize = max(1, maxsize)
        self.has_reader = "reader" in kind
        if self.has_reader:
            self.puts = Broadcast(maxsize, "drop_oldest" if self.overwrites else "block")
            self.gets = self.puts.subscribe()
        else:
            self.puts = self.gets = RingQueue(maxsize) if self.overwrites else MessageQueue(maxsize)
        self.model = Model(MessageQueue, maxsize)

    def settle(self):
        self.loop.settle()
        model = self.model
        for wait, expected in model.settle():
            self.check(wait, expected)
        assert self.puts.getting == len(model.getting)
        assert self.puts.putting == len(model.putting)
        there = len(model.items) if self.has_reader else model.for_newcomers()
        assert self.gets.qsize() == there
        if not self.has_reader:
            assert self.puts.full() == model.full()

    def may_get(self):
        """Which of two who wait at a reader gets an item is not said."""
        return not (self.has_reader and self.model.getting)

    @rule(how=st.sampled_from(["put_nowait", "sync_put", "overwrite"]), inside=flags)
    def put_now(self, how, inside):
        item, model = next(self.numbers), self.model
        overwrites = self.overwrites or (how == "overwrite" and not self.has_reader)
        if model.is_down:
            expected = QueueShutDown
        elif overwrites:
            expected = model.overwrite(item)
        elif model.full() or model.putting:
            expected = QueueFull
        else:
            expected = model.put(item)
        if how == "sync_put":
            found = self.act(inside, self.puts.sync_put, item, timeout=0)
        elif how == "overwrite" and not self.has_reader:
            found = self.act(inside, self.puts.put_nowait, item, overwrite=True)
        else:
            found = self.act(inside, self.puts.put_nowait, item)
        assert found == expected
        self.settle()

    @precondition(lambda self: self.overwrites and not self.has_reader)
    @rule(inside=flags)
    def put_what_must_not_overwrite(self, inside):
        item, model = next(self.numbers), self.model
        if model.is_down:
            expected = QueueShutDown
        else:
            expected = QueueFull if model.full() else model.put(item)
        assert self.act(inside, self.puts.put_nowait, item, overwrite=False) == expected
        self.settle()

    @rule()
    def put(self):
        item, model = next(self.numbers), self.model
        wait = Wait("put", item, self.start(self.puts.put(item)))
        if self.overwrites and not model.is_down:
            model.overwrite(item)
            self.loop.settle()
            self.check(wait, None)
        else:
            model.putting.append(wait)
        self.settle()

    @precondition(may_get)
    @rule(how=st.sampled_from(["get", "get_many", "get_batch"]), most=st.integers(1, 4))
    def get(self, how, most):
        self.model.getting.append(self.wait_to_get(how, most, self.gets.get, self.gets.get_many))
        self.settle()

    @precondition(may_get)
    @rule(
        how=st.sampled_from(["get_nowait", "sync_get", "get_many_nowait", "sync_get_many"]),
        most=st.integers(1, 3),
        inside=flags,
    )
    def get_now(self, how, most, inside):
        model = self.model
        if "many" in how:
            expected = model.get_many(most) if model.for_newcomers() else []
        else:
            expected = model.get() if model.for_newcomers() else []
        if expected == []:
            is_over = model.is_down and not model.items
            expected = QueueShutDown if is_over else QueueEmpty
        arguments = (most,) if "many" in how else ()
        options = {"timeout": 0} if "sync" in how else {}
        assert self.act(inside, getattr(self.gets, how), *arguments, **options) == expected
        self.settle()

    @rule(data=st.data(), puts=flags)
    def cancel_one(self, data, puts):
        """And put before it has noticed: what was for it is the next one's."""
        model = self.model
        if not model.getting + model.putting:
            return
        wait = data.draw(st.sampled_from(model.getting + model.putting))
        (model.putting if wait.how == "put" else model.getting).remove(wait)
        item = next(self.numbers) if puts and not model.is_down and not model.full() else None
        if item is None or model.putting:
            self.cancel(wait)
        else:
            model.put(item)
            self.cancel(wait, lambda: self.puts.put_nowait(item))
        self.settle()

    # Rarely: nothing much happens afterwards.
    @rule(immediate=flags, really=st.integers(0, 6), inside=flags)
    def shutdown(self, immediate, really, inside):
        if really:
            return
        if immediate:
            self.model.drop()
        self.model.is_down = True
        self.act(inside, self.puts.shutdown, immediate)
        self.settle()


class ChannelMachine(QueueStepMachine):
    @initialize(maxsize=st.integers(0, 3), senders=st.integers(1, 3), receivers=st.integers(1, 3))
    def make(self, maxsize, senders, receivers):
        sender, receiver = open_channel(maxsize)
        # Also those that are closed.
        self.senders = [sender, *(sender.clone() for _ in range(senders - 1))]
        self.receivers = [receiver, *(receiver.clone() for _ in range(receivers - 1))]
        self.queue = sender._queue
        self.model = Model(MessageQueue, maxsize)

    def waits(self):
        return self.model.getting + self.model.putting

    def settle(self):
        self.loop.settle()
        for wait, expected in self.model.settle():
            if expected is QueueShutDown:
                expected = BrokenResourceError if wait.how == "put" else EndOfChannel
            self.check(wait, expected)
        assert self.queue.getting == len(self.model.getting)
        assert self.queue.putting == len(self.model.putting)
        for end in self.senders + self.receivers:
            assert end.qsize() == self.model.for_newcomers()

    def draw(self, data, ends):
        # By number: hypothesis keeps what it draws from, and an end that is dropped must go.
        return ends[data.draw(st.integers(0, len(ends) - 1))] if ends else None

    def is_open(self, ends):
        return any(not end.closed for end in ends)

    @rule(data=st.data(), how=st.sampled_from(["send_nowait", "sync_send"]), inside=flags)
    def send_now(self, data, how, inside):
        sender, item, model = self.draw(data, self.senders), next(self.numbers), self.model
        if sender is None:
            return
        if sender.closed:
            expected = ClosedResourceError
        elif not self.is_open(self.receivers):
            expected = BrokenResourceError
        elif model.full() or model.putting:
            expected = QueueFull
        else:
            expected = model.put(item)
        options = {} if how == "send_nowait" else {"timeout": 0}
        assert self.act(inside, getattr(sender, how), item, **options) == expected
        self.settle()

    @rule(data=st.data())
    def send(self, data):
        sender, item = self.draw(data, self.senders), next(self.numbers)
        if sender is None:
            return
        wait = Wait("put", item, self.start(sender.send(item)), end=sender)
        self.wait(wait, self.model.putting)

    @rule(
        data=st.data(),
        how=st.sampled_from(["get", "get_many", "get_batch"]),
        most=st.integers(1, 4),
    )
    def receive(self, data, how, most):
        receiver = self.draw(data, self.receivers)
        if receiver is None:
            return
        wait = self.wait_to_get(how, most, receiver.receive, receiver.receive_many)
        wait.end = receiver
        self.wait(wait, self.model.getting)

    def wait(self, wait, line):
        if wait.end.closed:
            self.loop.settle()
            self.check(wait, ClosedResourceError)
        else:
            line.append(wait)
        self.settle()

    @rule(
        data=st.data(),
        how=st.sampled_from(["receive_nowait", "sync_receive", "sync_receive_many"]),
        most=st.integers(1, 3),
        inside=flags,
    )
    def receive_now(self, data, how, most, inside):
        receiver, model = self.draw(data, self.receivers), self.model
        if receiver is None:
            return
        if receiver.closed:
            expected = ClosedResourceError
        elif model.for_newcomers():
            expected = model.get_many(most) if "many" in how else model.get()
        else:
            is_over = model.is_down and not model.items
            expected = EndOfChannel if is_over else QueueEmpty
        arguments = (most,) if "many" in how else ()
        options = {"timeout": 0} if "sync" in how else {}
        assert self.act(inside, getattr(receiver, how), *arguments, **options) == expected
        self.settle()

    @precondition(lambda self: self.waits())
    @rule(data=st.data())
    def cancel_one(self, data):
        wait = self.draw(data, self.waits())
        (self.model.putting if wait.how == "put" else self.model.getting).remove(wait)
        self.cancel(wait)
        self.settle()

    @precondition(lambda self: len(self.senders) + len(self.receivers) < 7)
    @rule(data=st.data())
    def clone(self, data):
        ends = self.senders + self.receivers
        end = self.draw(data, ends)
        if end is None:
            return
        clone = outcome(end.clone)
        if end.closed:
            assert clone is ClosedResourceError
        else:
            (self.senders if end in self.senders else self.receivers).append(clone)
        self.settle()

    def end_of_side(self):
        """As it is in the model, when an end has been closed or dropped."""
        model = self.model
        if not self.is_open(self.receivers):
            model.drop()
            model.is_down = True
        elif not self.is_open(self.senders):
            model.is_down = True
        self.settle()

    # Rarely: nothing much happens when all are closed.
    @rule(data=st.data(), really=st.integers(0, 2), inside=flags)
    def close(self, data, really, inside):
        end = self.draw(data, self.senders + self.receivers)
        if end is None or really:
            return
        self.act(inside, end.close)
        self.loop.settle()
        for wait in self.waits():
            if wait.end is end:
                (self.model.putting if wait.how == "put" else self.model.getting).remove(wait)
                self.check(wait, ClosedResourceError)
        self.end_of_side()

    @rule(data=st.data(), really=st.integers(0, 2))
    def drop(self, data, really):
        if really:
            return
        busy = [wait.end for wait in self.waits()]
        ends = [
            (side, place)
            for side in (self.senders, self.receivers)
            for place, end in enumerate(side)
            if end not in busy
        ]
        chosen = self.draw(data, ends)
        if chosen is not None:
            side, place = chosen
            del side[place]
            gc.collect()  # the traceback of an earlier error may have it
            self.end_of_side()

    @rule(data=st.data())
    def send_and_close(self, data):
        """Who was promised the item gets it, though its end is closed meanwhile."""
        model = self.model
        open_senders = [end for end in self.senders if not end.closed]
        if not open_senders or not model.getting or model.getting[0].how != "get":
            return
        wait = model.getting[0]
        if all(end.closed or end is wait.end for end in self.receivers):
            return
        sender, item = self.draw(data, open_senders), next(self.numbers)

        def both():
            sender.send_nowait(item)
            wait.end.close()

        self.act(True, both)
        model.getting.pop(0)
        self.loop.settle()
        self.check(wait, item)
        for other in self.waits():
            if other.end is wait.end:
                model.getting.remove(other)
                self.check(other, ClosedResourceError)
        self.end_of_side()


class Source:
    """What a `select` may ask, with its model."""

    def __init__(self, kind, maxsize):
        self.model = Model(MessageQueue, maxsize)
        if kind == "queue":
            self.asked = MessageQueue(maxsize)
            self.put, self.get = self.asked.put_nowait, self.asked.get
            self.get_nowait, self.end = self.asked.get_nowait, self.asked.shutdown
            self.getting = lambda: self.asked.getting
        elif kind == "view":
            queue = MessageQueue(maxsize)
            self.asked = queue.async_q
            self.put, self.get = self.asked.put_nowait, self.asked.get
            self.get_nowait, self.end = self.asked.get_nowait, queue.shutdown
            self.getting = lambda: queue.getting
        elif kind == "reader":
            broadcast = Broadcast(maxsize)
            self.asked = broadcast.subscribe()
            self.put, self.get = broadcast.put_nowait, self.asked.get
            self.get_nowait, self.end = self.asked.get_nowait, broadcast.shutdown
            self.getting = lambda: broadcast.getting
        else:
            sender, self.asked = open_channel(maxsize)
            self.put, self.get = sender.send_nowait, self.asked.receive
            self.get_nowait, self.end = self.asked.receive_nowait, sender.close
            self.getting = lambda: sender._queue.getting


class SelectMachine(StepMachine):
    @initialize(
        kinds=st.lists(
            st.tuples(st.sampled_from(["queue", "view", "reader", "channel"]), st.integers(0, 2)),
            min_size=2,
            max_size=4,
        )
    )
    def make(self, kinds):
        self.sources = [Source(*each) for each in kinds]

    def selects(self):
        """Those that wait, each once."""
        waits = [wait for source in self.sources for wait in source.model.getting]
        return [wait for wait in dict.fromkeys(waits) if wait.how == "select"]

    def leave(self, wait):
        for source in self.sources:
            if wait in source.model.getting:
                source.model.getting.remove(wait)

    def settle(self):
        self.loop.settle()
        for source in self.sources:
            for wait, expected in source.model.settle():
                if wait.how == "get":
                    found = outcome(wait.task.result)
                    assert found == expected or (found is EndOfChannel and source.model.is_down)
                elif expected is not QueueShutDown:
                    self.leave(wait)
                    assert wait.task.result() == (source.asked, expected)
                elif wait not in self.selects():
                    self.check(wait, QueueShutDown)
        for source in self.sources:
            assert source.getting() == len(source.model.getting)

    def expected(self):
        """What a select finds at once: any of the results, or the error; None if it waits."""
        there = [
            (source.asked, source.model.items[0])
            for source in self.sources
            if source.model.for_newcomers()
        ]
        if there:
            return there
        is_over = all(source.model.is_down for source in self.sources)
        return [QueueShutDown] if is_over else None

    def take(self, found):
        for source in self.sources:
            if isinstance(found, tuple) and source.asked is found[0]:
                source.model.get()

    @rule(has_time_out=flags)
    def select(self, has_time_out):
        seconds, deadline = self.time_out() if has_time_out else (None, None)
        task = self.start(select(*(source.asked for source in self.sources), timeout=seconds))
        expected = self.expected()
        wait = Wait("select", None, task, deadline=deadline)
        if expected is None:
            for source in self.sources:
                if not source.model.is_down:
                    source.model.getting.append(wait)
        else:
            self.loop.settle()
            found = outcome(task.result)
            assert found in expected
            self.take(found)
        self.settle()

    @rule(inside=flags)
    def select_now(self, inside):
        expected = self.expected() or [SelectTimeout]
        asked = [source.asked for source in self.sources]
        found = self.act(inside, sync_select, *asked, timeout=0)
        assert found in expected
        self.take(found)
        self.settle()

    @rule(data=st.data(), inside=flags)
    def put(self, data, inside):
        source = data.draw(st.sampled_from(self.sources))
        item, model = next(self.numbers), source.model
        if model.is_down:
            found = self.act(inside, source.put, item)
            assert found in (QueueShutDown, ClosedResourceError)
        else:
            expected = QueueFull if model.full() else model.put(item)
            assert self.act(inside, source.put, item) == expected
        self.settle()

    @rule(data=st.data(), inside=flags)
    def put_into_two(self, data, inside):
        """Before the select that is the first in both lines has looked: it takes one of the items,
        and the other is the next one's in line."""
        firsts = [
            source
            for source in self.sources
            if source.model.getting and source.model.getting[0].how == "select"
        ]
        pairs = [
            (a, b)
            for a, b in itertools.combinations(firsts, 2)
            if a.model.getting[0] is b.model.getting[0]
        ]
        if not pairs:
            return
        pair = pairs[data.draw(st.integers(0, len(pairs) - 1))]
        wait = pair[0].model.getting[0]

        def put_both():
            for source in pair:
                source.model.put(next(self.numbers))
                source.put(source.model.items[-1])

        self.act(inside, put_both)
        self.loop.settle()
        found = wait.task.result()
        assert found in [(source.asked, source.model.items[0]) for source in pair]
        self.leave(wait)
        self.take(found)
        self.settle()

    @rule(data=st.data())
    def get(self, data):
        source = data.draw(st.sampled_from(self.sources))
        source.model.getting.append(Wait("get", None, self.start(source.get())))
        self.settle()

    @rule(data=st.data(), inside=flags)
    def get_now(self, data, inside):
        source = data.draw(st.sampled_from(self.sources))
        model = source.model
        found = self.act(inside, source.get_nowait)
        if model.for_newcomers():
            assert found == model.get()
        else:
            assert found in ([QueueShutDown, EndOfChannel] if model.is_down else [QueueEmpty])
        self.settle()

    @precondition(lambda self: any(wait.deadline for wait in self.selects()))
    @rule()
    def pass_time(self):
        wait = self.pass_time_until(wait for wait in self.selects() if wait.deadline)
        self.leave(wait)
        self.loop.settle()
        self.check(wait, SelectTimeout)
        self.settle()

    @precondition(lambda self: self.selects())
    @rule(data=st.data(), puts=flags)
    def cancel_one(self, data, puts):
        """And put before it has noticed: what was for it is the next one's."""
        wait = data.draw(st.sampled_from(self.selects()))
        self.leave(wait)
        item = next(self.numbers)

        def put_everywhere():
            for source in self.sources:
                if not source.model.is_down and not source.model.full():
                    source.model.put(item)
                    source.put(item)

        # Two selects would be promised an item of each: which takes which is not said.
        self.cancel(wait, put_everywhere if puts and not self.selects() else None)
        self.settle()

    # Rarely: nothing much happens to it afterwards.
    @rule(data=st.data(), really=st.integers(0, 4), inside=flags)
    def shutdown(self, data, really, inside):
        if really:
            return
        source = data.draw(st.sampled_from(self.sources))
        self.act(inside, source.end)
        source.model.is_down = True
        self.settle()


class ModelReader:
    """Of a latest value: what it gets next, if anything."""

    def __init__(self, reader, pending):
        self.reader, self.pending = reader, pending
        self.missed, self.wait = 0, None


class LatestMachine(StepMachine):
    def __init__(self):
        super().__init__()
        self.latest = Latest()
        self.values, self.waits, self.readers = [], [], []
        self.is_down = self.is_over = False

    def value(self):
        """The newest in a list, or nothing."""
        return [] if self.is_over else self.values[-1:]

    def why_nothing(self):
        return QueueShutDown if self.is_down else QueueEmpty

    def settle(self):
        self.loop.settle()
        over = [wait for wait in self.waits if self.is_down]
        for wait in over:
            self.waits.remove(wait)
            self.check(wait, QueueShutDown)
        for each in self.readers:
            if each.wait is not None and (each.pending or self.is_down):
                self.check(each.wait, each.pending.pop() if each.pending else QueueShutDown)
                each.wait = None
            assert each.reader.qsize() == len(each.pending)
            if not self.is_over:
                assert each.reader.missed == each.missed
        waiting = sum(each.wait is not None for each in self.readers) + len(self.waits)
        assert self.latest.getting == waiting
        readers = 0 if self.is_over else len(self.readers) + len(self.waits)
        assert self.latest.readers == readers

    @rule(how=st.sampled_from(["put_nowait", "sync_put", "put"]), inside=flags)
    def put(self, how, inside):
        value = next(self.numbers)
        if how == "put":
            wait = Wait(how, value, self.start(self.latest.put(value)))
            self.loop.settle()
            found = outcome(wait.task.result)
        else:
            found = self.act(inside, getattr(self.latest, how), value)
            self.loop.settle()
        assert found == (QueueShutDown if self.is_down else None)
        if not self.is_down:
            self.values.append(value)
            for wait in self.waits:
                self.check(wait, value)
            self.waits.clear()
            for each in self.readers:
                each.missed += len(each.pending)
                each.pending = [value]
        self.settle()

    @rule(how=st.sampled_from(["get", "get_newer"]))
    def get(self, how):
        wait = Wait(how, None, self.start(getattr(self.latest, how)()))
        if how == "get" and self.value():
            self.loop.settle()
            self.check(wait, self.value()[0])
        else:
            self.waits.append(wait)
        self.settle()

    @rule(how=st.sampled_from(["get_nowait", "sync_get", "sync_get_newer"]), inside=flags)
    def get_now(self, how, inside):
        expected = self.why_nothing()
        if how != "sync_get_newer" and self.value():
            expected = self.value()[0]
        options = {"timeout": 0} if "sync" in how else {}
        assert self.act(inside, getattr(self.latest, how), **options) == expected
        self.settle()

    @precondition(lambda self: len(self.readers) < 4)
    @rule(replay=st.sampled_from([None, 0, 1, 3]))
    def subscribe(self, replay):
        pending = [] if replay == 0 else self.value()
        self.readers.append(ModelReader(self.latest.subscribe(replay), pending))
        self.settle()

    @rule(data=st.data(), waits=flags, inside=flags)
    def read(self, data, waits, inside):
        idle = [each for each in self.readers if each.wait is None]
        if not idle:
            return
        each = idle[data.draw(st.integers(0, len(idle) - 1))]
        if waits:
            each.wait = Wait("read", None, self.start(each.reader.get()))
        else:
            expected = each.pending.pop() if each.pending else self.why_nothing()
            assert self.act(inside, each.reader.get_nowait) == expected
        self.settle()

    @precondition(lambda self: self.waits)
    @rule(data=st.data())
    def cancel_one(self, data):
        wait = self.waits.pop(data.draw(st.integers(0, len(self.waits) - 1)))
        self.cancel(wait)
        self.settle()

    @rule(data=st.data(), inside=flags)
    def close(self, data, inside):
        if not self.readers:
            return
        each = self.readers.pop(data.draw(st.integers(0, len(self.readers) - 1)))
        self.act(inside, each.reader.close)
        self.loop.settle()
        assert each.reader.closed
        if each.wait is not None:
            self.check(each.wait, QueueShutDown)
        self.settle()

    # Rarely: nothing much happens afterwards.
    @rule(immediate=flags, really=st.integers(0, 6), inside=flags)
    def shutdown(self, immediate, really, inside):
        if really:
            return
        self.is_down = True
        if immediate:
            self.is_over = True
            for each in self.readers:
                each.pending = []
        self.act(inside, self.latest.shutdown, immediate)
        self.settle()


TestQueue = alone(QueueMachine.TestCase)
TestQueue.settings = SETTINGS
TestChannel = alone(ChannelMachine.TestCase)
TestChannel.settings = SETTINGS
TestSelect = alone(SelectMachine.TestCase)
TestSelect.settings = SETTINGS
TestLatest = alone(LatestMachine.TestCase)
TestLatest.settings = SETTINGS
