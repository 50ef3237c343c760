from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from livekit.agents._exceptions import APIConnectionError
from livekit.agents.utils import ConnectionPool
from livekit.agents.utils.aio import TaskScope, abandoned


def loop_time() -> float:
    return asyncio.get_running_loop().time()


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Connection:
    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False
        self.closed_at: float | None = None


class Peer:
    """A server that counts handshakes and closes; both can be slow, refuse, or hang."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.timeouts: list[float] = []
        self.handshake = 0.0
        self.goodbye = 0.0
        self.error: Exception | None = None

    async def connect(self, timeout: float) -> Connection:
        self.timeouts.append(timeout)
        await asyncio.sleep(self.handshake)
        if self.error is not None:
            raise self.error
        self.connections.append(Connection(len(self.connections)))
        return self.connections[-1]

    async def close(self, connection: Connection) -> None:
        assert not connection.closed, "closed twice"
        connection.closed = True
        await asyncio.sleep(self.goodbye)
        connection.closed_at = loop_time()

    @property
    def open(self) -> list[int]:
        return [c.number for c in self.connections if not c.closed]

    def pool(self, **options: float) -> ConnectionPool[Connection]:
        return ConnectionPool[Connection](
            connect_cb=self.connect,
            close_cb=self.close,
            **options,  # type: ignore[arg-type]
        )


@asynccontextmanager
async def a_pool(peer: Peer, **options: float) -> AsyncIterator[ConnectionPool[Connection]]:
    pool = peer.pool(**options)
    yield pool
    await pool.aclose()
    assert peer.open == []


async def test_a_returned_connection_is_used_again() -> None:
    peer = Peer()
    peer.handshake = 0.3
    async with a_pool(peer) as pool:
        async with pool.connection(timeout=5.0) as first:
            assert pool.last_acquire_time == pytest.approx(0.3)
            assert not pool.last_connection_reused
        async with pool.connection(timeout=5.0) as second:
            assert second is first
            assert pool.last_acquire_time == 0.0
            assert pool.last_connection_reused
        assert peer.timeouts == [5.0]


async def test_concurrent_users_get_connections_of_their_own_side_by_side() -> None:
    peer = Peer()
    peer.handshake = 1.0
    async with a_pool(peer) as pool:
        began = loop_time()
        first, second = await asyncio.gather(pool.get(timeout=5.0), pool.get(timeout=5.0))
        assert first is not second
        assert loop_time() - began == 1.0
        pool.put(first)
        pool.put(second)


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
async def test_any_error_in_the_block_discards_the_connection(error: type[BaseException]) -> None:
    peer = Peer()
    async with a_pool(peer) as pool:
        with pytest.raises(error):
            async with pool.connection(timeout=5.0):
                raise error
        await turns()
        assert peer.open == []  # closed at once, not at the next use


async def test_an_old_connection_is_not_used_again() -> None:
    peer = Peer()
    async with a_pool(peer, max_session_duration=60.0) as pool:
        pool.put(await pool.get(timeout=5.0))
        await asyncio.sleep(60.0)
        pool.put(await pool.get(timeout=5.0))
        assert pool.last_connection_reused
        await asyncio.sleep(0.1)
        pool.put(await pool.get(timeout=5.0))
        assert not pool.last_connection_reused
        await turns()
        assert peer.open == [1]


async def test_use_can_count_as_renewal() -> None:
    peer = Peer()
    async with a_pool(peer, max_session_duration=60.0, mark_refreshed_on_get=True) as pool:
        for _ in range(5):
            pool.put(await pool.get(timeout=5.0))
            await asyncio.sleep(50.0)
        assert len(peer.connections) == 1
        await asyncio.sleep(10.1)
        pool.put(await pool.get(timeout=5.0))
        assert len(peer.connections) == 2


async def test_a_connection_the_server_closed_is_not_handed_out() -> None:
    peer = Peer()
    pool = ConnectionPool[Connection](connect_cb=peer.connect)
    first = await pool.get(timeout=5.0)
    pool.put(first)
    first.closed = True
    assert await pool.get(timeout=5.0) is not first
    await pool.aclose()


async def test_a_dead_peer_does_not_delay_the_next_use(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()
    peer.goodbye = 1e6
    pool = peer.pool()
    pool.remove(await pool.get(timeout=5.0))
    began = loop_time()
    pool.put(await pool.get(timeout=5.0))
    assert loop_time() == began
    await pool.aclose()
    assert "did not close" in caplog.text


async def test_a_failing_close_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(connection: Connection) -> None:
        raise OSError("already gone")

    pool = ConnectionPool[Connection](connect_cb=Peer().connect, close_cb=refuse)
    pool.remove(await pool.get(timeout=5.0))
    await pool.aclose()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_unknown_connections_are_ignored() -> None:
    peer = Peer()
    async with a_pool(peer) as pool:
        stranger = Connection(99)
        pool.put(stranger)
        pool.remove(stranger)
        connection = await pool.get(timeout=5.0)
        pool.remove(connection)
        pool.remove(connection)
        pool.put(connection)
        assert await pool.get(timeout=5.0) is not connection
        assert not stranger.closed


async def test_without_connect_cb_there_is_nothing_to_get() -> None:
    pool: ConnectionPool[Connection] = ConnectionPool()
    with pytest.raises(NotImplementedError, match="connect_cb"):
        await pool.get(timeout=5.0)


async def test_errors_of_the_handshake_reach_the_user(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()
    peer.error = OSError("refused")
    async with a_pool(peer) as pool:
        with pytest.raises(OSError, match="refused"):
            await pool.get(timeout=5.0)
    assert not caplog.records


# --- invalidate


async def test_invalidate_closes_the_idle_and_retires_the_used() -> None:
    peer = Peer()
    async with a_pool(peer) as pool:
        used = await pool.get(timeout=5.0)
        idle = await pool.get(timeout=5.0)
        pool.put(idle)
        pool.invalidate()
        await turns()
        assert idle.closed and not used.closed
        pool.put(used)
        await turns()
        assert used.closed
        assert (await pool.get(timeout=5.0)).number == 2


async def test_a_handshake_overtaken_by_invalidate_is_repeated() -> None:
    peer = Peer()
    peer.handshake = 1.0
    async with a_pool(peer) as pool:
        getting = TaskScope("tests").spawn(pool.get(timeout=5.0))
        await asyncio.sleep(0.5)
        pool.invalidate()
        assert (await getting).number == 1
        assert peer.timeouts == [5.0, 4.0]
        await turns()
        assert peer.open == [1]


async def test_a_handshake_that_is_always_overtaken_ends_in_time() -> None:
    peer = Peer()
    peer.handshake = 1.0
    async with a_pool(peer) as pool:
        getting = TaskScope("tests").spawn(pool.get(timeout=2.5), log_errors=False)
        for _ in range(3):
            await asyncio.sleep(0.5)
            pool.invalidate()
            await asyncio.sleep(0.5)
        with pytest.raises(asyncio.TimeoutError):
            await getting


def test_options_may_change_before_there_is_an_event_loop() -> None:
    Peer().pool().invalidate()


async def _one_idle(pool: ConnectionPool[Connection]) -> None:
    pool.put(await pool.get(timeout=5.0))


def test_a_connection_given_up_between_two_loops_is_closed_by_the_next_close() -> None:
    peer = Peer()
    pool = peer.pool()
    asyncio.run(_one_idle(pool))
    pool.invalidate()
    assert peer.open == [0]
    asyncio.run(pool.aclose())
    assert peer.open == []


# --- prewarm


async def test_a_prewarmed_connection_is_there_at_first_use() -> None:
    peer = Peer()
    peer.handshake = 1.0
    async with a_pool(peer, connect_timeout=7.0) as pool:
        pool.prewarm()
        pool.prewarm()
        await asyncio.sleep(1.5)
        pool.prewarm()
        pool.put(await pool.get(timeout=5.0))
        assert pool.last_connection_reused
        assert peer.timeouts == [7.0]


async def test_a_user_waits_for_the_prewarm_in_progress() -> None:
    peer = Peer()
    peer.handshake = 1.0
    async with a_pool(peer) as pool:
        pool.prewarm()
        await asyncio.sleep(0.6)
        began = loop_time()
        await pool.get(timeout=5.0)
        assert loop_time() - began == pytest.approx(0.4)
        assert len(peer.connections) == 1


async def test_a_user_connects_when_the_prewarm_fails(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()
    peer.handshake = 1.0
    peer.error = OSError("wss://user:secret@host refused")
    async with a_pool(peer) as pool:
        pool.prewarm()
        getting = TaskScope("tests").spawn(pool.get(timeout=5.0))
        await asyncio.sleep(1.5)
        peer.error = None
        assert (await getting).number == 0
    (record,) = caplog.records
    assert record.getMessage() == "failed to prewarm connection pool"
    assert record.exception_type == "OSError"  # type: ignore[attr-defined]
    assert "secret" not in caplog.text


async def test_the_wait_for_a_prewarm_counts_against_the_timeout() -> None:
    peer = Peer()
    peer.handshake = 8.0
    async with a_pool(peer) as pool:
        pool.prewarm()
        began = loop_time()
        with pytest.raises(asyncio.TimeoutError):
            await pool.get(timeout=2.0)
        assert loop_time() - began == 2.0


# --- bounds and lost handshakes


async def test_a_handshake_that_hangs_ends_with_the_timeout() -> None:
    peer = Peer()
    peer.handshake = 1e6
    async with a_pool(peer) as pool:
        began = loop_time()
        with pytest.raises(asyncio.TimeoutError):
            await pool.get(timeout=3.0)
        assert loop_time() - began == 3.0


class Uncancellable(Peer):
    """Its handshakes finish whatever is asked of them."""

    async def connect(self, timeout: float) -> Connection:
        done = loop_time() + self.handshake
        while loop_time() < done:
            try:
                await asyncio.sleep(done - loop_time())
            except asyncio.CancelledError:
                pass
        self.connections.append(Connection(len(self.connections)))
        return self.connections[-1]


async def test_a_connection_that_comes_too_late_is_closed() -> None:
    peer = Uncancellable()
    peer.handshake = 5.0
    pool = peer.pool()
    with pytest.raises(asyncio.TimeoutError):
        await pool.get(timeout=3.0)
    await asyncio.sleep(2.5)
    assert len(peer.connections) == 1 and peer.open == []
    await pool.aclose()


async def test_a_cancelled_user_loses_no_connection() -> None:
    peer = Uncancellable()
    peer.handshake = 1.0
    pool = peer.pool()
    getting = TaskScope("tests").spawn(pool.get(timeout=5.0))
    await asyncio.sleep(0.5)
    getting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getting
    await asyncio.sleep(1.0)
    assert len(peer.connections) == 1 and peer.open == []
    await pool.aclose()


# --- aclose


async def test_aclose_closes_everything_side_by_side_and_in_time() -> None:
    peer = Peer()
    pool = peer.pool()
    connections = [await pool.get(timeout=5.0) for _ in range(5)]
    for connection in connections[:3]:
        pool.put(connection)
    peer.goodbye = 0.7
    began = loop_time()
    await pool.aclose()
    assert loop_time() - began == pytest.approx(0.7)
    assert all(connection.closed_at is not None for connection in connections)
    pool.put(connections[4])  # returned late: it has been closed, and that once
    await pool.aclose()


@pytest.mark.parametrize("count", [1, 10])
async def test_aclose_is_bounded_with_peers_that_never_answer(count: int) -> None:
    peer = Peer()
    peer.goodbye = 1e6
    pool = peer.pool()
    for connection in [await pool.get(timeout=5.0) for _ in range(count)]:
        pool.put(connection)
    began = loop_time()
    await pool.aclose()
    assert loop_time() - began <= 2.0
    assert peer.open == []


async def test_a_handshake_in_flight_ends_with_aclose() -> None:
    peer = Peer()
    peer.handshake = 5.0
    pool = peer.pool()
    getting = TaskScope("tests").spawn(pool.get(timeout=10.0), log_errors=False)
    await asyncio.sleep(1.0)
    await pool.aclose()
    with pytest.raises(APIConnectionError, match="closed"):
        await getting
    await asyncio.sleep(10.0)
    assert peer.connections == [] and len(peer.timeouts) == 1


@pytest.mark.parametrize("steps", range(1, 8))
async def test_no_connection_outlives_an_aclose_at_the_end_of_the_handshake(steps: int) -> None:
    peer = Peer()
    pool = peer.pool()
    getting = TaskScope("tests").spawn(pool.get(timeout=10.0), log_errors=False)
    await turns(steps)
    await pool.aclose()
    await turns()
    assert getting.done()
    assert peer.open == []


@pytest.mark.parametrize("steps", range(8))
async def test_no_prewarmed_connection_outlives_an_aclose(
    steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    peer = Peer()
    pool = peer.pool()
    pool.prewarm()
    await turns(steps)
    await pool.aclose()
    await turns()
    assert peer.open == []
    assert not caplog.records


async def test_a_handshake_that_ignores_aclose_is_closed_when_it_succeeds() -> None:
    peer = Uncancellable()
    peer.handshake = 5.0
    pool = peer.pool()
    getting = TaskScope("tests").spawn(pool.get(timeout=10.0), log_errors=False)
    await asyncio.sleep(1.0)
    began = loop_time()
    await pool.aclose()
    assert loop_time() - began <= 2.0
    await asyncio.sleep(0)
    with pytest.raises(APIConnectionError):
        await asyncio.wait_for(getting, 10.0)
    await asyncio.sleep(10.0)
    gc.collect()
    assert len(peer.connections) == 1 and peer.open == []
    assert not abandoned()


async def test_a_later_use_opens_the_pool_again() -> None:
    peer = Peer()
    async with a_pool(peer) as pool:
        pool.put(await pool.get(timeout=5.0))
        await pool.aclose()
        connection = await pool.get(timeout=5.0)
        assert connection.number == 1 and not connection.closed
        pool.put(connection)
        pool.prewarm()


async def test_a_cancelled_aclose_goes_on_in_the_background() -> None:
    peer = Peer()
    pool = peer.pool()
    pool.put(await pool.get(timeout=5.0))
    peer.goodbye = 0.5
    closing = TaskScope("tests").spawn(pool.aclose())
    await asyncio.sleep(0.1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await asyncio.sleep(0.5)
    assert peer.connections[0].closed_at is not None
