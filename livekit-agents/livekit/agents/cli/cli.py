"""The commands of an agent's file: `python my_agent.py start|dev|console|connect|download-files`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..worker import AgentServer, ServerEnvOption, ServerOptions
from .console import AgentsConsole, ConsoleMode
from .errors import CLIError
from .proto import CliArgs
from .signals import HANDLED_SIGNALS

__all__ = ["HANDLED_SIGNALS", "AgentsConsole", "ConsoleMode", "run_app"]

_LEVELS = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL"]

F = TypeVar("F", bound=Callable[..., Any])


def run_app(server: AgentServer | ServerOptions) -> None:
    """Run the command given on the command line. Ends the process.

    Args:
        server: What to run. `ServerOptions` are converted.
    """
    if isinstance(server, ServerOptions):
        server = AgentServer.from_server_options(server)
    app = make_app(server)
    try:
        status = app.main(standalone_mode=False, prog_name=_prog_name())
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except CLIError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    from .serve import exit_process

    exit_process(status if isinstance(status, int) else 0)


def _prog_name() -> str:
    return f"python {os.path.basename(sys.argv[0])}"


def _level(server: AgentServer, dev: bool) -> str:
    return str(ServerEnvOption.getvalue(server.log_level, dev))


def _log_level_option(default: str, *, env: bool = True) -> Callable[[F], F]:
    return click.option(
        "--log-level",
        type=click.Choice(_LEVELS, case_sensitive=False),
        default=default,
        envvar="LIVEKIT_LOG_LEVEL" if env else None,
        show_default=True,
        show_envvar=env,
        help="Which logs are printed.",
    )


def _credentials(function: F) -> F:
    for name, variable, what in (
        ("--api-secret", "LIVEKIT_API_SECRET", "API secret of the LiveKit server."),
        ("--api-key", "LIVEKIT_API_KEY", "API key of the LiveKit server."),
        ("--url", "LIVEKIT_URL", "LiveKit server, such as wss://my-project.livekit.cloud."),
    ):
        function = click.option(name, envvar=variable, show_envvar=True, help=what)(function)
    return function


def make_app(server: AgentServer) -> click.Group:
    """The commands, for a server."""

    @click.group(
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        invoke_without_command=True,
    )
    @click.pass_context
    def app(context: click.Context) -> None:
        """Run this agent.

        `console` talks to it in the terminal, `dev` serves it while you work on it, `start` serves
        it in production.
        """
        if context.invoked_subcommand is None:
            click.echo(context.get_help())

    @app.command()
    @_log_level_option(_level(server, False))
    @_credentials
    @click.option(
        "--drain-timeout",
        type=int,
        help="Seconds that running jobs get to end after SIGTERM; 0: no limit.",
    )
    @click.option("--simulation", is_flag=True, hidden=True)
    def start(drain_timeout: int | None, **options: Any) -> int:
        """Serve jobs of a LiveKit server, in production.

        SIGTERM or SIGINT: no more jobs are taken, running ones may end (--drain-timeout), then
        the process ends. A second signal ends it at once.
        """
        if drain_timeout is not None:
            server.update_options(drain_timeout=drain_timeout)
        return _serve(server, CliArgs(**options))

    @app.command()
    @_log_level_option(_level(server, True))
    @_credentials
    @click.option(
        "--reload/--no-reload", default=True, show_default=True, help="Restart when a file changes."
    )
    @click.option("--cli-addr", hidden=True, help="Where the process that watches files listens.")
    def dev(reload: bool, **options: Any) -> int:
        """Serve jobs of a LiveKit server, while you work on the agent.

        Logs are coloured, no processes wait idle, and the load does not matter. Files are watched:
        when one changes the agent is started anew, and its jobs go on with the new code.
        """
        os.environ["LIVEKIT_DEV_MODE"] = "1"
        args = CliArgs(**options, dev=True)
        if reload and args.cli_addr is None:
            _check_credentials(server, args)
            from .reload import run_with_reload

            return run_with_reload()
        return _serve(server, args)

    @app.command()
    @click.option("--text/--no-text", default=False, help="Type instead of talking.")
    @click.option(
        "--input",
        "input_file",
        type=click.Path(path_type=Path),
        help="Audio file that is played to the agent instead of a microphone.",
    )
    @click.option(
        "--output",
        "output_file",
        type=click.Path(path_type=Path),
        help="WAV file for the agent's voice; with --input.",
    )
    @click.option("--input-device", help="Microphone: its number or a part of its name.")
    @click.option("--output-device", help="Loudspeaker: its number or a part of its name.")
    @click.option(
        "--list-devices/--no-list-devices", default=False, help="Show the sound devices and exit."
    )
    @click.option("--record/--no-record", default=False, help="Keep a recording and a report.")
    @_log_level_option("WARN")
    def console(list_devices: bool, **options: Any) -> int:
        """Talk to the agent in this terminal; no LiveKit server is needed."""
        if list_devices:
            from .sound_card import list_devices as devices

            click.echo(devices())
            return 0
        if options["output_file"] is not None and options["input_file"] is None:
            raise click.UsageError("--output needs --input")
        if options["text"] and options["input_file"] is not None:
            raise click.UsageError("--text and --input exclude each other")
        os.environ["LIVEKIT_DEV_MODE"] = "1"
        from .console_app import ConsoleOptions, run_console
        from .log import setup_logging

        setup_logging(options["log_level"], devmode=True, console=True)
        return run_console(server, ConsoleOptions(**options))

    @app.command()
    @_log_level_option("DEBUG", env=False)
    @_credentials
    @click.option("--room", required=True, help="Name of the room; created if it does not exist.")
    @click.option("--participant-identity", help="Of the agent; agent-… by default.")
    def connect(room: str, participant_identity: str | None, **options: Any) -> int:
        """Join one room with the agent, without being dispatched."""
        args = CliArgs(**options, dev=True)
        _check_credentials(server, args)
        from .connect import run_connect
        from .log import setup_logging

        setup_logging(args.log_level, devmode=True, console=False)
        return run_connect(server, args, room=room, identity=participant_identity)

    @app.command("download-files")
    def download_files() -> int:
        """Download the files that the plugins imported by the agent need."""
        from ..plugin import Plugin
        from .log import setup_logging

        setup_logging("DEBUG", devmode=True, console=False)
        for plugin in Plugin.registered_plugins:
            click.echo(f"downloading files of {plugin.title}")
            plugin.download_files()
        return 0

    return app


def _serve(server: AgentServer, args: CliArgs) -> int:
    """`start`, and `dev` without watching files."""
    from .log import setup_logging
    from .serve import run_worker

    _check_credentials(server, args)
    setup_logging(args.log_level, devmode=args.dev, console=False)
    if args.cli_addr is None:
        return run_worker(server, args)
    from .watcher import WatchClient, follow_watcher

    follow_watcher()
    client = WatchClient(server, args.cli_addr)
    server.once("worker_started", client.start)
    return run_worker(server, args)


def _check_credentials(server: AgentServer, args: CliArgs) -> None:
    """Say what is missing before anything is started.

    Raises:
        CLIError: URL, key or secret are missing, or the URL is none.
    """
    from .._worker.protocol import agent_url

    missing = [
        f"{option} (or {variable})"
        for option, variable, given in (
            ("--url", "LIVEKIT_URL", args.url or server._ws_url),
            ("--api-key", "LIVEKIT_API_KEY", args.api_key or server._options["api_key"]),
            (
                "--api-secret",
                "LIVEKIT_API_SECRET",
                args.api_secret or server._options["api_secret"],
            ),
        )
        if not given
    ]
    if missing:
        raise CLIError(
            f"the LiveKit server is not known: set {', '.join(missing)}. "
            "To try the agent without a server: console"
        )
    try:
        agent_url(args.url or server._ws_url)
    except ValueError as error:
        raise CLIError(str(error)) from error
