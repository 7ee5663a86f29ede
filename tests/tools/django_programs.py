"""The same random programs on `asgibridge.django.ASGIHandler` and on Django's own ASGIHandler.

    python tests/tools/django_programs.py [--seed N] [--number 10000] [--seconds S]
    python tests/tools/django_programs.py --program TEXT

Each program is a chain of middlewares with views, receivers of signals and requests, all drawn of
a seed of its own: the first from ``--seed``, the next from the number after it. Both handlers are
on asgibridge and run it in one process, one after the other. What the client gets, which exception
reaches the server, which parts ran in which order, on which kind of thread, with which database
connection, context variables and Locals: all that must be the same.

What is different on purpose is in `DIFFERENCES`, and is made alike before the comparison. Nothing
else is. A program that differs is made as small as it can be, and printed with its seed; the exit
status is 1 then. A program that takes too long is printed with all stacks.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import copy
import faulthandler
import itertools
import os
import pprint
import random
import re
import sys
import threading
import time
from collections import Counter
from typing import Any

import asgibridge
from django_running import LEFT, Outcome, Running, Seen, title_of

LIMIT = 60
"""Seconds for one program. Three times as long as any wait in it."""

DIFFERENCES = """
What is different on purpose, is made alike, and so is not compared:

error pages        handler404 and its like, got_request_exception and the log's handlers are called
                   on the request's worker. Django calls them in a thread of the pool if the
                   middleware around is async. The thread, and what belongs to one.
close              response.close() may come before the response is sent. What is sent is compared
                   apart from what runs; the order within each of them counts.
context            request_finished, and what else closes a response, see the context variables
                   and Locals that the request has set, as under WSGI. Django answers in a task of
                   its own, and closes outside of it. These values there.
sending fails      A response that cannot be sent to its end is closed, and the request finished.
                   Django leaves both out. What runs behind the error, but not the error.
instances          There may be two instances of each middleware. How often one is made.
two chains         A middleware that can be sync and async, and is more than hooks, may be called on
                   the worker where Django calls it on the loop. Its thread, and what belongs to
                   one; it sets nothing of a thread's, and does not bridge or wait.
create_request     It is called on the request's worker, Django's on the loop. The thread, and what
                   belongs to one.
request_started    Its sync receivers run before the async ones, as in Signal.send. Django's asend
                   runs both at a time, in tasks: what they set is lost, and the async ones run even
                   if a sync one raises. Their order, and those async ones; they set nothing. So it
                   is with request_finished where there is no response.
leaving            When a client leaves while a sync part runs, the part's neighbours on the worker
                   run on. Django's async chain ends behind the part, and async parts around it are
                   told. What runs from then on, but not that request_finished is sent. And nothing
                   is sent to a client that has left, where Django sends what a part answers that
                   swallows its cancellation.
StopIteration      It becomes a RuntimeError where it leaves a generator, and not only where it
                   would cross to another thread. Which of both it is.
unmarked           A middleware that is async and does not say so (markcoroutinefunction) is called
                   as an async one. Django gives its coroutine to the middleware around as the
                   response. Nothing is around it in the programs.
pages with stacks  Those for developers show the stack, which is another one. All but their titles.

Before Django 5.0 no client leaves: Django's handler does not listen for that.
"""


# --- generating ----------------------------------------------------------------------------------

OF_LOCAL, OF_THREAD = ("set", "critical"), ("set", "of_thread")

SIGNALS = ("request_started", "request_finished", "got_request_exception")
CLOSES = ("its close()", "its closer", "its file is closed")
HOOKS = (
    "process_request",
    "process_response",
    "process_view",
    "process_exception",
    "process_template_response",
)
KINDS = (
    *("mixin",) * 8,
    *("mixin with call", "mixin with acall"),
    *("class", "both class", "both class", "unmarked class"),
    *("function", "async function", "both function", "both function", "plain function"),
    "unused",
)
RESPONSES = (
    *("plain",) * 6,
    *("template", "template", "async template", "failing template"),
    *("stream", "async stream", "failing stream", "failing async stream", "file"),
    *("json", "redirect", "big", "iterator", "cookies", "closed", "closer"),
)
COMMON = ("Http404", "PermissionDenied", "SuspiciousOperation", "BadRequest", "ValueError")
RARE = ("RequestDataTooBig", "Stop", "CancelledError", "StopIteration")


class Generator:
    """Draws one program."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.value = 0

    def chance(self, per_cent: float) -> bool:
        return self.random.random() * 100 < per_cent

    def program(self) -> dict[str, Any]:
        pages = [code for code in (400, 403, 404, 500) if self.chance(20)]
        overrides = ("create_request", "send_response", "run_get_response", "get_response_async")
        return {
            "debug": self.chance(4),
            "propagate": self.chance(4),
            "atomic": self.chance(25),
            "overrides": [name for name in overrides if self.chance(4)],
            "pages": {code: self.of_page(self.actions(30, may_answer=True)) for code in pages},
            "middlewares": self.middlewares(),
            "views": {name: self.view() for name in "ab"},
            "receivers": self.receivers(),
            "requests": [self.request() for _ in range(self.random.choice((1, 2, 2, 3)))],
        }

    def request(self) -> tuple[Any, ...]:
        url = self.random.choice(("/a/", "/a/", "/in/b/1/", "/in/b/2/", "/in/b/", "/nowhere"))
        method, body = self.random.choice((("GET", 0), ("GET", 1), ("POST", 7), ("HEAD", 1)))
        if method == "POST" and self.chance(20):
            body = 2001  # over DATA_UPLOAD_MAX_MEMORY_SIZE
        return (method, url, body, self.chance(8))

    def actions(self, trouble: float, may_answer: bool = False, waits: bool = False) -> list[Any]:
        """What a part does; ``trouble``: per cent that raise, or answer if they may."""
        actions: list[Any] = []
        for _ in range(self.random.choice((0, 0, 1, 1, 2))):
            what = self.random.choice(("set", "set", "query", "bridge", "pause", "attribute"))
            if what == "set":
                self.value += 1
                names = ("variable", "local", "critical", "of_thread")
                actions.append((what, self.random.choice(names), self.value))
            elif what == "bridge":
                actions.append((what, self.chance(70)))
            else:
                actions.append((what,))
        if waits and self.chance(30):
            actions.append(("wait", self.chance(25)))
        if self.chance(trouble):
            actions.append(self.answer() if may_answer and self.chance(50) else self.error())
        return actions

    def error(self) -> tuple[Any, ...]:
        if self.chance(3):
            return ("return", self.random.choice((None, "text")))
        return ("raise", self.random.choice(RARE if self.chance(12) else COMMON))

    def answer(self) -> tuple[Any, ...]:
        status = self.random.choice((200, 200, 200, 201, 204, 403, 404, 500))
        return ("answer", self.random.choice(RESPONSES), status)

    def of_request(self) -> list[Any]:
        """Before the view."""
        actions = self.actions(8, may_answer=True, waits=True)
        if self.chance(8):
            way = self.random.choice((("urlconf",), ("path", "/a/"), ("path", "/in/b/3/")))
            actions.insert(0, way)
        if self.chance(8):
            actions.insert(0, ("body",))
        return actions

    def of_response(self) -> list[Any]:
        """After the view."""
        header = [("header",)] if self.chance(40) else []
        return header + self.actions(8, may_answer=True)

    def of_page(self, actions: list[Any]) -> list[Any]:
        """Without what belongs to a thread."""
        return [each for each in actions if each[:2] not in (OF_LOCAL, OF_THREAD)]

    def of_either(self, actions: list[Any]) -> list[Any]:
        """Without what belongs to a thread, or is something else when it is async."""
        return [each for each in self.of_page(actions) if each[0] not in ("bridge", "wait")]

    def middlewares(self) -> list[dict[str, Any]]:
        drawn = [self.middleware() for _ in range(self.random.choice((0, 1, 2, 3, 4)))]
        return [each for i, each in enumerate(drawn) if not i or each["kind"] != "unmarked class"]

    def middleware(self) -> dict[str, Any]:
        kind = self.random.choice(KINDS)
        if self.chance(0.5):
            kind = "no function"
        hooks = {}
        if "function" not in kind:
            hooks = {name: self.hook(name) for name in HOOKS if self.chance(40)}
            if not kind.startswith("mixin") and kind != "unused":
                hooks.pop("process_request", None)
                hooks.pop("process_response", None)
        capable: Any = None
        if kind.startswith("mixin"):
            capable = self.random.choice((None, None, None, (True, False), (False, True)))
        elif kind == "both class":
            capable = self.random.choice(((True, True), (True, True), (False, True)))
        elif kind == "unmarked class":
            capable = (False, True)
        called = "mixin with" in kind or not kind.startswith("mixin")
        ways = ["plain", "plain", "plain", "plain", "catch", "context", "twice", "bridge"]
        given = {
            "kind": kind,
            "capable": capable,
            "hooks": hooks,
            "before": self.of_request() if called else [],
            "after": self.of_response() if called else [],
        }
        if may_be_either(given):
            given["before"] = self.of_either(given["before"])
            given["after"] = self.of_either(given["after"])
        else:
            ways.append("catch all")
        given["way"] = self.random.choice(ways) if called else "plain"
        return given

    def hook(self, name: str) -> tuple[bool, list[Any]]:
        is_async = self.chance(3)
        if name in ("process_view", "process_exception", "process_template_response"):
            is_async = self.chance(25)
        if name in ("process_request", "process_view"):
            return (is_async, self.of_request())
        if name == "process_exception":
            return (is_async, self.actions(50, may_answer=True))
        return (is_async, self.of_response())

    def view(self) -> dict[str, Any]:
        kinds = ("function", "function", "async", "async", "class", "async class", "partial")
        kind = self.random.choice(kinds)
        if self.chance(4):
            kind = self.random.choice(("marked", "unmarked"))
        actions = self.actions(0, waits=True)
        if self.chance(15):
            actions.insert(0, ("body",))
        actions.append(self.error() if self.chance(30) else self.answer())
        if self.chance(2):
            actions[-1] = ("coroutine",)
        return {
            "kind": kind,
            "exempt": self.chance(10),
            "non atomic": self.chance(20),
            "actions": actions,
        }

    def receivers(self) -> list[dict[str, Any]]:
        drawn = [self.receiver() for _ in range(self.random.choice((0, 0, 1, 2, 3)))]
        for signal in SIGNALS:
            at_a_time = [each for each in drawn if each["signal"] == signal and each["async"]]
            if len(at_a_time) > 1 or (signal == "request_started" and len(drawn) > 1):
                # Which of them raises first, and what the others do then, nobody knows.
                for each in at_a_time:
                    each["actions"] = [act for act in each["actions"] if act[0] != "raise"]
        return drawn

    def receiver(self) -> dict[str, Any]:
        signal = self.random.choice(SIGNALS)
        actions = self.actions(5)
        if signal == "request_started":
            actions = [action for action in actions if action[0] != "set"]
        elif signal == "got_request_exception":
            actions = self.of_page(actions)
        else:
            # Behind an error in sending it would take that error's place.
            actions = [act for act in actions if act[1:] not in (("Stop",), ("CancelledError",))]
        is_async = self.chance(35)
        # Those that are async write at a time.
        no = ("attribute", "query") if is_async else ("attribute",)
        actions = [action for action in actions if action[0] not in no]
        return {"signal": signal, "async": is_async, "actions": actions}


# --- comparing -----------------------------------------------------------------------------------


def may_be_either(middleware: Any) -> bool:
    """Whether it is called with the request, on the loop or on the worker."""
    kind, capable = middleware["kind"], middleware["capable"]
    return kind == "both function" or (
        kind in ("both class", "mixin with call", "mixin with acall")
        and capable in (None, (True, True))
    )


def made_alike(result: list[Any], program: Any) -> list[Any]:
    """``result`` without what is different on purpose: see `DIFFERENCES`."""
    eithers = [f"m{i}" for i, each in enumerate(program["middlewares"]) if may_be_either(each)]
    ends = ("before", "after", "catches")
    anywhere = {"create_request", *(f"{name} {end}" for name in eithers for end in ends)}
    asyncs = {i for i, each in enumerate(program["receivers"]) if each["async"]}
    alike: list[Any] = []
    for each in result:
        if isinstance(each, Outcome):
            parts = [_part_made_alike(seen, anywhere) for seen in each.parts]
            if each.left_in == "worker":
                parts = _left_made_alike(parts)
            if each.end and not any(seen.part in each.end and _closes(seen) for seen in parts):
                while parts and _closes(parts[-1]):
                    parts.pop()  # sending has failed
            parts = _receivers_made_alike(parts, asyncs, each.end)
            messages, end = each.messages, each.end
            if LEFT in messages:
                messages = messages[: messages.index(LEFT)]
                if not messages:
                    parts = [seen for seen in parts if not _is_sending(seen)]
                    if "as it streams" in end or "ContentNotRenderedError" in end:
                        end = ""
            if program["debug"]:
                messages = _page_made_alike(messages)
            each = Outcome(parts, messages, end, each.left_in)
        alike.append(each)
    if any(isinstance(each, Outcome) and each.left_in == "worker" for each in alike):
        alike.pop()  # what else has run has written
    elif any(isinstance(each, Outcome) and each.end for each in alike):
        alike[-1] = [name for name in alike[-1] if "request_finished" not in name]
    return alike


def _part_made_alike(seen: Seen, anywhere: set[str]) -> Seen:
    if _closes(seen):
        critical = None if seen.thread == "loop" else seen.critical  # a task's there
        seen = seen._replace(variable=None, local=None, urlconf=None, critical=critical)
    is_error_page = seen.is_error_page and seen.thread != "loop"
    owner = seen.part.partition(",")[0]
    if not (owner in anywhere or is_error_page or seen.part.endswith(", in the pool")):
        return seen
    return seen._replace(
        thread="any", connection="any", critical=None, of_thread=None, is_error_page=True
    )


def _closes(seen: Seen) -> bool:
    return _signal_of(seen) == "request_finished" or seen.part.endswith(CLOSES)


def _receivers_made_alike(parts: list[Seen], asyncs: set[int], end: str) -> list[Seen]:
    """Receivers of one signal one after the other: those that are async run at a time."""

    def order(seen: Seen) -> tuple[bool, int]:
        number = int(seen.part.split()[0][1:])
        return number in asyncs, number

    has_failed = bool(end) and all(_signal_of(seen) == "request_started" for seen in parts)
    has_left = any(seen.part == "the client leaves" for seen in parts)
    alike: list[Seen] = []
    for signal, grouped in itertools.groupby(parts, key=_signal_of):
        run = list(grouped)
        if signal:
            run = sorted(run, key=order)
        if signal == "request_started":
            run = [seen for seen in run if not (has_failed and order(seen)[0])]
        if signal == "request_finished" and has_left and end:
            run = [seen for seen in run if not order(seen)[0]]
        alike += run
    return alike


def _signal_of(seen: Seen) -> str:
    found = re.match(rf"r\d+ ({'|'.join(SIGNALS)})", seen.part)
    return "" if found is None else found[1]


def _left_made_alike(parts: list[Seen]) -> list[Seen]:
    names = [seen.part for seen in parts]
    at = names.index("the client leaves")
    finished = [seen for seen in parts[at:] if _signal_of(seen) == "request_finished"]
    return parts[: at + 1] + [seen._replace(critical=None, of_thread=None) for seen in finished]


def _is_sending(seen: Seen) -> bool:
    return seen.part == "send_response" or ", stream" in seen.part or seen.part.endswith(" is read")


def _page_made_alike(messages: list[Any]) -> list[Any]:
    body = b"".join(message.get("body", b"") for message in messages)
    if not messages or b"<title>" not in body:
        return messages
    return [messages[0]["status"], title_of(body)]


def differences(program: Any, running: Running) -> tuple[list[str], Any]:
    """In which lines both handlers' results differ, and Django's result."""
    djangos = running.run(program, is_ours=False)
    ours = running.run(program, is_ours=True)
    alike = [made_alike(each, program) for each in (djangos, ours)]
    if alike[0] == alike[1]:
        return [], djangos
    lines = []
    for a, b in zip(lines_of(alike[0]), lines_of(alike[1])):
        if a != b:
            lines += [f"Django's {a}", f"ours     {b}"]
    return lines or ["of another length"], djangos


def lines_of(result: list[Any]) -> list[str]:
    lines = []
    for i, each in enumerate(result):
        if not isinstance(each, Outcome):
            lines.append(f"{each}")
            continue
        lines += [f"request {i - 1}: {message}" for message in each.messages]
        lines += [f"request {i - 1} ends: {each.end or 'well'}"]
        lines += [f"request {i - 1}: {tuple(seen)}" for seen in each.parts]
    return lines + [""] * 50


# --- making smaller ------------------------------------------------------------------------------


def smaller(program: Any) -> Any:
    """Each program that is ``program`` with one thing less."""
    for way in _ways(program, ()):
        copied = copy.deepcopy(program)
        holder = copied
        for key in way[:-1]:
            holder = holder[key]
        if isinstance(holder[way[-1]], bool):
            holder[way[-1]] = False
        else:
            del holder[way[-1]]
        yield copied


def _ways(what: Any, at: tuple[Any, ...]) -> Any:
    if isinstance(what, dict):
        for key, value in what.items():
            if value is True or (at and at[-1] in ("hooks", "pages")):
                yield (*at, key)
            yield from _ways(value, (*at, key))
    elif isinstance(what, list):
        for i in reversed(range(len(what))):
            yield (*at, i)
        for i, value in enumerate(what):
            yield from _ways(value, (*at, i))
    elif isinstance(what, tuple):
        for i, value in enumerate(what):
            yield from _ways(value, (*at, i))


def shrunk(program: Any, running: Running, watch: Watch) -> Any:
    """The smallest program that can be found, that still differs."""
    while True:
        for each in smaller(program):
            if any(given["kind"] == "unmarked class" for given in each["middlewares"][1:]):
                continue
            watch.begin("shrunk", each)
            if differences(each, running)[0]:
                program = each
                break
        else:
            return program


# --- running -------------------------------------------------------------------------------------


class Watch:
    """Ends the process when a program takes too long, and says which and where."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._program: tuple[Any, Any] = (None, None)
        self._began = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, seed: Any, program: Any) -> None:
        self._program = seed, program
        self._began = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(1)
            if time.monotonic() - self._began > LIMIT:
                seed, program = self._program
                print(f"seed {seed} HANGS:\n{pprint.pformat(program, sort_dicts=False)}")
                for task in asyncio.all_tasks(self._loop):
                    task.print_stack()
                sys.stdout.flush()
                faulthandler.dump_traceback(all_threads=True)
                os._exit(1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=DIFFERENCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=None, help="of the first program")
    parser.add_argument("--number", type=int, default=10_000, help="of programs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--failures", type=int, default=5, help="stop after so many")
    parser.add_argument("--program", help="run this one, as one that differs is printed")
    options = parser.parse_args()
    running = Running()
    watch = Watch(running.loop)
    if options.program:
        program = ast.literal_eval(options.program)
        watch.begin("none", program)
        lines, _ = differences(program, running)
        report(program, lines)
        return 1 if lines else 0
    first = options.seed
    if first is None:
        first = random.randrange(10**9)
    print(
        f"{asgibridge.IMPLEMENTATION} kernel, Django {running.version}, --seed {first}", flush=True
    )
    until = time.monotonic() + options.seconds
    found: Counter[str] = Counter()
    failures = 0
    for seed in range(first, first + options.number):
        program = Generator(seed).program()
        watch.begin(seed, program)
        lines, result = differences(program, running)
        count(result, found)
        if lines:
            failures += 1
            again = sum(bool(differences(program, running)[0]) for _ in range(3))
            print(f"seed {seed} DIFFERS ({again} of 3 times when run again)")
            if again == 3:
                program = shrunk(program, running, watch)
                lines = differences(program, running)[0]
            report(program, lines)
            if failures == options.failures:
                break
        found["programs"] += 1
        if found["programs"] % 1000 == 0:
            print(f"{found['programs']} programs", flush=True)
        if time.monotonic() > until:
            break
    print(", ".join(f"{number} {what}" for what, number in sorted(found.items())))
    print(f"{'FAILED' if failures else 'PASSED'}: {failures} differ")
    return 1 if failures else 0


def report(program: Any, lines: list[str]) -> None:
    print(pprint.pformat(program, width=100, sort_dicts=False))
    print("\n".join(lines[:12]), flush=True)


def count(result: list[Any], found: Counter[str]) -> None:
    for each in result:
        if isinstance(each, Outcome):
            found["requests"] += 1
            found["left"] += bool(each.left_in)
            found["raised to the server"] += bool(each.end)
            found["parts"] += len(each.parts)
            for message in each.messages[:1]:
                found[f"of status {message.get('status')}"] += message is not LEFT


if __name__ == "__main__":
    sys.exit(main())
