"""What others meet first is true: the Pythons and Djangos of the package page, the issue forms."""

from __future__ import annotations

import re

import pytest

import django_suites
import environment
from environment import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"

pytestmark = pytest.mark.skipif(not WORKFLOW.exists(), reason="of a checkout only")


def classifiers(start: str, what: str) -> list[str]:
    return re.findall(rf'^  "{start} :: ({what})",$', PROJECT, re.MULTILINE)


def pythons() -> list[str]:
    """Those of which each push is tested on three systems."""
    (listed,) = re.findall(r"^ +python: \[(.*)\]$", WORKFLOW.read_text("utf-8"), re.MULTILINE)
    return re.findall(r'"([\w.]+)"', listed)


def test_the_pythons_of_the_page_are_those_that_are_tested_and_built() -> None:
    named = classifiers("Programming Language :: Python", r"3\.\d+")
    assert named == [name for name in pythons() if not name.endswith("t")]
    built = re.findall(r'"cp(3)(\d+)(t?)-\*"', PROJECT)
    assert {f"{major}.{minor}{t}" for major, minor, t in built} == set(pythons())
    assert f'requires-python = ">={named[0]}"\n' in PROJECT
    assert set(environment.SUPPORTED) <= set(pythons())


def test_no_workflow_has_a_python_that_is_not_tested() -> None:
    text = "".join(path.read_text("utf-8") for path in WORKFLOW.parent.glob("*.yml"))
    used = re.findall(r'python-version: "([^"]+)"', text)
    lists = re.findall(r"^ +python: \[(.*)\]$", text, re.MULTILINE)
    used += re.findall(r'"([^"]+)"', ", ".join(lists))
    assert set(used) - set(pythons()) == {"pypy3.11"}


def test_free_threading_and_pypy_are_claimed_because_they_are_tested() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    assert any(name.endswith("t") for name in pythons())
    assert classifiers("Programming Language :: Python :: Free Threading", "2 - Beta")
    assert re.findall(r'python-version: "(pypy[\d.]+)"', text) == ["pypy3.11"]
    assert classifiers("Programming Language :: Python :: Implementation", r"\w+") == [
        *("CPython", "PyPy"),
    ]


def test_the_djangos_of_the_page_are_those_whose_own_suites_pass() -> None:
    assert classifiers("Framework :: Django", r"[\d.]+") == list(django_suites.NEEDS)


@pytest.mark.parametrize("name", ["bug", "performance"])
def test_a_report_has_what_asgibridge_info_says(name: str) -> None:
    form = (FORMS / f"{name}.yml").read_text(encoding="utf-8")
    (field,) = re.findall(r"^    id: info\n(?:    .*\n)+", form, re.MULTILINE)
    assert "`asgibridge info`" in field
    assert "required: true" in field


def test_a_report_of_a_bug_may_have_a_dump() -> None:
    form = (FORMS / "bug.yml").read_text(encoding="utf-8")
    assert "asgibridge run --watch" in form
    assert "asgibridge.debug.dump()" in form
