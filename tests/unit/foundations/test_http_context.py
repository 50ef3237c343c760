from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import aiohttp
import certifi
import pytest
from aiohttp import web

from livekit.agents.utils import http_context
from livekit.agents.utils.aio import TaskScope


def loop_time() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture(autouse=True)
def _no_job() -> Iterator[None]:
    """Whatever another test left in the context of the main thread."""
    token = http_context._factory.set(None)
    yield
    http_context._factory.reset(token)


async def test_outside_of_a_job_the_error_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"http_context\.open\(\)"):
        http_context.http_session()


async def test_a_job_has_one_session_made_on_first_use() -> None:
    factory = http_context._new_session_ctx()
    session = http_context.http_session()
    assert session is factory() is http_context.http_session()
    assert isinstance(session.connector, aiohttp.TCPConnector)
    assert session.connector.limit_per_host == 50
    assert session.connector._keepalive_timeout == 120
    assert session.timeout.total == 300 and session.timeout.sock_connect == 30
    await http_context._close_http_ctx()
    assert session.closed


async def test_tasks_of_the_job_share_it_and_other_jobs_do_not() -> None:
    async def job() -> tuple[object, object]:
        http_context._new_session_ctx()
        inner = await TaskScope("tests").spawn(_session())
        own = http_context.http_session()
        await http_context._close_http_ctx()
        return own, inner

    async def _session() -> aiohttp.ClientSession:
        return http_context.http_session()

    scope = TaskScope("jobs")
    (own_1, inner_1), (own_2, _) = await asyncio.gather(scope.spawn(job()), scope.spawn(job()))
    assert own_1 is inner_1
    assert own_1 is not own_2


async def test_a_session_that_a_plugin_closed_is_made_anew() -> None:
    http_context._new_session_ctx()
    await http_context.http_session().close()
    assert not http_context.http_session().closed
    await http_context._close_http_ctx()


async def test_after_the_job_no_session_is_made_that_nobody_would_close() -> None:
    factory = http_context._new_session_ctx()
    http_context.http_session()
    await http_context._close_http_ctx()
    with pytest.raises(RuntimeError, match="job is over"):
        factory()
    with pytest.raises(RuntimeError):
        http_context.http_session()
    await http_context._close_http_ctx()  # again: nothing to do


async def test_closing_makes_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> aiohttp.ClientSession:
        raise AssertionError("made a session only to close it")

    monkeypatch.setattr(http_context, "_make_session", make)
    http_context._new_session_ctx()
    await http_context._close_http_ctx()


async def test_open_provides_a_session_and_closes_it() -> None:
    async with http_context.open() as session:
        assert http_context.http_session() is session
        async with http_context.open() as nested:
            assert nested is session
        assert not session.closed
    assert session.closed
    with pytest.raises(RuntimeError):
        http_context.http_session()


async def test_open_closes_when_its_block_fails() -> None:
    with pytest.raises(ValueError):
        async with http_context.open() as session:
            raise ValueError
    assert session.closed


async def test_open_inside_a_job_leaves_the_session_of_the_job() -> None:
    http_context._new_session_ctx()
    async with http_context.open() as session:
        pass
    assert not session.closed and http_context.http_session() is session
    await http_context._close_http_ctx()


async def test_a_close_that_hangs_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await request.protocol.start()  # a request that never ends
        return response

    app = web.Application()
    app.router.add_get("/", hang)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    http_context._new_session_ctx()
    session = http_context.http_session()
    response = await session.get(f"http://127.0.0.1:{runner.addresses[0][1]}/")
    assert response.connection is not None
    transport = response.connection.transport
    assert transport is not None

    async def never(self: aiohttp.ClientSession) -> None:
        await asyncio.sleep(1e6)

    original = aiohttp.ClientSession.close
    monkeypatch.setattr(aiohttp.ClientSession, "close", never)
    began = loop_time()
    await http_context._close_http_ctx()
    assert loop_time() - began <= 5.0
    assert transport.is_closing()
    assert "did not close in time" in caplog.text
    await original(session)
    await runner.cleanup()


async def test_the_proxy_of_the_job_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_job_context(*, required: bool = True) -> Any:
        return SimpleNamespace(proc=SimpleNamespace(http_proxy="http://proxy:3128"))

    job = SimpleNamespace(get_job_context=get_job_context)
    monkeypatch.setitem(sys.modules, "livekit.agents.job", job)  # type: ignore[arg-type]
    async with http_context.open() as session:
        assert str(session._default_proxy) == "http://proxy:3128"


async def test_without_a_job_there_is_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "livekit.agents.job", raising=False)
    async with http_context.open() as session:
        assert session._default_proxy is None


# --- certificates


@pytest.fixture
def certificate_env(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    http_context._cached_ssl_context.cache_clear()
    yield monkeypatch
    http_context._cached_ssl_context.cache_clear()


def loaded_from(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Records what certificates are loaded from."""
    calls: list[dict[str, Any]] = []
    original = ssl.create_default_context

    def create(**kwargs: Any) -> ssl.SSLContext:
        calls.append(kwargs)
        return original(**kwargs)

    monkeypatch.setattr(ssl, "create_default_context", create)
    return calls


def no_system_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = SimpleNamespace(cafile=None, capath=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)


def test_the_environment_names_the_certificates(certificate_env: pytest.MonkeyPatch) -> None:
    calls = loaded_from(certificate_env)
    certificate_env.setenv("SSL_CERT_FILE", certifi.where())
    first = http_context._ssl_context()
    assert http_context._ssl_context() is first
    assert calls == [{"cafile": certifi.where(), "capath": None}]
    certificate_env.setenv("SSL_CERT_DIR", os.path.dirname(certifi.where()))
    assert http_context._ssl_context() is not first


def test_else_those_of_the_system_are_used(certificate_env: pytest.MonkeyPatch) -> None:
    calls = loaded_from(certificate_env)
    certificate_env.setattr(http_context, "_has_system_certificates", lambda: True)
    http_context._ssl_context()
    assert calls == [{}]


def test_else_those_of_certifi(
    certificate_env: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    calls = loaded_from(certificate_env)
    empty = SimpleNamespace(cafile=None, capath=str(tmp_path))
    certificate_env.setattr(ssl, "get_default_verify_paths", lambda: empty)
    http_context._ssl_context()
    assert calls == [{"cafile": certifi.where()}]


def test_child_processes_learn_of_certifi(certificate_env: pytest.MonkeyPatch) -> None:
    no_system_certificates(certificate_env)
    certificate_env.setenv("SSL_CERT_FILE", "")
    http_context._set_default_cert_env()
    assert os.environ["SSL_CERT_FILE"] == certifi.where()


def test_an_existing_setting_is_left_alone(certificate_env: pytest.MonkeyPatch) -> None:
    no_system_certificates(certificate_env)
    certificate_env.setenv("SSL_CERT_DIR", "/etc/ours")
    http_context._set_default_cert_env()
    assert "SSL_CERT_FILE" not in os.environ


def test_with_system_certificates_nothing_is_set(certificate_env: pytest.MonkeyPatch) -> None:
    certificate_env.setattr(http_context, "_has_system_certificates", lambda: True)
    http_context._set_default_cert_env()
    assert "SSL_CERT_FILE" not in os.environ
