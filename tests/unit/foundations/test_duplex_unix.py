from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings, strategies as st

from livekit.agents.utils.aio.duplex_unix import DuplexClosed, _AsyncDuplex, _Duplex


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    yield left, right
    left.close()
    right.close()


Pair = tuple[socket.socket, socket.socket]


async def test_messages_travel_both_ways(pair: Pair) -> None:
    left, right = await _AsyncDuplex.open(pair[0]), await _AsyncDuplex.open(pair[1])
    await left.send_bytes(b"ping")
    assert await right.recv_bytes() == b"ping"
    await right.send_bytes(b"")
    assert await left.recv_bytes() == b""
    await left.aclose()
    await right.aclose()


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=300)))
async def test_boundaries_are_kept(messages: list[bytes]) -> None:
    ends = socket.socketpair()
    left, right = await _AsyncDuplex.open(ends[0]), await _AsyncDuplex.open(ends[1])
    for message in messages:
        await left.send_bytes(message)
    assert [await right.recv_bytes() for _ in messages] == messages
    await left.aclose()
    await right.aclose()


async def test_a_message_longer_than_the_buffers(pair: Pair) -> None:
    left, right = await _AsyncDuplex.open(pair[0]), await _AsyncDuplex.open(pair[1])
    message = bytes(range(256)) * 20_000
    received, _ = await asyncio.gather(right.recv_bytes(), left.send_bytes(message))
    assert received == message
    await left.aclose()
    await right.aclose()


def test_the_format_is_a_length_and_the_content(pair: Pair) -> None:
    duplex = _Duplex.open(pair[0])
    duplex.send_bytes(b"abc")
    assert pair[1].recv(100) == b"\x00\x00\x00\x03abc"


def test_threads_and_loops_understand_each_other(pair: Pair) -> None:
    async def echo() -> None:
        duplex = await _AsyncDuplex.open(pair[0])
        await duplex.send_bytes(await duplex.recv_bytes())
        await duplex.aclose()

    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(asyncio.run, echo())
        duplex = _Duplex.open(pair[1])
        message = b"x" * 1_000_000
        duplex.send_bytes(message)
        assert duplex.recv_bytes() == message
        with pytest.raises(DuplexClosed):
            duplex.recv_bytes()
        done.result()
    duplex.close()
    duplex.close()


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", b"\x00\x00\x00\x08half"])
async def test_an_end_in_the_middle_of_a_message_is_an_end(pair: Pair, sent: bytes) -> None:
    duplex = await _AsyncDuplex.open(pair[0])
    pair[1].sendall(sent)
    pair[1].close()
    with pytest.raises(DuplexClosed):
        await duplex.recv_bytes()
    await duplex.aclose()


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", b"\x00\x00\x00\x08half"])
def test_an_end_in_the_middle_of_a_message_is_an_end_for_threads(pair: Pair, sent: bytes) -> None:
    duplex = _Duplex.open(pair[0])
    pair[1].sendall(sent)
    pair[1].close()
    with pytest.raises(DuplexClosed):
        duplex.recv_bytes()


async def test_sending_into_a_closed_connection(pair: Pair) -> None:
    duplex = await _AsyncDuplex.open(pair[0])
    pair[1].close()
    with pytest.raises(DuplexClosed):
        await duplex.send_bytes(b"x" * 1_000_000)
    await duplex.aclose()
    with pytest.raises(DuplexClosed):
        await duplex.send_bytes(b"x")


def test_sending_into_a_closed_connection_from_a_thread(pair: Pair) -> None:
    duplex = _Duplex.open(pair[0])
    pair[1].close()
    with pytest.raises(DuplexClosed):
        duplex.send_bytes(b"x")
    duplex.close()
    with pytest.raises(DuplexClosed):
        duplex.send_bytes(b"x")


async def test_a_peer_that_does_not_read_cannot_hold_up_the_close(pair: Pair) -> None:
    duplex = await _AsyncDuplex.open(pair[0])
    sending = asyncio.ensure_future(duplex.send_bytes(b"x" * 10_000_000))
    await asyncio.sleep(0)
    began = asyncio.get_running_loop().time()
    await duplex.aclose()
    assert asyncio.get_running_loop().time() - began <= 1.0
    with pytest.raises(DuplexClosed):
        await sending


async def test_a_detached_socket_stays_connected(pair: Pair) -> None:
    duplex = await _AsyncDuplex.open(pair[0])
    await duplex.send_bytes(b"one")
    handed_over = duplex.detach()
    await asyncio.sleep(0)
    other = _Duplex.open(pair[1])
    assert other.recv_bytes() == b"one"
    again = await _AsyncDuplex.open(handed_over)
    await again.send_bytes(b"two")
    assert other.recv_bytes() == b"two"
    await again.aclose()


def test_a_detached_socket_stays_connected_for_threads(pair: Pair) -> None:
    duplex = _Duplex.open(pair[0])
    handed_over = duplex.detach()
    duplex.close()
    with pytest.raises(DuplexClosed):
        duplex.detach()
    _Duplex.open(handed_over).send_bytes(b"still here")
    assert _Duplex.open(pair[1]).recv_bytes() == b"still here"
