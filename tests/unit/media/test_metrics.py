"""Metrics models, the sums over them, and their log lines."""

from __future__ import annotations

import logging
import typing
import warnings

import pytest

from livekit.agents import metrics
from livekit.agents.metrics.base import AvatarMetrics, Metadata

GPT = Metadata(model_name="gpt", model_provider="openai")


def llm_metrics(metadata: Metadata | None = GPT) -> metrics.LLMMetrics:
    return metrics.LLMMetrics(
        label="llm",
        request_id="r",
        timestamp=1.0,
        duration=2.0,
        ttft=0.256,
        cancelled=False,
        completion_tokens=10,
        prompt_tokens=20,
        prompt_cached_tokens=5,
        cache_creation_tokens=3,
        reasoning_tokens=4,
        total_tokens=30,
        tokens_per_second=5.0,
        metadata=metadata,
    )


def realtime_metrics(cached: bool = True) -> metrics.RealtimeModelMetrics:
    realtime = metrics.RealtimeModelMetrics
    details = realtime.CachedTokenDetails(audio_tokens=1, text_tokens=2, image_tokens=3)
    return realtime(
        request_id="r",
        timestamp=1.0,
        session_duration=1.5,
        input_tokens=60,
        output_tokens=7,
        total_tokens=67,
        input_token_details=realtime.InputTokenDetails(
            audio_tokens=10,
            text_tokens=20,
            image_tokens=30,
            cached_tokens=6,
            cached_tokens_details=details if cached else None,
        ),
        output_token_details=realtime.OutputTokenDetails(
            text_tokens=4, audio_tokens=3, image_tokens=2
        ),
        metadata=GPT,
    )


def tts_metrics() -> metrics.TTSMetrics:
    return metrics.TTSMetrics(
        label="tts",
        request_id="r",
        timestamp=1.0,
        ttfb=0.1,
        duration=1.0,
        audio_duration=2.5,
        cancelled=False,
        characters_count=42,
        input_tokens=1,
        output_tokens=2,
        streamed=True,
    )


def stt_metrics(**fields: typing.Any) -> metrics.STTMetrics:
    return metrics.STTMetrics(
        label="stt",
        request_id="r",
        timestamp=1.0,
        duration=0.0,
        audio_duration=5.0,
        streamed=True,
        **fields,
    )


def interruption_metrics() -> metrics.InterruptionMetrics:
    return metrics.InterruptionMetrics(
        timestamp=1.0,
        total_duration=0.5,
        prediction_duration=0.25,
        detection_delay=0.75,
        num_interruptions=1,
        num_backchannels=2,
        num_requests=3,
    )


def eot_metrics() -> metrics.EOTInferenceMetrics:
    return metrics.EOTInferenceMetrics(
        timestamp=1.0, total_duration=0.5, detection_delay=0.4, prediction_duration=0.3
    )


def vad_metrics() -> metrics.VADMetrics:
    return metrics.VADMetrics(
        label="vad", timestamp=1.0, idle_time=0.0, inference_duration_total=0.1, inference_count=32
    )


def test_every_public_name_resolves() -> None:
    for name in metrics.__all__:
        assert getattr(metrics, name) is not None
    assert set(metrics.__all__) <= set(dir(metrics))


def test_each_kind_has_its_own_type_tag() -> None:
    tags = [kind.model_fields["type"].default for kind in typing.get_args(metrics.AgentMetrics)]

    assert len(set(tags)) == len(tags) == 10


def test_metrics_survive_json() -> None:
    for sample in (llm_metrics(), realtime_metrics(), tts_metrics(), stt_metrics()):
        assert type(sample).model_validate_json(sample.model_dump_json()) == sample


def test_repr_leaves_out_defaults() -> None:
    text = repr(stt_metrics(input_tokens=3))

    assert "input_tokens=3" in text
    assert "metadata" not in text
    assert "acquire_time" not in text


def test_stt_total_tokens_is_the_sum_unless_given() -> None:
    assert stt_metrics(input_tokens=3, output_tokens=4).total_tokens == 7
    assert stt_metrics(input_tokens=3, output_tokens=4, total_tokens=9).total_tokens == 9


def test_llm_usage_is_summed_per_provider_and_model() -> None:
    collector = metrics.ModelUsageCollector()
    collector(llm_metrics())
    collector.collect(llm_metrics())
    collector.collect(llm_metrics(metadata=None))

    named, unnamed = collector.flatten()

    assert isinstance(named, metrics.LLMModelUsage)
    assert (named.provider, named.model) == ("openai", "gpt")
    assert (named.input_tokens, named.input_cached_tokens) == (40, 10)
    assert (named.input_cache_creation_tokens, named.output_tokens) == (6, 20)
    assert named.output_reasoning_tokens == 8
    assert (unnamed.provider, unnamed.model) == ("", "")


def test_realtime_usage_is_split_by_modality() -> None:
    collector = metrics.ModelUsageCollector()
    collector.collect(realtime_metrics())
    collector.collect(realtime_metrics(cached=False))

    assert collector.flatten() == [
        metrics.LLMModelUsage(
            provider="openai",
            model="gpt",
            input_tokens=120,
            input_cached_tokens=12,
            input_audio_tokens=20,
            input_cached_audio_tokens=1,
            input_text_tokens=40,
            input_cached_text_tokens=2,
            input_image_tokens=60,
            input_cached_image_tokens=3,
            output_tokens=14,
            output_audio_tokens=6,
            output_text_tokens=8,
            session_duration=3.0,
        )
    ]


def test_usage_comes_in_a_fixed_order_and_other_kinds_are_ignored() -> None:
    collector = metrics.ModelUsageCollector()
    for sample in (
        vad_metrics(),
        eot_metrics(),
        interruption_metrics(),
        stt_metrics(input_audio_tokens=6),
        tts_metrics(),
        llm_metrics(),
    ):
        collector.collect(sample)

    llm, tts, stt, interruption, eot = collector.flatten()

    assert llm.type == "llm_usage"
    assert tts == metrics.TTSModelUsage(
        provider="",
        model="",
        input_tokens=1,
        output_tokens=2,
        characters_count=42,
        audio_duration=2.5,
    )
    assert stt == metrics.STTModelUsage(
        provider="", model="", input_audio_tokens=6, audio_duration=5.0
    )
    assert interruption == metrics.InterruptionModelUsage(provider="", model="", total_requests=3)
    assert eot == metrics.EOTModelUsage(provider="", model="", total_requests=1)


def test_flattened_usage_does_not_change_afterwards() -> None:
    collector = metrics.ModelUsageCollector()
    collector.collect(tts_metrics())
    (before,) = collector.flatten()

    collector.collect(tts_metrics())

    assert isinstance(before, metrics.TTSModelUsage)
    assert before.characters_count == 42


def test_usage_repr_hides_zeros() -> None:
    usage = metrics.TTSModelUsage(provider="p", model="m", characters_count=3)

    assert repr(usage) == "TTSModelUsage(provider='p', model='m', characters_count=3)"


def test_the_old_collector_still_sums_and_warns_once() -> None:
    with pytest.warns(DeprecationWarning, match="ModelUsageCollector") as caught:
        collector = metrics.UsageCollector()
    assert [warning.filename for warning in caught] == [__file__]

    collector(llm_metrics())
    collector.collect(realtime_metrics())
    collector.collect(tts_metrics())
    collector.collect(stt_metrics(input_tokens=1, output_tokens=2, input_audio_tokens=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = collector.get_summary()
    collector.collect(llm_metrics())

    assert summary.llm_prompt_tokens == summary.llm_input_tokens == 80
    assert summary.llm_completion_tokens == summary.llm_output_tokens == 17
    assert summary.llm_prompt_cached_tokens == 11
    assert summary.llm_input_cached_image_tokens == 3
    assert summary.llm_output_image_tokens == 2
    assert (summary.tts_characters_count, summary.tts_audio_duration) == (42, 2.5)
    assert (summary.stt_audio_duration, summary.stt_input_audio_tokens) == (5.0, 3)
    assert (summary.stt_input_tokens, summary.stt_output_tokens) == (1, 2)


def test_the_old_summary_warns_where_it_is_made() -> None:
    with pytest.warns(DeprecationWarning, match="UsageSummary is deprecated") as caught:
        summary = metrics.UsageSummary(llm_prompt_tokens=4)

    assert summary.llm_input_tokens == 4
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    ("sample", "title"),
    [
        (llm_metrics(), "LLM metrics"),
        (realtime_metrics(), "RealtimeModel metrics"),
        (tts_metrics(), "TTS metrics"),
        (stt_metrics(), "STT metrics"),
        (interruption_metrics(), "Interruption metrics"),
        (AvatarMetrics(timestamp=1.0, playback_latency=0.5), "Avatar metrics"),
        (
            metrics.EOUMetrics(
                timestamp=1.0,
                end_of_utterance_delay=0.5,
                transcription_delay=0.25,
                on_user_turn_completed_delay=0.0,
            ),
            "EOU metrics",
        ),
    ],
)
def test_log_lines(
    sample: metrics.AgentMetrics, title: str, caplog: pytest.LogCaptureFixture
) -> None:
    target = logging.getLogger("test_metrics")
    with caplog.at_level(logging.INFO, logger=target.name):
        metrics.log_metrics(sample, logger=target)

    (record,) = caplog.records
    assert (record.message, record.levelname) == (title, "INFO")
    assert hasattr(record, "model_name") == (sample.metadata is not None)


def test_log_lines_carry_rounded_numbers_and_the_model(caplog: pytest.LogCaptureFixture) -> None:
    target = logging.getLogger("test_metrics")
    with caplog.at_level(logging.INFO, logger=target.name):
        metrics.log_metrics(llm_metrics(Metadata(model_name="gpt")), logger=target)

    fields = vars(caplog.records[0])
    assert (fields["model_name"], fields["model_provider"]) == ("gpt", "unknown")
    assert (fields["ttft"], fields["prompt_tokens"]) == (0.26, 20)


def test_kinds_without_a_log_line_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        metrics.log_metrics(vad_metrics())

    assert caplog.records == []
