"""What a model can use: function tools, raw tools, and tools of the provider."""

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

from typing_extensions import ParamSpec, Required, Self, TypedDict

_P = ParamSpec("_P")
_Q = ParamSpec("_Q")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)
_Info = TypeVar("_Info", "FunctionToolInfo", "RawFunctionToolInfo")

CONFIRM_DUPLICATE_PARAM = "lk_agents_confirm_duplicate"
"""Name of the argument with which the model confirms that it means to call a tool twice."""

CONFIRM_DUPLICATE_DESCRIPTION = (
    "Leave this false. Set it to true only after this tool was reported to be running already and "
    "the user has confirmed that a second, concurrent run is really wanted."
)

RAW_ARGUMENTS = "raw_arguments"

# `functools.wraps` copies these attributes, which is how a wrapped tool is recognised.
INFO_ATTRIBUTE = "__livekit_tool_info"
RAW_INFO_ATTRIBUTE = "__livekit_raw_tool_info"


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

    _info_attribute = INFO_ATTRIBUTE

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

    _info_attribute = RAW_INFO_ATTRIBUTE

    def __init__(
        self, func: Callable[_P, _R_co], info: RawFunctionToolInfo, instance: object | None = None
    ) -> None:
        """Wrap a function. Use `function_tool` instead, which also checks it."""
        super().__init__(func, info, instance)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R_co:
        """Call the function. A confirmation of a duplicate is for the framework, and taken out."""
        if self._info.on_duplicate == "confirm":
            call = inspect.signature(self).bind(*args, **kwargs)
            arguments = call.arguments.get(RAW_ARGUMENTS)
            if isinstance(arguments, Mapping) and CONFIRM_DUPLICATE_PARAM in arguments:
                call.arguments[RAW_ARGUMENTS] = {
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

    return Annotated[bool | None, Field(description=CONFIRM_DUPLICATE_DESCRIPTION)]


def _annotations_of(func: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(func, functools.partial):
        func = func.func
    if sys.version_info >= (3, 14):
        # Evaluating may fail here: an annotation may name what the module defines further down.
        import annotationlib

        return dict(annotationlib.get_annotations(func, format=annotationlib.Format.FORWARDREF))
    return dict(getattr(func, "__annotations__", {}))


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
