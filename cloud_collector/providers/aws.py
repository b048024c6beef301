"""Amazon Web Services: network interfaces, named by the instance, load balancer, database, … that they serve."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.session import get_session
from ebpf_net.v1 import intake_pb2

from cloud_collector.provider import Cause, Found, ProviderError, Scope, Scopes
from intake.addresses import packed, packed_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cloud_collector.options import Settings

NAME = "aws"
# Where regions are asked for; any knows them all.
_HOME_REGION = "us-east-1"
_MOST_ATTEMPTS = 8
_PAGE = 1000
_ROLE_SESSION = "ebpf-net-cloud-collector"
_CREDENTIALS = {
    *("AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "ExpiredToken", "ExpiredTokenException"),
    *("SignatureDoesNotMatch", "InvalidAccessKeyId", "RequestExpired"),
}
_PERMISSION = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
_THROTTLED = {"RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequestsException"}
_FAULT = 500
_MANAGERS = "amazon-"
# What managed interfaces say of whom they serve; the first group is the name.
_DESCRIPTIONS = (
    (re.compile(r"ELB (?:app|net|gwy)/([^/]+)/"), "load_balancer"),
    (re.compile(r"ELB (.+)"), "load_balancer"),
    (re.compile(r"Interface for NAT Gateway (\S+)"), "nat_gateway"),
    (re.compile(r"VPC Endpoint Interface (\S+)"), "endpoint"),
    (re.compile(r"AWS Lambda VPC ENI-(.+?)(?:-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})?$"), "function"),
    (re.compile(r"EFS mount target for (\S+)"), "file_system"),
    (re.compile(r"Network Interface for Transit Gateway Attachment (\S+)"), "transit_gateway"),
    (re.compile(r"ElastiCache (\S+)"), "cache"),
    (re.compile(r"Amazon EKS (\S+)"), "kubernetes"),
    (re.compile(r"(RDSNetworkInterface)"), "database"),
)


class Options(NamedTuple):
    """What of AWS is read.

    Attributes:
        regions: those; none: all that the account has enabled.
        roles: ARNs of roles, of other accounts usually, that are assumed and read as well.
        external_id: that the roles ask for; empty: none.
        own_account: whether the account of the credentials themselves is read.
        timeout_s: for a connection, and for an answer.

    """

    regions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    external_id: str = ""
    own_account: bool = True
    timeout_s: float = 10.0


def provide(settings: Settings) -> Aws:
    """Return AWS as the operator wants it read."""
    return Aws(
        Options(
            settings.aws_regions,
            settings.aws_roles,
            settings.aws_external_id,
            settings.aws_own_account,
            settings.timeout_s,
        )
    )


class Aws:
    """The interfaces of accounts by region; credentials are found as all programs with boto3 find them."""

    name = NAME

    def __init__(self, options: Options) -> None:
        self._options = options
        self._config = Config(
            retries={"mode": "adaptive", "total_max_attempts": _MOST_ATTEMPTS},
            connect_timeout=options.timeout_s,
            read_timeout=options.timeout_s,
        )
        self._sessions: dict[str, boto3.Session] = {}

    def scopes(self) -> Scopes:
        """Return each account's regions."""
        scopes = Scopes([], {})
        for account in (*([""] if self._options.own_account else []), *self._options.roles):
            try:
                scopes.found.extend(Scope(NAME, account, region) for region in self._regions(account))
            except ProviderError as error:
                scopes.unknown[account] = error
        return scopes

    def read(self, scope: Scope) -> Found:
        """Return the interfaces of an account in a region."""
        where = _where(scope)
        ec2 = self._client("ec2", scope)
        found = _pages(ec2, "describe_network_interfaces", "NetworkInterfaces", "ec2:DescribeNetworkInterfaces", where)
        interfaces = [_interface(each, scope.region) for each in found]
        lacking = []
        for complete, permission in (
            (self._name_instances, "ec2:DescribeInstances"),
            (self._name_databases, "rds:DescribeDBInstances"),
        ):
            try:
                complete(scope, interfaces, permission, where)
            except ProviderError as error:
                lacking.append(error)
        return Found(interfaces, tuple(lacking))

    def _regions(self, account: str) -> list[str]:
        if self._options.regions:
            return list(self._options.regions)
        scope = Scope(NAME, account, boto3.Session().region_name or _HOME_REGION)
        where = "to list the regions" + (f" as {account}" if account else "")
        with _asking("ec2:DescribeRegions", where):
            answer = self._client("ec2", scope).describe_regions()
        return sorted(region["RegionName"] for region in answer["Regions"])

    def _client(self, service: str, scope: Scope) -> Any:
        with _asking("sts:AssumeRole", _where(scope)):
            session = self._sessions.get(scope.account)
            if session is None:
                session = self._sessions[scope.account] = self._session(scope.account)
            return session.client(service, region_name=scope.region, config=self._config)

    def _session(self, role: str) -> boto3.Session:
        own = boto3.Session()
        return _assumed(own, role, self._options.external_id, self._config) if role else own

    def _name_instances(
        self, scope: Scope, interfaces: list[intake_pb2.CloudInterface], permission: str, where: str
    ) -> None:
        """Give interfaces of the customer's instances the instance's name."""
        if not any(each.instance_id and not each.manager for each in interfaces):
            return
        client = self._client("ec2", scope)
        reservations = _pages(client, "describe_instances", "Reservations", permission, where)
        names = {
            instance["InstanceId"]: _name_tag(instance.get("Tags", ()))
            for reservation in reservations
            for instance in reservation["Instances"]
        }
        for interface in interfaces:
            if name := names.get(interface.instance_id):
                interface.role = name

    def _name_databases(
        self, scope: Scope, interfaces: list[intake_pb2.CloudInterface], permission: str, where: str
    ) -> None:
        """Give the interfaces of RDS the name of their database where that is the only one in the network and zone."""
        theirs = [each for each in interfaces if each.type == "database"]
        if not theirs:
            return
        client = self._client("rds", scope)
        by_place: dict[tuple[str, str], list[str]] = {}
        for database in _pages(client, "describe_db_instances", "DBInstances", permission, where):
            place = (database.get("DBSubnetGroup", {}).get("VpcId", ""), database.get("AvailabilityZone", ""))
            by_place.setdefault(place, []).append(database["DBInstanceIdentifier"])
        for interface in theirs:
            names = by_place.get((interface.network, interface.zone), [])
            if len(names) == 1:
                interface.role = names[0]


def _interface(described: Mapping[str, Any], region: str) -> intake_pb2.CloudInterface:
    """Return what DescribeNetworkInterfaces tells of one."""
    attachment, association = described.get("Attachment", {}), described.get("Association", {})
    private = described.get("PrivateIpAddresses", ())
    description = described.get("Description", "")
    manager = _manager(described, attachment, association)
    interface = intake_pb2.CloudInterface(
        id=described["NetworkInterfaceId"],
        provider=NAME,
        account=described.get("OwnerId", ""),
        region=region,
        zone=described.get("AvailabilityZone", ""),
        network=described.get("VpcId", ""),
        addresses=packed_all(
            [
                *(each.get("PrivateIpAddress") for each in private),
                *(each.get("Ipv6Address") for each in described.get("Ipv6Addresses", ())),
                *_addresses_of_prefixes(described),  # last: they may be more than the reducer takes
            ]
        ),
        public_addresses=_public_addresses(described, private),
        instance_id=attachment.get("InstanceId", ""),
        manager=manager,
        description=description,
        dns_names=_dns_names(described, private),
    )
    interface.role, interface.type = _served(described, description, manager)
    return interface


def _addresses_of_prefixes(described: Mapping[str, Any]) -> Iterator[str]:
    """Yield the addresses of the IPv4 prefixes, of 16 each, that an interface was given: for pods of EKS, mostly.

    Prefixes of IPv6 have too many.
    """
    for each in described.get("Ipv4Prefixes", ()):
        yield from map(str, ipaddress.IPv4Network(each["Ipv4Prefix"]))


def _served(described: Mapping[str, Any], description: str, manager: str) -> tuple[str, str]:
    """Return whom an interface serves, and what kind of thing that is."""
    told: str = described.get("InterfaceType", "interface")
    name = _name_tag(described.get("TagSet", ()))
    if not manager and (instance := described.get("Attachment", {}).get("InstanceId")):
        return name or instance, "instance"
    for pattern, kind in _DESCRIPTIONS:
        if match := pattern.match(description):
            return match[1], kind
    return name or description.removeprefix("Interface for "), told


def _manager(*parts: Mapping[str, Any]) -> str:
    """Return the service of Amazon that manages an interface; empty where it is the customer's."""
    owners = (part.get(name, "") for part in parts for name in ("RequesterId", "InstanceOwnerId", "IpOwnerId"))
    return next((owner for owner in owners if owner.startswith(_MANAGERS)), "")


def _public_addresses(
    described: Mapping[str, Any], private: Iterable[Mapping[str, Any]]
) -> Iterator[intake_pb2.PublicAddress]:
    """Yield the associations of all addresses; that of the first one may be told of the interface alone."""
    pairs: dict[str, str] = {}
    for each in (*private, described):
        if public := each.get("Association", {}).get("PublicIp"):
            pairs.setdefault(each.get("PrivateIpAddress", ""), public)
    for address, public in pairs.items():
        if address:
            yield intake_pb2.PublicAddress(public=packed(public), private=packed(address))


def _dns_names(described: Mapping[str, Any], private: Iterable[Mapping[str, Any]]) -> list[str]:
    names = [described.get("PrivateDnsName")]
    for each in private:
        names += [each.get("PrivateDnsName"), each.get("Association", {}).get("PublicDnsName")]
    return list(dict.fromkeys(filter(None, names)))


def _name_tag(tags: Iterable[Mapping[str, str]]) -> str:
    return next((tag["Value"] for tag in tags if tag["Key"] == "Name"), "")


def _pages(client: Any, operation: str, key: str, permission: str, where: str) -> list[Any]:
    """Return what all pages of an answer list under *key*."""
    page = 100 if operation == "describe_db_instances" else _PAGE
    with _asking(permission, where):
        pages = client.get_paginator(operation).paginate(PaginationConfig={"PageSize": page})
        return [each for answer in pages for each in answer[key]]


def _assumed(own: boto3.Session, role: str, external_id: str, config: Config) -> boto3.Session:
    """Return a session of a role, whose credentials renew themselves."""
    credentials = own.get_credentials()
    if credentials is None:
        raise NoCredentialsError
    arguments = {"RoleSessionName": _ROLE_SESSION} | ({"ExternalId": external_id} if external_id else {})
    session = get_session()
    region = own.region_name or _HOME_REGION
    fetcher = AssumeRoleCredentialFetcher(
        lambda service, **options: get_session().create_client(
            service, **(options | {"region_name": region, "config": config})
        ),
        credentials,
        role,
        extra_args=arguments,
    )
    session._credentials = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")  # noqa: SLF001
    return boto3.Session(botocore_session=session)


def _where(scope: Scope) -> str:
    return f"in {scope.region}" + (f" as {scope.account}" if scope.account else "")


@contextlib.contextmanager
def _asking(permission: str, where: str) -> Iterator[None]:
    """Turn the errors of boto3 into one that says what to do."""
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise _error(error, permission, where) from error


def _error(error: BotoCoreError | ClientError, permission: str, where: str) -> ProviderError:
    if isinstance(error, ClientError):
        # A role is assumed when its credentials are needed first, whatever for.
        assuming = error.operation_name == "AssumeRole"
        return _refusal(error.response, "sts:AssumeRole" if assuming else permission, where)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ProviderError(
            Cause.CREDENTIALS,
            "there are no credentials for AWS: give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run it with a role",
        )
    if isinstance(error, (HTTPClientError, ConnectionError)):
        return ProviderError(Cause.NETWORK, f"AWS cannot be reached {where}: {error}")
    return ProviderError(Cause.OTHER, f"AWS {where}: {' '.join(str(error).split())}")


def _refusal(response: Mapping[str, Any], permission: str, where: str) -> ProviderError:
    error = response.get("Error", {})  # what stands between may answer with a page of its own
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = error.get("Code") or f"HTTP {status or 'without a status'}"
    message = error.get("Message", "")
    if code in _PERMISSION:
        return ProviderError(Cause.PERMISSION, f"permission {permission} is missing {where}: {message}")
    if code in _CREDENTIALS:
        return ProviderError(Cause.CREDENTIALS, f"AWS does not take the credentials {where} ({code}): {message}")
    if code in _THROTTLED:
        return ProviderError(Cause.THROTTLED, f"AWS throttles {permission} {where} ({code}): poll less often")
    if status >= _FAULT:
        return ProviderError(Cause.FAULT, f"AWS cannot answer {permission} {where} ({code}): {message}")
    return ProviderError(Cause.OTHER, f"{permission} failed {where} ({code}): {message}")
