"""What can go wrong on the way. Each named function makes one fault, for one connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Fault:
    """A fault and when it strikes. Without any `after_…` it strikes at once."""

    kind: str
    after_messages: int = 0
    """Messages that the client sends before, the first of all included."""
    after_audio: float = 0.0
    """Seconds of audio that go by before, in either direction."""
    after_segments: int = 0
    """Utterances that are spoken to their end before."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = ", ".join(str(value) for value in self.options.values() if value is not None)
        return f"{self.kind}({options})" if options else self.kind


def refuse(
    status: int,
    *,
    retry_after: float | None = None,
    body: Mapping[str, Any] | None = None,
    unfinished: bool = False,
) -> Fault:
    """Answer the handshake, or the request, with an HTTP error; its body may never end."""
    options: dict[str, Any] = {"status": status, "retry_after": retry_after, "body": body}
    return Fault("refuse", options={**options, "unfinished": unfinished or None})


def slow_accept(seconds: float) -> Fault:
    """Take this long for the handshake, or for the first byte of an answer."""
    return Fault("slow_accept", options={"seconds": seconds})


def stall_upgrade() -> Fault:
    """Accept the connection and never answer."""
    return Fault("stall_upgrade")


def reset_upgrade(how: str = "abort") -> Fault:
    """Break the connection before the answer: ``"abort"`` or ``"fin"``."""
    return Fault("reset_upgrade", options={"how": how})


def drop(
    how: str | int = "abort",
    *,
    reason: str = "",
    after_messages: int = 0,
    after_audio: float = 0.0,
) -> Fault:
    """Break the connection: ``"abort"``, ``"fin"``, or a close frame with a code."""
    options = {"how": how, "reason": reason or None}
    return Fault("drop", after_messages, after_audio, options=options)


def half_open(*, after_messages: int = 0, after_audio: float = 0.0) -> Fault:
    """Swallow everything from now on, pings and close frames too, and send nothing."""
    return Fault("half_open", after_messages, after_audio)


def stall_reads(*, after_messages: int = 0, after_audio: float = 0.0) -> Fault:
    """Read no more, and keep the connection."""
    return Fault("stall_reads", after_messages, after_audio)


def stall_writes(*, after_messages: int = 0, after_audio: float = 0.0) -> Fault:
    """Read on, and answer no more (pings are answered)."""
    return Fault("stall_writes", after_messages, after_audio)


def idle_recycle(
    after: float, *, code: int | str = 2007, variant: str = "error_and_close"
) -> Fault:
    """End a connection on which the client sent nothing for this long, in seconds.

    Args:
        after: Seconds.
        code: Of the error message.
        variant: ``"error_and_close"``, ``"error_only"`` or ``"close_only"``.
    """
    return Fault("idle_recycle", options={"after": after, "code": code, "variant": variant})


def recycle_flap() -> Fault:
    """End the connection as idle right after the greeting."""
    return Fault("error", 1, options={"code": 2007, "then": "close"})


def malformed(
    payload: str | bytes = "{bad",
    *,
    times: int = 1,
    after_messages: int = 0,
    after_audio: float = 0.0,
) -> Fault:
    """Send something that is no message, among those that are."""
    options = {"payload": payload, "times": times}
    return Fault("malformed", after_messages, after_audio, options=options)


def unknown_messages(*, after_messages: int = 0) -> Fault:
    """Send messages of types that nobody has heard of."""
    return Fault("unknown_messages", after_messages)


def huge_frame(*, after_messages: int = 0, after_audio: float = 0.0) -> Fault:
    """Send a message larger than WebSocket libraries take."""
    return Fault("huge_frame", after_messages, after_audio)


def null_fields() -> Fault:
    """Send null in every field but the type."""
    return Fault("null_fields")


def error(
    code: int | str,
    *,
    then: str = "silence",
    body: Mapping[str, Any] | None = None,
    after_messages: int = 0,
    after_audio: float = 0.0,
) -> Fault:
    """Send an error message, and then ``"silence"``, ``"chatter"`` or ``"close"``."""
    options = {"code": code, "then": then, "body": body}
    return Fault("error", after_messages, after_audio, options=options)


def closed_early(*, after_messages: int = 0, after_audio: float = 0.0) -> Fault:
    """Say that the session is closed while the client is still talking, and close."""
    return Fault("closed_early", after_messages, after_audio)


def no_close_reply() -> Fault:
    """Never answer the client's close frame."""
    return Fault("no_close_reply")


def duplicate_finals() -> Fault:
    """Send every final transcript twice."""
    return Fault("duplicate_finals")


def swapped_finals() -> Fault:
    """Send every other final transcript after the next one."""
    return Fault("swapped_finals")


def wrong_order() -> Fault:
    """Send starts of speech after their transcripts."""
    return Fault("wrong_order")


def late_audio() -> Fault:
    """Send a piece of audio after the segment is done."""
    return Fault("late_audio")


def done_without_audio() -> Fault:
    """Claim that a segment is spoken without a sound."""
    return Fault("done_without_audio")


def no_session_id() -> Fault:
    """Name the session in no message."""
    return Fault("no_session_id")


def completion(kind: str, **options: Any) -> Fault:
    """A fault of a streamed completion.

    Args:
        kind: ``stall_headers``, ``stall_mid``, ``drop_mid``, ``bad_sse``, ``sse_error``,
            ``truncate``, ``drip``, ``list_content``, ``null_delta`` or ``split_utf8``.
        **options: ``obj`` for ``sse_error``.
    """
    return Fault(kind, options=options)
