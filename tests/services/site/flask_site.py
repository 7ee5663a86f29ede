"""A Flask site with async views, and the database used from a thread that they call.

Flask runs an async view with asgiref's `async_to_sync`. ``application`` is for WSGI servers;
``adapted`` for ASGI servers.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextvars import ContextVar
from typing import Any

import psycopg
from asgiref.sync import sync_to_async
from flask import Flask, Response, g, jsonify, request

application = Flask(__name__)
label: ContextVar[str] = ContextVar("label", default="")

DSN = (
    f"host=127.0.0.1 port={os.environ['BOARD_POSTGRES_PORT']} user=board dbname=board "
    f"application_name={os.environ.get('BOARD_APPLICATION', 'flask')}"
)


def store(text: str) -> int:
    """How many there are of it then."""
    label.set(f"{label.get()} stored")
    with psycopg.connect(DSN) as connection:
        connection.execute("INSERT INTO board_message (room, text) VALUES ('flask', %s)", [text])
        row = connection.execute(
            "SELECT count(*) FROM board_message WHERE room = 'flask' AND text = %s", [text]
        ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


@application.before_request
def remember() -> None:
    g.text = request.args.get("text", "")
    label.set(g.text)


async def _answer() -> dict[str, Any]:
    await asyncio.sleep(0.005)
    count = await sync_to_async(store)(g.text)
    texts = await asyncio.gather(*(sync_to_async(lambda: request.args["text"])() for _ in range(3)))
    return {
        "text": g.text,
        "count": count,
        "texts": texts,
        "label": label.get(),
        "loop": type(asyncio.get_running_loop()).__module__.split(".")[0],
        "back_home": await sync_to_async(threading.get_ident)(),
    }


@application.get("/async")
async def asynchronous() -> Response:
    return jsonify(await _answer())


@application.get("/nested")
def nested() -> Response:
    """Sync code of the site's own that calls async code, which calls sync code, ..."""
    here = threading.get_ident()
    answer = application.ensure_sync(_answer)()
    answer["back_home"] = answer["back_home"] == here
    return jsonify(answer)


@application.post("/upload")
def upload() -> str:
    return str(len(request.get_data()))


@application.post("/async-upload")
async def async_upload() -> str:
    await asyncio.sleep(0)
    return str(len(request.get_data()))


@application.get("/stream")
def stream() -> Response:
    return Response((f"{number}\n" for number in range(1000)), mimetype="text/plain")


@application.get("/info")
def info() -> Response:
    import asgiref.sync

    import asgibridge

    patched = threading.Thread.start.__module__ != "threading" or "gevent" in str(threading.Event)
    return jsonify(
        sync_module=asgiref.sync.__name__,
        kernel=asgibridge.IMPLEMENTATION,
        patched=patched or "gevent" in threading.get_ident.__module__,
    )


def adapted() -> Any:
    """The same for ASGI servers."""
    from asgibridge.wsgi import WsgiToAsgi

    return WsgiToAsgi(application, workers=8, buffer_body="BOARD_BUFFER_BODY" in os.environ)
