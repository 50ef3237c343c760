"""Every message of the gateway's protocols, both ways, and whatever else may come down the wire."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from livekit.agents.inference._protocol import bargein, chat, stt, tts
from livekit.agents.inference._protocol.sse import SSEDecoder, encode_event
from livekit.agents.inference._protocol.stt import TranscriptKind
from livekit.agents.inference._protocol.wire import (
    MAX_MESSAGE,
    ProtocolError,
    ServerError,
    UnknownMessage,
)

PCM = bytes(range(256)) * 4

STT_CLIENT = [
    (
        stt.SessionCreate(
            sample_rate=16000,
            extra={"endpointing": 25},
            language="en",
            model="deepgram/nova-3",
            fallback=({"model": "cartesia/ink-2", "extra": None},),
        ),
        {
            "type": "session.create",
            "settings": {
                "sample_rate": "16000",
                "encoding": "pcm_s16le",
                "extra": {"endpointing": 25},
                "language": "en",
            },
            "model": "deepgram/nova-3",
            "fallback": {"models": [{"model": "cartesia/ink-2", "extra": None}]},
            "connection": {"timeout": 10.0, "retries": 3},
        },
    ),
    (
        stt.SessionCreate(sample_rate=24000, connect_timeout=5.0, retries=1),
        {
            "type": "session.create",
            "settings": {"sample_rate": "24000", "encoding": "pcm_s16le", "extra": {}},
            "connection": {"timeout": 5.0, "retries": 1},
        },
    ),
    (stt.InputAudio(b"\x01\x02\x03\x04"), {"type": "input_audio", "audio": "AQIDBA=="}),
    (
        stt.SessionUpdate(model="m", language="de", extra={"a": 1}),
        {
            "type": "session.update",
            "settings": {"model": "m", "language": "de", "extra": {"a": 1}},
        },
    ),
    (stt.SessionUpdate(), {"type": "session.update", "settings": {}}),
    (stt.SessionFinalize(), {"type": "session.finalize"}),
    (stt.SessionClose(), {"type": "session.close"}),
]

STT_SERVER = [
    (stt.SessionCreated("s1"), {"type": "session.created", "session_id": "s1"}),
    (stt.SessionCreated(), {"type": "session.created"}),
    (stt.StartOfSpeech("r"), {"type": "start_of_speech", "request_id": "r"}),
    *(
        (
            stt.Transcript(
                kind=kind,
                text="grüß dich",
                request_id="r",
                language="de",
                start=1.5,
                duration=0.5,
                confidence=0.9,
                speaker_id="S1",
                words=(stt.Word("grüß", 1.5, 1.7, 0.8, "S1"),),
                extra={"channel": 0},
            ),
            {
                "type": kind.value,
                "request_id": "r",
                "transcript": "grüß dich",
                "language": "de",
                "start": 1.5,
                "duration": 0.5,
                "confidence": 0.9,
                "speaker_id": "S1",
                "words": [
                    {
                        "word": "grüß",
                        "start": 1.5,
                        "end": 1.7,
                        "confidence": 0.8,
                        "speaker_id": "S1",
                    }
                ],
                "extra": {"channel": 0},
            },
        )
        for kind in TranscriptKind
    ),
    (stt.SessionFinalized(), {"type": "session.finalized"}),
    (stt.SessionClosed(), {"type": "session.closed"}),
]

TTS_CLIENT = [
    (
        tts.SessionCreate(
            sample_rate=24000,
            extra={"speed": "fast"},
            voice="v",
            model="cartesia/sonic-3",
            language="en",
            fallback=({"model": "rime/mist", "voice": "", "extra": {}},),
        ),
        {
            "type": "session.create",
            "sample_rate": "24000",
            "encoding": "pcm_s16le",
            "extra": {"speed": "fast"},
            "voice": "v",
            "model": "cartesia/sonic-3",
            "language": "en",
            "fallback": {"models": [{"model": "rime/mist", "voice": "", "extra": {}}]},
            "connection": {"timeout": 10.0, "retries": 3},
        },
    ),
    (
        tts.InputTranscript("Hello. ", voice="v", model="m"),
        {
            "type": "input_transcript",
            "transcript": "Hello. ",
            "generation_config": {"voice": "v", "model": "m"},
            "extra": {},
        },
    ),
    (tts.SessionFlush(), {"type": "session.flush"}),
]

TTS_SERVER = [
    (stt.SessionCreated("s"), {"type": "session.created", "session_id": "s"}),
    (
        tts.OutputAudio(b"\x01\x02\x03", "s"),
        {"type": "output_audio", "audio": "AQID", "session_id": "s"},
    ),
    (
        tts.OutputAlignment(words=(tts.Mark("hi", 0.0, 0.2),), session_id="s"),
        {
            "type": "output_alignment",
            "words": [{"word": "hi", "start": 0.0, "end": 0.2}],
            "session_id": "s",
        },
    ),
    (
        tts.OutputAlignment(chars=(tts.Mark("h", 0.0, 0.1),)),
        {"type": "output_alignment", "chars": [{"char": "h", "start": 0.0, "end": 0.1}]},
    ),
    (tts.Done("s"), {"type": "done", "session_id": "s"}),
    (tts.Done(), {"type": "done"}),
]

BARGEIN_CLIENT = [
    (
        bargein.SessionCreate(threshold=0.6),
        {
            "type": "session.create",
            "settings": {
                "sample_rate": 16000,
                "num_channels": 1,
                "min_frames": 2,
                "encoding": "s16le",
                "threshold": 0.6,
            },
        },
    ),
    (stt.SessionClose(), {"type": "session.close"}),
]

BARGEIN_SERVER = [
    (bargein.SessionCreated(0.7), {"type": "session.created", "default_threshold": 0.7}),
    (bargein.SessionCreated(None), {"type": "session.created", "default_threshold": None}),
    (
        bargein.InferenceDone(2**60, 0.02, (0.1, 0.2)),
        {
            "type": "inference_done",
            "created_at": 2**60,
            "prediction_duration": 0.02,
            "probabilities": [0.1, 0.2],
        },
    ),
    (
        bargein.InferenceDone(7, 0.02, (0.9,), is_interruption=True),
        {
            "type": "bargein_detected",
            "created_at": 7,
            "prediction_duration": 0.02,
            "probabilities": [0.9],
        },
    ),
    (stt.SessionClosed(), {"type": "session.closed"}),
]


def _rows(*tables: tuple[ModuleType, list[Any]]) -> list[Any]:
    return [
        pytest.param(protocol, message, wire, id=f"{protocol.__name__[-7:]}-{wire['type']}-{n}")
        for protocol, table in tables
        for n, (message, wire) in enumerate(table)
    ]


@pytest.mark.parametrize(
    ("protocol", "message", "wire"),
    _rows((stt, STT_CLIENT), (tts, TTS_CLIENT), (bargein, BARGEIN_CLIENT)),
)
def test_a_client_message_is_written_and_read(
    protocol: ModuleType, message: object, wire: dict[str, Any]
) -> None:
    text = protocol.encode_client(message)
    assert json.loads(text) == wire
    assert protocol.decode_client(text) == message


@pytest.mark.parametrize(
    ("protocol", "message", "wire"),
    _rows((stt, STT_SERVER), (tts, TTS_SERVER), (bargein, BARGEIN_SERVER)),
)
def test_a_server_message_is_written_and_read(
    protocol: ModuleType, message: object, wire: dict[str, Any]
) -> None:
    text = protocol.encode_server(message)
    assert json.loads(text) == wire
    assert protocol.decode_server(text) == message


@pytest.mark.parametrize("protocol", [stt, tts, bargein])
def test_errors_keep_their_code_and_the_whole_message(protocol: ModuleType) -> None:
    wire = {"type": "error", "code": "2007", "message": "inactivity", "session_id": "s"}
    error = protocol.decode_server(json.dumps(wire))
    assert (error.code, error.message, error.body) == ("2007", "inactivity", wire)
    assert json.loads(protocol.encode_server(error)) == wire


@pytest.mark.parametrize("protocol", [stt, tts, bargein])
@pytest.mark.parametrize("code", [None, True, 1.5, [], {}])
def test_an_error_with_a_strange_code_is_an_error_all_the_same(
    protocol: ModuleType, code: object
) -> None:
    error = protocol.decode_server(json.dumps({"type": "error", "code": code, "message": 7}))
    assert (error.code, error.message) == (-1, "")


def test_a_window_of_audio_travels_behind_its_time_stamp() -> None:
    window = bargein.AudioWindow(123456789, PCM)
    data = bargein.encode_client(window)
    assert data == (123456789).to_bytes(8, "little") + PCM
    assert bargein.decode_client(data) == window


@pytest.mark.parametrize("data", [b"", b"1234567", b"123456789"])
def test_a_window_of_audio_that_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="8 bytes of time stamp"):
        bargein.decode_client(data)


@pytest.mark.parametrize("kind", list(TranscriptKind))
def test_nulls_in_a_transcript_count_as_absent(kind: TranscriptKind) -> None:
    names = "request_id transcript language start duration confidence speaker_id words extra"
    nulls = dict.fromkeys(names.split())
    assert stt.decode_server(json.dumps({"type": kind.value, **nulls})) == stt.Transcript(kind)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{bad", "not JSON"),
        ("", "not JSON"),
        ("[1]", "expected a JSON object, got a list"),
        ("null", "got null"),
        ("3", "got a number"),
        ("true", "got a boolean"),
        ('"hi"', "got a string"),
        ("{}", '"type" should be a string, got null'),
        ('{"type": 3}', '"type" should be a string, got a number'),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ('{"type": "final_transcript", "start": NaN}', "NaN is not JSON"),
        ('{"type": "final_transcript", "start": 1e999}', '"start" of final_transcript is not fin'),
        ('{"type": "final_transcript", "start": true}', "should be a number, got a boolean"),
        ('{"type": "final_transcript", "start": "1"}', "should be a number, got a string"),
        ('{"type": "final_transcript", "transcript": 1}', "should be a string, got a number"),
        ('{"type": "final_transcript", "words": {}}', '"words" .* should be a list, got an object'),
        ('{"type": "final_transcript", "words": [1]}', "should be a list of objects"),
        ('{"type": "final_transcript", "extra": []}', "should be an object, got a list"),
        ('{"type": "final_transcript", "start": ' + "9" * 5000 + "}", "not JSON|not finite"),
        ('{"type": "x", "pad": "' + "x" * MAX_MESSAGE + '"}', "at most"),
        (b'{"type": "\xff"}', "not UTF-8"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_wrong_with_a_message_is_said(text: str, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        stt.decode_server(text)


def test_the_words_of_the_caller_do_not_appear_in_complaints() -> None:
    with pytest.raises(ProtocolError) as caught:
        stt.decode_server('{"type": "final_transcript", "transcript": "my pin is 1234"')
    assert "1234" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_half_a_surrogate_pair_does_not_reach_the_transcript() -> None:
    final = stt.decode_server('{"type": "final_transcript", "transcript": "a\\ud800b"}')
    assert isinstance(final, stt.Transcript)
    assert final.text.encode() == b"a?b"


@pytest.mark.parametrize("audio", ["***", "AQI", "é"])
def test_audio_that_is_not_base64_is_refused(audio: str) -> None:
    with pytest.raises(ProtocolError, match="not base64"):
        tts.decode_server(json.dumps({"type": "output_audio", "audio": audio}))


@pytest.mark.parametrize("rate", ["0", "-1", "fast", "٣", "9999999", ""])
def test_a_sample_rate_that_is_none_is_refused(rate: str) -> None:
    with pytest.raises(ProtocolError, match="sample_rate"):
        stt.decode_client(json.dumps({"type": "session.create", "settings": {"sample_rate": rate}}))


@pytest.mark.parametrize("options", [{"a": object()}, {"a": float("nan")}])
def test_options_without_a_form_in_json_are_refused_before_sending(options: Any) -> None:
    with pytest.raises(ValueError, match="can't be sent as JSON"):
        stt.encode_client(stt.SessionCreate(16000, extra=options))


# -- completions -----------------------------------------------------------------------------------

CHUNKS = [
    chat.CompletionChunk("c1", (chat.Delta("Hel"),)),
    chat.CompletionChunk("c1", (chat.Delta(extra={"google": {"signature": "x"}}),)),
    chat.CompletionChunk(
        "c1",
        (chat.Delta(tool_calls=(chat.ToolCallDelta(0, "t1", "book", '{"a"', {"google": {}}),)),),
    ),
    chat.CompletionChunk("c1", (chat.Delta(tool_calls=(chat.ToolCallDelta(0, arguments=":1}"),)),)),
    chat.CompletionChunk("c1", (chat.Delta(finish_reason="tool_calls"),)),
    chat.CompletionChunk("c1", (), chat.Usage(1, 2, 3, 4, 5, 6, "priority")),
]


@pytest.mark.parametrize("chunk", [*CHUNKS, None], ids=str)
def test_a_chunk_of_a_completion_is_written_and_read(chunk: Any) -> None:
    assert chat.decode_chunk(chat.encode_chunk(chunk)) == chunk


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": 400, "message": "no"}, 400),
        ({"code": "429", "message": "slow down"}, 429),
        ({"code": "rate_limited", "status": 429}, 429),
        ({"message": "?"}, -1),
        ("broken", -1),
    ],
)
def test_an_error_in_the_stream_tells_its_status(error: object, code: int) -> None:
    found = chat.decode_chunk(json.dumps({"error": error}))
    assert isinstance(found, ServerError)
    assert found.code == code


def test_content_in_parts_and_chunks_without_a_delta() -> None:
    wire = {
        "id": None,
        "choices": [
            {"delta": None},
            {"delta": {"content": [{"type": "text", "text": "a"}, "b"], "tool_calls": [{}]}},
        ],
        "usage": {"completion_tokens": None, "prompt_tokens_details": None},
    }
    assert chat.decode_chunk(json.dumps(wire)) == chat.CompletionChunk(
        "", (chat.Delta("ab"),), chat.Usage()
    )


@given(st.lists(st.text(), max_size=5), st.lists(st.integers(1, 7), min_size=1))
def test_events_survive_any_cut(texts: list[str], cuts: list[int]) -> None:
    texts = [text.replace("\r", "") for text in texts if text]
    stream = b": hello\n\n" + b"".join(map(encode_event, texts))
    decoder = SSEDecoder()
    events: list[str] = []
    position = turn = 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        events += decoder.feed(stream[position : position + size])
        position += size
        turn += 1
    assert events + decoder.end() == texts


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_events_end_at_any_kind_of_empty_line(newline: str) -> None:
    stream = newline.join(["data: a", "data:b", "", "event: x", "data: c", "", ""]).encode()
    for size in range(1, len(stream)):
        decoder = SSEDecoder()
        events = []
        for start in range(0, len(stream), size):
            events += decoder.feed(stream[start : start + size])
        assert events + decoder.end() == ["a\nb", "c"]


def test_an_event_without_an_end_counts_and_one_without_bounds_does_not() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: tail") == []
    assert decoder.end() == ["tail"]
    with pytest.raises(ProtocolError, match="longer than"):
        decoder.feed(b"data: " + b"x" * (4 * 1024 * 1024 + 1))


# -- anything --------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["AQID", "session.created", "2007"]),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=12,
)
_TYPES = [
    "session.create",
    "session.created",
    "input_audio",
    "session.update",
    "session.finalize",
    "session.close",
    "start_of_speech",
    "interim_transcript",
    "preflight_transcript",
    "final_transcript",
    "session.finalized",
    "session.closed",
    "error",
    "input_transcript",
    "session.flush",
    "output_audio",
    "output_alignment",
    "done",
    "inference_done",
    "bargein_detected",
]
_FIELDS = [
    "settings",
    "model",
    "fallback",
    "connection",
    "audio",
    "extra",
    "language",
    "request_id",
    "transcript",
    "start",
    "duration",
    "confidence",
    "speaker_id",
    "words",
    "chars",
    "code",
    "message",
    "session_id",
    "generation_config",
    "created_at",
    "prediction_duration",
    "probabilities",
    "default_threshold",
    "sample_rate",
    "choices",
    "usage",
    "error",
    "id",
]
_MESSAGES = st.builds(
    lambda kind, fields: {**fields, "type": kind},
    st.sampled_from(_TYPES),
    st.dictionaries(st.sampled_from(_FIELDS), _JSON),
)
_READERS = [
    stt.decode_client,
    stt.decode_server,
    tts.decode_client,
    tts.decode_server,
    bargein.decode_client,
    bargein.decode_server,
    chat.decode_chunk,
]


def _read_all(data: Any) -> None:
    for read in _READERS:
        if read is chat.decode_chunk and isinstance(data, bytes):
            continue
        try:
            message = read(data)
        except ProtocolError as error:
            complaints = str(error)
        else:
            complaints = "none"
            assert message is None or type(message).__module__.startswith("livekit.agents")
        assert complaints


@settings(max_examples=120)
@given(_MESSAGES, st.integers(0, 400))
def test_a_message_with_anything_in_its_fields_is_read_or_refused_in_words(
    message: dict[str, Any], cut: int
) -> None:
    text = json.dumps(message)
    _read_all(text)
    _read_all(text[:cut])


@given(_JSON.map(json.dumps) | st.text() | st.binary())
def test_anything_at_all_is_read_or_refused_in_words(data: str | bytes) -> None:
    _read_all(data)


@given(st.binary(), st.integers(1, 5))
def test_any_bytes_are_cut_into_events_without_fail(data: bytes, size: int) -> None:
    decoder = SSEDecoder()
    for start in range(0, len(data), size):
        decoder.feed(data[start : start + size])
    decoder.end()


def test_messages_of_unknown_types_are_told_apart() -> None:
    for read in _READERS[:-1]:
        assert read('{"type": "brand.new"}') == UnknownMessage("brand.new")
