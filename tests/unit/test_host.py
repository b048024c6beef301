from __future__ import annotations

import ipaddress
import os
import re
import socket
import subprocess

import pytest
from ebpf_net.v1 import intake_pb2

from intake.labels import operator_labels
from kernel_collector.host import describe_host, in_cloud, local_addresses

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.1.2.3
        /32 host LOCAL
     |-- 10.1.2.255
        /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
     |-- 10.1.2.3
        /32 host LOCAL
"""
IF_INET6 = """00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000007 02 40 00 80     eth0
fe80000000000000020000fffe000001 02 40 20 80     eth0
"""


def test_variables_come_before_labels_of_the_file():
    labels = {"namespace": "file", "zone": "file", "environment": "file"}
    environ = {"EBPF_NET_AGENT_ZONE": "variable", "EBPF_NET_AGENT_CLUSTER": "variable", "EBPF_NET_AGENT_HOST": "n1"}
    host = describe_host(operator_labels(labels, environ), [])
    assert (host.namespace, host.zone, host.environment, host.name) == ("file", "variable", "variable", "n1")


@pytest.mark.parametrize(
    ("labels", "environment"),
    [({}, ""), ({"cluster": "c"}, "c"), ({"environment": "e"}, "e"), ({"environment": "e", "cluster": "c"}, "e")],
)
def test_environment_or_cluster(labels, environment):
    assert describe_host(operator_labels(labels, {}), []).environment == environment


def test_without_labels():
    host = describe_host(operator_labels({}, {}), [])
    assert (host.name, host.kernel_version) == (socket.gethostname(), os.uname().release)
    assert (host.namespace, host.zone, host.service) == ("", "", "")


def test_addresses_that_others_can_reach(tmp_path):
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    (tmp_path / "if_inet6").write_text(IF_INET6)
    expected = {ipaddress.IPv6Address(text).packed for text in ("::ffff:10.1.2.3", "fd00::7")}
    assert set(local_addresses(tmp_path)) == expected


def test_kernel_without_ipv6(tmp_path):
    assert list(local_addresses(tmp_path)) == []


def test_addresses_of_this_machine():
    shown = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    expected = {text for text in re.findall(r"inet (\S+)/", shown) if not text.startswith("127.")}
    found = {
        str(ipaddress.ip_address(address[12:]))
        for address in local_addresses()
        if address[:12] == b"\0" * 10 + b"\xff\xff"
    }
    assert found == expected


def test_the_cloud_fills_in_what_the_operator_did_not_say():
    cloud = intake_pb2.Cloud(provider="aws", zone="us-east-1d", role="web", instance_id="i-1")
    host = intake_pb2.Host(name="a")
    in_cloud(host, cloud)
    assert (host.name, host.zone, host.service, host.cloud.instance_id) == ("a", "us-east-1d", "web", "i-1")
    host = intake_pb2.Host(name="a", zone="rack-1", service="mine")
    in_cloud(host, cloud)
    assert (host.zone, host.service, host.cloud.zone) == ("rack-1", "mine", "us-east-1d")
