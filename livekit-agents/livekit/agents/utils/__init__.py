"""Helpers for the framework and for plugins. Every name is imported when it is first used."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from livekit.rtc import EventEmitter

    from . import aio, audio, codecs, http_context, http_server, hw, images, misc
    from .audio import AudioArrayBuffer, AudioBuffer, combine_frames, merge_frames
    from .bounded_dict import BoundedDict
    from .connection_pool import ConnectionPool
    from .env import resolve_env_int, resolve_env_var
    from .exp_filter import ExpFilter
    from .log import log_exceptions
    from .misc import is_dev_mode, is_given, is_hosted, nodename, shortuuid, time_ms
    from .moving_average import MovingAverage
    from .participant import wait_for_agent, wait_for_participant, wait_for_track_publication

__all__ = [
    "AudioArrayBuffer",
    "AudioBuffer",
    "BoundedDict",
    "ConnectionPool",
    "EventEmitter",
    "ExpFilter",
    "MovingAverage",
    "aio",
    "audio",
    "codecs",
    "combine_frames",
    "http_context",
    "http_server",
    "hw",
    "images",
    "is_dev_mode",
    "is_given",
    "is_hosted",
    "log_exceptions",
    "merge_frames",
    "misc",
    "nodename",
    "resolve_env_int",
    "resolve_env_var",
    "shortuuid",
    "time_ms",
    "wait_for_agent",
    "wait_for_participant",
    "wait_for_track_publication",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(
        __name__,
        {
            "AudioArrayBuffer": ".audio",
            "AudioBuffer": ".audio",
            "BoundedDict": ".bounded_dict",
            "ConnectionPool": ".connection_pool",
            "EventEmitter": "livekit.rtc",
            "ExpFilter": ".exp_filter",
            "MovingAverage": ".moving_average",
            "aio": ".aio:",
            "audio": ".audio:",
            "codecs": ".codecs:",
            "combine_frames": ".audio",
            "http_context": ".http_context:",
            "http_server": ".http_server:",
            "hw": ".hw:",
            "images": ".images:",
            "is_dev_mode": ".misc",
            "is_given": ".misc",
            "is_hosted": ".misc",
            "log_exceptions": ".log",
            "merge_frames": ".audio",
            "misc": ".misc:",
            "nodename": ".misc",
            "resolve_env_int": ".env",
            "resolve_env_var": ".env",
            "shortuuid": ".misc",
            "time_ms": ".misc",
            "wait_for_agent": ".participant",
            "wait_for_participant": ".participant",
            "wait_for_track_publication": ".participant",
        },
    )
