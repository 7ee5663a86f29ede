"""Builds the site of the documentation, and looks for what is missing in it: `make docs`.

    python tests/tools/documents.py                  into build/site, warnings are errors
    python tests/tools/documents.py --linkcheck      and ask each outer address, which takes minutes

Each name of public_names.txt must have its entry in the reference, and each link within the site
must lead to a place that there is. Without the network, names of Python's are no links.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).with_name("public_names.txt")
SITE = ROOT / "build" / "site"
INVENTORY = "https://docs.python.org/3/objects.inv"


def is_online() -> bool:
    try:
        with urllib.request.urlopen(INVENTORY, timeout=10):
            return True
    except OSError:
        return False


def build(builder: str, target: Path, *more: str) -> bool:
    command = [sys.executable, "-m", "sphinx", "-b", builder, "-q", "-E", "-W", "--keep-going"]
    places = [str(ROOT / "docs"), str(target)]
    trees = ["-d", str(target.with_name("doctrees"))]
    return subprocess.run([*command, *trees, *more, *places], check=False).returncode == 0


# --- names ---------------------------------------------------------------------------------------


def entries(inventory: bytes) -> set[str]:
    """The Python names of an ``objects.inv``: four lines of text, then one for each, compressed."""
    rest = inventory.split(b"\n", 4)[4]
    lines = zlib.decompress(rest).decode().splitlines()
    return {line.split(" ", 1)[0] for line in lines if re.match(r"\S+ py:", line)}


def stored_names() -> list[str]:
    return [line.split(": ")[0] for line in STORED.read_text(encoding="utf-8").splitlines()]


def first_name(path: str) -> str:
    """A class that has two names in a module is described under its own; so are its members."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
            break
        except ModuleNotFoundError:
            continue
    if end == len(parts):
        return path
    thing = getattr(module, parts[end], None)
    own = getattr(thing, "__name__", parts[end]) if isinstance(thing, type) else parts[end]
    if getattr(module, own, None) is thing:
        parts[end] = own
    return ".".join(parts)


def missing(names: Iterable[str], there: set[str]) -> list[str]:
    return [name for name in names if name not in there and first_name(name) not in there]


# --- links ---------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The places of a page, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = {""}
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.places.add(value)
            elif (name == "href" or (name == "src" and tag == "img")) and value:
                self.links.append(value)


def dead_links(site: Path) -> Iterator[str]:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    for path, page in sorted(pages.items()):
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            known = pages[target].places if target in pages else {"", place}
            if not target.exists() or place not in known:
                yield f"{path.relative_to(site)} links to {link}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--linkcheck", action="store_true", help="ask each outer address, too")
    options = parser.parse_args()
    more = []
    # Nothing of an earlier build: viewcode would keep its pages, with the marks of that.
    shutil.rmtree(SITE, ignore_errors=True)
    online = is_online()
    if not online:
        print(f"{INVENTORY} does not answer: names of Python's are no links", flush=True)
        more = ["-t", "offline"]
    if not build("html", SITE, *more):
        print("FAILED: each warning above is one to mend", file=sys.stderr)
        return 1
    there = entries((SITE / "objects.inv").read_bytes())
    faults = [f"docs/api has no entry for {name}" for name in missing(stored_names(), there)]
    faults += dead_links(SITE)
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print(f"FAILED: {len(faults)} to mend", file=sys.stderr)
        return 1
    pages = len(list(SITE.rglob("*.html")))
    print(f"{pages} pages, {len(there)} names: {(SITE / 'index.html').relative_to(ROOT)}")
    if options.linkcheck:
        if not online:
            print("FAILED: without the network no outer address can be asked", file=sys.stderr)
            return 1
        return 0 if build("linkcheck", SITE.with_name("linkcheck"), *more) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
