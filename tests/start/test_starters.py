"""Programs that start programs: agents with a ``sitecustomize`` of their own, process managers.

What is here are programs of their kinds; the real ones are in tests/services/test_real_starters.py.
"""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

import pytest

import asgibridge
import children

pytestmark = pytest.mark.skipif(os.name == "nt", reason="agents' launchers exec, which is POSIX's")

# Puts a directory of its own into PYTHONPATH, and becomes the program.
LAUNCHER = """
import os, sys
own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "agent")
rest = os.environ.get("PYTHONPATH")
paths = {paths}
{start}
"""
PATHS = {
    "in front": "os.pathsep.join([own, rest] if rest else [own])",
    # What is left is what the tests themselves need.
    "instead": "os.pathsep.join([own, *filter(None, os.environ['NEEDED'].split(os.pathsep))])",
}
STARTS = {
    "execv": (
        "os.environ['PYTHONPATH'] = paths\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    ),
    "execl": (
        "from os import execl; os.environ['PYTHONPATH'] = paths\n"
        "execl(sys.executable, sys.executable, *sys.argv[1:])"
    ),
    "execve": (
        "os.execve(sys.executable, [sys.executable, *sys.argv[1:]], "
        "{**os.environ, 'PYTHONPATH': paths})"
    ),
    "spawn": (
        "env = {**os.environ, 'PYTHONPATH': paths}\n"
        "os.spawnve(os.P_WAIT, sys.executable, [sys.executable, *sys.argv[1:]], env)"
    ),
    "posix_spawn": (
        "env = {**os.environ, 'PYTHONPATH': paths}\n"
        "os.waitpid(os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], env), 0)"
    ),
    "subprocess": (
        "import subprocess; os.environ['PYTHONPATH'] = paths\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], check=True)"
    ),
    "subprocess, env": (
        "import subprocess; env = {**os.environ, 'PYTHONPATH': paths}\n"
        "subprocess.run([sys.executable, *sys.argv[1:]], env=env, check=True)"
    ),
    "asyncio": (
        "import asyncio; env = {**os.environ, 'PYTHONPATH': paths}\n"
        "async def main():\n"
        "    child = await asyncio.create_subprocess_exec(sys.executable, *sys.argv[1:], env=env)\n"
        "    await child.wait()\n"
        "asyncio.run(main())"
    ),
}
READY = "import builtins; builtins.agents = [*getattr(builtins, 'agents', []), 'agent']\n"
FIND = """
import os, sys
from importlib.machinery import PathFinder
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if entry != here]
spec = PathFinder.find_spec("sitecustomize", path=sys.path)
if spec is not None:
"""
AGENTS = {
    "alone": READY,
    "uses asgiref": f"{READY}import asgiref.sync\n",
    "hides": (
        f"{READY}import os\n"
        "os.environ['PYTHONPATH'] = os.pathsep.join(\n"
        "    entry for entry in os.environ['PYTHONPATH'].split(os.pathsep)\n"
        "    if entry != os.path.dirname(__file__))\n"
        "import asgiref.sync\n"
    ),
    "loads the next": f"{FIND}    spec.loader.load_module('sitecustomize')\n{READY}",
    "executes the next": (
        f"{FIND}    import importlib.util\n"
        f"    spec.loader.exec_module(importlib.util.module_from_spec(spec))\n{READY}"
    ),
    "imports the next": (
        f"{FIND}    own = sys.modules.pop('sitecustomize')\n    import sitecustomize\n"
        f"    sys.modules['sitecustomize'] = own\n{READY}"
    ),
}
if sys.version_info >= (3, 15):
    del AGENTS["loads the next"]  # Python has no load_module any more
CHAINS = sorted(name for name in AGENTS if name.endswith("the next"))

PROGRAM = """\
import builtins, asgiref.sync
print(asgiref.sync.__name__, *getattr(builtins, "agents", []), *getattr(builtins, "users", []))
"""


@pytest.fixture
def site(tmp_path) -> Path:
    original = tmp_path / "libraries" / "asgiref"
    original.mkdir(parents=True)
    (original / "__init__.py").write_text("__version__ = 'original'\n")
    (original / "sync.py").write_text("")
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "agent").mkdir()
    return tmp_path


@pytest.fixture
def run(site):
    """Run this Python with words, an original asgiref on its path; return what it prints."""
    # Also where Pythons start whose PYTHONPATH has been replaced.
    here = str(Path(asgibridge.__file__).parents[1]) if children.python_path() else ""
    needed = os.pathsep.join(filter(None, [str(site / "libraries"), here]))

    def run(*words, program=sys.executable, **env):
        env = {"PYTHONPATH": needed, "NEEDED": needed, **env}
        done = children.run(*words, cwd=site, program=program, **env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout.strip()

    return run


def make_agent(site, agent="uses asgiref", paths="in front", start="execv"):
    (site / "agent" / "sitecustomize.py").write_text(AGENTS[agent])
    text = LAUNCHER.replace("{paths}", PATHS[paths]).replace("{start}", STARTS[start])
    (site / "launch.py").write_text(text)


OURS = "-W", "ignore", "-m", "asgibridge", "run"


class TestAgents:
    @pytest.mark.parametrize(
        "order",
        [
            ("us", "agent", "program.py"),
            ("us", "python", "agent", "program.py"),
            ("agent", "us", "program.py"),
            ("agent", "us", "python", "program.py"),
            ("us", "agent", "us", "program.py"),
        ],
        ids=" ".join,
    )
    @pytest.mark.parametrize("agent", AGENTS)
    def test_and_the_bridge_are_both_there(self, site, run, agent, order):
        make_agent(site, agent)
        ours = OURS if order[0] == "us" else ("launch.py", *OURS)
        rest = {
            ("us", "agent"): ("launch.py",),
            ("us", "python"): (sys.executable, "launch.py"),
            ("agent", "us"): (sys.executable,) if "python" in order else (),
        }[order[:2]]
        again = OURS if order.count("us") == 2 else ()
        assert run(*ours, *rest, *again, "program.py") == "asgibridge.sync agent"

    @pytest.mark.parametrize("start", STARTS)
    @pytest.mark.parametrize("paths", PATHS)
    def test_whichever_way_they_start_it(self, site, run, paths, start):
        make_agent(site, paths=paths, start=start)
        assert run(*OURS, "launch.py", "program.py") == "asgibridge.sync agent"

    @pytest.mark.parametrize("agent", CHAINS)
    def test_by_a_launcher_that_is_no_python(self, site, run, agent):
        """We are second, and the agent runs us; and the user's own sitecustomize after us."""
        make_agent(site, agent)
        (site / "users").mkdir()
        (site / "users" / "sitecustomize.py").write_text(
            "import builtins; builtins.users = ['user']\n"
        )
        script = site / "launch.sh"
        script.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={site}/agent:$PYTHONPATH\n"
            f'exec "{sys.executable}" -W ignore "$@"\n'
        )
        script.chmod(0o755)
        paths = os.pathsep.join([str(site / "users"), *self.paths(site)])
        shown = run(*OURS, "./launch.sh", "program.py", PYTHONPATH=paths)
        assert shown == "asgibridge.sync agent user"

    @staticmethod
    def paths(site):
        here = str(Path(asgibridge.__file__).parents[1]) if children.python_path() else ""
        return filter(None, [str(site / "libraries"), here])


class TestEnvironment:
    def test_without_python_path_is_left_alone(self, site, run):
        """Whoever starts a child so wants nothing in it."""
        child = "import os; print(os.environ.get('PYTHONPATH'))"
        (site / "parent.py").write_text(
            "import os, subprocess, sys\n"
            "env = {name: os.environ[name] for name in os.environ if name != 'PYTHONPATH'}\n"
            f"subprocess.run([sys.executable, '-c', {child!r}], env=env, check=True)\n"
            "del os.environ['PYTHONPATH']\n"
            f"subprocess.run([sys.executable, '-c', {child!r}], check=True)\n"
            f"os.execv(sys.executable, [sys.executable, '-c', {child!r}])\n"
        )
        assert run(*OURS, "parent.py").split() == ["None"] * 3

    def test_of_the_parent_is_not_changed(self, site, run):
        (site / "parent.py").write_text(
            "import os, subprocess, sys\n"
            "os.environ['PYTHONPATH'] = 'mine'\n"
            "env = {'PYTHONPATH': 'other'}\n"
            "subprocess.run([sys.executable, '-c', ''], env=env, check=True)\n"
            "subprocess.run([sys.executable, '-c', ''], check=True)\n"
            "print(os.environ['PYTHONPATH'], env)\n"
        )
        assert run(*OURS, "parent.py") == "mine {'PYTHONPATH': 'other'}"

    def test_functions_look_and_fail_as_ever(self, site, run):
        (site / "look.py").write_text(
            "import inspect, os, subprocess\n"
            "assert 'env' in inspect.signature(subprocess.Popen).parameters\n"
            "assert os.execve in os.supports_fd or os.execve.__wrapped__ not in os.supports_fd\n"
            "for wrong in (5, {'PYTHONPATH': 5}):\n"
            "    for call in (\n"
            "        lambda: os.execve('/bin/true', ['true'], wrong),\n"
            "        lambda: subprocess.Popen(['true'], env=wrong),\n"
            "    ):\n"
            "        try:\n"
            "            call()\n"
            "        except (TypeError, AttributeError):\n"
            "            print('refused')\n"
        )
        assert run(*OURS, "look.py").split() == ["refused"] * 4


class TestPath:
    """What PATH is in ``asgibridge run PATH``."""

    def write(self, site, name, text, mode=0o755):
        path = site / name
        path.write_text(textwrap.dedent(text))
        path.chmod(mode)
        return f"./{name}"

    def test_a_python(self, run):
        assert run(*OURS, sys.executable, "-W", "ignore", "program.py") == "asgibridge.sync"

    def test_a_python_in_a_relative_path(self, site, run):
        (site / "bin").mkdir()
        words = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'  # as launchers of environments do
        self.write(site, "bin/python", words)
        assert run(*OURS, "bin/python", "program.py") == "asgibridge.sync"

    @pytest.mark.parametrize("first", ["#!/bin/sh\n", "#! /usr/bin/env sh\n", ""])
    def test_a_shell_script(self, site, run, first):
        text = f'{first}if true; then exec "{sys.executable}" program.py "$@"; fi\n'
        for name in ("start", "start.sh"):
            assert run(*OURS, self.write(site, name, text)) == "asgibridge.sync"

    @pytest.mark.parametrize("first", ["", "#!/usr/bin/env python3\n", "#!/no/such/python\n"])
    @pytest.mark.parametrize("name", ["tool", "tool.py", "tool.txt"])
    def test_python_source(self, site, run, name, first):
        """Run in this process, whatever its first line says."""
        text = f"{first}import sys; print('asgibridge._start.cli' in sys.modules)\n"
        assert run(*OURS, self.write(site, name, text)) == "True"
        assert run(*OURS, self.write(site, name, text, 0o644)) == "True"

    def test_a_command_of_another_environment(self, site, run):
        """Which lies beside its Python."""
        (site / "bin").mkdir()
        (site / "bin" / "python").symlink_to("/bin/sh")
        self.write(site, "bin/tool", f"#!{site}/bin/python\necho other\n")
        assert run(*OURS, "bin/tool") == "other"

    def test_a_command_of_this_environment(self, site, run):
        (site / "bin").mkdir()
        self.write(site, "bin/tool", f"#!{sys.executable}\n{PROGRAM}")
        assert run(*OURS, "bin/tool") == "asgibridge.sync"

    @pytest.mark.parametrize(
        ("text", "mode", "said"),
        [
            ("#!/bin/sh\n", 0o644, "Permission denied (chmod +x makes it a program)"),
            ("#!/no/such/interpreter\n", 0o755, "No such file or directory"),
            ("if true; then\n", 0o644, "SyntaxError"),
        ],
    )
    def test_that_cannot_be_run(self, site, text, mode, said):
        path = self.write(site, "start", text, mode)
        done = children.run(*OURS, path, cwd=site)
        assert done.returncode in (1, 2)
        assert said in done.stderr
