"""The command line of an agent: `cli.run_app(server)` at the end of its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from ..worker import AgentServer, ServerOptions
    from .cli import AgentsConsole

__all__ = ["AgentsConsole", "run_app"]


def run_app(server: AgentServer | ServerOptions) -> None:
    """Run the command given on the command line. Ends the process.

    Args:
        server: What to run. `WorkerOptions` are converted.
    """
    from .cli import run_app as run

    run(server)


if not TYPE_CHECKING:  # a type checker shall know the names above and no others
    __getattr__, __dir__ = attach(__name__, {"AgentsConsole": ".cli"})
