"""What a user can see of the package, one line each: to hold two installs of it against each other.

    python tests/public_api.py

Every public module, its public names, the parameters of what can be called, and the public members
of the classes. Nothing says which kernel there is, so two that differ in it alone print the same:
compiled functions have no annotations at run time (the stubs have them), and compiled classes give
no signature.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import asgibridge

DIFFERS = {"asgibridge.IMPLEMENTATION"}
"""It is there to differ."""


def modules() -> Iterator[str]:
    yield "asgibridge"
    for found in pkgutil.iter_modules(asgibridge.__path__, "asgibridge."):
        # autoinstall does something when it is imported.
        if not found.name.split(".")[-1].startswith("_") and found.name != "asgibridge.autoinstall":
            yield found.name


def shape(thing: object) -> str:
    """What it is to a caller."""
    if inspect.isclass(thing):
        return "class"
    if not callable(thing):
        return "value"
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return "callable"
    nothing = inspect.Parameter.empty
    plain = [each.replace(annotation=nothing) for each in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=nothing))


def lines() -> Iterator[str]:
    for name in modules():
        module = importlib.import_module(name)
        for public in sorted(getattr(module, "__all__", None) or dir(module)):
            thing = getattr(module, public)
            path = f"{name}.{public}"
            if public.startswith("_") or inspect.ismodule(thing):
                continue
            yield path if path in DIFFERS else f"{path}: {shape(thing)}"
            if inspect.isclass(thing):
                for member in sorted(dir(thing)):
                    if not member.startswith("_"):
                        yield f"{path}.{member}: {shape(getattr(thing, member, None))}"


if __name__ == "__main__":
    print(*lines(), sep="\n")
