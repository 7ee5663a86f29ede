"""`install`: asgibridge under asgiref's name, in this process and in multiprocessing's children.

Every test runs a script of its own. Beside it lies an "original" asgiref, which must not be loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest

import asgibridge
import children
from asgibridge._start import install as installer

SUBMODULES = (
    "compatibility",
    "current_thread_executor",
    "local",
    "server",
    "sync",
    "testing",
    "timeout",
    "typing",
    "wsgi",
)


@pytest.fixture(autouse=True)
def original(tmp_path) -> Path:
    """An original asgiref beside the script, in front of anything installed."""
    package = tmp_path / "asgiref"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = 'original'\n")
    for name in (*SUBMODULES, "more"):
        (package / f"{name}.py").write_text("original = True\n")
    return package


class TestModules:
    @pytest.mark.parametrize("name", SUBMODULES)
    def test_are_the_same_objects(self, script_output, name):
        assert (
            script_output(f"""
    import asgibridge
    asgibridge.install()
    import asgiref.{name}
    import asgibridge.{name}
    assert asgiref.{name} is asgibridge.{name}
    print(asgiref.{name}.__name__, asgiref.{name}.__spec__.name)
        """)
            == f"asgibridge.{name} asgibridge.{name}"
        )

    def test_asgiref_is_a_package_of_its_own(self, script_output):
        assert script_output("""
    import asgibridge, importlib.util, os
    asgibridge.install()
    import asgiref
    assert asgiref is not asgibridge
    assert importlib.util.find_spec("asgiref") is asgiref.__spec__
    print(asgiref.__version__, asgiref.__name__, asgiref.__package__, list(asgiref.__path__))
    print(os.path.samefile(asgiref.__file__, asgibridge.__file__), hasattr(asgiref, "sync"))
        """).splitlines() == ["3.13.0 asgiref asgiref []", "True False"]

    def test_that_asgiref_has_not_are_not_found_in_the_original(self, script_output):
        assert script_output("""
    import asgibridge, importlib.util
    asgibridge.install()
    assert importlib.util.find_spec("asgiref.more") is None
    try:
        import asgiref.more
    except ModuleNotFoundError as error:
        print(error.name)
        """) == ("asgiref.more")

    def test_can_be_found_before_they_are_loaded(self, script_output):
        assert (
            script_output("""
    import asgibridge, importlib.util, sys
    asgibridge.install()
    print(importlib.util.find_spec("asgiref.wsgi").name, "asgiref.wsgi" in sys.modules)
        """)
            == "asgiref.wsgi False"
        )

    def test_are_ours_again_after_being_deleted(self, script_output):
        script_output("""
    import asgibridge.local, sys
    asgibridge.install()
    import asgiref.local
    del sys.modules["asgiref.local"]
    import asgiref.local
    assert asgiref.local is sys.modules["asgiref.local"] is asgibridge.local
    del sys.modules["asgiref.local"], sys.modules["asgiref"], asgiref
    import asgiref.local
    assert asgiref.local is asgibridge.local
    assert asgiref.__version__ == "3.13.0"
        """)

    def test_can_be_reloaded(self, script_output):
        script_output("""
    import asgibridge.timeout, importlib
    asgibridge.install()
    import asgiref.timeout
    before = asgiref.timeout.timeout
    assert importlib.reload(asgiref.timeout) is asgibridge.timeout
    assert asgiref.timeout.timeout is not before
    assert importlib.reload(asgiref) is asgiref
    assert asgiref.__version__ == "3.13.0" and asgiref.timeout is asgibridge.timeout
        """)

    def test_never_carry_the_alias_spec_not_for_a_moment(self, script_output):
        """Another thread may be looking."""
        assert (
            script_output("""
    import asgibridge.local, types
    asgibridge.install()

    class Watched(types.ModuleType):
        def __setattr__(self, name, value):
            print("set", name)
            super().__setattr__(name, value)

    asgibridge.local.__class__ = Watched
    import asgiref.local
    print(asgiref.local is asgibridge.local)
        """)
            == "True"
        )

    def test_imported_by_many_threads_at_once(self, script_output):
        assert (
            script_output("""
    import importlib, sys, threading
    import asgibridge
    sys.setswitchinterval(1e-6)
    names = ("sync", "local", "wsgi", "server", "testing", "timeout", "typing")
    barrier = threading.Barrier(8)
    wrong = []

    def use():
        barrier.wait(30)
        asgibridge.install()
        for name in names:
            module = importlib.import_module(f"asgiref.{name}")
            if module.__spec__.name != f"asgibridge.{name}":
                wrong.append((name, module))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    print(wrong, [type(finder).__name__ for finder in sys.meta_path].count("_Finder"))
        """)
            == "[] 1"
        )


class TestInstall:
    def test_loads_nothing_that_is_not_needed_yet(self, script_output):
        """A program may want to be first, gevent's monkey-patching for one; children start fast."""
        assert (
            script_output("""
    import sys
    dear = {"asyncio", "multiprocessing", "socket", "ssl", "asgibridge._kernel"}
    before = dear & set(sys.modules)
    import asgibridge.autoinstall
    import asgiref
    print(sorted(dear & set(sys.modules) - before))
        """)
            == "[]"
        )

    def test_again_does_nothing(self, script_output):
        script_output("""
    import asgibridge, sys
    asgibridge.install()
    import asgiref.sync
    before = list(sys.meta_path), asgiref
    asgibridge.install()
    assert (list(sys.meta_path), sys.modules["asgiref"]) == before
        """)

    def test_overrides_an_import_that_was_switched_off(self, script_output):
        script_output("""
    import asgibridge, sys
    sys.modules["asgiref"] = sys.modules["asgiref.sync"] = None
    asgibridge.install()
    import asgiref.sync
    assert asgiref.sync is asgibridge.sync
        """)

    @pytest.mark.parametrize(
        ("imports", "named"),
        [
            ("import asgiref", "(asgiref)"),
            ("import asgiref.sync, asgiref.local", "(asgiref, asgiref.local, asgiref.sync)"),
            ("import asgiref.sync; del sys.modules['asgiref']", "(asgiref.sync)"),
        ],
    )
    def test_too_late_says_what_was_imported_and_changes_nothing(
        self, script_output, imports, named
    ):
        message, *rest = script_output(f"""
    import asgibridge, sys
    {imports}
    before = list(sys.meta_path), dict(sys.modules)
    try:
        asgibridge.install()
    except RuntimeError as error:
        print(error)
    assert (list(sys.meta_path), dict(sys.modules)) == before
    print(asgiref.__version__)
        """).splitlines()
        assert named in message
        assert "import asgibridge.autoinstall" in message
        assert "asgibridge run" in message
        assert rest == ["original"]

    def test_too_late_by_a_thread_that_has_just_found_the_original(self, script_output):
        assert script_output("""
    import asgibridge, importlib.machinery, sys, threading
    found, installing = threading.Event(), threading.Event()

    class Slow:
        def find_spec(self, name, path=None, target=None):
            if name == "asgiref":
                found.set()
                assert installing.wait(30)
                return importlib.machinery.PathFinder.find_spec(name, path)

    class MetaPath(list):
        def insert(self, index, finder):
            super().insert(index, finder)
            installing.set()

    sys.meta_path = MetaPath([Slow(), *sys.meta_path])
    before = list(sys.meta_path)
    thread = threading.Thread(target=__import__, args=("asgiref",))
    thread.start()
    assert found.wait(30)
    try:
        asgibridge.install()
    except RuntimeError as error:
        print(str(error)[:33])
    thread.join(30)
    assert sys.meta_path == before
    print(sys.modules["asgiref"].__version__)
        """).splitlines() == ["asgibridge.install() comes too la", "original"]

    def test_state_can_be_asked(self, script_output):
        assert script_output("""
    import sys
    from asgibridge._start import install as installer
    state = lambda: print(installer.is_installed(), installer.real_asgiref_loaded())
    state()
    import asgiref.sync
    state()
    del sys.modules["asgiref"], sys.modules["asgiref.sync"]
    installer.install()
    import asgiref.sync
    state()
    sys.modules["asgiref.sync"] = type(sys)("asgiref.sync")
    state()
        """).splitlines() == ["False False", "False True", "True False", "False True"]


class TestAutoinstall:
    def test_is_one_line(self, script_output):
        assert (
            script_output("""
    import asgibridge.autoinstall
    from asgiref.sync import sync_to_async
    print(sync_to_async.__module__)
        """)
            == "asgibridge.sync"
        )

    def test_raises_as_often_as_it_is_tried(self, script_output):
        assert (
            script_output("""
    import asgiref
    for _ in range(2):
        try:
            import asgibridge.autoinstall
        except RuntimeError as error:
            print("too late" in str(error))
        """)
            == "True\nTrue"
        )


class TestPytestPlugin:
    @pytest.fixture
    def run_pytest(self, tmp_path):
        (tmp_path / "test_it.py").write_text(
            "import asgiref.sync\n"
            "def test_it():\n"
            "    assert not hasattr(asgiref.sync, 'original')\n"
        )

        def run(*args, before=""):
            words = ["-q", "-W", "error", "-p", "no:cacheprovider", *args, "test_it.py"]
            program = f"{before}\nimport sys, pytest\nsys.exit(pytest.main({words}))"
            env = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
            return children.run("-c", program, cwd=tmp_path, **env)

        return run

    def test_installs_before_the_tests_are_imported(self, run_pytest):
        done = run_pytest("-p", "asgibridge.autoinstall")
        assert "1 passed" in done.stdout, done.stdout + done.stderr

    def test_may_have_been_imported_already(self, run_pytest):
        """pytest would warn that it cannot rewrite its assertions."""
        done = run_pytest("-p", "asgibridge.autoinstall", before="import asgibridge.autoinstall")
        assert "1 passed" in done.stdout, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr

    def test_after_a_plugin_that_imports_asgiref_says_so(self, run_pytest, tmp_path):
        (tmp_path / "early.py").write_text("import asgiref.sync\n")
        done = run_pytest("-p", "early", "-p", "asgibridge.autoinstall")
        assert done.returncode != 0
        assert "passed" not in done.stdout
        last = done.stderr.strip().splitlines()[-1]
        assert "RuntimeError: asgibridge.install() comes too late" in last
        assert "(asgiref, asgiref.sync)" in last


METHODS = [method for method in multiprocessing.get_all_start_methods() if method != "fork"]

PROGRAM = """
    import multiprocessing, sys
    from concurrent.futures import ProcessPoolExecutor

    if __name__ == "__main__":
        {install}

    import asgiref.sync

    def where(method, depth):
        if depth:
            context = multiprocessing.get_context(method)
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                return pool.submit(where, method, depth - 1).result(30)
        import asgibridge
        return __name__, asgiref.sync.__name__, asgibridge.__file__

    if __name__ == "__main__":
        print(*where(sys.argv[1], int(sys.argv[2])), sep="\\n")
"""

INSTALL = "import asgibridge; asgibridge.install()"


NO_POOL = pytest.mark.skipif(
    sys.implementation.name == "pypy" and sys.version_info < (3, 10),
    reason="its ProcessPoolExecutor lacks a method that it calls",
)


class TestMultiprocessing:
    @NO_POOL
    @pytest.mark.parametrize("depth", [1, 2], ids=["child", "grandchild"])
    @pytest.mark.parametrize("method", METHODS)
    def test_reaches(self, script_output, method, depth):
        output = script_output(PROGRAM.format(install=INSTALL), method, str(depth))
        assert output.splitlines()[:2] == ["__mp_main__", "asgibridge.sync"]

    @NO_POOL
    @pytest.mark.parametrize("method", METHODS)
    def test_reaches_children_if_it_was_imported_before(self, script_output, method):
        imports = "import multiprocessing.spawn, multiprocessing.popen_spawn_posix; "
        if method == "forkserver":
            imports = "import multiprocessing.forkserver; "
        output = script_output(PROGRAM.format(install=imports + INSTALL), method, "1")
        assert output.splitlines()[:2] == ["__mp_main__", "asgibridge.sync"]

    @NO_POOL
    @pytest.mark.parametrize("method", METHODS)
    def test_children_get_this_asgibridge_wherever_it_lies(self, tmp_path, method):
        """A place that is on no path of theirs, and hard to quote."""
        place = tmp_path / "it's a plåce"
        if os.name == "posix":
            place /= 'with "quotes" and \\;'
        shutil.copytree(Path(asgibridge.__file__).parent, place / "asgibridge")
        (tmp_path / "script.py").write_text(
            # The main module as a child sees it must not be what brings the place onto the path.
            "if __name__ == '__main__':\n"
            f"    import sys; sys.path.insert(0, {str(place)!r})\n"
            f"    {INSTALL}\n"
            "    sys.path.pop(0)\n" + PROGRAM.replace("\n    ", "\n").format(install="pass"),
            encoding="utf-8",
        )
        done = children.run("-bb", "-W", "error", "script.py", method, "2", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        name, module, file = done.stdout.splitlines()
        assert (name, module) == ("__mp_main__", "asgibridge.sync")
        assert Path(file).parents[1] == place

    @pytest.mark.skipif("forkserver" not in METHODS, reason="Windows has no fork server")
    def test_reaches_what_the_fork_server_preloads(self, tmp_path):
        (tmp_path / "preloaded.py").write_text("import asgiref.sync\n")
        (tmp_path / "script.py").write_text(
            "import multiprocessing as mp\n"
            "def show():\n"
            "    import preloaded\n"
            "    print(preloaded.asgiref.sync.__name__, flush=True)\n"
            "if __name__ == '__main__':\n"
            f"    {INSTALL}\n"
            "    context = mp.get_context('forkserver')\n"
            "    context.set_forkserver_preload(['preloaded'])\n"
            "    child = context.Process(target=show)\n"
            "    child.start()\n"
            "    child.join(30)\n"
        )
        done = children.run("script.py", cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("asgibridge.sync\n", "")

    def test_begins_once(self, script_output):
        """However often install() is called, and whenever multiprocessing is imported."""
        assert (
            script_output("""
    import asgibridge
    asgibridge.install()
    import multiprocessing.spawn
    asgibridge.install()
    import multiprocessing.popen_spawn_posix, multiprocessing.popen_forkserver
    asgibridge.install()
    program = multiprocessing.spawn.get_command_line(pipe_handle=5)[-2]
    print(program.count("import asgibridge_bootstrap"), program.count("spawn_main(pipe_handle=5)"))
        """)
            == "1 1"
        )

    def test_is_left_alone_in_a_frozen_program(self, monkeypatch):
        """Whose command has no -c, or is read by what froze it."""
        monkeypatch.setattr(sys, "frozen", True, raising=False)
        frozen = ["program", "--multiprocessing-fork", "pipe_handle=5"]
        server = ["program", "-c", "from multiprocessing.forkserver import main; main()"]
        assert installer._install_first(frozen, "multiprocessing.spawn") == frozen
        assert installer._install_first(server, "multiprocessing.forkserver") == server

    def test_other_commands_are_left_alone(self):
        tracker = [b"python", "-c", "from multiprocessing.resource_tracker import main;main(5)"]
        assert installer._install_first(tracker, "multiprocessing.forkserver") == tracker

    def test_command_can_be_put_in_double_quotes(self):
        """As multiprocessing does on Windows."""
        command = ["python", "-c", "from multiprocessing.spawn import spawn_main; spawn_main()"]
        program = installer._install_first(command, "multiprocessing.spawn")[2]
        assert program != command[2]
        assert '"' not in program
