"""What the runs of `wheels.py` came to, and the tables that docs/install.md makes of it.

The rows are kept in files, one JSON object a line, so that a run can be made in pieces, several at
a time: what is tested again takes the place of what was known of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from environment import ROOT
from wheel_pythons import NAMES

DOCUMENT = ROOT / "docs" / "install.md"
MARK = "<!-- install matrix: written by make wheels -->"
CROSS_MARK = "<!-- wheels for other machines: written by make wheels -->"
PART = " (a part)"

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

    @property
    def key(self) -> Hashable:
        return self.python, self.way


@dataclass(frozen=True)
class CrossRow:
    """A wheel for another machine, or libc, than this one's: built, and looked at."""

    triple: str
    wheel: str
    extension_bytes: int
    needs: str
    """The shared libraries that the extension asks for."""
    versions: str
    """The newest of glibc's symbols in it, such as GLIBC_2.17."""
    ran: str
    """What its tests came to, if it was run."""

    @property
    def key(self) -> Hashable:
        return self.triple


class Results:
    """In two files of a directory. Any number of processes may add to them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def rows(self) -> list[Row]:
        return [Row(**each) for each in self._read("results.jsonl")]

    @property
    def cross_rows(self) -> list[CrossRow]:
        return [CrossRow(**each) for each in self._read("cross.jsonl")]

    def add(self, row: Row) -> None:
        with self._lock():
            self._write("results.jsonl", self.rows, row)

    def add_cross(self, row: CrossRow) -> None:
        with self._lock():
            self._write("cross.jsonl", self.cross_rows, row)

    def publish(self) -> None:
        """Put the tables between their marks in the document."""
        with self._lock():
            text = DOCUMENT.read_text(encoding="utf-8")
            text = between(text, MARK, table(self.rows))
            text = between(text, CROSS_MARK, cross_table(self.cross_rows))
            DOCUMENT.write_text(text, encoding="utf-8")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        import fcntl  # this module is imported on Windows, too

        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self, name: str) -> list[dict[str, Any]]:
        path = self._directory / name
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def _write(self, name: str, before: list[Any], row: Any) -> None:
        kept = [each for each in before if each.key != row.key]
        lines = [json.dumps(asdict(each)) + "\n" for each in (*kept, row)]
        (self._directory / name).write_text("".join(lines), encoding="utf-8")


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
        lines.append(f"| {what} | {' | '.join(cells)} | {shown_by(name, ways)} |")
    return "\n".join(lines)


def shown_by(name: str, ways: dict[str, Row]) -> str:
    whole = [way for way in WAYS if way in ways and PART not in ways[way].result]
    if len(whole) == len(ways):
        return f"`--only {name}`"
    shown = f"`--part --only {name}`"
    if whole:
        words = " ".join(f"--way {way}" for way in whole)
        shown = f"`--only {name} {words}`; the others {shown}"
    return shown


def cross_table(rows: list[CrossRow]) -> str:
    lines = [
        "| For | Wheel | Its extension | Needs | Ran |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row.triple, reverse=True):
        needs = ", ".join(filter(None, [row.needs, row.versions]))
        size = f"{row.extension_bytes:,} bytes"
        lines.append(f"| {row.triple} | `{row.wheel}` | {size} | {needs} | {row.ran or 'no'} |")
    return "\n".join(lines)


def between(text: str, mark: str, content: str) -> str:
    pattern = re.compile(f"({mark}\n).*?({mark})", re.DOTALL)
    changed, count = pattern.subn(lambda match: f"{match[1]}{content}\n{match[2]}", text)
    if count != 1:
        raise SystemExit(f"{DOCUMENT.name} does not have the two lines {mark}")
    return changed
