"""What a cloud says of the machine that it runs: zone, instance, account, role, public addresses.

The three metadata services are asked in parallel, by threads that nothing waits for; the first that answers as one of
them is believed. Forms: AWS EC2 user guide "Instance metadata", with and without a session token; Google Compute Engine
"VM metadata"; Azure "Instance Metadata Service", API version 2021-02-01.
"""

from __future__ import annotations

import ipaddress
import logging
import queue
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from ebpf_net.v1 import intake_pb2

from intake.addresses import mapped
from kernel_collector.machine.bounded_http import AnswerError, Service
from kernel_collector.machine.foreign_json import LONGEST_VALUE, json_of, object_of, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LOGGER = logging.getLogger(__name__)
SERVICE = Service(("169.254.169.254", 80), most_bytes=1 << 18)
TIMEOUT_S = 2.0
_NAME = re.compile(r"[A-Za-z0-9-]+")
MOST_INTERFACES = 16
MOST_ADDRESSES = 64

_AWS_TOKEN = "X-aws-ec2-metadata-token"  # noqa: S105 - the name of a header
_AWS_META = "/latest/meta-data"
_GOOGLE = {"Metadata-Flavor": "Google"}
_AZURE = "/metadata/instance?api-version=2021-02-01&format=json"


class CloudMetadata:
    """Asks once, from the start on.

    Args:
        service: where the metadata services would be.

    """

    def __init__(self, service: Service = SERVICE) -> None:
        self._found: queue.SimpleQueue[intake_pb2.Cloud] = queue.SimpleQueue()
        deadline = time.monotonic() + TIMEOUT_S
        for ask in (aws, google, azure):
            threading.Thread(target=self._ask, args=(ask, service, deadline), daemon=True).start()

    def take(self) -> intake_pb2.Cloud | None:
        """Return what was found, the first time after it was; else None."""
        return None if self._found.empty() else self._found.get()

    def _ask(self, ask: Callable[[Service, float], intake_pb2.Cloud], service: Service, deadline: float) -> None:
        try:
            self._found.put(ask(service, deadline))
        except (OSError, AnswerError) as error:
            _LOGGER.debug("%s: %s", ask.__name__, error)


def aws(service: Service, deadline: float) -> intake_pb2.Cloud:
    """Return what AWS says, by version 2 of its service, or by version 1 where the service gives no session token.

    Raises:
        OSError, AnswerError: it does not answer, or not as AWS does.

    """
    try:
        lifetime = {f"{_AWS_TOKEN}-ttl-seconds": "60"}
        answer = service.fetch("/latest/api/token", deadline, method="PUT", headers=lifetime)
        headers = {_AWS_TOKEN: _token(answer.body)}
    except AnswerError as error:
        if not error.status:
            raise
        headers = {}

    def lines(path: str) -> list[str]:
        try:
            return _lines(service.fetch(f"{_AWS_META}{path}", deadline, headers=headers).body)
        except (OSError, AnswerError):  # what there is none of is not found; what is late is left out
            return []

    document = service.fetch("/latest/dynamic/instance-identity/document", deadline, headers=headers).body
    identity = object_of(document)
    found = _cloud(
        provider="aws",
        zone=identity.get("availabilityZone"),
        instance_id=identity.get("instanceId"),
        instance_type=identity.get("instanceType"),
        account=identity.get("accountId"),
    )
    found.role = next(iter(lines("/iam/security-credentials/")), "")
    macs = "/network/interfaces/macs"
    for mac in lines(f"{macs}/")[:MOST_INTERFACES]:
        associations = f"{macs}/{mac.removesuffix('/')}/ipv4-associations/"
        for public in lines(associations)[:MOST_ADDRESSES]:
            _add_addresses(found, public, lines(f"{associations}{public}"))
    return found


def google(service: Service, deadline: float) -> intake_pb2.Cloud:
    """Return what Google Compute Engine says.

    Raises:
        OSError, AnswerError: it does not answer, or not as Google does.

    """

    def body(path: str) -> bytes:
        answer = service.fetch(f"/computeMetadata/v1/{path}", deadline, headers=_GOOGLE)
        if answer.headers.get("metadata-flavor") != _GOOGLE["Metadata-Flavor"]:
            raise AnswerError("the answer is not Google's")
        return answer.body

    def last(path: str) -> str:
        return body(path).decode(errors="replace").strip().rpartition("/")[2]  # of projects/NUMBER/zones/ZONE

    def part(read: Callable[[str], Any], path: str) -> Any:
        try:
            return read(path)
        except (OSError, AnswerError):  # what there is none of is not found; what is late is left out
            return None

    def tree(path: str) -> Any:
        return json_of(body(f"{path}/?recursive=true"))

    found = _cloud(
        provider="gcp",
        zone=last("instance/zone"),
        instance_id=last("instance/id"),
        instance_type=part(last, "instance/machine-type"),
        account=part(last, "project/project-id"),
        role=_at(part(tree, "instance/service-accounts"), "default", "email"),
    )
    for interface in _list(part(tree, "instance/network-interfaces"))[:MOST_INTERFACES]:
        for access in _list(_at(interface, "accessConfigs"))[:MOST_ADDRESSES]:
            _add_addresses(found, _at(access, "externalIp"), [_at(interface, "ip")])
    return found


def azure(service: Service, deadline: float) -> intake_pb2.Cloud:
    """Return what Azure says; a zone within a region is REGION-NUMBER, and a region without zones is its own.

    Raises:
        OSError, AnswerError: it does not answer, or not as Azure does.

    """
    document = object_of(service.fetch(_AZURE, deadline, headers={"Metadata": "true"}).body)
    compute = _at(document, "compute")
    region, number = text_of(_at(compute, "location")), text_of(_at(compute, "zone"))
    found = _cloud(
        provider="azure",
        zone=f"{region}-{number}" if number else region,
        instance_id=_at(compute, "vmId"),
        instance_type=_at(compute, "vmSize"),
        account=_at(compute, "subscriptionId"),
    )
    for interface in _list(_at(document, "network", "interface"))[:MOST_INTERFACES]:
        for address in _list(_at(interface, "ipv4", "ipAddress"))[:MOST_ADDRESSES]:
            _add_addresses(found, _at(address, "publicIpAddress"), [_at(address, "privateIpAddress")])
    return found


def _cloud(**fields: object) -> intake_pb2.Cloud:
    found = intake_pb2.Cloud()
    for name, value in fields.items():
        setattr(found, name, text_of(value))
    if not (_NAME.fullmatch(found.zone) and _NAME.fullmatch(found.instance_id)):
        raise AnswerError(f"no zone and instance of {found.provider}")
    return found


def _add_addresses(cloud: intake_pb2.Cloud, public: object, private: Iterable[object]) -> None:
    """Add the private addresses behind a public one, where these are addresses."""
    for address in private:
        if len(cloud.addresses) >= MOST_ADDRESSES:
            return
        try:
            pair = [mapped(ipaddress.IPv4Address(each)) for each in (public, address)]
        except ValueError:
            continue
        cloud.addresses.add(public=pair[0], private=pair[1])


def _token(body: bytes) -> str:
    token = body.decode(errors="replace").strip()
    if not (token.isascii() and token.isprintable()):
        raise AnswerError("no token")
    return token


def _lines(body: bytes) -> list[str]:
    lines = (line.strip() for line in body.decode(errors="replace").splitlines())
    return [
        line[:LONGEST_VALUE] for line in lines if line and line.isascii() and line.isprintable() and " " not in line
    ]


def _at(document: object, *keys: str) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
