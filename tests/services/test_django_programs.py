"""Random programs are the same under `asgibridge.django.ASGIHandler` as under Django's own handler.

More of them: ``make test-django-programs``. Below, those that were not the same once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sites
from sites import COMPILED, PURE, Implementation

TOOL = Path(__file__).parents[1] / "tools" / "django_programs.py"
KERNELS = pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)


@KERNELS
def test_random_programs(implementation: Implementation) -> None:
    words = ("--seed", "1", "--number", "150", "--seconds", "60")
    printed = sites.run(implementation, str(TOOL), *words, seconds=110)
    assert "PASSED" in printed, printed


def middleware(kind: str, capable: object = None, **hooks: object) -> dict[str, Any]:
    return {
        "kind": kind,
        "capable": capable,
        "hooks": hooks,
        "before": [],
        "after": [],
        "way": "plain",
    }


def receiver(signal: str, *actions: object, is_async: bool = False) -> dict[str, Any]:
    return {"signal": signal, "async": is_async, "actions": [*actions]}


def program(
    view: str, *actions: object, middlewares: object = (), receivers: object = ()
) -> dict[str, Any]:
    """With one view, of the kind ``view``, and one request to it."""
    given = {"kind": view, "exempt": False, "non atomic": False, "actions": [*actions]}
    return {
        "debug": False,
        "propagate": False,
        "atomic": False,
        "overrides": [],
        "pages": {},
        "middlewares": [*middlewares],  # type: ignore[misc]
        "views": {"a": given, "b": given},
        "receivers": [*receivers],  # type: ignore[misc]
        "requests": [("GET", "/a/", 1, False)],
    }


ANSWER = ("answer", "plain", 200)
REPLACES = (True, [ANSWER])  # an async hook

MENDED = {
    "an __acall__ that __call__ knows nothing of": program(
        "function", ANSWER, middlewares=[middleware("mixin with acall")]
    ),
    "an async process_response": program(
        "function",
        ANSWER,
        middlewares=[middleware("mixin with call", process_response=(True, []))],
    ),
    "a template's response replaced by a plain one": program(
        "function",
        ("answer", "template", 200),
        middlewares=[
            middleware("class", process_template_response=REPLACES),
            middleware("mixin with call", (False, True)),
        ],
    ),
    "an async view that returns a coroutine": program(
        "async", ("coroutine",), middlewares=[middleware("mixin with call", (False, True))]
    ),
    "a receiver of request_finished is cancelled": program(
        "function", ANSWER, receivers=[receiver("request_finished", ("raise", "CancelledError"))]
    ),
    "a stream fails, and a receiver of request_finished": program(
        "async",
        ("answer", "failing stream", 200),
        receivers=[receiver("request_finished", ("raise", "Http404"))],
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_mended(name: str) -> None:
    # The same handler of ours on either kernel.
    assert sites.run(PURE, str(TOOL), "--program", repr(MENDED[name]))
