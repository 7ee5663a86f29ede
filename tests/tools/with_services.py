"""Runs tests/services: real applications on real servers, PostgreSQL and Redis among them.

    python tests/tools/with_services.py [--require-services] [PYTEST ARGUMENTS]

Makes .venv/services, with a fresh install of this checkout. Where PostgreSQL or Redis is not
installed, this is Debian and we may, it is installed; what is still missing is named in the last
lines, and its tests are skipped. With ``--require-services``, or ASGIBRIDGE_REQUIRE_SERVICES=1,
that is a failure.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest_run
from environment import (
    ROOT,
    VENVS,
    EnvironmentFailure,
    child_environment,
    create,
    install,
    probe,
    python_in,
)

HERE = ROOT / "tests" / "services"
sys.path.insert(0, str(HERE))
from programs import PACKAGES, find  # noqa: E402 - lies there

LIMIT = 1800
"""Seconds for the run of the tests."""

MISSING = VENVS / "services-missing.txt"
"""What could not be tested, one a line: for who runs several commands and reports at the end."""


def install_services() -> list[str]:
    """Install what is missing if we can; the names of what is missing still."""
    missing = [service for service in PACKAGES if find(service) is None]
    if missing and os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = [PACKAGES[service] for service in missing]
        print(f"installing {', '.join(packages)}", flush=True)
        quiet = child_environment(DEBIAN_FRONTEND="noninteractive")
        for command in (
            ["apt-get", "-qq", "update"],
            ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages],
        ):
            done = subprocess.run(
                command,
                env=quiet,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
            if done.returncode:
                print(f"{' '.join(command)} failed:\n{done.stdout}", flush=True)
    return [service for service in missing if find(service) is None]


def install_arq(environment: Path) -> None:
    """Install arq into a folder of its own: it wants redis-py before 6, and Celery one from 6.1 on.

    Where that fails, the tests say that they have no arq.
    """
    folder = VENVS / "services-arq"
    if not folder.joinpath("arq").is_dir():
        pip = [python_in(environment), "-m", "pip", "install", "-q", "--target", str(folder)]
        subprocess.run([*pip, "arq>=0.26"], env=child_environment(), check=False)
    os.environ["SERVICES_ARQ"] = str(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--require-services",
        action="store_true",
        default=os.environ.get("ASGIBRIDGE_REQUIRE_SERVICES") == "1",
        help="fail if PostgreSQL or Redis cannot be had",
    )
    options, more = parser.parse_known_args()
    if os.name != "posix":
        print("NOT TESTED on this system: the servers are started as on Linux and macOS")
        return 1 if options.require_services else 0
    missing = install_services()
    lines = [
        f"NOT TESTED: {service} is not installed (Debian: apt-get install {PACKAGES[service]})"
        for service in missing
    ]
    VENVS.mkdir(exist_ok=True)
    MISSING.write_text("".join(f"{line}\n" for line in lines))

    environment = VENVS / "services"
    interpreter = probe(sys.executable)
    assert interpreter is not None
    try:
        create(environment, interpreter)
        install(environment, "services")
        install_arq(environment)
    except EnvironmentFailure as failure:
        print(failure, file=sys.stderr)
        return 1
    outcome = pytest_run.run(
        [python_in(environment), "-u", "-m", "pytest", "-c", "pytest.ini", *more],
        cwd=HERE,
        env=child_environment(),
        limit=LIMIT,
    )
    print(f"real applications: {outcome}", flush=True)
    for line in lines:
        print(f"!!! {line}", flush=True)
    if missing and options.require_services:
        print("FAILED: services are required", flush=True)
        return 1
    return 0 if outcome.ok else 1


if __name__ == "__main__":
    sys.exit(main())
