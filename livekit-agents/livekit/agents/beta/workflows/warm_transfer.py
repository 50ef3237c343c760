"""Tasks that call a person, tell them what it is about, and connect them with the caller."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from ...job import get_job_context
from ...llm import ChatContext, Instructions, Tool, ToolError, Toolset, function_tool
from ...llm.tool_context import ToolFlag
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import TaskScope, run_bounded, wait_until
from ...utils.aio.task_scope import current_ledger
from ...voice._context import bound, current_speech_handle, neutral
from ...voice.agent import Agent, AgentTask
from ...voice.background_audio import AudioConfig, AudioSource, BuiltinAudioClip
from ._capture import AnyLLM, AnySTT, AnyTTS, AnyVAD, TurnDetection, compose
from .utils import WorkflowInstructions

if TYPE_CHECKING:
    from livekit.protocol.sip import SIPOutboundConfig

    from ...voice.speech_handle import SpeechHandle
    from ...voice.turn import TurnHandlingOptions
    from ._consultation import Consultation

RINGING_TIMEOUT = 30.0
"""Seconds for the person to pick up, by default."""

DIAL_MARGIN = 5.0
"""Seconds that the server may take on top of the ringing."""

PERSONA = """\
You are the assistant of a call centre. A caller needs a person, and waits on hold. You have called \
that person, who has just picked up, to find out whether they take the call."""

INSTRUCTIONS_TEMPLATE = """\
{persona}

You talk to the person, not to the caller: what they say to you, the caller doesn't hear. Say in one \
or two sentences who calls and what about, and ask whether they take the call. Answer their questions \
from the conversation below; say so if it does not hold the answer. Speak plainly and briefly.

Once they clearly agree, call `connect_to_caller`. If they don't want to, or can't, call \
`decline_transfer` with their reason. If no person answers but a voicemail, an announcement or a menu, \
call `voicemail_detected` and leave no message.

What the caller and the first agent have said:
{conversation}

{extra}"""

HoldAudio = NotGivenOr[AudioSource | AudioConfig | list[AudioConfig] | None]


@dataclass
class WarmTransferResult:
    """The caller and the person are connected."""

    human_agent_identity: str
    """Of the person, in the caller's room."""


class WarmTransferTask(AgentTask[WarmTransferResult]):
    """Puts the caller on hold, calls a person, briefs them, and connects the two.

    ::

        result = await WarmTransferTask("+15550100", chat_ctx=self.chat_ctx)

    When it is over the agent that awaited it has the floor again: it may say goodbye and close the
    session, the two go on talking. Raises `ToolError` where it is awaited if the person can't be
    reached, declines or hangs up; the caller is off hold by then. Connecting the two moves a
    participant from room to room, which LiveKit Cloud can do and the open-source server can't.
    """

    def __init__(
        self,
        sip_call_to: NotGivenOr[str] = NOT_GIVEN,
        *,
        sip_trunk_id: NotGivenOr[str] = NOT_GIVEN,
        sip_connection: NotGivenOr[SIPOutboundConfig] = NOT_GIVEN,
        sip_number: NotGivenOr[str] = NOT_GIVEN,
        sip_headers: NotGivenOr[dict[str, str]] = NOT_GIVEN,
        dtmf: NotGivenOr[str] = NOT_GIVEN,
        ringing_timeout: NotGivenOr[float] = NOT_GIVEN,
        hold_audio: HoldAudio = NOT_GIVEN,
        instructions: NotGivenOr[WorkflowInstructions | Instructions | str] = NOT_GIVEN,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        turn_handling: NotGivenOr[TurnHandlingOptions] = NOT_GIVEN,
        turn_detection: TurnDetection = NOT_GIVEN,
        tools: NotGivenOr[list[Tool | Toolset]] = NOT_GIVEN,
        stt: AnySTT = NOT_GIVEN,
        vad: AnyVAD = NOT_GIVEN,
        llm: AnyLLM = NOT_GIVEN,
        tts: AnyTTS = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        extra_instructions: str = "",
        target_phone_number: NotGivenOr[str] = NOT_GIVEN,
    ) -> None:
        """Describe the transfer.

        Args:
            sip_call_to: The person's number, or SIP user.
            sip_trunk_id: Outbound trunk; `LIVEKIT_SIP_OUTBOUND_TRUNK` by default.
            sip_connection: In place of a trunk: where and how to dial.
            sip_number: Shown to the person as the number that calls; `LIVEKIT_SIP_NUMBER` by default.
            sip_headers: Sent along, by name ("X-...").
            dtmf: Keys to press once the call is answered, such as an extension.
            ringing_timeout: Seconds for the person to pick up.
            hold_audio: What the caller hears meanwhile; music by default, None for nothing.
            instructions: For the briefing, in place of those the task comes with;
                `WorkflowInstructions` can change parts of them.
            chat_ctx: The conversation with the caller, which the person is told about.
            turn_handling: Of the briefing, like everything below.
            turn_detection: Deprecated: use `turn_handling`.
            tools: Further tools.
            stt: Speech to text.
            vad: Voice activity detection.
            llm: The language model.
            tts: Text to speech.
            allow_interruptions: Deprecated: use `turn_handling`.
            extra_instructions: Added to the instructions.
            target_phone_number: Deprecated name of `sip_call_to`.

        Raises:
            ValueError: It is not said whom to call, or by which trunk.
        """
        if is_given(target_phone_number):
            logger.warning("target_phone_number is deprecated, use sip_call_to")
        call_to = sip_call_to if is_given(sip_call_to) else target_phone_number
        self._call_to = call_to if is_given(call_to) else ""
        self._trunk = _or_env(sip_trunk_id, "LIVEKIT_SIP_OUTBOUND_TRUNK")
        self._connection = sip_connection if is_given(sip_connection) else None
        self._sip_number = _or_env(sip_number, "LIVEKIT_SIP_NUMBER")
        self._headers = dict(sip_headers) if is_given(sip_headers) else {}
        self._dtmf = dtmf if is_given(dtmf) else ""
        self._ringing = ringing_timeout if is_given(ringing_timeout) else RINGING_TIMEOUT
        self._check_target()
        self._hold_audio = hold_audio if is_given(hold_audio) else BuiltinAudioClip.HOLD_MUSIC
        super().__init__(
            instructions="The caller is on hold, and a person is being called. If you are to speak "
            "now, ask the caller for a moment's patience.",
            chat_ctx=chat_ctx,
            turn_handling=turn_handling,
            turn_detection=turn_detection,
            tools=list(tools) if isinstance(tools, list) else None,
            stt=stt,
            vad=vad,
            llm=llm,
            tts=tts,
            allow_interruptions=allow_interruptions,
        )
        self._briefing = compose(
            instructions,
            extra_instructions,
            template=INSTRUCTIONS_TEMPLATE,
            persona=PERSONA,
            conversation=_conversation(self._chat_ctx),
        )
        # they are for the conversation with the person; the caller's agent has to wait
        self._briefing_tools, self._tools = self._tools, []
        self._decision: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._decision.add_done_callback(lambda fut: fut.cancelled() or fut.exception())
        self._last_speech: SpeechHandle | None = None

    def _check_target(self) -> None:
        if not self._call_to:
            raise ValueError("whom to call? Pass the person's number as sip_call_to")
        if not self._trunk and self._connection is None:
            raise ValueError(
                "a call needs an outbound SIP trunk: pass sip_trunk_id or sip_connection, or set "
                "LIVEKIT_SIP_OUTBOUND_TRUNK"
            )

    # -- the transfer -------------------------------------------------------------------------------

    async def on_enter(self) -> None:
        """Do the transfer, and put things back in order however it ends."""
        from ._consultation import Consultation

        job = get_job_context(required=False)
        if job is None or job.is_fake_job():
            self.complete(ToolError("there is no phone line to transfer this conversation with"))
            return
        session = self.session
        heard = session.input.audio_enabled
        # the second session is nothing of this one's: neither its speech nor its ledger
        with neutral(), bound(current_ledger, None):
            consultation = Consultation(job)
            scope = TaskScope("warm transfer")
        try:
            session.input.set_audio_enabled(False)
            with neutral(), bound(current_ledger, None):
                work = scope.spawn(self._transfer(consultation), name="transfer", log_errors=False)
            work.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.wait(
                (work, self._fut, session._closing_fut), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            scope.cancel_soon()
            with neutral(), bound(current_ledger, None):
                ending = consultation.end()
            if heard and session._is_closing:
                session.input._enabled["audio"] = True  # for the next run: this one hears no more
            elif heard:
                session.input.set_audio_enabled(True)
        await wait_until(ending, None)
        if not self.done() and not session._is_closing:
            self.complete(_outcome(work, consultation))

    async def _transfer(self, consultation: Consultation) -> None:
        from ._consultation import LAST_WORDS

        if self._hold_audio is not None:
            await consultation.play_hold_audio(self._hold_audio)
        await consultation.connect()
        try:
            await run_bounded(
                self._dial(consultation), self._ringing + DIAL_MARGIN, owner="warm transfer"
            )
        except asyncio.TimeoutError:
            raise ToolError("nobody picked up") from None
        talking = await consultation.talk(self._briefing_agent())
        talking.once("close", self._on_hung_up)
        await asyncio.wait((self._decision,))
        self._decision.result()
        if self._last_speech is not None:
            await wait_until(self._last_speech._done_fut, LAST_WORDS)
        await consultation.move_to_caller()

    def _briefing_agent(self) -> Agent:
        activity = self._get_activity_or_raise()
        turn_handling: TurnHandlingOptions = {**self._turn_handling}
        detection = self.session.options.turn_handling.get("turn_detection")
        if detection is not None:
            turn_handling.setdefault("turn_detection", detection)
        return _Briefing(
            instructions=self._briefing,
            tools=self._briefing_tools,
            stt=activity.stt,
            vad=activity.vad,
            llm=activity.llm,
            tts=activity.tts,
            turn_handling=turn_handling,
        )

    async def _dial(self, consultation: Consultation) -> None:
        """Call the person into the room; returns once they have picked up."""
        from google.protobuf.duration_pb2 import Duration
        from livekit import api

        request = api.CreateSIPParticipantRequest(
            room_name=consultation.room_name,
            participant_identity=consultation.identity,
            participant_name="Human agent",
            sip_call_to=self._call_to,
            sip_number=self._sip_number,
            headers=self._headers,
            dtmf=self._dtmf,
            ringing_timeout=Duration(seconds=max(1, round(self._ringing))),
            wait_until_answered=True,
        )
        if self._connection is not None:
            request.trunk.CopyFrom(self._connection)
        else:
            request.sip_trunk_id = self._trunk
        job = get_job_context()
        try:
            await job.api.sip.create_sip_participant(request)
        except api.TwirpError as error:
            status = getattr(error, "sip_status", None) or error.message
            raise ToolError(f"the person could not be reached: {status}") from error

    # -- what the person decides ----------------------------------------------------------------------

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def connect_to_caller(self) -> None:
        """Connect the person you talk to with the caller, once they have agreed to it."""
        self._refuse_twice()
        self._last_speech = current_speech_handle.get()
        self._decision.set_result(None)

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def decline_transfer(self, reason: str) -> None:
        """The person does not take the call.

        Args:
            reason: Why, in their words.
        """
        self._refuse_twice()
        self._decision.set_exception(ToolError(f"the person does not take the call: {reason}"))

    @function_tool(flags=ToolFlag.IGNORE_ON_ENTER)
    async def voicemail_detected(self) -> None:
        """A machine has answered instead of a person: a voicemail, an announcement, a menu."""
        self._refuse_twice()
        self._decision.set_exception(ToolError("a machine answered, no person could be reached"))

    def _refuse_twice(self) -> None:
        if self._decision.done():
            raise ToolError("this is decided already")

    def _on_hung_up(self, event: object) -> None:
        if not self._decision.done():
            self._decision.set_exception(ToolError("the person hung up before they were connected"))


class _Briefing(Agent):
    """Talks to the person who has picked up."""

    async def on_enter(self) -> None:
        self.session.generate_reply(
            instructions="The person has just picked up. Greet them, say who calls and why, and ask "
            "whether they take the call.",
            input_modality="audio",
        )


def _outcome(
    work: asyncio.Task[None], consultation: Consultation
) -> WarmTransferResult | Exception:
    error = None if work.cancelled() or not work.done() else work.exception()
    if error is None and consultation.moved:
        return WarmTransferResult(consultation.identity)
    if isinstance(error, ToolError):
        return error
    logger.error("the warm transfer failed", exc_info=error)
    return ToolError("the transfer failed for a technical reason")


def _conversation(chat_ctx: ChatContext) -> str:
    """What was said, for somebody who takes over."""
    speakers = {"user": "caller", "assistant": "agent"}
    lines = [
        f"{speakers[message.role]}: {message.text_content}"
        for message in chat_ctx.messages()
        if message.role in speakers and message.text_content
    ]
    return "\n".join(lines) or "(nothing is known of it)"


def _or_env(value: NotGivenOr[str], name: str) -> str:
    return value if is_given(value) else os.environ.get(name, "")


# -- Twilio -------------------------------------------------------------------------------------------

TWILIO_API = "https://api.twilio.com/2010-04-01/Accounts"


class TwilioConnectorWarmTransferTask(WarmTransferTask):
    """A warm transfer that calls the person through Twilio, by LiveKit's connector: without SIP."""

    def __init__(
        self,
        phone_number: str,
        *,
        twilio_from_number: str,
        twilio_account_sid: NotGivenOr[str] = NOT_GIVEN,
        twilio_auth_token: NotGivenOr[str] = NOT_GIVEN,
        twilio_call_token: NotGivenOr[str] = NOT_GIVEN,
        original_caller_number: NotGivenOr[str] = NOT_GIVEN,
        ringing_timeout: NotGivenOr[float] = NOT_GIVEN,
        hold_audio: HoldAudio = NOT_GIVEN,
        instructions: NotGivenOr[WorkflowInstructions | Instructions | str] = NOT_GIVEN,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        turn_handling: NotGivenOr[TurnHandlingOptions] = NOT_GIVEN,
        turn_detection: TurnDetection = NOT_GIVEN,
        tools: NotGivenOr[list[Tool | Toolset]] = NOT_GIVEN,
        stt: AnySTT = NOT_GIVEN,
        vad: AnyVAD = NOT_GIVEN,
        llm: AnyLLM = NOT_GIVEN,
        tts: AnyTTS = NOT_GIVEN,
        allow_interruptions: NotGivenOr[bool] = NOT_GIVEN,
        extra_instructions: str = "",
    ) -> None:
        """Describe the transfer.

        Args:
            phone_number: The person's number, as in E.164.
            twilio_from_number: A number of your Twilio account.
            twilio_account_sid: `TWILIO_ACCOUNT_SID` by default.
            twilio_auth_token: `TWILIO_AUTH_TOKEN` by default.
            twilio_call_token: The token of the caller's call, with which the person may be shown the
                caller's number.
            original_caller_number: That number; needs `twilio_call_token`.

        The other arguments are those of `WarmTransferTask`.

        Raises:
            ValueError: A number, or the credentials for Twilio, are missing.
        """
        self._account = _or_env(twilio_account_sid, "TWILIO_ACCOUNT_SID")
        self._auth_token = _or_env(twilio_auth_token, "TWILIO_AUTH_TOKEN")
        self._call_token = twilio_call_token if is_given(twilio_call_token) else ""
        shown = original_caller_number if is_given(original_caller_number) else ""
        self._from = shown if shown and self._call_token else twilio_from_number
        if shown and not self._call_token:
            raise ValueError("original_caller_number needs the twilio_call_token of that call")
        super().__init__(
            phone_number,
            ringing_timeout=ringing_timeout,
            hold_audio=hold_audio,
            instructions=instructions,
            chat_ctx=chat_ctx,
            turn_handling=turn_handling,
            turn_detection=turn_detection,
            tools=tools,
            stt=stt,
            vad=vad,
            llm=llm,
            tts=tts,
            allow_interruptions=allow_interruptions,
            extra_instructions=extra_instructions,
        )

    def _check_target(self) -> None:
        if not self._call_to or not self._from:
            raise ValueError("a call needs phone_number and twilio_from_number")
        if not (self._account and self._auth_token):
            raise ValueError(
                "Twilio needs credentials: pass twilio_account_sid and twilio_auth_token, or set "
                "TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN"
            )

    async def _dial(self, consultation: Consultation) -> None:
        from livekit import api, rtc

        from ...utils.participant import wait_for_participant

        kind = api.ConnectTwilioCallRequest.TwilioCallDirection
        answer = await get_job_context().api.connector.connect_twilio_call(
            api.ConnectTwilioCallRequest(
                twilio_call_direction=kind.TWILIO_CALL_DIRECTION_OUTBOUND,
                room_name=consultation.room_name,
                participant_identity=consultation.identity,
                participant_name="Human agent",
            )
        )
        stream = f"<Stream url={quoteattr(answer.connect_url)}/>"
        form = {
            "To": self._call_to,
            "From": self._from,
            "Twiml": f"<Response><Connect>{stream}</Connect></Response>",
            "Timeout": str(max(1, round(self._ringing))),
        }
        if self._call_token:
            form["CallToken"] = self._call_token
        call = (await self._twilio("Calls.json", form))["sid"]
        consultation.hang_up = lambda: self._twilio(f"Calls/{call}.json", {"Status": "completed"})
        await wait_for_participant(
            consultation.room,
            identity=consultation.identity,
            kind=[
                rtc.ParticipantKind.PARTICIPANT_KIND_CONNECTOR,
                rtc.ParticipantKind.PARTICIPANT_KIND_SIP,
                rtc.ParticipantKind.PARTICIPANT_KIND_STANDARD,
            ],
        )

    async def _twilio(self, path: str, form: dict[str, str]) -> Any:
        """Send a request to Twilio's API and return its answer.

        Raises:
            ToolError: Twilio refuses.
        """
        import aiohttp

        from ...utils.http_context import http_session

        async with http_session().post(
            f"{TWILIO_API}/{self._account}/{path}",
            data=form,
            auth=aiohttp.BasicAuth(self._account, self._auth_token),
        ) as response:
            if response.status >= 400:
                logger.error("Twilio refuses: %s %s", response.status, await response.text())
                raise ToolError(f"the person could not be reached: Twilio says {response.status}")
            return await response.json()


__all__ = ["TwilioConnectorWarmTransferTask", "WarmTransferResult", "WarmTransferTask"]
