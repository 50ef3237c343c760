"""`IVRActivity`: lets an agent press keys, and gets it going when a phone menu repeats or waits."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from ...log import logger

if TYPE_CHECKING:
    from ...llm import Tool, Toolset
    from ..agent_session import AgentSession
    from ..events import UserInputTranscribedEvent

__all__ = ["IVRActivity", "TfidfLoopDetector"]

_WORD = re.compile(r"\b\w\w+\b")


class IVRActivity:
    """Helps the agent of a session through a phone menu, until it is closed.

    Args:
        session: A session that runs, or starts.
        max_silence_duration: Seconds after which the agent is asked to act when both are silent.
    """

    def __init__(self, session: AgentSession[Any], *, max_silence_duration: float = 5.0) -> None:
        self._session = session
        self._max_silence = max_silence_duration
        self._loops = TfidfLoopDetector()
        self._timer: asyncio.TimerHandle | None = None
        self._silent = False
        self._started = False
        self._tools: list[Tool | Toolset] | None = None

    @property
    def tools(self) -> list[Tool | Toolset]:
        """What an agent needs for a menu: a tool that presses keys."""
        if self._tools is None:
            from ...beta.tools.send_dtmf import send_dtmf_events

            self._tools = [send_dtmf_events]
        return list(self._tools)

    async def start(self) -> None:
        """Give the session the tools and begin to watch. A second start only warns."""
        self.begin()

    def begin(self, transcript: str = "") -> None:
        """As `start`. `transcript` is what the menu has said so far."""
        session = self._session
        if self._started:
            logger.warning("IVR detection is started already")
            return
        self._started = True
        self._tools = [tool for tool in self.tools if tool not in session._tools]
        session._tools.extend(self._tools)
        session.on("user_input_transcribed", self._on_transcript)
        session.on("user_state_changed", self._on_state)
        session.on("agent_state_changed", self._on_state)
        if transcript:
            self._hear(transcript)
        self._on_state()

    async def aclose(self) -> None:
        """Stop watching and take the tools back. Idempotent; waits for nothing."""
        if not self._started:
            return
        self._started = False
        session = self._session
        session.off("user_input_transcribed", self._on_transcript)
        session.off("user_state_changed", self._on_state)
        session.off("agent_state_changed", self._on_state)
        self._stop_timer()
        self._loops.reset()
        for tool in self._tools or ():
            if tool in session._tools:
                session._tools.remove(tool)
        self._tools = None
        if session._ivr_activity is self:
            session._ivr_activity = None

    # -- loops and silence --------------------------------------------------------------------------

    def _on_transcript(self, ev: UserInputTranscribedEvent) -> None:
        if ev.is_final:
            self._hear(ev.transcript)

    def _hear(self, text: str) -> None:
        self._loops.add_chunk(text)
        if self._loops.check_loop_detection():
            self._loops.reset()
            logger.debug("the phone menu repeats itself")
            self._prompt_agent(allow_interruptions=False)

    def _on_state(self, ev: object = None) -> None:
        session = self._session
        silent = session.user_state in ("listening", "away") and session.agent_state in (
            "idle",
            "listening",
        )
        if silent is self._silent:
            return
        self._silent = silent
        self._stop_timer(keep_state=True)
        if silent:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._max_silence, self._on_silence)

    def _on_silence(self) -> None:
        self._timer = None
        self._prompt_agent()

    def _stop_timer(self, *, keep_state: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not keep_state:
            self._silent = False

    def _prompt_agent(self, **options: Any) -> None:
        if self._session._is_closing:
            return
        try:
            self._session.generate_reply(**options)
        except RuntimeError as error:  # between two agents, or the end has come meanwhile
            logger.debug("the agent can't act on the phone menu: %s", error)


class TfidfLoopDetector:
    """Notices that somebody says the same again and again, by the words that are used.

    Args:
        window_size: How many chunks to look back on.
        similarity_threshold: Cosine above which two chunks are alike, from 0 to 1.
        consecutive_threshold: How many chunks in a row make a loop.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        window_size: int = 20,
        similarity_threshold: float = 0.85,
        consecutive_threshold: int = 3,
    ) -> None:
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1, got {window_size}")
        if not 0.0 <= similarity_threshold <= 1.0:
            raise ValueError(f"similarity_threshold goes from 0 to 1, got {similarity_threshold}")
        if consecutive_threshold < 1:
            raise ValueError(f"consecutive_threshold must be at least 1: {consecutive_threshold}")
        self._threshold = similarity_threshold
        self._consecutive = consecutive_threshold
        self._chunks: deque[Counter[str]] = deque(maxlen=window_size)
        self._alike = 0

    def reset(self) -> None:
        """Forget everything."""
        self._chunks.clear()
        self._alike = 0

    def add_chunk(self, chunk: str) -> None:
        """Add what was said last."""
        self._chunks.append(Counter(_WORD.findall(chunk.lower())))

    def check_loop_detection(self) -> bool:
        """Compare the last chunk with the earlier ones; call it once per chunk.

        Returns:
            Whether so many in a row were like an earlier one that it is a loop.
        """
        if len(self._chunks) < 2 or not any(self._chunks):
            return False
        vectors = self._vectors()
        last = vectors.pop()
        similarity = max(sum(w * other.get(t, 0.0) for t, w in last.items()) for other in vectors)
        self._alike = self._alike + 1 if similarity > self._threshold else 0
        return self._alike >= self._consecutive

    def _vectors(self) -> list[dict[str, float]]:
        """TF-IDF vectors of length 1, with smoothed document frequencies."""
        frequency = Counter(term for chunk in self._chunks for term in chunk)
        total = len(self._chunks)
        vectors = []
        for chunk in self._chunks:
            weights = {
                term: count * (math.log((1 + total) / (1 + frequency[term])) + 1)
                for term, count in chunk.items()
            }
            norm = math.sqrt(sum(weight * weight for weight in weights.values())) or 1.0
            vectors.append({term: weight / norm for term, weight in weights.items()})
        return vectors
