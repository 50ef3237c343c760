"""Calls of an hour with a random fault every 20 to 90 seconds: every sentence is heard, once.

Two calls of five minutes run always; with ``GATEWAY_TESTS=full`` in the environment fifty of an
hour each.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable

import pytest
from gateway import GatewayEmulator, faults
from gateway.calls import Call, calling, emulated
from gateway.faults import Fault
from gateway.recognizers import TONE_WORDS

from livekit.agents import APIConnectOptions

FULL = os.environ.get("GATEWAY_TESTS") == "full"
SEEDS = range(50) if FULL else range(2)
LENGTH = 3600.0 if FULL else 300.0

_OPTIONS = APIConnectOptions(max_retry=6, retry_interval=0.5, timeout=5.0)

_BREAKS: list[Callable[[], Fault]] = [
    lambda: faults.drop("abort"),
    lambda: faults.drop("fin"),
    lambda: faults.drop(1000),
    lambda: faults.drop(1001),
    lambda: faults.drop(1011),
    lambda: faults.drop(1012),
    lambda: faults.drop(1013),
    lambda: faults.error(2007, then="close"),
    lambda: faults.error("2007"),
    lambda: faults.error(500),
    lambda: faults.error("overloaded", then="chatter"),
    lambda: faults.closed_early(),
    lambda: faults.malformed(),
    lambda: faults.malformed("null", times=5),
    lambda: faults.unknown_messages(),
    lambda: faults.huge_frame(),
    lambda: faults.half_open(),
    lambda: faults.stall_writes(),
    lambda: faults.stall_reads(),
]
_ON_DIAL: list[Callable[[], Fault]] = [
    lambda: faults.refuse(503),
    lambda: faults.refuse(429, retry_after=1.0),
    lambda: faults.slow_accept(1.0),
    lambda: faults.reset_upgrade(),
]


async def _cause_trouble(gateway: GatewayEmulator, dice: random.Random) -> None:
    """Break the running connection now and then, and sometimes the dial after it."""
    while True:
        await asyncio.sleep(dice.uniform(20.0, 90.0))
        if dice.random() < 0.4:
            gateway.inject("stt", dice.choice(_ON_DIAL)())
        gateway.strike("stt", dice.choice(_BREAKS)())


async def _talk(call: Call, dice: random.Random, length: float) -> list[str]:
    """Say sentences with pauses in between; returns them."""
    said = []
    while call.caller.spoken < length:
        words = [dice.choice(TONE_WORDS) for _ in range(dice.randint(2, 9))]
        said.append(" ".join(words))
        await call.caller.say(*words)
        pause = dice.choice((1.0, 3.0, 8.0, 20.0))
        await call.caller.be_quiet(pause * dice.uniform(0.8, 1.2))
    await call.caller.be_quiet(60.0)  # for what a dead connection swallowed
    return said


@pytest.mark.timeout(600 if FULL else 60)
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_sentence_of_a_long_call_is_heard_once(seed: int) -> None:
    dice = random.Random(seed)
    async with emulated(keep_audio=False) as (gateway, session):
        async with calling(gateway, session, conn_options=_OPTIONS, frame=0.1) as call:
            trouble = asyncio.ensure_future(_cause_trouble(gateway, dice))
            said = await _talk(call, dice, LENGTH)
            trouble.cancel()
            assert not call.heard.ended, call.heard.failure
            held = call.stream._replay_buffer
            assert held._waiting.duration + held._taken.duration <= 51.0, "memory stays flat"
            await call.stream.aclose()
            await gateway.until_closed(5.5)
        heard = call.heard
    assert Counter(heard.finals) == Counter(said)
    assert heard.finals == said, "in the order in which they were said"
    assert all(error.recoverable for error in heard.errors)
    times = [time for pair in heard.times for time in pair]
    assert times == sorted(times)
    assert len(gateway.of("stt")) > LENGTH / 90 / 3, "there was trouble"
