"""Inputs and outputs come in chains: a wrapper passes on whatever it does not deal with itself."""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar

Link_T = TypeVar("Link_T", bound="ChainLink[Any]")


class ChainLink(Generic[Link_T]):
    """An input or output, or a wrapper around the next one of its kind."""

    _kind_of_next: ClassVar[str] = "next"
    """What the wrapped one is called."""

    def __init__(self, *, label: str, wrapped: Link_T | None) -> None:
        """Name it.

        Args:
            label: What to call it in logs.
            wrapped: The next one; None at the end of the chain.
        """
        self.__label = label
        self.__wrapped = wrapped

    @property
    def label(self) -> str:
        """What to call it in logs."""
        return self.__label

    @property
    def _wrapped(self) -> Link_T | None:
        """The next one, or None at the end of the chain."""
        return self.__wrapped

    def _wrap(self, other: Link_T) -> None:
        self.__wrapped = other

    def on_attached(self) -> None:
        """The session began to use it."""
        if self.__wrapped is not None:
            self.__wrapped.on_attached()

    def on_detached(self) -> None:
        """The session stopped using it."""
        if self.__wrapped is not None:
            self.__wrapped.on_detached()

    def __repr__(self) -> str:
        inner = "" if self.__wrapped is None else f", {self._kind_of_next}={self.__wrapped!r}"
        return f"{type(self).__name__}(label={self.__label!r}{inner})"
