"""What a recognition stream knows, from one connection to the next. No I/O, no clock of its own."""

from __future__ import annotations

import functools
import math
from collections import deque
from dataclasses import replace

from ..language import LanguageCode
from ..stt.types import RecognitionUsage, SpeechData, SpeechEvent, SpeechEventType
from ..types import TimedString
from ._errors import ConnectionState, Phase
from ._protocol.stt import (
    ServerMessage,
    SessionFinalized,
    StartOfSpeech,
    Transcript,
    TranscriptKind,
    Word,
)
from ._spoken_audio import ALIGNMENT_SLACK, SpeechGate, SpokenAudio

FINALIZATION_TIMEOUT = 30.0
"""Seconds to wait for transcripts after the end of the input."""

FINAL_TRANSCRIPT_INACTIVITY_TIMEOUT = 3.0
"""Seconds to wait for further ones when a final transcript has come."""

_FINALIZED_TIMEOUT = 1.0
_PREROLL = 0.5
"""Seconds of audio before the onset of speech that go with it: the onset is found late."""

_NOTICED_AFTER = 1.0
_MIN_STALLED_SPEECH = 0.3
"""Seconds of sound without an answer that make a silent server suspicious: a short word."""

_PROMPT_ANSWER = 5.0
"""Seconds of speech, and of waiting, by which a server that comments on speech while it goes on has
said something."""

_REPETITION_WINDOW = 0.1

_KINDS = {
    TranscriptKind.INTERIM: SpeechEventType.INTERIM_TRANSCRIPT,
    TranscriptKind.PREFLIGHT: SpeechEventType.PREFLIGHT_TRANSCRIPT,
    TranscriptKind.FINAL: SpeechEventType.FINAL_TRANSCRIPT,
}


class SttSession:
    """Turns messages into speech events and keeps account of what was answered.

    Moments (`now`) are on the caller's monotonic clock; audio is counted in seconds since the first
    sample of the connection.

    Args:
        language: Of transcripts that don't say.
        request_id: Of events that don't say.
        stall_timeout: Seconds of silence of the server that unanswered speech makes suspicious.
        replayed_speech: Seconds of speech that the next connection could be given; None if it gets
            nothing.
    """

    def __init__(
        self,
        *,
        language: str | None,
        request_id: str,
        stall_timeout: float,
        replayed_speech: float | None = None,
    ) -> None:
        self.language = language
        self.request_id = request_id
        self._stall_timeout = stall_timeout
        self._most_unheeded = (
            math.inf if replayed_speech is None else max(_PROMPT_ANSWER, replayed_speech / 2)
        )
        self._comments = False
        self._given_up = False
        self.speaking = False
        """Between START_OF_SPEECH and END_OF_SPEECH."""
        self._unbilled = 0.0
        self._since_final = 0.0
        self.connected(now=0.0)

    # -- a connection -----------------------------------------------------------------------------

    def connected(self, *, now: float) -> None:
        """A new connection is up."""
        self._gate = SpeechGate()
        self._spoken = SpokenAudio()
        self._sent = 0.0
        self._connected_at = now
        self._heard_at = now
        self._speech_at: float | None = None
        self._speaking_since: float | None = 0.0 if self.speaking else None
        self._finalize_at: float | None = None
        self._input_ended_at: float | None = None
        self._transcript_at = now
        self._final_seen = False
        self._finalized = False
        self._unheeded = 0.0
        self._guess: Transcript | None = None
        self._guessed_until = 0.0
        self._finals: deque[tuple[float, float, str]] = deque(maxlen=16)
        self._last_final_text = ""

    def sent(self, seconds: float, level: float, *, now: float, replayed: bool = False) -> None:
        """Audio went out.

        Args:
            seconds: Its length, a fraction of a second.
            level: Its loudness.
            now: The moment.
            replayed: It had been sent on an earlier connection.
        """
        if self._gate.hears(level, seconds):
            if not self._spoken.pending:
                self._speech_at = now
            self._spoken.add(self._sent, seconds)
            self._unheeded += seconds
        elif self._gate.got_used:
            self._spoken.dismiss(self._sent - self._gate.steady - seconds)
        self._sent += seconds
        self._since_final += seconds
        if not replayed:
            self._unbilled += seconds

    def finalizing(self) -> None:
        """A finalize goes out."""
        self._finalize_at = self._sent
        self._finalized = False

    def input_ended(self, *, now: float) -> None:
        """Everything went out, the last finalize included."""
        self._input_ended_at = now

    def state(self, *, now: float) -> ConnectionState:
        """What decides what an end of the connection means."""
        draining = self._input_ended_at is not None
        return ConnectionState(
            phase=Phase.DRAINING if draining else Phase.OPEN,
            age=now - self._connected_at,
            speech_pending=self.speech_pending,
        )

    # -- deadlines --------------------------------------------------------------------------------

    @property
    def drained_at(self) -> float | None:
        """When to stop waiting for transcripts; None while there is input."""
        if self._input_ended_at is None:
            return None
        patience = FINALIZATION_TIMEOUT
        if self._finalized and not self.speech_pending:
            patience = _FINALIZED_TIMEOUT
        elif self._final_seen:
            patience = FINAL_TRANSCRIPT_INACTIVITY_TIMEOUT
        return max(self._input_ended_at, self._transcript_at) + patience

    @property
    def stalled_at(self) -> float | None:
        """When a server that has speech to answer for and says nothing is to be given up."""
        if self._speech_at is None or self._spoken.amount < _MIN_STALLED_SPEECH:
            return None
        unheeded = self._comments and not self._given_up and self._unheeded >= self._most_unheeded
        patience = _PROMPT_ANSWER if unheeded else self._stall_timeout
        return max(self._speech_at, self._heard_at) + patience

    def give_up(self) -> None:
        """The server is silent for too long.

        Until it has transcribed something it is not suspected early again: perhaps what we take for
        speech is none.
        """
        self._given_up = True

    # -- what to send again -----------------------------------------------------------------------

    @property
    def speech_pending(self) -> bool:
        """Whether there is speech that no final transcript has covered."""
        self._spoken.expire(self._sent)
        return self.speaking or self._spoken.pending

    @property
    def covered(self) -> float:
        """Up to where a transcript, or the server's word, answers for the audio."""
        return self._spoken.covered

    @property
    def replay_from(self) -> float:
        """Where the audio begins that the next connection needs."""
        onsets = [self._spoken.onset, self._speaking_since]
        start = min([onset for onset in onsets if onset is not None], default=self._sent)
        return max(self.covered, start - _PREROLL)

    def rescue(self, kept_from: float, *, offset: float) -> list[SpeechEvent]:
        """The connection is over, and the audio before `kept_from` is gone: what had been heard of it?

        Afterwards `covered` is where the words end that are returned as a final transcript. They are
        those of the last one that was not final; without word timings, all of it.

        Args:
            kept_from: Seconds since the connection's first sample.
            offset: As for `receive`.
        """
        guess, self._guess = self._guess, None
        if guess is None or kept_from <= self.replay_from + ALIGNMENT_SLACK:
            return []
        heard = _beginning(guess, self._guessed_until, before=kept_from)
        end = heard.start + heard.duration
        if not heard.text or end <= self.covered:
            return []
        self._spoken.cover(end)
        return [*self._usage(guess.request_id or self.request_id), self._event(heard, offset)]

    def stop_speaking(self) -> list[SpeechEvent]:
        """The END_OF_SPEECH that is due when nothing more will come of what was being said."""
        if not self.speaking:
            return []
        self.speaking = False
        self._speaking_since = None
        return [SpeechEvent(SpeechEventType.END_OF_SPEECH, request_id=self.request_id)]

    # -- messages ---------------------------------------------------------------------------------

    def receive(self, message: ServerMessage, *, offset: float, now: float) -> list[SpeechEvent]:
        """Take a message; returns the events it makes.

        Args:
            message: Errors and the end of the session are the caller's matter.
            offset: Of the connection's first sample on the time line of the stream, in seconds.
            now: The moment.
        """
        self._heard_at = now
        self._unheeded = 0.0
        if isinstance(message, StartOfSpeech):
            self._comments = True
            return self._start(message.request_id)
        if isinstance(message, SessionFinalized):
            self._finalized = True
            if self._finalize_at is not None:
                self._cover(self._finalize_at, now)
            return []
        if not isinstance(message, Transcript):
            return []
        self._transcript_at = now
        self._given_up = False
        if message.kind is TranscriptKind.FINAL:
            return self._final(message, offset, now)
        self._comments = True
        if message.text:
            self._guess, self._guessed_until = message, self._sent
        if not message.text or (message.kind is TranscriptKind.PREFLIGHT and not self.speaking):
            return []
        start = [] if message.kind is TranscriptKind.PREFLIGHT else self._start(message.request_id)
        return [*start, self._event(message, offset)]

    def _start(self, request_id: str | None) -> list[SpeechEvent]:
        if self.speaking:
            return []
        self.speaking = True
        self._speaking_since = max(self.covered, self._sent - _NOTICED_AFTER)
        return [
            SpeechEvent(SpeechEventType.START_OF_SPEECH, request_id=request_id or self.request_id)
        ]

    def _final(self, message: Transcript, offset: float, now: float) -> list[SpeechEvent]:
        self._final_seen = True
        if self._is_repetition(message):
            return []
        request_id = message.request_id or self.request_id
        events = [*self._start(message.request_id), *self._usage(request_id)]
        self._guess = None
        self._cover(message.start + message.duration if message.duration > 0 else self._sent, now)
        self._since_final = 0.0
        self.speaking = False
        self._speaking_since = None
        events.append(self._event(message, offset))
        events.append(SpeechEvent(SpeechEventType.END_OF_SPEECH, request_id=request_id))
        return events

    def _usage(self, request_id: str) -> list[SpeechEvent]:
        if self._unbilled <= 0:
            return []
        usage = RecognitionUsage(audio_duration=self._unbilled)
        self._unbilled = 0.0
        return [
            SpeechEvent(
                SpeechEventType.RECOGNITION_USAGE, request_id=request_id, recognition_usage=usage
            )
        ]

    def _is_repetition(self, message: Transcript) -> bool:
        """Whether the server says a final transcript twice."""
        if not message.text:
            return False
        if message.duration > 0:
            key = (round(message.start, 2), round(message.duration, 2), message.text)
            repeated = key in self._finals
            self._finals.append(key)
        else:
            repeated = (
                message.text == self._last_final_text and self._since_final <= _REPETITION_WINDOW
            )
        self._last_final_text = message.text
        return repeated

    def _cover(self, until: float, now: float) -> None:
        self._spoken.cover(min(until, self._sent))
        self._speech_at = now if self._spoken.pending else None

    def _event(self, message: Transcript, offset: float) -> SpeechEvent:
        data = SpeechData(
            language=_language(message.language or self.language or "en"),
            text=message.text,
            start_time=offset + message.start,
            end_time=offset + message.start + message.duration,
            confidence=message.confidence,
            speaker_id=message.speaker_id,
            words=None
            if message.words is None
            else [_timed(word, offset) for word in message.words],
            metadata=dict(message.extra) if message.extra else None,
        )
        return SpeechEvent(
            _KINDS[message.kind],
            request_id=message.request_id or self.request_id,
            alternatives=[data],
        )


def _beginning(guess: Transcript, guessed_until: float, *, before: float) -> Transcript:
    """The words of a transcript that begin before a moment, as a final one."""
    guess = replace(guess, kind=TranscriptKind.FINAL)
    if not guess.words:
        length = guess.duration if guess.duration > 0 else guessed_until - guess.start
        return replace(guess, duration=length)
    words = tuple(word for word in guess.words if word.start < before)
    if not words:
        return replace(guess, text="")
    text = guess.text
    if len(words) < len(guess.words):
        text = (" " if " " in text else "").join(word.text for word in words)
    return replace(guess, text=text, duration=words[-1].end - guess.start, words=words)


def _timed(word: Word, offset: float) -> TimedString:
    text, start, end, confidence, speaker = word
    return TimedString(text, offset + start, offset + end, confidence, offset, speaker)


@functools.lru_cache(maxsize=64)
def _language(code: str) -> LanguageCode:
    return LanguageCode(code)
