"""Build script: everything declarative is in pyproject.toml.

What is left here is the switch of the compiled kernel, ``ASGIBRIDGE_SPEEDUPS``, which means the
same when building as when running: ``off`` builds a pure package, ``require`` fails without the
extension, ``auto`` (the default) compiles it if it can.
"""

import os
from pathlib import Path

from setuptools import setup

CHOICES = ("auto", "require", "off")
SOURCES = sorted(str(path) for path in Path("src/_speedups").glob("*.pyx"))

choice = os.environ.get("ASGIBRIDGE_SPEEDUPS", "auto")
if choice not in CHOICES:
    raise SystemExit(
        f"ASGIBRIDGE_SPEEDUPS={choice!r}: must be one of {', '.join(CHOICES)} (or unset, for auto)"
    )
if choice == "require" and not SOURCES:
    raise SystemExit(
        "ASGIBRIDGE_SPEEDUPS=require, but this version has no compiled kernel yet: "
        "build with 'auto' or 'off'"
    )

setup()
