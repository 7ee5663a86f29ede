# Each target makes the environment it needs under .venv; PYTHON is the interpreter to make it of.
PYTHON ?= python3

.PHONY: help test demo bench bench-queue memcheck lint clean

help:
	@echo "make test    the test suite and asgiref's own, on each kernel (TESTFLAGS=...)"
	@echo "make demo    a Django and Channels site, on asgiref and on asgibridge (DEMOFLAGS=--quick)"
	@echo "make bench   every crossing timed: asgiref, each kernel, and bare wake-ups; the targets;"
	@echo "             docs/benchmarks.md (BENCHFLAGS=--quick: in a minute, and writes nothing)"
	@echo "make memcheck  the compiled kernel under valgrind and on a debug build of CPython"
	@echo "make bench-queue  message queues, against janus, culsans, aiologic and Python's own"
	@echo "make lint    ruff and mypy --strict"
	@echo "make clean   remove everything that was made"
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

memcheck:
	$(PYTHON) tests/memcheck.py $(MEMCHECKFLAGS)

bench-queue:
	$(PYTHON) tests/environment.py .venv/bench-queue bench-queue
	.venv/bench-queue/bin/python bench/queues.py $(BENCHFLAGS)

lint:
	$(PYTHON) tests/environment.py .venv/lint lint
	.venv/lint/bin/ruff check
	.venv/lint/bin/ruff format --check
	.venv/lint/bin/mypy --strict

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .benchmarks src/*.egg-info
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
