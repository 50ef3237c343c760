"""Joins a translation session to a room: one participant, or one track, is translated for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from livekit import rtc

from ...job import DEFAULT_PARTICIPANT_KINDS
from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...utils.aio import Survivor, TaskScope
from ...voice.closing import ClosePlan, Step
from ...voice.events import CloseReason, UserInputTranscribedEvent
from ...voice.room_io._input import _ParticipantAudioInputStream
from ...voice.room_io._output import _ParticipantAudioOutput
from ...voice.room_io._pre_connect_audio import PreConnectAudioHandler
from ...voice.room_io._side_channels import UserTranscripts
from ...voice.room_io._transcription import _ParticipantTranscriptionOutput
from ...voice.room_io.linking import ParticipantLink
from ...voice.room_io.publishing import PublishWhenLinked
from ...voice.room_io.types import (
    DEFAULT_CLOSE_ON_DISCONNECT_REASONS,
    AudioInputOptions,
    AudioOutputOptions,
    TextOutputOptions,
)

if TYPE_CHECKING:
    from .translation_session import TranslationSession

_SOURCES: list[rtc.TrackSource.ValueType] = [
    rtc.TrackSource.SOURCE_MICROPHONE,
    rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO,
]
"""What is translated of a participant."""


@dataclass
class TranslationRoomOptions:
    """How a translation session uses a room. Each direction takes options, True or False."""

    audio_input: AudioInputOptions | bool = True
    audio_output: AudioOutputOptions | bool = True
    """The track that the translation is heard on; `"translation"` unless its name is given."""
    text_output: TextOutputOptions | bool = True
    """Transcripts of the speaker and of the translation."""
    track: NotGivenOr[str] = NOT_GIVEN
    """Sid of the track to translate, whoever publishes it; any of the participant's when not given."""
    participant_identity: NotGivenOr[str] = NOT_GIVEN
    """Who is translated; the first suitable participant when not given."""
    participant_kinds: NotGivenOr[list[rtc.ParticipantKind.ValueType]] = NOT_GIVEN
    """Kinds that are linked by themselves: people, phones and connectors by default."""
    close_on_disconnect: bool = True
    """Close the session when the linked participant hangs up, or the room is gone."""

    def get_audio_input_options(self) -> AudioInputOptions | None:
        """The options for hearing, or None when it is off."""
        return _resolved(self.audio_input, AudioInputOptions)

    def get_audio_output_options(self) -> AudioOutputOptions | None:
        """The options for speaking, or None when it is off."""
        return _resolved(self.audio_output, AudioOutputOptions)

    def get_text_output_options(self) -> TextOutputOptions | None:
        """The options for transcripts, or None when they are off."""
        return _resolved(self.text_output, TextOutputOptions)


T = TypeVar("T")


def _resolved(given: Any, kind: type[T]) -> T | None:
    if isinstance(given, kind):
        return given
    return kind() if given else None


class TranslationRoomIO:
    """Lets a translation session hear one participant of a room, and speak and write to all.

    `TranslationSession.start(room=...)` makes one by itself. Made by hand, it is started before the
    session, and closed by whoever made it.
    """

    def __init__(
        self,
        session: TranslationSession[Any],
        room: rtc.Room,
        *,
        options: NotGivenOr[TranslationRoomOptions] = NOT_GIVEN,
    ) -> None:
        """Set up the connection; nothing happens before `start`.

        Args:
            session: The session.
            room: The room, connected or to be connected.
            options: What to use of the room, and how.

        Raises:
            ValueError: `options` is not a `TranslationRoomOptions`.
        """
        if is_given(options) and not isinstance(options, TranslationRoomOptions):
            raise ValueError(
                "room options must be a TranslationRoomOptions object, got "
                f"{type(options).__name__}"
            )
        self._options = options if is_given(options) else TranslationRoomOptions()
        self._session = session
        self._room = room
        identity, kinds = self._options.participant_identity, self._options.participant_kinds
        self._link: ParticipantLink[rtc.RemoteParticipant] = ParticipantLink(
            (kinds if is_given(kinds) else None) or DEFAULT_PARTICIPANT_KINDS,
            identity if is_given(identity) else None,
        )
        self._track_sid = self._options.track if is_given(self._options.track) else None
        self._scope = TaskScope("translation room io")
        self._pre_connect: PreConnectAudioHandler | None = None
        self._audio_input: _ParticipantAudioInputStream | None = None
        self._audio_output: _ParticipantAudioOutput | None = None
        self._speaker_transcript: _ParticipantTranscriptionOutput | None = None
        self._speaker_transcripts: UserTranscripts | None = None
        self._translation: _ParticipantTranscriptionOutput | None = None
        self._publishing: PublishWhenLinked | None = None
        self._started = self._closed = False

    # -- what it has ------------------------------------------------------------------------------

    @property
    def room(self) -> rtc.Room:
        """The room."""
        return self._room

    @property
    def audio_input(self) -> _ParticipantAudioInputStream | None:
        """What the speaker says, or None when switched off."""
        return self._audio_input

    @property
    def audio_output(self) -> _ParticipantAudioOutput | None:
        """Where the translation is heard, or None when switched off."""
        return self._audio_output

    @property
    def transcription_output(self) -> _ParticipantTranscriptionOutput | None:
        """Where the translation is written, or None when switched off."""
        return self._translation

    @property
    def linked_participant(self) -> rtc.RemoteParticipant | None:
        """The speaker, while in the room. None after the close, too."""
        return self._link.linked

    @property
    def linked_track(self) -> rtc.Track | None:
        """The track that is heard, or None while there is none."""
        opened = self._audio_input._open if self._audio_input is not None else None
        return opened.track if opened is not None else None

    @property
    def subscribed_fut(self) -> asyncio.Future[None] | None:
        """Resolved when somebody hears the translation; None when there is no such track.

        Cancelled by a close before that. Shared: wait for it with `asyncio.wait`, or a shield.
        """
        return self._audio_output.subscribed if self._audio_output is not None else None

    async def wait_for_ready(self) -> None:
        """Return when the speaker is linked and somebody hears the translation.

        Raises:
            RuntimeError: It is not started, or is closed meanwhile, or the track could not be
                published.
        """
        if self._publishing is None:
            raise RuntimeError("TranslationRoomIO is not started: call start() first")
        await self._publishing.wait_until_ready()

    # -- start ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Build what the options ask for and attach it to the session. Waits for nobody.

        Inputs and outputs that the session has already are kept.

        Raises:
            RuntimeError: It was started before.
        """
        if self._started:
            raise RuntimeError("TranslationRoomIO was started before; make a new one")
        self._started = True
        self._publishing = PublishWhenLinked(
            self._room,
            self._link,
            owner="TranslationRoomIO",
            track_name="the track of the translation",
        )
        self._build_input()
        self._build_outputs()
        for event, handler in self._room_handlers().items():
            self._room.on(event, handler)  # type: ignore[arg-type]
        self._session.on("user_input_transcribed", self._on_user_input)
        self._scope.spawn(
            self._publishing.run(self._audio_output, self._translation),
            name="translation room io: first link",
        )
        if self._link.wanted is not None:
            self._bind(self._link.wanted)
        self._look_around()

    def _build_input(self) -> None:
        options = self._options.get_audio_input_options()
        if options is None or self._session.input.audio is not None:
            return
        if options.pre_connect_audio:
            self._pre_connect = PreConnectAudioHandler(
                self._room, timeout=options.pre_connect_audio_timeout
            )
            self._pre_connect.register()
        self._audio_input = _ParticipantAudioInputStream(
            self._room,
            sample_rate=options.sample_rate,
            num_channels=options.num_channels,
            noise_cancellation=options.noise_cancellation,
            auto_gain_control=options.auto_gain_control,
            pre_connect_audio_handler=self._pre_connect,
            frame_size_ms=options.frame_size_ms,
            track_source=_SOURCES,
        )
        self._audio_input.set_track_sid(self._track_sid)
        self._session.input.audio = self._audio_input

    def _build_outputs(self) -> None:
        audio, text = (
            self._options.get_audio_output_options(),
            self._options.get_text_output_options(),
        )
        if audio is not None and self._session.output.audio is None:
            self._audio_output = _ParticipantAudioOutput(
                self._room,
                sample_rate=audio.sample_rate,
                num_channels=audio.num_channels,
                track_publish_options=audio.track_publish_options,
                track_name=audio.track_name if is_given(audio.track_name) else "translation",
            )
            self._session.output.audio = self._audio_output
        if text is None:
            return
        self._speaker_transcript = _ParticipantTranscriptionOutput(
            room=self._room, is_delta_stream=False, track=self._track_sid
        )
        self._speaker_transcripts = UserTranscripts(self._speaker_transcript)
        if self._session.output.transcription is None:
            self._translation = _ParticipantTranscriptionOutput(
                room=self._room, next_in_chain=text.next_in_chain, json_format=text.json_format
            )
            self._session.output.transcription = self._translation

    def _room_handlers(self) -> dict[str, Callable[..., None]]:
        return {
            "participant_connected": self._on_participant_connected,
            "track_published": self._on_track_published,
            "connection_state_changed": self._on_connection_state,
            "participant_disconnected": self._on_participant_disconnected,
            "disconnected": self._on_room_disconnected,
        }

    # -- who is translated ------------------------------------------------------------------------

    def set_track(self, track_sid: str) -> None:
        """Translate this track only, whoever publishes it, and whether it is there yet.

        Raises:
            RuntimeError: It is closed.
        """
        self._pin(track_sid)
        self._look_around()

    def unset_track(self) -> None:
        """Translate whatever the linked participant says.

        Raises:
            RuntimeError: It is closed.
        """
        self._pin(None)
        self._look_around()

    def _pin(self, track_sid: str | None) -> None:
        if self._closed:
            raise RuntimeError("TranslationRoomIO is closed")
        if track_sid == self._track_sid:
            return
        self._track_sid = track_sid
        if self._audio_input is not None:
            self._audio_input.set_track_sid(track_sid)
        if self._speaker_transcript is not None:
            self._speaker_transcript.set_track(track_sid)
        self._session._speaker_changed()

    def _look_around(self) -> None:
        """Link whoever is in the room already."""
        if self._room.isconnected():
            for participant in list(self._room.remote_participants.values()):
                self._consider(participant)

    def _consider(self, participant: rtc.RemoteParticipant) -> None:
        if self._track_sid is not None:
            publishes = self._track_sid in participant.track_publications
            linked = publishes and self._link.want(participant.identity, participant)
        else:
            linked = self._link.consider(participant, self._room.local_participant.identity)
        if linked:
            self._linked(participant)

    def _linked(self, participant: rtc.RemoteParticipant) -> None:
        self._session._speaker_changed()
        self._bind(participant.identity)
        logger.info("translating a participant", extra={"participant": participant.identity})
        if self._publishing is not None:
            self._publishing.linked()

    def _bind(self, identity: str) -> None:
        for follower in (self._audio_input, self._speaker_transcript):
            if follower is not None:
                follower.set_participant(identity)

    # -- events -----------------------------------------------------------------------------------

    def _on_participant_connected(self, participant: rtc.RemoteParticipant) -> None:
        self._consider(participant)

    def _on_track_published(self, publication: Any, participant: rtc.RemoteParticipant) -> None:
        self._consider(participant)

    def _on_connection_state(self, state: Any) -> None:
        self._look_around()

    def _on_participant_disconnected(self, participant: rtc.RemoteParticipant) -> None:
        if not self._link.left(participant):
            return
        meant = participant.disconnect_reason in DEFAULT_CLOSE_ON_DISCONNECT_REASONS
        if self._session._is_closing or (self._options.close_on_disconnect and meant):
            logger.info(
                "closing the translation: the participant left",
                extra={"participant": participant.identity},
            )
            self._session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
        else:
            self._session._speaker_changed()

    def _on_room_disconnected(self, reason: Any = None) -> None:
        self._link.linked = None
        if self._options.close_on_disconnect:
            logger.info("closing the translation: the room is disconnected")
            self._session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)

    def _on_user_input(self, event: UserInputTranscribedEvent) -> None:
        if self._speaker_transcripts is not None:
            self._speaker_transcripts.push(event)

    # -- the end ----------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Leave the session and end everything of it. Bounded, whatever the room does. Idempotent.

        The room stays connected.
        """
        plan = ClosePlan(self._session._budgets)
        await plan.run(*self._begin_close())
        await plan.sweep()
        plan.warn_once()

    def _begin_close(self) -> list[Step]:
        """From now on the room doesn't reach the session. Returns what has to be ended, each by
        itself and beside the others."""
        if self._closed:
            return []
        self._closed = True
        self._link.linked = None
        self._detach()
        if self._publishing is not None:
            self._publishing.close()
        parts: list[tuple[str, Any]] = [
            ("room audio input", self._audio_input),
            ("room audio output", self._audio_output),
            ("pre-connect audio", self._pre_connect),
        ]
        steps = [Step(name, part.aclose) for name, part in parts if part is not None]
        steps.append(Step("room tasks", lambda: self._scope.cancel(0.5)))
        share = self._session._budgets.teardown / 4
        if self._speaker_transcript is not None:
            steps.append(Step("speaker's transcript", self._end_speaker_transcript))
        if (translation := self._translation) is not None:
            steps.append(Step("translation's transcript", lambda: translation.aclose(share)))
        return steps

    def _detach(self) -> None:
        """Let go of room and session; what fails stops nothing after it."""
        actions: list[Callable[[], object]] = [
            partial(self._room.off, event, handler)  # type: ignore[arg-type]
            for event, handler in self._room_handlers().items()
        ]
        actions.append(lambda: self._session.off("user_input_transcribed", self._on_user_input))
        actions.append(self._scope.cancel_soon)
        if self._pre_connect is not None:
            actions.append(self._pre_connect.close)
        for transcript in (self._speaker_transcript, self._translation):
            if transcript is not None:
                actions.append(transcript.unsubscribe)
        for action in actions:
            try:
                action()
            except (Exception, asyncio.CancelledError):
                logger.exception("TranslationRoomIO could not let go of its room")

    async def _end_speaker_transcript(self) -> list[Survivor]:
        assert self._speaker_transcripts is not None
        return await self._speaker_transcripts.aclose(
            self._session._budgets.teardown / 2, drain=self._room.isconnected()
        )


__all__ = ["TranslationRoomIO", "TranslationRoomOptions"]
