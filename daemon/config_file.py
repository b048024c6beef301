"""YAML configuration files: a file's keys are known, or an error with a suggestion."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import yaml

from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path


class _Loader(yaml.SafeLoader):
    """A safe one to which a key that is there twice is an error, as YAML's specification has it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Return the mapping of *node*."""
        keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_config_file(path: Path, known: Collection[str], meant: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return the file's mapping; *meant* are keys that are known by what else they may be called.

    Raises:
        StartupError: it cannot be read, is not YAML, not a mapping, or has a key that is not *known*.

    """
    try:
        text = path.read_text()
    except OSError as error:
        raise StartupError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"the configuration file {path} is no text: {error}") from error
    try:
        content = yaml.load(text, _Loader) or {}  # noqa: S506 - it is a safe one
    except yaml.YAMLError as error:
        raise StartupError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise StartupError(f"{path} must hold a mapping of keys to values, not a {type(content).__name__}")
    check_keys(content, known, str(path), meant)
    return content


def check_keys(mapping: dict[Any, Any], known: Collection[str], where: str, meant: Mapping[str, str] = {}) -> None:
    """Refuse keys of *mapping* that are not *known*; *meant* are those by what else they may be called.

    Raises:
        StartupError: one is not; the message suggests the nearest.

    """
    for key in mapping:
        if key not in known:
            near = [meant[key]] if key in meant else difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
            raise StartupError(f"{where}: unknown key {key!r}; {hint}")
