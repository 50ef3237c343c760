"""One `aiohttp.ClientSession` per job, shared by all plugins.

The job runner installs it with `_new_session_ctx` and closes it with `_close_http_ctx`. Scripts and
tests use `open`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import aiohttp

from .._connections import Connections, recording_connections, shared
from ..log import logger
from .aio.task_scope import run_bounded

_LIMIT_PER_HOST = 50
_KEEPALIVE_TIMEOUT = 120.0

_CLOSE_TIMEOUT = 5.0
"""Seconds that connections get to shut down properly; then they are cut."""


class _SessionHolder:
    """Makes the session when it is first asked for; calling it returns the session."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def __call__(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError(
                "the HTTP session of this job is closed: the job is over. Make no requests after "
                "its shutdown callbacks, or use an aiohttp.ClientSession of your own"
            )
        if self._session is None or self._session.closed:
            self._session = _make_session()
        return self._session

    async def aclose(self) -> None:
        """Close the session, if one was made, in five seconds at most."""
        self._closed = True
        session = self._session
        if session is None or session.closed:
            return
        # taken now: a connector forgets its connections when it begins to close
        transports = list(_transports(session.connector))
        try:
            await run_bounded(session.close(), _CLOSE_TIMEOUT, owner="HTTP session")
        except asyncio.TimeoutError:
            logger.warning("the HTTP session did not close in time; its connections are cut")
        finally:
            for transport in transports:
                transport.abort()  # does nothing to one that is closed


_factory: ContextVar[Callable[[], aiohttp.ClientSession] | None] = ContextVar(
    "livekit_agents_http_session", default=None
)


def http_session() -> aiohttp.ClientSession:
    """The HTTP session of the current job.

    It is made on first use and made anew when somebody closed it: do not close it. That it is
    closed means that the agent is shutting down.

    Raises:
        RuntimeError: called outside of a job, or after its end.
    """
    factory = _factory.get()
    if factory is None:
        raise RuntimeError(
            "http_session() needs a job: outside of one, wrap your code in `async with "
            "utils.http_context.open():`, or give the plugin an aiohttp.ClientSession of your own"
        )
    return factory()


@asynccontextmanager
async def open() -> AsyncIterator[aiohttp.ClientSession]:
    """Provide `http_session` outside of a job, for scripts and tests.

    ::

        async with http_context.open():
            await my_agent_code()

    Inside a job, or nested, it passes on the session there is and leaves it open.
    """
    existing = _factory.get()
    if existing is not None:
        yield existing()
        return
    factory = _new_session_ctx()
    try:
        yield factory()
    finally:
        _factory.set(factory)  # the block may have been entered in another context
        await _close_http_ctx()


def _new_session_ctx() -> Callable[[], aiohttp.ClientSession]:
    """Install a session factory in the current context. For the job runner."""
    holder = _SessionHolder()
    _factory.set(holder)
    return holder


async def _close_http_ctx() -> None:
    """Close the session of the current context, bounded. For the job runner, as its last step."""
    factory = _factory.get()
    _factory.set(None)
    if isinstance(factory, _SessionHolder):
        await factory.aclose()


class _RecordingConnector(aiohttp.TCPConnector):
    """Notes who opens a connection: see `Connections`."""

    async def connect(self, *args: Any, **kwargs: Any) -> aiohttp.connector.Connection:
        """Open a connection, or reuse one, for whoever is being recorded.

        Raises:
            aiohttp.ClientConnectionError: The connections of the caller were cut, also while it was dialled.
        """
        connections = recording_connections()
        if connections is None:
            return await super().connect(*args, **kwargs)
        _refuse_if_cut(connections)
        with shared():  # when it is free again, others use it
            connection = await super().connect(*args, **kwargs)
        if connections.refused:  # while it was dialled
            connection.close()
            _refuse_if_cut(connections)
        transport = connection.transport
        if transport is not None:
            connections.opened(connection, transport.abort)
            connection.add_callback(functools.partial(connections.gone, connection))
        return connection


def _refuse_if_cut(connections: Connections) -> None:
    if connections.refused:
        raise aiohttp.ClientConnectionError(
            "no connection is opened for a stream that was closed and did not end"
        )


def _make_session() -> aiohttp.ClientSession:
    connector = _RecordingConnector(
        limit_per_host=_LIMIT_PER_HOST,
        keepalive_timeout=_KEEPALIVE_TIMEOUT,
        ssl=_ssl_context(),
    )
    proxy = _job_proxy()
    options: dict[str, Any] = {"proxy": proxy} if proxy else {}
    return aiohttp.ClientSession(connector=connector, **options)


def _job_proxy() -> str | None:
    # A job can only be running if somebody has imported the module of jobs. It is too heavy to be
    # imported for the sake of a script that has none.
    job = sys.modules.get("livekit.agents.job")
    context = job.get_job_context(required=False) if job is not None else None
    return context.proc.http_proxy if context is not None else None


def _transports(connector: aiohttp.BaseConnector | None) -> Iterable[asyncio.WriteTransport]:
    """The open connections, idle and in use. aiohttp has no public name for them."""
    idle = getattr(connector, "_conns", {}).values()
    protocols = {proto for entries in idle for proto, *_ in entries}
    protocols.update(getattr(connector, "_acquired", ()))
    for protocol in protocols:
        transport = getattr(protocol, "transport", None)
        if transport is not None:
            yield transport


def _ssl_context() -> ssl.SSLContext:
    return _cached_ssl_context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.cache
def _cached_ssl_context(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """The trusted certificates: the environment's, else the system's, else certifi's.

    Loading them takes tens of milliseconds, hence the cache.
    """
    if cert_file or cert_dir:
        return ssl.create_default_context(cafile=cert_file or None, capath=cert_dir or None)
    if _has_system_certificates():
        return ssl.create_default_context()
    import certifi

    return ssl.create_default_context(cafile=certifi.where())


def _has_system_certificates() -> bool:
    if os.name == "nt":
        return True  # ssl reads the system's certificate store
    paths = ssl.get_default_verify_paths()  # None for what does not exist
    if paths.cafile:
        return True
    try:
        return bool(paths.capath and os.listdir(paths.capath))
    except OSError:
        return False


def _set_default_cert_env() -> None:
    """Point ``SSL_CERT_FILE`` to certifi where the system has no certificates. For the worker.

    Child processes and the native RTC library inherit it. An existing setting is left alone.
    """
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return
    if not _has_system_certificates():
        import certifi

        os.environ["SSL_CERT_FILE"] = certifi.where()
