"""What a session records on its spans: names, parents, keys, and the values that don't vary."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from conversations import SPOKEN, Host
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from stages import WideStage

from livekit.agents import Agent, RunContext, ToolError, function_tool, telemetry

PATIENCE = 20.0
"""Seconds that a scene may take."""

TELLING = (
    "gen_ai.operation.name",
    "gen_ai.request.model",
    "gen_ai.provider.name",
    "gen_ai.output.type",
    "gen_ai.agent.name",
    "gen_ai.workflow.name",
    "gen_ai.tool.name",
    "gen_ai.tool.type",
    "gen_ai.response.finish_reasons",
    "gen_ai.usage.input_tokens",
    "lk.agent_label",
    "lk.previous_agent_label",
    "lk.interrupted",
    "lk.interruption.source",
    "lk.close_reason",
    "lk.close.drain",
    "lk.eou.source",
    "lk.eou.outcome",
    "lk.eou.endpointing_delay",
    "lk.function_tool.is_error",
    "lk.function_tools",
    "lk.provider_tools",
    "lk.tool_sets",
    "lk.generation_count",
    "lk.pii.user_input",
    "lk.pii.user_transcript",
    "lk.pii.response.text",
    "lk.pii.function_tool.output",
    "lk.pii.input_text",
    "lk.tts.streaming",
    "lk.tts.label",
    "lk.retry_count",
    "lk.is_interruption",
    "lk.old_state",
    "lk.new_state",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "exception.type",
    "error.type",
)
"""Keys whose values are the same in every run."""

Play = Callable[[WideStage], Coroutine[Any, Any, None]]

SCENES: dict[str, Play] = {}


def scene(play: Play) -> Play:
    """Register a scene under the name of its function."""
    SCENES[play.__name__] = play
    return play


class Helper(Host):
    """Has tools that work, fail, and hand over."""

    @function_tool
    async def add(self, a: int, b: int = 2) -> int:
        """Add two numbers."""
        return a + b

    @function_tool
    async def fail(self) -> None:
        """Fail."""
        raise ToolError("not today")

    @function_tool
    async def crash(self) -> None:
        """Crash."""
        raise ValueError("a bug")

    @function_tool
    async def hand_over(self, context: RunContext[None]) -> Agent:
        """Hand over."""
        return Agent(instructions="Take over.")


@scene
async def a_turn(stage: WideStage) -> None:
    await stage.start()
    await stage.hear("hello there")
    await stage.until(SPOKEN)
    await stage.end()


@scene
async def a_turn_that_is_cut(stage: WideStage) -> None:
    session = await stage.start(pace=1.0, seconds=3.0)
    speech = session.say("A long long story to tell.")
    await asyncio.sleep(0.6)
    await stage.hear("stop it now please", seconds=0.8)
    await speech
    await asyncio.sleep(0.5)
    await stage.end()


@scene
async def words(stage: WideStage) -> None:
    session = await stage.start()
    await session.say("Welcome.")
    await session.generate_reply(user_input="hello")
    await session.generate_reply(instructions="Say goodbye.")
    await stage.end()


@scene
async def tools(stage: WideStage) -> None:
    session = await stage.start(Helper(stage))
    for tool in ("work", "fail", "crash", "unknown"):
        await session.generate_reply(user_input=f"call:{tool}")
    await stage.end()


@scene
async def a_handoff(stage: WideStage) -> None:
    session = await stage.start(Helper(stage))
    await session.generate_reply(user_input="call:hand_over")
    session.update_agent(Agent(instructions="Third."))
    await asyncio.sleep(0.2)
    await stage.end()


@scene
async def interrupted_by_hand(stage: WideStage) -> None:
    session = await stage.start(pace=1.0, seconds=3.0)
    speech = session.generate_reply(user_input="hello")
    await asyncio.sleep(0.5)
    await session.interrupt()
    await speech
    await stage.end()


def _lines(spans: list[ReadableSpan]) -> list[str]:
    """What is told by all spans of a name together, once each."""
    names = {span.context.span_id: span.name for span in spans}
    told: set[str] = set()
    for span in spans:
        name, attributes = span.name, dict(span.attributes or {})
        parent = names.get(span.parent.span_id, "?") if span.parent else "nothing"
        told.add(f"{name} is in {parent}")
        told.add(f"{name} is {span.kind.name}, {span.status.status_code.name}")
        told.update(f"{name} has {key}" for key in attributes)
        told.update(f"{name} {k}={json.dumps(attributes[k])}" for k in TELLING if k in attributes)
        for event in span.events:
            fields = dict(event.attributes or {})
            told.add(f"{name} tells {event.name}")
            told.update(f"{name} tells {event.name} with {key}" for key in fields)
        told.update(f"{name} is linked to {names.get(link.context.span_id)}" for link in span.links)
    counts = [f"{name} x {n}" for name, n in Counter(span.name for span in spans).items()]
    return sorted([*told, *counts])


async def main() -> dict[str, list[str]]:
    """Play the scenes one after the other: the tracer is everybody's."""
    noted = {}
    for name, play in SCENES.items():
        exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        telemetry.set_tracer_provider(provider)
        await asyncio.wait_for(play(WideStage()), PATIENCE)
        await asyncio.sleep(0.2)
        noted[name] = _lines(list(exporter.get_finished_spans()))
    return noted


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
