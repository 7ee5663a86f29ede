"""The command line. Programs run under it are compared with the same programs run by Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import asgibridge
import children
from asgibridge._start.install import BOOTSTRAP

POSIX = pytest.mark.skipif(os.name == "nt", reason="scripts with a first line #! are POSIX's")

# Where a program finds itself, and whether asgiref is ours.
PROBE = """\
import json, sys
import __main__
main = vars(__main__)
loader = main["__loader__"]
print(json.dumps({
    "argv": sys.argv,
    "path": sys.path[:2],
    "names": sorted(main),
    "file": main["__file__"],
    "cached": main.get("__cached__"),
    "package": main["__package__"],
    "spec": str(getattr(main["__spec__"], "name", None)),
    "loader": type(loader).__name__,
    "name": __name__,
    "own": main is globals(),
}))
"""

SHOW = "import asgiref.sync; print(asgiref.sync.__name__)\n"
# For an environment that has nothing installed, not even what asgibridge may depend on.
SHOW_VERSION = "import asgiref; print(asgiref.__version__)\n"


@pytest.fixture
def site(tmp_path) -> Path:
    """A directory of programs, with an original asgiref beside them that must not be loaded."""
    original = tmp_path / "asgiref"
    original.mkdir()
    (original / "__init__.py").write_text("__version__ = 'original'\n")
    (original / "sync.py").write_text("")
    (tmp_path / "script.py").write_text(PROBE)
    (tmp_path / "show.py").write_text(SHOW)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(PROBE)
    (package / "module.py").write_text(PROBE)
    return tmp_path


@pytest.fixture
def cli(site):
    """``asgibridge WORDS`` in the site's directory."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return children.run("-W", "error", "-m", "asgibridge", *words, cwd=site, **env)

    return run


@pytest.fixture
def output(cli):
    """The standard output of a command that must succeed, and be silent on standard error."""

    def run(*words: str, **env: str) -> str:
        done = cli(*words, **env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout.strip()

    return run


@pytest.fixture
def command(site):
    """Make an executable ``bin/name`` and return the PATH that finds it first."""

    def make(name: str, text: str) -> str:
        (site / "bin").mkdir(exist_ok=True)
        path = site / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return f"{path.parent}{os.pathsep}{os.environ['PATH']}"

    return make


@pytest.fixture
def other_python(tmp_path) -> Path:
    """The Python of another virtual environment, which has no asgibridge."""
    where = tmp_path / "other"
    words = [sys.executable, "-m", "venv", "--without-pip", str(where)]
    subprocess.run(words, check=True, timeout=children.SECONDS)
    return where / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


class TestRun:
    ARGS = ("-m", "x", "--help", "--version", "--", "-", "", "run")

    @pytest.mark.parametrize(
        "words",
        [
            ("script.py",),
            (os.path.join("package", "module.py"),),
            ("-m", "script"),
            ("-mscript",),
            ("-m", "package"),
            ("-m", "package.module"),
            ("package",),
            ("archive.zip",),
            ("link.py",),
            ("script.pyc",),
        ],
        ids=" ".join,
    )
    def test_is_what_python_would_do(self, site, output, words):
        with zipfile.ZipFile(site / "archive.zip", "w") as archive:
            archive.writestr("__main__.py", PROBE)
        if words == ("link.py",):
            try:
                (site / "link.py").symlink_to(site / "package" / "module.py")
            except OSError:
                if sys.platform != "win32":
                    raise
                pytest.skip("making a symbolic link needs a privilege on Windows")
        compile_one = "import py_compile; py_compile.compile('script.py', 'script.pyc')"
        assert children.run("-c", compile_one, cwd=site).returncode == 0
        expected = json.loads(children.run(*words, *self.ARGS, cwd=site).stdout)
        assert expected["argv"][1:] == list(self.ARGS)
        assert json.loads(output("run", *words, *self.ARGS)) == expected

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="-P is new in 3.11")
    @pytest.mark.parametrize("words", [("script.py",), ("package",)], ids=" ".join)
    def test_respects_safe_path(self, site, words):
        expected = json.loads(children.run("-P", *words, cwd=site).stdout)
        done = children.run("-P", "-m", "asgibridge", "run", *words, cwd=site)
        assert json.loads(done.stdout) == expected

    def test_puts_asgibridge_in_the_place_of_asgiref(self, output):
        assert output("run", "show.py") == "asgibridge.sync"
        assert output("run", "-m", "show") == "asgibridge.sync"

    def test_program_may_call_install_itself(self, site, output):
        (site / "twice.py").write_text("import asgibridge.autoinstall\n" + SHOW)
        assert output("run", "twice.py") == "asgibridge.sync"

    def test_in_run(self, output):
        assert output("run", "-m", "asgibridge", "run", "show.py") == "asgibridge.sync"

    def test_double_dash_ends_our_options(self, output):
        assert output("run", "--", "show.py") == "asgibridge.sync"

    def test_main_module_outlives_its_code(self, site, output):
        """What still runs then, a thread or an exit handler, pickles by it, for one."""
        (site / "ends.py").write_text(
            "import atexit\n"
            "def at_exit():\n"
            "    import __main__\n"
            "    print(__main__.at_exit is at_exit)\n"
            "atexit.register(at_exit)\n"
        )
        assert output("run", "ends.py") == "True"

    @pytest.mark.parametrize(
        "end",
        [
            "sys.exit()",
            "sys.exit(3)",
            "sys.exit('a message')",
            "raise KeyboardInterrupt",
            "os.kill(os.getpid(), signal.SIGTERM)",
            "1 / 0",
            "import not_there",
            "no python",
        ],
    )
    @pytest.mark.parametrize("words", [("ends.py",), ("-m", "ends")], ids=" ".join)
    def test_ends_as_under_python(self, site, cli, words, end):
        (site / "ends.py").write_text(f"import os, signal, sys\n{end}\n")
        expected, done = children.run(*words, cwd=site), cli("run", *words)
        assert done.returncode == expected.returncode
        assert done.stdout == expected.stdout
        # A traceback has lines of ours before the program's.
        assert done.stderr.splitlines()[-1:] == expected.stderr.splitlines()[-1:]
        assert "During handling" not in done.stderr

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (None, [BOOTSTRAP]),
            ([], [BOOTSTRAP]),  # an empty entry would be the current directory
            (["one", "two"], [BOOTSTRAP, "one", "two"]),
            (["one", "", "two"], [BOOTSTRAP, "one", "", "two"]),
            ([BOOTSTRAP, "one"], [BOOTSTRAP, "one"]),
        ],
    )
    def test_puts_one_entry_in_front_of_python_path(self, site, before, after):
        (site / "path.py").write_text("import os; print(os.environ['PYTHONPATH'])\n")
        set_path = f"os.environ['PYTHONPATH'] = {os.pathsep.join(before or [])!r}"
        if before is None:
            set_path = "os.environ.pop('PYTHONPATH', None)"
        program = (
            f"import os; {set_path}\n"
            "from asgibridge._start.cli import main; main(['run', 'path.py'])"
        )
        done = children.run("-c", program, cwd=site)
        assert (done.stdout.strip(), done.stderr) == (os.pathsep.join(after), "")

    def test_leaves_no_bytecode_beside_a_script(self, site, output):
        output("run", "script.py", PYTHONDONTWRITEBYTECODE="")
        assert not (site / "__pycache__").exists()


class TestCommand:
    @POSIX
    def test_of_this_python_runs_in_this_process(self, site, command, output):
        path = command("tool", f"#!{sys.executable}\n{PROBE}{SHOW}")
        probe, module = output("run", "tool", "--help", PATH=path).splitlines()
        expected = children.run("--help", program=str(site / "bin" / "tool"), cwd=site).stdout
        assert json.loads(probe) == json.loads(expected.splitlines()[0])
        assert module == "asgibridge.sync"

    @POSIX
    @pytest.mark.parametrize(
        "first_lines",
        [
            "#!{executable} -E",
            "#!/usr/bin/env {name}",
            "#!/usr/bin/env -S {name} -E",
            "#!/bin/sh\n'''exec' \"{executable}\" \"$0\" \"$@\"\n' '''",
        ],
        ids=["option", "env", "env -S", "sh"],
    )
    def test_of_this_python_by_other_first_lines(self, command, output, first_lines):
        python = Path(sys.executable)
        text = first_lines.format(executable=python, name=python.name)
        path = command(
            "tool", f"{text}\nimport sys; print('asgibridge._start.cli' in sys.modules)\n"
        )
        tools, rest = path.split(os.pathsep, 1)
        path = os.pathsep.join([tools, str(python.parent), rest])
        assert output("run", "tool", PATH=path) == "True"

    @POSIX
    def test_of_another_environment_runs_there(self, site, command, cli, other_python):
        path = command("tool", f"#!{other_python}\nimport sys; print(sys.prefix)\n{SHOW_VERSION}")
        done = cli("run", "tool", PATH=path)
        prefix, version = done.stdout.splitlines()
        assert Path(prefix) == other_python.parents[1]
        assert (version, done.returncode, done.stderr) == ("3.13.0", 0, "")

    @POSIX
    def test_that_is_no_python_reaches_its_python(self, command, cli):
        path = command("tool", f'#!/bin/sh\n"{sys.executable}" show.py; echo "$0" "$@"; exit 5\n')
        done = cli("run", "tool", "-x", "--help", PATH=path)
        module, words = done.stdout.splitlines()
        assert module == "asgibridge.sync"
        assert words.endswith("tool -x --help")
        assert (done.returncode, done.stderr) == (5, "")

    @POSIX
    def test_that_the_system_cannot_start(self, command, cli):
        path = command("tool", "#!/no/such/interpreter\n")
        done = cli("run", "tool", PATH=path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("asgibridge: cannot run ")

    def test_is_looked_up_beside_this_python_too(self, output):
        """An environment need not be activated."""
        scripts = sysconfig.get_path("scripts")
        if sys.prefix == sys.base_prefix and shutil.which("pytest", path=scripts) is None:
            pytest.skip("distributions put pytest's command elsewhere; an environment has it here")
        assert output("run", "pytest", "--version", PATH=os.devnull).startswith("pytest ")

    @POSIX
    def test_is_not_hidden_by_a_directory_of_its_name(self, site, command, output):
        (site / "tool").mkdir()
        path = command("tool", f"#!{sys.executable}\n{SHOW}")
        assert output("run", "tool", PATH=path) == "asgibridge.sync"

    @POSIX
    def test_may_be_hidden_by_a_file_of_its_name(self, site, command, output):
        (site / "tool").write_text("print('the file')\n")
        path = command("tool", f"#!{sys.executable}\n{SHOW}")
        assert output("run", "tool", PATH=path) == "the file"


class TestErrors:
    @pytest.mark.parametrize(
        ("words", "status", "said"),
        [
            ((), 2, "COMMAND"),
            (("walk",), 2, "invalid choice: 'walk'"),
            (("run",), 2, "nothing to run"),
            (("run", "-m"), 2, "-m: expected one argument"),
            (("run", "--fast", "show.py"), 2, "unrecognized arguments: --fast"),
            (("run", "no/such.py"), 2, "no such file"),
            (("run", "such.py"), 2, "no such file"),
            (("run", "such"), 2, "asgibridge run -m such"),
            (("run", "./asgiref"), 2, "no __main__.py"),
            (("run", "empty.zip"), 1, "no __main__ module in empty.zip"),
            (("run", "-m", "such"), 1, "No module named such"),
            (("run", "-m", "package.such"), 1, "No module named package.such"),
            (("run", "-m", "such.module"), 1, "No module named such.module"),
            (("run", "-m", "asgiref"), 1, "No module named asgiref.__main__"),
            (("run", "-m", "quiet.py"), 1, "asgibridge run quiet.py"),
            (("run", "-m", ".show"), 1, "relative module name"),
            (("run", "-m", "math"), 1, "no Python code"),
        ],
        ids=lambda value: " ".join(value) or "nothing" if isinstance(value, tuple) else None,
    )
    def test_say_what_to_do(self, site, cli, words, status, said):
        with zipfile.ZipFile(site / "empty.zip", "w") as archive:
            archive.writestr("other.py", "")
        (site / "quiet.py").write_text("")
        done = cli(*words)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_of_a_package_on_the_way_is_its_own(self, site, cli):
        (site / "package" / "__init__.py").write_text("import not_there\n")
        done = cli("run", "-m", "package")
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == ("ModuleNotFoundError: No module named 'not_there'")

    @pytest.mark.parametrize("flag", ["", "-I", "-S"])
    def test_original_imported_before_the_program(self, site, flag):
        """Where beginning again would not help."""
        words = ["run", "show.py"]
        program = (
            f"import sys; sys.path[:0] = [{str(site)!r}, *{sys.path!r}]; import asgiref.sync\n"
            f"import os; os.environ['PYTHONPATH'] = {'' if flag else BOOTSTRAP!r}\n"
            f"from asgibridge._start.cli import main; sys.exit(main({words}))"
        )
        done = children.run(*filter(None, [flag]), "-c", program, cwd=site)
        assert (done.returncode, done.stdout) == (2, "")
        assert "asgiref, asgiref.sync" in done.stderr
        assert "sitecustomize" in done.stderr

    @pytest.mark.parametrize(
        ("variable", "value", "takes"),
        [
            ("SPEEDUPS", "yes", "one of auto, require, off"),
            ("WORKERS", "Keep", "fresh, keep or new"),
            ("WORKERS_LIMIT", "0", "a whole number from 1 on"),
            ("WORKERS_WAIT_TIMEOUT", "-1", "seconds, from 0 on"),
            ("WORKERS_IDLE_TIMEOUT", "nan", "seconds, from 0 on"),
            ("WORKERS_RELEASE_IDLE", "never", "seconds, from 0 on, or off"),
            ("LOOP", "share", "shared"),
            ("WATCH", "soon", "a number of seconds above 0"),
            ("TIMINGS", "2", "0 or 1"),
        ],
    )
    def test_of_a_bad_setting(self, site, cli, variable, value, takes):
        """Told before the program starts; and never an ImportError, which Django's ``manage.py``
        takes for a missing Django."""
        variable = f"ASGIBRIDGE_{variable}"
        done = cli("run", "show.py", **{variable: value})
        said = f"{variable}={value!r}: must be {takes} (or unset)"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"asgibridge: {said}\n")
        program = (
            "try:\n    import asgibridge.sync, asgibridge.workers\n"
            "except ValueError as error:\n    print(error)"
        )
        assert children.run("-c", program, cwd=site, **{variable: value}).stdout.strip() == said

    def test_of_a_compiled_kernel_that_is_required_and_not_there(self, site):
        program = (
            "import importlib.util, sys\n"
            "find_spec = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, package=None: (\n"
            "    None if name == 'asgibridge._speedups' else find_spec(name, package))\n"
            "from asgibridge._start.cli import main; sys.exit(main(['run', 'show.py']))"
        )
        done = children.run("-c", program, cwd=site, ASGIBRIDGE_SPEEDUPS="require")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("asgibridge: ASGIBRIDGE_SPEEDUPS=require, but the compiled")

    @pytest.mark.parametrize(
        ("variable", "hint"),
        [
            ("ASGIBRIDGE_WORKER", "ASGIBRIDGE_WORKERS may be meant"),
            ("ASGIBRIDGE_WORKERS_TIMEOUT", "ASGIBRIDGE_WORKERS_WAIT_TIMEOUT may be meant"),
            ("ASGIBRIDGE_XYZ", "(there are ASGIBRIDGE_SPEEDUPS, "),
        ],
    )
    def test_of_an_unknown_setting(self, site, variable, hint):
        def run(*words):
            return children.run(*words, cwd=site, **{variable: "1"})

        said = f"the environment variable {variable} is unknown to asgibridge"
        done = run("-m", "asgibridge", "run", "show.py")
        assert (done.returncode, done.stdout) == (0, "asgibridge.sync\n")
        (line,) = done.stderr.splitlines()  # once, though the program imports us as well
        assert said in line
        assert hint in line
        assert f"RuntimeWarning: {said}" in run("-c", "import asgibridge.sync").stderr


class TestChildProcesses:
    def test_of_a_reloader(self, site, output):
        (site / "reloader.py").write_text(
            "import os, subprocess, sys\n"
            "if 'CHILD' in os.environ:\n"
            f"    {SHOW}"
            "else:\n"
            "    subprocess.run([sys.executable, *sys.argv], env={**os.environ, 'CHILD': '1'})\n"
        )
        assert output("run", "reloader.py") == "asgibridge.sync"

    def test_of_child_processes(self, site, output):
        grandchild = [sys.executable, "-c", SHOW]
        child = [sys.executable, "-c", f"import subprocess; subprocess.run({grandchild})"]
        (site / "parent.py").write_text(f"import subprocess; subprocess.run({child})\n")
        assert output("run", "parent.py") == "asgibridge.sync"

    @pytest.mark.parametrize("words", [("workers.py",), ("-m", "workers")], ids=" ".join)
    def test_of_multiprocessing(self, site, output, words):
        (site / "workers.py").write_text(
            "import asgiref.sync, multiprocessing\n"
            "def work():\n"
            "    return __name__, asgiref.sync.__name__\n"
            "if __name__ == '__main__':\n"
            "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
            "        print(*pool.apply(work))\n"
            "        pool.close()\n"
            "        pool.join()\n"
        )
        assert output("run", *words) == "__mp_main__ asgibridge.sync"

    def test_do_not_see_how(self, site, output):
        program = (
            "import sys; print(*(p for p in sys.path if 'bootstrap' in p), 'none', "
            "*sys.modules.keys() & {'sitecustomize', 'multiprocessing'})"
        )
        child = [sys.executable, "-c", program]
        (site / "parent.py").write_text(f"import subprocess; subprocess.run({child})\n")
        plain = children.run("-c", program, cwd=site).stdout.strip()
        assert output("run", "parent.py") == plain

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("mark = 'mine'", id="good"),
            pytest.param("1 / 0", id="raising"),
            pytest.param("import not_there", id="lacking a module"),
            pytest.param("raise ImportError('no', name='sitecustomize')", id="lacking itself"),
            pytest.param("import sys; sys.exit(7)", id="exiting"),
        ],
    )
    @pytest.mark.parametrize("where", ["PYTHONPATH", "site-packages"])
    def test_keep_their_own_sitecustomize(self, site, other_python, text, where):
        own = site / "own" if where == "PYTHONPATH" else _site_packages(other_python)
        own.mkdir(exist_ok=True)
        (own / "sitecustomize.py").write_text(text + "\n")
        program = (
            "import sys; own = sys.modules.get('sitecustomize')\n"
            "print(getattr(own, '__file__', None), getattr(own, 'mark', None), sys.path)"
        )

        def child(program, *paths):
            paths += (str(own),) if where == "PYTHONPATH" else ()
            env = {"PYTHONPATH": os.pathsep.join(paths)}
            return children.run("-c", program, program=str(other_python), cwd=site, **env)

        plain, done = child(program), child(program, BOOTSTRAP)
        assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)
        assert (f"{own / 'sitecustomize.py'} mine" in done.stdout) == ("mine" in text)
        # If site does not catch it there is a traceback, with lines of ours.
        assert done.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]
        if done.returncode == 0:
            assert done.stderr == plain.stderr
            assert child(SHOW_VERSION, BOOTSTRAP).stdout == "3.13.0\n"

    def test_that_cannot_be_installed_go_on_with_one_line(self, site, cli, other_python):
        (_site_packages(other_python) / "early.pth").write_text(
            f"import sys; sys.path.append({str(site)!r}); import asgiref\n"
        )
        child = [str(other_python), "-c", "import asgiref; print(asgiref.__version__)"]
        (site / "parent.py").write_text(f"import subprocess; subprocess.run({child})\n")
        done = cli("run", "parent.py")
        assert (done.returncode, done.stdout) == (0, "original\n")
        (line,) = done.stderr.splitlines()
        assert line.startswith("asgibridge: not installed as asgiref in child process ")
        assert "RuntimeError: asgibridge.install() comes too late" in line

    def test_of_a_python_too_old_are_left_alone(self, site):
        done = children.run(
            "-S",
            "-c",
            "import sys\n"
            "sys.version_info = (3, 8, 18)\n"
            f"sys.path.insert(0, {BOOTSTRAP!r})\n"
            "try:\n"
            "    import sitecustomize\n"
            "except ImportError as error:\n"
            "    print(error.name)\n"
            "print(*(name for name in sys.modules if 'asgi' in name), sys.path[0] == '')\n",
            cwd=site,
        )
        assert (done.stdout, done.stderr) == ("sitecustomize\nTrue\n", "")


class TestInfo:
    def test_has_what_a_bug_report_needs(self, output):
        lines = dict(line.split(": ", 1) for line in output("info").splitlines())
        assert list(lines) == [
            "asgibridge",
            "kernel",
            "about",
            "installed as asgiref",
            "original asgiref",
            "python",
            "GIL",
            "platform",
            "event loop policy",
            "uvloop",
            "workers",
            "workers' limit",
            "workers' limit of all processes",
            "server processes",
            "wait for a worker",
            "idle workers live",
            "idle contexts keep a worker",
            "loop of async_to_sync",
            "watch",
            "timings",
            "asgibridge.django in django.core.asgi",
        ]
        assert lines["about"].startswith("this process only, which runs no program of yours")
        assert lines["workers"] == "fresh (ASGIBRIDGE_WORKERS is not set)"
        assert lines["asgibridge"] == f"{asgibridge.__version__} (answers for asgiref 3.13.0)"
        assert lines["kernel"].startswith(f"{asgibridge.IMPLEMENTATION} (ASGIBRIDGE_SPEEDUPS=")
        assert lines["installed as asgiref"] == "no"
        assert "Policy" in lines["event loop policy"]
        assert lines["python"].split()[1] == sys.version.split()[0]
        assert lines["GIL"] in ("on", "off")

    def test_says_that_there_is_no_kernel_and_why(self, output):
        lines = output("info", ASGIBRIDGE_SPEEDUPS="maybe").splitlines()
        assert lines[1].startswith("kernel: none: ASGIBRIDGE_SPEEDUPS='maybe': must be one of ")

    def test_says_that_it_is_installed(self, output):
        lines = output("run", "-m", "asgibridge", "info").splitlines()
        assert "installed as asgiref: yes" in lines
        assert "about: a process under 'asgibridge run', as its other Pythons are" in lines

    def test_has_the_settings_and_says_which_are_bad(self, output):
        env = {"ASGIBRIDGE_WORKERS": "keep", "ASGIBRIDGE_WORKERS_LIMIT": "0"}
        lines = output("info", **env, ASGIBRIDGE_WATCH="soon", ASGIBRIDGE_TIMING="1").splitlines()
        assert "workers: keep (ASGIBRIDGE_WORKERS)" in lines
        assert (
            "workers' limit: BAD: ASGIBRIDGE_WORKERS_LIMIT='0': must be a whole number from 1 on "
            "(or unset)" in lines
        )
        assert any(line.startswith("watch: BAD: ASGIBRIDGE_WATCH='soon'") for line in lines)
        assert lines[-1].startswith(
            "warning: the environment variable ASGIBRIDGE_TIMING is unknown"
        )

    @POSIX
    def test_may_be_read_in_part(self, site):
        """As by ``head``, which goes away."""
        process = subprocess.Popen(
            [sys.executable, "-m", "asgibridge", "info"],
            cwd=site,
            env=children.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        with process.stderr:
            assert process.stderr.read() == b""
        assert process.wait(children.SECONDS) == 0

    def test_warns_of_the_original_loaded_beside_it(self, site):
        program = "import asgiref.sync; from asgibridge._start.cli import main; main(['info'])"
        done = children.run("-c", program, cwd=site)
        assert "\ninstalled as asgiref: no\n" in done.stdout
        assert "\noriginal asgiref: original, LOADED" in done.stdout

    def test_tells_the_original_that_is_only_there(self, site, output):
        (site / "asgiref-9.9.dist-info").mkdir()
        (site / "asgiref-9.9.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: asgiref\nVersion: 9.9\n"
        )
        assert "original asgiref: 9.9, not loaded" in output("info").splitlines()


class TestVersionAndHelp:
    def test_version(self, output):
        assert output("--version") == (
            f"asgibridge {asgibridge.__version__} (answers for asgiref 3.13.0)"
        )

    def test_help(self, output):
        assert "info" in output("--help")
        assert "asgibridge run -m uvicorn" in output("run", "--help")
        assert "bug report" in output("info", "--help")


def _site_packages(python: Path) -> Path:
    words = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(children.run(*words, program=str(python), cwd=python.parent).stdout.strip())


class TestVerbose:
    def test_says_what_runs(self, cli):
        done = cli("run", "-v", "show.py", "-x")
        assert done.stdout == "asgibridge.sync\n"
        (line,) = done.stderr.splitlines()
        assert "is in asgiref's place, and runs show.py -x (process " in line

    @POSIX
    def test_says_what_is_executed(self, cli):
        done = cli("run", "-v", sys.executable, "show.py")
        assert done.stdout == "asgibridge.sync\n"
        (line,) = done.stderr.splitlines()
        assert f"executing {sys.executable}; " in line


class TestWatch:
    def test_reaches_the_program_and_its_children(self, tmp_path):
        (tmp_path / "program.py").write_text(
            "import os, subprocess, sys\n"
            "print(os.environ['ASGIBRIDGE_WATCH'], flush=True)\n"
            "subprocess.run([sys.executable, '-c', 'import asgiref.sync, asgibridge.debug as d;"
            " print(d._watcher.seconds)'], check=True)\n"
        )
        done = children.run("-m", "asgibridge", "run", "--watch", "90", "program.py", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.split() == ["90", "90.0"]

    @pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan"])
    def test_refuses_what_is_no_number_of_seconds(self, tmp_path, seconds):
        words = ["run", f"--watch={seconds}", "program.py"]
        done = children.run("-m", "asgibridge", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert "is no number of seconds above 0" in done.stderr
