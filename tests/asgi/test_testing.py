"""``ApplicationCommunicator``: lifetimes, time-outs, and whose exception comes out where."""

from __future__ import annotations

import asyncio
import contextvars
import sys

import pytest

from asgibridge.testing import ApplicationCommunicator, ApplicationStopped

SOON = 0.01

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Broken(Exception):
    pass


async def echo(scope, receive, send):
    while True:
        await send(await receive())


async def ends_at_once(scope, receive, send):
    pass


async def raises_at_once(scope, receive, send):
    raise Broken("at once")


async def raises_when_cancelled(scope, receive, send):
    try:
        await receive()
    finally:
        raise Broken("when cancelled")


async def tells_then_waits(scope, receive, send):
    """Keeps in the scope how far it got."""
    scope["events"].append("started")
    try:
        await receive()
    finally:
        # Cleaning up may take a few turns of the loop.
        await asyncio.sleep(0)
        scope["events"].append("cleaned up")


async def ended(communicator):
    await asyncio.wait({communicator.future})


# Start


def test_it_can_be_made_without_a_loop_and_used_in_one():
    communicator = ApplicationCommunicator(echo, {})
    assert communicator._future is None

    async def main():
        await communicator.send_input("hello")
        assert await communicator.receive_output() == "hello"
        assert communicator._future is communicator.future
        await communicator.wait(0)

    asyncio.run(main())


@pytest.mark.asyncio
async def test_the_application_sees_none_of_the_tests_context():
    async def application(scope, receive, send):
        await send(variable.get())
        variable.set("application's")
        await send(len(contextvars.copy_context()))

    variable.set("test's")
    communicator = ApplicationCommunicator(application, {})
    assert await communicator.receive_output() == "unset"
    assert await communicator.receive_output() == 1
    assert variable.get() == "test's"
    await communicator.wait()


@pytest.mark.asyncio
async def test_an_asgi_2_application_is_given_the_scope_first():
    class Application:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await send((self.scope, await receive()))

    communicator = ApplicationCommunicator(Application, "the scope")
    await communicator.send_input("a message")
    assert await communicator.receive_output() == ("the scope", "a message")
    await communicator.wait()


# receive_output, send_input, receive_nothing


@pytest.mark.asyncio
async def test_a_timeout_ends_the_application_first():
    scope = {"events": []}
    communicator = ApplicationCommunicator(tells_then_waits, scope)
    with pytest.raises(TimeoutError):
        await communicator.receive_output(SOON)
    assert scope["events"] == ["started", "cleaned up"]
    assert communicator.future.cancelled()


@pytest.mark.asyncio
async def test_a_timeout_is_also_asyncios():
    with pytest.raises(asyncio.TimeoutError) as raised:
        await ApplicationCommunicator(echo, {}).receive_output(SOON)
    assert isinstance(raised.value, TimeoutError)


@pytest.mark.asyncio
async def test_a_timeout_of_an_application_that_ended_well_is_a_timeout():
    communicator = ApplicationCommunicator(ends_at_once, {})
    await ended(communicator)
    with pytest.raises(TimeoutError):
        await communicator.receive_output(SOON)


@pytest.mark.asyncio
async def test_what_the_application_raises_while_waited_for_replaces_the_timeout():
    with pytest.raises(Broken, match="at once"):
        await ApplicationCommunicator(raises_at_once, {}).receive_output(SOON)


@pytest.mark.asyncio
async def test_what_the_application_raises_when_cancelled_replaces_the_timeout():
    with pytest.raises(Broken, match="when cancelled"):
        await ApplicationCommunicator(raises_when_cancelled, {}).receive_output(SOON)


@pytest.mark.asyncio
async def test_an_application_that_has_raised_answers_every_call_with_it():
    communicator = ApplicationCommunicator(raises_at_once, {})
    await ended(communicator)
    with pytest.raises(Broken):
        await communicator.send_input("message")
    with pytest.raises(Broken):
        await communicator.receive_output()
    with pytest.raises(Broken):
        await communicator.receive_nothing()
    with pytest.raises(Broken):
        await communicator.wait()
    with pytest.raises(Broken):
        communicator.stop()


@pytest.mark.asyncio
async def test_receiving_without_a_limit():
    communicator = ApplicationCommunicator(echo, {})
    receiver = asyncio.ensure_future(communicator.receive_output(timeout=None))
    await communicator.send_input("late")
    assert await receiver == "late"
    await communicator.wait(0)


@pytest.mark.asyncio
async def test_cancelling_a_receiver_leaves_the_application_running():
    communicator = ApplicationCommunicator(echo, {})
    receiver = asyncio.ensure_future(communicator.receive_output(timeout=None))
    await asyncio.sleep(0)
    receiver.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiver
    await communicator.send_input("still there")
    assert await communicator.receive_output() == "still there"
    await communicator.wait(0)


@pytest.mark.asyncio
async def test_receive_nothing_takes_no_message_away():
    communicator = ApplicationCommunicator(echo, {})
    assert await communicator.receive_nothing(timeout=0) is True
    await communicator.send_input("message")
    # The interval is over only after the time-out: one look after it is due all the same.
    assert await communicator.receive_nothing(timeout=SOON / 10, interval=SOON) is False
    assert await communicator.receive_output() == "message"
    await communicator.wait(0)


@pytest.mark.asyncio
async def test_after_a_timeout_every_call_says_what_happened():
    communicator = ApplicationCommunicator(echo, {})
    with pytest.raises(TimeoutError, match=r"the application sent nothing within 0\.01 s"):
        await communicator.receive_output(SOON)
    said = r"cancelled when receive_output\(\) had waited 0\.01 s for a message"
    for call in (
        communicator.send_input("message"),
        communicator.receive_output(),
        communicator.receive_nothing(),
    ):
        with pytest.raises(ApplicationStopped, match=said):
            await call
    await communicator.wait()


@pytest.mark.asyncio
async def test_after_stop_and_wait_too():
    for how, said in (("stop", r"by stop\(\)"), ("wait", r"when wait\(\) had waited 0 s")):
        communicator = ApplicationCommunicator(echo, {})
        future = communicator.future
        if how == "stop":
            communicator.stop()
        else:
            await communicator.wait(0)
        await asyncio.wait({future})
        with pytest.raises(ApplicationStopped, match=said):
            await communicator.send_input("message")


@pytest.mark.asyncio
async def test_a_program_for_asgiref_catches_it_as_a_cancellation():
    communicator = ApplicationCommunicator(echo, {})
    with pytest.raises(TimeoutError):
        await communicator.receive_output(SOON)
    with pytest.raises(asyncio.CancelledError, match=r"receive_output\(\) had waited"):
        await communicator.send_input({"type": "websocket.disconnect"})
    # As nobody has cancelled this task, it goes on.
    assert await asyncio.wait_for(asyncio.sleep(0, "done"), 1) == "done"


def test_nobody_takes_it_for_a_good_end():
    async def main():
        communicator = ApplicationCommunicator(echo, {})
        future = communicator.future
        communicator.stop()
        await asyncio.wait({future})
        await communicator.receive_output()

    # Before 3.11 asyncio makes another error of the cancellation, and chains this one.
    with pytest.raises(asyncio.CancelledError) as raised:
        asyncio.run(main())
    assert ApplicationStopped in (type(raised.value), type(raised.value.__context__))


@pytest.mark.asyncio
async def test_an_application_that_cancels_itself():
    async def application(scope, receive, send):
        raise asyncio.CancelledError

    communicator = ApplicationCommunicator(application, {})
    with pytest.raises(ApplicationStopped, match="by itself or by something else"):
        await communicator.receive_output()


@pytest.mark.parametrize("how", ["call", "attribute"])
@pytest.mark.asyncio
async def test_a_timeout_can_leave_the_application_running(how):
    communicator = ApplicationCommunicator(echo, {})
    if how == "call":
        with pytest.raises(TimeoutError):
            await communicator.receive_output(SOON, cancel_on_timeout=False)
    else:
        communicator.cancel_on_timeout = False
        with pytest.raises(TimeoutError):
            await communicator.receive_output(SOON)
    await communicator.send_input("still there")
    assert await communicator.receive_output() == "still there"
    with pytest.raises(TimeoutError):
        await communicator.receive_output(SOON, cancel_on_timeout=True)
    assert communicator.future.cancelled()


@pytest.mark.parametrize("timeout", [None, 3600])
@pytest.mark.asyncio
async def test_an_exception_is_not_waited_for(timeout):
    die = asyncio.Event()

    async def application(scope, receive, send):
        await die.wait()
        raise Broken("later")

    communicator = ApplicationCommunicator(application, {})
    receiver = asyncio.ensure_future(communicator.receive_output(timeout))
    for _ in range(10):
        await asyncio.sleep(0)
    die.set()
    with pytest.raises(Broken, match="later"):
        await asyncio.wait_for(receiver, 10)


@pytest.mark.parametrize("turns", [0, 10])
@pytest.mark.asyncio
async def test_an_end_without_a_message_is_no_reason_to_wait_for_ever(turns):
    async def application(scope, receive, send):
        for _ in range(turns):
            await asyncio.sleep(0)

    communicator = ApplicationCommunicator(application, {})
    with pytest.raises(TimeoutError, match="has ended without sending anything more"):
        await asyncio.wait_for(communicator.receive_output(timeout=None), 10)


@pytest.mark.asyncio
async def test_a_message_that_comes_late_is_received():
    async def application(scope, receive, send):
        for _ in range(20):
            await asyncio.sleep(0)
        await send("late")

    assert await ApplicationCommunicator(application, {}).receive_output() == "late"


@pytest.mark.asyncio
async def test_a_timeout_of_0_is_one_look():
    async def application(scope, receive, send):
        for _ in range(3):
            await asyncio.sleep(0)
        await send("too late")

    with pytest.raises(TimeoutError):
        await ApplicationCommunicator(application, {}).receive_output(0)
    communicator = ApplicationCommunicator(echo, {})
    communicator.output_queue.put_nowait("there already")
    assert await communicator.receive_output(0) == "there already"
    await communicator.wait(0)


@pytest.mark.asyncio
async def test_an_application_that_will_not_end_is_not_waited_for_for_ever():
    over = asyncio.Event()

    async def application(scope, receive, send):
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                pass

    communicator = ApplicationCommunicator(application, {})
    communicator.patience = SOON
    with pytest.raises(RuntimeError, match="does it swallow CancelledError"):
        await communicator.wait(SOON)
    over.set()
    await communicator.wait()


# async with


@pytest.mark.asyncio
async def test_a_block_ends_the_application():
    scope = {"events": []}
    async with ApplicationCommunicator(tells_then_waits, scope) as communicator:
        assert not communicator.future.done()
        await asyncio.sleep(0)
    assert scope["events"] == ["started", "cleaned up"]


@pytest.mark.asyncio
async def test_a_block_raises_what_the_application_raised():
    with pytest.raises(Broken, match="at once"):
        async with ApplicationCommunicator(raises_at_once, {}) as communicator:
            await ended(communicator)
    with pytest.raises(Broken, match="when cancelled"):
        async with ApplicationCommunicator(raises_when_cancelled, {}):
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_blocks_own_exception_comes_first():
    with pytest.raises(LookupError):
        async with ApplicationCommunicator(raises_at_once, {}) as communicator:
            await ended(communicator)
            raise LookupError


# wait


@pytest.mark.asyncio
async def test_waiting_for_an_application_that_ends():
    communicator = ApplicationCommunicator(ends_at_once, {})
    await communicator.wait(timeout=None)
    assert communicator.future.done()
    assert not communicator.future.cancelled()


@pytest.mark.asyncio
async def test_waiting_too_long_cancels_the_application_without_an_error():
    scope = {"events": []}
    communicator = ApplicationCommunicator(tells_then_waits, scope)
    await communicator.wait(SOON)
    assert scope["events"] == ["started", "cleaned up"]
    assert communicator.future.cancelled()


@pytest.mark.asyncio
async def test_waiting_raises_what_the_application_raised():
    with pytest.raises(Broken, match="at once"):
        await ApplicationCommunicator(raises_at_once, {}).wait()
    with pytest.raises(Broken, match="when cancelled"):
        await ApplicationCommunicator(raises_when_cancelled, {}).wait(SOON)


@pytest.mark.asyncio
async def test_cancelling_a_waiter_cancels_both():
    scope = {"events": []}
    communicator = ApplicationCommunicator(tells_then_waits, scope)
    waiter = asyncio.ensure_future(communicator.wait(timeout=None))
    while not scope["events"]:
        await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert scope["events"] == ["started", "cleaned up"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Task.cancelling() is new in Python 3.11")
@pytest.mark.asyncio
async def test_waiting_too_long_leaves_no_cancel_request_on_the_caller():
    await ApplicationCommunicator(echo, {}).wait(SOON)
    assert asyncio.current_task().cancelling() == 0


# stop and the end


@pytest.mark.asyncio
async def test_stopping_what_was_never_started_does_not_start_it():
    communicator = ApplicationCommunicator(echo, {})
    communicator.stop()
    assert communicator._future is None


@pytest.mark.asyncio
async def test_stopping_cancels_and_a_second_stop_says_so():
    communicator = ApplicationCommunicator(echo, {})
    future = communicator.future
    communicator.stop()
    await asyncio.wait({future})
    assert future.cancelled()
    with pytest.raises(asyncio.CancelledError):
        communicator.stop()


@pytest.mark.asyncio
async def test_stopping_can_leave_the_exception_alone():
    communicator = ApplicationCommunicator(raises_at_once, {})
    await ended(communicator)
    communicator.stop(exceptions=False)
    assert isinstance(communicator.future.exception(), Broken)


@pytest.mark.asyncio
async def test_forgetting_the_communicator_cancels_the_application():
    communicator = ApplicationCommunicator(echo, {})
    future = communicator.future
    await asyncio.sleep(0)
    del communicator
    await asyncio.wait({future}, timeout=10)
    assert future.cancelled()


def test_forgetting_the_communicator_after_its_loop_is_quiet():
    async def application(scope, receive, send):
        await asyncio.get_running_loop().create_future()

    async def start(communicator):
        assert not communicator.future.done()
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # "Task was destroyed but pending"
    communicator = ApplicationCommunicator(application, {})
    loop.run_until_complete(start(communicator))
    loop.close()
    # An exception in __del__ is a warning from pytest, and so an error here.
    del communicator


def test_forgetting_a_communicator_that_was_never_initialised_is_quiet():
    class Unmade(ApplicationCommunicator):
        def __init__(self):
            raise Broken

    with pytest.raises(Broken):
        Unmade()
