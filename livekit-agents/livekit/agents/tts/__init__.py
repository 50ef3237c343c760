"""Text to speech: the base classes of synthesizer plugins, and adapters around them.

A plugin derives from `TTS` and from `ChunkedStream` (text as a whole) or `SynthesizeStream` (text
piece by piece). `StreamAdapter` streams with one that can't, `FallbackAdapter` switches to another
when one fails. Every name is imported when it is first used.
"""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .fallback_adapter import (
        AvailabilityChangedEvent,
        FallbackAdapter,
        FallbackChunkedStream,
        FallbackSynthesizeStream,
    )
    from .stream_adapter import StreamAdapter, StreamAdapterWrapper
    from .stream_pacer import SentenceStreamPacer
    from .tts import (
        TTS,
        AudioEmitter,
        ChunkedStream,
        MarkupInfo,
        SynthesizedAudio,
        SynthesizeStream,
        TTSCapabilities,
        TTSError,
    )

__all__ = [
    "TTS",
    "AudioEmitter",
    "AvailabilityChangedEvent",
    "ChunkedStream",
    "FallbackAdapter",
    "FallbackChunkedStream",
    "FallbackSynthesizeStream",
    "MarkupInfo",
    "SentenceStreamPacer",
    "StreamAdapter",
    "StreamAdapterWrapper",
    "SynthesizeStream",
    "SynthesizedAudio",
    "TTSCapabilities",
    "TTSError",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "TTS": ".tts",
            "AudioEmitter": ".tts",
            "AvailabilityChangedEvent": ".fallback_adapter",
            "ChunkedStream": ".tts",
            "FallbackAdapter": ".fallback_adapter",
            "FallbackChunkedStream": ".fallback_adapter",
            "FallbackSynthesizeStream": ".fallback_adapter",
            "MarkupInfo": ".tts",
            "SentenceStreamPacer": ".stream_pacer",
            "StreamAdapter": ".stream_adapter",
            "StreamAdapterWrapper": ".stream_adapter",
            "SynthesizeStream": ".tts",
            "SynthesizedAudio": ".tts",
            "TTSCapabilities": ".tts",
            "TTSError": ".tts",
        },
    )
