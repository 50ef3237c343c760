"""Handlers get as many arguments as they take."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from livekit.agents._emitter import IsolatedEmitter

got: list[tuple[Any, ...]] = []


def note(*args: Any) -> None:
    got.append(args)


def wraps_one(*args: Any) -> None:
    note(*args)


wraps_one.__wrapped__ = lambda first: None  # type: ignore[attr-defined]


class Desk:
    def none(self) -> None:
        note()

    def one(self, first: Any) -> None:
        note(first)

    def by_keyword(self, first: Any, *, second: Any = None) -> None:
        note(first)

    def all_as_self(*args: Any) -> None:  # type: ignore[misc]
        note(*args[1:])

    @staticmethod
    def static(first: Any) -> None:
        note(first)

    @classmethod
    def of_class(cls, first: Any) -> None:
        note(first)

    def __call__(self, first: Any) -> None:
        note(first)


desk = Desk()


@pytest.mark.parametrize(
    ("handler", "arguments"),
    [
        (lambda: note(), 0),
        (lambda first: note(first), 1),
        (lambda first, second=None: note(first, second), 2),
        (lambda first, /, second: note(first, second), 2),
        (lambda first, *rest: note(first, *rest), 2),
        (note, 2),
        (wraps_one, 1),
        (functools.partial(lambda zero, first: note(first), 0), 1),
        (desk.none, 0),
        (desk.one, 1),
        (desk.by_keyword, 1),
        (desk.all_as_self, 2),
        (desk.static, 1),
        (desk.of_class, 1),
        (desk, 1),
        (got.append, 1),
    ],
)
def test_a_handler_that_takes_fewer_arguments_gets_the_first_ones(
    handler: Callable[..., Any], arguments: int
) -> None:
    got.clear()
    emitter = IsolatedEmitter[str]()
    emitter.on("rings", handler)
    emitter.emit("rings", "a", "b")
    expected = ("a", "b")[:arguments]
    assert got == ["a" if handler == got.append else expected]


def test_a_handler_that_takes_more_fails_alone() -> None:
    got.clear()
    emitter = IsolatedEmitter[str]()
    emitter.on("rings", lambda first, second, third: note("never"))
    emitter.on("rings", desk.one)
    emitter.emit("rings", "a", "b")
    assert got == [("a",)]
