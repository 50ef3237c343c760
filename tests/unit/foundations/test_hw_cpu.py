from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from livekit.agents.utils import hw
from livekit.agents.utils.hw import cpu


class Container:
    """Control group files in a directory, and a clock that moves only while somebody measures."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 100.0
        self.used_per_measurement = 0.0

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def use(self, seconds: float) -> None:
        """CPU time that the next measurement will see."""
        self.used_per_measurement = seconds

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        used = int((5.0 + self.used_per_measurement) * 1e6)
        self.write("cpu.stat", f"usage_usec {used}\nuser_usec 1\nsystem_usec 2\n")
        self.write("cpuacct.usage", str(used * 1000))


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Container:
    container = Container(tmp_path)
    monkeypatch.delenv("NUM_CPUS", raising=False)
    monkeypatch.setattr(cpu, "_CGROUP_V2", tmp_path / "v2")
    monkeypatch.setattr(cpu, "_CGROUP_V1_DIRS", (tmp_path / "v1",))
    monkeypatch.setattr(time, "monotonic", lambda: container.now)
    monkeypatch.setattr(time, "sleep", container.sleep)
    monkeypatch.setattr(cpu, "_machine_count", lambda: 8)
    return container


@pytest.fixture
def v2(container: Container) -> Container:
    container.root = container.root / "v2"
    container.root.mkdir()
    container.sleep(0.0)
    return container


@pytest.fixture
def v1(container: Container) -> Container:
    container.root = container.root / "v1"
    container.root.mkdir()
    container.sleep(0.0)
    return container


def test_the_monitor_fits_the_system(container: Container) -> None:
    assert type(hw.get_cpu_monitor()) is hw.DefaultCPUMonitor
    (container.root / "v1").mkdir()
    container.write("v1/cpuacct.usage", "5")
    assert type(hw.get_cpu_monitor()) is cpu.CGroupV1CPUMonitor
    (container.root / "v2").mkdir()
    container.write("v2/cpu.stat", "usage_usec 1\n")
    assert type(hw.get_cpu_monitor()) is hw.CGroupV2CPUMonitor


@pytest.mark.parametrize(
    ("cpu_max", "count"),
    [("150000 100000\n", 1.5), ("max 100000\n", 8.0), ("garbage", 8.0), ("1 0", 8.0), (None, 8.0)],
)
def test_v2_counts_by_its_quota(v2: Container, cpu_max: str | None, count: float) -> None:
    if cpu_max is not None:
        v2.write("cpu.max", cpu_max)
    assert hw.get_cpu_monitor().cpu_count() == count


@pytest.mark.parametrize(
    ("quota", "period", "count"),
    [("300000", "100000", 3.0), ("50000", "100000", 1.0), ("-1", "100000", 2.0), ("x", "1", 2.0)],
)
def test_v1_counts_by_its_quota(v1: Container, quota: str, period: str, count: float) -> None:
    v1.write("cpu.cfs_quota_us", quota)
    v1.write("cpu.cfs_period_us", period)
    assert hw.get_cpu_monitor().cpu_count() == count


def test_v1_without_quota_files_counts_two(v1: Container) -> None:
    assert hw.get_cpu_monitor().cpu_count() == 2.0


@pytest.mark.parametrize(
    ("used", "load"), [(0.0, 0.0), (0.25, 0.25), (0.5, 0.5), (1.0, 1.0), (1.5, 1.0)]
)
def test_load_is_the_share_of_what_may_be_used(v2: Container, used: float, load: float) -> None:
    v2.write("cpu.max", "200000 100000")
    v2.use(used)
    v2.use(used)
    assert hw.get_cpu_monitor().cpu_percent(interval=0.5) == pytest.approx(load)
    assert v2.now == 100.5


@pytest.mark.parametrize("used", [-1.0, 9.0])
def test_an_impossible_usage_is_discarded(
    v2: Container, used: float, caplog: pytest.LogCaptureFixture
) -> None:
    v2.use(used)
    assert hw.get_cpu_monitor().cpu_percent(interval=0.5) == 0.0
    assert "impossible" in caplog.text


def test_v1_measures_load(v1: Container) -> None:
    v1.use(0.5)
    assert hw.get_cpu_monitor().cpu_percent() == pytest.approx(0.5)


def test_without_a_container_psutil_measures(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 25.0 if interval == 0.1 else 0.0)
    monitor = hw.DefaultCPUMonitor()
    assert monitor.cpu_percent(interval=0.1) == 0.25
    assert monitor.cpu_count() == 8.0


@pytest.mark.parametrize(("text", "count"), [("3", 3.0), ("0.5", 0.5)])
def test_the_environment_overrides_the_count(
    v2: Container, monkeypatch: pytest.MonkeyPatch, text: str, count: float
) -> None:
    v2.write("cpu.max", "150000 100000")
    monkeypatch.setenv("NUM_CPUS", text)
    assert hw.get_cpu_monitor().cpu_count() == count
    assert cpu.CGroupV1CPUMonitor().cpu_count() == count
    assert hw.DefaultCPUMonitor().cpu_count() == count


@pytest.mark.parametrize("text", ["many", "0", "-2", "nan", "inf"])
def test_a_bad_override_is_ignored_with_a_warning(
    v2: Container,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    v2.write("cpu.max", "150000 100000")
    monkeypatch.setenv("NUM_CPUS", text)
    assert hw.get_cpu_monitor().cpu_count() == 1.5
    assert text in caplog.text


def test_a_container_without_counters_says_so(v2: Container) -> None:
    v2.write("cpu.stat", "user_usec 1\n")
    with pytest.raises(RuntimeError, match="usage_usec"):
        hw.CGroupV2CPUMonitor()._used_seconds()
    with pytest.raises(RuntimeError, match=r"cpuacct\.usage"):
        cpu.CGroupV1CPUMonitor()._used_seconds()
