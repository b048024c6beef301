"""Microsoft Azure: network interfaces of machines and scale sets, load balancers, private endpoints."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.core.rest import HttpRequest
from azure.identity import DefaultAzureCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from ebpf_net.v1 import intake_pb2

from cloud_collector.provider import Cause, Found, ProviderError, Scope, Scopes
from intake.addresses import packed_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cloud_collector.options import Settings

NAME = "azure"
_SUBSCRIPTIONS = "/subscriptions?api-version=2022-12-01"
_FORBIDDEN, _TOO_MANY, _FAULT = 403, 429, 500


class Options(NamedTuple):
    """What of Azure is read.

    Attributes:
        subscriptions: those; none: all that the credentials see.
        endpoint: of the resource manager.
        timeout_s: for a connection, and for an answer.

    """

    subscriptions: tuple[str, ...]
    endpoint: str
    timeout_s: float


class _Place(NamedTuple):
    """What is known of a machine by its id."""

    name: str
    zone: str


def provide(settings: Settings) -> Azure:
    """Return Azure as the operator wants it read."""
    return Azure(Options(settings.azure_subscriptions, settings.azure_endpoint, settings.timeout_s))


class Azure:
    """The interfaces of subscriptions; credentials are found as all programs with Azure's libraries find them."""

    name = NAME

    def __init__(self, options: Options) -> None:
        self._options = options
        self._credential = DefaultAzureCredential()
        self._client_options: dict[str, Any] = {
            "base_url": options.endpoint,
            "credential_scopes": [f"{options.endpoint}/.default"],
            "connection_timeout": options.timeout_s,
            "read_timeout": options.timeout_s,
        }

    def scopes(self) -> Scopes:
        """Return the subscriptions."""
        subscriptions = list(self._options.subscriptions)
        if not subscriptions:
            with (
                _asking("Microsoft.Resources/subscriptions/read", "to list the subscriptions"),
                self._network("") as client,
            ):
                url: str | None = f"{self._options.endpoint}{_SUBSCRIPTIONS}"
                while url:
                    answer = client.send_request(HttpRequest("GET", url))
                    answer.raise_for_status()
                    subscriptions += [each["subscriptionId"] for each in answer.json()["value"]]
                    url = answer.json().get("nextLink")
        if not subscriptions:
            raise ProviderError(
                Cause.PERMISSION, "the credentials see no subscription of Azure: give --azure-subscription"
            )
        return Scopes([Scope(NAME, subscription, "") for subscription in subscriptions], {})

    def read(self, scope: Scope) -> Found:
        """Return the interfaces of a subscription, and the front ends of its load balancers."""
        where = f"in subscription {scope.account}"
        lacking: list[ProviderError] = []
        with self._network(scope.account) as network, self._compute(scope.account) as compute:
            with _asking("Microsoft.Network/networkInterfaces/read", where):
                interfaces = list(network.network_interfaces.list_all())

            def allowed(permission: str, found: Iterable[Any]) -> list[Any]:
                """Return what is found, or nothing and why."""
                try:
                    with _asking(permission, where):
                        return list(found)
                except ProviderError as error:
                    lacking.append(error)
                    return []

            machines = dict(allowed("Microsoft.Compute/virtualMachines/read", _machines(compute)))
            public = dict(allowed("Microsoft.Network/publicIPAddresses/read", _public_addresses(network)))
            interfaces += allowed(
                "Microsoft.Compute/virtualMachineScaleSets/networkInterfaces/read", _of_scale_sets(compute, network)
            )
            balancers = allowed("Microsoft.Network/loadBalancers/read", network.load_balancers.list_all())
        found = [_interface(scope.account, each, machines, public) for each in interfaces]
        found += [
            _front_end(scope.account, balancer, each, public)
            for balancer in balancers
            for each in balancer.frontend_ip_configurations or ()
        ]
        return Found(found, tuple(lacking))

    def _network(self, subscription: str) -> Any:
        return NetworkManagementClient(self._credential, subscription or "none", **self._client_options)

    def _compute(self, subscription: str) -> Any:
        return ComputeManagementClient(self._credential, subscription, **self._client_options)


def _machines(compute: Any) -> Iterator[tuple[str, _Place]]:
    for machine in compute.virtual_machines.list_all():
        yield machine.id.lower(), _Place(machine.name, _zone(machine.location, machine.zones))


def _of_scale_sets(compute: Any, network: Any) -> Iterator[Any]:
    """Yield the interfaces of scale sets, which the list of all interfaces leaves out."""
    for scale_set in compute.virtual_machine_scale_sets.list_all():
        group = _part(scale_set.id, "resourceGroups")
        yield from network.network_interfaces.list_virtual_machine_scale_set_network_interfaces(group, scale_set.name)


def _public_addresses(network: Any) -> Iterator[tuple[str, str]]:
    for address in network.public_ip_addresses.list_all():
        if address.ip_address:
            yield address.id.lower(), address.ip_address


def _interface(
    subscription: str, interface: Any, machines: dict[str, _Place], public: dict[str, str]
) -> intake_pb2.CloudInterface:
    configurations = interface.ip_configurations or ()
    machine = interface.virtual_machine.id if interface.virtual_machine else ""
    place = machines.get(machine.lower())
    role, kind = _served(interface, machine, place)
    network = next((_network_of(each.subnet.id) for each in configurations if each.subnet), "")
    return intake_pb2.CloudInterface(
        id=interface.id,
        provider=NAME,
        account=subscription,
        region=interface.location or "",
        zone=place.zone if place else interface.location or "",
        network=network,
        addresses=packed_all(each.private_ip_address for each in configurations),
        public_addresses=_pairs(configurations, public),
        instance_id=machine,
        role=role,
        type=kind,
        dns_names=[interface.dns_settings.internal_fqdn]
        if interface.dns_settings and interface.dns_settings.internal_fqdn
        else [],
    )


def _served(interface: Any, machine: str, place: _Place | None) -> tuple[str, str]:
    """Return whom an interface serves, and what kind of thing that is."""
    if scale_set := _part(machine, "virtualMachineScaleSets"):
        return scale_set, "instance"
    if machine:
        return place.name if place else machine.rpartition("/")[2], "instance"
    endpoint = getattr(interface, "private_endpoint", None)
    if endpoint:
        return endpoint.id.rpartition("/")[2], "endpoint"
    return interface.name, "interface"


def _front_end(subscription: str, balancer: Any, front_end: Any, public: dict[str, str]) -> intake_pb2.CloudInterface:
    address = front_end.private_ip_address or _public_of(front_end, public)
    zones = front_end.zones or ()
    return intake_pb2.CloudInterface(
        id=front_end.id,
        provider=NAME,
        account=subscription,
        region=balancer.location or "",
        zone=_zone(balancer.location, zones if len(zones) == 1 else ()),
        network=_network_of(front_end.subnet.id) if front_end.subnet else "",
        addresses=packed_all([address]),
        manager="microsoft",
        role=balancer.name,
        type="load_balancer",
    )


def _pairs(configurations: Any, public: dict[str, str]) -> Iterator[intake_pb2.PublicAddress]:
    for each in configurations:
        pair = packed_all([_public_of(each, public), each.private_ip_address])
        if len(pair) == 2:  # noqa: PLR2004
            yield intake_pb2.PublicAddress(public=pair[0], private=pair[1])


def _public_of(configuration: Any, public: dict[str, str]) -> str:
    address = configuration.public_ip_address
    return public.get(address.id.lower(), "") if address and address.id else ""


def _zone(location: str | None, zones: Any) -> str:
    """Return LOCATION-N where a thing is in one zone, else LOCATION."""
    return f"{location or ''}-{zones[0]}" if zones else location or ""


def _network_of(subnet: str) -> str:
    """Return the id of the virtual network of a subnet's id."""
    return subnet.partition("/subnets/")[0]


def _part(resource: str, kind: str) -> str:
    """Return what follows *kind* in the id of a resource, whatever its case."""
    parts = resource.split("/")
    return next((name for key, name in itertools.pairwise(parts) if key.lower() == kind.lower()), "")


@contextlib.contextmanager
def _asking(permission: str, where: str) -> Iterator[None]:
    """Turn the errors of Azure's libraries into one that says what to do."""
    try:
        yield
    except ClientAuthenticationError as error:
        raise ProviderError(
            Cause.CREDENTIALS,
            f"there are no usable credentials for Azure: {_first_line(error)}: give AZURE_TENANT_ID, AZURE_CLIENT_ID "
            "and AZURE_CLIENT_SECRET, or run it with a managed identity",
        ) from error
    except HttpResponseError as error:
        raise _refusal(error, permission, where) from error
    except (ServiceRequestError, ServiceResponseError) as error:
        raise ProviderError(Cause.NETWORK, f"Azure cannot be reached {where}: {_first_line(error)}") from error
    except AzureError as error:
        raise ProviderError(Cause.OTHER, f"Azure {where}: {_first_line(error)}") from error


def _refusal(error: HttpResponseError, permission: str, where: str) -> ProviderError:
    if error.status_code == _FORBIDDEN:
        return ProviderError(Cause.PERMISSION, f"permission {permission} is missing {where}: {_first_line(error)}")
    if error.status_code == _TOO_MANY:
        return ProviderError(Cause.THROTTLED, f"Azure throttles {permission} {where}: poll less often")
    if (error.status_code or 0) >= _FAULT:
        return ProviderError(Cause.FAULT, f"Azure cannot answer {permission} {where}: {_first_line(error)}")
    return ProviderError(Cause.OTHER, f"{permission} failed {where}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
