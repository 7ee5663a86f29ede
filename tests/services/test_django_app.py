"""``asgibridge.django`` as an app: its setting, its checks, ``manage.py bridge``; `run --django`.

The site is the folder ``bridged``. Each test starts a Python of its own.
"""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
import sites
from sites import ASGIREF, COMPILED, PURE, Implementation, Server

from programs import Postgres

BRIDGED = sites.SITE.parent / "bridged"
MIDDLEWARES = "bridged.middlewares"
KERNELS = pytest.mark.parametrize("implementation", [COMPILED, PURE], ids=str)
CASES = Implementation("asgibridge", ("-m", "asgibridge", "run"))


def run(*words: str, implementation: Implementation = CASES, settings: Any = (), **env: str) -> str:
    """What ``python WORDS`` prints on the site, with some of its settings changed."""
    return sites.run(
        implementation,
        *words,
        site=BRIDGED,
        BRIDGED_SETTINGS=json.dumps(dict(settings)),
        **{"DJANGO_SETTINGS_MODULE": "bridged.settings", **env},
    )


def check(*words: str, level: str = "CRITICAL", **more: Any) -> str:
    """What ``manage.py check`` prints. Fails if it fails."""
    return run("manage.py", "check", "--fail-level", level, *words, **more)


def messages(printed: str) -> dict[str, str]:
    """The messages of asgibridge's, each with its hint, by their ids."""
    found: dict[str, str] = {}
    for part in printed.split("?: (asgibridge.")[1:]:
        name, _, text = part.partition(") ")
        found[name] = text
    return found


def report(**more: Any) -> dict[str, Any]:
    printed = run("manage.py", "bridge", "--json", **more)
    return dict(json.loads(printed[printed.index("{") :]))


class TestSetting:
    @pytest.fixture(scope="class")
    @staticmethod
    def outcome() -> Any:
        """What a value of the setting does: all of them are tried in one Python."""
        outcomes = dict(zip(map(json.dumps, VALUES), _outcomes(VALUES)))
        return lambda value: outcomes[json.dumps(value)]

    @pytest.mark.parametrize(
        ("value", "policy"),
        [
            ({"workers": "keep"}, "kind='keep'"),
            ({"workers": "new", "limit": 20}, "kind='new', limit=20"),
            ({"limit": "20"}, "kind='fresh', limit=20"),
            ({"limit_total": 40, "processes": 4}, "kind='fresh', limit_total=40"),
            ({"wait_timeout": 0.5}, "kind='fresh', wait_timeout=0.5"),
            ({"wait_timeout": "0"}, "kind='fresh', wait_timeout=0.0"),
            ({"idle_timeout": 60}, "kind='fresh', idle_timeout=60.0"),
            ({"release_idle": 2}, "kind='fresh', release_idle=2.0"),
            (
                {"workers": "keep", "limit": 2, "release_idle": "off"},
                "kind='keep', limit=2, release_idle=None",
            ),
            ({"workers": None, "limit": None, "idle_timeout": None}, "kind='fresh'"),
            ({}, "kind='fresh'"),
        ],
    )
    def test_of_workers(self, outcome: Any, value: Any, policy: str) -> None:
        assert outcome(value)["policy"] == f"Policy({policy})"

    @pytest.mark.parametrize(("value", "is_on"), [(True, True), ("1", True), (1, True)])
    def test_timings(self, outcome: Any, value: Any, is_on: bool) -> None:
        assert outcome({"timings": value})["timings"] is is_on
        assert outcome({"timings": False})["timings"] is False

    def test_loop(self, outcome: Any) -> None:
        assert outcome({"loop": "shared"})["shares a loop"] is True
        assert outcome({"loop": None})["shares a loop"] is False

    def test_watch(self, outcome: Any) -> None:
        assert outcome({"watch": 5})["watch"] == 5
        assert outcome({"watch": None})["watch"] is None

    def test_of_django(self, outcome: Any) -> None:
        assert outcome({})["of_django"] == {
            "stream_sync_iterators": False,
            "atomic_async_views": False,
            "cancel_queries": False,
        }
        for word in "stream_sync_iterators", "atomic_async_views", "cancel_queries":
            assert outcome({word: True})["of_django"][word] is True

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"workers": "kept"}, "'workers' is 'kept': must be fresh, keep or new"),
            ({"workers": True}, "'workers' is True: must be fresh, keep or new"),
            ({"limit": 0}, "'limit' is 0: must be a whole number from 1 on"),
            ({"limit": True}, "'limit' is True: must be a whole number from 1 on"),
            ({"limit": "many"}, "'limit' is 'many': must be a whole number from 1 on"),
            ({"limit": 2.5}, "'limit' is 2.5: must be a whole number from 1 on"),
            ({"limit_total": 0}, "'limit_total' is 0: must be a whole number from 1 on"),
            ({"limit": [20]}, "'limit' is [20]: must be a whole number from 1 on"),
            ({"wait_timeout": -1}, "'wait_timeout' is -1: must be seconds, from 0 on"),
            ({"idle_timeout": "5s"}, "'idle_timeout' is '5s': must be seconds, from 0 on"),
            (
                {"release_idle": "never"},
                "'release_idle' is 'never': must be seconds, from 0 on, or off",
            ),
            ({"loop": "own"}, "'loop' is 'own': must be shared"),
            ({"loop": True}, "'loop' is True: must be shared"),
            ({"watch": 0}, "'watch' is 0: must be a number of seconds above 0"),
            ({"watch": True}, "'watch' is True: must be a number of seconds above 0"),
            ({"timings": "yes"}, "'timings' is 'yes': must be True or False"),
            ({"timings": 2}, "'timings' is 2: must be True or False"),
            ({"cancel_queries": "yes"}, "'cancel_queries' is 'yes': must be True or False"),
            ({"atomic_async_views": 1}, "'atomic_async_views' is 1: must be True or False"),
            ({"stream_sync_iterators": 0}, "'stream_sync_iterators' is 0: must be True or False"),
            ({"processes": 0}, "'processes' is 0: must be a whole number from 1 on"),
            ({"processes": True}, "'processes' is True: must be a whole number from 1 on"),
            ({"worker": "keep"}, "'worker' is unknown: 'workers' may be meant"),
            ({"x": 1}, "'x' is unknown: there are workers, limit, limit_total, processes, "),
        ],
    )
    def test_that_is_wrong_says_what_it_takes(self, outcome: Any, value: Any, message: str) -> None:
        found = outcome(value)
        assert found["error"].startswith(f"ASGIBRIDGE: {message}")
        assert found["policy"] == "Policy(kind='fresh')"

    @pytest.mark.parametrize("value", [None, "keep", ["workers"]])
    def test_that_is_no_dict_is_wrong(self, outcome: Any, value: Any) -> None:
        assert outcome(value)["error"] == f"ASGIBRIDGE is {value!r}: must be a dict"

    def test_sets_nothing_if_one_word_is_wrong(self, outcome: Any) -> None:
        found = outcome({"workers": "keep", "cancel_queries": "yes"})
        assert "cancel_queries" in found["error"]
        assert found["policy"] == "Policy(kind='fresh')"

    def test_the_environment_wins_word_by_word(self) -> None:
        env = {"ASGIBRIDGE_WORKERS": "new", "ASGIBRIDGE_TIMINGS": "0", "ASGIBRIDGE_WATCH": "9"}
        value = {"workers": "keep", "limit": 20, "timings": True, "watch": 5}
        (found,) = _outcomes([value], **env)
        assert found["policy"] == "Policy(kind='new', limit=20)"
        assert found["timings"] is False
        assert found["watch"] is None  # the program that prints this has ended the environment's

    def test_leaves_what_the_environment_alone_names(self) -> None:
        (found,) = _outcomes([{"limit": 20}], ASGIBRIDGE_WORKERS="keep")
        assert found["policy"] == "Policy(kind='keep', limit=20)"

    @pytest.mark.parametrize("apps", [["asgibridge.django"], []], ids=["the app", "no app"])
    def test_is_applied(self, apps: list[str]) -> None:
        """By the app when Django is set up; by get_asgi_application() in any case."""
        first = "from asgibridge.django import get_asgi_application" if not apps else ""
        then = "get_asgi_application()" if not apps else "import django; django.setup()"
        program = f"{first}\n{then}\nfrom asgibridge import workers\nprint(workers.get_policy())"
        settings = {"INSTALLED_APPS": apps, "ASGIBRIDGE": {"workers": "keep", "limit": 20}}
        printed = run("-c", program, implementation=ASGIREF, settings=settings)
        assert printed == "Policy(kind='keep', limit=20)\n"

    def test_is_applied_once_and_then_the_program_decides(self) -> None:
        program = (
            "import django; django.setup()\n"
            "from asgibridge import workers\n"
            "workers.set_policy(workers.Policy(kind='keep', limit=3))\n"
            "from asgibridge.django import get_asgi_application\n"
            "get_asgi_application()\nprint(workers.get_policy())"
        )
        printed = run(
            "-c",
            f"import asgibridge; asgibridge.install()\n{program}",
            implementation=ASGIREF,
            settings={"ASGIBRIDGE": {"limit": 20}},
        )
        assert printed == "Policy(kind='keep', limit=3)\n"

    def test_that_is_wrong_stops_the_server_and_is_logged_elsewhere(self) -> None:
        program = (
            "import django; django.setup()\n"
            "from asgibridge.django import get_asgi_application\n"
            "try:\n    get_asgi_application()\n"
            "except Exception as error:\n    print(type(error).__name__)"
        )
        printed = run(
            "-c",
            f"import asgibridge; asgibridge.install()\n{program}",
            implementation=ASGIREF,
            settings={"ASGIBRIDGE": {"limit": 0}},
        )
        error = "ASGIBRIDGE: 'limit' is 0: must be a whole number from 1 on"
        assert printed.splitlines() == [
            f"nothing of the setting is in force: {error}",
            "ImproperlyConfigured",
        ]


def _outcomes(values: list[Any], **env: str) -> Any:
    return json.loads(run("words.py", json.dumps(values), **env).splitlines()[-1])


def _values() -> list[Any]:
    found: list[Any] = [
        {},
        *({"timings": value} for value in (True, "1", 1, False)),
        *({"watch": value} for value in (5, None)),
        *({"loop": value} for value in ("shared", None)),
        *({word: True} for word in ("stream_sync_iterators", "atomic_async_views")),
        {"cancel_queries": True},
        {"workers": "keep", "cancel_queries": "yes"},
    ]
    for name in (
        "test_of_workers",
        "test_that_is_wrong_says_what_it_takes",
        "test_that_is_no_dict_is_wrong",
    ):
        (mark,) = getattr(TestSetting, name).pytestmark
        cases = mark.args[1]
        found += [case[0] if isinstance(case, tuple) else case for case in cases]
    return found


VALUES = _values()


class TestChecks:
    def test_find_nothing_in_a_site_that_is_right(self) -> None:
        assert check(level="INFO") == "System check identified no issues (0 silenced).\n"

    def test_a_wrong_setting(self) -> None:
        with pytest.raises(AssertionError) as caught:
            check(level="ERROR", settings={"ASGIBRIDGE": {"limit": "many"}})
        found = messages(str(caught.value))
        assert list(found) == ["E001"]
        assert "'limit' is 'many': must be a whole number from 1 on" in found["E001"]
        assert "get_asgi_application() raises" in found["E001"]

    def test_the_original_asgiref_and_who_imported_it(self) -> None:
        found = messages(check(implementation=ASGIREF))
        assert list(found) == ["W001"]
        assert "It was imported first by " in found["W001"]
        assert f"{'django'}/" in found["W001"]
        assert "asgibridge run" in found["W001"]

    @pytest.mark.parametrize("kind", ["fresh", "new"])
    @pytest.mark.parametrize("max_age", [60, None])
    def test_connections_that_are_forgotten(self, kind: str, max_age: int | None) -> None:
        settings = {"DATABASES": _database(CONN_MAX_AGE=max_age)}
        found = messages(check(settings={**settings, "ASGIBRIDGE": {"workers": kind}}))
        assert list(found) == ["W002"]
        assert f"DATABASES['default'] has CONN_MAX_AGE = {max_age}" in found["W002"]
        assert f"policy is {kind!r}" in found["W002"]

    def test_connections_that_are_kept(self) -> None:
        settings = {"DATABASES": _database(CONN_MAX_AGE=60), "ASGIBRIDGE": {"workers": "keep"}}
        assert messages(check(settings=settings)) == {}

    def test_the_environments_policy_is_the_one_that_counts(self) -> None:
        settings = {"DATABASES": _database(CONN_MAX_AGE=60), "ASGIBRIDGE": {"workers": "keep"}}
        assert list(messages(check(settings=settings, ASGIBRIDGE_WORKERS="fresh"))) == ["W002"]

    def test_a_pool(self) -> None:
        settings = {"DATABASES": _postgres(5432, OPTIONS={"pool": True})}
        found = messages(check(settings=settings))
        assert list(found) == ["I001"]
        assert messages(check(settings={**settings, "ASGIBRIDGE": {"workers": "keep"}})) == {}

    @pytest.mark.parametrize("kind", ["fresh", "new", "keep"])
    def test_a_pool_keeps_its_connections(self, postgres: Postgres, kind: str) -> None:
        """Which the check says is right: under each policy all of them are back in the end."""
        settings = {
            "DATABASES": _postgres(postgres.port, OPTIONS={"pool": {"min_size": 2}}),
            "ASGIBRIDGE": {"workers": kind},
        }
        printed = run("pool.py", settings=settings)
        assert json.loads(printed.splitlines()[-1]) == {"policy": kind, "made": 2, "idle": 2}

    @pytest.mark.parametrize(
        ("outer", "crosses"),
        [(["both", "Hooks"], "2 times"), (["async_only"], "4 times, 1 of them because of it")],
    )
    def test_a_sync_only_middleware_above_async_views(self, outer: list[str], crosses: str) -> None:
        names = [*outer, "sync_only"]
        settings = {"MIDDLEWARE": [f"{MIDDLEWARES}.{name}" for name in names]}
        found = messages(check(settings=settings))
        assert list(found) == ["W004"]
        assert found["W004"].startswith(
            f"'{MIDDLEWARES}.sync_only' is sync only, and above 2 async views (/api/<int:number>/, "
            f"/api/hello/): a request to them crosses {crosses}, and holds a worker while the view "
            "awaits."
        )
        assert "'manage.py bridge'" in found["W004"]

    @pytest.mark.parametrize(
        "settings",
        [
            pytest.param({"ROOT_URLCONF": "bridged.sync_urls"}, id="no async view"),
            pytest.param({"MIDDLEWARE": [f"{MIDDLEWARES}.Hooks"]}, id="hooks"),
            pytest.param({"MIDDLEWARE": [f"{MIDDLEWARES}.both"]}, id="both"),
            pytest.param({"MIDDLEWARE": ["bridged.not_there"]}, id="not to be loaded"),
        ],
    )
    def test_no_middleware_that_costs_nothing(self, settings: dict[str, Any]) -> None:
        settings = {"MIDDLEWARE": [f"{MIDDLEWARES}.sync_only"], **settings}
        assert messages(check(settings=settings)) == {}

    def test_atomic_requests(self) -> None:
        settings: dict[str, Any] = {"DATABASES": _database(ATOMIC_REQUESTS=True)}
        found = messages(check(settings=settings))
        assert list(found) == ["W005"]
        assert "RuntimeError for 2 async views (/api/<int:number>/, /api/hello/)" in found["W005"]
        settings["ASGIBRIDGE"] = {"atomic_async_views": True}
        assert messages(check(settings=settings)) == {}
        del settings["ASGIBRIDGE"]
        settings["ROOT_URLCONF"] = "bridged.sync_urls"
        assert messages(check(settings=settings)) == {}

    @pytest.mark.parametrize(
        ("asked", "env", "words"),
        [
            ({"processes": 8}, {"WEB_CONCURRENCY": "2"}, "8 server processes (by ASGIBRIDGE["),
            ({}, {"WEB_CONCURRENCY": "8"}, "8 server processes (by WEB_CONCURRENCY)"),
        ],
        ids=["the setting", "WEB_CONCURRENCY"],
    )
    def test_more_connections_than_postgresql_takes(
        self, postgres: Postgres, asked: dict[str, Any], env: dict[str, str], words: str
    ) -> None:
        settings = {
            "DATABASES": _postgres(postgres.port),
            "ASGIBRIDGE": {"workers": "keep", "limit": 1000, **asked},
        }
        assert messages(check(settings=settings, **env)) == {}  # not asked
        found = messages(check("--database", "default", settings=settings, **env))
        assert list(found) == ["W003"]
        assert f"{words}" in found["W003"]
        assert (
            "times the workers' limit of 1000 are 8000 connections; PostgreSQL takes "
            in (found["W003"])
        )
        assert "HINT: Lower it to " in found["W003"]

    def test_a_limit_that_the_processes_share(self, postgres: Postgres) -> None:
        settings: dict[str, Any] = {"DATABASES": _postgres(postgres.port)}
        settings["ASGIBRIDGE"] = {"limit_total": 1000, "processes": 8}
        found = messages(check("--database", "default", settings=settings))
        assert (
            "the workers' limit of 125, their part of limit_total=1000, are 1000" in found["W003"]
        )
        settings["ASGIBRIDGE"]["limit_total"] = 80
        assert messages(check("--database", "default", settings=settings)) == {}

    def test_says_how_many_processes_it_assumes(self, postgres: Postgres) -> None:
        settings = {"DATABASES": _postgres(postgres.port), "ASGIBRIDGE": {"limit": 100_000}}
        found = messages(check("--database", "default", settings=settings))
        assert "1 server process (assumed: there is no WEB_CONCURRENCY" in found["W003"]

    def test_as_many_connections_as_postgresql_takes(self, postgres: Postgres) -> None:
        settings = {"DATABASES": _postgres(postgres.port), "ASGIBRIDGE": {"limit": 2}}
        assert messages(check("--database", "default", settings=settings)) == {}

    def test_a_pool_that_is_smaller_than_the_limit(self, postgres: Postgres) -> None:
        database = _postgres(postgres.port, OPTIONS={"pool": {"min_size": 1, "max_size": 2}})
        settings = {"DATABASES": database, "ASGIBRIDGE": {"workers": "keep", "limit": 100_000}}
        assert messages(check("--database", "default", settings=settings)) == {}

    def test_no_limit_at_all(self, postgres: Postgres) -> None:
        settings = {"DATABASES": _postgres(postgres.port)}
        found = messages(check("--database", "default", settings=settings))
        assert list(found) == ["I002"]
        assert "PostgreSQL takes " in found["I002"]


def _database(**options: Any) -> dict[str, Any]:
    return {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", **options}}


def _postgres(port: int, **options: Any) -> dict[str, Any]:
    return {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": port,
            "NAME": Postgres.database,
            "USER": Postgres.user,
            **options,
        }
    }


class TestReport:
    @KERNELS
    def test_says_what_requests_cross(self, implementation: Implementation) -> None:
        """With our handler and with Django's, in every chain of up to three middlewares."""
        measured = json.loads(run("measure.py", implementation=implementation))
        assert measured == {"requests": 312, "wrong": []}

    def test_has_the_chains_and_the_views(self) -> None:
        names = ["Hooks", "both", "not_used"]
        settings = {"MIDDLEWARE": [f"{MIDDLEWARES}.{name}" for name in names]}
        found = report(settings=settings)
        hooks = ["process_request", "process_view", "process_response"]
        middlewares = [
            {
                "path": f"{MIDDLEWARES}.Hooks",
                "mode": "hooks",
                "sync_capable": True,
                "async_capable": True,
                "hooks": hooks,
            },
            {
                "path": f"{MIDDLEWARES}.both",
                "mode": "async",
                "sync_capable": True,
                "async_capable": True,
                "hooks": [],
            },
        ]
        assert found["chains"] == {
            "async": {
                "middlewares": middlewares,
                "crossings": {"sync": 3, "async": 3},
                "holds_worker": False,
            },
            "sync": {
                "middlewares": [middlewares[0], {**middlewares[1], "mode": "sync"}],
                "crossings": {"sync": 1, "async": 2},
                "holds_worker": True,
            },
        }
        assert found["not_used"] == [f"{MIDDLEWARES}.not_used"]
        assert found["views"]["sync"] == {
            "chain": "sync",
            "crossings": 1,
            "crossings_with_django": 6,
            "routes": ["/", "/query/"],
        }
        assert found["views"]["async"]["chain"] == "async"
        assert found["views"]["async"]["routes"] == ["/api/<int:number>/", "/api/hello/"]
        assert found["advice"] == [
            f"{MIDDLEWARES}.both is called as an async one: it costs 1 crossing with an async view"
        ]

    def test_says_where_each_value_comes_from(self) -> None:
        asked = {"workers": "keep", "limit": 20, "loop": "shared", "cancel_queries": True}
        settings = {"ASGIBRIDGE": asked}
        found = report(settings=settings, ASGIBRIDGE_WORKERS_LIMIT="5")["info"]
        assert found["workers"] == "keep (settings.ASGIBRIDGE['workers'])"
        assert found["workers' limit"] == "5 (ASGIBRIDGE_WORKERS_LIMIT)"
        assert found["loop of async_to_sync"] == "shared (settings.ASGIBRIDGE['loop'])"
        assert found["watch"] == "off (ASGIBRIDGE_WATCH is not set)"
        assert found["cancel_queries"] == "True (settings.ASGIBRIDGE['cancel_queries'])"
        assert found["atomic_async_views"] == "False (the default)"
        assert found["policy in force"] == "Policy(kind='keep', limit=5)"
        assert found["installed as asgiref"] == "yes"
        assert found["about"] == "the site of bridged.settings, in manage.py's process"

    def test_with_a_wrong_setting_says_so(self) -> None:
        found = report(settings={"ASGIBRIDGE": {"limit": 0}})["info"]
        assert found["settings.ASGIBRIDGE"].startswith("BAD, and not in force: ASGIBRIDGE: 'limit'")

    def test_as_text_lines_up(self) -> None:
        names = ["both", "sync_only", "Hooks", "Called", "not_used"]
        settings = {"MIDDLEWARE": [f"{MIDDLEWARES}.{name}" for name in names]}
        lines = run("manage.py", "bridge", settings=settings).splitlines()
        assert lines[0].startswith("asgibridge: ")
        start = next(i for i, line in enumerate(lines) if line.startswith("middleware "))
        assert lines[start:] == TEXT.splitlines()

    def test_of_a_site_that_needs_no_change(self) -> None:
        lines = run("manage.py", "bridge").splitlines()
        assert lines[-1] == "No middleware costs a crossing."

    def test_info_says_where_the_setting_is_shown(self) -> None:
        printed = run("-m", "asgibridge", "info", implementation=ASGIREF)
        assert "not read here; 'manage.py bridge' shows what it says" in printed


@KERNELS
def test_when_a_request_to_a_sync_view_goes_to_the_worker_once_more(
    implementation: Implementation,
) -> None:
    """As docs/django.md says, by the kind of the response."""
    settings = {
        "ROOT_URLCONF": "bridged.responses",
        "TEMPLATES": [{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        "MIDDLEWARE": ["django.middleware.common.CommonMiddleware"],
    }
    printed = run("measure_responses.py", implementation=implementation, settings=settings)
    assert json.loads(printed.splitlines()[-1]) == {
        "HttpResponse": 1,
        "JsonResponse": 1,
        "rendered": 1,
        "TemplateResponse": 1,
        "forbidden": 1,
        "error": 1,
        "uploaded": 1,
        "heard": 1,
        "closed by itself": 2,
        "streamed, async": 2,
        # Django's own: it collects what a sync iterator has, in a call of its own.
        "streamed": 3,
        "FileResponse": 3,
    }


def test_what_is_different_from_djangos_handler() -> None:
    """docs/django.md has a row for each."""
    settings = {
        "ROOT_URLCONF": "bridged.seen",
        "MIDDLEWARE": ["bridged.seen.middleware"],
        "CACHES": {"default": {"BACKEND": "bridged.seen.Cache"}},
    }
    seen = {
        whose: json.loads(run("differences.py", whose, settings=settings).splitlines()[-1])
        for whose in ("django", "asgibridge")
    }
    assert seen["django"] == {
        "instances": ["async"],
        "order": ["sent", "closed"],
        "caches": [],
        "body": "SpooledTemporaryFile",
        "handler500 on the request's worker": False,
        "create_request on the loop": True,
        "the server's own task answers": False,
        "converted": [1, 1],
    }
    assert seen["asgibridge"] == {
        "instances": ["async", "sync"],
        "order": ["closed", "sent"],
        "caches": ["closed"],
        "body": "BytesIO",
        "handler500 on the request's worker": True,
        "create_request on the loop": False,
        "the server's own task answers": True,
        "converted": [2, 1],  # kept, for the second request to that path
    }


TEXT = """\
middleware                     async chain  sync chain  hooks
bridged.middlewares.both       sync         sync
bridged.middlewares.sync_only  sync         sync
bridged.middlewares.Hooks      hooks        hooks       request, view, response
bridged.middlewares.Called     async        sync
not used: bridged.middlewares.not_used

crossings a request   sync view  async view
async chain           3          3, holds its worker
sync chain            1*         2*, holds its worker
Django's own handler  8          7
views of this site    2          2

A request takes the chain that is marked *, by what its path leads to.
A crossing is a stay on the worker, or a call from there to the event loop. Rendering
after an async view, and an end that comes apart, are one more: docs/django.md.

The async views:
  /api/<int:number>/
  /api/hello/

What crosses more often than it need:
  bridged.middlewares.both is called as a sync one: it holds a worker while an async view awaits
  bridged.middlewares.sync_only is sync only: it holds a worker while an async view awaits
  bridged.middlewares.Called is called as a sync one: it holds a worker while an async view awaits
As a MiddlewareMixin with process_request and process_response, and without a
__call__ of its own, it does not.
"""


SERVERS = {
    "uvicorn": "uvicorn bridged.asgi:application --port {port}",
    "uvicorn, two workers": "uvicorn bridged.asgi:application --port {port} --workers 2",
    "gunicorn": (
        "gunicorn bridged.asgi:application -k uvicorn.workers.UvicornWorker -b 127.0.0.1:{port} "
        "--no-control-socket"
    ),
    "daphne": "daphne -b 127.0.0.1 -p {port} bridged.asgi:application",
    "hypercorn": "hypercorn bridged.asgi:application --bind 127.0.0.1:{port}",
    "granian": "granian --interface asginl --host 127.0.0.1 --port {port} bridged.asgi:application",
    "runserver": "manage.py runserver 127.0.0.1:{port}",
    "runserver, no reload": "manage.py runserver --noreload 127.0.0.1:{port}",
}


@pytest.mark.parametrize("name", SERVERS)
def test_run_django_on_servers(name: str) -> None:
    """No line changed: asgi.py is the one that `startproject` writes. runserver is daphne's."""
    program, *words = SERVERS[name].format(port=_free_port()).split()
    if not program.endswith(".py"):
        pytest.importorskip(program)
    port = next(each for word in words for each in word.split(":") if each.isdigit())
    apps = ["daphne", "django.contrib.staticfiles"] if program == "manage.py" else []
    starter = Implementation("django", ("-m", "asgibridge", "run", "--django"))
    with Server(
        starter,
        program,
        *words,
        ready=r"handler: \S+",
        stop=signal.SIGTERM if program == "gunicorn" else signal.SIGINT,  # as its workers end by
        site=BRIDGED,
        DJANGO_SETTINGS_MODULE="bridged.settings",
        BRIDGED_SETTINGS=json.dumps({"INSTALLED_APPS": apps, "DEBUG": bool(apps)}),
    ) as server:
        assert _get(f"http://127.0.0.1:{port}/") == "hello"
        assert _get(f"http://127.0.0.1:{port}/api/hello/") == "hello, async"
        assert "handler: asgibridge.django.handlers" in server.log()
        assert "handler: django" not in server.log()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _get(url: str) -> str:
    # The application is there before the port is.
    deadline = time.monotonic() + sites.START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return str(response.read().decode())
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_without_run_django_it_is_djangos() -> None:
    assert run("-c", "import bridged.asgi", implementation=ASGIREF) == (
        "handler: django.core.handlers.asgi\n"
    )
