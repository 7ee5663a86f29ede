"""The command line: ``asgibridge run``, ``asgibridge info``; ``python -m asgibridge`` is the same.

Exit status: the program's own for ``run``; 2 if nothing could be started (1 if a module is not
found, as Python has it).
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable, Sequence

from .._process import settings
from .._version import ASGIREF_VERSION, __version__
from . import run as starter

_EXAMPLES = """\
examples:
  asgibridge run uvicorn mysite.asgi:application --workers 4
  asgibridge run -m uvicorn mysite.asgi:application
  asgibridge run manage.py runserver
  asgibridge run --watch 5 manage.py runserver
  asgibridge run --django uvicorn mysite.asgi:application

A PROGRAM that is no file is looked up as a command. A file that is no Python source (a Python, a
shell script) is executed. All words after PROGRAM are its own. Its child processes are reached too,
unless they run Python with -E, -I or -S.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (sys.argv's by default) and return the exit status.

    Raises SystemExit for a usage error, ``--help`` and ``--version``, and whatever a program that
    was run raises.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    program: list[str] = []
    if words[:1] == ["run"]:
        # Not argparse's business: it would take the program's own options for ours.
        own, program = _split(words[1:])
        words = ["run", *own]
    parser, run_parser = _parsers()
    options = parser.parse_args(words)
    if options.command == "info":
        from . import info  # not above: a program we run decides itself when asyncio is imported

        return _print(info.lines())
    if options.module is None and not program:
        run_parser.error("nothing to run: give a script, a command, or -m and a module")
    if options.watch is not None:
        # By the environment: it reaches child processes, and nothing is loaded before its time.
        os.environ["ASGIBRIDGE_WATCH"] = options.watch
    if options.django:
        os.environ["ASGIBRIDGE_DJANGO"] = "1"
    problems = starter.problems()
    for problem in problems:
        print(f"asgibridge: {problem}", file=sys.stderr)
    if problems:
        return 2
    for text in settings.unknown():
        print(f"asgibridge: {text}", file=sys.stderr)
    settings.told = True
    starter.verbose, starter.django = options.verbose, options.django
    try:
        if options.module is not None:
            code = starter.prepare_module(options.module, program)
        else:
            code = starter.prepare_program(program[0], program[1:])
    except starter.CannotRun as error:
        print(f"asgibridge: {error}", file=sys.stderr)
        return error.status
    exec(code, sys.modules["__main__"].__dict__)
    return 0


def _print(lines: Iterable[str]) -> int:
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has enough (head does). At exit Python would flush once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _seconds(word: str) -> str:
    try:
        if 0 < float(word) < math.inf:
            return word
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{word!r} is no number of seconds above 0")


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """``run``'s own options, and the program's words (with -m: those after the module)."""
    for i, word in enumerate(words):
        if i and words[i - 1] == "--watch":
            continue  # its value
        if word == "-m":
            return words[: i + 2], words[i + 2 :]
        if word.startswith("-m"):
            return words[: i + 1], words[i + 1 :]
        if word == "--":
            return words[:i], words[i + 1 :]
        if not word.startswith("-"):
            return words[:i], words[i:]
    return words, []


def _parsers() -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser(
        prog="asgibridge",
        description="asgiref's bridge between threads and event loops, in asgiref's place.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"asgibridge {__version__} (answers for asgiref {ASGIREF_VERSION})",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="run a program with asgibridge in asgiref's place, no line changed",
        usage=(
            "asgibridge run [-v] [--django] [--watch SECONDS] PROGRAM [ARG ...]\n"
            "       asgibridge run [-v] [--django] [--watch SECONDS] -m MODULE [ARG ...]"
        ),
        description="Run a Python program with asgibridge in asgiref's place.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.add_argument(
        "--django",
        action="store_true",
        help="let Django's get_asgi_application() be asgibridge.django's: a request crosses once",
    )
    run.add_argument(
        "--watch",
        type=_seconds,
        metavar="SECONDS",
        help="print who waits for whom when a sync function has been running for so long",
    )
    run.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="say on standard error what is run, and that asgibridge is in asgiref's place there",
    )
    run.add_argument("-m", dest="module", metavar="MODULE", help="run a module, as python -m does")
    info_help = "print versions and settings, one 'key: value' a line, for a bug report"
    commands.add_parser("info", help=info_help, description=info_help, allow_abbrev=False)
    return parser, run
