from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from livekit.agents.utils.http_server import HttpServer


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


async def test_it_serves_on_a_free_port() -> None:
    server = HttpServer("127.0.0.1", 0)
    server.app.router.add_get("/", hello)
    await server.start()
    assert server.port != 0 and server.host == "127.0.0.1"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{server.port}/") as response:
            assert await response.text() == "hello"
    with pytest.raises(RuntimeError, match="already listening"):
        await server.start()
    await server.aclose()
    await server.aclose()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_port_in_use_is_an_error_and_leaves_nothing_behind() -> None:
    first = HttpServer("127.0.0.1", 0)
    await first.start()
    second = HttpServer("127.0.0.1", first.port)
    with pytest.raises(OSError):
        await second.start()
    await second.aclose()
    await first.aclose()


async def test_an_open_request_cannot_hold_up_the_close() -> None:
    async def stubborn(request: web.Request) -> web.Response:
        for _ in range(3):
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                pass
        return web.Response()

    server = HttpServer("127.0.0.1", 0)
    server.app.router.add_get("/", stubborn)
    await server.start()
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.sleep(0.1)
    began = asyncio.get_running_loop().time()
    await server.aclose()
    assert asyncio.get_running_loop().time() - began <= 2.0
    writer.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        while not task.done():  # the stubborn handler and those who wait for it
            task.cancel()
            await asyncio.sleep(0)
