"""The texts around tools that outlive their turn, and how a session, agent or toolset sets them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from typing_extensions import TypedDict

from ..types import NotGivenOr
from ..utils import is_given


class UpdatePromptArgs(TypedDict):
    """What an update template may use."""

    function_name: str
    call_id: str
    message: str


class DuplicatePromptArgs(TypedDict):
    """What a duplicate template may use."""

    function_name: str
    fnc_calls_json: str
    fnc_calls_text: str


class ReplyPromptArgs(TypedDict):
    """What a reply template may use."""

    call_ids: str


class AsyncToolOptions(TypedDict, total=False):
    """The texts around tools that outlive their turn: `str.format` templates or callables."""

    update_template: str | Callable[[UpdatePromptArgs], str]
    duplicate_reject_template: str | Callable[[DuplicatePromptArgs], str]
    duplicate_confirm_template: str | Callable[[DuplicatePromptArgs], str]
    reply_at_tail_template: str | Callable[[ReplyPromptArgs], str]
    reply_maybe_covered_template: str | Callable[[ReplyPromptArgs], str]


class ToolHandlingOptions(TypedDict, total=False):
    """How tools are handled; the most specific level that sets it wins as a whole."""

    async_options: AsyncToolOptions


UPDATE_TEMPLATE = (
    "`{function_name}` (call {call_id}) is still running. Progress so far: {message}\n"
    "Its result will follow by itself. Tell the user only what this progress says, and do not "
    "call the function again for the same request."
)
DUPLICATE_REJECT = (
    "`{function_name}` is running already, so this call was not started:\n{fnc_calls_text}\n"
    "Wait for its result. If, and only if, the user asks for it, a running call can be cancelled "
    "with `lk_agents_cancel_task`."
)
DUPLICATE_CONFIRM = (
    "`{function_name}` is running already, so this call was not started:\n{fnc_calls_text}\n"
    "Ask the user whether they want it a second time. If they do, call it again with "
    "`lk_agents_confirm_duplicate` set to true; a running call can be cancelled with "
    "`lk_agents_cancel_task` when the user asks for that."
)
REPLY_INSTRUCTIONS_AT_TAIL = (
    "New results have arrived for the calls {call_ids}. Tell the user what is new in them, "
    "naturally and briefly, without repeating what was said before."
)
REPLY_INSTRUCTIONS_MAYBE_COVERED = (
    "Results for the calls {call_ids} arrived while the conversation went on. If what was said "
    "since does not cover them yet, tell the user what is new, naturally and briefly. If it does, "
    "answer with nothing at all."
)

_DEFAULTS = {
    "update_template": UPDATE_TEMPLATE,
    "duplicate_reject_template": DUPLICATE_REJECT,
    "duplicate_confirm_template": DUPLICATE_CONFIRM,
    "reply_at_tail_template": REPLY_INSTRUCTIONS_AT_TAIL,
    "reply_maybe_covered_template": REPLY_INSTRUCTIONS_MAYBE_COVERED,
}


def template_of(options: NotGivenOr[ToolHandlingOptions], name: str) -> Any:
    """A text of the options, or its default where they don't have it."""
    given = options.get("async_options", {}) if is_given(options) else {}
    return cast("dict[str, Any]", given).get(name, _DEFAULTS[name])


def render(template: Any, **values: str) -> str:
    """Fill a `str.format` template, or call a callable one."""
    return str(template(values)) if callable(template) else str(template).format(**values)
