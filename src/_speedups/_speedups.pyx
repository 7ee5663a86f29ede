# cython: language_level=3
# cython: freethreading_compatible=True
# cython: embedsignature=False
# cython: auto_pickle=False
# cython: binding=True
# cython: boundscheck=False
# cython: wraparound=False
"""The compiled kernel: twin of `asgibridge._pure`, room by room, with the same names.

What a thing is for, and its guarantees, is written there; here are the reasons for what is
different. All of it is one translation unit (the rooms are included as text), because ``cdef``
declarations cannot be shared otherwise: the folder does not bear the package's name.

**Without the GIL** every C structure that two threads may touch is touched under its critical
section, and nothing that could run Python code happens there. With the GIL these sections cost and
do nothing: no Python code, no switch. What is *not* guarded belongs to one thread, and the comment
beside it says to which.

CPython opens all critical sections of a thread that waits for a lock of its own, and to let go of a
reference can be such a wait, if another thread has made the object and the count of all others than
that goes below zero. So in a section a reference is let go of as the last thing, or of an object of
which we hold one that was taken there; queues, whose lines hold waiters of other threads, have a
guard beside it.
"""

cimport cython
from cpython.object cimport PyObject, PyTypeObject, Py_TYPE
from cpython.pythread cimport (
    PY_LOCK_ACQUIRED, PY_LOCK_FAILURE, PyLockStatus, PyThread_type_lock, PyThread_acquire_lock,
    PyThread_allocate_lock, PyThread_free_lock, PyThread_release_lock, PyThread_tss_create,
    PyThread_tss_get, PyThread_tss_set,
)
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF

import asyncio
import functools
import inspect
import os
import sys
import threading
import time
import types
import weakref
from concurrent.futures import Executor, Future, InvalidStateError
from contextvars import Context, ContextVar, copy_context

from asgibridge._process import fork as _fork
from asgibridge._process import items as _items
from asgibridge._process import loops as _loops
from asgibridge._process import queue_errors as _queue_errors
from asgibridge._process import threads as _threads
from asgibridge._process.stock import StockNames as _StockNames
from asgibridge._waits import deadlocks as _deadlocks

# As in `_process.fork`, but read without a look into a dictionary. A file descriptor, thread or frame
# of another generation is not there.
cdef unsigned long _generation = _fork.generation
cdef object _pid = _fork.pid
cdef list _forkers = _fork.forkers


def _after_fork_in_child():
    global _generation, _pid
    _generation = _fork.generation
    _pid = _fork.pid


_fork.at_fork(_after_fork_in_child)  # the first of the kernel's: the others look at the generation

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident()
    size_t PyThread_get_stacksize()
    PyLockStatus PyThread_acquire_lock_timed(
        PyThread_type_lock lock, long long microseconds, int interruptible
    ) nogil

include "tally.pxi"
include "home.pxi"
include "context.pxi"
include "local.pxi"
include "channel.pxi"
include "wait.pxi"
include "calls.pxi"
include "drive.pxi"
include "inbox.pxi"
include "parking.pxi"
include "wakeups.pxi"
include "renewal.pxi"
include "workers.pxi"
include "pool.pxi"
include "executors.pxi"
include "waiters.pxi"
include "promises.pxi"
include "queue.pxi"
include "broadcast.pxi"
include "selection.pxi"
include "wrappers.pxi"
include "details.pxi"
