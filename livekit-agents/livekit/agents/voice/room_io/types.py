"""How a session uses a room: the options, and the two older classes that they replaced."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from livekit import rtc

from ...log import logger
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given

if TYPE_CHECKING:
    from ..agent_session import AgentSession
    from ..io import TextOutput

DEFAULT_CLOSE_ON_DISCONNECT_REASONS: list[rtc.DisconnectReason.ValueType] = [
    rtc.DisconnectReason.CLIENT_INITIATED,
    rtc.DisconnectReason.ROOM_DELETED,
    rtc.DisconnectReason.USER_REJECTED,
]
"""Why the linked participant may have left so that the session closes: they meant to."""


@dataclass
class TextInputEvent:
    """A chat message from the room."""

    text: str
    info: rtc.TextStreamInfo | None = None
    participant: rtc.RemoteParticipant | None = None


TextInputCallback = Callable[
    ["AgentSession[Any]", TextInputEvent], "Coroutine[None, None, None] | None"
]
"""Called with the session and the message; a coroutine that it returns is awaited."""


@dataclass
class NoiseCancellationParams:
    """What a `NoiseCancellationSelector` decides by."""

    participant: rtc.Participant
    track: rtc.Track


NoiseCancellation = rtc.NoiseCancellationOptions | rtc.FrameProcessor[rtc.AudioFrame]
NoiseCancellationSelector = Callable[[NoiseCancellationParams], "NoiseCancellation | None"]
"""Called for every track that is opened; chooses its noise cancellation, or none."""


async def _default_text_input_cb(session: AgentSession[Any], event: TextInputEvent) -> None:
    """Interrupt the agent and let it answer the text."""
    async with session._claim_user_turn():
        try:
            await session.interrupt()
        except RuntimeError:
            pass  # a speech that may not be interrupted: the answer queues up behind it
        session.generate_reply(user_input=event.text)


def _publish_as_microphone() -> rtc.TrackPublishOptions:
    return rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)


@dataclass
class TextInputOptions:
    """Chat messages of the linked participant, on the topic `lk.chat`."""

    text_input_cb: TextInputCallback = _default_text_input_cb


@dataclass
class AudioInputOptions:
    """What the agent hears of the linked participant's microphone."""

    sample_rate: int = 24000
    """Of the frames, in Hz; tracks are resampled to it."""
    num_channels: int = 1
    frame_size_ms: int = 50
    noise_cancellation: (
        rtc.NoiseCancellationOptions
        | NoiseCancellationSelector
        | rtc.FrameProcessor[rtc.AudioFrame]
        | None
    ) = None
    """Options of a native filter, a processor of frames, or a function that chooses one of them
    for each track."""
    auto_gain_control: NotGivenOr[bool] = NOT_GIVEN
    """Even out the loudness. On unless the noise cancellation is known to do it itself."""
    pre_connect_audio: bool = True
    """Hear also what was said before the agent had joined, where the client kept it."""
    pre_connect_audio_timeout: float = 3.0
    """Seconds to wait for that audio before live audio is heard."""


@dataclass
class VideoInputOptions:
    """What the agent sees: camera or shared screen of the linked participant."""


@dataclass
class AudioOutputOptions:
    """The track that the agent speaks on."""

    sample_rate: int = 24000
    num_channels: int = 1
    track_publish_options: rtc.TrackPublishOptions = field(default_factory=_publish_as_microphone)
    track_name: NotGivenOr[str] = NOT_GIVEN
    """`"roomio_audio"` when not given."""


@dataclass
class TextOutputOptions:
    """Transcripts of both sides, for the participants of the room."""

    sync_transcription: NotGivenOr[bool] = NOT_GIVEN
    """Show the agent's words while they are spoken; False shows them as they are generated."""
    transcription_speed_factor: float = 1.0
    next_in_chain: TextOutput | None = None
    """A further sink for the agent's words."""
    json_format: bool = False
    """Send each piece as one line of JSON with its timing."""


@dataclass
class RoomOptions:
    """How a session uses a room. Each direction takes options, True or False."""

    text_input: NotGivenOr[TextInputOptions | bool] = NOT_GIVEN
    audio_input: NotGivenOr[AudioInputOptions | bool] = NOT_GIVEN
    video_input: NotGivenOr[VideoInputOptions | bool] = NOT_GIVEN
    """The only direction that is off unless switched on."""
    audio_output: NotGivenOr[AudioOutputOptions | bool] = NOT_GIVEN
    text_output: NotGivenOr[TextOutputOptions | bool] = NOT_GIVEN
    participant_kinds: NotGivenOr[list[rtc.ParticipantKind.ValueType]] = NOT_GIVEN
    """Kinds that are linked by themselves: people, phones and connectors by default."""
    participant_identity: NotGivenOr[str] = NOT_GIVEN
    """Link with this participant only; with the first suitable one when not given."""
    close_on_disconnect: bool = True
    """Close the session when the linked participant hangs up, or the room is gone."""
    delete_room_on_close: bool = False
    """Delete the room when the session has closed; everyone left in it is disconnected."""
    close_after_absence: float | None = None
    """Seconds after which the session also closes when the linked participant was lost in another
    way (removed, timed out, network failure) and has not come back. None waits as long as the room
    lasts."""

    def __post_init__(self) -> None:
        absence = self.close_after_absence
        if absence is not None and not absence >= 0:
            raise ValueError(f"close_after_absence must be at least 0 seconds, got {absence!r}")

    def get_text_input_options(self) -> TextInputOptions | None:
        """The options for chat messages, or None when they are off."""
        return _on_unless_false(self.text_input, TextInputOptions)

    def get_audio_input_options(self) -> AudioInputOptions | None:
        """The options for hearing, or None when it is off."""
        return _on_unless_false(self.audio_input, AudioInputOptions)

    def get_video_input_options(self) -> VideoInputOptions | None:
        """The options for seeing, or None when it is off."""
        if isinstance(self.video_input, VideoInputOptions):
            return self.video_input
        return VideoInputOptions() if self.video_input is True else None

    def get_audio_output_options(self) -> AudioOutputOptions | None:
        """The options for speaking, or None when it is off."""
        return _on_unless_false(self.audio_output, AudioOutputOptions)

    def get_text_output_options(self) -> TextOutputOptions | None:
        """The options for transcripts, or None when they are off."""
        return _on_unless_false(self.text_output, TextOutputOptions)

    @classmethod
    def _ensure_options(
        cls,
        options: NotGivenOr[RoomOptions],
        *,
        room_input_options: NotGivenOr[RoomInputOptions] = NOT_GIVEN,
        room_output_options: NotGivenOr[RoomOutputOptions] = NOT_GIVEN,
    ) -> RoomOptions:
        """The options that count, out of new and deprecated ones.

        Raises:
            ValueError: `options` is something else.
        """
        if is_given(room_input_options) or is_given(room_output_options):
            logger.warning(
                "RoomInputOptions and RoomOutputOptions are deprecated, use RoomOptions%s",
                "; they are ignored beside the RoomOptions given" if is_given(options) else "",
            )
        if is_given(options):
            if not isinstance(options, RoomOptions):
                raise ValueError(
                    f"room options must be a RoomOptions object, got {type(options).__name__}"
                )
            return options
        resolved = cls()
        if is_given(room_input_options):
            room_input_options._apply_to(resolved)
        if is_given(room_output_options):
            room_output_options._apply_to(resolved)
        return resolved


T = TypeVar("T")


def _on_unless_false(given: Any, kind: type[T]) -> T | None:
    if isinstance(given, kind):
        return given
    return None if given is False else kind()


@dataclass
class RoomInputOptions:
    """Deprecated: use `RoomOptions`."""

    text_enabled: NotGivenOr[bool] = NOT_GIVEN
    audio_enabled: NotGivenOr[bool] = NOT_GIVEN
    video_enabled: NotGivenOr[bool] = NOT_GIVEN
    audio_sample_rate: int = 24000
    audio_num_channels: int = 1
    audio_frame_size_ms: int = 50
    noise_cancellation: (
        rtc.NoiseCancellationOptions
        | NoiseCancellationSelector
        | rtc.FrameProcessor[rtc.AudioFrame]
        | None
    ) = None
    text_input_cb: TextInputCallback = _default_text_input_cb
    participant_kinds: NotGivenOr[list[rtc.ParticipantKind.ValueType]] = NOT_GIVEN
    participant_identity: NotGivenOr[str] = NOT_GIVEN
    pre_connect_audio: bool = True
    pre_connect_audio_timeout: float = 3.0
    close_on_disconnect: bool = True
    delete_room_on_close: bool = False

    def _apply_to(self, options: RoomOptions) -> None:
        options.text_input = self.text_enabled is not False and TextInputOptions(
            text_input_cb=self.text_input_cb
        )
        options.audio_input = self.audio_enabled is not False and AudioInputOptions(
            sample_rate=self.audio_sample_rate,
            num_channels=self.audio_num_channels,
            frame_size_ms=self.audio_frame_size_ms,
            noise_cancellation=self.noise_cancellation,
            pre_connect_audio=self.pre_connect_audio,
            pre_connect_audio_timeout=self.pre_connect_audio_timeout,
        )
        options.video_input = self.video_enabled
        options.participant_kinds = self.participant_kinds
        options.participant_identity = self.participant_identity
        options.close_on_disconnect = self.close_on_disconnect
        options.delete_room_on_close = self.delete_room_on_close


@dataclass
class RoomOutputOptions:
    """Deprecated: use `RoomOptions`."""

    transcription_enabled: NotGivenOr[bool] = NOT_GIVEN
    audio_enabled: NotGivenOr[bool] = NOT_GIVEN
    audio_sample_rate: int = 24000
    audio_num_channels: int = 1
    audio_publish_options: rtc.TrackPublishOptions = field(default_factory=_publish_as_microphone)
    audio_track_name: NotGivenOr[str] = NOT_GIVEN
    sync_transcription: NotGivenOr[bool] = NOT_GIVEN
    transcription_speed_factor: float = 1.0

    def _apply_to(self, options: RoomOptions) -> None:
        options.audio_output = self.audio_enabled is not False and AudioOutputOptions(
            sample_rate=self.audio_sample_rate,
            num_channels=self.audio_num_channels,
            track_publish_options=self.audio_publish_options,
            track_name=self.audio_track_name,
        )
        options.text_output = self.transcription_enabled is not False and TextOutputOptions(
            sync_transcription=self.sync_transcription,
            transcription_speed_factor=self.transcription_speed_factor,
        )


__all__ = [
    "DEFAULT_CLOSE_ON_DISCONNECT_REASONS",
    "AudioInputOptions",
    "AudioOutputOptions",
    "NoiseCancellationParams",
    "NoiseCancellationSelector",
    "RoomInputOptions",
    "RoomOptions",
    "RoomOutputOptions",
    "TextInputCallback",
    "TextInputEvent",
    "TextInputOptions",
    "TextOutputOptions",
    "VideoInputOptions",
]
