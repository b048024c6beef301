from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from ebpf_net.v1 import intake_pb2

from daemon.errors import StartupError
from intake.addresses import address_text
from intake.labels import operator_labels
from kernel_collector.machine import host as host_module
from kernel_collector.machine.host import describe_host, in_cloud, os_release, watched


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


def test_collectors_that_watch_the_same_say_the_same():
    assert describe_host({"host": "n"}, []).watches == watched("n", []) == watched("n", [])
    with Path("/proc/self/ns/net").open() as net, Path("/proc/self/ns/pid").open() as pid:
        one, other = net.fileno(), pid.fileno()
        assert watched("n", [one, other]) == watched("n", [other, one])
        assert len({watched(*each) for each in (("n", []), ("m", []), ("n", [one]), ("n", [one, other]))}) == 4


def test_without_proc_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(host_module, "BOOT_ID", tmp_path / "boot_id")
    with pytest.raises(StartupError, match="boot_id: No such file or directory; mount procfs on /proc"):
        describe_host({}, [])


def test_addresses_by_interface():
    shown = json.loads(subprocess.run(["ip", "-json", "address"], capture_output=True, text=True, check=True).stdout)
    expected = {
        link["ifname"]: {info["local"] for info in link["addr_info"] if info["scope"] == "global"} for link in shown
    }
    host = describe_host({}, [])
    found = {each.name: {address_text(address) for address in each.addresses} for each in host.interfaces}
    assert found == {name: addresses for name, addresses in expected.items() if addresses}
    assert {address_text(address) for address in host.addresses} == set().union(*expected.values())


def test_names_that_are_no_text_are_told_with_what_can_be_read_of_them(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "a\udcffb")
    monkeypatch.setattr("socket.if_indextoname", lambda _: "eth\udcff")
    monkeypatch.setattr("kernel_collector.machine.interfaces._dump", lambda: [(1, bytes(4))])
    host = describe_host({}, [])
    assert host.name == "a\N{REPLACEMENT CHARACTER}b"
    assert [each.name for each in host.interfaces] == ["eth\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("place", ["etc/os-release", "usr/lib/os-release"])
def test_the_system_is_that_under_the_host_directory(tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text('# a comment\nID=debian\nVERSION_ID="12"\nNAME="no end\nrubbish\n=\nEMPTY=\n')
    host = describe_host({}, [], tmp_path)
    assert (host.os, host.os_version) == ("debian", "12")
    assert os_release(tmp_path) == {"ID": "debian", "VERSION_ID": "12"}


def test_without_os_release(tmp_path):
    host = describe_host({}, [], tmp_path)
    assert (host.os, host.os_version) == ("", "")


def test_the_cloud_fills_in_what_the_operator_did_not_say():
    cloud = intake_pb2.Cloud(provider="aws", zone="us-east-1d", role="web", instance_id="i-1")
    host = intake_pb2.Host(name="a")
    in_cloud(host, cloud)
    assert (host.name, host.zone, host.service, host.cloud.instance_id) == ("a", "us-east-1d", "web", "i-1")
    host = intake_pb2.Host(name="a", zone="rack-1", service="mine")
    in_cloud(host, cloud)
    assert (host.zone, host.service, host.cloud.zone) == ("rack-1", "mine", "us-east-1d")


def test_network_namespace_that_cannot_be_entered():
    with Path("/dev/null").open() as file, pytest.raises(StartupError, match=r"cannot enter .*: see to CAP_SYS_ADMIN"):
        describe_host({}, [file.fileno()])
