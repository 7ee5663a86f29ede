# Each target makes the environment it needs under .venv; PYTHON is the interpreter to make it of.
PYTHON ?= python3

.PHONY: help test quick demo bench bench-callgrind bench-queue bench-site bench-sockets
.PHONY: bench-tools bench-wsgi memcheck asan tsan stress soak load parallel bench-parallel
.PHONY: bench-free-threading
.PHONY: test-services test-foreign test-django test-django-programs downstream pypy pyodide
.PHONY: wheels docs lint clean

help:
	@echo "make quick        the fast tests that start no process, on both kernels at once: in a minute"
	@echo "                  (QUICKFLAGS='-k limiter', QUICKFLAGS=tests/queues)"
	@echo "make test         the test suite and asgiref's own, on each kernel (TESTFLAGS=...)"
	@echo "make test-services  real applications on real servers: Django and Channels on PostgreSQL and"
	@echo "                  Redis, Flask, Starlette (SERVICESFLAGS=--require-services)"
	@echo "make test-foreign  CPython's, janus's, culsans's, a2wsgi's, anyio's own suites on our classes"
	@echo "                  (FOREIGNFLAGS=janus)"
	@echo "make downstream   the suites of libraries that use asgiref, on it and on each kernel, test by test"
	@echo "                  the same; docs/compatibility.md (DOWNSTREAMFLAGS='channels daphne')"
	@echo "make test-django  Django's own suites, of three versions, on Django's handlers and on those"
	@echo "                  of asgibridge.django: test by test the same (CPython 3.12 or later;"
	@echo "                  DJANGOFLAGS='--django 5.2 asgi handlers')"
	@echo "make test-django-programs  10,000 random chains of middlewares, with views, signals and clients"
	@echo "                  that leave, the same on both handlers (PROGRAMSFLAGS='--seed 1 --number 500')"
	@echo "make demo         a Django and Channels site, on asgiref, on asgibridge and on WSGI"
	@echo "                  (DEMOFLAGS=--quick)"
	@echo "make bench        every crossing timed: asgiref, each kernel, and bare wake-ups; the targets;"
	@echo "                  docs/benchmarks.md, and docs/benchmarks-report.html, which has it all"
	@echo "                  (BENCHFLAGS=--quick: in a minute, and writes nothing;"
	@echo "                  BENCHFLAGS='--before HEAD~5': our kernels now and then, and nothing else)"
	@echo "make bench-callgrind  instructions of a hop and of a queue's item, against those stored"
	@echo "                  (BENCHFLAGS=--update; '--quick --lenient': in a minute)"
	@echo "make bench-queue  the message queues: janus's, culsans's, aiologic's, the library's and ours"
	@echo "make bench-site   a Django site under load, on asgiref, on asgibridge and on WSGI; its part of"
	@echo "                  docs/benchmarks.md: seventy minutes on 3.13, forty on 3.11"
	@echo "                  (BENCHFLAGS=--quick; '--before HEAD~5'; '--views five --database postgresql')"
	@echo "make bench-sockets  websockets of Channels' on PostgreSQL: one thread for all, and a worker for"
	@echo "                  each (BENCHFLAGS=--quick)"
	@echo "make bench-tools  the communicator, and iteration over sync generators"
	@echo "make bench-wsgi   the WSGI adapters: asgiref's, a2wsgi's, hypercorn's and ours"
	@echo "make memcheck     the compiled kernel under valgrind and on a debug build of CPython"
	@echo "make asan         every fast test, and a storm, with gcc's address and undefined sanitizers"
	@echo "                  (ASANFLAGS='--tests test_queue,test_select')"
	@echo "make tsan         the tests that have threads, and a storm, under ThreadSanitizer without the"
	@echo "                  GIL; builds an interpreter for that once (TSANFLAGS=--quick)"
	@echo "make stress       all that draws at random, thirteen minutes (STRESSFLAGS='--seed 1 --scale 0.2')"
	@echo "make soak         an hour of everything at once, and what stays behind (SOAKFLAGS='--minutes 5')"
	@echo "make load         1e7 hops, 1e6 contexts, 10,000 at once (LOADFLAGS='--hops 100000')"
	@echo "make parallel     every fast test in two and in four threads at once, best on 3.14t"
	@echo "                  (PARALLELFLAGS='--rounds 1 --threads 4')"
	@echo "make bench-parallel  CPU-bound work, and hops of several loops, on two cores: as fast as in"
	@echo "                  bare threads? on 3.14t"
	@echo "make bench-free-threading  Django with and without the GIL: views that compute, and memory"
	@echo "                  after 100,000 requests, on 3.14t (GIL_PYTHON=python3.14: the other side, too;"
	@echo "                  BENCHFLAGS='--quick --servers uvicorn')"
	@echo "make pypy         the tests that do not ask for what CPython alone does, on PyPy (PYPY=pypy3.11)"
	@echo "make pyodide      the pure wheel where there are no threads: CPython in WebAssembly, by node"
	@echo "make wheels       the sdist, of it wheels for all CPythons found, and each way of installing them"
	@echo "                  tested; docs/install.md (WHEELSFLAGS='--only 3.13 --continue': a piece)"
	@echo "make docs         the site of the documentation, in build/site; warnings, names that are missing in"
	@echo "                  the reference and dead links are errors (DOCSFLAGS=--linkcheck: outer ones, too)"
	@echo "make lint         ruff and mypy --strict; what pyproject.toml and the files of .github must be"
	@echo "make clean        remove everything that was made"
	@echo "PYTHON=python3.13 chooses the interpreter"

test:
	$(PYTHON) tests/matrix.py $(TESTFLAGS)

quick:
	$(PYTHON) tests/tools/quick.py $(QUICKFLAGS)

test-services:
	$(PYTHON) tests/tools/with_services.py $(SERVICESFLAGS)

# On the kernel that ASGIBRIDGE_SPEEDUPS names.
test-foreign:
	@echo "Eight suites of others, two minutes; what is left out of them is named with the reason."
	$(PYTHON) tests/tools/environment.py .venv/foreign test,foreign
	.venv/foreign/bin/python tests/tools/foreign.py $(FOREIGNFLAGS)

# On the kernel that ASGIBRIDGE_SPEEDUPS names.
test-django:
	@echo "Three versions, each twice: twenty minutes (DJANGOFLAGS='asgi handlers middleware': one)."
	$(PYTHON) tests/tools/environment.py .venv/django-suites django-suites
	.venv/django-suites/bin/python tests/tools/django_suites.py $(DJANGOFLAGS)

# The tests of these files ask nothing that CPython alone does: to end an object at once, above all.
PYPY ?= pypy3.11
ON_PYPY = bridge/test_compatibility.py bridge/test_context_and_references.py bridge/test_hops.py \
	bridge/test_limiters.py iteration/test_context_managers.py iteration/test_iterators.py \
	kernel/test_kernels.py kernel/test_parity.py start/test_install.py

pypy:
	@echo "Five minutes on two cores; PYPY=python: the interpreter to make the environment of."
	$(PYPY) tests/tools/environment.py .venv/pypy test
	ASGIBRIDGE_SPEEDUPS=off .venv/pypy/bin/python -m pytest -m "not slow" --timeout 120 \
		$(addprefix tests/,$(ON_PYPY))

pyodide:
	$(PYTHON) tests/tools/pyodide_run.py

downstream:
	@echo "Thirteen suites, each three times: half an hour, most of it SQLite writing to a disk:"
	@echo "TMPDIR=/dev/shm is faster (DOWNSTREAMFLAGS=adrf: a minute)."
	$(PYTHON) tests/tools/environment.py .venv/downstream downstream
	.venv/downstream/bin/python tests/tools/downstream.py $(DOWNSTREAMFLAGS)

# On the kernel that ASGIBRIDGE_SPEEDUPS names.
test-django-programs:
	@echo "Ten minutes (PROGRAMSFLAGS='--seconds 60': one). What is different on purpose: --help."
	$(PYTHON) tests/tools/environment.py .venv/django-programs django-programs
	.venv/django-programs/bin/python tests/tools/django_programs.py $(PROGRAMSFLAGS)

demo:
	@echo "A site on asgiref, on asgibridge and on WSGI under the same load: two minutes or three; the"
	@echo "first time, an environment is made for it before: a minute more."
	$(PYTHON) tests/tools/environment.py .venv/demo demo
	.venv/demo/bin/python bench/demo/run.py $(DEMOFLAGS)

bench:
	$(PYTHON) tests/tools/environment.py .venv/bench bench
	.venv/bench/bin/python bench/paired.py $(BENCHFLAGS)
ifeq (,$(findstring --before,$(BENCHFLAGS)))
	.venv/bench/bin/python bench/suite.py --docs $(filter --quick,$(BENCHFLAGS))
endif

bench-callgrind:
	$(PYTHON) tests/tools/environment.py .venv/bench-callgrind bench-callgrind
	.venv/bench-callgrind/bin/python bench/callgrind.py $(BENCHFLAGS)

bench-queue:
	$(PYTHON) tests/tools/environment.py .venv/bench-queue bench-queue
	.venv/bench-queue/bin/python bench/queues.py $(BENCHFLAGS)

bench-site:
	$(PYTHON) tests/tools/environment.py .venv/bench-site bench-site
	.venv/bench-site/bin/python bench/macro.py $(BENCHFLAGS)

bench-sockets:
	$(PYTHON) tests/tools/environment.py .venv/services services
	.venv/services/bin/python bench/sockets.py $(BENCHFLAGS)

bench-tools:
	$(PYTHON) tests/tools/environment.py .venv/bench bench
	.venv/bench/bin/python bench/tools.py $(BENCHFLAGS)

bench-wsgi:
	$(PYTHON) tests/tools/environment.py .venv/bench-wsgi bench-wsgi
	.venv/bench-wsgi/bin/python bench/wsgi.py $(BENCHFLAGS)

memcheck:
	$(PYTHON) tests/tools/memcheck.py $(MEMCHECKFLAGS)

wheels:
	@echo "Every Python found, each way of installing: minutes for each (WHEELSFLAGS=--quick: two)."
	$(PYTHON) tests/tools/environment.py .venv/wheels wheels
	.venv/wheels/bin/python tests/tools/wheels.py $(WHEELSFLAGS)

asan:
	$(PYTHON) tests/tools/memcheck.py --only sanitizers --whole $(ASANFLAGS)

tsan:
	$(PYTHON) tests/tools/tsan.py $(TSANFLAGS)

# On the kernel that ASGIBRIDGE_SPEEDUPS names.
stress soak load:
	@echo "As long as 'make help' says; when the sources have changed, half a minute more to build them."
	$(PYTHON) tests/tools/environment.py .venv/stress test
	.venv/stress/bin/python -W error tests/tools/$@.py $($(shell echo $@ | tr a-z A-Z)FLAGS)

parallel:
	$(PYTHON) tests/tools/environment.py .venv/parallel test,parallel
	.venv/parallel/bin/python tests/tools/parallel.py $(PARALLELFLAGS)

bench-parallel:
	$(PYTHON) tests/tools/environment.py .venv/parallel test,parallel
	.venv/parallel/bin/python bench/parallel.py $(BENCHFLAGS)

bench-free-threading:
	@echo "Three ways of serving, three contestants, with the GIL and without, five times: an hour."
	$(PYTHON) tests/tools/environment.py .venv/free-threading bench-free-threading
ifneq (,$(GIL_PYTHON))
	$(GIL_PYTHON) tests/tools/environment.py .venv/free-threading-gil bench-free-threading
endif
	.venv/free-threading/bin/python bench/free_threading.py $(BENCHFLAGS) \
		$(if $(GIL_PYTHON),--gil-python .venv/free-threading-gil/bin/python)

docs:
	@echo "Half a minute; the first time a minute more for its environment."
	$(PYTHON) tests/tools/environment.py .venv/docs docs
	.venv/docs/bin/python tests/tools/documents.py $(DOCSFLAGS)

FORMS = .github/ISSUE_TEMPLATE
SCHEMA = .venv/lint/bin/check-jsonschema --builtin-schema vendor

# zizmor asks nobody: a pin is looked up when it is made.
lint:
	@echo "ruff, mypy, zizmor and schemas: ten seconds; the first time a minute more for their"
	@echo "environment."
	$(PYTHON) tests/tools/environment.py .venv/lint lint
	.venv/lint/bin/ruff check
	.venv/lint/bin/ruff format --check
	.venv/lint/bin/mypy --strict
	.venv/lint/bin/validate-pyproject pyproject.toml
	.venv/lint/bin/zizmor --offline .github
	$(SCHEMA).github-workflows .github/workflows/*.yml
	$(SCHEMA).readthedocs .readthedocs.yaml
	$(SCHEMA).dependabot .github/dependabot.yml
	$(SCHEMA).github-issue-config $(FORMS)/config.yml
	$(SCHEMA).github-issue-forms $(filter-out %/config.yml,$(wildcard $(FORMS)/*.yml))
	@if command -v actionlint >/dev/null; then actionlint; \
		else echo "actionlint is not here; .github/workflows/test.yml runs it"; fi

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .benchmarks src/*.egg-info
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
