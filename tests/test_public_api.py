"""What a user sees of the package does not tell which kernel it runs on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import children

SCRIPT = Path(__file__).with_name("public_api.py")


@pytest.mark.skipif(
    not importlib.util.find_spec("asgibridge._speedups"), reason="needs the compiled kernel"
)
def test_is_the_same_on_each_kernel(tmp_path):
    pure, compiled = (
        children.run(str(SCRIPT), cwd=tmp_path, ASGIBRIDGE_SPEEDUPS=speedups)
        for speedups in ("off", "require")
    )
    assert (pure.stderr, compiled.stderr) == ("", "")
    assert "asgibridge.queue.Queue" in pure.stdout
    assert "asgibridge.sync.SyncToAsync.thread_handler" in pure.stdout
    assert compiled.stdout.splitlines() == pure.stdout.splitlines()
