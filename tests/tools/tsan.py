"""The compiled kernel under ThreadSanitizer, on a CPython without the GIL that is under it, too.

    python tests/tools/tsan.py [--python PATH] [--source TARBALL] [--quick] [--seed N]
                             [--tests NAME,...]

An interpreter that is not instrumented would not do: what its critical sections guard would pass
for a race, and races behind them would hide. So one is built, once, into
.venv/pythons/3.14t-tsan-slow (some five minutes on two cores): from Debian's source package,
``--disable-gil --with-thread-sanitizer``, by the Debian mirror that this machine is set up with;
or from a TARBALL of CPython's sources. ``--python`` (or ASGIBRIDGE_TSAN_PYTHON) names one that is
there already.

One thing is different in the interpreter we build (`dawdle`): who hands a reference to another
thread rests under the lock for that, once in a while, as if it were preempted there. Others wait
then, in the middle of a Py_DECREF, and so let go of their critical sections. That can always be,
but hardly ever is, and code that takes a section for a lock goes wrong only then.

Then the extension is built with the same flags, and the tests that have threads in them run, and
`storm.py`. A report counts if CPython's own list of suppressions and the few lines of `tsan.supp`
don't know it; whether a frame of ours is in it is told, not asked.

A crash is left to the kernel: ThreadSanitizer's own signal handler ends with status 0 here, and has
no stack if it was in the middle of an atomic operation. If the kernel leaves a core file, and there
is gdb, the stack is in .venv/tsan-logs/crash.

Ends with a line that says PASSED or FAILED, or NOT RUN and why; only PASSED has exit status 0.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest_run
from environment import (
    ROOT,
    TOOLS,
    VENVS,
    EnvironmentFailure,
    Interpreter,
    child_environment,
    create,
    install,
    paths_of,
    probe,
    python_in,
)

PREFIX = VENVS / "pythons" / "3.14t-tsan-slow"
LOGS = VENVS / "tsan-logs"
OURS = "_speedups"

TESTS = (
    "test_batches",
    "test_broadcast",
    "test_broadcast_model",
    "test_cancellation",
    "test_channel",
    "test_context_and_references",
    "test_deadlocks",
    "test_errors_and_cancellation",
    "test_hops",
    "test_hostile",
    "test_iterators",
    "test_kept_loops",
    "test_kept_workers",
    "test_kernels",
    "test_local",
    "test_parity",
    "test_pools",
    "test_queue",
    "test_queue_stress",
    "test_release",
    "test_ring_queues",
    "test_select",
    "test_shape_models",
    "test_shapes_stress",
    "test_shared_loop",
    "test_sticky",
    "test_threads_and_loops",
)
QUICK = ("test_hops", "test_kept_workers", "test_pools", "test_queue_stress", "test_shapes_stress")

# When an object dies is another matter there: its count is merged when its thread comes to it.
NOT_HERE = ["--deselect", "tests/bridge/test_context_and_references.py::TestNothingOutlivesItsCall"]
# ThreadSanitizer ends a child that was forked beside threads and then starts one.
NOT_NAMED = "not (nothing_outlives or fork)"

LIMIT = 1500
"""Seconds for the tests; ten times what they take without it."""

BUILD_LIMIT = 3600

RACY = """
#include <pthread.h>
int shared;
void *work(void *unused) { shared++; return unused; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, work, 0);
    shared++;
    pthread_join(thread, 0);
    return 0;
}
"""


QUEUES = "    _PyThreadStateImpl *tstate = find_thread_state(bucket, ob_tid);\n"
"""In Python/brc.c, with the lock of the owner's bucket held."""

DAWDLES = """
#include <time.h>
static _Thread_local unsigned handed_over;
static void dawdle(void) {
    if (++handed_over % 16 == 0) {
        struct timespec a_while = {0, 200000};
        nanosleep(&a_while, NULL);
    }
}
"""


class NotHere(Exception):
    """What is missing on this machine, and how to get it."""


def compiler() -> str:
    """The first C compiler whose ThreadSanitizer finds a race."""
    with tempfile.TemporaryDirectory() as place:
        source, program = Path(place, "racy.c"), Path(place, "racy")
        source.write_text(RACY)
        for name in (os.environ.get("CC"), "clang", "gcc"):
            if not name or not shutil.which(name):
                continue
            flags = ["-g", "-fsanitize=thread", str(source), "-o", str(program), "-lpthread"]
            if subprocess.run([name, *flags], capture_output=True, check=False).returncode:
                continue
            ran = subprocess.run([str(program)], capture_output=True, text=True, check=False)
            if "data race" in ran.stderr:
                return name
            if "unexpected memory mapping" in ran.stderr:
                raise NotHere(
                    "ThreadSanitizer can't map its memory here: sysctl vm.mmap_rnd_bits=28"
                )
    raise NotHere("no C compiler with ThreadSanitizer (on Debian: apt-get install clang)")


# The interpreter.


def debian_source(place: Path) -> Path:
    """The sources of the newest 3.14 that Debian's mirror has, downloaded to ``place``."""
    if not shutil.which("apt-get"):
        raise NotHere("no apt-get: download CPython 3.14's sources and name them with --source")
    mirror = debian_mirror()
    for directory in ("lists/partial", "cache/archives/partial"):
        (place / directory).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (place / "sources.list").write_text(f"deb-src [signed-by={keyring}] {mirror} sid main\n")
    options = {
        "Dir::Etc::SourceList": place / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": place / "lists",
        "Dir::Cache": place / "cache",
        "Dir::State::status": os.devnull,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq"]
    for name, value in options.items():
        apt += ["-o", f"{name}={value}"]
    done = subprocess.run([*apt, "update"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHere(f"apt-get update for Debian's sources failed: {done.stderr.strip()}")
    source = [*apt, "--only-source", "--tar-only", "source", "python3.14"]
    subprocess.run([*source, "--download-only"], cwd=place, capture_output=True, check=False)
    for tarball in place.glob("python3.14_*.orig.tar.*"):
        return tarball
    # A mirror that lags behind its index still has what came before.
    told = subprocess.run([*source, "--print-uris"], capture_output=True, text=True, check=False)
    match = re.search(r"'([^']*/python3\.14_3\.14\.)(\d+)(\.orig\.tar\.xz)'", told.stdout)
    if match:
        for patch in range(int(match.group(2)) - 1, -1, -1):
            uri = f"{match.group(1)}{patch}{match.group(3)}"
            if fetch(uri, place / uri.rpartition("/")[2]):
                return place / uri.rpartition("/")[2]
    raise NotHere("Debian's mirror has no sources of Python 3.14: name them with --source")


def debian_mirror() -> str:
    """Where this machine gets its Debian packages from."""
    for path in [
        *Path("/etc/apt/sources.list.d").glob("*.sources"),
        Path("/etc/apt/sources.list"),
    ]:
        if path.exists():
            match = re.search(
                r"^(?:URIs:|deb(?:\s+\[.*?\])?)\s+(\S+/debian)/?\s", path.read_text(), re.MULTILINE
            )
            if match:
                return match.group(1)
    raise NotHere("apt has no Debian mirror: name CPython 3.14's sources with --source")


def fetch(uri: str, to: Path) -> bool:
    """Download by apt's own helper, which knows this machine's proxies and mirrors."""
    helper = "/usr/lib/apt/apt-helper"
    done = subprocess.run([helper, "download-file", uri, str(to)], capture_output=True, check=False)
    return done.returncode == 0 and to.exists()


def dawdle(tree: Path) -> bool:
    """Make CPython slow where it hands a reference to another thread; False if it does that in
    another way than we know."""
    path = tree / "Python" / "brc.c"
    code = path.read_text() if path.exists() else ""
    include = '#include "Python.h"\n'
    if code.count(QUEUES) != 1 or code.count(include) != 1:
        return False
    path.write_text(
        code.replace(include, include + DAWDLES).replace(QUEUES, "    dawdle();\n" + QUEUES)
    )
    return True


def build(source: Path | None) -> str:
    """Build the interpreter into PREFIX; its path."""
    cc = compiler()
    if not shutil.which("make"):
        raise NotHere("no make")
    log = PREFIX.with_suffix(".log")
    PREFIX.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=VENVS) as place:
        tarball = source or debian_source(Path(place, "debian"))
        print(f"building CPython from {tarball.name} with {cc}: some minutes; {log}", flush=True)
        tree, out = Path(place, "tree"), Path(place, "out")
        tree.mkdir()
        out.mkdir()
        shutil.unpack_archive(tarball, tree)
        (tree,) = tree.iterdir()
        if not dawdle(tree):
            print("its references go to other threads in a new way: it is not made slow there")
        steps = [
            [
                str(tree / "configure"),
                f"--prefix={PREFIX}",
                "--disable-gil",
                "--with-thread-sanitizer",
                "--disable-test-modules",
                "--with-ensurepip=no",
            ],
            ["nice", "make", f"-j{os.cpu_count() or 1}"],
            ["make", "install"],
        ]
        with open(log, "w") as told:
            for step in steps:
                done = subprocess.run(
                    step,
                    cwd=out,
                    env={**child_environment(), "CC": cc, "OPT": "-O1 -g"},
                    stdout=told,
                    stderr=subprocess.STDOUT,
                    timeout=BUILD_LIMIT,
                    check=False,
                )
                if done.returncode:
                    end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
                    raise NotHere(f"CPython could not be built ({log}):\n{end}")
        shutil.copy(tree / "Tools/tsan/suppressions_free_threading.txt", PREFIX / "cpython.supp")
    return str(PREFIX / "bin" / "python3.14t")


def interpreter(options: argparse.Namespace) -> Interpreter:
    """One that is there, or a new one."""
    path = options.python or os.environ.get("ASGIBRIDGE_TSAN_PYTHON")
    if not path:
        path = str(PREFIX / "bin" / "python3.14t")
        if not probe(path):
            path = build(options.source)
    found = probe(path)
    if not found or found.gil:
        raise NotHere(f"{path} is no CPython without the GIL that runs")
    code = "import sysconfig; print(sysconfig.get_config_var('CONFIG_ARGS'))"
    told = subprocess.run([path, "-c", code], capture_output=True, text=True, check=False).stdout
    if "--with-thread-sanitizer" not in told:
        raise NotHere(f"{path} was not built --with-thread-sanitizer")
    return found


# What runs on it.


def reports() -> list[str]:
    return [
        report
        for log in sorted(LOGS.glob("report*"))
        for report in log.read_text(errors="replace").split("==================\n")
        if "WARNING: ThreadSanitizer" in report
    ]


def allow_core_files() -> None:
    """As large as the administrator lets them be; ThreadSanitizer leaves its own memory out."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def crash_stack(python: str, since: float) -> list[str]:
    """What crashed ``since`` then, from the core file that it has left, which is removed."""
    cores = [path for path in ROOT.glob("core*") if path.is_file()]
    cores = [path for path in cores if path.stat().st_mtime >= since]
    if not cores:
        pattern = Path("/proc/sys/kernel/core_pattern")
        where = pattern.read_text().strip() if pattern.exists() else "unknown"
        return [f"no core file here (ulimit -c; /proc/sys/kernel/core_pattern: {where})"]
    core = max(cores, key=lambda path: path.stat().st_mtime)
    if not shutil.which("gdb"):
        kept = core.rename(LOGS / core.name)
        return [f"no gdb to read {kept} with"]
    command = ["gdb", "-q", "-batch", "-ex", "bt 40", "-ex", "thread apply all bt 15", python, core]
    told = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    (LOGS / "crash").write_text(told.stdout)
    core.unlink()
    # The first frame is told twice.
    frames = [line for line in told.stdout.splitlines() if re.match(r"#\d+ ", line)]
    return [re.sub(r"\S*/", "", frame)[:150] for frame in frames[1:13]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", metavar="PATH", help="an interpreter built for this")
    parser.add_argument("--source", metavar="TARBALL", type=Path, help="of CPython 3.14")
    parser.add_argument("--quick", action="store_true", help="fewer tests and a shorter storm")
    parser.add_argument("--tests", metavar="NAME,...", help="such as test_queue, in their place")
    parser.add_argument("--seed", type=int, default=1, help="of the storm; default: %(default)s")
    options = parser.parse_args()
    VENVS.mkdir(exist_ok=True)
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    environment = VENVS / "tsan"
    try:
        base = interpreter(options)
        known = Path(base.base, "cpython.supp")
        supp = LOGS.with_suffix(".supp")
        supp.write_text(
            (known.read_text() if known.exists() else "") + "\n" + (TOOLS / "tsan.supp").read_text()
        )
        # A report names its place twice if the exit status changes; forked children are told apart.
        common = (
            f"suppressions={supp}:history_size=4:exitcode=0:die_after_fork=0"
            ":handle_segv=0:handle_sigbus=0:handle_sigill=0:handle_sigfpe=0:handle_abort=0"
            ":disable_coredump=0"
        )
        os.environ["TSAN_OPTIONS"] = "report_bugs=0"  # installing takes no part in it
        create(environment, base)
        install(environment, "test")
    except NotHere as missing:
        print(f"\ntsan: NOT RUN: {missing}")
        return 2
    except EnvironmentFailure as failure:
        print(f"{failure}\ntsan: FAILED: no environment")
        return 1
    python = python_in(environment)
    env = child_environment(
        ASGIBRIDGE_SPEEDUPS="require",
        TSAN_OPTIONS=f"{common}:log_path={LOGS}/report",
        PYTHONPATH=str(TOOLS),
    )
    allow_core_files()
    names = options.tests.split(",") if options.tests else QUICK if options.quick else TESTS
    began = time.time()
    outcome = pytest_run.run(
        [
            python, "-u", "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "-p", "tsan_plugin", "-m", "not slow", "-k", NOT_NAMED, *NOT_HERE,
            "--timeout", "400", "-o", "faulthandler_timeout=0",
            *paths_of(*names),
        ],
        cwd=ROOT,
        env=env,
        limit=LIMIT,
    )  # fmt: skip
    if outcome.status < -1:
        print("\n".join(["crash:", *crash_stack(python, began)]), flush=True)
    seconds = "15" if options.quick else "60"
    began = time.time()
    storm = subprocess.run(
        [python, "tests/tools/storm.py", "--seed", str(options.seed), "--seconds", seconds],
        cwd=ROOT,
        env=env,
        timeout=LIMIT,
        check=False,
    )
    if storm.returncode < 0:
        print("\n".join(["crash:", *crash_stack(python, began)]), flush=True)
    found = reports()
    ours = [report for report in found if OURS in report]
    for report, times in Counter(summary(each) for each in found).items():
        print(f"{times:>4} x {report}")
    ok = not found and outcome.ok and storm.returncode == 0
    print(
        f"tsan: {'PASSED' if ok else 'FAILED'}: {len(found)} reports, {len(ours)} of them with a "
        f"frame of ours (.venv/{LOGS.name}); tests: {outcome}; storm of {seconds} s, seed "
        f"{options.seed}: {'passed' if storm.returncode == 0 else 'FAILED'}; CPython {base.release}"
    )
    return 0 if ok else 1


def summary(report: str) -> str:
    match = re.search(r"SUMMARY: ThreadSanitizer: (.*)", report)
    return re.sub(r"\S*/", "", match.group(1)) if match else report[:200]


if __name__ == "__main__":
    sys.exit(main())
