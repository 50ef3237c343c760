"""The edits: where they go, by class, function and shape, and what is put there.

Every `await` in the functions named here must be one that `PLACES` knows. Anything else is an
unknown tree, and nothing is changed.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import libcst as cst
from shapes import code_of, same_shape, shape, walk

__all__ = ["FILES", "MODULE", "UnknownShapeError", "is_patched", "patch"]

MODULE = "forced_close.py"
"""The module that is added, beside the package's `__init__`."""

_HERE = Path(__file__).parent


class UnknownShapeError(Exception):
    """A place does not look as expected.

    Args:
        place: File, class and function.
        why: What was looked for.
    """

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}")


# -- what is put ----------------------------------------------------------------------------------------


@functools.cache
def _edits() -> cst.Module:
    return cst.parse_module((_HERE / "edits.py").read_bytes())


def _template(path: str) -> cst.FunctionDef:
    body: Sequence[cst.CSTNode] = _edits().body
    for name in path.split("."):
        found = next(n for n in body if getattr(getattr(n, "name", None), "value", None) == name)
        assert isinstance(found, (cst.ClassDef, cst.FunctionDef))
        body = found.body.body
    assert isinstance(found, cst.FunctionDef)
    return found


@functools.cache
def _statements(path: str) -> tuple[cst.BaseStatement, ...]:
    body = _template(path).body.body
    statements = tuple(s for s in body if isinstance(s, cst.BaseStatement))
    return statements[1:] if _is_docstring(statements[0]) else statements


def _is_docstring(node: cst.CSTNode) -> bool:
    if not (isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1):
        return False
    only = node.body[0]
    return isinstance(only, cst.Expr) and isinstance(only.value, cst.SimpleString)


def _expression(path: str, bound: Mapping[str, cst.BaseExpression]) -> cst.BaseExpression:
    line = _statements(path)[0]
    assert isinstance(line, cst.SimpleStatementLine)
    only = line.body[0]
    assert isinstance(only, (cst.Expr, cst.Return)) and only.value is not None
    template = only.value
    if "\n" in code_of(template):  # it has a line for each argument: what is put in moves right
        bound = {name: _moved_right(value) for name, value in bound.items()}
    filled = template.visit(_Fill(bound))
    assert isinstance(filled, cst.BaseExpression)
    return filled


def _moved_right(value: cst.BaseExpression) -> cst.BaseExpression:
    moved = value.visit(_MoveRight())
    assert isinstance(moved, cst.BaseExpression)
    return moved


class _MoveRight(cst.CSTTransformer):
    """Indents the further lines of an expression by one level."""

    def leave_ParenthesizedWhitespace(
        self,
        original_node: cst.ParenthesizedWhitespace,
        updated_node: cst.ParenthesizedWhitespace,
    ) -> cst.ParenthesizedWhitespace:
        last = updated_node.last_line
        return updated_node.with_changes(last_line=last.with_changes(value="    " + last.value))


class _Fill(cst.CSTTransformer):
    """Replaces parameters by what they stand for; leaves attribute and keyword names alone."""

    def __init__(self, bound: Mapping[str, cst.BaseExpression]) -> None:
        super().__init__()
        self._bound = bound

    def visit_Attribute_attr(self, node: cst.Attribute) -> None:
        self._attr = node.attr

    def visit_Arg_keyword(self, node: cst.Arg) -> None:
        self._keyword = node.keyword

    _attr: cst.Name | None = None
    _keyword: cst.Name | None = None

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        if original_node is self._attr or original_node is self._keyword:
            return updated_node
        return self._bound.get(original_node.value, updated_node)


# -- where it is put ------------------------------------------------------------------------------------

Bind = Callable[[cst.CSTNode], Mapping[str, cst.BaseExpression]]


def _text(value: str) -> cst.SimpleString:
    return cst.SimpleString(f'"{value}"')


def _awaited(node: cst.CSTNode) -> Mapping[str, cst.BaseExpression]:
    return {"awaited": node.expression} if isinstance(node, cst.Await) else {}


def _second_argument(node: cst.CSTNode) -> Mapping[str, cst.BaseExpression]:
    assert isinstance(node, cst.Call)
    return {"event": node.args[1].value}


def _assigned(node: cst.CSTNode) -> Mapping[str, cst.BaseExpression]:
    assert isinstance(node, cst.Assign)
    target = node.targets[0].target
    assert isinstance(target, cst.Attribute)
    return {"side": target.value, "name": _text(target.attr.value)}


def _always(**code: str) -> Bind:
    return lambda _: {name: cst.parse_expression(value) for name, value in code.items()}


@dataclass(frozen=True)
class Edit:
    """Code of one shape, and the template that takes its place."""

    before: str
    put: str
    name: str = ""
    bind: Bind = _awaited
    least: int = 1
    most: int = 1

    def bound(self, node: cst.CSTNode) -> dict[str, cst.BaseExpression]:
        """What the template's parameters stand for."""
        given = dict(self.bind(node))
        return {**given, "name": _text(self.name)} if self.name else given

    def after(self) -> str:
        """The shape that the code has once it is changed."""
        template = _statements(self.put)[0]
        if isinstance(template, cst.With):
            return code_of(template.items[0].item)
        holes = {p.name.value: cst.Name("_") for p in _template(self.put).params.params[1:]}
        keep = set() if self.bind in (_awaited, _second_argument, _assigned) else set(holes)
        bound: dict[str, cst.BaseExpression] = {k: v for k, v in holes.items() if k not in keep}
        if keep:
            bound |= dict(self.bind(cst.Pass()))
        if self.name:
            bound["name"] = _text(self.name)
        return code_of(_expression(self.put, bound))


@dataclass(frozen=True)
class Place:
    """One function of the tree, and the edits inside it."""

    file: str
    scope: str
    function: str
    edits: tuple[Edit, ...] = ()
    untouched: tuple[str, ...] = ()
    """Shapes of awaits that stay as they are."""

    special: Callable[[cst.FunctionDef], cst.FunctionDef | None] | None = None
    """An edit of statements. None: the shape is unknown."""

    expects: str = ""
    """What `special` looks for, in words."""

    special_after: tuple[str, ...] = field(default=())
    """Shapes that `special` leaves behind."""

    def __str__(self) -> str:
        return f"{self.file}: {self.scope}.{self.function}"


def _lines(node: cst.FunctionDef) -> list[cst.BaseStatement]:
    return [s for s in node.body.body if isinstance(s, cst.BaseStatement)]


def _small(statement: cst.CSTNode) -> cst.BaseSmallStatement | None:
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
        return statement.body[0]
    return None


def _has_shape(statement: cst.CSTNode, pattern: str) -> bool:
    small = _small(statement)
    core = small.value if isinstance(small, cst.Expr) else small
    return core is not None and same_shape(shape(pattern), core)


def _with_lines(node: cst.FunctionDef, lines: Sequence[cst.BaseStatement]) -> cst.FunctionDef:
    return node.with_deep_changes(node.body, body=list(lines))


def _add_option(node: cst.FunctionDef) -> cst.FunctionDef | None:
    """`__init__`: the option, its line in the docstring, and the closer."""
    keywords = list(node.params.kwonly_params)
    names = [parameter.name.value for parameter in keywords]
    lines = _lines(node)
    closing = [i for i, line in enumerate(lines) if _is_closing_flag(line)]
    if "session_close_transcript_timeout" not in names or len(closing) != 1:
        return None
    at = names.index("session_close_transcript_timeout")
    option = keywords[at - 1].with_changes(
        name=cst.Name("forced_drain_timeout"),
        annotation=keywords[at].annotation,
        default=cst.Float("5.0"),
    )
    keywords.insert(at, option)
    lines[closing[0] + 1 : closing[0] + 1] = _statements("InSession.init")
    node = node.with_deep_changes(node.params, kwonly_params=keywords)
    return _with_lines(node, [_documented(line) for line in lines])


def _is_closing_flag(line: cst.CSTNode) -> bool:
    small = _small(line)
    return isinstance(small, cst.AnnAssign) and code_of(small.target) == "self._closing"


OPTION = """            forced_drain_timeout (float, optional): Seconds that running speech, hooks and tools share
                when the session is closed without draining; what has not ended by then is cut off.
                Default ``5.0`` s.
"""


def _documented(line: cst.BaseStatement) -> cst.BaseStatement:
    """The docstring with a paragraph about the option at its end, if it has a list of arguments."""
    if not _is_docstring(line):
        return line
    small = _small(line)
    assert isinstance(small, cst.Expr) and isinstance(small.value, cst.SimpleString)
    text = small.value.value
    end = text.rfind("\n") + 1
    if "Args:" not in text or not end:
        return line
    value = small.value.with_changes(value=text[:end] + OPTION + text[end:])
    return line.with_deep_changes(small, value=value)


def _replace_body(node: cst.FunctionDef) -> cst.FunctionDef | None:
    """`_close_soon`: a guard and one assignment become a request."""
    lines = _lines(node)
    while lines and _is_docstring(lines[0]):
        lines.pop(0)
    starts = "self._closing_task = asyncio.create_task(self._aclose_impl(...))"
    if len(lines) != 2 or not isinstance(lines[0], cst.If) or not _has_shape(lines[1], starts):
        return None
    if code_of(lines[0].test) != "self._closing_task":
        return None
    kept = [line for line in _lines(node) if _is_docstring(line)]
    return _with_lines(node, [*kept, *_statements("InSession.close_soon")])


def _close_for_error(node: cst.FunctionDef) -> cst.FunctionDef | None:
    """`_on_error`: its own closing task and the callback of it become a request."""
    lines = _lines(node)
    if len(lines) < 3 or not isinstance(lines[-3], cst.FunctionDef):
        return None
    callback = lines[-3].name.value
    starts = "self._closing_task = asyncio.create_task(self._aclose_impl(...))"
    ends = f"self._closing_task.add_done_callback({callback})"
    if not _has_shape(lines[-2], starts) or not _has_shape(lines[-1], ends):
        return None
    request = _statements("InSession.close_for_error")[0]
    request = request.with_changes(leading_lines=lines[-3].leading_lines)
    return _with_lines(node, [*lines[:-3], request])


def _commit_if_pending(node: cst.FunctionDef) -> cst.FunctionDef | None:
    """`_teardown_activity`: one more condition for committing the user's turn."""
    found: list[cst.If] = []
    for inner in walk(node):
        if isinstance(inner, cst.If) and len(inner.body.body) == 1:
            call = inner.body.body[0]
            if _has_shape(call, "audio_recognition._commit_user_turn(...)"):
                found.append(inner)
    if len(found) != 1 or not isinstance(found[0].test, cst.BooleanOperation):
        return None
    test = found[0].test
    condition = _expression(
        "InSession.commits", {"recognition": cst.parse_expression("audio_recognition")}
    )
    longer = cst.BooleanOperation(
        left=test.with_changes(lpar=[], rpar=[]),
        operator=test.operator,
        right=condition,
        lpar=test.lpar,
        rpar=test.rpar,
    )
    changed = node.deep_replace(test, longer)
    assert isinstance(changed, cst.FunctionDef)
    return changed


def _count_retries(node: cst.FunctionDef) -> cst.FunctionDef | None:
    """`_main_task`: what resets the retry count, and a way out before the count."""
    limit = shape("time.time() - last_start_time > self._conn_options.timeout")
    found: list[cst.If] = []
    for inner in walk(node):
        if isinstance(inner, cst.If) and same_shape(limit, inner.test):
            found.append(inner)
    if len(found) != 1 or found[0].orelse is not None or len(found[0].body.body) != 1:
        return None
    if not _has_shape(found[0].body.body[0], "self._num_retries = 0"):
        return None
    leave, reset = _statements("in_stream")
    assert isinstance(leave, cst.If) and isinstance(reset, cst.If)
    changed = _Splice(found[0], [leave, found[0].with_changes(test=reset.test)]).on(node)
    return changed


def _force_at_limit(node: cst.FunctionDef) -> cst.FunctionDef | None:
    """`_shutdown_job`: where the wait for the session ran out of time."""
    waits = shape("await asyncio.wait_for(session.aclose(), timeout=_)")
    for inner in walk(node):
        if not isinstance(inner, cst.Try) or len(inner.body.body) != 1 or len(inner.handlers) != 1:
            continue
        small = _small(inner.body.body[0])
        if not isinstance(small, cst.Expr) or not same_shape(waits, small.value):
            continue
        handler = inner.handlers[0]
        longer = [*handler.body.body, *_statements("in_job")]
        changed = node.deep_replace(handler.body, handler.body.with_changes(body=longer))
        assert isinstance(changed, cst.FunctionDef)
        return changed
    return None


class _Splice(cst.CSTTransformer):
    """Puts several statements in the place of one."""

    def __init__(self, old: cst.If, new: Sequence[cst.BaseStatement]) -> None:
        super().__init__()
        self._old, self._new = old, new

    def on(self, node: cst.FunctionDef) -> cst.FunctionDef:
        """The function, changed."""
        changed = node.visit(self)
        assert isinstance(changed, cst.FunctionDef)
        return changed

    def leave_If(
        self, original_node: cst.If, updated_node: cst.If
    ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement]:
        return cst.FlattenSentinel(self._new) if original_node is self._old else updated_node


# -- the places -----------------------------------------------------------------------------------------

SESSION, ACTIVITY = "voice/agent_session.py", "voice/agent_activity.py"

_TOOLSETS = (
    "await asyncio.gather(*(toolset.aclose() for toolset in toolsets), return_exceptions=True)"
)


def _detach(side: str, name: str) -> Edit:
    return Edit(f"self.{side}.{name} = None", "InSession.detach", bind=_assigned)


PLACES = (
    Place(
        SESSION,
        "AgentSession",
        "__init__",
        special=_add_option,
        expects="an option session_close_transcript_timeout and one self._closing",
        special_after=("self._closer = SessionCloser(...)",),
    ),
    Place(
        SESSION,
        "AgentSession",
        "_close_soon",
        special=_replace_body,
        expects="a guard on self._closing_task and its one assignment",
        special_after=("self._closer.request(...)",),
    ),
    Place(SESSION, "AgentSession", "aclose", untouched=("await self._aclose_impl(reason=_)",)),
    Place(
        SESSION,
        "AgentSession",
        "_on_error",
        edits=(Edit("self._closing_task", "InSession.is_forced", bind=_always()),),
        special=_close_for_error,
        expects="a callback, the closing task, and the callback added, at its end",
        special_after=("self._close_soon(reason=CloseReason.ERROR, error=error)",),
    ),
    Place(
        SESSION,
        "AgentSession",
        "_aclose_impl",
        edits=(
            Edit(
                "await self._aclose_locked(reason=reason, drain=drain, error=error)",
                "InSession.run",
                bind=_always(body="self._aclose_locked"),
            ),
        ),
    ),
    Place(
        SESSION,
        "AgentSession",
        "_aclose_locked",
        edits=(
            Edit("self._lock", "InSession.hold"),
            Edit(
                "await self._teardown_activity(reason=reason, drain=drain)", "InSession.tear_down"
            ),
            Edit('self.emit("close", _)', "InSession.emit", bind=_second_argument),
            Edit("await self._session_host.aclose()", "InSession.step", "the session host"),
            Edit("await self._room_io.aclose()", "InSession.step", "the room"),
        ),
    ),
    Place(
        SESSION,
        "AgentSession",
        "_teardown_activity",
        edits=(
            Edit("await self._amd.aclose()", "InSession.step", "answering machine detection"),
            Edit("await activity.drain()", "InSession.attempt", "draining an activity", most=2),
            Edit("await agent_task._wait_for_inactive()", "InSession.settle"),
            Edit("await parent_interrupted", "InSession.settle", least=0),
            Edit("await activity.interrupt(force=True)", "InSession.settle"),
            Edit("await activity.current_speech", "InSession.settle"),
            _detach("input", "audio"),
            _detach("input", "video"),
            _detach("output", "audio"),
            _detach("output", "transcription"),
            Edit("await activity.aclose()", "InSession.attempt", "closing the activity"),
            Edit(
                "await utils.aio.cancel_and_wait(self._forward_audio_atask)",
                "InSession.long_step",
                "the audio input",
            ),
            Edit(
                "await utils.aio.cancel_and_wait(self._forward_video_atask)",
                "InSession.long_step",
                "the video input",
            ),
            Edit("await self._recorder_io.aclose()", "InSession.patient_step", "the recorder"),
            Edit("await self._ivr_activity.aclose()", "InSession.step", "IVR detection"),
            Edit(_TOOLSETS, "InSession.patient_step", "toolsets"),
        ),
        special=_commit_if_pending,
        expects="one conditional audio_recognition._commit_user_turn(...)",
        special_after=("self._closer.commits(audio_recognition)",),
    ),
    Place(
        ACTIVITY,
        "AgentActivity",
        "drain",
        edits=(
            Edit("self._lock", "InActivity.hold"),
            Edit("await self._on_exit_task", "InActivity.settle"),
        ),
        untouched=(
            "await self._pause_scheduling_task()",
            "await self._detach_reusable_resources(new_activity)",
        ),
    ),
    Place(
        ACTIVITY,
        "AgentActivity",
        "_pause_scheduling_task",
        edits=(
            Edit(
                "await self._session._keyterm_detector.aclose()",
                "InActivity.long_step",
                "keyterm detection",
            ),
            Edit("await asyncio.shield(self._scheduling_atask)", "InActivity.settle"),
        ),
    ),
    Place(
        ACTIVITY,
        "AgentActivity",
        "_close_session",
        edits=(
            Edit("await self._rt_session.aclose()", "InActivity.step", "the realtime session"),
            Edit(
                "await self._audio_recognition._aclose()",
                "InActivity.end_hearing",
                bind=_always(recognition="self._audio_recognition"),
            ),
            Edit("await self._cancel_speech_pause(...)", "InActivity.long_step", "a paused speech"),
        ),
    ),
    Place(
        ACTIVITY,
        "AgentActivity",
        "aclose",
        edits=(
            Edit("self._lock", "InActivity.hold"),
            Edit(
                "await self._session._keyterm_detector.aclose()",
                "InActivity.long_step",
                "keyterm detection",
            ),
            Edit("await self._tool_executor.drain()", "InActivity.drain_tools"),
            Edit("await self._close_session()", "InActivity.attempt", "the models' sessions"),
            Edit(
                "await asyncio.gather(*self._interrupt_background_speeches(force=False))",
                "InActivity.long_settle",
            ),
            Edit(
                "await utils.aio.cancel_and_wait(self._scheduling_atask)",
                "InActivity.long_step",
                "scheduling",
            ),
            Edit(_TOOLSETS, "InActivity.patient_step", "toolsets"),
            Edit("await self._tool_executor.aclose()", "InActivity.sweep_tools"),
        ),
    ),
    Place(
        "stt/stt.py",
        "RecognizeStream",
        "_main_task",
        untouched=("await self._run()", "await asyncio.sleep(retry_interval)"),
        special=_count_retries,
        expects="one comparison with self._conn_options.timeout that resets self._num_retries",
        special_after=("is_ending(self, _)", "had_connected(...)"),
    ),
    Place(
        "ipc/job_proc_lazy_main.py",
        "_JobProc",
        "_shutdown_job",
        special=_force_at_limit,
        expects="a bounded wait for session.aclose() with one handler",
        special_after=("await session._closer.force()",),
    ),
)

IMPORTS = {
    SESSION: ("SessionCloser",),
    ACTIVITY: ("cut_off",),
    "stt/stt.py": ("had_connected", "is_ending"),
}

FILES = tuple(dict.fromkeys(place.file for place in PLACES))
"""The files that are changed, from the package's folder."""


# -- patching -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=32)
def patch(file: str, source: bytes) -> bytes:
    """The source of `file` with all its edits.

    Raises:
        UnknownShapeError: A place does not look as expected.
    """
    module = _parse(file, source)
    for place in PLACES:
        if place.file == file:
            function = _find(module, place)
            module = _exchange(module, place.scope, function, [_edited(place, function)])
    if file == ACTIVITY:
        module = _with_new_methods(module)
    if file in IMPORTS:
        module = _with_import(file, module, IMPORTS[file])
    return module.bytes


def is_patched(file: str, source: bytes) -> bool:
    """Whether all edits of `file` are in its source.

    Raises:
        UnknownShapeError: Some are, and some are not.
    """
    module = _parse(file, source)
    found: dict[str, bool] = {}
    for place in PLACES:
        if place.file == file:
            function = _find(module, place)
            for after in [
                *(edit.after() for edit in place.edits if edit.least),
                *place.special_after,
            ]:
                found[f"{place}: {after}"] = any(
                    same_shape(shape(after), node) for node in walk(function)
                )
    if any(found.values()) and not all(found.values()):
        missing = next(name for name, there in found.items() if not there)
        raise UnknownShapeError(missing, "this edit is missing, though others are there")
    return all(found.values())


@functools.lru_cache(maxsize=8)
def _parse(file: str, source: bytes) -> cst.Module:
    try:
        return cst.parse_module(source)
    except cst.ParserSyntaxError as error:
        raise UnknownShapeError(file, f"it can't be parsed: {error.message}") from error


def _find(module: cst.Module, place: Place) -> cst.FunctionDef:
    classes = [
        n for n in module.body if isinstance(n, cst.ClassDef) and n.name.value == place.scope
    ]
    functions = [
        inner
        for node in classes
        for inner in node.body.body
        if isinstance(inner, cst.FunctionDef) and inner.name.value == place.function
    ]
    if len(functions) != 1:
        raise UnknownShapeError(str(place), f"expected one such function, found {len(functions)}")
    return functions[0]


def _edited(place: Place, function: cst.FunctionDef) -> cst.FunctionDef:
    _check_awaits(place, function)
    if place.special is not None:
        changed = place.special(function)
        if changed is None:
            raise UnknownShapeError(str(place), f"expected {place.expects}")
        function = changed
    editing = _Editing(place, function)
    edited = function.visit(editing)
    assert isinstance(edited, cst.FunctionDef)
    for edit, times in editing.times.items():
        if not edit.least <= times <= edit.most:
            wanted = edit.least if edit.least == edit.most else f"{edit.least} to {edit.most}"
            raise UnknownShapeError(
                str(place), f"expected `{edit.before}` {wanted} times, found it {times} times"
            )
    return edited


def _check_awaits(place: Place, function: cst.FunctionDef) -> None:
    if place.function in ("_shutdown_job", "__init__"):
        return  # one statement is changed, whatever else there is
    known = [shape(edit.before) for edit in place.edits] + [shape(s) for s in place.untouched]
    for node in walk(function):
        if isinstance(node, cst.Await) and not any(same_shape(one, node) for one in known):
            code = " ".join(code_of(node).split())
            raise UnknownShapeError(str(place), f"`{code}` is not among the awaits known there")


class _Editing(cst.CSTTransformer):
    """Applies the edits of one place, and counts them."""

    def __init__(self, place: Place, function: cst.FunctionDef) -> None:
        super().__init__()
        self._function = function
        self._edits = [(e, shape(e.before), _with_item(e.put)) for e in place.edits]
        self.times = dict.fromkeys(place.edits, 0)

    def on_visit(self, node: cst.CSTNode) -> bool:
        return node is self._function or not isinstance(node, (cst.FunctionDef, cst.Lambda))

    def on_leave(  # type: ignore[override]
        self, original_node: cst.CSTNode, updated_node: cst.CSTNode
    ) -> cst.CSTNode:
        if isinstance(original_node, cst.WithItem):
            for edit, before, item in self._edits:
                if item is not None and same_shape(before, original_node.item):
                    self.times[edit] += 1
                    return updated_node.with_changes(item=item)
        elif isinstance(original_node, (cst.Await, cst.Call, cst.Assign, cst.Attribute)):
            for edit, before, item in self._edits:
                if item is None and same_shape(before, original_node):
                    self.times[edit] += 1
                    put = _expression(edit.put, edit.bound(updated_node))
                    return cst.Expr(put) if isinstance(original_node, cst.Assign) else put
        return updated_node


def _with_item(put: str) -> cst.BaseExpression | None:
    template = _statements(put)[0]
    return template.items[0].item if isinstance(template, cst.With) else None


def _with_new_methods(module: cst.Module) -> cst.Module:
    methods = []
    for name in ("_live_speeches", "_cut_off"):
        method = _template(f"NewInActivity.{name}")
        first = method.params.params[0].with_changes(annotation=None)
        parameters = [first, *method.params.params[1:]]
        methods.append(
            method.with_changes(
                params=method.params.with_changes(params=parameters),
                leading_lines=[cst.EmptyLine(indent=False)],
            )
        )
    place = next(p for p in PLACES if p.scope == "AgentActivity" and p.function == "aclose")
    aclose = _find(module, place)
    return _exchange(module, place.scope, aclose, [*methods, aclose])


def _exchange(
    module: cst.Module, scope: str, old: cst.FunctionDef, new: Sequence[cst.FunctionDef]
) -> cst.Module:
    """The module with functions in the place of one method."""
    body = list(module.body)
    at = next(
        i for i, n in enumerate(body) if isinstance(n, cst.ClassDef) and n.name.value == scope
    )
    node = body[at]
    assert isinstance(node, cst.ClassDef)
    methods = list(node.body.body)
    methods[methods.index(old) : methods.index(old) + 1] = new
    body[at] = node.with_changes(body=node.body.with_changes(body=methods))
    return module.with_changes(body=body)


def _with_import(file: str, module: cst.Module, names: tuple[str, ...]) -> cst.Module:
    line = cst.parse_statement(f"from ..forced_close import {', '.join(names)}\n")
    body = list(module.body)
    parents = [
        (i, parsed.module or "")
        for i, statement in enumerate(body)
        if isinstance(parsed := _parsed(statement), ast.ImportFrom) and parsed.level == 2
    ]
    if not parents:
        raise UnknownShapeError(file, "expected imports from the package's folder (`from ..`)")
    at = next((i for i, name in parents if name > "forced_close"), parents[-1][0] + 1)
    body.insert(at, line)
    return module.with_changes(body=body)


def _parsed(statement: cst.CSTNode) -> ast.stmt | None:
    if not isinstance(statement, cst.SimpleStatementLine):
        return None
    return ast.parse(code_of(statement).strip()).body[0]
