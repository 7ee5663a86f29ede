"""Says what stands in the way of publishing this checkout as a release; the workflow asks it first.

    python tests/tools/release.py v0.1.0            status 1, and a line for each hindrance
    python tests/tools/release.py v0.1.0 --notes    what CHANGELOG.md says of that release

Needs nothing installed. RELEASING.md says what to do about each.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PLACEHOLDER = "asgibridge.invalid"
"""Stands for the project's address until there is one. Nobody can own it: RFC 2606."""

PUBLISHED = ("*.md", "pyproject.toml", ".github/**/*.yml", "docs/**/*.md", "recipe/*")
"""What has addresses in it that others see."""

TELLS_OF_IT = "RELEASING.md"
"""Says what to put in the placeholder's place, and so may have it for ever."""


def version_of(root: Path) -> str:
    text = (root / "src" / "asgibridge" / "_version.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return str(version)


def notes(root: Path, version: str) -> str:
    """The section of CHANGELOG.md about that release, without its heading; "" if there is none."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n"
    _, *rest = re.split(heading, text, maxsplit=1, flags=re.MULTILINE)
    return re.split(r"^## ", rest[0], maxsplit=1, flags=re.MULTILINE)[0].strip() if rest else ""


def fragments(root: Path) -> list[Path]:
    """What towncrier has not gathered yet."""
    return sorted(each for each in (root / "changes").glob("*") if each.name != "README.md")


def hindrances(root: Path, tag: str) -> list[str]:
    version = version_of(root)
    said = []
    if tag != f"v{version}":
        said.append(f"the tag is {tag}, and src/asgibridge/_version.py says {version}")
    if not notes(root, version):
        said.append(f"CHANGELOG.md has nothing below '## [{version}] - YEAR-MONTH-DAY'")
    said += [f"changes/{each.name} is not in CHANGELOG.md yet" for each in fragments(root)]
    recipe = (root / "recipe" / "recipe.yaml").read_text(encoding="utf-8")
    if f'version: "{version}"' not in recipe:
        said.append(f"recipe/recipe.yaml is not of version {version}")
    for path in sorted({each for pattern in PUBLISHED for each in root.glob(pattern)}):
        if path.name == TELLS_OF_IT:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if PLACEHOLDER in line:
                place = path.relative_to(root).as_posix()
                said.append(f"{place}:{number} has {PLACEHOLDER} for an address")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tag", help="such as v0.1.0")
    parser.add_argument("--notes", action="store_true", help="print what changed, and no more")
    options = parser.parse_args()
    if options.notes:
        print(notes(ROOT, options.tag.removeprefix("v")))
        return 0
    said = hindrances(ROOT, options.tag)
    for line in said:
        print(line, file=sys.stderr)
    if said:
        print(f"NOT READY: {len(said)} to mend; RELEASING.md says how", file=sys.stderr)
        return 1
    print(f"READY to be published as {options.tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
