"""A daemon's options as a table, from which its command line, variables, configuration file and documentation follow.

What is given on the command line comes before the variable, that before the configuration file, and that before the
default.
"""

from __future__ import annotations

import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from daemon.config_file import read_config_file
from daemon.errors import StartupError, exits_on_startup_error
from daemon.variables import check_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

FILE = click.Path(path_type=Path)
DIRECTORY = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True)
class Option:
    """An option.

    Attributes:
        key: in the configuration file, and the name of the command's argument.
        flags: on the command line; the first is the one that messages name.
        help: a sentence; of an ignored option why nothing comes of it.
        type: of its value; None: it is on or off.
        default: where nobody gives it.
        metavar: stands for the value in `--help`.
        variable: of the environment, besides the one that is made from the key.
        default_text: says what happens by default where *default* does not.
        ignored: it is taken, so that a command or file made for the reference works, and does nothing.
        needs: keys of options of which one must be given, else it does nothing.

    """

    key: str
    flags: tuple[str, ...]
    help: str
    type: click.ParamType[Any] | None = None
    default: Any = None
    metavar: str | None = None
    variable: str = ""
    default_text: str = ""
    ignored: bool = False
    needs: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """Its long name on the command line."""
        return next(flag for flag in self.flags if flag.startswith("--"))

    @property
    def least(self) -> Any:
        """The default, False for what is on or off."""
        return False if self.type is None else self.default

    def variables(self, prefix: str) -> list[str]:
        """Return the names of its variables, the one that counts first."""
        return [name for name in (self.variable, f"{prefix}{self.key.upper()}") if name]


class FiniteRange(click.FloatRange):
    """A number in a range, neither infinite nor none: that is in no order with others, so that no bound excludes it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


class _ClickOption(click.Option):
    """An option whose errors name the variable where that is what gave the value."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        hint = super().get_error_hint(ctx)
        source = ctx.get_parameter_source(self.name or "") if ctx else None
        names = " or ".join(self.envvar) if isinstance(self.envvar, list) else self.envvar
        return f"{hint} (from {names})" if source is click.core.ParameterSource.ENVIRONMENT else hint


class OptionTable:
    """The *options* of a daemon whose variables begin with *prefix*, for `options` of a command and its arguments."""

    def __init__(self, prefix: str, options: Sequence[Option]) -> None:
        self._prefix = prefix
        self._options = {option.key: option for option in options}

    def __iter__(self) -> Iterator[Option]:
        return iter(self._options.values())

    def options(self, command: Callable[..., Any]) -> Callable[..., Any]:
        """Add the options to a click command, which gets an argument by each key; `--print-config` does not call it."""

        @functools.wraps(command)
        def wrapper(*, print_config: bool, **arguments: Any) -> None:
            if print_config:
                exits_on_startup_error(self.check_variables)(os.environ)
                click.echo(self.config_text(arguments), nl=False)
            else:
                command(**arguments)

        wrapped: Callable[..., Any] = wrapper
        for option in reversed(self._options.values()):
            wrapped = self._click_option(option)(wrapped)
        show = click.option("--print-config", is_flag=True, help="Print the configuration in effect as YAML, and exit.")
        file = click.option(
            *("-c", "--config-file"),
            type=FILE,
            is_eager=True,
            expose_value=False,
            callback=self._read_file,
            help="A YAML file with options by their keys; variables and the command line come before it.",
        )
        return file(show(wrapped))

    def config_text(self, arguments: Mapping[str, Any]) -> str:
        """Return what is in effect as the text of a configuration file; what is ignored is left out."""
        values = {option.key: arguments[option.key] for option in self if not option.ignored}
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}
        return yaml.safe_dump(plain, sort_keys=False, default_flow_style=False)

    def ignored(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the flags of the options that somebody gave though they do nothing, and what they do so without."""
        given = {option.key for option in self if arguments[option.key] != option.least}
        return [
            f"{option.flag} (without {' or '.join(self._options[key].flag for key in option.needs)})"
            if option.needs
            else option.flag
            for option in self
            if option.key in given and (option.ignored or (option.needs and given.isdisjoint(option.needs)))
        ]

    def documentation(self, *, ignored: bool) -> str:
        """Return the options that are *ignored*, or those that are not, as a table of Markdown."""
        head = "| option | key | why |\n|---|---|---|" if ignored else "| option | key | default | |\n|---|---|---|---|"
        return "\n".join((head, *(_row(option) for option in self if option.ignored is ignored)))

    def check_variables(self, names: Iterable[str]) -> None:
        """Look for variables whose names are nearly an option's.

        Raises:
            StartupError: there is one; the message says which option may have been meant.

        """
        known = [variable for option in self for variable in option.variables(self._prefix)]
        check_variables(names, known, self._prefix)

    def _keys_by_flag(self) -> dict[str, str]:
        """Return the keys by what the options are called on the command line, as one would write that in a file."""
        flags = ((flag.lstrip("-"), option.key) for option in self for flag in option.flags)
        return {name: key for flag, key in flags for name in (flag, flag.replace("-", "_"))}

    def _click_option(self, option: Option) -> Callable[..., Any]:
        remarks = {"env var": option.variable, "default": option.default_text}
        remark = "; ".join(f"{name}: {text}" for name, text in remarks.items() if text)
        settings: dict[str, Any] = {
            "help": f"{option.help}  [{remark}]" if remark else option.help,
            "envvar": option.variables(self._prefix),
            "hidden": option.ignored,
            "cls": _ClickOption,
        }
        if option.type is None:
            return click.option(option.key, *option.flags, is_flag=True, **settings)
        return click.option(
            *(option.key, *option.flags), type=option.type, default=option.default, metavar=option.metavar, **settings
        )

    def _read_file(self, context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
        if path is None:
            return
        parameters = {parameter.name: parameter for parameter in context.command.params}
        try:
            content = read_config_file(path, self._options.keys(), self._keys_by_flag())
            told = {key: value for key, value in content.items() if value is not None}
            for key, value in told.items():
                _check_value(f"{path}: {key}", self._options[key], parameters[key], value, context)
        except StartupError as error:
            click.echo(f"error: {error}", err=True)
            context.exit(1)
        # As text, as it was checked: YAML has numbers and dates where an option has a path.
        context.default_map = {key: value if isinstance(value, bool) else str(value) for key, value in told.items()}


def _check_value(where: str, option: Option, parameter: click.Parameter, value: Any, context: click.Context) -> None:
    """Refuse a value of the file that the option cannot have.

    Raises:
        StartupError: it is one.

    """
    if (option.type is None) != isinstance(value, bool):
        raise StartupError(f"{where} must be {'true or false' if option.type is None else 'a value'}, not {value!r}")
    if isinstance(value, dict | list):
        raise StartupError(f"{where} must be one value, not a {type(value).__name__}")
    try:
        parameter.type.convert(str(value), parameter, context)  # so that half a port is none
    except click.UsageError as error:
        raise StartupError(f"{where}: {error.message}") from error


def _row(option: Option) -> str:
    names = ", ".join(f"`{flag}`" for flag in option.flags)
    if option.ignored:
        return f"| {names} | `{option.key}` | {option.help} |"
    default = option.default_text or (
        "off" if option.type is None else "" if option.default is None else option.default
    )
    variable = f" Also `{option.variable}`." if option.variable else ""
    return f"| {names} | `{option.key}` | {default} | {option.help}{variable} |"
