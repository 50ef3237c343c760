"""What a worker prints, and what it counts."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from fakes.worker import make_server, serve
from livekit.agents.cli.log import NOISY_LOGGERS, ColoredFormatter, JsonFormatter, setup_logging
from livekit.agents.observability import Tagger


def record(message: Any = "hello", **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("some.module").makeRecord(
        "some.module", logging.INFO, "/path/file.py", 7, message, (), None, "function", extra
    )
    return made


def test_a_record_is_one_line_of_json_with_its_fields_in_order() -> None:
    line = JsonFormatter().format(
        record(when=datetime(2026, 1, 2, tzinfo=timezone.utc), error=ValueError("no"), _hidden=1)
    )
    assert "\n" not in line
    fields = json.loads(line)
    assert list(fields) == [
        "message",
        "level",
        "name",
        "when",
        "error",
        "pid",
        "code.file.path",
        "code.function.name",
        "code.line.number",
        "timestamp",
    ]
    assert fields["when"] == "2026-01-02T00:00:00+00:00" and fields["error"] == "no"
    assert fields["code.line.number"] == 7
    assert datetime.fromisoformat(fields["timestamp"]).tzinfo is not None


def test_the_pid_of_the_process_that_logged_wins() -> None:
    assert json.loads(JsonFormatter().format(record(pid=12)))["pid"] == 12


def test_a_traceback_stays_within_its_line() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        failed = record()
        failed.exc_info = (type(error), error, error.__traceback__)
    line = JsonFormatter().format(failed)
    assert "\n" not in line
    assert "ValueError: a\nb" in json.loads(line)["exc_info"]


def test_a_dictionary_is_the_message() -> None:
    fields = json.loads(JsonFormatter().format(record({"step": 1, "done": True})))
    assert (fields["step"], fields["done"]) == (1, True) and "message" not in fields


def test_characters_are_escaped_where_the_output_can_t_show_them() -> None:
    assert "é" in JsonFormatter().format(record("é"))
    assert "\\u00e9" in JsonFormatter(ensure_ascii=True).format(record("é"))


def test_a_coloured_line_has_its_fields_at_the_end() -> None:
    formatter = ColoredFormatter(
        "%(esc_levelcolor)s%(levelname)s%(esc_reset)s %(message)s %(extra)s"
    )
    line = formatter.format(record("hello", room="x"))
    assert line == '\033[1;32mINFO\033[0m hello {"room": "x"}'


@pytest.fixture
def clean_logging() -> Iterator[None]:
    """Loggers as in a new process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in (*NOISY_LOGGERS, "livekit.agents")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.NOTSET)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


def test_production_prints_json_and_noisy_libraries_are_quiet(
    clean_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("openai").setLevel(logging.DEBUG)  # what the user has set stays
    setup_logging("debug", devmode=False, console=False)
    logging.getLogger("livekit.agents").debug("heard")
    logging.getLogger("httpx").info("noise")
    logging.getLogger("openai").debug("wanted")
    lines = [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["heard", "wanted"]


def test_every_record_has_the_region_where_there_is_one(
    clean_logging: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEKIT_REGION_NAME", "eu")
    setup_logging("info", devmode=False, console=False)
    logging.getLogger("user").info("one")
    logging.getLogger("user").info("two", extra={"region": "us"})
    regions = [json.loads(line)["region"] for line in capsys.readouterr().out.splitlines()]
    assert regions == ["eu", "us"]


@pytest.mark.real_time
async def test_prometheus_finds_jobs_processes_and_load(out: Path) -> None:
    server = make_server(prometheus_port=0)
    async with serve(server, out) as serving:
        job = await serving.offer("wait")
        await serving.livekit.running(job)
        assert server._run is not None and server._run._prometheus is not None
        url = f"http://127.0.0.1:{server._run._prometheus.port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            lines = (await response.text()).splitlines()
        values = {line.split("{")[0]: line.split()[-1] for line in lines if "nodename" in line}
        assert values["lk_agents_active_job_count"] == "1.0"
        assert values["lk_agents_proc_initialize_duration_seconds_count"] == "1.0"
        assert "lk_agents_worker_load" in values


def test_an_outcome_is_either_success_or_failure() -> None:
    tagger = Tagger()
    assert tagger.outcome is None and tagger.outcome_reason is None
    tagger.success("booked")
    tagger.add("vip", metadata={"level": 1})
    assert (tagger.outcome, tagger.outcome_reason) == ("success", "booked")
    tagger.fail("cancelled")
    assert (tagger.outcome, tagger.outcome_reason) == ("fail", "cancelled")
    assert tagger.tags == {"lk.fail", "vip"}
    tagger.remove("vip")
    tagger.remove("vip")
    assert tagger.tags == {"lk.fail"}
