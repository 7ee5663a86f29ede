"""A small Django site with nothing slow in it: what is left of a request is mostly the bridge.

``BENCHSITE_DJANGO`` may name a folder with another Django than the installed one.
"""

import os
import sys

if "BENCHSITE_DJANGO" in os.environ:
    sys.path.insert(0, os.environ["BENCHSITE_DJANGO"])
