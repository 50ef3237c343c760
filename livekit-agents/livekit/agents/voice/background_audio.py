"""Sounds behind the agent's voice: an office, a keyboard while it thinks, music on hold."""

from __future__ import annotations

import asyncio
import enum
import random
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from livekit import rtc

from ..log import logger
from ..types import NOT_GIVEN, NotGivenOr
from ..utils import is_given
from ..utils.aio import TaskScope
from ..utils.audio import audio_frames_from_file
from ._sounds import SAMPLE_RATE, Gain, Sound
from .room_io._native import answer

if TYPE_CHECKING:
    from .agent_session import AgentSession
    from .events import AgentStateChangedEvent

TRACK_NAME = "background_audio"

NATIVE_TIMEOUT = 2.0
"""Seconds for a native call at the end."""

PUBLISH_TIMEOUT = 15.0


class BuiltinAudioClip(enum.Enum):
    """Sounds that come with the package."""

    CITY_AMBIENCE = "city-ambience.ogg"
    FOREST_AMBIENCE = "forest-ambience.ogg"
    OFFICE_AMBIENCE = "office-ambience.ogg"
    CROWDED_ROOM = "crowded-room.ogg"
    KEYBOARD_TYPING = "keyboard-typing.ogg"
    KEYBOARD_TYPING2 = "keyboard-typing2.ogg"
    HOLD_MUSIC = "hold_music.ogg"

    def path(self) -> str:
        """The file."""
        return str(Path(__file__).parents[1] / "resources" / self.value)


AudioSource = AsyncIterator[rtc.AudioFrame] | str | BuiltinAudioClip
"""Frames of any format, the path of an audio file, or a clip."""


class AudioConfig(NamedTuple):
    """A sound and how to play it."""

    source: AudioSource
    volume: float = 1.0
    """Factor on the samples."""
    probability: float = 1.0
    """How likely it is chosen out of a list. Less than 1 in all leaves a chance of silence."""
    fade_in: float = 0.0
    """Seconds."""
    fade_out: float = 0.0
    """Seconds, from `PlayHandle.stop`."""


class PlayHandle:
    """A sound that plays. Await it, or `wait_for_playout`, for its end."""

    def __init__(self, fade_out: float = 0.0) -> None:
        self._fade_out = fade_out
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gain: Gain | None = None

    def done(self) -> bool:
        """Whether it has ended, was stopped and has faded out, failed, or the player closed."""
        return self._done.done()

    def stop(self) -> None:
        """End it, after its fade-out if it has one. Idempotent."""
        if self._fade_out > 0 and self._gain is not None:
            self._gain.stop()
        else:
            self._mark_done()

    async def wait_for_playout(self) -> None:
        """Return when it is done."""
        await asyncio.wait((self._done,))

    def __await__(self) -> Generator[Any, None, PlayHandle]:
        async def wait() -> PlayHandle:
            await self.wait_for_playout()
            return self

        return wait().__await__()

    def _mark_done(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


Sounds = AudioSource | AudioConfig | list[AudioConfig]


class BackgroundAudioPlayer:
    """Plays sounds on a track of its own, beside the agent's voice.

    It is started beside the session, and ends with it, or with `aclose`.
    """

    def __init__(
        self,
        *,
        ambient_sound: NotGivenOr[AudioSource | AudioConfig | list[AudioConfig] | None] = NOT_GIVEN,
        thinking_sound: NotGivenOr[
            AudioSource | AudioConfig | list[AudioConfig] | None
        ] = NOT_GIVEN,
        stream_timeout_ms: int = 200,
    ) -> None:
        """Choose the sounds; nothing plays before `start`.

        Args:
            ambient_sound: Plays all the time; files and clips are looped.
            thinking_sound: Plays while the agent thinks.
            stream_timeout_ms: How long the mixer waits for a sound that doesn't deliver.
        """
        self._ambient = ambient_sound if is_given(ambient_sound) else None
        self._thinking = thinking_sound if is_given(thinking_sound) else None
        self._stream_timeout_ms = stream_timeout_ms
        self.publication: rtc.LocalTrackPublication | None = None
        self._scope = TaskScope("background audio")
        self._ending = TaskScope("background audio's end")
        self._room: rtc.Room | None = None
        self._session: AgentSession[Any] | None = None
        self._source: rtc.AudioSource | None = None
        self._mixer: rtc.AudioMixer | None = None
        self._playing: dict[Sound, PlayHandle] = {}
        self._thinking_handle: PlayHandle | None = None

    # -- playing ----------------------------------------------------------------------------------

    def play(self, audio: Sounds, *, loop: bool = False) -> PlayHandle:
        """Play a sound.

        Args:
            audio: The sound, or a list out of which one is chosen by probability, or none.
            loop: Start over at the end; for files and clips.

        Raises:
            RuntimeError: The player is not started.
            ValueError: `loop` is set for a stream of frames, which has no beginning to return to.
        """
        if self._source is None:
            raise RuntimeError("the background audio player is not started: call start() first")
        config = _choose(audio)
        if config is None:
            silent = PlayHandle()
            silent._mark_done()
            return silent
        source = config.source
        named = isinstance(source, (str, BuiltinAudioClip))
        if loop and not named:
            raise ValueError("a stream of frames can't be looped; pass a file or a clip")
        handle = PlayHandle(config.fade_out)
        handle._gain = Gain(config.volume, config.fade_in, config.fade_out)
        sound = Sound(
            (lambda: _open_file(source)) if named else (lambda: source),  # type: ignore[arg-type, return-value]
            gain=handle._gain,
            loop=loop,
            on_end=handle._mark_done,
        )
        self._playing[sound] = handle
        self._mix(sound)
        self._scope.spawn(self._until_done(sound, handle), name="background sound")
        return handle

    def _mix(self, sound: Sound) -> None:
        if self._mixer is None:
            # lives only while something plays: idle, it would look for streams all the time
            self._mixer = rtc.AudioMixer(
                SAMPLE_RATE,
                1,
                blocksize=SAMPLE_RATE // 10,
                capacity=1,
                stream_timeout_ms=self._stream_timeout_ms,
            )
            assert self._source is not None
            mixing = self._scope.spawn(
                _forward(self._mixer, self._source), name="mix background audio"
            )
            mixing.add_done_callback(lambda _, mixer=self._mixer: self._end_mixer(mixer))  # type: ignore[misc]
        self._mixer.add_stream(sound)

    def _end_mixer(self, mixer: rtc.AudioMixer) -> None:
        self._ending.spawn(mixer.aclose(), name="close the mixer")

    async def _until_done(self, sound: Sound, handle: PlayHandle) -> None:
        await handle.wait_for_playout()
        self._playing.pop(sound, None)
        mixer = self._mixer
        if mixer is not None:
            mixer.remove_stream(sound)
            if not self._playing:
                self._mixer = None
                mixer.end_input()
        await sound.aclose()

    # -- the start --------------------------------------------------------------------------------

    async def start(
        self,
        *,
        room: rtc.Room,
        agent_session: NotGivenOr[AgentSession[Any]] = NOT_GIVEN,
        track_publish_options: NotGivenOr[rtc.TrackPublishOptions] = NOT_GIVEN,
    ) -> None:
        """Publish the track, and play the ambient sound. A failed start leaves nothing behind.

        Args:
            room: The room, connected.
            agent_session: Whose thinking is heard, and with whose close the player ends.
            track_publish_options: How to publish the track.

        Raises:
            RuntimeError: It is started already.
            Exception: The track could not be published.
        """
        from .session_start import current_job

        if self._source is not None:
            raise RuntimeError("the background audio player is started already")
        job = current_job()
        if job is not None and job.is_fake_job():
            logger.warning("there is no room behind this job: background audio is not heard")
            return
        self._scope = TaskScope("background audio")
        self._room = room
        source = self._source = rtc.AudioSource(SAMPLE_RATE, 1, queue_size_ms=400)
        options = track_publish_options if is_given(track_publish_options) else None
        try:
            track = rtc.LocalAudioTrack.create_audio_track(TRACK_NAME, source)
            self.publication = await answer(
                self._scope,
                room.local_participant.publish_track(track, options or rtc.TrackPublishOptions()),
                PUBLISH_TIMEOUT,
                name="publish background audio",
            )
        except BaseException:
            self._source = None
            await source.aclose()
            raise
        if is_given(agent_session):
            self._session = agent_session
            agent_session.on("agent_state_changed", self._on_agent_state)
            agent_session.on("close", self._on_session_close)
        if self._ambient is not None:
            config = _choose(self._ambient)
            if config is not None:
                self.play(config, loop=isinstance(config.source, (str, BuiltinAudioClip)))

    def _on_agent_state(self, event: AgentStateChangedEvent) -> None:
        if self._thinking is None:
            return
        handle = self._thinking_handle
        if event.new_state != "thinking":
            if handle is not None:
                handle.stop()
        elif handle is None or handle.done():
            self._thinking_handle = self.play(self._thinking)

    # -- the end ----------------------------------------------------------------------------------

    def _on_session_close(self, event: object) -> None:
        self._ending.spawn(self.aclose(), name="end background audio")

    async def aclose(self) -> None:
        """End all sounds and unpublish the track. It can be started again. Idempotent, bounded.

        Joins an end that is under way.
        """
        source, self._source = self._source, None
        if source is None:
            await self._ending.join(2 * NATIVE_TIMEOUT)
            return
        if self._session is not None:
            self._session.off("agent_state_changed", self._on_agent_state)
            self._session.off("close", self._on_session_close)
            self._session = None
        mixer, self._mixer = self._mixer, None
        playing, self._playing = self._playing, {}
        for sound, handle in playing.items():
            handle._mark_done()
            if mixer is not None:
                mixer.remove_stream(sound)
        try:
            for sound in playing:
                await self._bounded(sound.aclose(), "close a background sound")
        finally:
            self._scope.cancel_soon()
        await self._scope.cancel(0.5)
        await asyncio.sleep(0)  # the mixer is closed by what has ended now
        await self._ending.join(NATIVE_TIMEOUT)
        await source.aclose()
        await self._unpublish()

    async def _unpublish(self) -> None:
        room, self._room, self.publication = self._room, None, None
        if room is None or not room.isconnected():
            return  # an unpublish would never be answered
        local = room.local_participant
        for publication in list(local.track_publications.values()):
            if publication.name == TRACK_NAME:  # its sid changes with a full reconnect
                await self._bounded(local.unpublish_track(publication.sid), "unpublish")

    async def _bounded(self, call: Any, name: str) -> None:
        try:
            await answer(self._ending, call, NATIVE_TIMEOUT, name=name)
        except Exception as error:
            logger.warning("background audio: %s failed: %s", name, error)


async def _forward(mixer: rtc.AudioMixer, source: rtc.AudioSource) -> None:
    async for frame in mixer:
        await source.capture_frame(frame)


def _open_file(source: str | BuiltinAudioClip) -> AsyncIterator[rtc.AudioFrame]:
    path = source.path() if isinstance(source, BuiltinAudioClip) else source
    return audio_frames_from_file(path, sample_rate=SAMPLE_RATE, num_channels=1)


def _choose(audio: Sounds) -> AudioConfig | None:
    """One sound, by probability; maybe none."""
    if not isinstance(audio, list):
        return audio if isinstance(audio, AudioConfig) else AudioConfig(audio)
    total = sum(config.probability for config in audio)
    if total <= 0 or (total < 1 and random.random() >= total):
        return None
    return random.choices(audio, weights=[config.probability for config in audio])[0]


__all__ = [
    "AudioConfig",
    "AudioSource",
    "BackgroundAudioPlayer",
    "BuiltinAudioClip",
    "PlayHandle",
]
