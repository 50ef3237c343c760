"""`session.input` and `session.output`: what is plugged in, and what is switched on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...log import logger
from .audio_output import AudioOutput, _AudioSinkProxy
from .inputs import AudioInput, VideoInput
from .outputs import TextOutput, VideoOutput


class _Attachments:
    """Slots that hold inputs or outputs, attach and detach them, and can be switched off."""

    def __init__(self, changed: dict[str, Callable[[], None]]) -> None:
        self._changed = changed
        self._values: dict[str, Any] = dict.fromkeys(changed)
        self._enabled = dict.fromkeys(changed, True)

    def _set(self, name: str, value: Any) -> None:
        old = self._values[name]
        if value is old:
            return
        if old is not None:
            old.on_detached()
        self._values[name] = value
        self._changed[name]()
        if value is not None:
            value.on_attached() if self._enabled[name] else value.on_detached()

    def _set_enabled(self, name: str, enabled: bool) -> bool:
        """Returns whether the flag changed."""
        value = self._values[name]
        if enabled and value is None:
            logger.warning("%s is switched on, but there is none", name)
        if enabled == self._enabled[name]:
            return False
        self._enabled[name] = enabled
        return True

    def _apply_enabled(self, name: str) -> None:
        value = self._values[name]
        if value is not None:
            value.on_attached() if self._enabled[name] else value.on_detached()

    def _detach(self, name: str) -> Any:
        """Let go of one at a close: it is gone whatever its `on_detached` does or raises.

        Returns:
            What `on_detached` returned; an awaitable is the caller's to await.
        """
        old, self._values[name] = self._values[name], None
        self._changed[name]()
        return old.on_detached() if old is not None else None


class AgentInput(_Attachments):
    """What the session hears and sees. Assign `audio` and `video` at any time."""

    def __init__(
        self,
        video_changed: Callable[[], None],
        audio_changed: Callable[[], None],
        audio_enabled_cb: Callable[[bool], None] | None = None,
    ) -> None:
        """Made by the session.

        Args:
            video_changed: Called when another source of video was set.
            audio_changed: Called when another source of audio was set.
            audio_enabled_cb: Called with the new value when audio was switched on or off.
        """
        super().__init__({"audio": audio_changed, "video": video_changed})
        self._audio_enabled_cb = audio_enabled_cb

    @property
    def audio(self) -> AudioInput | None:
        """The audio source, or None."""
        return self._values["audio"]  # type: ignore[no-any-return]

    @audio.setter
    def audio(self, source: AudioInput | None) -> None:
        self._set("audio", source)

    @property
    def video(self) -> VideoInput | None:
        """The video source, or None."""
        return self._values["video"]  # type: ignore[no-any-return]

    @video.setter
    def video(self, source: VideoInput | None) -> None:
        self._set("video", source)

    @property
    def audio_enabled(self) -> bool:
        """Whether audio is listened to."""
        return self._enabled["audio"]

    @property
    def video_enabled(self) -> bool:
        """Whether video is watched."""
        return self._enabled["video"]

    def set_audio_enabled(self, enable: bool) -> None:
        """Mute or unmute; muting ends the user's speech."""
        if self._set_enabled("audio", enable):
            if self._audio_enabled_cb is not None:
                self._audio_enabled_cb(enable)
            self._apply_enabled("audio")

    def set_video_enabled(self, enable: bool) -> None:
        """Stop or resume watching."""
        if self._set_enabled("video", enable):
            self._apply_enabled("video")


class AgentOutput(_Attachments):
    """Where the session speaks, writes and shows. A change counts from the next reply step."""

    def __init__(
        self,
        video_changed: Callable[[], None],
        audio_changed: Callable[[], None],
        transcription_changed: Callable[[], None],
    ) -> None:
        """Made by the session.

        Args:
            video_changed: Called when another sink was set, like the others.
            audio_changed: For audio.
            transcription_changed: For the transcript.
        """
        super().__init__(
            {
                "audio": audio_changed,
                "transcription": transcription_changed,
                "video": video_changed,
            }
        )

    @property
    def audio(self) -> AudioOutput | None:
        """The audio sink, or None."""
        return self._values["audio"]  # type: ignore[no-any-return]

    @audio.setter
    def audio(self, sink: AudioOutput | None) -> None:
        self._set("audio", sink)

    @property
    def transcription(self) -> TextOutput | None:
        """The transcript sink, or None."""
        return self._values["transcription"]  # type: ignore[no-any-return]

    @transcription.setter
    def transcription(self, sink: TextOutput | None) -> None:
        self._set("transcription", sink)

    @property
    def video(self) -> VideoOutput | None:
        """The video sink, or None."""
        return self._values["video"]  # type: ignore[no-any-return]

    @video.setter
    def video(self, sink: VideoOutput | None) -> None:
        self._set("video", sink)

    @property
    def audio_enabled(self) -> bool:
        """Whether the agent speaks."""
        return self._enabled["audio"]

    @property
    def transcription_enabled(self) -> bool:
        """Whether the transcript is written."""
        return self._enabled["transcription"]

    @property
    def video_enabled(self) -> bool:
        """Whether video is shown."""
        return self._enabled["video"]

    def set_audio_enabled(self, enabled: bool) -> None:
        """Switch the voice off or on; off, the agent answers in text."""
        if self._set_enabled("audio", enabled):
            self._apply_enabled("audio")

    def set_transcription_enabled(self, enabled: bool) -> None:
        """Switch the transcript off or on."""
        if self._set_enabled("transcription", enabled):
            self._apply_enabled("transcription")

    def set_video_enabled(self, enabled: bool) -> None:
        """Switch the video off or on."""
        if self._set_enabled("video", enabled):
            self._apply_enabled("video")

    def replace_audio_tail(self, sink: AudioOutput) -> None:
        """Play to `sink` instead of the present leaf, leaving the wrappers around it in place."""
        current = self.audio
        while current is not None:
            if isinstance(current, _AudioSinkProxy):
                current.set_leaf(sink)
                return
            current = current.next_in_chain
        self.audio = sink
