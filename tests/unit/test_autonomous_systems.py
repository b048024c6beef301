import contextlib

import netaddr
import numpy as np
import pytest
from mmdb_writer import MMDBWriter

from daemon.errors import StartupError
from reducer.knowledge import autonomous_systems as module
from reducer.knowledge.autonomous_systems import NO_SYSTEM, AutonomousSystems
from tests.named_flows import (
    CLIENT_SESSION,
    CLOUD,
    POD,
    PUBLIC,
    Case,
    dns,
    interface,
    only,
)
from tests.rows import packed


def database(path, networks, version=6, kind="GeoLite2-ASN"):
    """Write a database with an organisation for each of *networks*."""
    writer = MMDBWriter(version, kind, ipv4_compatible=version == 6)
    for network, organisation in networks.items():
        writer.insert_network(netaddr.IPSet([network]), organisation)
    writer.to_db_file(str(path))
    return AutonomousSystems(path)


def organisation(name):
    return {"autonomous_system_number": 1, "autonomous_system_organization": name}


def words(*addresses):
    return np.frombuffer(b"".join(map(packed, addresses)), np.uint64).reshape(-1, 2)


def test_organisations_of_addresses(tmp_path):
    networks = {
        "8.8.8.0/24": organisation("GOOGLE"),
        "2001:4860::/32": organisation("GOOGLE"),
        "1.1.1.0/24": organisation("CLOUDFLARENET"),
        "9.9.9.0/24": {"autonomous_system_number": 19281},
    }
    systems = database(tmp_path / "asn.mmdb", networks)
    asked = ("8.8.8.8", "1.1.1.1", "8.8.8.8", "2001:4860:4860::8888", "10.0.0.1", "9.9.9.9")
    found = systems.of(words(*asked))
    expected = ["GOOGLE", "CLOUDFLARENET", "GOOGLE", "GOOGLE", "", ""]
    assert [systems.organisations[number] for number in found] == expected
    assert found[4] == found[5] == NO_SYSTEM
    assert len(systems.organisations) == 3
    systems.close()


def test_an_address_is_looked_up_once_while_it_is_remembered(tmp_path, monkeypatch):
    systems = database(tmp_path / "asn.mmdb", {"8.8.8.0/24": organisation("GOOGLE")})
    asked = []
    monkeypatch.setattr(systems, "_database", type("Asked", (), {"get": lambda self, text: asked.append(text)})())
    for _ in range(3):
        systems.of(words("8.8.8.8", "8.8.4.4", "8.8.8.8"))
    assert sorted(asked) == ["8.8.4.4", "8.8.8.8"]
    monkeypatch.setattr(module, "MOST_ADDRESSES", 2)
    systems.of(words("9.9.9.9"))
    assert len(systems._of) == 1


def test_a_database_of_another_kind_is_told_of(tmp_path, caplog):
    for kind in ("GeoLite2-ASN", "DBIP-ASN-Lite (compat=GeoLite2-ASN)", "GeoIP2-ISP", "GeoLite2-City"):
        database(tmp_path / "some.mmdb", {"8.8.8.0/24": organisation("GOOGLE")}, kind=kind).close()
    (record,) = caplog.records
    assert "is a GeoLite2-City, which may have no organisations" in record.message


def test_a_database_without_ipv6(tmp_path):
    systems = database(tmp_path / "asn.mmdb", {"8.8.8.0/24": organisation("GOOGLE")}, version=4)
    found = systems.of(words("2001:4860:4860::8888", "8.8.8.8"))
    assert [systems.organisations[number] for number in found] == ["", "GOOGLE"]


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 100])
def test_a_file_that_is_no_database(tmp_path, content):
    path = tmp_path / "asn.mmdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        StartupError, match=r"asn\.mmdb \(--geoip-path, GEOIP_PATH\) cannot be read: [A-Za-z\' ]+; give a GeoLite2"
    ):
        AutonomousSystems(path)


@pytest.fixture
def systems(tmp_path):
    with contextlib.closing(database(tmp_path / "asn.mmdb", {"93.184.216.0/24": organisation("EDGECAST")})) as found:
        yield found


@pytest.mark.parametrize("with_ip", [False, True])
def test_an_autonomous_system_is_the_zone_of_the_internet(systems, with_ip):
    case = Case(systems=systems, system_ip=with_ip)
    for index, address in enumerate((PUBLIC, "93.184.216.99"), 1):
        case.dials(address, bytes_sent=index, local_port=index, socket=index)
    case.dials(POD, bytes_sent=9, local_port=9, socket=9)
    found = case.seal()
    common = {
        "workload.name": "(internet)",
        "resolution_type": "IP",
        "availability_zone": "EDGECAST",
        "environment": "(no agent)",
    }
    if with_ip:
        assert found[1] == common | {"id": PUBLIC, "ip": PUBLIC}
        assert found[2] == common | {"id": "93.184.216.99", "ip": "93.184.216.99"}
    else:
        assert found[3] == common | {"id": "AS", "ip": "AS"}
    assert found[9]["workload.name"] == "(unknown)"
    assert case.unknown() == {"no_collector": 1}


def test_a_name_of_the_dns_comes_before_the_system_but_has_its_zone(systems):
    case = Case(systems=systems)
    case.tell(CLIENT_SESSION, **dns("api.example.com", PUBLIC))
    case.dials(PUBLIC)
    (labels,) = case.seal().values()
    assert only(labels, "workload.name", "resolution_type", "availability_zone", "ip") == (
        "api.example.com",
        "DNS",
        "EDGECAST",
        PUBLIC,
    )


def test_interface_before_name_before_system(systems):
    case = Case(systems=systems, use_interfaces=True)
    case.tell(CLIENT_SESSION, **dns("db.example.com", PUBLIC))
    case.tell(9, kind=CLOUD, cloud_interfaces=[interface("db", "10.0.0.5", public=[(PUBLIC, "10.0.0.5")])])
    case.dials(PUBLIC)
    (labels,) = case.seal().values()
    assert only(labels, "workload.name", "resolution_type") == ("db", "AWS")
