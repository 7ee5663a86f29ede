# What `asgibridge.debug` sees of the kernel's objects.

def details(thing):
    """What a kernel's object is about, as a dict of its ``kind`` and more; None for any other.

    From any thread: a look at what may be changing, without waiting for anybody.
    """
    cdef SyncCall call
    cdef _CurrentThread frame
    cdef _ThreadSensitive executor
    cdef Inbox inbox
    cdef PoolInbox pool
    if type(thing) is SyncCall:
        call = <SyncCall>thing
        with cython.critical_section(call):
            shown = call.shown
            inbox = call.inbox
        return {
            "kind": "call", "loop": call.loop, "waiter": call.wait, "function": shown,
            "tasks": call.task_context, "inbox": call.place if inbox is None else inbox, "is_taken": call.has_begun,
            "is_done": call.is_done, "is_counted": call.is_counted,
            "thread_ident": call.thread_ident,
            "submitted": call.submitted * 1e-9, "started": call.started * 1e-9,
        }
    if isinstance(thing, _CurrentThread):
        frame = <_CurrentThread>thing
        return {
            "kind": "frame", "thread_ident": frame.thread_ident, "inbox": frame.inbox,
            "is_serving": not frame.inbox.closed and frame.generation == _generation,
        }
    if isinstance(thing, _ThreadSensitive):
        executor = <_ThreadSensitive>thing
        return {
            "kind": "executor", "worker": executor.current_worker(),
            "inbox": executor.current_inbox(),
        }
    if type(thing) is Inbox:
        inbox = <Inbox>thing
        with cython.critical_section(inbox):
            return {"kind": "inbox", "items": inbox.items[inbox.begin:]}
    if type(thing) is PoolInbox:
        pool = <PoolInbox>thing
        with cython.critical_section(pool):
            return {"kind": "inbox", "items": pool.items[pool.begin:]}
    if type(thing) is AsyncCall:
        return {"kind": "outcome", "executor": (<AsyncCall>thing).executor}
    if type(thing) is _Drive:
        return {"kind": "drive", "outcome": (<_Drive>thing).call}
    return None


def idle_workers():
    """How many threads wait for a next lease."""
    with cython.critical_section(_idle):
        return len(_idle.inboxes)
