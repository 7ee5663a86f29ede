"""Agents, with their own hooks, on the bridge: each in a process of its own, on either kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import sites
from sites import COMPILED, PURE, Implementation

BEGIN = """
import asyncio, contextvars
from asgiref.sync import AsyncToSync, SyncToAsync, async_to_sync, sync_to_async
import asgiref.sync

seen = contextvars.ContextVar("seen", default=None)

async def hop(x):
    return await sync_to_async(lambda x: (x, seen.get()))(x)

def check():
    seen.set("the caller's")
    expected = (1, "the caller's")
    assert asyncio.run(hop(1)) == async_to_sync(hop)(1) == expected
    async def nested():
        return await sync_to_async(lambda: async_to_sync(hop)(1))()
    assert asyncio.run(nested()) == expected
"""

NEW_RELIC = """
from newrelic.hooks.adapter_asgiref import instrument_asgiref_sync

instrument_asgiref_sync(asgiref.sync)
assert type(vars(SyncToAsync)["thread_handler"]).__name__ == "FunctionWrapper"
check()
"""

OPENTELEMETRY = """
from opentelemetry import context
from opentelemetry.instrumentation.threading import ThreadingInstrumentor

ThreadingInstrumentor().instrument()
check()

async def main():
    token = context.attach(context.set_value("of", "the caller"))
    get = lambda: context.get_value("of")
    found = [await sync_to_async(get)(), await sync_to_async(get, thread_sensitive=False)()]
    context.detach(token)
    return found

assert asyncio.run(main()) == ["the caller"] * 2
"""

DDTRACE = """
import ddtrace
from ddtrace import tracer

ddtrace.patch(futures=True)
check()

async def main():
    with tracer.trace("outer") as span:
        get = tracer.current_span
        found = [await sync_to_async(get)(), await sync_to_async(get, thread_sensitive=False)()]
        return all(each is span for each in found)

assert asyncio.run(main())
"""

SENTRY = """
import sentry_sdk
from sentry_sdk.integrations.threading import ThreadingIntegration

sentry_sdk.init(integrations=[ThreadingIntegration(propagate_scope=True)])
check()

async def main():
    sentry_sdk.get_isolation_scope().set_tag("of", "the caller")
    return await sync_to_async(lambda: sentry_sdk.get_isolation_scope()._tags.get("of"))()

assert asyncio.run(main()) == "the caller"
"""

DRAMATIQ = """
import dramatiq
from dramatiq.brokers.stub import StubBroker

dramatiq.set_broker(StubBroker())

class Named(AsyncToSync):
    __name__ = "transform_document"

async def work():
    return 1

assert dramatiq.actor(Named(work)).actor_name == "transform_document"
assert dramatiq.actor(async_to_sync(work)).actor_name == "work"
check()
"""

AGENTS = {
    "newrelic": NEW_RELIC,
    "opentelemetry.instrumentation.threading": OPENTELEMETRY,
    "ddtrace": DDTRACE,
    "sentry_sdk": SENTRY,
    "dramatiq": DRAMATIQ,
}


@pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)
@pytest.mark.parametrize("package", AGENTS)
def test_works(package: str, implementation: Implementation, tmp_path: Path) -> None:
    pytest.importorskip(package)
    program = tmp_path / "program_with_an_agent.py"
    program.write_text(BEGIN + AGENTS[package], encoding="utf-8")
    sites.run(implementation, str(program), DD_INSTRUMENTATION_TELEMETRY_ENABLED="false")
