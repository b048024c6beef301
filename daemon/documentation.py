"""Prints the table of a collector's options for its page in docs: names, variables and defaults are the command's.

python -m daemon.documentation k8s_collector
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = "| option, variable | default | |\n|---|---|---|"
# How an option says what happens by default where click does not know it.
_STATED_DEFAULT = re.compile(r"\s*\[default: (.*)\]$")


def options(command: click.Command) -> str:
    """Return the options of *command* as a table of Markdown."""
    return "\n".join((_HEAD, *_rows(command)))


def _rows(command: click.Command) -> Iterator[str]:
    for option in command.params:
        if isinstance(option, click.Option):
            names = [*option.opts, *(str(option.envvar),) * bool(option.envvar)]
            text = option.help or ""
            yield f"| {', '.join(f'`{name}`' for name in names)} | {_default(option, text)} | {_without(text)} |"


def _default(option: click.Option, text: str) -> str:
    if stated := _STATED_DEFAULT.search(text):
        return stated[1]
    if option.is_flag:
        return "off"
    return str(option.to_info_dict()["default"] or "")


def _without(text: str) -> str:
    return _STATED_DEFAULT.sub("", text)


if __name__ == "__main__":
    sys.stdout.write(f"{options(import_module(f'{sys.argv[1]}.cli').main)}\n")
