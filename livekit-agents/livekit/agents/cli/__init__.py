"""The command line of an agent: `python my_agent.py download-files`."""

from __future__ import annotations

import sys

from ..worker import AgentServer, ServerOptions

__all__ = ["run_app"]


def run_app(server: AgentServer | ServerOptions) -> None:
    """Run the command given on the command line.

    `download-files` lets every imported plugin fetch its files. `start`, `dev` and `console` need
    the worker, which this version does not have: they say so and exit with status 2.
    """
    import click

    if isinstance(server, ServerOptions):
        server = AgentServer.from_server_options(server)

    @click.group()
    def app() -> None:
        """Run an agent."""

    @app.command("download-files")
    def download_files() -> None:
        """Download the files that the imported plugins need."""
        from ..plugin import Plugin

        for plugin in Plugin.registered_plugins:
            click.echo(f"downloading files of {plugin.title}")
            plugin.download_files()

    for name in ("start", "dev", "console"):

        @app.command(name, context_settings={"ignore_unknown_options": True})
        @click.argument("options", nargs=-1, type=click.UNPROCESSED)
        def needs_worker(options: tuple[str, ...]) -> None:
            """Needs a version of livekit-agents with a worker."""
            click.echo(
                "this version of livekit-agents runs sessions on local audio only, see "
                "examples/receptionist.py",
                err=True,
            )
            sys.exit(2)

    app()
