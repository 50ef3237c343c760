"""Runs one published plugin and prints what it did, as one JSON object.

    python tests/plugins/probe.py deepgram

It knows a plugin by its import name, its public names and their signatures; it reads no line of it.
To be run by an interpreter that has this tree's `livekit-agents` and the plugin.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import rerouting  # noqa: E402
from provider import Behaviour, Provider, Providers  # noqa: E402

AFTERMATH = 1.0
"""Seconds in which whatever a close has ended may really be gone."""


@dataclass
class Row:
    """What was seen of one class."""

    name: str
    kind: str
    built: bool = False
    complaint: str = ""
    """Why it was not built."""
    without_key: str = ""
    """What a user hears who gives no key."""
    calls: dict[str, Any] = field(default_factory=dict)
    close_seconds: float = 0.0
    """The longest `aclose()` of the model itself."""


@dataclass
class Report:
    """What was seen of a plugin."""

    plugin: str
    import_seconds: float = 0.0
    failure: str = ""
    rows: list[Row] = field(default_factory=list)
    tasks_left: list[str] = field(default_factory=list)
    threads_left: list[str] = field(default_factory=list)
    connections_left: int = 0


class Probe:
    """One plugin, class by class, behaviour by behaviour; the classes side by side."""

    def __init__(self, plugin: str, providers: Providers) -> None:
        self.report = Report(plugin)
        self._providers = providers
        self._opened: list[Provider] = []
        self._free = asyncio.Event()

    async def run(self) -> None:
        """Fill the report."""
        import parts
        from given import VARIABLES

        from livekit.agents import utils

        parts.forget_keys()
        rerouting.install(self._open())
        began = time.monotonic()
        try:
            found = parts.find_parts(self.report.plugin)
        except Exception as error:
            self.report.failure = f"{type(error).__name__}: {error}"
            return
        self.report.import_seconds = time.monotonic() - began
        before = asyncio.all_tasks()
        threads = set(threading.enumerate())
        async with utils.http_context.open():
            for part in found:
                row = Row(part.name, part.kind)
                row.without_key = parts.build_without_key(part, {})
                self.report.rows.append(row)
            os.environ.update(VARIABLES.get(self.report.plugin, {}))
            for behaviour in Behaviour:
                await asyncio.gather(
                    *(
                        self._call(part, row, behaviour)
                        for part, row in zip(found, self.report.rows, strict=True)
                    )
                )
        self._free.set()
        await self._look_around(before, threads)

    def _open(self) -> Provider:
        provider = self._providers.open()
        self._opened.append(provider)
        return provider

    async def _call(self, part: Any, row: Row, behaviour: Behaviour) -> None:
        from calls import Call
        from given import GIVEN
        from parts import build

        provider = self._open()
        provider.behaviour = behaviour
        rerouting.current.set(provider)  # of this task, and of all that it starts
        try:
            given = GIVEN.get(f"{self.report.plugin}.{part.name}", lambda _: {})(provider)
            model = build(part, given)
        except Exception as error:
            row.complaint = f"{type(error).__name__}: {error}"
            return
        row.built = True
        if part.kind in ("avatar", "VAD"):
            return
        silent = behaviour is Behaviour.SILENT
        call = Call(part.kind, model, provider, self._free, wedge=silent)
        outcome = await (call.hang() if silent else call.fail())
        row.calls[behaviour.value] = asdict(outcome)
        began = time.monotonic()
        try:
            await asyncio.wait_for(model.aclose(), 5.0)
        except Exception as error:
            row.calls[behaviour.value]["failure"] += f" aclose: {type(error).__name__}: {error}"
        row.close_seconds = max(row.close_seconds, time.monotonic() - began)

    async def _look_around(self, before: set[Any], threads: set[threading.Thread]) -> None:
        deadline = time.monotonic() + AFTERMATH
        while time.monotonic() < deadline:
            gc.collect()
            left = [task for task in asyncio.all_tasks() - before if not task.done()]
            open_ones = [c for provider in self._opened for c in provider.open]
            if not left and not open_ones:
                break
            await asyncio.sleep(0.05)
        self.report.tasks_left = sorted({_describe(task) for task in left})
        self.report.connections_left = len(open_ones)
        self.report.threads_left = sorted(
            thread.name for thread in set(threading.enumerate()) - threads
        )


def _describe(task: asyncio.Task[Any]) -> str:
    return f"{task.get_name()}: {getattr(task.get_coro(), '__qualname__', '?')}"


def main() -> None:
    """Probe the plugin named on the command line."""
    logging.basicConfig(level=logging.ERROR if os.environ.get("PROBE_LOG") else logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, Providers(Path(folder)) as providers:
        rerouting.trust(providers.authority.bundle)
        probe = Probe(sys.argv[1], providers)
        asyncio.run(probe.run())
        print(json.dumps(asdict(probe.report)), flush=True)
    os._exit(0)  # native threads of libraries can't keep it


if __name__ == "__main__":
    main()
