"""What is known of single models, and whose it is: (model, aspect) -> reason.

Aspects are "built", the calls "unreachable", "unauthorized" and "silent", and of the latter "close",
"connected" and "released". Of a whole plugin: "tasks", those left a second after all its calls.
"""

from __future__ import annotations

_PREWARM = (
    "what is left is the request with which the plugin warms up its own HTTP client; it ends with "
    "that client's timeout"
)
_SHARED = (
    "the plugin reads one connection for all speech of a model, and the next session speaks over it; "
    "it is the model's, and ends with the model's `aclose()`"
)
_SLOW_GOODBYE = _SHARED + ", which waits for the provider's goodbye for longer than 5 s"
_WARMS_UP = (
    "what is left is the handshake that warms up the plugin's pool; the pool gives it up after 10 s"
)
_FORGOTTEN = (
    "its own client forgets the connection when a stream is cancelled; garbage collection ends it"
)
_FORGOTTEN_PING = (
    "its own client forgets the connection when the handshake that warms up its pool is given up; an "
    "unanswered ping ends it after 40 s"
)
_TRIES_ON = "its client goes on trying for longer than 10 s; the session closes when it is asked to"
_NATIVE = (
    "dials in native code (gRPC or an SDK), which can't be brought to the provider of this run; "
    "the session closes all the same"
)
_NATIVE_SOCKET = "the socket belongs to the native code of the provider's SDK"

KNOWN: dict[tuple[str, str], str] = {
    ("aws.STT", "built"): "needs Python 3.12 and an optional package of AWS",
    (
        "langchain.LLMAdapter",
        "unreachable",
    ): "needs no provider: a graph with a local model answers",
    (
        "langchain.LLMAdapter",
        "unauthorized",
    ): "needs no provider: a graph with a local model answers",
    ("langchain.LLMAdapter", "connected"): "needs no provider: a graph with a local model answers",
    **{
        (name, "released"): _PREWARM
        for name in ("anthropic.LLM", "google.LLM", "mistralai.LLM", "speechify.TTS")
    },
    ("inworld.TTS", "released"): _SHARED,
    **{(name, "released"): _WARMS_UP for name in ("assemblyai.TTS", "bland.TTS")},
    ("upliftai.TTS", "released"): _FORGOTTEN,
    ("vakyam.TTS", "released"): _FORGOTTEN_PING,
    **{
        (name, aspect): _SLOW_GOODBYE
        for name in ("elevenlabs.TTS", "palabra.TTS", "soniox.TTS")
        for aspect in ("released", "silent")
    },
    **{
        (name, "unreachable"): _TRIES_ON
        for name in ("aws.LLM", "fal.STT", "google.LLM", "ultravox.RealtimeModel")
    },
    ("google.beta.GeminiTTS", "unreachable"): _TRIES_ON,
    **{
        (name, aspect): _NATIVE
        for name in ("google.STT", "google.TTS", "nvidia.STT", "nvidia.TTS", "aws.TTS")
        for aspect in ("unreachable", "unauthorized", "connected")
    },
    ("azure.STT", "unreachable"): _NATIVE,
    ("azure", "tasks"): "a task of its STT goes on waiting in the plugin; not examined further",
    ("google", "tasks"): "tasks of its native clients go on waiting; not examined further",
    ("soniox", "tasks"): "the shared connection of its TTS has not said goodbye yet",
    ("palabra", "tasks"): "the shared connection of its TTS has not said goodbye yet",
    ("vakyam", "tasks"): _FORGOTTEN_PING,
    ("azure.STT", "released"): _NATIVE_SOCKET,
}
