"""Processes that do not outlive the run that started them."""

from __future__ import annotations

import shutil


def mortal(command: list[str]) -> list[str]:
    """The same command for a process that is killed when the one that starts it is gone.

    Even if that one is killed itself. Where `setpriv` of util-linux is missing, it is left to the
    process to notice.
    """
    setpriv = shutil.which("setpriv")
    return command if setpriv is None else [setpriv, "--pdeathsig", "KILL", *command]
