"""pytest with a seed and more examples for hypothesis: how `stress.py` runs tests.

pytest -p stress_plugin --stress-seed=N [--stress-examples=N]
"""

from __future__ import annotations

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stress-seed", type=int, default=0)
    parser.addoption("--stress-examples", type=int, default=0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import hypothesis

    seed, examples = config.getoption("--stress-seed"), config.getoption("--stress-examples")
    random.seed(seed)
    for item in items:
        case = getattr(item, "cls", None)
        if examples and isinstance(getattr(case, "settings", None), hypothesis.settings):
            # A state machine's: its own settings are a class attribute.
            case.settings = hypothesis.settings(
                case.settings, max_examples=examples, derandomize=False
            )
        inner = getattr(item, "obj", None)
        function = getattr(inner, "__func__", inner)
        if not getattr(function, "is_hypothesis_test", False):
            continue
        hypothesis.seed(seed)(function)
        given = getattr(function, "_hypothesis_internal_use_settings", None)
        if examples:
            # Not derandomized: the seed decides.
            function._hypothesis_internal_use_settings = hypothesis.settings(
                given, max_examples=examples, derandomize=False, deadline=None, database=None
            )
