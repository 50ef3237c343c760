"""A session closes within a bound, once, whatever its agent, its models and its parts do.

The scenarios are played side by side, once; each test looks at one of them. With `CLOSE_RESULTS`
set, the times are written to that file.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from close_fakes import Ears, Speaker, Stubbornness, Voice, forever
from close_scenarios import SCENARIOS, Call, Helper, Result, run_all

from livekit.agents import APIConnectionError, APIConnectOptions, APITimeoutError
from livekit.agents.stt import SpeechEventType


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def results() -> dict[str, Result]:
    played = await run_all()
    Stubbornness.given_up = True
    _write(played)
    return {result.title: result for result in played}


def _write(played: list[Result]) -> None:
    if path := os.environ.get("CLOSE_RESULTS"):
        Path(path).write_text(json.dumps([asdict(result) for result in played], indent=1))


@pytest.mark.parametrize("title", SCENARIOS)
@pytest.mark.asyncio(loop_scope="module")
async def test_closes_when(title: str, results: dict[str, Result]) -> None:
    result = results[title]
    assert result.closed, f"{result.remark} ({result.seconds:.1f} s)"


# -- the option ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
async def test_the_allowance_must_be_a_number_of_seconds(value: float) -> None:
    with pytest.raises(ValueError, match="forced_drain_timeout"):
        await Call(5).start(forced_drain_timeout=value)


async def test_the_allowance_is_what_tools_get() -> None:
    call = Call(5)
    await call.start(forced_drain_timeout=0.5)
    await call.ask()
    call.hang_up()
    await asyncio.wait_for(call.until_closed(), 3)
    assert 0.4 < call.closes[0] - call.began < 1.5


async def test_a_tool_that_ends_within_the_allowance_is_not_cut_off() -> None:
    ended = []

    async def work() -> None:
        await asyncio.sleep(0.6)
        ended.append(True)

    call = Call(5)
    await call.start(Helper(call, tool=work))
    await call.ask()
    call.hang_up()
    await asyncio.wait_for(call.until_closed(), 3)
    assert ended


# -- graceful closes ------------------------------------------------------------------------------------


async def test_a_graceful_close_waits_longer_than_the_allowance() -> None:
    ended = []

    async def work() -> None:
        await asyncio.sleep(1)
        ended.append(True)

    call = Call(5)
    session = await call.start(Helper(call, tool=work), forced_drain_timeout=0.1)
    await call.ask()
    session.shutdown()
    await asyncio.wait_for(call.closed(), 5)
    assert ended


async def test_a_goodbye_that_plays_is_heard_to_its_end_although_somebody_waits() -> None:
    call = Call(5)
    session = await call.start(
        speaker=Speaker(pace=1), voice=Voice(seconds=1.5), forced_drain_timeout=0.4
    )
    speech = session.say("Goodbye.")
    session.shutdown()
    await asyncio.wait_for(session.aclose(), 6)
    assert not speech.interrupted
    assert [m.text_content for m in session.history.messages()] == ["Goodbye."]


async def test_a_drain_that_stands_still_is_cut_off_when_somebody_waits() -> None:
    call = Call(5)
    session = await call.start(speaker=Speaker(mute=True), forced_drain_timeout=0.4)
    session.say("Goodbye.")
    await asyncio.sleep(0.2)
    session.shutdown()
    await asyncio.wait_for(session.aclose(), 3)
    assert len(call.closes) == 1


async def test_the_limit_of_a_job_forces_a_graceful_close() -> None:
    call = Call(5)
    session: Any = await call.start(Helper(call, at_exit=forever))
    session.shutdown()
    await asyncio.sleep(0.1)
    await asyncio.wait_for(session._closer.force(), 2)
    assert len(call.closes) == 1


# -- ordinary closes ------------------------------------------------------------------------------------


async def test_a_close_with_nothing_pending_waits_for_no_transcript() -> None:
    call = Call(5)
    session = await call.start()
    await session.generate_reply(user_input="hello")
    call.hang_up()
    await asyncio.wait_for(call.until_closed(), 5)
    assert call.closes[0] - call.began < 0.5


async def test_a_last_sentence_is_in_the_history() -> None:
    call = Call(5)
    session = await call.start()
    call.ears.hear("one more thing")
    await asyncio.sleep(0.05)
    await asyncio.wait_for(session.aclose(), 5)
    assert "one more thing" in [m.text_content for m in session.history.messages()]


async def test_cancelling_who_waits_does_not_cancel_the_close() -> None:
    call = Call(5)
    session = await call.start(forced_drain_timeout=0.6)
    await call.ask()
    waiting = asyncio.ensure_future(session.aclose())
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.wait({waiting})
    await asyncio.wait_for(session.aclose(), 3)
    assert waiting.cancelled() and len(call.closes) == 1


# -- speech streams that retry --------------------------------------------------------------------------


class Flaky(Ears):
    """Ears whose every connection fails after a while."""

    def __init__(self, error: Exception, after: float) -> None:
        super().__init__()
        self._after, self._error = after, error

    def on_connected(self) -> None:
        super().on_connected()
        failure = self.failure
        asyncio.get_running_loop().call_later(self._after, failure.set_result, self._error)


async def _attempts(error: Exception, *, within: float) -> tuple[int, BaseException | None]:
    ears = Flaky(error, after=0.12)
    options = APIConnectOptions(max_retry=2, timeout=0.1, retry_interval=0.01)
    stream = ears.stream(conn_options=options)
    ended: BaseException | None = None
    try:
        await asyncio.wait_for(anext_event(stream), within)
    except asyncio.TimeoutError:
        pass
    except APIConnectionError as failure:
        ended = failure
    await stream.aclose()
    return ears.connected, ended


async def anext_event(stream: Any) -> SpeechEventType:
    async for event in stream:
        return event.type  # type: ignore[no-any-return]
    raise AssertionError("the stream ended without an error")


async def test_a_provider_that_never_answers_uses_up_the_retries() -> None:
    attempts, ended = await _attempts(APITimeoutError("no answer"), within=4)
    assert attempts == 3
    assert ended is not None


async def test_a_connection_that_is_dropped_later_does_not() -> None:
    attempts, ended = await _attempts(APIConnectionError("dropped"), within=2)
    assert attempts > 3
    assert ended is None
