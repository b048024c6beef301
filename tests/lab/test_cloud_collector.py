"""The collector of clouds from end to end: AWS as moto plays it, a machine that talks to an instance, and its name."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.error
from typing import TYPE_CHECKING, Any

import boto3
from moto.server import ThreadedMotoServer

from tests.lab.daemons import INTAKE_PORT, POLL_INTERVAL_S, Exported, script
from tests.lab.network import wait_for_listener
from tests.lab.traffic import hand_over
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from tests.lab.daemons import Lab
    from tests.lab.network import Host

REGION, ZONE = "eu-west-1", "eu-west-1b"
ABOUT_ITSELF = "127.0.0.1:7003"
PORT = 9000
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
}


@contextlib.contextmanager
def aws_in(lab: Lab) -> Iterator[str]:
    """Have moto listen in the centre; yield where."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with lab.centre.entered():
        server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def run_instance(ec2: Any, name: str, address: str) -> str:
    """Run an instance with this address; return its id."""
    vpc = ec2.create_vpc(CidrBlock="10.203.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.203.0.0/24", AvailabilityZone=ZONE)["Subnet"]["SubnetId"]
    interface = {"SubnetId": subnet, "PrivateIpAddress": address, "DeviceIndex": 0, "DeleteOnTermination": True}
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}]
    made = ec2.run_instances(
        ImageId="ami-12345678", MinCount=1, MaxCount=1, NetworkInterfaces=[interface], TagSpecifications=tags
    )
    return made["Instances"][0]["InstanceId"]


def send(client: Host, server: Host, size: int) -> None:
    with server.entered():
        listener = socket.create_server(("0.0.0.0", PORT))
    with listener:
        wait_for_listener(server, PORT)
        with client.entered():
            connection = socket.create_connection((server.ipv4, PORT))
        with connection, listener.accept()[0] as accepted:
            hand_over(connection, accepted, size)


def is_well(lab: Lab) -> bool:
    try:
        lab.centre.get(f"http://{ABOUT_ITSELF}/healthz")
    except urllib.error.URLError:
        return False
    return True


def knows_nothing(lab: Lab) -> bool:
    return "ebpf_net_collector_cloud_interfaces 0" in lab.centre.get(f"http://{ABOUT_ITSELF}/metrics")


def test_an_instance_names_its_address_while_it_lives(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    machine, instance = lab.host("machine"), lab.host("instance")
    with aws_in(lab) as endpoint:
        with lab.centre.entered():
            ec2 = boto3.client("ec2", REGION, endpoint_url=endpoint)
            instance_id = run_instance(ec2, "orders", instance.ipv4)
            (interface,) = ec2.describe_network_interfaces()["NetworkInterfaces"]
        reducer = lab.start_reducer_with_sink("--enable-aws-enrichment")
        collector = lab.start_collector(machine)
        cloud = lab.programs.start(
            "cloud-collector",
            *(script("cloud-collector"), "--log-console", "--no-log-file", "--ec2-poll-interval-ms", "1000"),
            *("--aws-region", REGION, "--internal-prom", ABOUT_ITSELF),
            host=lab.centre,
            env=CREDENTIALS
            | {
                "AWS_ENDPOINT_URL": endpoint,
                "EBPF_NET_INTAKE_HOST": lab.centre.ipv4,
                "EBPF_NET_INTAKE_PORT": f"{INTAKE_PORT}",
            },
        )
        cloud.wait_for("connected to the reducer")
        assert is_well(lab)
        send(machine, instance, 50_000)

        with lab.centre.entered():
            ec2.terminate_instances(InstanceIds=[instance_id])
        wait_until(lambda: knows_nothing(lab), 60, "the collector to see that the instance is gone")
        time.sleep(0.5 + POLL_INTERVAL_S)  # it tells that at once; then what the reducer allows for rows that come late
        send(machine, instance, 60_000)
        assert is_well(lab)
    wait_until(lambda: not is_well(lab), 60, "the collector to say that AWS is not there")
    assert cloud.stop() == 0
    time.sleep(0.5)
    lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    there = {"source__id": "machine", "dest__ip": instance.ipv4}
    named = {
        "dest__workload__name": "orders",
        "dest__resolution_type": "AWS",
        "dest__availability_zone": ZONE,
        "dest__id": f"{interface['NetworkInterfaceId']}/{instance.ipv4}",
    }
    assert exported.total("tcp.bytes", **there, **named) == 50_000
    assert exported.total("tcp.bytes", **there, dest__workload__name="(unknown)") == 60_000
    assert exported.total("tcp.bytes", **there) == 110_000


def test_an_option_that_is_mistyped(lab: Lab) -> None:
    mistyped = lab.programs.start("cloud-collector", script("cloud-collector"), "--aws-regoin", REGION)
    assert mistyped.wait() == 2
    *_, said = mistyped.output().splitlines()
    assert said.startswith("Error: No such option")
    assert "--aws-regoin" in said
    assert "--aws-region" in said.replace("--aws-regoin", "")
