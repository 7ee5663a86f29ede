"""The Python blocks of README.md and docs/*.md, and what is around those that are a part of more.

A block runs alone, as pasted. One with an entry in `AROUND` is run between what the entry has for
``before`` and for ``after``. One that cannot run has ``<!-- not run: REASON -->`` on a
line of its own before it.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(
    r"^(?:(?P<left><!-- not run: .+ -->)\n+)?(?P<indent> *)```python\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)

# Runs the file that it is given; one with an `await` outside of functions, on an event loop.
RUNNER = """
import ast, asyncio, inspect, sys
with open(sys.argv.pop(1), encoding="utf-8") as file:
    code = compile(file.read(), file.name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
if code.co_flags & inspect.CO_COROUTINE:
    asyncio.run(eval(code))
else:
    exec(code)
"""


class Example(NamedTuple):
    page: str
    line: int
    """Of the page, where the code begins."""
    code: str
    is_left: bool = False
    """Whether the page says that it cannot run."""

    @property
    def around(self) -> Around | None:
        known = AROUND.items()
        return next((it for key, it in known if key[0] == self.page and key[1] in self.code), None)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.around.needs if self.around else ()

    @property
    def is_run(self) -> bool:
        return self.around is not None or not self.is_left

    def program(self) -> str:
        """What is run of it, and around it."""
        if self.around is None:
            return self.code
        parts = self.around.before, self.code, self.around.after
        return "\n".join(map(textwrap.dedent, parts))

    def imports(self) -> list[str]:
        """The names of the package that it imports, as dotted ones."""
        found = []
        for node in ast.walk(ast.parse(self.code)):
            if isinstance(node, ast.ImportFrom):
                found += [f"{node.module}.{each.name}" for each in node.names]
            elif isinstance(node, ast.Import):
                found += [each.name for each in node.names]
        return [name for name in found if name.split(".")[0] == "asgibridge"]


class Around(NamedTuple):
    """What a page takes for granted where it shows a block."""

    why: str
    """What the block is a part of."""
    before: str = ""
    after: str = ""
    needs: tuple[str, ...] = ()
    """Libraries: the block is run by tests/services, where they are installed."""


def examples(page: str, text: str) -> list[Example]:
    """The fenced Python blocks of a Markdown text."""
    return [
        Example(
            page,
            text.count("\n", 0, match.start("code")) + 1,
            textwrap.dedent(match["code"]),
            match["left"] is not None,
        )
        for match in _BLOCK.finditer(text)
    ]


def all_examples() -> list[Example]:
    return [
        example
        for page in PAGES
        if page.exists()
        for example in examples(page.name, page.read_text(encoding="utf-8"))
    ]


SITE = """
    import sys, types
    settings = types.ModuleType("mysite.settings")
    settings.SECRET_KEY = "x"
    settings.ROOT_URLCONF = "mysite.settings"
    settings.urlpatterns = []
    sys.modules["mysite"] = types.ModuleType("mysite")
    sys.modules["mysite.settings"] = settings
"""
"""A site of Django's named mysite."""

CHANNELS = """
    ProtocolTypeRouter = dict
    AuthMiddlewareStack = URLRouter = lambda inner: inner
    routes = get_asgi_application = lambda *of_asgi: None
"""

AROUND = {
    # --- deadlocks.md
    ("deadlocks.md", "def view(request):"): Around(
        "the shape that is an error",
        """
        import sys
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            sys.exit()  # it would hang, as the page says
        import asyncio, contextvars
        from concurrent.futures import ThreadPoolExecutor
        from asgibridge.sync import sync_to_async

        async def agent():
            return await sync_to_async(int)()

        """,
        """
        try:
            asyncio.run(sync_to_async(view)(None))
        except RuntimeError as error:
            assert "would deadlock" in str(error)
        else:
            raise AssertionError("no error")
        """,
    ),
    # --- debugging.md
    ("debugging.md", "import signal"): Around(
        "Windows has no SIGUSR1",
        """
        import sys
        if sys.platform == "win32":
            sys.exit()
        """,
    ),
    ("debugging.md", "debug.log_slow_calls(0.5)"): Around(
        "a line of a program", "from asgibridge import debug"
    ),
    ("debugging.md", "from asgibridge import workers"): Around(
        "a view of Django's",
        """
        def HttpResponse(text, content_type):
            return f"{content_type}: {text}"

        """,
        """
        assert metrics(None).startswith("text/plain")
        """,
    ),
    ("debugging.md", "from asgiref.sync import SyncToAsync"): Around(
        "of a program in which asgibridge is installed",
        """
        import asyncio
        import asgibridge
        asgibridge.install()
        """,
        """
        from asgiref.sync import sync_to_async
        import sys

        def names():
            frame, found = sys._getframe(), []
            while frame:
                found.append(frame.f_code.co_name)
                frame = frame.f_back
            return found

        assert "thread_handler" in asyncio.run(sync_to_async(names)())
        """,
    ),
    ("debugging.md", "from asgibridge import observers"): Around(
        "with the tracer of whoever writes it",
        """
        import asyncio

        class Span:
            def finish(self, error):
                done.append((self.name, error))

        class tracer:
            def current_span():
                return "view"

            def start_span(name, parent):
                assert parent == "view"
                span = Span()
                span.name = name
                return span

        done = []
        """,
        """
        from asgibridge.sync import sync_to_async

        def query():
            return 1

        assert asyncio.run(sync_to_async(query)()) == 1
        ((name, error),) = done
        assert "query" in name and error is None
        """,
    ),
    # --- deployment.md
    ("deployment.md", "def health():"): Around(
        "of a site that 'asgibridge run' has started",
        "import asgibridge; asgibridge.install()",
        'assert health()["on"]',
    ),
    ("deployment.md", "def test_asgibridge_is_on():"): Around(
        "a test that 'pytest -p asgibridge.autoinstall' runs",
        "import asgibridge.autoinstall",
        "test_asgibridge_is_on()",
    ),
    # --- start.md
    ("start.md", "from mysite.asgi import application"): Around(
        "a script beside manage.py of a site",
        f"{SITE}\n    import os\n    os.environ['DJANGO_SETTINGS_MODULE'] = 'mysite.settings'\n"
        "    from asgibridge.django import get_asgi_application\n"
        "    asgi = sys.modules['mysite.asgi'] = types.ModuleType('mysite.asgi')\n"
        "    asgi.application = get_asgi_application()\n",
        "assert statuses == {404}, statuses",
        needs=("django",),
    ),
    # --- django.md
    ("django.md", "from asgibridge.django import get_asgi_application"): Around(
        "asgi.py of a site", SITE, "assert callable(application)", needs=("django",)
    ),
    # --- install.md
    ("install.md", '"""ASGI config."""'): Around(
        "asgi.py of a site", SITE, "assert callable(application)", needs=("django",)
    ),
    ("install.md", "import sys"): Around(
        "manage.py of a site", f"{SITE}\n    sys.argv = ['manage.py', 'check']\n", needs=("django",)
    ),
    # --- integrations.md
    ("integrations.md", "import httpx"): Around(
        "a task of Celery's",
        """
        class app:
            task = staticmethod(lambda function: function)
        """,
        "assert callable(fetch)",
        needs=("httpx",),
    ),
    ("integrations.md", "session = None"): Around(
        "goes on from the block before",
        """
        import aiohttp
        from asgibridge.integrations import at_close
        from asgibridge.runners import shared_loop
        from asgibridge.sync import async_to_sync
        """,
        """
        shared_loop()
        first = async_to_sync(get_session)()
        assert async_to_sync(get_session)() is first
        shared_loop().close()
        assert first.closed
        """,
        needs=("aiohttp",),
    ),
    ("integrations.md", "from asgibridge.integrations import celery as bridge"): Around(
        "needs the library", needs=("celery",)
    ),
    ("integrations.md", "from asgibridge.integrations import dramatiq as bridge"): Around(
        "needs the library, and its imports",
        """
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker
        """,
        needs=("dramatiq",),
    ),
    ("integrations.md", "from asgibridge.integrations import django_tasks as bridge"): Around(
        "needs the library, and a site that is set up",
        f"{SITE}\n    import os\n    os.environ['DJANGO_SETTINGS_MODULE'] = 'mysite.settings'\n"
        "    import asgibridge\n    asgibridge.install()\n    import django\n    django.setup()\n",
        needs=("django", "django_tasks"),
    ),
    ("integrations.md", "from asgibridge.integrations import procrastinate as bridge"): Around(
        "needs the library, and its imports",
        "from procrastinate import App, PsycopgConnector",
        needs=("procrastinate",),
    ),
    # --- loops.md
    ("loops.md", "from asgibridge.runners import shared_loop"): Around(
        "a view, and a client of httpx's",
        """
        import asyncio, types
        from asgibridge.sync import async_to_sync

        class Client:
            async def get(self, url):
                asked.append(asyncio.get_running_loop())

        asked = []
        httpx = types.SimpleNamespace(AsyncClient=Client)
        """,
        """
        view(None)
        view(None)
        assert asked[0] is asked[1]
        """,
    ),
    ("loops.md", "@async_to_sync"): Around(
        "of a program with the shared loop",
        """
        import asyncio
        from asgibridge.runners import shared_loop
        from asgibridge.sync import async_to_sync
        shared_loop()
        """,
        "assert loop() is loop()",
    ),
    ("loops.md", "stack = contextlib.ExitStack()"): Around(
        "a client of whoever writes it, and the shared loop",
        """
        import atexit, contextlib, types
        from asgibridge.iterators import async_to_sync_context_manager
        from asgibridge.runners import shared_loop
        from asgibridge.sync import async_to_sync
        shared_loop()

        class Session:
            async def call_tool(self, name, arguments):
                return name, arguments

        @contextlib.asynccontextmanager
        async def connect():
            yield Session()

        """,
        'assert view(types.SimpleNamespace(GET={"q": "a"})) == ("search", {"q": "a"})',
    ),
    # --- queues.md
    ("queues.md", "def reader(lines):"): Around(
        "a thread and a task of a program",
        "",
        """
        import asyncio, threading

        async def main():
            threading.Thread(target=reader, args=(["a", "b"],)).start()
            await writer()

        asyncio.run(main())
        assert queue.empty()
        """,
    ),
    # --- streams.md
    ("streams.md", "from asgibridge import workers"): Around(
        "a view that streams",
        """
        import asyncio
        from asgibridge.sync import ThreadSensitiveContext, sync_to_async

        done = []

        def lock():
            done.append("lock")

        def unlock():
            done.append("unlock")

        store = done.append

        async def feed():
            yield "event"
        """,
        """
        async def main():
            async with ThreadSensitiveContext():
                await events(None)

        asyncio.run(main())
        assert done == ["lock", "event", "unlock"]
        """,
    ),
    # --- testing.md
    ("testing.md", "@async_to_sync"): Around(
        "a test of a site with a model",
        """
        import types
        from asgibridge.sync import async_to_sync, sync_to_async

        notes = []
        create = lambda text: notes.append(text)
        Note = types.SimpleNamespace(objects=types.SimpleNamespace(create=create))

        async def count_notes():
            return len(notes)

        """,
        "test_view(None, None)",
    ),
    # --- threads.md
    ("threads.md", "from asgibridge.limiters import CapacityLimiter"): Around(
        "of a program that has the decorator",
        "from asgibridge.sync import sync_to_async",
        "import asyncio; asyncio.run(make_thumbnail('photo'))",
    ),
    ("threads.md", "loop.set_default_executor(ThreadPoolExecutor(8))"): Around(
        "a line of a program",
        """
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        loop = asyncio.new_event_loop()
        """,
        "loop.close()",
    ),
    ("threads.md", "from asgibridge.limiters import check_cancelled"): Around(
        "a function of a program",
        "render = str",
        """
        import asyncio, io
        from asgibridge.sync import sync_to_async

        file = io.StringIO()
        asyncio.run(sync_to_async(export)([1, 2], file))
        assert file.getvalue() == "12"
        """,
    ),
    ("threads.md", "with AsyncSingleThreadContext(persistent_loop=True):"): Around(
        "with the client of whoever writes it",
        """
        import asyncio
        from asgibridge.sync import AsyncSingleThreadContext, async_to_sync

        class Client:
            async def aclose(self):
                seen.append(asyncio.get_running_loop())

        async def connect():
            return Client()

        async def fetch(client, page):
            seen.append(asyncio.get_running_loop())

        seen, pages = [], [1, 2]
        """,
        "assert len(seen) == 3 and len(set(map(id, seen))) == 1",
    ),
    # --- workers.md
    ("workers.md", "from asgibridge import workers"): Around(
        "asgi.py of a site with Channels",
        CHANNELS,
        'assert callable(application["websocket"])',
    ),
    ("workers.md", "@activity.defn"): Around(
        "an activity of Temporal's, and a part of an async function",
        """
        import types
        from asgibridge import workers

        async def acreate(*fields):
            created.append(fields)

        created = []
        activity = types.SimpleNamespace(defn=lambda function: function)
        Order = types.SimpleNamespace(objects=types.SimpleNamespace(acreate=acreate))
        """,
        """
        await charge(None)
        assert len(created) == 1
        """,
    ),
    ("workers.md", "def of_user(scope):"): Around(
        "asgi.py of a site with Channels",
        """
        import types
        from asgibridge import workers
        AuthMiddlewareStack = URLRouter = lambda inner: inner
        routes = lambda *of_asgi: None
        """,
        "await recount(types.SimpleNamespace(pk=1))",
    ),
    ("workers.md", "def check(worker: threading.Thread) -> None:"): Around(
        "of a site of Django's",
        """
        import threading
        from asgibridge.sync import ThreadSensitiveContext, sync_to_async
        from asgibridge.workers import Policy, set_policy

        class connections:
            def all(initialized_only):
                asked.append(threading.current_thread())
                return []

        asked = []
        """,
        """
        async with ThreadSensitiveContext():
            assert asked == []
            assert [await sync_to_async(threading.current_thread)()] == asked
        """,
    ),
    # --- wsgi.md
    ("wsgi.md", "WsgiToAsgi(flask_site"): Around(
        "two lines of two programs",
        """
        from asgibridge.wsgi import AsgiToWsgi, WsgiToAsgi
        flask_site = starlette_site = lambda *of_the_server: None
        """,
        "assert callable(application)",
    ),
}
"""By page, and by something that the block has and no other of that page."""
