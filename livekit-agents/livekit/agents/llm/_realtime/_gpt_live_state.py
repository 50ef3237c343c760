"""What a GPT-Live session has to keep in mind: the user's turn, open calls, the history. No I/O."""

from __future__ import annotations

from collections import deque

from ..chat_context import ChatItem, ChatMessage, FunctionCall
from .gpt_live_codec import message
from .gpt_live_types import InputItem, InputRole

TURN_SILENCE = 0.8
"""Seconds of input audio without a word after which the user's turn is over."""

MAX_HISTORY = 128
"""Messages that a session can be started with."""


class UserTurn:
    """Fragments of a transcript become turns: the server does not say where one ends."""

    def __init__(self) -> None:
        self.text = ""
        """The words of the turn so far."""
        self.open = False
        self._quiet = 0.0

    def fragment(self, text: str) -> bool:
        """Some words were understood. True if a turn begins with them."""
        begins, self.open = not self.open, True
        self.text = text if begins else self.text + text
        self._quiet = 0.0
        return begins

    def audio(self, seconds: float) -> bool:
        """So much more was sent of what the user says. True if the turn is over by that."""
        if not self.open:
            return False
        self._quiet += seconds
        return self._quiet >= TURN_SILENCE

    def end(self) -> str:
        """The turn is over; its words."""
        self.open = False
        text, self.text = self.text.strip(), ""
        return text


class Backend:
    """Responses of the model that thinks. It goes on when none runs and all its calls are answered."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._unanswered: set[str] = set()
        self._orphaned: set[str] = set()
        self._wanted = False

    @property
    def busy(self) -> bool:
        """Whether it thinks, or waits for answers."""
        return bool(self._running or self._unanswered)

    def started(self, response_id: str) -> None:
        """A response begins."""
        self._running.add(response_id)

    def called(self, call: FunctionCall) -> None:
        """A response calls a function."""
        self._unanswered.add(call.call_id)

    def ended(self, response_id: str) -> None:
        """A response has ended."""
        self._running.discard(response_id)

    def answered(self, call_id: str) -> bool:
        """A call has its answer. False if nobody asked."""
        if call_id not in self._unanswered:
            return False
        self._unanswered.discard(call_id)
        self._wanted = True
        return True

    def take_orphan(self, call_id: str) -> bool:
        """Whether this is a call of an earlier session that has its answer now."""
        if call_id not in self._orphaned:
            return False
        self._orphaned.discard(call_id)
        self._wanted = True
        return True

    def restart(self) -> None:
        """The session is gone, and with it who waits for answers."""
        self._orphaned |= self._unanswered
        self._unanswered.clear()
        self._running.clear()
        self._wanted = False

    def want(self) -> None:
        """It is to think on its own account as soon as it can."""
        self._wanted = True

    def take_turn(self) -> bool:
        """Whether it is to go on now; asked once, it is taken as done."""
        if not self._wanted or self.busy:
            return False
        self._wanted = False
        return True


class History:
    """What was said, for a session that has to begin anew. The newest messages are kept."""

    def __init__(self) -> None:
        self._messages: deque[tuple[InputRole, str]] = deque(maxlen=MAX_HISTORY)
        self._speaking = False

    def add(self, item: ChatItem) -> None:
        """An item of the chat context; what has no words is left out."""
        if isinstance(item, ChatMessage) and item.text_content:
            role: InputRole = "system" if item.role == "developer" else item.role
            self._append(role, item.text_content)

    def heard(self, text: str) -> None:
        """A turn of the user."""
        self._append("user", text)

    def said(self, fragment: str) -> None:
        """Some words of the model; they continue what it said last."""
        if not self._speaking:
            self._append("assistant", fragment)
            self._speaking = True
        else:
            _, text = self._messages.pop()
            self._messages.append(("assistant", text + fragment))

    def seeds(self) -> list[InputItem]:
        """The messages, oldest first."""
        return [message(role, text) for role, text in self._messages]

    def _append(self, role: InputRole, text: str) -> None:
        self._speaking = False
        self._messages.append((role, text))
