"""Everybody who may close a session. Each requests a forced close, sooner or later, and returns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from closing.scene import Scene

from livekit.agents.llm import LLMError
from livekit.agents.voice import CloseReason
from livekit.agents.voice.session_start import _job_shutdown

Closer = Callable[[Scene], Awaitable[None]]


async def aclose(scene: Scene) -> None:
    scene.checker.requested(joins=scene.session._is_closing)
    scene.checker.waiter("aclose", scene.session.aclose())
    await asyncio.sleep(0)


async def shutdown_at_once(scene: Scene) -> None:
    scene.checker.requested()
    scene.session.shutdown(drain=False)


async def participant_leaves(scene: Scene) -> None:
    scene.checker.requested()
    scene.session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)


async def unrecoverable_error(scene: Scene) -> None:
    scene.checker.requested()
    error = LLMError(
        timestamp=time.time(),
        label="llm",
        error=RuntimeError("the model is gone"),
        recoverable=False,
    )
    for _ in range(4):
        scene.session._on_error(error, scene.llm)


async def job_ends(scene: Scene) -> None:
    scene.checker.requested(joins=scene.session._is_closing)
    scene.checker.waiter("job shutdown callback", _job_shutdown(scene.session)())
    await asyncio.sleep(0)


async def leaving_the_block(scene: Scene) -> None:
    scene.checker.requested()
    scene.checker.waiter("__aexit__", scene.session.__aexit__(None, None, None))
    await asyncio.sleep(0)


# -- graceful first -----------------------------------------------------------------------------------


def after_a_graceful_shutdown(then: Closer) -> Closer:
    async def close(scene: Scene) -> None:
        scene.session.shutdown()
        await asyncio.sleep(1.0)
        await then(scene)

    return close


# -- from inside --------------------------------------------------------------------------------------


async def a_tool(scene: Scene) -> None:
    """Its call runs since the beginning, in the background."""
    scene.checker.requested()
    scene.hang_up.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def on_exit(scene: Scene) -> None:
    scene.closes_from = "on_exit"
    scene.session.shutdown()
    await asyncio.sleep(0)
    await aclose(scene)


async def an_event_handler(scene: Scene) -> None:
    def on_item(_: Any) -> None:
        scene.session.shutdown(drain=False)
        scene.checker.waiter("aclose in a handler", scene.session.aclose())

    scene.session.once("agent_state_changed", on_item)
    scene.checker.requested()
    scene.session._update_agent_state("thinking")
    if not scene.session._is_closing:  # it was in that state already
        scene.session._update_agent_state("listening")


async def a_close_handler_again(scene: Scene) -> None:
    def on_close(_: Any) -> None:
        scene.session.shutdown()
        scene.session._close_soon(reason=CloseReason.PARTICIPANT_DISCONNECTED)
        scene.checker.waiter("aclose in a close handler", scene.session.aclose())
        raise TypeError("a broken close handler")

    scene.session.once("close", on_close)
    await aclose(scene)


# -- unsteady ones ------------------------------------------------------------------------------------


async def a_task_that_is_cancelled(scene: Scene) -> None:
    scene.checker.requested()
    task = asyncio.ensure_future(asyncio.wait_for(scene.session.aclose(), 0.1))
    scene.checker.waiter("cancelled aclose", asyncio.wait([scene.checker.ours(task)]))
    await asyncio.sleep(0.01)


async def an_interrupt_from_the_keyboard(scene: Scene) -> None:
    """As `asyncio.run` does it: every task is cancelled, the close among them."""
    await aclose(scene)
    await asyncio.sleep(0.01)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def several_racing(scene: Scene) -> None:
    await participant_leaves(scene)
    for _ in range(3):
        scene.checker.waiter("aclose", scene.session.aclose())
    scene.session.shutdown()
    scene.session.shutdown(drain=False)
    scene.checker.waiter("job shutdown callback", _job_shutdown(scene.session)())
    await asyncio.sleep(0.01)
    await unrecoverable_error_again(scene)


async def unrecoverable_error_again(scene: Scene) -> None:
    for _ in range(4):
        scene.session._on_error(
            LLMError(timestamp=time.time(), label="x", error=ValueError("x"), recoverable=False),
            scene.llm,
        )


CLOSERS: dict[str, Closer] = {
    "aclose()": aclose,
    "shutdown(drain=False)": shutdown_at_once,
    "participant leaves": participant_leaves,
    "unrecoverable error": unrecoverable_error,
    "job ends": job_ends,
    "__aexit__": leaving_the_block,
    "shutdown(), then drain=False": after_a_graceful_shutdown(shutdown_at_once),
    "shutdown(), then participant leaves": after_a_graceful_shutdown(participant_leaves),
    "shutdown(), then error": after_a_graceful_shutdown(unrecoverable_error),
    "shutdown(), then aclose()": after_a_graceful_shutdown(aclose),
    "shutdown(), then job ends": after_a_graceful_shutdown(job_ends),
    "a tool": a_tool,
    "on_exit": on_exit,
    "an event handler": an_event_handler,
    "a close handler, again": a_close_handler_again,
    "a task that is cancelled": a_task_that_is_cancelled,
    "a keyboard interrupt": an_interrupt_from_the_keyboard,
    "several racing": several_racing,
}

BASIC = (
    "aclose()",
    "participant leaves",
    "shutdown(), then drain=False",
    "shutdown(), then aclose()",
)
EXTERNAL = tuple(name for name in CLOSERS if name not in ("a tool", "on_exit"))
FORCED_AT_ONCE = tuple(
    name for name in EXTERNAL if not name.startswith("shutdown(), then") or "drain=False" in name
)
"""Those that don't let speech play to its end first."""
