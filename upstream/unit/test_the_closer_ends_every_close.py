"""`forced_close` by itself, on virtual time: bounds are exact."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from fake_session import Activity, FakeSession, Speech, forever, stubborn, took
from forced_close import (
    GIVE_WAY,
    KILL,
    LEAVE,
    STEP,
    TEARDOWN,
    SessionCloser,
    cut_off,
    had_connected,
    is_ending,
)

ALLOWANCE = 5.0
CUT = pytest.approx(ALLOWANCE + KILL, abs=0.01)


# -- forced closes --------------------------------------------------------------------------------------


async def test_nothing_pending_takes_no_time() -> None:
    session = FakeSession()
    assert await took(session.aclose()) == 0
    assert len(session.closes) == 1


async def test_speech_is_cut_off_when_the_allowance_is_used_up() -> None:
    session = FakeSession()
    speech = session.activity.speak(forever)
    assert await took(session.aclose()) == CUT
    assert speech.cancelled() and session.activity._scheduling_paused


async def test_a_tool_is_cut_off_first() -> None:
    session = FakeSession()
    tool = session.activity._tool_executor.run(forever)
    assert await took(session.aclose()) == pytest.approx(ALLOWANCE)
    assert tool.cancelled()


async def test_what_ends_in_time_is_not_cut_off() -> None:
    session = FakeSession()
    speech = session.activity.speak(lambda: asyncio.sleep(4.9))
    assert await took(session.aclose()) == pytest.approx(4.9)
    assert not speech.cancelled()


async def test_the_allowance_may_be_nothing() -> None:
    session = FakeSession(allowance=0)
    session.activity.speak(forever)
    assert await took(session.aclose()) == pytest.approx(KILL)


async def test_what_ignores_its_cancellation_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = FakeSession()
    speech = session.activity.speak(stubborn)
    session.activity._tool_executor.run(stubborn)
    assert await took(session.aclose()) <= ALLOWANCE + 2 * KILL + TEARDOWN
    assert len(session.closes) == 1
    assert not speech.done() and session.activity.speech.done
    assert sum("call_1" in record.getMessage() for record in caplog.records) == 1
    await asyncio.sleep(600)


async def test_a_teardown_that_never_ends_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    session = FakeSession()
    session.activity.at_close = forever
    assert await took(session.aclose()) == pytest.approx(STEP - KILL)
    assert "the provider did not end in time and was cancelled" in caplog.text


async def test_a_teardown_that_ignores_that_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = FakeSession()
    session.activity.at_close = stubborn
    assert await took(session.aclose()) == pytest.approx(STEP)
    assert caplog.text.count("the provider did not end in time and ignored its cancellation") == 1
    await asyncio.sleep(600)


async def test_a_teardown_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("gone")

    reached: list[bool] = []

    async def reach() -> None:
        reached.append(True)

    session = FakeSession()
    session.activity.at_close = fail
    session.after = [fail, reach]
    await session.aclose()
    assert len(session.closes) == 1 and reached
    assert caplog.text.count("OSError: gone") == 2


async def test_a_part_that_cancels_itself_stops_nothing() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    session = FakeSession()
    session.activity.at_close = cancelled
    session.activity.speak(cancelled)
    await session.aclose()
    assert len(session.closes) == 1


async def test_everything_at_once_stays_within_the_bound() -> None:
    session = FakeSession()
    for _ in range(5):
        session.activity.speak(stubborn)
    session.activity._tool_executor.run(stubborn)
    session.activity.at_close = stubborn
    assert await took(session.aclose()) < 7.0
    await asyncio.sleep(600)


async def test_what_is_left_of_the_room_has_a_limit_too() -> None:
    session = FakeSession()
    session.after = [forever]
    assert await took(session.aclose()) == pytest.approx(LEAVE)
    assert len(session.closes) == 1


async def test_an_activity_that_was_not_reached_is_closed_all_the_same() -> None:
    session = FakeSession()
    below = Activity(session)
    session.activity.agent._old_agent = SimpleNamespace(_activity=below)
    await session.aclose()
    assert below._closed


async def test_cyclic_activities_are_closed_once() -> None:
    session = FakeSession()
    session.activity.agent._old_agent = SimpleNamespace(_activity=session.activity)
    await session.aclose()
    assert len(session.closes) == 1


async def test_a_teardown_that_raises_at_once_does_not_leave_the_activity_open() -> None:
    session = FakeSession()

    def broken() -> Any:
        raise ValueError("not now")

    session.activity.drain = broken  # type: ignore[method-assign]
    await session.aclose()
    assert session.activity._closed and len(session.closes) == 1


async def test_a_lock_that_is_held_for_ever_is_gone_without() -> None:
    session = FakeSession()
    await session.activity._lock.acquire()
    assert await took(session.aclose()) < 7.0
    assert session.activity._closed and session.activity._lock.locked()
    session.activity._lock.release()
    assert await took(session.activity._lock.acquire()) == 0


# -- graceful closes ------------------------------------------------------------------------------------


async def test_a_graceful_close_has_no_limit() -> None:
    session = FakeSession()
    speech = session.activity.speak(lambda: asyncio.sleep(1000))
    session.shutdown()
    assert session._closing_task is not None
    assert await took(session._closing_task) == 1000
    assert not speech.cancelled()


async def test_a_forced_request_ends_its_patience() -> None:
    session = FakeSession()
    session.activity.speak(forever)
    session.shutdown()
    await asyncio.sleep(100)
    assert not session._closer.forced
    session.shutdown(drain=False)
    assert session._closer.forced and session._closing_task is not None
    assert await took(session._closing_task) == CUT
    assert session.activity.interrupted == 1


async def test_a_second_graceful_request_does_not() -> None:
    session = FakeSession()
    session.activity.speak(lambda: asyncio.sleep(100))
    session.shutdown()
    session.shutdown()
    await asyncio.sleep(50)
    assert not session.closes and session._closing_task is not None
    assert await took(session._closing_task) == 50


async def test_a_waiter_starts_a_clock() -> None:
    session = FakeSession()
    session.activity.speak(forever)
    session.shutdown()
    await asyncio.sleep(100)
    assert await took(session.aclose()) == CUT


async def test_what_moves_starts_it_anew() -> None:
    session = FakeSession()

    async def report() -> None:
        for _ in range(10):
            await asyncio.sleep(4)
            session.emit("agent_state_changed", None)

    session.activity.speak(report)
    session.shutdown()
    assert await took(session.aclose()) == 40


async def test_audio_that_still_has_to_play_does_so_too() -> None:
    class Output:
        async def capture_frame(self, frame: Any) -> None:
            """Take it at once."""

    session = FakeSession()
    session.output.audio = output = Output()
    ended: list[bool] = []

    async def goodbye() -> None:
        await asyncio.sleep(1)
        for _ in range(30):
            await session.output.audio.capture_frame(SimpleNamespace(duration=1.0))
        await asyncio.sleep(30)
        ended.append(True)

    session.activity.speak(goodbye)
    session.shutdown()
    assert await took(session.aclose()) == 31
    assert ended and "capture_frame" not in vars(output)


async def test_the_limit_of_a_job_ends_it_at_once() -> None:
    session = FakeSession()
    session.activity.speak(forever)
    session.shutdown()
    await asyncio.sleep(100)
    assert await took(session._closer.force()) == pytest.approx(KILL)
    await session._closer.force()


# -- several closers ------------------------------------------------------------------------------------


async def test_all_closers_wait_for_one_close() -> None:
    session = FakeSession()
    session.activity.speak(forever)
    times = await asyncio.gather(*(took(session.aclose()) for _ in range(3)))
    assert times == [CUT] * 3
    assert len(session.closes) == 1


async def test_cancelling_a_waiter_does_not_cancel_the_close() -> None:
    session = FakeSession()
    session.activity.speak(forever)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(session.aclose(), 1)
    assert await took(session.aclose()) == pytest.approx(ALLOWANCE + KILL - 1)
    assert len(session.closes) == 1


async def test_a_closed_session_is_closed_at_once() -> None:
    session = FakeSession()
    await session.aclose()
    await session.aclose()
    session.shutdown()
    await asyncio.sleep(1)
    assert len(session.closes) == 1 and session._closing_task is None


async def test_a_session_that_was_started_again_is_closed_again() -> None:
    session = FakeSession()
    session.activity.speak(forever)
    await session.aclose()
    session._started = True
    session.activity = session._activity = Activity(session)
    session.activity.speak(forever)
    assert await took(session.aclose()) == CUT
    assert len(session.closes) == 2


async def test_the_event_comes_out_even_if_the_closing_task_is_cancelled() -> None:
    session = FakeSession()
    session.activity.speak(forever)
    session.shutdown(drain=False)
    await asyncio.sleep(1)
    assert session._closing_task is not None
    session._closing_task.cancel()
    await asyncio.sleep(1)
    assert len(session.closes) == 1


# -- who asks from inside -------------------------------------------------------------------------------


async def test_a_tool_may_wait_for_the_close(caplog: pytest.LogCaptureFixture) -> None:
    session = FakeSession()
    back: list[bool] = []

    async def hang_up() -> None:
        await session.aclose()
        back.append(True)

    tool = session.activity._tool_executor.run(hang_up)
    assert await took(tool) == 0
    assert back and len(session.closes) == 1
    assert "won't wait for" in caplog.text


async def test_other_tools_get_their_allowance_then() -> None:
    session = FakeSession()
    other = session.activity._tool_executor.run(lambda: asyncio.sleep(3), "call_2")
    tool = session.activity._tool_executor.run(session.aclose)
    assert await took(tool) == 3
    assert not other.cancelled()


async def test_a_hook_may_wait_for_the_close() -> None:
    session = FakeSession()
    hook = session.activity.speak(session.aclose)
    assert await took(hook) == 0
    assert len(session.closes) == 1


async def test_a_part_of_the_close_is_not_waited_for_by_itself() -> None:
    session = FakeSession()
    session.activity.at_close = session.aclose
    assert await took(session.aclose()) == 0
    assert len(session.closes) == 1


async def test_a_task_of_a_handler_may_wait_for_the_close() -> None:
    session = FakeSession()
    session.after = [lambda: asyncio.sleep(1)]
    waiting: list[asyncio.Task[float]] = []
    session.on("close", lambda _: waiting.append(asyncio.ensure_future(took(session.aclose()))))
    await session.aclose()
    assert await waiting[0] == 1


# -- the event ------------------------------------------------------------------------------------------


async def test_a_handler_that_raises_keeps_the_event_from_nobody() -> None:
    def broken(event: Any) -> None:
        raise TypeError("not what it expected")

    session = FakeSession()
    later: list[Any] = []
    once: list[Any] = []
    session.off("close", session.closes.append)
    session.on("close", broken)
    session.on("close", later.append)
    session.once("close", once.append)
    await session.aclose()
    assert len(later) == 1 and len(once) == 1
    session.off("close", broken)
    session.emit("close", None)
    assert len(later) == 2 and len(once) == 1


# -- outside a close ------------------------------------------------------------------------------------


async def test_waits_hand_on_what_a_plain_await_does() -> None:
    closer = FakeSession()._closer

    async def fail() -> None:
        raise LookupError("as before")

    assert await took(closer.settle(asyncio.sleep(100))) == 100
    assert await took(closer.step("a part", asyncio.sleep(100))) == 100
    for waiting in (closer.settle(fail()), closer.step("a part", fail())):
        with pytest.raises(LookupError):
            await waiting
    with pytest.raises(LookupError):
        await closer.attempt("a part", fail())


async def test_cancelling_a_wait_cancels_what_it_waits_for() -> None:
    closer = FakeSession()._closer
    inner = asyncio.ensure_future(forever())
    waiting = asyncio.ensure_future(closer.settle(inner))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled() and inner.cancelled()


async def test_a_shielded_one_goes_on() -> None:
    closer = FakeSession()._closer
    inner = asyncio.ensure_future(asyncio.sleep(5))
    waiting = asyncio.ensure_future(closer.settle(asyncio.shield(inner)))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled() and not inner.done()
    await inner


async def test_a_lock_is_a_lock() -> None:
    closer, lock, order = FakeSession()._closer, asyncio.Lock(), list[int]()

    async def use(number: int) -> None:
        async with closer.hold(lock, "a thing"):
            order.append(number)
            await asyncio.sleep(1)

    assert await took(asyncio.gather(use(1), use(2), use(3))) == 3
    assert order == [1, 2, 3] and not lock.locked()


async def test_giving_up_a_lock_leaves_it_to_the_next() -> None:
    closer, lock = FakeSession()._closer, asyncio.Lock()

    async def use() -> None:
        async with closer.hold(lock, "a thing"):
            await asyncio.sleep(1)

    first, second, third = (asyncio.ensure_future(use()) for _ in range(3))
    await asyncio.sleep(0.5)
    second.cancel()
    await asyncio.wait({first, second, third})
    assert second.cancelled() and not third.cancelled() and not lock.locked()


async def test_a_wait_that_began_before_the_close_is_limited_by_it() -> None:
    session = FakeSession()
    session._activity = None
    session.activity.agent = SimpleNamespace()
    handing_over = asyncio.ensure_future(session._closer.step("toolsets", forever(), patient=True))
    await asyncio.sleep(100)
    session.activity.speak(forever)
    await session.aclose()
    await asyncio.sleep(1)
    assert handing_over.done()


# -- listening ------------------------------------------------------------------------------------------


class Recognition:
    """Speech recognition."""

    def __init__(self, *, turn: object = None) -> None:
        self._user_turn_span = turn
        self.committed = 0
        self.closed_at: float | None = None

    def _commit_user_turn(self, *, audio_detached: bool, transcript_timeout: float) -> None:
        self.committed += 1

    async def _aclose(self) -> None:
        self.closed_at = asyncio.get_running_loop().time()


async def test_listening_ends_beside_a_drain_that_takes_long() -> None:
    session = FakeSession()
    session.activity._audio_recognition = ears = Recognition()
    session.activity.speak(forever)
    began = asyncio.get_running_loop().time()
    await session.aclose()
    assert ears.closed_at == pytest.approx(began + GIVE_WAY)
    assert session.input.audio is None and not ears.committed


async def test_a_pending_turn_is_committed_first() -> None:
    session = FakeSession()
    session.activity._audio_recognition = ears = Recognition(turn=object())
    session.activity.speak(forever)
    await session.aclose()
    assert ears.committed == 1


async def test_only_a_pending_turn_is_worth_a_transcript() -> None:
    closer = FakeSession()._closer
    assert not closer.commits(Recognition())
    assert closer.commits(Recognition(turn=object()))
    assert closer.commits(SimpleNamespace(_user_turn_span=None, _audio_interim_transcript="so"))
    assert closer.commits(SimpleNamespace()), "when in doubt"


# -- small parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
async def test_the_allowance_is_checked(value: float) -> None:
    with pytest.raises(ValueError, match="forced_drain_timeout must be"):
        SessionCloser(None, close_event=SimpleNamespace, forced_drain_timeout=value)


async def test_cutting_off_spares_who_waits_for_the_close() -> None:
    activity = FakeSession().activity
    spared, other = activity.speak(forever), activity.speak(forever)
    tool = activity._tool_executor.run(forever)
    speech = Speech()
    for _ in range(2):
        cut_off(activity, [speech], {spared})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert other.cancelled() and tool.cancelled() and not spared.done()
    assert speech.done
    assert set(activity._drain_blocked_tasks) == {spared, other}
    spared.cancel()
    await asyncio.wait({spared})


def timeout_inside() -> Exception:
    error = ConnectionError("could not connect")
    error.__cause__ = asyncio.TimeoutError()
    return error


class APITimeoutError(Exception):
    """Named as in the package."""


@pytest.mark.parametrize(
    ("error", "lasted", "connected"),
    [
        (ConnectionError("dropped"), 9.0, False),
        (ConnectionError("dropped"), 10.1, True),
        (asyncio.TimeoutError(), 10.1, False),
        (APITimeoutError(), 10.1, False),
        (timeout_inside(), 10.1, False),
        (timeout_inside(), 61.0, True),
    ],
)
def test_having_outlived_the_timeout_proves_nothing_for_a_timeout(
    error: Exception, lasted: float, connected: bool
) -> None:
    assert had_connected(error, lasted=lasted, timeout=10.0) is connected


def test_causes_that_go_in_circles_end() -> None:
    one, two = ConnectionError(), ConnectionError()
    one.__cause__, two.__cause__ = two, one
    assert had_connected(one, lasted=11, timeout=10)


async def test_a_stream_ends_quietly_when_all_who_listen_through_it_close() -> None:
    stt = object()
    sessions = [FakeSession(), FakeSession()]
    for session in sessions:
        session.activity.stt = stt
        session.activity.speak(forever)
    stream = SimpleNamespace(_stt=stt)
    dropped, refused = SimpleNamespace(retryable=True), SimpleNamespace(retryable=False)
    assert not is_ending(stream, dropped)
    sessions[0].shutdown()
    assert not is_ending(stream, dropped), "the other session still listens"
    sessions[1].shutdown()
    assert is_ending(stream, dropped)
    assert not is_ending(stream, refused), "that one has to be told"
    for session in sessions:
        session.shutdown(drain=False)
    await asyncio.gather(*(session.aclose() for session in sessions))


async def test_a_stream_that_is_being_cancelled_does_not_connect_again() -> None:
    said: list[bool] = []
    stream = SimpleNamespace(_stt=object())

    async def run() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            said.append(is_ending(stream, SimpleNamespace(retryable=True)))

    task = asyncio.ensure_future(run())
    await asyncio.sleep(0)
    task.cancel()
    await task
    assert said == [sys.version_info >= (3, 11)]
