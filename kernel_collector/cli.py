"""The command `kernel-collector`."""

from __future__ import annotations

from daemon.parts import part

with part():
    import asyncio
    import os
    from typing import Any

    import click

    from daemon.command import Group
    from daemon.errors import exits_on_startup_error
    from daemon.logs import configure_logs, log_options
    from daemon.version import VERSION
    from intake.options import check_collector_variables
    from kernel_collector import preflight
    from kernel_collector.collector import collect
    from kernel_collector.options import collector_options, settings_from


@click.group(cls=Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@collector_options
@log_options
@click.version_option(VERSION)
@click.pass_context
@exits_on_startup_error
def main(context: click.Context, /, **arguments: Any) -> None:
    """Read the kernel's sockets and send what they do to the reducer."""
    if context.invoked_subcommand:
        return
    check_collector_variables(context.command, os.environ)
    settings, log_arguments = settings_from(arguments, os.environ)
    configure_logs(**log_arguments)
    asyncio.run(collect(settings))


@main.command("preflight")
@click.pass_context
def show_preflight(context: click.Context) -> None:
    """Tell what this machine allows, what is missing and what to do; exit with 1 if the collector cannot run."""
    found = preflight.checks()
    click.echo(preflight.render(found))
    context.exit(bool(preflight.required_failures(found)))
