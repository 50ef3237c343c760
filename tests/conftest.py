"""Runs every ``async def test_…`` on virtual time; ``@pytest.mark.real_time`` asks for real time."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from virtual_time import run_test

settings.register_profile("no deadline", deadline=None)  # timings depend on who else is computing
settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "real_time: run an async test on a loop with a real clock")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    test = pyfuncitem.obj
    real_time = pyfuncitem.get_closest_marker("real_time") is not None
    hypothesis = getattr(test, "hypothesis", None)
    if hypothesis is not None:
        if inspect.iscoroutinefunction(hypothesis.inner_test):
            hypothesis.inner_test = _synchronous(hypothesis.inner_test, real_time)
        return None
    if not inspect.iscoroutinefunction(test):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    run_test(test(**arguments), real_time=real_time)
    return True


def _synchronous(test: Callable[..., Any], real_time: bool) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_test(test(*args, **kwargs), real_time=real_time)

    return run


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` means: half as many again as there are processors.

    Many tests wait: for a process they have started, or for a call at the pace of life.
    """
    return (os.cpu_count() or 1) * 3 // 2


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--examples",
        type=int,
        default=100,
        help="how many random conversations of each kind tests/closing/test_interleavings.py closes",
    )
