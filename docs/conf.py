"""The site of the documentation. `make docs` builds it, and CONTRIBUTING.md says more.

The pages are the Markdown files of this folder, as they are; ``_sphinx`` has what makes their
links, and those of the docstrings, lead somewhere on a site.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT / "src"), str(DOCS / "_sphinx")]

# The pure kernel is what autodoc reads: it has signatures, annotations and source. The compiled one
# has the same names, parameters and docstrings (tests/kernel/test_parity.py).
os.environ["ASGIBRIDGE_SPEEDUPS"] = "off"

import asgibridge  # noqa: E402 - from the checkout, and with the kernel just chosen

asgibridge.install()  # before Django, for the page of asgibridge.django

project = "asgibridge"
author = "asgibridge contributors"
copyright = author  # noqa: A001 - Sphinx's name
version = release = asgibridge.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "links",
    "reference",
]
root_doc = "index"
# GitHub's index of this folder; the site's is index.md.
exclude_patterns = ["README.md", "_sphinx"]

# --- the pages -----------------------------------------------------------------------------------

myst_heading_anchors = 5

# --- the reference -------------------------------------------------------------------------------

default_role = "py:obj"  # the docstrings' single backticks
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 110
autodoc_member_order = "bysource"
# There are none, and autodoc looks for them in the wrong place: from 3.13 on Python keeps a class's
# line, but not its file, and a class that says it is of asgibridge.queue is written elsewhere.
autodoc_use_type_comments = False
autodoc_default_options: dict[str, Any] = {
    "members": True,
    "undoc-members": True,
    "show-inheritance": True,
    # What our own bases define; not what these of Python's and of Django's do.
    "inherited-members": "ASGIHandler, BaseException, BaseWorker, Executor, Middleware, OSError, "
    "SimpleWorker, ThreadPoolExecutor, Worker, dict, tuple",
}

if not tags.has("offline"):  # type: ignore[name-defined] # noqa: F821 - Sphinx's own
    intersphinx_mapping = {"python": ("https://docs.python.org/3", None)}

# --- warnings ------------------------------------------------------------------------------------

nitpicky = True
nitpick_ignore_regex = [
    # Names of others: whether they are found depends on the network.
    (r"py:.*", r"(?!asgibridge\.).*"),
    # Type variables, and types that exist for the checkers only.
    (r"py:.*", r"asgibridge\.(.*\.)?(_.*|[A-Z]|Outcome|Writable)"),
    # Classes of objects that functions return, and that are called by no name.
    (r"py:.*", r"asgibridge\.django\.(handlers\.Answering|transactions\.AsyncAtomic)"),
]

# --- outer links: make docs DOCSFLAGS=--linkcheck ------------------------------------------------

linkcheck_timeout = 20
linkcheck_workers = 4
linkcheck_anchors = False  # most are made by scripts of the page
linkcheck_ignore = [
    r"https?://(localhost|127\.0\.0\.1|[\w.-]+\.(invalid|example)|example\.com)\b.*"
]

# --- how it looks --------------------------------------------------------------------------------

smartquotes = False  # an error has -- and ... in it
html_theme = "furo"
pygments_dark_style = "monokai"  # furo's own underlines the names of modules, like links
html_title = f"asgibridge {release}"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b5c8a", "color-brand-content": "#0b6394"},
    "dark_css_variables": {"color-brand-primary": "#6cc0ee", "color-brand-content": "#6cc0ee"},
}
copybutton_exclude = ".linenos, .gp, .go"
