"""StreamBuffer: what a decoding thread reads from."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings, strategies as st

from livekit.agents.utils.codecs import StreamBuffer


def read_all(buffer: StreamBuffer, size: int) -> bytes:
    out = b""
    while chunk := buffer.read(size):
        out += chunk
    return out


def test_read_returns_what_there_is_up_to_the_asked_size() -> None:
    buffer = StreamBuffer()
    buffer.write(b"abcdef")

    assert buffer.read(4) == b"abcd"
    assert buffer.read(4) == b"ef"


def test_read_without_a_size_returns_everything_there_is() -> None:
    buffer = StreamBuffer()
    buffer.write(b"abc")
    buffer.write(b"def")

    assert buffer.read() == b"abcdef"


def test_end_of_input_comes_after_what_is_buffered() -> None:
    buffer = StreamBuffer()
    buffer.write(b"ab")
    buffer.end_input()
    buffer.write(b"dropped")

    assert buffer.read() == b"ab"
    assert buffer.read() == b""


def test_close_drops_what_is_buffered() -> None:
    buffer = StreamBuffer()
    buffer.write(b"ab")
    buffer.close()

    assert buffer.read() == b""


def test_a_blocked_reader_is_woken_by_data_and_by_the_end() -> None:
    starving = threading.Semaphore(0)
    buffer = StreamBuffer(on_starving=starving.release)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(buffer.read)
        starving.acquire()
        buffer.write(b"x")
        assert first.result(5) == b"x"

        second = pool.submit(buffer.read)
        starving.acquire()
        buffer.close()
        assert second.result(5) == b""


@settings(max_examples=30)
@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 17))
def test_bytes_cross_the_threads_in_order(pieces: list[bytes], size: int) -> None:
    buffer = StreamBuffer()
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read_all, buffer, size)
        for piece in pieces:
            buffer.write(piece)
        buffer.end_input()

        assert reader.result(5) == b"".join(pieces)
