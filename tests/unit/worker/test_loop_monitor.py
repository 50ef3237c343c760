"""A blocked event loop is noticed, measured and explained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from livekit.agents.telemetry.loop_monitor import (
    ENV_WARN_THRESHOLD_MS,
    MAX_LOGS_PER_MINUTE,
    BlockedReport,
    EventLoopMonitor,
    LoopMonitorThresholds,
    get_monitor,
    start_monitoring,
    stop_monitoring,
)

pytestmark = pytest.mark.real_time


@contextmanager
def monitored(**options: float) -> Iterator[list[BlockedReport]]:
    """Monitor the running loop; gives the reports."""
    reports: list[BlockedReport] = []
    monitor = EventLoopMonitor(asyncio.get_running_loop(), name="test", **options)
    monitor._reports.append(reports.append)
    monitor.start()
    try:
        yield reports
    finally:
        monitor.stop()


def hold_up(seconds: float) -> None:
    """Use the CPU for a while."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def until_reported(reports: list[BlockedReport]) -> BlockedReport:
    for _ in range(200):
        if reports:
            return max(reports, key=lambda report: report.duration)
        await asyncio.sleep(0.01)
    raise AssertionError("nothing was reported")


async def test_code_that_blocks_is_named_with_its_task(caplog: pytest.LogCaptureFixture) -> None:
    async def careless() -> None:
        hold_up(0.6)

    with monitored() as reports:
        await asyncio.sleep(0.1)
        reports.clear()
        task = asyncio.get_running_loop().create_task(careless(), name="careless task")
        await task
        report = await until_reported(reports)
    assert report.duration >= 0.5
    assert report.task_name == "careless task"
    assert any("hold_up" in stack for stack in report.stacks)
    assert any(r.getMessage().startswith("event loop blocked for") for r in caplog.records)


async def test_logs_are_limited_and_metrics_are_not(caplog: pytest.LogCaptureFixture) -> None:
    with monitored(warn_threshold=0.02, tick_interval=0.005) as reports:
        await asyncio.sleep(0.05)
        reports.clear()
        for count in range(1, MAX_LOGS_PER_MINUTE + 4):
            while len(reports) < count:
                hold_up(0.05)
                await asyncio.sleep(0.02)
    lines = [r for r in caplog.records if r.getMessage().startswith("event loop blocked for")]
    assert len(lines) <= MAX_LOGS_PER_MINUTE < len(reports)


async def test_a_loop_has_one_monitor_until_it_is_stopped() -> None:
    loop = asyncio.get_running_loop()
    thresholds = LoopMonitorThresholds(warn=0.2, error=0.4)
    monitor = start_monitoring(loop, thresholds=thresholds)
    assert monitor is not None and start_monitoring(loop) is monitor is get_monitor(loop)
    assert (monitor.warn_threshold, monitor.error_threshold) == (0.2, 0.4)
    stop_monitoring(loop)
    stop_monitoring(loop)
    assert get_monitor(loop) is None


def test_the_environment_sets_thresholds_or_disables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_WARN_THRESHOLD_MS, "250")
    assert LoopMonitorThresholds.from_env() == LoopMonitorThresholds(0.25, 0.5)
    monkeypatch.setenv(ENV_WARN_THRESHOLD_MS, "1")
    assert LoopMonitorThresholds.from_env() == LoopMonitorThresholds(0.02, 0.5)
    monkeypatch.setenv(ENV_WARN_THRESHOLD_MS, "0")
    assert LoopMonitorThresholds.from_env() is None
    monkeypatch.setenv(ENV_WARN_THRESHOLD_MS, "soon")
    assert LoopMonitorThresholds.from_env() == LoopMonitorThresholds(0.1, 0.5)
