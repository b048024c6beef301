"""Where the API server is, and what is shown to it: of the pod that this runs in, or of a kubeconfig."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, load_incluster_config
from kubernetes.aio.config.kube_config import ConfigNode, KubeConfigLoader, KubeConfigMerger

from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEFAULT_KUBECONFIG = Path("~/.kube/config")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Access(NamedTuple):
    """How to get at a cluster.

    Attributes:
        kubeconfig: a file, or several with colons between; empty: the service account of the pod that this runs in.
        context: of the file; empty: its current one.

    """

    kubeconfig: str = ""
    context: str = ""

    def __str__(self) -> str:
        """Name it for people."""
        return f"kubeconfig {self.kubeconfig}" if self.kubeconfig else "the pod's service account"


def find_access(kubeconfig: str, context: str, environ: Mapping[str, str]) -> Access:
    """Return where to look: in *kubeconfig* if given, in the pod, in the user's home.

    Raises:
        StartupError: there is none of them.

    """
    if kubeconfig:
        return Access(kubeconfig, context)
    if environ.get(SERVICE_HOST_ENV_NAME):
        return Access()
    default = DEFAULT_KUBECONFIG.expanduser()
    if default.exists():
        return Access(str(default), context)
    raise StartupError(
        f"no credentials for a cluster: this is no pod with a service account, and there is no {default}; "
        "give --kubeconfig or KUBECONFIG"
    )


async def load(access: Access) -> Configuration:
    """Read the credentials, anew each time: tokens in files are replaced before they expire.

    Raises:
        StartupError: they cannot be read, or are incomplete.

    """
    configuration = Configuration()
    try:
        if not access.kubeconfig:
            load_incluster_config(configuration)
            return _with_proxy(configuration, os.environ)
        _check_files(access.kubeconfig)
        _check_context(access)
        with _errors_logged() as errors:
            merged = _merged(access.kubeconfig)
            loader = KubeConfigLoader(merged, active_context=access.context or None, config_base_path=None)
            await loader.load_and_set(configuration)
    except ConfigException as error:
        raise StartupError(f"{access} cannot be used: {' '.join(str(error).split())}") from error
    except (TypeError, AttributeError, KeyError) as error:
        raise StartupError(f"{access} is none: something is missing in it, or is not as it should be") from error
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise StartupError(f"{access} cannot be read: {' '.join(str(error).split())}") from error
    if errors and not configuration.api_key and not configuration.cert_file:
        raise StartupError(f"{access} cannot be used: no credentials for its user: {'; '.join(errors)}")
    _check_values(access, configuration)
    return _with_proxy(configuration, os.environ)


def _merged(kubeconfig: str) -> ConfigNode:
    """Read the files; the path of a command (`exec`) begins where its file is, as for client-go."""
    merged = KubeConfigMerger(kubeconfig).config
    for each in merged.value["users"]:
        command = (each.value.get("user") or {}).get("exec") or {}
        if os.sep in command.get("command", ""):
            command["command"] = str(Path(each.path).absolute().parent / command["command"])
    return merged


def _with_proxy(configuration: Configuration, environ: Mapping[str, str]) -> Configuration:
    """Have no proxy be used where NO_PROXY has the server's network, or its address with the port.

    Hosts and domains in it are dealt with by the client's library; clusters mostly name networks there, as Go's
    golang.org/x/net/http/httpproxy takes them.
    """
    server = urlsplit(configuration.host)
    for entry in re.split(r"[,\s]+", environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        with contextlib.suppress(ValueError):  # one of them is a name, or the port is none
            is_named = entry == server.netloc
            if is_named or ipaddress.ip_address(server.hostname or "") in ipaddress.ip_network(entry, strict=False):
                configuration.client_session_kwargs = {"trust_env": False}
    return configuration


def _check_values(access: Access, configuration: Configuration) -> None:
    """Raise a `StartupError` for what no request can be made with."""
    if not _is_url(configuration.host):
        raise StartupError(f"{access} has a server that is no URL, such as https://HOST:6443: {configuration.host}")
    if not configuration.api_key.get("BearerToken", "").strip().isprintable():
        raise StartupError(f"{access} cannot be used: its token has control characters")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("https", "http") and bool(parts.netloc) and parts.port != 0
    except ValueError:  # brackets that do not close, or no such port
        return False


def _check_files(kubeconfig: str) -> None:
    """Raise a `StartupError` where none of the files exists; as to kubectl, some may be missing."""
    paths = [path for path in kubeconfig.split(os.pathsep) if path]
    if not any(Path(path).expanduser().is_file() for path in paths):
        raise StartupError(f"kubeconfig {kubeconfig} does not exist: see to --kubeconfig or KUBECONFIG")


def _check_context(access: Access) -> None:
    """Raise a `StartupError` that names the contexts there are where the wanted one is none of them."""
    if access.context:
        # What lists them asks for the current one as well, which need not be any.
        names = [each["name"] for each in KubeConfigMerger(access.kubeconfig).config["contexts"]]
        if access.context not in names:
            has = f"it has {', '.join(names)}" if names else "it has none"
            raise StartupError(f"{access} has no context {access.context}: see to --context; {has}")


@contextlib.contextmanager
def _errors_logged() -> Iterator[list[str]]:
    """Give what the client's library logs as errors meanwhile: of commands that fail (`exec`) it says no more."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("kubernetes.aio.config.kube_config")
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def own_namespace() -> str:
    """Return the namespace of the pod that this runs in; `default` where it is none."""
    try:
        return NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "default"
