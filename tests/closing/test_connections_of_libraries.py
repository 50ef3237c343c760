"""A plugin that dials with a library of its own leaves no connection behind either."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from livekit.agents import stt, tts
from livekit.agents.types import DEFAULT_API_CONNECT_OPTIONS

pytestmark = pytest.mark.real_time


class Listener:
    """A provider that never says goodbye, and counts who is connected."""

    def __init__(self) -> None:
        self.open = 0
        self.port = 0
        self.changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.changed.set()
        try:
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass
        self.open -= 1
        self.changed.set()
        writer.close()

    async def __aenter__(self) -> Listener:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def until(self, number: int) -> None:
        async def wait() -> None:
            while self.open != number:
                self.changed.clear()
                await self.changed.wait()

        await asyncio.wait_for(wait(), 5)


class Client(asyncio.Protocol):
    """Of a library: it is kept alive by the loop, and closes when it is told to."""

    transport: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    async def close(self) -> None:
        await asyncio.sleep(3600)  # for the goodbye of the other end
        self.transport.close()


async def talk(port: int) -> None:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", port)
    try:
        await asyncio.sleep(3600)
    finally:
        await client.close()


class Hearing(stt.STT):
    def __init__(self, port: int) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=True))
        self.port = port

    async def _recognize_impl(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def stream(self, **_: Any) -> stt.RecognizeStream:
        return Stream(stt=self, conn_options=DEFAULT_API_CONNECT_OPTIONS)


class Stream(stt.RecognizeStream):
    async def _run(self) -> None:
        await talk(self._stt.port)  # type: ignore[attr-defined]


class Voice(tts.TTS):
    def __init__(self, port: int) -> None:
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=True), sample_rate=24000, num_channels=1
        )
        self.port = port

    def synthesize(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    def stream(self, **_: Any) -> tts.SynthesizeStream:
        return Synthesis(tts=self, conn_options=DEFAULT_API_CONNECT_OPTIONS)


class Synthesis(tts.SynthesizeStream):
    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        await talk(self._tts.port)  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [Hearing, Voice])
async def test_a_goodbye_that_never_comes_leaves_no_connection(make: Any) -> None:
    async with Listener() as provider:
        model = make(provider.port)
        stream = model.stream()
        if make is Voice:
            stream.push_text("good morning")
        await provider.until(1)
        loop = asyncio.get_running_loop()
        _, other = await loop.create_connection(Client, "127.0.0.1", provider.port)
        await provider.until(2)
        await stream.aclose()
        await provider.until(1)
        assert not other.transport.is_closing()  # it is somebody else's
        other.transport.abort()
        await provider.until(0)
