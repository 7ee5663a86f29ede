# The compiled kernel has what the pure one has; tests/test_parity.py compares the two.
# ruff: noqa: I001
from asgibridge._pure import (
    AsyncCall as AsyncCall,
    ContextStorage as ContextStorage,
    CurrentThreadExecutor as CurrentThreadExecutor,
    Home as Home,
    Inbox as Inbox,
    SyncCall as SyncCall,
    ThreadHandler as ThreadHandler,
    ThreadSensitiveExecutor as ThreadSensitiveExecutor,
    ThreadStorage as ThreadStorage,
    WakeChannel as WakeChannel,
    are_same as are_same,
    at_home as at_home,
    attach_reader as attach_reader,
    call_soon as call_soon,
    current_home as current_home,
    drive as drive,
    end_idle_workers as end_idle_workers,
    peek as peek,
    restore_context as restore_context,
    start_run as start_run,
)
