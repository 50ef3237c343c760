"""What plain functions give: schemas, arguments, formats of providers, tokenizers, values, errors."""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

import livekit.agents as agents
from livekit.agents import (
    Agent,
    APIConnectOptions,
    RunContext,
    function_tool,
    llm,
    stt,
    tokenize,
    tts,
    utils,
    vad,
)

FORMATS = ("openai", "openai.responses", "anthropic", "google", "aws", "mistralai")

NOTED: dict[str, list[str]] = {}


def note(scene: str, what: str, call: Callable[[], Any]) -> None:
    """Note what `call` gives, or which exception it raises; texts of errors are everybody's own."""
    try:
        given = json.dumps(call(), default=str, sort_keys=True)
    except Exception as error:
        given = f"raises {type(error).__name__}"
    NOTED.setdefault(scene, []).append(f"{what}: {given}")


# -- tools ------------------------------------------------------------------------------------------


class Color(enum.Enum):
    """Of a thing."""

    red = "r"
    blue = "b"


class Rank(enum.IntEnum):
    """Of a person."""

    low = 1
    high = 2


class Address(BaseModel):
    """An address."""

    street: str = Field(description="the street")
    number: int | None = None
    tags: list[str] = []


@function_tool
async def simple(a: str, b: int = 3, c: float | None = None, d: bool = False) -> None:
    """Do something simple.

    Args:
        a: the first
        b: the second,
            which is longer
    """


@function_tool
async def rich(
    context: RunContext[Any],
    color: Color,
    letter: Literal["x", "y"],
    numbers: list[int],
    table: dict[str, int],
    address: Address,
    note: str | None = None,
) -> None:
    """Do something rich."""


@function_tool(name="renamed", description="under another name")
def described(
    x: Annotated[int, Field(description="an x", ge=0, le=5)], y: Annotated[str, "plain"] = "q"
) -> None:
    """Not shown."""


@function_tool
async def bare() -> None:
    """Do it."""


@function_tool
async def mixed(
    either: int | str,
    rank: Rank = Rank.low,
    places: list[Address] | None = None,
    pair: tuple[int, str] = (1, "a"),
) -> None:
    """:param either: one of them
    :param rank: how high
    """


@function_tool(
    raw_schema={
        "name": "raw",
        "description": "By hand.",
        "parameters": {
            "type": "object",
            "properties": {"q": {"type": "string"}},
            "required": ["q"],
        },
    }
)
async def raw(raw_arguments: dict[str, object]) -> None:
    """Not shown."""


TOOLS: list[Any] = [simple, rich, described, bare, mixed, raw]

ARGUMENTS = {
    simple: (
        '{"a": "x"}',
        '{"a": "x", "b": null}',
        '{"a": 1}',
        "{}",
        "no json",
        '{"a": "x", "more": 1}',
        '{"a": "x", "b": "5"}',
        '{"a": "x", "b": "five"}',
        "",
        "null",
        "[]",
        '{"a": "x",}',
    ),
    rich: (
        '{"color": "r", "letter": "x", "numbers": [1], "table": {"a": 1}, "address": {"street": "s"}}',
        '{"color": "z", "letter": "x", "numbers": [1], "table": {}, "address": {"street": "s"}}',
        '{"color": "r", "letter": "z", "numbers": ["1"], "table": {}, "address": {}}',
    ),
    described: ('{"x": 9}', '{"x": 5}'),
    raw: ('{"q": 1}',),
}


def tools() -> None:
    """Schemas in each format, and arguments."""
    for tool in TOOLS:
        for form in FORMATS:
            context = llm.ToolContext([tool])
            note(
                "tool schemas",
                f"{tool.info.name} {form}",
                lambda: context.parse_function_tools(form),
            )
    for tool in TOOLS[:-1]:
        note("tool schemas", f"{tool.info.name} strict", lambda: _schema(tool, strict=True))
        note("tool schemas", f"{tool.info.name} legacy", lambda: _schema(tool, strict=False))
    for tool, texts in ARGUMENTS.items():
        for text in texts:
            note("arguments", f"{tool.info.name} {text}", lambda: _arguments(tool, text))


def _schema(tool: Any, *, strict: bool) -> Any:
    build = llm.utils.build_strict_openai_schema if strict else llm.utils.build_legacy_openai_schema
    return build(tool)


def _arguments(tool: Any, text: str) -> str:
    return str(llm.utils.prepare_function_arguments(fnc=tool, json_arguments=text))


# -- contexts ---------------------------------------------------------------------------------------


def conversation() -> llm.ChatContext:
    """A conversation with everything in it."""
    context = llm.ChatContext.empty()
    picture = llm.ImageContent(id="picture", image="data:image/png;base64,iVBORw0KGgo=")
    context.add_message(role="system", content="Be kind.", id="s", created_at=1.0)
    context.add_message(role="user", content=["hello", picture], id="u", created_at=2.0)
    context.add_message(role="assistant", content="hello", id="a", created_at=3.0)
    for number, failed in ((1, False), (2, True)):
        call_id, moment = f"call_{number}", 2.0 + 2 * number
        context.insert(
            llm.FunctionCall(
                id=f"f{number}", call_id=call_id, name="f", arguments='{"a": 1}', created_at=moment
            )
        )
        context.insert(
            llm.FunctionCallOutput(
                id=f"o{number}",
                call_id=call_id,
                name="f",
                output="out",
                is_error=failed,
                created_at=moment + 1,
            )
        )
    context.add_message(role="developer", content="Be brief.", id="d", created_at=8.0)
    context.add_message(role="user", content="bye", id="u2", created_at=9.0)
    context.insert(
        llm.FunctionCall(id="f3", call_id="call_3", name="g", arguments="{}", created_at=10.0)
    )
    return context


def contexts() -> None:
    """Formats of providers, and what can be done with a context."""
    context = conversation()
    for form in FORMATS:
        note("contexts", form, lambda: context.to_provider_format(form))
    note("contexts", "dict", context.to_dict)
    note(
        "contexts",
        "dict, all",
        lambda: context.to_dict(exclude_image=False, exclude_timestamp=False),
    )
    note("contexts", "back", lambda: _ids(llm.ChatContext.from_dict(context.to_dict())))
    for count in range(11):
        note("contexts", f"last {count}", lambda: _ids(context.copy().truncate(max_items=count)))
    note("contexts", "words only", lambda: _ids(context.copy(exclude_function_call=True)))
    note("contexts", "no instructions", lambda: _ids(context.copy(exclude_instructions=True)))
    note("contexts", "known tools", lambda: _ids(context.copy(tools=["g"])))
    note("contexts", "messages", lambda: [m.text_content for m in context.messages()])
    note("contexts", "index", lambda: [context.index_by_id(name) for name in ("a", "none")])
    note("contexts", "place", lambda: context.find_insertion_index(created_at=4.5))
    other = llm.ChatContext([llm.ChatMessage(id="n", role="user", content=["n"], created_at=2.5)])
    note("contexts", "merged", lambda: _ids(context.copy().merge(other)))


def _ids(context: llm.ChatContext) -> list[str]:
    return [item.id for item in context.items]


# -- texts ------------------------------------------------------------------------------------------

SENTENCES = (
    'Hello world. This is Dr. Smith speaking, at 3.14 p.m. on Jan. 5th! Is it ok? "Yes," he said.',
    "The U.S. is big. This is so. The U.S.A. too. It is.",
    "See foo.com. And bar.io now. Version 1.2.3 is out.",
    "Mr. Jones met Prof. X. They talked for a while, e.g. about it.",
    "你好。今天天气不错！你呢？好的",
)

WORDS = ("table", "international", "hyphenation", "associate", "present", "the", "antidisestablish")


def texts() -> None:
    """Tokenizers and words."""
    for text in SENTENCES:
        for options in (
            {},
            {"min_sentence_len": 1},
            {"min_sentence_len": 5, "retain_format": True},
        ):
            tokenizer = tokenize.basic.SentenceTokenizer(**options)
            note("sentences", f"{text} {options}", lambda: tokenizer.tokenize(text))
        note(
            "sentences",
            f"{text} blingfire",
            lambda: tokenize.blingfire.SentenceTokenizer().tokenize(text),
        )
        for options in (
            {},
            {"ignore_punctuation": False, "retain_format": True},
            {"split_character": True},
        ):
            splitter = tokenize.basic.WordTokenizer(**options)
            note("words", f"{text} {options}", lambda: splitter.tokenize(text))
    for word in WORDS:
        note("words", word, lambda: tokenize.basic.hyphenate_word(word))
    note(
        "words",
        "replaced",
        lambda: tokenize.utils.replace_words(
            text="I saw LiveKit, livekit and LIVEKIT.", replacements={"livekit": "Live Kit"}
        ),
    )
    note("words", "paragraphs", lambda: tokenize.basic.tokenize_paragraphs("a b\n\nc d\n \n e"))
    for tag in (
        "en",
        "EN",
        "en-US",
        "english",
        "zh-Hans-CN",
        "pt-BR",
        "cmn",
        "eng",
        "xx",
        "multi",
        "",
    ):
        note("languages", tag, lambda: _language(tag))


def _language(tag: str) -> list[str | None]:
    code = agents.LanguageCode(tag)
    return [str(code), code.language, code.region, code.iso]


# -- values -----------------------------------------------------------------------------------------


EVENTS = (
    "AgentStateChangedEvent",
    "UserStateChangedEvent",
    "UserInputTranscribedEvent",
    "ConversationItemAddedEvent",
    "FunctionToolsExecutedEvent",
    "SpeechCreatedEvent",
    "MetricsCollectedEvent",
    "AgentFalseInterruptionEvent",
    "CloseEvent",
    "ErrorEvent",
)


class NamedAgent(Agent):
    """Its id comes from its name."""

    @function_tool
    async def bare(self) -> None:
        """Do it."""


def values() -> None:
    """Defaults, errors, events, small helpers."""
    note(
        "defaults",
        "stt",
        lambda: dataclasses.asdict(stt.STTCapabilities(streaming=True, interim_results=True)),
    )
    note("defaults", "tts", lambda: dataclasses.asdict(tts.TTSCapabilities(streaming=True)))
    note("defaults", "vad", lambda: dataclasses.asdict(vad.VADCapabilities(update_interval=0.1)))
    options = APIConnectOptions()
    note("defaults", "connection", lambda: dataclasses.asdict(options))
    note("defaults", "intervals", lambda: [options._interval_for_retry(n) for n in range(4)])
    note("defaults", "retries below 0", lambda: APIConnectOptions(max_retry=-1))
    for status in (400, 408, 429, 499, 500, -1):
        error = agents.APIStatusError("no", status_code=status, request_id="r", body={"a": 1})
        note("errors", str(status), lambda: [str(error), repr(error), error.retryable])
    note(
        "errors",
        "others",
        lambda: [
            str(agents.APIConnectionError()),
            str(agents.APITimeoutError()),
            repr(agents.APIError("x")),
        ],
    )
    for name in EVENTS:
        note("events", name, lambda: sorted(getattr(agents, name).model_fields))
    note("events", "reasons", lambda: [reason.value for reason in agents.CloseReason])
    note("agents", "id", lambda: NamedAgent(instructions="").id)
    note(
        "agents",
        "tools",
        lambda: [t.info.name for t in NamedAgent(instructions="", tools=[simple]).tools],
    )
    note("agents", "a tool twice", lambda: len(NamedAgent(instructions="", tools=[bare]).tools))
    note("helpers", "id", lambda: [len(utils.shortuuid()), len(utils.shortuuid("x_"))])
    note(
        "helpers",
        "not given",
        lambda: [
            repr(agents.NOT_GIVEN),
            bool(agents.NOT_GIVEN),
            utils.is_given(None),
        ],
    )
    average = utils.MovingAverage(2)
    note("helpers", "average", lambda: [average.add_sample(n) for n in (1, 2, 6)])
    smooth = utils.ExpFilter(0.5)
    note("helpers", "filter", lambda: [round(smooth.apply(1, n), 6) for n in (1.0, 0.0, 0.5)])


if __name__ == "__main__":
    for play in (tools, contexts, texts, values):
        play()
    json.dump(NOTED, sys.stdout)
