"""Judges read a conversation, ask a model, and their verdicts come together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fakes.chat import call, context, message, output
from fakes.llm import FakeLLM, Reply, call as tool_call
from livekit.agents import evals
from livekit.agents.evals import (
    EvaluationResult,
    Evaluator,
    Judge,
    JudgeGroup,
    JudgmentResult,
    accuracy_judge,
    coherence_judge,
    conciseness_judge,
    handoff_judge,
    relevancy_judge,
    safety_judge,
    task_completion_judge,
    tool_use_judge,
)
from livekit.agents.llm import LLM, AgentHandoff, ChatContext
from livekit.agents.llm.chat_context import AgentConfigUpdate
from livekit.agents.telemetry import set_tracer_provider, tracer
from livekit.agents.testing import fake_job_context

ALL: list[Callable[..., Judge]] = [
    accuracy_judge,
    coherence_judge,
    conciseness_judge,
    handoff_judge,
    relevancy_judge,
    safety_judge,
    task_completion_judge,
    tool_use_judge,
]


def says(verdict: str, why: str = "because") -> Reply:
    arguments = json.dumps({"verdict": verdict, "reasoning": why})
    return Reply(tool_calls=[tool_call("give_verdict", arguments)])


def conversation(*more: Any) -> ChatContext:
    return context(
        AgentHandoff(old_agent_id=None, new_agent_id="front_desk"),
        message("user", "is breakfast at six"),
        call("c1", name="breakfast", arguments='{"day": "monday"}'),
        output("c1", "from seven to ten", name="breakfast"),
        message("assistant", "No, from seven", interrupted=True),
        *more,
    )


def asked(llm: FakeLLM) -> str:
    """What the judge's question said."""
    return "\n".join(m.text_content or "" for m in llm.requests[-1].chat_ctx.messages())


class Silent(Judge):
    """Judges by code."""

    def __init__(self, name: str, verdict: Any, seconds: float = 0.0) -> None:
        super().__init__(name=name)
        self.verdict, self.seconds = verdict, seconds

    async def evaluate(
        self,
        *,
        chat_ctx: ChatContext,
        reference: ChatContext | None = None,
        llm: LLM[Any] | None = None,
    ) -> JudgmentResult:
        await asyncio.sleep(self.seconds)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return JudgmentResult(self.verdict, "by code")


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
async def test_each_judge_is_named_after_what_it_judges_and_asks_about_that(
    make: Callable[..., Judge],
) -> None:
    llm = FakeLLM([says("maybe", "can't tell")])
    judge = make(llm)
    assert judge.name == make.__name__.removesuffix("_judge")
    assert isinstance(judge, Evaluator)
    moved = AgentHandoff(old_agent_id="front_desk", new_agent_id="kitchen")
    result = await judge.evaluate(chat_ctx=conversation(moved))
    assert (result.verdict, result.reasoning) == ("maybe", "can't tell")
    assert result.uncertain and not result.passed and not result.failed
    assert result.instructions and result.instructions in asked(llm)


async def test_the_model_reads_everything_that_happened_and_has_to_give_a_verdict() -> None:
    llm = FakeLLM([says("pass")])
    changed = AgentConfigUpdate(instructions="be nice", tools_added=["cook"], tools_removed=["x"])
    failed = output("c2", "burnt", name="cook", is_error=True)
    moved = AgentHandoff(old_agent_id="front_desk", new_agent_id="kitchen")
    await accuracy_judge(llm).evaluate(chat_ctx=conversation(changed, failed, moved))
    for line in (
        "user: is breakfast at six",
        'tool call: breakfast({"day": "monday"})',
        "tool output: breakfast: from seven to ten",
        "assistant: No, from seven [interrupted]",
        "agent instructions: be nice",
        "tools added: cook",
        "tools removed: x",
        "tool error: cook: burnt",
        "agent handoff: front_desk -> kitchen",
    ):
        assert line in asked(llm).splitlines()
    request = llm.requests[0]
    assert request.tool_choice == {"type": "function", "function": {"name": "give_verdict"}}
    assert [tool.id for tool in request.tools] == ["give_verdict"]
    assert request.extra_kwargs == {"temperature": 0.0}


async def test_a_verdict_is_on_the_span_of_its_judge() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    set_tracer_provider(provider)
    try:
        await accuracy_judge(FakeLLM([says("fail", "it is not")])).evaluate(chat_ctx=conversation())
    finally:
        tracer.set_provider(None)
    (span,) = (s for s in exporter.get_finished_spans() if s.name == "judge_evaluation")
    assert span.attributes == {
        "gen_ai.evaluation.name": "accuracy",
        "gen_ai.evaluation.score.label": "fail",
        "gen_ai.evaluation.explanation": "it is not",
    }


async def test_models_that_refuse_a_temperature_are_not_given_one() -> None:
    llm = FakeLLM([says("pass")], model="openai/gpt-5-mini")
    await accuracy_judge(llm).evaluate(chat_ctx=conversation())
    assert llm.requests[0].extra_kwargs == {}


async def test_a_reference_is_shown_apart_from_the_conversation() -> None:
    llm = FakeLLM([says("pass")])
    reference = context(message("assistant", "Breakfast begins at seven."))
    await accuracy_judge(llm).evaluate(chat_ctx=conversation(), reference=reference)
    before, after = asked(llm).split("For comparison")
    assert "No, from seven" in before and "Breakfast begins at seven." in after


async def test_a_conversation_of_one_agent_has_no_bad_handoff_and_nobody_is_asked() -> None:
    llm = FakeLLM()
    result = await handoff_judge(llm).evaluate(chat_ctx=conversation())
    assert result.passed and not llm.requests


async def test_the_task_is_what_the_agent_was_told_last() -> None:
    llm = FakeLLM(default=says("pass"))
    judge = task_completion_judge(llm)
    told = [AgentConfigUpdate(instructions=text) for text in ("sell tea", "sell coffee")]
    result = await judge.evaluate(chat_ctx=conversation(*told))
    assert result.instructions.endswith("sell coffee")
    result = await judge.evaluate(chat_ctx=context(message("system", "sell cake")))
    assert result.instructions.endswith("sell cake")


async def test_without_a_model_there_is_no_judgement() -> None:
    with pytest.raises(ValueError, match="has no model to ask"):
        await accuracy_judge().evaluate(chat_ctx=conversation())


@pytest.mark.parametrize(
    "answer",
    [
        "looks fine to me",
        Reply(tool_calls=[tool_call("give_verdict", "{oops")]),
        Reply(tool_calls=[tool_call("give_verdict", '{"verdict": "pass"}')]),
        says("perhaps"),
    ],
)
async def test_an_answer_that_is_no_verdict_is_an_error(answer: Any) -> None:
    with pytest.raises(ValueError, match="verdict"):
        await accuracy_judge(FakeLLM([answer])).evaluate(chat_ctx=conversation())


async def test_a_model_that_never_answers_is_given_up_after_ninety_seconds() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(asyncio.TimeoutError):
        await accuracy_judge(FakeLLM([Reply(hangs=True)])).evaluate(chat_ctx=conversation())
    assert loop.time() - began == pytest.approx(90.0, abs=0.5)


async def test_a_group_judges_side_by_side_and_leaves_out_who_failed() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    group = JudgeGroup(
        llm=FakeLLM(default=says("fail")),
        judges=[
            Silent("kind", "pass", 3.0),
            Silent("broken", RuntimeError("oops"), 1.0),
            Silent("wise", "maybe", 4.0),
            safety_judge(),
            accuracy_judge(FakeLLM([says("pass", "own model")])),
        ],
    )
    result = await group.evaluate(conversation())
    assert loop.time() - began == pytest.approx(4.0)
    assert {name: j.verdict for name, j in result.judgments.items()} == {
        "kind": "pass",
        "wise": "maybe",
        "safety": "fail",
        "accuracy": "pass",
    }
    assert result.score == pytest.approx(2.5 / 4)
    assert result.any_passed and not result.all_passed and not result.none_failed
    assert not result.majority_passed


@pytest.mark.parametrize(
    ("verdicts", "score", "all_passed", "any_passed", "majority", "none_failed"),
    [
        ("", 0.0, True, False, True, True),
        ("pass", 1.0, True, True, True, True),
        ("pass pass maybe", 2.5 / 3, False, True, True, True),
        ("pass fail", 0.5, False, True, False, False),
        ("maybe", 0.5, False, False, False, True),
    ],
)
def test_verdicts_add_up(
    verdicts: str,
    score: float,
    all_passed: bool,
    any_passed: bool,
    majority: bool,
    none_failed: bool,
) -> None:
    given: list[Any] = verdicts.split()
    result = EvaluationResult({str(i): JudgmentResult(v, "") for i, v in enumerate(given)})
    assert result.score == pytest.approx(score)
    assert result.all_passed is all_passed and result.any_passed is any_passed
    assert result.majority_passed is majority and result.none_failed is none_failed


def test_two_judges_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="several judges are named 'safety'"):
        JudgeGroup(llm=FakeLLM(), judges=[safety_judge(), safety_judge()])


async def test_in_a_job_the_verdicts_become_tags() -> None:
    with fake_job_context() as job:
        group = JudgeGroup(llm=FakeLLM(default=says("pass", "fine")), judges=[safety_judge()])
        await group.evaluate(conversation())
        assert job.tagger.tags == {"lk.judge.safety:pass"}
        [evaluation] = job.tagger.evaluations
    assert evaluation["reasoning"] == "fine" and evaluation["instructions"]


async def test_the_verdicts_are_printed_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = JudgeGroup(llm=FakeLLM(), judges=[Silent("kind", "pass")])
    await group.evaluate(conversation())
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("LIVEKIT_EVALS_VERBOSE", "1")
    await group.evaluate(conversation())
    assert "kind: pass: by code" in capsys.readouterr().out


async def test_a_model_string_is_a_hosted_model_that_takes_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIVEKIT_API_KEY", "key")
    monkeypatch.setenv("LIVEKIT_API_SECRET", "secret")
    llm: Any = JudgeGroup(llm="openai/gpt-5-mini").llm
    assert llm.model == "openai/gpt-5-mini"
    assert llm._inference_class == "low" and llm._extra_kwargs == {"reasoning_effort": "minimal"}
    llm = JudgeGroup(llm="openai/gpt-4.1-mini").llm
    assert llm._extra_kwargs == {}


async def test_who_stops_waiting_stops_the_judges() -> None:
    llm = FakeLLM([Reply(hangs=True)])
    task = asyncio.ensure_future(
        JudgeGroup(llm=llm, judges=[safety_judge()]).evaluate(conversation())
    )
    await asyncio.sleep(1.0)
    assert llm.running
    task.cancel()
    await asyncio.wait((task,))
    await asyncio.sleep(0.3)
    assert task.cancelled() and not llm.running


def test_every_name_resolves() -> None:
    assert all(getattr(evals, name) is not None for name in evals.__all__)
