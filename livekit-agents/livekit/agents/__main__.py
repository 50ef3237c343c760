"""`python -m livekit.agents`: the commands of an agent, for a file that is named or found."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from .cli.cli import _LEVELS, _check_credentials
from .cli.errors import CLIError
from .cli.proto import CliArgs


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Run an agent from its file, or prepare the machine for agents."""


@main.command("download-files")
def download_files() -> int:
    """Download the files that the installed plugins need."""
    import importlib
    import pkgutil

    from .plugin import Plugin

    try:
        import livekit.plugins as namespace
    except ModuleNotFoundError:
        click.echo("no plugins are installed")
        return 0
    for module in pkgutil.iter_modules(namespace.__path__):
        try:
            importlib.import_module(f"livekit.plugins.{module.name}")
        except Exception as error:
            click.echo(f"warning: livekit.plugins.{module.name} can't be imported: {error}")
    failed = 0
    for plugin in Plugin.registered_plugins:
        click.echo(f"downloading files of {plugin.title}")
        try:
            plugin.download_files()
        except Exception as error:
            failed = 1
            click.echo(f"error: {plugin.title}: {error}", err=True)
    return failed


@main.command()
@click.argument("entrypoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "--log-level",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="Which logs are printed.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "colored"]),
    default="json",
    show_default=True,
    help="One JSON object per line, or lines for a terminal.",
)
@click.option("--url", envvar="LIVEKIT_URL", help="LiveKit server.", show_envvar=True)
@click.option("--api-key", envvar="LIVEKIT_API_KEY", help="Its API key.", show_envvar=True)
@click.option("--api-secret", envvar="LIVEKIT_API_SECRET", help="Its API secret.", show_envvar=True)
@click.option("--dev", is_flag=True, help="Use the defaults for development.")
@click.option(
    "--cli-addr",
    "--reload-addr",
    metavar="HOST:PORT",
    help="With --dev: where a program listens that restarts this one.",
)
@click.option("--simulation", is_flag=True, help="Serve simulated calls, without a load limit.")
def start(entrypoint: Path | None, **options: Any) -> int:
    """Serve jobs of a LiveKit server with the agent in ENTRYPOINT.

    ENTRYPOINT is a file that defines an AgentServer; by default main.py, app.py or agent.py, here
    or in app/.
    """
    args = CliArgs(**options)
    if args.cli_addr is not None and not args.dev:
        raise ValueError("--cli-addr needs --dev")
    from .cli.discover import load_server
    from .cli.log import setup_logging
    from .cli.serve import run_worker
    from .cli.watcher import WatchClient

    if args.dev:
        os.environ["LIVEKIT_DEV_MODE"] = "1"
    setup_logging(args.log_level, devmode=args.log_format == "colored", console=False)
    server = load_server(entrypoint)
    _check_credentials(server, args)
    if args.cli_addr is not None:
        server.once("worker_started", WatchClient(server, args.cli_addr).start)
    return run_worker(server, args)


@main.command()
@click.argument("entrypoint", required=False, type=click.Path(path_type=Path))
@click.option(
    "--connect-addr",
    required=True,
    metavar="HOST:PORT",
    help="Where the console's program listens.",
)
@click.option("--record", is_flag=True, help="Keep a recording and a report.")
def console(entrypoint: Path | None, connect_addr: str, record: bool) -> int:
    """Be the agent of a console in another program, such as the `lk` tool."""
    from .cli.discover import load_server
    from .cli.log import setup_logging
    from .cli.tcp_console import run_tcp_console

    os.environ["LIVEKIT_DEV_MODE"] = "1"
    setup_logging("DEBUG", devmode=True, console=False, compact=True)
    server = load_server(entrypoint)
    return run_tcp_console(server, address=connect_addr, record=record, log_level="DEBUG")


def run() -> None:
    """Run the command given on the command line. Ends the process."""
    from .cli.serve import exit_process

    try:
        status = main.main(standalone_mode=False, prog_name="python -m livekit.agents")
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except (CLIError, ValueError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    exit_process(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    run()
