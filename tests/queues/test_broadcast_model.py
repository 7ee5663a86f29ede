"""A broadcast and a plain model of one, step by step: threads and tasks of two loops, in any mix.

As in test_queue_model.py, everybody who could go on after a step has done so, with the outcome that
the model says. A reader has one get that waits at most: which of two gets an item is not said.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import CancelledError

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from asgibridge.queue import Broadcast, QueueEmpty, QueueFull, QueueShutDown, ReaderLagged
from queue_model import SETTINGS, alone
from queues import SECONDS, in_thread, on_loop, running_loop, until


class ModelReader:
    def __init__(self, reader, place):
        self.reader, self.place = reader, place
        self.missed, self.end = 0, None
        self.waiting = None


class Model:
    """What a broadcast is, if there were no threads."""

    def __init__(self, maxsize, lag, replay):
        self.maxsize, self.lag, self.replay = maxsize, lag, replay
        self.items, self.readers, self.putting = [], [], []
        self.kept_from = self.floor = 0
        self.is_down = self.is_over = False

    def open(self):
        return [reader for reader in self.readers if reader.end is None]

    def head(self):
        return min((reader.place for reader in self.open()), default=len(self.items))

    def needed(self):
        return 0 if self.is_over else len(self.items) - self.head()

    def full(self):
        return 0 < self.maxsize <= self.needed()

    def note_kept(self):
        kept = min(len(self.items) - self.replay, self.head())
        self.kept_from = max(self.kept_from, kept)

    def put(self, item):
        while self.lag != "block" and self.full():
            head = self.head()
            for reader in self.open():
                if reader.place == head:
                    reader.place += 1
                    reader.missed += 1
                    if self.lag == "disconnect":
                        reader.end = ReaderLagged
            self.floor = head + 1
        self.items.append(item)
        self.note_kept()

    def place_for(self, replay):
        return max(len(self.items) - replay, self.kept_from, self.floor)

    def there(self, reader):
        if reader.end is not None or self.is_over:
            return 0
        return len(self.items) - reader.place

    def get(self, reader, most=1):
        got = self.items[reader.place : reader.place + most]
        reader.place += len(got)
        self.note_kept()
        return got

    def why_nothing(self, reader):
        if self.is_over:
            return QueueShutDown
        if reader.end is not None:
            return reader.end
        return QueueShutDown if self.is_down else QueueEmpty

    def settle(self):
        done = []
        while True:
            before = len(done)
            for reader in self.readers:
                if reader.waiting is None:
                    continue
                how, future = reader.waiting
                if self.there(reader):
                    got = self.get(reader, 2 if how == "get_many" else 1)
                    done.append((future, got if how == "get_many" else got[0]))
                elif self.why_nothing(reader) is not QueueEmpty:
                    done.append((future, self.why_nothing(reader)))
                else:
                    continue
                reader.waiting = None
            if self.putting and (self.is_down or not self.full()):
                item, future = self.putting.pop(0)
                if not self.is_down:
                    self.put(item)
                done.append((future, QueueShutDown if self.is_down else None))
            if len(done) == before:
                return done


places = st.integers(0, 2)


class BroadcastMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.loops = [None, *(self.stack.enter_context(running_loop()) for _ in range(2))]
        self.numbers = iter(range(1_000_000))
        self.tasks = []

    @initialize(
        maxsize=st.integers(0, 3),
        lag=st.sampled_from(["block", "drop_oldest", "disconnect"]),
        replay=st.integers(0, 2),
    )
    def make(self, maxsize, lag, replay):
        if maxsize:
            replay = min(maxsize, replay)
        self.broadcast = Broadcast(maxsize, lag, replay)
        self.model = Model(maxsize, lag, replay)

    def settle(self):
        model, broadcast = self.model, self.broadcast
        for future, outcome in model.settle():
            if isinstance(outcome, type):
                assert type(future.exception(SECONDS)) is outcome
            else:
                assert future.result(SECONDS) == outcome
        getting = sum(reader.waiting is not None for reader in model.readers)
        until(lambda: broadcast.getting == getting)
        until(lambda: broadcast.putting == len(model.putting))
        assert broadcast.readers == (0 if model.is_over else len(model.open()))
        assert broadcast.qsize() == model.needed()
        for reader in model.readers:
            assert reader.reader.qsize() == model.there(reader)
            if not model.is_over:
                assert reader.reader.missed == reader.missed
                assert reader.reader.closed == (reader.end is not None)

    def run_at(self, place, call, sync_call, *args):
        loop = self.loops[place]
        if loop is None:
            return in_thread(sync_call, *args)
        future = on_loop(loop, call(*args))
        self.tasks.append(future)
        return future

    def outcome(self, call, *arguments):
        try:
            return call(*arguments)
        except (QueueEmpty, QueueFull, QueueShutDown, ReaderLagged) as error:
            return type(error)

    def draw(self, data, readers):
        return data.draw(st.sampled_from(range(len(readers)))) if readers else None

    @precondition(lambda self: len(self.model.readers) < 5)
    @rule(replay=st.sampled_from([None, 0, 1, 5]))
    def subscribe(self, replay):
        model = self.model
        place = model.place_for(model.replay if replay is None else replay)
        model.readers.append(ModelReader(self.broadcast.subscribe(replay), place))
        self.settle()

    @rule()
    def put_nowait(self):
        item, model = next(self.numbers), self.model
        expected = None
        if model.is_down:
            expected = QueueShutDown
        elif model.lag == "block" and model.full():
            expected = QueueFull
        else:
            model.put(item)
        assert self.outcome(self.broadcast.put_nowait, item) == expected
        self.settle()

    @rule(place=places)
    def put(self, place):
        item, model = next(self.numbers), self.model
        future = self.run_at(place, self.broadcast.put, self.broadcast.sync_put, item)
        if model.lag != "block" and not model.is_down:
            model.put(item)
            assert future.result(SECONDS) is None
        else:
            model.putting.append((item, future))
        self.settle()

    @rule(data=st.data(), how=st.sampled_from(["get", "get_many"]), place=places)
    def get(self, data, how, place):
        idle = [reader for reader in self.model.readers if reader.waiting is None]
        if how == "get_many" and len(self.model.putting) > 1:
            return  # who may put at the same moment does so in any order
        at = self.draw(data, idle)
        if at is None:
            return
        reader = idle[at].reader
        if how == "get":
            future = self.run_at(place, reader.get, reader.sync_get)
        else:
            future = self.run_at(place, reader.get_many, reader.sync_get_many, 2)
        idle[at].waiting = how, future
        self.settle()

    @rule(data=st.data(), most=st.integers(1, 3))
    def get_nowait(self, data, most):
        model = self.model
        if most > 1 and len(model.putting) > 1:
            return
        at = self.draw(data, model.readers)
        if at is None:
            return
        reader = model.readers[at]
        expected = model.get(reader, most) if model.there(reader) else model.why_nothing(reader)
        assert self.outcome(reader.reader.get_many_nowait, most) == expected
        self.settle()

    @precondition(lambda self: len(self.model.putting) <= 1)
    @rule(data=st.data())
    def close(self, data):
        model = self.model
        at = self.draw(data, model.readers)
        if at is None:
            return
        reader = model.readers[at]
        reader.reader.close()
        reader.end = QueueShutDown
        model.note_kept()
        self.settle()

    @rule(data=st.data())
    def cancel(self, data):
        model = self.model
        waits = [reader.waiting[1] for reader in model.readers if reader.waiting is not None]
        waits += [future for _, future in model.putting]
        tasks = [future for future in waits if future in self.tasks]  # a thread cannot be cancelled
        at = self.draw(data, tasks)
        if at is None:
            return
        future = tasks[at]
        for reader in model.readers:
            if reader.waiting is not None and reader.waiting[1] is future:
                reader.waiting = None
        model.putting = [each for each in model.putting if each[1] is not future]
        assert future.cancel()
        try:
            future.result(SECONDS)
        except CancelledError:
            pass
        self.settle()

    # Rarely: nothing much happens afterwards.
    @rule(immediate=st.booleans(), really=st.integers(0, 6))
    def shutdown(self, immediate, really):
        if really:
            return
        self.model.is_down = True
        self.model.is_over = self.model.is_over or immediate
        self.broadcast.shutdown(immediate)
        self.settle()

    def teardown(self):
        try:
            if hasattr(self, "broadcast"):
                self.broadcast.close()
        finally:
            self.stack.close()


TestBroadcast = alone(BroadcastMachine.TestCase)
TestBroadcast.settings = SETTINGS
