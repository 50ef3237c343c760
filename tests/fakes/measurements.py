"""What the package measures through OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from livekit.agents.telemetry import otel_metrics


class Measurements:
    """Reads them back."""

    def __init__(self, reader: InMemoryMetricReader) -> None:
        self._reader = reader

    def all(self) -> dict[str, list[Any]]:
        """The data points of each metric, by its name."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> Iterator[Measurements]:
    """A meter provider in memory, for one test."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    monkeypatch.setattr(otel_metrics, "_meter", lambda: provider.get_meter("test"))
    for cached in (otel_metrics._counter, otel_metrics._histogram):
        cached.cache_clear()
    yield Measurements(reader)
    for cached in (otel_metrics._counter, otel_metrics._histogram):
        cached.cache_clear()
    provider.shutdown()
