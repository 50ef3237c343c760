"""Runs `async def test_…` on virtual time, as the tests of the package do."""

from __future__ import annotations

import inspect

import pytest
from virtual_time import run_test


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    run_test(pyfuncitem.obj(**arguments))
    return True
