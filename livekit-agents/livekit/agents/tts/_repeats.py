"""Dropping, from a repeated attempt, the speech that was handed on already."""

from __future__ import annotations

from livekit import rtc

from ._data import SynthesizedAudio


class RepeatTrimmer:
    """Joins the attempts of one `ChunkedStream` into one continuous speech.

    A repeated attempt starts over from the first word, under a new request id. As much audio as was
    handed on before is dropped from its beginning, so the listener doesn't hear words twice.
    """

    def __init__(self) -> None:
        self._request_id: str | None = None
        self._position = 0.0
        self._skip = 0.0

    @property
    def position(self) -> float:
        """Seconds of audio handed on."""
        return self._position

    def trim(self, audio: SynthesizedAudio) -> rtc.AudioFrame | None:
        """The part of `audio` that is new, or None."""
        if audio.request_id != self._request_id:
            self._request_id = audio.request_id
            self._skip = self._position
        frame = audio.frame
        samples = min(round(self._skip * frame.sample_rate), frame.samples_per_channel)
        if samples > 0:
            self._skip -= samples / frame.sample_rate
            if samples == frame.samples_per_channel:
                return None
            frame = rtc.AudioFrame(
                frame.data[samples * frame.num_channels :],
                frame.sample_rate,
                frame.num_channels,
                frame.samples_per_channel - samples,
                userdata=frame.userdata,
            )
        self._position += frame.duration
        return frame
