"""What the runs of `wheels.py` came to, and the table that docs/install.md makes of it.

The rows are kept in a file, one JSON object a line, so that a run can be made in pieces: a Python
that is tested again takes the place of what was known of it.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from environment import ROOT
from wheel_pythons import NAMES

DOCUMENT = ROOT / "docs" / "install.md"
MARK = "<!-- install matrix: written by make wheels -->"

WAYS = {
    "wheel": "the wheel, no compiler",
    "source": "from source, with a compiler",
    "bare": "from source, no compiler",
    "pure": "the pure wheel, no compiler",
}


@dataclass(frozen=True)
class Row:
    """One way of installing on one Python."""

    python: str
    release: str
    libc: str
    implementation: str
    way: str
    result: str
    """Such as "compiled: 1,234 passed"."""
    ok: bool


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def add(path: Path, row: Row) -> None:
    kept = [each for each in read(path) if (each.python, each.way) != (row.python, row.way)]
    lines = [json.dumps(asdict(each)) + "\n" for each in (*kept, row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def table(rows: list[Row]) -> str:
    lines = [
        "| Python | " + " | ".join(f"{WAYS[way].capitalize()}" for way in WAYS) + " | Shown by |",
        "|---|" + "---|" * len(WAYS) + "---|",
    ]
    for name in NAMES:
        ways = {row.way: row for row in rows if row.python == name}
        if not ways:
            continue
        first = next(iter(ways.values()))
        what = f"{first.implementation} {first.release}{'t' * name.endswith(('t', 't-musl'))}"
        if first.implementation == "CPython":
            what += f", {first.libc}"
        cells = [ways[way].result if way in ways else "" for way in WAYS]
        part = "--part " if any("(a part)" in cell for cell in cells) else ""
        lines.append(f"| {what} | {' | '.join(cells)} | `{part}--only {name}` |")
    return "\n".join(lines)


def write(rows: list[Row]) -> None:
    """Put the table between the marks in the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    between = re.compile(f"({MARK}\n).*?({MARK})", re.DOTALL)
    changed, count = between.subn(lambda match: f"{match[1]}{table(rows)}\n{match[2]}", text)
    if count != 1:
        raise SystemExit(f"{DOCUMENT.name} does not have the two lines {MARK}")
    DOCUMENT.write_text(changed, encoding="utf-8")
