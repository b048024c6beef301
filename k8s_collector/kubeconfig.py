"""Kubeconfigs as client-go reads them: several files, one context of them, and paths that begin where a file is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import yaml

from daemon.errors import StartupError
from k8s_collector.fields import Object  # noqa: TC001 - a field's type

_LISTS = ("clusters", "contexts", "users")
_PATHS = {"cluster": ("certificate-authority",), "user": ("client-certificate", "client-key", "tokenFile")}
# Others were programs of clouds within kubectl, which has none of them since 1.26.
_AUTH_PROVIDERS = ("gcp", "oidc")

# What names of headers may have besides letters and digits (RFC 9110, 5.6.2) but %: the server takes %2f for a slash.
_OF_HEADERS = "!#$&'*+-.^_`|~"


class Chosen(NamedTuple):
    """What a context stands for.

    Attributes:
        cluster: where the server is.
        user: who asks it.

    """

    cluster: Object
    user: Object

    def alone(self) -> Object:
        """Return a kubeconfig with nothing else."""
        return {
            "current-context": "chosen",
            "contexts": [{"name": "chosen", "context": {"cluster": "chosen", "user": "chosen"}}],
            "clusters": [{"name": "chosen", "cluster": self.cluster}],
            "users": [{"name": "chosen", "user": self.user}],
        }

    def impersonation(self) -> list[tuple[str, str]]:
        """Return the headers by which the user acts as another one (`as` and what belongs to it).

        By https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation.
        """
        user = self.user
        extra = (user.get("as-user-extra") or {}).items()
        headers = [
            ("Impersonate-User", user.get("as")),
            ("Impersonate-Uid", user.get("as-uid")),
            *(("Impersonate-Group", group) for group in user.get("as-groups") or ()),
            *((f"Impersonate-Extra-{quote(key, _OF_HEADERS)}", value) for key, values in extra for value in values),
        ]
        return [(name, str(value)) for name, value in headers if value]


def read(paths: str, context: str = "") -> Chosen:
    """Return what a context of the files stands for; of two things with the same name the first counts.

    Args:
        paths: of the files, with colons between; some may be missing or empty, as to kubectl.
        context: a name; empty: the current one.

    Raises:
        StartupError: there is no file, or not all that the context names.
        OSError, ValueError, yaml.YAMLError: a file cannot be read.
        AttributeError, KeyError, TypeError: it is no kubeconfig.

    """
    files = [path for each in paths.split(os.pathsep) if each and (path := Path(each).expanduser()).exists()]
    if not files:
        raise StartupError(f"kubeconfig {paths} does not exist: see to --kubeconfig or KUBECONFIG")
    found: dict[str, dict[str, Object]] = {name: {} for name in _LISTS}
    current = ""
    for path in files:
        with path.open() as file:  # of a text, errors would show the lines
            content = yaml.safe_load(file) or {}
        current = current or content.get("current-context") or ""
        for name, having in found.items():
            key = name.removesuffix("s")
            for each in content.get(name) or ():
                having.setdefault(each["name"], _with_paths(key, dict(each[key] or {}), path.absolute().parent))
    chosen = _one(paths, "context", context or current, found["contexts"], "see to --context")
    named = f"see to its context {context or current}"
    cluster = _one(paths, "cluster", chosen["cluster"], found["clusters"], named)
    user = _one(paths, "user", chosen["user"], found["users"], named) if chosen.get("user") else {}
    provider = (user.get("auth-provider") or {}).get("name", _AUTH_PROVIDERS[0])
    if provider not in _AUTH_PROVIDERS:
        raise StartupError(
            f"kubeconfig {paths} has the auth-provider {provider}: clients have none any more, give an exec"
        )
    return Chosen(cluster, user)


def _one(paths: str, kind: str, name: str, having: dict[str, Object], advice: str) -> Object:
    if name not in having:
        wanted = f"no {kind} {name}" if name else f"no current {kind}"
        has = f"it has {', '.join(having)}" if having else "it has none"
        raise StartupError(f"kubeconfig {paths} has {wanted}: {advice}; {has}")
    return having[name]


def _with_paths(key: str, value: Object, directory: Path) -> Object:
    """Return a cluster or user whose relative paths begin in *directory*; a bare name of a command is none."""
    for name in _PATHS.get(key, ()):
        if value.get(name):
            value[name] = str(directory / value[name])
    command = value.get("exec") or {}
    if os.sep in command.get("command", ""):
        value["exec"] = command | {"command": str(directory / command["command"])}
    return value
