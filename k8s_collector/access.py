"""Where the API server is, and what is shown to it: of the pod that this runs in, or of a kubeconfig."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, load_incluster_config
from kubernetes.aio.config.kube_config import KubeConfigLoader

from daemon.errors import StartupError
from k8s_collector import kubeconfig as kubeconfigs
from k8s_collector.credential_command import user_by_command

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        if context:
            raise StartupError(f"--context {context} is of a kubeconfig, and in a pod none is read: give --kubeconfig")
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
            session: dict[str, Any] = {}
        else:
            session = await _load_kubeconfig(access, configuration)
    except ConfigException as error:
        raise StartupError(f"{access} cannot be used: {' '.join(str(error).split())}") from error
    except (TypeError, AttributeError, KeyError) as error:
        raise StartupError(f"{access} is none: something is missing in it, or is not as it should be") from error
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise StartupError(f"{access} cannot be read: {' '.join(str(error).split())}") from error
    _check_values(access, configuration)
    if _is_direct(configuration, os.environ):
        session["trust_env"] = False
    configuration.client_session_kwargs = session or None
    return configuration


async def _load_kubeconfig(access: Access, configuration: Configuration) -> dict[str, Any]:
    """Fill in what a kubeconfig says; return what the session is to have besides."""
    chosen = kubeconfigs.read(access.kubeconfig, access.context)
    if chosen.user.get("exec"):
        try:
            chosen = chosen._replace(user=await user_by_command(chosen))
        except StartupError as error:
            raise StartupError(f"{access} cannot be used: no credentials for its user: {error}") from error
    await KubeConfigLoader(chosen.alone()).load_and_set(configuration)
    headers = chosen.impersonation()
    return {"headers": headers} if headers else {}


def _is_direct(configuration: Configuration, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY has the server's network, or its address with the port.

    Hosts and domains in it are dealt with by the client's library; clusters mostly name networks there, as Go's
    golang.org/x/net/http/httpproxy takes them.
    """
    server = urlsplit(configuration.host)
    for entry in re.split(r"[,\s]+", environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        with contextlib.suppress(ValueError):  # one of them is a name, or the port is none
            is_named = entry == server.netloc
            if is_named or ipaddress.ip_address(server.hostname or "") in ipaddress.ip_network(entry, strict=False):
                return True
    return False


def _check_values(access: Access, configuration: Configuration) -> None:
    """Raise a `StartupError` for what no request can be made with."""
    if not _is_url(configuration.host):
        raise StartupError(f"{access} has a server that is no URL, such as https://HOST:6443: {configuration.host}")
    if configuration.proxy and not _is_url(configuration.proxy):  # it may hold a password
        raise StartupError(f"{access} has a proxy-url that is not of an HTTP proxy, such as http://HOST:3128")
    if not configuration.api_key.get("BearerToken", "").strip().isprintable():
        raise StartupError(f"{access} cannot be used: its token has control characters")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("https", "http") and bool(parts.netloc) and parts.port != 0
    except ValueError:  # brackets that do not close, or no such port
        return False


def own_namespace() -> str:
    """Return the namespace of the pod that this runs in; `default` where it is none."""
    try:
        return NAMESPACE_FILE.read_text().strip()
    except OSError:
        return "default"
