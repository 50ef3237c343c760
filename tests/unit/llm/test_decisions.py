"""Decisions: what may be asked, how failures are retried, which answers are believed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from livekit.agents import llm
from livekit.agents._exceptions import APIConnectionError, APIError, APIStatusError, APITimeoutError
from livekit.agents.llm._systemone import decode_answers, encode_decisions
from livekit.agents.llm.decisions import DecisionKind
from livekit.agents.types import APIConnectOptions

LIKELY = llm.Probability("Is the user angry?")
MOOD = llm.Choice("Which mood?", {"calm": "Quiet.", "angry": "Loud."})
GRADE = llm.Score("How polite?", ["rude", "neutral", "kind"])
YES = llm.ProbabilityResult(value=0.9)
ALL: set[DecisionKind] = {"probability", "choice", "score"}


class FakeDecisionModel(llm.DecisionModel):
    def __init__(self, *script: Any, kinds: set[DecisionKind] = ALL) -> None:
        super().__init__(capabilities=llm.DecisionCapabilities(kinds))
        self.script = list(script)
        self.inputs: list[str] = []

    async def _evaluate_impl(
        self, *, input: str, decisions: Mapping[str, llm.Decision], conn_options: APIConnectOptions
    ) -> llm.DecisionResponse:
        self.inputs.append(input)
        step = self.script.pop(0)
        if step == "hang":
            await asyncio.Event().wait()
        if isinstance(step, Exception):
            raise step
        return llm.DecisionResponse(results=step, request_id="r", input_tokens=3)


async def ask(model: llm.DecisionModel, retries: int = 0, **decisions: Any) -> llm.DecisionResponse:
    options = APIConnectOptions(max_retry=retries, timeout=5.0)
    return await model.evaluate(input="text", decisions=decisions, conn_options=options)


async def test_answers_and_metrics() -> None:
    model = FakeDecisionModel({"a": YES})
    seen: list[Any] = []
    model.on("metrics_collected", seen.append)
    response = await ask(model, a=LIKELY)
    assert response.results == {"a": YES} and response.errors == {}
    assert [(m.request_id, m.input_tokens, m.label) for m in seen] == [("r", 3, model.label)]
    await model.aclose()


async def test_no_questions_need_no_request() -> None:
    model = FakeDecisionModel()
    assert (await ask(model)).results == {} and model.inputs == []


async def test_of_a_conversation_what_was_said_counts() -> None:
    chat_ctx = llm.ChatContext.empty()
    chat_ctx.add_message(role="system", content="be brief")
    chat_ctx.add_message(role="user", content="hello")
    chat_ctx.add_message(role="assistant", content="hi")
    chat_ctx.items.append(llm.FunctionCall(call_id="1", name="f", arguments="{}"))
    model = FakeDecisionModel({"a": YES})
    await model.evaluate(input=chat_ctx, decisions={"a": LIKELY})
    assert model.inputs == ["user: hello\nassistant: hi"]


@pytest.mark.parametrize(
    ("name", "decision", "text"),
    [
        (" ", LIKELY, "blank name"),
        ("a", llm.Probability(" "), "blank prompt"),
        ("a", llm.Choice("x", {"one": ""}), "two options"),
        ("a", llm.Choice("x", {"one": "", " ": ""}), "two options"),
        ("a", llm.Score("x", ["one"]), "two levels"),
        ("a", llm.Score("x", ["one", ""]), "two levels"),
        ("a", GRADE, "its kind is score"),
        ("a", "is it?", "expected a Probability"),
    ],
)
async def test_incomplete_questions_are_refused(name: str, decision: Any, text: str) -> None:
    model = FakeDecisionModel(kinds={"probability", "choice"} if decision is GRADE else ALL)
    with pytest.raises(ValueError, match=text):
        await model.evaluate(input="", decisions={name: decision})


async def test_failures_are_retried_as_they_allow() -> None:
    gone = APIConnectionError("gone")
    assert (await ask(FakeDecisionModel(gone, {"a": YES}), 1, a=LIKELY)).results
    with pytest.raises(APIConnectionError, match="gone"):
        await ask(FakeDecisionModel(gone, gone), 1, a=LIKELY)
    with pytest.raises(APIConnectionError, match="gone"):
        await ask(FakeDecisionModel(gone), 0, a=LIKELY)
    with pytest.raises(APIStatusError):
        await ask(FakeDecisionModel(APIStatusError("bad", status_code=400)), 3, a=LIKELY)


async def test_an_attempt_takes_no_longer_than_it_may() -> None:
    assert (await ask(FakeDecisionModel("hang", {"a": YES}), 1, a=LIKELY)).results
    began = asyncio.get_running_loop().time()
    with pytest.raises(APITimeoutError):
        await ask(FakeDecisionModel("hang", asyncio.TimeoutError()), 1, a=LIKELY)
    assert asyncio.get_running_loop().time() - began <= 5.2


def score(value: float, count: int = 3, levels: list[str] | None = None) -> llm.ScoreResult:
    return llm.ScoreResult(
        value=value,
        probabilities=dict.fromkeys(range(count), 0.1),
        levels=GRADE.levels if levels is None else levels,
    )


@pytest.mark.parametrize(
    ("decision", "result", "text"),
    [
        (LIKELY, score(1), "expected a probability, got a score"),
        (MOOD, llm.ChoiceResult(value="sad"), "unknown choice"),
        (MOOD, llm.ChoiceResult(value="calm", probabilities={"calm": 1.0}), "options"),
        (GRADE, score(2.5), "beyond the last level"),
        (GRADE, score(1, 2), "probabilities"),
        (GRADE, score(1, 3, ["a", "b", "c"]), "levels"),
    ],
)
async def test_answers_that_make_no_sense_become_errors(
    decision: llm.Decision, result: Any, text: str
) -> None:
    response = await ask(FakeDecisionModel({"a": result}), a=decision)
    assert response.results == {} and text in response.errors["a"]


async def test_every_question_gets_an_answer_or_an_error() -> None:
    response = await ask(FakeDecisionModel({"a": YES}), a=LIKELY, b=MOOD, c=GRADE)
    assert set(response.results) == {"a"} and set(response.errors) == {"b", "c"}
    good = {"b": llm.ChoiceResult(value="calm"), "c": score(2)}
    response = await ask(FakeDecisionModel(good), b=MOOD, c=GRADE)
    assert response.results == good and response.errors == {}


async def test_answers_to_what_was_not_asked_are_an_error() -> None:
    with pytest.raises(APIError, match="not asked"):
        await ask(FakeDecisionModel({"b": YES}), a=LIKELY)
    model = FakeDecisionModel({"a": YES})
    plain = model._evaluate_impl

    async def both(**options: Any) -> llm.DecisionResponse:
        return (await plain(**options)).model_copy(update={"errors": {"a": "no"}})

    model._evaluate_impl = both  # type: ignore[method-assign]
    with pytest.raises(APIError, match="refused it as well"):
        await ask(model, a=LIKELY)


# -- on the wire


def test_questions_on_the_wire() -> None:
    assert encode_decisions({"a": LIKELY, "b": MOOD, "c": GRADE}) == {
        "a": {"instructions": "Is the user angry?", "type": "noul"},
        "b": {"instructions": "Which mood?", "type": "choice", "criteria": MOOD.options},
        "c": {"instructions": "How polite?", "type": "score", "criteria": GRADE.levels},
    }


def test_answers_on_the_wire() -> None:
    by_index = {"1": "neutral", "0": "rude", "2": "kind"}
    results, errors = decode_answers(
        {
            "a": {"type": "noul", "noul": 0.5},
            "b": {
                "type": "choice",
                "choice": "calm",
                "probabilities": {"calm": 1, "angry": 0},
                "confidence": 0.7,
            },
            "c": {"type": "score", "score": 1.5, "probabilities": {"0": 0, "1": 0.5, "2": 0.5},
                  "legend": by_index},
            "d": {"type": "score", "score": 1, "probabilities": [0, 1, 0], "legend": GRADE.levels},
            "e": {"type": "score", "score": 1, "probabilities": [0, 1, 0]},
            "f": {"type": "refusal"},
            "g": {"type": "noul", "noul": 2},
            "h": {"type": "poem"},
            "i": {"type": "score", "score": 1},
            "j": None,
        },
        {"e": GRADE},
    )  # fmt: skip
    assert results["a"] == llm.ProbabilityResult(value=0.5)
    assert results["b"].provider_data == {"confidence": 0.7}
    for name in "cde":
        result = results[name]
        assert isinstance(result, llm.ScoreResult)
        assert result.levels == GRADE.levels and set(result.probabilities) == {0, 1, 2}
    assert set(errors) == set("fghij") and "refused" in errors["f"]
