"""``asgibridge run --django``, by a package ``django`` that is only as much as that looks at.

The servers, with the real one: tests/services/test_django_app.py.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

import children

ASGI = """\
import django

def get_asgi_application():
    return "Django's"

name = __name__
"""
SHOW = """\
import sys
early = [name for name in sys.modules if name.startswith("django") or name == "asgibridge.django"]
import django.core.asgi as asgi
print(asgi.get_asgi_application.__module__, asgi.name, asgi.__spec__.name, *early)
"""
OURS = "asgibridge.django django.core.asgi django.core.asgi"
THEIRS = "django.core.asgi django.core.asgi django.core.asgi"


@pytest.fixture
def site(tmp_path) -> Path:
    make_django(tmp_path)
    (tmp_path / "show.py").write_text(SHOW)
    return tmp_path


def make_django(place: Path, version: tuple[int, ...] = (5, 2, 0)) -> None:
    package = place / "django" / "core"
    package.mkdir(parents=True)
    text = ".".join(map(str, version))
    (place / "django" / "__init__.py").write_text(
        f"VERSION = {version!r}\ndef get_version():\n    return {text!r}\n"
    )
    (package / "__init__.py").write_text("")
    (package / "asgi.py").write_text(ASGI)


@pytest.fixture
def run(site):
    def run(*words, **env):
        path = os.pathsep.join([str(site), *children.python_path()])
        env = {"PYTHONPATH": path, **env}
        return children.run("-W", "error", "-m", "asgibridge", "run", *words, cwd=site, **env)

    return run


@pytest.fixture
def output(run):
    def output(*words, **env):
        done = run(*words, **env)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        return done.stdout.strip()

    return output


class TestGetAsgiApplication:
    def test_is_ours_and_nothing_is_imported_before(self, output):
        assert output("--django", "show.py") == OURS

    def test_is_djangos_without(self, output):
        assert output("show.py") == THEIRS
        assert output("show.py", ASGIBRIDGE_DJANGO="0") == THEIRS
        assert output("show.py", ASGIBRIDGE_DJANGO="") == THEIRS

    def test_is_ours_by_the_environment(self, output):
        assert output("show.py", ASGIBRIDGE_DJANGO="1") == OURS

    def test_is_ours_by_the_environment_and_install(self, site, output):
        (site / "manage.py").write_text(f"import asgibridge; asgibridge.install()\n{SHOW}")
        path = os.pathsep.join([str(site), *children.python_path()])
        env = {"PYTHONPATH": path, "ASGIBRIDGE_DJANGO": "1"}
        done = children.run("manage.py", cwd=site, **env)
        assert (done.stdout.strip(), done.stderr) == (OURS, "")

    def test_is_ours_where_django_was_imported_by_an_earlier_install(self, site):
        program = (
            "import os, asgibridge; asgibridge.install()\n"
            "import django.core.asgi\n"
            "os.environ['ASGIBRIDGE_DJANGO'] = '1'; asgibridge.install()\n"
            "print(django.core.asgi.get_asgi_application.__module__)"
        )
        path = os.pathsep.join([str(site), *children.python_path()])
        done = children.run("-c", program, cwd=site, PYTHONPATH=path)
        assert (done.stdout, done.stderr) == ("asgibridge.django\n", "")

    def test_is_ours_in_a_zip_file_whose_loader_loads_others_too(self, site, output):
        with zipfile.ZipFile(site / "site.zip", "w") as archive:
            for file in sorted((site / "django").rglob("*.py")):
                archive.write(file, str(file.relative_to(site)))
            archive.writestr("django/core/other.py", "def get_asgi_application(): pass\n")
        (site / "django").rename(site / "elsewhere")
        (site / "zipped.py").write_text(
            f"{SHOW}from django.core import other\nprint(other.get_asgi_application.__module__)\n"
        )
        path = os.pathsep.join([str(site / "site.zip"), *children.python_path()])
        shown = output("--django", "zipped.py", PYTHONPATH=path)
        assert shown.splitlines() == [OURS, "django.core.other"]

    @pytest.mark.parametrize("when", ["before", "after"])
    def test_is_what_a_post_import_hook_finds(self, site, output, when):
        hook = (
            "import importlib.util, sys\n"
            "class Finder:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            "        if name != 'django.core.asgi' or self.is_asking: return None\n"
            "        self.is_asking = True\n"
            "        spec = importlib.util.find_spec(name)\n"
            "        self.is_asking = False\n"
            "        execute = spec.loader.exec_module\n"
            "        def exec_module(module):\n"
            "            execute(module)\n"
            "            print('hook:', module.get_asgi_application.__module__)\n"
            "        spec.loader.exec_module = exec_module\n"
            "        return spec\n"
            "    is_asking = False\n"
            "sys.meta_path.insert(0, Finder())\n"
        )
        # Before ours is installed, by a sitecustomize; or after, by the program.
        if when == "before":
            (site / "sitecustomize.py").write_text(hook)
        else:
            (site / "show.py").write_text(hook + SHOW)
        assert output("--django", "show.py").splitlines() == ["hook: asgibridge.django", OURS]

    def test_is_ours_in_children(self, site, output):
        (site / "parent.py").write_text(
            "import subprocess, sys\n"
            "print(subprocess.run([sys.executable, 'show.py'], capture_output=True, check=True,\n"
            "      text=True).stdout.strip())\n"
        )
        assert output("--django", "parent.py") == OURS

    def test_is_ours_in_the_program_that_a_launcher_becomes(self, site, output):
        (site / "launch.py").write_text(
            "import os, sys; os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
        )
        assert output("--django", "launch.py", "show.py") == OURS
        assert output("--django", sys.executable, "show.py") == OURS

    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_is_ours_in_children_of_multiprocessing(self, site, output, method):
        if method != "spawn" and os.name == "nt":
            pytest.skip("POSIX's")
        (site / "child.py").write_text(
            "def show():\n"
            "    from django.core.asgi import get_asgi_application\n"
            "    print(get_asgi_application.__module__, flush=True)\n"
        )
        (site / "parent.py").write_text(
            "import multiprocessing, child\n"
            "if __name__ == '__main__':\n"
            f"    context = multiprocessing.get_context({method!r})\n"
            "    process = context.Process(target=child.show)\n"
            "    process.start(); process.join()\n"
        )
        assert output("--django", "parent.py") == "asgibridge.django"


class TestWithoutADjango:
    def test_a_word_is_said(self, site, run):
        (site / "django").rename(site / "elsewhere")
        (site / "none.py").write_text("print('runs')\n")
        if _has_django():
            pytest.skip("there is one beside the tests")
        done = run("--django", "none.py")
        assert (done.returncode, done.stdout) == (0, "runs\n")
        (line,) = done.stderr.splitlines()
        assert line.startswith("asgibridge: --django: there is no Django here: install it, or ")
        assert run("none.py", ASGIBRIDGE_DJANGO="1").stderr == ""  # a child, of another program

    def test_one_that_is_too_old_is_an_error_that_says_so(self, tmp_path, run):
        place = tmp_path / "old"
        make_django(place, (4, 1, 13))
        (place / "django-4.1.13.dist-info").mkdir()
        (place / "django-4.1.13.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: django\nVersion: 4.1.13\n"
        )
        (tmp_path / "django").rename(tmp_path / "elsewhere")
        (tmp_path / "main.py").write_text(
            "from django.core.asgi import get_asgi_application\nget_asgi_application()\n"
        )
        done = run(
            "--django", "main.py", PYTHONPATH=os.pathsep.join([str(place), *children.python_path()])
        )
        assert done.returncode == 1
        lines = done.stderr.splitlines()
        assert lines[0].startswith(
            "asgibridge: --django: Django 4.2 or newer is needed, and this is 4.1.13: upgrade it"
        )
        assert lines[-1] == (
            "RuntimeError: asgibridge.django needs Django 4.2 or newer, and this is 4.1.13: "
            "upgrade Django, or take get_asgi_application from django.core.asgi (and leave out "
            "'asgibridge run --django' and ASGIBRIDGE_DJANGO)"
        )


def _has_django() -> bool:
    from importlib import metadata

    return any(metadata.distributions(name="django"))


@pytest.mark.parametrize("words", [("run", "show.py"), ("info",)])
def test_a_bad_value_is_told_before_the_program_starts(site, words):
    path = os.pathsep.join([str(site), *children.python_path()])
    env = {"PYTHONPATH": path, "ASGIBRIDGE_DJANGO": "yes"}
    done = children.run("-m", "asgibridge", *words, cwd=site, **env)
    message = "ASGIBRIDGE_DJANGO='yes': must be 0 or 1 (or unset)"
    if words == ("info",):
        assert f"asgibridge.django in django.core.asgi: BAD: {message}" in done.stdout
    else:
        assert (done.returncode, done.stderr) == (2, f"asgibridge: {message}\n")


def test_install_refuses_a_bad_value_and_changes_nothing(site):
    program = (
        "import sys, asgibridge\n"
        "try:\n    asgibridge.install()\n"
        "except ValueError as error:\n    print(error)\n"
        "print(asgibridge.is_installed(), 'asgiref' in sys.modules)"
    )
    done = children.run("-c", program, cwd=site, ASGIBRIDGE_DJANGO="yes")
    assert done.stdout.splitlines() == [
        "ASGIBRIDGE_DJANGO='yes': must be 0 or 1 (or unset)",
        "False False",
    ]
