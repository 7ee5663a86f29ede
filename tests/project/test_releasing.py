"""Nothing is published with a placeholder, or with news or a number of another release."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

import release
from environment import ROOT

RECIPE = ROOT / "recipe" / "recipe.yaml"
VERSION = release.version_of(ROOT)
ADDRESS = "https://code.example/asgibridge"

pytestmark = pytest.mark.skipif(not RECIPE.exists(), reason="of a checkout only")


def replace(root: Path, old: str, new: str, *patterns: str) -> None:
    """In the files that others will see, as RELEASING.md's command does."""
    for path in {each for pattern in patterns for each in root.glob(pattern)}:
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """This one when it is released, with news of that."""
    for pattern in (*release.PUBLISHED, "src/asgibridge/_version.py", "changes/README.md"):
        for path in ROOT.glob(pattern):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    # With a scheme first: the address. What is left: a mail address, and a name.
    replace(tmp_path, f"https://{release.PLACEHOLDER}", ADDRESS, *release.PUBLISHED)
    replace(tmp_path, f"conduct@{release.PLACEHOLDER}", "a@b.example", "CODE_OF_CONDUCT.md")
    replace(tmp_path, f"- {release.PLACEHOLDER}", "- somebody", "recipe/*")
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{VERSION}] - 2030-01-02\n\n- a\n")
    return tmp_path


def test_the_places_that_the_checklist_names_are_all(checkout: Path) -> None:
    assert release.hindrances(checkout, f"v{VERSION}") == []


@pytest.mark.parametrize(
    "name",
    ["pyproject.toml", "CODE_OF_CONDUCT.md", ".github/ISSUE_TEMPLATE/bug.yml", "docs/install.md"],
)
def test_a_placeholder_is_not_published(checkout: Path, name: str) -> None:
    with (checkout / name).open("a", encoding="utf-8") as file:
        file.write(f"# https://{release.PLACEHOLDER}\n")
    (said,) = release.hindrances(checkout, f"v{VERSION}")
    assert re.fullmatch(rf"{name}:\d+ has {release.PLACEHOLDER} for an address", said)


def test_another_tag(checkout: Path) -> None:
    (said,) = release.hindrances(checkout, "v9.8.7")
    assert said == f"the tag is v9.8.7, and src/asgibridge/_version.py says {VERSION}"


def test_a_version_without_news(checkout: Path) -> None:
    replace(checkout, VERSION, "9.8.7", "src/asgibridge/_version.py")
    news, recipe = release.hindrances(checkout, "v9.8.7")
    assert news == "CHANGELOG.md has nothing below '## [9.8.7] - YEAR-MONTH-DAY'"
    assert recipe == "recipe/recipe.yaml is not of version 9.8.7"


def test_news_that_were_not_gathered(checkout: Path) -> None:
    (checkout / "changes" / "7.fixed.md").write_text("A hop is quicker.\n")
    assert release.hindrances(checkout, f"v{VERSION}") == [
        "changes/7.fixed.md is not in CHANGELOG.md yet"
    ]


def test_this_version_has_its_news() -> None:
    assert len(release.notes(ROOT, VERSION).splitlines()) > 10


def test_the_news_of_one_release(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [0.10.0] - 2030-01-02\n\n- c\n\n## [0.1.0] - 2030-01-01\n\n### Added\n\n"
        "- a\n- b\n\n## [0.0.1]\n\n- without a date\n"
    )
    assert release.notes(tmp_path, "0.1.0") == "### Added\n\n- a\n- b"
    assert release.notes(tmp_path, "0.10.0") == "- c"
    assert release.notes(tmp_path, "0.0.1") == release.notes(tmp_path, "0.1") == ""


def test_the_workflow_asks_before_it_builds() -> None:
    workflow = (ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8")
    jobs = re.split(r"^  (\w+):\n", workflow.split("\njobs:\n")[1], flags=re.MULTILINE)[1:]
    text = dict(zip(jobs[::2], jobs[1::2]))
    asks, builds = 'tests/tools/release.py "$GITHUB_REF_NAME"\n', "python -m build\n"
    assert 0 < text["sources"].index(asks) < text["sources"].index(builds)
    assert "needs: sources\n" in text["wheels"]
    assert "needs: [sources, wheels]\n" in text["publish"]
    assert "needs: publish\n" in text["draft"]


def test_the_checklist_has_the_commands() -> None:
    text = (ROOT / "RELEASING.md").read_text(encoding="utf-8")
    assert f"git grep -lF https://{release.PLACEHOLDER} -- ':!RELEASING.md' ':!tests'" in text
    assert "python tests/tools/release.py v" in text


# --- conda-forge ---------------------------------------------------------------------------------


def conda(requirement: str) -> str:
    """A requirement as conda writes it, without its marker."""
    found = re.fullmatch(r"([\w-]+)(\S*?)(?:;.*)?", requirement)
    assert found
    return f"- {found[1].lower()} {found[2]}"


def block(name: str) -> list[str]:
    """The lines below that heading of the recipe's requirements."""
    (lines,) = re.findall(rf"^  {name}:\n((?:    .*\n)+)", RECIPE.read_text("utf-8"), re.MULTILINE)
    return [line.strip() for line in lines.splitlines()]


def test_the_recipe_is_of_this_version() -> None:
    assert f'version: "{VERSION}"\n' in RECIPE.read_text(encoding="utf-8")


def test_the_recipe_needs_what_the_project_needs() -> None:
    tomllib = pytest.importorskip("tomllib", reason="since Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    builds = map(conda, project["build-system"]["requires"])
    assert block("host") == ["- python", "- pip", *builds]
    expected = ["- python"]
    for requirement in project["project"]["dependencies"]:
        (below,) = re.findall(r"; python_version < '([\d.]+)'$", requirement)
        expected += [f'- if: match(python, "<{below}")', "then:", conda(requirement)]
    assert block("run") == expected
    recipe = RECIPE.read_text(encoding="utf-8")
    assert f"\n  summary: {project['project']['description']}\n" in recipe
    assert f"\n  license: {project['project']['license']}\n" in recipe
