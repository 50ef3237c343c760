"""`RoomIO`: joins a session to a LiveKit room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from livekit import rtc

from ...job import DEFAULT_PARTICIPANT_KINDS
from ...log import logger
from ...telemetry import trace_types
from ...telemetry.rpc import install as trace_rpcs
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import Survivor, TaskScope
from ..closing import CloseBudgets, ClosePlan, Step
from ..events import AgentStateChangedEvent, CloseEvent, CloseReason, UserInputTranscribedEvent
from ..transcription import TranscriptSynchronizer
from ._input import _ParticipantAudioInputStream, _ParticipantVideoInputStream
from ._output import _ParticipantAudioOutput
from ._pre_connect_audio import PreConnectAudioHandler
from ._side_channels import AgentStateAttribute, ChatInput, RoomDeletion, UserTranscripts
from ._transcription import _ParticipantTranscriptionOutput
from .linking import ParticipantLink
from .publishing import PublishWhenLinked
from .types import (
    DEFAULT_CLOSE_ON_DISCONNECT_REASONS,
    RoomInputOptions,
    RoomOptions,
    RoomOutputOptions,
    TextInputCallback,
)

if TYPE_CHECKING:
    from ..agent_session import AgentSession
    from ..io import AudioOutput, TextOutput

_Participant = rtc.RemoteParticipant


class RoomIO:
    """Lets a session hear, see, speak and write in a room, with one participant: its user.

    `AgentSession.start(room=...)` makes one by itself. Made by hand, it is started before the
    session, and closed by whoever made it.
    """

    def __init__(
        self,
        agent_session: AgentSession[Any],
        room: rtc.Room,
        *,
        participant: rtc.RemoteParticipant | str | None = None,
        options: NotGivenOr[RoomOptions] = NOT_GIVEN,
        input_options: NotGivenOr[RoomInputOptions] = NOT_GIVEN,
        output_options: NotGivenOr[RoomOutputOptions] = NOT_GIVEN,
    ) -> None:
        """Set up the connection; nothing happens before `start`.

        Args:
            agent_session: The session.
            room: The room, connected or to be connected.
            participant: The user, or their identity; the first suitable participant when None.
            options: What to use of the room, and how.
            input_options: Deprecated.
            output_options: Deprecated.

        Raises:
            ValueError: `options` is not a `RoomOptions`.
        """
        self._options = RoomOptions._ensure_options(
            options, room_input_options=input_options, room_output_options=output_options
        )
        self._session = agent_session
        self._room = room
        wanted: str | None = None
        if participant is not None:
            wanted = participant if isinstance(participant, str) else participant.identity
        elif is_given(self._options.participant_identity):
            wanted = self._options.participant_identity
        kinds = self._options.participant_kinds
        self._link: ParticipantLink[_Participant] = ParticipantLink(
            (kinds if is_given(kinds) else None) or DEFAULT_PARTICIPANT_KINDS, wanted
        )
        self._scope = TaskScope("room io")
        self._pre_connect: PreConnectAudioHandler | None = None
        self._audio_input: _ParticipantAudioInputStream | None = None
        self._video_input: _ParticipantVideoInputStream | None = None
        self._audio_output: _ParticipantAudioOutput | None = None
        self._user_transcript: _ParticipantTranscriptionOutput | None = None
        self._user_transcripts: UserTranscripts | None = None
        self._agent_transcript: _ParticipantTranscriptionOutput | None = None
        self._synchronizer: TranscriptSynchronizer | None = None
        self._chat: ChatInput | None = None
        self._state_attribute = AgentStateAttribute(room)
        self._deletion = RoomDeletion()
        self._publishing: PublishWhenLinked | None = None
        self._absence: asyncio.TimerHandle | None = None
        self._started = self._closed = False

    # -- what it has ------------------------------------------------------------------------------

    @property
    def room(self) -> rtc.Room:
        """The room."""
        return self._room

    @property
    def audio_input(self) -> _ParticipantAudioInputStream | None:
        """What the user says, or None when switched off."""
        return self._audio_input

    @property
    def video_input(self) -> _ParticipantVideoInputStream | None:
        """What the user shows, or None when switched off."""
        return self._video_input

    @property
    def audio_output(self) -> AudioOutput | None:
        """Where the agent speaks, or None."""
        if self._synchronizer is not None:
            return self._synchronizer.audio_output
        return self._audio_output

    @property
    def transcription_output(self) -> TextOutput | None:
        """Where the agent's words are written, or None."""
        if self._synchronizer is not None:
            return self._synchronizer.text_output
        return self._agent_transcript

    @property
    def linked_participant(self) -> rtc.RemoteParticipant | None:
        """The user, while in the room. None after the close, too."""
        return self._link.linked

    @property
    def subscribed_fut(self) -> asyncio.Future[None] | None:
        """Resolved when somebody hears the agent's track; None when there is no such track.

        Cancelled by a close before that. Shared: wait for it with `asyncio.wait`, or a shield.
        """
        return self._audio_output.subscribed if self._audio_output is not None else None

    def _linked_and_subscribed(self) -> bool:
        """Whether the user is there and hears the agent."""
        subscribed = self.subscribed_fut
        return self._link.linked is not None and (
            subscribed is None or (subscribed.done() and not subscribed.cancelled())
        )

    async def wait_for_ready(self) -> None:
        """Return when the user is linked and hears the agent.

        Raises:
            RuntimeError: It is not started, or is closed meanwhile, or the agent's track could not
                be published.
        """
        if self._publishing is None:
            raise RuntimeError("RoomIO is not started: call start() first")
        await self._publishing.wait_until_ready()

    # -- start ------------------------------------------------------------------------------------

    async def start(self, *, trace_context: Any = None) -> None:
        """Build what the options ask for and attach it to the session. Waits for nobody.

        Args:
            trace_context: The OpenTelemetry context of the spans of the start.

        Raises:
            RuntimeError: It was started before.
        """
        if self._started:
            raise RuntimeError("RoomIO was started before; make a new one")
        self._started = True
        self._publishing = PublishWhenLinked(
            self._room,
            self._link,
            owner="RoomIO",
            track_name="the agent's track",
            trace_context=trace_context,
        )
        self._build_inputs(trace_context)
        self._build_outputs()
        for event, handler in self._room_handlers().items():
            self._room.on(event, handler)  # type: ignore[arg-type]
        if self._room.isconnected():
            self._on_connection_state(self._room.connection_state)
        self._scope.spawn(
            self._publishing.run(self._audio_output, self._agent_transcript),
            name="room io: first link",
        )
        self._attach()
        if self._link.wanted is not None:
            self._bind(self._link.wanted)

    def _build_inputs(self, trace_context: Any) -> None:
        options = self._options.get_audio_input_options()
        if options is not None and options.pre_connect_audio:
            self._pre_connect = PreConnectAudioHandler(
                self._room, timeout=options.pre_connect_audio_timeout
            )
            self._pre_connect.register()
        if self._options.get_video_input_options() is not None:
            self._video_input = _ParticipantVideoInputStream(self._room)
        if options is not None:
            self._audio_input = _ParticipantAudioInputStream(
                self._room,
                sample_rate=options.sample_rate,
                num_channels=options.num_channels,
                noise_cancellation=options.noise_cancellation,
                auto_gain_control=options.auto_gain_control,
                pre_connect_audio_handler=self._pre_connect,
                frame_size_ms=options.frame_size_ms,
            )
            self._audio_input.trace_context = trace_context

    def _build_outputs(self) -> None:
        audio = self._options.get_audio_output_options()
        if audio is not None:
            self._audio_output = _ParticipantAudioOutput(
                self._room,
                sample_rate=audio.sample_rate,
                num_channels=audio.num_channels,
                track_publish_options=audio.track_publish_options,
                track_name=audio.track_name if is_given(audio.track_name) else "roomio_audio",
            )
            self._audio_output.subscribed.add_done_callback(self._on_first_listener)
        text = self._options.get_text_output_options()
        if text is None:
            return
        self._user_transcript = _ParticipantTranscriptionOutput(
            room=self._room, is_delta_stream=False
        )
        self._user_transcripts = UserTranscripts(self._user_transcript)
        self._agent_transcript = _ParticipantTranscriptionOutput(
            room=self._room, next_in_chain=text.next_in_chain, json_format=text.json_format
        )
        sink = self._audio_output or self._session.output.audio
        if sink is not None and text.sync_transcription is not False:
            self._synchronizer = TranscriptSynchronizer(
                next_in_chain_audio=sink,
                next_in_chain_text=self._agent_transcript,
                speed=text.transcription_speed_factor,
            )

    def _attach(self) -> None:
        session = self._session
        if self._audio_input is not None:
            session.input.audio = self._audio_input
        if self._video_input is not None:
            session.input.video = self._video_input
        if self.audio_output is not None:
            session.output.audio = self.audio_output
        if self.transcription_output is not None:
            session.output.transcription = self.transcription_output
        for event, handler in self._session_handlers().items():
            session.on(event, handler)  # type: ignore[arg-type]

    def _room_handlers(self) -> dict[str, Callable[..., None]]:
        return {
            "participant_connected": self._on_participant_connected,
            "connection_state_changed": self._on_connection_state,
            "participant_disconnected": self._on_participant_disconnected,
            "sip_dtmf_received": self._on_dtmf,
            "disconnected": self._on_room_disconnected,
        }

    def _session_handlers(self) -> dict[str, Callable[..., None]]:
        return {
            "agent_state_changed": self._on_agent_state,
            "user_input_transcribed": self._on_user_input,
            "close": self._on_session_close,
        }

    # -- linking ----------------------------------------------------------------------------------

    def set_participant(self, participant_identity: str | None) -> None:
        """Talk with somebody else, who need not be in the room yet; None: `unset_participant`.

        Raises:
            RuntimeError: It is closed.
        """
        if self._closed:
            raise RuntimeError("RoomIO is closed")
        linked = self._link.linked
        if linked is None or linked.identity != participant_identity:
            self._session._cancel_user_away_timer()
            self._stop_absence()
        present = None
        if participant_identity is not None and self._room.isconnected():
            present = self._room.remote_participants.get(participant_identity)
        if self._link.want(participant_identity, present):
            self._linked()
        else:
            self._bind(participant_identity)

    def unset_participant(self) -> None:
        """Talk with nobody, until a suitable participant joins."""
        self.set_participant(None)

    def _consider(self, participant: _Participant) -> None:
        if self._link.consider(participant, self._room.local_participant.identity):
            self._linked()

    def _linked(self) -> None:
        """Somebody was linked: hear them, and tell the session."""
        participant = self._link.linked
        assert participant is not None
        self._stop_absence()
        self._session._on_room_io_participant_linked(participant)
        self._bind(participant.identity)
        logger.info("RoomIO linked to participant", extra={"participant": participant.identity})
        if self._publishing is not None:
            self._publishing.linked()

    def _bind(self, identity: str | None) -> None:
        """Point everything that concerns the user at an identity."""
        for follower in (self._audio_input, self._video_input, self._user_transcript):
            if follower is not None:
                follower.set_participant(identity)
        if self._chat is not None:
            self._chat.sender = identity

    # -- room events ------------------------------------------------------------------------------

    def _on_participant_connected(self, participant: _Participant) -> None:
        self._consider(participant)

    def _on_connection_state(self, state: rtc.ConnectionState.ValueType) -> None:
        self._session._spans.event(
            "connection_state_changed",
            {trace_types.ATTR_CONNECTION_STATE: rtc.ConnectionState.Name(state)},
        )
        if not self._room.isconnected():
            return
        trace_rpcs(self._room.local_participant)
        for participant in list(self._room.remote_participants.values()):
            self._consider(participant)
        self._state_attribute.show_again()  # a reconnect may have lost it

    def _on_participant_disconnected(self, participant: _Participant) -> None:
        if not self._link.left(participant):
            return
        self._session._spans.participant_disconnected(
            participant, _name_of(participant.disconnect_reason)
        )
        if self._session._is_closing:
            # a farewell has no listener any more
            self._session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
            return
        reason = participant.disconnect_reason
        logger.debug("the linked participant left: %s", _name_of(reason))
        self._session._cancel_user_away_timer()
        if not self._options.close_on_disconnect or self._deletion.under_way:
            return
        if reason in DEFAULT_CLOSE_ON_DISCONNECT_REASONS:
            logger.info(
                "closing agent session due to participant disconnect (%s)",
                _name_of(reason),
                extra={"participant": participant.identity},
            )
            self._session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
        elif self._options.close_after_absence is not None:
            self._absence = asyncio.get_running_loop().call_later(
                self._options.close_after_absence, self._on_absence, participant.identity
            )

    def _on_absence(self, identity: str) -> None:
        self._absence = None
        logger.info(
            "closing agent session: the participant has not come back",
            extra={"participant": identity},
        )
        self._session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)

    def _stop_absence(self) -> None:
        if self._absence is not None:
            self._absence.cancel()
            self._absence = None

    def _on_room_disconnected(self, reason: Any = None) -> None:
        self._link.linked = None
        self._session._cancel_user_away_timer()
        if self._options.close_on_disconnect:
            logger.info("closing agent session: the room is disconnected (%s)", _name_of(reason))
            self._session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)

    def _on_dtmf(self, event: rtc.SipDTMF) -> None:
        linked = self._link.linked
        sender = event.participant
        if linked is not None and sender is not None and sender.identity == linked.identity:
            self._session.reset_away_timer()

    # -- session events ---------------------------------------------------------------------------

    def _on_agent_state(self, event: AgentStateChangedEvent) -> None:
        self._state_attribute.show(event.new_state)

    def _on_user_input(self, event: UserInputTranscribedEvent) -> None:
        if self._user_transcripts is not None:
            self._user_transcripts.push(event)

    def _on_session_close(self, event: CloseEvent) -> None:
        if self._options.delete_room_on_close and not self._deletion.under_way:
            from ..session_start import current_job

            self._deletion.begin(self._room, current_job())

    def _on_first_listener(self, subscribed: asyncio.Future[None]) -> None:
        session = self._session
        if not subscribed.cancelled() and session.user_state == session.agent_state == "listening":
            session.reset_away_timer()

    def register_text_input(self, text_input_cb: TextInputCallback) -> None:
        """Take chat messages of the user. A later call replaces the callback.

        Args:
            text_input_cb: Called with the session and a `TextInputEvent`.
        """
        if self._chat is None:
            self._chat = ChatInput(self._session, self._room, text_input_cb)
            self._chat.sender = self._link.wanted
        self._chat.callback = text_input_cb

    # -- the end ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Leave the session and end everything of it. Bounded, whatever the room does. Idempotent.

        The room stays connected, and the agent's track published.
        """
        plan = ClosePlan(self._budgets())
        await plan.run(*self._begin_close())
        await plan.sweep()
        plan.warn_once()

    def _budgets(self) -> CloseBudgets:
        return self._session.options.close_budgets

    def _begin_close(self) -> list[Step]:
        """From now on the room doesn't reach the session. Returns what has to be ended, each by
        itself and beside the others."""
        if self._closed:
            return []
        self._closed = True
        self._link.linked = None
        self._stop_absence()
        self._detach()
        if self._publishing is not None:
            self._publishing.close()
        parts: list[tuple[str, Any]] = [
            ("room audio input", self._audio_input),
            ("room video input", self._video_input),
            ("room audio output", self._audio_output),
            ("chat input", self._chat),
            ("pre-connect audio", self._pre_connect),
        ]
        steps = [Step(name, part.aclose) for name, part in parts if part is not None]
        steps.append(Step("room tasks", lambda: self._scope.cancel(0.5)))
        if self._user_transcript is not None:
            steps.append(Step("user transcript", self._end_user_transcript))
        if self._agent_transcript is not None:
            steps.append(Step("agent transcript", self._end_agent_transcript))
        if self._deletion.under_way:
            steps.append(Step("room deletion", self._wait_for_deletion))
        return steps

    def _detach(self) -> None:
        """Let go of room and session; what fails stops nothing after it."""
        actions: list[Callable[[], object]] = []
        for event, handler in self._room_handlers().items():
            actions.append(partial(self._room.off, event, handler))  # type: ignore[arg-type]
        for name, on_session in self._session_handlers().items():
            actions.append(partial(self._session.off, name, on_session))  # type: ignore[arg-type]
        actions += [self._state_attribute.close, self._scope.cancel_soon]
        for topic in (self._pre_connect, self._chat):
            if topic is not None:
                actions.append(topic.close)
        for transcript in (self._user_transcript, self._agent_transcript):
            if transcript is not None:
                actions.append(transcript.unsubscribe)
        for action in actions:
            try:
                action()
            except (Exception, asyncio.CancelledError):
                logger.exception("RoomIO could not let go of its room")

    async def _end_user_transcript(self) -> list[Survivor]:
        assert self._user_transcripts is not None
        return await self._user_transcripts.aclose(
            self._budgets().teardown / 2, drain=self._room.isconnected()
        )

    async def _end_agent_transcript(self) -> list[Survivor]:
        assert self._agent_transcript is not None
        share = self._budgets().teardown / 4
        if self._synchronizer is not None:
            await self._synchronizer.aclose(share)
        return await self._agent_transcript.aclose(share)

    async def _wait_for_deletion(self) -> None:
        await self._deletion.wait(self._budgets().teardown / 2)


def _name_of(reason: Any) -> str:
    try:
        return str(rtc.DisconnectReason.Name(reason))
    except (TypeError, ValueError):
        return "no reason given"


__all__ = ["RoomIO"]
