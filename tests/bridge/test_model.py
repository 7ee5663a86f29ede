"""Random programs do what the model of docs/guarantees.md foretells: see `programs` and `model`.

What runs here takes two seconds; ``python tests/tools/model.py`` runs as many as one likes, and
asgiref.
"""

from __future__ import annotations

import logging
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import model
import programs
from asgibridge import sync
from asgibridge._kernel import kernel
from asgibridge._loops import shared


@pytest.fixture(autouse=True)
def _quiet(caplog):
    # asyncio tells of errors in tasks that a program drops on purpose.
    logger = logging.getLogger("asyncio")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


running = {}


def difference(program, is_shared=False):
    """Where the trace is another than the one foretold; None if nowhere, or if it can only hang."""
    try:
        expected = model.foretell(program, is_shared)
    except model.Unfit:
        return None
    if is_shared not in running:
        running[is_shared] = programs.Running("asgibridge", is_shared)
    trace = running[is_shared].run(program)
    for path in dict.fromkeys([*expected, *trace]):
        if trace.get(path) != expected.get(path):
            return path, expected.get(path), trace.get(path)
    return programs.check(running[is_shared]) or None


LOOPS = pytest.mark.parametrize("is_shared", [False, True], ids=["own loops", "shared loop"])


@LOOPS
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.randoms(use_true_random=False), st.integers(1, 30))
def test_programs_of_hypothesis(is_shared, choices, depth):
    program = programs.Generator(choices, depth=depth).program()
    assert difference(program, is_shared) is None, program


@pytest.mark.not_quick
@LOOPS
def test_seeded_programs(is_shared):
    for seed in range(400):
        program = programs.Generator(random.Random(f"test/{seed}")).program()
        assert difference(program, is_shared) is None, program


def test_a_program_as_deep_as_can_be():
    """Sync and async frames in turn, thirty of each, and what the innermost does comes back out."""
    frame = (("set", "x", 1), ("local", "a", 2), ("raise", "Error", 3))
    for _ in range(30):
        frame = (("bridge", (("hop", frame, False),), False),)
    program = ("sync", (*frame[:-1], (*frame[-1][:-1], True)))
    assert difference(program) is None
    seen = model.foretell(program)[()]
    assert seen[1] == ("Error", "3")
    assert seen[2][2:5] == (1, None, 2)


def finds(monkeypatch, owner, name, replacement, is_shared=False):
    monkeypatch.setattr(owner, name, replacement)
    for seed in range(300):
        program = programs.Generator(random.Random(seed), depth=6).program()
        if difference(program, is_shared) is not None:
            return True
    return False


# A thread's call on the shared loop leaves a task behind, which runs when that has returned.
TASK = ("late", (("hop", (("look",),), False),), False)
ANOTHER = ("thread", (("bridge", (TASK,), False),), False)
LEFT_BEHIND = ("sync", (("bridge", (("hop", (ANOTHER,), False),), False),))


class TestItCanFail:
    """A bridge with a fault is found."""

    def test_context_variables_that_do_not_come_back(self, monkeypatch):
        assert finds(monkeypatch, sync.kernel, "restore_context", lambda *_: None)

    def test_a_new_loop_where_there_is_one(self, monkeypatch):
        assert finds(monkeypatch, sync.kernel, "awaiting", lambda _: (None, None))

    def test_a_thread_that_is_somebody_elses(self, monkeypatch):
        def process_thread(self):
            return sync.SyncToAsync.single_thread_executor

        made = sync.kernel.ThreadSensitiveExecutor()
        monkeypatch.setattr(sync.ThreadSensitiveContext, "_left", made, raising=False)
        monkeypatch.setattr(sync.ThreadSensitiveContext, "__aexit__", _leave_nothing)
        everybodys = {"get": lambda _, __=None: made}
        assert finds(
            monkeypatch,
            sync.SyncToAsync,
            "context_to_thread_executor",
            type("Everybodys", (), everybodys)(),
        )
        made.shutdown()

    def test_a_loop_that_is_not_shared(self, monkeypatch):
        assert finds(monkeypatch, shared.SharedLoop, "_runs_on", lambda _: None, is_shared=True)

    def test_a_shared_loop_that_is_at_home_with_one_caller(self, monkeypatch):
        monkeypatch.setattr(shared._LoopOfProcess, "is_shared", False)
        assert finds(
            monkeypatch,
            kernel,
            "home_of_contexts",
            lambda _: kernel.current_home(),
            is_shared=True,
        )

    def test_a_released_context_that_keeps_its_thread(self, monkeypatch):
        async def keeps(_self, _context):
            pass

        assert finds(monkeypatch, programs.Running, "has_let_go", keeps)


async def _leave_nothing(self, *_):
    if self.token is not None:
        sync.SyncToAsync.thread_sensitive_context.reset(self.token)
        self.token = None


class TestTheModel:
    def test_knows_what_can_only_hang(self):
        """A thread that waits for foreign code, which waits for that thread."""
        loop = (("hop", (), False),)
        with pytest.raises(model.Unfit):
            model.foretell(
                ("async", (("hop", (("thread", (("run", loop, False),), False),), False),))
            )

    def test_knows_what_would_deadlock(self):
        program = ("async", (("hop", (("run", (("hop", (), True),), False),), False),))
        assert ("RuntimeError", "deadlock") in model.foretell(program)[(0, 0)]
        assert difference(program) is None

    def test_shrinks_a_program_to_what_counts(self):
        program = programs.Generator(random.Random(7)).program()
        while not model.steps_of(program)["thread"]:
            program = programs.Generator(random.Random(str(program))).program()
        small = model.shrink(program, lambda each: model.steps_of(each)["thread"] > 0, seconds=2)
        assert model.steps_of(small)["thread"] == 1
        assert sum(model.steps_of(small).values()) < 30


class TestTheSharedLoop:
    def test_a_task_whose_caller_has_gone(self):
        """It goes on for those further out, and its sync code runs on the process's thread."""
        assert difference(LEFT_BEHIND, is_shared=True) is None
        seen = model.foretell(LEFT_BEHIND, is_shared=True)
        assert seen[(0, 0, 0, 0, 0, 0)][0][:2] == ("process", None)

    def test_knows_that_a_thread_for_which_the_loop_waits_may_need_it(self):
        other = ("thread", (("bridge", (), False),), False)
        program = ("sync", (("bridge", (("inline", (other,), False),), False),))
        assert difference(program) is None
        with pytest.raises(model.Unfit):
            model.foretell(program, is_shared=True)


def test_a_context_that_idles():
    hops = (("hop", (("critical", "a", 1),), False), ("hop", (), False))
    program = ("async", (("released", hops, (("hop", (), False),), False),))
    assert difference(program) is None
    seen = model.foretell(program)
    threads = [seen[(0, part, hop)][0][0] for part, hop in ((0, 0), (0, 1), (1, 0))]
    assert threads == ["released@(0,)", "released@(0,)", "released@(0,)~"]
    kept = [seen[(0, part, hop)][0][6] for part, hop in ((0, 1), (1, 0))]
    assert kept == [1, None]


class TestUnlikeAsgiref:
    """What the model has shown, beside what other tests are about."""

    def test_a_thread_goes_on_working_for_its_loop_after_a_call_on_another(self):
        """asgiref's remembers that other loop, though it is closed, and starts a new one."""
        back_here = ("new loop", (("hop", (), False),), False)
        program = ("async", (("hop", (back_here, ("bridge", (), False)), False),))
        assert difference(program) is None
        assert model.foretell(program)[(0, 1)][0][:2] == ("main", "loop@()")
