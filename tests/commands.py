"""The daemons' commands, asked what they would start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    import pytest


def asking(
    monkeypatch: pytest.MonkeyPatch, cli: ModuleType, daemon: str, environment: Mapping[str, str | None] = {}
) -> Callable[..., Any]:
    """Return what runs the command of *cli* with arguments and variables.

    It returns the settings that *daemon*, a coroutine function of the module, would be started with, else what was
    written. *environment* holds for all calls; a variable that is None is not set.
    """
    started: list[Any] = []

    async def start(settings: Any) -> None:
        started.append(settings)

    monkeypatch.setattr(cli, daemon, start)
    # It would end the tests, as if all had passed.
    monkeypatch.setattr(cli, "exit_at_once", lambda: None, raising=False)

    def run(*arguments: str, exit_code: int = 0, **variables: str) -> Any:
        result = CliRunner().invoke(cli.main, [*arguments, "--no-log-file"], env={**environment, **variables})
        assert result.exit_code == exit_code, result.output
        return started.pop() if started else result.output

    return run
