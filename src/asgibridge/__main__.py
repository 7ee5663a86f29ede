"""``python -m asgibridge``: the command line."""

from __future__ import annotations

import sys

from ._start.cli import main

if __name__ == "__main__":
    sys.exit(main())
