"""What `make bench-site` measures and judges, and that it leaves no server behind."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"

pytestmark = pytest.mark.skipif(not BENCH.exists(), reason="of a checkout only")

LIMIT = 30


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    return importlib.import_module


# --- what is measured ----------------------------------------------------------------------------


def test_every_view_is_measured_once_on_the_newest_python(bench: Any) -> None:
    views = bench("site_views")
    home = views.HOME
    assert views.views_of(home, (3, 13)) == views.views_of(home, (3, 14)) == tuple(views.VIEWS)
    for other in (
        home._replace(loop="asyncio"),
        home._replace(database="postgresql"),
        home._replace(connections=1),
    ):
        assert views.views_of(other, (3, 13)) == views.EVERYWHERE
    assert views.views_of(home, (3, 11)) == views.EVERYWHERE
    assert set(views.EVERYWHERE) | set(views.IN_CONTESTS) <= set(views.VIEWS)


def test_circumstances_are_told_from_the_name_of_a_pass(bench: Any) -> None:
    views = bench("site_views")
    one = views.Circumstances("asyncio", "postgresql", 1)
    assert views.Circumstances.of(one.name) == one
    assert str(one) == "asyncio, PostgreSQL, 1 connection"


def test_each_contestant_has_a_command_and_says_what_it_runs(bench: Any) -> None:
    server = bench("site_server")
    commands = {each.name: " ".join(each.command("uvloop", 1)) for each in server.CONTESTANTS}
    assert len(commands) == len(server.CONTESTANTS)
    assert [name for name, command in commands.items() if "asgibridge run" in command] == [
        *("pure", "compiled", "keep", "django", "django-keep")
    ]
    assert "--worker-class gthread --threads 20 --workers 1" in commands["gthread"]
    assert "--interface wsgi" in commands["granian"]
    assert "--blocking-threads 20 --workers 1" in commands["granian"]
    for each in server.CONTESTANTS:
        assert each.answers["sync"] == (
            "asgiref" if each.implementation == "asgiref" else "asgibridge"
        )
        assert each.is_bridged == (each.answers.get("handler") == "asgibridge.django.handlers")


# --- what is judged ------------------------------------------------------------------------------


def judged(bench: Any, pass_name: str, figures: dict[str, Any]) -> dict[str, bool]:
    """Whether each target was met, by what is said of it."""
    results = bench("results")
    measured = results.Measured(False, "uvloop", 1, 1)
    for view, by_name in figures.items():
        for name, by_measure in by_name.items():
            for measure, value in by_measure.items():
                measured.add(view, name, measure, [value])
    found = bench("site_targets").verdicts(results.Results({}, {pass_name: measured}))
    return {f"{each.case}: {each.condition}": each.met for each in found}


def one(rps: float, cpu: float, p99: float, **more: float) -> dict[str, float]:
    return {"rps": rps, "cpu": cpu, "p99": p99, **more}


SYNC = {
    "asgiref": one(100, 4e-3, 0.04),
    "compiled": one(300, 1e-3, 0.02),
    "django": one(450, 5e-4, 0.0125, submitted=1),
    "gthread": one(450, 5e-4, 0.01),
}


def test_all_targets_can_be_met(bench: Any) -> None:
    found = judged(bench, "site-uvloop-sqlite-20", {"sync": SYNC})
    assert len(found) == 7
    assert all(found.values())


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"rps": 449}, ["at least 4.5x asgiref's", "at least WSGI's 450"]),
        ({"cpu": 5.1e-4}, ["at most WSGI's 500 µs"]),
        ({"p99": 0.0126}, ["at most 1.25x WSGI's 10.0 ms"]),
        ({"submitted": 1.01}, ["stays on a worker per request: 1"]),
    ],
)
def test_a_target_that_is_missed_is_said_so(
    bench: Any, change: dict[str, float], missed: list[str]
) -> None:
    figures = {**SYNC, "django": {**SYNC["django"], **change}}
    found = judged(bench, "site-uvloop-sqlite-20", {"sync": figures})
    failed = [text for text, met in found.items() if not met]
    assert len(failed) == len(missed)
    for text, part in zip(failed, missed):
        assert part in text


def test_an_async_view_is_not_to_be_slower_than_with_djangos_handler(bench: Any) -> None:
    figures = {"compiled": one(300, 1e-3, 0.02), "django": one(299, 1e-3, 0.02, submitted=2)}
    found = judged(bench, "site-asyncio-postgresql-20", {"async": figures})
    assert list(found.values()) == [False]  # and how many stays it has is not judged


def test_with_one_connection_no_percentile_is_judged(bench: Any) -> None:
    found = judged(bench, "site-uvloop-sqlite-1", {"sync": SYNC})
    assert not any("p99" in text for text in found)
    assert len(found) == 3


# --- another commit ------------------------------------------------------------------------------


def test_a_side_tells_which_files_its_package_has(bench: Any, tmp_path: Path) -> None:
    before = bench("before")
    (tmp_path / "django").mkdir()
    (tmp_path / "django" / "handlers.py").touch()
    side = before.Side("before", answers={"package": str(tmp_path)})
    assert side.has("django/handlers.py")
    assert not side.has("django/no_such.py")
    assert before.Side("now").has("django/handlers.py")


def test_a_commit_that_knows_placements_is_found_out(bench: Any, tmp_path: Path) -> None:
    before = bench("before")
    (tmp_path / "_kernel.py").write_text("WORKERS = 'ASGIBRIDGE_WORKERS'\n")
    assert not before._knows_placement(tmp_path)
    (tmp_path / "_kernel.py").write_text("PLACEMENT = 'ASGIBRIDGE_PLACEMENT'\n")
    assert before._knows_placement(tmp_path)


# --- servers -------------------------------------------------------------------------------------

SCRIPT = """
import http.server, json, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
stats = json.dumps({stats!r}).encode()
if {ends!r}:
    signal.signal(signal.SIGINT, lambda *args: sys.exit(0))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(stats)))
        self.end_headers()
        self.wfile.write(stats)

http.server.HTTPServer(("127.0.0.1", 0), Handler).serve_forever()
"""


@pytest.fixture
def server(bench: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A server with a child process that no signal but SIGKILL ends."""
    module = bench("site_server")
    monkeypatch.setattr(module, "STOP_SECONDS", 0.5)

    def make(ends: bool, **stats: Any) -> Any:
        given = {"server": "fake", "loop": None, "database": "sqlite3", **stats}

        class Fake(module.Contestant):  # type: ignore[name-defined, misc]
            def command(self, loop: str, processes: int) -> list[str]:
                return ["-c", SCRIPT.format(stats=given, ends=ends)]

        contestant = Fake("fake", "asgiref", server="fake")
        return module.Server(contestant, bench("site_views").HOME, json.dumps({}))

    return make


def has_ended(pid: int) -> bool:
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except FileNotFoundError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"  # nobody may have asked how it ended


def wait_for_the_end_of(pids: list[int]) -> None:
    deadline = time.monotonic() + LIMIT
    while not all(map(has_ended, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.01)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="make bench-site needs /proc, as Linux has it"
)


@needs_proc
@pytest.mark.parametrize("ends", [True, False], ids=["a quiet end", "one that has to be killed"])
def test_a_server_and_its_children_are_gone_at_the_end(server: Any, ends: bool) -> None:
    with pytest.raises(SystemExit), server(ends) as running:  # as a polite kill ends it
        pids = running._pids
        assert len(pids) == 2
        assert running.usage().threads == 2
        sys.exit(128 + 15)
    wait_for_the_end_of(pids)


@needs_proc
def test_an_interrupted_end_is_an_end_all_the_same(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = server(False).__enter__()
    pids = running._pids

    def interrupted(*args: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(running._process, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.stop()
    wait_for_the_end_of(pids)


@needs_proc
def test_a_server_that_runs_something_else_is_refused_and_stopped(
    bench: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = server(True, database="postgresql")
    seen: list[list[int]] = []
    verify = refused._verify
    monkeypatch.setattr(refused, "_verify", lambda: (seen.append(refused._pids), verify()))
    with pytest.raises(bench("site_server").ServerFailure, match="database is 'postgresql'"):
        refused.__enter__()
    assert len(seen[0]) == 2
    wait_for_the_end_of(seen[0])


@needs_proc
def test_a_status_that_is_no_success_is_said_so(bench: Any, server: Any) -> None:
    failing = server(False)
    failing.contestant = replace(failing.contestant, name="failing")
    with pytest.raises(bench("site_server").ServerFailure, match=r"failing .* ended with -9"):
        with failing as running:
            pids = running._pids
    wait_for_the_end_of(pids)


def test_a_server_says_which_workers_it_has_if_nobody_has_asked_for_them() -> None:
    script = f"""
import sys, types
sys.path.insert(0, {str(BENCH / "site")!r})
for name in ("django", "django.conf"):
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = "/django/__init__.py"
engine = {{"default": {{"ENGINE": "django.db.backends.sqlite3"}}}}
sys.modules["django.conf"].settings = types.SimpleNamespace(DATABASES=engine)
import asgibridge
asgibridge.install()
import asgiref.sync
assert "asgibridge.workers" not in sys.modules
from benchsite import stats
found = stats.figures(object(), "uvicorn")
print(found["sync"], found["workers"], found["submitted"], found["gil"])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert done.stdout.split() == ["asgibridge", "fresh", "0", str(gil)], done.stderr


# --- with and without the GIL --------------------------------------------------------------------


def free_threading(
    bench: Any, rps: dict[str, tuple[float, float]], memory: float
) -> dict[str, bool]:
    """Whether each thing asked for was met, by requests a second with the GIL and without."""
    module, results = bench("free_threading"), bench("results")
    found = results.Results({})
    for way in ("bare", "uvicorn"):
        for gil in module.GILS:
            found.passes[module.pass_name(way, gil)] = results.Measured(False, "asyncio", 1, 1)
    for gil, place in ((module.ON, 0), (module.OFF, 1)):
        bare, served = (found.passes[module.pass_name(way, gil)] for way in ("bare", "uvicorn"))
        bare.add("bare", "bare", "rps", [rps["bare"][place]])
        for name in ("asgiref", "compiled"):
            served.add("compute", name, "rps", [rps[name][place]])
    without = found.passes[module.pass_name("uvicorn", module.OFF)]
    without.add("memory", "compiled", "few", [100.0])
    without.add("memory", "compiled", "many", [memory])
    return {
        each.what.rpartition(": ")[2]: each.met
        for each in module.verdicts(found, ["uvicorn"], ["compute"])
    }


@pytest.mark.parametrize(
    ("bare", "asgiref", "compiled", "memory", "met"),
    [
        ((500, 1000), (400, 700), (400, 700), 119, (True, True, True)),
        (
            (500, 800),
            (400, 500),
            (400, 580),
            119,
            (True, True, True),
        ),  # 0.9 of what two threads gain
        ((500, 1000), (400, 500), (400, 640), 119, (False, True, True)),
        ((500, 1000), (400, 760), (400, 720), 121, (True, False, False)),
    ],
)
def test_what_is_asked_for_without_the_gil(
    bench: Any,
    bare: tuple[float, float],
    asgiref: tuple[float, float],
    compiled: tuple[float, float],
    memory: float,
    met: tuple[bool, bool, bool],
) -> None:
    rates = {"bare": bare, "asgiref": asgiref, "compiled": compiled}
    found = free_threading(bench, rates, memory)
    assert list(found.items()) == [
        *zip(("without the GIL", "beside asgiref, without the GIL", "memory"), met)
    ]


def test_each_server_says_whether_it_has_the_gil(bench: Any) -> None:
    module = bench("free_threading")
    ways = list(module.WAYS)
    found = [each for _, _, each in module.turns(0, ways, ["asgiref"], "/other/python")]
    assert [each.environment["PYTHON_GIL"] for each in found] == ["1", "0"] * len(ways)
    assert [each.answers["gil"] for each in found] == [True, False] * len(ways)
    assert [each.python for each in found] == ["/other/python", sys.executable] * len(ways)
    assert not any(each.is_wsgi for each in found)
    assert "--interface asgi" in " ".join(found[-1].command("asyncio", 2))
    back = [each for _, _, each in module.turns(1, ways, ["asgiref"], "/other/python")]
    assert back == found[::-1]
    alone = [each for _, _, each in module.turns(0, ways, ["asgiref"], sys.executable)]
    assert [each.environment["PYTHON_GIL"] for each in alone] == ["1", "0", "0", "0"]
