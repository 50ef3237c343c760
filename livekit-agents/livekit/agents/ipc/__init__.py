"""Processes and threads that run jobs, and how the worker talks to them."""

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from . import (
        channel,
        inference_executor,
        inference_proc_executor,
        job_executor,
        job_proc_executor,
        job_thread_executor,
        mock_room,
        proc_pool,
        proto,
    )

__all__ = [
    "channel",
    "inference_executor",
    "inference_proc_executor",
    "job_executor",
    "job_proc_executor",
    "job_thread_executor",
    "mock_room",
    "proc_pool",
    "proto",
]

if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(__name__, {name: f".{name}:" for name in __all__})
