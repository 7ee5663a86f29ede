"""When tests/tools/environment.py installs again: `make test` must never test an older state."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import environment
import matrix


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout that an install is made of, and no variable of a compiler's."""
    place = tmp_path / "checkout"
    (place / "src" / "asgibridge" / "__pycache__").mkdir(parents=True)
    for name in environment.PACKAGE:
        if name != "src":
            (place / name).write_text(name)
    (place / "src" / "asgibridge" / "sync.py").write_text("original")
    monkeypatch.setattr(environment, "ROOT", place)
    for name in environment.COMPILED_WITH:
        monkeypatch.delenv(name, raising=False)
    return place


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pip was asked to install, in order; nothing is."""
    asked: list[str] = []
    (tmp_path / "env").mkdir()

    def run(step: str, command: list[str], **more: str) -> str:
        if "pip" in command:
            what = command[-1]
            asked.append("checkout" + what[what.index("[") :] if "[" in what else what)
        return str(tmp_path / "env" / "lib" / "asgibridge.py")

    monkeypatch.setattr(environment, "_run", run)
    return asked


def test_an_unchanged_checkout_is_installed_once(tmp_path, checkout, installed, capsys):
    environment.install(tmp_path / "env", "test", alone="django")
    assert installed == ["checkout[test]", "django"]
    (checkout / "README.md").write_text("changed: it is no code")
    (checkout / "src" / "asgibridge" / "__pycache__" / "sync.pyc").write_text("made by a run")
    (checkout / "src" / "asgibridge" / "_speedups.so").write_text("made by a build")
    environment.install(tmp_path / "env", "test", alone="django")
    assert installed == ["checkout[test]", "django"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("env: nothing has changed")


@pytest.mark.parametrize("name", ["src/asgibridge/sync.py", "src/new.pxi", "pyproject.toml"])
def test_a_changed_file_is_installed(tmp_path, checkout, installed, name):
    environment.install(tmp_path / "env", "test")
    (checkout / name).write_text("changed")
    environment.install(tmp_path / "env", "test")
    assert installed == ["checkout[test]"] * 2


def test_a_renamed_or_removed_file_is_installed(tmp_path, checkout, installed):
    file = checkout / "src" / "asgibridge" / "sync.py"
    environment.install(tmp_path / "env", "test")
    file = file.rename(file.with_name("other.py"))
    environment.install(tmp_path / "env", "test")
    file.unlink()
    environment.install(tmp_path / "env", "test")
    assert len(installed) == 3


def test_other_flags_of_the_compiler_build_again(tmp_path, checkout, installed, monkeypatch):
    environment.install(tmp_path / "env", "test")
    monkeypatch.setenv("CFLAGS", "-fsanitize=address")
    environment.install(tmp_path / "env", "test")
    assert installed == ["checkout[test]"] * 2


def test_an_extra_is_added_and_none_is_lost(tmp_path, checkout, installed):
    environment.install(tmp_path / "env", "test,servers", alone="django")
    environment.install(tmp_path / "env", "test,gevent")
    assert installed == [
        "checkout[servers,test]",
        "django",
        "checkout[gevent,servers,test]",
        "django",
    ]
    environment.install(tmp_path / "env", "test")
    assert len(installed) == 4


def test_an_install_that_failed_is_tried_again(tmp_path, checkout, installed, monkeypatch):
    environment.install(tmp_path / "env", "test")
    (checkout / "pyproject.toml").write_text("changed")

    def fails(step: str, command: list[str], **more: str) -> str:
        raise environment.EnvironmentFailure(step)

    with monkeypatch.context() as patched:
        patched.setattr(environment, "_run", fails)
        with pytest.raises(environment.EnvironmentFailure):
            environment.install(tmp_path / "env", "test")
    (checkout / "pyproject.toml").write_text("pyproject.toml")
    environment.install(tmp_path / "env", "test")
    assert installed == ["checkout[test]"] * 2


def test_paths_of_names_each_test_file():
    (path,) = environment.paths_of(Path(__file__).stem)
    assert Path(__file__).samefile(environment.ROOT / path)
    with pytest.raises(KeyError):
        environment.paths_of("test_that_is_not_there")


def test_no_two_test_files_have_one_name():
    # pytest imports them by that name alone.
    stems = [
        path.stem
        for path in (environment.ROOT / "tests").rglob("test_*.py")
        if "services" not in path.parts
    ]
    assert len(stems) == len(set(stems))


def test_a_run_says_first_what_it_does_and_for_how_long():
    said = matrix.introduction({"3.9": ("off",), "3.13": ("off", "require")}, "all")
    assert "on Python 3.9 (off), 3.13 (off and require): about 12 minutes" in said
    recipe = (environment.ROOT / "Makefile").read_text().partition("\ndemo:\n")[2]
    lines = recipe.partition("\n\n")[0].splitlines()
    assert lines[0].startswith("\t@echo ")
    assert "two minutes or three" in lines[0]


def test_a_command_that_takes_a_while_says_so(monkeypatch, capsys):
    monkeypatch.setattr(environment, "SAYS_SO_EVERY", 0.05)
    waits = "import sys, time; time.sleep(0.3); print('done')"
    assert environment._run("waiting", [sys.executable, "-c", waits]) == "done\n"
    assert "  still waiting: 0 s" in capsys.readouterr().out.splitlines()
    with pytest.raises(environment.EnvironmentFailure, match="failing failed"):
        environment._run("failing", [sys.executable, "-c", "raise SystemExit(3)"])
