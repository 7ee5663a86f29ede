"""The demo: one small Django and Channels site, served on asgiref, on asgibridge and on WSGI.

Run it with an interpreter that has ``pip install .[demo]``. The site is started three times under
uvicorn; the commands differ by ``-m asgibridge run`` and ``--django`` alone. Real clients visit
every page of all three in turn, and the answers are compared. Then they are measured under load, in
turn, and so is the site under gunicorn. The exit status is 0 if every page is the same and all
servers ran and ended without trouble, 1 if not, 2 if the demo cannot run here. Who is faster does
not change it.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import signal
import sys
from pathlib import Path

REQUIRED = (
    *("asgibridge", "asgiref", "aiohttp", "channels", "django", "httptools"),
    *("httpx", "matplotlib", "rich", "uvicorn", "websockets"),
    *(() if sys.platform == "win32" else ("gunicorn",)),
)
DEFAULT_OUTPUT = Path(__file__).resolve().parents[2] / "build" / "demo" / "demo.png"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds of load")
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="PNG",
        help="where to save the plot (default: build/demo/demo.png in the checkout)",
    )
    options = parser.parse_args()
    if trouble := what_is_missing():
        print(f"demo: {trouble}", file=sys.stderr)
        return 2
    # Only now, so that a missing requirement has been named with its remedy.
    from driver.demo import run

    # A polite kill must stop the servers too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        return run(options.quick, options.output)
    except KeyboardInterrupt:
        print("\ndemo: interrupted; the servers are stopped", file=sys.stderr)
        return 130


def what_is_missing() -> str:
    """Why the demo cannot run on this interpreter, and what to do; "" if it can."""
    if sys.version_info < (3, 11):
        return f"asgiref 3.13.0 needs Python 3.11 or newer; this is {platform.python_version()}"
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"{sys.executable} cannot import {', '.join(missing)}: "
            "run `python -m pip install .[demo]` in the checkout, or `make demo`"
        )
    return ""


if __name__ == "__main__":
    sys.exit(main())
