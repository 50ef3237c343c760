"""The tracer, its providers, and what may be seen in traces."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import context as otel_context, trace as otel_trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from livekit.agents.metrics import RealtimeModelMetrics
from livekit.agents.metrics.base import Metadata
from livekit.agents.telemetry import pii, set_tracer_provider, trace_types, tracer, utils
from livekit.agents.telemetry.trace_types import gen_ai_provider_name


class Traces:
    """A provider that keeps what it exports."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def traces() -> Iterator[Traces]:
    made = Traces()
    set_tracer_provider(made.provider)
    yield made
    tracer.set_provider(None)


@pytest.fixture(autouse=True)
def no_provider_left() -> Iterator[None]:
    yield
    assert not tracer.is_recording


def test_without_a_provider_spans_record_nothing() -> None:
    with tracer.start_as_current_span("outer") as span:
        assert not span.is_recording()
        assert not span.get_span_context().is_valid
        assert tracer.context_of(span) is None
        span.set_attribute("a", 1)
        span.set_attributes({"a": 1})
        span.add_event("event")
        span.add_link(span.get_span_context())
        span.update_name("other")
        span.set_status(StatusCode.OK)
        span.record_exception(ValueError())
        assert otel_trace.get_current_span() is otel_trace.INVALID_SPAN
    with tracer.start_span("manual") as span:
        utils.record_exception(span, ValueError())


def test_tracing_loads_opentelemetry_only_for_a_provider() -> None:
    program = """
import sys
from livekit.agents.telemetry import tracer, trace_types, utils
with tracer.start_as_current_span("x", attributes={"a": 1}) as span:
    utils.record_exception(span, ValueError())
    assert not tracer.current_span().is_recording() and tracer.current_context() is None
sys.exit(any(name.startswith("opentelemetry") for name in sys.modules))
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_spans_that_nobody_ends_are_ended_with_what_watches_over_them(traces: Traces) -> None:
    from livekit.agents.telemetry._open_spans import OpenSpans

    watched = OpenSpans()
    root = tracer.start_span("root")
    for _ in range(500):
        tracer.start_span("short", context=tracer.root_context(root, watched)).end()
    assert len(watched._spans) <= 64
    with tracer.start_as_current_span("outer", context=tracer.root_context(root, watched)):
        lost = tracer.start_span("lost")
        tracer.start_span("inner", context=tracer.context_of(lost))
    assert watched.end_all() == ["inner", "lost"] and watched.end_all() == []
    assert (traces.spans["lost"].attributes or {})["error.type"] == "cut_off"
    assert "error.type" not in (traces.spans["outer"].attributes or {})
    assert tracer.start_span("late", context=tracer.root_context(root, watched)).is_recording()
    assert watched.end_all() == []


def test_the_global_provider_is_used_when_none_was_given() -> None:
    program = """
from livekit.agents.telemetry import tracer
assert not tracer.is_recording
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
assert not tracer.is_recording
trace.set_tracer_provider(TracerProvider())
assert tracer.is_recording and tracer.start_span("x").is_recording()
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_provider_named_by_the_environment_is_loaded() -> None:
    program = "from livekit.agents.telemetry import tracer; assert tracer.is_recording"
    env = {**os.environ, "OTEL_PYTHON_TRACER_PROVIDER": "sdk_tracer_provider"}
    assert subprocess.run([sys.executable, "-c", program], env=env).returncode == 0


def test_current_spans_nest_and_detached_ones_do_not(traces: Traces) -> None:
    with tracer.start_as_current_span("outer") as outer:
        assert tracer.current_span() is outer
        with tracer.detached_span("beside", attributes={"k": "v"}):
            with tracer.start_as_current_span("inner"):
                pass

    parent = traces.spans["outer"].context
    assert parent is not None
    for name in ("beside", "inner"):
        actual = traces.spans[name].parent
        assert actual is not None
        assert actual.span_id == parent.span_id
    assert (traces.spans["beside"].attributes or {})["k"] == "v"
    assert tracer.current_span() is otel_trace.INVALID_SPAN


def test_a_span_can_be_parent_elsewhere(traces: Traces) -> None:
    root = tracer.start_span("root", context=otel_context.Context())
    with tracer.start_as_current_span("child", context=tracer.context_of(root), start_time=5):
        pass
    with tracer.use_span(root, end_on_exit=True):
        tracer.start_span("other").end()

    assert traces.spans["child"].start_time == 5
    for name in ("child", "other"):
        parent = traces.spans[name].parent
        assert parent is not None
        assert parent.span_id == root.get_span_context().span_id


async def test_a_decorated_function_gets_a_span_per_call_from_the_provider_of_the_moment() -> None:
    @tracer.start_as_current_span("sync")
    def double(x: int) -> int:
        return 2 * x

    @tracer.start_as_current_span("async")
    async def triple(x: int) -> int:
        await asyncio.sleep(1)
        return 3 * x

    assert double(2) == 4
    made = Traces()
    set_tracer_provider(made.provider)
    assert double(3) == 6
    assert list(await asyncio.gather(triple(1), triple(2))) == [3, 6]
    tracer.set_provider(None)

    names = [span.name for span in made.exporter.get_finished_spans()]
    assert names == ["sync", "async", "async"]
    assert double.__name__ == "double"


def test_an_escaping_exception_is_recorded(traces: Traces) -> None:
    with pytest.raises(LookupError), tracer.start_as_current_span("failing"):
        raise KeyError("secret")

    span = traces.spans["failing"]
    attributes = span.attributes or {}
    assert attributes["exception.type"] == attributes["error.type"] == "KeyError"
    assert attributes["exception.message"] == "'secret'"
    assert "test_tracing.py" in str(attributes["exception.stacktrace"])
    assert [event.name for event in span.events] == ["exception"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "'secret'"


def test_recording_exceptions_can_be_left_out(traces: Traces) -> None:
    silent_span = tracer.start_as_current_span(
        "silent", record_exception=False, set_status_on_exception=False
    )
    with pytest.raises(ValueError), silent_span:
        raise ValueError("y")

    silent = traces.spans["silent"]
    assert silent.events == ()
    assert silent.status.status_code is StatusCode.UNSET


def test_an_exception_can_be_recorded_without_its_details(traces: Traces) -> None:
    with tracer.start_as_current_span("redacted") as span:
        utils.record_exception(span, ValueError("secret"), redacted=True, record_event=False)

    redacted = traces.spans["redacted"]
    assert redacted.events == ()
    assert "secret" not in redacted.to_json()
    assert redacted.status.status_code is StatusCode.ERROR


async def test_cancellation_is_no_error(traces: Traces) -> None:
    with pytest.raises(asyncio.CancelledError), tracer.start_as_current_span("cancelled"):
        raise asyncio.CancelledError

    assert traces.spans["cancelled"].status.status_code is StatusCode.UNSET


def test_a_broken_provider_never_reaches_the_traced_code() -> None:
    class BrokenTracer:
        def start_span(self, *args: object, **kwargs: object) -> object:
            raise OSError("no exporter")

    class BrokenProvider:
        def get_tracer(self, *args: object) -> BrokenTracer:
            return BrokenTracer()

    tracer.set_provider(BrokenProvider())  # type: ignore[arg-type]
    try:
        with tracer.start_as_current_span("x") as span:
            assert not span.is_recording()
    finally:
        tracer.set_provider(None)


def test_metadata_is_stamped_on_every_span_of_the_provider() -> None:
    made = Traces()
    set_tracer_provider(made.provider, metadata={"user": "u1", "kind": "meta"})
    tracer.start_span("ours", attributes={"kind": "own"}).end()
    made.provider.get_tracer("another library").start_span("theirs").end()
    tracer.set_provider(None)

    assert dict(made.spans["ours"].attributes or {}) == {"user": "u1", "kind": "own"}
    assert dict(made.spans["theirs"].attributes or {}) == {"user": "u1", "kind": "meta"}


def spans_with_personal_data(made: Traces) -> ReadableSpan:
    @tracer.start_as_current_span("s")
    def fail() -> None:
        span = tracer.current_span()
        span.set_attributes(
            {
                "lk.pii.user_input": "my number is",
                "gen_ai.input.messages": "hello",
                "gen_ai.prompt.variable.name": "x",
                "lk.speech_id": "s1",
                "piiano": "kept",
            }
        )
        span.add_event("gen_ai.user.message", {"content": "hi"})
        span.add_event("generation", {"lk.pii.x": "hi", "n": 1})
        raise ValueError("bad input: my number is")

    with pytest.raises(ValueError):
        fail()
    tracer.set_provider(None)
    return made.spans["s"]


@pytest.mark.parametrize("by_environment", [True, False])
def test_personal_data_is_removed_ahead_of_earlier_exporters(
    by_environment: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Traces()
    if by_environment:
        monkeypatch.setenv("LIVEKIT_TELEMETRY_ALLOW_PII", "No")
    set_tracer_provider(made.provider, allow_pii=None if by_environment else False)

    span = spans_with_personal_data(made)

    assert dict(span.attributes or {}) == {
        "lk.speech_id": "s1",
        "piiano": "kept",
        "exception.type": "ValueError",
        "exception.message": "exception details redacted",
        "error.type": "ValueError",
    }
    assert [(event.name, dict(event.attributes or {})) for event in span.events] == [
        ("generation", {"n": 1}),
        (
            "exception",
            {"exception.type": "ValueError", "exception.message": "exception details redacted"},
        ),
    ]
    assert span.status.description == "exception details redacted"


def test_personal_data_can_be_restored_for_who_may_see_it() -> None:
    made = Traces()
    set_tracer_provider(made.provider, allow_pii=False)
    span = spans_with_personal_data(made)

    restored = pii.restore_pii(span)

    assert (restored.attributes or {})["lk.pii.user_input"] == "my number is"
    assert restored.events[0].name == "gen_ai.user.message"
    assert "my number is" in str(restored.status.description)
    assert "lk.pii.user_input" not in (span.attributes or {})
    assert pii.restore_pii(restored) is restored


def test_personal_data_stays_by_default(traces: Traces) -> None:
    span = spans_with_personal_data(traces)

    assert (span.attributes or {})["lk.pii.user_input"] == "my number is"


def test_mandated_redaction_wins_over_permission() -> None:
    made = Traces()
    set_tracer_provider(made.provider, allow_pii=True, metadata={"lk.redaction.enabled": True})

    span = spans_with_personal_data(made)

    assert "lk.pii.user_input" not in (span.attributes or {})


def test_a_provider_set_again_is_stamped_once_with_the_new_metadata() -> None:
    made = Traces()
    set_tracer_provider(made.provider, metadata={"old": 1}, allow_pii=False)
    set_tracer_provider(made.provider, metadata={"new": 1}, allow_pii=True)

    span = spans_with_personal_data(made)

    attributes = span.attributes or {}
    assert "new" in attributes
    assert "old" not in attributes
    assert "lk.pii.user_input" in attributes


def test_a_foreign_provider_cannot_filter_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    set_tracer_provider(otel_trace.NoOpTracerProvider(), allow_pii=False)
    tracer.set_provider(None)

    assert "allow_pii" in caplog.text


def test_realtime_metrics_become_usage_attributes(traces: Traces) -> None:
    realtime = RealtimeModelMetrics
    ev = realtime(
        request_id="r",
        timestamp=1.0,
        input_tokens=9,
        output_tokens=5,
        input_token_details=realtime.InputTokenDetails(
            audio_tokens=6,
            text_tokens=3,
            cached_tokens=2,
            cached_tokens_details=realtime.CachedTokenDetails(audio_tokens=2),
        ),
        output_token_details=realtime.OutputTokenDetails(audio_tokens=4, text_tokens=1),
        metadata=Metadata(model_name="gpt-realtime", model_provider="api.openai.com"),
    )
    with tracer.start_span("realtime") as span:
        utils.record_realtime_metrics(span, ev)

    attributes = traces.spans["realtime"].attributes or {}
    assert attributes["gen_ai.usage.input_tokens"] == 9
    assert attributes["gen_ai.usage.audio.cache_read.input_tokens"] == 2
    assert attributes["gen_ai.usage.output_audio_tokens"] == 4
    assert attributes["gen_ai.request.model"] == "gpt-realtime"
    assert attributes["gen_ai.provider.name"] == "openai"
    assert str(attributes["lk.realtime_model_metrics"]).startswith("{")


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("OpenAI", "openai"),
        ("api.openai.com", "openai"),
        ("https://api.openai.com/v1", "openai"),
        ("Azure OpenAI", "azure.ai.openai"),
        ("my-resource.openai.azure.com", "azure.ai.openai"),
        ("Vertex AI", "gcp.vertex_ai"),
        ("us-central1-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("Gemini", "gcp.gemini"),
        ("AWS Bedrock", "aws.bedrock"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
        ("xAI", "x_ai"),
        ("MistralAI", "mistral_ai"),
        ("Groq", "groq"),
        ("Cerebras", "Cerebras"),
        ("llm.example.com", "llm.example.com"),
        ("", None),
        (None, None),
    ],
)
def test_providers_are_spelled_as_the_conventions_do(name: str | None, spelled: str | None) -> None:
    assert gen_ai_provider_name(name) == spelled


def test_every_registered_provider_keeps_its_name() -> None:
    assert {gen_ai_provider_name(name) for name in trace_types.GEN_AI_PROVIDER_NAMES} == set(
        trace_types.GEN_AI_PROVIDER_NAMES
    )
