"""Cancelling futures that no `TaskScope` owns."""

from __future__ import annotations

import asyncio
from typing import Any

from ...log import logger
from .task_scope import abandon, wait_until

_CEILING = 30.0
"""Seconds after which a future that ignores its cancellation is abandoned."""


async def cancel_and_wait(*futures: asyncio.Future[Any]) -> None:
    """Request cancellation of each future once, then wait until every one is done.

    Results and errors are neither raised nor retrieved. Futures that are done already are fine.
    The calling task, should it be among them, is neither cancelled nor waited for.

    The wait ends after 30 s: what still runs then is abandoned with one error log. New code gives
    its tasks to a `TaskScope` and chooses its own bound.

    Raises:
        asyncio.CancelledError: the caller was cancelled meanwhile; it stops waiting.
    """
    current = asyncio.current_task()
    pending = [future for future in futures if future is not current and not future.done()]
    for future in pending:
        future.cancel()
    for future in await wait_until(pending, _CEILING):
        survivor = abandon(future, "cancel_and_wait")
        logger.error(
            "task %s ignored its cancellation for %.0f s and is abandoned\n%s",
            survivor.name,
            _CEILING,
            survivor.stack,
        )


gracefully_cancel = cancel_and_wait
