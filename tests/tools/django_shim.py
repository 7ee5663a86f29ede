"""Runs the ``runtests.py`` of Django's sources in this process and writes down how each test went.

    python django_shim.py HANDLERS OUTCOMES [ARGUMENTS OF runtests.py]

In the folder ``tests`` of Django's sources, with these importable. HANDLERS is "asgiref" (Django's
handlers on asgiref itself), "django" (Django's handlers on asgibridge) or "asgibridge" (those of
`asgibridge.django`, where Django's code and its tests look for Django's). OUTCOMES is a file of
lines of JSON: ``[test, outcome]``, and ``[test, null]`` when it begins. Started by `django_suites`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import runpy
import sys
import unittest
from typing import Any, TextIO

LIMIT = 300
"""Seconds for a test: one of auth_tests hashes for half a minute on an idle machine."""


def replace_handlers() -> None:
    """Put our handlers and our client where Django has its own."""
    import django.core.asgi
    import django.core.handlers.asgi
    import django.test.client
    import django.test.testcases

    import asgibridge.django
    import asgibridge.django.handlers
    import asgibridge.django.test as ours

    django.core.handlers.asgi.ASGIHandler = asgibridge.django.handlers.ASGIHandler
    django.core.asgi.ASGIHandler = asgibridge.django.handlers.ASGIHandler
    django.core.asgi.get_asgi_application = asgibridge.django.get_asgi_application
    django.test.client.AsyncClientHandler = ours.AsyncClientHandler
    for module in (django.test, django.test.client, django.test.testcases):
        module.AsyncClient = ours.AsyncClient
    django.test.testcases.SimpleTestCase.async_client_class = ours.AsyncClient


def recorder(into: TextIO) -> type[unittest.TextTestResult]:
    """A result class that writes a line for each test."""

    def write(test: Any, outcome: str | None) -> None:
        print(json.dumps([test.id(), outcome]), file=into, flush=True)

    class Recorder(unittest.TextTestResult):
        def startTest(self, test: Any) -> None:
            faulthandler.dump_traceback_later(LIMIT, exit=True)
            write(test, None)
            super().startTest(test)

        def stopTest(self, test: Any) -> None:
            super().stopTest(test)
            faulthandler.cancel_dump_traceback_later()

        def addSuccess(self, test: Any) -> None:
            super().addSuccess(test)
            write(test, "passed")

        def addError(self, test: Any, err: Any) -> None:
            super().addError(test, err)
            write(test, f"error: {err[0].__name__}")

        def addFailure(self, test: Any, err: Any) -> None:
            super().addFailure(test, err)
            write(test, f"failed: {err[0].__name__}")

        def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
            super().addSubTest(test, subtest, err)
            if err is not None:
                write(subtest, f"failed: {err[0].__name__}")

        def addSkip(self, test: Any, reason: str) -> None:
            super().addSkip(test, reason)
            write(test, f"skipped: {reason}")

        def addExpectedFailure(self, test: Any, err: Any) -> None:
            super().addExpectedFailure(test, err)
            write(test, "failed as expected")

        def addUnexpectedSuccess(self, test: Any) -> None:
            super().addUnexpectedSuccess(test)
            write(test, "passed against expectation")

    return Recorder


def main() -> None:
    handlers, outcomes, *arguments = sys.argv[1:]
    sys.path[0] = os.getcwd()
    if handlers != "asgiref":
        import asgibridge.autoinstall  # noqa: F401 - puts asgibridge in asgiref's place
    if handlers == "asgibridge":
        replace_handlers()
    with open(outcomes, "w", encoding="utf-8") as into:
        unittest.TextTestRunner.resultclass = recorder(into)
        sys.argv[:] = ["runtests.py", *arguments]
        runpy.run_path("runtests.py", run_name="__main__")


if __name__ == "__main__":
    main()
