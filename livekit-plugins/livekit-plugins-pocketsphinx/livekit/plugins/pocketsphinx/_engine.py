"""The decoder itself, in two bindings with the same face.

The Python binding of PocketSphinx keeps the interpreter lock while it decodes: a thread that uses
it stops every other thread, the event loop among them, for 100 ms and more at the end of each
utterance. The library inside that binding has a public C interface, and calls through `ctypes` give
the lock up. So that is used where the symbols can be found, and the binding elsewhere.

An engine may be used by any thread, but by one at a time.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from ._hypothesis import Hypothesis, Segment, hypothesis_of
from ._model import Model
from ._search import Dictation, Grammar, KeyPhrases, Search
from .log import logger

_MAX_ACTIVE_MODELS = 3000
"""Phone models followed at once. A tenth of the default, at a fifth less work and equal accuracy."""


class EngineError(Exception):
    """The decoder could not be made, or failed. A defect of its input or configuration."""


class Engine(Protocol):
    """A decoder with its models in memory (some 90 MB)."""

    def use(self, search: Search) -> None:
        """Choose what to listen for. Not during an utterance."""

    def start(self) -> None:
        """Begin an utterance."""

    def process(self, pcm: bytes, *, whole: bool = False, listen_only: bool = False) -> None:
        """Decode more of the utterance: mono int16 at 16 kHz.

        Args:
            pcm: The samples.
            whole: They are the whole utterance; its own mean is used for normalisation.
            listen_only: Compute features but search for no words.
        """

    def finish(self) -> None:
        """End the utterance: refine the hypothesis with all that was heard."""

    def hypothesis(self) -> Hypothesis:
        """The best guess so far, or the result after `finish`."""

    def mean(self) -> str:
        """What the current utterance adds to the cepstral mean: voice, microphone and level."""

    def set_mean(self, mean: str) -> None:
        """Expect the next utterance to have this mean."""

    @property
    def initial_mean(self) -> str:
        """The mean that the model expects of a stranger."""

    def close(self) -> None:
        """Free the memory. The engine can't be used after that."""


def load_engine(model: Model, search: Search) -> Engine:
    """Load the models: takes about half a second.

    Raises:
        EngineError: The files are no models, or the search can't be built with them.
    """
    library = _library()
    return NativeEngine(library, model, search) if library else BindingEngine(model, search)


def _config(model: Model) -> dict[str, Any]:
    return {
        "hmm": str(model.acoustic),
        "dict": str(model.dictionary),
        "loglevel": "FATAL",
        "maxhmmpf": _MAX_ACTIVE_MODELS,
    }


class _KeyFile:
    """Key phrases can only be handed over in a file."""

    def __init__(self, phrases: KeyPhrases) -> None:
        self._phrases = phrases

    def __enter__(self) -> str:
        # closed before it is read: elsewhere than on Unix an open file can't be opened again
        descriptor, self._path = tempfile.mkstemp(suffix=".kws", text=True)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self._phrases.key_file)
        return self._path

    def __exit__(self, *_: object) -> None:
        os.unlink(self._path)


# -- through the C interface ----------------------------------------------------------------------


class _Library:
    """The functions of ``pocketsphinx.h`` that are used, with their types."""

    def __init__(self, library: ctypes.CDLL) -> None:
        handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
        numbers = ctypes.POINTER(ctypes.c_int)

        def function(name: str, result: Any, *arguments: Any) -> Any:
            symbol = getattr(library, name)  # AttributeError: not exported
            symbol.restype, symbol.argtypes = result, arguments
            return symbol

        self.parse_config = function("ps_config_parse_json", handle, handle, text)
        self.free_config = function("ps_config_free", number, handle)
        self.init = function("ps_init", handle, handle)
        self.free = function("ps_free", number, handle)
        self.add_word = function("ps_add_word", number, handle, text, text, number)
        self.add_lm = function("ps_add_lm_file", number, handle, text, text)
        self.add_jsgf = function("ps_add_jsgf_string", number, handle, text, text)
        self.add_kws = function("ps_add_kws", number, handle, text, text)
        self.activate = function("ps_activate_search", number, handle, text)
        self.start_utterance = function("ps_start_utt", number, handle)
        self.process = function(
            "ps_process_raw", number, handle, text, ctypes.c_size_t, number, number
        )
        self.end_utterance = function("ps_end_utt", number, handle)
        self.get_mean = function("ps_get_cmn", text, handle, number)
        self.set_mean = function("ps_set_cmn", number, handle, text)
        self.first_segment = function("ps_seg_iter", handle, handle)
        self.next_segment = function("ps_seg_next", handle, handle)
        self.segment_word = function("ps_seg_word", text, handle)
        self.segment_frames = function("ps_seg_frames", None, handle, numbers, numbers)
        self.segment_prob = function("ps_seg_prob", ctypes.c_int32, handle, handle, handle, handle)
        self.logmath = function("ps_get_logmath", handle, handle)
        self.exp = function("logmath_exp", ctypes.c_double, handle, number)


@functools.lru_cache(maxsize=1)
def _library() -> _Library | None:
    from pocketsphinx import _pocketsphinx

    try:
        return _Library(ctypes.CDLL(_pocketsphinx.__file__))
    except (OSError, AttributeError) as error:
        logger.info(
            "PocketSphinx's C interface is not reachable (%s); its Python binding is used, which "
            "stops other threads while it decodes",
            error,
        )
        return None


class NativeEngine:
    """An `Engine` that leaves the interpreter free while it works."""

    def __init__(self, library: _Library, model: Model, search: Search) -> None:
        self._lib = library
        self._model = model
        self._names: dict[Search, str] = {}  # of the searches that were built
        self._active: Search | None = None
        config = library.parse_config(None, json.dumps(_config(model)).encode())
        decoder = library.init(config)
        library.free_config(config)
        if not decoder:
            raise EngineError(f"PocketSphinx can't load the models {model}")
        self._decoder: int = decoder
        # also when nobody calls `close`: the memory is not Python's
        self._free = weakref.finalize(self, library.free, decoder)
        self._free.atexit = False  # a thread may still be in there; the process ends anyway
        for word, phones in model.pronunciations.items():
            if library.add_word(decoder, word.lower().encode(), phones.encode(), 0) < 0:
                raise EngineError(f"{phones!r} is no pronunciation of {word!r} in this model")
        self.use(search)
        self.initial_mean = self.mean()

    def use(self, search: Search) -> None:
        if search == self._active:
            return
        name = self._names.get(search, f"search-{len(self._names)}")
        if search not in self._names:
            if self._build(search, name.encode()) < 0:
                raise EngineError(f"PocketSphinx does not accept {search}")
            self._names[search] = name
        self._check(self._lib.activate(self._decoder, name.encode()), "choose a search")
        self._active = search

    def _build(self, search: Search, name: bytes) -> int:
        result: int
        if isinstance(search, Dictation):
            result = self._lib.add_lm(self._decoder, name, os.fsencode(self._model.language))
        elif isinstance(search, Grammar):
            result = self._lib.add_jsgf(self._decoder, name, search.source.encode())
        else:
            with _KeyFile(search) as path:
                result = self._lib.add_kws(self._decoder, name, os.fsencode(path))
        return result

    def start(self) -> None:
        self._check(self._lib.start_utterance(self._decoder), "begin an utterance")

    def process(self, pcm: bytes, *, whole: bool = False, listen_only: bool = False) -> None:
        samples = len(pcm) // 2
        self._check(
            self._lib.process(self._decoder, pcm, samples, listen_only, whole), "decode audio"
        )

    def finish(self) -> None:
        self._check(self._lib.end_utterance(self._decoder), "finish an utterance")

    def hypothesis(self) -> Hypothesis:
        return hypothesis_of(self._segments())

    def _segments(self) -> Iterator[Segment]:
        first, last = ctypes.c_int(), ctypes.c_int()
        logmath = self._lib.logmath(self._decoder)
        segment = self._lib.first_segment(self._decoder)
        while segment:
            self._lib.segment_frames(segment, first, last)
            probability = self._lib.segment_prob(segment, None, None, None)
            yield Segment(
                self._lib.segment_word(segment).decode(errors="replace"),
                first.value,
                last.value,
                self._lib.exp(logmath, probability),
            )
            segment = self._lib.next_segment(segment)  # frees itself after the last one

    def mean(self) -> str:
        mean: bytes = self._lib.get_mean(self._decoder, 1)
        return mean.decode()

    def set_mean(self, mean: str) -> None:
        self._check(self._lib.set_mean(self._decoder, mean.encode()), "set the cepstral mean")

    def close(self) -> None:
        self._free()

    @staticmethod
    def _check(result: int, what: str) -> None:
        if result < 0:
            raise EngineError(f"PocketSphinx failed to {what}")


# -- through the Python binding -------------------------------------------------------------------


class BindingEngine:
    """An `Engine` for platforms where the C interface can't be reached."""

    def __init__(self, model: Model, search: Search) -> None:
        from pocketsphinx import Decoder

        self._model = model
        self._names: dict[Search, str] = {}  # of the searches that were built
        self._active: Search | None = None
        try:
            self._decoder = Decoder(lm=None, **_config(model))
            for word, phones in model.pronunciations.items():
                self._decoder.add_word(word.lower(), phones, False)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"PocketSphinx can't load the models {model}: {error}") from error
        self.use(search)
        self.initial_mean = self.mean()

    def use(self, search: Search) -> None:
        if search == self._active:
            return
        name = self._names.get(search, f"search-{len(self._names)}")
        if search not in self._names:
            try:
                self._build(search, name)
            except (RuntimeError, ValueError) as error:
                raise EngineError(f"PocketSphinx does not accept {search}: {error}") from error
            self._names[search] = name
        self._decoder.activate_search(name)
        self._active = search

    def _build(self, search: Search, name: str) -> None:
        if isinstance(search, Dictation):
            self._decoder.add_lm_file(name, str(self._model.language))
        elif isinstance(search, Grammar):
            self._decoder.add_jsgf_string(name, search.source)
        else:
            with _KeyFile(search) as path:
                self._decoder.add_kws(name, path)

    def start(self) -> None:
        self._decoder.start_utt()

    def process(self, pcm: bytes, *, whole: bool = False, listen_only: bool = False) -> None:
        self._decoder.process_raw(pcm, listen_only, whole)

    def finish(self) -> None:
        self._decoder.end_utt()

    def hypothesis(self) -> Hypothesis:
        if self._decoder.hyp() is None:
            return Hypothesis()
        return hypothesis_of(
            Segment(segment.word, segment.start_frame, segment.end_frame, segment.prob)
            for segment in self._decoder.seg()
        )

    def mean(self) -> str:
        mean: str = self._decoder.get_cmn(True)
        return mean

    def set_mean(self, mean: str) -> None:
        self._decoder.set_cmn(mean)

    def close(self) -> None:
        del self._decoder
