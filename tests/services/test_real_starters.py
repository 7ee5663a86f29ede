"""Agents, process managers and servers as published, with ``asgibridge run`` before and after them.

Each is skipped where it is not installed. Programs of their kinds: tests/start/test_starters.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SECONDS = 60
SCRIPTS = sysconfig.get_path("scripts")

# Which of the agents is there, and whose asgiref.
PROGRAM = """\
import sys, asgiref.sync
agents = "newrelic.config", "opentelemetry.instrumentation.auto_instrumentation", "ddtrace"
agents += ("coverage",)
print(asgiref.sync.__name__, *(name for name in agents if name in sys.modules), flush=True)
"""
ENVIRONMENT = {
    "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
    # Nothing is sent anywhere.
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_TRACE_ENABLED": "false",
    "NEW_RELIC_DEVELOPER_MODE": "true",
    "NEW_RELIC_LICENSE_KEY": "a" * 40,
    "NEW_RELIC_LOG": os.devnull,
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_TRACES_EXPORTER": "none",
}
AGENTS = {
    "newrelic": (("newrelic-admin", "run-program"), "newrelic.config"),
    "opentelemetry.instrumentation.auto_instrumentation": (
        ("opentelemetry-instrument",),
        "opentelemetry.instrumentation.auto_instrumentation",
    ),
    "ddtrace": (("ddtrace-run",), "ddtrace"),
}
RUN = ("asgibridge", "run")


@pytest.fixture
def site(tmp_path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


@pytest.fixture
def run(site):
    def run(*words, seconds=SECONDS):
        process = subprocess.Popen(
            words,
            cwd=site,
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, 9)
            process.communicate()
            raise
        return output

    return run


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    "order",
    [
        ("us", "agent", "python", "program.py"),
        ("agent", "us", "python", "program.py"),
        ("agent", "us", "program.py"),
    ],
    ids=" ".join,
)
def test_agents(run, agent, order):
    pytest.importorskip(agent.split(".")[0])
    command, module = AGENTS[agent]
    words = {"us": RUN, "agent": command}
    output = run(*(part for word in order for part in words.get(word, (word,))))
    assert output.splitlines()[-1] == f"asgibridge.sync {module}", output


@pytest.mark.parametrize(
    "words",
    [
        (*RUN, "coverage", "run", "program.py"),
        ("coverage", "run", "-m", *RUN, "program.py"),
        (*RUN, "coverage", "run", "-m", "program"),
    ],
    ids=" ".join,
)
def test_coverage(run, words):
    pytest.importorskip("coverage")
    assert run(*words).splitlines()[-1] == "asgibridge.sync coverage"


@pytest.mark.parametrize(
    "words",
    [
        (*RUN, "py-spy", "record", "-d", "1", "-o", "x.svg", "--", "python", "program.py"),
        ("py-spy", "record", "-d", "1", "-o", "x.svg", "--", *RUN, "program.py"),
    ],
    ids=["asgibridge run py-spy", "py-spy asgibridge run"],
)
def test_py_spy(run, words):
    if not os.path.exists(os.path.join(SCRIPTS, "py-spy")):
        pytest.skip("py-spy is not installed")
    output = run(*words)
    if "Permission denied" in output or "Operation not permitted" in output:
        pytest.skip("py-spy may not look at processes here")
    assert "asgibridge.sync" in output.splitlines()


@pytest.mark.parametrize("command", ["python program.py", "asgibridge run program.py"])
@pytest.mark.parametrize("file", [None, "PYTHONPATH=."], ids=["no .env", ".env"])
def test_honcho(site, run, command, file):
    """Whose file of variables takes the place of PYTHONPATH."""
    pytest.importorskip("honcho")
    (site / "Procfile").write_text(f"web: {command}\n")
    if file is not None:
        (site / ".env").write_text(f"{file}\n")
    before = RUN if command.startswith("python") else ()
    assert "asgibridge.sync" in run(*before, "honcho", "start")


@pytest.mark.parametrize(
    "environment", ["", "environment=PYTHONPATH='.'\n"], ids=["", "environment"]
)
@pytest.mark.parametrize("is_outer", [True, False], ids=["run supervisord", "supervisord run"])
def test_supervisord(site, run, is_outer, environment):
    pytest.importorskip("supervisor")
    # The program tells it to end.
    with (site / "program.py").open("a") as source:
        source.write("import os; os.kill(os.getppid(), 15)\n")
    before = "" if is_outer else "-m asgibridge run "
    program = f"{sys.executable} {before}program.py"
    (site / "supervisord.conf").write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={site}/log\npidfile={site}/pid\n"
        f"[program:p]\ncommand={program}\nstdout_logfile={site}/out\nautorestart=false\n"
        f"startsecs=0\n{environment}"
    )
    output = run(*(RUN if is_outer else ()), "supervisord", "-c", "supervisord.conf")
    assert (site / "out").read_text() == "asgibridge.sync\n", output


@pytest.mark.parametrize("is_outer", [True, False], ids=["run watchfiles", "watchfiles run"])
def test_watchfiles(site, run, is_outer):
    pytest.importorskip("watchfiles")
    (site / "program.py").write_text(
        f"{PROGRAM}import os, signal\nos.kill(int(open('pid').read()), signal.SIGINT)\n"
    )
    start = (
        "import os, sys; open('pid', 'w').write(str(os.getpid()))\n"
        "os.execvp(sys.argv[1], sys.argv[1:])"
    )
    inner = "python program.py" if is_outer else "asgibridge run program.py"
    output = run(sys.executable, "-c", start, *(RUN if is_outer else ()), "watchfiles", inner, ".")
    assert "asgibridge.sync" in output.splitlines(), output


SERVERS = {
    "uvicorn": "uvicorn.main",
    "gunicorn": "gunicorn.app.wsgiapp",
    "hypercorn": "hypercorn.__main__",
    "granian": "granian.cli",
    "daphne": "daphne.cli",
}


@pytest.mark.parametrize("server", SERVERS)
def test_which_servers_import_asgiref_before_the_application(site, run, server):
    """docs/deployment.md has a row for each."""
    pytest.importorskip(server)
    (site / "application.py").write_text("import asgibridge\nasgibridge.install()\n")
    (site / "start.py").write_text(
        f"import sys; sys.argv[0] = {server!r}\nimport {SERVERS[server]}, application, program\n"
    )
    output = run(sys.executable, "start.py")
    if server == "daphne":
        assert "daphne does that before it imports the application" in output
        assert "start it with 'asgibridge run daphne ...'" in output
        assert "daphne/cli.py, line " in output
    else:
        assert output == "asgibridge.sync\n"
