"""Decodes one utterance after the other. Plain calls that take their time: for a worker thread."""

from __future__ import annotations

from ._endpointing import SAMPLE_RATE
from ._engine import Engine
from ._hypothesis import Hypothesis
from ._search import Search

_GETTING_ACQUAINTED = 1.2
"""Seconds of a stranger's first utterance that are heard before any of it is decoded.

The decoder compares sounds with the speaker's mean. Guessed from nothing, it costs a fifth of
all words in the first utterance and half of that once the mean of a second of speech is known. Later
utterances go on from the mean of those before.
"""

_ACQUAINTED_BYTES = int(_GETTING_ACQUAINTED * SAMPLE_RATE) * 2


class UtteranceDecoder:
    """The decoder of one speaker. Borrows an engine, and leaves it without a trace of the speaker.

    Each utterance is `begin`, any number of `push`, then `finish` or `abandon`.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._acquainted = False
        self._mean_before = engine.initial_mean
        self._held: bytearray | None = None  # heard, not decoded yet
        self._open = False

    def begin(self, search: Search) -> None:
        """Begin an utterance in which `search` is listened for."""
        self.engine.use(search)
        self._mean_before = self.engine.mean() if self._acquainted else self.engine.initial_mean
        self._held = None if self._acquainted else bytearray()
        if self._acquainted:
            self._start()

    def push(self, pcm: bytes) -> Hypothesis:
        """Decode more of the utterance and return the guess so far."""
        if self._held is not None:
            self._held += pcm
            if len(self._held) < _ACQUAINTED_BYTES:
                return Hypothesis()
            pcm = self._get_acquainted()
        self.engine.process(pcm)
        return self.engine.hypothesis()

    def finish(self) -> Hypothesis:
        """End the utterance and return what was said."""
        if self._held is not None:
            self.engine.process(self._get_acquainted())
        result = self._finish()
        if result.words:
            self._acquainted = True
        else:
            # a door or a cough says nothing about the voice
            self.engine.set_mean(self._mean_before)
        return result

    def abandon(self) -> None:
        """Forget the speaker, and the utterance if one is open: the engine is given back."""
        if self._open:
            self._finish()
        self._held = None
        self._acquainted = False
        self.engine.set_mean(self.engine.initial_mean)

    def decode(self, pcm: bytes, search: Search) -> Hypothesis:
        """Decode an utterance that is there as a whole, with its own mean."""
        self.engine.use(search)
        self._start()
        self.engine.process(pcm, whole=True)
        return self._finish()

    def _get_acquainted(self) -> bytes:
        """Take the mean of what is held, begin the utterance with it and return what is held."""
        assert self._held is not None
        pcm, self._held = bytes(self._held), None
        self.engine.set_mean(self.engine.initial_mean)
        self._start()
        self.engine.process(pcm, whole=True, listen_only=True)
        mean = self.engine.mean()
        self._finish()
        self.engine.set_mean(mean)
        self._start()
        return pcm

    def _start(self) -> None:
        self.engine.start()
        self._open = True

    def _finish(self) -> Hypothesis:
        self._open = False
        self.engine.finish()
        return self.engine.hypothesis()
