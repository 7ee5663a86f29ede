"""A queue and a plain model of one, step by step: threads and tasks of two loops, in any mix.

After each step everybody who could go on has done so, with the outcome that the model says, and
everybody else still waits. The model is one thread's, and knows no promise: who waits is served in
order, at once.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import CancelledError

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from asgibridge.queue import (
    LifoQueue,
    MessageQueue,
    PriorityQueue,
    QueueEmpty,
    QueueFull,
    QueueShutDown,
)
from queue_model import SETTINGS, Model, alone
from queues import SECONDS, in_thread, on_loop, running_loop, until


class Wait:
    """A call that need not be over: of a thread (``loop`` is None) or a task."""

    def __init__(self, queue, how, argument, loop):
        self.how, self.argument, self.loop = how, argument, loop
        arguments = () if argument is None else (argument,)
        options = {}
        if how == "get_batch":
            how, options = "get_many", {"max_wait": 10 * SECONDS}
        if loop is None:
            self.future = in_thread(getattr(queue, f"sync_{how}"), *arguments, **options)
        else:
            self.future = on_loop(loop, getattr(queue, how)(*arguments, **options))

    def __repr__(self):
        return f"{self.how}({self.argument})"


places = st.integers(0, 2)
sizes = st.integers(0, 3)


class QueueMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.loops = [None, *(self.stack.enter_context(running_loop()) for _ in range(2))]
        self.numbers = iter(range(1_000_000))

    @initialize(kind=st.sampled_from([MessageQueue, LifoQueue, PriorityQueue]), maxsize=sizes)
    def make(self, kind, maxsize):
        self.queue, self.model = kind(maxsize), Model(kind, maxsize)

    def next_item(self):
        number = next(self.numbers)
        return (number * 7 % 10, number)

    def settle(self):
        for wait, outcome in self.model.settle():
            if outcome is QueueShutDown:
                assert type(wait.future.exception(SECONDS)) is QueueShutDown
            else:
                assert wait.future.result(SECONDS) == outcome
        model = self.model
        until(lambda: self.queue.getting == len(model.getting))
        until(lambda: self.queue.putting == len(model.putting))
        assert self.queue.qsize() == model.for_newcomers()
        assert self.queue.empty() == (not model.for_newcomers())
        assert self.queue.full() == model.full()
        assert self.queue.unfinished_tasks == model.unfinished
        if model.for_newcomers():
            assert self.queue.peek_nowait() == model.first()

    def start(self, line, how, argument, place):
        line.append(Wait(self.queue, how, argument, self.loops[place]))
        self.settle()

    def outcome(self, call, *arguments):
        try:
            return call(*arguments)
        except (QueueEmpty, QueueFull, QueueShutDown) as error:
            return type(error)

    @rule(place=places)
    def put(self, place):
        self.start(self.model.putting, "put", self.next_item(), place)

    def nobody_waits_for_a_batch(self):
        return not any(wait.how == "get_batch" for wait in self.model.getting)

    # Who gets at the same moment gets in any order: so nobody comes behind a batch, which leaves
    # many items to them when it is cancelled.
    @precondition(nobody_waits_for_a_batch)
    @rule(how=st.sampled_from(["get", "peek"]), place=places)
    def get(self, how, place):
        self.start(self.model.getting, how, None, place)

    # Who may put at the same moment does so in any order, which no model foresees: hence the
    # conditions of those that make room for many.
    @precondition(lambda self: len(self.model.putting) <= 1 and self.nobody_waits_for_a_batch())
    @rule(how=st.sampled_from(["get_many", "get_batch"]), most=st.integers(1, 3), place=places)
    def get_many(self, how, most, place):
        self.start(self.model.getting, how, most, place)

    @rule(place=places)
    def join(self, place):
        self.model.joining.append(Wait(self.queue, "join", None, self.loops[place]))
        self.settle()

    @rule()
    def put_nowait(self):
        item, model = self.next_item(), self.model
        expected = None
        if model.is_down:
            expected = QueueShutDown
        elif model.full():
            expected = QueueFull
        else:
            model.put(item)
        assert self.outcome(self.queue.put_nowait, item) == expected
        self.settle()

    @precondition(lambda self: self.model.kind is MessageQueue)
    @rule()
    def overwrite(self):
        item, model = self.next_item(), self.model
        expected = QueueShutDown if model.is_down else None
        if not model.is_down:
            model.overwrite(item)
        assert self.outcome(self.queue.put_nowait, item, True) == expected
        self.settle()

    @rule()
    def get_nowait(self):
        model = self.model
        if model.for_newcomers():
            expected = model.get()
        else:
            expected = QueueShutDown if model.is_down else QueueEmpty
        assert self.outcome(self.queue.get_nowait) == expected
        self.settle()

    @rule()
    def task_done(self):
        if self.model.unfinished:
            self.model.unfinished -= 1
            self.queue.task_done()
            self.settle()

    @rule(data=st.data())
    def cancel(self, data):
        model = self.model
        tasks = [wait for wait in model.getting + model.putting if wait.loop is not None]
        if not tasks:
            return
        wait = data.draw(st.sampled_from(tasks))
        (model.putting if wait.how == "put" else model.getting).remove(wait)
        assert wait.future.cancel()
        try:
            wait.future.result(SECONDS)
        except CancelledError:
            pass
        self.settle()

    @precondition(lambda self: len(self.model.putting) <= 1)
    @rule(maxsize=sizes)
    def resize(self, maxsize):
        self.model.maxsize = self.queue.maxsize = maxsize
        self.settle()

    @precondition(lambda self: len(self.model.putting) <= 1)
    @rule()
    def clear(self):
        self.model.drop()
        self.queue.clear()
        self.settle()

    # Rarely: nothing much happens afterwards.
    @rule(immediate=st.booleans(), really=st.integers(0, 4))
    def shutdown(self, immediate, really):
        if really:
            return
        if immediate:
            self.model.drop()
        self.model.is_down = True
        self.queue.shutdown(immediate)
        self.settle()

    def teardown(self):
        try:
            if hasattr(self, "queue"):
                self.queue.close()
                while self.queue.unfinished_tasks:
                    self.queue.task_done()
        finally:
            self.stack.close()


TestQueue = alone(QueueMachine.TestCase)
TestQueue.settings = SETTINGS
