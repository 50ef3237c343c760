"""The default nodes: what an agent does with audio and text unless it overrides them.

Each is an async generator that owns what it opens. Closing the generator closes the stream.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..utils.aio import TaskScope

if TYPE_CHECKING:
    from livekit import rtc

    from .. import llm as llm_module, stt as stt_module, tts as tts_module
    from ..types import TimedString
    from .agent import Agent, ModelSettings
    from .agent_activity import AgentActivity

_PUMP_GRACE = 0.25
"""Seconds a cancelled forwarder may take; it only moves items between two queues."""


@asynccontextmanager
async def _forwarding(owner: str, pump: Any) -> AsyncGenerator[None, None]:
    """Run `pump` beside the block, and end it with the block."""
    scope = TaskScope(owner)
    scope.spawn(pump, name=f"{owner}: forward input")
    try:
        yield
    finally:
        await scope.cancel(_PUMP_GRACE)


class DefaultNodes:
    """The nodes of the plain pipeline, as static async generators taking the agent first."""

    @staticmethod
    async def stt_node(
        agent: Agent, audio: AsyncIterable[rtc.AudioFrame], model_settings: ModelSettings
    ) -> AsyncGenerator[stt_module.SpeechEvent, None]:
        """Transcribe `audio` with the activity's STT.

        Raises:
            RuntimeError: If there is no STT, or it does not stream and there is no VAD.
        """
        activity = agent._get_activity_or_raise()
        model, adapter = _streaming_stt(activity)
        conn_options = activity.session.conn_options.stt_conn_options
        streams = activity.session._ending_streams
        try:
            async with streams.using(model.stream(conn_options=conn_options)) as stream:
                stream.start_time_offset = _seconds_since_input_began(activity)

                async def forward() -> None:
                    try:
                        async for frame in audio:
                            stream.push_frame(frame)
                        stream.end_input()
                    except RuntimeError:
                        if not activity.session._is_closing:  # a close ends the stream first
                            raise

                with _published(stream):
                    async with _forwarding("stt_node", forward()):
                        async for event in stream:
                            yield event
        finally:
            if adapter is not None:
                await adapter.aclose()

    @staticmethod
    async def llm_node(
        agent: Agent,
        chat_ctx: llm_module.ChatContext,
        tools: list[llm_module.Tool],
        model_settings: ModelSettings,
    ) -> AsyncGenerator[llm_module.ChatChunk | str | Any, None]:
        """Ask the activity's LLM. Read at call time, so a swapped model serves the next request."""
        from .. import llm

        activity = agent._get_activity_or_raise()
        model = activity.llm
        assert isinstance(model, llm.LLM), (
            "llm_node runs with an llm.LLM only; a RealtimeModel generates by itself"
        )
        answer = model.chat(
            chat_ctx=chat_ctx,
            tools=tools,
            tool_choice=model_settings.tool_choice,
            conn_options=activity.session.conn_options.llm_conn_options,
        )
        async with activity.session._ending_streams.using(answer) as stream:
            async for chunk in stream:
                yield chunk

    @staticmethod
    async def tts_node(
        agent: Agent, text: AsyncIterable[str], model_settings: ModelSettings
    ) -> AsyncGenerator[rtc.AudioFrame, None]:
        """Synthesize `text` with the activity's TTS.

        Raises:
            RuntimeError: If there is no TTS.
        """
        activity = agent._get_activity_or_raise()
        model, adapter = _streaming_tts(activity)
        conn_options = activity.session.conn_options.tts_conn_options
        streams = activity.session._ending_streams
        try:
            async with streams.using(model.stream(conn_options=conn_options)) as stream:

                async def forward() -> None:
                    async for chunk in text:
                        stream.push_text(chunk)
                    stream.end_input()

                async with _forwarding("tts_node", forward()):
                    async for event in stream:
                        yield event.frame
        finally:
            if adapter is not None:
                await adapter.aclose()

    @staticmethod
    async def transcription_node(
        agent: Agent, text: AsyncIterable[str | TimedString], model_settings: ModelSettings
    ) -> AsyncGenerator[str | TimedString, None]:
        """Pass the transcript through."""
        async for delta in text:
            yield delta

    @staticmethod
    async def realtime_audio_output_node(
        agent: Agent, audio: AsyncIterable[rtc.AudioFrame], model_settings: ModelSettings
    ) -> AsyncGenerator[rtc.AudioFrame, None]:
        """Pass the audio of a realtime model through."""
        async for frame in audio:
            yield frame


def _streaming_stt(
    activity: AgentActivity,
) -> tuple[stt_module.STT[Any], stt_module.STT[Any] | None]:
    """The activity's STT, and the adapter to close where it had to be wrapped in one."""
    model = activity.stt
    if model is None:
        raise RuntimeError("stt_node needs an STT: give one to the AgentSession or to the Agent")
    if model.capabilities.streaming:
        return model, None
    if activity.vad is None:
        raise RuntimeError(
            f"{model.label} transcribes whole utterances only and there is no VAD to cut the audio "
            "into utterances: give a vad to the AgentSession or Agent, or use a streaming STT"
        )
    from .. import stt

    adapter = stt.StreamAdapter(stt=model, vad=activity.vad)
    return adapter, adapter


def _streaming_tts(
    activity: AgentActivity,
) -> tuple[tts_module.TTS[Any], tts_module.TTS[Any] | None]:
    """The activity's TTS, and the adapter to close where it had to be wrapped in one."""
    model = activity.tts
    if model is None:
        raise RuntimeError(
            "tts_node needs a TTS: give one to the AgentSession or to the Agent, or switch audio "
            "off with session.output.set_audio_enabled(False)"
        )
    expressive = activity.expressive_options is not None
    model._set_expressive(expressive)
    if model.capabilities.streaming:
        return model, None
    from .. import tokenize, tts

    adapter = tts.StreamAdapter(
        tts=model,
        sentence_tokenizer=tokenize.blingfire.SentenceTokenizer(
            retain_format=True, xml_aware=expressive
        ),
    )
    return adapter, adapter


def _seconds_since_input_began(activity: AgentActivity) -> float:
    began = activity.audio_input_started_at
    return 0.0 if began is None else max(0.0, time.time() - began)


def _published(stream: stt_module.RecognizeStream) -> Any:
    """Let the pump that runs this node flush the live stream."""
    from .audio_recognition import published_stream

    return published_stream(stream)
