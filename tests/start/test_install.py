"""`install`: asgibridge under asgiref's name, in this process and in multiprocessing's children.

Every test runs a script of its own. Beside it lies an "original" asgiref, which must not be loaded.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import textwrap
import typing
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
    ours = [type(finder).__module__ for finder in sys.meta_path].count("asgibridge._start.install")
    print(wrong, ours)
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
    names = "asgiref", *(f"asgiref.{{name}}" for name in {SUBMODULES})
    seen = lambda: (list(sys.meta_path), [sys.modules.get(name) for name in names])
    before = seen()
    try:
        asgibridge.install()
    except RuntimeError as error:
        print(error)
    assert seen() == before
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
        assert asgibridge.is_installed is installer.is_installed
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


HOOKS = {
    # Each defines register(name, hook): hook(module) is to be called once the module is imported.
    "a loader in the other's place": """
        class Chained:
            def __init__(self, loader): self.loader = loader
            def create_module(self, spec): return self.loader.create_module(spec)
            def exec_module(self, module):
                self.loader.exec_module(module)
                self.hook(module)

        class Finder:
            is_busy = False
            def find_spec(self, name, path=None, target=None):
                if name != self.name or self.is_busy: return None
                self.is_busy = True
                try:
                    return self.chain(importlib.util.find_spec(name))
                finally:
                    self.is_busy = False
            def chain(self, spec):
                spec.loader = Chained(spec.loader)
                spec.loader.hook = self.hook
                return spec

        def register(name, hook):
            finder = Finder()
            finder.name, finder.hook = name, hook
            sys.meta_path.insert(0, finder)
    """,
    "a loader for a spec of its own": """
        class Mine(Finder):
            def chain(self, spec):
                loader = Chained(spec.loader)
                loader.hook = self.hook
                is_package = spec.submodule_search_locations is not None
                return importlib.machinery.ModuleSpec(
                    spec.name, loader, origin=spec.origin, is_package=is_package
                )

        def register(name, hook):
            finder = Mine()
            finder.name, finder.hook = name, hook
            sys.meta_path.insert(0, finder)
    """,
    "a method of the loader": """
        class Mine(Finder):
            def chain(self, spec):
                exec_module, hook = spec.loader.exec_module, self.hook
                def exec_and_call(module):
                    exec_module(module)
                    hook(module)
                spec.loader.exec_module = exec_and_call
                return spec

        def register(name, hook):
            finder = Mine()
            finder.name, finder.hook = name, hook
            sys.meta_path.insert(0, finder)
    """,
    "hooks kept by the module's name": """
        hooks = {}
        class ByName(Chained):
            def hook(self, module):
                for hook in hooks.pop(module.__name__, ()):
                    hook(module)

        class Mine(Finder):
            def chain(self, spec):
                spec.loader = ByName(spec.loader)
                return spec

        def register(name, hook):
            hooks.setdefault(name, []).append(hook)
            finder = Mine()
            finder.name = name
            sys.meta_path.insert(0, finder)
    """,
}
FIRST_HOOK = next(iter(HOOKS.values()))


def with_hooks(kind, rest):
    parts = "import importlib.machinery, importlib.util, sys\n", FIRST_HOOK, HOOKS[kind], rest
    return "".join(textwrap.dedent(part) for part in parts)


class TestPostImportHooks:
    """What agents do to patch modules as they are imported."""

    @pytest.mark.parametrize("name", ["asgiref", "asgiref.sync", "asgiref.local"])
    @pytest.mark.parametrize("is_first", [True, False], ids=["agent first", "asgibridge first"])
    @pytest.mark.parametrize("kind", HOOKS)
    def test_get_the_module_that_the_program_gets(self, script_output, kind, is_first, name):
        register, install = f"register({name!r}, hook)", "asgibridge.install()"
        first, second = (register, install) if is_first else (install, register)
        if name == "asgiref" and not is_first:
            second += "; del sys.modules['asgiref']"  # install() has imported it
        source = f"""
            import asgibridge, inspect
            seen = []
            def hook(module):
                seen.append(module)
                module.patched = True
                spec, source = module.__spec__, inspect.getsource(module)
                loader = getattr(spec.loader, "loader", spec.loader)
                assert source.startswith(chr(34) * 3)
                assert spec.origin == loader.get_filename(spec.name) == module.__file__
                assert loader.get_source(spec.name) == source
                assert loader.get_data(module.__file__).startswith(source[:99].encode())
                assert module.__loader__ is not None
            {first}
            {second}
            module = importlib.import_module({name!r})
            (once,) = seen
            assert once is module is sys.modules[{name!r}] and module.patched
            own = {name!r}.replace("asgiref.", "asgibridge.")
            assert module.__name__ == module.__spec__.name == own
            if own != "asgiref":
                assert module is sys.modules[own] is importlib.reload(module)
            print(type(module.__spec__).__name__)
        """
        assert script_output(with_hooks(kind, source)) == "ModuleSpec"

    @pytest.mark.parametrize("is_first", [True, False], ids=["agent first", "asgibridge first"])
    def test_of_wrapt(self, script_output, is_first):
        pytest.importorskip("wrapt")
        register = "wrapt.register_post_import_hook(seen.append, 'asgiref.sync')"
        first, second = register, "asgibridge.install()"
        if not is_first:
            first, second = second, first
        script_output(f"""
            import asgibridge, wrapt
            seen = []
            {first}
            {second}
            import asgiref.sync
            assert seen == [asgiref.sync], seen
            assert asgiref.sync is asgibridge.sync
        """)

    def test_that_raise_are_called_again(self, script_output):
        source = """
            import asgibridge
            calls = []
            def hook(module):
                calls.append(module.__name__)
                if len(calls) == 1:
                    raise LookupError
            register("asgiref.local", hook)
            asgibridge.install()
            try:
                import asgiref.local
            except LookupError:
                print(asgibridge.local.__name__, asgibridge.local.__spec__.name)
            import asgiref.local
            print(*calls)
        """
        assert script_output(with_hooks("a loader in the other's place", source)).splitlines() == [
            "asgibridge.local asgibridge.local",
            "asgiref.local asgiref.local",
        ]

    def test_other_threads_wait_for(self, script_output):
        """They would use what is not patched yet."""
        source = """
            import asgibridge, threading
            in_hook, go_on = threading.Event(), threading.Event()
            def hook(module):
                in_hook.set()
                assert go_on.wait(30)
                module.patched = True
            register("asgiref.local", hook)
            asgibridge.install()
            first = threading.Thread(target=importlib.import_module, args=("asgiref.local",))
            first.start()
            assert in_hook.wait(30)
            import asgibridge.local  # nobody waits for this one
            threading.Timer(0.1, go_on.set).start()
            import asgiref.local
            print(asgiref.local.patched)
            first.join(30)
        """
        assert script_output(with_hooks("a loader in the other's place", source)) == "True"

    def test_load_by_hand(self, script_output):
        script_output("""
            import asgibridge, importlib.util
            asgibridge.install()
            spec = importlib.util.find_spec("asgiref.timeout")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            assert module is asgibridge.timeout
            assert (module.__name__, module.__spec__.name) == ("asgibridge.timeout",) * 2
        """)

    def test_a_finder_that_finds_the_original_by_itself_does_not_win(self, script_output):
        script_output("""
            import asgibridge, importlib.machinery, sys
            class Finder:
                def find_spec(self, name, path=None, target=None):
                    if name.split(".")[0] == "asgiref":
                        return importlib.machinery.PathFinder.find_spec(name, path)
            sys.meta_path.insert(0, Finder())
            asgibridge.install()
            import asgiref.sync
            assert asgiref.sync is asgibridge.sync
        """)

    def test_errors_of_a_finder_leave_everything_as_it_was(self, script_output):
        script_output("""
            import asgibridge, sys
            class Finder:
                def find_spec(self, name, path=None, target=None):
                    if name == "asgiref":
                        raise LookupError
            sys.meta_path.insert(0, Finder())
            before = list(sys.meta_path)
            try:
                asgibridge.install()
            except LookupError:
                assert sys.meta_path == before
                print("raised")
        """)


class TestWhoWasFirst:
    """The error says which file has imported the original, and where."""

    FILES: typing.ClassVar = {
        "plain": "\nimport asgiref.sync\n",
        "tried": "try:\n    from asgiref import sync\nexcept ImportError:\n    pass\n",
        "checked": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import asgiref.typing\n"
            "else:\n    import plain\n"
        ),
        "late": "def f():\n    from asgiref.sync import original\n",
        "outer": "import asgiref\nimport plain\n",
        "other": "import plain\nimport asgiref\n",
    }

    @pytest.mark.parametrize(
        ("imports", "file", "line"),
        [
            ("import plain", "plain.py", 2),
            ("import tried, plain", "tried.py", 2),
            ("import checked, tried", "plain.py", 2),
            ("import late; late.f()", "late.py", 2),
            ("import late, plain; late.f()", "plain.py", 2),
            ("import outer", "outer.py", 1),
            ("import other", "plain.py", 2),
            ("import asgiref, plain", "script.py", 3),
            ("import plain, asgiref", "plain.py", 2),
            ("import os, asgiref\n    import plain", "script.py", 3),
            ("__import__('asgiref')", None, 0),
        ],
    )
    def test_is_said(self, script_output, tmp_path, imports, file, line):
        for name, text in self.FILES.items():
            (tmp_path / f"{name}.py").write_text(text)
        message = script_output(f"""
    {imports}
    try:
        import asgibridge.autoinstall
    except RuntimeError as error:
        print(error)
    import asgiref.sync
        """)
        if file is None:
            assert "imported first" not in message
        else:
            assert f"It was imported first by {tmp_path / file}, line {line}. " in message

    @pytest.mark.parametrize("words", [("bin/server",), ("-m", "server")], ids=" ".join)
    def test_a_server_is_to_be_started_with_us(self, tmp_path, words):
        """No line of the application comes early enough."""
        for name, text in {
            "bin/server": "import sys; sys.path.insert(0, '.'); import server.__main__",
            "server/__main__.py": "import server.cli",
            "server/cli.py": "import asgiref.sync, importlib\nimportlib.import_module('app')",
            "app.py": "import asgibridge.autoinstall",
        }.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        done = children.run(*words, cwd=tmp_path)
        assert "cli.py, line 1. server does that before it imports the app" in done.stderr
        assert "start it with 'asgibridge run server ...'" in done.stderr

    def test_tests_are_to_be_started_with_us(self, tmp_path):
        """A plugin, such as pytest-django's, is imported before conftest.py."""
        (tmp_path / "plugin.py").write_text("import asgiref.sync")
        (tmp_path / "conftest.py").write_text("import asgibridge.autoinstall")
        done = children.run("-m", "pytest", "-p", "plugin", cwd=tmp_path)
        assert "plugin.py, line 1. Start the tests with 'pytest -p asgibridge" in done.stderr


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
