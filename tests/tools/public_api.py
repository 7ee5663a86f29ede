"""What a user can see of the package, one line each, and the stored list of it.

    python tests/tools/public_api.py             print the lines
    python tests/tools/public_api.py --update    write them to public_names.txt beside this file

Every public module, its public names, the parameters and defaults of what can be called, and the
public members of the classes. Nothing says which kernel or which Python there is, so the lines are
the same on all of them: annotations are left out (compiled functions have none at run time, the
stubs have them), members that a class inherits from one of Python's are left out, and of a name
of Python's that a module exports again there is the name alone. Compiled classes give no
signature: that of their pure twin is taken, and tests/kernel/test_parity.py calls both.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import asgibridge
from asgibridge import integrations

STORED = Path(__file__).with_name("public_names.txt")

DIFFERS = {
    # The standard library's own, where it has them.
    "asgibridge.queue.AsyncQueueShutDown",
    "asgibridge.queue.SyncQueueShutDown",
    "asgibridge.sync.markcoroutinefunction",
    # Before 3.11 a protocol's constructor is that of all protocols.
    "asgibridge.typing.ASGI2Protocol",
}
"""What Pythons show differently: there is the name alone."""

NEEDS_A_LIBRARY = {
    "asgibridge.integrations.dramatiq.SharedLoop",
    "asgibridge.integrations.rq.SimpleWorker",
    "asgibridge.integrations.rq.Worker",
}
"""What there is nothing behind without the library that it is about: the name alone, too."""


def modules() -> Iterator[str]:
    yield "asgibridge"
    for package in (asgibridge, integrations):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if not found.name.split(".")[-1].startswith("_"):
                yield found.name


def is_ours(thing: object) -> bool:
    return str(getattr(thing, "__module__", None)).split(".")[0] == "asgibridge"


def parameters(thing: object) -> str:
    """How it is called, or an empty string where it does not tell."""
    if inspect.isclass(thing) and thing.__module__ == "asgibridge._speedups":
        thing = getattr(importlib.import_module("asgibridge._pure"), thing.__name__)
    try:
        signature = inspect.signature(thing)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    nothing = inspect.Parameter.empty
    plain = [each.replace(annotation=nothing) for each in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=nothing))


def shape(thing: object) -> str:
    """How a caller uses it; nothing for a value, and for what is not ours."""
    if not callable(thing) or not is_ours(thing):
        return ""
    return f"{': class ' if inspect.isclass(thing) else ': '}{parameters(thing)}".rstrip()


def members(owner: type) -> dict[str, object]:
    """The public members that ``owner`` or a base of it that is ours defines."""
    found: dict[str, object] = {}
    for base in filter(is_ours, owner.__mro__):
        for name in [*vars(base), *getattr(base, "__annotations__", ())]:
            if not name.startswith("_"):
                # A field without a default is a value of the instances.
                found[name] = getattr(owner, name, None)
    return found


def lines() -> Iterator[str]:
    for name in modules():
        yield name
        if name == "asgibridge.autoinstall":
            continue  # to import it is to install, and it has no names
        module = importlib.import_module(name)
        for public in sorted(module.__all__):
            path = f"{name}.{public}"
            if name == "asgibridge.django" or path in NEEDS_A_LIBRARY:
                yield path
                continue
            thing = getattr(module, public)
            yield path if path in DIFFERS else f"{path}{shape(thing)}"
            if inspect.isclass(thing) and is_ours(thing):
                for member, value in sorted(members(thing).items()):
                    yield f"{path}.{member}{shape(value)}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help=f"write them to {STORED.name}")
    text = "".join(f"{line}\n" for line in lines())
    if parser.parse_args().update:
        STORED.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
