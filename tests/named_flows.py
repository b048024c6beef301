"""Flows of one client, and entities that name their other ends."""

from __future__ import annotations

from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from tests.flow_rows import Feed, connector_row
from tests.rows import packed

K8S, CLOUD = intake_pb2.COLLECTOR_KIND_K8S, intake_pb2.COLLECTOR_KIND_CLOUD
CLUSTER, CLIENT_SESSION, SERVER_SESSION = 8, 0, 1
POD = "10.1.0.7"
PUBLIC = "93.184.216.34"


def pod(name, *addresses, **fields):
    fields = {"uid": f"uid-{name}", "owner_name": f"{name}-app", "owner_uid": f"owner-{name}"} | fields
    fields = {"owner_kind": "Deployment", "node": "node-9", "namespace": "front"} | fields
    return intake_pb2.Pod(name=name, addresses=map(packed, addresses), **fields)


def service(*addresses, **port):
    ports = [{"port": 80, "protocol": 6} | port]
    return {
        "uid": "s",
        "name": "web-svc",
        "namespace": "front",
        "addresses": [packed(each) for each in addresses],
        "ports": ports,
    }


def interface(name, *addresses, public=(), **fields):
    fields = {"provider": "aws", "zone": "eu-1c", "network": "vpc-1", "role": name, **fields}
    told = intake_pb2.CloudInterface(id=f"eni-{name}", addresses=map(packed, addresses), **fields)
    for outer, inner in public:
        told.public_addresses.add(public=packed(outer), private=packed(inner))
    return told


def dns(name, *addresses):
    return {"dns_names": [{"name": name, "addresses": [packed(address) for address in addresses]}]}


def seconds(**times):
    return {f"{name}_time_unix_ns": value * SECOND_NS for name, value in times.items()}


class Case:
    """One flow of a client, whose other end the entities name."""

    def __init__(self, **options):
        self.feed = Feed(("az_az", "id_id"), **options)
        self.client()

    def client(self, environment="prod", **host):
        told = intake_pb2.Host(name="host-0", zone="zone-0", environment=environment, **host)
        self.feed.session(CLIENT_SESSION, "wget", host=told)

    def tell(self, number=CLUSTER, at_s=1, kind=K8S, environment="prod", **entities):
        if number not in self.feed.numbers and number != CLIENT_SESSION:
            host = intake_pb2.Host(name=f"teller-{number}", environment=environment)
            self.feed.session(number, host=host, kind=kind)
        self.feed.take(number, at_s, entities=intake_pb2.Entities(**entities))

    def dials(self, address, at_s=5, port=80, *, udp=False, **values):
        row = connector_row(remote_address=address, remote_port=port, **{"bytes_sent": 7, "opened": 1} | values)
        if udp:
            del row["role"], row["opened"]
        self.feed.take(CLIENT_SESSION, at_s, *(() if udp else (row,)), udp=(row,) if udp else ())

    def seal(self, index=0):
        """Return the labels of whom the client sent to, at level id_id, by bytes sent."""
        return sent(self.feed.seal(index))

    def unknown(self):
        return {reason: count for reason, count in self.feed.pipeline.statistics().ends_unknown.items() if count}


def sent(window, process="wget"):
    """Return the labels of the destinations of what a process sent, by bytes."""
    level, ends = window.levels[1], window.ends
    found = {}
    for source, dest, *moved in zip(
        level.source, level.dest, level.values["bytes"], level.values["udp_bytes"], strict=True
    ):
        if sum(moved) and dict(ends.labels[source]).get("process.name") == process:
            found[int(sum(moved))] = dict(ends.labels[dest])
    return found


def only(labels, *names):
    return tuple(labels.get(name) for name in names)
