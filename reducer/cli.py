"""The command `reducer`."""

from __future__ import annotations

from daemon.parts import part

with part("reducer"):
    import asyncio
    from typing import Any

    import click

    from daemon.command import Command
    from daemon.errors import exits_on_startup_error
    from daemon.logs import configure_logs, log_options
    from daemon.open_files import allow_open_files
    from daemon.threads import exit_at_once
    from daemon.version import VERSION
    from reducer.heap import keep_freed_memory
    from reducer.options import reducer_options, settings_from
    from reducer.service import serve


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@reducer_options
@log_options
@click.version_option(VERSION)
@exits_on_startup_error
def main(**arguments: Any) -> None:
    """Join what the collectors see of each flow, name its ends, and export metrics."""
    settings, log_arguments = settings_from(arguments)
    configure_logs(**log_arguments)
    allow_open_files()
    keep_freed_memory()
    asyncio.run(serve(settings))
    exit_at_once()
