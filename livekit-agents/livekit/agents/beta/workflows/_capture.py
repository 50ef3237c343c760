"""What the tasks have in common that find out one thing from a user.

The model calls an *update* tool with what it understood. Where the user has to confirm it, that only
makes a draft: the model reads it back, and a *confirm* tool, which can't be used before the user has
answered, completes the task. A *decline* tool ends it without a result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar

from ...llm import ChatContext, Instructions, Tool, ToolError, Toolset, function_tool
from ...llm.tool_context import ToolFlag
from ...types import NOT_GIVEN, NotGivenOr
from ...utils import is_given
from ...voice.agent import AgentTask
from ...voice.run_context import RunContext
from .utils import WorkflowInstructions

if TYPE_CHECKING:
    from ... import llm, stt, tts, vad
    from ...voice.agent_session import AgentSession
    from ...voice.speech_handle import SpeechHandle
    from ...voice.turn import TurnDetectionMode

Result_T = TypeVar("Result_T")

AnySTT: TypeAlias = "NotGivenOr[stt.STT[Any] | str | None]"
AnyLLM: TypeAlias = "NotGivenOr[llm.LLM[Any] | llm.RealtimeModel | str | None]"
AnyTTS: TypeAlias = "NotGivenOr[tts.TTS[Any] | str | None]"
AnyVAD: TypeAlias = "NotGivenOr[vad.VAD | None]"
TurnDetection: TypeAlias = "NotGivenOr[TurnDetectionMode | None]"

TEMPLATE = """\
{persona}

{modality}

{taking}

{confirmation}

{declining}
Stay with this one matter: if something else comes up, say that it can be dealt with right after.

{extra}"""
"""The instructions of a task, section by section."""

AUDIO = """\
You are listening through speech recognition, so expect words in place of signs ("at", "dot", \
"dash", "double five"), letters spelled with names or words ("B as in Berta"), fillers, and people \
who correct themselves in the middle: what they say last counts. Put together what they mean without \
talking about it. Say nothing that can't be spoken: no markup, no lists, no symbols."""

TEXT = """\
The user writes to you. Expect typing mistakes and take what is plainly meant."""


def confirming(tool: str) -> str:
    """The section about reading back, for the tool that confirms."""
    return (
        "What you took down is not settled before the user has agreed to it. Read it back in your "
        f"next words, ask whether it is right, and wait. Call `{tool}` only after the user has "
        "answered that it is; if they correct it, take it down anew and read it back again."
    )


def declining(tool: str, what: str) -> str:
    """The section about users who don't want to."""
    return (
        f"Nobody has to give {what}. If the user clearly refuses, or says there is none, call "
        f"`{tool}` with the reason. A question, a pause or a doubt is no refusal."
    )


def by_modality(require_confirmation: NotGivenOr[bool], text: str) -> str | Instructions:
    """`text` if there will be a confirmation: if that is open, only for users who speak."""
    if is_given(require_confirmation):
        return text if require_confirmation else ""
    return Instructions(audio=text, text="")


def compose(
    instructions: NotGivenOr[WorkflowInstructions | Instructions | str],
    extra_instructions: str,
    *,
    template: str = TEMPLATE,
    persona: str,
    **sections: Any,
) -> Instructions:
    """The instructions of a task, with what its user wants them to be changed to."""
    extra = extra_instructions.strip()
    if isinstance(instructions, Instructions) and not isinstance(
        instructions, WorkflowInstructions
    ):
        return Instructions(
            "\n\n".join(part for part in (instructions.common, extra) if part),
            audio=instructions.audio,
            text=instructions.text,
            dynamic=instructions.dynamic,
        )
    if isinstance(instructions, WorkflowInstructions):
        given = instructions
    else:
        given = WorkflowInstructions(instructions if is_given(instructions) else "")
    resolved = given.resolve(template=template, default_persona=persona, **sections)
    if not extra:
        return resolved
    return WorkflowInstructions(extra=extra).resolve(
        template="{given}\n\n{extra}", default_persona="", given=resolved
    )


@dataclass
class Draft(Generic[Result_T]):
    """What was taken down and waits for the user's word."""

    result: Result_T
    speech: SpeechHandle | None
    """In which it was taken down; the confirmation has to come in another one."""
    answered: bool = False
    """Whether the user has said something since."""


class CaptureTask(AgentTask[Result_T]):
    """Finds out one thing. See the module's description."""

    def __init__(
        self,
        *,
        what: str,
        updates: Sequence[tuple[str, Callable[..., Any]]],
        confirm: str,
        instructions: Instructions,
        require_confirmation: NotGivenOr[bool],
        require_explicit_ask: bool = False,
        confirm_with: Callable[..., Any] | None = None,
        tools: NotGivenOr[list[Tool | Toolset]] = NOT_GIVEN,
        chat_ctx: NotGivenOr[ChatContext] = NOT_GIVEN,
        **options: Any,
    ) -> None:
        """Describe the task.

        Args:
            what: What it finds out, as in "the email address of the user".
            updates: Names of the tools that take it down, and their functions.
            confirm: Name of the tool that confirms it.
            instructions: Complete.
            require_confirmation: Whether the user has to confirm; by default those who speak.
            require_explicit_ask: Ask even if the conversation holds the answer already.
            confirm_with: The confirming tool's function, where it needs more than a yes.
            tools: Further tools.
            chat_ctx: The conversation so far.
            options: Those of `AgentTask`.
        """
        self._what = what
        self._require_confirmation = require_confirmation
        self._require_explicit_ask = require_explicit_ask
        self._confirm_name = confirm
        self._update_names = [name for name, _ in updates]
        self._draft: Draft[Result_T] | None = None
        self._session_heard: AgentSession[Any] | None = None
        flags = ToolFlag.IGNORE_ON_ENTER if require_explicit_ask else ToolFlag.NONE
        own: list[Tool | Toolset] = [
            function_tool(function, name=name, flags=flags) for name, function in updates
        ]
        if not is_given(require_confirmation) or require_confirmation:
            own.append(
                function_tool(
                    confirm_with or self._confirm,
                    name=confirm,
                    description=None
                    if confirm_with
                    else f"Settle {what}, once the user has agreed to what was read back.",
                    flags=ToolFlag.IGNORE_ON_ENTER,
                )
            )
        super().__init__(
            instructions=instructions,
            chat_ctx=chat_ctx,
            tools=[*(tools if is_given(tools) else ()), *own],
            **options,
        )

    # -- the conversation ---------------------------------------------------------------------------

    async def on_enter(self) -> None:
        """Ask, or take what the conversation holds already."""
        self.session.generate_reply(instructions=self._opening(), input_modality=self._modality())

    def _opening(self) -> str:
        opening = f"Ask the user for {self._what}."
        if not self._require_explicit_ask:
            opening += (
                f" But if the user has already told it in this conversation, call "
                f"`{self._update_names[0]}` with it instead of asking again."
            )
        return opening

    def _modality(self) -> Literal["audio", "text"]:
        """How the user talks to the agent that awaits this task."""
        for call in reversed(self.session._handoffs.stack):
            if call.handle is not None:
                return call.handle.input_details.modality
        return "audio" if self.session.input.audio is not None else "text"

    # -- taking down and settling -------------------------------------------------------------------

    def _confirms(self, ctx: RunContext[Any]) -> bool:
        if is_given(self._require_confirmation):
            return self._require_confirmation
        return ctx.speech_handle.input_details.modality == "audio"

    def _take_down(
        self, ctx: RunContext[Any], result: Result_T, *, read_back: str, ask: str = ""
    ) -> str | None:
        """Take an answer: for good, or as a draft. Returns what the model is to do next.

        Args:
            ctx: Of the tool that took it down.
            result: The answer.
            read_back: How to say it to the user.
            ask: In place of reading back and asking whether that is right.
        """
        self._refuse_when_done()
        if not self._confirms(ctx):
            self.complete(result)
            return None
        self._begin_draft(result, ctx.speech_handle)
        ask = ask or f"Say to the user: {read_back}. Ask whether that is right"
        return (
            f"Taken down, not settled yet. {ask} and wait for the answer; "
            f"`{self._confirm_name}` works only after it."
        )

    def _begin_draft(self, result: Result_T, speech: SpeechHandle | None) -> None:
        self._draft = Draft(result, speech)
        if self._session_heard is None:
            session = self._session_heard = self.session
            session.on("user_state_changed", self._on_user_state)
            session.on("conversation_item_added", self._on_item)
            self._fut.add_done_callback(self._stop_hearing)

    def _on_user_state(self, event: Any) -> None:
        if event.new_state == "speaking":
            self._user_answers()

    def _on_item(self, event: Any) -> None:
        if getattr(event.item, "role", None) == "user":
            self._user_answers()

    def _user_answers(self) -> None:
        if self._draft is not None:
            self._draft.answered = True

    def _stop_hearing(self, _: object) -> None:
        session, self._session_heard = self._session_heard, None
        if session is not None:
            session.off("user_state_changed", self._on_user_state)
            session.off("conversation_item_added", self._on_item)

    async def _confirm(self, ctx: RunContext[Any]) -> None:
        self._settle(ctx)

    def _settle(self, ctx: RunContext[Any]) -> None:
        """Complete the task with the draft, if the user can have agreed to it."""
        self.complete(self._confirmable(ctx).result)

    def _confirmable(self, ctx: RunContext[Any]) -> Draft[Result_T]:
        """The draft that the user has heard.

        Raises:
            ToolError: There is none, or the user has not answered yet.
        """
        self._refuse_when_done()
        draft = self._draft
        if draft is None:
            raise ToolError(
                f"nothing is taken down yet: ask for {self._what} and call "
                f"`{self._update_names[0]}` first"
            )
        if draft.speech is ctx.speech_handle or not draft.answered:
            raise ToolError(
                "the user has not answered yet: read back what was taken down, ask whether it is "
                "right, and wait for the user's word"
            )
        return draft

    def _decline(self, reason: str) -> None:
        """End the task without a result."""
        self._refuse_when_done()
        self.complete(ToolError(f"the user does not give {self._what}: {reason}"))

    def _refuse_when_done(self) -> None:
        if self.done():
            raise ToolError(f"{self._what} is dealt with already")


def spelled(text: str) -> str:
    """Letter by letter, as people spell."""
    return " ".join("space" if sign == " " else sign for sign in text)


def squeezed(text: str) -> str:
    """Without blanks at the ends, and with single ones within."""
    return re.sub(r"\s+", " ", text).strip()


def has_letter(text: str) -> bool:
    """Whether there is a letter of any script."""
    return any(sign.isalpha() for sign in text)
