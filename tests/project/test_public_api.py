"""What a user sees of the package is what is stored, on each kernel and each Python."""

from __future__ import annotations

import difflib
import importlib.util

import pytest

import children
from environment import TOOLS

SCRIPT = TOOLS / "public_api.py"
STORED = TOOLS / "public_names.txt"

needs_compiled = pytest.mark.skipif(
    not importlib.util.find_spec("asgibridge._speedups"), reason="needs the compiled kernel"
)


@pytest.mark.parametrize("speedups", ["off", pytest.param("require", marks=needs_compiled)])
def test_is_what_is_stored(tmp_path, speedups):
    shown = children.run(str(SCRIPT), cwd=tmp_path, ASGIBRIDGE_SPEEDUPS=speedups)
    assert (shown.returncode, shown.stderr) == (0, "")
    stored, seen = STORED.read_text(encoding="utf-8").splitlines(), shown.stdout.splitlines()
    differences = difflib.unified_diff(stored, seen, STORED.name, "seen", n=0, lineterm="")
    assert stored == seen, "\n".join(
        [
            *differences,
            "A lost line (-) is a name that a program may use: bring it back.",
            f"If every line is meant: python {SCRIPT.name} --update (in {SCRIPT.parent.name})",
        ]
    )


def test_every_kind_of_name_is_stored():
    stored = STORED.read_text(encoding="utf-8").splitlines()
    assert "asgibridge.autoinstall" in stored
    assert "asgibridge.sync.iscoroutinefunction" in stored
    assert "asgibridge.sync.async_to_sync: (awaitable=None, *, force_new_loop=False)" in stored
    assert "asgibridge.queue.Queue: class (maxsize=0, *, sizer=None)" in stored
    assert "asgibridge.queue.Queue.maxsize" in stored
    assert "asgibridge.queue.Queue.put: (self, item)" in stored
    assert "asgibridge.workers.Policy.limit" in stored
