"""What frameworks answer passes `asgibridge.typing.check`; what it forgives is known."""

from __future__ import annotations

import importlib.util
import json

import pytest
import sites
from sites import COMPILED, PURE, Implementation

CAPITALS = "http.response.start: headers: it must be with names in lower case"
VIEWS = "http.response.body: body: it must be bytes, not <memory"
OVER_HTTP = {
    "POST /": 200,
    "GET /stream": 200,
    "HEAD /": 200,
    "GET /empty": 204,
    "GET /nowhere": 404,
    "PUT /stream": 405,
}
OVER_WEBSOCKETS = {"closed with": 4001, "connected": False}


@pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)
@pytest.mark.parametrize(
    ("framework", "answers", "forgiven"),
    [
        ("django", {**OVER_HTTP, "PUT /stream": 403}, CAPITALS),
        (
            "channels",
            {**OVER_HTTP, "PUT /stream": 403, "POST /consumer": 201, **OVER_WEBSOCKETS},
            CAPITALS,
        ),
        ("starlette", {"lifespan": "complete", **OVER_HTTP, **OVER_WEBSOCKETS}, VIEWS),
        ("fastapi", {"lifespan": "complete", **OVER_HTTP, "HEAD /": 405, **OVER_WEBSOCKETS}, None),
        ("flask", {"lifespan": "complete", **OVER_HTTP}, None),
    ],
)
def test_what_a_framework_answers_passes(
    implementation: Implementation,
    framework: str,
    answers: dict[str, object],
    forgiven: str | None,
) -> None:
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"NOT TESTED: no {framework} here")
    printed = json.loads(sites.run(implementation, "checked.py", framework))
    assert printed["answers"] == answers
    assert len(printed["warnings"]) == (forgiven is not None)
    for warning in printed["warnings"]:
        assert warning.startswith(f"the application broke the ASGI specification at {forgiven}")
