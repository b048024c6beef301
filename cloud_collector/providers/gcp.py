"""Google Cloud: interfaces of instances, and the forwarding rules of load balancers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import google.auth
from ebpf_net.v1 import intake_pb2
from google.api_core import exceptions
from google.api_core.retry import Retry, if_exception_type
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import compute_v1
from requests.exceptions import RequestException

from cloud_collector.provider import Cause, Found, ProviderError, Scope, Scopes
from intake.addresses import packed, packed_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cloud_collector.options import Settings

NAME = "gcp"
_PAGE = 500
_READ_ONLY = "https://www.googleapis.com/auth/compute.readonly"
_CAUSES = (
    (exceptions.Unauthorized, Cause.CREDENTIALS),
    (exceptions.Forbidden, Cause.PERMISSION),
    (exceptions.TooManyRequests, Cause.THROTTLED),
    (exceptions.RetryError, Cause.NETWORK),
    (exceptions.ServerError, Cause.FAULT),
)
# Of a zone or region that did not answer: what there is of it is missing in the list.
_UNREACHABLE = "UNREACHABLE"


class Options(NamedTuple):
    """What of Google Cloud is read.

    Attributes:
        projects: those; none: that of the credentials.
        endpoint: of the API; empty: the public one.
        timeout_s: for an answer.

    """

    projects: tuple[str, ...] = ()
    endpoint: str = ""
    timeout_s: float = 10.0


def provide(settings: Settings) -> Gcp:
    """Return Google Cloud as the operator wants it read."""
    return Gcp(Options(settings.gcp_projects, settings.gcp_endpoint, settings.timeout_s))


class Gcp:
    """The interfaces of projects; credentials are found as all programs with Google's libraries find them."""

    name = NAME

    def __init__(self, options: Options) -> None:
        self._options = options
        self._found: tuple[Any, str | None] | None = None

    def scopes(self) -> Scopes:
        """Return the projects."""
        with _asking("", ""):
            _, own = self._credentials()
        projects = self._options.projects or ((own,) if own else ())
        if not projects:
            raise ProviderError(
                Cause.CREDENTIALS, "the credentials name no project of Google Cloud: give --gcp-project"
            )
        return Scopes([Scope(NAME, project, "") for project in projects], {})

    def read(self, scope: Scope) -> Found:
        """Return the interfaces of a project's instances, and its forwarding rules."""
        interfaces = []
        instances = self._all(compute_v1.InstancesClient, "instances", scope, "compute.instances.list")
        for instance in instances:
            interfaces += [_instance_interface(scope.account, instance, each) for each in instance.network_interfaces]
        lacking = []
        for client, permission in (
            (compute_v1.ForwardingRulesClient, "compute.forwardingRules.list"),
            (compute_v1.GlobalForwardingRulesClient, "compute.globalForwardingRules.list"),
        ):
            try:
                rules = self._all(client, "forwarding_rules", scope, permission)
                interfaces += [_rule(scope.account, rule) for rule in rules]
            except ProviderError as error:
                lacking.append(error)
        return Found(interfaces, tuple(lacking))

    def _credentials(self) -> tuple[Any, str | None]:
        if self._found is None:
            self._found = google.auth.default(scopes=[_READ_ONLY])
        return self._found

    def _all(self, kind: Any, key: str, scope: Scope, permission: str) -> list[Any]:
        """Return what all pages of all zones or regions of a project list under *key*."""
        with _asking(permission, f"in project {scope.account}"):
            endpoint = {"api_endpoint": self._options.endpoint} if self._options.endpoint else {}
            client = kind(credentials=self._credentials()[0], client_options=endpoint)
            timeout_s = self._options.timeout_s
            # The library's own retries go on for ten minutes, for which nothing else would be read.
            retry = Retry(if_exception_type(exceptions.ServiceUnavailable), timeout=timeout_s)
            asked: dict[str, Any] = {"request": {"project": scope.account, "max_results": _PAGE}, "timeout": timeout_s}
            if not hasattr(client, "aggregated_list"):
                return list(client.list(**asked, retry=retry))
            parts = list(client.aggregated_list(**asked, retry=retry))
        for place, part in parts:
            if part.warning.code == _UNREACHABLE:
                text = f"Google Cloud does not reach {place} now for {permission} in project {scope.account}"
                raise ProviderError(Cause.FAULT, text)
        return [each for _, part in parts for each in getattr(part, key)]


def _instance_interface(project: str, instance: Any, interface: Any) -> intake_pb2.CloudInterface:
    zone = _last(instance.zone)
    external = [config.nat_i_p for config in interface.access_configs if config.nat_i_p]
    own = packed_all([interface.network_i_p])
    aliases = [each.ip_cidr_range for each in interface.alias_ip_ranges]
    return intake_pb2.CloudInterface(
        id=f"{project}/{zone}/{instance.name}/{interface.name}",
        provider=NAME,
        account=project,
        region=zone.rpartition("-")[0],
        zone=zone,
        network=_path(interface.network),
        addresses=packed_all(
            [
                interface.network_i_p,
                interface.ipv6_address,
                *(config.external_ipv6 for config in interface.ipv6_access_configs),
                *(_without_prefix_length(each) for each in aliases if each.endswith("/32")),
            ]
        ),
        public_addresses=[intake_pb2.PublicAddress(public=packed(each), private=own[0]) for each in external if own],
        instance_id=str(instance.id),
        role=_role(instance),
        type="instance",
        description=instance.description,
        dns_names=[instance.hostname] if instance.hostname else [],
    )


def _rule(project: str, rule: Any) -> intake_pb2.CloudInterface:
    region = _last(rule.region) or "global"
    return intake_pb2.CloudInterface(
        id=f"{project}/{region}/forwardingRules/{rule.name}",
        provider=NAME,
        account=project,
        region=region,
        zone=region,
        network=_path(rule.network),
        addresses=packed_all([_without_prefix_length(rule.I_p_address)]),
        manager="google",
        role=rule.name,
        type="load_balancer",
        description=rule.description,
    )


def _without_prefix_length(address: str) -> str:
    return address.partition("/")[0]


def _role(instance: Any) -> str:
    """Return the name of an instance; of one that a group made, the group's, so that all of them are one workload."""
    created_by = next((item.value for item in instance.metadata.items if item.key == "created-by"), "")
    return _last(created_by) if "/instanceGroupManagers/" in created_by else instance.name


def _last(url: str) -> str:
    return url.rpartition("/")[2]


def _path(url: str) -> str:
    """Return PROJECT/…/NAME of a resource's URL: it is the same by whatever endpoint it is read."""
    return url.rpartition("/projects/")[2]


@contextlib.contextmanager
def _asking(permission: str, where: str) -> Iterator[None]:
    """Turn the errors of Google's libraries into one that says what to do."""
    try:
        yield
    except (TransportError, RequestException) as error:
        text = f"Google Cloud cannot be reached {where}".rstrip()
        raise ProviderError(Cause.NETWORK, f"{text}: {_first_line(error)}") from error
    except GoogleAuthError as error:
        raise ProviderError(
            Cause.CREDENTIALS,
            f"there are no usable credentials for Google Cloud: {_first_line(error)}: "
            "give GOOGLE_APPLICATION_CREDENTIALS, or run it with a service account",
        ) from error
    except exceptions.GoogleAPIError as error:
        raise _refusal(error, permission, where, _CAUSES) from error


def _refusal(
    error: exceptions.GoogleAPIError, permission: str, where: str, causes: Iterable[tuple[type, Cause]]
) -> ProviderError:
    cause = next((cause for kind, cause in causes if isinstance(error, kind)), Cause.OTHER)
    said = _first_line(error)
    if cause is Cause.PERMISSION:
        return ProviderError(cause, f"permission {permission} is missing {where}: {said}")
    if cause is Cause.CREDENTIALS:
        return ProviderError(cause, f"Google Cloud does not take the credentials {where}: {said}")
    if cause is Cause.THROTTLED:
        return ProviderError(cause, f"Google Cloud throttles {permission} {where}: poll less often: {said}")
    if cause is Cause.FAULT:
        return ProviderError(cause, f"Google Cloud cannot answer {permission} {where}: {said}")
    if cause is Cause.NETWORK:
        return ProviderError(cause, f"Google Cloud cannot be reached {where}: {said}")
    return ProviderError(cause, f"{permission} failed {where}: {said}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
