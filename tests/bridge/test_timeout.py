"""The deprecated ``timeout``: expiry, and above all what it does to cancellation."""

from __future__ import annotations

import asyncio
import sys
import warnings

import pytest

from asgibridge.timeout import timeout as warning_timeout

SOON = 0.01
NEVER = 3600

counts_cancel_requests = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Task.cancelling() is new in Python 3.11"
)


def timeout(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return warning_timeout(*args, **kwargs)


async def forever():
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("delay", [SOON, 0, -1])
@pytest.mark.asyncio
async def test_an_expired_block_raises_timeouterror(delay):
    limit = timeout(delay)
    with pytest.raises(TimeoutError) as raised:
        async with limit:
            await forever()
    assert limit.expired
    assert isinstance(raised.value, asyncio.TimeoutError)
    assert isinstance(raised.value.__cause__, asyncio.CancelledError)


@pytest.mark.asyncio
async def test_the_plain_with_form():
    with pytest.raises(TimeoutError), timeout(SOON) as limit:
        await forever()
    assert limit.expired


@pytest.mark.parametrize("delay", [NEVER, None, 0])
@pytest.mark.asyncio
async def test_a_block_that_is_done_in_time_is_left_alone(delay):
    async with timeout(delay) as limit:
        pass
    await asyncio.sleep(0)
    assert not limit.expired


@pytest.mark.asyncio
async def test_a_finished_block_leaves_no_timer_behind():
    async with timeout(NEVER):
        (timer,) = asyncio.get_running_loop()._scheduled
        assert not timer.cancelled()
    assert timer.cancelled()


@pytest.mark.asyncio
async def test_remaining_counts_down_to_zero():
    limit = timeout(NEVER)
    assert limit.remaining is None
    async with limit:
        assert NEVER - 60 < limit.remaining <= NEVER
    limit = timeout(SOON)
    with pytest.raises(TimeoutError):
        async with limit:
            await forever()
    assert limit.remaining == 0.0


@pytest.mark.asyncio
async def test_without_a_limit_nothing_remains_to_be_told():
    async with timeout(None) as limit:
        assert limit.remaining is None


@pytest.mark.asyncio
async def test_the_warnings_point_at_the_caller():
    with pytest.warns(DeprecationWarning, match=r"asyncio\.timeout\(\)") as caught:
        warning_timeout(1)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(DeprecationWarning, match="deprecated") as caught:
        warning_timeout(1, loop=asyncio.get_running_loop())
    assert [warning.filename for warning in caught] == [__file__] * 2


def test_without_a_running_loop_it_cannot_be_made():
    with pytest.raises(RuntimeError, match="no running event loop"):
        timeout(1)


def test_outside_a_task_it_cannot_be_entered():
    loop = asyncio.new_event_loop()
    try:
        limit = timeout(1, loop=loop)
        with pytest.raises(RuntimeError, match="in a coroutine that the event loop runs"), limit:
            pass
    finally:
        loop.close()


@pytest.mark.asyncio
async def test_a_cancellation_by_others_goes_through():
    limits = []

    async def limited():
        async with timeout(NEVER) as limit:
            limits.append(limit)
            await forever()

    task = asyncio.ensure_future(limited())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not limits[0].expired


@pytest.mark.asyncio
async def test_after_an_expiry_it_can_be_used_again():
    limit = timeout(0)
    with pytest.raises(TimeoutError):
        async with limit:
            await forever()
    # A CancelledError that is not the deadline's must not be taken for it, then.
    with pytest.raises(asyncio.CancelledError):
        async with limit:
            raise asyncio.CancelledError
    assert not limit.expired


@pytest.mark.asyncio
async def test_another_exception_at_expiry_is_kept():
    with pytest.raises(LookupError):
        async with timeout(SOON):
            try:
                await forever()
            except asyncio.CancelledError:
                raise LookupError from None


@pytest.mark.asyncio
async def test_a_block_may_swallow_its_expiry():
    async with timeout(SOON) as limit:
        try:
            await forever()
        except asyncio.CancelledError:
            pass
    assert limit.expired


@counts_cancel_requests
@pytest.mark.asyncio
async def test_no_cancel_request_is_left_behind():
    for swallow in (True, False):
        try:
            async with timeout(SOON):
                try:
                    await forever()
                except asyncio.CancelledError:
                    if not swallow:
                        raise
        except TimeoutError:
            pass
        assert asyncio.current_task().cancelling() == 0


@counts_cancel_requests
@pytest.mark.asyncio
async def test_expired_and_cancelled_at_once_is_cancelled():
    async def limited():
        async with timeout(0):
            asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)
            await forever()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(limited())
