"""Errors that are told in one line."""

from __future__ import annotations

__all__ = ["CLIError"]


class CLIError(Exception):
    """Something the user can put right; the message says how."""
