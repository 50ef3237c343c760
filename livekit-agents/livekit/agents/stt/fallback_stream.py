"""The stream of a `FallbackAdapter`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from livekit import rtc

from .._streams import report_survivors
from ..types import NOT_GIVEN, APIConnectOptions, NotGivenOr
from ..utils import aio
from ._wrapping import INNER_GRACE
from .recognize_stream import RecognizeStream
from .recovery_probe import RecoveryProbe
from .types import SpeechEvent

if TYPE_CHECKING:
    from .fallback_adapter import FallbackAdapter, Member


class FallbackRecognizeStream(RecognizeStream):
    """Recognizes with the first member that works, handing on to the next what one left unanswered.

    Members that failed listen along in probes, which end with the stream.
    """

    def __init__(
        self,
        *,
        stt: FallbackAdapter,
        language: NotGivenOr[str] = NOT_GIVEN,
        conn_options: APIConnectOptions,
    ) -> None:
        super().__init__(stt=stt, conn_options=conn_options)
        self._fallback = stt
        self._language = language
        self._probes: dict[Member, RecoveryProbe] = {}

    def _replay_options(self) -> dict[str, Any]:
        # between members also when nothing is retried
        return {"capacity": self._stt.replay_duration}

    async def _metrics_monitor_task(self, event_aiter: AsyncIterable[SpeechEvent]) -> None:
        async for _ in event_aiter:
            pass  # members report

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        probe_scope = aio.TaskScope(f"{self._stt.label} probes")
        try:
            for member, serves in self._fallback._walk():
                if serves:
                    try:
                        await self._serve_from(member)
                        return
                    except Exception as error:
                        if self._retry_budget.closing:
                            return
                        self._fallback._member_failed(member, error)
                    if self._take_back_input():
                        return
                self._probe(member, probe_scope)
            raise self._fallback._all_failed(loop.time() - began)
        finally:
            self._probes.clear()
            report_survivors(await probe_scope.cancel(INNER_GRACE))

    async def _serve_from(self, member: Member) -> None:
        # Until the member says something it may be unreachable, and not tell us about speech.
        self._replay_buffer.expect_reports(False)
        stream = member.stt.stream(
            language=self._language,
            conn_options=self._fallback._member_options(self._conn_options),
        )
        scope = aio.TaskScope(f"{self._stt.label} stream")
        try:
            stream.start_time_offset = self.start_time_offset
            scope.spawn(self._feed(stream))
            async for event in stream:
                self._replay_buffer.expect_reports(True)
                self._fallback._member_served(member)
                self._event_ch.send_nowait(event)
        finally:
            scope.cancel_soon()
            await stream.aclose()

    async def _feed(self, stream: RecognizeStream) -> None:
        begun = False
        async for item in self._input_ch:
            if not begun:
                begun = True
                # only now is it known which sample the member gets first
                stream.start_time_offset = self.start_time_offset
            if not self._replay_buffer.last_replayed:
                for probe in list(self._probes.values()):
                    probe.push(item)
            try:
                if isinstance(item, rtc.AudioFrame):
                    stream.push_frame(item)
                else:
                    stream.flush()
            except RuntimeError:
                return  # it is over; the next member gets what it left, and this
        if not stream._event_ch.closed:
            stream.end_input()

    def _take_back_input(self) -> bool:
        """Prepare the input for the next member. True when there is nothing left to recognize."""
        self._input_ended = self._input_ended or self._input_ch.closed
        if self._input_ended and self._replay_buffer.finished:
            return True
        self._rewind_input()
        if self._input_ended:
            self._input_ch.close()
        return False

    def _probe(self, member: Member, scope: aio.TaskScope) -> None:
        probe = RecoveryProbe(
            member.stt,
            language=self._language,
            conn_options=replace(self._fallback._member_options(self._conn_options), max_retry=0),
        )
        self._probes[member] = probe
        scope.spawn(self._run_probe(member, probe), name=f"probe of {member.stt.label}")

    async def _run_probe(self, member: Member, probe: RecoveryProbe) -> None:
        try:
            works = await probe.run()
        finally:
            if self._probes.get(member) is probe:
                del self._probes[member]
        if works and not self._retry_budget.closing:
            self._fallback._member_recovered(member)
