from __future__ import annotations

import asyncio
from collections import deque

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from virtual_time import VirtualTimeLoop

from livekit.agents.utils.aio import (
    Chan,
    ChanClosed,
    ChanEmpty,
    ChanFull,
    ChanReceiver,
    ChanSender,
    TaskScope,
    cancel_and_wait,
)
from livekit.agents.utils.aio.channel import ChanClosed as ChanClosedByPath


def test_a_channel_can_be_made_without_an_event_loop() -> None:
    chan = Chan[int](maxsize=1)
    chan.send_nowait(1)
    assert chan.full() and not chan.empty() and chan.qsize() == 1
    assert chan.recv_nowait() == 1
    chan.close()
    assert chan.closed


def test_it_is_sender_and_receiver() -> None:
    chan = Chan[int]()
    sender: ChanSender[int] = chan
    receiver: ChanReceiver[int] = chan
    sender.send_nowait(1)
    assert receiver.recv_nowait() == 1
    assert ChanClosedByPath is ChanClosed


@pytest.mark.parametrize("maxsize", [0, -1])
def test_without_a_size_it_is_never_full(maxsize: int) -> None:
    chan = Chan[int](maxsize)
    for item in range(1000):
        chan.send_nowait(item)
    assert not chan.full()


def test_nowait_says_why_not() -> None:
    chan = Chan[int](maxsize=1)
    with pytest.raises(ChanEmpty):
        chan.recv_nowait()
    chan.send_nowait(1)
    with pytest.raises(ChanFull):
        chan.send_nowait(2)
    chan.close()
    with pytest.raises(ChanClosed):
        chan.send_nowait(2)
    assert chan.recv_nowait() == 1
    with pytest.raises(ChanClosed):
        chan.recv_nowait()


async def test_what_was_sent_can_be_received_after_the_close() -> None:
    chan = Chan[int]()
    for item in (1, 2, 3):
        await chan.send(item)
    chan.close()
    chan.close()
    with pytest.raises(ChanClosed):
        await chan.send(4)
    assert [item async for item in chan] == [1, 2, 3]
    with pytest.raises(ChanClosed):
        await chan.recv()


async def test_close_wakes_senders_and_receivers() -> None:
    full, empty = Chan[int](maxsize=1), Chan[int]()
    full.send_nowait(1)
    waiting = [asyncio.ensure_future(full.send(2)), asyncio.ensure_future(empty.recv())]
    await asyncio.sleep(1.0)
    full.close()
    empty.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ChanClosed, ChanClosed]
    assert full.recv_nowait() == 1  # the second item was not taken


async def test_close_gives_the_last_items_to_those_who_wait() -> None:
    chan = Chan[int]()
    receivers = [asyncio.ensure_future(chan.recv()) for _ in range(3)]
    await asyncio.sleep(0)
    chan.send_nowait(1)
    chan.send_nowait(2)
    chan.close()
    outcomes = await asyncio.gather(*receivers, return_exceptions=True)
    assert outcomes[:2] == [1, 2] and isinstance(outcomes[2], ChanClosed)


async def test_a_full_channel_holds_the_sender_back() -> None:
    chan = Chan[int](maxsize=2)
    sent: list[int] = []

    async def send_all() -> None:
        for item in range(5):
            await chan.send(item)
            sent.append(item)

    task = TaskScope("tests").spawn(send_all())
    await asyncio.sleep(1.0)
    assert sent == [0, 1]
    assert [await chan.recv() for _ in range(5)] == list(range(5))
    await task


async def test_a_sender_that_was_woken_too_late_keeps_its_place() -> None:
    chan = Chan[str](maxsize=1)
    chan.send_nowait("first")
    waiting = [asyncio.ensure_future(chan.send(item)) for item in ("second", "third")]
    await asyncio.sleep(0)
    chan.recv_nowait()
    chan.send_nowait("barged in")  # before the woken sender runs
    received = [await chan.recv() for _ in range(3)]
    assert received == ["barged in", "second", "third"]
    await asyncio.gather(*waiting)


async def test_a_receiver_cancelled_together_with_its_wake_up_passes_it_on() -> None:
    chan = Chan[int]()
    first, second = asyncio.ensure_future(chan.recv()), asyncio.ensure_future(chan.recv())
    await asyncio.sleep(0)
    chan.send_nowait(1)
    await cancel_and_wait(first)
    assert await asyncio.wait_for(second, 1.0) == 1


async def test_a_sender_cancelled_together_with_its_wake_up_passes_it_on() -> None:
    chan = Chan[int](maxsize=1)
    chan.send_nowait(0)
    first, second = asyncio.ensure_future(chan.send(1)), asyncio.ensure_future(chan.send(2))
    await asyncio.sleep(0)
    assert chan.recv_nowait() == 0
    await cancel_and_wait(first)
    await asyncio.wait_for(second, 1.0)
    assert chan.recv_nowait() == 2


async def test_waits_that_time_out_leave_nothing_behind() -> None:
    chan = Chan[int]()
    for _ in range(100):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(chan.recv(), 0.02)
    assert not chan._receivers
    chan.send_nowait(1)
    assert await chan.recv() == 1


@settings(max_examples=50)
@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 30))
async def test_each_item_reaches_one_receiver(
    maxsize: int, senders: int, receivers: int, count: int
) -> None:
    chan = Chan[tuple[int, int]](maxsize)
    received: list[tuple[int, int]] = []

    async def send(sender: int) -> None:
        for number in range(count):
            await chan.send((sender, number))

    async def receive() -> None:
        async for item in chan:
            received.append(item)

    readers = [asyncio.ensure_future(receive()) for _ in range(receivers)]
    await asyncio.gather(*(send(sender) for sender in range(senders)))
    chan.close()
    await asyncio.gather(*readers)
    assert sorted(received) == [(s, n) for s in range(senders) for n in range(count)]
    for sender in range(senders):  # first in, first out
        assert [n for s, n in received if s == sender] == list(range(count))


class ChannelMachine(RuleBasedStateMachine):
    """Senders and receivers that come, wait, are cancelled and woken in any order.

    The model knows what was sent and received; the loop is turned by hand, one step at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.chan = Chan[int](maxsize=2)
        self.next_item = 0
        self.sent: deque[int] = deque()
        self.receivers: list[asyncio.Task[int]] = []
        self.senders: list[tuple[int, asyncio.Task[None]]] = []
        self.received: list[int] = []

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for task in self.waiting():
                task.cancel()
            self.turn(20)
            self.loop.close()

    def waiting(self) -> list[asyncio.Task[None] | asyncio.Task[int]]:
        return [*self.receivers, *(task for _, task in self.senders)]

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def item(self) -> int:
        self.next_item += 1
        return self.next_item

    @rule()
    def turn_once(self) -> None:
        self.turn()

    @rule()
    def send_nowait(self) -> None:
        try:
            self.chan.send_nowait(item := self.item())
        except (ChanFull, ChanClosed):
            return
        self.sent.append(item)

    @rule()
    def recv_nowait(self) -> None:
        try:
            self.received.append(self.chan.recv_nowait())
        except (ChanEmpty, ChanClosed):
            assert self.chan.empty()

    @rule()
    def start_sender(self) -> None:
        item = self.item()
        self.senders.append((item, self.loop.create_task(self.chan.send(item))))

    @rule()
    def start_receiver(self) -> None:
        async def receive() -> int:
            item = await self.chan.recv()
            self.received.append(item)
            return item

        self.receivers.append(self.loop.create_task(receive()))

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def cancel_someone(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting())).cancel()

    @precondition(lambda self: any(not task.done() for task in self.waiting()))
    @rule()
    def wake_and_cancel_the_first(self) -> None:
        """The nasty case: both happen before the one who waits runs again."""
        first = next(task for task in self.waiting() if not task.done())
        self.turn(2)
        if first in self.receivers:
            self.send_nowait()
        else:
            self.recv_nowait()
        first.cancel()

    @precondition(lambda self: not self.chan.closed)
    @rule()
    def close(self) -> None:
        self.chan.close()

    @rule()
    def settle(self) -> None:
        """After enough turns nobody waits who could go on."""
        self.turn(30)
        receiving = [task for task in self.receivers if not task.done()]
        sending = [task for _, task in self.senders if not task.done()]
        if self.chan.closed:
            assert not receiving and not sending
        assert not (receiving and not self.chan.empty())
        assert not (sending and not self.chan.full())
        assert len(self.chan._receivers) == len(receiving)
        assert len(self.chan._senders) == len(sending)
        for item, task in self.senders:
            if task.done() and not task.cancelled() and task.exception() is None:
                self.sent.append(item)
        for task in self.receivers:
            if task.done() and not task.cancelled() and task.exception() is not None:
                assert isinstance(task.exception(), ChanClosed) and self.chan.closed
        self.senders = [(item, task) for item, task in self.senders if not task.done()]
        self.receivers = receiving
        # nothing lost, nothing doubled, nothing invented
        assert sorted(self.received + list(self.chan._items)) == sorted(self.sent)

    @invariant()
    def never_more_than_its_size(self) -> None:
        assert self.chan.qsize() <= 2


TestChannelMachine = ChannelMachine.TestCase
TestChannelMachine.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
