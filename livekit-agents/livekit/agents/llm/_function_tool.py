"""What a model can call: function tools, raw tools, tools of the provider, and `@function_tool`."""

from __future__ import annotations

import functools
import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import (
    Annotated,
    Any,
    Concatenate,
    Generic,
    Literal,
    TypeAlias,
    TypeGuard,
    TypeVar,
    cast,
    overload,
)

from typing_extensions import (
    ParamSpec,
    Required,
    Self,
    TypedDict,
)

_P = ParamSpec("_P")
_Q = ParamSpec("_Q")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)
_Info = TypeVar("_Info", "FunctionToolInfo", "RawFunctionToolInfo")

CONFIRM_DUPLICATE_PARAM = "lk_agents_confirm_duplicate"
"""Name of the argument with which the model confirms that it means to call a tool twice."""

_CONFIRM_DUPLICATE_DESCRIPTION = (
    "Leave this false. Set it to true only after this tool was reported to be running already and "
    "the user has confirmed that a second, concurrent run is really wanted."
)

_RAW_ARGUMENTS = "raw_arguments"

# `functools.wraps` copies these attributes, which is how a wrapped tool is recognised.
_INFO_ATTRIBUTE = "__livekit_tool_info"
_RAW_INFO_ATTRIBUTE = "__livekit_raw_tool_info"


class Function(TypedDict, total=False):
    """The function a `NamedToolChoice` names."""

    name: Required[str]


class NamedToolChoice(TypedDict, total=False):
    """Makes the model call one certain tool."""

    type: Required[Literal["function"]]
    function: Required[Function]


ToolChoice: TypeAlias = NamedToolChoice | Literal["auto", "required", "none"]
"""Whether the model calls tools: as it likes, at least one, none at all, or a certain one."""

DuplicateMode: TypeAlias = Literal["allow", "reject", "replace", "confirm"]
"""What happens to a call while an earlier call of the same tool still runs.

`allow`: both run. `reject`: the new one is refused. `replace`: the running one is cancelled first.
`confirm`: the new one is refused unless the model says that the user wants it.
"""

DuplicateScope: TypeAlias = Literal["name", "name_and_args"]
"""Which calls count as duplicates: of the same tool, or also with the same arguments."""


class ToolFlag(Flag):
    """How a session treats a tool."""

    NONE = 0
    IGNORE_ON_ENTER = auto()
    """Not offered to the model while the agent's `on_enter` generates its reply."""
    CANCELLABLE = auto()
    """May be cancelled while it runs: by the model, by a duplicate call, and when closing."""


class ToolError(Exception):
    """Raised by a tool to tell the model what went wrong.

    Any other exception reaches the model only as "an internal error".
    """

    def __init__(self, message: str) -> None:
        """Create the error.

        Args:
            message: What the model gets to read.
        """
        super().__init__(message)
        self._message = message

    @property
    def message(self) -> str:
        """What the model gets to read."""
        return self._message


class StopResponse(Exception):
    """Raised by a tool, or by `on_user_turn_completed`, to end the turn without a reply."""

    def __init__(self) -> None:
        super().__init__()


@dataclass
class ToolResult:
    """A return value of a tool together with whether the model should speak about it."""

    output: Any
    """As if the tool had returned it by itself."""

    reply_required: bool = field(default=True, kw_only=True)
    """False: the output is recorded, but no reply is generated for it."""


class Tool(ABC):
    """Something a model can use."""

    @property
    @abstractmethod
    def id(self) -> str:
        """Unique name; of a function tool, the name the model calls it by."""


class ProviderTool(Tool):
    """Base of tools that run at the model's provider, such as web search.

    Plugins derive from it. It never reaches the session's tool executor.
    """

    def __init__(self, *, id: str) -> None:
        """Create the tool.

        Args:
            id: Unique name.
        """
        self._id = id

    @property
    def id(self) -> str:
        """Unique name."""
        return self._id


class RawFunctionDescription(TypedDict):
    """A tool's schema, written by hand."""

    name: str
    description: Any
    parameters: dict[str, object]
    """JSON Schema of the arguments."""


@dataclass
class FunctionToolInfo:
    """What is known of a `FunctionTool` besides its code."""

    name: str
    description: str | None
    flags: ToolFlag
    on_duplicate: DuplicateMode = "allow"
    duplicate_scope: DuplicateScope = "name"


@dataclass
class RawFunctionToolInfo:
    """What is known of a `RawFunctionTool` besides its code."""

    name: str
    raw_schema: dict[str, Any]
    flags: ToolFlag
    on_duplicate: DuplicateMode = "allow"
    duplicate_scope: DuplicateScope = "name"


class _DocumentedToolInfo(FunctionToolInfo):
    """Takes its description from a docstring, which is parsed when first asked for.

    Decorators run while an application is imported, and the docstring parser is slow to import.
    """

    _unparsed: str | None
    _description: str | None

    @property
    def description(self) -> str | None:
        """The docstring without its sections, or what was set instead."""
        if self._unparsed is not None:
            import docstring_parser

            self._description = docstring_parser.parse(self._unparsed).description
            self._unparsed = None
        return self._description

    @description.setter
    def description(self, value: str | None) -> None:
        self._unparsed = None
        self._description = value

    @classmethod
    def of(cls, docstring: str, **fields: Any) -> Self:
        info = cls(description=None, **fields)
        info._unparsed = docstring
        return info


class _CallableTool(Tool, Generic[_Info, _P, _R_co]):
    """A tool that wraps a function and can still be used like it.

    On an instance of the class it was defined in, it is a tool bound to that instance.
    """

    _info_attribute: str

    # read by `inspect.signature` and `typing.get_type_hints`
    __name__: str
    __wrapped__: Callable[..., Any]
    __signature__: inspect.Signature

    def __init__(
        self, func: Callable[_P, _R_co], info: _Info, instance: object | None = None
    ) -> None:
        """Wrap a function.

        Args:
            func: The function; called with `instance` as first argument, if there is one.
            info: Shared by all tools that are bindings of the same function.
            instance: What the tool is bound to.
        """
        functools.update_wrapper(self, func)
        self._func = func
        self._info: _Info = info
        self._instance = instance
        setattr(self, self._info_attribute, info)
        self.__annotations__ = _annotations_of(func)
        if instance is not None:
            self._drop_bound_parameter()

    @property
    def id(self) -> str:
        """The name the model calls it by."""
        return self._info.name

    @property
    def info(self) -> _Info:
        """Name, schema or description, flags. Shared between bindings of the same function."""
        return self._info

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Call the function."""
        if self._instance is not None:
            return cast("Callable[..., _R_co]", self._func)(self._instance, *args, **kwargs)
        return self._func(*args, **kwargs)

    def _bind(self, instance: object | None) -> Self:
        # A static method stays as it is: its class does not hand it an instance.
        if instance is None or self._instance is not None or isinstance(self._func, staticmethod):
            return self
        return type(self)(self._func, self._info, instance)

    def _drop_bound_parameter(self) -> None:
        signature = inspect.signature(self._func)
        first, *others = signature.parameters.values()
        self.__signature__ = signature.replace(parameters=others)
        self.__annotations__.pop(first.name, None)

    def _same_as(self, other: object) -> bool:
        """Whether both are the same tool: a binding is made anew each time it is looked up."""
        return self is other or (
            isinstance(other, _CallableTool)
            and self._info is other._info
            and self._instance is other._instance
            and self._func == other._func
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"


class FunctionTool(_CallableTool[FunctionToolInfo, _P, _R_co]):
    """A function that a model can call; its schema comes from the signature and docstring.

    Made by `function_tool`.
    """

    _info_attribute = _INFO_ATTRIBUTE

    def __init__(
        self, func: Callable[_P, _R_co], info: FunctionToolInfo, instance: object | None = None
    ) -> None:
        """Wrap a function. Use `function_tool` instead, which also checks it."""
        super().__init__(func, info, instance)
        if info.on_duplicate == "confirm":
            self._add_confirm_parameter()

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Call the function. A confirmation of a duplicate is for the framework, and taken out."""
        if self._info.on_duplicate == "confirm":
            kwargs.pop(CONFIRM_DUPLICATE_PARAM, None)
        return super().__call__(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...

    @overload
    def __get__(
        self: FunctionTool[Concatenate[Any, _Q], _R], instance: object, owner: type[Any]
    ) -> FunctionTool[_Q, _R]: ...

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Any:
        return self._bind(instance)

    def _add_confirm_parameter(self) -> None:
        signature = inspect.signature(self)
        if CONFIRM_DUPLICATE_PARAM in signature.parameters:
            return  # a wrapper around a tool that has it
        parameter = inspect.Parameter(
            CONFIRM_DUPLICATE_PARAM,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=_confirm_annotation(),
        )
        self.__signature__ = signature.replace(
            parameters=[*signature.parameters.values(), parameter]
        )
        self.__annotations__[CONFIRM_DUPLICATE_PARAM] = parameter.annotation


class RawFunctionTool(_CallableTool[RawFunctionToolInfo, _P, _R_co]):
    """A function with a hand-written schema; it gets its arguments as one dict, `raw_arguments`.

    Made by `function_tool(raw_schema=...)`.
    """

    _info_attribute = _RAW_INFO_ATTRIBUTE

    def __init__(
        self, func: Callable[_P, _R_co], info: RawFunctionToolInfo, instance: object | None = None
    ) -> None:
        """Wrap a function. Use `function_tool` instead, which also checks it."""
        super().__init__(func, info, instance)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Call the function. A confirmation of a duplicate is for the framework, and taken out."""
        if self._info.on_duplicate == "confirm":
            call = inspect.signature(self).bind(*args, **kwargs)
            arguments = call.arguments.get(_RAW_ARGUMENTS)
            if isinstance(arguments, Mapping) and CONFIRM_DUPLICATE_PARAM in arguments:
                call.arguments[_RAW_ARGUMENTS] = {
                    name: value
                    for name, value in arguments.items()
                    if name != CONFIRM_DUPLICATE_PARAM
                }
                return super().__call__(*call.args, **call.kwargs)
        return super().__call__(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...

    @overload
    def __get__(
        self: RawFunctionTool[Concatenate[Any, _Q], _R], instance: object, owner: type[Any]
    ) -> RawFunctionTool[_Q, _R]: ...

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Any:
        return self._bind(instance)


@functools.cache
def _confirm_annotation() -> Any:
    from pydantic import Field

    return Annotated[bool | None, Field(description=_CONFIRM_DUPLICATE_DESCRIPTION)]


def _annotations_of(func: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(func, functools.partial):
        func = func.func
    if sys.version_info >= (3, 14):
        # Evaluating may fail here: an annotation may name what the module defines further down.
        import annotationlib

        return dict(annotationlib.get_annotations(func, format=annotationlib.Format.FORWARDREF))
    return dict(getattr(func, "__annotations__", {}))


@overload
def function_tool(
    f: Callable[_P, _R],
    *,
    raw_schema: RawFunctionDescription | dict[str, Any],
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> RawFunctionTool[_P, _R]: ...


@overload
def function_tool(
    f: None = None,
    *,
    raw_schema: RawFunctionDescription | dict[str, Any],
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> Callable[[Callable[_P, _R]], RawFunctionTool[_P, _R]]: ...


@overload
def function_tool(
    f: Callable[_P, _R],
    *,
    name: str | None = None,
    description: str | None = None,
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> FunctionTool[_P, _R]: ...


@overload
def function_tool(
    f: None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> Callable[[Callable[_P, _R]], FunctionTool[_P, _R]]: ...


def function_tool(
    f: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    description: str | None = None,
    raw_schema: RawFunctionDescription | dict[str, Any] | None = None,
    flags: ToolFlag = ToolFlag.NONE,
    on_duplicate: DuplicateMode = "allow",
    duplicate_scope: DuplicateScope = "name",
) -> Any:
    """Make a function callable by a model.

    Use it as a decorator, bare or with arguments, on functions and methods, or call it on a
    function or bound method. Parameters annotated with `RunContext` are filled in by the framework
    and unknown to the model.

    Args:
        f: The function. In a voice session a blocking (not `async`) one runs in a thread.
        name: What the model calls it; the function's name by default.
        description: Tells the model when to use it; the docstring's text by default.
        raw_schema: Name, description and JSON Schema of the parameters, for a function that takes
            its arguments as one dict, `raw_arguments`. `name` and `description` are then ignored.
        flags: How a session treats the tool.
        on_duplicate: What to do with a call while another one runs.
        duplicate_scope: Which calls count as the same.

    Returns:
        A `FunctionTool`, or a `RawFunctionTool` with `raw_schema`; a decorator without `f`.

    Raises:
        TypeError: A model could not call the function: a parameter has no annotation, there are
            `*args` or `**kwargs`, or `raw_arguments` is missing with `raw_schema`.
        ValueError: `raw_schema` has no `name` or no `parameters`.
    """
    options: dict[str, Any] = {
        "flags": flags,
        "on_duplicate": on_duplicate,
        "duplicate_scope": duplicate_scope,
    }

    def decorate(func: Callable[..., Any]) -> Any:
        if raw_schema is not None:
            return _raw_tool(func, raw_schema, options)
        return _described_tool(func, name, description, options)

    return decorate if f is None else decorate(f)


def _described_tool(
    func: Callable[..., Any], name: str | None, description: str | None, options: dict[str, Any]
) -> FunctionTool[..., Any]:
    name = name or getattr(func, "__name__", None)
    if name is None:
        raise TypeError(f"{func!r} has no name of its own: pass name=... to function_tool")
    _check_parameters(func, name)
    docstring = getattr(func, "__doc__", None)
    # A partial's docstring is that of functools.partial.
    if not description and docstring and not isinstance(func, functools.partial):
        return FunctionTool(func, _DocumentedToolInfo.of(docstring, name=name, **options))
    return FunctionTool(
        func, FunctionToolInfo(name=name, description=description or None, **options)
    )


def _raw_tool(
    func: Callable[..., Any],
    raw_schema: RawFunctionDescription | dict[str, Any],
    options: dict[str, Any],
) -> RawFunctionTool[..., Any]:
    schema = cast("dict[str, Any]", _copy_json(raw_schema))
    name = schema.get("name")
    if not name:
        raise ValueError("raw_schema has no name: add the name by which the model calls the tool")
    if "parameters" not in schema:
        raise ValueError(
            f"raw_schema of {name!r} has no parameters: add the JSON Schema of its arguments, "
            "or an empty dict if it takes none"
        )
    if _RAW_ARGUMENTS not in inspect.signature(func).parameters:
        raise TypeError(
            f"the raw tool {name!r} must take its arguments in a parameter named "
            f"{_RAW_ARGUMENTS}: async def {getattr(func, '__name__', name)}"
            f"({_RAW_ARGUMENTS}: dict[str, object])"
        )
    if options["on_duplicate"] == "confirm":
        _add_confirm_property(schema["parameters"])
    return RawFunctionTool(func, RawFunctionToolInfo(name=name, raw_schema=schema, **options))


def _add_confirm_property(parameters: dict[str, Any]) -> None:
    if not parameters:
        parameters["type"] = "object"
    parameters.setdefault("properties", {})[CONFIRM_DUPLICATE_PARAM] = {
        "type": ["boolean", "null"],
        "description": _CONFIRM_DUPLICATE_DESCRIPTION,
    }
    required = parameters.setdefault("required", [])
    if CONFIRM_DUPLICATE_PARAM not in required:
        required.append(CONFIRM_DUPLICATE_PARAM)


def _copy_json(value: Any) -> Any:
    """Copy dicts and lists; whatever else a schema holds is shared."""
    if isinstance(value, Mapping):
        return {key: _copy_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy_json(item) for item in value]
    return value


def _check_parameters(func: Callable[..., Any], name: str) -> None:
    """Fail now, with a clear text, rather than when the schema is built in the first turn."""
    parameters = list(inspect.signature(func).parameters.values())
    if parameters and _takes_instance(func):
        parameters = parameters[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(
                f"the tool {name!r} takes {parameter}, which can't be described to a model: "
                "name the arguments, or use raw_schema"
            )
        if parameter.annotation is parameter.empty:
            raise TypeError(
                f"parameter {parameter.name!r} of the tool {name!r} has no type annotation: "
                "add one, so that the model knows what to pass"
            )


def _takes_instance(func: Callable[..., Any]) -> bool:
    """Whether `func` looks like a method in the body of a class, going by its qualified name."""
    if inspect.ismethod(func) or isinstance(func, staticmethod):
        return False
    parents = getattr(func, "__qualname__", "").split(".")[:-1]
    return bool(parents) and parents[-1] != "<locals>"


def is_function_tool(f: object) -> TypeGuard[FunctionTool[..., Any]]:
    """Whether `f` is a `FunctionTool`."""
    return isinstance(f, FunctionTool)


def is_raw_function_tool(f: object) -> TypeGuard[RawFunctionTool[..., Any]]:
    """Whether `f` is a `RawFunctionTool`."""
    return isinstance(f, RawFunctionTool)


def get_function_info(f: FunctionTool[..., Any]) -> FunctionToolInfo:
    """The same as `f.info`."""
    return f.info


def get_raw_function_info(f: RawFunctionTool[..., Any]) -> RawFunctionToolInfo:
    """The same as `f.info`."""
    return f.info


def _resolve_wrapped_tool(
    value: object,
) -> FunctionTool[..., Any] | RawFunctionTool[..., Any] | None:
    """The function tool that `value` is, or wraps as a decorator on top of `@function_tool` does.

    None if it is neither. A wrapper becomes a tool of the same kind, with a warning, because
    `@function_tool` belongs on top.
    """
    if isinstance(value, FunctionTool | RawFunctionTool):
        return value
    if not callable(value) or isinstance(value, type):
        return None
    wrapped = getattr(value, "__wrapped__", None)
    info = (
        wrapped.info
        if isinstance(wrapped, FunctionTool | RawFunctionTool)
        else getattr(value, _INFO_ATTRIBUTE, None) or getattr(value, _RAW_INFO_ATTRIBUTE, None)
    )
    if not isinstance(info, FunctionToolInfo | RawFunctionToolInfo):
        return None
    from ..log import logger

    logger.warning(
        "the tool %r is wrapped by another decorator: put @function_tool above it", info.name
    )
    if isinstance(info, FunctionToolInfo):
        return FunctionTool(value, info)
    return RawFunctionTool(value, info)


def find_function_tools(
    cls_or_obj: object,
) -> list[FunctionTool[..., Any] | RawFunctionTool[..., Any]]:
    """The tools among the attributes of a class or an object, in alphabetical order.

    Tools of an object are bound to it. Properties are not evaluated.
    """
    tools: list[FunctionTool[..., Any] | RawFunctionTool[..., Any]] = []
    for name in sorted(dir(cls_or_obj)):
        static = inspect.getattr_static(cls_or_obj, name, None)
        if isinstance(static, staticmethod | classmethod):
            static = static.__func__
        if not callable(static):  # a property, for one: looking it up would run code
            continue
        if isinstance(static, _CallableTool) or (
            hasattr(static, "__wrapped__")
            or hasattr(static, _INFO_ATTRIBUTE)
            or hasattr(static, _RAW_INFO_ATTRIBUTE)
        ):
            tool = _resolve_wrapped_tool(getattr(cls_or_obj, name))
            if tool is not None:
                tools.append(tool)
    return tools
