"""Which wheels there are going to be, and by what: docs, cibuildwheel and the workflow agree."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys

import pytest

import children
import environment
import loop_plugin
import wheel_results
from environment import ROOT

DOCUMENT = ROOT / "docs" / "install.md"
WORKFLOWS = ROOT / ".github" / "workflows"

PLATFORMS = {"linux": ("manylinux", "musllinux"), "macos": ("macosx",), "windows": ("win",)}
"""cibuildwheel's platforms and the tags of each."""

pytestmark = pytest.mark.skipif(
    not (DOCUMENT.exists() and WORKFLOWS.exists()), reason="of a checkout only"
)


def documented() -> dict[str, set[str]]:
    """The identifiers that docs/install.md lists, by their tag."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (pythons,) = re.findall(r"^Pythons: (.*?)\n\n", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| ([^|]+) \|$", text, re.MULTILINE)
    return {
        tag: {
            f"{python}-{tag}_{arch}"
            for python, arch in itertools.product(
                re.findall(r"`(cp\w+)`", pythons), re.findall(r"`(\w+)`", archs)
            )
        }
        for tag, archs in rows
    }


@pytest.mark.skipif(
    not importlib.util.find_spec("cibuildwheel"), reason="cibuildwheel needs Python 3.11"
)
@pytest.mark.parametrize("platform", PLATFORMS)
def test_cibuildwheel_builds_what_is_documented(platform, tmp_path):
    done = children.run(
        *("-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform, str(ROOT)),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    listed = documented()
    assert set(done.stdout.split()) == set().union(*(listed[tag] for tag in PLATFORMS[platform]))


def test_every_tag_is_of_a_platform_that_is_looked_at():
    assert set(documented()) == set().union(*PLATFORMS.values())


def test_the_workflow_has_a_job_for_each_architecture():
    text = (WORKFLOWS / "wheels.yml").read_text(encoding="utf-8")
    jobs = re.findall(r"- { platform: (\w+), arch: (\w+), runner: [\w.-]+", text)
    assert len(jobs) == len(set(jobs))
    for platform, tags in PLATFORMS.items():
        archs = {arch.lower() for of, arch in jobs if of == platform}
        for tag in tags:
            built = {identifier.split("_", 1)[1] for identifier in documented()[tag]}
            assert built == archs


@pytest.mark.parametrize("workflow", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_actions_are_pinned_to_a_commit(workflow):
    # A tag can be moved, and what publishes a release runs what it is moved to.
    used = re.findall(r"^\s*(?:- )?uses: (.*)$", workflow.read_text("utf-8"), re.MULTILINE)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action), action


def test_an_action_has_one_commit():
    pins: dict[str, set[str]] = {}
    for workflow in WORKFLOWS.glob("*.yml"):
        for action, pin in re.findall(r"uses: ([\w./-]+)@(\w+)", workflow.read_text("utf-8")):
            pins.setdefault(action, set()).add(pin)
    assert {action: len(of) for action, of in pins.items() if len(of) > 1} == {}


@pytest.mark.skipif(sys.platform != "linux", reason="once is enough")
def test_the_publishing_job_alone_may_publish():
    text = (WORKFLOWS / "wheels.yml").read_text(encoding="utf-8")
    before, publish = text.split("\n  publish:\n")
    assert "id-token" not in before
    assert "permissions:\n  contents: read\n" in before
    assert "if: github.ref_type == 'tag'" in publish
    assert "password" not in publish


def test_every_push_is_tested_on_every_platform_and_python():
    text = (WORKFLOWS / "test.yml").read_text(encoding="utf-8")
    (systems,) = re.findall(r"^ +os: \[(.*)\]$", text, re.MULTILINE)
    assert re.findall(r"\w+(?=-latest)", systems) == ["ubuntu", "macos", "windows"]
    (pythons,) = re.findall(r"^ +python: \[(.*)\]$", text, re.MULTILINE)
    assert set(re.findall(r'"([\w.]+)"', pythons)) >= set(environment.SUPPORTED)
    (loops,) = re.findall(r"^ +loop: \[(.*)\]$", text, re.MULTILINE)
    assert tuple(loops.split(", ")) == loop_plugin.LOOPS


def test_the_install_matrix_has_every_python_and_no_failure():
    _, table, _ = DOCUMENT.read_text(encoding="utf-8").split(wheel_results.MARK)
    shown = set(re.findall(r"--only ([\w.-]+)` \|$", table, re.MULTILINE))
    assert shown >= set(environment.SUPPORTED)
    assert "FAILED" not in table
