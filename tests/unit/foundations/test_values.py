"""Types, errors, language codes, plugins, logging, and the small helpers."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import re
import threading
import time
from typing import Any

import pytest
from hypothesis import given, strategies as st
from livekit import rtc
from pydantic import BaseModel, ConfigDict, ValidationError

from livekit.agents import types, utils
from livekit.agents._exceptions import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    UnexpectedModelBehavior,
    create_api_error_from_http,
)
from livekit.agents.language import LanguageCode
from livekit.agents.log import DEV_LEVEL, TRACE_LEVEL, Logger, _add_global_log_fields, logger
from livekit.agents.plugin import Plugin
from livekit.agents.types import (
    NOT_GIVEN,
    APIConnectOptions,
    NotGiven,
    NotGivenOr,
    TimedString,
    recording_enabled,
)
from livekit.agents.utils import BoundedDict, ExpFilter, MovingAverage, is_given, misc
from livekit.agents.utils.deprecation import deprecate_params

# --- NOT_GIVEN


def test_not_given_is_falsy_small_and_readable() -> None:
    assert not NOT_GIVEN
    assert repr(NOT_GIVEN) == "NOT_GIVEN"
    assert not hasattr(NOT_GIVEN, "__dict__")


@pytest.mark.parametrize("value", [None, 0, "", False, [], object()])
def test_everything_else_is_given(value: object) -> None:
    assert is_given(value)


def test_any_instance_means_not_given() -> None:
    assert not is_given(NOT_GIVEN)
    assert not is_given(NotGiven())
    assert not is_given(pickle.loads(pickle.dumps(NOT_GIVEN)))


def test_pydantic_fields_may_be_not_given() -> None:
    class Options(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=False)
        voice: NotGivenOr[str] = NOT_GIVEN

    assert not is_given(Options().voice)
    assert Options(voice="alto").voice == "alto"
    with pytest.raises(ValidationError):
        Options(voice=3)  # type: ignore[arg-type]


# --- connect options, timed strings, recording


def test_connect_options_and_their_retry_interval() -> None:
    options = APIConnectOptions()
    assert (options.max_retry, options.retry_interval, options.timeout) == (3, 2.0, 10.0)
    assert options == types.DEFAULT_API_CONNECT_OPTIONS
    assert [options._interval_for_retry(n) for n in range(3)] == [0.1, 2.0, 2.0]
    assert hash(options) == hash(APIConnectOptions())
    with pytest.raises(AttributeError):
        options.timeout = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("field", ["max_retry", "retry_interval", "timeout"])
def test_negative_connect_options_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        APIConnectOptions(**{field: -1})
    APIConnectOptions(**{field: 0})


def test_a_timed_string_is_a_string_with_times() -> None:
    timed = TimedString("hello", 0.5, end_time=0.9, speaker_id="S1")
    assert timed == "hello" and (timed.start_time, timed.end_time) == (0.5, 0.9)
    assert not is_given(timed.confidence) and not is_given(timed.start_time_offset)
    assert timed.speaker_id == "S1"
    timed.start_time = 0.6
    assert type(timed + "!") is str


@pytest.mark.parametrize("key", ["audio", "traces", "logs", "transcript"])
def test_recording_is_enabled_by_any_of_its_parts(key: str) -> None:
    assert recording_enabled({key: True})
    assert not recording_enabled({key: False, "redaction": True})


# --- errors


def test_an_api_error_says_what_happened_and_whether_to_retry() -> None:
    error = APIError("quota exceeded", body={"code": 1})
    assert str(error) == "quota exceeded"
    assert repr(error) == "APIError('quota exceeded', body={'code': 1}, retryable=True)"
    assert APIError.retryable is False


@pytest.mark.parametrize(
    ("status", "asked", "retryable"),
    [
        (-1, None, True),
        (500, None, True),
        (503, False, False),
        (400, None, False),
        (404, True, False),
        (408, None, True),
        (429, None, True),
        (499, None, True),
        (429, False, False),
        (1011, None, True),
    ],
)
def test_the_status_decides_about_a_retry(status: int, asked: bool | None, retryable: bool) -> None:
    assert APIStatusError("x", status_code=status, retryable=asked).retryable is retryable


def test_the_text_of_a_status_error() -> None:
    error = APIStatusError("no", status_code=404)
    assert str(error) == "message='no', status_code=404, retryable=False"
    error = APIStatusError("no", status_code=500, request_id="r1", body={"a": 1})
    assert str(error) == (
        "message='no', status_code=500, retryable=True, request_id=r1, body={'a': 1}"
    )
    assert repr(error) == (
        "APIStatusError('no', status_code=500, request_id='r1', body={'a': 1}, retryable=True)"
    )


def caused(error: BaseException, *causes: BaseException) -> BaseException:
    current = error
    for cause in causes:
        current.__cause__ = cause
        current = cause
    return error


def test_a_connection_error_names_the_root_of_its_causes() -> None:
    assert str(APIConnectionError()) == "Connection error."
    assert str(APITimeoutError()) == "Request timed out."
    error = caused(APIConnectionError("lost"), ValueError("mid"), OSError("refused"))
    assert str(error) == "lost (caused by OSError: refused)"
    assert str(caused(APIConnectionError("lost"), OSError())) == "lost (caused by OSError)"
    nested = caused(APIConnectionError("lost"), APITimeoutError("slow"))
    assert str(nested) == "lost (caused by APITimeoutError: slow)"


def test_a_connection_error_survives_strange_causes() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert str(caused(APIConnectionError("lost"), Unprintable())) == "lost (caused by Unprintable)"

    first, second = APIConnectionError("first"), APIConnectionError("second")
    caused(first, second, first)
    assert str(first) == "first (caused by APIConnectionError: second)"

    long = caused(APIConnectionError("lost"), *(OSError(str(n)) for n in range(50)))
    assert str(long) == "lost (caused by OSError: 8)"  # the tenth exception is the last looked at


@pytest.mark.parametrize(
    ("message", "status", "text"),
    [
        ("bad key", 401, "bad key (401 Unauthorized)"),
        ("", 404, "Not Found (404)"),
        ("Not Found", 404, "Not Found (404)"),
        ("", 599, "HTTP 599 (599)"),
        ("odd", 599, "odd (599 HTTP 599)"),
    ],
)
def test_an_error_from_an_http_answer(message: str, status: int, text: str) -> None:
    error = create_api_error_from_http(message, status=status, request_id="r", body="b")
    assert error.message == text
    assert (error.status_code, error.request_id, error.body) == (status, "r", "b")
    assert error.retryable is (status >= 500)


def test_error_hierarchy() -> None:
    assert issubclass(APITimeoutError, APIConnectionError)
    assert issubclass(APIConnectionError, APIError)
    assert issubclass(UnexpectedModelBehavior, RuntimeError)


# --- language codes


@pytest.mark.parametrize(
    ("given_code", "code"),
    [
        ("English", "en"),
        (" german ", "de"),
        ("deu", "de"),
        ("yue", "yue"),
        ("EN", "en"),
        ("en_us", "en-US"),
        ("ZH-hans-cn", "zh-Hans-CN"),
        ("cmn-hans-cn", "cmn-Hans-CN"),
        ("es-419", "es-419"),
        ("Klingon", "klingon"),
        ("multi", "multi"),
        ("", ""),
    ],
)
def test_language_codes_are_normalised(given_code: str, code: str) -> None:
    language = LanguageCode(given_code)
    assert language == code and isinstance(language, str)
    assert LanguageCode(language) == language


@pytest.mark.parametrize(
    ("code", "language", "region", "iso", "name"),
    [
        ("en-US", "en", "US", "en-US", "english"),
        ("cmn-Hans-CN", "zh", "CN", "zh-CN", "chinese"),
        ("yue", "yue", None, "yue", None),
        ("es-419", "es", None, "es", "spanish"),
        ("sl", "sl", None, "sl", "slovene"),
        ("", "", None, "", None),
    ],
)
def test_the_parts_of_a_language_code(
    code: str, language: str, region: str | None, iso: str, name: str | None
) -> None:
    tag = LanguageCode(code)
    assert (tag.language, tag.region, tag.iso, tag.to_language_name()) == (
        language,
        region,
        iso,
        name,
    )


@given(st.text())
def test_any_text_makes_a_stable_language_code(text: str) -> None:
    code = LanguageCode(text)
    assert isinstance(code.iso, str)
    assert LanguageCode(code.iso).language == code.language or not code.isascii()


def test_pydantic_validates_and_serialises_language_codes() -> None:
    class Options(BaseModel):
        language: LanguageCode

    options = Options(language="PT_br")  # type: ignore[arg-type]
    assert isinstance(options.language, LanguageCode)
    assert options.model_dump_json() == '{"language":"pt-BR"}'
    with pytest.raises(ValidationError):
        Options(language=3)  # type: ignore[arg-type]


# --- plugins


class SomePlugin(Plugin):
    def __init__(self, title: str = "livekit.plugins.some") -> None:
        super().__init__(title, "1.2.3", "", logging.getLogger(title))


@pytest.fixture(autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plugin, "registered_plugins", [])
    monkeypatch.setattr(Plugin, "emitter", rtc.EventEmitter())


def test_a_plugin_registers_and_announces_itself() -> None:
    announced: list[Plugin] = []
    Plugin.emitter.on("plugin_registered", announced.append)
    plugin = SomePlugin()
    Plugin.register_plugin(plugin)
    assert Plugin.registered_plugins == announced == [plugin]
    assert (plugin.title, plugin.version, plugin.package) == ("livekit.plugins.some", "1.2.3", "")
    assert plugin.logger is logging.getLogger("livekit.plugins.some")
    assert Plugin("t", "v", "p").logger is None
    plugin.download_files()


def test_a_plugin_registers_on_the_main_thread_only() -> None:
    errors: list[Exception] = []

    def register() -> None:
        try:
            Plugin.register_plugin(SomePlugin())
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=register)
    thread.start()
    thread.join()
    assert str(errors[0]).startswith("Plugins must be registered on the main thread")
    assert not Plugin.registered_plugins


# --- logging


def test_the_logger_has_two_more_levels(caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(logger, Logger) and logger is logging.getLogger("livekit.agents")
    caplog.set_level(TRACE_LEVEL, logger="livekit.agents")
    logger.dev("hint %s", 1)
    logger.trace("frame %s", 2)
    assert [(r.levelno, r.levelname, r.getMessage()) for r in caplog.records] == [
        (23, "DEV", "hint 1"),
        (5, "TRACE", "frame 2"),
    ]
    assert {r.filename for r in caplog.records} == {"test_values.py"}
    caplog.set_level(logging.WARNING, logger="livekit.agents")
    caplog.clear()
    logger.dev("hint")
    logger.trace("frame")
    assert DEV_LEVEL < logging.WARNING and not caplog.records


def record_through(handler: logging.Handler, **extra: object) -> logging.LogRecord:
    record = logging.makeLogRecord(extra)
    handler.handle(record)
    return record


def test_the_region_is_added_to_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEKIT_REGION_NAME", "eu-west")
    handler = logging.NullHandler()
    handler.handle = lambda record: handler.filter(record)  # type: ignore[method-assign, assignment, return-value]
    _add_global_log_fields(handler)
    assert record_through(handler).region == "eu-west"  # type: ignore[attr-defined]
    assert record_through(handler, region="explicit").region == "explicit"  # type: ignore[attr-defined]


def test_without_a_region_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEKIT_REGION_NAME", raising=False)
    handler = logging.NullHandler()
    _add_global_log_fields(handler)
    assert not handler.filters


async def test_exceptions_are_logged_and_raised(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tests.plugin")

    @utils.log_exceptions(msg="while sending", logger=log)
    async def send(error: BaseException | None) -> int:
        """Sends."""
        if error:
            raise error
        return 1

    @utils.log_exceptions(logger=log)
    def parse(error: BaseException | None) -> int:
        if error:
            raise error
        return 2

    assert asyncio.iscoroutinefunction(send) and send.__doc__ == "Sends."
    assert await send(None) == 1 and parse(None) == 2
    with pytest.raises(ValueError):
        await send(ValueError())
    with pytest.raises(ValueError):
        parse(ValueError())
    for cancelled in (asyncio.CancelledError(),):
        with pytest.raises(asyncio.CancelledError):
            await send(cancelled)
        with pytest.raises(asyncio.CancelledError):
            parse(cancelled)
    texts = [record.getMessage() for record in caplog.records]
    assert texts == ["Error in send - while sending", "Error in parse"]
    assert all(r.exc_info and r.name == "tests.plugin" for r in caplog.records)


# --- deprecated arguments


@deprecate_params(
    {"old": "Use new instead.", "older": "Use new instead.", "odd": "It has no effect."},
    target_version="v2.0",
)
def configure(
    name: str = "",
    old: NotGivenOr[int] = NOT_GIVEN,
    older: NotGivenOr[int] = NOT_GIVEN,
    odd: NotGivenOr[int | None] = NOT_GIVEN,
) -> str:
    return name


def test_deprecated_arguments_warn_with_one_hint(caplog: pytest.LogCaptureFixture) -> None:
    assert configure("a") == configure(name="a", old=NOT_GIVEN) == "a"
    assert not caplog.records
    configure("a", 1, odd=None)
    configure(old=1, older=2)
    assert [record.getMessage() for record in caplog.records] == [
        "old is deprecated and will be removed in v2.0. Use new instead.",
        "odd is deprecated and will be removed in v2.0. It has no effect.",
        "old, older are deprecated and will be removed in v2.0. Use new instead.",
    ]
    assert {record.filename for record in caplog.records} == {"test_values.py"}


def test_deprecated_arguments_without_a_version(caplog: pytest.LogCaptureFixture) -> None:
    @deprecate_params({"old": "Leave it out."})
    def call(old: NotGivenOr[int] = NOT_GIVEN) -> None: ...

    call(old=1)
    assert caplog.messages == ["old is deprecated. Leave it out."]


# --- filters and dicts


def test_an_exponential_filter() -> None:
    smooth = ExpFilter(0.5)
    assert smooth.value is None
    with pytest.raises(ValueError, match="no value"):
        smooth.apply(1.0)
    assert smooth.apply(1.0, 8.0) == 8.0
    assert smooth.apply(1.0, 4.0) == 6.0
    assert smooth.apply(2.0, 2.0) == 0.25 * 6.0 + 0.75 * 2.0
    assert smooth.apply(1.0) == smooth.value == 3.0
    smooth.update_base(1.0)
    assert smooth.apply(1.0, 100.0) == 3.0


def test_a_filter_with_limits() -> None:
    smooth = ExpFilter(0.5, max_val=6.0, min_val=3.0, initial=4.0)
    assert smooth.value == 4.0
    assert smooth.apply(1.0, 100.0) == 6.0
    assert smooth.apply(1.0, -100.0) == 3.0
    smooth.reset(max_val=2.5, min_val=1.0)
    assert smooth.value == 3.0  # what was learned stays
    assert smooth.apply(1.0) == 2.5
    smooth.reset(initial=2.0)
    assert smooth.value == 2.0
    smooth.apply(1.0, 1.0)
    smooth.reset()
    assert smooth.value == 2.0


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1])
def test_a_filter_refuses_impossible_weights(alpha: float) -> None:
    smooth = ExpFilter(1.0)
    for attempt in (ExpFilter, smooth.update_base, lambda a: smooth.reset(alpha=a)):
        with pytest.raises(ValueError, match="alpha"):
            attempt(alpha)


@given(st.lists(st.integers(-1000, 1000)), st.integers(1, 5))
def test_a_moving_average_is_the_mean_of_its_window(samples: list[int], size: int) -> None:
    average = MovingAverage(size)
    for sample in samples:
        average.add_sample(sample)
    window = samples[-size:]
    assert average.size() == len(window)
    assert average.get_avg() == pytest.approx(sum(window) / len(window) if window else 0.0)
    average.reset()
    assert average.get_avg() == 0.0 and average.size() == 0


def test_a_moving_average_needs_a_window() -> None:
    with pytest.raises(ValueError, match="window_size"):
        MovingAverage(0)


def test_a_bounded_dict_drops_its_oldest() -> None:
    bounded: BoundedDict[str, int] = BoundedDict(maxsize=2)
    bounded["a"], bounded["b"] = 1, 2
    bounded["a"] = 3  # an update is no new entry
    bounded["c"] = 4
    assert dict(bounded) == {"b": 2, "c": 4} and bounded.maxsize == 2
    unbounded: BoundedDict[int, int] = BoundedDict()
    unbounded.update((n, n) for n in range(100))
    assert len(unbounded) == 100
    with pytest.raises(ValueError, match="maxsize"):
        BoundedDict(0)


def test_pop_if_removes_the_oldest_or_the_newest_match() -> None:
    bounded: BoundedDict[str, int] = BoundedDict()
    bounded.update(a=1, b=2, c=3, d=4)
    assert bounded.pop_if(lambda value: value % 2 == 1) == ("c", 3)
    assert bounded.pop_if() == ("a", 1)
    assert bounded.pop_if(lambda value: value > 9) == (None, None)
    bounded.clear()
    assert bounded.pop_if() == (None, None)


def test_update_value_sets_fields_that_exist() -> None:
    class Entry:
        text = "before"
        score = 1

    bounded: BoundedDict[str, Entry] = BoundedDict()
    bounded["a"] = entry = Entry()
    assert bounded.update_value("a", text="after", score=None, unknown=3) is entry
    assert (entry.text, entry.score, hasattr(entry, "unknown")) == ("after", 1, False)
    assert bounded.update_value("b", text="x") is None


# --- helpers


def test_short_ids() -> None:
    assert re.fullmatch(r"item_[0-9a-f]{12}", utils.shortuuid("item_"))
    assert utils.shortuuid() != utils.shortuuid()


def test_names_and_times() -> None:
    assert abs(utils.time_ms() - time.time() * 1000) < 1000
    assert isinstance(utils.nodename(), str)
    assert misc.camel_to_snake_case("MyHTTPServer2Go") == "my_http_server2_go"
    assert misc.camel_to_snake_case("TTSMetrics") == "tts_metrics"


@pytest.mark.parametrize(
    ("url", "cloud"),
    [
        ("wss://project.livekit.cloud", True),
        ("https://a.b.livekit.run/path?x=1", True),
        ("wss://livekit.cloud.example.com", False),
        ("wss://evillivekit.cloud", False),
        ("ws://localhost:7880", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_cloud_urls(url: str, cloud: bool) -> None:
    assert misc.is_cloud(url) is cloud


def test_modes_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEKIT_DEV_MODE", "1")
    monkeypatch.setenv("LIVEKIT_REMOTE_EOT_URL", "https://eot")
    assert utils.is_dev_mode() and utils.is_hosted()
    monkeypatch.setenv("LIVEKIT_DEV_MODE", "true")
    monkeypatch.setenv("LIVEKIT_REMOTE_EOT_URL", "")
    assert not utils.is_dev_mode() and not utils.is_hosted()


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(os, "environ", fake := dict[str, str]())
    return fake


def test_the_first_value_that_is_set_counts(env: dict[str, str]) -> None:
    env.update(FIRST="", SECOND="two", THIRD="three")
    assert utils.resolve_env_var("given", "SECOND") == "given"
    assert utils.resolve_env_var("", "SECOND") == ""
    assert utils.resolve_env_var(NOT_GIVEN, "FIRST", "SECOND", "THIRD") == "two"
    assert utils.resolve_env_var(None, "SECOND") == "two"
    assert utils.resolve_env_var(NOT_GIVEN, "FIRST", default="d") == "d"
    assert utils.resolve_env_var(NOT_GIVEN) == ""


def test_integers_from_the_environment(
    env: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    env.update(GOOD=" 7 ", EMPTY="")
    assert utils.resolve_env_int("GOOD") == 7
    assert utils.resolve_env_int("EMPTY", 3) == utils.resolve_env_int("UNSET", 3) == 3
    assert not caplog.records
    env["BAD"] = "seven"
    assert utils.resolve_env_int("BAD", 3) == 3
    assert "BAD='seven'" in caplog.text


# --- templates

USER: dict[str, Any] = {
    "user": {"name": "Ada", "age": None, "scores": [1.5, 2.25]},
    "a.b": "dotted key",
    "agent": "Kim",
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("Hello {user.name}, I am {agent}.", "Hello Ada, I am Kim."),
        ("{{literal}} {agent!r:>6}", "{literal}  'Kim'"),
        ("{user.scores.1:.1f} {user[scores][0]}", "2.2 1.5"),
        ("{a.b}", "dotted key"),
        ("[{user.age}] [{user.age:>10}] [{user.age!r}]", "[] [] []"),
        ("no fields", "no fields"),
    ],
)
def test_templates(template: str, text: str, caplog: pytest.LogCaptureFixture) -> None:
    assert misc.safe_render(template, USER) == text
    assert not caplog.records


@pytest.mark.parametrize(
    "field", ["user.nmae", "nobody", "agent.name", "user.scores.7", "user.scores.x", "", "0"]
)
def test_a_missing_value_is_empty_and_an_error_names_the_others(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert misc.safe_render(f"<{{{field}:>10}}>", USER) == "<>"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "user.name, user.age, user.scores, a.b, agent" in record.getMessage()


def test_a_template_cannot_look_into_objects(caplog: pytest.LogCaptureFixture) -> None:
    assert misc.safe_render("{agent.__class__}{user.__init__}", USER) == ""
    assert len(caplog.records) == 2


def test_a_format_that_does_not_fit_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    assert misc.safe_render("{agent:.2f}", USER) == "Kim"
    assert len(caplog.records) == 1


def test_unmatched_braces_are_an_error() -> None:
    with pytest.raises(ValueError):
        misc.safe_render("{agent", USER)
