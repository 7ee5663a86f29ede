# Each target makes the environment it needs under .venv; PYTHON is the interpreter to make it of.
PYTHON ?= python3

.PHONY: help test demo bench bench-queue bench-tools bench-wsgi memcheck wheels lint clean

help:
	@echo "make test         the test suite and asgiref's own, on each kernel (TESTFLAGS=...)"
	@echo "make demo         a Django and Channels site, on asgiref and on asgibridge"
	@echo "                  (DEMOFLAGS=--quick)"
	@echo "make bench        every crossing timed: asgiref, each kernel, and bare wake-ups; the targets;"
	@echo "                  docs/benchmarks.md (BENCHFLAGS=--quick: in a minute, and writes nothing)"
	@echo "make bench-queue  the message queues: janus's, culsans's, aiologic's, the library's and ours"
	@echo "make bench-tools  the communicator, and iteration over sync generators"
	@echo "make bench-wsgi   the WSGI adapters: asgiref's, a2wsgi's, hypercorn's and ours"
	@echo "make memcheck     the compiled kernel under valgrind and on a debug build of CPython"
	@echo "make wheels       sdist, and for every CPython found a manylinux wheel, tested without a compiler"
	@echo "make lint         ruff and mypy --strict"
	@echo "make clean        remove everything that was made"
	@echo "PYTHON=python3.13 chooses the interpreter"

test:
	$(PYTHON) tests/matrix.py $(TESTFLAGS)

demo:
	$(PYTHON) tests/environment.py .venv/demo demo
	.venv/demo/bin/python bench/demo/run.py $(DEMOFLAGS)

bench:
	$(PYTHON) tests/environment.py .venv/bench bench
	.venv/bench/bin/python bench/paired.py $(BENCHFLAGS)
	.venv/bench/bin/python bench/suite.py $(filter --quick,$(BENCHFLAGS))

bench-queue:
	$(PYTHON) tests/environment.py .venv/bench-queue bench-queue
	.venv/bench-queue/bin/python bench/queues.py $(BENCHFLAGS)

bench-tools:
	$(PYTHON) tests/environment.py .venv/bench bench
	.venv/bench/bin/python bench/tools.py $(BENCHFLAGS)

bench-wsgi:
	$(PYTHON) tests/environment.py .venv/bench-wsgi bench-wsgi
	.venv/bench-wsgi/bin/python bench/wsgi.py $(BENCHFLAGS)

memcheck:
	$(PYTHON) tests/memcheck.py $(MEMCHECKFLAGS)

wheels:
	$(PYTHON) tests/environment.py .venv/wheels wheels
	.venv/wheels/bin/python tests/wheels.py $(WHEELSFLAGS)

lint:
	$(PYTHON) tests/environment.py .venv/lint lint
	.venv/lint/bin/ruff check
	.venv/lint/bin/ruff format --check
	.venv/lint/bin/mypy --strict

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .benchmarks src/*.egg-info
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
